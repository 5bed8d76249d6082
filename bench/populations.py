"""32 variants one by one against the same 32 stacked: whole trainings by the steps of `epochs.train` and of `Population.run`, paired, one thread.

`python bench/populations.py` runs the table of SPEED.md ("Populations"); `--quick` W1 and S with fewer repeats; `--compiled` adds the compiled stacked step
(minutes: each graph is compiled). Times are of training alone, after preparing (which both ways do for every variant) and tracing, which is shown apart; the
last column counts tracing in. Prints medians of paired ratios with their spread.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

import torch
from torch import nn

from fivestep.data.batches import tensors_of
from fivestep.data.data import Data, Splits
from fivestep.experiments import stacking
from fivestep.experiments.stacking import Job
from fivestep.train import epochs
from fivestep.train.population import Member, Population


def regression(rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=draw)
    return x, x @ torch.randn(width, 1, generator=draw) + 0.1 * torch.randn(rows, 1, generator=draw)


def mlp(width: int, hidden: int):
    return lambda: nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))


# name: (rows, inputs, model, optimizer, batch, epochs)
WORKLOADS = {
    "W1": (10_000, 8, lambda: nn.Linear(8, 1), "SGD", 32, 2),
    "S": (10_000, 16, mlp(16, 32), "AdamW", 64, 3),
    "M": (10_000, 32, mlp(32, 64), "AdamW", 64, 2),
    "W2": (20_000, 32, mlp(32, 128), "AdamW", 256, 1),
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


def pairs(make, jobs, repeats: int, *, shared: bool, compiled: bool, single=None) -> None:
    ratios, whole, ours, traces = [], [], [], []
    for _ in range(repeats):
        one = alone(make, single or jobs)
        together, tracing = stacked(make, jobs, shared, compiled)
        ratios.append(one / together)
        whole.append(one / (together + tracing))
        ours.append(together)
        traces.append(tracing)
    middle = statistics.median
    print(f"{middle(ratios):7.2f}x ({min(ratios):.2f} to {max(ratios):.2f}); with tracing ({middle(traces):.2f} s) {middle(whole):.2f}x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="W1 and S, two repeats")
    parser.add_argument("--compiled", action="store_true", help="the compiled stacked step too")
    parser.add_argument("--only", help="one workload")
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument("--workers", action="store_true", help="only W2 in two worker processes; wants two quiet cores")
    parser.add_argument("--epochs", type=int, default=12, help="of each training with --workers: fewer make the start of the processes weigh more")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if arguments.workers:
        workers("W2", *WORKLOADS["W2"], lengthened=arguments.epochs)
        return
    repeats = 2 if arguments.quick else 5
    names = [arguments.only] if arguments.only else ["W1", "S"] if arguments.quick else list(WORKLOADS)
    rates = [10 ** (-4 + 3 * k / max(1, arguments.members - 1)) for k in range(arguments.members)]
    print(f"torch {torch.__version__}, one thread; one by one / stacked, median of {repeats} pairs (least to most)")
    for name in names:
        rows, width, make, optimizer, batch, num_epochs = WORKLOADS[name]
        splits = Splits(regression(rows, width))
        jobs = [job_of(k, splits, optimizer, batch, num_epochs, rate) for k, rate in enumerate(rates)]
        (group,) = stacking.plan_groups(make, jobs)
        print(f"{name:3} {len(jobs)} learning rates, the plan: {group}")
        for compiled in (False, True) if arguments.compiled else (False,):
            print(f"{name:3} {'stacked, compiled' if compiled else 'stacked':18}", end="")
            pairs(make, jobs, repeats, shared=True, compiled=compiled)
        if name == "S":
            data = Data.arrays(*regression(rows, width))
            order = torch.randperm(rows, generator=torch.Generator().manual_seed(1))
            folds = [Splits(tuple(t[torch.cat([order[: k * rows // 5], order[(k + 1) * rows // 5 :]])] for t in data_of(data))) for k in range(5)]
            jobs = [job_of(0, fold, optimizer, batch, num_epochs, 1e-3, k) for k, fold in enumerate(folds)]
            for compiled in (False, True) if arguments.compiled else (False,):
                print(f"{name:3} {'5 folds' + (', compiled' if compiled else ''):18} one fit / all five stacked:", end="")
                pairs(make, jobs, repeats, shared=False, compiled=compiled, single=jobs[:1])
    if not arguments.quick:
        workers("W2", *WORKLOADS["W2"], lengthened=arguments.epochs)


def data_of(data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    return data.source.inputs, data.source.targets[0]


def workers(name: str, rows: int, width: int, make, optimizer: str, batch: int, num_epochs: int, lengthened: int = 12) -> None:
    """Two worker processes against one after another, with everything they cost (starting, sending the data, one thread each)."""
    import fivestep as fs

    splits = Splits(regression(rows, width), val=regression(1000, width))
    over = {"lr": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]}
    given = dict(loss="MSELoss", optimizer=optimizer, batch_size=batch, epochs=lengthened * num_epochs, device="cpu", folder=None, quiet=True, checks=False)
    model_args = dict(num_inputs=width, num_outputs=1, widths=[128, 128])
    ratios = []
    for _ in range(2):
        one = fs.sweep("mlp", splits, over, model_args=model_args, stack=False, **given).seconds
        two = fs.sweep("mlp", splits, over, model_args=model_args, stack=False, workers=2, **given).seconds
        ratios.append(one / two)
    print(f"{name:3} one process / two workers, {len(over['lr'])} learning rates: {statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
