"""Promises of fivestep.data.splits: every row on the side where the rule puts it, the same for the same seed, and refusals that teach."""

from __future__ import annotations

import datetime
import json
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fivestep.data.splits import carve_validation, fold_indices, requested_sizes, row_counts, split_indices
from fivestep.errors import DataError, UsageError


def together(split):
    return np.concatenate(list(split.parts().values()))


def same(first, second):
    return all(
        np.array_equal(first.parts()[name], second.parts()[name]) for name in ("train", "val", "test") if name in first.parts() or name in second.parts()
    )


# -- sizes ---------------------------------------------------------------------------------------------------------------------------------------------------


def test_split_alone_is_70_15_15_and_every_row_stands_in_one_part():
    split = split_indices(1000)
    assert [len(rows) for rows in split.parts().values()] == [700, 150, 150]
    assert np.array_equal(np.sort(together(split)), np.arange(1000))
    assert split.train.dtype == np.int64


def test_unnamed_parts_are_absent_when_any_is_named():
    split = split_indices(50, train=0.8, test=0.2)
    assert split.val is None and len(split.train) == 40 and len(split.test) == 10
    assert split_indices(50, train=1.0).parts().keys() == {"train"}


@pytest.mark.parametrize(
    "n, sizes, counts",
    [(10, (0.7, 0.15, 0.15), (7, 2, 1)), (100, (0.71, 0, 0.29), (71, 0, 29)), (3, (0.7, 0.15, 0.15), (1, 1, 1)), (7, (0.5, 0, 0.5), (4, 0, 3))],
)
def test_fractions_are_rounded_by_largest_remainder_and_no_named_part_is_empty(n, sizes, counts):
    assert row_counts(n, sizes) == counts


@settings(max_examples=200, deadline=None)
@given(st.integers(3, 500), st.integers(1, 98), st.integers(1, 98))
def test_counts_add_up_and_stay_within_one_row_of_the_fractions(n, val, test):
    if val + test > 99:
        return
    sizes = ((100 - val - test) / 100, val / 100, test / 100)
    counts = row_counts(n, sizes)
    assert sum(counts) == n and min(counts) >= 1
    if n >= 100:
        assert all(abs(count - size * n) < 1 + 1e-9 for count, size in zip(counts, sizes))


def test_counts_are_taken_as_they_are_and_the_rest_is_unused_and_said():
    split = split_indices(100, train=60, test=15)
    assert (len(split.train), len(split.test)) == (60, 15)
    assert split.how.num_unused == 25 and "25 of 100 rows stand in no part" in split.how.notes[0]
    assert np.array_equal(split_indices(100, train=60, test=15, shuffle=False).test, np.arange(60, 75))


@pytest.mark.parametrize(
    "sizes, lesson",
    [
        (dict(train=0.8, val=0.1), "test=0.1"),
        (dict(train=0.8, val=0.2, test=0.2), "add up to 1.2"),
        (dict(train=70.0, test=30.0), "fractions: 0.7, not 70"),
        (dict(test=0.2), "train=0.8"),
        (dict(train=0.8, test=100), "mixes fractions with numbers of rows"),
        (dict(test=20), "names no training rows"),
        (dict(train=-0.2, test=1.2), "is no size"),
        (dict(train=float("nan")), "is no size"),
        (dict(train=True), "is no size"),
        (dict(train="most"), "is no size"),
        (dict(train=0, val=0), "no rows at all"),
        (dict(train=1), "All rows are train=1.0"),
        (dict(val=0.5, test=0.5), "nothing to train on"),
    ],
)
def test_sizes_that_cannot_be_meant_are_refused_with_what_to_write_instead(sizes, lesson):
    with pytest.raises(UsageError, match=lesson):
        split_indices(1000, **sizes)


def test_too_few_rows_are_refused():
    with pytest.raises(DataError, match="2 rows cannot give 3 parts"):
        split_indices(2)
    with pytest.raises(DataError, match="no rows"):
        split_indices(0)
    with pytest.raises(DataError, match="asks for 120 rows, and there are 100"):
        split_indices(100, train=100, test=20)


