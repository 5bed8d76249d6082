"""A member of a population equals the run alone: 1e-5 relative in float32 after 200 steps, 1e-12 in float64 (MLP, CNN, dropout, Adam, SGD with momentum, clipping,
early stopping)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fivestep import workflow
from fivestep.data.data import Splits
from fivestep.preparing import prepare
from fivestep.session import Session
from fivestep.train import epochs
from fivestep.train.population import Member, Population


def regression(dtype: torch.dtype) -> Splits:
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(250, 7, generator=draw, dtype=torch.float64).to(dtype)
    y = (x[:, :1].sin() + x[:, 1:2] * x[:, 2:3] + 0.1 * torch.randn(250, 1, generator=draw, dtype=torch.float64)).to(dtype)
    return Splits((x, y), val=0.2)


def images(dtype: torch.dtype) -> Splits:
    draw = torch.Generator().manual_seed(4)
    labels = torch.randint(0, 3, (250,), generator=draw)
    return Splits(((torch.randn(250, 1, 10, 10, generator=draw, dtype=torch.float64) + labels[:, None, None, None]).to(dtype), labels), val=0.2)


def mlp(dtype: torch.dtype, *between: Any) -> Any:
    return lambda: nn.Sequential(nn.Linear(7, 11), nn.Tanh(), *(make() for make in between), nn.Linear(11, 5), nn.ReLU(), nn.Linear(5, 1)).to(dtype)


def cnn(dtype: torch.dtype) -> Any:
    return lambda: nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.2), nn.Flatten(), nn.Linear(75, 3)).to(dtype)


def attention(dtype: torch.dtype) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(6, 2, 9, dropout=0.0, batch_first=True)
            self.last = nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.layer(x[:, :6].reshape(-1, 1, 6).expand(-1, 3, 6)).mean(1))

    return lambda: Net().to(dtype)


def embedding(dtype: torch.dtype) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.norm, self.last = nn.Embedding(4, 5), nn.LayerNorm(5), nn.Linear(5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.norm(self.table((x[:, :3] > 0).long()).sum(1)))

    return lambda: Net().to(dtype)


RATES = [0.003, 0.01, 0.03]
CASES: dict[str, tuple[Any, Any, dict[str, Any], list[dict[str, Any]]]] = {
    "an MLP with AdamW": (mlp, regression, {"optimizer": "AdamW"}, [{"lr": lr} for lr in RATES]),
    "SGD with momentum": (mlp, regression, {"optimizer": {"name": "SGD", "momentum": 0.9, "weight_decay": 0.01}}, [{"lr": lr} for lr in RATES]),
    "SGD with Nesterov's momentum, other for each": (
        mlp, regression, {"lr": 0.01}, [{"optimizer": {"name": "SGD", "momentum": m, "nesterov": True, "weight_decay": 0.1 * m}} for m in (0.5, 0.8, 0.9)],
    ),
    "Adam with other betas and decay for each": (
        mlp, regression, {"lr": 0.01}, [{"optimizer": {"name": "Adam", "betas": (b, 0.99 + b / 100), "weight_decay": 0.1 * b}} for b in (0.5, 0.8, 0.9)],
    ),
    "AMSGrad": (mlp, regression, {"optimizer": {"name": "AdamW", "amsgrad": True, "weight_decay": 0.1}}, [{"lr": lr} for lr in RATES]),
    "a CNN with dropout": (cnn, images, {"optimizer": "Adam"}, [{"lr": lr} for lr in RATES]),
    "dropout": (lambda dtype: mlp(dtype, lambda: nn.Dropout(0.3)), regression, {"optimizer": "AdamW", "lr": 0.01}, [{"seed": seed} for seed in (0, 1, 2)]),
    "its own seed and order of rows": (mlp, regression, {"optimizer": "AdamW"}, [{"seed": seed, "lr": lr} for seed, lr in zip((5, 6, 7), RATES)]),
    "batch normalisation": (lambda dtype: mlp(dtype, lambda: nn.BatchNorm1d(11)), regression, {"optimizer": "SGD"}, [{"lr": lr} for lr in RATES]),
    "clipping": (mlp, regression, {"optimizer": "AdamW", "clip_norm": 0.3}, [{"lr": lr} for lr in RATES]),
    "clipping by value, another norm for each": (mlp, regression, {"optimizer": "SGD", "lr": 0.1, "clip_value": 0.05}, [{"clip_norm": c} for c in (0.1, 0.2, 9.0)]),
    "a schedule by epoch": (mlp, regression, {"optimizer": "AdamW", "scheduler": "CosineAnnealingLR"}, [{"lr": lr} for lr in RATES]),
    "a schedule by step that moves the momentum too": (mlp, regression, {"optimizer": {"name": "SGD", "momentum": 0.9}, "scheduler": "OneCycleLR"}, [{"lr": lr} for lr in RATES]),
    "a schedule that looks at the loss": (mlp, regression, {"optimizer": "SGD", "scheduler": {"name": "ReduceLROnPlateau", "patience": 1}}, [{"lr": lr} for lr in (0.01, 0.1, 0.5)]),
    "early stopping": (mlp, regression, {"optimizer": "AdamW", "patience": 2}, [{"lr": lr} for lr in (0.001, 0.03, 0.1)]),
    "groups of parameters": (mlp, regression, {"optimizer": "AdamW", "groups": {"0.*": {"lr": 0.001, "weight_decay": 0.5}}}, [{"lr": lr} for lr in RATES]),
    "frozen layers": (mlp, regression, {"optimizer": "AdamW", "freeze": ["0.*"]}, [{"lr": lr} for lr in RATES]),
    "attention": (attention, regression, {"optimizer": "SGD"}, [{"lr": lr} for lr in RATES]),
    "embeddings": (embedding, regression, {"optimizer": "AdamW"}, [{"lr": lr} for lr in RATES]),
    "keep last": (mlp, regression, {"optimizer": "AdamW", "keep": "last", "patience": 2}, [{"lr": lr} for lr in (0.001, 0.03, 0.1)]),
}  # fmt: skip


def sessions(make: Any, splits: Splits, fixed: dict[str, Any], varied: list[dict[str, Any]]) -> list[Session]:
    allowed = workflow.defaults()
    plain = dict(
        model=make, splits=splits, epochs=29, batch_size=29, folder=None, quiet=True, checks=False, device="cpu"
    )  # 200 rows: 6 steps of 29 and one of 26
    return [prepare(allowed | plain | fixed | one, allowed) for one in varied]


def weights(session: Session) -> Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in session.training.model.state_dict().values()])


@pytest.mark.parametrize("case", CASES)
def test_a_member_equals_the_run_alone_within_the_stated_tolerance(case: str) -> None:
    make, data, fixed, varied = CASES[case]
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        stacked, alone = (sessions(make(dtype), data(dtype), fixed, varied) for _ in range(2))
        shared = len({one.get("seed", 0) for one in varied}) == 1
        population = Population([Member(session.training, session.plan) for session in stacked], shared=shared)
        population.prepare()
        population.run()
        for session in alone:
            epochs.train(session.training, session.plan)
        for one, other in zip(stacked, alone):
            assert float((weights(one) - weights(other)).norm() / weights(other).norm()) < tolerance
            assert [(row["epoch"], row["step"], row["best"]) for row in one.training.history] == [
                (row["epoch"], row["step"], row["best"]) for row in other.training.history
            ]
            for row, expected in zip(one.training.history, other.training.history):
                assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-4 if dtype == torch.float32 else 1e-10)
                assert row["lr"] == expected["lr"]
        assert max(session.training.step for session in alone) >= 200 or "stopping" in case or "last" in case
