"""What each column is taken for, decided on all rows: promises of RELIABILITY section 6, by their ids."""

from __future__ import annotations

from datetime import date, datetime

import pytest
from written_tables import csv_file, letters, problems_of, typed_of


@pytest.mark.parametrize("text", ["1", "-1", "+1", "0.5", "-.5", "5.", "1e5", "1E-5", "+2.5e+10", "007"])
def test_D4_numbers_are_signs_digits_a_point_and_an_exponent(tmp_path, text):
    typed = typed_of(csv_file(tmp_path, letters([text, "2", "3"])))
    assert typed.column("x").kind == "number" and typed.values("x").tolist() == [float(text), 2.0, 3.0]


def test_D4_overflow_of_float32_is_refused_and_big_integers_are_told(tmp_path):
    assert "line 3: '1e39' is beyond float32" in problems_of(csv_file(tmp_path, letters(["1", "1e39", "3"])))
    assert "beyond float32" in problems_of(csv_file(tmp_path, letters(["1", "1e999", "3"])))
    typed = typed_of(csv_file(tmp_path, letters(["9007199254740993", "1", "2"])))
    assert any("2^53" in note for note in typed.notes)


def test_D4_types_are_decided_on_all_rows_and_shown(tmp_path):
    days = [f"2024-03-{day:02d}" for day in range(1, 31)]
    lines = ["number,flag,colour,day,moment,clock,key,essay,same"]
    for number, day in enumerate(days):
        lines.append(
            f"{number * 1.5},{'yes' if number % 3 else 'no'},{'red' if number % 2 else 'blue'},{day},{day}T0{number % 10}:30:00Z,0{number % 10}:15,k{number},text {number % 25} {number},7"
        )
    typed = typed_of(csv_file(tmp_path, "\n".join(lines)))
    kinds = {column.name: (column.kind, column.use) for column in typed.columns}
    assert kinds == {
        "number": ("number", "input"), "flag": ("boolean", "input"), "colour": ("category", "input"), "day": ("date", "input"), "moment": ("datetime", "input"),
        "clock": ("time", "input"), "key": ("text", "left out"), "essay": ("text", "left out"), "same": ("number", "left out"),
    }  # fmt: skip
    shown = typed.describe()
    assert "left out: constant (7 in every row)" in shown and "left out: an id: every value differs" in shown
    assert shown["colour"].examples == ("blue", "red")
    assert typed.values("moment")[3] == datetime(2024, 3, 4, 3, 30).timestamp() - datetime(1970, 1, 1).timestamp()
    assert typed.values("clock")[2] == 2 * 3600 + 15 * 60
    assert typed.values("flag")[:4].tolist() == [0, 1, 1, 0]


def test_D4_the_kind_can_be_named(tmp_path):
    path = csv_file(tmp_path, "zip,flag,note,n\n01234,1,a,1\n99999,0,b,2\n01234,1,c,3\n")
    typed = typed_of(path, columns={"zip": "category", "flag": "boolean", "note": "text"})
    assert [column.kind for column in typed.columns] == ["category", "boolean", "text", "number"]
    assert typed.values("zip").tolist() == ["01234", "99999", "01234"]
    assert typed.column("note").use == "left out"
    assert "leading zeros" in " ".join(typed_of(path).notes)


def test_D4_days_and_months_that_no_row_can_tell_apart_are_not_guessed(tmp_path):
    path = csv_file(tmp_path, letters(["01/02/2024", "03/04/2024"]))
    assert "columns={'x': \"date:%d/%m/%Y\"}" in problems_of(path)
    assert typed_of(path, columns={"x": "date:%m/%d/%Y"}).values("x")[0] == (date(2024, 1, 2) - date(1970, 1, 1)).days * 86400
    assert typed_of(csv_file(tmp_path, letters(["01/02/2024", "13/04/2024"]))).column("x").form == "%d/%m/%Y"
    assert typed_of(csv_file(tmp_path, letters(["2 Jan 2024", "5 Mar 2024"])), columns={"x": "date:%d %b %Y"}).values("x")[0] == 19724 * 86400