def test_numbers_of_numpy_and_floats_that_do_not_add_up_in_bits_are_fine():
    assert requested_sizes(np.float32(0.7), None, np.float64(0.3))[1] == 0
    assert len(split_indices(10, train=0.1 + 0.2, val=0.3, test=0.4).train) == 3
    assert len(split_indices(10, train=np.int64(7), test=np.int64(3)).test) == 3


# -- seeds ---------------------------------------------------------------------------------------------------------------------------------------------------


def test_same_seed_same_split_whatever_ran_before_and_the_global_generators_are_untouched():
    first = split_indices(97, seed=3)
    torch.rand(5), np.random.rand(3), random.random()
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    assert same(first, split_indices(97, seed=3))
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1]) and before[2] == random.getstate()
    assert not same(first, split_indices(97, seed=4))


def test_another_val_does_not_move_the_test_rows():
    assert np.array_equal(split_indices(200, train=0.8, test=0.2).test, split_indices(200, train=0.5, val=0.3, test=0.2).test)
    assert np.array_equal(split_indices(200, train=100, test=40).test, split_indices(200, train=0.8, test=0.2).test)


def test_shuffle_false_is_file_order():
    split = split_indices(20, shuffle=False)
    assert np.array_equal(together(split), np.arange(20))
    assert split.how.method == "file order" and split.how.seed is None


# -- classes -------------------------------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=12), st.integers(0, 5))
def test_stratified_classes_keep_their_shares_to_within_one_row(class_sizes, seed):
    labels = np.repeat(np.arange(len(class_sizes)), class_sizes)
    labels = labels[np.random.default_rng(seed).permutation(len(labels))]
    if len(labels) < 20:
        return
    split = split_indices(len(labels), labels=labels, seed=seed)
    assert np.array_equal(np.sort(together(split)), np.arange(len(labels)))
    for code, size in enumerate(class_sizes):
        for name, fraction in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
            assert abs((labels[split.parts()[name]] == code).sum() - fraction * size) < 1 + 1e-9
        assert (labels[split.train] == code).any()


def test_stratified_totals_do_not_drift_with_many_small_classes():
    split = split_indices(800, train=0.8, test=0.2, labels=np.arange(800) % 200)  # each class alone would round 3.2/0.8 to 3/1
    assert abs(len(split.test) - 160) <= 1
    split = split_indices(600, train=0.9, test=0.1, labels=np.arange(600) % 200)  # each class alone would round 2.7/0.3 to 3/0
    assert abs(len(split.test) - 60) <= 1


def test_stratify_is_random_inside_a_class_and_takes_texts():
    labels = np.array(["cat", "dog"] * 50)
    assert not same(split_indices(100, labels=labels, seed=0), split_indices(100, labels=labels, seed=1))
    assert same(split_indices(100, labels=labels), split_indices(100, labels=list(labels)))
    assert same(split_indices(100, labels=labels), split_indices(100, labels=torch.arange(100) % 2))
    assert split_indices(100, labels=labels, shuffle=False).train[0] == 0


def test_a_class_with_one_row_cannot_be_stratified():
    with pytest.raises(DataError, match=r"class 'lynx' has one row.*cannot stand on two sides"):
        split_indices(11, labels=["cat"] * 5 + ["dog"] * 5 + ["lynx"])
    with pytest.raises(DataError, match="stratify by ranges"):
        split_indices(100, labels=np.random.default_rng(0).normal(size=100))


def test_a_class_with_fewer_rows_than_parts_is_said():
    split = split_indices(12, labels=["a"] * 10 + ["b"] * 2)
    assert "'b': 2" in split.how.notes[0]


