"""The trained model as a folder that can be kept, sent and loaded by anybody: `model.fivestep/`.

Enters: the model's recipe, its tensors, the fitted columns, how outputs are decoded, a few rows with their outputs, facts, and a model card. Leaves: the
same, every byte verified. The decision that shaped it: nothing in the folder is ever executed, imported or unpickled, and whoever wrote every byte of it can
get a refusal at most (RELIABILITY, chapter 4). So there are five files and no others:

    artifact.json           format, recipe, columns, decoding: JSON, at most 1 MB
    weights.safetensors     parameters and buffers
    self_test.safetensors   `inputs.NAME` and `outputs.NAME`: what the model answered when it was saved (A9)
    README.md               the model card, for people
    MANIFEST.json           sizes and SHA-256 of the others, facts, versions (`fivestep.files`)

What an architecture may be is not decided here: `expected(recipe)` turns the recipe into names, dtypes and shapes from a closed list, before weights are read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fivestep import files
from fivestep.errors import ArtifactError, FivestepError, SettingsError, TrainingError, UsageError
from fivestep.files import PublishedFolder
from fivestep.model.decoding import head_from_json
from fivestep.model.losses import LOSS_PREFIX
from fivestep.quoting import printable
from fivestep.strict_json import JSON_LIMIT, read_json, write_json
from fivestep.tensors import (
    HEADER_LIMIT,
    Expected,
    StateWriter,
    load_state_dict_file,
    not_finite,
    save_state_dict,
    state_from_bytes,
    state_to_bytes,
)

__all__ = [
    "Artifact", "SelfTest", "load_state_dict_file", "read_artifact", "save_artifact", "save_state_dict", "self_test_passes", "state_from_bytes",
    "state_to_bytes", "verify_artifact",
]  # fmt: skip

FORMAT = 1
DESCRIPTION, WEIGHTS, SELF_TEST, CARD = "artifact.json", "weights.safetensors", "self_test.safetensors", "README.md"
NAMES = (DESCRIPTION, WEIGHTS, SELF_TEST, CARD)
SELF_TEST_LIMIT = 64_000_000  # bytes: a few rows, also of images
CARD_LIMIT = 1_000_000

# How far an output may be from the one stored, relative to the largest stored one: other versions of torch and other processors sum in another order. Swapped
# or damaged weights are off by much more.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.complex64: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}

INTEGRITY = """
## Whether this folder is what was saved

