"""Models and settings of well-known tutorials and papers in small: healthy, though much about them is unusual. `HEALTHY[name]` is one function that returns a case.

As in `more_cases`: they are asked through `check`, `fit` and the scores, and nothing may be said louder than a note.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from cases import Case, Wrap, blobs, case, curve, g, kept_in, mlp, pictures
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

HEALTHY: dict[str, Callable[[], Case]] = {}
healthy = kept_in(HEALTHY)


def sine(n: int = 2000) -> tuple[Tensor, Tensor]:
    x = torch.linspace(-math.pi, math.pi, n)
    return x, x.sin()


@healthy("polynomial of the third degree, sum of squares, SGD 1e-6")
def _polynomial() -> Case:
    x, y = sine()
    model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0, 1))
    return case(
        model, nn.MSELoss(reduction="sum"), "regression", x[:, None] ** torch.tensor([1, 2, 3]), y, optimizer="SGD", lr=1e-6, batch_size=2000, epochs=300
    )


@healthy("polynomial with RMSprop")
def _polynomial_rms() -> Case:
    x, y = sine()
    model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0, 1))
    return case(
        model, nn.MSELoss(reduction="sum"), "regression", x[:, None] ** torch.tensor([1, 2, 3]), y, optimizer="RMSprop", lr=1e-3, batch_size=2000, epochs=200
    )


class Polynomial3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Parameter(torch.randn(())) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.a + self.b * x + self.c * x**2 + self.d * x**3


@healthy("polynomial by four parameters, one row a value")
def _polynomial_parameters() -> Case:
    x, y = sine()
    return case(Polynomial3(), "MSELoss", "regression", x[:, None], y[:, None], optimizer="Adam", lr=0.02, batch_size=50, epochs=10)


@healthy("spirals of three arms")
def _spirals() -> Case:
    n = 300
    t = torch.linspace(0, 1, n)
    X = torch.cat([torch.stack([t * (k * 2.1 + 5 * t + 0.1 * torch.randn(n, generator=g(k))).sin(), t * (k * 2.1 + 5 * t).cos()], 1) for k in range(3)])
    return case(mlp(2, 3, 48), "CrossEntropyLoss", "multiclass", X, torch.arange(3).repeat_interleave(n), lr=1e-2, epochs=15)


@healthy("two moons, tanh, SGD with momentum")
def _moons() -> Case:
    t = torch.rand(600, generator=g(1)) * math.pi
    y = torch.arange(600) % 2
    X = torch.stack([t.cos() * (1 - 2 * y) + y, t.sin() * (1 - 2 * y) + 0.5 * y], 1) + 0.1 * torch.randn(600, 2, generator=g(2))
    return case(
        mlp(2, 1, act=nn.Tanh), "BCEWithLogitsLoss", "binary", X, y.float()[:, None], optimizer="SGD", optimizer_kwargs={"momentum": 0.9}, lr=0.1, epochs=15
    )


@healthy("exclusive or, four points repeated")
def _xor() -> Case:
    X = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(60, 1)
    return case(
        nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1), nn.Sigmoid()), "BCELoss", "binary", X, (X.sum(1) == 1).float()[:, None], lr=0.05, epochs=20
    )


def sentences(words: int = 40, n: int = 600, length: int = 9, seed: int = 1) -> Tensor:
    """Rows of codes in which each word has a few usual followers."""
    step = torch.randint(0, words, (words, 3), generator=g(7))
    rows = [torch.randint(0, words, (n,), generator=g(seed))]
    for k in range(length - 1):
        rows.append(step[rows[-1], torch.randint(0, 3, (n,), generator=g(seed + k + 1))])
    return torch.stack(rows, 1)


@healthy("word embeddings: N-gram language model with NLL, SGD 1e-1")
def _ngram() -> Case:
    s = sentences(n=1500)
    model = nn.Sequential(nn.Embedding(40, 10), nn.Flatten(), nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 40), nn.LogSoftmax(1))
    return case(model, "NLLLoss", "multiclass", s[:, :2], s[:, 2], optimizer="SGD", lr=0.1, epochs=12)


@healthy("word embeddings: continuous bag of words")
def _cbow() -> Case:
    s = sentences(n=1500)
    model = Wrap(lambda m, x: m.out(m.emb(x).sum(1)), emb=nn.Embedding(40, 12), out=nn.Linear(12, 40))
    return case(model, "CrossEntropyLoss", "multiclass", s[:, [0, 1, 3, 4]], s[:, 2], lr=1e-2, epochs=8)


@healthy("skip-gram with negative samples")
def _skipgram() -> Case:
    s = sentences(n=800)
    good, bad = s[:, :2], torch.stack([s[:, 0], torch.randint(0, 40, (800,), generator=g(9))], 1)
    model = Wrap(lambda m, x: (m.word(x[:, 0]) * m.context(x[:, 1])).sum(1), word=nn.Embedding(40, 8), context=nn.Embedding(40, 8))
    return case(model, "BCEWithLogitsLoss", "binary", torch.cat([good, bad]), torch.cat([torch.ones(800), torch.zeros(800)]), lr=2e-2, epochs=10)


@healthy("LSTM part-of-speech tagger, log-softmax per word")
def _tagger() -> Case:
    s = sentences(n=500)
    tags = (s % 4 + (torch.roll(s, 1, 1) % 2)).clamp(max=4)

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.lstm, self.out = nn.Embedding(40, 16), nn.LSTM(16, 24, batch_first=True), nn.Linear(24, 5)

        def forward(self, x: Tensor) -> Tensor:
            return F.log_softmax(self.out(self.lstm(self.emb(x))[0]), dim=-1).transpose(1, 2)

    return case(Tagger(), "NLLLoss", "multiclass", s, tags, lr=1e-2, epochs=6)


@healthy("sequence to sequence with teacher forcing, start token in front")
def _seq2seq() -> Case:
    s = sentences(n=600, length=6) + 1
    given = torch.cat([s, torch.zeros(600, 1, dtype=torch.long), s.flip(1)[:, :-1]], 1)

    class Seq2Seq(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.enc, self.dec, self.out = nn.Embedding(42, 24), nn.GRU(24, 48, batch_first=True), nn.GRU(24, 48, batch_first=True), nn.Linear(48, 42)

        def forward(self, x: Tensor) -> Tensor:
            e = self.emb(x)
            state = self.enc(e[:, :6])[1]
            return self.out(self.dec(e[:, 6:], state)[0]).transpose(1, 2)

    return case(Seq2Seq(), "CrossEntropyLoss", "multiclass", given, s.flip(1), lr=1e-2, epochs=6)


@healthy("attention over encoder states, sums copied")
def _attention() -> Case:
    X = torch.randn(600, 7, 5, generator=g(1))
    y = X[torch.arange(600), X[:, :, 0].argmax(1), 1][:, None]

    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value, self.out = nn.Parameter(torch.randn(1, 1, 16)), nn.Linear(5, 16), nn.Linear(5, 16), nn.Linear(16, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = F.scaled_dot_product_attention(self.query.expand(len(x), -1, -1), self.key(x), self.value(x))
            return self.out(F.gelu(h[:, 0]))

    return case(Attend(), "MSELoss", "regression", X, y, lr=1e-2, epochs=15)


@healthy("nn.Transformer on copied sequences, sinusoidal positions, causal target mask")
def _transformer() -> Case:
    s = sentences(n=400, length=6)
    given = torch.cat([s, torch.full((400, 1), 40), s[:, :-1]], 1)

    class Copy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb = nn.Embedding(41, 16)
            self.body = nn.Transformer(16, 2, 1, 1, 32, dropout=0.1, batch_first=True)
            self.out = nn.Linear(16, 40)
            t = torch.arange(6.0)[:, None] / 100 ** (torch.arange(8) / 8)
            self.register_buffer("positions", torch.cat([t.sin(), t.cos()], 1))

        def forward(self, x: Tensor) -> Tensor:
            e = self.emb(x) * 4
            mask = nn.Transformer.generate_square_subsequent_mask(6)
            return self.out(self.body(e[:, :6] + self.positions, e[:, 6:] + self.positions, tgt_mask=mask)).transpose(1, 2)

    return case(Copy(), "CrossEntropyLoss", "multiclass", given, s, lr=3e-3, epochs=6, clip_grad_norm=0.5)


@healthy("character RNN with its state made anew in forward")
def _charrnn() -> Case:
    s = sentences(words=12, n=500, length=12)

    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.i2h, self.h2o = nn.Linear(12 + 24, 24), nn.Linear(24, 12)

        def forward(self, x: Tensor) -> Tensor:
            hidden, made = torch.zeros(len(x), 24), []
            for step in F.one_hot(x, 12).float().unbind(1):
                hidden = torch.tanh(self.i2h(torch.cat([step, hidden], 1)))
                made.append(self.h2o(hidden))
            return torch.stack(made, 2)

    return case(Cell(), "CrossEntropyLoss", "multiclass", s[:, :-1], s[:, 1:], optimizer="SGD", lr=0.5, epochs=8, clip_grad_norm=1.0)


@healthy("LeNet with average pooling and sigmoids of old")
def _lenet() -> Case:
    X, y = pictures(600, size=12)
    model = nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 4))  # fmt: skip
    return case(model, "CrossEntropyLoss", "multiclass", X, y, optimizer="SGD", lr=0.1, epochs=15)


@healthy("spatial transformer that starts at the identity")
def _spatial() -> Case:
    X, y = pictures(500, size=12)

    class Spatial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.where = nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 16), nn.ReLU(), nn.Linear(16, 6))
            self.what = nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(300, 4))
            nn.init.zeros_(self.where[-1].weight)
            self.where[-1].bias.data.copy_(torch.tensor([1, 0, 0, 0, 1, 0.0]))

        def forward(self, x: Tensor) -> Tensor:
            grid = F.affine_grid(self.where(x).view(-1, 2, 3), list(x.shape), align_corners=False)
            return self.what(F.grid_sample(x, grid, align_corners=False))

    return case(Spatial(), "CrossEntropyLoss", "multiclass", X, y, lr=1e-3, epochs=10)


@healthy("super-resolution by pixel shuffle")
def _subpixel() -> Case:
    X, _ = pictures(300, size=12)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 5, padding=2), nn.ReLU(), nn.Conv2d(12, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1), nn.PixelShuffle(2)
    )
    return case(model, "MSELoss", "regression", F.avg_pool2d(X, 2), X, lr=5e-3, epochs=10)


@healthy("U-Net for masks, BCE with logits")
def _unet() -> Case:
    X, _ = pictures(240, size=16)

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down1, self.down2 = self.double(1, 8), self.double(8, 16)
            self.up, self.last, self.out = nn.ConvTranspose2d(16, 8, 2, 2), self.double(16, 8), nn.Conv2d(8, 1, 1)

        @staticmethod
        def double(i: int, o: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True), nn.Conv2d(o, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True))  # fmt: skip

        def forward(self, x: Tensor) -> Tensor:
            a = self.down1(x)
            return self.out(self.last(torch.cat([a, self.up(self.down2(F.max_pool2d(a, 2)))], 1)))

    return case(UNet(), "BCEWithLogitsLoss", "binary", X, (X > 0.3).float(), batch_size=16, epochs=5)


@healthy("segmentation into classes, one mask of labels for each picture")
def _segmentation() -> Case:
    X, y = pictures(240, size=12)
    masks = torch.where(X[:, 0] > 0.3, y[:, None, None] + 1, 0)
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=2, dilation=2), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=4, dilation=4), nn.ReLU(), nn.Conv2d(16, 5, 1))  # fmt: skip
    return case(model, "CrossEntropyLoss", "multiclass", X, masks, lr=5e-3, batch_size=16, epochs=10)


@healthy("autoencoder with a narrow code and a sigmoid at the end")
def _autoencoder() -> Case:
    X, _ = pictures(500)
    X = X.flatten(1)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 6), nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 64), nn.Sigmoid())
    return case(model, "BCELoss", "regression", X, X.clone(), epochs=15)


@healthy("denoising autoencoder")
def _denoising() -> Case:
    X, _ = pictures(500)
    clean = X.flatten(1)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64), nn.Sigmoid())
    return case(model, "MSELoss", "regression", clean + 0.2 * torch.randn(500, 64, generator=g(3)), clean, epochs=15)


@healthy("sparse autoencoder with an L1 penalty on its code")
def _sparse() -> Case:
    X, _ = pictures(500)
    X = X.flatten(1)

    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enc, self.dec = nn.Linear(64, 80), nn.Linear(80, 64)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            code = F.relu(self.enc(x))
            return self.dec(code), code

    return case(Sparse(), lambda made, code, x: F.mse_loss(made, x) + 1e-4 * code.abs().mean(), "regression", X, X.clone(), epochs=10)


@healthy("vector-quantised code with a straight-through gradient")
def _vq() -> Case:
    X, _ = pictures(500)
    X = X.flatten(1)

    class VQ(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enc, self.codes, self.dec = nn.Linear(64, 8), nn.Embedding(32, 8), nn.Linear(8, 64)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            z = self.enc(x)
            q = self.codes(torch.cdist(z, self.codes.weight).argmin(1))
            kept = F.mse_loss(q, z.detach(), reduction="none").mean(1) + 0.25 * F.mse_loss(z, q.detach(), reduction="none").mean(1)
            return self.dec(z + (q - z).detach()), kept

    return case(VQ(), lambda made, kept, x: F.mse_loss(made, x) + kept.mean(), "regression", X, X.clone(), epochs=10)


@healthy("siamese twins: one body, the distance of two pictures, contrastive loss")
def _siamese() -> Case:
    X, y = pictures(600)
    other = torch.randperm(600, generator=g(5))

    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 8))

        def forward(self, x: Tensor) -> Tensor:
            return F.pairwise_distance(self.body(x[:, :1]), self.body(x[:, 1:]))

    same = (y == y[other]).float()
    return case(
        Twins(), lambda d, same: (same * d**2 + (1 - same) * F.relu(1 - d) ** 2).mean(), "regression", torch.cat([X, X[other]], 1), same, lr=2e-3, epochs=10
    )


class Triplets(Dataset):
    def __init__(self, n: int = 400):
        self.X, self.y = pictures(n)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        draw = g(i)
        same, other = (self.y == self.y[i]).nonzero()[:, 0], (self.y != self.y[i]).nonzero()[:, 0]
        rows = [i, int(same[torch.randint(len(same), (1,), generator=draw)]), int(other[torch.randint(len(other), (1,), generator=draw)])]
        return self.X[rows].flatten(1), torch.tensor(0.0)


@healthy("triplets, a loss that needs no target")
def _triplets() -> Case:
    net = mlp(64, 8, 32)
    model = Wrap(lambda m, x: m.net(x), net=net)
    return case(model, lambda out, _: F.triplet_margin_loss(out[:, 0], out[:, 1], out[:, 2]), "regression", dataset=Triplets(), lr=2e-3, epochs=4)


@healthy("fine-tuning: a frozen backbone with batch norm, SGD on the head")
def _frozen() -> Case:
    X, y = pictures(500, channels=3)
    body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten())  # fmt: skip
    body.requires_grad_(False)
    return case(nn.Sequential(body, nn.Linear(24, 4)), "CrossEntropyLoss", "multiclass", X, y, optimizer="SGD", optimizer_kwargs={"momentum": 0.9}, lr=0.05, epochs=12, params=lambda m: m[1].parameters())  # fmt: skip


@healthy("low-rank adapters on a frozen layer, B starts at zero")
def _lora() -> Case:
    X, y = blobs()

    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole, self.out = nn.Linear(8, 32), nn.Linear(32, 3)
            self.whole.requires_grad_(False)
            self.A, self.B = nn.Parameter(torch.randn(4, 8) * 0.3), nn.Parameter(torch.zeros(32, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.relu(self.whole(x) + x @ self.A.T @ self.B.T))

    return case(Adapted(), "CrossEntropyLoss", "multiclass", X, y, lr=1e-2, epochs=8)


@healthy("several tasks from one body: a class and a number")
def _tasks() -> Case:
    X, y = blobs()

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.kind, self.size = nn.Sequential(nn.Linear(8, 32), nn.ReLU()), nn.Linear(32, 3), nn.Linear(32, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.body(x)
            return torch.cat([self.kind(h), self.size(h)], 1)

    target = torch.stack([y.float(), X[:, 0] * X[:, 1]], 1)
    return case(Both(), lambda o, t: F.cross_entropy(o[:, :3], t[:, 0].long()) + 0.5 * F.mse_loss(o[:, 3], t[:, 1]), "regression", X, target, epochs=8)


@healthy("tasks weighted by learnt uncertainty inside the model")
def _uncertainty() -> Case:
    X, y = curve()
    target = torch.cat([y, 10 * X[:, :1] ** 2], 1)

    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.log = mlp(6, 2), nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.net(x), self.log.expand(len(x), 2)

    return case(Weighted(), lambda o, s, t: (((o - t) ** 2) * (-s).exp() + s).mean(), "regression", X, target, lr=1e-2, epochs=12)


@healthy("quantiles of three levels by pinball")
def _quantiles() -> Case:
    X, y = curve(noise=0.5)
    levels = torch.tensor([0.1, 0.5, 0.9])
    return case(mlp(6, 3), lambda o, t: torch.maximum(levels * (t - o), (levels - 1) * (t - o)).mean(), "regression", X, y, epochs=10)


@healthy("huber of deviations in thousands, target scaled inside the loss")
def _scaled() -> Case:
    X, y = curve()
    return case(mlp(6, 1), lambda o, t: F.huber_loss(o, (t - 250_000) / 40_000), "regression", X, 250_000 + 40_000 * y, epochs=8)


class Physics(nn.Module):
    """x(t) of a damped spring: the network's own derivatives stand in the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, t: Tensor) -> Tensor:
        with torch.enable_grad():
            t = t.detach().clone().requires_grad_(True)
            x = self.net(t)
            v = torch.autograd.grad(x.sum(), t, create_graph=True)[0]
            a = torch.autograd.grad(v.sum(), t, create_graph=True)[0]
        return torch.cat([x, a + 0.4 * v + 4 * x], 1)


