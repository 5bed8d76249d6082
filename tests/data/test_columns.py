"""What columns mean, how they are fitted, encoded and read again: the promises of RELIABILITY section 6, by their ids."""

from __future__ import annotations

import json
import math
import re
from datetime import date, datetime, time

import numpy as np
import polars
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fivestep.data.columns import Columns, RawRows, inspect_file, read_columns
from fivestep.data.kinds import TypedTable
from fivestep.data.records import Limits
from fivestep.data.tables import ReadOptions, read_table
from fivestep.data.values import MISSING, NUMBER, read_as
from fivestep.errors import ArtifactError, DataError, UsageError


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


def kind_of(tmp_path, values, **options) -> str:
    return typed_of(csv_file(tmp_path, letters(values)), **options).column("x").kind


# --------------------------------------------------------------------------------------------------------------------------------- D4


@pytest.mark.parametrize("text", ["1", "-1", "+1", "0.5", "-.5", "5.", "1e5", "1E-5", "+2.5e+10", "007"])
def test_D4_numbers_are_signs_digits_a_point_and_an_exponent(tmp_path, text):
    typed = typed_of(csv_file(tmp_path, letters([text, "2", "3"])))
    assert typed.column("x").kind == "number" and typed.values("x").tolist() == [float(text), 2.0, 3.0]


@pytest.mark.parametrize("text", ["1_000", "٣", "0x1f", "inf", "-Infinity", "1e", "--1", "1.2.3", "1 000", "$5", "5%", "1e5.0"])
def test_D4_nothing_else_is_a_number_and_it_is_named_with_line_column_and_value(tmp_path, text):
    problem = problems_of(csv_file(tmp_path, letters(["1", text, "3", "4"])))
    assert problem.startswith(f"column 'x', line 3: '{text}' is no number")
    assert f'missing=["{text}"]' in problem and "columns={'x': \"category\"}" in problem


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


def test_D4_overflow_of_float32_is_refused_and_big_integers_are_told(tmp_path):
    assert "line 3: '1e39' is beyond float32" in problems_of(csv_file(tmp_path, letters(["1", "1e39", "3"])))
    assert "beyond float32" in problems_of(csv_file(tmp_path, letters(["1", "1e999", "3"])))
    typed = typed_of(csv_file(tmp_path, letters(["9007199254740993", "1", "2"])))
    assert any("2^53" in note for note in typed.notes)


def test_D4_an_infinite_value_of_a_frame_is_named():
    assert "column 'a', row 1: inf is no number" in problems_of({"a": [1.0, math.inf], "b": [1, 2]})


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


def test_D4_a_date_that_does_not_exist_is_named(tmp_path):
    problem = problems_of(csv_file(tmp_path, letters(["2024-02-28", "2024-02-30", "2024-03-01"])))
    assert "column 'x', line 3: '2024-02-30' is no date" in problem


@settings(max_examples=100)
@given(
    st.datetimes(min_value=datetime(1600, 1, 1), max_value=datetime(2300, 1, 1)).map(lambda moment: moment.replace(microsecond=0)), st.sampled_from(["T", " "])
)
def test_D4_moments_are_read_as_python_reads_them(moment, between):
    values, stray = read_as(polars.Series([moment.isoformat(between), f"{moment.isoformat(between)}+02:00"]), "datetime", "%Y-%m-%d", ReadOptions())
    seconds = (moment - datetime(1970, 1, 1)).total_seconds()
    assert not stray.any() and values.tolist() == [seconds, seconds - 7200]


# --------------------------------------------------------------------------------------------------------------------------------- D5


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
    assert "column 'e' has no value in any row" in problems_of(path) and "drop=['e']" in problems_of(path)
    assert typed_of(path, drop=["e"]).inputs == ["x", "n"]


