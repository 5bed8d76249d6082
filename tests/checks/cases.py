"""Our own small cases: for each rule of the catalogue a mistake and the same thing done right, and healthy but unusual runs that look like mistakes.

`CASES[name]` is `(expected code, other codes that are fair, wrong, right)`; `wrong` and `right` are functions without arguments that return a case dict as in
../shared/cases. `HEALTHY[name]` is one function. Everything is synthetic; shapes are small and their axes differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

Case = dict[str, Any]
CASES: dict[str, tuple[str, tuple[str, ...], Callable[[], Case], Callable[[], Case]]] = {}
HEALTHY: dict[str, Callable[[], Case]] = {}


def pair(name: str, code: str, accept: tuple[str, ...], make: Callable[[bool], Case]) -> None:
    CASES[name] = (code, accept, lambda: make(True), lambda: make(False))


def kept_in(collection: dict[str, Callable[[], Case]]) -> Callable[[str], Callable[[Callable[[], Case]], Callable[[], Case]]]:
    """A decorator `healthy(name)` that keeps a function's case in `collection`, always made from the same seed."""

    def healthy(name: str) -> Callable[[Callable[[], Case]], Callable[[], Case]]:
        def register(make: Callable[[], Case]) -> Callable[[], Case]:
            def seeded() -> Case:
                torch.manual_seed(0)
                return make()

            collection[name] = seeded
            return make

        return register

    return healthy


healthy = kept_in(HEALTHY)


def mistakes_in(collection: dict[str, tuple[str, tuple[str, ...], Callable[[bool], Case]]]) -> Callable[..., Callable[[Callable[[bool], Case]], None]]:
    """A decorator `mistake(name, code, *other fair codes)` that keeps a function of "wrong?" in `collection`, always made from the same seed."""

    def mistake(name: str, code: str, *accept: str) -> Callable[[Callable[[bool], Case]], None]:
        def register(make: Callable[[bool], Case]) -> None:
            def seeded(bad: bool) -> Case:
                torch.manual_seed(7)
                return make(bad)

            assert name not in collection
            collection[name] = (code, accept, seeded)

        return register

    return mistake


