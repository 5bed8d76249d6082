"""Mistakes as they stand in an engineer's own code: inputs as dicts, Datasets, tables with text, pictures, transformers and recurrent layers, losses and metrics by hand.

`CASES[name]` is `(code, other fair codes, make)`; `make(True)` is the wrong case, `make(False)` the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy
import torch
from cases import Case, mistakes_in
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

CASES: dict[str, tuple[str, tuple[str, ...], Callable[[bool], Case]]] = {}
mistake = mistakes_in(CASES)


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def setup(model: nn.Module, loss: object, **more: object) -> Case:
    return dict(model=model, loss=loss, task=None, optimizer="AdamW", lr=3e-3, batch_size=24, epochs=4) | more


def rides(n: int = 480, seed: int = 3) -> dict[str, numpy.ndarray]:
    """Columns of taxi rides in kilometres, minutes, hour of the day and district; `fare` (standard deviation near 1) and whether a tip was `tipped`."""
    r = numpy.random.default_rng(seed)
    km, hour, district = r.gamma(4, 1, n), r.uniform(0, 24, n), r.choice(["north", "south", "harbour", "old town"], n)
    minutes = 3 * km + r.gamma(2, 2, n)
    fare = 0.4 * (km - 4) + 0.05 * (minutes - 16) + 0.3 * (district == "harbour") + 0.3 * numpy.sin(hour / 4) + 0.15 * r.normal(size=n)
    return dict(km=km, minutes=minutes, hour=hour, district=district, fare=fare, tipped=(fare + 0.5 * r.normal(size=n) > 0).astype(int))


def numbers_only(**extra: numpy.ndarray) -> dict[str, numpy.ndarray]:
    columns = rides()
    return {name: columns[name] for name in ("km", "minutes", "hour", "fare")} | extra


def tabular(columns: dict[str, numpy.ndarray], width: int, target: str = "fare", out: int = 1, loss: object = "HuberLoss", **more: object) -> Case:
    return setup(mlp(width, out), loss, table=columns, target=target) | more


def mlp(i: int, o: int, h: int = 24) -> nn.Sequential:
    return nn.Sequential(nn.Linear(i, h), nn.LeakyReLU(0.1), nn.Linear(h, h), nn.LeakyReLU(0.1), nn.Linear(h, o))


def discs(n: int = 300, size: int = 10, channels: int = 1, seed: int = 4) -> tuple[Tensor, Tensor]:
    """Pictures (n, channels, size, size) in [0, 1] of a disc, a ring or a bar, and which."""
    g = drawn(seed)
    kind = torch.randint(0, 3, (n,), generator=g)
    middle = torch.rand(n, 2, generator=g) * 3 + (size - 3) / 2
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    away = ((rows - middle[:, :1, None]) ** 2 + (columns - middle[:, 1:, None]) ** 2).sqrt()
    shapes = torch.stack(
        [(away < 3).float(), ((away < 3.6) & (away > 1.8)).float(), ((rows - middle[:, :1, None]).abs() < 1.2).float().expand(n, size, size)], 1
    )
    pictures = shapes[torch.arange(n), kind][:, None] * 0.7 + 0.25 * torch.rand(n, channels, size, size, generator=g)
    return pictures, kind


def cnn(channels: int = 1, out: int = 3, *tail: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(12, out), *tail
    )  # fmt: skip


def pictures(model: nn.Module | None = None, loss: object = "CrossEntropyLoss", **more: object) -> Case:
    X, y = discs()
    return setup(model or cnn(), loss, X=(X - 0.3) / 0.3, y=y) | more


def sentences(n: int = 400, length: int = 10, words: int = 20, seed: int = 5) -> tuple[Tensor, Tensor]:
    """Codes (n, length) from 1 to words - 1 and whether low ones outnumber high ones."""
    codes = torch.randint(1, words, (n, length), generator=drawn(seed))
    return codes, ((codes < words // 2).sum(1) > length // 2).long()


def waves(n: int = 320, steps: int = 12, seed: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Series (n, steps, 2), their next value (n, 1), and the series one step on (n, steps, 2)."""
    g = drawn(seed)
    phase, rate = torch.rand(n, 1, generator=g) * 6.28, 0.3 + 0.5 * torch.rand(n, 1, generator=g)
    t = torch.arange(steps + 1)
    both = torch.stack([torch.sin(rate * t + phase), torch.cos(rate * t + phase)], -1) + 0.05 * torch.randn(n, steps + 1, 2, generator=g)
    return both[:, :-1], both[:, -1, :1].clone(), both[:, 1:].clone()


