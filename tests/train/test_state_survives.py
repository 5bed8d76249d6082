"""S2: the state of every optimizer and every schedule of torch survives the trip through a checkpoint's files, to the bit, and goes on as if it had never stopped.

Enumerated from torch: an optimizer that comes with a newer version is tried without being named here.
"""

import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.overrides import TorchFunctionMode

from fivestep.data.batches import InMemoryBatches, LoaderBatches
from fivestep.model.optimizers import make_optimizer
from fivestep.model.schedules import make_schedule, schedulers
from fivestep.train import checkpoints
from fivestep.train.averaging import Average
from fivestep.train.epochs import Training
from fivestep.train.stopping import Stopping

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
from small_models import SCHEDULER_ARGUMENTS

OPTIMIZERS = [
    name for name, one in vars(torch.optim).items() if isinstance(one, type) and issubclass(one, torch.optim.Optimizer) and one is not torch.optim.Optimizer
]
# Three epochs are trained: with no patience the rate falls twice in them.
ARGUMENTS = SCHEDULER_ARGUMENTS | {"ReduceLROnPlateau": {"patience": 0, "factor": 0.5}}


class Lookup(nn.Module):
    """Sparse gradients, which SparseAdam needs."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(8, 2, sparse=True)

    def forward(self, x):
        return self.table(x[:, 0].abs().mul(2).long().clamp(max=7))


def matrices():
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, 2, bias=False))


def fresh(optimizer, schedule=None, average=False):
    torch.manual_seed(0)
    model = Lookup() if optimizer == "SparseAdam" else matrices()
    made = make_optimizer(optimizer, model)
    spec = None if schedule is None else {"name": schedule, **ARGUMENTS.get(schedule, {})}
    planned = make_schedule(spec, made, epochs=6, steps_per_epoch=4)
    return Training(model, None, made, planned, None, Average(model, "EMA", decay=0.5) if average else None, Stopping(3))


def step(training, number):
    g = torch.Generator().manual_seed(number)
    x, y = torch.randn(8, 3, generator=g), torch.randn(8, 2, generator=g)

    def closure():
        training.optimizer.zero_grad()
        value = nn.functional.mse_loss(training.model(x), y)
        value.backward()
        return value

    training.optimizer.step(closure) if getattr(training.optimizer, "needs_closure", False) else (closure(), training.optimizer.step())
    if training.schedule is not None and training.schedule.every == "step":
        training.schedule.step()
    if training.schedule is not None and number % 4 == 3:
        if training.schedule.every == "epoch":
            training.schedule.step()
        if training.schedule.wants_metric:
            training.schedule.step(1.0 + number)
    if training.average is not None:
        training.average.update()
    training.step += 1


def everything(training):
    """All that a checkpoint holds, random streams aside, as comparable text: tensors by their bytes."""
    tensors, entry = checkpoints.capture(training)
    raw = {name: (tensor.dtype, tuple(tensor.shape), bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())) for name, tensor in tensors.items()}
    return {name: value for name, value in raw.items() if not name.startswith("streams")}, [pair for pair in entry["dict"] if pair[0] != "streams"]


@pytest.mark.parametrize("optimizer,schedule", [(name, None) for name in OPTIMIZERS] + [("SGD", name) for name in schedulers()])
def test_s2_every_optimizer_and_schedule_survives_the_checkpoints_files(optimizer, schedule, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, straight = fresh(optimizer, schedule, average=optimizer == "Adam"), fresh(optimizer, schedule, average=optimizer == "Adam")
        for number in range(5):
            step(one, number)
            step(straight, number)
        checkpoints.write(tmp_path, one, {})
        two = fresh(optimizer, schedule, average=optimizer == "Adam")
        checkpoints.restore(two, *checkpoints.read_newest(tmp_path).parsed)
        assert everything(two) == everything(straight)
        for number in range(5, 14):
            step(two, number)
            step(straight, number)
    assert everything(two) == everything(straight)
    if optimizer != "SparseAdam" and schedule is None:
        kept = [one.state for one in getattr(two.optimizer, "named", {"": two.optimizer}).values()]
        assert all(kept) or optimizer == "SGD", "the optimizer must keep something for the test to mean much"


def test_every_optimizer_and_schedule_of_torch_is_among_them():
    assert len(OPTIMIZERS) >= 14 and set(ARGUMENTS) <= set(schedulers()) and "AdamW" in OPTIMIZERS
    assert {name for name, one in vars(lr_scheduler).items() if isinstance(one, type) and issubclass(one, lr_scheduler.LRScheduler)} - {
        "LRScheduler",
        "_LRScheduler",
    } == set(schedulers())


# -- what a resume costs -------------------------------------------------------------------------------------------------------------------------------------------


class Reads(torch.utils.data.Dataset):
    def __init__(self):
        self.rows = []

    def __len__(self):
        return 20

    def __getitem__(self, key):
        self.rows.append(key[1])
        return torch.ones(3), torch.ones(1)


def test_s6_a_resume_in_the_middle_of_an_epoch_reads_only_the_rows_that_are_left():
    dataset = Reads()
    batches = LoaderBatches(
        dataset, range(20), collate=torch.utils.data.default_collate, unpack=lambda pair: (pair[0], (pair[1],), None), device=torch.device("cpu"), batch_size=3
    )
    assert len(list(batches.epoch(2, 5))) == 2
    assert dataset.rows == [*batches.rows(2, 5).tolist(), *batches.rows(2, 6).tolist()]


@pytest.mark.parametrize("start", [0, 1, 6])
def test_s6_a_resume_in_memory_costs_one_gather_wherever_in_the_epoch_it_is(start):
    """A whole piece (here the epoch) is gathered again, as a view of it can differ in bits from the same rows gathered alone; nothing else is."""
    gathered = []

    class Counts(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if getattr(func, "__name__", "") == "index_select":
                gathered.append(args[0].shape)
            return func(*args, **(kwargs or {}))

    batches = InMemoryBatches(torch.randn(20, 3), (torch.randn(20, 1),), None, batch_size=3)
    whole = list(batches.epoch(1))
    with Counts():
        rest = list(batches.epoch(1, start))
    assert len(rest) == 7 - start and all(torch.equal(one.inputs, other.inputs) for one, other in zip(rest, whole[start:]))
    assert gathered == [(20, 3), (20, 1)], "one gather of inputs and of targets"