@healthy("physics-informed: data and residual of an equation")
def _physics() -> Case:
    t = torch.rand(400, 1, generator=g(1)) * 4
    x = (-0.2 * t).exp() * (2 * t).cos()
    return case(Physics(), lambda o, x: F.mse_loss(o[:, :1], x) + 1e-2 * (o[:, 1] ** 2).mean(), "regression", t, x, lr=5e-3, epochs=15)


@healthy("implicit image: coordinates to grey through sines")
def _siren() -> Case:
    grid = torch.cartesian_prod(torch.linspace(-1, 1, 24), torch.linspace(-1, 1, 24))
    grey = (4 * grid[:, :1]).sin() * (3 * grid[:, 1:]).cos()

    class Sine(nn.Module):
        def __init__(self, i: int, o: int, first: bool = False) -> None:
            super().__init__()
            self.linear, self.scale = nn.Linear(i, o), 6.0
            nn.init.uniform_(self.linear.weight, -1 / i if first else -math.sqrt(6 / i) / 6, 1 / i if first else math.sqrt(6 / i) / 6)

        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(self.scale * self.linear(x))

    return case(nn.Sequential(Sine(2, 32, True), Sine(32, 32), nn.Linear(32, 1)), "MSELoss", "regression", grid, grey, lr=2e-3, epochs=15)


