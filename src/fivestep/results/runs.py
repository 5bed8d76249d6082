"""The run folder: settings, environment, history, findings, scores and looks at the test split, each file written whole.

```
runs/houses-0007/   settings.json  environment.json  history.jsonl  findings.json  scores.json  checkpoints/  model.fivestep/
runs/looks.jsonl    every score ever taken on a test split, beside all runs: {"fingerprint", "split", "run", "time"}
```
"""

from __future__ import annotations

import datetime
import math
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import torch

from fivestep import files
from fivestep._version import __version__
from fivestep.errors import ArtifactError, CannotCreateError, MissingInputError
from fivestep.settings import FORMAT, Settings
from fivestep.strict_json import read_json, write_json

LOOKS_WITHOUT_FOLDER: dict[str, int] = {}  # looks of runs that write nothing, counted for this process


def create(parent: str | Path, name: str | None, stem: str) -> Path:
    """A fresh run folder: `parent/name`, or `parent/stem-0001` with the next free number. Raises CannotCreateError where it is in use (P7)."""
    parent = Path(parent)
    files.make_folder(parent, exist_ok=True)
    if name is not None:
        if not re.fullmatch(r"[\w.-]{1,100}", name) or name.startswith("."):
            raise CannotCreateError(f"name={name!r} cannot be a folder's name. Use letters, digits, '-', '_' and '.'.")
        path = parent / name
        if path.exists():
            raise CannotCreateError(f"{path} is in use already, and a run is never overwritten. Resume it, or choose another name=.")
        return files.make_folder(path)
    stem = re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "run"
    taken = [int(match[1]) for entry in parent.iterdir() if (match := re.fullmatch(re.escape(stem) + r"-(\d{4,})", entry.name))]
    number = max(taken, default=0) + 1
    while True:  # another process may take the same number at the same moment
        try:
            return files.make_folder(parent / f"{stem}-{number:04d}")
        except CannotCreateError:
            if not (parent / f"{stem}-{number:04d}").exists():
                raise
            number += 1


def environment(device: torch.device) -> dict[str, Any]:
    """What the bits depend on besides settings and data: versions, processor, threads."""
    import numpy

    return {
        "fivestep": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "command": command(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def command() -> list[str]:
    """What was typed to start this process; [] where nothing tells, as in an interactive one."""
    if not sys.argv or not sys.argv[0]:
        return []
    called = ["python", "-m", "fivestep"] if sys.argv[0].endswith(os.path.join("fivestep", "__main__.py")) else [os.path.basename(sys.argv[0])]
    return [*called, *sys.argv[1:]]


def write(folder: Path, name: str, value: Any) -> None:
    files.write_atomic(folder / name, write_json(value))


def read(folder: Path, name: str, default: Any = None) -> Any:
    path = folder / name
    if not path.exists():
        return default
    return read_json(files.open_regular(path, 64_000_000), limit=64_000_000, what=str(path))


def read_settings(folder: Path) -> Settings:
    if not folder.is_dir():
        raise MissingInputError(f"There is no run at {folder}.")
    table = read(folder, "settings.json")
    if table is None:
        refuse_sweep(folder)
        raise MissingInputError(f"{folder} is no run folder: it holds no settings.json.")
    known = ("fit", "chosen", "data", "model")
    if not isinstance(table, dict) or (
        table.get("format") == FORMAT and (set(table) != {"format", *known} or not all(isinstance(table[key], dict) for key in known))
    ):
        raise ArtifactError(f"{folder / 'settings.json'} does not hold what fivestep writes there: it was damaged or changed.")
    return Settings.from_json(table)


def read_environment(folder: Path) -> dict[str, Any]:
    """What the bits of a run depend on, as `environment` wrote it; {} where nothing is known. Raises ArtifactError."""
    table = read(folder, "environment.json", {})
    kinds = {"threads": int, "inexact": list}
    if not isinstance(table, dict) or any(type(table.get(key, kind())) is not kind for key, kind in kinds.items()) or not 1 <= table.get("threads", 1) <= 4096:
        raise ArtifactError(f"{folder / 'environment.json'} does not hold what fivestep writes there: it was damaged or changed.")
    return table


def append_history(folder: Path, row: dict[str, Any]) -> None:
    """One more line of history.jsonl. Not synced to the disk line by line (13 ms an epoch): what a resumed run needs stands in its checkpoint."""
    files.append_line(folder / "history.jsonl", line_of(row))


def line_of(row: dict[str, Any]) -> bytes:
    """A row of history as a line of JSON, which has no word for NaN and infinity: null."""
    return write_json({key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}, indent=None)


def rewrite_history(folder: Path, rows: list[dict[str, Any]]) -> None:
    """history.jsonl cut back to what a checkpoint knows: no epoch stands there twice after a resume."""
    files.write_atomic(folder / "history.jsonl", b"".join(map(line_of, rows)))


def read_history(folder: Path) -> list[dict[str, Any]]:
    path = folder / "history.jsonl"
    if not path.exists():
        return []
    text = bytes(files.open_regular(path, 256_000_000))
    text = text[: text.rfind(b"\n") + 1]  # a last line that a kill cut off was never whole
    return [read_json(line, what=f"{path}, line {number}") for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def count_look(folder: Path | None, fingerprint: str, split: str, *, times: int = 1) -> int:
    """Count a look at a split under the fingerprint of data and split; returns how many there have been, this one included."""
    key = f"{fingerprint}/{split}"
    if folder is None:
        LOOKS_WITHOUT_FOLDER[key] = LOOKS_WITHOUT_FOLDER.get(key, 0) + times
        return LOOKS_WITHOUT_FOLDER[key]
    beside = folder.parent.parent if (folder.parent / "sweep.json").exists() else folder.parent  # a run of a sweep counts beside all other runs
    path = beside / "looks.jsonl"
    line = {
        "fingerprint": fingerprint,
        "split": split,
        "run": folder.name,
        "times": times,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    files.append_line_durably(path, write_json(line, indent=None).rstrip(b"\n"))
    return looks(beside, fingerprint, split)


def looks(parent: Path, fingerprint: str, split: str) -> int:
    """How often this split of this data has been scored, over all runs beside each other in `parent`."""
    path = parent / "looks.jsonl"
    if not path.exists():
        return 0
    rows = [
        read_json(line, what=f"{path}, line {number}")
        for number, line in enumerate(bytes(files.open_regular(path, 64_000_000)).splitlines(), 1)
        if line.strip()
    ]
    return sum(row.get("times", 1) for row in rows if row["fingerprint"] == fingerprint and row["split"] == split)


def refuse_sweep(folder: Path) -> None:
    """Raises MissingInputError where the folder is a sweep's, and names the run that its winner is."""
    if (folder / "sweep.json").exists():
        best = folder.with_name(f"{folder.name}-best")
        winner = f" Its winner is the run {best}." if best.is_dir() else ""
        raise MissingInputError(
            f"{folder} is the folder of a sweep, not of a run.{winner} A sweep goes on by the call or command that began it, in the same place."
        )
