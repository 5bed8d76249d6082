"""The built pages in a real Chromium, opened from the disk: the search finds, nothing is fetched, axe-core finds nothing serious in light and dark."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed: pip install -e '.[test]'")
pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[docs]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


KINDS = ["index.html", "tutorial.html", "reference.html", "findings.html", "coming-from/keras.html", "how-to/preemptible.html"]  # a page of each kind
COLOUR_RULES = ["color-contrast", "link-in-text-block"]  # what can be otherwise in the dark


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)], cwd=ROOT, check=True, timeout=300)
    return folder


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        yield started
        started.close()


def test_the_search_finds_in_pages_from_the_disk_and_asks_nothing_of_the_network(site, browser):
    page = browser.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url) if request.url.startswith("http") else None)
    page.goto((site / "stages" / "data.html").as_uri())
    page.click("input.md-search__input")
    page.keyboard.type("imbalanced", delay=20)
    page.wait_for_selector("a.md-search-result__link", timeout=60_000)
    found = [link.get_attribute("href") for link in page.query_selector_all("a.md-search-result__link")]
    assert any(link.endswith("how-to/imbalanced.html") for link in found), found
    assert asked == []
    page.close()


@pytest.mark.parametrize(("colours", "rules"), [("light", None), ("dark", COLOUR_RULES)])
@pytest.mark.parametrize("pages", ["a page of each kind", pytest.param("every page", marks=pytest.mark.slow)])
def test_axe_finds_no_fault_on_the_pages(site, browser, pages, colours, rules):
    page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme=colours)
    paths = sorted(site.rglob("*.html"))
    assert len(paths) == len(list((ROOT / "docs").rglob("*.md")))
    told = []
    for path in paths if pages == "every page" else [site / name for name in KINDS]:
        page.goto(path.as_uri())
        assert page.get_attribute("body", "data-md-color-scheme") == {"light": "default", "dark": "slate"}[colours]
        found = axe.Axe().run(page, options={"runOnly": rules} if rules else None).response
        assert found["passes"], path  # it did look
        told += [(path.name, one["id"], one["nodes"][0]["html"][:200]) for one in found["violations"] if one["impact"] in ("moderate", "serious", "critical")]
    assert told == []
    page.close()