@healthy("radial basis functions with learnt centres")
def _rbf() -> Case:
    X = torch.rand(600, 2, generator=g(1)) * 4 - 2
    y = (X[:, :1] ** 2 - X[:, 1:]).sin()
    model = Wrap(lambda m, x: m.out((-(torch.cdist(x, m.centres.weight) ** 2)).exp()), centres=nn.Embedding(40, 2), out=nn.Linear(40, 1))
    return case(model, "MSELoss", "regression", X, y, lr=2e-2, epochs=15)


@healthy("diffusion in small: noise from a noisy point and its time")
def _diffusion() -> Case:
    clean = torch.stack([torch.rand(1500, generator=g(1)) * 2 - 1, torch.zeros(1500)], 1)
    clean[:, 1] = clean[:, 0] ** 2
    t, noise = torch.rand(1500, 1, generator=g(2)), torch.randn(1500, 2, generator=g(3))
    return case(mlp(3, 2, 48, act=nn.SiLU), "MSELoss", "regression", torch.cat([(1 - t).sqrt() * clean + t.sqrt() * noise, t], 1), noise, epochs=8)


@healthy("normalising flow of two couplings, negative log-likelihood")
def _flow() -> Case:
    X = torch.randn(800, 2, generator=g(1))
    X[:, 1] = 0.5 * X[:, 1] + X[:, 0] ** 2 - 1

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(mlp(1, 2, 16, act=nn.Tanh) for _ in range(4))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            volume = torch.zeros(len(x))
            for part in self.parts:
                x = x.flip(1)
                s, m = part(x[:, :1]).chunk(2, 1)
                x = torch.cat([x[:, :1], (x[:, 1:] - m) * (-s.tanh()).exp()], 1)
                volume = volume - s.tanh()[:, 0]
            return x, volume

    return case(Flow(), lambda z, volume, x: (0.5 * (z**2).sum(1) + math.log(2 * math.pi) - volume).mean(), "regression", X, X.clone(), lr=5e-3, epochs=10)


