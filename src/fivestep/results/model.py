"""`Model`: a trained model that was loaded. It predicts, scores rows that it is given, and is saved again.

Enters: an artifact, and the user's class where it is no built-in; nothing in an artifact is executed. Leaves: predictions, scores, an artifact. The decision that
shaped it: rows that the artifact holds must give the outputs that it holds (the self-test) before anything else is predicted.
"""

from __future__ import annotations

import warnings
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fivestep.data.columns import LoudNote
from fivestep.data.data import Data, Part, Splits
from fivestep.errors import ArtifactError, CannotCreateError, DataError, SettingsError, UsageError
from fivestep.model import building, models
from fivestep.model import metrics as scoring
from fivestep.model.decoding import Decoding, head_from_json, head_to_json
from fivestep.model.losses import LOSS_PREFIX
from fivestep.model.resampling import group_codes, time_order
from fivestep.results import artifact as artifacts
from fivestep.results import runs
from fivestep.results.facts import asked_of, block_of, description_digest, pick_of
from fivestep.results.predictor import ArrayRows, Predictor, as_container, as_source
from fivestep.tensors import from_names, to_names
from fivestep.train import loop
from fivestep.train import precision as precisions
from fivestep.train.epochs import infinite_by_design

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
        """Build the module (a built-in by its recipe, else the caller's), load the weights, and let the self-test rows prove that it answers as it did."""
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

        `probabilities=True`, for classes, gives an array (n, classes) in the order of `classes`; of a table the columns `probability_<class>` beside the label.
        `spread=True` adds how far the members of an ensemble disagree, as a standard deviation in the target's unit or of the probability: columns of a table's
        predictions, else `(predictions, spread)`. Rows far outside of what training has seen, categories that it did not have, and predictions beyond its targets are counted in a warning.
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
            if isinstance(note, LoudNote):
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
        a `Data`, or `(inputs, targets)`. Labels are matched by their names; one that training had not is a DataError.

        `metrics` is a name, a function `f(outputs, targets) -> number`, a list of them, or a dict that names them: `{"within 3": f}`; None is the task's own.
        """
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
        if not len(source):
            raise DataError("There is a header and no rows, so nothing can be scored." if predictor.columns is not None else "There are no rows to score.")
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


def initialise_lazy(module: nn.Module, inputs: dict[str, Tensor]) -> None:
    """A lazy module gets its shapes from the self-test rows before weights can be loaded."""
    inputs = {name: tensor for name, tensor in inputs.items() if not name.startswith(RAW)}
    if inputs and any(isinstance(tensor, nn.parameter.UninitializedParameter) for tensor in module.parameters()):
        with loop.evaluating(module):
            loop.forward(module, from_names(inputs))
