"""A value that does not fit its column is named with its line and the option that accepts it (RELIABILITY D4)."""

from __future__ import annotations

import math

import pytest
from written_tables import csv_file, letters, problems_of, typed_of

from fivestep.data.kinds import read_columns
from fivestep.data.tables import read_table
from fivestep.errors import DataError


@pytest.mark.parametrize("text", ["1_000", "٣", "0x1f", "inf", "-Infinity", "1e", "--1", "1.2.3", "1 000", "$5", "5%", "1e5.0"])
def test_D4_nothing_else_is_a_number_and_it_is_named_with_line_column_and_value(tmp_path, text):
    problem = problems_of(csv_file(tmp_path, letters(["1", text, "3", "4"])))
    assert problem.startswith(f"column 'x', line 3: '{text}' is no number")
    assert f'missing=["{text}"]' in problem and "columns={'x': \"category\"}" in problem


def test_D4_one_stray_word_among_many_numbers_is_an_error_and_the_options_accept_it(tmp_path):
    path = csv_file(tmp_path, letters([*range(500), "unknwon", *range(500)]))
    assert "column 'x', line 502: 'unknwon' is no number" in problems_of(path)
    assert typed_of(path, columns={"x": "category"}).column("x").kind == "category"
    typed = typed_of(path, missing=["unknwon"])
    assert typed.column("x").kind == "number" and typed.column("x").num_missing == 1


def test_D4_a_question_mark_for_missing_is_recognised(tmp_path):
    path = csv_file(tmp_path, letters(["1", "?", "3", "?", "5"]))
    assert 'missing=["?"]' in problems_of(path) and "2 such values (lines 3, 5)" in problems_of(path)
    assert typed_of(path, missing=["?"]).column("x").num_missing == 2
    mostly = csv_file(tmp_path, letters(["?"] * 80 + list(range(20))), "mostly.csv")
    assert 'missing=["?"]' in problems_of(mostly)


def test_D4_decimal_commas_are_recognised_and_their_option_accepts_them(tmp_path):
    path = csv_file(tmp_path, "x;n\n1,5;2\n2,25;3\n7;4\n")
    with pytest.raises(DataError, match='delimiter=";"'):
        read_table(path)
    table = read_table(path, delimiter=";")
    with pytest.raises(DataError, match='decimal=","'):
        read_columns(table)
    assert read_columns(read_table(path, delimiter=";", decimal=",")).values("x").tolist() == [1.5, 2.25, 7.0]


def test_D4_thousands_are_not_guessed(tmp_path):
    assert "by thousands" in problems_of(csv_file(tmp_path, 'x,n\n"1,000",1\n"2,500",2\n"12",3\n'))


def test_D4_an_infinite_value_of_a_frame_is_named():
    assert "column 'a', row 1: inf is no number" in problems_of({"a": [1.0, math.inf], "b": [1, 2]})


def test_D4_a_date_that_does_not_exist_is_named(tmp_path):
    problem = problems_of(csv_file(tmp_path, letters(["2024-02-28", "2024-02-30", "2024-03-01"])))
    assert "column 'x', line 3: '2024-02-30' is no date" in problem