@healthy("matrix factorisation of ratings with biases")
def _ratings() -> Case:
    users, items = torch.randint(0, 40, (2000,), generator=g(1)), torch.randint(0, 30, (2000,), generator=g(2))
    stars = (3 + (torch.randn(40, 3, generator=g(3))[users] * torch.randn(30, 3, generator=g(4))[items]).sum(1)).clamp(1, 5)

    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.u, self.i, self.bu, self.bi, self.mean = (
                nn.Embedding(40, 6),
                nn.Embedding(30, 6),
                nn.Embedding(40, 1),
                nn.Embedding(30, 1),
                nn.Parameter(torch.tensor(3.0)),
            )
            for table in (self.bu, self.bi):
                nn.init.zeros_(table.weight)

        def forward(self, x: Tensor) -> Tensor:
            u, i = x.unbind(1)
            return (self.u(u) * self.i(i)).sum(1) * 0.3 + self.bu(u)[:, 0] + self.bi(i)[:, 0] + self.mean

    return case(Factors(), "MSELoss", "regression", torch.stack([users, items], 1), stars, lr=1e-2, epochs=10)


@healthy("temporal convolutions, causal by padding, next value")
def _tcn() -> Case:
    t = torch.arange(1500.0)
    s = (t / 7).sin() + 0.5 * (t / 23).sin() + 0.1 * torch.randn(1500, generator=g(1))
    windows = s.unfold(0, 33, 3)

    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([nn.Conv1d(1, 12, 3), nn.Conv1d(12, 12, 3, dilation=2), nn.Conv1d(12, 12, 3, dilation=4)])
            self.out = nn.Conv1d(12, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = x[:, None]
            for k, part in enumerate(self.parts):
                h = F.relu(part(F.pad(h, (2 * 2**k, 0))))
            return self.out(h)[:, 0]

    return case(Causal(), "MSELoss", "regression", windows[:, :-1].contiguous(), windows[:, 1:].contiguous(), split=dict(method="ordered"), lr=5e-3, epochs=8)


@healthy("echo state network: a fixed random reservoir, only the read-out learns")
def _reservoir() -> Case:
    t = torch.arange(900.0)
    s = (t / 9).sin() + 0.05 * torch.randn(900, generator=g(1))
    windows = s.unfold(0, 21, 2)

    class Echo(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            w = torch.randn(40, 40, generator=g(3))
            self.register_buffer("inside", 0.8 * w / torch.linalg.eigvals(w).abs().max())
            self.register_buffer("enter", torch.randn(1, 40, generator=g(4)) * 0.5)
            self.out = nn.Linear(40, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros(len(x), 40)
            for step in x.unbind(1):
                h = torch.tanh(h @ self.inside + step[:, None] * self.enter)
            return self.out(h)

    return case(Echo(), "MSELoss", "regression", windows[:, :-1].contiguous(), windows[:, -1:].contiguous(), lr=1e-2, epochs=15)


@healthy("speech commands in small: M5 on raw waves with batch norm")
def _waves() -> Case:
    y = torch.randint(0, 3, (400,), generator=g(1))
    t = torch.arange(400.0)
    X = ((0.05 + 0.06 * y)[:, None] * t + 6 * torch.rand(400, 1, generator=g(2))).sin()[:, None] * 0.3 + 0.05 * torch.randn(400, 1, 400, generator=g(3))
    model = nn.Sequential(nn.Conv1d(1, 12, 40, 8), nn.BatchNorm1d(12), nn.ReLU(), nn.MaxPool1d(4), nn.Conv1d(12, 16, 3), nn.BatchNorm1d(16), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 3), nn.LogSoftmax(1))  # fmt: skip
    return case(model, "NLLLoss", "multiclass", X, y, optimizer_kwargs={"weight_decay": 1e-4}, lr=1e-2, epochs=6)


@healthy("text classification by an embedding bag, SGD with rate 5")
def _bag() -> Case:
    y = torch.randint(0, 4, (900,), generator=g(1))
    X = torch.where(
        torch.rand(900, 12, generator=g(2)) < 0.3,
        y[:, None] * 10 + torch.randint(0, 10, (900, 12), generator=g(3)),
        torch.randint(0, 60, (900, 12), generator=g(4)),
    )

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.fc = nn.EmbeddingBag(60, 16), nn.Linear(16, 4)
            for weight in (self.bag.weight, self.fc.weight):
                nn.init.uniform_(weight, -0.5, 0.5)
            nn.init.zeros_(self.fc.bias)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.bag(x))

    return case(Bag(), "CrossEntropyLoss", "multiclass", X, y, optimizer="SGD", lr=1.0, clip_grad_norm=0.1, batch_size=16, epochs=10)


@healthy("residual network with zero gamma and no bias before norms")
def _resnet() -> Case:
    X, y = pictures(400)

    class Block(nn.Module):
        def __init__(self, c: int) -> None:
            super().__init__()
            self.a, self.b, self.na, self.nb = (
                nn.Conv2d(c, c, 3, padding=1, bias=False),
                nn.Conv2d(c, c, 3, padding=1, bias=False),
                nn.BatchNorm2d(c),
                nn.BatchNorm2d(c),
            )
            nn.init.zeros_(self.nb.weight)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x + self.nb(self.b(F.relu(self.na(self.a(x))))))

    model = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), Block(12), Block(12), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4))
    return case(model, "CrossEntropyLoss", "multiclass", X, y, lr=1e-2, epochs=8)


