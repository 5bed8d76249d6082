"""Small tables that are written to a file and read again, and what is wrong with them."""

from __future__ import annotations

import pytest

from fivestep.data.kinds import read_columns
from fivestep.data.tables import read_table
from fivestep.data.typed_tables import TypedTable
from fivestep.errors import DataError


def csv_file(tmp_path, text: str, name: str = "data.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def typed_of(source, **options) -> TypedTable:
    return read_columns(read_table(source), **options)


def problems_of(source, **options) -> str:
    with pytest.raises(DataError) as caught:
        typed_of(source, **options)
    return "\n".join(caught.value.problems)


def letters(values, prefix="") -> str:
    return "\n".join(["x,n", *(f"{value},{number * 0.5}" for number, value in enumerate(values))]) + "\n"
