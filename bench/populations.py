"""32 variants one by one against the same 32 stacked: whole trainings by the steps of `epochs.train` and of `Population.run`, paired, one thread.

`python bench/populations.py` prints the table of all workloads, stacked and compiled (eight minutes on two quiet cores; `--write` puts it into bench/README.md); `--quick` only W1
and S with fewer pairs; `--only NAME` one workload; `--luck` instead how often a variant is called better than itself. Times are of training alone, after
preparing, which both ways do for every variant, and after tracing and compiling, which stand in a column of their own: cold, as the compiler's cache on the disk
is a fresh one. Each ratio is the median of pairs, with the least and the most.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
import traceback
import warnings
from functools import partial
from typing import Any

import readme
import torch
from torch import nn
from workloads import regression

from fivestep.data.batches import tensors_of
from fivestep.data.data import Splits
from fivestep.experiments import stacking
from fivestep.experiments.stacking import Job
from fivestep.results.comparing import Measured, compare_measured
from fivestep.train import epochs
from fivestep.train.population import Member, Population


def mlp(width: int, hidden: int):
    return lambda: nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))


# name: (rows, inputs, model, optimizer, batch, epochs)
WORKLOADS = {
    "W1": (10_000, 8, lambda: nn.Linear(8, 1), "SGD", 32, 2),
    "S": (10_000, 16, mlp(16, 32), "AdamW", 64, 3),
    "M": (10_000, 32, mlp(32, 64), "AdamW", 64, 2),
    "W2": (100_000, 32, mlp(32, 128), "AdamW", 256, 1),
}


def job_of(number: int, splits, optimizer: str, batch: int, num_epochs: int, rate: float, fold: int | None = None) -> Job:
    settings = dict(loss="MSELoss", optimizer=optimizer, lr=rate, batch_size=batch, epochs=num_epochs, device="cpu", keep="last")
    return Job(number, 0, settings, splits, fold)


def alone(make, jobs) -> float:
    sessions = [stacking.session_of(make, job, checks=False) for job in jobs]
    began = time.perf_counter()
    for session in sessions:
        epochs.train(session.training, session.plan)
    return time.perf_counter() - began


def stacked(make, jobs, shared: bool, compiled: bool = False) -> tuple[float, float]:
    """-> (seconds of training, seconds of tracing before it)"""
    sessions = [stacking.session_of(make, job, checks=False) for job in jobs]
    population = Population([Member(session.training, session.plan) for session in sessions], shared=shared, compile_step=compiled)
    began = time.perf_counter()
    population.prepare()
    warm_up(population)
    prepared = time.perf_counter() - began
    began = time.perf_counter()
    population.run()
    return time.perf_counter() - began, prepared


def warm_up(population: Population) -> None:
    """Trace (and compile) every shape that an epoch has, before the clock runs; nothing moves."""
    with torch.no_grad():
        for groups, batch in population._batches(0):
            if groups is not None:
                population._grouped(groups)
            else:
                inputs = tensors_of(tuple(batch))
                population.graph(batch, shared=population.shared, training=True)(*population.stack.views, *population.stack.held, *inputs)


Ratios = list[float]


def pairs(make, jobs, repeats: int, *, shared: bool, compiled: bool, single=None) -> tuple[Ratios, float]:
    """-> (seconds one by one / seconds stacked of each pair, seconds that the first tracing and compiling took)"""
    ratios: Ratios = []
    first = None
    for _ in range(repeats):
        one = alone(make, single or jobs)
        together, prepared = stacked(make, jobs, shared, compiled)
        ratios.append(one / together)
        first = prepared if first is None else first
    assert first is not None
    return ratios, first


def rates_of(name: str, members: int, repeats: int) -> tuple[str, ...]:
    """The row of a workload's learning rates: how many times as fast as one after another."""
    rows, width, make, optimizer, batch, num_epochs = WORKLOADS[name]
    splits = Splits(regression(rows, width))
    rates = [10 ** (-4 + 3 * k / max(1, members - 1)) for k in range(members)]
    jobs = [job_of(k, splits, optimizer, batch, num_epochs, rate) for k, rate in enumerate(rates)]
    measured = [pairs(make, jobs, repeats, shared=True, compiled=compiled) for compiled in (False, True)]
    needed = {"W1": "18x and 45x", "S": "7x and 13x", "M": "3.2x and 5x"}[name]
    return f"{members} learning rates of {name}", *(times(ratios) for ratios, _ in measured), " / ".join(f"{seconds:.1f}" for _, seconds in measured), needed