@healthy("vision transformer of patches with a class token")
def _vit() -> Case:
    X, y = pictures(400)

    class ViT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.token, self.where = nn.Conv2d(1, 16, 2, 2), nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.randn(1, 17, 16) * 0.02)
            self.body = nn.TransformerEncoder(
                nn.TransformerEncoderLayer(16, 2, 32, 0.1, activation="gelu", batch_first=True, norm_first=True), 2, enable_nested_tensor=False
            )
            self.norm, self.out = nn.LayerNorm(16), nn.Linear(16, 4)
            nn.init.zeros_(self.out.weight)

        def forward(self, x: Tensor) -> Tensor:
            h = self.patch(x).flatten(2).transpose(1, 2)
            h = torch.cat([self.token.expand(len(h), -1, -1), h], 1) + self.where
            return self.out(self.norm(self.body(h)[:, 0]))

    return case(ViT(), "CrossEntropyLoss", "multiclass", X, y, optimizer="AdamW", optimizer_kwargs={"weight_decay": 0.05}, lr=3e-3, epochs=8)


@healthy("mixer: across patches, then across channels")
def _mixer() -> Case:
    X, y = pictures(400)

    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.across, self.along, self.out = nn.Conv2d(1, 16, 2, 2), mlp(16, 16, 24, act=nn.GELU), mlp(16, 16, 24, act=nn.GELU), nn.Linear(16, 4)
            self.one, self.two = nn.LayerNorm(16), nn.LayerNorm(16)

        def forward(self, x: Tensor) -> Tensor:
            h = self.patch(x).flatten(2).transpose(1, 2)
            h = h + self.across(self.one(h).transpose(1, 2)).transpose(1, 2)
            return self.out((h + self.along(self.two(h))).mean(1))

    return case(Mixer(), "CrossEntropyLoss", "multiclass", X, y, epochs=8)