class Encoder(nn.Module):
    """A small transformer over codes or vectors; `read` makes logits of its states."""

    def __init__(self, out: int, words: int | None = 20, features: int = 2, width: int = 16, causal: bool = False, mean: bool = True, batch_first: bool = True):
        super().__init__()
        self.enter = nn.Embedding(words, width) if words else nn.Linear(features, width)
        self.places = nn.Parameter(0.1 * torch.randn(32, width))
        self.layer = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.0, batch_first=batch_first)
        self.leave = nn.Linear(width, out)
        self.causal, self.mean = causal, mean

    def forward(self, x: Tensor) -> Tensor:
        states = self.enter(x) + self.places[: x.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if self.causal else None
        states = self.layer(states, src_mask=mask)
        return self.leave(states.mean(1) if self.mean else states)


def text(model: nn.Module | None = None, loss: object = "CrossEntropyLoss", **more: object) -> Case:
    X, y = sentences()
    return setup(model or Encoder(2), loss, X=X, y=y) | more


class Recurrent(nn.Module):
    def __init__(self, out: int = 1, kind: type[nn.RNNBase] = nn.GRU, batch_first: bool = True):
        super().__init__()
        self.cells, self.leave = kind(2, 16, batch_first=batch_first), nn.Linear(16, out)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.cells(x)
        return self.leave(states[:, -1])


def forecast(model: nn.Module | None = None, loss: object = "MSELoss", **more: object) -> Case:
    X, y, _ = waves()
    return setup(model or Recurrent(), loss, X=X, y=y) | more


class Both(nn.Module):
    """Shops and numbers of a dict."""

    def __init__(self, out: int = 3, *tail: nn.Module):
        super().__init__()
        self.codes, self.body = nn.Embedding(6, 4), nn.Sequential(mlp(8, out), *tail)

    def forward(self, shop: Tensor, numbers: Tensor) -> Tensor:
        return self.body(torch.cat([self.codes(shop), numbers], 1))


def mixed(n: int = 420, seed: int = 8) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """A dict of shops (n,) and numbers (n, 4), an amount (n, 1) and one of three classes (n,)."""
    g = drawn(seed)
    shop, numbers = torch.randint(0, 6, (n,), generator=g), torch.randn(n, 4, generator=g)
    amount = (shop.float() - 2.5) / 2 + numbers[:, 0] - 0.5 * numbers[:, 1] * numbers[:, 2] + 0.2 * torch.randn(n, generator=g)
    return dict(shop=shop, numbers=numbers), amount[:, None], torch.bucketize(amount, torch.tensor([-0.7, 0.7]))


def of_dict(model: nn.Module | None = None, loss: object = "CrossEntropyLoss", **more: object) -> Case:
    X, _, y = mixed()
    return setup(model or Both(), loss, X=X, y=y) | more


def amount_of_dict(model: nn.Module | None = None, loss: object = "MSELoss", **more: object) -> Case:
    X, y, _ = mixed()
    return setup(model or Both(1), loss, X=X, y=y) | more


class Records(Dataset):
    """Rows as they would be read from a file: `change` is what __getitem__ does to them."""

    def __init__(self, *columns: Tensor, change: Callable[[Tensor], Tensor] = lambda x: x):
        self.columns, self.change = tuple(column.clone() for column in columns), change

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.change(self.columns[0][row]), self.columns[1][row]


# data


@mistake("a dict whose numbers are in cents", "D01", "T10", "T01", "O01", "M16")
def _(bad: bool) -> Case:
    X, y, _ = mixed()
    return amount_of_dict(X=X | dict(numbers=X["numbers"] * torch.tensor([1, 1, 1, 90000.0 if bad else 1])), y=y)


@mistake("sensor without a reading in a series", "D03")
def _(bad: bool) -> Case:
    X, y, _ = waves()
    if bad:
        X = X.clone()
        X[17, 3, 1] = float("inf")
    return forecast(X=X, y=y)


@mistake("an amount that is not a number", "D03")
def _(bad: bool) -> Case:
    X, y, _ = mixed()
    y = y.clone()
    if bad:
        y[[4, 90, 200]] = float("nan")
    return amount_of_dict(X=X, y=y)


@mistake("a dict with one missing number", "D03")
def _(bad: bool) -> Case:
    X, y, _ = mixed()
    numbers = X["numbers"].clone()
    if bad:
        numbers[11, 2] = float("nan")
    return amount_of_dict(X=X | dict(numbers=numbers), y=y)


@mistake("minus one for unknown distance", "D04")
def _(bad: bool) -> Case:
    columns = numbers_only()
    columns["km"] = columns["km"] + 400
    if bad:
        columns["km"][::15] = -999
    return tabular(columns, 3)


@mistake("labels joined in another order", "D05", "T04")
def _(bad: bool) -> Case:
    X, y, _ = mixed()
    order = torch.randperm(len(y), generator=drawn(1)) if bad else torch.arange(len(y))
    return setup(mlp(4, 1), "MSELoss", X=X["numbers"], y=(X["numbers"][:, :1] * 1.5 + 0.2 * torch.randn(len(y), 1, generator=drawn(2)))[order], epochs=10)


@mistake("the loop variable in the closure", "D07", "D06", "M38")
def _(bad: bool) -> Case:
    X, y = discs()
    readers = [(lambda: X[0]) if bad else (lambda k=k: X[k]) for k in range(len(y))]

    class Read(Dataset):
        def __len__(self) -> int:
            return len(y)

        def __getitem__(self, k: int) -> tuple[Tensor, Tensor]:
            return readers[k](), y[k]

    return setup(cnn(), "CrossEntropyLoss", dataset=Read())


@mistake("normalised in place at each reading", "D08", "P15", "M23")
def _(bad: bool) -> Case:
    X, y = discs()
    return setup(cnn(), "CrossEntropyLoss", dataset=Records(X, y, change=(lambda x: x.sub_(0.3).div_(0.5)) if bad else (lambda x: (x - 0.3) / 0.5)))


@mistake("two annotators, two answers", "D09", "S01")
def _(bad: bool) -> Case:
    X, _, y = mixed(300)
    X, y = X["numbers"], y
    twice = torch.cat([y, (y + 1) % 3 if bad else y])
    return setup(mlp(4, 3), "CrossEntropyLoss", train=(torch.cat([X, X]), twice), val=(torch.randn(80, 4, generator=drawn(2)), y[:80])) | (
        {} if bad else dict(train=(X, y))
    )


@mistake("channels last, reshaped", "D10")
def _(bad: bool) -> Case:
    rows, columns = torch.meshgrid(torch.linspace(0, 3, 12), torch.linspace(0, 3, 12), indexing="ij")
    g = drawn(3)
    y = torch.randint(0, 2, (300,), generator=g)
    phase = torch.rand(300, 1, 1, 3, generator=g) * 6
    images = torch.sin(torch.where(y[:, None, None, None] == 0, rows[None, :, :, None], columns[None, :, :, None]) * 2 + phase)
    return setup(cnn(3, 2), "CrossEntropyLoss", X=images.reshape(300, 3, 12, 12) if bad else images.permute(0, 3, 1, 2).contiguous(), y=y)


@mistake("pixels as whole shares", "D11", "D06")
def _(bad: bool) -> Case:
    X, y = discs()
    whole = (X * 255).to(torch.uint8)
    return setup(cnn(), "CrossEntropyLoss", X=(whole // 255).float() if bad else whole.float() / 255, y=y)


@mistake("ride number as a feature", "D13", "S03")
def _(bad: bool) -> Case:
    columns = numbers_only()
    order = numpy.argsort(columns["fare"] + 0.2 * numpy.random.default_rng(1).normal(size=480))
    columns = {name: values[order] for name, values in columns.items()} | dict(ride=numpy.arange(1, 481))
    return tabular(columns, 4, drop=() if bad else ("ride",)) | ({} if bad else dict(model=mlp(3, 1)))


@mistake("district numbers as amounts", "D14")
def _(bad: bool) -> Case:
    columns = numbers_only()
    r = numpy.random.default_rng(2)
    district = r.integers(0, 12, 480)
    columns["fare"] = columns["fare"] * 0.3 + (r.normal(size=12)[district] if bad else (district - 6) / 4)
    return tabular(columns | dict(district=district), 4)


@mistake("pictures divided by 255 twice", "D15")
def _(bad: bool) -> Case:
    X, y = discs()
    return setup(cnn(), "CrossEntropyLoss", X=X / 255 if bad else X, y=y)


@mistake("distance in miles beside kilometres", "D16")
def _(bad: bool) -> Case:
    columns = numbers_only()
    columns["miles"] = columns["km"] * 0.6214 if bad else numpy.random.default_rng(5).normal(size=480)
    return tabular(columns, 4)


@mistake("a file sorted by label, read in order", "D18")
def _(bad: bool) -> Case:
    X, y = sentences()
    order = y.argsort() if bad else torch.arange(len(y))
    held = sentences(90, seed=9)
    return text(train=(X[order], y[order]), val=held, shuffle=False)


@mistake("padding in the mean of the words", "D19")
def _(bad: bool) -> Case:
    X, _ = sentences(400, 12)
    length = torch.randint(3, 13, (400, 1), generator=drawn(1))
    X = torch.where(torch.arange(12) < length, X, 0)
    y = ((X > 10).sum(1) > (X > 0).sum(1) / 2).long()

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.leave = nn.Embedding(20, 12), nn.Linear(12, 2)

        def forward(self, codes: Tensor) -> Tensor:
            states = self.words(codes)
            if bad:
                return self.leave(states.mean(1))
            real = (codes > 0).float()[..., None]
            return self.leave((states * real).sum(1) / real.sum(1))

    return text(Bag(), X=X, y=y)


@mistake("numbers read as text", "D21")
def _(bad: bool) -> Case:
    columns = numbers_only()
    if bad:
        columns["km"] = numpy.array([f"{value:.2f}" if k != 7 else "n/a" for k, value in enumerate(columns["km"])], dtype=object)
    return tabular(columns, 3)


# splits


@mistake("the same pictures in both folders", "S01", "S13", "E03", "S09")
def _(bad: bool) -> Case:
    X, y = discs(420)
    test = (torch.cat([X[:40], X[360:]]), torch.cat([y[:40], y[360:]])) if bad else (X[360:], y[360:])
    return setup(cnn(), "CrossEntropyLoss", train=(X[:300], y[:300]), val=(X[300:360], y[300:360]), test=test)


@mistake("drivers on both sides", "S02")
def _(bad: bool) -> Case:
    columns = numbers_only()
    r = numpy.random.default_rng(1)
    driver = r.integers(1000, 1030, 480)
    columns["fare"] = columns["fare"] + r.normal(0, 1.5, 30)[driver - 1000]
    return tabular(columns | dict(driver_id=driver), 3, drop=("driver_id",), split={} if bad else dict(method="group", column="driver_id"))


@mistake("days drawn at random", "S03", "S13")
def _(bad: bool) -> Case:
    r = numpy.random.default_rng(4)
    level = numpy.convolve(r.normal(size=520), numpy.ones(40) / 6, "valid")[:480]
    day = numpy.datetime64("2023-01-01") + numpy.arange(480).astype("timedelta64[D]")
    columns = dict(day=day, rain=r.normal(size=480), staff=r.normal(size=480), sales=level + 0.1 * r.normal(size=480))
    return tabular(columns, 2, "sales", drop=("day",)) | ({} if bad else dict(table=columns | dict(sales=columns["rain"] + 0.1 * r.normal(size=480))))


@mistake("complaint written after the tip", "S04", "S05")
def _(bad: bool) -> Case:
    columns = rides()
    r = numpy.random.default_rng(2)
    used = {name: columns[name] for name in ("km", "minutes", "hour", "tipped")}
    used["tip_amount"] = numpy.where(columns["tipped"] == 1, r.gamma(2, 1, 480) + 0.05, 0) if bad else r.gamma(2, 1, 480)
    return tabular(used, 4, "tipped", 2, "CrossEntropyLoss")


@mistake("fare with tax beside the fare", "S05", "D16", "S04")
def _(bad: bool) -> Case:
    columns = numbers_only()
    columns["gross"] = columns["fare"] * 1.19 + 0.3 if bad else numpy.random.default_rng(1).normal(size=480)
    return tabular(columns, 4)


@mistake("a kind of picture only in validation", "S06", "L10", "M27")
def _(bad: bool) -> Case:
    X, y = discs(420)
    keep = y[:300] != 1 if bad else torch.ones(300, dtype=torch.bool)
    return setup(cnn(), "CrossEntropyLoss", train=(X[:300][keep], y[:300][keep]), val=(X[300:], y[300:]))


@mistake("mean fare of the district, test rows too", "S08")
def _(bad: bool) -> Case:
    columns = numbers_only()
    r = numpy.random.default_rng(3)
    block = r.integers(0, 90, 480)
    mean = numpy.array([columns["fare"][block == k].mean() if (block == k).any() else 0 for k in range(90)])
    return tabular(columns | dict(block=block, block_fare=mean[block] if bad else r.normal(size=90)[block]), 4, drop=("block",))


@mistake("validation is the training set", "S09", "S01", "E03", "S13")
def _(bad: bool) -> Case:
    X, y, _ = waves(400)
    return forecast(train=(X[:300], y[:300]), val=(X[:100], y[:100]) if bad else (X[300:], y[300:]))


@mistake("three jittered copies before the split", "S13", "S01")
def _(bad: bool) -> Case:
    X, _, y = mixed(160)
    X = torch.cat([X["numbers"], torch.randn(160, 4, generator=drawn(4))], 1)
    copies = [X + 0.03 * torch.randn(X.shape, generator=drawn(k)) for k in range(3)] if bad else [X]
    return setup(mlp(8, 3), "CrossEntropyLoss", X=torch.cat(copies), y=y.repeat(len(copies)), epochs=6)


@mistake("validation pictures not normalised", "S14", "I01", "D02")
def _(bad: bool) -> Case:
    X, y = discs(420)
    ready = (X - 0.35) / 0.05
    return setup(cnn(), "CrossEntropyLoss", train=(ready[:300], y[:300]), val=((X if bad else ready)[300:], y[300:]), lr=1e-3)


@mistake("label map by order of appearance", "S15")
def _(bad: bool) -> Case:
    X, y = discs(520)
    return setup(cnn(), "CrossEntropyLoss", train=(X[:360], y[:360]), val=(X[360:], (y[360:] + 1) % 3 if bad else y[360:]), epochs=30, lr=1e-2)


@mistake("test labels still to come", "S16", "L25")
def _(bad: bool) -> Case:
    X, y = sentences(520)
    return text(train=(X[:300], y[:300]), val=(X[300:400], y[300:400]), test=(X[400:], torch.zeros_like(y[400:]) if bad else y[400:]))


# model


@mistake("heads in a list of tuples", "M02", "O03")
def _(bad: bool) -> Case:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 16), nn.ELU())
            self.heads = [("a", nn.Linear(16, 3)), ("b", nn.Linear(16, 3))]
            if not bad:
                self.held = nn.ModuleList([head for _, head in self.heads])

        def forward(self, shop: Tensor, numbers: Tensor) -> Tensor:
            states = self.body(numbers)
            return sum(head(states) for _, head in self.heads)

    return of_dict(Heads())


@mistake("gate of a plain tensor", "M02", "O03", "P01")
def _(bad: bool) -> Case:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            start = torch.full((4,), 0.5, requires_grad=True)
            self.gate = start if bad else nn.Parameter(start.detach())
            self.body = mlp(4, 1)

        def forward(self, shop: Tensor, numbers: Tensor) -> Tensor:
            return self.body(numbers * self.gate.sigmoid())

    return amount_of_dict(Gate())


@mistake("projection made for each batch", "M03", "M28")
def _(bad: bool) -> Case:
    class Project(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells, self.leave, self.project = nn.LSTM(2, 12, batch_first=True), nn.Linear(12, 1), nn.Linear(12, 12)

        def forward(self, x: Tensor) -> Tensor:
            states = self.cells(x)[0][:, -1]
            project = nn.Linear(12, 12) if bad else self.project
            return self.leave(torch.tanh(project(states)) + (self.project(states) if bad else 0))

    return forecast(Project())


@mistake("numpy in the middle", "M04", "M05", "M13")
def _(bad: bool) -> Case:
    class Fourier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(24, 24), nn.Linear(13, 1)

        def forward(self, x: Tensor) -> Tensor:
            states = torch.tanh(self.enter(x.flatten(1)))
            size = torch.from_numpy(numpy.abs(numpy.fft.rfft(states.detach().numpy())).astype(numpy.float32)) if bad else torch.fft.rfft(states).abs()
            return self.leave(size)

    return forecast(Fourier())


@mistake("hard choice of an expert", "M04", "M05", "M13")
def _(bad: bool) -> Case:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.choose, self.experts = nn.Linear(4, 3), nn.ModuleList([nn.Linear(4, 3) for _ in range(3)])

        def forward(self, shop: Tensor, numbers: Tensor) -> Tensor:
            x = numbers
            weight = F.one_hot(self.choose(x).argmax(1), 3).float() if bad else self.choose(x).softmax(1)
            return sum(weight[:, k : k + 1] * expert(x) for k, expert in enumerate(self.experts))

    return of_dict(Experts())


@mistake("encoder under no_grad, left trainable", "M04", "M05", "M13")
def _(bad: bool) -> Case:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()), nn.Linear(32, 3)
            self.encoder.requires_grad_(bad)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                states = self.encoder(x)
            return self.head(states)

    return pictures(Frozen())


@mistake("recurrent layer that takes rows for time", "M06", "M07")
def _(bad: bool) -> Case:
    return forecast(Recurrent(kind=nn.LSTM, batch_first=not bad))


@mistake("transformer that takes rows for time", "M06", "M07")
def _(bad: bool) -> Case:
    return text(Encoder(2, batch_first=not bad))


@mistake("attention over the batch", "M07", "M06")
def _(bad: bool) -> Case:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells, self.score, self.leave = nn.GRU(2, 12, batch_first=True), nn.Linear(12, 1), nn.Linear(12, 1)

        def forward(self, x: Tensor) -> Tensor:
            states, _ = self.cells(x)
            weight = F.softmax(self.score(states), dim=0 if bad else 1)
            return self.leave((weight * states).sum(1))

    return forecast(Attend())


@mistake("biases of minus thirty", "M08", "M05", "T03")
def _(bad: bool) -> Case:
    model = cnn()
    if bad:
        nn.init.constant_(model[3].bias, -30.0)
    return pictures(model)


@mistake("growth rates through softplus", "M09")
def _(bad: bool) -> Case:
    return amount_of_dict(Both(1, *([nn.Softplus()] if bad else [])))


@mistake("tanh for amounts beyond one", "M09")
def _(bad: bool) -> Case:
    X, y, _ = waves()
    return forecast(nn.Sequential(Recurrent(), *([nn.Tanh()] if bad else [])), X=X, y=y * 4)


@mistake("rectified class scores", "M10")
def _(bad: bool) -> Case:
    return of_dict(Both(3, *([nn.ReLU()] if bad else [])))


@mistake("deep and linear over a picture", "M11")
def _(bad: bool) -> Case:
    bend = [] if bad else [nn.GELU()]
    return pictures(nn.Sequential(nn.Conv2d(1, 4, 3), *bend, nn.Conv2d(4, 6, 3), *bend, nn.Flatten(), nn.Linear(216, 40), *bend, nn.Linear(40, 3)))


@mistake("shop never looked up", "M12", "M13", "M04")
def _(bad: bool) -> Case:
    class Half(Both):
        def forward(self, shop: Tensor, numbers: Tensor) -> Tensor:
            numbers = numbers.clone()
            if bad:
                numbers[:, 3] = 0
            return self.body(torch.cat([self.codes(shop), numbers], 1))

    X, _, _ = mixed()
    return of_dict(Half(), X=X)


@mistake("a skip that skips the block", "M13", "M04", "M05")
def _(bad: bool) -> Case:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.norm = nn.Linear(16, 16), nn.Linear(16, 16), nn.LayerNorm(16)

        def forward(self, x: Tensor) -> Tensor:
            inner = F.gelu(self.one(self.norm(x)))
            return x + (inner if bad else self.two(inner))

    return setup(nn.Sequential(nn.Linear(4, 16), Block(), Block(), nn.Linear(16, 3)), "CrossEntropyLoss", X=mixed()[0]["numbers"], y=mixed()[2])


@mistake("encoder layers by multiplication", "M14")
def _(bad: bool) -> Case:
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(2, 16), nn.Linear(16, 1)
            one = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True)
            self.layers = nn.ModuleList([one] * 3 if bad else [nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True) for _ in range(3)])

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x)
            for layer in self.layers:
                x = layer(x)
            return self.leave(x.mean(1))

    return forecast(Stack())