def test_D5_fill_values_and_scales_come_from_the_training_rows_only():
    content = {"x": [1.0, None, 3.0, 1000.0, -7.0], "c": ["a", "b", "a", "z", None], "y": [1.0, 2.0, 4.0, 1e6, 5.0]}
    typed = typed_of(content, target="y")
    fitted = Columns.fit(typed, [0, 1, 2])
    other = {name: values[:3] + [values[0]] * 2 for name, values in content.items()}
    assert fitted.to_json() == Columns.fit(typed_of(other, target="y"), [0, 1, 2]).to_json()
    x = fitted.inputs[0]
    assert (x.fill, x.center, x.scale, x.flag, x.low, x.high) == ((2.0,), (2.0,), (1.0,), True, 1.0, 3.0)
    assert fitted.inputs[1].vocabulary == ("a", "b") and not fitted.inputs[1].flag
    assert fitted.target_center is not None and fitted.target_center.tolist() == [pytest.approx(7 / 3)]
    assert any("1 of 3 training values are missing; filled with the training mean 2" in note for note in fitted.notes)


# --------------------------------------------------------------------------------------------------------------------------------- D6


def test_D6_classes_are_sorted_labels_with_at_least_two_rows_or_told(tmp_path):
    typed = typed_of(csv_file(tmp_path, "x,y\n1,dog\n2,cat\n3,dog\n4,ant\n"), target="y")
    assert typed.task == "multiclass" and typed.classes == ("ant", "cat", "dog") and typed.class_codes().tolist() == [2, 1, 2, 0]
    assert any("2 classes have one row only ('ant', 'cat')" in note for note in typed.notes)
    assert "one class only ('dog')" in problems_of(csv_file(tmp_path, "x,y\n1,dog\n2,dog\n"), target="y")


@pytest.mark.parametrize(
    ("values", "options", "task", "classes"),
    [
        ([0, 1, 1, 0], {}, "binary", (0, 1)),
        (["0", "1", "1", "0"], {}, "binary", (0, 1)),
        ([0.0, 1.0, 1.0, 0.0], {}, "regression", None),
        ([0, 1, 1, 0], {"columns": {"y": "number"}}, "regression", None),
        ([1, 2, 2, 1], {}, "regression", None),
        ([10, 9, 9, 10], {"columns": {"y": "category"}}, "binary", (9, 10)),
        ([True, False, True, True], {}, "binary", (False, True)),
        (["yes", "no", "no", "yes"], {}, "binary", ("no", "yes")),
        (["yes", "YES", "no", "yes"], {"columns": {"y": "boolean"}}, "binary", ("no", "yes")),
        (["b", "a", "c", "a"], {}, "multiclass", ("a", "b", "c")),
        ([0.5, 1.5, 2.0, 0.1], {}, "regression", None),
    ],
)
def test_the_target_tells_the_task(values, options, task, classes):
    typed = typed_of({"x": [1.0, 2.0, 3.0, 5.0], "y": values}, target="y", **options)
    assert (typed.task, typed.classes) == (task, classes)
    columns = Columns.fit(typed, range(4))
    assert (columns.task, columns.classes) == (task, classes)
    targets = columns.targets(typed)
    if classes is None:
        assert targets.dtype == torch.float64 and targets.shape == (4, 1)
    else:
        assert targets.dtype == torch.int64 and targets.shape == (4,)
        assert [str(label) for label in columns.decode_values(targets)] == [str(value).replace("YES", "yes") for value in values]


def test_several_targets_are_numbers():
    typed = typed_of({"x": [1.0, 2.0, 4.0], "a": [1.0, 2.0, 3.0], "b": [2.0, 4.0, 5.0]}, target=["a", "b"])
    columns = Columns.fit(typed, [0, 1, 2])
    assert columns.task == "regression" and columns.num_targets == 2 and columns.target_names == ["a", "b"]
    assert columns.targets(typed, [2, 0]).tolist() == [[3.0, 5.0], [1.0, 2.0]]
    scaled = (columns.targets(typed) - columns.target_center) / columns.target_scale
    assert torch.allclose(columns.decode_values(scaled), columns.targets(typed))
    assert "with several targets all are numbers" in problems_of({"x": [1.0, 2.0], "a": [1.0, 2.0], "b": ["u", "v"]}, target=["a", "b"])
    assert typed_of({"x": [1.0, 2.0, 4.0], "a": [0, 1, 1], "b": [1, 0, 1]}, target=["a", "b"]).task == "multilabel"


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


def test_D6_a_counter_of_rows_is_left_out_and_can_be_used(tmp_path):
    path = csv_file(tmp_path, "k,x\n" + "".join(f"{number},{number % 5}\n" for number in range(30)))
    assert "counts the rows" in typed_of(path).column("k").why
    assert "k" in typed_of(path, columns={"k": "number"}).inputs


