"""Promise: accumulated in parts, the update is the whole batch's, to rounding (1e-12 in float64)."""

import pytest
import torch
from torch import nn

import fivestep as fs

LOSSES = {
    "plain": nn.CrossEntropyLoss(),
    "ignore_index": nn.CrossEntropyLoss(ignore_index=2),
    "class weights": nn.CrossEntropyLoss(weight=torch.tensor([0.2, 3.0, 1.0], dtype=torch.float64)),
    "class weights and ignore_index": nn.CrossEntropyLoss(weight=torch.tensor([0.2, 3.0, 1.0], dtype=torch.float64), ignore_index=0),
    "a sum": nn.CrossEntropyLoss(reduction="sum"),
    "a mean of the user's": lambda outputs, targets: torch.nn.functional.cross_entropy(outputs, targets),
    "a pair (total, weight)": lambda outputs, targets: (torch.nn.functional.cross_entropy(outputs, targets, reduction="sum"), len(targets)),
}


def make():
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


@pytest.mark.parametrize("name", LOSSES)
def test_seven_uneven_parts_equal_the_whole_batch(name):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (20,), generator=generator)
    y[:3] = 2  # one part in which, with ignore_index=2, nothing counts
    settings = dict(
        loss=LOSSES[name], optimizer="SGD", lr=0.01, epochs=3, batch_size="all", folder=None, quiet=True, checks=False, keep="last", patience=None, device="cpu"
    )
    whole = fs.fit(make, fs.Splits((x, y)), **settings)
    parts = fs.fit(make, fs.Splits((x, y)), part_size=3, **settings)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