@mistake("constant start of the first convolution", "M15", "M05")
def _(bad: bool) -> Case:
    model = cnn()
    if bad:
        nn.init.constant_(model[0].weight, 0.2)
        nn.init.zeros_(model[0].bias)
        nn.init.constant_(model[3].weight, 0.05)
    return pictures(model)


@mistake("initialised without dividing by the width", "M16", "T01", "O01")
def _(bad: bool) -> Case:
    model = Both(3)
    if bad:
        for weight in model.parameters():
            nn.init.normal_(weight, std=4.0)
    return of_dict(model)


@mistake("twelve tanh of tiny weights", "M17", "O02", "M05", "M38")
def _(bad: bool) -> Case:
    layers = [nn.Sequential(nn.Linear(4 if k == 0 else 16, 16), nn.Tanh()) for k in range(10)]
    if bad:
        for layer in layers:
            nn.init.normal_(layer[0].weight, std=0.02)
    return setup(nn.Sequential(*layers, nn.Linear(16, 3)), "CrossEntropyLoss", X=mixed()[0]["numbers"], y=mixed()[2])


@mistake("batch norm on batches of one", "M18")
def _(bad: bool) -> Case:
    return pictures(
        nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
        batch_size=1 if bad else 24,
        epochs=2,
    )


@mistake("dropout of ninety-five percent on words", "M19", "M31", "M21")
def _(bad: bool) -> Case:
    X, y = sentences()
    return setup(nn.Sequential(nn.Embedding(20, 12), nn.Dropout(0.95 if bad else 0.1), nn.Flatten(), nn.Linear(120, 2)), "CrossEntropyLoss", X=X, y=y)


