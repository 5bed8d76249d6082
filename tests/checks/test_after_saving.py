"""The rule on saved and loaded models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fivestep.checks.after_saving import check_saved


def test_p01_round_trip_decides() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.scale, self.cache = nn.Linear(3, 2), 1.0, torch.zeros(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.f(x) * self.scale

    fresh, trained = Net(), Net()
    trained.cache = torch.ones(5)  # a cache that changes nothing
    assert check_saved(fresh, trained, torch.randn(6, 3)) == []
    trained.scale = 2.0
    (finding,) = check_saved(fresh, trained, torch.randn(6, 3))
    assert finding.code == "P01" and "scale" in finding.evidence["attributes"]
