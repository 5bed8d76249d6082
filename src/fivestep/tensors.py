"""Tensors to bytes and back, to the bit: the safetensors format, written by a few lines and read strictly; and the plain files of a `state_dict`.

Enters: a dict from names to tensors (a nest of tensors gets its names from `to_names`). Leaves: the same dict, equal in names, order, dtypes,
shapes and bits. The format is read here rather than by the safetensors package because hostile bytes must be refused before anything is allocated
(RELIABILITY A4): the package accepts duplicate names, and `load_state_dict` casts dtypes in silence. What is written here the package reads, and the other way
round; a test compares them.

A file is 8 bytes (length of the header, little-endian), the header (JSON: `{name: {"dtype", "shape", "data_offsets": [begin, end]}}`), and the tensors' bytes.
"""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fivestep import files
from fivestep.errors import ArtifactError, TrainingError, UsageError
from fivestep.quoting import listed, printable
from fivestep.strict_json import read_json, write_json

HEADER_LIMIT = 10_000_000  # bytes (RELIABILITY A2)
MAX_DIMENSIONS = 64  # torch's own limit

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

Expected = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""What a file must hold: each tensor's dtype and shape by name."""


@dataclass(frozen=True)
class Entry:
    """Where a tensor stands in a file: bytes `begin` to `end`, counted from the end of the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


# ------------------------------------------------------------------------------------------------------------------------------------------- writing


class StateWriter:
    """The safetensors file of a state as `writer(write)`, for `files.publish`: one tensor at a time comes to the CPU, so that nothing is held twice.

    `num_bytes` is the file's size. Tied and overlapping tensors are written in full under each name; views, expanded and conjugated ones as the values they
    show. Raises UsageError for what the format cannot hold: values that are no tensors, sparse, quantized or meta tensors, complex128.
    """

    def __init__(self, state: Mapping[str, Tensor]):
        _refuse_big_endian()
        for name, tensor in state.items():
            _refuse_what_cannot_be_written(name, tensor)
        self._state = state
        # The widest dtypes first, so that each tensor begins at a multiple of its own width, as in the files of the safetensors package.
        self._order = sorted(state, key=lambda name: (-state[name].element_size(), name))
        places, position = {}, 0
        for name in self._order:
            size = state[name].numel() * state[name].element_size()
            places[name] = [position, position + size]
            position += size
        # The header keeps the order of the state: it comes back as it was.
        header = {name: {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": places[name]} for name, tensor in state.items()}
        text = write_json(header, indent=None).rstrip(b"\n")
        self._header = text + b" " * (-len(text) % 8)
        if len(self._header) > HEADER_LIMIT:
            raise UsageError(f"{len(state):,} tensors have names of {len(self._header):,} bytes together; at most {HEADER_LIMIT:,} can be read back")
        self.num_bytes = 8 + len(self._header) + position

    def __call__(self, write: Callable[[Any], None]) -> None:
        write(len(self._header).to_bytes(8, "little"))
        write(self._header)
        for name in self._order:
            if self._state[name].numel():
                write(_bytes_of(self._state[name]))


def state_to_bytes(state: Mapping[str, Tensor]) -> bytes:
    """The safetensors file that holds `state` to the bit: bfloat16, bool, integers, 0-dimensional and empty tensors too. Raises as StateWriter.

    >>> state_from_bytes(state_to_bytes({"weight": torch.ones(2, 3)}))["weight"].shape
    torch.Size([2, 3])
    """
    parts: list[bytes] = []
    StateWriter(state)(lambda buffer: parts.append(bytes(buffer)))
    return b"".join(parts)


def _refuse_what_cannot_be_written(name: Any, tensor: Any) -> None:
    if not isinstance(name, str) or name == "__metadata__":
        raise UsageError(f"a tensor cannot be saved under the name {name!r}")
    if not isinstance(tensor, Tensor):
        raise UsageError(f'"{printable(name)}" is a {type(tensor).__name__}; files without pickle hold tensors only (so get_extra_state must return one)')
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or type(tensor).__name__ == "DTensor":
        raise UsageError(f'"{printable(name)}" is sparse, quantized, distributed or without data (meta) and cannot be saved as it is; give its dense values')
    if tensor.dtype not in _NAMES:
        raise UsageError(f'"{printable(name)}" is {tensor.dtype}, which safetensors cannot hold; it holds {", ".join(map(str, _NAMES))}')


def _bytes_of(tensor: Tensor) -> memoryview:
    tensor = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _refuse_big_endian() -> None:
    if sys.byteorder != "little":
        raise UsageError("this machine stores numbers with the high byte first; fivestep's files are little-endian and are not converted")


# ------------------------------------------------------------------------------------------------------------------------------------------- reading


def read_header(data: bytes | bytearray | memoryview, *, what: str, metadata: bool = False) -> tuple[dict[str, Entry], int]:
    """`(entries by name in the file's order, where the tensors' bytes begin)` of a safetensors file; nothing is allocated for the tensors.

    Raises ArtifactError naming `what` unless (RELIABILITY A4) the length fits the file, names are unique, dtypes known, numbers non-negative integers, each
    tensor's bytes exactly its shape's, and all of them together the rest of the file without holes, overlaps or trailing bytes. `metadata` allows the
    format's free texts.
    """

    def refuse(reason: str) -> ArtifactError:
        return ArtifactError(f"{what}: {reason}. The file is damaged or was made to look like safetensors.")

    if len(data) < 8:
        raise refuse(f"{len(data)} bytes are too few for a safetensors file")
    length = int.from_bytes(data[:8], "little")
    if length > min(HEADER_LIMIT, len(data) - 8):
        raise refuse(f"its header claims {length:,} bytes; the file has {len(data):,} and a header at most {HEADER_LIMIT:,}")
    text = bytes(data[8 : 8 + length])
    if not text.startswith(b"{"):
        raise refuse("its header is not a JSON object")
    header = read_json(text, limit=HEADER_LIMIT, what=f"{what}, header")
    free_texts = header.pop("__metadata__", None)
    if free_texts is not None:
        if not metadata:
            raise refuse("its header holds __metadata__, which fivestep never writes")
        if not isinstance(free_texts, dict) or not all(isinstance(value, str) for value in free_texts.values()):
            raise refuse("__metadata__ must map texts to texts")

    entries = {}
    for name, found in header.items():
        shown = f'tensor "{printable(name)}"'
        if not isinstance(found, dict) or set(found) != {"dtype", "shape", "data_offsets"}:
            raise refuse(f"{shown} must have dtype, shape and data_offsets, and nothing else")
        dtype, shape, offsets = found["dtype"], found["shape"], found["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise refuse(f"{shown} has the unknown dtype {printable(str(dtype))}")
        if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(type(size) is int and size >= 0 for size in shape):
            raise refuse(f"{shown} has a shape that is not a list of at most {MAX_DIMENSIONS} non-negative integers")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(offset) is int and offset >= 0 for offset in offsets):
            raise refuse(f"{shown} has offsets that are not two non-negative integers")
        # Sizes of 0 count as 1 here: torch computes strides from the others, and they must not overflow either.
        if math.prod(max(size, 1) for size in shape) >= 1 << 60:
            raise refuse(f"{shown} has more elements than a computer can hold")
        size = math.prod(shape) * DTYPES[dtype].itemsize
        if offsets[1] - offsets[0] != size:
            raise refuse(f"{shown} of shape {shape} and dtype {dtype} needs {size:,} bytes; its offsets {offsets} say {offsets[1] - offsets[0]:,}")
        entries[name] = Entry(DTYPES[dtype], tuple(shape), offsets[0], offsets[1])

    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            raise refuse(f'tensor "{printable(name)}" begins at byte {entry.begin:,}, but the one before it ends at {position:,}')
        position = entry.end
    if position != len(data) - 8 - length:
        raise refuse(f"the tensors fill {position:,} bytes, the file has {len(data) - 8 - length:,} for them")
    return entries, 8 + length


def state_from_bytes(
    data: bytes | bytearray,
    expected: Expected | None = None,
    *,
    what: str = "tensors",
    finite: bool = True,
    may_be_infinite: Collection[str] = (),
    metadata: bool = False,
) -> dict[str, Tensor]:
    """The tensors in a safetensors file, on the CPU, each in memory of its own, to the bit.

    With `expected` names, dtypes and shapes must be exactly those; nothing is cast. Unless `finite` is False every float must be finite; those named in
    `may_be_infinite` (attention masks of -inf) may also be infinite, never NaN. Raises ArtifactError naming `what`; all but the last check before anything is
    allocated.
    """
    _refuse_big_endian()
    entries, start = read_header(data, what=what, metadata=metadata)
    if expected is not None:
        _refuse_other_tensors(entries, expected, what)
    state: dict[str, Tensor] = {}
    for name, entry in entries.items():
        if entry.begin == entry.end:
            state[name] = torch.empty(entry.shape, dtype=entry.dtype)
            continue
        view = memoryview(data)[start + entry.begin : start + entry.end]
        # Copied, so that it begins where torch's allocator would begin it: kernels may give other bits for other alignments.
        raw = torch.empty(len(view), dtype=torch.uint8)
        raw.numpy().data[:] = view
        if entry.dtype is torch.bool and int(raw.max()) > 1:
            raise ArtifactError(f'{what}: tensor "{printable(name)}" holds bools that are neither 0 nor 1. The file is damaged or hostile.')
        state[name] = raw.view(entry.dtype).reshape(entry.shape)
    if finite:
        found = not_finite(state, may_be_infinite)
        if found is not None:
            raise ArtifactError(f"{what}: {found}. fivestep saves no such values: the file was damaged or made by something else, and would predict nonsense.")
    return state


def not_finite(state: Mapping[str, Tensor], may_be_infinite: Collection[str] = ()) -> str | None:
    """The first value that is NaN or infinite, in words; None where all are finite. Those named in `may_be_infinite` may be infinite, but not NaN.

    >>> not_finite({"a": torch.ones(2), "b": torch.tensor([[1.0, float("nan")]])})
    'tensor "b" is nan at [0, 1]'
    """
    for name, tensor in state.items():
        if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel():
            continue
        tensor = tensor.detach()
        values = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
        flat = values.reshape(-1)
        infinite = name in may_be_infinite
        for start in range(0, len(flat), 1 << 22):  # in parts: isfinite of the whole would need a multiple of the tensor's memory
            part = flat[start : start + (1 << 22)]
            part = part.float() if part.element_size() == 1 else part  # torch has no minimum of 8-bit floats
            low, high = (float(value) for value in torch.aminmax(part))  # waits for the device; NaN wins over any number
            if math.isnan(low) or (not infinite and (math.isinf(low) or math.isinf(high))):
                wrong = part.isnan() if infinite else ~part.isfinite()
                position = start + int(wrong.int().argmax())
                place = [int(index) for index in torch.unravel_index(torch.tensor(position), values.shape)]
                return f'tensor "{printable(name)}" is {float(part[position - start])} at {place[:-1] if tensor.is_complex() else place}'
    return None


def _refuse_other_tensors(entries: Mapping[str, Entry], expected: Expected, what: str) -> None:
    lacking = [name for name in expected if name not in entries]
    unknown = [name for name in entries if name not in expected]
    if lacking or unknown:
        told = [f"lacks {listed(lacking)}" if lacking else "", f"holds {listed(unknown)}, which the model does not have" if unknown else ""]
        raise ArtifactError(f"{what} {' and '.join(filter(None, told))}. These weights belong to another model; give the one they were saved from.")
    for name, (dtype, shape) in expected.items():
        entry = entries[name]
        if entry.dtype != dtype or entry.shape != tuple(shape):
            raise ArtifactError(
                f'{what}: tensor "{printable(name)}" is {entry.dtype} of shape {list(entry.shape)}, the model has {dtype} of shape {list(shape)}. '
                "Nothing is cast or cut to fit; give the model that the weights were saved from."
            )


# ----------------------------------------------------------------------------------------------------------------------------------------- state_dict


def save_state_dict(path: str | os.PathLike[str], state: Mapping[str, Tensor], *, replace: bool = False) -> Path:
    """`path`, now holding a plain state_dict for use without fivestep: `.safetensors`, or `.pt` / `.pth` as by `torch.save`.

    Raises UsageError for another ending, TrainingError for NaN and infinities, CannotCreateError when the file exists and `replace` is False, StorageError.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise UsageError(f"{printable(str(path), 300)}: weights are written as .safetensors, .pt or .pth, and the ending says which")
    for name, tensor in state.items():
        _refuse_what_cannot_be_written(name, tensor)
    found = not_finite(state)
    if found is not None:
        raise TrainingError(f"{found}; weights that are not finite predict nothing and are not saved. The history shows when the loss went wrong.")
    if path.suffix == ".safetensors":
        return files.write_atomic(path, StateWriter(state), replace=replace)
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu() for name, tensor in state.items()}, buffer)
    return files.write_atomic(path, buffer.getbuffer(), replace=replace)