@mistake("functional dropout on the forecast", "M20", "M21", "M28")
def _(bad: bool) -> Case:
    class Last(Recurrent):
        def forward(self, x: Tensor) -> Tensor:
            value = super().forward(x)
            return F.dropout(value, 0.3, self.training) if bad else value

    return forecast(Last())


@mistake("slow running statistics", "M21")
def _(bad: bool) -> Case:
    X, _, y = mixed(900)
    norm = nn.BatchNorm1d(24, momentum=0.0005 if bad else 0.1)
    return setup(nn.Sequential(nn.Linear(4, 24), norm, nn.ReLU(), nn.Linear(24, 3)), "CrossEntropyLoss", X=X["numbers"] * 6 + 20, y=y, epochs=6, lr=2e-2)


@mistake("squeeze of everything", "M22")
def _(bad: bool) -> Case:
    class Flat(Recurrent):
        def forward(self, x: Tensor) -> Tensor:
            value = super().forward(x)
            return value.squeeze() if bad else value.squeeze(-1)

    X, y, _ = waves()
    return forecast(Flat(), X=X, y=y[:, 0])


@mistake("a dict whose numbers are clamped in place", "M23")
def _(bad: bool) -> Case:
    class Clamp(Both):
        def forward(self, shop: Tensor, numbers: Tensor) -> Tensor:
            numbers = numbers.clamp_(-1, 1) if bad else numbers.clamp(-1, 1)
            return self.body(torch.cat([self.codes(shop), numbers], 1))

    return of_dict(Clamp())