def g(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(n: int = 600, d: int = 8, C: int = 3, seed: int = 1, sep: float = 1.0, shares: list[float] | None = None) -> tuple[Tensor, Tensor]:
    centres = torch.randn(C, d, generator=g(11)) * sep
    y = torch.randint(0, C, (n,), generator=g(seed)) if shares is None else torch.multinomial(torch.tensor(shares), n, True, generator=g(seed))
    return centres[y] + torch.randn(n, d, generator=g(seed + 100)), y


def curve(n: int = 600, d: int = 6, seed: int = 1, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    X = torch.randn(n, d, generator=g(seed))
    return X, (torch.sin(2 * X[:, 0]) + 0.5 * X[:, 1] * X[:, 2] + 0.7 * X[:, 3] + noise * torch.randn(n, generator=g(seed + 100)))[:, None]


def pictures(n: int = 400, size: int = 8, channels: int = 1, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Left bar, top bar, block or diagonal on noise: (n, channels, size, size) in [0, 1], labels 0..3."""
    y = torch.randint(0, 4, (n,), generator=g(seed))
    X = torch.rand(n, channels, size, size, generator=g(seed + 100)) * 0.15
    place = torch.randint(1, size - 2, (n,), generator=g(seed + 200))
    tint = 0.5 + 0.4 * torch.rand(n, channels, generator=g(seed + 300))
    for i in range(n):
        p, t = int(place[i]), tint[i]
        if y[i] == 0:
            X[i, :, :, p] += t[:, None]
        elif y[i] == 1:
            X[i, :, p, :] += t[:, None]
        elif y[i] == 2:
            X[i, :, p : p + 3, p - 1 : p + 2] += t[:, None, None]
        else:
            for k in range(size):
                X[i, :, k, (k + p) % size] += t
    return X.clamp(0, 1), y


def mlp(i: int, o: int, h: int = 24, act: Any = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Linear(i, h), act(), nn.Linear(h, h), act(), nn.Linear(h, o))


class Wrap(nn.Module):
    """A module with a forward given as a function of (module, x)."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def case(model: nn.Module, loss: Any, task: str, X: Tensor | None = None, y: Tensor | None = None, **more: Any) -> Case:
    made: Case = dict(model=model, loss=loss, task=task, optimizer="Adam", lr=4e-3, batch_size=32, epochs=6)
    if X is not None:
        made |= dict(X=X, y=y)
    return made | more


def classify(model: nn.Module | None = None, **more: Any) -> Case:
    X, y = blobs()
    return case(model if model is not None else mlp(8, 3), "CrossEntropyLoss", "multiclass", X, y) | more


def regress(model: nn.Module | None = None, **more: Any) -> Case:
    X, y = curve()
    return case(model if model is not None else mlp(6, 1), "MSELoss", "regression", X, y) | more


def seeded(make: Callable[[bool], Case]) -> Callable[[bool], Case]:
    def build(bad: bool) -> Case:
        torch.manual_seed(0)
        return make(bad)

    return build


def rule(name: str, code: str, *accept: str) -> Callable[[Callable[[bool], Case]], Callable[[bool], Case]]:
    def register(make: Callable[[bool], Case]) -> Callable[[bool], Case]:
        pair(name, code, accept, seeded(make))
        return make

    return register


# data


@rule("d05 labels shuffled", "D05", "T04")
def _d05(bad: bool) -> Case:
    made = classify(epochs=10)
    return made | dict(y=made["y"][torch.randperm(600, generator=g(3))]) if bad else made


@rule("d05 regression shuffled", "D05", "T04")
def _d05b(bad: bool) -> Case:
    made = regress(epochs=10)
    return made | dict(y=made["y"][torch.randperm(600, generator=g(3))]) if bad else made


@rule("d06 all inputs constant", "D06", "D07", "D11")
def _d06(bad: bool) -> Case:
    made = classify()
    return made | dict(X=torch.full_like(made["X"], 0.7)) if bad else made


class OneSample(Dataset):
    def __init__(self, X: Tensor, y: Tensor, fixed: bool):
        self.X, self.y, self.fixed = X, y, fixed

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.X[0 if self.fixed else i], self.y[i]


@rule("d07 one sample for all indices", "D07", "D06")
def _d07(bad: bool) -> Case:
    X, y = blobs(300)
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", dataset=OneSample(X, y, bad))


class Drifting(Dataset):
    def __init__(self, X: Tensor, y: Tensor, inplace: bool):
        self.X, self.y, self.inplace = X, y, inplace

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x = self.X[i]
        if self.inplace:
            x += 0.3 * torch.randn(x.shape)
        else:
            x = x + 0.3 * torch.randn(x.shape)
        return x, self.y[i]


@rule("d08 noise added in place", "D08")
def _d08(bad: bool) -> Case:
    X, y = blobs(300)
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", dataset=Drifting(X.clone(), y, bad), epochs=3)


class Scaling(Dataset):
    """Standardises its row in place at each reading (numpy)."""

    def __init__(self, X: Tensor, y: Tensor, inplace: bool):
        self.X, self.y, self.inplace = X.numpy().copy(), y, inplace

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x = self.X[i] if self.inplace else self.X[i].copy()
        x *= 0.9
        return torch.from_numpy(x.copy()), self.y[i]


@rule("d08 scaled in place", "D08")
def _d08b(bad: bool) -> Case:
    X, y = blobs(300)
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", dataset=Scaling(X, y, bad), epochs=3)


@rule("d09 same row, other label", "D09")
def _d09(bad: bool) -> Case:
    X, y = blobs(300, C=2)
    other = torch.where(torch.rand(300, generator=g(5)) < (0.5 if bad else 0.0), 1 - y, y)
    X2, y2 = blobs(300, C=2, seed=7)
    # Copies stay on the training side, so that only labels are wrong.
    train = (torch.cat([X, X]), torch.cat([y, other])) if bad else (torch.cat([X, X2]), torch.cat([y, y2]))
    return case(mlp(8, 2), "CrossEntropyLoss", "multiclass", train=train, val=blobs(150, C=2, seed=8), test=blobs(150, C=2, seed=9))


@rule("d10 NHWC reshaped", "D10")
def _d10(bad: bool) -> Case:
    X, y = pictures(channels=3)
    X = (X - 0.2) / 0.25
    last = X.permute(0, 2, 3, 1).contiguous()
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return case(net, "CrossEntropyLoss", "multiclass", last.reshape(X.shape) if bad else X, y, epochs=3)


@rule("d13 row number as a feature", "D13", "S03")
def _d13(bad: bool) -> Case:
    n = 500
    order = torch.arange(n).double()
    z = torch.randn(n, 3, generator=g(1))
    y = (order + 60 * torch.randn(n, generator=g(2)) > n / 2).long()
    table = {"a": z[:, 0], "b": z[:, 1] + y, "c": z[:, 2], "label": y}
    if bad:
        table = {"row": order, **table}
    return case(mlp(len(table) - 1, 2), "CrossEntropyLoss", "multiclass", table=table, target="label")


@rule("d14 codes as numbers", "D14")
def _d14(bad: bool) -> Case:
    n = 900
    code = torch.randint(0, 12, (n,), generator=g(1))
    effect = torch.randn(12, generator=g(4)) * 1.5
    z = torch.randn(n, 2, generator=g(2))
    y = effect[code] + z[:, 0] + 0.3 * torch.randn(n, generator=g(3))
    table = (
        {"city": code, "a": z[:, 0], "b": z[:, 1], "y": y}
        if bad
        else {**{f"city_{k}": (code == k).long() for k in range(12)}, "a": z[:, 0], "b": z[:, 1], "y": y}
    )
    return case(mlp(len(table) - 1, 1), lambda o, t: F.mse_loss(o.flatten(), t.flatten()), "regression", table=table, target="y")


@rule("d15 scaled twice", "D15")
def _d15(bad: bool) -> Case:
    X, y = pictures()
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
    return case(net, "CrossEntropyLoss", "multiclass", X / 255 if bad else X, y, optimizer="SGD", lr=0.1)


@rule("d16 celsius and fahrenheit", "D16")
def _d16(bad: bool) -> Case:
    n = 500
    c = 20 + 5 * torch.randn(n, generator=g(1))
    z = torch.randn(n, generator=g(2))
    table = {
        "celsius": c,
        "fahrenheit": c * 1.8 + 32 if bad else 50 + 10 * torch.randn(n, generator=g(5)),
        "z": z,
        "y": 0.2 * c + z + 0.2 * torch.randn(n, generator=g(3)),
    }
    return case(nn.Linear(3, 1), lambda o, t: F.mse_loss(o.flatten(), t.flatten()), "regression", table=table, target="y", lr=5e-2, epochs=15)


@rule("d18 sorted, not shuffled", "D18", "S11")
def _d18(bad: bool) -> Case:
    X, y = blobs(600)
    order = y[:420].argsort()
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", train=(X[:420][order], y[:420][order]), val=(X[420:], y[420:]), shuffle=not bad)


def tokens(n: int = 500, length: int = 12, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Codes 1..9, padded by 0 at the end; the label says whether codes over 5 are the majority."""
    x = torch.randint(1, 10, (n, length), generator=g(seed))
    lengths = torch.randint(4, length + 1, (n,), generator=g(seed + 50))
    pad = torch.arange(length)[None] >= lengths[:, None]
    y = ((x > 5) & ~pad).sum(1) > ((x <= 5) & ~pad).sum(1)
    return x.masked_fill(pad, 0), y.long()


@rule("d19 mean over padding", "D19")
def _d19(bad: bool) -> Case:
    X, y = tokens()

    def plain(m: Any, x: Tensor) -> Tensor:
        return m.out(m.emb(x).mean(1))

    def masked(m: Any, x: Tensor) -> Tensor:
        mask = (x != 0)[..., None]
        return m.out((m.emb(x) * mask).sum(1) / mask.sum(1).clamp_min(1))

    return case(Wrap(plain if bad else masked, emb=nn.Embedding(10, 8, padding_idx=0), out=nn.Linear(8, 2)), "CrossEntropyLoss", "multiclass", X, y, lr=1e-2)


@rule("d19 last step of a padded sequence", "D19")
def _d19b(bad: bool) -> Case:
    X = torch.randn(400, 9, 3, generator=g(1))
    lengths = torch.randint(3, 10, (400,), generator=g(2))
    X = X.masked_fill((torch.arange(9)[None] >= lengths[:, None])[..., None], 0)
    y = (X[:, :, 0].sum(1) > 0).long()

    def last(m: Any, x: Tensor) -> Tensor:
        return m.out(m.rnn(x)[0][:, -1])

    def true_last(m: Any, x: Tensor) -> Tensor:
        length = (x != 0).any(-1).sum(1).clamp_min(1)
        return m.out(m.rnn(x)[0][torch.arange(len(x)), length - 1])

    return case(Wrap(last if bad else true_last, rnn=nn.GRU(3, 8, batch_first=True), out=nn.Linear(8, 2)), "CrossEntropyLoss", "multiclass", X, y, lr=1e-2)


class Turning(Dataset):
    """Pictures of lines; half of them are turned by 90 degrees, or only shifted by one pixel."""

    def __init__(self, X: Tensor, y: Tensor, turn: bool):
        self.X, self.y, self.turn = X, y, turn

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x = self.X[i]
        if torch.rand(1) < 0.5:
            x = x.transpose(1, 2) if self.turn else x.roll(1, 2)
        return x, self.y[i]


@rule("d17 lines turned, label kept", "D17")
def _d17(bad: bool) -> Case:
    X, y = pictures(500)
    keep = y < 2
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    return case(net, "CrossEntropyLoss", "multiclass", dataset=Turning((X[keep] - 0.2) / 0.25, y[keep], bad), lr=1e-2)


@rule("d21 numbers as text", "D21")
def _d21(bad: bool) -> Case:
    n = 400
    size = 50 + 20 * torch.rand(n, generator=g(1))
    z = torch.randn(n, generator=g(2))
    text = [f"{float(value):.2f}" for value in size]
    text[7] = text[90] = "n/a"
    table = {"size": text if bad else size, "z": z, "y": 0.1 * size + z}
    return case(mlp(2, 1), lambda o, t: F.mse_loss(o.flatten(), t.flatten()), "regression", table=table, target="y", lr=1e-2, epochs=20)


# split


@rule("s02 patients on both sides", "S02")
def _s02(bad: bool) -> Case:
    n, groups = 600, 60
    who = torch.randint(0, groups, (n,), generator=g(1))
    base = torch.randn(groups, 4, generator=g(2))
    label = torch.randint(0, 2, (groups,), generator=g(3))
    X = base[who] + 0.3 * torch.randn(n, 4, generator=g(4))
    table = {"patient": who, **{f"f{k}": X[:, k] for k in range(4)}, "ill": label[who]}
    return case(
        mlp(4, 2),
        "CrossEntropyLoss",
        "multiclass",
        table=table,
        target="ill",
        drop=["patient"],
        split=dict(method="random") if bad else dict(method="group", column="patient"),
    )


@rule("s02 text ids", "S02")
def _s02b(bad: bool) -> Case:
    made = _s02(bad)
    made["table"]["patient"] = [f"p{int(k):03d}" for k in made["table"]["patient"]]
    return made


@rule("s04 post-outcome column", "S04", "S05")
def _s04(bad: bool) -> Case:
    X, y = blobs(600, d=4, C=2, sep=0.6)
    table = {f"f{k}": X[:, k] for k in range(4)}
    refund = torch.where(y == 1, 20 + 5 * torch.rand(600, generator=g(5)), torch.zeros(600))
    table["refund"] = refund if bad else torch.rand(600, generator=g(5))
    return case(mlp(5, 2), "CrossEntropyLoss", "multiclass", table=table | {"complained": y}, target="complained")


@rule("s04 AUC of one", "S04")
def _s04b(bad: bool) -> Case:
    X, y = blobs(600, d=4, C=2, sep=0.6)
    days = 3 + 2 * torch.rand(600, generator=g(5)) + (8 * y if bad else 1.0 * y)
    return case(mlp(5, 2), "CrossEntropyLoss", "multiclass", torch.cat([X, ((days - 6) / 3)[:, None]], 1), y)


@rule("s05 target in another unit", "S05")
def _s05(bad: bool) -> Case:
    X, y = curve(500, d=4)
    table = {f"f{k}": X[:, k] for k in range(4)}
    table["dollars"] = y[:, 0] * 1.1 + 3 + (0 if bad else 1.0 * torch.randn(500, generator=g(3)))
    return case(mlp(5, 1), lambda o, t: F.mse_loss(o.flatten(), t.flatten()), "regression", table=table | {"euros": y[:, 0]}, target="euros")


@rule("s06 class absent from training", "S06")
def _s06(bad: bool) -> Case:
    X, y = blobs(600, C=4)
    keep = y[:400] != 3 if bad else torch.ones(400, dtype=torch.bool)
    return case(mlp(8, 4), "CrossEntropyLoss", "multiclass", train=(X[:400][keep], y[:400][keep]), val=(X[400:500], y[400:500]), test=(X[500:], y[500:]))


@rule("s09 validation in training", "S09", "S01")
def _s09(bad: bool) -> Case:
    X, y = blobs(700)
    return case(
        mlp(8, 3),
        "CrossEntropyLoss",
        "multiclass",
        train=(X[:400], y[:400]),
        val=(X[:150], y[:150]) if bad else (X[400:550], y[400:550]),
        test=(X[550:], y[550:]),
    )


@rule("s10 twelve validation rows", "S10")
def _s10(bad: bool) -> Case:
    X, y = blobs(700)
    return case(
        mlp(8, 3),
        "CrossEntropyLoss",
        "multiclass",
        train=(X[:500], y[:500]),
        val=(X[500:512], y[500:512]) if bad else (X[500:600], y[500:600]),
        test=(X[600:], y[600:]),
    )


@rule("s11 sorted rows cut in order", "S11", "S06")
def _s11(bad: bool) -> Case:
    X, y = curve(600)
    order = y[:, 0].argsort()
    return case(mlp(6, 1), "MSELoss", "regression", X[order], y[order], split=dict(method="ordered" if bad else "random"))


@rule("s15 labels numbered differently", "S15")
def _s15(bad: bool) -> Case:
    X, y = blobs(900, sep=1.6)
    other = (y + 1) % 3 if bad else y
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", train=(X[:500], y[:500]), val=(X[500:700], other[500:700]), test=(X[700:], other[700:]), epochs=12)


@rule("e03 validation is the test set", "E03", "S01")
def _e03(bad: bool) -> Case:
    X, y = blobs(700)
    val = (X[400:550], y[400:550])
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", train=(X[:400], y[:400]), val=val, test=val if bad else (X[550:], y[550:]))


# model


class Listed(nn.Module):
    def __init__(self, bad: bool):
        super().__init__()
        layers = [nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(2)]
        self.layers = layers if bad else nn.ModuleList(layers)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.out(x)


@rule("m02 layers in a list", "M02")
def _m02(bad: bool) -> Case:
    return classify(Listed(bad))


class Helper:
    def __init__(self) -> None:
        self.layers = {"a": nn.Linear(8, 8)}


@rule("m02 layers in a helper object", "M02")
def _m02b(bad: bool) -> Case:
    net = Wrap(
        lambda m, x: m.out(torch.relu(m.helper.layers["a"](x))) if bad else m.out(torch.relu(m.a(x))),
        out=nn.Linear(8, 3),
        a=nn.Identity() if bad else nn.Linear(8, 8),
    )
    if bad:
        net.helper = Helper()  # type: ignore[assignment]
    return classify(net)


@rule("m04 numpy in between", "M04")
def _m04(bad: bool) -> Case:
    def cut(m: Any, x: Tensor) -> Tensor:
        return m.out(torch.from_numpy(torch.relu(m.a(x)).detach().numpy()) if bad else torch.relu(m.a(x)))

    return classify(Wrap(cut, a=nn.Linear(8, 16), out=nn.Linear(16, 3)))


@rule("m04 no_grad around the encoder", "M04", "M13")
def _m04b(bad: bool) -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(not bad and torch.is_grad_enabled()):
            h = torch.relu(m.a(x))
        return m.out(h)

    return classify(Wrap(forward, a=nn.Linear(8, 16), out=nn.Linear(16, 3)))


@rule("m05 branch times zero", "M05")
def _m05(bad: bool) -> Case:
    return classify(Wrap(lambda m, x: m.a(x) + (0.0 if bad else 1.0) * m.b(torch.relu(x)), a=nn.Linear(8, 3), b=nn.Linear(8, 3)))


@rule("m06 batch_first forgotten", "M06", "M07")
def _m06(bad: bool) -> Case:
    X = torch.randn(500, 6, 4, generator=g(1))
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=not bad)
    return case(
        Wrap(lambda m, x: m.out(m.att(x).mean(1)), att=layer, out=nn.Linear(4, 2)), "CrossEntropyLoss", "multiclass", X, (X[:, :, 0].sum(1) > 0).long(), lr=1e-2
    )


@rule("m07 softmax over the batch", "M07", "M06")
def _m07(bad: bool) -> Case:
    return classify(Wrap(lambda m, x: m.out(m.a(x).softmax(0 if bad else 1) * m.b(x)), a=nn.Linear(8, 8), b=nn.Linear(8, 8), out=nn.Linear(8, 3)))


@rule("m07 centred over the batch", "M07", "M06", "M25")
def _m07b(bad: bool) -> Case:
    return classify(Wrap(lambda m, x: m.f(x - x.mean(0 if bad else 1, keepdim=True)), f=mlp(8, 3)))


@rule("m25 normalised over the batch", "M25", "M06", "M07")
def _m25(bad: bool) -> Case:
    return classify(Wrap(lambda m, x: m.f(F.normalize(x, dim=0 if bad else 1) * 3), f=mlp(8, 3)))


@rule("m25 statistics of the batch", "M25", "M06", "M07")
def _m25b(bad: bool) -> Case:
    return classify(Wrap(lambda m, x: m.f((x - x.mean(0 if bad else -1, keepdim=True)) / (x.std(0 if bad else -1, keepdim=True) + 1e-5)), f=mlp(8, 3)))


@rule("m08 conv biases of -5", "M08", "M38", "T04")
def _m08(bad: bool) -> Case:
    X, y = pictures()
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(32, 4))
    if bad:
        nn.init.constant_(net[0].bias, -5.0)  # type: ignore[arg-type]
    return case(net, "CrossEntropyLoss", "multiclass", (X - 0.2) / 0.25, y)


@rule("m09 scaled tanh", "M09")
def _m09(bad: bool) -> Case:
    X, y = curve()
    return case(Wrap(lambda m, x: 2 * torch.tanh(m.f(x)) if bad else m.f(x), f=mlp(6, 1)), "HuberLoss", "regression", X, 4 * y)


@rule("m09 softplus and a loss of one's own", "M09")
def _m09b(bad: bool) -> Case:
    return regress(nn.Sequential(mlp(6, 1), nn.Softplus() if bad else nn.Identity()), loss=lambda o, y: ((o - y) ** 2).mean())


@rule("m09 clamp", "M09")
def _m09c(bad: bool) -> Case:
    return regress(Wrap(lambda m, x: m.f(x).clamp(0, 1) if bad else m.f(x), f=mlp(6, 1)), loss="L1Loss")


@rule("m11 convolutions without activation", "M11", "T04")
def _m11(bad: bool) -> Case:
    X, y = pictures()
    act = nn.Identity if bad else nn.ReLU
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), act(), nn.Conv2d(6, 6, 3, padding=1), act(), nn.Flatten(), nn.Linear(384, 4))
    return case(net, "CrossEntropyLoss", "multiclass", (X - 0.2) / 0.25, y, epochs=3)


@rule("m11 batch norm between", "M11", "T04")
def _m11b(bad: bool) -> Case:
    return classify(nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Identity() if bad else nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3)))


@rule("m12 second input ignored", "M12")
def _m12(bad: bool) -> Case:
    X = torch.randn(500, 7, 3, generator=g(1))
    return case(
        Wrap(lambda m, x: m.out(m.rnn(x[..., : 2 if bad else 3])[0][:, -1]), rnn=nn.GRU(2 if bad else 3, 8, batch_first=True), out=nn.Linear(8, 2)),
        "CrossEntropyLoss",
        "multiclass",
        X,
        (X[:, :, 2].sum(1) > 0).long(),
    )


@rule("m13 hidden block skipped", "M13", "M11")
def _m13(bad: bool) -> Case:
    return classify(Wrap(lambda m, x: m.out(x) if bad else m.out(m.h(x)), h=nn.Sequential(nn.Linear(8, 8), nn.ReLU()), out=nn.Linear(8, 3)))


@rule("m14 blocks multiplied", "M14")
def _m14(bad: bool) -> Case:
    blocks = [nn.Sequential(nn.Linear(8, 8), nn.ReLU())] * 3 if bad else [nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3)]
    return classify(nn.Sequential(*blocks, nn.Linear(8, 3)))


@rule("m15 constant weights", "M15", "M38")
def _m15(bad: bool) -> Case:
    net = mlp(8, 3)
    if bad:
        for layer in (net[0], net[2]):
            nn.init.constant_(layer.weight, 0.1)  # type: ignore[arg-type]
    return classify(net)


@rule("m16 huge weights, binary", "M16", "T01")
def _m16(bad: bool) -> Case:
    X, y = blobs(600, C=2)
    net = mlp(8, 1)
    if bad:
        for layer in (net[0], net[2], net[4]):
            nn.init.normal_(layer.weight, 0, 2.0)  # type: ignore[arg-type]
    return case(net, "BCEWithLogitsLoss", "binary", X, y[:, None].float(), lr=1e-3)


@rule("m17 deep sigmoid regression", "M17", "T04", "M38")
def _m17(bad: bool) -> Case:
    layers: list[nn.Module] = [nn.Linear(6, 16)]
    for _ in range(8):
        layers += [nn.Sigmoid() if bad else nn.ReLU(), nn.Linear(16, 16)]
    return regress(nn.Sequential(*layers, nn.Linear(16, 1)))


@rule("m18 batches of one", "M18")
def _m18(bad: bool) -> Case:
    X, y = pictures(120)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    return case(net, "CrossEntropyLoss", "multiclass", (X - 0.2) / 0.25, y, batch_size=1 if bad else 16, epochs=2 if bad else 12, lr=1e-3)


@rule("m18 last batch of one", "M18")
def _m18b(bad: bool) -> Case:
    X, y = pictures(321)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    X = (X - 0.2) / 0.25
    size = 193 if bad else 192
    return case(net, "CrossEntropyLoss", "multiclass", train=(X[:size], y[:size]), val=(X[193:], y[193:]), batch_size=32, epochs=4)


@rule("m19 dropout of 0.95", "M19")
def _m19(bad: bool) -> Case:
    return classify(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.95 if bad else 0.05), nn.Linear(32, 3)))


@rule("m20 dropout last", "M20")
def _m20(bad: bool) -> Case:
    return regress(
        nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1), nn.Dropout(0.5))
        if bad
        else nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1))
    )


@rule("m21 batch norm that lags", "M21")
def _m21(bad: bool) -> Case:
    X, y = blobs(400, sep=1.6)
    return case(
        nn.Sequential(nn.Linear(8, 24), nn.BatchNorm1d(24, momentum=0.001 if bad else 0.1), nn.ReLU(), nn.Linear(24, 3)),
        "CrossEntropyLoss",
        "multiclass",
        X * 8 + 40,
        y,
        lr=1e-2,
        epochs=4,
    )


@rule("m22 squeeze without an axis", "M22")
def _m22(bad: bool) -> Case:
    X, y = curve()
    return case(Wrap(lambda m, x: m.f(x).squeeze() if bad else m.f(x).squeeze(-1), f=mlp(6, 1)), "MSELoss", "regression", X, y[:, 0])


@rule("m23 input changed in place", "M23")
def _m23(bad: bool) -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        if bad:
            x -= 0.1
        else:
            x = x - 0.1
        return m.f(x)

    return classify(Wrap(forward, f=mlp(8, 3)))


def language(n: int = 400) -> tuple[Tensor, Tensor]:
    t = torch.randint(1, 8, (n, 10), generator=g(1))
    for i in range(1, 10):
        t[:, i] = torch.where(torch.rand(n, generator=g(i)) < 0.75, t[:, i - 1] % 7 + 1, t[:, i])
    return t[:, :-1], t[:, 1:]


@rule("m24 no causal mask", "M24")
def _m24(bad: bool) -> Case:
    X, y = language()

    def forward(m: Any, x: Tensor) -> Tensor:
        mask = None if bad else torch.ones(9, 9, dtype=torch.bool).triu(1)
        return m.out(m.att(m.emb(x) + m.pos(torch.arange(9)), src_mask=mask))

    net = Wrap(
        forward,
        emb=nn.Embedding(8, 12),
        pos=nn.Embedding(9, 12),
        att=nn.TransformerEncoderLayer(12, 2, 16, dropout=0.0, batch_first=True),
        out=nn.Linear(12, 8),
    )
    return case(net, lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten()), "sequence", X, y, epochs=4)


@rule("m24 bidirectional layer", "M24")
def _m24b(bad: bool) -> Case:
    X, y = language()
    net = Wrap(
        lambda m, x: m.out(m.rnn(m.emb(x))[0]).transpose(1, 2),
        emb=nn.Embedding(8, 12),
        rnn=nn.GRU(12, 10, batch_first=True, bidirectional=bad),
        out=nn.Linear(20 if bad else 10, 8),
    )
    return case(net, "CrossEntropyLoss", "sequence", X, y, epochs=4)


@rule("m26 padding_idx of a real code", "M26")
def _m26(bad: bool) -> Case:
    x = torch.randint(0, 10, (600, 2), generator=g(1))
    w = torch.randn(10, generator=g(2))
    return case(
        Wrap(lambda m, x: m.out(m.emb(x).flatten(1)), emb=nn.Embedding(10, 6, padding_idx=0 if bad else None), out=nn.Linear(12, 2)),
        "CrossEntropyLoss",
        "multiclass",
        x,
        (w[x].sum(1) > 0).long(),
        lr=1e-2,
    )


@rule("m28 dropout in eval", "M28", "M03")
def _m28(bad: bool) -> Case:
    return classify(
        Wrap(lambda m, x: m.out(F.dropout(torch.relu(m.a(x)), 0.3, training=True if bad else m.training)), a=nn.Linear(8, 24), out=nn.Linear(24, 3))
    )


@rule("m28 noise in eval", "M28", "M03")
def _m28b(bad: bool) -> Case:
    return classify(Wrap(lambda m, x: m.f(x + 0.3 * torch.randn_like(x) if bad or m.training else x), f=mlp(8, 3)))


class Stateful(nn.Module):
    def __init__(self, bad: bool):
        super().__init__()
        self.rnn, self.out, self.bad, self.h = nn.GRU(3, 8, batch_first=True), nn.Linear(8, 2), bad, None

    def forward(self, x: Tensor) -> Tensor:
        h = self.h if self.bad and self.h is not None and self.h.shape[1] == len(x) else None
        out, h = self.rnn(x, h)
        self.h = h.detach()
        return self.out(out[:, -1])


@rule("m30 state kept", "M30", "M03")
def _m30(bad: bool) -> Case:
    X = torch.randn(480, 5, 3, generator=g(1))
    return case(Stateful(bad), "CrossEntropyLoss", "multiclass", X, (X[:, :, 0].sum(1) > 0).long(), lr=1e-2)


@rule("m31 signal pooled away", "M31", "M38", "T04")
def _m31(bad: bool) -> Case:
    X, y = pictures(300)
    X = X - X.mean((2, 3), keepdim=True)
    if bad:  # the mean over the picture of a 1x1 convolution of a centred picture is its bias
        net: nn.Module = nn.Sequential(nn.Conv2d(1, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    else:
        net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    return case(net, "CrossEntropyLoss", "multiclass", X / X.std(), y, epochs=5)


@rule("m36 group norm of one element", "M36", "M38")
def _m36(bad: bool) -> Case:
    return classify(nn.Sequential(nn.Linear(8, 6), nn.GroupNorm(6 if bad else 2, 6), nn.ReLU(), nn.Linear(6, 3)))


@rule("m38 output times zero", "M38", "M05", "L31")
def _m38(bad: bool) -> Case:
    return regress(Wrap(lambda m, x: m.f(x * (0.0 if bad else 1.0)), f=mlp(6, 1)))


# loss


@rule("l01 softmax in a wrapper", "L01")
def _l01(bad: bool) -> Case:
    return classify(nn.Sequential(mlp(8, 3), nn.Softmax(1) if bad else nn.Identity()), loss=lambda o, y: F.cross_entropy(o, y, label_smoothing=0.1))


@rule("l02 probabilities to NLL", "L02", "L14")
def _l02(bad: bool) -> Case:
    return classify(nn.Sequential(mlp(8, 3), nn.Softmax(1) if bad else nn.LogSoftmax(1)), loss="NLLLoss")


@rule("l03 sigmoid twice, multilabel", "L03")
def _l03(bad: bool) -> Case:
    X = torch.randn(500, 8, generator=g(1))
    y = (X @ torch.randn(8, 4, generator=g(2)) > 0).float()
    return case(nn.Sequential(mlp(8, 4), nn.Sigmoid() if bad else nn.Identity()), "BCEWithLogitsLoss", "multilabel", X, y)


@rule("l04 clamped logits to BCE", "L04")
def _l04(bad: bool) -> Case:
    X, y = blobs(600, C=2)
    return case(Wrap(lambda m, x: m.f(x).clamp(0, 1) if bad else torch.sigmoid(m.f(x)), f=mlp(8, 1)), "BCELoss", "binary", X, y[:, None].float())


@rule("l05 MSE of (N, 1) and (N,)", "L05", "T04")
def _l05(bad: bool) -> Case:
    X, y = curve()
    return case(mlp(6, 1), "MSELoss", "regression", X, y[:, 0] if bad else y)


@rule("l05 huber by hand", "L05", "T04")
def _l05b(bad: bool) -> Case:
    X, y = curve()
    return case(mlp(6, 1), lambda o, t: F.huber_loss(o, t), "regression", X, y[:, 0] if bad else y)


@rule("l06 one output", "L06", "L31")
def _l06(bad: bool) -> Case:
    X, y = blobs(600, C=2)
    return case(mlp(8, 1 if bad else 2), "CrossEntropyLoss", "multiclass", X, torch.zeros_like(y) if bad else y)


@rule("l08 labels by L1", "L08")
def _l08(bad: bool) -> Case:
    X, y = blobs(800, C=5, sep=1.4)
    return case(mlp(8, 1), "SmoothL1Loss", "regression", X, y[:, None].float()) if bad else case(mlp(8, 5), "CrossEntropyLoss", "multiclass", X, y)


@rule("l09 in a loss of one's own", "L09")
def _l09(bad: bool) -> Case:
    X, y = blobs(600, C=2)
    return case(mlp(8, 1), lambda o, t: F.binary_cross_entropy_with_logits(o, t), "binary", X, y[:, None].float() * (2 if bad else 1))


@rule("l10 labels from 1", "L10", "M27")
def _l10(bad: bool) -> Case:
    X, y = blobs(600)
    return case(mlp(8, 4 if bad else 3), "CrossEntropyLoss", "multiclass", X, y + 1 if bad else y)


@rule("l10 labels from 1 to the number of outputs", "L10", "M27")
def _l10b(bad: bool) -> Case:
    X, y = blobs(600)
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", X, y + 1 if bad else y)


@rule("m27 one output too few", "M27", "L10")
def _m27(bad: bool) -> Case:
    X, y = blobs(600, C=5)
    return case(mlp(8, 4 if bad else 5), "CrossEntropyLoss", "multiclass", X, y)


@rule("l11 unscaled target", "L11", "T01")
def _l11(bad: bool) -> Case:
    X, y = curve()
    return case(mlp(6, 1), "MSELoss", "regression", X, y * 3000 + 20000 if bad else y)


@rule("l12 mean of plain differences", "L12", "L14", "O01")
def _l12(bad: bool) -> Case:
    return regress(loss=(lambda o, y: (o - y).mean()) if bad else (lambda o, y: (o - y).abs().mean()))


@rule("l12 squares compared", "L12")
def _l12b(bad: bool) -> Case:
    return regress(loss=(lambda o, y: ((o**2 - y**2) ** 2).mean()) if bad else (lambda o, y: ((o - y) ** 2).mean()))


@rule("l13 sum with SGD", "L13", "O01", "T01")
def _l13(bad: bool) -> Case:
    return regress(loss=(lambda o, y: ((o - y) ** 2).sum()) if bad else (lambda o, y: ((o - y) ** 2).mean()), optimizer="SGD", lr=0.05)


@rule("l13 sum of torch", "L13", "O01", "T01")
def _l13b(bad: bool) -> Case:
    return classify(loss=nn.CrossEntropyLoss(reduction="sum" if bad else "mean"), optimizer="SGD", lr=0.1)


@rule("l14 wrong sign", "L14")
def _l14(bad: bool) -> Case:
    return classify(loss=(lambda o, y: -F.cross_entropy(o, y)) if bad else (lambda o, y: F.cross_entropy(o, y)), epochs=3)


@rule("l14 similarity minimised", "L14")
def _l14b(bad: bool) -> Case:
    X = torch.randn(500, 6, generator=g(1))
    Y = X @ torch.randn(6, 3, generator=g(2))
    return case(mlp(6, 3), lambda o, y: (F.cosine_similarity(o, y) * (1 if bad else -1)).mean(), "regression", X, Y)


class Pinball(nn.Module):
    def __init__(self, quantile: float, swapped: bool):
        super().__init__()
        self.quantile, self.swapped = quantile, swapped

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        e = outputs - targets if self.swapped else targets - outputs
        return torch.maximum(self.quantile * e, (self.quantile - 1) * e).mean()


@rule("l15 declared quantile", "L15")
def _l15(bad: bool) -> Case:
    return regress(loss=Pinball(0.9, bad))


@rule("l16 ignore_index of a class", "L16")
def _l16(bad: bool) -> Case:
    return classify(loss=nn.CrossEntropyLoss(ignore_index=0 if bad else -100))


@rule("l17 class weights inverted", "L17")
def _l17(bad: bool) -> Case:
    X, y = blobs(900, shares=[0.8, 0.1, 0.1])
    counts = torch.bincount(y).float()
    return case(mlp(8, 3), nn.CrossEntropyLoss(weight=counts / counts.sum() if bad else counts.sum() / counts / 3), "multiclass", X, y)


@rule("l18 pos_weight inverted", "L18")
def _l18(bad: bool) -> Case:
    X, y = blobs(900, C=2, shares=[0.85, 0.15])
    return case(mlp(8, 1), nn.BCEWithLogitsLoss(pos_weight=torch.tensor([0.15 / 0.85 if bad else 0.85 / 0.15])), "binary", X, y[:, None].float())


@rule("l20 one column read", "L20")
def _l20(bad: bool) -> Case:
    X = torch.randn(500, 6, generator=g(1))
    Y = torch.stack([X[:, 0] + X[:, 1], X[:, 2] - X[:, 3], X[:, 4]], 1)
    return case(mlp(6, 3), (lambda o, y: F.mse_loss(o[:, :1], y[:, :1])) if bad else "MSELoss", "regression", X, Y)


@rule("l21 log of softmax by hand", "L21")
def _l21(bad: bool) -> Case:
    def loss(o: Tensor, y: Tensor) -> Tensor:
        p = o.softmax(1)
        return -(torch.log(p[torch.arange(len(y)), y])).mean()

    X, y = blobs(600, sep=2.0)
    return case(mlp(8, 3), loss if bad else "CrossEntropyLoss", "multiclass", X, y)


@rule("l21 log of a negative output", "L21", "D03")
def _l21b(bad: bool) -> Case:
    X, y = curve()
    return case(mlp(6, 1), (lambda o, t: ((o.log() - t.log()) ** 2).mean()) if bad else (lambda o, t: ((o - t.log()) ** 2).mean()), "regression", X, y.exp())


@rule("l31 softmax over one unit", "L31", "M38", "L03")
def _l31(bad: bool) -> Case:
    X, y = blobs(600, C=2)
    return case(nn.Sequential(mlp(8, 1), nn.Softmax(1) if bad else nn.Sigmoid()), "BCELoss", "binary", X, y[:, None].float())


# optimizer and dynamics


@rule("o01 SGD with a rate of 30", "O01", "T01", "T03", "M08")
def _o01(bad: bool) -> Case:
    return classify(optimizer="SGD", lr=30.0 if bad else 0.05)


@rule("o02 Adam with 1e-7", "O02", "T06")
def _o02(bad: bool) -> Case:
    return classify(lr=1e-7 if bad else 4e-3)


@rule("o03 head only", "O03")
def _o03(bad: bool) -> Case:
    net = mlp(8, 3)
    return classify(net, params=lambda m: m[4].parameters() if bad else m.parameters())


@rule("o04 everything frozen", "O04")
def _o04(bad: bool) -> Case:
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    if bad:
        net.requires_grad_(False)
    return classify(net)


@rule("o05 another copy", "O05", "O03")
def _o05(bad: bool) -> Case:
    other = mlp(8, 3)
    return classify(params=lambda m: (other if bad else m).parameters())


@rule("o06 decay of 1", "O06", "T04")
def _o06(bad: bool) -> Case:
    return classify(optimizer_kwargs=dict(weight_decay=1.0 if bad else 1e-4))


@rule("o08 momentum 0.999", "O08", "O01")
def _o08(bad: bool) -> Case:
    return classify(optimizer="SGD", lr=0.01, optimizer_kwargs=dict(momentum=0.999 if bad else 0.9))


@rule("o08 beta2 of 0.5", "O08")
def _o08b(bad: bool) -> Case:
    return classify(optimizer_kwargs=dict(betas=(0.9, 0.5 if bad else 0.999)))


@rule("o09 exponential each batch", "O09", "O02")
def _o09(bad: bool) -> Case:
    return classify(epochs=15, scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.85), scheduler_on="batch" if bad else "epoch")


@rule("o10 clip of 1e-4", "O10", "O02")
def _o10(bad: bool) -> Case:
    return classify(optimizer="SGD", lr=0.05, clip_grad_norm=1e-4 if bad else 1.0)


@rule("t03 dying units", "T03", "O01", "M08", "T01")
def _t03(bad: bool) -> Case:
    return regress(optimizer="SGD", lr=2.0 if bad else 0.02, epochs=4)


@rule("t07 rows that spike", "T07", "D04", "L11")
def _t07(bad: bool) -> Case:
    X, y = curve(600, noise=0.3)
    if bad:
        y = y.clone()
        y[torch.arange(7, 600, 97)] = 60 + torch.arange(7.0)[:, None]
    return case(nn.Linear(6, 1), "MSELoss", "regression", X, y, epochs=10, lr=5e-3)


# evaluation


@rule("e01 rare class never found", "E01")
def _e01(bad: bool) -> Case:
    X, y = blobs(1500, C=2, sep=0.25 if bad else 1.4, shares=[0.95, 0.05])
    return case(mlp(8, 2), "CrossEntropyLoss", "multiclass", X, y, metric=lambda o, t: (o.argmax(1) == t).float().mean(), metric_name="accuracy", epochs=4)


@rule("e01 accuracy by name", "E01")
def _e01b(bad: bool) -> Case:
    return _e01(bad) | dict(metric="accuracy")


@rule("e01 binary, one output", "E01")
def _e01c(bad: bool) -> Case:
    X, y = blobs(1500, C=2, sep=0.25 if bad else 1.4, shares=[0.95, 0.05])
    accuracy = lambda o, t: ((o > 0).float() == t).float().mean()  # noqa: E731
    return case(mlp(8, 1), "BCEWithLogitsLoss", "binary", X, y[:, None].float(), metric=accuracy, metric_name="accuracy", epochs=6)


@rule("e13 a weight on one class that drowns the others", "E13", "L17")
def _e13(bad: bool) -> Case:
    X, y = blobs(900, C=3, sep=0.3, shares=[0.5, 0.3, 0.2])
    weight = torch.tensor([1.0, 1.0, 3000.0 if bad else 2.0])
    return case(nn.Linear(8, 3), lambda o, t: F.cross_entropy(o, t, weight=weight), "multiclass", X, y, epochs=10, lr=3e-2)


@rule("e02 accuracy minimised", "E02")
def _e02(bad: bool) -> Case:
    return classify(metric="accuracy", monitor="val_acc", mode="min" if bad else "max")


@rule("e04 half as threshold of logits", "E04", "E05")
def _e04(bad: bool) -> Case:
    X, y = blobs(600, C=2)
    threshold = 0.5 if bad else 0.0
    return case(
        mlp(8, 1), "BCEWithLogitsLoss", "binary", X, y[:, None].float(), metric=lambda o, t: ((o > threshold).float() == t).float().mean(), metric_name="acc"
    )


@rule("e05 metric broadcast", "E05", "E12")
def _e05(bad: bool) -> Case:
    X, y = blobs(600, C=2)

    def accuracy(o: Tensor, t: Tensor) -> Tensor:
        return (((o.flatten() if bad else o) > 0).float() == t).float().mean()

    return case(mlp(8, 1), "BCEWithLogitsLoss", "binary", X, y[:, None].float(), metric=accuracy, metric_name="acc")


@rule("e05 r2 broadcast", "E05")
def _e05b(bad: bool) -> Case:
    X, y = curve()

    def r2(o: Tensor, t: Tensor) -> Tensor:
        t = t.flatten() if bad else t
        return 1 - ((o - t) ** 2).mean() / t.var()

    # the loss sees equal shapes; only the metric flattens one side
    return case(mlp(6, 1), "MSELoss", "regression", X, y, metric=r2, metric_name="r2")


# persistence and inference


class Fitted(nn.Module):
    mean: Tensor
    seen: Tensor

    def __init__(self, persistent: bool):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8), persistent=persistent)
        self.register_buffer("seen", torch.tensor(False), persistent=persistent)
        self.f = mlp(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not bool(self.seen):
            self.mean.copy_(x.mean(0).detach())
            self.seen.fill_(True)
        return self.f(x - self.mean)


@rule("p06 fitted buffer not persistent", "P06", "P01")
def _p06(bad: bool) -> Case:
    X, y = blobs()
    return case(Fitted(not bad), "CrossEntropyLoss", "multiclass", X + 3, y)


@rule("p02 half of the weights", "P02")
def _p02(bad: bool) -> Case:
    state = mlp(8, 3).state_dict()
    state = {(key if not bad or key.startswith("4.bias") else "net." + key): value for key, value in state.items()}
    return classify(checkpoint=state, load_strict=not bad)


@rule("i01 spread only", "I01")
def _i01(bad: bool) -> Case:
    X, y = blobs(600)
    return classify(X=X, y=y, predict_X=blobs(200, seed=5)[0] * (9 if bad else 1))


@rule("i01 one row", "I01")
def _i01b(bad: bool) -> Case:
    X, y = blobs(600)
    return classify(X=X, y=y, predict_X=blobs(200, seed=5)[0][:1] * (1 if not bad else 0) + (60.0 if bad else 0.0))


# healthy but unusual


@healthy("frozen backbone")
def _h01() -> Case:
    torch.manual_seed(0)
    net = mlp(8, 3)
    net[0].requires_grad_(False)
    net[2].requires_grad_(False)
    return classify(net, params=lambda m: [parameter for parameter in m.parameters() if parameter.requires_grad], lr=2e-2)


@healthy("teacher in a list, frozen")
def _teacher() -> Case:
    torch.manual_seed(0)
    net = Wrap(lambda m, x: m.f(x), f=mlp(8, 3))
    net.teacher = [mlp(8, 3).requires_grad_(False)]  # type: ignore[assignment]
    return classify(net)


@healthy("residual branch that starts at zero")
def _zero() -> Case:
    torch.manual_seed(0)
    net = Wrap(
        lambda m, x: m.out(m.inp(x) + m.b(torch.relu(m.a(m.inp(x))))), inp=nn.Linear(8, 16), a=nn.Linear(16, 16), b=nn.Linear(16, 16), out=nn.Linear(16, 3)
    )
    nn.init.zeros_(net.b.weight)  # type: ignore[union-attr, arg-type]
    nn.init.zeros_(net.b.bias)  # type: ignore[union-attr, arg-type]
    return classify(net)


@healthy("last layer starts at zero")
def _zero_head() -> Case:
    torch.manual_seed(0)
    net = mlp(8, 3)
    nn.init.zeros_(net[4].weight)  # type: ignore[arg-type]
    nn.init.zeros_(net[4].bias)  # type: ignore[arg-type]
    return classify(net)


@healthy("high dropout")
def _h12() -> Case:
    torch.manual_seed(0)
    return classify(nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.7), nn.Linear(64, 3)))


@healthy("single linear layer")
def _h13() -> Case:
    torch.manual_seed(0)
    return classify(nn.Linear(8, 3), lr=2e-2)


@healthy("low-rank linear model")
def _lowrank() -> Case:
    torch.manual_seed(0)
    X = torch.randn(500, 12, generator=g(1))
    return case(
        nn.Sequential(nn.Linear(12, 2, bias=False), nn.Linear(2, 5)),
        "MSELoss",
        "regression",
        X,
        X @ torch.randn(12, 2, generator=g(2)) @ torch.randn(2, 5, generator=g(3)) * 0.3,
        lr=1e-2,
        epochs=20,
    )


@healthy("gaussian likelihood, negative loss")
def _h15() -> Case:
    torch.manual_seed(0)
    X, y = curve(700, noise=0.05)

    def likelihood(o: Tensor, t: Tensor) -> Tensor:
        return (0.5 * ((t - o[:, :1]) ** 2 / o[:, 1:].exp() + o[:, 1:])).mean()

    return case(mlp(6, 2), likelihood, "regression", X, y, epochs=20)


class Augmented(Dataset):
    def __init__(self, X: Tensor, y: Tensor):
        self.X, self.y = X, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.X[i] + 0.2 * torch.randn(self.X.shape[1]), self.y[i]


@healthy("random augmentation")
def _h19() -> Case:
    torch.manual_seed(0)
    X, y = blobs(400)
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", dataset=Augmented(X, y), epochs=3)


class OwnGenerator(Augmented):
    def __init__(self, X: Tensor, y: Tensor):
        super().__init__(X, y)
        self.random = numpy.random.default_rng(3)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.X[i] + 0.2 * torch.from_numpy(self.random.normal(size=8)).float(), self.y[i]


@healthy("augmentation by a generator of its own")
def _own_generator() -> Case:
    torch.manual_seed(0)
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", dataset=OwnGenerator(*blobs(400)), epochs=3)


@healthy("softplus for positive targets")
def _h21() -> Case:
    torch.manual_seed(0)
    X, y = curve()
    return case(nn.Sequential(mlp(6, 1), nn.Softplus()), "MSELoss", "regression", X, F.softplus(y))


@healthy("shared encoder called twice")
def _h22() -> Case:
    torch.manual_seed(0)
    X = torch.randn(600, 8, generator=g(1))
    net = Wrap(lambda m, x: m.out((m.enc(x[:, :4]) - m.enc(x[:, 4:])).abs()), enc=nn.Sequential(nn.Linear(4, 16), nn.ReLU()), out=nn.Linear(16, 2))
    return case(net, "CrossEntropyLoss", "multiclass", X, ((X[:, :4] - X[:, 4:]).abs().sum(1) > 4.4).long(), lr=1e-2)


@healthy("rarely used branch")
def _h23() -> Case:
    torch.manual_seed(0)

    def forward(m: Any, x: Tensor) -> Tensor:
        out = m.a(x)
        rare = x[:, 0] > 2.0
        if bool(rare.any()):
            out = out.index_add(0, rare.nonzero()[:, 0], m.b(x[rare]))
        return out

    return regress(Wrap(forward, a=mlp(6, 1), b=nn.Linear(6, 1)))


@healthy("sigmoid and Brier loss")
def _h26() -> Case:
    torch.manual_seed(0)
    X, y = blobs(600, C=2)
    return case(nn.Sequential(mlp(8, 1), nn.Sigmoid()), "MSELoss", "binary", X, y[:, None].float(), lr=1e-2)


@healthy("ordinal grades by MSE")
def _h27() -> Case:
    torch.manual_seed(0)
    X, y = curve(900)
    return case(mlp(6, 1), "MSELoss", "regression", X, ((y * 1.2 + 2.5).round().clamp(0, 5)), lr=1e-2)


@healthy("sets")
def _h28() -> Case:
    torch.manual_seed(0)
    X = torch.randn(500, 7, 3, generator=g(1))
    return case(
        Wrap(lambda m, x: m.out(m.enc(x).mean(1)), enc=nn.Sequential(nn.Linear(3, 16), nn.ReLU()), out=nn.Linear(16, 2)),
        "CrossEntropyLoss",
        "multiclass",
        X,
        (X[:, :, 0].mean(1) > 0).long(),
        lr=1e-2,
    )


@healthy("weak and rare targets")
def _e01_twin() -> Case:
    torch.manual_seed(0)
    X, y = blobs(1500, C=2, sep=0.25, shares=[0.95, 0.05])
    return case(mlp(8, 2), nn.CrossEntropyLoss(weight=torch.tensor([0.5, 9.5])), "multiclass", X, y, epochs=4)


@healthy("one-hot beside counts")
def _onehot() -> Case:
    torch.manual_seed(0)
    n = 600
    kind = F.one_hot(torch.randint(0, 6, (n,), generator=g(1)), 6).float()
    count = torch.poisson(torch.full((n, 1), 4.0), generator=g(2))
    return case(
        mlp(7, 1),
        "MSELoss",
        "regression",
        torch.cat([kind, count], 1),
        kind[:, :1] - kind[:, 1:2] + 0.2 * count + 0.2 * torch.randn(n, 1, generator=g(3)),
        lr=1e-2,
    )


@healthy("bytes divided inside the model")
def _bytes() -> Case:
    torch.manual_seed(0)
    X, y = pictures()
    net = Wrap(
        lambda m, x: m.f(x / 127.5 - 1), f=nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    )
    return case(net, "CrossEntropyLoss", "multiclass", (X * 255).round(), y)


@healthy("NaN masked by the model")
def _masked() -> Case:
    torch.manual_seed(0)
    X, y = blobs(600)
    X = X.clone()
    X[torch.rand(X.shape, generator=g(9)) < 0.1] = float("nan")
    return case(Wrap(lambda m, x: m.f(torch.cat([x.nan_to_num(), x.isnan().float()], 1)), f=mlp(16, 3)), "CrossEntropyLoss", "multiclass", X, y)


@healthy("capped sensor")
def _capped() -> Case:
    torch.manual_seed(0)
    X, y = curve()
    return case(mlp(6, 1), "MSELoss", "regression", X.clamp(-1.2, 1.2), y)


@healthy("many zeros in a column")
def _zero_inflated() -> Case:
    torch.manual_seed(0)
    X, y = curve()
    X = X.clone()
    X[:, 5] = torch.where(torch.rand(600, generator=g(4)) < 0.5, torch.zeros(600), 5 + torch.rand(600, generator=g(5)))
    return case(mlp(6, 1), "MSELoss", "regression", X, y)


@healthy("one feature on a grid")
def _grid() -> Case:
    torch.manual_seed(0)
    x = torch.linspace(-2, 2, 400)[:, None]
    return case(mlp(1, 1, act=nn.Tanh), "MSELoss", "regression", x, torch.sin(2 * x), lr=1e-2, epochs=15)


@healthy("a straight line without noise")
def _line() -> Case:
    torch.manual_seed(0)
    x = torch.arange(0, 1, 0.005)[:, None]
    return case(nn.Linear(1, 1), "MSELoss", "regression", x, 0.7 * x + 0.3, optimizer="SGD", lr=0.1, epochs=15)


@healthy("timestamps without meaning")
def _stamps() -> Case:
    torch.manual_seed(0)
    X, y = blobs(600, d=3, C=2)
    table = {"timestamp": torch.arange(600).double(), **{f"f{k}": X[:, k] for k in range(3)}, "y": y}
    return case(mlp(3, 2), "CrossEntropyLoss", "multiclass", table=table, target="y", drop=["timestamp"])


@healthy("random ids dropped")
def _ids() -> Case:
    torch.manual_seed(0)
    X, y = blobs(600, d=3, C=2)
    table = {"customer_id": torch.randint(0, 200, (600,), generator=g(3)), **{f"f{k}": X[:, k] for k in range(3)}, "y": y}
    return case(mlp(3, 2), "CrossEntropyLoss", "multiclass", table=table, target="y", drop=["customer_id"])


@healthy("time split of sorted data")
def _timesplit() -> Case:
    torch.manual_seed(0)
    n = 600
    z = torch.randn(n, 2, generator=g(1))
    table = {"day": torch.arange(n).double(), "a": z[:, 0], "b": z[:, 1], "y": z[:, 0] + torch.sin(torch.arange(n) / 20) + 0.1 * torch.randn(n, generator=g(2))}
    return case(
        mlp(2, 1),
        lambda o, t: F.mse_loss(o.flatten(), t.flatten()),
        "regression",
        table=table,
        target="y",
        drop=["day"],
        split=dict(method="time", column="day"),
    )


@healthy("hours and grades as numbers")
def _hours() -> Case:
    torch.manual_seed(0)
    n = 900
    hour, grade = torch.randint(0, 24, (n,), generator=g(1)), torch.randint(1, 8, (n,), generator=g(2))
    table = {
        "hour": hour,
        "grade": grade,
        "z": torch.randn(n, generator=g(3)),
        "y": torch.sin(hour / 24 * 2 * math.pi) + 0.3 * grade + 0.3 * torch.randn(n, generator=g(4)),
    }
    return case(mlp(3, 1), lambda o, t: F.mse_loss(o.flatten(), t.flatten()), "regression", table=table, target="y", lr=1e-2)


@healthy("quantile heads (N, 3) against (N, 1)")
def _heads() -> Case:
    torch.manual_seed(0)
    levels = torch.tensor([0.1, 0.5, 0.9])

    def loss(o: Tensor, y: Tensor) -> Tensor:
        e = y - o
        return torch.maximum(levels * e, (levels - 1) * e).mean()

    return regress(mlp(6, 3), loss=loss)


@healthy("segmentation with a void label")
def _void() -> Case:
    torch.manual_seed(0)
    X, _ = pictures(200)
    y = (X[:, 0] > 0.4).long()
    y[:, 0, :] = 255
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))
    return case(net, nn.CrossEntropyLoss(ignore_index=255), "segmentation", (X - 0.2) / 0.25, y, lr=1e-2)


@healthy("bidirectional tagger")
def _tagger() -> Case:
    torch.manual_seed(0)
    X = torch.randint(0, 6, (400, 9), generator=g(1))
    y = ((X + X.roll(1, 1)) % 3).long()
    net = Wrap(
        lambda m, x: m.out(m.rnn(m.emb(x))[0]).transpose(1, 2),
        emb=nn.Embedding(6, 10),
        rnn=nn.GRU(10, 12, batch_first=True, bidirectional=True),
        out=nn.Linear(24, 3),
    )
    return case(net, "CrossEntropyLoss", "sequence", X, y, lr=1e-2)


@healthy("AdamW with a decay of 0.1 and OneCycle")
def _onecycle() -> Case:
    torch.manual_seed(0)
    return classify(
        optimizer="AdamW",
        lr=1e-3,
        optimizer_kwargs=dict(weight_decay=0.1),
        scheduler=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1e-2, total_steps=72),
        scheduler_on="batch",
    )


@healthy("step schedule by epochs")
def _steplr() -> Case:
    torch.manual_seed(0)
    return classify(epochs=12, scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 4, 0.3))


@healthy("convolutions with batch norm")
def _conv() -> Case:
    torch.manual_seed(0)
    X, y = pictures(channels=3)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )
    return case(net, "CrossEntropyLoss", "multiclass", (X - 0.2) / 0.25, y, optimizer="SGD", lr=0.1, optimizer_kwargs=dict(momentum=0.9), epochs=5)


@healthy("focal loss by hand")
def _focal() -> Case:
    torch.manual_seed(0)

    def focal(o: Tensor, y: Tensor) -> Tensor:
        logs = F.log_softmax(o, 1)
        own = logs[torch.arange(len(y)), y]
        return (-((1 - own.exp()) ** 2) * own).mean()

    return classify(loss=focal)


@healthy("hinge with labels -1 and 1")
def _hinge() -> Case:
    torch.manual_seed(0)
    X, y = blobs(600, C=2)
    return case(mlp(8, 1), lambda o, t: F.relu(1 - o * t).mean(), "binary", X, y[:, None].float() * 2 - 1)


@healthy("soft labels")
def _soft() -> Case:
    torch.manual_seed(0)
    X, y = blobs(600)
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", X, F.one_hot(y, 3).float() * 0.9 + 0.1 / 3)


@healthy("poisson likelihood of one's own")
def _poisson() -> Case:
    torch.manual_seed(0)
    X = torch.randn(900, 4, generator=g(1))
    y = torch.poisson((0.6 * X[:, :1] - 0.4 * X[:, 1:2] + 0.3).exp(), generator=g(2))
    return case(nn.Linear(4, 1), lambda o, t: (o.exp() - t * o).mean(), "regression", X, y, lr=1e-2)


@healthy("metrics of several kinds")
def _metrics() -> Case:
    torch.manual_seed(0)
    X, y = blobs(600, C=2)
    return case(mlp(8, 1), "BCEWithLogitsLoss", "binary", X, y[:, None].float(), metric=lambda o, t: ((o.sigmoid() - t) ** 2).mean(), metric_name="brier")


@healthy("error rate as a metric, minimised")
def _error_rate() -> Case:
    torch.manual_seed(0)
    return classify(metric=lambda o, t: (o.argmax(1) != t).float().mean(), metric_name="error")


@healthy("two inputs, two outputs")
def _two() -> Case:
    torch.manual_seed(0)
    a, b = torch.randn(500, 4, generator=g(1)), torch.randn(500, 3, generator=g(2))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.mean, self.kind = nn.Sequential(nn.Linear(7, 16), nn.ReLU()), nn.Linear(16, 1), nn.Linear(16, 3)

        def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            h = self.body(torch.cat([a, b], 1))
            return self.mean(h), self.kind(h)

    y, k = a[:, :1] - b[:, :1], b.argmax(1)
    parts = [((a[rows], b[rows]), (y[rows], k[rows])) for rows in (slice(0, 300), slice(300, 400), slice(400, 500))]
    return case(Net(), lambda mean, kind, y, k: F.mse_loss(mean, y) + F.cross_entropy(kind, k), "none", train=parts[0], val=parts[1], test=parts[2])


@healthy("named inputs")
def _named() -> Case:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.f = nn.Embedding(7, 4), mlp(7, 3)

        def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
            return self.f(torch.cat([numbers, self.emb(codes).flatten(1)], 1))

    numbers, codes = torch.randn(500, 3, generator=g(1)), torch.randint(0, 7, (500, 1), generator=g(2))
    y = (numbers.argmax(1) + codes[:, 0]) % 3
    parts = [(dict(numbers=numbers[rows], codes=codes[rows]), y[rows]) for rows in (slice(0, 300), slice(300, 400), slice(400, 500))]
    return case(Net(), "CrossEntropyLoss", "multiclass", train=parts[0], val=parts[1], test=parts[2], lr=1e-2, epochs=12)


@healthy("variational autoencoder")
def _vae() -> Case:
    torch.manual_seed(0)
    B = torch.randn(3, 10, generator=g(71))
    X = torch.randn(700, 3, generator=g(1)) @ B + 0.1 * torch.randn(700, 10, generator=g(2))

    class VAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enc, self.dec = mlp(10, 4), mlp(2, 10)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            mean, log = self.enc(x).chunk(2, 1)
            return self.dec(mean + (0.5 * log).exp() * torch.randn_like(mean)), mean, log

    def loss(o: Tensor, mean: Tensor, log: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(o, y) - 0.005 * (1 + log - mean**2 - log.exp()).mean()

    return case(VAE(), loss, "regression", train=(X[:400], X[:400]), val=(X[400:500], X[400:500]))


@healthy("convolutional autoencoder")
def _cae() -> Case:
    torch.manual_seed(0)
    X, _ = pictures(300)
    net = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(6, 1, 4, 2, 1), nn.Sigmoid())
    return case(net, "BCELoss", "regression", X, X.clone(), lr=1e-2)


@healthy("forecast from overlapping windows, split by time")
def _windows() -> Case:
    torch.manual_seed(0)
    s = torch.sin(torch.arange(700) / 9) + torch.sin(torch.arange(700) / 23) + 0.15 * torch.randn(700, generator=g(1))
    X, y = s.unfold(0, 12, 1)[:-1], s[12:, None]
    rows = len(X)
    return case(mlp(12, 1), "MSELoss", "regression", X, y[:rows], split=dict(method="ordered"))


@healthy("LSTM over windows, split by time")
def _lstm() -> Case:
    torch.manual_seed(0)
    s = torch.sin(torch.arange(700) / 9) + 0.15 * torch.randn(700, generator=g(1))
    X, y = s.unfold(0, 12, 1)[:-1, :, None].contiguous(), s[12:, None]
    return case(
        Wrap(lambda m, x: m.out(m.rnn(x)[0][:, -1]), rnn=nn.LSTM(1, 12, batch_first=True), out=nn.Linear(12, 1)),
        "MSELoss",
        "regression",
        X,
        y[: len(X)],
        split=dict(method="ordered"),
        lr=1e-2,
    )


@healthy("spirals")
def _spirals() -> Case:
    torch.manual_seed(0)
    t = torch.rand(600, generator=g(1)) * 9 + 0.5
    y = torch.randint(0, 2, (600,), generator=g(2))
    X = torch.stack([t * torch.cos(t + 3.14159 * y), t * torch.sin(t + 3.14159 * y)], 1) / 5 + 0.03 * torch.randn(600, 2, generator=g(3))
    return case(mlp(2, 2, 48), "CrossEntropyLoss", "multiclass", X, y, lr=1e-2, epochs=25)


@healthy("few rows")
def _few() -> Case:
    torch.manual_seed(0)
    X, y = blobs(90, d=4, sep=1.5)
    return case(mlp(4, 3, 12), "CrossEntropyLoss", "multiclass", X, y, batch_size=8, epochs=20, lr=1e-2)


@healthy("LBFGS")
def _lbfgs() -> Case:
    X, y = curve(300)
    return case(nn.Linear(6, 1), "MSELoss", "regression", X, y, optimizer="Rprop", lr=1e-2, batch_size=512, epochs=40)


@healthy("residual network, zero gamma, tied embedding")
def _resnet() -> Case:
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.n, self.k = (
                nn.Conv2d(8, 8, 3, padding=1, bias=False),
                nn.Conv2d(8, 8, 3, padding=1, bias=False),
                nn.BatchNorm2d(8),
                nn.BatchNorm2d(8),
            )
            nn.init.zeros_(self.k.weight)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x + self.k(self.b(torch.relu(self.n(self.a(x))))))

    X, y = pictures(300)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return case(net, "CrossEntropyLoss", "multiclass", (X - 0.2) / 0.25, y, epochs=4, lr=1e-2)


@healthy("language model with tied weights")
def _tied() -> Case:
    torch.manual_seed(0)
    X, y = language()
    net = Wrap(lambda m, x: m.out(m.rnn(m.emb(x))[0]), emb=nn.Embedding(8, 12), rnn=nn.GRU(12, 12, batch_first=True), out=nn.Linear(12, 8, bias=False))
    net.out.weight = net.emb.weight  # type: ignore[union-attr, assignment]
    return case(net, lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten()), "sequence", X, y, epochs=4, lr=1e-2)


@healthy("multi-label with rare labels")
def _multilabel() -> Case:
    torch.manual_seed(0)
    X = torch.randn(800, 8, generator=g(1))
    y = (X @ torch.randn(8, 5, generator=g(2)) > torch.tensor([0.0, 2, 4, -2, 1])).float()
    positive = y.mean(0)
    return case(
        mlp(8, 5),
        nn.BCEWithLogitsLoss(pos_weight=(1 - positive) / positive),
        "multilabel",
        X,
        y,
        metric=lambda o, t: ((o > 0) == (t > 0.5)).float().mean(),
        metric_name="accuracy",
    )


@healthy("skewed positive target by log")
def _skewed() -> Case:
    torch.manual_seed(0)
    X, y = curve()
    return case(mlp(6, 1), lambda o, t: ((o - t.log()) ** 2).mean(), "regression", X, (1.5 * y + 6).exp())


@healthy("mean absolute error as a metric, targets flattened")
def _mae() -> Case:
    torch.manual_seed(0)
    return regress(metric=lambda o, t: (o.flatten() - t.flatten()).abs().mean(), metric_name="mae", monitor="val_loss", mode="min")


@healthy("bias as a metric")
def _bias() -> Case:
    torch.manual_seed(0)
    return regress(metric=lambda o, t: (o - t).mean(), metric_name="bias")


@healthy("asymmetric cost through a wrapper")
def _wrapper() -> Case:
    torch.manual_seed(0)

    def rmsle(y_true: Tensor, y_pred: Tensor) -> Tensor:
        e = y_true - y_pred
        return torch.maximum(0.8 * e, -0.2 * e).mean()

    return regress(loss=lambda o, y: rmsle(y, o))


@healthy("mixed categories and numbers")
def _mixed() -> Case:
    torch.manual_seed(0)
    n = 600
    city = torch.randint(0, 5, (n,), generator=g(1))
    age = torch.randint(18, 80, (n,), generator=g(2))
    table = {
        "city": [["Bern", "Chur", "Genf", "Basel", "Zug"][int(k)] for k in city],
        "age": age,
        "income": torch.rand(n, generator=g(3)) * 9e4,
        "member": torch.randint(0, 2, (n,), generator=g(4)),
    }
    y = ((age - 48) / 20 + torch.randn(n, generator=g(5)) > 0).long()
    return case(mlp(4, 2), "CrossEntropyLoss", "multiclass", table=table | {"bought": y}, target="bought", lr=1e-2)


@healthy("unbalanced stream with accuracy, well learnt")
def _balanced() -> Case:
    torch.manual_seed(0)
    X, y = blobs(1500, C=2, sep=1.4, shares=[0.94, 0.06])
    return case(mlp(8, 2), "CrossEntropyLoss", "multiclass", X, y, metric="accuracy", epochs=6, lr=5e-3)


@healthy("contrastive embedding in the batch")
def _contrastive() -> Case:
    torch.manual_seed(0)
    X, y = blobs(500, sep=1.5)

    def supervised(z: Tensor, y: Tensor) -> Tensor:
        z = F.normalize(z, dim=1)
        same = (y[:, None] == y[None]).float()
        logits = z @ z.T / 0.3
        return F.binary_cross_entropy_with_logits(logits, same)

    return case(mlp(8, 4), supervised, "none", X, y)


@healthy("attention pooling over steps")
def _attention() -> Case:
    torch.manual_seed(0)
    X = torch.randn(500, 7, 4, generator=g(1))
    net = Wrap(lambda m, x: m.out((m.a(x).softmax(1) * m.v(x)).sum(1)), a=nn.Linear(4, 1), v=nn.Linear(4, 8), out=nn.Linear(8, 2))
    return case(net, "CrossEntropyLoss", "multiclass", X, (X[:, :, 0].sum(1) > 0).long(), lr=1e-2)


@healthy("transformer with a class token")
def _cls() -> Case:
    torch.manual_seed(0)
    X = torch.randn(400, 6, 8, generator=g(1))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.place = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(7, 8))
            self.att, self.out = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([self.token.expand(len(x), 1, 8), x], 1) + self.place
            return self.out(self.att(x)[:, 0])

    return case(Net(), "CrossEntropyLoss", "multiclass", X, (X[:, 0, 0] > 0).long(), lr=3e-3)
