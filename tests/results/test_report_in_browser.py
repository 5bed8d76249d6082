"""The report in a real Chromium, opened from the disk: no console message, no request that leaves, nothing wider than the screen, no serious accessibility fault.

`make test` installs what this needs. Where no Chromium can be had it is skipped, and says so.
"""

from __future__ import annotations

import shutil

import pytest
from reported import make

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed: pip install -e '.[test]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

KINDS = ("useless", "houses", "digits")
LOOKS = [("useless", "phone"), ("useless", "desktop"), ("useless", "dark"), ("houses", "dark"), ("digits", "phone")]
SCREENS = {"phone": (390, 844, "light"), "desktop": (1280, 900, "light"), "dark": (1280, 900, "dark")}


@pytest.fixture(scope="module")
def browser():
    quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield started
        started.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {which: make(which, folder).report() for which in (*KINDS, "long-names")}


def opened(browser, report, screen):
    """-> (page, what the console said, what was requested beside the file itself)."""
    width, height, colours = SCREENS[screen]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=colours)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url) if request.url != report.as_uri() and not request.url.startswith("data:") else None)
    page.goto(report.as_uri())
    return page, said, asked


@pytest.mark.parametrize(("which", "screen"), LOOKS)
def test_it_opens_offline_without_a_message_a_request_or_a_sideways_scroll(browser, reports, which, screen):
    page, said, asked = opened(browser, reports[which], screen)
    assert said == [] and asked == []
    assert page.evaluate("document.documentElement.scrollWidth") <= SCREENS[screen][0]
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.evaluate("[...document.querySelectorAll('svg.chart')].every(one => one.getBoundingClientRect().width > 200)")
    page.close()


@pytest.mark.parametrize(("which", "screen"), LOOKS)
def test_axe_finds_no_serious_fault(browser, reports, which, screen):
    page, _, _ = opened(browser, reports[which], screen)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    found = axe.Axe().run(page).response["violations"]
    told = [(one["id"], one["impact"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("moderate", "serious", "critical")]
    assert told == []
    page.close()


TOO_SMALL = """[...document.querySelectorAll('svg.chart text')].filter(one => {
    const drawn = one.ownerSVGElement;
    return parseFloat(getComputedStyle(one).fontSize) * drawn.getBoundingClientRect().width / drawn.viewBox.baseVal.width < 11;
}).map(one => one.textContent)"""
CUT = """[...document.querySelectorAll('svg.chart text')].filter(one => {
    const [word, picture] = [one.getBoundingClientRect(), one.ownerSVGElement.getBoundingClientRect()];
    return word.left < picture.left - 1 || word.right > picture.right + 1 || word.top < picture.top - 1 || word.bottom > picture.bottom + 1;
}).map(one => one.textContent)"""
IN_ONE_LINE = "[...document.querySelectorAll('td:not(.n):not(.long)')].every(one => getComputedStyle(one).whiteSpace === 'nowrap')"


def test_on_a_phone_charts_can_be_read_and_short_cells_stay_in_one_line(browser, reports):
    page, _, _ = opened(browser, reports["long-names"], "phone")
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.querySelectorAll('svg.chart text').length") > 20
    assert page.evaluate(TOO_SMALL) == []
    assert page.evaluate(CUT) == []
    assert page.evaluate(IN_ONE_LINE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_dark_and_light_are_told_apart_and_both_can_be_read(browser, reports):
    colours = {}
    for screen in ("desktop", "dark"):
        page, _, _ = opened(browser, reports["houses"], screen)
        colours[screen] = page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
        page.close()
    assert colours["desktop"][0] == "rgb(255, 255, 255)" and colours["dark"][0] != colours["desktop"][0]


@pytest.mark.parametrize("which", ["houses", "useless"])
def test_it_prints_light_uncut_and_with_everything_that_is_folded_on_screen(browser, reports, tmp_path, which):
    page, _, _ = opened(browser, reports[which], "dark")  # on paper it is light, whatever the screen was
    page.emulate_media(media="print", color_scheme="dark")
    box = {"houses": "rgb(227, 244, 234)", "useless": "rgb(253, 232, 230)"}[which]
    assert page.evaluate("getComputedStyle(document.querySelector('.verdict')).backgroundColor") == box
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    heights = page.evaluate("[...document.querySelectorAll('details')].map(one => one.getBoundingClientRect().height)")
    assert heights and min(heights) > 60  # closed ones would be one line high
    breaks = page.evaluate("[...document.querySelectorAll('.scroll')].map(one => [one.querySelectorAll('tbody tr').length, getComputedStyle(one).breakInside])")
    assert {short for rows, short in breaks if rows <= 15} == {"avoid"}  # a short table is not parted by the end of a page
    page.set_viewport_size({"width": 700, "height": 900})  # a page of A4 between its margins: nothing is cut at its edge
    assert page.evaluate("[...document.querySelectorAll('main *')].every(one => one.getBoundingClientRect().right <= 701)")
    page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").stat().st_size > 20_000
    page.close()
