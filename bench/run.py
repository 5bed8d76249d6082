"""fivestep against the loops people write: seconds a step after the first epoch, paired and interleaved in one process, one thread.

`make bench` runs W1 to W4, `make bench-quick` W1 and W2 with fewer repeats. Everything of fivestep is at its default (checks, history), but for `folder=None`:
what is written to disk depends on the disk. The tutorial loop uses a DataLoader and `.item()`, the tuned loop one gather an epoch, views as batches and the
optimizer with the arguments that fivestep records. Prints medians and the ratio of medians; the weights of the tuned loop and of fivestep must be equal bits.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

import fivestep as fs
from fivestep import seeds


def regression(rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=draw)
    return x, x @ torch.randn(width, 1, generator=draw) + 0.1 * torch.randn(rows, 1, generator=draw)


def images(rows: int, flat: bool) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(rows, 1, 28, 28, generator=draw)
    return x.flatten(1) if flat else x, torch.randint(0, 10, (rows,), generator=draw)


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1568, 10),
    )


# name: (data, model, loss, optimizer, recorded arguments, batch, epochs)
WORKLOADS = {
    "W1": (lambda: regression(10_000, 8), lambda: nn.Linear(8, 1), "MSELoss", "SGD", {"lr": 0.01, "foreach": False}, 32, 4),
    "W2": (
        lambda: regression(100_000, 32),
        lambda: nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 1)),
        "MSELoss", "AdamW", {"lr": 1e-3, "fused": True}, 256, 2,
    ),
    "W3": (lambda: images(60_000, True), lambda: nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10)), "CrossEntropyLoss", "Adam", {"lr": 1e-3, "fused": True}, 128, 2),
    "W4": (lambda: images(6_400, False), cnn, "CrossEntropyLoss", "Adam", {"lr": 1e-3, "fused": True}, 64, 2),
}  # fmt: skip


class Stopwatch:
    """An observer: the time at the end of each epoch."""

    def __init__(self):
        self.ends: list[float] = []

    def __call__(self, event: object) -> None:
        if type(event).__name__ == "EpochEnded":
            self.ends.append(time.perf_counter())


def seconds_a_step(ends: list[float], steps: int) -> float:
    return (ends[-1] - ends[0]) / ((len(ends) - 1) * steps)


def by_fivestep(x, y, make, loss, optimizer, arguments, batch, epochs):
    watch = Stopwatch()
    run = fs.fit(
        make,
        fs.Splits((x, y)),
        loss=loss,
        optimizer=optimizer,
        lr=arguments["lr"],
        batch_size=batch,
        epochs=epochs + 1,
        observers=[watch],
        folder=None,
        quiet=True,
        device="cpu",
    )
    return seconds_a_step(watch.ends, -(-len(x) // batch)), run.model


def by_tuned_loop(x, y, make, loss, optimizer, arguments, batch, epochs):
    torch.manual_seed(0)
    model = make()
    criterion, stepper = getattr(nn, loss)(), getattr(torch.optim, optimizer)(model.parameters(), **arguments)
    ends = []
    for epoch in range(epochs + 1):
        torch.default_generator.manual_seed(seeds.derive(0, "forward", epoch))
        order = torch.randperm(len(x), generator=seeds.generator(0, "order", epoch))
        total = 0.0
        for inputs, targets in zip(x.index_select(0, order).split(batch), y.index_select(0, order).split(batch)):
            value = criterion(model(inputs), targets)
            total += value.item()
            stepper.zero_grad()
            value.backward()
            stepper.step()
        ends.append(time.perf_counter())
    return seconds_a_step(ends, -(-len(x) // batch)), model


def by_tutorial_loop(x, y, make, loss, optimizer, arguments, batch, epochs):
    torch.manual_seed(0)
    model = make()
    criterion, stepper = getattr(nn, loss)(), getattr(torch.optim, optimizer)(model.parameters(), lr=arguments["lr"])
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=batch, shuffle=True)
    ends = []
    for _ in range(epochs + 1):
        total = 0.0
        for inputs, targets in loader:
            stepper.zero_grad()
            value = criterion(model(inputs), targets)
            value.backward()
            stepper.step()
            total += value.item()
        ends.append(time.perf_counter())
    return seconds_a_step(ends, len(loader)), model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="W1 and W2, three repeats")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    ways = {"fivestep": by_fivestep, "tuned loop": by_tuned_loop, "tutorial loop": by_tutorial_loop}
    print(f"torch {torch.__version__}, one thread; microseconds a step, median (least to most); ratio of fivestep's median to it")
    for name in ("W1", "W2") if quick else WORKLOADS:
        make_data, make, loss, optimizer, arguments, batch, epochs = WORKLOADS[name]
        x, y = make_data()
        times: dict[str, list[float]] = {way: [] for way in ways}
        models = {}
        for _ in range(3 if quick else 7):
            for way, function in ways.items():
                taken, models[way] = function(x, y, make, loss, optimizer, arguments, batch, epochs)
                times[way].append(taken * 1e6)
        same = all(torch.equal(a, b) for a, b in zip(models["fivestep"].parameters(), models["tuned loop"].parameters()))
        ours = statistics.median(times["fivestep"])
        for way, taken in times.items():
            middle = statistics.median(taken)
            print(f"{name}  {way:14} {middle:9.1f}  ({min(taken):.1f} to {max(taken):.1f})  {ours / middle:5.2f}")
        print(f"{name}  weights equal to the tuned loop's, to the bit: {'yes' if same else 'NO'}")


if __name__ == "__main__":
    main()