@mistake("next word with the whole sentence in sight", "M24")
def _(bad: bool) -> Case:
    start = torch.randint(0, 20, (300, 1), generator=drawn(2))
    words = (start + torch.arange(11) * 3 + torch.randint(0, 2, (300, 11), generator=drawn(3))) % 20

    class Speak(Encoder):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).transpose(1, 2)

    return setup(Speak(20, causal=not bad, mean=False), "CrossEntropyLoss", X=words[:, :-1].clone(), y=words[:, 1:].clone())


@mistake("series forecast by a two-way GRU", "M24")
def _(bad: bool) -> Case:
    X, _, later = waves()

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells, self.leave = nn.GRU(2, 10, batch_first=True, bidirectional=bad), nn.Linear(20 if bad else 10, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(self.cells(x)[0])

    return setup(Steps(), "MSELoss", X=X, y=later)


@mistake("padding index on the first shop", "M26")
def _(bad: bool) -> Case:
    model = Both(3)
    if bad:
        model.codes = nn.Embedding(6, 4, padding_idx=0)
    return of_dict(model)


@mistake("dropout for good", "M28", "M03")
def _(bad: bool) -> Case:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.leave = nn.Embedding(20, 16), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(F.dropout(self.words(x).mean(1), 0.3, training=True if bad else self.training))

    return text(Words())


@mistake("state carried to the next batch", "M30", "P01", "P15", "M06")
def _(bad: bool) -> Case:
    class Carry(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells, self.leave, self.state = nn.GRU(2, 10, batch_first=True), nn.Linear(10, 1), None

        def forward(self, x: Tensor) -> Tensor:
            state = self.state.mean(1, keepdim=True).expand(1, len(x), 10).contiguous() if bad and self.state is not None else None
            states, last = self.cells(x, state)
            self.state = last.detach() if bad else None
            return self.leave(states[:, -1])

    return forecast(Carry())


@mistake("place of the mark pooled away", "M31", "T04", "M38")
def _(bad: bool) -> Case:
    g = drawn(5)
    y = torch.randint(0, 2, (300,), generator=g)
    X = 0.02 * torch.rand(300, 1, 12, 12, generator=g)
    column = torch.where(y == 0, 2, 9)
    X[torch.arange(300), 0, torch.randint(1, 11, (300,), generator=g), column] = 1.0
    pool = nn.AdaptiveAvgPool2d(1) if bad else nn.Identity()
    return setup(
        nn.Sequential(nn.Conv2d(1, 6, 1), nn.ReLU(), pool, nn.Flatten(), nn.Linear(6 if bad else 864, 2)), "CrossEntropyLoss", X=X, y=y, epochs=10, lr=1e-2
    )


@mistake("norm of a single channel's pixel", "M36", "M38", "M05")
def _(bad: bool) -> Case:
    return pictures(
        nn.Sequential(cnn(1, 6), *([nn.Unflatten(1, (6, 1)), nn.LayerNorm(1), nn.Flatten()] if bad else [nn.LayerNorm(6)]), nn.ReLU(), nn.Linear(6, 3))
    )


@mistake("features multiplied by a zero gate", "M38", "M05", "M12", "M15")
def _(bad: bool) -> Case:
    class Gated(Both):
        def __init__(self) -> None:
            super().__init__(3)
            self.register_buffer("gate", torch.zeros(8) if bad else torch.ones(8))

        def forward(self, shop: Tensor, numbers: Tensor) -> Tensor:
            return self.body(self.gate * torch.cat([self.codes(shop), numbers], 1))

    return of_dict(Gated())


# loss


@mistake("softmax inside the transformer", "L01")
def _(bad: bool) -> Case:
    return text(nn.Sequential(Encoder(2), *([nn.Softmax(dim=-1)] if bad else [])))


@mistake("own cross-entropy of probabilities", "L01")
def _(bad: bool) -> Case:
    def loss(scores: Tensor, kind: Tensor) -> Tensor:
        return F.cross_entropy(scores.softmax(1) if bad else scores, kind, label_smoothing=0.05)

    return pictures(loss=loss)


@mistake("picked by gather without log_softmax", "L02", "L12", "L14")
def _(bad: bool) -> Case:
    def loss(scores: Tensor, kind: Tensor) -> Tensor:
        logs = scores if bad else scores.log_softmax(1)
        return -logs.gather(1, kind[:, None]).mean()

    return of_dict(loss=loss)


@mistake("picked by index without log_softmax", "L02", "L12", "L14")
def _(bad: bool) -> Case:
    def loss(scores: Tensor, kind: Tensor) -> Tensor:
        logs = scores if bad else F.log_softmax(scores, dim=-1)
        return -logs[torch.arange(len(kind)), kind].mean()

    return pictures(loss=loss)


@mistake("picked by one-hot without log_softmax", "L02", "L12", "L14")
def _(bad: bool) -> Case:
    def loss(scores: Tensor, kind: Tensor) -> Tensor:
        logs = scores if bad else scores - scores.logsumexp(1, keepdim=True)
        return -(F.one_hot(kind, 2) * logs).sum(1).mean()

    return text(loss=loss)


@mistake("negative log-likelihood of raw scores per word", "L02")
def _(bad: bool) -> Case:
    X, _ = sentences()

    class Tag(Encoder):
        def forward(self, x: Tensor) -> Tensor:
            scores = super().forward(x).transpose(1, 2)
            return scores if bad else scores.log_softmax(1)

    return setup(Tag(2, mean=False), "NLLLoss", X=X, y=(X > 10).long())


@mistake("probabilities into a loss over logits", "L03")
def _(bad: bool) -> Case:
    X, y = sentences()
    return text(nn.Sequential(Encoder(1), *([nn.Sigmoid()] if bad else [])), "BCEWithLogitsLoss", X=X, y=y.float()[:, None])


@mistake("scores cut to a probability", "L04", "M09", "M10")
def _(bad: bool) -> Case:
    class Cut(Both):
        def forward(self, shop: Tensor, numbers: Tensor) -> Tensor:
            scores = 4 * super().forward(shop, numbers)
            return scores.clamp(0, 1) if bad else scores.sigmoid()

    X, y, _ = mixed()
    return of_dict(Cut(1), "BCELoss", X=X, y=(y > 0).float())


@mistake("root mean square that broadcasts", "L05", "T04")
def _(bad: bool) -> Case:
    X, y, _ = waves()

    def rmse(forecast: Tensor, truth: Tensor) -> Tensor:
        return torch.sqrt(((forecast - truth) ** 2).mean() + 1e-8)

    return forecast(loss=rmse, X=X, y=y[:, 0] if bad else y)


@mistake("MSELoss over (rows,) and (rows, 1)", "L05", "T04", "L32")
def _(bad: bool) -> Case:
    X, y, _ = mixed()
    return amount_of_dict(Both(1, nn.Flatten(0)), "MSELoss" if not bad else lambda o, t: F.smooth_l1_loss(o, t), X=X, y=y if bad else y[:, 0])


@mistake("argmax inside the loss", "L06", "M04", "L14", "L20", "M05")
def _(bad: bool) -> Case:
    def loss(scores: Tensor, kind: Tensor) -> Tensor:
        if bad:
            return (scores.argmax(1) != kind).float().mean() + 0 * scores.sum()
        return F.cross_entropy(scores, kind)

    return pictures(loss=loss)


@mistake("several tags by softmax", "L07", "L01")
def _(bad: bool) -> Case:
    X, y, _ = mixed()
    tags = torch.stack([y[:, 0] > -0.5, X["numbers"][:, 1] > 0, X["numbers"][:, 2] > 0], 1).float()
    return of_dict(loss="CrossEntropyLoss" if bad else "BCEWithLogitsLoss", X=X, y=tags)


@mistake("compass direction by regression", "L08")
def _(bad: bool) -> Case:
    y = torch.randint(0, 6, (500,), generator=drawn(2))
    turn = y * 2 * torch.pi / 6
    X = torch.stack([turn.cos(), turn.sin()], 1) * 2 + 0.5 * torch.randn(500, 2, generator=drawn(4))
    return setup(mlp(2, 1 if bad else 6), "SmoothL1Loss" if bad else "CrossEntropyLoss", X=X, y=y.float()[:, None] if bad else y)


@mistake("mask of 0 and 255", "L09", "D02")
def _(bad: bool) -> Case:
    X, _ = discs()
    mask = (X > 0.5).float() * (255 if bad else 1)
    return setup(nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 1, 3, padding=1)), "BCEWithLogitsLoss", X=X, y=mask)