def load_state_dict_file(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state_dict in a file by safetensors or `torch.save`, on the CPU; which of the two is seen from its first bytes. No code in the file is run.

    Raises ArtifactError for a pickled module or anything else that is not a flat dict of tensors, with what to do; MissingInputError, StorageError.
    """
    shown = printable(os.fspath(path), 300)
    data = files.open_regular(path)
    if data[8:9] == b"{":
        return state_from_bytes(data, what=shown, finite=False, metadata=True)
    try:
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler of hostile or cut-off bytes raises anything
        reason = printable((str(error) or type(error).__name__).splitlines()[0], 160)
        raise ArtifactError(
            f"{shown} cannot be read as a state_dict ({reason}). It may be cut off, or hold a whole pickled module, which would run its code "
            "on loading and is refused. If you trust it, write its weights alone: torch.save(torch.load(path, weights_only=False).state_dict(), new_path)."
        ) from error
    if isinstance(found, dict) and found and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()):
        return dict(found)
    if isinstance(found, dict):
        inner = [
            key
            for key, value in found.items()
            if isinstance(key, str) and isinstance(value, dict) and value and all(isinstance(v, Tensor) for v in value.values())
        ]
        if inner:
            raise ArtifactError(
                f'{shown} is a checkpoint with more than weights; the weights seem to stand under "{printable(inner[0])}". '
                f"Write them alone: torch.save(torch.load(path, weights_only=True)[{printable(inner[0])!r}], new_path)."
            )
    raise ArtifactError(f"{shown} holds a {type(found).__name__} and not a dict of tensors by name; save model.state_dict().")


def to_names(value: Any) -> dict[str, Tensor]:
    """A nest of tensors as flat names that JSON-less safetensors can hold: `x`, `tuple.0`, `dict.key`."""
    if isinstance(value, Tensor):
        return {"x": value.detach().cpu().contiguous()}
    if isinstance(value, dict):
        return {f"dict.{key}": tensor.detach().cpu().contiguous() for key, tensor in value.items() if isinstance(tensor, Tensor)}
    return {f"tuple.{position}": tensor.detach().cpu().contiguous() for position, tensor in enumerate(value) if isinstance(tensor, Tensor)}


def from_names(named: dict[str, Tensor]) -> Any:
    """The inverse of `to_names`."""
    if set(named) == {"x"}:
        return named["x"]
    if all(name.startswith("dict.") for name in named):
        return {name[5:]: tensor for name, tensor in named.items()}
    return tuple(named[name] for name in sorted(named, key=lambda name: int(name.rpartition(".")[2])))