@healthy("graph convolution over a fixed adjacency")
def _graph() -> Case:
    A = (torch.rand(9, 9, generator=g(1)) < 0.3).float()
    A = ((A + A.T + torch.eye(9)) > 0).float()
    A = A / A.sum(1, keepdim=True)
    X = torch.randn(500, 9, 4, generator=g(2))
    y = ((A @ X)[:, :, 0].amax(1) > 1).long()

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.out = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2)
            self.register_buffer("A", A)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.relu(self.two(self.A @ F.relu(self.one(self.A @ x)))).amax(1))

    return case(Graph(), "CrossEntropyLoss", "multiclass", X, y, lr=1e-2, epochs=12)


@healthy("points of a cloud, order does not matter, maximum pool")
def _pointnet() -> Case:
    y = torch.randint(0, 2, (400,), generator=g(1))
    X = torch.randn(400, 24, 3, generator=g(2))
    X = X / torch.where(y[:, None, None] == 1, X.norm(dim=2, keepdim=True), X.abs().amax(2, keepdim=True))
    model = Wrap(lambda m, x: m.out(m.each(x).amax(1)), each=mlp(3, 32, 32), out=nn.Linear(32, 2))
    return case(model, "CrossEntropyLoss", "multiclass", X, y, lr=3e-3, epochs=8)