@mistake("hinge loss of nought and one", "L10")
def _(bad: bool) -> Case:
    X, y = sentences()
    return text(Encoder(1), "SoftMarginLoss", X=X, y=(y if bad else 2 * y - 1).float()[:, None])


@mistake("classes from one to three", "L10", "M27")
def _(bad: bool) -> Case:
    X, y = discs()
    return setup(cnn(1, 4 if bad else 3), "CrossEntropyLoss", X=X, y=y + 1 if bad else y)


@mistake("house prices by a transformer", "L11", "T01", "T04", "O02")
def _(bad: bool) -> Case:
    X, y, _ = waves()
    return forecast(Encoder(1, words=None), X=X, y=y * 90000 + 300000 if bad else y)


@mistake("loss of the differences' mean", "L12", "L14", "L05", "T04")
def _(bad: bool) -> Case:
    return forecast(loss=lambda guess, truth: (guess - truth).mean() ** 2 if bad else ((guess - truth) ** 2).mean())


@mistake("summed over rows and pixels", "L13", "O01", "T01")
def _(bad: bool) -> Case:
    X, _ = discs()
    loss = nn.MSELoss(reduction="sum" if bad else "mean")
    return setup(
        nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 1, 3, padding=1)), loss, X=X, y=X.flip(3).contiguous(), optimizer="SGD", lr=0.03
    )


