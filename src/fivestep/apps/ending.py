"""How `fit` and `resume` end in the shell: scores on validation, the company beside them, the report, and where everything lies.

Enters: a finished run. Leaves: files in its folder and text on stdout. The decision that shaped it: the run's model is saved before any of this begins, so a
signal here loses nothing of the run; it is told by the run's name, and `resume` makes what is missing.
"""

from __future__ import annotations

import json
from pathlib import Path
from signal import Signals
from typing import Any

from fivestep.errors import Interrupted
from fivestep.terminal import print_lines


def end_run(run: Any, *, as_json: bool, own_model: str | None = None) -> None:
    """Score, write what belongs into the folder, and print. `own_model` is `--model FILE.py:CLASS` as it was typed. Raises Interrupted on a signal."""
    from fivestep.results import runs
    from fivestep.train.signals import StopSignal

    try:
        scores = run.evaluate("val" if run.splits.val is not None else "train")
        report = None
        if run.folder is not None:
            runs.write(run.folder, "scores.json", scores.to_json())
        company = company_of(run)
        if run.folder is not None:
            report = str(run.report())
    except StopSignal as stop:
        kept = f"Its model is saved; its scores and report are not all there: fivestep resume {run.folder} makes them." if run.folder else "Nothing is kept."
        raise Interrupted(f"Stopped by {Signals(stop.number).name} after training was done. {kept}", exit_code=128 + stop.number) from None
    if as_json:
        emit({"run": str(run.folder) if run.folder else None, "report": report, "scores": scores.to_json(), "company": company.to_json() if company else None,
              "epochs": len(run.history), "weights_sha256": run.weights_sha256, "findings": [finding.to_json() for finding in run.findings]})  # fmt: skip
        return
    print_scores(scores)
    if company is not None:
        print_lines(company)
    if run.folder is not None:
        print(f"\nrun    {run.folder}\nmodel  {run.folder}/model.fivestep\nreport {report}")
        own = f" --model {own_model}" if own_model else ""
        commands = [f"fivestep predict {run.folder} {'NEW.csv' if run.splits.columns is not None else 'IMAGES'} -o out.csv{own}"]
        if run.splits.test is not None:
            commands.append(f"fivestep evaluate {run.folder} --split test{own}")
        print("next   " + "\n       ".join(commands))


def has_ended(folder: Path) -> bool:
    """Whether all that `end_run` writes for every run is there."""
    return (folder / "scores.json").exists() and (folder / "report.html").exists()


def company_of(run: Any) -> Any:
    """Who else does how well on validation; None where there is nothing to compare (images, several labels, no validation rows)."""
    if (
        run.splits.val is None
        or run.splits.columns is None
        or run._predictor.decoding.task not in ("regression", "binary", "multiclass")
        or not run.can_predict
    ):
        return None
    return run.company("val")


def print_scores(scores: Any) -> None:
    from fivestep.watch import console

    console.print_scores(scores)


def emit(value: Any) -> None:
    print(json.dumps(value, allow_nan=False, default=str))
