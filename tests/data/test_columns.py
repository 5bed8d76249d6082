"""How columns are fitted, encoded and read again: the promises of RELIABILITY section 6, by their ids."""

from __future__ import annotations

import json
import math
from datetime import date, datetime, time

import numpy as np
import polars
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from written_tables import csv_file, letters, problems_of, typed_of

from fivestep.data.columns import Columns, RawRows
from fivestep.data.kinds import read_columns
from fivestep.data.records import Limits
from fivestep.data.tables import read_table
from fivestep.errors import ArtifactError, DataError, UsageError

# --------------------------------------------------------------------------------------------------------------------------------- D5


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