def folds_of(name: str, repeats: int) -> tuple[str, ...]:
    """The row of 5 folds, stacked, in times of one fold's fit alone."""
    rows, width, make, optimizer, batch, num_epochs = WORKLOADS[name]
    x, y = regression(rows, width)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(1))
    kept = [torch.cat([order[: k * rows // 5], order[(k + 1) * rows // 5 :]]) for k in range(5)]
    jobs = [job_of(0, Splits((x[one], y[one])), optimizer, batch, num_epochs, 1e-3, k) for k, one in enumerate(kept)]
    measured = [pairs(make, jobs, repeats, shared=False, compiled=compiled, single=jobs[:1]) for compiled in (False, True)]
    told = (times([1 / ratio for ratio in ratios], " fits") for ratios, _ in measured)
    return f"5-fold cross-validation of {name}", *told, " / ".join(f"{seconds:.1f}" for _, seconds in measured), "1.8 fits and 1 fit at most"


def workers_of(name: str, members: int, repeats: int, lengthened: int) -> tuple[str, ...]:
    """The row of two worker processes against one after another, with everything they cost: sending the data and, in the first pair, starting and importing."""
    import fivestep as fs

    rows, width, _, optimizer, batch, num_epochs = WORKLOADS[name]
    splits = Splits(regression(rows, width), val=regression(1000, width))
    over = {"lr": [10 ** (-4 + 3 * k / max(1, members - 1)) for k in range(members)]}
    given: dict[str, Any] = dict(
        model_args=dict(num_inputs=width, num_outputs=1, widths=[128, 128]), loss="MSELoss", optimizer=optimizer, batch_size=batch,
        epochs=lengthened * num_epochs, patience=None, device="cpu", folder=None, quiet=True, checks=False,
    )  # fmt: skip
    settings = {key: value for key, value in given.items() if key not in ("folder", "quiet", "checks")}
    planned = stacking.plan_groups("mlp", [Job(k, 0, settings | {"lr": rate}, splits) for k, rate in enumerate(over["lr"])])
    seen = "not stacked, as seen by the plan" if all(group.how != "stacked" for group in planned) else "stacked by the plan, which it should not"
    ratios = []
    for _ in range(repeats):
        one = fs.sweep("mlp", splits, over, stack=False, **given).seconds
        two = fs.sweep("mlp", splits, over, stack=False, workers=2, **given).seconds
        ratios.append(one / two)
    told = f"two worker processes, {lengthened} epochs: {ratios[0]:.2f}x with the start of the other process"
    told += f", {times(ratios[1:])} once it is there" if ratios[1:] else ""
    return f"{members} learning rates of {name}", seen, told, "", "1.7x by two worker processes"


def times(ratios: Ratios, unit: str = "x") -> str:
    return f"{statistics.median(ratios):.2f}{unit} ({min(ratios):.2f} to {max(ratios):.2f})"


def luck(comparisons: int) -> str:
    """How often "better" is said of a variant beside itself under five other seeds, and of real fits with other seeds; how often planted gains are found."""
    lines = ["| what is compared, 5 seeds each | called better |", "|---|---|"]
    generator = torch.Generator().manual_seed(0)
    error = (2 * (0.1**2 + 1 / 60) / 5) ** 0.5  # of the difference of two means of 5 seeds, as `drawn` makes them
    for gain in (0, 2, 3, 4, 5):
        said = sum(
            compare_measured([drawn(generator, 0.0, 0), drawn(generator, gain * error, 100)], metric="loss", higher_is_better=False).better
            for _ in range(comparisons)
        )
        what = "drawn scores: a variant and itself" if gain == 0 else f"drawn scores: a real gain of {gain} standard errors"
        lines.append(f"| {what} | {said} of {comparisons} ({said / comparisons:.1%}) |")
        print(lines[-1], flush=True)
    for what, rate in (("real fits: a variant and itself", 0.01), ("real fits: lr 0.01 and 0.0001", 0.0001)):
        said = sum(fitted(number, rate) for number in range(comparisons))
        lines.append(f"| {what} | {said} of {comparisons} ({said / comparisons:.1%}) |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def drawn(generator: torch.Generator, gain: float, first_seed: int, seeds: int = 5, rows: int = 60) -> Measured:
    """Scores as five trainings give them: each model is better or worse on all rows (0.1) and on each row (1.0); the same 150 resamples of the rows for all."""
    scores = gain + 0.1 * torch.randn(seeds, 1, generator=generator) + torch.randn(seeds, rows, generator=generator)
    chosen = torch.randint(rows, (150, rows), generator=torch.Generator().manual_seed(0))
    counts = torch.zeros(150, rows).scatter_add_(1, chosen, torch.ones(150, rows))
    return Measured(str(first_seed), scores.mean(1), scores @ counts.T / rows, tuple(range(first_seed, first_seed + seeds)), rows)


def fitted(number: int, rate: float) -> bool:
    """Whether a small network at lr 0.01 is called better than one at `rate` under other seeds, or the other way round, on rows drawn anew."""
    import fivestep as fs

    draw = torch.Generator().manual_seed(number)
    x = torch.randn(150, 4, generator=draw)
    splits = fs.Data.arrays(x, x[:, :1].sin() + 0.5 * torch.randn(150, 1, generator=draw)).split()
    given: dict[str, Any] = dict(loss="MSELoss", optimizer="AdamW", batch_size=32, epochs=5, device="cpu", folder=None, quiet=True, checks=False)
    one, other = (fs.sweep(mlp(4, 8), splits, {"lr": [lr]}, seeds=range(first, first + 5), **given) for lr, first in ((0.01, 0), (rate, 100)))
    return compare_measured([one.measured[0], other.measured[0]], metric="loss", higher_is_better=False).better


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="W1 and S, two pairs")
    parser.add_argument("--only", choices=list(WORKLOADS), help="one workload")
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5, help="pairs of each ratio (two worker processes: two)")
    parser.add_argument("--epochs", type=int, default=5, help="of each training of W2: fewer make the start of the other process weigh more")
    parser.add_argument("--luck", type=int, nargs="?", const=200, help="so many comparisons of a variant with itself, and of planted gains (200)")
    parser.add_argument("--write", action="store_true", help="put what is printed into bench/README.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the worker processes
    warnings.filterwarnings("ignore")
    if arguments.luck:
        found = luck(arguments.luck)
        if arguments.write:
            readme.write("populations.py --luck", found)
        return
    repeats = min(2, arguments.repeats) if arguments.quick else arguments.repeats
    names = [arguments.only] if arguments.only else ["W1", "S"] if arguments.quick else list(WORKLOADS)
    machine = f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, one thread; Python {platform.python_version()}, torch {torch.__version__}"
    lines = [f"{machine}; one after another / stacked, median of {repeats} pairs (least to most)", ""]
    lines += ["| workload | stacked | stacked and compiled | seconds of tracing / and compiling | needed |", "|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    failed = False
    with tempfile.TemporaryDirectory() as cold:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cold
        for name in names:
            if name == "W2":
                rows = [partial(workers_of, name, arguments.members, 1 if arguments.quick else 2, arguments.epochs)]
            else:
                rows = [partial(rates_of, name, arguments.members, repeats)] + ([partial(folds_of, name, repeats)] if name == "S" else [])
            for measure in rows:
                try:
                    row = measure()
                except Exception as error:  # one row that fails is told in its place, and the others are still measured
                    traceback.print_exc()
                    failed = True
                    row = (f"{measure.func.__name__} {name}", f"failed: {type(error).__name__}", "", "", "")
                lines.append(f"| {' | '.join(row)} |")
                print(lines[-1], flush=True)
                if arguments.write:
                    readme.write("populations.py", "\n".join(lines))  # after each row: what is measured stays, whatever comes
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