# -- groups --------------------------------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=3, max_size=40), st.integers(0, 5), st.booleans())
def test_no_group_stands_on_two_sides(group_sizes, seed, shuffle):
    groups = np.repeat(np.arange(len(group_sizes)), group_sizes)
    groups = groups[np.random.default_rng(seed).permutation(len(groups))]
    split = split_indices(len(groups), groups=groups, seed=seed, shuffle=shuffle)
    assert np.array_equal(np.sort(together(split)), np.arange(len(groups)))
    sets = [set(groups[rows]) for rows in split.parts().values()]
    assert len(sets) == 3 and all(sets)
    assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]
    assert split.unit == "groups"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=20, max_size=60), st.integers(0, 5))
def test_group_sizes_come_near_the_fractions(group_sizes, seed):
    n = sum(group_sizes)
    split = split_indices(n, groups=np.repeat(np.arange(len(group_sizes)), group_sizes), seed=seed)
    for name, fraction in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        assert abs(len(split.parts()[name]) - fraction * n) <= max(0.02 * n, 3)


def test_groups_differ_from_seed_to_seed_and_a_large_group_may_be_anywhere():
    sizes = [40, 30, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5]
    groups = np.repeat(np.arange(len(sizes)), sizes)
    where = {
        next(name for name, rows in split_indices(len(groups), train=0.5, test=0.5, groups=groups, seed=seed).parts().items() if 0 in groups[rows])
        for seed in range(20)
    }
    assert where == {"train", "test"}


def test_groups_of_texts_and_mixed_values_and_the_same_split_for_any_spelling_of_the_array():
    names = np.array([f"patient {number % 9}" for number in range(90)])
    assert same(split_indices(90, groups=names), split_indices(90, groups=names.astype(object)))
    mixed = [1, "1", 2.5, "x"] * 5
    split = split_indices(20, train=0.5, test=0.5, groups=mixed)  # 1 and "1" are two groups
    assert {len(split.train), len(split.test)} == {10}


def test_too_few_groups_and_rows_without_a_group_are_refused():
    with pytest.raises(DataError, match=r"2 groups.*3 parts need a group each"):
        split_indices(20, groups=[1, 2] * 10)
    with pytest.raises(DataError, match="no value in rows 1, 3 of 20"):
        split_indices(20, groups=["a", None, "b", float("nan")] + ["c"] * 16)
    with pytest.raises(DataError, match="no value in row 1 of 4"):
        split_indices(4, groups=np.array(["a", " ", "b", "c"]))


# -- time ----------------------------------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=10, max_size=80), st.integers(0, 3))
def test_train_ends_strictly_before_val_and_val_strictly_before_test(times, seed):
    times = np.array(times)
    if len(set(times)) < 3:
        with pytest.raises(DataError, match="parts in time need one each"):
            split_indices(len(times), times=times)
        return
    split = split_indices(len(times), times=times, seed=seed)
    assert times[split.train].max() < times[split.val].min() and times[split.val].max() < times[split.test].min()
    assert np.array_equal(np.sort(together(split)), np.arange(len(times)))
    assert (np.diff(times[together(split)]) >= 0).all()  # in the order of time
    assert split.unit == "blocks" and split.how.seed is None


def test_time_sizes_are_the_fractions_where_times_are_distinct():
    split = split_indices(100, times=np.random.default_rng(0).permutation(100))
    assert [len(rows) for rows in split.parts().values()] == [70, 15, 15]


@pytest.mark.parametrize(
    "times",
    [
        [f"2024-01-{day:02}" for day in range(1, 31)],
        [datetime.date(2024, 1, day) for day in range(1, 31)],
        [datetime.datetime(2024, 1, day, tzinfo=datetime.UTC) for day in range(1, 31)],
        [f"2024-01-{day:02}T00:00:00Z" for day in range(1, 31)],
        np.arange("2024-01-01", "2024-01-31", dtype="datetime64[D]"),
        [str(year) for year in range(90, 120)],  # as text, "100" sorts before "90"
        [f"{year}-{month:02}" for year in (2020, 2021, 2022) for month in range(1, 11)],
        torch.arange(30),
    ],
    ids=["iso text", "dates", "aware datetimes", "iso text with zone", "datetime64", "numbers as text", "months", "tensor"],
)
def test_times_in_many_forms_give_one_split(times):
    split = split_indices(30, times=times)
    assert np.array_equal(together(split), np.arange(30))