def test_D3_an_absent_target_is_named_with_near_names(tmp_path):
    path = csv_file(tmp_path, "price,b\n1,2\n3,4\n")
    assert "target 'prize': no such column; did you mean 'price'?" in problems_of(path, target="prize")
    assert "drop 'c': no such column" in problems_of(path, drop=["c"])


# --------------------------------------------------------------------------------------------------------------------------------- D7


@pytest.fixture
def fitted(tmp_path):
    rows = ["age,city,born,member,id_text,price"]
    for number in range(40):
        rows.append(f"{20 + number},{('Bonn', 'Oslo', 'Rome')[number % 3]},2001-0{number % 9 + 1}-11,{('yes', 'no')[number % 2]},u{number}z,{number * 10.5}")
    typed = typed_of(csv_file(tmp_path, "\n".join(rows), "train.csv"), target="price")
    return Columns.fit(typed, range(30)), typed


def test_D7_columns_are_matched_by_name_in_any_order_with_extras_noted(fitted, tmp_path):
    columns, typed = fitted
    new = csv_file(tmp_path, "extra,member,born,city,age\n1,no,2001-03-11,Rome,22\n", "new.csv")
    raw = columns.read_for_prediction(new)
    assert isinstance(raw, RawRows) and any("ignored, not known from training: 'extra'" in note for note in raw.notes)
    numbers, codes = columns.raw(typed)
    row = 2  # the same day
    born = [at for at, name in enumerate(columns.input_names) if name.startswith("born")]
    assert torch.equal(raw.numbers[0, born], numbers[row, born])
    assert raw.codes[0].tolist() == codes[2].tolist()


def test_D7_a_missing_column_is_an_error_with_near_names(fitted, tmp_path):
    columns, _ = fitted
    with pytest.raises(DataError) as caught:
        columns.read_for_prediction(csv_file(tmp_path, "aged,member,born\n22,no,2001-03-11\n", "new.csv"))
    assert len(caught.value.problems) == 2 and "'age' is missing" in caught.value.problems[0] and "did you mean 'aged'" in caught.value.problems[0]


def test_D7_unseen_categories_ranges_and_gaps_are_counted_and_told(fitted, tmp_path):
    columns, _ = fitted
    new = csv_file(tmp_path, "age,city,born,member\n22,Paris,2001-03-11,no\n99,bonn ,1970-03-11,yes\n,,2001-03-11,\n", "new.csv")
    raw = columns.read_for_prediction(new)
    notes = "\n".join(raw.notes)
    assert "column 'city': 2 of 3 values are categories that training did not have ('Paris', 'bonn '" in notes.replace("('bonn ', 'Paris'", "('Paris', 'bonn '")
    assert "training has 'Bonn'" in notes and "1 of 3 values are missing, which training did not have; taken as unknown" in notes
    assert "outside the training range 20 to 49 (farthest: 99, line 3)" in notes and "1970-03-11" in notes
    assert "column 'age': 1 of 3 values are missing" in notes
    assert raw.codes[:, 0].tolist() == [0, 0, 1]
    encoded = columns.encoder()(raw.numbers, raw.codes)
    cities = [at for at, name in enumerate(columns.input_names) if name.startswith("city")]
    assert encoded[:, cities].abs().sum() == 0 and encoded[2, 0] == 0 and torch.isfinite(encoded).all()


def test_D7_types_are_enforced_by_the_stored_schema(fitted, tmp_path):
    columns, _ = fitted
    with pytest.raises(DataError) as caught:
        columns.read_for_prediction(csv_file(tmp_path, "age,city,born,member\n22,Rome,2001-03-11,no\nold,Rome,11.3.2001,perhaps\n", "new.csv"))
    assert len(caught.value.problems) == 3
    assert "column 'age', line 3: 'old' is no number" in caught.value.problems[0]


def test_D7_a_header_alone_gives_no_rows(fitted, tmp_path):
    columns, _ = fitted
    path = csv_file(tmp_path, "age,city,born,member\n", "new.csv")
    raw = columns.read_for_prediction(path)
    assert raw.numbers.shape == (0, columns.raw(fitted[1])[0].shape[1]) and raw.codes.shape == (0, 1)
    assert columns.encoder()(raw.numbers, raw.codes).shape == (0, columns.num_inputs)
    assert [len(chunk.numbers) for chunk in columns.iter_prediction_chunks(path)] == [0]


