"""What `fit` and `load` return: a trained model with its scores, predictions and way to the disk.

`Run` knows its splits and history, `Model` only what the artifact holds; both predict and evaluate through the same `Predictor`.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fivestep.data.batches import map_tensors, tensors_of
from fivestep.data.data import Data, Part, Splits
from fivestep.errors import ArtifactError, CannotCreateError, DataError, SettingsError, UsageError
from fivestep.model import building, calibration, models
from fivestep.model import metrics as scoring
from fivestep.model.decoding import Decoding, head_from_json, head_to_json
from fivestep.model.losses import LOSS_PREFIX
from fivestep.results import artifact as artifacts
from fivestep.results import runs
from fivestep.results.predictor import ArrayRows, Predictor, as_array, as_container, as_source
from fivestep.settings import Settings
from fivestep.strict_json import write_json
from fivestep.train import loop
from fivestep.train import precision as precisions
from fivestep.train.epochs import infinite_by_design

if TYPE_CHECKING:
    from fivestep.results.company import Company

SELF_TEST_ROWS = 8
LARGEST_BLOCK = 65_536  # rows that a prediction is padded to: a number in an artifact must not be able to fill the memory
FUNCTION = "(a function)"
RAW = "raw."  # before the names of the self-test's rows as a table gives them
WHAT_WRONG_CONTENTS_RAISE = (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError, ZeroDivisionError, NotImplementedError)


class Model:
    """A trained model that was loaded: `predict`, `evaluate`, `full_model`; `model` is the module itself."""

    can_predict = True  # whether forward takes the training rows: not so for a GAN, whose `step=` calls its parts itself

    def __init__(self, predictor: Predictor, *, task: str | None, recipe: dict[str, Any], facts: dict[str, Any] | None = None):
        self._predictor, self._task, self._recipe, self.facts = predictor, task, recipe, facts or {}
        self._stored_rows: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}  # the self-test of the artifact it was loaded from

    @classmethod
    def from_artifact(cls, found: Any, model: Any = None) -> Model:
        """Build the module (a built-in by its recipe, else the caller's), load the weights, and let the self-test rows prove it (A9)."""
        from fivestep.data.columns import Columns

        recipe = found.recipe
        if recipe.get("kind") == "built-in" and model is None:
            module = models.build_built_in(recipe["name"], recipe["args"])
        elif model is None:
            raise UsageError(
                f"This artifact holds the weights of {recipe.get('qualname') or recipe.get('class') or 'a model of yours'}, and nothing in an artifact is executed. "
                "Give the class or an instance: fs.load(path, model=Net) or fs.load(path, model=Net(13)); in the shell --model mine.py:Net."
            )
        else:
            args = recipe.get("args", {}) if recipe.get("kind") == "import" else {}
            facts = {key: value for key, value in asked_of(found.facts, "model_facts", dict).items() if value is not None}
            module = model if isinstance(model, nn.Module) else building.build_model(model, args, facts=facts, seed=0).module
        head = None if found.facts.get("head") is None else head_from_json(found.facts["head"])
        try:
            initialise_lazy(module, found.self_test[0])
            module.load_state_dict({name: tensor for name, tensor in found.state.items() if head is None or not name.startswith(LOSS_PREFIX)})
            if head is not None:
                own = {name.removeprefix(LOSS_PREFIX): tensor for name, tensor in found.state.items() if name.startswith(LOSS_PREFIX)}
                head.load_state_dict(own, assign=True)
        except (RuntimeError, KeyError) as error:
            raise ArtifactError(f"The weights do not fit this model: {error}") from error
        dtype = next((tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()), torch.float32)
        pick = pick_of(found.facts.get("output"))
        try:
            columns = None if found.columns is None else Columns.from_json(found.columns)
            decoding = Decoding.from_json(found.decoding)
            autocast = precisions.autocast(asked_of(found.facts, "precision", str), torch.device("cpu"))
            predictor = Predictor(module.eval(), decoding, columns, block_of(found.facts), pick, head, autocast, dtype)
            loaded = cls(predictor, task=decoding.task, recipe=recipe, facts=found.facts)
            loaded._self_test(*found.self_test)
            if found.facts.get("description_sha256") != description_digest(found.columns, found.decoding):
                raise ArtifactError(f"{found.path}: its columns and classes are not those that its weights were saved with")
        except (SettingsError, *WHAT_WRONG_CONTENTS_RAISE) as error:
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError(f"{found.path} does not hold what it should: {type(error).__name__}: {error}") from error
        loaded._stored_rows = found.self_test
        return loaded

    def _self_test(self, inputs: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
        """The stored rows give the stored outputs; of a table also the raw rows the final values, through columns and decoding."""
        raw = {name: tensor for name, tensor in inputs.items() if name.startswith(RAW)}
        inputs = {name: tensor for name, tensor in inputs.items() if not name.startswith(RAW)}
        if not inputs or (self._predictor.columns is not None) != bool(raw):
            raise ArtifactError("The artifact holds no self-test rows, so nothing shows that it answers as it did.")
        outputs = self._predictor.outputs(ArrayRows(from_names(inputs)))
        found = to_names(outputs)
        if raw:
            found |= self._final_values(raw)
        told = artifacts.self_test_passes(found, expected)
        if not told:
            raise ArtifactError(f"On the self-test rows {told.message}")
        classes = self._predictor.decoding.classes
        if classes is not None and self._predictor.decoding.task in ("binary", "multiclass"):
            probabilities = self._predictor.decode(outputs, probabilities=True)
            if probabilities.shape[1] != len(classes):
                raise ArtifactError(f"The model tells {probabilities.shape[1]} classes apart, and the artifact names {len(classes)}.")

    def _final_values(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """What raw rows of a table give in the end: values in the target's unit, or probabilities."""
        numbers = raw[RAW + "numbers"].masked_fill(raw[RAW + "missing"], torch.nan)  # files hold no NaN
        outputs = self._predictor.outputs(ArrayRows(self._predictor.columns.encoder()(numbers, raw[RAW + "codes"])))
        classed = self._predictor.decoding.task in ("binary", "multiclass", "multilabel")
        return {RAW + "values": torch.as_tensor(self._predictor.decode(outputs, probabilities=classed)).detach().cpu().contiguous()}

    @property
    def model(self) -> nn.Module:
        """The user's own module, trained."""
        return self._predictor.module

    @property
    def _target_unit(self) -> str:
        """The unit of the one target as `Data.table(units=)` told it; "" where it is not known, as of a model that came without its data."""
        return ""

    @property
    def full_model(self) -> nn.Module:
        """Columns, model and decoding as one module: raw tensors in, values in the target's unit or probabilities out."""
        return self._predictor.full_model()

    @property
    def classes(self) -> tuple[Any, ...] | None:
        return self._predictor.decoding.classes

    def predict(self, rows: Any, *, probabilities: bool = False, spread: bool = False) -> Any:
        """Predictions in the target's unit or label names, in input order, on the CPU, in the kind of container given (a path gives a polars frame).

        `spread=True` adds how far the members of an ensemble disagree, as a standard deviation in the target's unit or of the probability: columns of a table's
        predictions, else `(predictions, spread)`. Rows far outside of what training has seen, and predictions beyond its targets, are counted in a warning.
        A model of images takes the path of a file or a folder too, and names each `file` beside its prediction.
        """
        if self.facts.get("kind") == "images" and isinstance(rows, (str, Path)):
            named, notes = self.predict_files(rows, probabilities=probabilities, spread=spread)
            for note in notes:
                warnings.warn(note, stacklevel=2)
            return as_container(named, rows)
        rows = self._as_trained(rows)
        if self._predictor.columns is None:
            return self._predictor.predict(rows, probabilities=probabilities, spread=spread)
        predicted, notes = self._predictor.predict_table(rows, probabilities=probabilities, spread=spread)
        for note in notes:
            if "far outside of what training has seen" in note or "outside of the training targets" in note:
                warnings.warn(note, stacklevel=2)
        return predicted

    def predict_files(self, path: str | Path, *, probabilities: bool = False, spread: bool = False) -> tuple[dict[str, Any], list[str]]:
        """Predictions for one image, or all in and below a folder, as named columns (`file`, relative to the folder, first), and notes on what was resized."""
        from fivestep.data.images import new_images
        from fivestep.data.sources import DatasetSource

        dataset, notes = new_images(path, *self._image_shape())
        predicted = self._predictor.named(DatasetSource(dataset), ("prediction",), probabilities=probabilities, spread=spread)
        return {"file": np.array(dataset.scan.paths, dtype=object), **predicted}, notes

    def _image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images that the model was trained on, as its self-test rows have them."""
        _, channels, height, width = next(iter(self._self_test_rows()[0].values())).shape
        return channels, height, width

    def _as_trained(self, rows: Any) -> Any:
        """Rows as the training data was made of such rows: images get their channel axis and 0..1, a `Data` gives its table or Source."""
        if isinstance(rows, Data):
            return rows.typed if rows.kind == "table" else rows.source
        if self.facts.get("kind") == "images" and (isinstance(rows, Tensor) or hasattr(rows, "__array__")):
            from fivestep.data.images import image_arrays

            images = image_arrays(rows)[0]
            return images if isinstance(rows, Tensor) else images.numpy()
        return rows

    def evaluate(self, data: Any, *, metrics: Any = None) -> scoring.Scores:
        """Scores with 95 % intervals on rows whose targets are known: a path or frame for tables, a folder of images with one folder per class,
        a `Data`, or `(inputs, targets)`. Labels are matched by their names; one that training had not is a DataError."""
        from fivestep.data.images import folder_source

        predictor = self._predictor
        if predictor.columns is not None:
            table = data.typed if isinstance(data, Data) else predictor.columns.read(data)
            source: Any = ArrayRows(predictor.columns.encode(table))
            targets = predictor.columns.targets(table)
        else:
            if self.facts.get("kind") == "images" and isinstance(data, (str, Path)):
                channels, height, width = self._image_shape()
                source, classes, _ = folder_source(data, size=(height, width), channels=channels)
                data = Data("images", str(data), source=source, classes=classes)
            elif isinstance(data, (tuple, list)) and len(data) == 2:
                data = Data.arrays(self._as_trained(data[0]), data[1])
            source = data.numbered_as(predictor.decoding.classes).source if isinstance(data, Data) else as_source(data)[0]
            targets = source.targets[0] if getattr(source, "targets", ()) else None
        if targets is None:
            raise UsageError("evaluate needs rows whose targets are known: (inputs, targets), or a table with the target's column.")
        scores = self._score(predictor.outputs(source), targets, metrics, split="data")
        return scores if predictor.columns is None else replace_fields(scores, notes=(*scores.notes, *predictor.columns.far_from_training(table)))

    def evaluate_part(
        self,
        splits: Splits,
        part: Part,
        *,
        folder: Path | None,
        source: Any = None,
        targets: Tensor | None = None,
        train_targets: Tensor | None = None,
        loss: float | tuple[Tensor, Tensor] | None = None,
        metrics: Any = None,
        seed: int = 0,
    ) -> scoring.Scores:
        """Scores on the rows of one split; a look at "test" is counted beside all runs on the same data and split."""
        columns = self._predictor.columns
        if source is None and columns is not None:
            source = ArrayRows(columns.encode(part.data.typed, part.indices.numpy()))
            targets = columns.targets(part.data.typed, part.indices.numpy())
            train_targets = columns.targets(splits.train.data.typed, splits.train.indices.numpy())
        elif source is None:
            inputs, found, _ = part.data.source.take(part.indices)
            source, targets = ArrayRows(inputs), found[0]
            train_targets = splits.train.data.source.take(splits.train.indices)[1][0]
        looks = runs.count_look(folder, splits.fingerprint, "test") if part.name == "test" else None
        if targets is None:
            return replace_fields(scoring.score(None, None, torch.zeros(len(part)), loss=loss, split=part.name), looks=looks)
        scores = self._score(
            self._predictor.outputs(source),
            targets,
            metrics,
            split=part.name,
            loss=loss,
            groups=group_codes(splits.values_of(splits.group, part)),
            blocks_of_time=time_order(splits.values_of(splits.time, part)),
            train_targets=train_targets,
            seed=seed,
        )
        far = () if columns is None else columns.far_from_training(part.data.typed, part.indices.numpy())
        scores = replace_fields(scores, looks=looks, notes=(*scores.notes, *far))
        if part.name == "test" and folder is not None:  # a report shows them without another look
            runs.write(folder, "scores_test.json", {"weights_sha256": building.parameter_hash(self.model.state_dict()), "scores": scores.to_json()})
        return scores

    def _score(self, outputs: Any, targets: Any, metrics: Any, *, split: str, **more: Any) -> scoring.Scores:
        decoding = self._predictor.decoding
        classed = decoding.task in ("binary", "multiclass", "multilabel")
        predictions = self._predictor.decode(outputs, probabilities=classed) if decoding.task else None
        if predictions is not None and not classed and isinstance(targets, Tensor) and predictions.numel() == targets.numel():
            predictions = predictions.reshape(targets.shape)
        as_stored = targets  # a function of the user's gets them as in training: (n,) beside outputs of (n, 1) would broadcast in it
        if decoding.task in ("binary", "multiclass") and isinstance(targets, Tensor):
            targets = targets.long().flatten() if targets.numel() == len(targets) else targets.long()
            if predictions is not None and predictions.dim() > 2 and more.get("groups") is None and more.get("blocks_of_time") is None:
                # Labels of a sequence or a picture: (n, classes, places) become rows, and an interval draws whole examples again.
                more["groups"] = torch.arange(len(targets)).repeat_interleave(targets[0].numel())
                predictions, targets, outputs, as_stored = predictions.movedim(1, -1).flatten(0, -2), targets.flatten(), None, None
                if isinstance(more.get("loss"), tuple):
                    more["loss"] = float(more["loss"][0].sum() / more["loss"][1].sum())
                if isinstance(more.get("train_targets"), Tensor):
                    more["train_targets"] = more["train_targets"].long().flatten()
        try:
            scores = scoring.score(
                decoding.task,
                predictions,
                targets,
                metrics=metrics,
                outputs=self._predictor.outputs_in_unit(outputs),
                as_stored=as_stored,
                classes=decoding.classes,
                unit=self._target_unit or None,
                split=split,
                **more,
            )
            if decoding.temperature == 1.0 or "loss" not in scores:
                return scores
            told = f"probabilities: of the outputs divided by {decoding.temperature:.3g} (a temperature fitted on validation rows); the loss is of the outputs as they are"
            return replace_fields(scores, notes=(*scores.notes, told))
        except (UsageError, DataError) as error:
            if metrics is not None or more.get("loss") is None:
                raise
            # Quantile heads, contrastive outputs, void labels: what the model puts out is no prediction of the target, so the loss alone is scored, and said.
            alone = scoring.score(None, None, torch.zeros(len(targets)), loss=more["loss"], split=split)
            return replace_fields(alone, notes=(*alone.notes, f"the task's own metrics do not apply: {error}"))

    def save(self, path: str | Path, *, replace: bool = False) -> Path:
        """Write the artifact (a folder); or the plain `state_dict` where the path ends in .pt, .pth or .safetensors.

        Where the loss holds the last layer (AdaptiveLogSoftmaxWithLoss), that layer's weights stand beside the model's, their names after `loss:`.
        """
        path = Path(path)
        if not self.can_predict and path.suffix not in (".pt", ".pth", ".safetensors"):
            raise UsageError(
                f"An artifact proves its predictions when it is loaded, and this model's forward does not take the training rows (a GAN's step=?). Save the "
                f"plain weights: run.save({path.stem!r} + '.safetensors')."
            )
        predictor = self._predictor
        state = {name: tensor.detach().cpu() for name, tensor in self.model.state_dict().items()}
        if predictor.head is not None:
            state |= {LOSS_PREFIX + name: tensor.detach().cpu() for name, tensor in predictor.head.state_dict().items()}
        if path.suffix in (".pt", ".pth", ".safetensors"):
            return artifacts.save_state_dict(path, state, replace=replace)
        if path.exists() and not replace and not (path / "artifact.json").exists():
            raise CannotCreateError(f"{path} exists and is no artifact; it is not overwritten. Choose another path.")
        columns = predictor.columns.to_json() if predictor.columns is not None else None
        facts = dict(self.facts) | {"block": predictor.block, "description_sha256": description_digest(columns, predictor.decoding.to_json())}
        if predictor.head is not None:
            facts["head"] = head_to_json(predictor.head)
        return artifacts.save_artifact(
            path,
            recipe=self._recipe,
            state=state,
            columns=columns,
            decoding=predictor.decoding.to_json(),
            self_test=self._self_test_rows(),
            facts=facts,
            card=self._card(),
            may_be_infinite=self._infinite_buffers() & set(state),
            replace=replace,
        )

    def _infinite_buffers(self) -> frozenset[str]:
        """Buffers that hold infinities by design; of a loaded model all that do, as they were accepted when it was saved."""
        return infinite_by_design(self.model)

    def _self_test_rows(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return self._stored_rows

    def _card(self) -> str:
        return "# A model trained with fivestep\n"

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return f"Model: {type(self.model).__name__} with {parameters:,} parameters, task {self._predictor.decoding.task}"

    def _repr_html_(self) -> str:
        from fivestep import displays

        return f"<div><b>{displays.text(repr(self))}</b></div>"


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

        Looking at "test" is counted beside all runs on the same data and split; the count is shown with the score.
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
        """Predictions for new rows, or for a split by its name (a tensor or array of labels, in the split's order)."""
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
        from fivestep.results.runs import write

        found = company(self, split)
        if self.folder is not None and split == "val":
            write(self.folder, "company.json", found.to_json() | {"weights_sha256": self.weights_sha256})
        return found

    def _known_company(self) -> Company | None:
        """The company on validation rows as `company()` found it for these weights; None where it was not asked for."""
        from fivestep.results import runs
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


def group_codes(values: Any) -> Any:
    """Any group labels as int64 codes."""
    if values is None:
        return None
    import numpy

    return torch.as_tensor(numpy.unique(numpy.asarray(values), return_inverse=True)[1].astype("int64"))


def time_order(values: Any) -> Tensor | None:
    """Times of any kind as int64 ranks, for resampling in blocks."""
    return group_codes(values)


def initialise_lazy(module: nn.Module, inputs: dict[str, Tensor]) -> None:
    """A lazy module gets its shapes from the self-test rows before weights can be loaded."""
    inputs = {name: tensor for name, tensor in inputs.items() if not name.startswith(RAW)}
    if inputs and any(isinstance(tensor, nn.parameter.UninitializedParameter) for tensor in module.parameters()):
        with loop.evaluating(module):
            loop.forward(module, from_names(inputs))


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


def description_digest(columns: Any, decoding: Any) -> str:
    """SHA-256 that ties columns and classes to the weights they were saved with."""
    return hashlib.sha256(write_json({"columns": columns, "decoding": decoding})).hexdigest()


def predictor_output(output: Any) -> str | int | None:
    """`output=` as an artifact holds it; a function cannot be held, which `pick_of` says when it is loaded."""
    return output if output is None or isinstance(output, (str, int)) else FUNCTION


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
