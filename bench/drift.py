"""How far a compiled run of W4 on random labels is from eager, and how far eager is from the same steps in float64: 100 steps, the greatest distance of a weight.

Labels that cannot be learned make rounding grow from step to step. Were the compiled step wrong, it would be farther from eager float32 than that is from float64.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from workloads import WORKLOADS

from fivestep.data.batches import InMemoryBatches
from fivestep.train import chunks, loop, programs
from fivestep.train.capturing import Parts

LENGTH, STEPS = 20, 100


def main() -> None:
    torch.set_num_threads(1)
    work = WORKLOADS["W4"]
    rows = work.batch * (STEPS + 1)
    torch.manual_seed(0)
    x, y = work.data()[0][:rows], torch.randint(0, 10, (rows,))
    first = work.make()
    models = {"eager": first, "float64": copy.deepcopy(first).double(), "compiled": copy.deepcopy(first)}
    loss = lambda outputs, targets: nn.functional.cross_entropy(outputs, *targets)  # noqa: E731
    parts = {name: Parts(model, None, torch.optim.Adam(model.parameters(), lr=work.lr), loss) for name, model in models.items()}
    batches = list(InMemoryBatches(x, (y,), None, batch_size=work.batch, shuffle=False).epoch(0))
    pieces = [chunks.stacked_batches(batches[begin : begin + LENGTH]) for begin in range(1, STEPS + 1, LENGTH)]
    program = programs.make_program(parts["compiled"], "epoch", LENGTH, pieces, torch.device("cpu"))

    def step(name: str, number: int) -> None:
        batch = batches[number]
        batch = batch._replace(inputs=batch.inputs.double()) if name == "float64" else batch
        loop.train_epoch(models[name], loss, parts[name].optimizer, [batch])

    def apart(one: str, other: str) -> float:
        return max(float((a.detach().double() - b.detach().double()).abs().max()) for a, b in zip(models[one].parameters(), models[other].parameters()))

    for name in models:
        step(name, 0)
    for number, piece in enumerate(pieces):
        state, _ = program.run(piece, torch.full((LENGTH, 1), work.lr, dtype=torch.float64))
        program.accept(state, LENGTH)
        for position in range(1 + number * LENGTH, 1 + (number + 1) * LENGTH):
            step("eager", position)
            step("float64", position)
        print(
            f"step {(number + 1) * LENGTH:4}   compiled - eager {apart('compiled', 'eager'):.1e}   eager - float64 {apart('eager', 'float64'):.1e}", flush=True
        )


if __name__ == "__main__":
    main()