@pytest.mark.parametrize(
    "times, lesson",
    [
        (["10/2/2020", "9/1/2020"] * 5, "sorts as text"),
        ([1, datetime.date(2020, 1, 1)] * 5, "cannot be compared"),
        ([datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)] * 5, "cannot be compared"),
        ([1.0, float("nan")] * 5, "no value in rows 1, 3, 5, 7, 9 of 10"),
        (["2020-01-01", ""] * 5, "no value in rows 1, 3"),
    ],
)
def test_times_without_an_order_are_refused(times, lesson):
    with pytest.raises(DataError, match=lesson):
        split_indices(10, times=times, train=0.5, test=0.5)


# -- given ---------------------------------------------------------------------------------------------------------------------------------------------------


def test_given_indices_are_taken_as_they_are():
    split = split_indices(10, indices=([5, 1, 3], None, torch.tensor([0, 2])))
    assert split.train.tolist() == [5, 1, 3] and split.val is None and split.test.tolist() == [0, 2]
    assert split.how.num_unused == 5
    masks = split_indices(4, indices={"train": [True, False, True, False], "test": np.array([False, True, False, False])})
    assert masks.train.tolist() == [0, 2] and masks.test.tolist() == [1]


def test_all_problems_of_given_indices_are_named_at_once():
    with pytest.raises(DataError) as caught:
        split_indices(10, indices=([0, 1, 1, 12], [-1], [0]))
    assert len(caught.value.problems) == 4
    for text in ("train names row 12", "train names row 1 2 times", "val names row -1", "row 0 stands in train and in test"):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    "indices, kind, lesson",
    [
        (([0], [1]), UsageError, "None for a part"),
        ({"training": [0]}, UsageError, "Did you mean 'train'"),
        (([0.5], None, [1]), DataError, "dtype float64"),
        (([True], None, [1]), DataError, "mask of train has shape"),
        ((None, [1], [2]), DataError, "nothing to train on"),
        (5, UsageError, "this is a int"),
    ],
)
def test_indices_that_mean_nothing_are_refused(indices, kind, lesson):
    with pytest.raises(kind, match=lesson):
        split_indices(10, indices=indices)


def test_a_column_says_which_row_goes_where():
    values = ["train", "Validation", " TEST ", "training", "dev"]
    split = split_indices(5, column_values=values, column="split")
    assert (split.train.tolist(), split.val.tolist(), split.test.tolist()) == ([0, 3], [1, 4], [2])
    assert split.how.method == "column" and split.how.column == "split"


def test_an_unknown_word_in_the_column_is_refused_by_name():
    with pytest.raises(DataError, match=r"column 'split' says 'trian' \(2 rows\), 'no value' \(1 row\), first in row 1.*Did you mean 'train'"):
        split_indices(5, column_values=["train", "trian", "test", "trian", None], column="split")
    with pytest.raises(DataError, match="never says 'train'"):
        split_indices(2, column_values=["val", "test"])


def test_given_splits_keep_what_group_and_time_promise_or_are_refused():
    indices = ([0, 1], None, [2, 3])
    assert split_indices(4, indices=indices, groups=[1, 1, 2, 2]).unit == "groups"
    assert split_indices(4, indices=indices, times=[1, 1, 2, 2]).unit == "blocks"
    with pytest.raises(DataError, match=r"1 of 3 groups stand in train and in test \(1\)"):
        split_indices(4, indices=indices, groups=[0, 1, 1, 2])
    with pytest.raises(DataError, match="train reaches to 2 and test begins at 2"):
        split_indices(4, indices=indices, times=[1, 2, 2, 3])