`fivestep verify` compares every byte with MANIFEST.json. That shows that nothing was damaged; it does not show who made the folder, as whoever changes a file
can change the manifest too. If it reached you by a way you do not trust, ask its maker for the SHA-256 of MANIFEST.json and load it with `sha256=` (or
`--expect-sha256`).
"""


@dataclass(frozen=True, eq=False)
class Artifact:
    """A trained model as it was saved, verified; not yet a module: whoever knows the model's class builds it and loads `state`.

    `recipe`, `columns` (None unless the data was a table) and `decoding` are JSON; `state` and `self_test` (inputs, outputs) are tensors on the CPU; `facts`
    and `versions` what the writer recorded; `digest` the SHA-256 of MANIFEST.json, which covers every byte.
    """

    path: Path
    recipe: dict[str, Any]
    state: dict[str, Tensor] = field(repr=False)
    columns: dict[str, Any] | None = field(repr=False)
    decoding: dict[str, Any] = field(repr=False)
    self_test: tuple[dict[str, Tensor], dict[str, Tensor]] = field(repr=False)
    facts: dict[str, Any]
    versions: dict[str, str]
    card: str = field(repr=False)
    digest: str


# -------------------------------------------------------------------------------------------------------------------------------------------- saving


def save_artifact(
    path: str | os.PathLike[str],
    *,
    recipe: dict[str, Any],
    state: Mapping[str, Tensor],
    columns: dict[str, Any] | None,
    decoding: dict[str, Any],
    self_test: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    facts: Mapping[str, Any],
    card: str,
    may_be_infinite: Collection[str] = (),
    replace: bool = False,
) -> Path:
    """The path of a new folder that `read_artifact` reads back equal, to the bit; complete and durable when this returns (RELIABILITY C6).

    `self_test` is (inputs, outputs) by name: a few rows and what the model answers to them. `may_be_infinite` names buffers that hold infinities by design
    (an attention mask); NaN is never saved. With `replace=True` an artifact of the same name gives way in one step; anything else of that name never does.

    Raises TrainingError for weights or outputs that are not finite, SettingsError for a recipe and columns over 1 MB, UsageError for what cannot be stored,
    CannotCreateError, StorageError.
    """
    path = Path(path)
    weights = StateWriter(state)
    found = not_finite(state, may_be_infinite)
    if found is not None:
        raise TrainingError(
            f"the model is not saved: {found}, and would predict nothing. The history shows when the loss went wrong. "
            "(A mask that is meant to be infinite: register_buffer(..., persistent=False).)"
        )
    inputs, outputs = self_test
    rows = {**{f"inputs.{name}": tensor for name, tensor in inputs.items()}, **{f"outputs.{name}": tensor for name, tensor in outputs.items()}}
    if not outputs:
        raise UsageError("self_test holds no outputs; without them a loaded model cannot be shown to answer as it did")
    rows_writer = StateWriter(rows)
    found = not_finite(rows)
    if found is not None:
        raise TrainingError(
            f"the model is not saved: on the self-test's rows {found}. Its weights are finite, so the model overflows or divides by zero on them."
        )
    unknown = sorted(set(may_be_infinite) - set(state))
    if unknown:
        raise UsageError(f"may_be_infinite names {', '.join(map(printable, unknown))}, which the state does not hold")
    description = write_json({"format": FORMAT, "recipe": recipe, "columns": columns, "decoding": decoding, "may_be_infinite": sorted(may_be_infinite)})
    if len(description) > JSON_LIMIT:
        sizes = {name: len(write_json(value)) for name, value in (("recipe", recipe), ("columns", columns), ("decoding", decoding))}
        largest = max(sizes, key=lambda name: sizes[name])
        raise SettingsError(
            f"the model's description has {len(description):,} bytes, at most {JSON_LIMIT:,} are read back; {sizes[largest]:,} are the {largest}. "
            "Columns with very many categories are the usual cause: drop them, or fold rare categories together."
        )
    if rows_writer.num_bytes > SELF_TEST_LIMIT:
        raise UsageError(f"the self-test has {rows_writer.num_bytes:,} bytes, at most {SELF_TEST_LIMIT:,} are read back; give it fewer rows")
    text = (card.rstrip("\n") + "\n" + INTEGRITY).encode()
    if len(text) > CARD_LIMIT:
        raise UsageError(f"the model card has {len(text):,} bytes, at most {CARD_LIMIT:,} are read back")
    contents: dict[str, files.Contents] = {DESCRIPTION: description, WEIGHTS: weights, SELF_TEST: rows_writer, CARD: text}
    return files.publish(path.parent, path.name, contents, facts=facts, replace=replace)


# -------------------------------------------------------------------------------------------------------------------------------------------- loading


def read_artifact(path: str | os.PathLike[str], *, expected: Callable[[dict[str, Any]], Expected | None] | None = None, sha256: str | None = None) -> Artifact:
    """The artifact at `path`, every byte verified (RELIABILITY A1-A8). What its maker could have written into it is refused at worst; nothing in it runs.

    `expected(recipe)` gives the names, dtypes and shapes that the model must have (and refuses, by ArtifactError, recipes that it does not know or that are
    too large); the weights' header is held against it before a tensor is allocated. Without it the weights may take half of this machine's memory. `sha256`
    must be that of MANIFEST.json: the only proof of who made it.

    Raises ArtifactError, saying which file and why; MissingInputError where nothing is; StorageError. The caller rebuilds the model and runs it on the
    self-test: `self_test_passes`.
    """
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise UsageError(
            f"sha256={printable(sha256)!r} is not a SHA-256: 64 hexadecimal digits, as `sha256sum {printable(str(path))}/MANIFEST.json` prints them"
        )
    with files.open_published(path, NAMES) as folder:
        if sha256 is not None and folder.digest != sha256.lower():
            raise ArtifactError(
                f"{printable(str(path), 300)} is not the artifact you expect: its MANIFEST.json has SHA-256 {folder.digest}, not {sha256.lower()}"
            )
        description = _read_description(folder)
        wanted = _wanted(description, folder, expected)
        state = _read_weights(folder, description, wanted)
        self_test = _read_self_test(folder)
        card = _read_card(folder)
        return Artifact(
            path=folder.path,
            recipe=description["recipe"],
            state=state,
            columns=description["columns"],
            decoding=description["decoding"],
            self_test=self_test,
            facts=folder.facts,
            versions=folder.versions,
            card=card,
            digest=folder.digest,
        )


def verify_artifact(path: str | os.PathLike[str], *, expected: Callable[[dict[str, Any]], Expected | None] | None = None) -> list[str]:
    """Every problem of the artifact, one text each; empty when it is sound (RELIABILITY P5). Other than `read_artifact` it goes on after the first one.

    >>> verify_artifact("runs/houses-0007/model.fivestep")  # doctest: +SKIP
    []
    """
    problems: list[str] = []

    def attempt(check: Callable[[], Any]) -> Any:
        try:
            return check()
        except FivestepError as error:
            problems.append(str(error))
            return None

    def check_all() -> None:
        with files.open_published(path, NAMES) as folder:
            description = attempt(lambda: _read_description(folder))
            wanted = attempt(partial(_wanted, description, folder, expected)) if description is not None else None
            attempt(lambda: _read_weights(folder, description or {"may_be_infinite": ()}, wanted))
            attempt(lambda: _read_self_test(folder))
            attempt(lambda: _read_card(folder))

    attempt(check_all)
    return problems


def _what(folder: PublishedFolder, name: str) -> str:
    return f"{printable(str(folder.path), 300)}{os.sep}{name}"


def _read_description(folder: PublishedFolder) -> dict[str, Any]:
    what = _what(folder, DESCRIPTION)
    found = read_json(folder.read(DESCRIPTION, JSON_LIMIT), what=what)
    if not isinstance(found, dict) or type(found.get("format")) is not int or found["format"] < 1:
        raise ArtifactError(f"{what} has no format number; it was not written by fivestep")
    if found["format"] > FORMAT:
        raise ArtifactError(f"{what}: format {found['format']} was made by a newer version of fivestep (this one knows {FORMAT}); update fivestep to read it")
    keys = {"format", "recipe", "columns", "decoding", "may_be_infinite"}
    if set(found) != keys:
        raise ArtifactError(f"{what} has missing or unknown keys: {', '.join(printable(key) for key in sorted(set(found) ^ keys)[:5])}")
    if not isinstance(found["recipe"], dict) or not isinstance(found["decoding"], dict) or not isinstance(found["columns"], dict | None):
        raise ArtifactError(f"{what}: recipe and decoding must be objects, columns an object or null")
    infinite = found["may_be_infinite"]
    if not isinstance(infinite, list) or not all(isinstance(name, str) for name in infinite):
        raise ArtifactError(f"{what}: may_be_infinite must be a list of names")
    return found


def _wanted(description: dict[str, Any], folder: PublishedFolder, expected: Callable[[dict[str, Any]], Expected | None] | None) -> Expected | None:
    """What the weights must be: the model's tensors and, where a loss holds the last layer, that layer's under `loss:`. None where nothing is known."""
    wanted = expected(description["recipe"]) if expected is not None else None
    if wanted is None or folder.facts.get("head") is None:
        return wanted
    layer = head_from_json(folder.facts["head"]).state_dict()
    return {**wanted, **{LOSS_PREFIX + name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in layer.items()}}


def _read_weights(folder: PublishedFolder, description: dict[str, Any], wanted: Expected | None) -> dict[str, Tensor]:
    limit = None
    if wanted is not None:
        limit = 8 + HEADER_LIMIT + sum(_num_bytes(dtype, shape) for dtype, shape in wanted.values())
    data = folder.read(WEIGHTS, limit)
    return state_from_bytes(data, wanted, what=_what(folder, WEIGHTS), may_be_infinite=frozenset(description["may_be_infinite"]))


def _num_bytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    count = dtype.itemsize
    for size in shape:
        count *= size
    return count


def _read_self_test(folder: PublishedFolder) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    what = _what(folder, SELF_TEST)
    rows = state_from_bytes(folder.read(SELF_TEST, SELF_TEST_LIMIT), what=what)
    inputs = {name.removeprefix("inputs."): tensor for name, tensor in rows.items() if name.startswith("inputs.")}
    outputs = {name.removeprefix("outputs."): tensor for name, tensor in rows.items() if name.startswith("outputs.")}
    if len(inputs) + len(outputs) != len(rows) or not outputs:
        raise ArtifactError(f"{what} must hold tensors named inputs.NAME and outputs.NAME, at least one of the latter, and no others")
    return inputs, outputs


def _read_card(folder: PublishedFolder) -> str:
    try:
        return folder.read(CARD, CARD_LIMIT).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{_what(folder, CARD)} is not UTF-8 (byte {error.start})") from error


# ------------------------------------------------------------------------------------------------------------------------------------------ self-test


@dataclass(frozen=True)
class SelfTest:
    """Whether a loaded model answers as it did when it was saved; true in an `if` when it does. `error` is the largest difference relative to the largest
    stored value of its output, `name` that output, `message` the lesson where it failed (else "")."""

    passed: bool
    error: float
    name: str
    message: str = ""

    def __bool__(self) -> bool:
        return self.passed


def self_test_passes(outputs: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, tolerance: float | None = None) -> SelfTest:
    """Whether `outputs`, the loaded model's answers to the stored inputs, are the stored ones within `tolerance` (RELIABILITY A9).

    The tolerance is relative to the largest absolute value of each stored output, by dtype 1e-4 in float32 (1e-9 in float64, 1e-2 in float16, 5e-2 in
    bfloat16), or as given; integers and bools must be equal. Names, dtypes and shapes must be the stored ones. Nothing is raised: the caller refuses the
    model, telling `.message`.

    >>> bool(self_test_passes({"0": torch.tensor([1.0, 2.0])}, {"0": torch.tensor([1.0, 2.00001])}))
    True
    """
    advice = "Weights, columns or code are not those that were saved, or this version of torch computes differently; the model would predict nonsense."
    if set(outputs) != set(expected):
        return SelfTest(False, float("inf"), "", f"the model gives the outputs {sorted(outputs)}, and gave {sorted(expected)} when it was saved. {advice}")
    worst, worst_name = 0.0, ""
    for name, stored in expected.items():
        found = outputs[name].detach().cpu()
        if found.shape != stored.shape or found.dtype != stored.dtype:
            told = f"{found.dtype} of shape {list(found.shape)}, and gave {stored.dtype} of shape {list(stored.shape)} when it was saved"
            return SelfTest(False, float("inf"), name, f'the model\'s output "{printable(name)}" is {told}. {advice}')
        if not stored.numel():
            continue
        if not stored.is_floating_point() and not stored.is_complex():
            allowed = 0.0
            error = float((found != stored).double().mean())
        else:
            allowed = TOLERANCE.get(stored.dtype, 5e-2) if tolerance is None else tolerance
            wide = torch.complex128 if stored.is_complex() else torch.float64
            largest = float(stored.to(wide).abs().max())
            difference = float((found.to(wide) - stored.to(wide)).abs().max())  # NaN stays NaN
            error = difference / largest if largest > 0 else difference
        if not error <= allowed:  # so NaN fails too
            told = f"{error:.3g} of its scale, at most {allowed:.3g} is allowed"
            return SelfTest(False, error, name, f'the model\'s output "{printable(name)}" differs from the one saved with it by {told}. {advice}')
        if error >= worst:
            worst, worst_name = error, name
    return SelfTest(True, worst, worst_name)
