"""Mistakes in another hand than `cases` and `more_cases`: tables of columns, functional forwards over a ParameterDict, nested Sequential, own losses; each beside its mended twin.

`CASES[name]` is `(code, other fair codes, make)`; `make(True)` is the wrong case, `make(False)` the right one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy
import torch
from cases import Case, mistakes_in
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

CASES: dict[str, tuple[str, tuple[str, ...], Callable[[bool], Case]]] = {}


mistake = mistakes_in(CASES)


def shop(n: int = 500, seed: int = 5) -> dict[str, numpy.ndarray]:
    """Columns of a shop's orders: `price`, `weight`, `age`, `visits`, the amount `spent` (standard deviation near 1) and whether they `came` again."""
    r = numpy.random.default_rng(seed)
    price, weight, age, visits = r.normal(20, 5, n), r.gamma(3, 1, n), r.uniform(18, 80, n), r.normal(0, 1, n)
    spent = (price - 20) / 5 + 0.5 * numpy.sin(weight) + 0.02 * (age - 50) + 0.2 * r.normal(size=n)
    return dict(price=price, weight=weight, age=age, visits=visits, spent=spent, came=(spent + 0.4 * visits > 0).astype(int))


def rows(n: int = 500, d: int = 5, seed: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Features (n, d), an amount (n, 1) and one of three classes (n,)."""
    g = torch.Generator().manual_seed(seed)
    X = torch.randn(n, d, generator=g)
    amount = X[:, 0] + X[:, 1] * X[:, 2] + 0.1 * torch.randn(n, generator=g)
    return X, amount[:, None], torch.bucketize(amount, torch.tensor([-0.6, 0.6]))


def net(i: int = 5, o: int = 3, *tail: nn.Module) -> nn.Sequential:
    body = OrderedDict(up=nn.Linear(i, 20), bend=nn.SiLU(), mix=nn.Linear(20, 20), bend2=nn.SiLU())
    return nn.Sequential(OrderedDict(body=nn.Sequential(body), head=nn.Sequential(nn.Linear(20, o), *tail)))


def setup(model: nn.Module, loss: object, **more: object) -> Case:
    return dict(model=model, loss=loss, task=None, optimizer="Adam", lr=5e-3, batch_size=25, epochs=5) | more


def classes(model: nn.Module | None = None, loss: object = "CrossEntropyLoss", **more: object) -> Case:
    X, _, y = rows()
    return setup(model or net(), loss, X=X, y=y) | more


def amounts(model: nn.Module | None = None, loss: object = "MSELoss", **more: object) -> Case:
    X, y, _ = rows()
    return setup(model or net(5, 1), loss, X=X, y=y) | more


def table(columns: dict[str, object], target: str, out: int = 1, loss: object = "MSELoss", **more: object) -> Case:
    used = len(columns) - 1 - len(more.get("drop", ()))  # type: ignore[arg-type]
    return setup(net(used, out), loss, table=columns, target=target) | more


class Weights(nn.Module):
    """A model as a function of its weights: `forward` is `function(w, x)`, `w` a ParameterDict."""

    def __init__(self, function: Callable[..., Tensor], i: int = 5, h: int = 20, o: int = 3):
        super().__init__()
        self.w = nn.ParameterDict(
            dict(
                a=torch.randn(h, i) * i**-0.5,
                a0=torch.zeros(h),
                b=torch.randn(h, h) * h**-0.5,
                b0=torch.zeros(h),
                c=torch.randn(o, h) * h**-0.5,
                c0=torch.zeros(o),
            )
        )
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.w, x)


def plain(w: nn.ParameterDict, x: Tensor) -> Tensor:
    return F.linear(F.gelu(F.linear(F.gelu(F.linear(x, w.a, w.a0)), w.b, w.b0)), w.c, w.c0)


class Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Pairs(Dataset):
    def __init__(self, X: Tensor, y: Tensor, read: Callable[[Tensor, int], Tensor] = lambda X, i: X[i]):
        self.X, self.y, self.read = X.clone(), y, read

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.read(self.X, i), self.y[i]


# data


@mistake("turnover in cents", "D01", "T10", "M16", "O01", "T01")
def _(bad: bool) -> Case:
    X, _y, _ = rows()
    return amounts(X=X * torch.tensor([1, 1, 1, 1, 80000.0 if bad else 1]))


@mistake("bytes through a Dataset of a memory map", "D02", "D01", "M16", "O01", "T01")
def _(bad: bool) -> Case:
    g = torch.Generator().manual_seed(1)
    y = torch.randint(0, 2, (300,), generator=g)
    X = (torch.rand(300, 1, 8, 8, generator=g) * 120 + 110 * y[:, None, None, None]).round()
    model = nn.Sequential(nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    return setup(model, "CrossEntropyLoss", dataset=Pairs(X if bad else (X - 110) / 60, y))


@mistake("99999 for no age", "D04", "D01")
def _(bad: bool) -> Case:
    columns = shop()
    if bad:
        columns["age"][::20] = 99999
    columns.pop("came")
    return table(columns, "spent")


@mistake("one column sorted apart", "D05", "T04")
def _(bad: bool) -> Case:
    columns = shop()
    if bad:
        columns["spent"] = numpy.sort(columns["spent"])
    columns.pop("came")
    return table(columns, "spent", epochs=12)


@mistake("every item is the last", "D07", "D06", "M38")
def _(bad: bool) -> Case:
    X, _, y = rows()
    return setup(net(), "CrossEntropyLoss", dataset=Pairs(X, y, (lambda X, i: X[-1]) if bad else (lambda X, i: X[i])))


@mistake("items halved each time they are read", "D08", "P15")
def _(bad: bool) -> Case:
    X, _, y = rows()
    return setup(net(), "CrossEntropyLoss", dataset=Pairs(X, y, (lambda X, i: X[i].mul_(0.9)) if bad else (lambda X, i: X[i].mul(0.9))))


@mistake("shares floor-divided", "D11", "D06")
def _(bad: bool) -> Case:
    X, _, y = rows()
    whole = (X * 40 + 200).long()
    return classes(X=(whole // 1000).float() if bad else (whole - 200) / 40, y=y)


@mistake("line number among the columns", "D13")
def _(bad: bool) -> Case:
    columns = shop()
    order = numpy.argsort(columns["spent"])
    columns = {name: values[order] for name, values in columns.items() if name != "came"} | dict(line=numpy.arange(500))
    return table(columns, "spent", drop=() if bad else ("line",))


@mistake("standardised and again divided by its variance", "D15", "O02", "T04")
def _(bad: bool) -> Case:
    X, _y, _ = rows()
    return amounts(X=X / 1000 if bad else X, optimizer="SGD")


@mistake("nanoseconds since the epoch", "D20", "S03")
def _(bad: bool) -> Case:
    X, _y, _ = rows()
    when = 1.7e9 + torch.rand(500, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 3600
    column = when.float() if bad else ((when - when.mean()) / when.std()).float()
    return amounts(X=torch.cat([X, column[:, None]], 1), model=nn.Sequential(nn.BatchNorm1d(6), net(6, 1)))


@mistake("rows sorted by class and read in order", "D18")
def _(bad: bool) -> Case:
    X, _, y = rows()
    order = y.argsort() if bad else torch.arange(500)
    return classes(train=(X[order], y[order]), val=(rows(120, seed=8)[0], rows(120, seed=8)[2]), shuffle=False)


# splits


@mistake("orders written twice", "S01", "S13")
def _(bad: bool) -> Case:
    columns = shop()
    columns.pop("came")
    twice = {name: numpy.concatenate([values, values]) for name, values in columns.items()} if bad else columns
    return table(twice, "spent")


@mistake("customers on both sides", "S02")
def _(bad: bool) -> Case:
    columns = shop()
    columns.pop("came")
    r = numpy.random.default_rng(1)
    who = r.integers(0, 40, 500)
    columns["spent"] = columns["spent"] + r.normal(0, 2, 40)[who]
    columns["customer"] = numpy.array([f"c{k:03d}" for k in who])
    return table(columns, "spent", drop=("customer",), split={} if bad else dict(method="group", column="customer"))


@mistake("hourly load cut at random", "S03", "S13")
def _(bad: bool) -> Case:
    r = numpy.random.default_rng(3)
    load = numpy.cumsum(r.normal(0, 0.2, 500))
    load = (load - load.mean()) / load.std()
    columns = dict(hour=numpy.arange(500) * 3600 + 1_600_000_000, wind=r.normal(size=500), sun=r.normal(size=500), load=load)
    return table(columns, "load", drop=("hour",), split={} if bad else dict(method="time", column="hour")) | (
        dict() if bad else dict(table=columns | dict(load=columns["wind"] + 0.1 * r.normal(size=500)))
    )


@mistake("refund known afterwards", "S04", "S05")
def _(bad: bool) -> Case:
    columns = shop()
    columns.pop("spent")
    columns["refund"] = (
        numpy.where(columns["came"] == 1, numpy.random.default_rng(1).gamma(2, 3, 500) + 0.1, 0) if bad else numpy.random.default_rng(1).gamma(2, 3, 500)
    )
    return table(columns, "came", 2, "CrossEntropyLoss")


@mistake("amount in another currency", "S05", "S04", "D16")
def _(bad: bool) -> Case:
    columns = shop()
    columns.pop("came")
    columns["in_dollars"] = columns["spent"] * 1.08 if bad else columns["visits"] ** 2
    return table(columns, "spent")


@mistake("mean of the street over all rows", "S08")
def _(bad: bool) -> Case:
    columns = shop()
    columns.pop("came")
    r = numpy.random.default_rng(6)
    street = r.integers(0, 120, 500)
    means = numpy.array([columns["spent"][street == k].mean() if (street == k).any() else 0 for k in range(120)])
    columns["street"] = street
    columns["street_mean"] = means[street] if bad else r.normal(size=120)[street]
    return table(columns, "spent", drop=("street",))


@mistake("test divided by its own largest value", "S14", "I01")
def _(bad: bool) -> Case:
    X, y, _ = rows(700)
    X = X * 2 + 6
    mean, std = X[:400].mean(0), X[:400].std(0)
    ready = (X - mean) / std
    return amounts(train=(ready[:400], y[:400]), val=(X[400:550] if bad else ready[400:550], y[400:550]), test=(ready[550:], y[550:]))


@mistake("competition's test labels", "S16", "L25")
def _(bad: bool) -> Case:
    X, _, y = rows(700)
    return classes(train=(X[:400], y[:400]), val=(X[400:550], y[400:550]), test=(X[550:], torch.zeros_like(y[550:]) if bad else y[550:]))


@mistake("a new class in validation", "S06", "L10", "M27")
def _(bad: bool) -> Case:
    X, _, y = rows(700)
    keep = (y[:400] != 2) if bad else torch.ones(400, dtype=torch.bool)
    return classes(train=(X[:400][keep], y[:400][keep]), val=(X[400:], y[400:]))


# model


class Branches(nn.Module):
    def __init__(self, bad: bool):
        super().__init__()
        parts = {"left": nn.Sequential(nn.Linear(5, 10), nn.SiLU()), "right": nn.Sequential(nn.Linear(5, 10), nn.SiLU())}
        self.parts = parts if bad else nn.ModuleDict(parts)
        self.join = nn.Sequential(nn.Linear(20, 20), nn.SiLU(), nn.Linear(20, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat([self.parts[name](x) for name in ("left", "right")], 1))


@mistake("branches in a dict", "M02", "O03")
def _(bad: bool) -> Case:
    return classes(Branches(bad))


@mistake("a mixing matrix drawn in forward", "M03", "M28")
def _(bad: bool) -> Case:
    fixed = torch.randn(20, 20) * 0.2
    return classes(
        Weights(
            lambda w, x: F.linear(
                F.gelu(F.gelu(F.linear(x, w.a, w.a0)) @ (torch.randn(20, 20) * 0.2 if bad else fixed) + F.linear(F.gelu(F.linear(x, w.a, w.a0)), w.b, w.b0)),
                w.c,
                w.c0,
            )
        )
    )


@mistake("hidden values detached for a statistic", "M04", "M05", "M13")
def _(bad: bool) -> Case:
    def forward(w: nn.ParameterDict, x: Tensor) -> Tensor:
        h = F.gelu(F.linear(x, w.a, w.a0))
        return F.linear(F.gelu(F.linear(h.detach() if bad else h, w.b, w.b0)), w.c, w.c0)

    return classes(Weights(forward))


@mistake("sign of the hidden values", "M04", "M05")
def _(bad: bool) -> Case:
    return classes(nn.Sequential(nn.Linear(5, 20), Apply(torch.sign if bad else torch.tanh), nn.Linear(20, 3)))


@mistake("rows averaged with their neighbours", "M06", "M07")
def _(bad: bool) -> Case:
    return classes(Weights(lambda w, x: plain(w, x - 0.3 * x.roll(1, 0) if bad else x)))


@mistake("attention without a time axis", "M06", "M07")
def _(bad: bool) -> Case:
    def forward(w: nn.ParameterDict, x: Tensor) -> Tensor:
        h = F.gelu(F.linear(x, w.a, w.a0))
        h = F.scaled_dot_product_attention(h, h, h) if bad else h
        return F.linear(F.gelu(F.linear(h, w.b, w.b0)), w.c, w.c0)

    return classes(Weights(forward))


@mistake("divided by the batch's norm", "M07", "M06", "M25")
def _(bad: bool) -> Case:
    return classes(nn.Sequential(Apply(lambda x: F.normalize(x, dim=0 if bad else 1) * 3), net()))


@mistake("layers born dead", "M08", "M05", "T03")
def _(bad: bool) -> Case:
    model = nn.Sequential(nn.Linear(5, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3))
    nn.init.constant_(model[2].bias, -20 if bad else 0)
    return classes(model)


@mistake("amounts through hardsigmoid", "M09")
def _(bad: bool) -> Case:
    return amounts(net(5, 1, nn.Hardsigmoid()) if bad else None)


@mistake("amounts through relu6", "M09", "M10")
def _(bad: bool) -> Case:
    return amounts(net(5, 1, nn.ReLU6()) if bad else None)


@mistake("logits through relu", "M10")
def _(bad: bool) -> Case:
    return classes(net(5, 3, nn.ReLU()) if bad else None)


@mistake("identity in the place of an activation", "M11")
def _(bad: bool) -> Case:
    bend = nn.Identity if bad else nn.Mish
    return amounts(nn.Sequential(nn.Sequential(nn.Linear(5, 20), bend()), nn.Sequential(nn.Linear(20, 20), bend()), nn.Linear(20, 1)))


@mistake("a column multiplied away", "M12", "D06")
def _(bad: bool) -> Case:
    return amounts(nn.Sequential(Apply(lambda x: x[:, :4] if bad else x), net(4 if bad else 5, 1)))


class Skipped(nn.Module):
    def __init__(self, bad: bool):
        super().__init__()
        self.stages = nn.ModuleList([nn.Sequential(nn.Linear(5 if k == 0 else 20, 20), nn.SiLU()) for k in range(3)])
        self.head, self.bad = nn.Linear(20, 3), bad

    def forward(self, x: Tensor) -> Tensor:
        for k in range(2 if self.bad else 3):
            x = self.stages[k](x)
        return self.head(x)


@mistake("a loop that ends one too early", "M13", "M04", "M05")
def _(bad: bool) -> Case:
    return classes(Skipped(bad))


@mistake("blocks of a Sequential repeated", "M14")
def _(bad: bool) -> Case:
    block = nn.Sequential(nn.Linear(20, 20), nn.SiLU())
    return classes(
        nn.Sequential(nn.Linear(5, 20), *([block] * 3 if bad else [nn.Sequential(nn.Linear(20, 20), nn.SiLU()) for _ in range(3)]), nn.Linear(20, 3))
    )


@mistake("weights set to one number", "M15")
def _(bad: bool) -> Case:
    model = Weights(plain)
    if bad:
        model.w["a"].data.fill_(0.1)
        model.w["b"].data.fill_(0.1)
    return classes(model)


@mistake("standard normal weights", "M16", "T01")
def _(bad: bool) -> Case:
    model = net()
    if bad:
        for p in model.parameters():
            nn.init.normal_(p, 0, 3)
    return classes(model)


@mistake("eight sigmoids", "M17")
def _(bad: bool) -> Case:
    bend = nn.Sigmoid if bad else nn.SiLU
    stages = [nn.Sequential(nn.Linear(5 if k == 0 else 16, 16), bend()) for k in range(8)]
    return classes(nn.Sequential(*stages, nn.Linear(16, 3)))


@mistake("dropout that keeps a twentieth", "M19", "M31", "M21")
def _(bad: bool) -> Case:
    return classes(nn.Sequential(nn.Linear(5, 20), nn.SiLU(), nn.Dropout(0.95 if bad else 0.1), nn.Linear(20, 3)))


@mistake("dropout after the amounts", "M20", "M21")
def _(bad: bool) -> Case:
    return amounts(net(5, 1, *([nn.Dropout(0.4)] if bad else [])))


@mistake("functional dropout with its default", "M28", "M03")
def _(bad: bool) -> Case:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 30), nn.Linear(30, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.dropout(torch.tanh(self.a(x)), 0.2, **({} if bad else dict(training=self.training))))

    return classes(Net())


@mistake("running sum of all inputs", "M30", "P01", "P15", "M06")
def _(bad: bool) -> Case:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.seen = net(), torch.zeros(5)

        def forward(self, x: Tensor) -> Tensor:
            if bad:
                self.seen = 0.9 * self.seen + 0.1 * x.detach().sum(0)
            return self.net(x + self.seen)

    return classes(Net())


@mistake("inputs shifted in place", "M23")
def _(bad: bool) -> Case:
    return classes(nn.Sequential(Apply(lambda x: x.sub_(0.1) if bad else x.sub(0.1)), net()))


@mistake("norm of the last, single feature", "M36", "M38")
def _(bad: bool) -> Case:
    return amounts(nn.Sequential(net(5, 1), *([nn.LayerNorm(1)] if bad else [])))


@mistake("batches of one row through batch norm", "M18", "L32")
def _(bad: bool) -> Case:
    model = nn.Sequential(nn.Linear(5, 20), nn.BatchNorm1d(20), nn.SiLU(), nn.Linear(20, 3))
    return classes(model, batch_size=299 if bad else 30)


# loss


@mistake("functional softmax at the end", "L01")
def _(bad: bool) -> Case:
    return classes(Weights(lambda w, x: plain(w, x).softmax(-1) if bad else plain(w, x)))


@mistake("logistic twice, table", "L03")
def _(bad: bool) -> Case:
    columns = shop()
    columns.pop("spent")
    columns["came"] = columns["came"].astype(numpy.float32)
    return table(columns, "came", loss="BCEWithLogitsLoss") | dict(model=net(4, 1, *([nn.Sigmoid()] if bad else [])))


@mistake("own loss: mean absolute with an axis too many", "L05")
def _(bad: bool) -> Case:
    _X, y, _ = rows()
    return amounts(y=y[:, 0], loss=lambda o, t: (o - t).abs().mean() if bad else (o[:, 0] - t).abs().mean())


@mistake("own loss: relative error broadcast", "L05")
def _(bad: bool) -> Case:
    _X, _y, _ = rows()
    model = nn.Sequential(net(5, 1), nn.Flatten(0))
    return amounts(model, loss=lambda o, t: ((o - t) / (1 + t.abs())).pow(2).mean() if bad else ((o - t[:, 0]) / (1 + t[:, 0].abs())).pow(2).mean())


@mistake("one logit, two classes", "L06", "M27", "L32")
def _(bad: bool) -> Case:
    _X, _, y = rows()
    y = (y > 0).long()
    return classes(net(5, 1), y=y[:, None].float(), loss="CrossEntropyLoss" if bad else "BCEWithLogitsLoss")


@mistake("squared error of a class number", "L08")
def _(bad: bool) -> Case:
    g = torch.Generator().manual_seed(1)
    y = torch.randint(0, 5, (500,), generator=g)
    X = torch.randn(5, 5, generator=g)[y] * 1.5 + 0.7 * torch.randn(500, 5, generator=g)
    return setup(net(5, 1 if bad else 5), (lambda o, t: (o.squeeze(-1) - t).square().mean()) if bad else "CrossEntropyLoss", X=X, y=y)


@mistake("yes and no as 2 and 1", "L09", "L10")
def _(bad: bool) -> Case:
    _X, _, y = rows()
    return classes(net(5, 1), y=((y > 0).float() + (1 if bad else 0))[:, None], loss="BCEWithLogitsLoss")


@mistake("salaries unscaled", "L11", "T01", "O02", "T04")
def _(bad: bool) -> Case:
    _X, y, _ = rows()
    return amounts(y=y * 20000 + 60000 if bad else y)


@mistake("own loss: the mean error", "L12", "L14", "T04", "L05")
def _(bad: bool) -> Case:
    return amounts(loss=lambda o, t: (o - t).mean().abs() if bad else (o - t).abs().mean())


@mistake("own loss: likelihood without the minus", "L14")
def _(bad: bool) -> Case:
    sign = 1 if bad else -1
    return classes(loss=lambda o, t: sign * (o.log_softmax(1) * F.one_hot(t, 3)).sum(1).mean())


@mistake("own loss: only the first class", "L20", "M05")
def _(bad: bool) -> Case:
    def loss(o: Tensor, t: Tensor) -> Tensor:
        hot = F.one_hot(t, 3).float()
        return F.mse_loss(o[:, 0], hot[:, 0]) if bad else F.mse_loss(o, hot)

    return classes(loss=loss)


@mistake("own loss: log of a softmax", "L21")
def _(bad: bool) -> Case:
    return classes(loss=lambda o, t: -((o.softmax(1).log() if bad else o.log_softmax(1)) * F.one_hot(t, 3)).sum(1).mean())


@mistake("own loss: sum with plain SGD", "L13", "O01", "T01")
def _(bad: bool) -> Case:
    return amounts(loss=lambda o, t: (o - t).square().sum() if bad else (o - t).square().mean(), optimizer="SGD", lr=0.05)


@mistake("rare class weighted by its count", "L17", "E01")
def _(bad: bool) -> Case:
    X, y, _ = rows(800)
    y = (y[:, 0] > 1.9).long()
    counts = torch.bincount(y).float()
    weight = counts / counts.sum() if bad else counts.sum() / counts / 2
    return classes(net(5, 2), nn.CrossEntropyLoss(weight=weight), X=X, y=y, metric="balanced_accuracy")


@mistake("ignored index is a class", "L16")
def _(bad: bool) -> Case:
    return classes(loss=nn.CrossEntropyLoss(ignore_index=1) if bad else nn.CrossEntropyLoss())


# optimizer


@mistake("Adam with 3", "O01", "T01", "T03", "T10")
def _(bad: bool) -> Case:
    return amounts(lr=3.0 if bad else 5e-3)


@mistake("SGD with 1e-7", "O02")
def _(bad: bool) -> Case:
    return classes(optimizer="SGD", lr=1e-7 if bad else 0.1)


@mistake("only names that end in weight", "O03")
def _(bad: bool) -> Case:
    return classes(params=lambda m: [p for n, p in m.named_parameters() if n.startswith("head") or not bad])


@mistake("parameters of a second model", "O05", "O04")
def _(bad: bool) -> Case:
    other = net()
    return classes(params=lambda m: list((other if bad else m).parameters()))


@mistake("maximize left on", "O13", "L14")
def _(bad: bool) -> Case:
    return amounts(optimizer="SGD", lr=1e-2, optimizer_kwargs=dict(maximize=bad))


@mistake("decay of a half", "O06")
def _(bad: bool) -> Case:
    return amounts(optimizer_kwargs=dict(weight_decay=0.5 if bad else 1e-4))


@mistake("four updates", "O11")
def _(bad: bool) -> Case:
    return classes(batch_size=300 if bad else 25, epochs=4)


@mistake("schedule of epochs used by batches", "O09", "O16")
def _(bad: bool) -> Case:
    return classes(scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 2, gamma=0.1 if bad else 0.7), scheduler_on="batch" if bad else "epoch", epochs=6)


@mistake("clipped to a hair", "O10", "T09")
def _(bad: bool) -> Case:
    return amounts(optimizer="SGD", lr=0.05, clip_grad_norm=1e-5 if bad else 5.0)


# evaluation, persistence, prediction


@mistake("own metric: argmax of the rows", "E12", "E05")
def _(bad: bool) -> Case:
    return classes(
        metric=lambda o, t: (o.argmax(0)[:, None] == t[None]).float().mean().item() if bad else (o.argmax(1) == t).float().mean().item(), metric_name="hits"
    )


@mistake("own metric: half as threshold", "E04", "E05")
def _(bad: bool) -> Case:
    _X, _, y = rows()
    return classes(
        net(5, 1),
        "BCEWithLogitsLoss",
        y=(y > 0).float()[:, None],
        metric=lambda o, t: ((o > (0.5 if bad else 0)).float() == t).float().mean().item(),
        metric_name="hits",
    )


@mistake("own metric: matrix of comparisons", "E05")
def _(bad: bool) -> Case:
    return classes(metric=lambda o, t: (o.argmax(1)[:, None] == t[None] if bad else o.argmax(1) == t).float().mean().item(), metric_name="hits")


@mistake("accuracy made small", "E02")
def _(bad: bool) -> Case:
    return classes(metric="accuracy", monitor="val_acc", mode="min" if bad else "max")


@mistake("mean of the first batch kept in an attribute", "P01", "M30", "P15", "P06")
def _(bad: bool) -> Case:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.mean = net(), None
            if not bad:
                self.register_buffer("fixed", torch.zeros(5))

        def forward(self, x: Tensor) -> Tensor:
            if bad and self.training:
                self.mean = x.detach().mean(0) if self.mean is None else 0.9 * self.mean + 0.1 * x.detach().mean(0)
            return self.net(x - (0 if self.mean is None else self.mean))

    X, _, y = rows()
    return classes(Net(), X=X + 2 if bad else X, y=y)


@mistake("weights under another name", "P02")
def _(bad: bool) -> Case:
    saved = net().state_dict()
    return classes(checkpoint={("net." if bad else "") + name: value for name, value in saved.items()}, load_strict=not bad)


@mistake("rows of prediction as they come", "I01")
def _(bad: bool) -> Case:
    X, y, _ = rows()
    raw = rows(200, seed=9)[0]
    return amounts(X=X, y=y, predict_X=raw * 15 + 100 if bad else raw)


@mistake("columns by alphabet", "I02", "I01")
def _(bad: bool) -> Case:
    scale, shift = torch.tensor([1.0, 0.5, 2, 1, 3]), torch.tensor([0.0, 4, -6, 8, 2])
    X, y, _ = rows()
    later = rows(200, seed=9)[0] * scale + shift
    return amounts(X=X * scale + shift, y=y, predict_X=later[:, [3, 1, 4, 0, 2]] if bad else later, model=nn.Sequential(nn.BatchNorm1d(5), net(5, 1)))