# -- contradictions ------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        dict(indices=([0], None, [1]), column_values=["train"] * 10),
        dict(indices=([0], None, [1]), labels=[0, 1] * 5),
        dict(indices=([0], None, [1]), train=0.5, test=0.5),
        dict(indices=([0], None, [1]), shuffle=False),
        dict(labels=[0, 1] * 5, groups=[0, 1] * 5),
        dict(times=list(range(10)), groups=[0, 1] * 5),
        dict(times=list(range(10)), train=5, test=2),
    ],
)
def test_contradicting_arguments_are_refused(arguments):
    with pytest.raises(UsageError):
        split_indices(10, **arguments)


@pytest.mark.parametrize("argument, name", [("labels", "stratify"), ("groups", "group"), ("times", "time")])
def test_one_value_for_each_row(argument, name):
    with pytest.raises(DataError, match=f"{name}= has 3 values for 10 rows"):
        split_indices(10, **{argument: [1, 2, 3]})
    with pytest.raises(DataError, match=rf"{name}= has shape \(10, 2\)"):
        split_indices(10, **{argument: np.zeros((10, 2))})


# -- splitters -----------------------------------------------------------------------------------------------------------------------------------------------


def test_a_splitter_gives_its_first_fold_as_it_is():
    from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold

    rows, held = next(iter(KFold(4, shuffle=True, random_state=5).split(np.zeros((20, 1)))))
    split = split_indices(20, splitter=KFold(4, shuffle=True, random_state=5))
    assert np.array_equal(split.train, rows) and np.array_equal(split.test, held) and split.val is None
    groups = np.arange(20) // 4
    assert split_indices(20, splitter=GroupKFold(5), groups=groups).unit == "groups"
    labels = np.arange(20) % 2
    assert np.bincount(labels[split_indices(20, splitter=StratifiedKFold(5), labels=labels).test]).tolist() == [2, 2]


def test_validation_is_carved_from_the_splitters_training_rows():
    from sklearn.model_selection import GroupKFold, KFold, TimeSeriesSplit

    split = split_indices(100, splitter=KFold(5), val=0.1)
    assert (len(split.train), len(split.val), len(split.test)) == (70, 10, 20)
    assert np.array_equal(np.sort(together(split)), np.arange(100))
    groups = np.arange(100) // 5
    split = split_indices(100, splitter=GroupKFold(5), groups=groups, val=0.2)
    assert not set(groups[split.train]) & set(groups[split.val])
    times = np.arange(100)
    split = split_indices(100, splitter=TimeSeriesSplit(3), times=times, val=5)
    assert len(split.val) == 5 and times[split.train].max() < times[split.val].min() <= times[split.val].max() < times[split.test].min()


def test_a_splitter_without_random_state_is_a_function_of_the_seed():
    from sklearn.model_selection import ShuffleSplit

    splits = [split_indices(50, splitter=ShuffleSplit(1, test_size=0.3), seed=seed) for seed in (1, 1, 2)]
    assert same(splits[0], splits[1]) and not same(splits[0], splits[2])


def test_splitter_refusals():
    from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold

    with pytest.raises(UsageError, match="was given no groups"):
        split_indices(20, splitter=GroupKFold(5))
    with pytest.raises(UsageError, match="was given no labels"):
        split_indices(20, splitter=StratifiedKFold(5))
    with pytest.raises(UsageError, match="both set the sizes"):
        split_indices(20, splitter=KFold(5), train=0.8, test=0.2)
    with pytest.raises(DataError, match=r"KFold.split refused these 3 rows"):
        split_indices(3, splitter=KFold(5))
    with pytest.raises(UsageError, match="takes an object with split"):
        split_indices(20, splitter=5)


