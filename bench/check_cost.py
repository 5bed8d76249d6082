"""What the checks cost: seconds before the run, and during it as a share of the training's own time, on W1-W4 and on a table as long as flights.csv.

The share is measured directly, by the seconds spent inside the checks' observer, and not as the difference of two noisy runs. A target of 2 % is printed beside it.
usage: python bench/check_cost.py [W1 ...] [--epochs N] [--rows N]
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from typing import Any

import numpy
import torch
from workloads import WORKLOADS

import fivestep as fs
from fivestep.checks.gate import Checks

PARTS = ("before", "see", "after")


def timed(seconds: dict[str, float], ended: dict[str, float]) -> dict[str, Any]:
    """Puts a clock around the three entries of the checks; returns the originals."""
    originals = {name: getattr(Checks, name) for name in PARTS}

    def clocked(name: str) -> Any:
        def entry(*args: Any) -> Any:
            begun, own = time.perf_counter(), time.thread_time()
            try:
                return originals[name](*args)
            finally:
                seconds[name] += time.perf_counter() - begun
                seconds[f"{name}, own"] += time.thread_time() - own  # what a busy machine does not stretch
                ended[name] = time.perf_counter()

        return entry

    for name in PARTS:
        setattr(Checks, name, clocked(name))
    return originals


def report(name: str, model: Any, splits: fs.Splits, **settings: Any) -> None:
    seconds: dict[str, float] = defaultdict(float)
    ended: dict[str, float] = {}  # when each was left last: training lies between "before" and the last "see"
    originals = timed(seconds, ended)
    try:
        begun = time.perf_counter()
        run = fs.fit(model, splits, folder=None, quiet=True, device="cpu", **settings)
        whole = time.perf_counter() - begun
    finally:
        for part, original in originals.items():
            setattr(Checks, part, original)
    steps = -(-len(splits.train) // settings["batch_size"]) * len(run.history)
    training = ended["see"] - ended["before"] - seconds["see"]
    print(
        f"{name:8s} {steps:7d} steps, {1e6 * training / steps:8.1f} us each; checks during: {1e6 * seconds['see'] / steps:6.2f} us a step = {seconds['see'] / training:.2%} (at most 2 %); "
        f"before {seconds['before, own']:.2f} s of this thread's time ({seconds['before']:.2f} s by the clock; at most 1 s or 2 % of {whole:.1f} s), after {seconds['after, own']:.2f} s"
    )


def long_table(rows: int) -> fs.Splits:
    """Ten columns of the kinds of flights.csv, one of text."""
    draw = numpy.random.default_rng(0)
    table = {f"number_{k}": draw.normal(size=rows) for k in range(8)}
    table |= {"carrier": draw.choice(["AA", "B6", "DL", "EV", "UA"], rows), "hour": draw.integers(0, 24, rows)}
    table["delay"] = table["number_0"] * 3 + table["hour"] + draw.normal(size=rows)
    return fs.Data.table(table, target="delay").split(seed=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="W1, W2, W3, W4, flights; all of them")
    parser.add_argument("--epochs", type=int, help="instead of each workload's own number")
    parser.add_argument("--rows", type=int, default=336_776, help="of the long table")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name, work in WORKLOADS.items():
        if not asked.names or name in asked.names:
            splits = fs.Data.arrays(*work.data()).split(train=0.9, val=0.1)
            torch.manual_seed(0)
            settings = dict(loss=work.loss, optimizer=work.optimizer, lr=work.lr, batch_size=work.batch, epochs=asked.epochs or work.epochs)
            report(name, work.make(), splits, patience=None, **settings)
    if not asked.names or "flights" in asked.names:
        report("flights", "mlp", long_table(asked.rows), epochs=asked.epochs or 1, batch_size=1024)


if __name__ == "__main__":
    main()
