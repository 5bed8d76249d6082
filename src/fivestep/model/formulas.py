"""What each metric is: a short formula over sums of rows, its best constant predictor, its unit and its direction.

Enters: sums (`evidence.SUMS`) of one or of many resamples at once, shape (k, columns). Leaves: k values. One formula so gives the value, the thousand
resamples and the baseline. Definitions are torchmetrics' own; where two definitions exist, the comment says which one and why. Only what ranks rows cannot be
a sum and sees rows again.

Axis letters: `n` rows, `c` classes, labels or targets, `k` resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fivestep.model.evidence import Evidence, against_rest, ties, weight_around

TASKS = ("regression", "binary", "multiclass", "multilabel")
DEFAULTS = {
    "regression": ("rmse", "mae", "r2"),
    "binary": ("log_loss", "accuracy", "balanced_accuracy", "auroc", "f1", "ece"),
    "multiclass": ("log_loss", "accuracy", "balanced_accuracy", "auroc", "f1", "ece"),
    "multilabel": ("log_loss", "accuracy", "auroc", "f1"),
}

Sums = Mapping[str, Tensor]  # name -> (k, columns) float64


@dataclass(frozen=True)
class Metric:
    """How one score is made.

    By `formula(sums, task)` over the `sums` it names; or by `ranked(evidence, row_weights (n, k))` where rows must be ranked again; or by
    `whole(evidence, rows)`, which is called for each resample. `baseline` names the constant predictor to stand beside it (a dict: by task); `unit` is ""
    or the power of the target's unit ("1", "2"). `reflected`: the interval is mirrored at the value, for scores that noise pushes to one side.
    `of_outputs`: computed from the model's outputs and the loss, not from predictions.
    """

    name: str
    tasks: tuple[str, ...]
    higher_is_better: bool | None
    sums: tuple[str, ...] = ()
    formula: Callable[[Sums, str], Tensor] | None = None
    ranked: Callable[[Evidence, Tensor], Tensor] | None = None
    whole: Callable[[Evidence, Tensor | None], float] | None = None
    baseline: str | dict[str, str] | None = None
    unit: str = ""
    reflected: bool = False
    of_outputs: bool = False
    note: str | None = None

    def constant(self, task: str | None) -> str | None:
        return self.baseline.get(task or "") if isinstance(self.baseline, dict) else self.baseline

    def value(self, e: Evidence) -> float:
        """The metric of all rows."""
        if not e.finite and not self.of_outputs:
            return float("nan")
        if self.formula is not None:
            return float(self.formula({name: e.total(name) for name in self.sums}, e.task or ""))
        if self.ranked is not None:
            return float(self.ranked(e, e.row_weights(torch.ones(e.num_rows, 1, dtype=torch.float64))))
        assert self.whole is not None
        return self.whole(e, None)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """0 where the denominator is 0, as torchmetrics has it."""
    return torch.where(denominator == 0, 0.0, numerator / torch.where(denominator == 0, 1.0, denominator))


def _mean_of(name: str) -> Callable[[Sums, str], Tensor]:
    return lambda s, task: (s[name] / s["weight"]).mean(1)


def _relative_to_variance(s: Sums, task: str) -> Tensor:
    spread = s["target_squared"] - s["target"].square() / s["weight"]
    return s["squared_error"] / torch.where(spread > 0, spread, torch.nan)  # targets that are all equal: no share of their variance


def _explained_variance(s: Sums, task: str) -> Tensor:
    spread = s["target_squared"] - s["target"].square() / s["weight"]
    unexplained = s["squared_error"] - s["error"].square() / s["weight"]
    return (1 - unexplained / torch.where(spread > 0, spread, torch.nan)).mean(1)


def _pearson(s: Sums, task: str) -> Tensor:
    variance_p = s["prediction_squared"] - s["prediction"].square() / s["weight"]
    variance_t = s["target_squared"] - s["target"].square() / s["weight"]
    together = s["product"] - s["prediction"] * s["target"] / s["weight"]
    product = variance_p * variance_t
    return (together / torch.where(product > 0, product, torch.nan).sqrt()).mean(1).clamp(-1, 1)


def _accuracy(s: Sums, task: str) -> Tensor:
    if task == "multilabel":  # every label of every row is one decision: right = true positives + true negatives
        right = s["weight"] - s["support"] - s["chosen"] + 2 * s["hits"]
        return (right / s["weight"]).mean(1)
    return s["hits"].sum(1) / s["weight"][:, 0]


def _balanced_accuracy(s: Sums, task: str) -> Tensor:
    # scikit-learn's: the mean recall of the classes that occur. torchmetrics' macro accuracy also counts a class that is only predicted, with recall 0.
    occurs = s["support"] > 0
    return _ratio(s["hits"], s["support"]).where(occurs, 0.0).sum(1) / occurs.sum(1)


def _by_class(numerator: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], denominator: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]):
    """A ratio of (tp, fp, fn, tn): of the positive class where there are two, else the mean over classes (macro). As in torchmetrics, a class that neither
    occurs nor is chosen is left out of the mean; of several labels none is left out."""

    def formula(s: Sums, task: str) -> Tensor:
        tp, fp, fn = s["hits"], s["chosen"] - s["hits"], s["support"] - s["hits"]
        tn = s["weight"] - tp - fp - fn
        ratio = _ratio(numerator(tp, fp, fn, tn), denominator(tp, fp, fn, tn))  # (k, c)
        if task == "binary":
            return ratio[:, 1]
        counted = torch.ones_like(ratio, dtype=torch.bool) if task == "multilabel" else tp + fp + fn > 0
        return ratio.where(counted, 0.0).sum(1) / counted.sum(1)

    return formula


def _mcc(s: Sums, task: str) -> Tensor:
    right, weight, support, chosen = s["hits"].sum(1), s["weight"][:, 0], s["support"], s["chosen"]
    covariance = right * weight - (support * chosen).sum(1)
    spread = (weight.square() - chosen.square().sum(1)) * (weight.square() - support.square().sum(1))
    return _ratio(covariance, spread.clamp(min=0).sqrt())


def _kappa(s: Sums, task: str) -> Tensor:
    weight = s["weight"][:, 0]
    by_chance = (s["support"] * s["chosen"]).sum(1) / weight.square()
    return _ratio(s["hits"].sum(1) / weight - by_chance, 1 - by_chance)


def _ece(s: Sums, task: str) -> Tensor:
    weight, confidence, right = s["calibration"].chunk(3, dim=1)
    return (confidence - right).abs().sum(1) / weight.sum(1)


def _auroc_from_placements(s: Sums, task: str) -> Tensor:
    positive_values, positives, negative_values, negatives = s["placements"].chunk(4, dim=1)  # (k, c) each
    defined = (positives > 0) & (negatives > 0)
    area = _ratio(positive_values, positives) + _ratio(negative_values, negatives)
    return _mean_where(area.clamp(0, 1), defined, task)


def _mean_where(by_class: Tensor, defined: Tensor, task: str) -> Tensor:
    """(k, c) -> (k,): the mean over classes for which the metric is defined, NaN where there is none. torchmetrics puts in 0 for a class that does not occur
    among the targets, which says something about the split, not about the model."""
    return by_class.where(defined, 0.0).sum(1) / torch.where(defined.any(1), defined.sum(1), torch.nan)


def _auroc_ranked(e: Evidence, row_weights: Tensor) -> Tensor:
    areas, defined = [], []
    for scores, positive in against_rest(e):
        order = scores.argsort()
        weights, is_positive = row_weights[order], positive[order][:, None].to(row_weights.dtype)
        below = weight_around(weights * (1 - is_positive), *ties(scores[order]))
        positives, negatives = (weights * is_positive).sum(0), (weights * (1 - is_positive)).sum(0)
        areas.append(_ratio((weights * is_positive * below).sum(0), positives * negatives))
        defined.append((positives > 0) & (negatives > 0))
    return _mean_where(torch.stack(areas, dim=1), torch.stack(defined, dim=1), e.task or "")


def _average_precision_ranked(e: Evidence, row_weights: Tensor) -> Tensor:
    precisions, defined = [], []
    for scores, positive in against_rest(e):
        order = scores.argsort(descending=True)
        weights, is_positive = row_weights[order], positive[order][:, None].to(row_weights.dtype)
        _, last = ties(scores[order])
        ends = last.unique_consecutive() - 1  # one threshold per different score
        hits, chosen = (weights * is_positive).cumsum(0)[ends], weights.cumsum(0)[ends]
        new_hits = torch.diff(hits, dim=0, prepend=hits.new_zeros(1, hits.shape[1]))
        positives = (weights * is_positive).sum(0)
        precisions.append(_ratio((new_hits * _ratio(hits, chosen)).sum(0), positives))
        defined.append(positives > 0)
    return _mean_where(torch.stack(precisions, dim=1), torch.stack(defined, dim=1), e.task or "")


def _spearman(e: Evidence, rows: Tensor | None) -> float:
    predictions, targets = (e.predictions, e.targets) if rows is None else (e.predictions[rows], e.targets[rows])
    by_target = []
    for column in range(targets.shape[1]):
        ranks = torch.stack([_ranks(predictions[:, column]), _ranks(targets[:, column])])
        by_target.append(torch.corrcoef(ranks)[0, 1])
    return float(torch.stack(by_target).mean())


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 1; equal values share their mean rank."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0)
    return ((ends - counts + 1 + ends) / 2.0)[inverse].double()


_CLASSES, ONE_LABEL, _COUNTS = ("binary", "multiclass", "multilabel"), ("binary", "multiclass"), ("weight", "hits", "support", "chosen")
# The constant beside a metric of decisions: the commonest class, but "always positive" for F1, precision and Jaccard of the positive class, where the
# commonest class may score 0 and anything would look better. Recall and specificity of one class: a constant reaches 1, so none.
_POSITIVE = {"binary": "positive", "multiclass": "shares", "multilabel": "positive"}
_NOT_BINARY = {"multiclass": "shares"}

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("mse", ("regression",), False, ("weight", "squared_error"), _mean_of("squared_error"), baseline="mean", unit="2"),
        Metric("rmse", ("regression",), False, ("weight", "squared_error"), lambda s, t: _mean_of("squared_error")(s, t).sqrt(), baseline="mean", unit="1"),
        Metric("mae", ("regression",), False, ("weight", "absolute_error"), _mean_of("absolute_error"), baseline="median", unit="1"),
        Metric(
            "r2",
            ("regression",),
            True,
            ("weight", "squared_error", "target", "target_squared"),
            lambda s, t: (1 - _relative_to_variance(s, t)).mean(1),
            baseline="mean",
        ),
        Metric(
            "explained_variance",
            ("regression",),
            True,
            ("weight", "error", "squared_error", "target", "target_squared"),
            _explained_variance,
            baseline="mean",
        ),
        Metric("mape", ("regression",), False, ("weight", "relative_error"), _mean_of("relative_error"), baseline="relative_median"),
        Metric("smape", ("regression",), False, ("weight", "symmetric_error"), _mean_of("symmetric_error")),
        Metric(
            "wmape",
            ("regression",),
            False,
            ("absolute_error", "absolute_target"),
            lambda s, t: s["absolute_error"].sum(1) / s["absolute_target"].sum(1).clamp(min=1.17e-6),
            baseline="median",
        ),
        Metric("msle", ("regression",), False, ("weight", "squared_log_error"), _mean_of("squared_log_error"), baseline="log_mean"),
        Metric("pearson", ("regression",), True, ("weight", "prediction", "prediction_squared", "target", "target_squared", "product"), _pearson),
        Metric("spearman", ("regression",), True, whole=_spearman),
        Metric("log_loss", _CLASSES, False, ("weight", "log_loss"), _mean_of("log_loss"), baseline="shares"),
        Metric("brier", _CLASSES, False, ("weight", "brier"), _mean_of("brier"), baseline="shares"),
        Metric("accuracy", _CLASSES, True, _COUNTS, _accuracy, baseline="shares"),
        Metric("balanced_accuracy", ONE_LABEL, True, ("hits", "support"), _balanced_accuracy, baseline="shares"),
        Metric("f1", _CLASSES, True, _COUNTS, _by_class(lambda tp, fp, fn, tn: 2 * tp, lambda tp, fp, fn, tn: 2 * tp + fp + fn), baseline=_POSITIVE),
        Metric("precision", _CLASSES, True, _COUNTS, _by_class(lambda tp, fp, fn, tn: tp, lambda tp, fp, fn, tn: tp + fp), baseline=_POSITIVE),
        Metric("recall", _CLASSES, True, _COUNTS, _by_class(lambda tp, fp, fn, tn: tp, lambda tp, fp, fn, tn: tp + fn), baseline=_NOT_BINARY),
        Metric("specificity", _CLASSES, True, _COUNTS, _by_class(lambda tp, fp, fn, tn: tn, lambda tp, fp, fn, tn: tn + fp), baseline=_NOT_BINARY),
        Metric("jaccard", _CLASSES, True, _COUNTS, _by_class(lambda tp, fp, fn, tn: tp, lambda tp, fp, fn, tn: tp + fp + fn), baseline=_POSITIVE),
        Metric("mcc", ONE_LABEL, True, _COUNTS, _mcc, baseline="shares"),
        Metric("kappa", ONE_LABEL, True, _COUNTS, _kappa, baseline="shares"),
        # A constant predictor of class shares is perfectly calibrated and of no use: no baseline.
        Metric("ece", ONE_LABEL, False, ("calibration",), _ece, reflected=True),
        Metric("auroc", _CLASSES, True, ("placements",), _auroc_from_placements, ranked=_auroc_ranked, baseline="shares"),
        Metric("average_precision", _CLASSES, True, ranked=_average_precision_ranked, baseline="shares"),
    )
}

LOSS = Metric("loss", TASKS, False, ("loss", "loss_weight"), lambda s, task: s["loss"][:, 0] / s["loss_weight"][:, 0], of_outputs=True)

ALIASES = {
    "mean_squared_error": "mse",
    "root_mean_squared_error": "rmse",
    "mean_absolute_error": "mae",
    "l1": "mae",
    "r2_score": "r2",
    "mean_absolute_percentage_error": "mape",
    "symmetric_mean_absolute_percentage_error": "smape",
    "weighted_mean_absolute_percentage_error": "wmape",
    "mean_squared_log_error": "msle",
    "pearson_corrcoef": "pearson",
    "spearman_corrcoef": "spearman",
    "acc": "accuracy",
    "f1_score": "f1",
    "roc_auc": "auroc",
    "auc": "auroc",
    "cross_entropy": "log_loss",
    "nll": "log_loss",
    "ap": "average_precision",
    "matthews_corrcoef": "mcc",
    "cohen_kappa": "kappa",
    "jaccard_index": "jaccard",
    "iou": "jaccard",
    "calibration_error": "ece",
    "expected_calibration_error": "ece",
    "brier_score": "brier",
    "brier_score_loss": "brier",
    "sensitivity": "recall",
}
