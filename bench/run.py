"""fivestep against the loops people write: seconds a step after the first epoch, paired and interleaved in one process, one thread.

`make bench` runs W1 to W4, `make bench-quick` W1 and W2 with fewer repeats. Everything of fivestep is at its default (checks, history), but for `folder=None`:
what is written to disk depends on the disk. `--compiled` adds a row with compile="epoch". What passes before the first step (checks, compiling) is its own column. The tutorial loop uses a DataLoader and `.item()`, the tuned loop one gather an epoch, views as batches and the
optimizer with the arguments that fivestep records. Prints medians and paired ratios; the weights of the tuned loop and of fivestep must be equal bits.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial

import torch
from torch import nn
from workloads import WORKLOADS

import fivestep as fs
from fivestep import seeds


class Stopwatch:
    """An observer: the time at the end of each epoch, and the seconds from its making to the start of the run."""

    def __init__(self):
        self.ends: list[float] = []
        self.made, self.before = time.perf_counter(), 0.0

    def __call__(self, event: object) -> None:
        if type(event).__name__ == "RunStarted":
            self.before = time.perf_counter() - self.made
        if type(event).__name__ == "EpochEnded":
            self.ends.append(time.perf_counter())


def seconds_a_step(ends: list[float], steps: int) -> float:
    return (ends[-1] - ends[0]) / ((len(ends) - 1) * steps)


def by_fivestep(x, y, make, loss, optimizer, arguments, batch, epochs, compile=None):
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
        compile=compile,
    )
    return seconds_a_step(watch.ends, -(-len(x) // batch)), run.model, watch.before


def by_tuned_loop(x, y, make, loss, optimizer, arguments, batch, epochs):
    begun = time.perf_counter()
    torch.manual_seed(0)
    model = make()
    criterion, stepper = getattr(nn, loss)(), getattr(torch.optim, optimizer)(model.parameters(), **arguments)
    ends, before = [], time.perf_counter() - begun
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
    return seconds_a_step(ends, -(-len(x) // batch)), model, before


def by_tutorial_loop(x, y, make, loss, optimizer, arguments, batch, epochs):
    begun = time.perf_counter()
    torch.manual_seed(0)
    model = make()
    criterion, stepper = getattr(nn, loss)(), getattr(torch.optim, optimizer)(model.parameters(), lr=arguments["lr"])
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=batch, shuffle=True)
    ends, before = [], time.perf_counter() - begun
    for _ in range(epochs + 1):
        total = 0.0
        for inputs, targets in loader:
            stepper.zero_grad()
            value = criterion(model(inputs), targets)
            value.backward()
            stepper.step()
            total += value.item()
        ends.append(time.perf_counter())
    return seconds_a_step(ends, len(loader)), model, before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="W1 and W2, three repeats")
    parser.add_argument("--compiled", action="store_true", help='also compile="epoch", and how far its weights are from the eager ones')
    parser.add_argument("--only", nargs="*", default=None, help="workloads, such as W1 W3")
    parser.add_argument("--repeats", type=int, default=None)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    ways = {"fivestep": by_fivestep, "tuned loop": by_tuned_loop, "tutorial loop": by_tutorial_loop}
    if asked.compiled:
        ways["compiled"] = partial(by_fivestep, compile="epoch")
    print(f"torch {torch.__version__}, one thread; microseconds a step, median (least to most)")
    print("how many times faster than the tutorial loop and slower than the tuned one: medians of the ratios within a repeat; seconds before the first step")
    for name in asked.only or (("W1", "W2") if asked.quick else WORKLOADS):
        work = WORKLOADS[name]
        make, loss, optimizer, arguments, batch, epochs = work.make, work.loss, work.optimizer, {"lr": work.lr, **work.recorded}, work.batch, work.epochs
        x, y = work.data()
        times: dict[str, list[float]] = {way: [] for way in ways}
        befores: dict[str, list[float]] = {way: [] for way in ways}
        models = {}
        for _ in range(asked.repeats or (3 if asked.quick else 7)):
            for way, function in ways.items():
                taken, models[way], before = function(x, y, make, loss, optimizer, arguments, batch, epochs)
                times[way].append(taken * 1e6)
                befores[way].append(before)
        for way, taken in times.items():
            faster = statistics.median(other / own for other, own in zip(times["tutorial loop"], taken))
            slower = statistics.median(own / other for other, own in zip(times["tuned loop"], taken))
            print(
                f"{name}  {way:14} {statistics.median(taken):9.1f}  ({min(taken):.1f} to {max(taken):.1f})  "
                f"{faster:6.2f}x tutorial  {slower:5.2f} of tuned  {statistics.median(befores[way]):6.2f} s before"
            )
        same = all(torch.equal(a, b) for a, b in zip(models["fivestep"].parameters(), models["tuned loop"].parameters()))
        print(f"{name}  weights equal to the tuned loop's, to the bit: {'yes' if same else 'NO'}")
        if asked.compiled:
            apart = max(float((a - b).abs().max()) for a, b in zip(models["fivestep"].parameters(), models["compiled"].parameters()))
            print(f"{name}  compiled weights differ from eager ones by at most {apart:.1e}")


if __name__ == "__main__":
    main()
