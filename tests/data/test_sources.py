"""Promises of fivestep.data.sources: arrays come through as they are or are refused with a lesson; a Dataset's rows depend on (seed, epoch, row) alone."""

from __future__ import annotations

import itertools
import pickle
import random
import time
from collections import namedtuple

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from fivestep import seeds
from fivestep.data.batches import LoaderBatches
from fivestep.data.sources import (
    ArraySource,
    DatasetSource,
    LoaderDataset,
    as_tensor,
    class_codes,
    digest_of,
    fingerprint,
    make_array_source,
    reads_many,
    rows_repeat,
    task_of,
    unpack_batch,
)
from fivestep.errors import DataError, UsageError

X = np.arange(15, dtype=np.float64).reshape(5, 3)


# -- arrays --------------------------------------------------------------------------------------------------------------------------------------------------


def test_arrays_keep_their_dtype_and_integer_targets_become_int64():
    source, classes, notes = make_array_source(X, np.array([0, 1, 2, 1, 0], dtype=np.int16))
    assert source.inputs.dtype == torch.float64 and source.targets[0].dtype == torch.int64
    assert classes is None and notes == [] and len(source) == 5
    assert make_array_source(X.astype(np.float32), X.astype(np.float16))[0].targets[0].dtype == torch.float16
    assert make_array_source(X.astype(np.uint8), None)[0].inputs.dtype == torch.uint8


def test_take_gathers_rows_in_the_order_asked_for():
    source, _, _ = make_array_source({"a": X, "b": X[:, 0]}, (X[:, 1], [0, 1, 0, 1, 1]), [1, 2, 3, 4, 5])
    inputs, targets, weights = source.take(torch.tensor([4, 0]))
    assert inputs["a"].tolist() == [[12, 13, 14], [0, 1, 2]] and inputs["b"].tolist() == [12, 0]
    assert targets[0].tolist() == [13, 1] and targets[1].tolist() == [1, 0] and weights.tolist() == [5, 1]


def test_several_inputs_and_targets():
    source, _, _ = make_array_source((X, torch.ones(5, 2)), (X, X[:, 0]))
    assert isinstance(source.inputs, tuple) and len(source.inputs) == 2 and len(source.targets) == 2
    assert set(make_array_source({"ids": np.ones((5, 4), np.int64), "mask": np.ones((5, 4), bool)})[0].inputs) == {"ids", "mask"}


@pytest.mark.parametrize(
    "value",
    [
        X[::-1],
        np.asfortranarray(X),
        np.broadcast_to(X[:1], (5, 3)),
        X.astype(">f8"),
        X.astype(np.longdouble),
        X.astype(np.uint16),
        X.astype(np.uint64),
        X.tolist(),
        [list(row) for row in X],
        list(X),
        list(torch.from_numpy(X)),
        torch.from_numpy(X).requires_grad_(),
        pd.DataFrame(X, columns=list("abc")),
        pl.DataFrame(X, schema=list("abc")),
        pl.LazyFrame(X, schema=list("abc")),
        pl.DataFrame(X, schema=list("abc")).to_arrow(),
        memoryview(X),
        np.ma.masked_array(X),
    ],
    ids=lambda value: type(value).__name__,
)
def test_array_likes_of_all_kinds_give_their_values(value):
    tensor, _ = as_tensor(value, "inputs")
    expected = np.asarray(value if not hasattr(value, "collect") else value.collect()) if not isinstance(value, torch.Tensor) else value.detach().numpy()
    expected = X if type(value).__module__.startswith("pyarrow") else expected
    assert tuple(tensor.shape) == (5, 3) and not tensor.requires_grad
    assert np.array_equal(tensor.numpy(), np.asarray(expected, dtype=np.float64))


def test_a_read_only_array_is_copied_and_a_writable_one_shared():
    frozen = X.copy()
    frozen.flags.writeable = False
    tensor, _ = as_tensor(frozen, "inputs")
    tensor[0, 0] = 99
    assert frozen[0, 0] == 0
    mine = X.copy()
    assert as_tensor(mine, "inputs")[0].data_ptr() == mine.ctypes.data


