"""The report of sweeps, cross-validations and comparisons: complete in itself, silent in a real Chromium, and what a notebook shows of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from swept import QUIET, Net, arrays

import fivestep as fs
from fivestep.experiments.sweeps import read_sweep

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sweeps")
    splits = fs.Data.arrays(*arrays()).split()
    over = {"lr": [0.03, 0.01, 1e-6], "model.width": [2, 4]}
    found = fs.sweep(Net, splits, over, seeds=3, epochs=6, folder=folder, name="rates", quiet=True, device="cpu")
    folds = fs.cross_validate("linear", fs.Data.arrays(*arrays()), epochs=2, **QUIET)
    runs = [fs.fit(Net, splits, lr=lr, seed=seed, epochs=3, **QUIET) for lr in (0.03, 1e-6) for seed in range(2)]
    return {"sweep": found.report(), "folds": folds.report(folder / "folds.html"), "comparison": fs.compare(*runs).report(folder / "comparison.html")}


@pytest.mark.parametrize("which", ["sweep", "folds", "comparison"])
def test_a_report_holds_no_script_and_no_address(written: dict[str, Path], which: str) -> None:
    html = written[which].read_text()
    assert "<script" not in html and "http://" not in html.replace("http://www.w3.org", "") and "https://" not in html
    assert "How this was told" in html and "95 % interval" in html


def test_the_report_of_a_sweep_says_what_is_worse_what_could_be_luck_and_what_helped(written: dict[str, Path]) -> None:
    html = written["sweep"].read_text()
    assert "could be luck" in html and "What helped" in html and "lr = 1e-06" in html and html.count("<svg") >= 4


def test_a_sweep_read_from_its_folder_tells_the_same(written: dict[str, Path], tmp_path: Path) -> None:
    folder = written["sweep"].parent
    again = read_sweep(folder)
    verdicts = [(row.name, row.verdict, row.score.value) for row in again.comparison.rows]
    html = again.report(tmp_path).read_text()
    assert len(verdicts) == 6 and all(f">{verdict}<" in html for _, verdict, _ in verdicts)
    (next((folder / "trials").glob("*.json"))).rename(tmp_path / "away.json")
    with pytest.raises(fs.UsageError, match="17 of 18 trainings"):
        read_sweep(folder)
    (tmp_path / "away.json").rename(folder / "trials" / "v0000-s0.json") if not (folder / "trials" / "v0000-s0.json").exists() else None


def test_a_cross_validation_read_from_its_folder_tells_the_same(tmp_path: Path) -> None:
    found = fs.cross_validate("linear", fs.Data.arrays(*arrays()), folds=3, repeats=2, epochs=2, folder=tmp_path, quiet=True, device="cpu")
    assert found.folder is not None
    again = read_sweep(found.folder)
    assert len(again.trials) == 6 and again.comparison.rows[0].score == found.comparison.rows[0].score and again.comparison.notes == found.comparison.notes
    html = again.report(tmp_path / "again.html").read_text()
    assert "Score of each fold" in html and "Nadeau" in html and html.count(">done<") == 6


def test_a_notebook_shows_tables(splits: Any) -> None:
    found = fs.sweep(Net, splits, {"lr": [0.03, 1e-6]}, seeds=2, epochs=2, **QUIET)
    for shown in (found._repr_html_(), found.comparison._repr_html_()):
        assert "<table>" in shown and "lr=1e-06" in shown and "<script" not in shown


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("screen", [(390, 844, "light"), (1280, 900, "dark")])
@pytest.mark.parametrize("which", ["sweep", "folds", "comparison"])
def test_chromium_opens_it_without_a_message_a_request_a_sideways_scroll_or_a_serious_fault(written: dict[str, Path], which: str, screen: Any) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    report, (width, height, colours) = written[which], screen
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=colours)
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url != report.as_uri() else None)
        page.goto(report.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert said == [] and page.evaluate("document.documentElement.scrollWidth") <= width
        faults = [one["id"] for one in axe.Axe().run(page).response["violations"] if one["impact"] in ("moderate", "serious", "critical")]
        assert faults == []
        page.screenshot(path=report.with_name(f"{which}-{width}.png"), full_page=True)
        browser.close()
