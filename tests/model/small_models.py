"""What the tests of optimizers, their state and schedules train: small models of which every optimizer of torch can take one, and arguments for every scheduler."""

from __future__ import annotations

import inspect
import json

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from fivestep.model.optimizer_state import join_state, split_state

EVERY_OPTIMIZER = sorted(
    n for n, v in vars(torch.optim).items() if inspect.isclass(v) and issubclass(v, torch.optim.Optimizer) and v is not torch.optim.Optimizer
)
EVERY_SCHEDULER = sorted(
    n for n, v in vars(lr_scheduler).items() if inspect.isclass(v) and issubclass(v, lr_scheduler.LRScheduler) and n[0] != "_" and n != "LRScheduler"
)
# What each scheduler is tried with; where one is not here, torch has a default for every argument or `make_schedule` fills it in.
SCHEDULER_ARGUMENTS = {
    "LambdaLR": {"lr_lambda": lambda epoch: 0.95**epoch},
    "MultiplicativeLR": {"lr_lambda": lambda epoch: 0.9 + epoch * 1e-3},
    "StepLR": {"step_size": 3},
    "MultiStepLR": {"milestones": [2, 5, 5, 9]},
    "ExponentialLR": {"gamma": 0.9},
    "CyclicLR": {"base_lr": 1e-4, "step_size_up": 3, "mode": "exp_range", "gamma": 0.99},
    "CosineAnnealingWarmRestarts": {"T_0": 4, "T_mult": 2},
    "ChainedScheduler": {"schedulers": [{"name": "ConstantLR", "factor": 0.5, "total_iters": 4}, {"name": "ExponentialLR", "gamma": 0.9}]},
    "SequentialLR": {"schedulers": [{"name": "LinearLR", "total_iters": 4}, {"name": "MultiStepLR", "milestones": [2, 6]}], "milestones": [4]},
    "ReduceLROnPlateau": {"patience": 1, "factor": 0.5, "cooldown": 1},
}


class Small(nn.Module):
    """3 -> 5 -> 7 -> 5 -> 2: two hidden matrices."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.first = nn.Linear(3, 5, dtype=dtype)
        self.body = nn.Sequential(nn.Linear(5, 7, dtype=dtype), nn.Tanh(), nn.Linear(7, 5, dtype=dtype))
        self.norm = nn.LayerNorm(5, dtype=dtype)
        self.last = nn.Linear(5, 2, dtype=dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.norm(self.body(self.first(inputs).tanh())).tanh())


class Words(nn.Module):
    """A bag of words: an embedding with sparse gradients, and nothing else unless asked."""

    def __init__(self, head: bool = False):
        super().__init__()
        self.embedding = nn.EmbeddingBag(11, 2, sparse=True, mode="sum")
        if head:
            self.head = nn.Linear(2, 2)

    def forward(self, words: Tensor) -> Tensor:
        found = self.embedding(words)
        return self.head(found) if hasattr(self, "head") else found


def fresh(name: str, dtype: torch.dtype = torch.float32):
    """(model, inputs, target, optimizer's spec) for an optimizer by name, the same each time."""
    torch.manual_seed(1)
    model = Words() if name == "SparseAdam" else Small(dtype)
    inputs = torch.randint(0, 11, (8, 4)) if name == "SparseAdam" else torch.randn(8, 3, dtype=dtype)
    return model, inputs, torch.randn(8, 2, dtype=dtype if name != "SparseAdam" else torch.float32)


def step(model, optimizer, inputs, target) -> float:
    def closure() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.mse_loss(model(inputs), target)
        value.backward()
        return value

    if optimizer.needs_closure:
        return float(optimizer.step(closure).detach())
    value = float(closure().detach())
    optimizer.step()
    return value


def through_json(state):
    """What a checkpoint does: tensors beside, the rest as text."""
    tensors, entry = split_state(state)
    tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    return join_state(tensors, json.loads(json.dumps(entry, allow_nan=False)))


def same(one, other) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and one.stride() == other.stride() and torch.equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)
