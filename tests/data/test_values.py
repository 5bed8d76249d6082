"""Numbers and moments are read as Python reads them, to the bit (RELIABILITY D4)."""

from __future__ import annotations

import math
import re
from datetime import datetime

import numpy as np
import polars
from hypothesis import given, settings
from hypothesis import strategies as st

from fivestep.data.tables import ReadOptions
from fivestep.data.values import MISSING, NUMBER, read_as


@settings(max_examples=200)
@given(
    st.floats(allow_nan=False, allow_infinity=False, width=64)
    | st.decimals(allow_nan=False, allow_infinity=False, places=20, min_value=-(10**30), max_value=10**30)
)
def test_D4_numbers_are_read_to_the_bit_as_python_reads_them(value):
    text = str(value)
    assert re.match(NUMBER, text)
    values, stray = read_as(polars.Series([text]), "number", "", ReadOptions())
    assert not stray.any() and values[0] == float(text) and math.copysign(1, values[0]) == math.copysign(1, float(text))


@settings(max_examples=200)
@given(st.text(st.sampled_from("0123456789+-.eE_ xinfa,٣"), min_size=1, max_size=8))
def test_D4_what_is_a_number_is_decided_by_the_grammar_alone(text):
    values, stray = read_as(polars.Series([text]), "number", "", ReadOptions())
    stripped = text.strip()
    is_number = re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", stripped) is not None
    is_missing = stripped in MISSING
    assert bool(stray[0]) == (not is_number and not is_missing)
    assert bool(np.isnan(values[0])) == (not is_number)


@settings(max_examples=100)
@given(
    st.datetimes(min_value=datetime(1600, 1, 1), max_value=datetime(2300, 1, 1)).map(lambda moment: moment.replace(microsecond=0)), st.sampled_from(["T", " "])
)
def test_D4_moments_are_read_as_python_reads_them(moment, between):
    values, stray = read_as(polars.Series([moment.isoformat(between), f"{moment.isoformat(between)}+02:00"]), "datetime", "%Y-%m-%d", ReadOptions())
    seconds = (moment - datetime(1970, 1, 1)).total_seconds()
    assert not stray.any() and values.tolist() == [seconds, seconds - 7200]