def test_D7_chunks_give_the_same_rows_as_the_whole_file(fitted, tmp_path):
    columns, typed = fitted
    whole = columns.read_for_prediction(tmp_path / "train.csv")
    typed.table.frame.write_parquet(tmp_path / "train.parquet")
    for path in (tmp_path / "train.csv", tmp_path / "train.parquet"):
        chunks = list(columns.iter_prediction_chunks(path, rows=7))
        assert [len(chunk.numbers) for chunk in chunks] == [7, 7, 7, 7, 7, 5]
        assert torch.equal(torch.cat([chunk.numbers for chunk in chunks]), whole.numbers)
        assert torch.equal(torch.cat([chunk.codes for chunk in chunks]), whole.codes)


def test_D7_a_row_is_encoded_to_the_same_bits_alone_and_among_others(fitted):
    columns, typed = fitted
    together = columns.encode(typed)
    for row in range(len(typed)):
        alone = columns.encoder()(*columns.read_for_prediction(typed.table.take([row]))[:2])
        assert torch.equal(alone[0], together[row])
    assert torch.equal(columns.encode(typed, [5, 3]), together[[5, 3]])


def test_D7_a_frame_or_dict_predicts_like_the_file(fitted):
    columns, _ = fitted
    content = {
        "age": [22, 31], "city": ["Rome", "Oslo"], "born": [date(2001, 3, 11), date(2001, 5, 11)], "member": [True, False],
    }  # fmt: skip
    text = {name: [str(value) for value in values] for name, values in content.items()}
    for made in (content, polars.DataFrame(content)):
        for one, other in zip(columns.read_for_prediction(made)[:2], columns.read_for_prediction(text)[:2]):
            assert torch.equal(one, other)


def test_D7_labels_that_training_did_not_have_are_named(tmp_path):
    typed = typed_of({"x": [1.0, 2.0, 3.0], "y": ["a", "b", "a"]}, target="y")
    columns = Columns.fit(typed, range(3))
    assert columns.targets(columns.read_with_targets({"y": ["b", "a"], "x": [1, 2]})).tolist() == [1, 0]
    with pytest.raises(DataError, match=r"row 1: 'c'; the classes are 'a', 'b'"):
        columns.targets(columns.read_with_targets({"y": ["b", "c"], "x": [1, 2]}))
    with pytest.raises(DataError, match="nothing can be scored"):
        columns.read_with_targets({"x": [1, 2]})


# --------------------------------------------------------------------------------------------------------------------------------- D8


def test_D8_too_many_categories_are_left_out_with_the_option(tmp_path):
    path = csv_file(tmp_path, letters([f"c{number % 30}" for number in range(90)]))
    typed = typed_of(path, limits=Limits(num_categories=10))
    assert "30 categories, more than 10" in typed.column("x").why
    assert typed_of(path, limits=Limits(num_categories=10), columns={"x": "category"}).column("x").use == "input"
    with pytest.raises(DataError, match="limits=Limits"):
        Columns.fit(typed_of(path), range(90), limits=Limits(num_columns=20))


# ---------------------------------------------------------------------------------------------------------------------------- encoding


def test_numbers_are_standardised_in_float64_and_missing_ones_marked():
    typed = typed_of({"x": [1e9 + 0.25, 1e9 + 0.75, None, 1e9 + 0.5], "b": [True, None, False, True]})
    columns = Columns.fit(typed, range(4))
    assert columns.input_names == ["x", "b", "x missing", "b missing"]
    encoded = columns.encode(typed)
    assert encoded.dtype == torch.float32
    assert encoded[:, 0].tolist() == pytest.approx([-math.sqrt(1.5), math.sqrt(1.5), 0, 0])
    assert encoded[:, 1].tolist() == pytest.approx([1, 2 / 3, 0, 1])
    assert encoded[:, 2:].tolist() == [[0, 0], [0, 1], [1, 0], [0, 0]]


