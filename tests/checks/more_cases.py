"""More own cases, written against the rules: the same mistakes in other layers, sizes, losses, optimizers and kinds of data, each beside the same thing done right.

As in `cases`: `CASES[name]` is `(code, other fair codes, wrong, right)`, `HEALTHY[name]` one function. These are asked through `fit`, as the shared judge asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy
import torch
from cases import Case, Wrap, blobs, case, classify, curve, g, kept_in, language, mlp, pictures, regress
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

CASES: dict[str, tuple[str, tuple[str, ...], Callable[[], Case], Callable[[], Case]]] = {}
HEALTHY: dict[str, Callable[[], Case]] = {}
healthy = kept_in(HEALTHY)


def rule(name: str, code: str, *accept: str) -> Callable[[Callable[[bool], Case]], Callable[[bool], Case]]:
    def register(make: Callable[[bool], Case]) -> Callable[[bool], Case]:
        def side(bad: bool) -> Case:
            torch.manual_seed(0)
            return make(bad)

        CASES[name] = (code, accept, lambda: side(True), lambda: side(False))
        return make

    return register


def series(n: int = 500, steps: int = 8, d: int = 3, seed: int = 1) -> tuple[Tensor, Tensor]:
    X = torch.randn(n, steps, d, generator=g(seed))
    return X, (X[:, :, 0].sum(1) + X[:, :, 1].mean(1) > 0).long()


def flat_mse(o: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss(o.flatten(), t.flatten())


class SmallConv(nn.Module):
    def __init__(self, out: int = 4, channels: int = 1, width: int = 10):
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1), nn.Linear(width, out)

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.b(torch.relu(self.a(x)))).amax((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.features(x))


def images(n: int = 400, channels: int = 1, seed: int = 1) -> tuple[Tensor, Tensor]:
    X, y = pictures(n, channels=channels, seed=seed)
    return (X - 0.2) / 0.25, y


class Recurrent(nn.Module):
    def __init__(self, kind: str = "GRU", d: int = 3, h: int = 12, out: int = 2, **more: Any):
        super().__init__()
        self.rnn, self.out = getattr(nn, kind)(d, h, batch_first=True, **more), nn.Linear(h, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0][:, -1])


# data


@rule("d01 income in cents beside ages", "D01", "T10", "M16", "O01", "T01")
def _d01(bad: bool) -> Case:
    X, y = blobs(600, d=5)
    X = X.clone()
    X[:, 2] = 4e5 + 2e5 * torch.randn(600, generator=g(3)) if bad else torch.randn(600, generator=g(3))
    return case(mlp(5, 3), "CrossEntropyLoss", "multiclass", X, y, optimizer="SGD", lr=0.05)


@rule("d01 GRU with one wide channel", "D01", "T10")
def _d01b(bad: bool) -> Case:
    X, y = series(d=4)
    X = X.clone()
    X[:, :, 3] *= 5000 if bad else 1
    return case(Recurrent(d=4), "CrossEntropyLoss", "multiclass", X, y)


@rule("d01 two wide columns of five", "D01", "T10", "M16")
def _d01c(bad: bool) -> Case:
    X, y = curve(600, d=6)
    X = X.clone()
    X[:, 4:] *= 3000 if bad else 1
    return case(mlp(6, 1, act=nn.Tanh), "MSELoss", "regression", X, y)


@rule("d02 uint8 RGB, Adam", "D02", "D01", "O01", "T01", "M16")
def _d02(bad: bool) -> Case:
    X, y = pictures(channels=3)
    X = (X * 255).round()
    return case(SmallConv(channels=3), "CrossEntropyLoss", "multiclass", X if bad else X / 127.5 - 1, y, lr=3e-3)


@rule("d02 flattened digits into an MLP", "D02", "D01", "M16", "O01", "T01")
def _d02b(bad: bool) -> Case:
    X, y = pictures()
    X = (X * 255).round()
    return case(nn.Sequential(nn.Flatten(), mlp(64, 4)), "CrossEntropyLoss", "multiclass", X if bad else X / 255, y, lr=3e-3)


class Bytes(Dataset):
    def __init__(self, X: Tensor, y: Tensor, raw: bool):
        self.X, self.y, self.raw = (X * 255).to(torch.uint8), y, raw

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x = self.X[i].float()
        return x if self.raw else x / 255, self.y[i]


@rule("d02 a Dataset that forgets ToTensor's division", "D02", "D01", "M16", "O01", "T01")
def _d02c(bad: bool) -> Case:
    X, y = pictures()
    return case(SmallConv(), "CrossEntropyLoss", "multiclass", dataset=Bytes(X, y, bad), lr=3e-3)


@rule("d03 infinity in the targets", "D03", "L21")
def _d03(bad: bool) -> Case:
    made = regress()
    y = made["y"].clone()
    if bad:
        y[[5, 77, 240]] = float("inf")
    return made | dict(y=y)


@rule("d03 NaN in a table's column of a validation row", "D03", "L21")
def _d03b(bad: bool) -> Case:
    X, y = blobs(600)
    val = X[400:500].clone()
    if bad:
        val[3, 2] = float("nan")
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", train=(X[:400], y[:400]), val=(val, y[400:500]), test=(X[500:], y[500:]))


@rule("d03 infinite pixels", "D03", "L21")
def _d03c(bad: bool) -> Case:
    X, y = images()
    X = X.clone()
    if bad:
        X[::50, 0, 3, 3] = float("-inf")
    return case(SmallConv(), "CrossEntropyLoss", "multiclass", X, y)


@rule("d04 -1 for unknown among ages", "D04", "D01")
def _d04(bad: bool) -> Case:
    X, y = curve(700, d=5)
    age = 45 + 6 * torch.randn(700, generator=g(4))
    gone = torch.rand(700, generator=g(5)) < 0.08
    age = torch.where(gone, torch.tensor(999.0 if bad else 45.0), age)
    return case(nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 1)), "MSELoss", "regression", torch.cat([X, age[:, None] / 10], 1), y)


@rule("d04 -999 in a table", "D04", "D01")
def _d04b(bad: bool) -> Case:
    n = 700
    z, h = torch.randn(n, 2, generator=g(1)), 20 + 4 * torch.randn(n, generator=g(2))
    gone = torch.rand(n, generator=g(3)) < 0.05
    table = {"a": z[:, 0], "b": z[:, 1], "humidity": torch.where(gone, torch.tensor(-999.0), h) if bad else h, "y": z[:, 0] - 0.5 * z[:, 1] + 0.1 * h}
    return case(mlp(3, 1), flat_mse, "regression", table=table, target="y")


@rule("d04 9999 in one percent of a regression target", "D04", "L11", "T07")
def _d04c(bad: bool) -> Case:
    X, y = curve(700)
    y = y.clone()
    if bad:
        y[torch.rand(700, generator=g(8)) < 0.03] = -999.0
    return case(mlp(6, 1), "MSELoss", "regression", X, y)


@rule("d04 zeros for missing pressure", "D04")
def _d04d(bad: bool) -> Case:
    X, y = curve(700, d=5)
    pressure = 1013 + 5 * torch.randn(700, generator=g(4))
    if bad:
        pressure[torch.rand(700, generator=g(5)) < 0.06] = 0.0
    return case(mlp(6, 1), "MSELoss", "regression", torch.cat([X, (pressure[:, None] - 1013) / 5], 1), y)


@rule("d05 features sorted apart from labels", "D05", "T04")
def _d05(bad: bool) -> Case:
    X, y = blobs(600, d=6)
    return case(mlp(6, 3), "CrossEntropyLoss", "multiclass", X[X[:, 0].argsort()] if bad else X, y, epochs=10)


@rule("d05 labels shifted by one row", "D05", "T04")
def _d05b(bad: bool) -> Case:
    X, y = blobs(600, d=6, C=2)
    return case(mlp(6, 1), "BCEWithLogitsLoss", "binary", X, (y.roll(1) if bad else y)[:, None].float(), epochs=10)


@rule("d05 pictures shuffled apart", "D05", "T04")
def _d05c(bad: bool) -> Case:
    X, y = images(500)
    return case(SmallConv(), "CrossEntropyLoss", "multiclass", X, y[torch.randperm(500, generator=g(7))] if bad else y, epochs=12)


@rule("d05 regression targets reversed", "D05", "T04")
def _d05d(bad: bool) -> Case:
    X, y = curve(700)
    return case(mlp(6, 1), "MSELoss", "regression", X, y.flip(0) if bad else y, epochs=12)


@rule("d05 table joined wrongly", "D05", "T04")
def _d05e(bad: bool) -> Case:
    X, y = blobs(600, d=4)
    table = {f"f{k}": X[:, k] for k in range(4)} | {"y": y[torch.randperm(600, generator=g(3))] if bad else y}
    return case(mlp(4, 3), "CrossEntropyLoss", "multiclass", table=table, target="y", epochs=10)


@rule("d06 pictures all black", "D06", "D07", "D11", "M38", "T04")
def _d06(bad: bool) -> Case:
    X, y = images()
    return case(SmallConv(), "CrossEntropyLoss", "multiclass", torch.zeros_like(X) if bad else X, y)


class Late(Dataset):
    """A list of functions that all captured the last loop variable."""

    def __init__(self, X: Tensor, y: Tensor, late: bool):
        self.y = y
        self.readers = [(lambda: X[i]) for i in range(len(y))] if late else [(lambda i=i: X[i]) for i in range(len(y))]  # noqa: B023

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.readers[i](), self.y[i]


@rule("d07 late binding", "D07", "D06")
def _d07(bad: bool) -> Case:
    X, y = blobs(300)
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", dataset=Late(X, y, bad))


class Cached(Dataset):
    """Pictures of a Dataset that forgets to use the index beyond the first two."""

    def __init__(self, X: Tensor, y: Tensor, bad: bool):
        self.X, self.y, self.bad = X, y, bad

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.X[i % 2 if self.bad else i], int(self.y[i])


@rule("d07 two pictures for all", "D07", "D06", "D09")
def _d07b(bad: bool) -> Case:
    X, y = images(300)
    return case(SmallConv(), "CrossEntropyLoss", "multiclass", dataset=Cached(X, y, bad))


class Normalising(Dataset):
    """Normalises its stored picture in place at each reading."""

    def __init__(self, X: Tensor, y: Tensor, bad: bool):
        self.X, self.y, self.bad = X.clone(), y, bad

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x = self.X[i]
        if self.bad:
            x.sub_(0.05).mul_(0.9)
        else:
            x = x.sub(0.05).mul(0.9)
        return x, self.y[i]


@rule("d08 mul_ on a view", "D08")
def _d08(bad: bool) -> Case:
    X, y = images(300)
    return case(SmallConv(), "CrossEntropyLoss", "multiclass", dataset=Normalising(X, y, bad), epochs=3)


class Shifting(Dataset):
    """Rolls its list of arrays in place (numpy)."""

    def __init__(self, X: Tensor, y: Tensor, bad: bool):
        self.rows, self.y, self.bad = [row.numpy().copy() for row in X], y, bad

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[numpy.ndarray, int]:
        row = self.rows[i] if self.bad else self.rows[i].copy()
        row += numpy.random.normal(0, 0.3, len(row)).astype(numpy.float32)
        return row, int(self.y[i])


@rule("d08 numpy noise in place in a list", "D08")
def _d08b(bad: bool) -> Case:
    X, y = blobs(300)
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", dataset=Shifting(X, y, bad), epochs=3)


@rule("d09 two annotators", "D09", "S01")
def _d09(bad: bool) -> Case:
    X, y = blobs(300, C=3)
    other = torch.where(torch.rand(300, generator=g(5)) < 0.4, (y + 1) % 3, y)
    X2, y2 = blobs(300, C=3, seed=9)
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", torch.cat([X, X if bad else X2]), torch.cat([y, other if bad else y2]))


@rule("d10 NHWC viewed, square pictures of 10", "D10")
def _d10(bad: bool) -> Case:
    X, y = pictures(400, size=10, channels=3)
    X = (X - 0.2) / 0.25
    return case(SmallConv(channels=3), "CrossEntropyLoss", "multiclass", X.permute(0, 2, 3, 1).contiguous().view(400, 3, 10, 10) if bad else X, y, lr=1e-2)


@rule("d10 smooth photographs", "D10")
def _d10b(bad: bool) -> Case:
    base = torch.randn(300, 3, 4, 4, generator=g(1))
    X = F.interpolate(base, size=12, mode="bilinear") + torch.tensor([0.8, 0.0, -0.8])[:, None, None] + 0.02 * torch.randn(300, 3, 12, 12, generator=g(2))
    y = (base[:, 0].mean((1, 2)) > 0).long()
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 2))
    return case(net, "CrossEntropyLoss", "multiclass", X.permute(0, 2, 3, 1).reshape(X.shape) if bad else X, y)


@rule("d11 byte division in a Dataset table of pixels", "D11", "D06", "D07", "D09", "T04")
def _d11(bad: bool) -> Case:
    X, y = pictures()
    u = (X * 255).to(torch.uint8).flatten(1)
    return case(mlp(64, 4), "CrossEntropyLoss", "multiclass", (u // 255).float() if bad else u.float() / 255, y)


@rule("d11 probabilities truncated to int", "D11", "D06", "D07", "T04")
def _d11b(bad: bool) -> Case:
    X = torch.rand(500, 6, generator=g(1))
    y = (X[:, 0] + X[:, 1] > 1).long()
    return case(mlp(6, 2), "CrossEntropyLoss", "multiclass", X.int().float() if bad else X, y)


@rule("d12 half precision of large values", "D12", "D03", "D01")
def _d12(bad: bool) -> Case:
    X, y = blobs(600)
    X = X * 3e4
    return case(nn.Sequential(nn.BatchNorm1d(8), mlp(8, 3)), "CrossEntropyLoss", "multiclass", X.half() if bad else X, y)


@rule("d13 index column in an array", "D13", "S03", "D01")
def _d13(bad: bool) -> Case:
    n = 600
    z = torch.randn(n, 3, generator=g(1))
    y = (torch.arange(n) > 300).long()
    index = torch.arange(n).float()[:, None] / 100
    return case(mlp(4 if bad else 3, 2), "CrossEntropyLoss", "multiclass", torch.cat([z + 0.5 * y[:, None], index], 1) if bad else z + 0.5 * y[:, None], y)


@rule("d13 id of a sorted file, regression table", "D13", "S03")
def _d13b(bad: bool) -> Case:
    n = 600
    z = torch.randn(n, 3, generator=g(1))
    trend = torch.linspace(-2, 2, n)
    table = {"record_id": torch.arange(1, n + 1), **{f"f{k}": z[:, k] for k in range(3)}, "y": z[:, 0] + trend + 0.3 * torch.randn(n, generator=g(2))}
    if not bad:
        table["y"] = z[:, 0] + 0.3 * torch.randn(n, generator=g(2))
    return case(mlp(4 if bad else 3, 1), flat_mse, "regression", table=table, target="y", drop=[] if bad else ["record_id"])


@rule("d13 id offset at 10000", "D13", "S03")
def _d13c(bad: bool) -> Case:
    n = 600
    z = torch.randn(n, 3, generator=g(1))
    y = (torch.arange(n) + 80 * torch.randn(n, generator=g(2)) > 300).long()
    table = {"order": torch.arange(10000, 10000 + n), **{f"f{k}": z[:, k] + 0.7 * y for k in range(3)}, "y": y}
    if not bad:
        del table["order"]
    return case(mlp(4 if bad else 3, 2), "CrossEntropyLoss", "multiclass", table=table, target="y")


@rule("d14 codes of shops, classification", "D14")
def _d14(bad: bool) -> Case:
    n = 1200
    code = torch.randint(0, 20, (n,), generator=g(1))
    effect = torch.randn(20, generator=g(4)) * 2
    z = torch.randn(n, 2, generator=g(2))
    y = (effect[code] + z[:, 0] > 0).long()
    X = torch.cat([code[:, None].float(), z], 1) if bad else torch.cat([F.one_hot(code, 20).float(), z], 1)
    return case(mlp(3 if bad else 22, 2), "CrossEntropyLoss", "multiclass", X, y)


@rule("d15 standardised after division twice", "D15")
def _d15(bad: bool) -> Case:
    X, y = blobs(600)
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", X / 255 if bad else X, y, optimizer="SGD", lr=0.1)


@rule("d15 bytes divided twice, convolution", "D15")
def _d15b(bad: bool) -> Case:
    X, y = pictures(channels=3)
    return case(
        SmallConv(channels=3), "CrossEntropyLoss", "multiclass", X / 255 if bad else X, y, optimizer="SGD", lr=0.05, optimizer_kwargs=dict(momentum=0.9)
    )


@rule("d16 copied column in an array", "D16")
def _d16(bad: bool) -> Case:
    X, y = curve(600, d=5)
    return case(mlp(6, 1), "MSELoss", "regression", torch.cat([X, X[:, :1] * 2.5 + 1 if bad else torch.randn(600, 1, generator=g(7))], 1), y)


@rule("d18 sorted by class, arrays in order", "D18", "S11", "S06")
def _d18(bad: bool) -> Case:
    X, y = images(480)
    order = y.argsort()
    X, y = (X[order], y[order]) if bad else (X, y)
    rows = torch.randperm(480, generator=g(1)) if not bad else torch.randperm(480, generator=g(1)).sort().values
    held = torch.zeros(480, dtype=torch.bool)
    held[torch.randperm(480, generator=g(2))[:120]] = True
    keep = rows[~held[rows]]
    return case(SmallConv(), "CrossEntropyLoss", "multiclass", train=(X[keep], y[keep]), val=(X[held], y[held]), shuffle=False)


@rule("d18 binary, float labels, blocks", "D18", "S11")
def _d18b(bad: bool) -> Case:
    X, y = blobs(600, C=2)
    order = y[:420].argsort() if bad else torch.arange(420)
    t = y[:, None].float()
    return case(mlp(8, 1), "BCEWithLogitsLoss", "binary", train=(X[:420][order], t[:420][order]), val=(X[420:], t[420:]), shuffle=False)


@rule("d18 sorted regression targets", "D18", "S11")
def _d18c(bad: bool) -> Case:
    X, y = curve(600)
    order = y[:420, 0].argsort() if bad else torch.arange(420)
    return case(mlp(6, 1), "MSELoss", "regression", train=(X[:420][order], y[:420][order]), val=(X[420:], y[420:]), shuffle=False)


@rule("d20 milliseconds in an array", "D20", "D01")
def _d20(bad: bool) -> Case:
    n = 800
    t = 1.6e12 + torch.rand(n, generator=g(1), dtype=torch.float64) * 6e5
    z = torch.randn(n, 1, generator=g(2))
    y = (torch.sin((t - 1.6e12) / 6e4)[:, None].float() + z) * 1.0
    X = torch.cat([t[:, None].float() if bad else ((t - 1.6e12) / 1e5)[:, None].float(), z], 1)
    return case(nn.Sequential(nn.BatchNorm1d(2), mlp(2, 1)), "MSELoss", "regression", X, y)


@rule("d20 julian day in a table", "D20")
def _d20b(bad: bool) -> Case:
    n = 800
    t = 2.45e6 + torch.rand(n, generator=g(1), dtype=torch.float64) * 5
    z = torch.randn(n, generator=g(2))
    table = {"jd": t.float() if bad else t - 2.45e6, "z": z, "y": torch.sin((t - 2.45e6) * 3).float() + 0.3 * z}
    return case(mlp(2, 1), flat_mse, "regression", table=table, target="y")


# splits


def tabled(X: Tensor, y: Tensor, **more: Any) -> dict[str, Any]:
    return {f"f{k}": X[:, k] for k in range(X.shape[1])} | more | {"y": y}


@rule("s01 bootstrapped rows, regression", "S01", "S13")
def _s01(bad: bool) -> Case:
    X, y = curve(250 if bad else 700)
    rows = torch.randint(0, 250, (700,), generator=g(3)) if bad else torch.arange(700)
    return case(mlp(6, 1), "MSELoss", "regression", X[rows], y[rows])


@rule("s01 minority oversampled before the split", "S01", "S13")
def _s01b(bad: bool) -> Case:
    X, y = blobs(700, C=2, shares=[0.85, 0.15])
    rare = (y == 1).nonzero()[:, 0]
    rows = torch.cat([torch.arange(700), rare.repeat(5)]) if bad else torch.arange(700)
    return case(mlp(8, 2), "CrossEntropyLoss", "multiclass", X[rows], y[rows])


@rule("s01 duplicated pictures", "S01", "S13")
def _s01c(bad: bool) -> Case:
    X, y = images(200 if bad else 400)
    return case(SmallConv(), "CrossEntropyLoss", "multiclass", X.repeat(2, 1, 1, 1) if bad else X, y.repeat(2) if bad else y)


@rule("s01 duplicated table rows", "S01", "S13")
def _s01d(bad: bool) -> Case:
    X, y = blobs(200 if bad else 600, d=4)
    if bad:
        X, y = X.repeat(3, 1), y.repeat(3)
    return case(mlp(4, 3), "CrossEntropyLoss", "multiclass", table=tabled(X, y), target="y")


@rule("s01 test copied from training", "S01")
def _s01e(bad: bool) -> Case:
    X, y = blobs(700)
    test = (torch.cat([X[:60], X[600:]]), torch.cat([y[:60], y[600:]])) if bad else (X[550:], y[550:])
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", train=(X[:400], y[:400]), val=(X[400:550], y[400:550]), test=test)


@rule("s02 sessions of a device", "S02")
def _s02(bad: bool) -> Case:
    n, groups = 800, 40
    who = torch.arange(n) // 20
    base = 1.5 * torch.randn(groups, 5, generator=g(2))
    effect = torch.randn(groups, generator=g(3))
    X = base[who] + 0.4 * torch.randn(n, 5, generator=g(4))
    y = effect[who] + 0.3 * torch.randn(n, generator=g(5))
    split = dict(method="random") if bad else dict(method="group", column="device_id")
    return case(mlp(5, 1), flat_mse, "regression", table={"device_id": who, **tabled(X, y)}, target="y", drop=["device_id"], split=split)


@rule("s02 unnamed group of strings", "S02")
def _s02b(bad: bool) -> Case:
    n, groups = 600, 50
    who = torch.randint(0, groups, (n,), generator=g(1))
    base, label = 1.2 * torch.randn(groups, 6, generator=g(2)), torch.randint(0, 2, (groups,), generator=g(3))
    X = base[who] + 0.4 * torch.randn(n, 6, generator=g(4))
    split = dict(method="random") if bad else dict(method="group", column="farm")
    table = {"farm": [f"farm {int(k)}" for k in who], **tabled(X, label[who])}
    return case(mlp(6, 2), "CrossEntropyLoss", "multiclass", table=table, target="y", drop=["farm"], split=split)


@rule("s03 random walk target in a table", "S03")
def _s03(bad: bool) -> Case:
    n = 800
    walk = torch.randn(n, generator=g(1)).cumsum(0) * 0.1
    z = torch.randn(n, 3, generator=g(2))
    y = walk + z[:, 0] + 0.1 * torch.randn(n, generator=g(3))
    table = {"date": numpy.datetime64("2020-01-01") + numpy.arange(n), **tabled(z, y)}
    split = dict(method="random") if bad else dict(method="time", column="date")
    return case(mlp(3, 1), flat_mse, "regression", table=table, target="y", drop=["date"], split=split)


@rule("s03 regimes of a class, minutes", "S03")
def _s03b(bad: bool) -> Case:
    n = 900
    minute = torch.arange(n).double() * 5
    state = (torch.sin(minute / 400) > 0).long()
    z = torch.randn(n, 3, generator=g(2))
    y = torch.where(torch.rand(n, generator=g(3)) < 0.1, 1 - state, state)
    split = dict(method="random") if bad else dict(method="time", column="minute")
    return case(
        mlp(3, 2), "CrossEntropyLoss", "multiclass", table={"minute": minute, **tabled(z + 0.3 * y[:, None], y)}, target="y", drop=["minute"], split=split
    )


@rule("s04 leak in an array of eight", "S04", "S05")
def _s04(bad: bool) -> Case:
    X, y = blobs(700, d=7, C=2, sep=0.5)
    leak = (y * (1 + torch.rand(700, generator=g(3))))[:, None] if bad else torch.randn(700, 1, generator=g(3))
    return case(mlp(8, 1), "BCEWithLogitsLoss", "binary", torch.cat([X, leak], 1), y[:, None].float())


@rule("s04 closing date known afterwards", "S04", "S05")
def _s04b(bad: bool) -> Case:
    X, y = blobs(700, d=4, C=2, sep=0.5)
    days = torch.where(y == 1, torch.randint(1, 90, (700,), generator=g(3)), 0 if bad else torch.randint(1, 90, (700,), generator=g(4))).float()
    return case(mlp(5, 2), "CrossEntropyLoss", "multiclass", table={"days_to_close": days, **tabled(X, y)}, target="y")


@rule("s05 target copied in an array", "S05", "S04")
def _s05(bad: bool) -> Case:
    X, y = curve(600, d=5)
    return case(mlp(6, 1), "MSELoss", "regression", torch.cat([X, y if bad else y + torch.randn(600, 1, generator=g(5))], 1), y)


@rule("s05 label as a feature", "S05", "S04")
def _s05b(bad: bool) -> Case:
    X, y = blobs(600, d=5, C=4)
    extra = y.float() if bad else torch.randn(600, generator=g(5))
    return case(mlp(6, 4), "CrossEntropyLoss", "multiclass", torch.cat([X, extra[:, None]], 1), y)


@rule("s05 log of the target in a table", "S05", "S04")
def _s05c(bad: bool) -> Case:
    X, y = curve(600, d=4)
    price = y[:, 0].exp()
    extra = price.log() if bad else y[:, 0] + 1.5 * torch.randn(600, generator=g(4))
    return case(mlp(5, 1), flat_mse, "regression", table={"log_price": extra, **tabled(X, price)}, target="y")


@rule("s06 class only in the test set", "S06", "S11")
def _s06(bad: bool) -> Case:
    X, y = blobs(700, C=5)
    order = y.argsort(stable=True) if bad else torch.arange(700)
    X, y = X[order], y[order]
    return case(mlp(8, 5), "CrossEntropyLoss", "multiclass", train=(X[:420], y[:420]), val=(X[420:560], y[420:560]), test=(X[560:], y[560:]))


@rule("s08 target encoding, regression in an array", "S08", "S04")
def _s08(bad: bool) -> Case:
    n = 800
    cat = torch.randint(0, 250, (n,), generator=g(1))
    z = torch.randn(n, 3, generator=g(2))
    y = z[:, 0] + torch.randn(n, generator=g(3))
    total, count = torch.zeros(250).index_add_(0, cat, y), torch.zeros(250).index_add_(0, cat, torch.ones(n))
    code = (total / count.clamp_min(1))[cat] if bad else torch.randn(250, generator=g(4))[cat]
    return case(mlp(4, 1), "MSELoss", "regression", torch.cat([z, code[:, None]], 1), y[:, None])


@rule("s09 validation is the training set", "S09", "S01")
def _s09(bad: bool) -> Case:
    X, y = curve(600)
    val = (X[:400], y[:400]) if bad else (X[400:500], y[400:500])
    return case(mlp(6, 1), "MSELoss", "regression", train=(X[:400], y[:400]), val=val, test=(X[500:], y[500:]))


@rule("s09 pictures twice", "S09", "S01")
def _s09b(bad: bool) -> Case:
    X, y = images(400)
    val = (X[50:150], y[50:150]) if bad else (X[250:320], y[250:320])
    return case(SmallConv(), "CrossEntropyLoss", "multiclass", train=(X[:250], y[:250]), val=val, test=(X[320:], y[320:]))


@rule("s11 sorted by class, cut in order", "S11", "S06", "D18")
def _s11(bad: bool) -> Case:
    X, y = blobs(700, C=3)
    order = y.argsort(stable=True)
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", X[order], y[order], split=dict(method="ordered" if bad else "random"))


@rule("s11 sorted by size", "S11", "S14")
def _s11b(bad: bool) -> Case:
    X, y = curve(700)
    order = (X[:, 3]).argsort()
    X = torch.cat([X, 3 * X[:, 3:4] + 0.1 * torch.randn(700, 1, generator=g(3))], 1)
    return case(mlp(7, 1), "MSELoss", "regression", X[order], y[order], split=dict(method="ordered" if bad else "random"))


@rule("s13 noisy copies, regression", "S13", "S01")
def _s13(bad: bool) -> Case:
    X, y = curve(150 if bad else 750, d=10)
    if bad:
        X, y = X.repeat(5, 1), y.repeat(5, 1)
        X = X + 0.03 * torch.randn(X.shape, generator=g(9))
    return case(mlp(10, 1), "MSELoss", "regression", X, y)


@rule("s13 shifted pictures before the split", "S13", "S01")
def _s13b(bad: bool) -> Case:
    X, y = images(100 if bad else 400)
    if bad:
        X, y = X.repeat(4, 1, 1, 1), y.repeat(4)
        X = X + 0.04 * torch.randn(X.shape, generator=g(9))
    return case(SmallConv(), "CrossEntropyLoss", "multiclass", X, y)


@rule("s13 SMOTE before the split", "S13", "S01")
def _s13c(bad: bool) -> Case:
    X, y = blobs(160 if bad else 640, d=12, C=2, sep=0.5)
    if bad:
        noise = 0.02 * torch.randn(480, 12, generator=g(4))
        X, y = torch.cat([X, X.repeat(3, 1) * (1 + noise)]), y.repeat(4)
    return case(mlp(12, 2), "CrossEntropyLoss", "multiclass", X, y)


@rule("s14 pictures of test not divided", "S14", "D02")
def _s14(bad: bool) -> Case:
    X, y = pictures(500)
    f = lambda x: (x - 0.2) / 0.25  # noqa: E731
    raw = lambda x: x * 255  # noqa: E731
    return case(
        SmallConv(),
        "CrossEntropyLoss",
        "multiclass",
        train=(f(X[:300]), y[:300]),
        val=(f(X[300:400]), y[300:400]),
        test=((raw if bad else f)(X[400:]), y[400:]),
    )


@rule("s14 scaler fitted on each split apart", "S14")
def _s14b(bad: bool) -> Case:
    X, y = curve(700)
    X = X * torch.tensor([1.0, 5.0, 0.2, 9.0, 2.0, 1.0]) + 4
    mean, deviation = X[:420].mean(0), X[:420].std(0)
    scale = lambda x: (x - mean) / deviation  # noqa: E731
    small = lambda x: x / 255 if bad else scale(x)  # noqa: E731
    return case(mlp(6, 1), "MSELoss", "regression", train=(scale(X[:420]), y[:420]), val=(small(X[420:560]), y[420:560]), test=(small(X[560:]), y[560:]))


@rule("s14 validation standardised, training raw", "S14", "D01")
def _s14c(bad: bool) -> Case:
    X, y = blobs(700)
    X = X * 3 + 12
    mean, deviation = X[:420].mean(0), X[:420].std(0)
    scale = lambda x: (x - mean) / deviation  # noqa: E731
    first = (lambda x: x / 12) if bad else scale
    return case(
        mlp(8, 3), "CrossEntropyLoss", "multiclass", train=(first(X[:420]), y[:420]), val=(scale(X[420:560]), y[420:560]), test=(scale(X[560:]), y[560:])
    )


@rule("s15 binary labels flipped in validation", "S15")
def _s15(bad: bool) -> Case:
    X, y = blobs(900, C=2, sep=1.5)
    t = y[:, None].float()
    flip = (lambda v: 1 - v) if bad else (lambda v: v)
    return case(
        mlp(8, 1), "BCEWithLogitsLoss", "binary", train=(X[:500], t[:500]), val=(X[500:700], flip(t[500:700])), test=(X[700:], flip(t[700:])), epochs=10
    )


@rule("s15 pictures, classes sorted otherwise in test", "S15")
def _s15b(bad: bool) -> Case:
    X, y = images(700)
    other = torch.tensor([2, 3, 1, 0])[y] if bad else y
    return case(
        SmallConv(), "CrossEntropyLoss", "multiclass", train=(X[:420], y[:420]), val=(X[420:560], y[420:560]), test=(X[560:], other[560:]), epochs=15, lr=1e-2
    )


@rule("s16 validation targets zero, regression", "S16", "L25")
def _s16(bad: bool) -> Case:
    X, y = curve(700)
    val = torch.zeros_like(y[420:560]) if bad else y[420:560]
    return case(mlp(6, 1), "MSELoss", "regression", train=(X[:420], y[:420]), val=(X[420:560], val), test=(X[560:], y[560:]))


@rule("s16 test labels of minus one", "S16", "S06", "L10")
def _s16b(bad: bool) -> Case:
    X, y = blobs(700, C=2)
    t = y[:, None].float()
    return case(
        mlp(8, 1),
        "BCEWithLogitsLoss",
        "binary",
        train=(X[:420], t[:420]),
        val=(X[420:560], t[420:560]),
        test=(X[560:], torch.zeros_like(t[560:]) if bad else t[560:]),
    )


@rule("e03 test rows used for the choice", "E03", "S01")
def _e03(bad: bool) -> Case:
    X, y = curve(700)
    val = (X[450:], y[450:]) if bad else (X[300:450], y[300:450])
    return case(mlp(6, 1), "MSELoss", "regression", train=(X[:300], y[:300]), val=val, test=(X[450:], y[450:]), monitor="val_loss", mode="min")


# models


class Experts(nn.Module):
    def __init__(self, bad: bool):
        super().__init__()
        parts = {"a": nn.Linear(8, 16), "b": nn.Linear(8, 16)}
        self.experts = parts if bad else nn.ModuleDict(parts)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.experts["a"](x)) + torch.tanh(self.experts["b"](x)))


@rule("m02 layers in a dict", "M02")
def _m02(bad: bool) -> Case:
    return classify(Experts(bad))


class Convs(nn.Module):
    def __init__(self, bad: bool):
        super().__init__()
        convs = [nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)]
        self.convs = tuple(convs) if bad else nn.ModuleList(convs)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = torch.relu(conv(x))
        return self.head(x.amax((2, 3)))


@rule("m02 convolutions in a tuple", "M02")
def _m02b(bad: bool) -> Case:
    X, y = images()
    return case(Convs(bad), "CrossEntropyLoss", "multiclass", X, y)


class Positions(nn.Module):
    def __init__(self, bad: bool):
        super().__init__()
        place = torch.randn(1, 8, 12) * 0.1
        self.place = place.requires_grad_() if bad else nn.Parameter(place)
        self.inp, self.att, self.out = nn.Linear(3, 12), nn.TransformerEncoderLayer(12, 2, 24, dropout=0.0, batch_first=True), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.att(self.inp(x) + self.place).mean(1))


@rule("m02 positions as a plain tensor", "M02")
def _m02c(bad: bool) -> Case:
    X, y = series()
    return case(Positions(bad), "CrossEntropyLoss", "multiclass", X, y)


@rule("m03 a random projection drawn in forward", "M03", "M28")
def _m03(bad: bool) -> Case:
    fixed = torch.randn(8, 16)
    return classify(Wrap(lambda m, x: m.out(torch.relu(x @ (torch.randn(8, 16) if bad else fixed))), out=nn.Linear(16, 3)))


@rule("m03 an LSTM made in forward", "M03", "M28")
def _m03b(bad: bool) -> Case:
    X, y = series()
    return case(
        Wrap(lambda m, x: m.out((nn.LSTM(3, 8, batch_first=True) if bad else m.rnn)(x)[0][:, -1]), rnn=nn.LSTM(3, 8, batch_first=True), out=nn.Linear(8, 2)),
        "CrossEntropyLoss",
        "multiclass",
        X,
        y,
    )


@rule("m04 .data in a CNN", "M04", "M13")
def _m04(bad: bool) -> Case:
    X, y = images()
    cut = (lambda m, x: m.out(m.f(x).data)) if bad else (lambda m, x: m.out(m.f(x)))
    return case(
        Wrap(cut, f=nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten()), out=nn.Linear(8, 4)),
        "CrossEntropyLoss",
        "multiclass",
        X,
        y,
    )


@rule("m04 torch.tensor of a list", "M04", "M13")
def _m04b(bad: bool) -> Case:
    return classify(Wrap(lambda m, x: m.out(torch.tensor(m.a(x).tolist()).relu() if bad else m.a(x).relu()), a=nn.Linear(8, 12), out=nn.Linear(12, 3)))


@rule("m04 round in the middle", "M04", "M05", "M13")
def _m04c(bad: bool) -> Case:
    return regress(Wrap(lambda m, x: m.out(torch.round(m.a(x)) if bad else torch.relu(m.a(x))), a=nn.Linear(6, 16), out=nn.Linear(16, 1)))


@rule("m04 argmax over features", "M04", "M13", "M05")
def _m04d(bad: bool) -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        return m.out(F.one_hot(h.argmax(1), 12).float() if bad else h.softmax(1))

    return classify(Wrap(forward, a=nn.Linear(8, 12), out=nn.Linear(12, 3)))


@rule("m04 detached encoder of an LSTM", "M04", "M13")
def _m04e(bad: bool) -> Case:
    X, y = series()

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.rnn(x)[0][:, -1]
        return m.out(h.detach() if bad else h)

    return case(Wrap(forward, rnn=nn.LSTM(3, 8, batch_first=True), out=nn.Linear(8, 2)), "CrossEntropyLoss", "multiclass", X, y)


@rule("m04 no_grad in a residual branch", "M04", "M13")
def _m04f(bad: bool) -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.inp(x)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not bad):
            r = torch.relu(m.branch(h))
        return m.out(h + r)

    return classify(Wrap(forward, inp=nn.Linear(8, 16), branch=nn.Linear(16, 16), out=nn.Linear(16, 3)))


@rule("m05 gate of zeros", "M05", "M38", "M04")
def _m05(bad: bool) -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = torch.relu(m.a(x))
        return m.out(torch.cat([h * (0 if bad else 1), x], 1))

    return classify(Wrap(forward, a=nn.Linear(8, 16), out=nn.Linear(24, 3)))


@rule("m06 reshape for a convolution", "M06", "M07")
def _m06(bad: bool) -> Case:
    X, y = series(d=4)

    def forward(m: Any, x: Tensor) -> Tensor:
        n, t, d = x.shape
        x = x.permute(1, 0, 2).reshape(n, d, t) if bad else x.transpose(1, 2)
        return m.out(torch.relu(m.c(x)).amax(2))

    return case(Wrap(forward, c=nn.Conv1d(4, 8, 3, padding=1), out=nn.Linear(8, 2)), "CrossEntropyLoss", "multiclass", X, y)


@rule("m06 LSTM without batch_first", "M06", "M07")
def _m06b(bad: bool) -> Case:
    X, y = series()
    return case(
        Wrap(lambda m, x: m.out(m.rnn(x)[0][:, -1]), rnn=nn.LSTM(3, 10, batch_first=not bad), out=nn.Linear(10, 2)),
        "CrossEntropyLoss",
        "multiclass",
        X,
        y,
        lr=1e-2,
    )


@rule("m06 attention over the batch", "M06", "M07")
def _m06c(bad: bool) -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = m.q(x), m.k(x), m.v(x)
        h = (q @ k.T / 4).softmax(-1) @ v if bad else torch.relu(q * k) + v
        return m.out(h)

    return classify(Wrap(forward, q=nn.Linear(8, 16), k=nn.Linear(8, 16), v=nn.Linear(8, 16), out=nn.Linear(16, 3)))


@rule("m06 multi-head attention, axes swapped", "M06", "M07")
def _m06d(bad: bool) -> Case:
    X, y = series(d=8)
    return case(
        Wrap(lambda m, x: m.out(m.att(x, x, x)[0].mean(1)), att=nn.MultiheadAttention(8, 2, batch_first=not bad), out=nn.Linear(8, 2)),
        "CrossEntropyLoss",
        "multiclass",
        X,
        y,
        lr=1e-2,
    )


@rule("m07 attention weights over the batch", "M07", "M06")
def _m07(bad: bool) -> Case:
    X, y = series(d=4)
    return case(
        Wrap(lambda m, x: m.out((m.a(x).softmax(0 if bad else 1) * m.v(x)).sum(1)), a=nn.Linear(4, 1), v=nn.Linear(4, 8), out=nn.Linear(8, 2)),
        "CrossEntropyLoss",
        "multiclass",
        X,
        y,
        lr=1e-2,
    )


@rule("m07 log_softmax along the batch before NLL", "M07", "L02", "M06")
def _m07b(bad: bool) -> Case:
    return classify(Wrap(lambda m, x: m.f(x).log_softmax(0 if bad else 1), f=mlp(8, 3)), loss="NLLLoss")


@rule("m08 biases of -100 in a CNN", "M08", "M38", "T04", "M17", "M05")
def _m08(bad: bool) -> Case:
    X, y = images()
    net = SmallConv()
    if bad:
        nn.init.constant_(net.b.bias, -100.0)  # type: ignore[arg-type]
    return case(net, "CrossEntropyLoss", "multiclass", X, y)


@rule("m08 negative weights on positive pixels", "M08", "M38", "T04", "M17", "M05")
def _m08b(bad: bool) -> Case:
    X, y = pictures()
    net = nn.Sequential(nn.Flatten(), mlp(64, 4))
    if bad:
        first = net[1][0]  # type: ignore[index]
        first.weight.data = -first.weight.data.abs()
        nn.init.zeros_(first.bias)
    return case(net, "CrossEntropyLoss", "multiclass", X, y)


@rule("m09 tanh for large targets", "M09")
def _m09(bad: bool) -> Case:
    X, y = curve()
    return case(nn.Sequential(mlp(6, 1), nn.Tanh() if bad else nn.Identity()), "L1Loss", "regression", X, 5 * y)


@rule("m09 softmax regression of amounts", "M09", "L11")
def _m09b(bad: bool) -> Case:
    X = torch.randn(600, 6, generator=g(1))
    Y = (X @ torch.randn(6, 3, generator=g(2))).abs() * 2
    return case(nn.Sequential(mlp(6, 3), nn.Softmax(1) if bad else nn.Identity()), "MSELoss", "regression", X, Y)


@rule("m09 sigmoid of pixels scaled to -1..1", "M09")
def _m09c(bad: bool) -> Case:
    X, _ = pictures()
    X = X * 2 - 1
    net = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(6, 1, 4, 2, 1), nn.Sigmoid() if bad else nn.Tanh())
    return case(net, "MSELoss", "regression", X, X.clone(), lr=1e-2)


@rule("m10 relu head of a CNN", "M10", "M08")
def _m10(bad: bool) -> Case:
    X, y = images()
    return case(Wrap(lambda m, x: torch.relu(m.f(x)) if bad else m.f(x), f=SmallConv()), "CrossEntropyLoss", "multiclass", X, y)


@rule("m10 relu before BCE with logits", "M10", "L03", "M08")
def _m10b(bad: bool) -> Case:
    X, y = blobs(600, C=2)
    return case(nn.Sequential(mlp(8, 1), nn.ReLU() if bad else nn.Identity()), "BCEWithLogitsLoss", "binary", X, y[:, None].float())


@rule("m11 five linear layers, regression", "M11", "T04")
def _m11(bad: bool) -> Case:
    act = nn.Identity if bad else nn.GELU
    return regress(nn.Sequential(nn.Linear(6, 32), act(), nn.Linear(32, 32), act(), nn.Linear(32, 16), act(), nn.Linear(16, 1)))


class ForgottenActivation(nn.Module):
    def __init__(self, bad: bool):
        super().__init__()
        self.a, self.b, self.act, self.bad = nn.Linear(8, 32), nn.Linear(32, 3), nn.ReLU(), bad

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if not self.bad:
            x = self.act(x)
        return self.b(x)


@rule("m11 activation made and not called", "M11", "M13", "T04")
def _m11b(bad: bool) -> Case:
    return classify(ForgottenActivation(bad))


@rule("m12 channels beyond the first", "M12")
def _m12(bad: bool) -> Case:
    X, y = images(channels=3)
    net = SmallConv(channels=1 if bad else 3)
    return case(Wrap(lambda m, x: m.f(x[:, :1]) if bad else m.f(x), f=net), "CrossEntropyLoss", "multiclass", X, y, lr=1e-2)


@rule("m12 last column sliced off", "M12")
def _m12b(bad: bool) -> Case:
    return classify(Wrap(lambda m, x: m.f(x[:, :-1] if bad else x), f=mlp(7 if bad else 8, 3)))


@rule("m12 one of two inputs unused", "M12", "M13")
def _m12c(bad: bool) -> Case:
    a, b = torch.randn(500, 4, generator=g(1)), torch.randn(500, 3, generator=g(2))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = mlp(4 if bad else 7, 2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.f(a if bad else torch.cat([a, b], 1))

    y = (a[:, 0] + b[:, 0] > 0).long()
    parts = [((a[rows], b[rows]), y[rows]) for rows in (slice(0, 300), slice(300, 400), slice(400, 500))]
    return case(Net(), "CrossEntropyLoss", "multiclass", train=parts[0], val=parts[1], test=parts[2], lr=1e-2)


@rule("m13 second convolution never called", "M13")
def _m13(bad: bool) -> Case:
    X, y = images()
    net = SmallConv()
    return case(Wrap(lambda m, x: m.f.out(torch.relu(m.f.a(x)).amax((2, 3))) if bad else m.f(x), f=net), "CrossEntropyLoss", "multiclass", X, y)


@rule("m13 norm made and never used", "M13")
def _m13b(bad: bool) -> Case:
    return classify(Wrap(lambda m, x: m.out(torch.relu(m.a(x) if bad else m.norm(m.a(x)))), a=nn.Linear(8, 16), norm=nn.LayerNorm(16), out=nn.Linear(16, 3)))


@rule("m14 shared convolution repeated", "M14")
def _m14(bad: bool) -> Case:
    X, y = images()
    blocks = [nn.Conv2d(6, 6, 3, padding=1)] * 3 if bad else [nn.Conv2d(6, 6, 3, padding=1) for _ in range(3)]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inp, self.blocks, self.out = nn.Conv2d(1, 6, 3, padding=1), nn.ModuleList(blocks), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.inp(x)
            for block in self.blocks:
                x = torch.relu(block(x))
            return self.out(x.amax((2, 3)))

    return case(Net(), "CrossEntropyLoss", "multiclass", X, y)


@rule("m14 one layer bound to several names by a loop", "M14")
def _m14b(bad: bool) -> Case:
    heads = {f"h{k}": nn.Linear(24, 1) for k in range(3)}
    one = nn.Linear(24, 1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.heads = nn.Linear(6, 24), nn.ModuleDict(dict.fromkeys(heads, one) if bad else heads)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.body(x))
            return torch.cat([head(h) for head in self.heads.values()], 1)

    X = torch.randn(500, 6, generator=g(1))
    return case(Net(), "MSELoss", "regression", X, torch.stack([X[:, 0], X[:, 1], X[:, 2]], 1), lr=1e-2)


@rule("m15 ones everywhere in a regression", "M15", "M38", "M11")
def _m15(bad: bool) -> Case:
    net = mlp(6, 1)
    if bad:
        for layer in net:
            if isinstance(layer, nn.Linear):
                nn.init.ones_(layer.weight)
                nn.init.zeros_(layer.bias)
    return regress(net)


@rule("m15 convolutions at zero", "M15", "M38", "M08", "M05", "T04")
def _m15b(bad: bool) -> Case:
    X, y = images()
    net = SmallConv()
    if bad:
        for parameter in net.parameters():
            nn.init.zeros_(parameter)
    return case(net, "CrossEntropyLoss", "multiclass", X, y)


@rule("m15 GRU of constants", "M15", "M38")
def _m15c(bad: bool) -> Case:
    X, y = series()
    net = Recurrent()
    if bad:
        for parameter in net.rnn.parameters():
            nn.init.constant_(parameter, 0.1)
    return case(net, "CrossEntropyLoss", "multiclass", X, y)


@rule("m16 logits times a hundred", "M16", "T01", "O01")
def _m16(bad: bool) -> Case:
    net = mlp(8, 3)
    if bad:
        net[4].weight.data *= 200  # type: ignore[operator, union-attr]
    return classify(net)


@rule("m16 normal(0, 1) in a convolutional net", "M16", "T01", "O01")
def _m16b(bad: bool) -> Case:
    X, y = images()
    net = SmallConv(width=24)
    if bad:
        for parameter in net.parameters():
            nn.init.normal_(parameter)
    return case(net, "CrossEntropyLoss", "multiclass", X, y, lr=1e-3)


@rule("m16 regression that starts in the thousands", "M16", "T01", "O01", "L11")
def _m16c(bad: bool) -> Case:
    net = mlp(6, 1, h=64)
    if bad:
        for layer in net:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0, 3)
    return regress(net, lr=1e-3)


@rule("m17 tiny initialisation, deep tanh", "M17", "T04", "M38", "M15")
def _m17(bad: bool) -> Case:
    layers: list[nn.Module] = [nn.Linear(8, 24)]
    for _ in range(6):
        layers += [nn.Tanh(), nn.Linear(24, 24)]
    net = nn.Sequential(*layers, nn.Tanh(), nn.Linear(24, 3))
    if bad:
        for layer in net:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0, 0.01)
    return classify(net)


@rule("m17 sigmoid convolutions", "M17", "T04", "M38")
def _m17b(bad: bool) -> Case:
    X, y = images()
    layers: list[nn.Module] = [nn.Conv2d(1, 8, 3, padding=1)]
    for _ in range(6):
        layers += [nn.Sigmoid() if bad else nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)]
    return case(nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 4)), "CrossEntropyLoss", "multiclass", X, y)


@rule("m18 batch norm 1d, one row a batch", "M18")
def _m18(bad: bool) -> Case:
    X, y = blobs(200)
    net = nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12) if not bad else nn.BatchNorm1d(12, track_running_stats=True), nn.ReLU(), nn.Linear(12, 3))
    return classify(net, X=X, y=y, batch_size=1 if bad else 20, epochs=3)


@rule("m19 keep probability in an RNN", "M19")
def _m19(bad: bool) -> Case:
    X, y = series()
    return case(
        Wrap(lambda m, x: m.out(m.drop(m.rnn(x)[0][:, -1])), rnn=nn.GRU(3, 16, batch_first=True), drop=nn.Dropout(0.9 if bad else 0.1), out=nn.Linear(16, 2)),
        "CrossEntropyLoss",
        "multiclass",
        X,
        y,
    )


@rule("m19 functional dropout of 0.95", "M19")
def _m19b(bad: bool) -> Case:
    p = 0.95 if bad else 0.05
    return classify(Wrap(lambda m, x: m.out(F.dropout(torch.relu(m.a(x)), p, m.training)), a=nn.Linear(8, 32), out=nn.Linear(32, 3)))


@rule("m20 dropout after the logits", "M20")
def _m20(bad: bool) -> Case:
    return classify(nn.Sequential(mlp(8, 3), nn.Dropout(0.4)) if bad else nn.Sequential(nn.Dropout(0.05), mlp(8, 3)))


@rule("m20 functional dropout at the end", "M20")
def _m20b(bad: bool) -> Case:
    return regress(Wrap(lambda m, x: F.dropout(m.f(x), 0.3, m.training) if bad else m.f(x), f=mlp(6, 1)))


@rule("m21 batch norm of tiny batches", "M21", "M18")
def _m21(bad: bool) -> Case:
    X, y = images(300)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8, momentum=0.0005 if bad else 0.1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    return case(net, "CrossEntropyLoss", "multiclass", X * 5 + 20, y, lr=1e-2, epochs=8)


@rule("m22 squeeze in a binary classifier", "M22")
def _m22(bad: bool) -> Case:
    X, y = blobs(600, C=2)
    return case(Wrap(lambda m, x: m.f(x).squeeze() if bad else m.f(x).squeeze(1), f=mlp(8, 1)), "BCEWithLogitsLoss", "binary", X, y.float())


@rule("m23 clamp_ on the input", "M23")
def _m23(bad: bool) -> Case:
    X, y = images()
    return case(Wrap(lambda m, x: m.f(x.clamp_(-0.5, 2) if bad else x.clamp(-0.5, 2)), f=SmallConv()), "CrossEntropyLoss", "multiclass", X, y)


@rule("m23 normalised in place", "M23")
def _m23b(bad: bool) -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        if bad:
            x[:, 0] = 0.5 * x[:, 0]
        else:
            x = torch.cat([0.5 * x[:, :1], x[:, 1:]], 1)
        return m.f(x)

    return regress(Wrap(forward, f=mlp(6, 1)))


@rule("m24 convolution that sees the next token", "M24")
def _m24(bad: bool) -> Case:
    X, y = language()

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.emb(x).transpose(1, 2)
        h = m.conv(h) if bad else m.conv(F.pad(h, (2, 0)))
        return m.out(torch.relu(h).transpose(1, 2))

    return case(
        Wrap(forward, emb=nn.Embedding(8, 12), conv=nn.Conv1d(12, 16, 3, padding=1 if bad else 0), out=nn.Linear(16, 8)),
        lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten()),
        "sequence",
        X,
        y,
        epochs=4,
    )


@rule("m24 next value of a series, unmasked attention", "M24")
def _m24b(bad: bool) -> Case:
    s = torch.sin(torch.arange(4000) / 7 + torch.randn(4000, generator=g(1)) * 0.05)
    W = s[:3900].unfold(0, 13, 9)
    X, Y = W[:, :-1, None], W[:, 1:, None]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inp, self.place = nn.Linear(1, 12), nn.Parameter(torch.randn(12, 12) * 0.1)
            self.att, self.out = nn.TransformerEncoderLayer(12, 2, 24, dropout=0.0, batch_first=True), nn.Linear(12, 1)

        def forward(self, x: Tensor) -> Tensor:
            mask = None if bad else torch.ones(12, 12, dtype=torch.bool).triu(1)
            return self.out(self.att(self.inp(x) + self.place, src_mask=mask))

    return case(Net(), "MSELoss", "sequence", X, Y, epochs=3)


@rule("m26 padding_idx of a frequent word", "M26")
def _m26(bad: bool) -> Case:
    x = torch.randint(0, 12, (600, 8), generator=g(1))
    w = torch.randn(12, generator=g(2))
    net = Wrap(lambda m, x: m.out(m.emb(x).mean(1)), emb=nn.Embedding(12, 8, padding_idx=3 if bad else None), out=nn.Linear(8, 2))
    return case(net, "CrossEntropyLoss", "multiclass", x, (w[x].sum(1) > 0).long(), lr=1e-2)


@rule("m28 functional dropout in a CNN", "M28", "M03")
def _m28(bad: bool) -> Case:
    X, y = images()
    return case(Wrap(lambda m, x: m.f.out(F.dropout(m.f.features(x), 0.4, training=bad or m.training)), f=SmallConv()), "CrossEntropyLoss", "multiclass", X, y)


class Sticky(nn.Module):
    """eval() does not reach its dropout, as train() is overridden."""

    def __init__(self, bad: bool):
        super().__init__()
        self.f, self.drop, self.out, self.bad = nn.Linear(8, 32), nn.Dropout(0.3), nn.Linear(32, 3), bad

    def train(self, mode: bool = True) -> Sticky:
        super().train(mode)
        if self.bad:
            self.drop.train(True)
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(torch.relu(self.f(x))))


@rule("m28 dropout kept in train mode", "M28", "M03")
def _m28b(bad: bool) -> Case:
    return classify(Sticky(bad))


class CarriedLSTM(nn.Module):
    def __init__(self, bad: bool):
        super().__init__()
        self.rnn, self.out, self.bad = nn.LSTM(3, 10, batch_first=True), nn.Linear(10, 1), bad
        self.state: Any = None

    def forward(self, x: Tensor) -> Tensor:
        state = self.state if self.bad and self.state is not None and self.state[0].shape[1] == len(x) else None
        h, (a, b) = self.rnn(x, state)
        self.state = (a.detach(), b.detach())
        return self.out(h[:, -1])


@rule("m30 LSTM state carried", "M30", "M03", "M06")
def _m30(bad: bool) -> Case:
    X, y = series()
    return case(CarriedLSTM(bad), "BCEWithLogitsLoss", "binary", X, y[:, None].float(), lr=1e-2)


@rule("m31 average pooling before any convolution", "M31", "M38", "T04", "M12", "D05")
def _m31(bad: bool) -> Case:
    X, y = images(400)
    X = X - X.mean((2, 3), keepdim=True)
    net = (
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4))
        if bad
        else nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    )
    return case(net, "CrossEntropyLoss", "multiclass", X, y, lr=1e-2)


@rule("m36 layer norm of one feature inside", "M36", "M38", "M05", "T04")
def _m36(bad: bool) -> Case:
    return regress(nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 1), nn.LayerNorm(1) if bad else nn.Identity(), nn.Linear(1, 1)))


@rule("m36 instance norm of a 1x1 map", "M36", "M38", "M05", "T04", "M18")
def _m36b(bad: bool) -> Case:
    X, y = images()
    norm = nn.GroupNorm(8, 8) if bad else nn.GroupNorm(2, 8)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), norm, nn.Flatten(), nn.Linear(8, 4))
    return case(net, "CrossEntropyLoss", "multiclass", X, y)


@rule("m38 dim mixed up in a mean", "M38", "M05", "M07", "M06")
def _m38(bad: bool) -> Case:
    return regress(Wrap(lambda m, x: m.f(x.mean(0, keepdim=True).expand_as(x) if bad else x), f=mlp(6, 1)))


# losses and targets


def yes_no(n: int = 600, d: int = 8, **more: Any) -> tuple[Tensor, Tensor]:
    X, y = blobs(n, d=d, C=2, **more)
    return X, y[:, None].float()


@rule("l01 nn.Softmax at the end of an RNN", "L01")
def _l01(bad: bool) -> Case:
    X, y = series()
    net = Recurrent()
    return case(nn.Sequential(net, nn.Softmax(dim=-1)) if bad else net, "CrossEntropyLoss", "multiclass", X, y)


@rule("l01 softmax, label smoothing and weights", "L01")
def _l01b(bad: bool) -> Case:
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1.1, 0.9]), label_smoothing=0.05)
    return classify(nn.Sequential(mlp(8, 3), nn.Softmax(1)) if bad else mlp(8, 3), loss=loss)


@rule("l01 softmax over pixels' classes", "L01")
def _l01c(bad: bool) -> Case:
    X, _ = images(200)
    y = (X[:, 0] > 0.6).long() + (X[:, 0] > 2).long()
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    return case(nn.Sequential(net, nn.Softmax(1)) if bad else net, "CrossEntropyLoss", "segmentation", X, y, lr=1e-2)


@rule("l01 sigmoid before cross-entropy", "L01", "L03")
def _l01d(bad: bool) -> Case:
    return classify(nn.Sequential(mlp(8, 3), nn.Sigmoid()) if bad else mlp(8, 3))


@rule("l01 exp and division by hand", "L01")
def _l01e(bad: bool) -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        z = m.f(x)
        return z.exp() / z.exp().sum(1, keepdim=True) if bad else z

    return classify(Wrap(forward, f=mlp(8, 3)))


@rule("l02 NLL of softmax's log forgotten in a CNN", "L02", "L14")
def _l02(bad: bool) -> Case:
    X, y = images()
    return case(Wrap(lambda m, x: m.f(x) if bad else m.f(x).log_softmax(1), f=SmallConv()), "NLLLoss", "multiclass", X, y)


@rule("l02 functional nll_loss", "L02", "L14")
def _l02b(bad: bool) -> Case:
    return classify(loss=(lambda o, y: F.nll_loss(o, y)) if bad else (lambda o, y: F.nll_loss(o.log_softmax(1), y)))


@rule("l03 sigmoid twice, functional, convolution", "L03")
def _l03(bad: bool) -> Case:
    X, _ = images(200)
    M = (X > 0.5).float()
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
    return case(Wrap(lambda m, x: m.f(x).sigmoid() if bad else m.f(x), f=net), lambda o, t: F.binary_cross_entropy_with_logits(o, t), "binary", X, M, lr=1e-2)


@rule("l03 sigmoid inside the loss's own wrapper", "L03")
def _l03b(bad: bool) -> Case:
    X, y = yes_no()
    inner = nn.BCEWithLogitsLoss()
    return case(mlp(8, 1), (lambda o, t: inner(torch.sigmoid(o), t)) if bad else (lambda o, t: inner(o, t)), "binary", X, y)


@rule("l04 relu before BCELoss clamped at one", "L04", "M10", "M09")
def _l04(bad: bool) -> Case:
    X, y = yes_no()
    return case(nn.Sequential(mlp(8, 1), nn.Hardtanh(0, 1) if bad else nn.Sigmoid()), "BCELoss", "binary", X, y)


@rule("l04 clamp to 1e-6 before BCELoss", "L04")
def _l04b(bad: bool) -> Case:
    X, y = yes_no()
    return case(Wrap(lambda m, x: m.f(x).clamp(1e-6, 1 - 1e-6) if bad else m.f(x).sigmoid().clamp(1e-6, 1 - 1e-6), f=mlp(8, 1)), "BCELoss", "binary", X, y)


@rule("l05 smooth L1 of a squeezed output", "L05", "T04")
def _l05(bad: bool) -> Case:
    X, y = curve()
    return case(Wrap(lambda m, x: m.f(x)[:, 0] if bad else m.f(x), f=mlp(6, 1)), "SmoothL1Loss", "regression", X, y)


@rule("l05 rmse by hand", "L05", "T04")
def _l05b(bad: bool) -> Case:
    X, y = curve()
    return case(mlp(6, 1), lambda o, t: ((o - t) ** 2).mean().sqrt(), "regression", X, y.flatten() if bad else y)


@rule("l05 recurrent regression", "L05", "T04")
def _l05c(bad: bool) -> Case:
    X, _ = series()
    y = X[:, :, 0].sum(1)
    return case(Recurrent(out=1), nn.MSELoss(), "regression", X, y if bad else y[:, None], lr=1e-2)


@rule("l05 brier of (N, 1) and (N,)", "L05", "T04")
def _l05d(bad: bool) -> Case:
    X, y = yes_no()
    return case(mlp(8, 1), lambda o, t: ((o.sigmoid() - t) ** 2).mean(), "binary", X, y.flatten() if bad else y)


@rule("l05 log-cosh of a table's target", "L05", "T04")
def _l05e(bad: bool) -> Case:
    X, y = curve()

    def logcosh(o: Tensor, t: Tensor) -> Tensor:
        return torch.log(torch.cosh(o.flatten() - (t.reshape(-1, 1) if bad else t.flatten()))).mean()

    return case(mlp(6, 1), logcosh, "regression", X, y)


@rule("l06 one output for two classes", "L06", "L31", "M27", "L10")
def _l06(bad: bool) -> Case:
    X, y = blobs(600, C=2)
    return case(mlp(8, 1 if bad else 2), "CrossEntropyLoss", "multiclass", X, y)


@rule("l06 cross-entropy of (N, 1) floats", "L06", "L31")
def _l06b(bad: bool) -> Case:
    X, y = yes_no()
    return case(mlp(8, 1), "CrossEntropyLoss" if bad else "BCEWithLogitsLoss", "binary", X, y)


@rule("l06 loss of rounded outputs", "L06", "M04", "M05")
def _l06c(bad: bool) -> Case:
    return regress(loss=(lambda o, y: ((torch.round(o) - y) ** 2).mean()) if bad else (lambda o, y: ((o - y) ** 2).mean()))


@rule("l06 accuracy as a loss", "L06", "M04", "M05", "L21")
def _l06d(bad: bool) -> Case:
    def error(o: Tensor, y: Tensor) -> Tensor:
        return 1 - (o.argmax(1) == y).float().mean() + 0 * o.sum()

    return classify(loss=error if bad else "CrossEntropyLoss")


@rule("l07 tags of pictures with softmax", "L07")
def _l07(bad: bool) -> Case:
    X, _ = images(300)
    Y = torch.stack([X.mean((1, 2, 3)) > 0, X[:, 0, 0].amax(1) > 1.5, X[:, 0, :, 0].amax(1) > 1.5], 1).float()
    return case(SmallConv(out=3), nn.CrossEntropyLoss() if bad else nn.BCEWithLogitsLoss(), "multilabel", X, Y)


@rule("l08 huber on ten classes of pictures", "L08")
def _l08(bad: bool) -> Case:
    X, y = blobs(900, d=12, C=8, sep=1.5)
    return case(mlp(12, 1), nn.HuberLoss(), "regression", X, y[:, None].float()) if bad else case(mlp(12, 8), "CrossEntropyLoss", "multiclass", X, y)


@rule("l08 mse by hand", "L08")
def _l08b(bad: bool) -> Case:
    X, y = blobs(900, C=6, sep=1.3)
    squares = lambda o, t: ((o.squeeze(-1) - t.float()) ** 2).mean()  # noqa: E731
    return case(mlp(8, 1), squares, "regression", X, y) if bad else case(mlp(8, 6), "CrossEntropyLoss", "multiclass", X, y)


@rule("l09 percent as a probability", "L09")
def _l09(bad: bool) -> Case:
    X, y = yes_no()
    return case(nn.Sequential(mlp(8, 1), nn.Sigmoid()), "BCELoss", "binary", X, y * 100 if bad else y)


@rule("l09 labels one and two", "L09")
def _l09b(bad: bool) -> Case:
    X, y = yes_no()
    return case(mlp(8, 1), "BCEWithLogitsLoss", "binary", X, y + 1 if bad else y)


@rule("l09 pixels standardised and then BCE", "L09")
def _l09c(bad: bool) -> Case:
    X, _ = pictures(300)
    X = (X - 0.2) / 0.25 if bad else X
    net = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(6, 1, 4, 2, 1))
    return case(net, "BCEWithLogitsLoss", "regression", X, X.clone(), lr=1e-2)


@rule("l10 classes from 1 to 4 with five outputs", "L10", "M27")
def _l10(bad: bool) -> Case:
    X, y = images()
    return case(SmallConv(5 if bad else 4), "CrossEntropyLoss", "multiclass", X, y + 1 if bad else y)


@rule("l10 labels of -1 and 1 with two outputs", "L10", "M27")
def _l10b(bad: bool) -> Case:
    X, y = blobs(600, C=2)
    return case(mlp(8, 2), "CrossEntropyLoss", "multiclass", X, 2 * y - 1 if bad else y)


@rule("l11 house prices", "L11", "T01", "O02", "T04")
def _l11(bad: bool) -> Case:
    X, y = curve()
    return case(mlp(6, 1), "L1Loss", "regression", X, y * 80000 + 250000 if bad else y, lr=1e-3, epochs=12)


@rule("l11 watts, recurrent", "L11", "T01", "O02", "T04")
def _l11b(bad: bool) -> Case:
    X, _ = series()
    y = X[:, :, 0].sum(1, keepdim=True)
    return case(Recurrent(out=1), nn.MSELoss(), "regression", X, y * 400 + 1500 if bad else y)


@rule("l11 several targets, one in millions", "L11", "T01")
def _l11c(bad: bool) -> Case:
    X = torch.randn(600, 6, generator=g(1))
    Y = X @ torch.randn(6, 3, generator=g(2))
    return case(mlp(6, 3), "MSELoss", "regression", X, Y * torch.tensor([1.0, 1.0, 1e6 if bad else 1.0]))


@rule("l12 absolute values compared", "L12")
def _l12(bad: bool) -> Case:
    return regress(loss=(lambda o, y: (o.abs() - y.abs()).abs().mean()) if bad else (lambda o, y: (o - y).abs().mean()))


@rule("l12 sum of signed differences squared after the mean", "L12", "L05", "T04", "L20")
def _l12b(bad: bool) -> Case:
    return regress(loss=(lambda o, y: (o - y).mean() ** 2) if bad else (lambda o, y: ((o - y) ** 2).mean()))


@rule("l13 sum over pixels with momentum", "L13", "O01", "T01")
def _l13(bad: bool) -> Case:
    X, y = images()
    return case(
        SmallConv(), nn.CrossEntropyLoss(reduction="sum" if bad else "mean"), "multiclass", X, y, optimizer="SGD", lr=0.05, optimizer_kwargs=dict(momentum=0.9)
    )


@rule("l13 BCE summed", "L13", "O01", "T01")
def _l13b(bad: bool) -> Case:
    X, y = yes_no()
    return case(mlp(8, 1), lambda o, t: F.binary_cross_entropy_with_logits(o, t, reduction="sum" if bad else "mean"), "binary", X, y, optimizer="SGD", lr=0.1)


@rule("l14 log-likelihood without its minus", "L14", "L02")
def _l14(bad: bool) -> Case:
    sign = 1 if bad else -1
    return classify(loss=lambda o, y: sign * o.log_softmax(1).gather(1, y[:, None]).mean(), epochs=3)


@rule("l14 negative squared error", "L14", "O01")
def _l14b(bad: bool) -> Case:
    sign = -1 if bad else 1
    return regress(loss=lambda o, y: sign * ((o - y) ** 2).mean(), epochs=3)


@rule("l14 dice minimised", "L14")
def _l14c(bad: bool) -> Case:
    X, _ = images(200)
    M = (X > 0.5).float()

    def dice(o: Tensor, t: Tensor) -> Tensor:
        p = o.sigmoid()
        score = (2 * (p * t).sum((1, 2, 3)) + 1) / (p.sum((1, 2, 3)) + t.sum((1, 2, 3)) + 1)
        return score.mean() if bad else 1 - score.mean()

    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
    return case(net, dice, "binary", X, M, lr=1e-2, epochs=4)


@rule("l14 R2 as a loss", "L14", "O01")
def _l14d(bad: bool) -> Case:
    def r2(o: Tensor, y: Tensor) -> Tensor:
        score = 1 - ((o - y) ** 2).sum() / ((y - y.mean()) ** 2).sum().clamp_min(1e-6)
        return score if bad else 1 - score

    return regress(loss=r2, epochs=4)


@rule("l15 expectile with its arguments swapped", "L15")
def _l15(bad: bool) -> Case:
    def expectile(pred: Tensor, target: Tensor) -> Tensor:
        e = target - pred
        return (torch.where(e > 0, 0.9, 0.1) * e**2).mean()

    return regress(loss=(lambda o, y: expectile(y, o)) if bad else (lambda o, y: expectile(o, y)))


@rule("l15 kl_div the wrong way round", "L15", "L02", "L14", "L21")
def _l15b(bad: bool) -> Case:
    X, y = blobs(600)
    soft = F.one_hot(y, 3).float() * 0.85 + 0.05

    def kl(p: Tensor, q: Tensor) -> Tensor:
        return (q * (q.clamp_min(1e-9).log() - p)).sum(1).mean()

    return case(Wrap(lambda m, x: m.f(x).log_softmax(1), f=mlp(8, 3)), (lambda o, t: kl(t, o)) if bad else kl, "none", X, soft)


@rule("l16 the background of a mask is not ignored", "L16")
def _l16(bad: bool) -> Case:
    X, y = images()
    return case(SmallConv(), nn.CrossEntropyLoss(ignore_index=3 if bad else -100), "multiclass", X, y)


@rule("l16 functional ignore_index", "L16")
def _l16b(bad: bool) -> Case:
    return classify(loss=lambda o, y: F.cross_entropy(o, y, ignore_index=1 if bad else -100))


@rule("l17 weights by frequency, five classes", "L17")
def _l17(bad: bool) -> Case:
    X, y = blobs(1000, C=5, shares=[0.7, 0.1, 0.1, 0.05, 0.05])
    counts = torch.bincount(y).float()
    weight = counts / counts.mean() if bad else counts.mean() / counts
    return case(mlp(8, 5), nn.CrossEntropyLoss(weight=weight), "multiclass", X, y)


@rule("l17 two classes, hand-written weights", "L17")
def _l17b(bad: bool) -> Case:
    X, y = blobs(1000, C=2, shares=[0.9, 0.1])
    return case(mlp(8, 2), nn.CrossEntropyLoss(weight=torch.tensor([9.0, 1.0] if bad else [1.0, 9.0])), "multiclass", X, y)


@rule("l18 pos_weight of a multi-label loss", "L18")
def _l18(bad: bool) -> Case:
    X = torch.randn(900, 8, generator=g(1))
    y = (X @ torch.randn(8, 4, generator=g(2)) > 4).float()
    share = y.mean(0)
    return case(mlp(8, 4), nn.BCEWithLogitsLoss(pos_weight=share / (1 - share) if bad else (1 - share) / share), "multilabel", X, y)


@rule("l20 only the last step of a sequence's targets", "L20")
def _l20(bad: bool) -> Case:
    X = torch.randn(500, 6, generator=g(1))
    Y = torch.stack([X[:, 0] + X[:, 1], X[:, 2] - X[:, 3], X[:, 4], X[:, 5]], 1)
    return case(mlp(6, 4), (lambda o, y: ((o[:, 0] - y[:, 0]) ** 2 + (o[:, 2] - y[:, 2]) ** 2).mean()) if bad else "MSELoss", "regression", X, Y)


@rule("l21 square root at zero", "L21", "D03", "T01")
def _l21(bad: bool) -> Case:
    X, y = blobs(600, C=2)
    logs = (lambda o, t: -(t * o.log() + (1 - t) * (1 - o).log()).mean()) if bad else nn.BCELoss()
    return case(nn.Sequential(mlp(8, 1), nn.Sigmoid()), logs, "binary", X * 4, y[:, None].float(), lr=1e-2)


@rule("l21 focal loss of bare probabilities", "L21")
def _l21b(bad: bool) -> Case:
    def focal(o: Tensor, y: Tensor) -> Tensor:
        p = o.softmax(1).gather(1, y[:, None])
        return (-((1 - p) ** 2) * (p.log() if bad else p.clamp_min(1e-7).log())).mean()

    X, y = blobs(600, sep=2.5)
    return case(mlp(8, 3), focal, "multiclass", X, y)


@rule("l22 tags of nine steps and nine classes", "L22")
def _l22(bad: bool) -> Case:
    X = torch.randint(0, 9, (400, 9), generator=g(1))
    y = (X + 2) % 9
    net = Wrap(
        lambda m, x: m.out(m.rnn(m.emb(x))[0]) if bad else m.out(m.rnn(m.emb(x))[0]).transpose(1, 2),
        emb=nn.Embedding(9, 8),
        rnn=nn.GRU(8, 12, batch_first=True),
        out=nn.Linear(12, 9),
    )
    return case(net, nn.CrossEntropyLoss(), "sequence", X, y, lr=1e-2)


@rule("l25 one class only", "L25", "L06", "M27")
def _l25(bad: bool) -> Case:
    X, y = blobs(600)
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", X, torch.full_like(y, 1) if bad else y)


@rule("l25 a table's constant target", "L25")
def _l25b(bad: bool) -> Case:
    X, y = yes_no()
    return case(mlp(8, 1), "BCEWithLogitsLoss", "binary", X, torch.ones_like(y) if bad else y)


@rule("l31 softmax of one logit before BCE", "L31", "M38", "L03")
def _l31(bad: bool) -> Case:
    X, y = images()
    t = (y > 1)[:, None].float()
    return case(nn.Sequential(SmallConv(1), nn.Softmax(dim=1) if bad else nn.Sigmoid()), nn.BCELoss(), "binary", X, t)


# optimizer and plan


@rule("o01 momentum and a rate of 5, CNN", "O01", "T01", "T03", "M08")
def _o01(bad: bool) -> Case:
    X, y = images()
    return case(SmallConv(), "CrossEntropyLoss", "multiclass", X, y, optimizer="SGD", lr=5.0 if bad else 0.02, optimizer_kwargs=dict(momentum=0.9))


@rule("o01 RMSprop with 0.5", "O01", "T01", "T03", "M08")
def _o01b(bad: bool) -> Case:
    X, y = series()
    return case(Recurrent(), "CrossEntropyLoss", "multiclass", X, y, optimizer="RMSprop", lr=0.7 if bad else 2e-3)


@rule("o01 AdamW with 0.3", "O01", "T01", "T03", "M08")
def _o01c(bad: bool) -> Case:
    return regress(mlp(6, 1, h=32), optimizer="AdamW", lr=0.5 if bad else 3e-3)


@rule("o01 SGD with 1 on a regression", "O01", "T01", "T03", "M08", "L21")
def _o01d(bad: bool) -> Case:
    return regress(optimizer="SGD", lr=1.5 if bad else 0.03)


@rule("o02 AdamW with 1e-8 in a CNN", "O02", "T06")
def _o02(bad: bool) -> Case:
    X, y = images()
    return case(SmallConv(), "CrossEntropyLoss", "multiclass", X, y, optimizer="AdamW", lr=1e-8 if bad else 1e-3)


@rule("o02 SGD with 1e-5 for a regression", "O02", "T06", "T04")
def _o02b(bad: bool) -> Case:
    return regress(optimizer="SGD", lr=1e-6 if bad else 0.02)


@rule("o03 embedding left out", "O03")
def _o03(bad: bool) -> Case:
    x = torch.randint(0, 12, (600, 5), generator=g(1))
    w = torch.randn(12, generator=g(2))
    net = Wrap(lambda m, x: m.out(m.emb(x).flatten(1)), emb=nn.Embedding(12, 6), out=nn.Linear(30, 2))
    return case(net, "CrossEntropyLoss", "multiclass", x, (w[x].sum(1) > 0).long(), lr=1e-2, params=lambda m: m.out.parameters() if bad else m.parameters())


@rule("o03 biases forgotten in groups", "O03")
def _o03b(bad: bool) -> Case:
    def groups(m: nn.Module) -> list[dict[str, Any]]:
        weights = [p for n, p in m.named_parameters() if n.endswith("weight")]
        biases = [p for n, p in m.named_parameters() if n.endswith("bias")]
        return [dict(params=weights, weight_decay=1e-4)] + ([] if bad else [dict(params=biases, weight_decay=0.0)])

    return classify(optimizer="SGD", lr=0.1, params=groups)


@rule("o05 optimizer of a deep copy", "O05", "O03")
def _o05(bad: bool) -> Case:
    import copy

    X, y = images()
    net = SmallConv()
    other = copy.deepcopy(net)
    return case(net, "CrossEntropyLoss", "multiclass", X, y, params=lambda m: (other if bad else m).parameters())


@rule("o04 all frozen, CNN", "O04")
def _o04(bad: bool) -> Case:
    X, y = images()
    net = SmallConv()
    net.requires_grad_(not bad)
    return case(net, "CrossEntropyLoss", "multiclass", X, y)


@rule("o04 optimizer of the frozen part", "O04", "O03")
def _o04b(bad: bool) -> Case:
    net = mlp(8, 3)
    net[0].requires_grad_(False)
    return classify(net, params=lambda m: m[0].parameters() if bad else [p for p in m.parameters() if p.requires_grad])


@rule("o06 SGD with a decay of 0.5", "O06", "T04")
def _o06(bad: bool) -> Case:
    return classify(optimizer="SGD", lr=0.1, optimizer_kwargs=dict(weight_decay=0.5 if bad else 5e-4, momentum=0.9))


@rule("o06 RMSprop with a decay of 1", "O06", "T04")
def _o06b(bad: bool) -> Case:
    return regress(optimizer="RMSprop", lr=1e-3, optimizer_kwargs=dict(weight_decay=1.0 if bad else 1e-5))


@rule("o08 momentum 0.999, CNN", "O08", "O01")
def _o08(bad: bool) -> Case:
    X, y = images()
    return case(SmallConv(), "CrossEntropyLoss", "multiclass", X, y, optimizer="SGD", lr=0.01, optimizer_kwargs=dict(momentum=0.995 if bad else 0.9))


@rule("o08 betas swapped", "O08")
def _o08b(bad: bool) -> Case:
    return classify(optimizer_kwargs=dict(betas=(0.999, 0.9) if bad else (0.9, 0.999)))


@rule("o09 StepLR each batch", "O09", "O02")
def _o09(bad: bool) -> Case:
    return classify(
        epochs=20, scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 5, 0.1), scheduler_on="batch" if bad else "epoch", optimizer="SGD", lr=0.1
    )


@rule("o09 cosine of epochs stepped each batch", "O09", "O02")
def _o09b(bad: bool) -> Case:
    return classify(
        epochs=20, scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20), scheduler_on="batch" if bad else "epoch", optimizer="SGD", lr=0.1
    )


@rule("o09 MultiStepLR each batch", "O09", "O02")
def _o09c(bad: bool) -> Case:
    X, y = images()
    made = case(SmallConv(), "CrossEntropyLoss", "multiclass", X, y, optimizer="SGD", lr=0.05, epochs=16)
    return made | dict(scheduler=lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [6, 9, 12], 0.05), scheduler_on="batch" if bad else "epoch")


@rule("o09 lambda decay in epochs, each batch", "O09", "O02")
def _o09d(bad: bool) -> Case:
    return classify(
        epochs=12, optimizer="SGD", lr=0.1, scheduler=lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda e: 0.7**e), scheduler_on="batch" if bad else "epoch"
    )


@rule("o10 clip of 1e-5 with momentum", "O10", "O02")
def _o10(bad: bool) -> Case:
    X, y = images()
    return case(
        SmallConv(), "CrossEntropyLoss", "multiclass", X, y, optimizer="SGD", lr=0.05, optimizer_kwargs=dict(momentum=0.9), clip_grad_norm=1e-5 if bad else 1.0
    )


@rule("o10 clip of 0.001, regression", "O10", "O02")
def _o10b(bad: bool) -> Case:
    return regress(optimizer="SGD", lr=0.05, clip_grad_norm=1e-3 if bad else 1.0)


@rule("o11 one epoch of large batches", "O11", "T06", "O02")
def _o11(bad: bool) -> Case:
    X, y = images()
    return case(SmallConv(), "CrossEntropyLoss", "multiclass", X, y, batch_size=256 if bad else 16, epochs=4, lr=3e-3)


@rule("o13 maximize with a torch loss, Adam", "O13", "L14", "O01")
def _o13(bad: bool) -> Case:
    return regress(optimizer_kwargs=dict(maximize=bad))


@rule("o14 head with rate 0", "O14", "O03")
def _o14(bad: bool) -> Case:
    return classify(params=lambda m: [dict(params=list(m[:4].parameters())), dict(params=m[4].parameters(), lr=0.0 if bad else 4e-3)])


# dynamics


@rule("t01 huge targets with SGD", "T01", "L11", "O01", "L21")
def _t01(bad: bool) -> Case:
    return regress(optimizer="SGD", lr=0.01, y=curve()[1] * (1e5 if bad else 1))


@rule("t04 rate far too low for a tiny plan", "T04", "O02", "O11", "M17")
def _t04(bad: bool) -> Case:
    net = mlp(8, 3)
    if bad:
        net[4].weight.data.zero_()  # type: ignore[operator, union-attr]
        net[2].weight.data.zero_()  # type: ignore[operator, union-attr]
        net[2].bias.data.fill_(-1.0)  # type: ignore[operator, union-attr]
    return classify(net)


@rule("t05 memorised pictures", "T05")
def _t05(bad: bool) -> Case:
    X, y = images(150)
    y = torch.where(torch.rand(150, generator=g(5)) < 0.3, torch.randint(0, 4, (150,), generator=g(6)), y)
    made = case(nn.Sequential(nn.Flatten(), mlp(64, 4, h=96)), "CrossEntropyLoss", "multiclass", X, y, batch_size=16, epochs=60, lr=2e-3)
    return made if bad else made | dict(monitor="val_loss", mode="min")


@rule("t05 memorised regression", "T05")
def _t05b(bad: bool) -> Case:
    X, y = curve(120, d=24, noise=1.5)
    made = case(mlp(24, 1, h=128), "MSELoss", "regression", X, y, batch_size=16, epochs=150 if bad else 4, lr=3e-3)
    return made


@rule("t10 sigmoid units of raw amounts", "T10", "D01", "M17", "T04")
def _t10(bad: bool) -> Case:
    X, y = blobs(600)
    return case(mlp(8, 3, act=nn.Sigmoid), "CrossEntropyLoss", "multiclass", X * (800 if bad else 1), y, lr=1e-2, epochs=12)


@rule("t10 tanh RNN of raw amounts", "T10", "D01", "M17")
def _t10b(bad: bool) -> Case:
    X, y = series()
    net = Wrap(lambda m, x: m.out(torch.tanh(m.a(x)).mean(1)), a=nn.Linear(3, 12), out=nn.Linear(12, 2))
    return case(net, "CrossEntropyLoss", "multiclass", X * (600 if bad else 1), y)


# evaluation


def right_share(o: Tensor, t: Tensor) -> Tensor:
    return (o.argmax(1) == t).float().mean()


@rule("e01 fraud never found", "E01")
def _e01(bad: bool) -> Case:
    X, y = blobs(1600, d=6, C=2, sep=0.2 if bad else 1.6, shares=[0.96, 0.04])
    return case(mlp(6, 2), "CrossEntropyLoss", "multiclass", X, y, metric=right_share, metric_name="accuracy", epochs=5)


@rule("e02 score minimised", "E02")
def _e02(bad: bool) -> Case:
    X, y = images()
    return case(SmallConv(), "CrossEntropyLoss", "multiclass", X, y, metric="accuracy", monitor="val_acc", mode="min" if bad else "max", epochs=5)


@rule("e02 loss maximised, regression", "E02")
def _e02b(bad: bool) -> Case:
    return regress(monitor="val_loss", mode="max" if bad else "min")


@rule("e04 logits rounded", "E04", "E05")
def _e04(bad: bool) -> Case:
    X, y = yes_no()
    accuracy = (lambda o, t: (o.round() == t).float().mean()) if bad else (lambda o, t: (o.sigmoid().round() == t).float().mean())
    return case(mlp(8, 1), "BCEWithLogitsLoss", "binary", X, y, metric=accuracy, metric_name="accuracy")


@rule("e04 sigmoid outputs held against zero", "E04", "E05")
def _e04b(bad: bool) -> Case:
    X, y = yes_no()
    accuracy = (lambda o, t: ((o > 0).float() == t).float().mean()) if bad else (lambda o, t: ((o > 0.5).float() == t).float().mean())
    return case(nn.Sequential(mlp(8, 1), nn.Sigmoid()), "BCELoss", "binary", X, y, metric=accuracy, metric_name="accuracy")


@rule("e04 multi-label logits held against a half", "E04", "E05")
def _e04c(bad: bool) -> Case:
    X = torch.randn(600, 8, generator=g(1))
    y = (X @ torch.randn(8, 4, generator=g(2)) > 0).float()
    threshold = 0.5 if bad else 0.0
    return case(mlp(8, 4), "BCEWithLogitsLoss", "multilabel", X, y, metric=lambda o, t: ((o > threshold) == (t > 0.5)).float().mean(), metric_name="accuracy")


@rule("e05 (N, 1) against (N,)", "E05", "E12")
def _e05(bad: bool) -> Case:
    def accuracy(o: Tensor, t: Tensor) -> Tensor:
        return (o.argmax(1, keepdim=True) == t).float().mean() if bad else (o.argmax(1) == t).float().mean()

    return classify(metric=accuracy, metric_name="accuracy")


@rule("e05 mean absolute error broadcast", "E05")
def _e05b(bad: bool) -> Case:
    return regress(metric=lambda o, t: (o - (t.flatten() if bad else t)).abs().mean(), metric_name="mae")


@rule("e05 accuracy that compares logits with labels", "E05", "E04")
def _e05c(bad: bool) -> Case:
    return classify(metric=(lambda o, t: (o.max(1).values == t).float().mean()) if bad else right_share, metric_name="accuracy")


@rule("e05 F1 of swapped classes", "E05", "E04")
def _e05d(bad: bool) -> Case:
    X, y = yes_no()

    def f1(o: Tensor, t: Tensor) -> Tensor:
        p = (o < 0).float() if bad else (o > 0).float()
        return 2 * (p * t).sum() / (p.sum() + t.sum()).clamp_min(1)

    return case(mlp(8, 1), "BCEWithLogitsLoss", "binary", X, y, metric=f1, metric_name="f1")


@rule("e12 max over the batch", "E12", "E05")
def _e12(bad: bool) -> Case:
    X, y = images()

    def accuracy(o: Tensor, t: Tensor) -> Tensor:
        if not bad:
            return (o.argmax(1) == t).float().mean()
        best = o.max(0).indices
        return (best[t % len(best)] == t).float().mean()

    return case(SmallConv(), "CrossEntropyLoss", "multiclass", X, y, metric=accuracy, metric_name="accuracy")


# persistence and inference


class Plain(nn.Module):
    """Keeps an exponential mean of its inputs in a plain attribute, or in a buffer."""

    def __init__(self, bad: bool, d: int = 6):
        super().__init__()
        if bad:
            self.centre = torch.zeros(d)
        else:
            self.register_buffer("centre", torch.zeros(d))
        self.f = mlp(d, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.centre = 0.9 * self.centre + 0.1 * x.mean(0).detach()
        return self.f(x - self.centre)


@rule("p01 running mean in an attribute", "P01", "P06")
def _p01(bad: bool) -> Case:
    X, y = curve()
    return case(Plain(bad), "MSELoss", "regression", X + 4, y, epochs=6)


class Vocabulary(nn.Module):
    """Numbers tokens in the order in which it meets them."""

    def __init__(self, bad: bool):
        super().__init__()
        self.bad = bad
        self.codes: dict[int, int] = {}
        self.emb, self.out = nn.Embedding(14, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.bad:
            for token in x.flatten().tolist():
                if self.training:
                    self.codes.setdefault(token, len(self.codes))
            x = torch.tensor([[self.codes.get(int(token), 13) for token in row] for row in x])
        return self.out(self.emb(x).mean(1))


@rule("p01 a vocabulary built while training", "P01", "M30", "M06", "P06")
def _p01b(bad: bool) -> Case:
    x = torch.randint(0, 12, (400, 5), generator=g(1))
    w = torch.randn(12, generator=g(2))
    return case(Vocabulary(bad), "CrossEntropyLoss", "multiclass", x, (w[x].sum(1) > 0).long(), lr=1e-2, epochs=5)


@rule("p02 names of another class", "P02")
def _p02(bad: bool) -> Case:
    state = SmallConv().state_dict()
    X, y = images()
    state = {(f"model.backbone.{key}" if bad else key): value for key, value in state.items()}
    return case(SmallConv(), "CrossEntropyLoss", "multiclass", X, y, checkpoint=state, load_strict=not bad, lr=1e-3)


@rule("p02 an empty checkpoint", "P02")
def _p02b(bad: bool) -> Case:
    state = mlp(8, 3).state_dict()
    return classify(checkpoint={"epoch": torch.tensor(3)} if bad else state, load_strict=not bad, lr=1e-3)


@rule("i01 pixels of 0 to 255 at prediction, flattened", "I01")
def _i01(bad: bool) -> Case:
    X, y = pictures()
    X = X.flatten(1)
    new = pictures(100, seed=9)[0].flatten(1)
    return case(mlp(64, 4), "CrossEntropyLoss", "multiclass", X, y, predict_X=new * 255 if bad else new)


@rule("i01 pictures of 0 to 255 at prediction", "I01")
def _i01b(bad: bool) -> Case:
    X, y = pictures()
    new = pictures(100, seed=9)[0]
    return case(SmallConv(), "CrossEntropyLoss", "multiclass", X, y, predict_X=new * 255 if bad else new)


@rule("i01 sequences not scaled at prediction", "I01")
def _i01c(bad: bool) -> Case:
    X, y = series()
    new = series(80, seed=5)[0]
    return case(Recurrent(), "CrossEntropyLoss", "multiclass", X, y, predict_X=new * 20 + 50 if bad else new)


@rule("i02 columns in alphabetical order", "I02", "I01")
def _i02(bad: bool) -> Case:
    scale, shift = torch.tensor([1.0, 4.0, 0.3, 9.0, 2.0, 0.7, 3.0, 5.0]), torch.tensor([0.0, 10.0, -3.0, 2.0, 25.0, -9.0, 6.0, 1.0])
    X, y = blobs(600)
    new = blobs(200, seed=5)[0] * scale + shift
    return case(
        nn.Sequential(nn.BatchNorm1d(8), mlp(8, 3)),
        "CrossEntropyLoss",
        "multiclass",
        X * scale + shift,
        y,
        predict_X=new[:, [2, 0, 1, 3, 5, 4, 7, 6]] if bad else new,
    )


# healthy but unusual


@healthy("transfer learning: frozen convolutions, new head")
def _h_transfer() -> Case:
    X, y = images(500)
    net = SmallConv(width=24)
    for part in (net.a, net.b):
        part.requires_grad_(False)
    return case(net, "CrossEntropyLoss", "multiclass", X, y, lr=1e-2, params=lambda m: [p for p in m.parameters() if p.requires_grad])


@healthy("frozen batch norm backbone, all parameters given")
def _h_transfer2() -> Case:
    X, y = images(400)
    body = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    body.requires_grad_(False)
    return case(nn.Sequential(body, nn.Linear(16, 4)), "CrossEntropyLoss", "multiclass", X, y, lr=2e-2)


@healthy("gradient checkpointing by stop-gradient teacher")
def _h_teacher() -> Case:
    X, y = blobs(600)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.slow = mlp(8, 3), mlp(8, 3)
            self.slow.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                hint = self.slow(x)
            return self.f(x) + 0.01 * hint

    return case(Net(), "CrossEntropyLoss", "multiclass", X, y)


@healthy("mixture of experts with hard routing")
def _h_moe() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        gate = m.gate(x).softmax(1)
        best = gate.argmax(1)
        out = torch.stack([m.a(x), m.b(x), m.c(x)], 1)
        return out[torch.arange(len(x)), best] * gate.gather(1, best[:, None])

    return classify(Wrap(forward, gate=nn.Linear(8, 3), a=nn.Linear(8, 3), b=nn.Linear(8, 3), c=nn.Linear(8, 3)), epochs=15, lr=1e-2)


@healthy("rare branch for one row in fifty")
def _h_rare() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        out = m.a(x)
        rare = x[:, 1] > 2.2
        return out + torch.where(rare[:, None], m.b(x), torch.zeros(())) if bool(rare.any()) else out

    return classify(Wrap(forward, a=mlp(8, 3), b=nn.Linear(8, 3)), epochs=8)


@healthy("high dropout of 0.8 on inputs")
def _h_dropout() -> Case:
    return classify(nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 96), nn.ReLU(), nn.Dropout(0.8), nn.Linear(96, 3)), epochs=12)


@healthy("MC dropout in the middle layers only")
def _h_mild() -> Case:
    X, y = images()
    return case(
        nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Dropout2d(0.25), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(12, 4)),
        "CrossEntropyLoss",
        "multiclass",
        X,
        y,
        lr=1e-2,
    )


@healthy("logistic regression by hand, one output")
def _h_logistic() -> Case:
    X, y = yes_no()
    return case(nn.Linear(8, 1), "BCEWithLogitsLoss", "binary", X, y, optimizer="SGD", lr=0.2, epochs=10)


@healthy("logistic regression with a sigmoid and BCELoss")
def _h_logistic2() -> Case:
    X, y = yes_no()
    return case(nn.Sequential(nn.Linear(8, 1), nn.Sigmoid()), "BCELoss", "binary", X, y, optimizer="SGD", lr=0.2, epochs=10)


@healthy("gaussian likelihood of torch's with a softplus variance")
def _h_gaussian() -> Case:
    X, y = curve()

    def loss(o: Tensor, t: Tensor) -> Tensor:
        return F.gaussian_nll_loss(o[:, :1], t, F.softplus(o[:, 1:]) + 1e-4)

    return case(mlp(6, 2), loss, "regression", X, y, epochs=15)


@healthy("laplace likelihood, negative losses")
def _h_laplace() -> Case:
    X, y = curve(noise=0.05)
    return case(mlp(6, 2), lambda o, t: ((t - o[:, :1]).abs() * (-o[:, 1:]).exp() + o[:, 1:]).mean(), "regression", X, y, epochs=20)


@healthy("mixture density network")
def _h_mdn() -> Case:
    X, y = curve()

    def loss(o: Tensor, t: Tensor) -> Tensor:
        mean, log, weight = o.chunk(3, 1)
        log = log.clamp(-4, 4)
        return -torch.logsumexp(weight.log_softmax(1) - 0.5 * ((t - mean) / log.exp()) ** 2 - log, 1).mean()

    return case(mlp(6, 9), loss, "regression", X, y, epochs=8)


@healthy("random crops and flips in a Dataset")
def _h_augment() -> Case:
    X, y = images(300)

    class Noisy(Dataset):
        def __len__(self) -> int:
            return len(y)

        def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
            x = X[i]
            shift = int(torch.randint(-1, 2, (1,)))
            return x.roll(shift, 2) + 0.1 * torch.randn(x.shape), y[i]

    return case(SmallConv(), "CrossEntropyLoss", "multiclass", dataset=Noisy(), lr=1e-2, epochs=3)


@healthy("softplus and gamma-like targets")
def _h_gamma() -> Case:
    X = torch.randn(700, 5, generator=g(1))
    rate = (0.5 * X[:, :1] + 0.3).exp()
    y = torch.distributions.Gamma(torch.tensor(3.0), torch.tensor(3.0)).sample((700, 1)) * rate
    return case(nn.Sequential(mlp(5, 1), nn.Softplus()), lambda o, t: (o.log() + t / o).mean(), "regression", X, y, epochs=10)


@healthy("siamese distance")
def _h_siamese() -> Case:
    X = torch.randn(600, 10, generator=g(1))
    y = ((X[:, :5] - X[:, 5:]).norm(dim=1) < 3).float()[:, None]
    net = Wrap(lambda m, x: m.scale * (m.enc(x[:, :5]) - m.enc(x[:, 5:])).norm(dim=1, keepdim=True) + m.shift, enc=mlp(5, 8))
    net.scale, net.shift = nn.Parameter(torch.tensor(-1.0)), nn.Parameter(torch.tensor(1.0))  # type: ignore[assignment]
    return case(net, "BCEWithLogitsLoss", "binary", X, y, lr=1e-2, epochs=10)


@healthy("universal transformer: one layer four times")
def _h_universal() -> Case:
    X, y = series(d=8)

    def forward(m: Any, x: Tensor) -> Tensor:
        x = x + m.place
        for _ in range(4):
            x = m.layer(x)
        return m.out(x.mean(1))

    net = Wrap(forward, layer=nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), out=nn.Linear(8, 2))
    net.place = nn.Parameter(torch.randn(8, 8) * 0.1)  # type: ignore[assignment]
    return case(net, "CrossEntropyLoss", "multiclass", X, y, lr=3e-3)


@healthy("deep sets with attention over elements")
def _h_sets() -> Case:
    X = torch.randn(500, 6, 4, generator=g(1))
    net = Wrap(
        lambda m, x: m.out(m.att(m.inp(x)).mean(1)),
        inp=nn.Linear(4, 12),
        att=nn.TransformerEncoderLayer(12, 3, 24, dropout=0.0, batch_first=True),
        out=nn.Linear(12, 1),
    )
    return case(net, "MSELoss", "regression", X, X.amax((1, 2))[:, None] - 2, lr=3e-3)


@healthy("ordinal stars one to five by smooth L1")
def _h_ordinal() -> Case:
    X, y = curve(900)
    return case(mlp(6, 1), "SmoothL1Loss", "regression", X, (y * 1.1 + 3).round().clamp(1, 5), epochs=10)


@healthy("counts by MSE, rounded")
def _h_counts() -> Case:
    X = torch.randn(900, 4, generator=g(1))
    return case(mlp(4, 1), "MSELoss", "regression", X, torch.poisson((0.7 * X[:, :1] + 1).exp(), generator=g(2)), epochs=10)


@healthy("noise targets, binary")
def _h_noise() -> Case:
    X = torch.randn(1200, 5, generator=g(1))
    y = (torch.rand(1200, generator=g(2)) < torch.sigmoid(0.5 * X[:, 0])).float()[:, None]
    return case(mlp(5, 1), "BCEWithLogitsLoss", "binary", X, y, epochs=6, lr=2e-3)


@healthy("small validation set of a small table")
def _h_small() -> Case:
    X, y = blobs(120, d=4, sep=1.4)
    return case(mlp(4, 3, 16), "CrossEntropyLoss", "multiclass", table=tabled(X, y), target="y", batch_size=16, epochs=15)


@healthy("cosine with warm restarts each batch")
def _h_restarts() -> Case:
    return classify(epochs=10, optimizer="SGD", lr=0.1, scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 30), scheduler_on="batch")


@healthy("linear decay to zero over all steps")
def _h_decay() -> Case:
    return classify(epochs=10, scheduler=lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda s: max(0.0, 1 - s / 120)), scheduler_on="batch")


@healthy("cosine over epochs")
def _h_cosine() -> Case:
    return regress(epochs=12, scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 12))


@healthy("two rates: small for the body")
def _h_rates() -> Case:
    return classify(lr=1e-2, params=lambda m: [dict(params=m[:2].parameters(), lr=1e-4), dict(params=m[2:].parameters())], epochs=8)


@healthy("no decay for biases")
def _h_groups() -> Case:
    def groups(m: nn.Module) -> list[dict[str, Any]]:
        return [
            dict(params=[p for p in m.parameters() if p.dim() > 1], weight_decay=0.05),
            dict(params=[p for p in m.parameters() if p.dim() <= 1], weight_decay=0.0),
        ]

    return classify(optimizer="AdamW", params=groups)


@healthy("Nesterov momentum and a gentle clip")
def _h_nesterov() -> Case:
    X, y = images()
    return case(
        SmallConv(), "CrossEntropyLoss", "multiclass", X, y, optimizer="SGD", lr=0.02, optimizer_kwargs=dict(momentum=0.95, nesterov=True), clip_grad_norm=0.5
    )


@healthy("Adam with beta2 of 0.95")
def _h_beta() -> Case:
    return classify(optimizer="AdamW", optimizer_kwargs=dict(betas=(0.9, 0.95), weight_decay=0.1))


@healthy("beta1 of zero, as for GANs")
def _h_beta1() -> Case:
    return classify(optimizer_kwargs=dict(betas=(0.0, 0.9)))


@healthy("large batches, enough of them")
def _h_batches() -> Case:
    return classify(batch_size=200, epochs=40, lr=1e-2)


@healthy("Adagrad and an embedding bag")
def _h_bag() -> Case:
    x = torch.randint(0, 200, (800, 6), generator=g(1))
    w = torch.randn(200, generator=g(2))
    net = Wrap(lambda m, x: m.out(m.emb(x)), emb=nn.EmbeddingBag(200, 8), out=nn.Linear(8, 2))
    return case(net, "CrossEntropyLoss", "multiclass", x, (w[x].sum(1) > 0).long(), optimizer="Adagrad", lr=0.1, epochs=8)


@healthy("real padding at the front")
def _h_padding() -> Case:
    x = torch.randint(1, 12, (600, 8), generator=g(1))
    length = torch.randint(3, 9, (600,), generator=g(3))
    x[torch.arange(8)[None] < (8 - length)[:, None]] = 0
    w = torch.randn(12, generator=g(2))
    w[0] = 0

    def forward(m: Any, x: Tensor) -> Tensor:
        mask = (x != 0)[..., None]
        return m.out((m.emb(x) * mask).sum(1) / mask.sum(1))

    return case(
        Wrap(forward, emb=nn.Embedding(12, 8, padding_idx=0), out=nn.Linear(8, 2)), "CrossEntropyLoss", "multiclass", x, (w[x].sum(1) > 0).long(), lr=1e-2
    )


@healthy("segmentation by dice")
def _h_dice() -> Case:
    X, _ = images(250)
    M = (X > 0.5).float()

    def dice(o: Tensor, t: Tensor) -> Tensor:
        p = o.sigmoid().flatten(1)
        t = t.flatten(1)
        return 1 - ((2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)).mean()

    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
    return case(net, dice, "binary", X, M, lr=1e-2)


@healthy("one-hot targets for cross-entropy")
def _h_onehot() -> Case:
    X, y = blobs(600)
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", X, F.one_hot(y, 3).float())


@healthy("standardised over everything and split at random")
def _h_global() -> Case:
    X, y = blobs(900)
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", (X - X.mean(0)) / X.std(0), y)


@healthy("autoencoder of noisy pictures")
def _h_denoise() -> Case:
    X, _ = pictures(300)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
    return case(net, "MSELoss", "regression", X + 0.2 * torch.randn(X.shape, generator=g(4)), X, lr=1e-2)


@healthy("strong but honest sensor, binary with a logit")
def _h_sensor() -> Case:
    n = 900
    level = torch.randn(n, generator=g(1)) * 3
    y = (level + 0.35 * torch.randn(n, generator=g(2)) > 0).long()
    table = {"level": level, "noise": torch.randn(n, generator=g(3)), "other": torch.rand(n, generator=g(4)), "alarm": y}
    return case(mlp(3, 2), "CrossEntropyLoss", "multiclass", table=table, target="alarm")


@healthy("many discrete columns whose rows repeat")
def _h_discrete() -> Case:
    n = 900
    X = torch.randint(0, 3, (n, 5), generator=g(1)).float()
    y = (torch.rand(n, generator=g(2)) < torch.sigmoid(X[:, 0] - X[:, 1] + 0.5 * X[:, 2] - 0.5)).long()
    return case(mlp(5, 2), "CrossEntropyLoss", "multiclass", X, y)


@healthy("repeated measurements with noise in low dimension")
def _h_repeats() -> Case:
    x = torch.linspace(-2, 2, 40).repeat(20)[:, None]
    return case(mlp(1, 1, act=nn.Tanh), "MSELoss", "regression", x, torch.sin(2 * x) + 0.2 * torch.randn(800, 1, generator=g(1)), lr=1e-2, epochs=10)


@healthy("month and year beside a stationary target")
def _h_month() -> Case:
    n = 900
    month, year = torch.randint(1, 13, (n,), generator=g(1)), 2000 + torch.randint(0, 20, (n,), generator=g(2))
    z = torch.randn(n, generator=g(3))
    table = {"month": month, "year": year, "z": z, "y": z + 0.5 * torch.sin(month / 12 * 2 * math.pi) + 0.3 * torch.randn(n, generator=g(4))}
    return case(mlp(3, 1), flat_mse, "regression", table=table, target="y", epochs=10)


@healthy("ids that repeat without meaning")
def _h_stores() -> Case:
    X, y = curve(700, d=4)
    table = {"store_id": torch.randint(0, 60, (700,), generator=g(5)), **tabled(X, y[:, 0])}
    return case(mlp(4, 1), flat_mse, "regression", table=table, target="y", drop=["store_id"], epochs=8)


@healthy("prices and areas on their own scales in a table")
def _h_scales() -> Case:
    n = 800
    area, rooms, tax = 60 + 60 * torch.rand(n, generator=g(1)), torch.randint(1, 7, (n,), generator=g(2)), 1e5 * torch.rand(n, generator=g(3))
    y = 0.02 * area + 0.3 * rooms + tax / 1e5 + 0.1 * torch.randn(n, generator=g(4))
    return case(mlp(3, 1), flat_mse, "regression", table={"area": area, "rooms": rooms, "tax": tax, "y": y}, target="y", epochs=12)


@healthy("ordered split of rows in random order")
def _h_ordered() -> Case:
    X, y = blobs(700)
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", X, y, split=dict(method="ordered"))


@healthy("drifting features, split by time")
def _h_drift() -> Case:
    n = 900
    day = torch.arange(n).double()
    z = torch.randn(n, 3, generator=g(1)) + 0.0008 * day[:, None].float()
    y = z[:, 0] - 0.5 * z[:, 1] + 0.3 * torch.randn(n, generator=g(2))
    return case(
        mlp(3, 1), flat_mse, "regression", table={"day": day, **tabled(z, y)}, target="y", drop=["day"], split=dict(method="time", column="day"), epochs=8
    )


@healthy("binary pixels")
def _h_binary_pixels() -> Case:
    X, y = pictures()
    return case(SmallConv(), "CrossEntropyLoss", "multiclass", (X > 0.4).float(), y, lr=1e-2)


@healthy("spectrograms of one channel")
def _h_spectrogram() -> Case:
    X = torch.randn(300, 1, 12, 16, generator=g(1))
    y = (X[:, 0, 3].mean(1) > 0).long()
    net = nn.Sequential(nn.Conv2d(1, 8, (3, 5), padding=(1, 2)), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 12 * 16, 2))
    return case(net, "CrossEntropyLoss", "multiclass", X, y, lr=2e-3)


@healthy("noise pictures of three channels")
def _h_noise_pictures() -> Case:
    X = torch.randn(300, 3, 8, 8, generator=g(1))
    y = (X[:, 0].mean((1, 2)) > 0).long()
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 2))
    return case(net, "CrossEntropyLoss", "multiclass", X, y, lr=2e-3)


@healthy("float64 model and data")
def _h_double() -> Case:
    X, y = curve()
    return case(mlp(6, 1).double(), "MSELoss", "regression", X.double(), y.double())


@healthy("log of the target inside the loss")
def _h_log() -> Case:
    X, y = curve()
    return case(mlp(6, 1), lambda o, t: F.mse_loss(o, torch.log1p(t)), "regression", X, (y + 4).clamp_min(0) ** 2)


@healthy("hinge of torch's, several classes")
def _h_margin() -> Case:
    return classify(loss=nn.MultiMarginLoss())


@healthy("label smoothing and mixup in the loss")
def _h_smooth() -> Case:
    return classify(loss=nn.CrossEntropyLoss(label_smoothing=0.1), optimizer="AdamW")


@healthy("weights for a rare class, the right way")
def _h_weights() -> Case:
    X, y = blobs(1000, C=3, shares=[0.8, 0.15, 0.05])
    counts = torch.bincount(y).float()
    return case(mlp(8, 3), nn.CrossEntropyLoss(weight=counts.sum() / (3 * counts)), "multiclass", X, y, metric=right_share, metric_name="accuracy")


@healthy("sum reduction with a small rate")
def _h_sum() -> Case:
    return classify(loss=nn.CrossEntropyLoss(reduction="sum"), optimizer="SGD", lr=2e-3, epochs=10)


@healthy("cap: a sensor that saturates at its top")
def _h_cap() -> Case:
    X, y = curve(700)
    X = X.clone()
    X[:, 4] = (5 * X[:, 4] + 90).clamp_max(100) / 10
    return case(mlp(6, 1), "MSELoss", "regression", X, y)


@healthy("weight norm and spectral norm")
def _h_norms() -> Case:
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 24)), nn.ReLU(), nn.utils.parametrizations.spectral_norm(nn.Linear(24, 3)))
    return classify(net, epochs=10)


@healthy("highway gate that starts nearly closed")
def _h_highway() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.inp(x)
        t = torch.sigmoid(m.gate(h) - 3)
        return m.out(t * torch.relu(m.body(h)) + (1 - t) * h)

    return classify(Wrap(forward, inp=nn.Linear(8, 16), gate=nn.Linear(16, 16), body=nn.Linear(16, 16), out=nn.Linear(16, 3)))


@healthy("layer scale of 1e-5 in a deep residual net")
def _h_layerscale() -> Case:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.a, self.b, self.scale = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16), nn.Parameter(torch.full((16,), 1e-3))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.scale * self.b(F.gelu(self.a(self.norm(x))))

    return classify(nn.Sequential(nn.Linear(8, 16), Block(), Block(), Block(), nn.Linear(16, 3)))


@healthy("deep tanh network that trains")
def _h_tanh() -> Case:
    return classify(mlp(8, 3, act=nn.Tanh), epochs=10)


@healthy("squeeze-excitation and sigmoid gates")
def _h_se() -> Case:
    X, y = images()

    def forward(m: Any, x: Tensor) -> Tensor:
        h = torch.relu(m.c(x))
        gate = torch.sigmoid(m.up(torch.relu(m.down(h.mean((2, 3))))))
        return m.out((h * gate[:, :, None, None]).amax((2, 3)))

    return case(
        Wrap(forward, c=nn.Conv2d(1, 12, 3, padding=1), down=nn.Linear(12, 4), up=nn.Linear(4, 12), out=nn.Linear(12, 4)),
        "CrossEntropyLoss",
        "multiclass",
        X,
        y,
        lr=1e-2,
    )


@healthy("perfectly separable blobs, loss near zero")
def _h_easy() -> Case:
    X, y = blobs(600, sep=6.0)
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", X, y, epochs=15, metric=right_share, metric_name="accuracy")


@healthy("two well separated groups, AUC of one in several columns")
def _h_two() -> Case:
    X, y = blobs(600, d=6, C=2, sep=6.0)
    return case(mlp(6, 2), "CrossEntropyLoss", "multiclass", X, y)


@healthy("a quadratic through the data, exactly")
def _h_exact() -> Case:
    X = torch.randn(500, 3, generator=g(1))
    return case(mlp(3, 1), "MSELoss", "regression", X, X[:, :1] ** 2 - X[:, 1:2], lr=1e-2, epochs=15)


@healthy("hourly load: sine features, time split")
def _h_load() -> Case:
    n = 1000
    hour = torch.arange(n).double()
    s, c = torch.sin(hour * 2 * math.pi / 24).float(), torch.cos(hour * 2 * math.pi / 24).float()
    y = s + 0.5 * c + 0.2 * torch.randn(n, generator=g(1))
    return case(
        mlp(2, 1),
        flat_mse,
        "regression",
        table={"hour": hour, "s": s, "c": c, "y": y},
        target="y",
        drop=["hour"],
        split=dict(method="time", column="hour"),
        epochs=8,
    )


@healthy("metrics in percent and as a count")
def _h_percent() -> Case:
    return classify(metric=lambda o, t: 100 * (o.argmax(1) == t).float().mean(), metric_name="accuracy in percent")


@healthy("top-2 accuracy of five classes")
def _h_top() -> Case:
    X, y = blobs(700, C=5)
    return case(
        mlp(8, 5), "CrossEntropyLoss", "multiclass", X, y, metric=lambda o, t: (o.topk(2, 1).indices == t[:, None]).any(1).float().mean(), metric_name="top 2"
    )


@healthy("log loss as a metric of probabilities")
def _h_logloss() -> Case:
    X, y = yes_no()
    return case(nn.Sequential(mlp(8, 1), nn.Sigmoid()), "BCELoss", "binary", X, y, metric=lambda o, t: F.binary_cross_entropy(o, t), metric_name="log loss")


@healthy("a calibrated threshold of 0.3 on probabilities")
def _h_threshold() -> Case:
    X, y = yes_no()
    return case(
        nn.Sequential(mlp(8, 1), nn.Sigmoid()), "BCELoss", "binary", X, y, metric=lambda o, t: ((o > 0.3).float() == t).float().mean(), metric_name="accuracy"
    )


@healthy("rmse as a metric")
def _h_rmse() -> Case:
    return regress(metric=lambda o, t: ((o - t) ** 2).mean().sqrt(), metric_name="rmse")


@healthy("correlation as a metric")
def _h_corr() -> Case:
    return regress(metric=lambda o, t: torch.corrcoef(torch.stack([o.flatten(), t.flatten()]))[0, 1], metric_name="correlation")


@healthy("macro F1 of three classes")
def _h_f1() -> Case:
    def f1(o: Tensor, t: Tensor) -> Tensor:
        p = o.argmax(1)
        scores = [2 * ((p == k) & (t == k)).sum() / ((p == k).sum() + (t == k).sum()).clamp_min(1) for k in range(3)]
        return torch.stack(scores).mean()

    return classify(metric=f1, metric_name="f1")


@healthy("bidirectional encoder with a mask token")
def _h_bert() -> Case:
    x = torch.randint(1, 9, (400, 8), generator=g(1))
    x[:, 1::2] = x[:, ::2]
    y = x.clone()
    hidden = torch.rand(x.shape, generator=g(2)) < 0.25
    x = x.masked_fill(hidden, 0)
    y = y.masked_fill(~hidden, -100)
    net = Wrap(
        lambda m, x: m.out(m.att(m.emb(x) + m.pos(torch.arange(8)))),
        emb=nn.Embedding(9, 12),
        pos=nn.Embedding(8, 12),
        att=nn.TransformerEncoderLayer(12, 2, 24, dropout=0.0, batch_first=True),
        out=nn.Linear(12, 9),
    )
    return case(net, lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten(), ignore_index=-100), "sequence", x, y, lr=5e-3)


@healthy("characters: LSTM language model")
def _h_char() -> Case:
    X, y = language()
    net = Wrap(
        lambda m, x: m.out(m.rnn(m.emb(x))[0]).transpose(1, 2),
        emb=nn.Embedding(8, 12),
        rnn=nn.LSTM(12, 16, 2, batch_first=True, dropout=0.2),
        out=nn.Linear(16, 8),
    )
    return case(net, "CrossEntropyLoss", "sequence", X, y, lr=5e-3)


@healthy("GRU regression of a sum, gradients clipped")
def _h_gru() -> Case:
    X, _ = series()
    return case(Recurrent(out=1), "MSELoss", "regression", X, X[:, :, 0].sum(1, keepdim=True) / 3, clip_grad_norm=1.0, lr=1e-2)


@healthy("U-net with skip connections")
def _h_unet() -> Case:
    X, _ = images(200)
    M = (X > 0.5).float()

    def forward(m: Any, x: Tensor) -> Tensor:
        a = torch.relu(m.a(x))
        b = torch.relu(m.b(F.max_pool2d(a, 2)))
        return m.out(torch.cat([a, F.interpolate(b, scale_factor=2)], 1))

    net = Wrap(forward, a=nn.Conv2d(1, 8, 3, padding=1), b=nn.Conv2d(8, 8, 3, padding=1), out=nn.Conv2d(16, 1, 3, padding=1))
    return case(net, "BCEWithLogitsLoss", "binary", X, M, lr=1e-2)


@healthy("prediction of a handful of ordinary rows")
def _h_predict() -> Case:
    X, y = blobs(600)
    return classify(X=X, y=y, predict_X=blobs(200, seed=5)[0][:3])


@healthy("prediction of one class's rows only")
def _h_predict2() -> Case:
    X, y = blobs(600)
    new, kinds = blobs(400, seed=5)
    return classify(X=X, y=y, predict_X=new[kinds == 0][:40])


@healthy("prediction of pictures like those of training")
def _h_predict3() -> Case:
    X, y = images()
    return case(SmallConv(), "CrossEntropyLoss", "multiclass", X, y, predict_X=images(50, seed=9)[0])
