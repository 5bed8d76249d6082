"""More own cases, written against the rules: the same mistakes in other layers, sizes, losses, optimizers and kinds of data, each beside the same thing done right.

As in `cases`: `CASES[name]` is `(code, other fair codes, wrong, right)`, `HEALTHY[name]` one function. These are asked through `fit`, as the shared judge asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy
import torch
from cases import Case, Wrap, blobs, case, classify, curve, g, language, mlp, pictures, regress
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

CASES: dict[str, tuple[str, tuple[str, ...], Callable[[], Case], Callable[[], Case]]] = {}
HEALTHY: dict[str, Callable[[], Case]] = {}


def rule(name: str, code: str, *accept: str) -> Callable[[Callable[[bool], Case]], Callable[[bool], Case]]:
    def register(make: Callable[[bool], Case]) -> Callable[[bool], Case]:
        def side(bad: bool) -> Case:
            torch.manual_seed(0)
            return make(bad)

        CASES[name] = (code, accept, lambda: side(True), lambda: side(False))
        return make

    return register


def healthy(name: str) -> Callable[[Callable[[], Case]], Callable[[], Case]]:
    def register(make: Callable[[], Case]) -> Callable[[], Case]:
        def seeded() -> Case:
            torch.manual_seed(0)
            return make()

        HEALTHY[name] = seeded
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
        self.readers = [(lambda: X[i]) for i in range(len(y))] if late else [(lambda i=i: X[i]) for i in range(len(y))]

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
    return case(SmallConv(channels=3), "CrossEntropyLoss", "multiclass", X / 255 if bad else X, y, optimizer="SGD", lr=0.05, optimizer_kwargs=dict(momentum=0.9))


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
    return case(mlp(3, 2), "CrossEntropyLoss", "multiclass", table={"minute": minute, **tabled(z + 0.3 * y[:, None], y)}, target="y", drop=["minute"], split=split)


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
    price = (y[:, 0] + 3).exp()
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
        SmallConv(), "CrossEntropyLoss", "multiclass", train=(f(X[:300]), y[:300]), val=(f(X[300:400]), y[300:400]), test=((raw if bad else f)(X[400:]), y[400:])
    )


@rule("s14 scaler fitted on each split apart", "S14")
def _s14b(bad: bool) -> Case:
    X, y = curve(700)
    X = X * torch.tensor([1.0, 5.0, 0.2, 9.0, 2.0, 1.0]) + 4
    mean, deviation = X[:420].mean(0), X[:420].std(0)
    scale = lambda x: (x - mean) / deviation  # noqa: E731
    small = lambda x: x / 255 if bad else scale(x)  # noqa: E731
    return case(
        mlp(6, 1), "MSELoss", "regression", train=(scale(X[:420]), y[:420]), val=(small(X[420:560]), y[420:560]), test=(small(X[560:]), y[560:])
    )


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
        mlp(8, 1), "BCEWithLogitsLoss", "binary", train=(X[:420], t[:420]), val=(X[420:560], t[420:560]), test=(X[560:], torch.zeros_like(t[560:]) if bad else t[560:])
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
        Wrap(lambda m, x: m.out(m.rnn(x)[0][:, -1]), rnn=nn.LSTM(3, 10, batch_first=not bad), out=nn.Linear(10, 2)), "CrossEntropyLoss", "multiclass", X, y, lr=1e-2
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
    return classify(
        Wrap(lambda m, x: m.out(torch.relu(m.a(x) if bad else m.norm(m.a(x)))), a=nn.Linear(8, 16), norm=nn.LayerNorm(16), out=nn.Linear(16, 3))
    )


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
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8, momentum=0.0005 if bad else 0.1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 4))
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