def test_categories_as_one_hot_or_as_codes():
    content = {"x": [1.0, 2.0, 3.0], "c": ["v", None, "u"], "d": ["p", "q", "p"]}
    typed = typed_of(content)
    onehot = Columns.fit(typed, range(3))
    assert onehot.input_names == ["x", "c=u", "c=v", "c missing", "d=p", "d=q"] and onehot.num_categories == []
    assert onehot.encode(typed)[:, 1:].tolist() == [[0, 1, 0, 1, 0], [0, 0, 1, 0, 1], [1, 0, 0, 1, 0]]
    codes = Columns.fit(typed, range(3), categories="codes")
    assert codes.num_inputs == 1 and codes.num_categories == [4, 4] and codes.category_names == ["c", "d"]
    numbers, found = codes.encode(typed)
    assert numbers.shape == (3, 1) and found.tolist() == [[3, 2], [1, 3], [2, 2]]
    with pytest.raises(UsageError):
        Columns.fit(typed, range(3), categories="one-hot")


def test_rare_categories_share_an_input_with_unseen_ones():
    values = [f"c{number:02d}" for number in range(25) for _ in range(3)] + ["once", "twice"]
    typed = typed_of({"c": values, "x": np.arange(77.0) * 0.5})
    columns = Columns.fit(typed, range(77))
    assert columns.input_names[-1] == "c other" and "c=once" not in columns.input_names
    encoded = columns.encode(typed)
    assert encoded[-1, -1] == encoded[-2, -1] == 1 and encoded[:-2, -1].sum() == 0
    raw = columns.read_for_prediction({"c": ["never"], "x": [0.0]})
    assert columns.encoder()(raw.numbers, raw.codes)[0, -1] == 1


def test_dates_become_cyclic_parts():
    days = [datetime(2023, month, 10 + month, month, 30) for month in range(1, 13)]
    typed = typed_of({"when": days, "clock": [time(hour, 15) for hour in range(12)]})
    columns = Columns.fit(typed, range(12))
    assert [name for name in columns.input_names if name.startswith("when")] == [
        "when days", "when month sin", "when month cos", "when day", "when weekday sin", "when weekday cos", "when time sin", "when time cos",
    ]  # fmt: skip
    numbers, _ = columns.raw(typed)
    march = dict(zip(columns.input_names, numbers[2].tolist()))
    assert march["when month sin"] == pytest.approx(math.sin(2 * math.pi * 2 / 12)) and march["when day"] == 13
    assert march["when weekday cos"] == pytest.approx(math.cos(2 * math.pi * days[2].weekday() / 7))
    assert march["when time sin"] == pytest.approx(math.sin(2 * math.pi * 3.5 / 24))
    assert march["clock cos"[:5] + " time cos"] == pytest.approx(math.cos(2 * math.pi * 2.25 / 24))


def test_the_encoder_is_a_module_that_torch_can_export(fitted):
    columns, typed = fitted
    numbers, codes = columns.raw(typed)
    program = torch.export.export(columns.encoder(), (numbers[:4], codes[:4]), dynamic_shapes=({0: torch.export.Dim("n")}, {0: torch.export.Dim("n")}))
    assert torch.equal(program.module()(numbers, codes), columns.encode(typed))


def test_a_weight_is_a_column_of_numbers_not_below_zero():
    content = {"x": [1.0, 2.0, 4.0], "w": [1.0, 0.0, 2.5], "y": [1.0, 2.0, 3.0]}
    typed = typed_of(content, target="y", weight="w")
    assert typed.inputs == ["x"] and typed.weights([2, 0]).tolist() == [2.5, 1.0]
    assert "numbers >= 0" in problems_of({**content, "w": [1.0, -1.0, 2.0]}, target="y", weight="w")
    raw = Columns.fit(typed, range(3)).read_for_prediction({"x": [1.0]})
    assert raw.numbers.shape == (1, 1) and raw.notes == ()


def test_dropped_columns_stay_for_splitting_and_gaps_there_are_told():
    typed = typed_of({"x": [1.0, 2.0, 4.0], "g": ["a", "b", "a"], "t": [1.0, None, 2.0]}, drop=["g", "t"])
    assert typed.inputs == ["x"] and typed.split_values("g").tolist() == ["a", "b", "a"]
    with pytest.raises(DataError, match=r"no value in 1 rows \(row 1\)"):
        typed.split_values("t")


# -------------------------------------------------------------------------------------------------------------------------------- JSON


