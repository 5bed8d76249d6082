"""What a checkpoint costs: a small and a 10M-parameter model with Adam's state are saved again and again, pruned to 3; then one run of 870,301 parameters with
`checkpoint="30s"`, and the share of its time that its checkpoints took. `python bench/checkpoint_cost.py [FOLDER] [EPOCHS of the run, 60: two to three minutes]`."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fivestep as fs
from fivestep import files
from fivestep.train import checkpoints
from fivestep.train.epochs import Training
from fivestep.train.stopping import Stopping


def trained(width: int) -> Training:
    """A network of four hidden layers, two steps of Adam behind it."""
    widths = [64, width, width, width, width]
    layers = [layer for before, after in pairwise(widths) for layer in (nn.Linear(before, after), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(width, 1))
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(8, 64)).mean().backward()
        optimizer.step()
    return Training(model, None, optimizer, stopping=Stopping(None))


def share_of_a_run(epochs: int, folder: Path) -> None:
    """One `fit` whose checkpoints are timed from outside, ten times as often as by default."""
    spent: list[float] = []
    write = checkpoints.Keeper._write

    def timed(self: checkpoints.Keeper, *arguments: Any, **options: Any) -> None:
        began = time.monotonic()
        write(self, *arguments, **options)
        spent.append(time.monotonic() - began)

    checkpoints.Keeper._write = timed  # type: ignore[method-assign]
    x = torch.randn(6400, 64, generator=torch.Generator().manual_seed(0))
    splits = fs.Splits((x[:6000], x[:6000, :1]), val=(x[6000:], x[6000:, :1]))
    model = nn.Sequential(nn.Linear(64, 900), nn.ReLU(), nn.Linear(900, 900), nn.ReLU(), nn.Linear(900, 1))
    began = time.monotonic()
    fs.fit(
        model, splits, loss="MSELoss", optimizer="Adam", batch_size=64, epochs=epochs, checkpoint="30s", folder=folder, quiet=True, checks=False, patience=None
    )
    whole = time.monotonic() - began
    print(f"a run of {whole:.0f} s: {len(spent)} checkpoints took {sum(spent):.2f} s, {100 * sum(spent) / whole:.2f} % of it")


def main() -> None:
    torch.set_num_threads(1)
    for name, width, count in (("small MLP", 64, 20), ("10M parameters", 1800, 8)):
        training, seconds, processor = trained(width), [], []
        with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
            for training.step in range(count):
                began, used = time.perf_counter(), time.process_time()
                checkpoints.write(Path(folder), training, {})
                files.prune(Path(folder), 3)
                seconds.append(time.perf_counter() - began)
                processor.append(time.process_time() - used)
            size = sum(path.stat().st_size for path in sorted(Path(folder).iterdir())[-1].iterdir())
        numbers = sum(parameter.numel() for parameter in training.model.parameters())
        print(
            f"{name}: {numbers:,} parameters, {size / 1e6:.1f} MB; a checkpoint takes {1e3 * statistics.median(seconds):.0f} ms (least {1e3 * min(seconds):.0f}), "
            f"{1e3 * statistics.median(processor):.0f} ms of the processor"
        )
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        share_of_a_run(int(sys.argv[2]) if len(sys.argv) > 2 else 60, Path(folder))


if __name__ == "__main__":
    main()
