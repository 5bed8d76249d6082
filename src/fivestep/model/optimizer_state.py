"""An optimizer's state through JSON and back, to the bit. Kernel: imports only torch, stdlib, `errors` and kernel modules.

Enters: a `state_dict()`, or any nest of dicts, lists, tuples, numbers, text and tensors. Leaves: tensors by name, and JSON with everything else. The decision that
shaped it: every type comes back (integer keys, tuples, infinities), so nothing is pickled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fivestep.errors import ArtifactError, SettingsError
from fivestep.model.optimizers import Optimizers
from fivestep.quoting import listed


def split_state(state: Any) -> tuple[dict[str, Tensor], Any]:
    """An optimizer's `state_dict()` (or any nest of dicts, lists, tuples, numbers, text and tensors) as (tensors by name, JSON with everything else).

    `join_state` gives it back to the bit, with every type: integer keys, tuples, infinities. The tensors are contiguous, and live where they are not copied for
    that: write them before the next step. Raises SettingsError for what neither part can hold.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _encode(state, "", tensors)


def join_state(tensors: Mapping[str, Tensor], entry: Any) -> Any:
    """The state that `split_state` took apart, in tensors of its own. Raises ArtifactError for anything that `split_state` does not write."""
    used: set[str] = set()
    state = _decode(entry, tensors, used)
    if used != set(tensors):
        raise ArtifactError(f"The saved state holds tensors that nothing refers to: {listed(sorted(set(tensors) - used))}.")
    return state


def restore_optimizer(optimizer: Any, state: Mapping[str, Any]) -> None:
    """Load a state so that the next step has the bits it would have had. Raises ArtifactError where it belongs to other parameters.

    torch's own `load_state_dict` casts all state to the parameter's dtype: ASGD's eta and NAdam's mu_product, float32 beside float64 or bfloat16 weights, then
    go on in another precision. Here every tensor keeps the dtype it was saved with.
    """
    if isinstance(optimizer, Optimizers):
        if not isinstance(state, Mapping) or set(state) != set(optimizer.named):
            raise ArtifactError(f"The saved state is of other optimizers than this run's {sorted(optimizer.named)}.")
        for name, one in optimizer.named.items():
            restore_optimizer(one, state[name])
        return
    if not isinstance(optimizer, Optimizer):
        optimizer.load_state_dict(state)  # the user's own: it knows its state
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    try:
        indices = [index for group in state["param_groups"] for index in group["params"]]
        fused = any(group.get("fused") for group in (*state["param_groups"], *optimizer.param_groups))
        for index, parameter in zip(indices, parameters):
            for key, value in state["state"].get(index, {}).items():
                if fused and isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:  # a fused kernel would read beyond its end
                    raise ValueError(f"{key} of parameter {index} has the shape {tuple(value.shape)}, the parameter {tuple(parameter.shape)}")
        optimizer.load_state_dict(state)  # type: ignore[arg-type]
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ArtifactError(f"The saved state does not fit this {type(optimizer).__name__}: {error}. Was the model or the optimizer changed since?") from error
    for index, parameter in zip(indices, parameters):
        if index in state["state"]:
            loaded = optimizer.state[parameter]
            for key, value in state["state"][index].items():
                loaded[key] = _with_dtype(value, loaded[key])


def _with_dtype(saved: Any, loaded: Any) -> Any:
    if isinstance(saved, Tensor) and isinstance(loaded, Tensor):
        return loaded if loaded.dtype == saved.dtype else saved.to(loaded.device, copy=True)
    if isinstance(saved, list) and isinstance(loaded, list):
        return list(map(_with_dtype, saved, loaded))
    return loaded


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, float):
        return number_to_json(float(value))
    if isinstance(value, Tensor):
        return _encode_tensor(value, path, tensors)
    if isinstance(value, dict):
        return {"dict": [[_encode(key, path, tensors), _encode(item, f"{path}.{key}" if path else str(key), tensors)] for key, item in value.items()]}
    if isinstance(value, list):
        return [_encode(item, f"{path}.{position}" if path else str(position), tensors) for position, item in enumerate(value)]
    if type(value) in (tuple, torch.Size):
        return {"tuple": _encode(list(value), path, tensors)}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, int):  # an enumeration
        return int(value)
    if callable(getattr(value, "item", None)):  # numpy's numbers
        return _encode(value.item(), path, tensors)
    raise SettingsError(
        f"The optimizer keeps {type(value).__name__} in its state ({path}), which cannot be saved without pickle. Keep numbers, text, lists, tuples, dicts and tensors."
    )


