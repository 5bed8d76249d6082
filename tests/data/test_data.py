"""`Data` and `Splits`: what each kind of data becomes for a model, from arrays to padded token dicts, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import fivestep as fs
from fivestep.data.data import as_splits
from fivestep.errors import DataError, FivestepError, UsageError

PLAIN = dict(folder=None, quiet=True, device="cpu", checks=False)


def fit(model, splits, **settings):
    return fs.fit(model, splits, **(PLAIN | {"epochs": 2} | settings))


class Texts(torch.utils.data.Dataset):
    """Sequences of 2 to 6 tokens as dicts."""

    def __len__(self):
        return 30

    def __getitem__(self, row):
        return {"input_ids": torch.arange(row % 5 + 2) % 7 + 1, "labels": row % 3}


def pad(examples):
    input_ids = nn.utils.rnn.pad_sequence([example["input_ids"] for example in examples], batch_first=True)
    return {"input_ids": input_ids, "attention_mask": (input_ids > 0).long(), "labels": torch.tensor([example["labels"] for example in examples])}


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(8, 4, padding_idx=0), nn.Linear(4, 3)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(2)
        return self.head((self.embedding(input_ids) * mask).sum(1) / mask.sum(1))


@pytest.mark.parametrize("checks", [False, True])
def test_padded_token_dicts_train_score_and_predict(checks):
    splits = fs.Data.dataset(Texts(), targets="labels", collate=pad).split(seed=0)
    run = fit(Classifier, splits, loss="CrossEntropyLoss", batch_size=8, epochs=3, lr=0.05, checks=checks)
    assert run.history[-1]["train_loss"] < run.history[0]["train_loss"]
    assert len(run.predict("test")) == len(splits.test)
    assert 0 <= run.evaluate("val")["accuracy"].value <= 1


def test_inputs_and_targets_may_be_functions_and_count_tells_the_examples():
    def collate(examples):  # one long sequence of all examples, as graphs are batched: the first axis is not the example
        return {"values": torch.cat([values for values, _ in examples]), "owner": torch.cat([torch.full((len(v),), k) for k, (v, _) in enumerate(examples)]),
                "y": torch.stack([y for _, y in examples])}  # fmt: skip

    class Pool(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, values, owner):
            return self.layer(torch.zeros(int(owner.max()) + 1).index_add(0, owner, values)[:, None])

    rows = [(torch.arange(float(k % 3 + 1)), torch.tensor([float(k)])) for k in range(12)]
    data = fs.Data.dataset(
        rows, inputs=lambda batch: {"values": batch["values"], "owner": batch["owner"]}, targets=lambda batch: batch["y"], count=lambda batch: int(batch["owner"].max()) + 1,
        collate=collate,
    )  # fmt: skip
    run = fit(Pool, fs.Splits(data, val=0.25), loss=lambda outputs, targets: (outputs - targets).abs().mean(), batch_size=4)
    assert np.isfinite(run.history[-1]["val_loss"])


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter([])


def test_what_has_no_rows_by_number_is_refused_by_name():
    with pytest.raises(UsageError, match="Stream"):
        fs.Data.dataset(Stream())
    with pytest.raises(UsageError, match=r"loader\.dataset"):
        fs.Data.dataset(torch.utils.data.DataLoader(Texts()))


def test_a_validation_part_is_carved_from_given_training_data():
    x, y = torch.randn(40, 3), torch.randn(40, 1)
    splits = fs.Splits((x, y), val=0.15, test=(x[:7], y[:7]))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (34, 6, 7)
    rows = torch.cat([splits.train.indices, splits.val.indices])
    assert torch.equal(rows.sort().values, torch.arange(40))


def test_each_part_may_be_given_as_another_kind_of_container():
    x, y = np.random.default_rng(0).normal(size=(20, 3)).astype("float32"), np.ones((20, 1), dtype="float32")
    splits = fs.Splits(fs.Data.arrays(x, y), (torch.ones(4, 3), torch.ones(4, 1)), (x[:5], y[:5]))
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [20, 4, 5]
    run = fit(lambda: nn.Linear(3, 1), splits, loss="MSELoss")
    assert run.evaluate("test")["mae"].value >= 0
    with pytest.raises(DataError, match="kind"):
        fs.Splits((x, y), fs.Data.dataset([(x[0], y[0])]))


def test_tables_given_as_training_and_test_share_the_columns_of_training():
    table = {"a": [1.0, 2.0, 3.0, 4.0] * 5, "kind": ["u", "v", "u", "w"] * 5, "y": [1.0, 2.5, 3.0, 5.0] * 5}
    other = {"a": [9.0, 8.0], "kind": ["v", "never seen"], "y": [1.0, 2.0]}
    splits = fs.Splits(fs.Data.table(table, target="y"), val=0.2, test=fs.Data.table(other, target="y"))
    run = fit("linear", splits)
    assert len(run.predict("test")) == 2 and run.evaluate("test")["mae"].value > 0


def test_text_targets_become_classes_and_come_back():
    x = torch.randn(30, 3)
    run = fit(lambda: nn.Linear(3, 2), fs.Data.arrays(x, ["dog" if row[0] > 0 else "cat" for row in x]).split(seed=0))
    assert run.splits.classes == ("cat", "dog") and set(run.predict(x)) <= {"cat", "dog"}
    assert run.predict(x, probabilities=True).shape == (30, 2)


def test_the_fingerprint_follows_content_and_split():
    x, y = torch.arange(12.0).reshape(6, 2), torch.arange(6.0)
    one = fs.Data.arrays(x, y).split(seed=0)
    assert one.fingerprint == fs.Data.arrays(x.clone(), y.clone()).split(seed=0).fingerprint
    assert one.fingerprint not in (fs.Data.arrays(x + 1, y).split(seed=0).fingerprint, fs.Data.arrays(x, y).split(seed=1).fingerprint)


def test_the_facts_that_a_model_asks_for():
    splits = fs.Data.arrays(torch.randn(30, 5), torch.arange(30) % 4).split()
    assert (splits.num_inputs, splits.num_outputs, splits.task, splits.classes) == (5, 4, "multiclass", (0, 1, 2, 3))
    several = fs.Data.arrays((torch.randn(30, 5), torch.randn(30, 2)), torch.randn(30, 3)).split()
    assert (several.num_inputs, several.num_outputs, several.task) == (5, 3, "regression")
    assert "Splits: train 21" in repr(splits) and "5 inputs, 4 outputs" in repr(splits)


@pytest.mark.parametrize("value", [3, "file.csv", [1, 2]], ids=str)
def test_what_is_no_split_is_refused(value):
    with pytest.raises(FivestepError):
        as_splits(value)


def test_a_split_that_is_not_there_is_named():
    splits = fs.Splits((torch.randn(9, 2), torch.randn(9, 1)))
    with pytest.raises(UsageError, match="no val rows"):
        splits.part("val")
    with pytest.raises(UsageError, match="'tests'"):
        splits.part("tests")


def test_labels_are_numbered_as_in_training_whatever_another_part_holds():
    inputs = torch.randn(12, 2)
    splits = fs.Splits((inputs, ["a", "b", "c"] * 4), val=(inputs[:4], ["c", "b", "c", "b"]))
    assert splits.classes == ("a", "b", "c") and splits.val.data.source.targets[0].tolist() == [2, 1, 2, 1]
    with pytest.raises(fs.errors.DataError, match="class 'z', which training has not"):
        fs.Splits((inputs, ["a", "b", "c"] * 4), val=(inputs[:2], ["a", "z"]))


def test_a_unit_is_told_for_a_column_that_is_there():
    table = {"size": [1.0, 2.0, 3.0], "price": [2.0, 4.0, 6.0]}
    data = fs.Data.table(table, target="price", units={"price": "EUR"})
    assert (data.with_unit("price"), data.with_unit("size"), data.unit("size")) == ("price (EUR)", "size", "")
    with pytest.raises(fs.DataError, match=r"units=\{'prise': …\}: no such column; did you mean 'price'"):
        fs.Data.table(table, target="price", units={"prise": "EUR"})
