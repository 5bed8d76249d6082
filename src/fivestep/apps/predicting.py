"""The rows of a file predicted into another, chunk by chunk: the output appears under its name only when it is whole."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fivestep.errors import CannotCreateError, FivestepError, MissingInputError, StorageError, UsageError

DISK_REFUSES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)  # exit 74; every other refusal to open is "cannot create", exit 73


def predict_file(loaded: Any, file: str, output: str | None, probabilities: bool, notes: dict[str, None]) -> int:
    """Read a file in chunks, predict each, write in order; returns the number of rows. The output appears under its name only when it is whole."""
    import polars

    target = Path(output) if output else None
    if target is not None:
        check_output(target, file)
    separator = "\t" if target is not None and target.suffix == ".tsv" else ","
    kept, written = [], 0
    temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}") if target is not None else None
    stream = None
    try:
        stream = sys.stdout.buffer if temporary is None else open(temporary, "xb")  # noqa: SIM115  closed below, before the rename
        for frame in predicted_chunks(loaded, file, probabilities, notes):
            if target is not None and target.suffix == ".parquet":
                kept.append(frame)  # predictions alone, a few numbers a row; the input is not kept
            elif len(frame) or not written:
                stream.write(frame.write_csv(include_header=not written, separator=separator).encode())
            written += len(frame)
        if kept:
            polars.concat(kept).write_parquet(stream)  # type: ignore[arg-type]
        stream.flush()
        if temporary is not None and target is not None:
            os.fsync(stream.fileno())
            stream.close()
            os.replace(temporary, target)
    except OSError as error:
        if isinstance(error, (BrokenPipeError, FivestepError)):
            raise
        where = "" if output is None else " Nothing was left under that name."
        if stream is None and error.errno not in DISK_REFUSES:
            raise CannotCreateError(f"-o {output} cannot be created: {error.strerror}.") from error
        raise StorageError(f"{output or 'stdout'} cannot be written: {error.strerror}.{where}") from error
    finally:
        if temporary is not None and stream is not None:
            with contextlib.suppress(OSError):  # what could not be flushed was told above
                stream.close()
            temporary.unlink(missing_ok=True)
    return written


def predicted_chunks(loaded: Any, file: str, probabilities: bool, notes: dict[str, None]) -> Iterator[Any]:
    """Polars frames of predictions, in the file's order, at least one (a file without rows gives the header). Adds what is to be told to `notes`."""
    import polars

    predictor = loaded._predictor
    if not Path(file).exists():
        raise MissingInputError(f"There is no file or folder {file}.")
    if loaded.facts.get("kind") == "images":
        named, told = loaded.predict_files(file, probabilities=probabilities)
        notes |= dict.fromkeys(told)
        yield polars.DataFrame({key: values.tolist() if values.dtype == object else values for key, values in named.items()})
        return
    if predictor.columns is None:
        raise UsageError(
            "This model was trained on arrays or a Dataset; from the shell tables and images can be predicted. Use fs.load(...).predict(array) in Python."
        )
    for numbers, codes, chunk_notes in predictor.columns.iter_prediction_chunks(file):
        notes |= dict.fromkeys(chunk_notes)
        named = predictor.frame(numbers, codes, probabilities=probabilities)
        notes |= dict.fromkeys(predictor.columns.beyond_targets(named))
        yield polars.DataFrame({key: values.tolist() if values.dtype == object else values for key, values in named.items()})


def check_output(target: Path, file: str) -> None:
    """Refuse an output that cannot become the predictions, before any work is done."""
    if target.suffix not in (".csv", ".tsv", ".parquet"):
        raise UsageError(f"-o {target}: the name must end in .csv, .tsv or .parquet.")
    if not target.parent.is_dir():
        raise CannotCreateError(f"-o {target}: there is no folder {target.parent}.")
    if target.is_dir():
        raise CannotCreateError(f"-o {target} is a folder.")
    if target.exists() and Path(file).exists() and target.samefile(file):
        raise UsageError(f"-o {target} is the file that is read: its rows would be lost. Choose another name.")
