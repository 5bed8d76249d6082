"""Batches: an epoch's order depends on (seed, epoch) only, every row comes once, and workers, restarts and augmentation change nothing they should not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fivestep as fs
from fivestep import seeds
from fivestep.data import sources
from fivestep.data.batches import InMemoryBatches, LoaderBatches, Stacked, batch_order, count_examples, map_tensors, tensors_of

PLAIN = dict(folder=None, quiet=True, device="cpu", checks=False)


def fit(model, splits, **settings):
    return fs.fit(model, splits, **(PLAIN | {"loss": "MSELoss", "epochs": 3, "keep": "last"} | settings))


def net():
    return nn.Linear(3, 2)


def arrays(rows: int = 23):
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))
    return x, x[:, :1] * torch.tensor([1.0, 2.0])


class Rows(torch.utils.data.Dataset):
    def __init__(self, random: bool = False):
        self.x, self.y = arrays()
        self.random = random

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        return self.x[row] + (0.1 * torch.randn(3) if self.random else 0), self.y[row]


def in_memory(**options):
    x, y = arrays()
    return InMemoryBatches(x, (y,), None, **({"batch_size": 5} | options))


def loader(workers: int = 0, random: bool = False, **options):
    source = sources.DatasetSource(Rows(random))
    return LoaderBatches(
        sources.LoaderDataset(source.dataset, 0), torch.arange(23), collate=source.collate, unpack=source.unpack, device=torch.device("cpu"),
        workers=workers, **({"batch_size": 5} | options),
    )  # fmt: skip


@pytest.mark.parametrize("make", [in_memory, loader])
def test_every_row_comes_once_and_in_the_order_of_seed_and_epoch(make):
    x, _ = arrays()
    for epoch in (0, 1):
        order = batch_order(23, 0, epoch, True)
        assert torch.equal(order, torch.randperm(23, generator=seeds.generator(0, "order", epoch)))
        batches = list(make().epoch(epoch))
        assert [len(batch.inputs) for batch in batches] == [5, 5, 5, 5, 3] and make().steps(epoch) == 5
        assert torch.equal(torch.cat([batch.inputs for batch in batches]), x[order])
        assert torch.equal(make().rows(epoch, 4), order[20:])
    assert not torch.equal(batch_order(23, 0, 0, True), batch_order(23, 0, 1, True))


@pytest.mark.parametrize("make", [in_memory, loader])
@pytest.mark.parametrize("start", [1, 4])
def test_an_epoch_goes_on_from_any_step_with_the_same_bits(make, start):
    options = {"augment": lambda inputs, generator: inputs + torch.randn(inputs.shape, generator=generator)}
    whole, rest = list(make(**options).epoch(2)), list(make(**options).epoch(2, start))
    assert len(rest) == 5 - start
    assert all(torch.equal(a.inputs, b.inputs) and torch.equal(a.targets[0], b.targets[0]) for a, b in zip(whole[start:], rest))


def wide(rows: int = 3001, batch_size: int = 24):
    """Rows of 4.4 kB, so that an epoch is gathered in several pieces."""
    x, y = torch.randn(rows, 1101), torch.arange(rows)
    return x, InMemoryBatches(x, (y,), None, batch_size=batch_size)


def test_rows_gathered_in_pieces_lie_as_in_a_gather_of_the_whole_epoch():
    x, batches = wide()
    assert batches.piece_rows < 1000
    whole = x.index_select(0, batch_order(len(x), 0, 2, True))
    expected = whole.split(24)
    found = list(batches.epoch(2))
    assert len(found) == len(expected)
    for mine, hand in zip(found, expected):
        assert torch.equal(mine.inputs, hand) and mine.inputs.data_ptr() % 64 == hand.data_ptr() % 64
    for start in (0, 1, 39, 40, 100, 125):
        for mine, again in zip(found[start:], batches.epoch(2, start), strict=True):
            assert torch.equal(mine.inputs, again.inputs) and torch.equal(mine.targets[0], again.targets[0])
            assert mine.inputs.data_ptr() % 64 == again.inputs.data_ptr() % 64


@pytest.mark.parametrize("alone", [0, 1])
@pytest.mark.parametrize("rows", [23, 25, 4])
def test_chunks_hold_the_batches_of_the_epoch(rows, alone):
    x, y = arrays(rows)
    batches = InMemoryBatches(x, (y,), None, batch_size=5)
    for length in (2, 3):
        for start in range(batches.steps(1) + 1):
            singly = [batch for piece in batches.stacked(1, start, length, alone) for batch in (piece.singly() if isinstance(piece, Stacked) else [piece])]
            for mine, hand in zip(singly, batches.epoch(1, start), strict=True):
                assert torch.equal(mine.inputs, hand.inputs) and torch.equal(mine.targets[0], hand.targets[0])


def test_a_full_batch_is_not_shuffled():
    (batch,) = in_memory(batch_size=23).epoch(0)
    assert torch.equal(batch.inputs, arrays()[0])


@pytest.mark.parametrize("make", [in_memory, loader])
def test_the_users_batches_get_a_seeded_generator(make):
    def chosen(epoch, generator):
        return [[epoch, 3], torch.randperm(23, generator=generator)[:4]]

    first, again = list(make(chosen=chosen).epoch(1)), list(make(chosen=chosen).epoch(1))
    assert make(chosen=chosen).steps(1) == 2 and torch.equal(first[0].inputs, arrays()[0][[1, 3]])
    assert torch.equal(first[1].inputs, again[1].inputs) and len(first[1].inputs) == 4


def test_batches_of_the_users_own_are_the_steps_of_fit():
    x, y = arrays()
    run = fit(net, fs.Splits((x, y)), batches=lambda epoch, generator: [[0, 1, 2], [5, 4]], optimizer="SGD", lr=0.1, epochs=1)
    torch.manual_seed(0)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
    for rows in ([0, 1, 2], [5, 4]):
        optimizer.zero_grad()
        F.mse_loss(model(x[rows]), y[rows]).backward()
        optimizer.step()
    assert torch.equal(run.model.weight, model.weight)


def test_augmentation_is_for_training_batches_only_and_repeats():
    seen = []

    def augment(inputs, generator):
        torch.rand(3)  # a library's augmentation may use the global generator
        seen.append(inputs)
        return inputs + torch.randn(inputs.shape, generator=generator)

    x, y = arrays()
    splits = fs.Splits((x, y), (x[:4] + 100, y[:4]))
    runs = [fit(net, splits, augment=augment, batch_size=10) for _ in range(2)]
    assert runs[0].weights_sha256 == runs[1].weights_sha256 != fit(net, splits, batch_size=10).weights_sha256
    assert len(seen) == 2 * 3 * 3 and all(inputs.max() < 50 for inputs in seen)


def test_an_augmentation_that_does_nothing_changes_no_bit():
    def dropout():
        return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))

    splits = fs.Splits(arrays())
    assert fit(dropout, splits, augment=lambda inputs, generator: inputs).weights_sha256 == fit(dropout, splits).weights_sha256


@pytest.mark.parametrize("random", [False, True])
def test_two_workers_give_the_bits_of_none(random):
    hashes = {fit(net, fs.Splits(fs.Data.dataset(Rows(random), workers=workers), val=0.2), batch_size=4, epochs=2).weights_sha256 for workers in (0, 2)}
    assert len(hashes) == 1


def test_a_dataset_gives_the_bits_of_its_arrays():
    assert fit(net, fs.Splits(Rows()), batch_size=5).weights_sha256 == fit(net, fs.Splits(arrays()), batch_size=5).weights_sha256


def test_a_random_dataset_is_another_one_in_each_epoch_and_the_same_in_each_run():
    batches = [next(loader(random=True, shuffle=False).epoch(epoch)).inputs for epoch in (0, 0, 1)]
    assert torch.equal(batches[0], batches[1]) and not torch.equal(batches[0], batches[2])


def test_a_loader_leaves_the_global_stream_alone():
    before = torch.get_rng_state()
    list(loader(random=True).epoch(0))
    assert torch.equal(before, torch.get_rng_state())


def test_nests_are_walked():
    nest = {"a": (torch.ones(2, 3), [torch.zeros(4)]), "b": "text"}
    assert [tuple(tensor.shape) for tensor in tensors_of(nest)] == [(2, 3), (4,)] and count_examples((torch.tensor(1), nest)) == 2
    assert map_tensors(lambda tensor: tensor.shape[0], nest) == {"a": (2, [4]), "b": "text"}
