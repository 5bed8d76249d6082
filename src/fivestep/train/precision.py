"""Mixed precision and clipping on this device, chosen once before the run. Kernel: imports only torch, the standard library and `errors`.

Enters: "float32" | "float64" | "bf16" | "fp16". Leaves: a context for forward and loss, and for fp16 a gradient scaler. bf16 needs no scaler: it has float32's range.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from fivestep.errors import SettingsError

DTYPES = {"bf16": torch.bfloat16, "bfloat16": torch.bfloat16, "fp16": torch.float16, "float16": torch.float16}


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The context that forward and loss run in; a shared null context for float32, so that nothing is paid for what is off."""
    if precision in ("float32", "fp32", "float64", "fp64"):
        return contextlib.nullcontext()
    if precision not in DTYPES:
        raise SettingsError(f'precision={precision!r} is not known. Use "float32" (default), "bf16" or "fp16".')
    return torch.autocast(device.type, dtype=DTYPES[precision])


def gradient_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler | None:
    """fp16 gradients underflow below 6e-8: torch's scaler keeps them in range and skips a step whose gradients overflowed. None where not needed."""
    if DTYPES.get(precision) is not torch.float16:
        return None
    return torch.amp.GradScaler(device.type)


def clip(parameters: list[torch.nn.Parameter], clip_norm: float | None, clip_value: float | None) -> torch.Tensor | None:
    """Clip all gradients by value, then by their common 2-norm. Returns the norm before clipping (0-d tensor), or None without `clip_norm`."""
    if clip_value is not None:
        torch.nn.utils.clip_grad_value_(parameters, clip_value)
    if clip_norm is not None:
        return torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
    return None
