"""Writes docs/pictures: the terminal and the report of a run on the penguins, as README shows them.

Needs playwright and Chromium, as the tests of the report do: `python docs/take_pictures.py`.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

PICTURES = Path(__file__).parent / "pictures"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def terminal_svg(folder: Path) -> tuple[str, Path]:
    """What a terminal of 100 columns shows of `fivestep fit penguins.csv --target species`, as SVG, and the report that it wrote."""
    from rich.console import Console
    from rich.text import Text

    from fivestep.apps.cli import run
    from fivestep.datasets import penguins

    os.environ |= {"COLUMNS": "100", "LINES": "60", "TERM": "xterm-256color"}
    os.chdir(folder)
    shutil.copy(penguins(), "penguins.csv")
    kept, shown = (sys.stderr, sys.stdout), Terminal()
    sys.stderr = sys.stdout = shown
    command = ["fit", "penguins.csv", "--target", "species", "--set", "data.missing=NA", "--set", "split.stratify=true", "--epochs", "60", "--model", "mlp"]
    try:
        assert run(command) == 0
    finally:
        sys.stderr, sys.stdout = kept
    text = shown.getvalue().replace("\r", "")
    begin, end = text.index("\x1b[?25l"), text.rindex("\x1b[?25h")
    panels = text[begin:end].split("\x1b[2K")  # each redraw clears the lines of the one before
    words = text[:begin] + panels[-1] + text[end + 6 :]
    recorded = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    recorded.print(Text(f"$ fivestep {' '.join(command)}", "bold"))
    recorded.print(Text.from_ansi(words))
    return recorded.export_svg(title="fivestep"), folder / "runs" / "penguins-0001" / "report.html"


def main() -> None:
    from playwright.sync_api import sync_playwright

    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as driver:
        drawn, report = terminal_svg(Path(temporary))
        (Path(temporary) / "terminal.svg").write_text(drawn)
        found = shutil.which("chromium") or shutil.which("google-chrome")
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        page.set_content(f"<style>body{{margin:0}} svg{{width:1000px;height:auto;display:block}}</style>{drawn}")
        page.locator("svg").first.screenshot(path=PICTURES / "terminal.png")
        page = browser.new_page(viewport={"width": 1000, "height": 1250})
        page.goto(report.as_uri())
        page.screenshot(path=PICTURES / "report.png")
        browser.close()
        os.chdir(PICTURES)
    from PIL import Image

    for name in ("terminal.png", "report.png"):
        Image.open(PICTURES / name).convert("RGB").quantize(64).save(PICTURES / name, optimize=True)  # a third of the bytes, and nothing that an eye would miss
        print(PICTURES / name, f"{(PICTURES / name).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
