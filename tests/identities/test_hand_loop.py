"""Promise: a hand-written loop with the recorded arguments ends in the same bits."""

import torch
from torch import nn

import fivestep as fs
from fivestep import seeds


def hand_loop(model, x, y, loss, optimizer, epochs, batch_size, seed=0):
    """What a careful person writes: one permutation and one gather an epoch, views as batches."""
    for epoch in range(epochs):
        seeds.seed_everything(seeds.derive(seed, "forward", epoch))
        model.train()
        if batch_size < len(x):
            order = torch.randperm(len(x), generator=seeds.generator(seed, "order", epoch))
            xs, ys = x[order], y[order]
        else:
            xs, ys = x, y
        for begin in range(0, len(x), batch_size):
            outputs = model(xs[begin : begin + batch_size])
            value = loss(outputs, ys[begin : begin + batch_size])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()


def assert_same_bits(one: nn.Module, other: nn.Module):
    for (name, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1))
        self.bias = nn.Parameter(torch.randn(1))

    def forward(self, x):
        return self.weight * x + self.bias


def dropout_mlp():
    return nn.Sequential(nn.Linear(7, 11), nn.ReLU(), nn.Dropout(0.3), nn.Linear(11, 1))


def batch_norm_cnn():
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4 * 4, 5))


def fit(make, x, y, **settings):
    splits = fs.Splits((x, y))
    return fs.fit(make, splits, folder=None, quiet=True, device="cpu", checks=False, keep="last", patience=None, scheduler=None, **settings)


def built(make, seed=0):
    torch.manual_seed(seed)
    return make()


def test_the_classic_line_full_batch_sgd():
    x = torch.arange(0, 1, 0.005)[:160, None]
    y = 0.3 * x + 0.9
    run = fit(Line, x, y, loss="L1Loss", optimizer="SGD", lr=0.01, epochs=40, batch_size="all")
    by_hand = built(Line)
    hand_loop(by_hand, x, y, nn.L1Loss(), torch.optim.SGD(by_hand.parameters(), lr=0.01), 40, len(x))
    assert_same_bits(run.model, by_hand)


def test_mini_batch_adamw_with_dropout_batch_25_width_7():
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(113, 7, generator=generator), torch.randn(113, 1, generator=generator)
    run = fit(dropout_mlp, x, y, loss="MSELoss", optimizer="AdamW", lr=0.01, epochs=6, batch_size=25)
    by_hand = built(dropout_mlp)
    hand_loop(by_hand, x, y, nn.MSELoss(), torch.optim.AdamW(by_hand.parameters(), lr=0.01, fused=True), 6, 25)
    assert_same_bits(run.model, by_hand)


def test_cnn_with_batch_norm():
    generator = torch.Generator().manual_seed(4)
    x, y = torch.randn(60, 1, 6, 6, generator=generator), torch.randint(0, 5, (60,), generator=generator)
    run = fit(batch_norm_cnn, x, y, loss="CrossEntropyLoss", optimizer={"name": "SGD", "momentum": 0.9}, lr=0.05, epochs=4, batch_size=16)
    by_hand = built(batch_norm_cnn)
    hand_loop(by_hand, x, y, nn.CrossEntropyLoss(), torch.optim.SGD(by_hand.parameters(), lr=0.05, momentum=0.9), 4, 16)
    assert_same_bits(run.model, by_hand)


def test_the_users_random_state_is_given_back():
    x, y = torch.randn(20, 7), torch.randn(20, 1)
    before = torch.get_rng_state()
    fit(dropout_mlp, x, y, loss="MSELoss", epochs=2)
    assert torch.equal(before, torch.get_rng_state())


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    generator = torch.Generator().manual_seed(5)
    x, y = torch.randn(40, 7, generator=generator), torch.randn(40, 1, generator=generator)
    runs = [fit(dropout_mlp, x, y, loss="MSELoss", epochs=2, seed=seed) for seed in (0, 0, 1)]
    assert_same_bits(runs[0].model, runs[1].model)
    assert runs[0].weights_sha256 != runs[2].weights_sha256
