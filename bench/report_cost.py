"""What the report of 50,000 rows costs: seconds and size, of a table of 10 columns and of one of 66, each written once by the process that trained and once
by one that reads the finished run again.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars

ROWS = 50_000
WIDTHS = {10: (7, 3), 66: (50, 16)}  # numbers, categories


def make_table(path: Path, numbers: int, categories: int) -> None:
    """Every seventh column of numbers has gaps, the k-th of categories 3 + 2 k levels; the target is a noisy threshold on two of the numbers."""
    draw = np.random.default_rng(0)
    columns = {f"x{position}": draw.normal(size=ROWS) for position in range(numbers)}
    score = columns["x1"] + columns["x2"] / 2 + draw.normal(size=ROWS)
    for position in range(0, numbers, 7):
        columns[f"x{position}"] = np.where(draw.random(ROWS) < 0.05, np.nan, columns[f"x{position}"])
    texts = {f"c{position}": [f"level {level}" for level in draw.integers(0, 3 + 2 * position, ROWS)] for position in range(categories)}
    frame = polars.DataFrame(columns | texts | {"y": np.where(score > 0.8, "yes", "no")})
    frame.with_columns(polars.selectors.float().fill_nan(None)).write_csv(path)


def measure(folder: str, read_again: bool) -> str:
    import fivestep as fs

    if read_again:
        run = fs.load_run(Path(folder) / "runs" / "table-0001")
    else:
        run = fs.fit("mlp", fs.Data.table(Path(folder) / "table.csv", target="y").split(seed=0), epochs=2, folder=Path(folder) / "runs", quiet=True)
        run.evaluate("test")
    started = time.perf_counter()
    page = run.report()
    return f"{time.perf_counter() - started:.1f} s, {page.stat().st_size / 1e6:.2f} MB"


def main() -> None:
    for width, (numbers, categories) in WIDTHS.items():
        with tempfile.TemporaryDirectory() as folder:
            make_table(Path(folder) / "table.csv", numbers, categories)
            for flag, who in (("", "by the process that trained"), ("again", "of the run read again")):
                done = subprocess.run([sys.executable, __file__, folder, flag], stdout=subprocess.PIPE, text=True, check=True)
                print(f"{ROWS:,} rows x {width} columns, {who}: {done.stdout.strip()}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(measure(sys.argv[1], bool(sys.argv[2])))
    else:
        main()