def test_gaps_of_frames_become_nan_and_integers_stay_integers():
    frame = pd.DataFrame({"a": pd.array([1, None, 3], dtype="Int64"), "b": [1.5, 2.5, 3.5]})
    assert torch.equal(as_tensor(frame, "inputs")[0].isnan(), torch.tensor([[False, False], [True, False], [False, False]]))
    assert as_tensor(pd.Series([1, 2, 3]), "targets", "targets")[0].dtype == torch.int64
    assert as_tensor(pd.DataFrame({"a": pd.array([1, 2], dtype="Int64")}), "inputs")[0].dtype == torch.int64
    assert as_tensor(pd.Series([True, False]), "targets", "targets")[0].dtype == torch.bool
    assert as_tensor(pd.Series([1.0, None, 2], dtype=object), "targets")[0].isnan().tolist() == [False, True, False]
    assert as_tensor(pl.Series([1.0, None]), "targets")[0].isnan().tolist() == [False, True]


def test_text_targets_become_codes_of_sorted_classes():
    for targets in (["dog", "cat", "dog", "ant", "cat"], np.array(["dog", "cat", "dog", "ant", "cat"]), pd.Series(["dog", "cat", "dog", "ant", "cat"]),
                    pd.Series(["dog", "cat", "dog", "ant", "cat"], dtype="category"), pl.Series(["dog", "cat", "dog", "ant", "cat"]),
                    pl.Series(["dog", "cat", "dog", "ant", "cat"], dtype=pl.Categorical), np.array(["dog", "cat", "dog", "ant", "cat"], dtype=object),
                    pd.DataFrame({"y": ["dog", "cat", "dog", "ant", "cat"]}), ("dog", "cat", "dog", "ant", "cat")):  # fmt: skip
        source, classes, notes = make_array_source(X, targets)
        assert classes == ("ant", "cat", "dog") and source.targets[0].tolist() == [2, 1, 2, 0, 1]
        assert "3 classes from text" in notes[0]
    assert class_codes(["b", "a"])[1].dtype == torch.int64


def test_lengths_must_agree_and_both_are_named():
    with pytest.raises(DataError, match=r"inputs has 5 rows \(shape \(5, 3\)\) and targets has 4 \(shape \(4,\)\)"):
        make_array_source(X, X[:4, 0])
    with pytest.raises(DataError, match="may be transposed"):
        make_array_source(X.T, X[:, 0])
    with pytest.raises(DataError, match="several inputs as a tuple"):
        make_array_source([X, X], X[:, 0])
    with pytest.raises(DataError, match=r"inputs\[0\] has 5 rows .* inputs\[1\] has 4"):
        make_array_source((X, X[:4]))
    with pytest.raises(DataError, match="weight has 3"):
        make_array_source(X, X, [1, 2, 3])


def test_pandas_rows_in_another_order_are_refused():
    frame, series = pd.DataFrame(X), pd.Series(X[:, 0])
    with pytest.raises(DataError, match=r"same index in different orders \(position 0: 0 and 4\)"):
        make_array_source(frame, series[::-1])
    assert "different pandas indices" in make_array_source(frame, series.rename(lambda row: row + 10))[2][0]
    assert make_array_source(frame, series)[2] == []