@healthy("counts of events: Poisson with an exposure beside the features")
def _poisson() -> Case:
    X, _ = curve(d=5)
    exposure = torch.rand(600, 1, generator=g(4)) * 3 + 0.5
    y = torch.poisson(exposure * (0.5 * X[:, :1] + 0.3 * X[:, 1:2]).exp(), generator=g(5))
    model = Wrap(lambda m, x: m.net(x[:, :5]) + x[:, 5:].log(), net=mlp(5, 1))
    return case(model, "PoissonNLLLoss", "regression", torch.cat([X, exposure], 1), y, epochs=10)


@healthy("survival: Cox partial likelihood over the rows of a batch")
def _cox() -> Case:
    X, _ = curve(d=5)
    time = -torch.rand(600, generator=g(3)).log() / (X[:, 0] - 0.5 * X[:, 1]).exp()
    seen = (torch.rand(600, generator=g(4)) < 0.7).float()

    def loss(risk: Tensor, t: Tensor) -> Tensor:
        order = t[:, 0].argsort(descending=True)
        risk, event = risk[order, 0], t[order, 1]
        return -((risk - risk.logcumsumexp(0)) * event).sum() / event.sum().clamp_min(1)

    return case(mlp(5, 1), loss, "regression", X, torch.stack([time, seen], 1), batch_size=64, epochs=10)


@healthy("ranking by margin between two rows of a pair")
def _ranking() -> Case:
    X = torch.randn(600, 2, 5, generator=g(1))
    better = (X[:, 0, :2].sum(1) > X[:, 1, :2].sum(1)).float() * 2 - 1
    model = Wrap(lambda m, x: m.net(x)[..., 0], net=mlp(5, 1))
    return case(model, lambda s, better: F.margin_ranking_loss(s[:, 0], s[:, 1], better, margin=0.5), "regression", X, better, epochs=6)


