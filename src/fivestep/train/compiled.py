"""The same five steps compiled: whether, and the epochs of such a run. Kernel: imports only torch and other kernel modules.

Enters: model, loss, optimizers and the first batches of a run, before its first step. Leaves: a `Program` and its epochs, or None with the reason in the user's
words; then the run stays eager. The decision that shaped it: only whole chunks of full batches are compiled. The
first step of a run (it is where an optimizer makes its state) and the last batches of an epoch that fill no chunk are plain eager steps: a graph of their own
costs seconds, which one step an epoch wins back after 25,000 epochs.
Events, checkpoints, signals and the guard stand at the edges of chunks.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import torch

from fivestep.data.batches import Batch, Stacked
from fivestep.errors import SettingsError
from fivestep.train import loop
from fivestep.train.capturing import CannotCompile, Parts
from fivestep.train.chunks import chunk_length, pieces
from fivestep.train.programs import Program, make_program

WAYS = (None, "step", "epoch", "auto")

# The written sum behind "auto" (never a clock: the weights are a function of settings and data only). SPEED.md: a compile costs 2 to 9 s by size, and what is
# saved on a small model is the Python of a step, 100 us; on a large one more. W1 (two weight tensors, 2.5 s) pays after 25,000 steps. Convolutions bring kernels
# for padding, pooling and their gradients: W4 (two of them) took 20 s of processor time where two layers of an MLP took 3.
SAVED_A_STEP = 100e-6
COMPILE_SECONDS, COMPILE_SECONDS_A_TENSOR, COMPILE_SECONDS_A_CONVOLUTION = 1.5, 0.5, 8.0


def pays(steps: int, num_tensors: int, num_convolutions: int = 0) -> tuple[bool, str]:
    """Whether compiling wins back its seconds in `steps` steps, and the sum in words. `num_tensors` are all weight tensors of the model.

    >>> pays(24_000, 2)[0], pays(26_000, 2)[0]
    (False, True)
    """
    seconds = COMPILE_SECONDS + COMPILE_SECONDS_A_TENSOR * num_tensors + COMPILE_SECONDS_A_CONVOLUTION * num_convolutions
    needed = math.ceil(seconds / SAVED_A_STEP)
    told = f"{steps:,} steps are planned, and compiling (about {seconds:g} s) pays from {needed:,} steps on"
    return steps >= needed, told


def refuse(parts: Parts, *, user_step: bool, split: bool, device: torch.device) -> None:
    """Raise CannotCompile for what is known before anything is traced."""
    if user_step:
        raise CannotCompile("step= makes the five steps itself, and they are not ours to capture")
    if split:
        raise CannotCompile("part_size= cuts batches into parts whose number and shares are decided in Python")
    if getattr(parts.optimizer, "needs_closure", False):
        raise CannotCompile(f"{type(parts.optimizer).__name__} calls the model in its own step, as often as its line search asks")
    if parts.scaler is not None:
        raise CannotCompile('precision="fp16" decides in each step whether it is skipped; "bf16" needs no such decision')
    if device.type not in ("cpu", "cuda"):
        raise CannotCompile(f"torch compiles no training step for {device.type}")
    for optimizer in parts.optimizers:
        if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
            raise CannotCompile(f"{type(optimizer).__name__} has hooks of its own around its step")
    if device.type == "cpu" and (missing := no_compiler()):
        raise CannotCompile(missing)
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise CannotCompile("torch needs the package triton to compile for CUDA, and it is not installed")


def no_compiler() -> str | None:
    """Why torch finds no C++ compiler, or None where it finds one."""
    try:
        from torch._inductor import cpp_builder, exc
    except ImportError as error:
        return f"this torch has no compiler of its own ({error})"
    try:
        cpp_builder.get_cpp_compiler()
    except (exc.InvalidCxxCompiler, OSError):
        return "torch needs a C++ compiler, and none is found: install g++ (or clang++), or set CXX to one"
    return None


def make(parts: Parts, wish: str, batches: Any, *, steps: int, rows: int, batch_size: int, device: torch.device, **facts: Any) -> tuple[Program | None, str]:
    """-> (a program for `compile=wish`, or None to stay eager; what to tell the user). `steps` are those of the whole run, `rows` those of the training split."""
    weights = [parameter for group in parts.groups for parameter in group["params"]]
    way, reckoned = wish, ""
    try:
        if wish == "auto":
            worth, reckoned = pays(steps, len(weights), sum(weight.dim() > 2 for weight in weights))
            if not worth:
                return None, f'compile="auto": stays eager: {reckoned}.'
            way, reckoned = "epoch", f" {reckoned[0].upper()}{reckoned[1:]}."
        refuse(parts, device=device, **facts)
        length = chunk_length(max(1, rows // batch_size), sum(weight.numel() for weight in weights), batch_size)
        program = make_program(parts, way, length, pieces(batches, 0, 0, length, 0, stack=way == "epoch"), device)
    except CannotCompile as reason:
        return None, f"compile={wish!r}: stays eager, because {reason}."
    what = f"chunks of {program.length} steps are one graph" if program.mode == "epoch" else "each step is one graph"
    notes = "".join(f"; {note}" for note in program.said)
    return program, f"compile={wish!r}: {what}, compiled in {program.seconds:.1f} s{notes}.{reckoned}"


def train_epoch(
    program: Program,
    batches: Any,
    epoch: int,
    start: int,
    *,
    after_steps: Callable[..., bool],
    schedule: Any = None,
    wait: bool = True,
) -> list[Any]:
    """An epoch from step `start` on: whole chunks by the program, the others eagerly. Returns the losses as `loop.train_epoch` does.

    `after_steps(*losses)` is called at each edge. Raises NonFiniteLoss with `.steps_before`: the weights are then as they were before the step that broke.
    """
    parts, slots = program.slots.parts, program.slots
    average = parts.average if slots.has_average else None
    alone = 0 if slots.ready() else 1

    def eager(batch: Batch) -> Any:
        (value,) = loop.train_epoch(
            parts.model, parts.loss, parts.optimizer, [batch], schedule=schedule, average=average,
            compute=parts.compute, autocast=parts.autocast, clipping=parts.clipping, wait=wait,
        )  # fmt: skip
        return value

    losses: list[Any] = []
    for piece in pieces(batches, epoch, start, program.length, alone, program, stack=program.mode == "epoch"):
        if isinstance(piece, Batch) and not isinstance(piece, Stacked):
            values = [eager(piece)]
        else:
            values = chunk(program, piece, schedule, eager, wait)
        losses += values
        if after_steps(*values):
            break
    if parts.optimizer is not None and losses:
        parts.optimizer.zero_grad()  # what an eager step left would look like the last gradient
    return losses


def chunk(program: Program, piece: Any, schedule: Any, eager: Callable[[Batch], Any], wait: bool) -> list[Any]:
    """The steps of one chunk: its losses are looked at before its state is accepted."""
    slots = program.slots
    steps = len(piece) if isinstance(piece, list) else program.length
    before: Any = None if schedule is None else schedule.state_dict()
    stream = torch.default_generator.get_state() if wait else None
    rates = [slots.rates()]
    if schedule is None:
        table = torch.tensor(rates, dtype=torch.float64, device=program.device).repeat(steps, 1)
    else:
        for _ in range(steps):
            schedule.step()
            rates.append(slots.rates())
        table = torch.tensor(rates[:-1], dtype=torch.float64, device=program.device)
    if slots.other_options() != program.options:
        raise SettingsError(
            "The schedule changed an option of the optimizer beside lr in the middle of the run, and the compiled graph holds the old one. Leave compile out."
        )
    state, found = program.run(piece, table)
    if not wait:
        program.accept(state, steps)
        return list(found.unbind())
    values = found.tolist()
    if all(map(math.isfinite, values)):
        program.accept(state, steps)
        return values
    broken = next(position for position, value in enumerate(values) if not math.isfinite(value))
    # The state of the chunk is thrown away; its good steps are made again eagerly, so the weights stand where the loss broke.
    if schedule is not None and before is not None:
        schedule.load_state_dict(before)
        for group, rate in zip(slots.parts.groups, rates[0], strict=True):
            group["lr"] = rate  # a schedule that is loaded leaves the rates as it finds them
    assert stream is not None
    torch.default_generator.set_state(stream)
    done = 0
    try:
        for batch in (piece if isinstance(piece, list) else piece.singly())[: broken + 1]:
            eager(batch)
            done += 1
    except loop.NonFiniteLoss:
        pass
    failure = loop.NonFiniteLoss()
    failure.steps_before = min(done, broken)
    raise failure
