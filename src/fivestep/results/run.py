"""`Run`: what `fit` returns, a trained model with its splits, history, findings and folder; and `RunWithoutData`, whose data cannot be read again.

Enters: what a session was made of and what its training left. Leaves: scores, predictions, plots, a report, a script, an artifact. The decision that shaped it: a
run is a `Model` that knows its splits, and predicts and scores through the same `Predictor` as the artifact that it saves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fivestep.data.batches import map_tensors, tensors_of
from fivestep.data.data import Part, Splits
from fivestep.errors import UsageError
from fivestep.model import building, calibration
from fivestep.model import metrics as scoring
from fivestep.results import runs
from fivestep.results.facts import predictor_output
from fivestep.results.model import RAW, Model
from fivestep.results.predictor import ArrayRows, Predictor, as_array
from fivestep.settings import Settings
from fivestep.tensors import to_names

if TYPE_CHECKING:
    from fivestep.results.company import Company

SELF_TEST_ROWS = 8


class Run(Model):
    """A finished training: `.model`, `.history`, `.findings`, `.settings`, `.folder`; `evaluate`, `predict`, `plot`, `save`."""

    def __init__(
        self,
        predictor: Predictor,
        *,
        splits: Splits,
        history: list[dict[str, Any]],
        settings: Settings,
        findings: list[Any],
        folder: Path | None,
        task: str | None,
        metrics: Any,
        recipe: dict[str, Any],
        encoded: dict[str, Any],
        targets_in_unit: Callable[[str], Tensor | None],
        seed: int,
        watched_test: int,
        evaluate_loss: Callable[[str], float | tuple[Tensor, Tensor] | None],
        can_predict: bool = True,
        checks: Any = None,
        prepared: Any = None,
        may_be_infinite: frozenset[str] | None = None,
    ):
        super().__init__(predictor, task=task, recipe=recipe)
        self.splits, self.history, self.settings, self.findings, self.folder = splits, history, settings, findings, folder
        self._metrics, self._encoded, self._targets, self._seed, self._watched_test = metrics, encoded, targets_in_unit, seed, watched_test
        self._evaluate_loss, self.can_predict, self._checks, self._may_be_infinite = evaluate_loss, can_predict, checks, may_be_infinite
        self._scored: dict[tuple[str, str], scoring.Scores] = {}  # the task's own scores, by split and weights
        self._looked_at: set[str] = set()
        self._prepared = prepared  # everything the run was made from, for `eject`
        self.facts = {
            "rows": {name: len(source) for name, source in encoded.items()},
            "kind": splits.train.data.kind,
            "data_fingerprint": splits.fingerprint,
            "output": predictor_output(settings.asked.get("output")),
            "model_facts": {"num_inputs": splits.num_inputs, "num_outputs": splits.num_outputs, "num_categories": splits.num_categories},
            "precision": settings.asked.get("precision", "float32"),
            "weights_sha256": building.parameter_hash(predictor.module.state_dict()),
        }

    @property
    def _target_unit(self) -> str:
        data = self.splits.train.data
        return data.unit(data.target_names[0]) if self._predictor.decoding.task == "regression" and len(data.target_names) == 1 else ""

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights: two runs that ended in the same bits have the same."""
        return building.parameter_hash(self.model.state_dict())

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of history whose weights are kept."""
        rows = [row for row in self.history if row.get("best")]
        return (rows[-1] if rows and self.settings.chosen.get("keep") == "best" else self.history[-1]) if self.history else None

    def evaluate(self, split_or_data: Any = "val", *, metrics: Any = None) -> scoring.Scores:
        """Scores on a split ("train", "val", "test") or on other data, each with its 95 % interval beside a no-skill baseline.

        `metrics` is a name, a function `f(outputs, targets) -> number`, a list of them, or a dict that names them: `{"within 3": f}`; None is what `fit` was
        given, else the task's own. Looking at "test" is counted beside all runs on the same data and split; the count is shown with the score.
        """
        metrics = self._metrics if metrics is None else metrics
        if isinstance(split_or_data, Part):
            split_or_data = split_or_data.name
        if not isinstance(split_or_data, str) or split_or_data not in ("train", "val", "test"):
            return super().evaluate(split_or_data, metrics=metrics)
        name = split_or_data
        part = self.splits.part(name)
        self._looked_at.add(name)
        if self._checks is not None and self._targets(name) is not None and self.can_predict:
            self._add_findings(self._checks.scores(name, self._predictor.outputs(self._encoded[name]), self._targets(name)))
        scores = self.evaluate_part(
            self.splits, part, folder=self.folder, source=self._encoded[name], targets=self._targets(name), train_targets=self._targets("train"),
            loss=self._evaluate_loss(name), metrics=metrics, seed=self._seed,
        )  # fmt: skip
        if getattr(self._encoded[name], "weights", None) is not None:
            told = "rows have weights: the loss is their weighted mean, as in training; the other scores count each row once"
            scores = replace_fields(scores, notes=(*scores.notes, told))
        if metrics is self._metrics:
            self._scored[name, self.weights_sha256] = scores
        return scores

    def scored(self, split: str) -> scoring.Scores:
        """The scores of "train" or "val" with the weights as they are: those that `evaluate` gave, else taken now. For "test" see `looked`."""
        if split == "test":
            raise UsageError('A look at the test split is asked for by name: run.evaluate("test").')
        return self._scored.get((split, self.weights_sha256)) or self.evaluate(split)

    def looked(self) -> tuple[int, scoring.Scores | None]:
        """(how often the test split has been looked at, its scores if they were taken with these weights). Looks at nothing itself."""
        known = self._scored.get(("test", self.weights_sha256))
        if self.folder is None:
            return runs.LOOKS_WITHOUT_FOLDER.get(f"{self.splits.fingerprint}/test", 0), known
        kept = None if known is not None else runs.read(self.folder, "scores_test.json")
        if kept is not None and kept["weights_sha256"] == self.weights_sha256:
            known = scoring.Scores.from_json(kept["scores"])
        return runs.looks(self.folder.parent, self.splits.fingerprint, "test"), known

    def predict(self, rows_or_split: Any = "test", *, probabilities: bool = False, spread: bool = False) -> Any:
        """Predictions for new rows, or for a split by its name (a tensor or array of labels, in the split's order).

        `probabilities=True`, for classes, gives an array (n, classes) in the order of `classes`; of new rows of a table the columns `probability_<class>`
        beside the label. `spread=True` adds how far the members of an ensemble disagree: see `Model.predict`.
        """
        if isinstance(rows_or_split, Part):
            rows_or_split = rows_or_split.name
        if isinstance(rows_or_split, str) and rows_or_split in ("train", "val", "test"):
            self.splits.part(rows_or_split)
            source = self._encoded[rows_or_split]
            predicted = as_array(self._predictor.decode(self._predictor.outputs(source), probabilities=probabilities))
            return (predicted, self._predictor.spread(source)) if spread else predicted
        if self._checks is not None:
            self._add_findings(self._checks.prediction(rows_or_split))
        return super().predict(rows_or_split, probabilities=probabilities, spread=spread)

    def company(self, split: str = "val") -> Company:
        """A linear model and, where scikit-learn is installed, boosted trees on the same rows and columns, beside this model's error: who does better is named.

        For tables of classes or numbers; "test" only after `evaluate("test")`. Costs seconds at most. What was found on validation rows is kept in the run's
        folder (`company.json`), and a report that is written then shows it. Raises UsageError.
        """
        from fivestep.results.company import company

        found = company(self, split)
        if self.folder is not None and split == "val":
            runs.write(self.folder, "company.json", found.to_json() | {"weights_sha256": self.weights_sha256})
        return found

    def _known_company(self) -> Company | None:
        """The company on validation rows as `company()` found it for these weights; None where it was not asked for."""
        from fivestep.results.company import Company

        kept = runs.read(self.folder, "company.json", {}) if self.folder is not None else {}
        return Company.from_json(kept) if kept.get("weights_sha256") == self.weights_sha256 else None

    def _add_findings(self, found: list[Any]) -> None:
        self.findings += [finding for finding in found if finding.code not in {known.code for known in self.findings}]

    def _infinite_buffers(self) -> frozenset[str]:
        """Those that held infinities before the first step; what training made infinite is never saved."""
        return super()._infinite_buffers() if self._may_be_infinite is None else self._may_be_infinite

    def calibrate(self) -> float:
        """Fit a temperature on validation and keep it where it helps; returns it (1.0: left as it was)."""
        targets = self._targets("val")
        decoding = self._predictor.decoding
        if targets is None or decoding.task is None or decoding.head not in ("softmax", "sigmoid"):
            return 1.0
        logits = self._predictor.after_head(self._predictor.outputs(self._encoded["val"]))
        if not isinstance(logits, Tensor) or logits.dim() > 2:
            return 1.0
        temperature = float(calibration.fit_temperature(logits, targets.long().flatten(), decoding.task))
        if temperature != 1.0:
            self._predictor = replace_fields(self._predictor, decoding=replace_fields(decoding, temperature=temperature))
        return temperature

    def _self_test_rows(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        source = self._encoded["train"]
        rows = torch.arange(min(len(source), SELF_TEST_ROWS))
        inputs = map_tensors(lambda tensor: tensor.to(self._predictor.dtype) if tensor.is_floating_point() else tensor, source.take(rows)[0])
        if not all(tensor.dim() for tensor in tensors_of(inputs)) or not tensors_of(inputs):
            return {}, {}
        named, outputs = to_names(inputs), to_names(self._predictor.outputs(ArrayRows(inputs)))
        if self._predictor.columns is not None:
            numbers, codes = self._predictor.columns.raw(self.splits.train.data.typed.take(self.splits.train.indices[: len(rows)].numpy()))
            raw = {RAW + "numbers": numbers.nan_to_num(0.0), RAW + "missing": numbers.isnan(), RAW + "codes": codes}
            named, outputs = named | raw, outputs | self._final_values(raw)
        return named, outputs

    def _card(self) -> str:
        best = self.best or {}
        lines = [
            f"# {type(self.model).__name__}, trained with fivestep",
            "",
            f"- task: {self._predictor.decoding.task}; data: {self.splits.train.data.origin}",
            f"- rows: {', '.join(f'{name} {count:,}' for name, count in self.facts['rows'].items())}",
            f"- epochs run: {len(self.history)}; kept: epoch {best.get('epoch')}, training loss {best.get('train_loss')}, validation loss {best.get('val_loss')}",
            f"- weights SHA-256: {self.facts['weights_sha256']}",
            "",
            "Checksums in MANIFEST.json prove that nothing changed by accident, not who made it.",
            'Load: `fivestep predict MODEL new.csv -o out.csv`, or in Python `fivestep.load("model.fivestep")`.',
            "",
        ]
        return "\n".join(lines)

    def eject(self, path: str | Path) -> list[Path]:
        """Write the run as one readable script of plain PyTorch; returns its path and those of the files beside it (arrays, your module, first weights).

        The script needs torch and the table reader, not fivestep, and on the CPU it ends in the same weights, bit for bit: it prints their SHA-256.
        Raises SettingsError for what cannot be written so (a lambda, a Dataset object), CannotCreateError where a file is in the way. For example
        `run.eject("train.py")`; in examples/eject_and_compare.py the script is run, too.
        """
        from fivestep.results.eject import eject

        return eject(self._prepared, path, weights_sha256=self.facts["weights_sha256"], folder=self.folder)

    def plot(self, kind: str = "loss") -> Any:
        """A matplotlib figure: "loss", "predictions", "residuals", "confusion", "roc", "precision_recall", "calibration", "importance" or "boundary".

        All but "loss" are drawn from validation rows (training rows where there are none). A kind that this task does not have is a UsageError.
        """
        from fivestep.watch import plots

        return plots.plot_run(self, kind)

    def report(self, path: str | Path | None = None) -> Path:
        """Write one self-contained HTML file that tells what was trained, how good it is and where it errs; returns its path.

        `path` is a file, or a folder that gets a report.html; without one it is the run's own folder. The test split is not scored for it: its scores stand
        there if `evaluate("test")` was asked for before, with the number of looks.
        """
        from fivestep.results import report

        return report.write(self, path)

    def __repr__(self) -> str:
        rows = self.history
        text = f"Run: {type(self.model).__name__}, {len(rows)} epochs"
        if self.best:
            text += f", kept epoch {self.best['epoch']}: training loss {self.best['train_loss']:.6g}"
            text += f", validation loss {self.best['val_loss']:.6g}" if "val_loss" in self.best else ""
        loud = [finding for finding in self.findings if finding.severity != "note"]
        text += f"; findings: {', '.join(finding.code for finding in loud)}" if loud else ""
        return text + (f"\n  folder {self.folder}" if self.folder else "")

    def _repr_html_(self) -> str:
        from fivestep import displays
        from fivestep.checks.findings import Findings

        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        facts: list[tuple[str, Any]] = [("model", f"{type(self.model).__name__}, {parameters:,} parameters"), ("epochs", len(self.history))]
        best = self.best
        if best is not None:
            facts += [("kept epoch", best["epoch"])]
            facts += [
                (key.replace("_loss", " loss").replace("val ", "validation ").replace("train ", "training "), best[key])
                for key in ("train_loss", "val_loss")
                if key in best
            ]
        if self.folder is not None:
            facts.append(("folder", self.folder))
        loud = Findings(finding for finding in self.findings if finding.severity != "note")
        picture = displays.curves(self.history, best=best["epoch"] if best is not None else None)
        return f"<div>{displays.table(facts, caption='Run')}{picture}{loud._repr_html_() if loud else ''}</div>"


class RunWithoutData(Run):
    """A finished run whose data cannot be read again: it predicts and scores rows that it is given, and says of anything else why it cannot.

    `why` is the reason, with the way on.
    """

    def __init__(
        self, model: Model, why: str, *, history: list[dict[str, Any]], settings: Settings, findings: list[Any], folder: Path, self_test: tuple[Any, Any]
    ):
        Model.__init__(self, model._predictor, task=model._task, recipe=model._recipe, facts=model.facts)
        self.history, self.settings, self.findings, self.folder = history, settings, findings, folder
        self.why, self._kept_self_test = why, self_test
        self._metrics = self._checks = self._may_be_infinite = None

    @property
    def splits(self) -> Any:  # type: ignore[override]
        """There are none: UsageError, with the reason."""
        raise UsageError(f"This run was loaded without its data. {self.why}")

    @property
    def _target_unit(self) -> str:
        return ""

    def predict(self, rows_or_split: Any = "test", *, probabilities: bool = False, spread: bool = False) -> Any:
        """Predictions for new rows; a split by its name is a UsageError."""
        if isinstance(rows_or_split, str) and rows_or_split in ("train", "val", "test"):
            return self.splits
        return Model.predict(self, rows_or_split, probabilities=probabilities, spread=spread)

    def calibrate(self) -> float:
        """Validation rows are needed: UsageError."""
        return self.splits

    def eject(self, path: str | Path) -> list[Path]:
        """The data is needed: UsageError."""
        return self.splits

    def report(self, path: str | Path | None = None) -> Path:
        """The data is needed: UsageError."""
        return self.splits

    def plot(self, kind: str = "loss") -> Any:
        """A matplotlib figure of the losses; what needs the data is a UsageError."""
        return super().plot(kind) if kind == "loss" else self.splits

    def _self_test_rows(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return self._kept_self_test

    def _card(self) -> str:
        return Model._card(self)

    def __repr__(self) -> str:
        return super().__repr__() + f"\n  without its data: {self.why}"
