"""Whether what stands on the disk is whole and belongs together: a run folder or an artifact, looked at without changing a byte of it.

Enters: a path. Leaves: findings P08 to P14, empty where all is sound (RELIABILITY P5). The decision that shaped it: it goes on after the first problem, and
asks what a reader would rely on (every byte of every checkpoint, that history has each epoch once, that artifact and checkpoints are of this very run), not
only whether files can be parsed. No lock is needed: a run that trains meanwhile may be verified.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fivestep import files, tensors
from fivestep.checks.findings import Finding
from fivestep.errors import FivestepError, MissingInputError
from fivestep.model import building, losses, models
from fivestep.model.optimizer_state import join_state
from fivestep.model.scores import Scores
from fivestep.quoting import printable
from fivestep.results import artifact as artifacts
from fivestep.results import runs
from fivestep.results.model import Model
from fivestep.settings import Settings
from fivestep.train import checkpoints

LOST = "What was lost cannot be told from what is left, so nothing of it is used."


def verify_path(path: Path) -> list[Finding]:
    """All problems of a run or an artifact, the severe ones first. Raises MissingInputError where there is neither."""
    if not os.path.lexists(path):
        raise MissingInputError(f"There is nothing at {printable(str(path), 300)}.")
    runs.refuse_sweep(path)
    found = verify_run(path) if (path / "settings.json").exists() or (path / "checkpoints").is_dir() else verify_artifact(path)
    return sorted(found, key=lambda finding: ("error", "warning", "note").index(finding.severity))


def verify_artifact(path: Path) -> list[Finding]:
    """Every byte against the manifest, the recipe against the weights, and for a built-in model its answers to the self-test rows."""
    problems = artifacts.verify_artifact(path, expected=models.expected_of_recipe)
    if not problems:
        problems = attempt(lambda: answers_as_saved(path))[1]
    return [
        Finding("P08", "error", problem, {"path": str(path)}, f"Its predictions could be anything. {LOST}", "Save it again from the run: fivestep resume RUN.")
        for problem in problems
    ]


def answers_as_saved(path: Path) -> None:
    """A built-in model is rebuilt and asked its self-test rows; a user's own needs its class, and nothing in an artifact is imported."""
    found = artifacts.read_artifact(path, expected=models.expected_of_recipe)
    if found.recipe.get("kind") == "built-in":
        Model.from_artifact(found)


def attempt(action: Callable[[], Any]) -> tuple[Any, list[str]]:
    """-> (what `action` returns or None, the problem in words where it was refused)."""
    try:
        return action(), []
    except (FivestepError, KeyError, TypeError, ValueError, AttributeError) as error:
        return None, [str(error) if isinstance(error, FivestepError) else f"it does not hold what it should: {type(error).__name__}: {error}"]


def verify_run(folder: Path) -> list[Finding]:
    """Settings, environment, findings, scores and history can be read, each checkpoint and the artifact are whole, and all are of one run."""
    found: list[Finding] = []

    def read(name: str, meaning: Callable[[Any], Any]) -> Any:
        """What a record file means; None where there is none or it is damaged, which is then told."""
        value, problems = attempt(lambda: runs.read(folder, name))
        if not problems and value is not None:
            value, problems = attempt(lambda: meaning(value))
        for problem in problems:
            text = problem if str(folder) in problem else f"{folder / name}: {problem}"
            found.append(Finding("P10", "error", text, {"path": str(folder / name)}, LOST, "Put it back from a copy."))
        return None if problems else value

    settings = read("settings.json", lambda _: runs.read_settings(folder))
    if settings is None and not found:
        found.append(Finding("P10", "error", f"{folder} holds no settings.json", {"path": str(folder)}, "Nobody can tell what was trained.", "Restore it."))
    environment = read("environment.json", lambda table: table["torch"] and runs.read_environment(folder))
    if environment is None and not (folder / "environment.json").exists():
        found.append(
            Finding(
                "P10", "error", f"{folder} holds no environment.json", {"path": str(folder)}, "Whether the bits can be had again is unknown.", "Restore it."
            )
        )
    read("findings.json", lambda table: [Finding.from_json(row) for row in table])
    read("scores.json", Scores.from_json)

    history, problems = attempt(lambda: runs.read_history(folder))
    problems += problems_of_history(history) if history is not None else []
    epochs = None if settings is None else settings.asked.get("epochs", settings.chosen.get("epochs"))
    if history and isinstance(epochs, int) and len(history) > epochs:
        problems.append(f"{len(history)} epochs stand in it, and the run was made for {epochs}")
    for problem in problems:
        text = problem if str(folder) in problem else f"{folder / 'history.jsonl'}: {problem}"
        found.append(Finding("P11", "error", text, {"path": str(folder / "history.jsonl")}, "Curves and the kept epoch are told wrong.", "fivestep resume RUN"))

    newest = verify_checkpoints(folder, settings, None if problems else history or [], found)
    artifact = folder / "model.fivestep"
    if artifact.exists():
        damage = verify_artifact(artifact)
        found += damage or belongs_to_run(artifact, settings)
    elif (weights := folder / "weights.safetensors").exists():
        for problem in attempt(lambda: tensors.load_state_dict_file(weights))[1]:
            found.append(Finding("P08", "error", problem, {"path": str(weights)}, LOST, "Save them again from the run."))
    elif newest is not None or not (folder / "checkpoints").exists():
        found.append(Finding("P13", "note", f"{folder} has not ended: it holds no model yet", {"path": str(folder)}, "", f"fivestep resume {folder}"))
    return found


