"""Makes the data files of src/fivestep/datasets again: `python bench/make_datasets.py`; needs `pip install palmerpenguins scikit-learn`.

Enters: the two packages. Leaves: penguins.csv (copied unchanged) and digits.csv.gz. `--check` writes nothing and exits 1 where a file's content differs from
its source. (The content: the compressed bytes depend on the version of zlib.)
"""

from __future__ import annotations

import gzip
import importlib.metadata
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent.parent / "src" / "fivestep" / "datasets"


def penguins() -> bytes:
    (source,) = [file for file in importlib.metadata.files("palmerpenguins") or [] if str(file) == "palmerpenguins/data/penguins.csv"]
    return Path(str(source.locate())).read_bytes()


def digits() -> bytes:
    """One line for each image: 64 pixels from 0 to 16, then the label."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    rows = np.column_stack([np.asarray(pixels), np.asarray(labels)])
    assert np.array_equal(rows, rows.astype(np.int64)), "pixels and labels are whole numbers"
    return "".join(",".join(map(str, row)) + "\n" for row in rows.astype(np.int64).tolist()).encode()


def main() -> int:
    made = {"penguins.csv": penguins(), "digits.csv.gz": digits()}
    different = []
    for name, content in made.items():
        path = FOLDER / name
        there = b"" if not path.exists() else gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
        if there != content:
            different.append(name)
        if there != content and "--check" not in sys.argv[1:]:
            path.write_bytes(gzip.compress(content, 9, mtime=0) if name.endswith(".gz") else content)  # mtime=0: no time of day in the file
        print(f"{name}: {len(content):,} bytes of content, {'differs' if there != content else 'as it should be'}")
    return 1 if different and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    raise SystemExit(main())
