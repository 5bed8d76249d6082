"""The rule on a model that was saved and loaded: is it still the one that was trained?

Plain modules and numbers enter, findings leave. The decision that shaped it: outputs are compared, since what `state_dict` leaves out shows only there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from fivestep import seeds
from fivestep.checks.before_forward import difference
from fivestep.checks.findings import Finding
from fivestep.checks.probe import copy_together
from fivestep.checks.recording import tensors_in


def check_saved(fresh: nn.Module, trained: nn.Module, inputs: Any, *, run: Callable[[nn.Module, Any], Tensor] | None = None) -> list[Finding]:
    """P01 or P06 where a fresh model with the trained one's state_dict gives other outputs. `fresh` comes from the factory, or is a copy of the start."""
    from fivestep.train.loop import forward

    def default(model: nn.Module, given: Any) -> Tensor:
        with torch.no_grad():
            return next(tensors_in(forward(model, given)))

    run = run or default
    loaded, live = copy_together(fresh)[0].eval(), copy_together(trained)[0].eval()
    state = {key: value.detach().clone() for key, value in live.state_dict().items()}
    loaded.load_state_dict(state, strict=False)
    with seeds.restored(0):
        expected = run(live, inputs)
    with seeds.restored(1):
        again = run(copy_together(trained)[0].eval(), inputs)
    if difference(expected, again) > 1e-6:
        return []  # predictions are random: M03, M28 or M30 have said so
    with seeds.restored(0):
        got = run(loaded, inputs)
    away = difference(expected, got)
    if away <= 1e-5:
        return []
    kept = dict(loaded.named_buffers())
    lost = [name for name, buffer in live.named_buffers() if name not in state and (name not in kept or not torch.equal(kept[name], buffer))]
    if lost:
        return [Finding(
            "P06", "warning", f"Loaded into a fresh model, the weights predict something else (difference {away:.2g}): buffer(s) {', '.join(lost[:4])} are not in state_dict.", {"buffers": lost, "difference": away},
            "What was fitted into them is lost when the model is saved.", "register_buffer(name, value) without persistent=False.",
        )]  # fmt: skip
    plain = changed_attributes(fresh, trained)
    return [Finding(
        "P01", "warning", f"Loaded into a fresh model, the weights predict something else (difference {away:.2g} of the outputs' size)" + (f"; changed in training: {', '.join(plain[:4])}." if plain else "."),
        {"difference": away, "attributes": plain}, "A part of what was learnt stands in plain attributes, which state_dict does not hold: it is lost when the model is saved.",
        f"self.register_buffer('{plain[0] if plain else 'mean'}', ...) for tensors; for settings, the constructor's arguments.",
    )]  # fmt: skip


def changed_attributes(fresh: nn.Module, trained: nn.Module) -> list[str]:
    """Names of plain attributes (tensors, arrays, numbers) that differ between a fresh and a trained model."""
    others = dict(fresh.named_modules())
    found = []
    for name, module in trained.named_modules():
        before = vars(others[name]) if name in others else {}
        for key, value in vars(module).items():
            if key.startswith("_") or key == "training":
                continue
            old = before.get(key)
            if isinstance(value, (Tensor, numpy.ndarray)):
                same = type(old) is type(value) and old.shape == value.shape and bool((old == value).all())  # type: ignore[union-attr]
            elif isinstance(value, (bool, int, float, str, type(None))):
                same = old == value
            else:
                continue
            if not same:
                found.append(f"{name}.{key}" if name else key)
    return found