@settings(max_examples=50)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=3, max_size=3, unique=True))
def test_columns_survive_json_to_the_bit(values):
    typed = typed_of({"x": values, "c": ["u", "vé", None], "y": [value / 3 for value in values]}, target="y")
    columns = Columns.fit(typed, range(3))
    back = Columns.from_json(json.loads(json.dumps(columns.to_json())))
    assert back == columns
    assert torch.equal(back.encode(typed), columns.encode(typed))


def test_from_json_refuses_what_to_json_does_not_write(fitted):
    columns, _ = fitted
    good = columns.to_json()

    def refused(change, words):
        content = json.loads(json.dumps(good))
        change(content)
        with pytest.raises(ArtifactError, match=words):
            Columns.from_json(content)

    refused(lambda content: content.update(surprise=1), "unknown key 'surprise'")
    refused(lambda content: content.pop("task"), "'task' is missing")
    refused(lambda content: content.update(format=2), "newer version")
    refused(lambda content: content.update(format=True), "no format number")
    refused(lambda content: content.update(num_training_rows=True), "int was expected")
    refused(lambda content: content.update(categories="pickle"), "categories")
    refused(lambda content: content["inputs"][0].update(scale=[float("nan")]), "not finite")
    refused(lambda content: content["inputs"][0].update(scale=[0.0]), "not above 0")
    refused(lambda content: content["inputs"][0].update(scale=[1]), "float was expected")
    refused(lambda content: content["inputs"][0].update(scale=[1.0, 2.0]), "one number for each")
    refused(lambda content: content["inputs"][0].update(kind="object"), "no kind of input")
    refused(lambda content: content["inputs"][1].update(vocabulary=["a", "a"]), "repeats a category")
    refused(lambda content: content["inputs"].append(content["inputs"][0]), "stands twice")
    refused(lambda content: content.update(inputs=[]), "no inputs")
    refused(lambda content: content.update(inputs={}), "a list was expected")
    refused(lambda content: content.update(task="binary"), "do not fit the task")
    for content in (None, [], "x", 3):
        with pytest.raises(ArtifactError):
            Columns.from_json(content)


# --------------------------------------------------------------------------------------------------------------------- fivestep check FILE


def test_one_pass_over_a_file_tells_all_its_problems(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_bytes(b"age,city,city,y\n1,Bonn,a,1\n2,Oslo\nold,Rom\xe9,b,3\n4,Bonn,c,\n5,Bonn,d,6\n")
    report = inspect_file(path, target="y")
    text = "\n".join(report.problems)
    assert not report.ok and len(report.problems) == 5
    for words in (
        "'city' stands in the header",
        "line 3 has 2 fields",
        "is not UTF-8",
        "column 'age', line 4: 'old'",
        "target 'y' is missing in 1 of 4 rows (line 5)",
    ):
        assert words in text
    assert "age" in str(report) and "5 problems" in str(report)


def test_a_sound_file_is_reported_with_its_columns(tmp_path):
    report = inspect_file(csv_file(tmp_path, "x,y\n1,2\n2,3\n4,7\n"), target="y")
    assert report.ok and report.num_rows == 3 and report.columns["y"].use == "target" and "no problems" in str(report)
    with pytest.raises(UsageError, match="delimiter"):
        inspect_file(tmp_path / "data.csv", delimeter=";")


def test_every_problem_of_the_catalogue_ends_with_a_way_out(tmp_path):
    """Each refusal names an option or the command that repairs the file."""
    samples = {
        "a.csv": "x,y\n1,2\n?,3\n4,5\n", "b.csv": "x;y\n1;2\n", "c.csv": ",y\n1,2\n", "d.csv": "x,y\n1,2\nx,y\n3,4\n", "e.csv": "x,y\n1,\n2,3\n3,4\n", "f.csv": "x,e\n1,\n2,\n",
        "g.csv": "x,y\n1e40,1\n2,2\n", "h.csv": 'x,y\n1,"a\n2,b\n',
    }  # fmt: skip
    for name, text in samples.items():
        report = inspect_file(csv_file(tmp_path, text, name), target="y" if name == "e.csv" else None)
        assert report.problems, name
        for problem in report.problems:
            assert re.search(r"[a-z_]+=\S|sed -i|tr -|Put a line", problem), problem


def test_a_repeated_header_is_one_problem_and_not_a_stray_word_in_each_column(tmp_path):
    report = inspect_file(csv_file(tmp_path, "x,y\n1,2\n3,4\nx,y\n5,9\n"))
    assert len(report.problems) == 1 and report.num_rows == 3 and {line.kind for line in report.columns.lines} == {"number"}


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(*[st.sampled_from(["", "1", "2.5", "NA", "x", "yes", "no", "2024-01-02", "12:30", "1e400", "?", "é ", "true", "1,5"]) for _ in range(3)]),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from([None, "a", ["a", "b"]]),
    st.sampled_from(["refuse", "drop"]),
)
def test_any_table_is_typed_fitted_and_read_again_or_refused_by_a_typed_error(rows, target, without_target):
    table = read_table({name: [row[at] for row in rows] for at, name in enumerate("abc")})
    try:
        typed = read_columns(table, target=target, without_target=without_target)
    except DataError as error:
        assert all(error.problems)
        return
    half = range(0, len(typed), 2)
    for categories in ("onehot", "codes"):
        columns = Columns.fit(typed, half, categories=categories)
        encoded = columns.encode(typed)
        assert torch.isfinite(encoded if categories == "onehot" else encoded[0]).all()
        assert Columns.from_json(json.loads(json.dumps(columns.to_json()))) == columns
        again = columns.read_for_prediction(typed.table)
        for one, other in zip(again[:2], columns.raw(typed)):
            assert torch.equal(one.nan_to_num(), other.nan_to_num())
        if target is not None:
            assert torch.equal(columns.targets(typed.table), columns.targets(typed))
        if categories == "onehot":
            assert encoded.shape == (len(typed), len(columns.input_names))


