"""Where a matrix product is cheaper as multiply-and-sum: the limit `SMALL` of `train/graphs.py`.

One linear layer with SGD in chunks of 64 steps, compiled with the products as calls of the matrix library and written out, timed in turns. Prints microseconds a step
(the least of many, as the machine may be busy) and their ratio for each size: rows of a batch x inputs x outputs.
"""

from __future__ import annotations

import time

import torch
from torch import nn

from fivestep.data.batches import InMemoryBatches
from fivestep.train import capturing, chunks, graphs, programs

SIZES = [(32, 8, 1), (32, 8, 4), (32, 8, 8), (256, 8, 1), (32, 16, 8), (32, 16, 16), (256, 32, 1), (64, 16, 16), (32, 32, 32), (64, 32, 32)]
LENGTH = 64


def program(rows: int, inputs: int, outputs: int, limit: int) -> tuple[programs.Program, InMemoryBatches]:
    torch.manual_seed(0)
    x, y = torch.randn(LENGTH * rows, inputs), torch.randn(LENGTH * rows, outputs)
    model = nn.Linear(inputs, outputs)
    batches = InMemoryBatches(x, (y,), None, batch_size=rows, shuffle=False)
    parts = capturing.Parts(
        model, None, torch.optim.SGD(model.parameters(), lr=0.01, foreach=False), lambda outputs, targets: nn.functional.mse_loss(outputs, *targets)
    )
    before, graphs.write_out_small_products.__defaults__ = graphs.write_out_small_products.__defaults__, (limit,)
    try:
        return programs.make_program(parts, "epoch", LENGTH, chunks.pieces(batches, 0, 0, LENGTH, 0), torch.device("cpu")), batches
    finally:
        graphs.write_out_small_products.__defaults__ = before


def main() -> None:
    torch.set_num_threads(1)
    for rows, inputs, outputs in SIZES:
        made = {name: program(rows, inputs, outputs, limit) for name, limit in (("library", 0), ("written out", 10**9))}
        times: dict[str, list[float]] = {name: [] for name in made}
        for _ in range(300):
            for name, (one, batches) in made.items():
                piece = next(chunks.pieces(batches, 0, 0, LENGTH, 0))
                begun = time.perf_counter()
                one.run(piece, torch.full((LENGTH, 1), 0.01, dtype=torch.float64))
                times[name].append((time.perf_counter() - begun) / LENGTH * 1e6)
        library, written = min(times["library"]), min(times["written out"])
        print(
            f"{rows:4} x {inputs:3} x {outputs:3} = {rows * inputs * outputs:7,}   library {library:6.2f}   written out {written:6.2f}   {library / written:5.2f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