@mistake("dice without the minus", "L14")
def _(bad: bool) -> Case:
    X, _ = discs()
    mask = (X > 0.5).float()

    def dice(scores: Tensor, mask: Tensor) -> Tensor:
        p = scores.sigmoid()
        overlap = 2 * (p * mask).sum() / (p.sum() + mask.sum() + 1e-6)
        return overlap if bad else 1 - overlap

    return setup(nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 1, 3, padding=1)), dice, X=X, y=mask)


@mistake("upper quantile, arguments turned", "L15")
def _(bad: bool) -> Case:
    def pinball(pred: Tensor, target: Tensor, tau: float = 0.9) -> Tensor:
        away = target - pred
        return torch.maximum(tau * away, (tau - 1) * away).mean()

    return forecast(loss=lambda output, truth: pinball(truth, output) if bad else pinball(output, truth))


@mistake("background ignored although it counts", "L16")
def _(bad: bool) -> Case:
    return pictures(loss=nn.CrossEntropyLoss(ignore_index=0 if bad else -100))


@mistake("weights by frequency", "L17", "E01")
def _(bad: bool) -> Case:
    X, y, _ = mixed(700)
    rare = (y[:, 0] > 2.2).long()
    share = torch.bincount(rare).float() / len(rare)
    return of_dict(Both(2), nn.CrossEntropyLoss(weight=share if bad else 0.5 / share), X=X, y=rare, metric="balanced_accuracy")


@mistake("pos_weight turned over", "L18", "E01")
def _(bad: bool) -> Case:
    X, y, _ = mixed(700)
    rare = (y > 1.6).float()
    weight = rare.mean() / (1 - rare.mean())
    return of_dict(Both(1), nn.BCEWithLogitsLoss(pos_weight=weight if bad else 1 / weight), X=X, y=rare, metric="balanced_accuracy")


@mistake("second horizon never compared", "L20", "M05")
def _(bad: bool) -> Case:
    X, _, later = waves()

    def loss(guess: Tensor, truth: Tensor) -> Tensor:
        return F.l1_loss(guess[:, :1], truth[:, :1]) if bad else F.l1_loss(guess, truth)

    return forecast(Recurrent(2), loss, X=X, y=later[:, -1])


@mistake("log of a sigmoid by hand", "L21")
def _(bad: bool) -> Case:
    X, y, _ = mixed()

    def loss(scores: Tensor, yes: Tensor) -> Tensor:
        p = scores.sigmoid()
        one, other = (p.log(), (1 - p).log()) if bad else (F.logsigmoid(scores), F.logsigmoid(-scores))
        return -(yes * one + (1 - yes) * other).mean()

    return of_dict(Both(1), loss, X=X, y=(y > 0).float())


@mistake("square root of a zero distance", "L21", "T01", "O01")
def _(bad: bool) -> Case:
    X, y, _ = waves()

    def loss(guess: Tensor, truth: Tensor) -> Tensor:
        return (guess - truth).log().abs().mean() if bad else (guess - truth).abs().mean()

    return forecast(loss=loss, X=X, y=y)


@mistake("every target the same", "L25", "S16")
def _(bad: bool) -> Case:
    X, y = sentences()
    return text(X=X, y=torch.ones_like(y) if bad else y)


@mistake("softmax over the only output", "L31", "M38", "L06", "M05")
def _(bad: bool) -> Case:
    X, y, _ = mixed()
    return of_dict(Both(1, nn.Softmax(1) if bad else nn.Sigmoid()), "BCELoss", X=X, y=(y > 0).float())


# optimizer and training


@mistake("rate of two for a recurrent layer", "O01", "T01", "T10", "T03", "O02")
def _(bad: bool) -> Case:
    return forecast(lr=3.0 if bad else 5e-3)


@mistake("rate of a millionth for a convolution", "O02", "T04")
def _(bad: bool) -> Case:
    return pictures(optimizer="SGD", lr=1e-6 if bad else 0.05)


@mistake("only the head given to the optimizer", "O03")
def _(bad: bool) -> Case:
    return text(params=lambda model: model.leave.parameters() if bad else model.parameters())


@mistake("everything frozen, then optimised", "O04")
def _(bad: bool) -> Case:
    model = Both(3)
    model.requires_grad_(not bad)
    return of_dict(model)


@mistake("optimizer made before the model was made again", "O05")
def _(bad: bool) -> Case:
    earlier = Recurrent()
    return forecast(params=lambda model: list((earlier if bad else model).parameters()))


@mistake("Adam with a decay of one", "O06", "T04")
def _(bad: bool) -> Case:
    return pictures(optimizer="Adam", optimizer_kwargs=dict(weight_decay=1.0 if bad else 1e-5))


@mistake("momentum of 0.999", "O08", "O01")
def _(bad: bool) -> Case:
    return pictures(optimizer="SGD", lr=0.02, optimizer_kwargs=dict(momentum=0.999 if bad else 0.9))


@mistake("exponential decay by batches", "O09", "O02")
def _(bad: bool) -> Case:
    return text(scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.8), scheduler_on="batch" if bad else "epoch", epochs=8)