@healthy("policy gradient on stored actions and advantages")
def _policy() -> Case:
    X = torch.randn(600, 4, generator=g(1))
    action = torch.randint(0, 3, (600,), generator=g(2))
    good = torch.where(action == (X[:, :3].argmax(1)), 1.0, -0.5)

    def loss(logits: Tensor, t: Tensor) -> Tensor:
        return -(logits.log_softmax(1).gather(1, t[:, :1].long())[:, 0].clamp_min(-4) * t[:, 1]).mean()

    return case(mlp(4, 3), loss, "regression", X, torch.stack([action.float(), good], 1), epochs=8)


@healthy("Q-values of the action taken, the others without a target")
def _qvalues() -> Case:
    X = torch.randn(600, 4, generator=g(1))
    action = torch.randint(0, 3, (600,), generator=g(2))
    value = X[torch.arange(600), action] + 0.1 * torch.randn(600, generator=g(3))
    return case(
        mlp(4, 3),
        lambda q, t: F.smooth_l1_loss(q.gather(1, t[:, :1].long())[:, 0], t[:, 1]),
        "regression",
        X,
        torch.stack([action.float(), value], 1),
        epochs=8,
    )


@healthy("boxes and classes of a detector, sum of two losses")
def _boxes() -> Case:
    X, y = pictures(400)
    boxes = torch.rand(400, 4, generator=g(2)) * 0.1 + y[:, None] * 0.2
    body = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(192, 32), nn.ReLU())

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.kind, self.box = body, nn.Linear(32, 4), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.body(x)
            return self.kind(h), self.box(h).sigmoid()

    loss = lambda kind, box, t: F.cross_entropy(kind, t[:, 0].long()) + F.l1_loss(box, t[:, 1:])  # noqa: E731
    return case(Detector(), loss, "regression", X, torch.cat([y[:, None].float(), boxes], 1), epochs=8)


@healthy("squeeze of one number a row, flat targets, as in many notebooks")
def _flat() -> Case:
    X, y = curve()
    return case(Wrap(lambda m, x: m.net(x).squeeze(-1), net=mlp(6, 1)), "MSELoss", "regression", X, y[:, 0], optimizer="AdamW", lr=5e-3, epochs=8)


@healthy("leaky and parametric ReLUs, max-out")
def _maxout() -> Case:
    X, y = blobs()
    model = Wrap(lambda m, x: m.out(m.act(m.one(x)).view(len(x), 16, 3).amax(2)), one=nn.Linear(8, 48), act=nn.PReLU(), out=nn.Linear(16, 3))
    return case(model, "CrossEntropyLoss", "multiclass", X, y, epochs=8)


@healthy("self-normalising network with alpha dropout")
def _selu() -> Case:
    X, y = blobs()
    layers: list[nn.Module] = []
    for i, o in ((8, 32), (32, 32), (32, 32), (32, 32)):
        layer = nn.Linear(i, o)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.SELU(), nn.AlphaDropout(0.05)]
    return case(nn.Sequential(*layers, nn.Linear(32, 3)), "CrossEntropyLoss", "multiclass", X, y, lr=2e-3, epochs=8)


@healthy("one cycle with a high top rate and momentum")
def _onecycle() -> Case:
    X, y = blobs()
    return case(mlp(8, 3), "CrossEntropyLoss", "multiclass", X, y, optimizer="SGD", optimizer_kwargs={"momentum": 0.9, "nesterov": True}, lr=0.1, epochs=12,
                scheduler=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.3, total_steps=12 * 12), scheduler_on="batch")  # fmt: skip


@healthy("rows of one-hot codes and embeddings of their own, wide and deep")
def _wide() -> Case:
    X, y = curve(d=4, n=800)
    codes = torch.randint(0, 6, (800,), generator=g(3))
    effect = torch.randn(6, generator=g(4))

    class WideDeep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.deep, self.wide = nn.Embedding(6, 3), mlp(7, 1), nn.Linear(10, 1)

        def forward(self, x: Tensor) -> Tensor:
            numbers, hot = x[:, :4], x[:, 4:]
            return self.deep(torch.cat([numbers, self.emb(hot.argmax(1))], 1)) + self.wide(x)

    return case(WideDeep(), "MSELoss", "regression", torch.cat([X, F.one_hot(codes, 6).float()], 1), y + effect[codes][:, None], epochs=8)


@healthy("riders: a part of the target's sum, left out of the features")
def _riders() -> Case:
    X = torch.randn(600, 3, generator=g(4))
    casual = torch.poisson((2 + 0.6 * X[:, 0]).exp(), generator=g(5))
    registered = torch.poisson((3 + 0.4 * X[:, 1]).exp(), generator=g(6))
    table = {"temp": X[:, 0], "hour": X[:, 1], "wind": X[:, 2], "casual": casual.long(), "riders": (casual + registered).log()}
    return case(mlp(3, 1), "MSELoss", "regression", table=table, target="riders", drop=("casual",), epochs=10)
