"""The data sets that ship with the package are whole, and are what their docstrings say."""

from __future__ import annotations

import csv
import hashlib

from fivestep import datasets


def test_penguins_are_the_344_of_palmerpenguins() -> None:
    with open(datasets.penguins(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 344
    assert {row["species"] for row in rows} == {"Adelie", "Chinstrap", "Gentoo"}
    assert sum("NA" in row.values() for row in rows) == 11


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    images, labels = datasets.digits()
    theirs = load_digits()
    assert images.dtype == "uint8" and images.max() == 255
    assert ((images.astype(int) * 16 + 254) // 255 == theirs.images).all()
    assert (labels == theirs.target).all()


def test_digits_are_the_same_arrays_at_each_call() -> None:
    digests = {hashlib.sha256(array.tobytes()).hexdigest() for _ in range(2) for array in datasets.digits()}
    assert len(digests) == 2
