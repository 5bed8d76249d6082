"""The facts of an artifact beside its weights: block, picked output, the digest of columns and classes; written by a run, read again with suspicion.

Enters: what a run knows of itself, or the facts of an artifact that anybody may have written. Leaves: values of the right type and size, or an error. The decision
that shaped it: every fact is checked before it is used, and what cannot be held (a function) is told when it is loaded.
"""

from __future__ import annotations

import hashlib
from typing import Any

from fivestep.errors import ArtifactError, UsageError
from fivestep.strict_json import write_json

LARGEST_BLOCK = 65_536  # rows that a prediction is padded to: a number in an artifact must not be able to fill the memory
FUNCTION = "(a function)"


def asked_of(facts: dict[str, Any], name: str, kind: type) -> Any:
    """A fact of an artifact. Raises ArtifactError where it is not there or of another type."""
    if type(facts.get(name)) is not kind:
        raise ArtifactError(f"The artifact's fact {name!r} should be a {kind.__name__}; it is {str(facts.get(name))[:60]!r}.")
    return facts[name]


def block_of(facts: dict[str, Any]) -> int:
    block = asked_of(facts, "block", int)
    if not 1 <= block <= LARGEST_BLOCK:
        raise ArtifactError(f"The artifact says that it predicts in blocks of {block} rows; 1 to {LARGEST_BLOCK:,} are possible.")
    return block


def pick_of(output: Any) -> Any:
    if output is None:
        return None
    if output == FUNCTION:
        raise UsageError(
            "The loss saw a function of this model's outputs (output=), and an artifact holds no functions. Let the model's forward return what the function picks, "
            "or give output= a key or an index; the weights alone are in weights.safetensors of the artifact."
        )
    if not isinstance(output, (str, int)):
        raise ArtifactError(f"output={str(output)[:60]!r} in the artifact is neither a key nor an index.")
    return lambda outputs: outputs[output]


def predictor_output(output: Any) -> str | int | None:
    """`output=` as an artifact holds it; a function cannot be held, which `pick_of` says when it is loaded."""
    return output if output is None or isinstance(output, (str, int)) else FUNCTION


def description_digest(columns: Any, decoding: Any) -> str:
    """SHA-256 that ties columns and classes to the weights they were saved with."""
    return hashlib.sha256(write_json({"columns": columns, "decoding": decoding})).hexdigest()