@pytest.mark.parametrize(
    "inputs, lesson",
    [
        (np.array([[1, "a"], [2, "b"]]), "holds text such as '1'"),
        (np.array([[1, None], [2, 3]], dtype=object), r"NoneType.*None at \[0, 1\].*astype\(float\)"),
        ([[1, 2], [3]], "different shapes"),
        ([torch.ones(2), torch.ones(3)], "different shapes"),
        (np.array([np.ones(2), np.ones(3)], dtype=object), "different shapes"),
        (pd.DataFrame({"a": [1, 2], "city": ["x", "y"]}), r"'city' \(.*Data.table"),
        (pl.DataFrame({"a": [1, 2], "city": ["x", "y"]}), r"'city' \(String\).*Data.table"),
        (pd.DataFrame({"when": pd.to_datetime(["2020-01-01"])}), r"'when' \(datetime64"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "holds dates"),
        (np.zeros(2, dtype=[("a", "f4")]), "structured array with fields a"),
        (np.zeros(2, dtype="V4"), "raw bytes"),
        (np.ma.masked_array(X, X > 12), "2 masked values"),
        (np.float64(3.0), "one value"),
        (np.array([2**64 - 1], dtype=np.uint64), "beyond int64"),
        (torch.ones(2, 3).to_sparse(), "sparse tensor"),
        (torch.ones(2, 3, device="meta"), "meta tensor"),
        ("houses.csv", "Data.table"),
        (TensorDataset(torch.ones(2)), "Data.dataset"),
        (object(), "holds no array"),
        ({}, "inputs is empty"),
        (np.zeros((0, 3)), "no rows"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused_with_a_lesson(inputs, lesson):
    with pytest.raises(DataError, match=lesson):
        make_array_source(inputs)


def test_scipy_matrices_are_refused_with_the_size_they_would_have():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(DataError, match=r"toarray\(\) \(0.0 MB\)"):
        make_array_source(sparse.eye(5).tocsr())


@pytest.mark.parametrize(
    "targets, lesson",
    [
        (["a", None, "b", "a", "b"], r"mixes text \('a'\) with 1 other values \(row 1: None\)"),
        ((["a"] * 5, X[:, 0]), r"targets\[0\] holds text such as 'a'"),
        ({"y": X[:, 0]}, "give a tuple"),
    ],
)
def test_targets_that_cannot_be_used_are_refused(targets, lesson):
    with pytest.raises(DataError, match=lesson):
        make_array_source(X, targets)


@pytest.mark.parametrize(
    "weight, lesson", [([1, 2, 3, -4, 5], "-4.* in row 3"), ([1, 2, np.nan, 4, 5], "nan in row 2"), ([0] * 5, "0 in every row"), (X, "shape")]
)
def test_weights_that_weigh_nothing_are_refused(weight, lesson):
    with pytest.raises(DataError, match=lesson):
        make_array_source(X, X[:, 0], weight)


def test_nan_is_allowed_here():
    assert make_array_source(np.full((2, 3), np.nan), [np.nan, 1.0])[0].inputs.isnan().all()


# -- tasks ---------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target, task, classes",
    [
        (torch.tensor([0, 1, 1]), "binary", (0, 1)),
        (torch.tensor([[0], [1]]), "binary", (0, 1)),
        (torch.tensor([True, False]), "binary", (False, True)),
        (torch.tensor([-1, 1, 1]), "binary", (-1, 1)),
        (torch.tensor([0, 2, 2]), "multiclass", (0, 1, 2)),
        (torch.tensor([1, 2, -100]), "multiclass", (0, 1, 2)),
        (torch.randn(5), "regression", None),
        (torch.randn(5, 2), "regression", None),
        (torch.tensor([[0.0], [1.0]]), "binary", (0, 1)),
        (torch.tensor([[0.0, 1.0], [1.0, 1.0]]), "multilabel", None),
        (torch.tensor([[True, False], [True, True]]), "multilabel", None),
        (torch.tensor([0.0, 0.0]), "regression", None),
        (torch.tensor([250_000, 312_500, 187_000]), None, None),
        (torch.tensor([-5, 3, 7]), None, None),
        (torch.tensor([[0, 1], [2, 1]]), None, None),
        (torch.zeros(0), None, None),
    ],
)
def test_the_task_is_told_by_the_targets(target, task, classes):
    assert task_of((target,)) == (task, classes)


def test_no_target_or_several_have_no_task():
    assert task_of(()) == (None, None) and task_of((torch.ones(2), torch.ones(2))) == (None, None)


# -- fingerprints --------------------------------------------------------------------------------------------------------------------------------------------


def test_a_fingerprint_changes_with_any_value_dtype_shape_name_or_place():
    def of(inputs, targets=None, weight=None):
        return fingerprint(make_array_source(inputs, targets, weight)[0])

    other = X.copy()
    other[4, 2] += 1e-9
    prints = [
        of(X),
        of(other),
        of(X.astype(np.float32)),
        of(X.reshape(5, 3, 1)),
        of({"a": X}),
        of({"b": X}),
        of((X,)),
        of(X, X[:, 0]),
        of(X, X[:, :1]),
        of((X, X[:, 0])),
        of(X, None, np.ones(5)),
    ]
    assert len(set(prints)) == len(prints) and all(len(one) == 64 for one in prints)
    assert of(X) == of(X.copy()) == of(np.asfortranarray(X)) == of(torch.from_numpy(X))


def test_a_fingerprint_of_a_dataset_sees_length_first_last_and_rows_between():
    class Rows(Dataset):
        def __init__(self, values):
            self.values = values

        def __len__(self):
            return len(self.values)

        def __getitem__(self, row):
            return self.values[row], row % 3

    def of(values):
        return fingerprint(DatasetSource(Rows(values)))

    values = torch.randn(100, 2)
    first, last = values.clone(), values.clone()
    first[0, 0] += 1
    last[99, 1] += 1
    between = values.clone()
    between[5 * 99 // 31, 0] += 1
    assert len({of(values), of(first), of(last), of(between), of(values[:99])}) == 5
    assert of(values) == of(values.clone())


def test_a_fingerprint_does_not_depend_on_what_a_dataset_draws_itself():
    assert fingerprint(DatasetSource(OwnGenerator())) == fingerprint(DatasetSource(OwnGenerator()))
    assert fingerprint(DatasetSource(Noisy())) == fingerprint(DatasetSource(Noisy()))


def test_digests_look_into_nests_and_objects():
    class Graph:
        def __init__(self, x):
            self.x, self.itself = x, self

    assert digest_of(Graph(torch.ones(2))) == digest_of(Graph(torch.ones(2))) != digest_of(Graph(torch.zeros(2)))
    assert digest_of(["str", ""]) != digest_of(["", "str"])
    assert digest_of([1, [2]]) != digest_of([[1], 2])
    assert digest_of(torch.tensor([float("nan")])) == digest_of(torch.tensor([float("nan")]))
    assert digest_of(torch.tensor([0.0])) != digest_of(torch.tensor([-0.0]))
    assert digest_of(torch.ones(3, dtype=torch.bfloat16)) == digest_of(torch.ones(3, dtype=torch.bfloat16))


# -- datasets ------------------------------------------------------------------------------------------------------------------------------------------------


class Noisy(Dataset):
    """Augments as people do: from the global generators."""

    def __len__(self):
        return 23

    def __getitem__(self, row):
        return torch.full((2,), float(row)) + torch.rand(2), torch.tensor([np.random.rand(), random.random()], dtype=torch.float64)


class NoisyMany(Noisy):
    def __getitems__(self, rows):
        return [self[row] for row in rows]


class OwnGenerator(Dataset):
    def __init__(self):
        self.random = np.random.default_rng(0)

    def __len__(self):
        return 7

    def __getitem__(self, row):
        return torch.tensor(self.random.normal(size=2)), row


def epoch_bits(dataset, workers, seed=3, epoch=2, start=0):
    source = DatasetSource(dataset, workers=workers)
    batches = LoaderBatches(
        LoaderDataset(dataset, seed),
        torch.arange(len(dataset)),
        collate=source.collate,
        unpack=source.unpack,
        device=torch.device("cpu"),
        batch_size=5,
        seed=seed,
        workers=workers,
    )
    return [(batch.inputs, *batch.targets) for batch in batches.epoch(epoch, start)]


def equal(first, second):
    return len(first) == len(second) and all(torch.equal(a, b) for one, two in zip(first, second) for a, b in zip(one, two))


@pytest.mark.parametrize("dataset", [Noisy(), NoisyMany()], ids=["row by row", "many at once"])
def test_augmentation_is_the_same_bits_with_0_1_and_2_workers(dataset):
    torch.manual_seed(0)
    first = epoch_bits(dataset, 0)
    torch.manual_seed(1)
    assert equal(first, epoch_bits(dataset, 0))
    assert equal(first, epoch_bits(dataset, 1))
    assert equal(first, epoch_bits(dataset, 2))
    assert equal(first[2:], epoch_bits(dataset, 0, start=2))  # and from any step on
    assert not equal(first, epoch_bits(dataset, 0, epoch=3)) and not equal(first, epoch_bits(dataset, 0, seed=4))


def test_a_row_is_the_same_alone_and_among_others():
    read = LoaderDataset(Noisy(), 0)
    alone, among = read[(1, 4)], read.__getitems__([(1, 9), (1, 4)])[1]
    assert torch.equal(alone[0], among[0]) and torch.equal(alone[1], among[1])
    subset = LoaderDataset(Subset(Noisy(), [4, 9]), 0)  # torch's Subset offers __getitems__ for any Dataset
    assert not reads_many(Subset(Noisy(), [4])) and reads_many(Subset(NoisyMany(), [4])) and not reads_many(ConcatDataset([NoisyMany()]))
    assert torch.equal(subset[(1, 0)][0], subset.__getitems__([(1, 1), (1, 0)])[1][0])


@pytest.mark.parametrize("dataset", [Noisy(), NoisyMany()])
def test_reading_leaves_the_global_generators_as_they_were(dataset):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    LoaderDataset(dataset, 0)[(0, 1)]
    DatasetSource(dataset).take(torch.tensor([1, 2]))
    rows_repeat(dataset, 0)
    fingerprint(DatasetSource(dataset))
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1]) and before[2] == random.getstate()


def test_the_seed_of_a_row_is_that_of_seeds_derive():
    with seeds.restored(seeds.derive(5, "sample", 2, 11)):
        expected = Noisy()[11]
    assert torch.equal(LoaderDataset(Noisy(), 5)[(2, 11)][0], expected[0])


def test_the_wrapper_can_be_pickled():
    assert torch.equal(pickle.loads(pickle.dumps(LoaderDataset(Noisy(), 1)))[(0, 3)][0], LoaderDataset(Noisy(), 1)[(0, 3)][0])


class Drawn(torch.utils.data.Dataset):
    """Rows that hold what `value()` gives."""

    def __init__(self, value):
        self.value = value

    def __len__(self):
        return 20

    def __getitem__(self, row):
        return torch.tensor([row, self.value()], dtype=torch.float64)


own, other, third = np.random.default_rng(0), random.Random(0), torch.Generator()
FOREIGN = [
    own.random,
    other.random,
    np.random.RandomState(0).rand,
    lambda: torch.rand((), generator=third).item(),
    lambda: own.random() < 0.5,  # falls alike twice, every second time
    lambda: time.time_ns() % 1_000_003,
    lambda: random.SystemRandom().random(),
    itertools.count().__next__,
]


def test_a_dataset_with_a_generator_of_its_own_is_found():
    assert not rows_repeat(OwnGenerator(), 0)
    for value in FOREIGN:
        assert not rows_repeat(Drawn(value), 0)
    assert rows_repeat(Noisy(), 3) and rows_repeat(NoisyMany(), 3) and rows_repeat(TensorDataset(torch.ones(3, 2)), 1)


def test_take_reads_collates_and_unpacks():
    source = DatasetSource(TensorDataset(torch.arange(12.0).reshape(4, 3), torch.arange(4)))
    inputs, targets, weights = source.take(torch.tensor([3, 1]))
    assert inputs.tolist() == [[9, 10, 11], [3, 4, 5]] and targets[0].tolist() == [3, 1] and weights is None
    assert len(source) == 4 and not hasattr(source, "targets") and source.num_examples([inputs, targets]) == 2
    assert DatasetSource(Noisy(), count=lambda batch: 99).num_examples(None) == 99


def test_a_list_of_pairs_is_a_dataset():
    inputs, targets, _ = DatasetSource([(torch.ones(3), 1), (torch.zeros(3), 0)]).take(torch.tensor([1]))
    assert inputs.shape == (1, 3) and targets[0].tolist() == [0]


def test_a_collate_function_of_the_users_is_used():
    source = DatasetSource(
        [(torch.ones(2), 1), (torch.ones(3), 0)], collate=lambda examples: (torch.cat([x for x, _ in examples]), torch.tensor([y for _, y in examples]))
    )
    assert source.take(torch.tensor([0, 1]))[0].shape == (5,)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([1])


class NoLength(Dataset):
    def __getitem__(self, row):
        return row


@pytest.mark.parametrize(
    "dataset, lesson",
    [
        (Stream(), "Stream is read from front to back"),
        (NoLength(), "NoLength has no length"),
        (DataLoader(Noisy()), "loader.dataset"),
        (iter([1]), "front to back"),
    ],
)
def test_what_has_no_rows_by_number_is_refused_by_name(dataset, lesson):
    with pytest.raises(UsageError, match=lesson):
        DatasetSource(dataset)


class Breaks(Noisy):
    def __getitem__(self, row):
        if row == 17:
            raise KeyError("a7.png")
        return super().__getitem__(row)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_dataset_names_the_row(workers):
    with pytest.raises(DataError, match=r"Breaks cannot read row 17 of 23: KeyError: 'a7.png'") as caught:
        epoch_bits(Breaks(), workers)
    assert workers or isinstance(caught.value.__cause__, KeyError)


def test_examples_that_do_not_fit_together_are_shown():
    with pytest.raises(DataError, match=r"\(tensor \(2,\), int\) beside \(tensor \(3,\), int\)"):
        DatasetSource([(torch.ones(2), 1), (torch.ones(3), 0)]).take(torch.tensor([0, 1]))


# -- batches -------------------------------------------------------------------------------------------------------------------------------------------------

A, B, Y, Z = torch.ones(2, 3), torch.ones(2, 4), torch.zeros(2), torch.ones(2)
Pair = namedtuple("Pair", "image label")


@pytest.mark.parametrize(
    "batch, options, inputs, targets",
    [
        ((A, Y), {}, A, (Y,)),
        ([A, Y], {}, A, (Y,)),
        (Pair(A, Y), {}, A, (Y,)),
        ((A, B, Y), {}, (A, B), (Y,)),
        ((A,), {}, A, ()),
        (A, {}, A, ()),
        ((A, (Y, Z)), {}, A, (Y, Z)),
        ({"x": A, "labels": Y}, {}, {"x": A}, (Y,)),
        ({"x": A, "mask": B, "y": Y}, {}, {"x": A, "mask": B}, (Y,)),
        ({"x": A, "u": Y, "v": Z}, dict(targets=["u", "v"]), {"x": A}, (Y, Z)),
        ({"x": A, "u": Y}, dict(inputs="x", targets="u"), A, (Y,)),
        ({"x": A, "mask": B, "id": Z, "y": Y}, dict(inputs=["x", "mask"]), {"x": A, "mask": B}, (Y,)),
        ({"x": A}, dict(targets=[]), {"x": A}, ()),
        ((A, Y, Z), dict(inputs=0, targets=1), A, (Y,)),
        ((A, Y, Z), dict(targets=[1, 2]), A, (Y, Z)),
        ((A, B, Y), dict(inputs=[1, 0]), (B, A), (Y,)),
        ((A, B), dict(targets=[]), (A, B), ()),
        (Pair(A, Y), dict(inputs="image", targets="label"), A, (Y,)),
        ((A, Y), dict(inputs=lambda batch: batch[0] * 2, targets=lambda batch: batch[1] + 1), A * 2, (Y + 1,)),
        ((A, Y), dict(targets=lambda batch: (batch[1], batch[0])), A, (Y, A)),
    ],
)
def test_a_batch_is_unpacked(batch, options, inputs, targets):
    found, found_targets = unpack_batch(batch, **options)
    assert digest_of(found) == digest_of(inputs) and type(found) is type(inputs) and digest_of(found_targets) == digest_of(targets)


@pytest.mark.parametrize(
    "batch, options, kind, lesson",
    [
        ({"x": A, "answer": Y}, {}, UsageError, "dict with 'x', 'answer'.*targets='key'"),
        ({"x": A, "y": Y}, dict(targets="z"), UsageError, "targets='z' is not in the batch, which holds 'x', 'y'"),
        ((A, Y), dict(inputs=5), UsageError, "inputs=5 is not in the batch, which holds 2 elements"),
        ((A, Y), dict(inputs="x"), UsageError, "use positions"),
        ({"y": Y}, {}, UsageError, "all of them targets"),
        ((A, Y), dict(targets=[0, 1]), UsageError, "are targets"),
        ((A, ["cat", "dog"]), {}, DataError, "hold text such as 'cat'"),
        (object(), {}, UsageError, "Say where its targets lie"),
    ],
)
def test_a_batch_that_cannot_be_unpacked_is_refused(batch, options, kind, lesson):
    with pytest.raises(kind, match=lesson):
        unpack_batch(batch, **options)


def test_sources_have_a_readable_repr():
    assert repr(ArraySource(torch.ones(5, 3), (torch.ones(5),))) == "ArraySource(5 rows: float32 (5, 3), float32 (5,))"
    assert repr(DatasetSource(Noisy())) == "DatasetSource(23 examples of Noisy)"
