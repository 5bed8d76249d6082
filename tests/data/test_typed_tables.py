"""What a table whose columns have a meaning gives to a split."""

from __future__ import annotations

import pytest
from written_tables import typed_of

from fivestep.errors import DataError


def test_dropped_columns_stay_for_splitting_and_gaps_there_are_told():
    typed = typed_of({"x": [1.0, 2.0, 4.0], "g": ["a", "b", "a"], "t": [1.0, None, 2.0]}, drop=["g", "t"])
    assert typed.inputs == ["x"] and typed.split_values("g").tolist() == ["a", "b", "a"]
    with pytest.raises(DataError, match=r"no value in 1 rows \(row 1\)"):
        typed.split_values("t")