# -- folds ---------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["none", "file order", "labels", "groups"])
def test_every_row_is_held_out_once_in_each_repeat(rule):
    n, repeats = 53, 1 if rule == "file order" else 2
    values = np.arange(n) % 7
    arguments = {"labels": dict(labels=values), "groups": dict(groups=values), "file order": dict(shuffle=False)}.get(rule, {})
    folds = fold_indices(n, 5, repeats, **arguments)
    assert len(folds) == 5 * repeats
    for repeat in range(repeats):
        held = [fold.test for fold in folds if fold.how.repeat == repeat]
        assert np.array_equal(np.sort(np.concatenate(held)), np.arange(n))
        assert max(map(len, held)) - min(map(len, held)) <= (8 if rule == "groups" else 1)
    for fold in folds:
        assert np.array_equal(np.sort(together(fold)), np.arange(n))
        if rule == "groups":
            assert not set(values[fold.train]) & set(values[fold.test])
        if rule == "labels":
            counts = np.bincount(values[fold.test], minlength=7)
            assert counts.max() - counts.min() <= 1
    if repeats == 2:
        assert not same(folds[0], folds[5])


def test_folds_in_time_train_on_the_past_only():
    times = np.random.default_rng(0).permutation(np.repeat(np.arange(30), 2))
    folds = fold_indices(60, 4, times=times)
    assert [len(fold.train) for fold in folds] == [12, 24, 36, 48] and [len(fold.test) for fold in folds] == [12] * 4
    assert all(times[fold.train].max() < times[fold.test].min() for fold in folds)
    assert all(fold.unit == "blocks" for fold in folds)


def test_folds_carve_validation_by_the_same_rule():
    groups = np.arange(60) // 3
    for fold in fold_indices(60, 4, groups=groups, val=0.15):
        assert len(fold.val) == 9 and np.array_equal(np.sort(together(fold)), np.arange(60))
        assert len(set(groups[fold.train]) | set(groups[fold.val]) | set(groups[fold.test])) == len(set(groups[fold.train])) + len(set(groups[fold.val])) + len(
            set(groups[fold.test])
        )
    times = np.arange(60)
    assert all(
        times[fold.train].max() < times[fold.val].min() and times[fold.val].max() < times[fold.test].min() for fold in fold_indices(60, 4, times=times, val=6)
    )


def test_folds_of_a_splitter():
    from sklearn.model_selection import RepeatedKFold

    assert len(fold_indices(20, splitter=RepeatedKFold(n_splits=4, n_repeats=2, random_state=0))) == 8


@pytest.mark.parametrize(
    "arguments, kind, lesson",
    [
        (dict(folds=1), UsageError, "at least 2 folds"),
        (dict(folds=30), DataError, "20 rows cannot be cut into 30 folds"),
        (dict(folds=5, groups=[1, 2] * 10), DataError, "2 groups, and 5 folds"),
        (dict(folds=5, times=[1, 2, 3, 4] * 5), DataError, "5 folds in time need 6"),
        (dict(folds=2, repeats=2, times=list(range(20))), UsageError, "equal repeats"),
        (dict(folds=2, repeats=2, shuffle=False), UsageError, "equal repeats"),
        (dict(folds=2, labels=["a"] + ["b"] * 19), DataError, "class 'a' has one row"),
    ],
)
def test_folds_that_cannot_be_made_are_refused(arguments, kind, lesson):
    with pytest.raises(kind, match=lesson):
        fold_indices(20, **arguments)


def test_carving_more_than_there_is_is_refused():
    with pytest.raises(DataError, match="val asks for 5 of 5 training rows"):
        carve_validation(np.arange(5), 5)


# -- record --------------------------------------------------------------------------------------------------------------------------------------------------


def test_the_record_is_plain_json():
    split = split_indices(20, groups=np.arange(20) // 2, seed=7, column="patient")
    record = json.loads(json.dumps(split.how.record()))
    assert record["method"] == "groups" and record["column"] == "patient" and record["seed"] == 7 and record["sizes"] == [0.7, 0.15, 0.15]
    assert sum(record["num_rows"]) == 20 and min(record["num_rows"]) >= 2
    assert repr(split).startswith("SplitIndices(train ")