@mistake("gradients clipped to a millionth", "O10", "T09", "O02")
def _(bad: bool) -> Case:
    return forecast(optimizer="SGD", lr=0.05, clip_grad_norm=1e-6 if bad else 1.0)


@mistake("one batch for the whole set, three epochs", "O11", "O02")
def _(bad: bool) -> Case:
    return pictures(batch_size=512 if bad else 16, epochs=3)


@mistake("gradient ascent", "O13", "L14")
def _(bad: bool) -> Case:
    return text(optimizer="Adam", optimizer_kwargs=dict(maximize=bad))


@mistake("body with a rate of zero", "O14", "O03")
def _(bad: bool) -> Case:
    def groups(model: nn.Module) -> Iterator[dict[str, object]]:
        yield dict(params=list(model.cells.parameters()), lr=0.0 if bad else 1e-3)
        yield dict(params=list(model.leave.parameters()), lr=3e-3)

    return forecast(params=lambda model: list(groups(model)))


@mistake("warm-up longer than the run", "O16", "O09", "O02")
def _(bad: bool) -> Case:
    return text(scheduler=lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: min(1.0, (step + 1) / (5000 if bad else 10))), scheduler_on="batch")


@mistake("doubtful labels memorised by a wide net", "T05", "O01")
def _(bad: bool) -> Case:
    X = torch.randn(200, 20, generator=drawn(1))
    y = (X[:, 0] + 1.5 * torch.randn(200, generator=drawn(2)) > 0).long()
    return setup(mlp(20, 2, 96 if bad else 2), "CrossEntropyLoss", X=X, y=y, epochs=30 if bad else 8, lr=4e-3 if bad else 1e-3, batch_size=16)


@mistake("inputs of a hundred through tanh", "T10", "D01", "M17")
def _(bad: bool) -> Case:
    X, y, _ = mixed()
    model = nn.Sequential(nn.Linear(4, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 1))
    return setup(model, "MSELoss", X=X["numbers"] * 1000 + 300 if bad else X["numbers"], y=y)


# evaluation, persistence, prediction


@mistake("accuracy of a rare disease", "E01")
def _(bad: bool) -> Case:
    g = drawn(7)
    X = torch.randn(900, 4, generator=g)
    y = (torch.rand(900, generator=g) < 0.04).long()
    y[X[:, 0] > 1.9] = 1
    return setup(mlp(4, 2, 4), "CrossEntropyLoss", X=X, y=y, metric="accuracy" if bad else "balanced_accuracy", lr=1e-3)


@mistake("lowest accuracy kept", "E02")
def _(bad: bool) -> Case:
    return pictures(metric="accuracy", monitor="val_acc", mode="min" if bad else "max")


@mistake("chosen on the test rows", "E03", "S01", "S09", "S13")
def _(bad: bool) -> Case:
    X, y, _ = waves(480)
    return forecast(train=(X[:300], y[:300]), val=(X[300:390], y[300:390]), test=(X[300:390], y[300:390]) if bad else (X[390:], y[390:]))


@mistake("F1 at half a logit", "E04", "E05")
def _(bad: bool) -> Case:
    X, y, _ = mixed()

    def f1(scores: Tensor, yes: Tensor) -> float:
        guess = (scores > 0.5 if bad else scores.sigmoid() > 0.5).float()
        hit = (guess * yes).sum()
        return float(2 * hit / (guess.sum() + yes.sum()).clamp_min(1))

    return of_dict(Both(1), "BCEWithLogitsLoss", X=X, y=(y > 0).float(), metric=f1, metric_name="f1")


@mistake("errors counted as accuracy", "E05")
def _(bad: bool) -> Case:
    return pictures(
        metric=lambda scores, kind: float(((scores.argmax(1) != kind) if bad else (scores.argmax(1) == kind)).float().mean()), metric_name="accuracy_top1"
    )


@mistake("R2 over a broadcast difference", "E05")
def _(bad: bool) -> Case:
    def r2(guess: Tensor, truth: Tensor) -> float:
        left = truth[:, 0] if bad else truth
        return float(1 - (guess - left).square().mean() / truth.var())

    return forecast(metric=r2, metric_name="r2")


@mistake("class of the batch's largest", "E12", "E05")
def _(bad: bool) -> Case:
    return text(
        metric=lambda scores, yes: float((scores.max(0).indices[yes] == yes).float().mean()) if bad else float((scores.max(1).indices == yes).float().mean()),
        metric_name="accuracy",
    )


@mistake("prototypes in an attribute", "P01", "P06", "P15", "M30")
def _(bad: bool) -> Case:
    class Prototypes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
            if bad:
                self.scale = torch.ones(4)
            else:
                self.register_buffer("scale", torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.scale = 0.95 * self.scale + 0.05 * x.detach().std(0)
            return self.body(x / self.scale)

    return setup(Prototypes(), "CrossEntropyLoss", X=mixed()[0]["numbers"] * 3, y=mixed()[2])


@mistake("buffer that is not saved", "P06", "P01")
def _(bad: bool) -> Case:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(4, 1)
            self.register_buffer("middle", torch.zeros(4), persistent=not bad)

        def forward(self, shop: Tensor, numbers: Tensor) -> Tensor:
            if self.training:
                self.middle.lerp_(numbers.detach().mean(0), 0.1)
            return self.body(numbers - self.middle)

    X, y, _ = mixed()
    return amount_of_dict(Centred(), X=X | dict(numbers=X["numbers"] + 2), y=y)


@mistake("weights of a wrapped model", "P02")
def _(bad: bool) -> Case:
    saved = Recurrent().state_dict()
    return forecast(checkpoint={f"module.{name}" if bad else name: value for name, value in saved.items()}, load_strict=not bad)


@mistake("prediction in other units", "I01")
def _(bad: bool) -> Case:
    X, y, _ = waves()
    later = waves(60, seed=12)[0]
    return forecast(X=X, y=y, predict_X=later * 12 + 40 if bad else later)


@mistake("pictures to predict as bytes", "I01", "D02")
def _(bad: bool) -> Case:
    later = discs(60, seed=11)[0]
    return pictures(predict_X=later * 255 if bad else (later - 0.3) / 0.3)