def _encode_tensor(value: Tensor, path: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if value.layout is not torch.strided or value.is_quantized:
        raise SettingsError(f"The optimizer keeps a {value.layout} tensor in its state ({path}), which cannot be saved. Keep it dense.")
    name, count = path or "value", 1
    while name in tensors:
        name, count = f"{path}#{count}", count + 1
    value = value.detach()
    entry: dict[str, Any] = {"tensor": name}
    if not value.is_contiguous() and value.clone().stride() == value.stride():
        # channels_last momentum: a fused kernel walks weights and state in memory order, so a contiguous state would be applied to the wrong weights.
        entry["stride"] = list(value.stride())
    value = value.contiguous()
    tensors[name] = value if value.untyped_storage().nbytes() == value.nbytes else value.clone()
    return entry


def _decode(entry: Any, tensors: Mapping[str, Tensor], used: set[str]) -> Any:
    if entry is None or type(entry) in (bool, int, float, str):
        return entry
    if isinstance(entry, list):
        return [_decode(item, tensors, used) for item in entry]
    if isinstance(entry, dict):
        match entry:
            case {"dict": list(pairs)} if len(entry) == 1 and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
                decoded = [(_decode(key, tensors, used), _decode(item, tensors, used)) for key, item in pairs]
                if all(key is None or type(key) in (bool, int, float, str, tuple) for key, _ in decoded) and len({key for key, _ in decoded}) == len(decoded):
                    return dict(decoded)
            case {"tuple": list(items)} if len(entry) == 1:
                return tuple(_decode(item, tensors, used) for item in items)
            case {"float": str()} if len(entry) == 1:
                return number_from_json(entry)
            case {"dtype": str(name)} if len(entry) == 1 and isinstance(getattr(torch, name, None), torch.dtype):
                return getattr(torch, name)
            case {"tensor": str(name)} if set(entry) <= {"tensor", "stride"} and name in tensors:
                used.add(name)
                return _decode_tensor(tensors[name], entry.get("stride"))
    text = repr(entry)
    raise ArtifactError(f"The saved state holds something that is no state: {text if len(text) <= 100 else text[:97] + '...'}")


def _decode_tensor(tensor: Tensor, stride: Any) -> Tensor:
    if stride is None:
        return tensor.clone()
    fits = isinstance(stride, list) and len(stride) == tensor.dim() and all(type(step) is int and step > 0 for step in stride)
    # The strides of a dense tensor span exactly its elements; anything else would allocate what a hostile file asks for.
    if not fits or sum((size - 1) * step for size, step in zip(tensor.shape, stride)) + 1 != tensor.numel():
        raise ArtifactError(f"The strides {stride!r} do not belong to a tensor of shape {tuple(tensor.shape)}.")
    return torch.empty_strided(tuple(tensor.shape), stride, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def number_to_json(value: float) -> Any:
    """JSON has no infinities and no NaN; Python writes every other float so that it comes back to the bit."""
    return value if math.isfinite(value) else {"float": str(value)}


def number_from_json(entry: Any) -> float:
    if type(entry) in (float, int):
        return float(entry)
    if isinstance(entry, dict) and entry.keys() == {"float"} and entry["float"] in ("nan", "inf", "-inf"):
        return float(entry["float"])
    raise ArtifactError(f"{entry!r} is no number.")
