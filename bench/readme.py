"""Where the benchmarks put what they found: between their markers in bench/README.md."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parent / "README.md"


def write(script: str, text: str) -> None:
    """Put what a script found between its markers. SystemExit where the page has lost them."""
    begin, end = f"<!-- begin: {script} -->", f"<!-- end: {script} -->"
    before, opened, rest = PAGE.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise SystemExit(f"bench/README.md has lost its markers {begin} and {end}.")
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{after}")