def test_D5_missing_tokens_are_a_stated_list_and_do_not_hold_for_categories(tmp_path):
    path = csv_file(tmp_path, "n,land,m\n1,NA,1\nNA,DE,2\n,NA,3\nnan,,4\n5,NULL,5\n")
    typed = typed_of(path)
    assert typed.column("n").num_missing == 3
    assert typed.values("land").tolist() == ["NA", "DE", "NA", None, "NULL"]
    assert any("missing=['NA']" in note for note in typed.notes)
    assert typed_of(path, missing=["NA"]).values("land").tolist() == [None, "DE", None, None, "NULL"]


def test_D5_a_missing_target_is_an_error_with_lines_and_the_option_drops_them(tmp_path):
    path = csv_file(tmp_path, "x,y\n1,2\n2,\n3,4\n4,NA\n5,6\n")
    problem = problems_of(path, target="y")
    assert "missing in 2 of 5 rows (lines 3, 5)" in problem and 'without_target="drop"' in problem
    typed = typed_of(path, target="y", without_target="drop")
    assert typed.rows.tolist() == [0, 2, 4] and typed.values("y").tolist() == [2, 4, 6]
    assert typed.place(1) == "line 4" and any("2 of 5 rows left out" in note for note in typed.notes)


def test_D5_an_all_missing_column_is_an_error(tmp_path):
    path = csv_file(tmp_path, "x,e,n\n1,,1\n2,NA,2\n")
    assert "column 'e' has no value in any row" in problems_of(path) and """columns={'e': "drop"}""" in problems_of(path)
    assert typed_of(path, drop=["e"]).inputs == ["x", "n"]


def test_D6_classes_are_sorted_labels_with_at_least_two_rows_or_told(tmp_path):
    typed = typed_of(csv_file(tmp_path, "x,y\n1,dog\n2,cat\n3,dog\n4,ant\n"), target="y")
    assert typed.task == "multiclass" and typed.classes == ("ant", "cat", "dog") and typed.class_codes().tolist() == [2, 1, 2, 0]
    assert any("2 classes have one row only ('ant', 'cat')" in note for note in typed.notes)
    assert "one class only ('dog')" in problems_of(csv_file(tmp_path, "x,y\n1,dog\n2,dog\n"), target="y")


def test_D6_spelling_variants_constants_copies_and_ids_are_told_by_name(tmp_path):
    lines = ["id,word,copy,near,same,y"]
    words = ["yes", "YES", "yes ", "maybe"]
    lines += [f"{100 + number * 3},{words[number % 4]},{number * 0.5},{16777216 + number / 1000},k,{number * 0.5}" for number in range(24)]
    typed = typed_of(csv_file(tmp_path, "\n".join(lines)), target="y")
    text = "\n".join(typed.notes)
    assert "'yes' (6) / 'YES' (6)" in text.replace("'YES' (6) / 'yes' (6)", "'yes' (6) / 'YES' (6)") and "'yes ' (6)" in text
    assert "column 'copy' equals the target 'y'" in text
    assert "column 'near' is constant in float32" in text
    assert "an id" in typed.column("id").why and "constant" in typed.column("same").why


@pytest.mark.parametrize("kind", ["number", "category"])
def test_D6_a_copy_of_the_target_equals_it_in_every_row(kind, tmp_path):
    rows = [(number % 7, (number % 7) + (number == 149)) for number in range(150)]
    lines = ["copy,almost,y", *(f"{value},{other},{value}" for value, other in rows)]
    told = "\n".join(typed_of(csv_file(tmp_path, "\n".join(lines)), target="y", columns={"y": kind}).notes)
    assert "column 'copy' equals the target 'y'" in told and "'almost' equals" not in told


def test_D6_a_counter_of_rows_is_left_out_and_can_be_used(tmp_path):
    path = csv_file(tmp_path, "k,x\n" + "".join(f"{number},{number % 5}\n" for number in range(30)))
    assert "counts the rows" in typed_of(path).column("k").why
    assert "k" in typed_of(path, columns={"k": "number"}).inputs


def test_D3_an_absent_target_is_named_with_near_names(tmp_path):
    path = csv_file(tmp_path, "price,b\n1,2\n3,4\n")
    assert "target 'prize': no such column; did you mean 'price'?" in problems_of(path, target="prize")
    assert "drop 'c': no such column" in problems_of(path, drop=["c"])
