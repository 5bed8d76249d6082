"""The company a score stands in: a linear model and, where scikit-learn is installed, boosted trees, trained on the same rows and columns.

Enters: a finished run of a table. Leaves: `Company`, each companion's error beside ours on the same rows, and whether the difference is more than noise. The
decision that shaped it: companions cost seconds at most (20,000 training rows, 300 rounds of trees), and whoever does better is named first, ourselves or not.
Training rows train them, validation rows stop the trees; a test row is touched only after `evaluate("test")` was asked for.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from fivestep import displays, seeds
from fivestep.errors import UsageError
from fivestep.model.metrics import class_shares
from fivestep.model.resampling import Units, make_units, standard_errors
from fivestep.results.diagnosis import dependence

MOST_ROWS = 20_000  # training rows of a companion, drawn under a seed of its own
MOST_COLUMNS = 2_000  # encoded inputs of the linear model; its normal equations grow with their square
MOST_ROUNDS = 300
MOST_CLASSES = 20  # trees are grown for each class and round
PENALTY = 1.0  # on the squared weights of standardised columns, beside the summed loss: scikit-learn's default for both linear models
TELLS = {"better": "BETTER than this model", "worse": "worse", "alike": "no difference beyond noise"}
NOISE = 1.96  # standard errors of the paired difference


@dataclass(frozen=True)
class Companion:
    """Another model on the same rows: its error, and ours minus its (above 0: it is better) with the standard error of that paired difference, made larger where
    few groups or blocks of time tell it.

    The difference is of log losses, or of mean squared errors. `note` says what was left out to keep it cheap.
    """

    name: str
    error: float
    difference: float
    noise: float
    seconds: float
    note: str = ""

    @property
    def verdict(self) -> str:
        """ "better" or "worse" than ours where the difference is more than noise, else "alike"."""
        if abs(self.difference) <= NOISE * self.noise or not math.isfinite(self.difference):
            return "alike"
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True)
class Company:
    """Ours, no skill and the companions on the rows of one split, by one error: "log loss" of classes or "RMSE" of numbers."""

    split: str
    measure: str
    ours: float
    no_skill: float
    companions: tuple[Companion, ...]

    @property
    def better(self) -> tuple[Companion, ...]:
        """Who is shown to do better than our model, the best first."""
        return tuple(sorted((one for one in self.companions if one.verdict == "better"), key=lambda one: one.error))

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"companions": [asdict(one) | {"verdict": one.verdict} for one in self.companions]}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Company:
        companions = (Companion(*(one[field.name] for field in fields(Companion))) for one in record["companions"])
        return cls(record["split"], record["measure"], record["ours"], record["no_skill"], tuple(companions))

    def __repr__(self) -> str:
        lines = [f"in company, {self.split}, {self.measure}: this model {self.ours:,.4g}, no skill {self.no_skill:,.4g}"]
        for one in self.companions:
            lines.append(f"  {one.name} {one.error:,.4g}: {TELLS[one.verdict]}" + (f" ({one.note})" if one.note else ""))
        if self.better:
            first = self.better[0]
            lines.append(f"  ahead on these rows: {first.name}, trained in {first.seconds:.1f} s. Use what does better, or find out what it sees.")
        return "\n".join(lines)

    def rows(self) -> list[tuple[str, float, Companion | None]]:
        """(name, error, companion), the lowest error first; this model and no skill stand among them without a companion."""
        ours = [("this model", self.ours, None), ("no skill: a constant", self.no_skill, None)]
        return sorted([*ours, *((one.name, one.error, one) for one in self.companions)], key=lambda row: row[1])

    def _repr_html_(self) -> str:
        rows = [(name, error, TELLS[one.verdict] if one else "") for name, error, one in self.rows()]
        return displays.table(rows, ("", self.measure, ""), caption=f"in company, {self.split}")


def company(run: Any, split: str = "val") -> Company:
    """The companions' errors on the rows of a split, "val" or "test". Raises UsageError for what is no table of classes or numbers, and for test rows before
    they were scored (`run.evaluate("test")`), as that is the look that is counted."""
    splits, task = run.splits, run._predictor.decoding.task
    if splits.columns is None or task not in ("regression", "binary", "multiclass") or not run.can_predict:
        raise UsageError("company() compares with models of a table's columns: it needs a table with one target of classes, or of numbers.")
    if split == "test" and "test" not in run._looked_at:
        raise UsageError('company("test") looks at the test rows. Score them first, which counts the look: run.evaluate("test").')
    if split not in ("val", "test"):
        raise UsageError(f'company({split!r}): companions are compared on "val" or "test"; on training rows whoever remembers most would win.')
    scored, targets = splits.part(split), run._targets(split)
    ours = run._predictor.outputs(run._encoded[split])
    ours = run._predictor.decode(ours, probabilities=task != "regression")
    weights = run._encoded[split].weights
    rows = torch.arange(len(splits.train))
    if len(rows) > MOST_ROWS:
        rows = rows[torch.randperm(len(rows), generator=seeds.generator(run._seed, "company"))[:MOST_ROWS]]
    few = f"on {MOST_ROWS:,} of {len(splits.train):,} training rows" if len(rows) < len(splits.train) else ""
    train_targets = run._targets("train")
    train_weights = run._encoded["train"].weights
    train_weights = None if train_weights is None else train_weights[rows].double()
    num_classes = len(splits.classes) if task != "regression" else 0
    own = losses(ours, targets, num_classes)
    drawn = dependence(run, split, torch.arange(len(scored)))
    units = make_units(len(scored), groups=drawn.get("groups"), times=drawn.get("blocks_of_time"), seed=run._seed)

    def stand(name: str, predicted: Tensor, started: float, note: str) -> Companion:
        theirs = losses(predicted, targets, num_classes)
        difference, noise = paired(own - theirs, weights, units)
        return Companion(name, shown(theirs, weights, num_classes), difference, noise, time.perf_counter() - started, note)

    found = []
    started = time.perf_counter()
    inputs, left_out = design(splits, run._encoded["train"], rows)
    fitted = fit_linear(inputs, train_targets[rows], num_classes, train_weights)
    predicted = predict_linear(design(splits, run._encoded[split], torch.arange(len(scored)))[0], fitted, num_classes)
    found.append(stand("linear model", predicted, started, "; ".join(filter(None, (few, left_out)))))
    started = time.perf_counter()
    trees = boosted_trees(run, rows, split, train_targets, train_weights, num_classes)
    if trees is not None:
        found.append(stand("gradient-boosted trees", trees, started, few))
    constant = no_skill(train_targets[rows], num_classes, train_weights).expand(len(scored), -1)
    measure = ("log loss" if num_classes else "RMSE") + (" (weighted)" if weights is not None else "")
    return Company(split, measure, shown(own, weights, num_classes), shown(losses(constant, targets, num_classes), weights, num_classes), tuple(found))


# -- errors ----------------------------------------------------------------------------------------------------------------------------------------------------


def losses(predicted: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """The loss of each row, float64 (n,): log loss of probabilities (n, classes), or the mean squared error of values (n, targets)."""
    predicted = predicted.double()
    if num_classes:
        return -predicted.gather(1, targets.long().reshape(-1, 1))[:, 0].clamp_min(torch.finfo(torch.float32).eps).log()  # as `evaluate` has it
    return (predicted.reshape(len(targets), -1) - targets.double().reshape(len(targets), -1)).square().mean(1)


def mean(values: Tensor, weights: Tensor | None) -> float:
    return float(values.mean()) if weights is None else float((values * weights).sum() / weights.sum())


def shown(row_losses: Tensor, weights: Tensor | None, num_classes: int) -> float:
    value = mean(row_losses, weights)
    return value if num_classes else math.sqrt(value)


def paired(differences: Tensor, weights: Tensor | None, units: Units) -> tuple[float, float]:
    """The mean difference of the same rows, and its standard error: of rows, of groups or of blocks of time, as the split was made."""
    middle = mean(differences, weights)
    weights = torch.ones_like(differences) if weights is None else weights.double()
    of_blocks = units.sums_of_blocks(units.sum_by_unit((weights * (differences - middle))[:, None]))
    error = math.sqrt(float(of_blocks.square().sum()) / units.block_length) / float(weights.sum())
    return middle, error * standard_errors(units.num_independent) / NOISE


def no_skill(targets: Tensor, num_classes: int, weights: Tensor | None) -> Tensor:
    """The best constant, (1, classes) or (1, targets)."""
    weights = torch.ones(len(targets), dtype=torch.float64) if weights is None else weights
    if num_classes:
        counts = torch.zeros(num_classes, dtype=torch.float64).index_add_(0, targets.long().flatten(), weights)
        return class_shares(counts)[None]
    values = targets.double().reshape(len(targets), -1)
    return (values * weights[:, None]).sum(0, keepdim=True) / weights.sum()


# -- the linear model ------------------------------------------------------------------------------------------------------------------------------------------


def design(splits: Any, source: Any, rows: Tensor) -> tuple[Tensor, str]:
    """The encoded inputs as one matrix, float64, and what was left out: codes become one-hot while all inputs stay below MOST_COLUMNS."""
    inputs = source.inputs
    if isinstance(inputs, Tensor):
        return inputs.index_select(0, rows).double()[:, :MOST_COLUMNS], "" if inputs.shape[1] <= MOST_COLUMNS else f"its first {MOST_COLUMNS:,} inputs"
    numbers, codes = (tensor.index_select(0, rows) for tensor in inputs)
    parts, width, left_out = [numbers.double()], numbers.shape[1], []
    for position, count in enumerate(splits.columns.num_categories):
        if width + count > MOST_COLUMNS:
            left_out.append(splits.columns.category_names[position])
            continue
        parts.append(torch.nn.functional.one_hot(codes[:, position], count).double())
        width += count
    return torch.cat(parts, 1), f"without {', '.join(left_out)}" if left_out else ""


def fit_linear(inputs: Tensor, targets: Tensor, num_classes: int, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """(weights, constants): ridge regression by its normal equations, or multinomial logistic regression by L-BFGS; both with PENALTY.

    The problem is convex and starts from 0, so no seed is involved. The constant is not penalised.
    """
    weights = torch.ones(len(inputs), dtype=torch.float64) if weights is None else weights
    if not num_classes:
        values = targets.double().reshape(len(targets), -1)
        share = (weights / weights.sum())[:, None]
        center, middle = (inputs * share).sum(0), (values * share).sum(0)
        centered = inputs - center
        gram = (centered * weights[:, None]).T @ centered + PENALTY * torch.eye(inputs.shape[1], dtype=torch.float64)
        slope = torch.linalg.solve(gram, (centered * weights[:, None]).T @ (values - middle))
        return slope, middle - center @ slope
    slope = torch.zeros(inputs.shape[1], num_classes, dtype=torch.float64, requires_grad=True)
    constant = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([slope, constant], max_iter=200, tolerance_change=1e-9, tolerance_grad=1e-6, line_search_fn="strong_wolfe")
    labels = targets.long().flatten()

    def closure() -> Any:
        optimizer.zero_grad()
        rows = torch.nn.functional.cross_entropy(inputs @ slope + constant, labels, reduction="none")
        total = ((rows * weights).sum() + PENALTY / 2 * slope.square().sum()) / weights.sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(closure)
    return slope.detach(), constant.detach()


def predict_linear(inputs: Tensor, fitted: tuple[Tensor, Tensor], num_classes: int) -> Tensor:
    outputs = inputs @ fitted[0] + fitted[1]
    return outputs.softmax(1) if num_classes else outputs


# -- boosted trees ---------------------------------------------------------------------------------------------------------------------------------------------


def boosted_trees(run: Any, rows: Tensor, split: str, targets: Tensor, weights: Tensor | None, num_classes: int) -> Tensor | None:
    """scikit-learn's HistGradientBoosting, stopped where validation is best, on the raw columns: numbers with gaps, categories as such. None where scikit-learn
    is not installed, there are no validation rows, several targets, or more than MOST_CLASSES classes."""
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    except ImportError:
        return None
    splits = run.splits
    if splits.val is None or num_classes > MOST_CLASSES or (not num_classes and splits.columns.num_targets > 1):
        return None

    def table(part: Any) -> Any:
        numbers, codes = splits.columns.raw(part.data.typed, part.indices.numpy())
        return torch.cat([numbers, codes.double()], 1).numpy()

    width = len(splits.columns.category_names)
    x = table(splits.train)[rows.numpy()]
    val = table(splits.val)
    categories = [x.shape[1] - width + position for position in range(width) if x[:, x.shape[1] - width + position].max() < 255]  # its limit of categories
    y = (targets[rows].long() if num_classes else targets[rows].double()).flatten().numpy()
    y_val = run._targets("val").flatten().numpy()
    if num_classes and set(y_val.tolist()) - set(y.tolist()):
        return None  # it refuses classes in validation that training lacks
    kind: Any = HistGradientBoostingClassifier if num_classes else HistGradientBoostingRegressor
    model = kind(
        max_iter=MOST_ROUNDS, early_stopping=True, n_iter_no_change=20, validation_fraction=None, random_state=0, categorical_features=categories or None
    )
    if "X_val" not in inspect.signature(model.fit).parameters:  # scikit-learn below 1.7 stops on rows of its own only
        model.set_params(early_stopping=False, max_iter=100)
        model.fit(x, y, sample_weight=None if weights is None else weights.numpy())
    else:
        model.fit(x, y, sample_weight=None if weights is None else weights.numpy(), X_val=val, y_val=y_val)
    present = torch.as_tensor(model.classes_).long() if num_classes else None

    def staged(values: Any) -> Any:
        for predicted in model.staged_predict_proba(values) if num_classes else model.staged_predict(values):
            predicted = torch.as_tensor(predicted).double()
            if present is not None:  # a class that no training row has
                predicted = torch.zeros(len(predicted), num_classes, dtype=torch.float64).index_copy_(1, present, predicted)
            yield predicted

    # The last rounds are those without gain; validation tells how many to keep.
    errors = [mean(losses(predicted, run._targets("val"), num_classes), run._encoded["val"].weights) for predicted in staged(val)]
    best = min(range(len(errors)), key=errors.__getitem__)
    return next(predicted for number, predicted in enumerate(staged(table(splits.part(split)))) if number == best)