# -- far outside -----------------------------------------------------------------------------------------------------------------------------------------------


def test_rows_far_outside_of_the_training_range_are_counted_once_a_row():
    typed = read_columns({"a": [0.0, 10.0, 5.0], "b": [1.0, 2.0, 3.0], "c": [7.0, 7.0, 7.0], "y": [1.0, 2.0, 3.0]}, target="y")
    columns = Columns.fit(typed, [0, 1, 2])
    new = {"a": [20.0, 20.1, -11.0, 5.0], "b": [2.0, 99.0, 2.0, 2.0], "c": [7.0, 7.0, 7.0, 1e9]}  # 20 is one width away, not farther; c has no width to go by
    told = [note for note in columns.read_for_prediction(new).notes if "far outside" in note]
    assert len(told) == 1 and told[0].startswith("2 of 4 rows lie far outside") and "first row 1)" in told[0]
    scored = columns.read(new | {"y": [1.0] * 4})
    assert columns.far_from_training(scored) == tuple(told) and columns.far_from_training(scored, np.array([0, 3])) == ()
    assert (
        columns.far_from_training(scored, np.array([3, 2]))[0].startswith("1 of 2 rows")
        and "first row 2)" in columns.far_from_training(scored, np.array([3, 2]))[0]
    )
    near_by = {"a": [11.0], "b": [2.0], "c": [7.0]}
    assert not any("far outside" in note for note in columns.read_for_prediction(near_by).notes)


def test_predictions_beyond_the_training_targets_are_counted():
    typed = read_columns({"a": [0.0, 10.0, 5.0], "y": [1.0, 2.0, 100.0]}, target="y")
    columns = Columns.fit(typed, [0, 1])
    assert (columns.targets_[0].low, columns.targets_[0].high) == (1.0, 2.0)  # of training rows
    assert columns.beyond_targets({"y": np.array([1.0, 1.5, 2.0])}) == ()
    (told,) = columns.beyond_targets({"y": np.array([0.5, 1.5, 7.0])})
    assert "2 of 3 predictions" in told and "1 to 2 (farthest: 7)" in told


def test_columns_of_an_artifact_from_before_target_ranges_are_read():
    columns = Columns.fit(read_columns({"a": [0.0, 10.0], "y": [1.0, 2.0]}, target="y"), [0, 1])
    content = columns.to_json()
    for target in content["targets_"]:
        del target["low"], target["high"]
    older = Columns.from_json(content)
    assert older.targets_[0].low is None and older.beyond_targets({"y": np.array([99.0])}) == ()