def problems_of_history(rows: list[dict[str, Any]]) -> list[str]:
    """What is wrong with the lines of history.jsonl: each epoch must stand once and in order, and its step after the one before (RELIABILITY S7)."""
    told, step = [], 0
    for position, row in enumerate(rows, 1):
        if type(row.get("epoch")) is not int or type(row.get("step")) is not int:
            told.append(f"line {position} has no epoch or no step")
            break
        if row["epoch"] != position:
            known = row["epoch"] in {earlier.get("epoch") for earlier in rows[: position - 1]}
            told.append(f"line {position} is epoch {row['epoch']}: {'it stands there twice' if known else f'epoch {position} is missing'}")
            break
        if row["step"] < step:
            told.append(f"epoch {row['epoch']} ends at step {row['step']}, before the {step} of the epoch before it")
            break
        step = row["step"]
    return told


def verify_checkpoints(folder: Path, settings: Settings | None, history: list[dict[str, Any]] | None, found: list[Finding]) -> Path | None:
    """The newest valid checkpoint, with findings on all of them appended; None where there is none."""
    parent = folder / "checkpoints"
    if not parent.is_dir():
        return None
    newest: Path | None = None
    damaged = 0
    entries = sorted(parent.iterdir())
    for path in entries:
        if re.fullmatch(r"step-\d{12}", path.name):
            state, problems = attempt(lambda path=path: read_checkpoint(path))
            if problems and not os.path.lexists(path):
                continue  # the trainer has pruned it while we looked
            for problem in problems:
                damaged += 1
                found.append(
                    Finding(
                        "P09", "error", problem, {"path": str(path)}, "A resume passes over it and repeats the steps since the one before.", "None is needed."
                    )
                )
            if not problems:
                newest = path
                found += checkpoint_of_run(path, state, settings, history)
        elif re.fullmatch(r"step-\d{12}\.(bad(-\d+)?|(tmp|old)-\d+(-\d+)?)", path.name):
            kind = "was damaged and is kept aside" if ".bad" in path.name else "is what a writer left that was killed, or is writing now"
            found.append(Finding("P14", "note", f"{path} {kind}", {"path": str(path)}, "", "It may be deleted when no process works on the run."))
        else:
            found.append(Finding("P14", "note", f"{printable(str(path), 300)} was not written by fivestep", {"path": str(path)}, "", "Move it away."))
    if newest is None and entries:
        found.append(
            Finding(
                "P09", "error", f"{parent} holds no valid checkpoint ({damaged} damaged)", {"path": str(parent)}, "The run cannot go on.", "Start a new run."
            )
        )
    return newest


def read_checkpoint(path: Path) -> dict[str, Any]:
    """{"facts", "state"} of one checkpoint, every byte verified."""
    published = files.read_published(path, checkpoints.FILES, limits={"state.json": checkpoints.LIMIT})
    state = join_state(*checkpoints.parsed(published))
    step = int(path.name.removeprefix(checkpoints.PREFIX))
    if published.facts.get("step") != step or state["step"] != step:
        raise files.ArtifactError(f"{path} was written as step {published.facts.get('step')}, its state is of step {state['step']}")
    return {"facts": published.facts, "state": state}


def checkpoint_of_run(path: Path, read: dict[str, Any], settings: Settings | None, history: list[dict[str, Any]] | None) -> list[Finding]:
    """Findings where a checkpoint is whole but of another run: other settings, other data, or a past that history.jsonl does not tell."""
    facts, told = read["facts"], []
    if settings is not None and facts.get("settings") != checkpoints.settings_hash(settings.to_json()):
        told.append("was made with other settings than settings.json tells")
    if settings is not None and facts.get("data") != settings.data.get("fingerprint"):
        told.append("was made on other data than settings.json tells")
    rows = read["state"]["history"]
    if history is not None and [comparable(row) for row in rows] != [comparable(row) for row in history[: len(rows)]]:
        told.append(f"knows {len(rows)} epochs, and history.jsonl tells them differently")
    return [
        Finding("P12", "error", f"{path} {reason}", {"path": str(path)}, "Going on from it would mix two runs.", "Put back the file that belongs to it.")
        for reason in told
    ]


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    """A row of history without what may differ: how long it took, and numbers that JSON has no word for."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items() if key != "seconds"}


def belongs_to_run(path: Path, settings: Settings | None) -> list[Finding]:
    """Findings where a sound artifact lies in the folder of a run that did not make it."""
    found, problems = attempt(lambda: artifacts.read_artifact(path))
    told = list(problems)
    if found is not None:
        weights = building.parameter_hash({name: tensor for name, tensor in found.state.items() if not name.startswith(losses.LOSS_PREFIX)})
        if found.facts.get("weights_sha256") != weights:
            told.append("its weights are not those whose hash it tells")
        if settings is not None and found.facts.get("data_fingerprint") != settings.data.get("fingerprint"):
            told.append("it was trained on other data than settings.json tells")
    return [
        Finding("P12", "error", f"{path}: {reason}", {"path": str(path)}, "The scores of this run are not those of this model.", "Save it again from the run.")
        for reason in told
    ]
