"""How far probabilities can be taken at their word, and one number that makes them more so.

Enters: logits or probabilities of the validation split, gathered by row. Leaves: a temperature (logits are divided by it before softmax or sigmoid) and the
expected calibration error. The decision that shaped it: a temperature is kept only where it lowers the validation log loss by more than the noise of that
difference; otherwise it is 1.0 and says why, so predictions are not changed for nothing.

Axis letters: `n` rows, `c` classes or labels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fivestep.errors import DataError, UsageError
from fivestep.model.evidence import ECE_BINS, IGNORED_LABEL, Evidence, calibration_sums
from fivestep.model.formulas import METRICS
from fivestep.model.metrics import bounds_of, resample
from fivestep.model.resampling import make_units
from fivestep.model.scores import Score

LOWEST, HIGHEST = 0.05, 100.0  # a temperature outside says that the rows are separable, or that the logits say nothing; both are answered in words
CHUNK = 1 << 22  # logits that are worked on at once, 32 MB in float64: 50,000 rows x 1,000 classes would take 400 MB a pass


class Temperature(float):
    """A temperature as a number, with `reason` (one sentence), and the validation log loss `before` and `after` it."""

    reason: str
    before: float
    after: float

    def __new__(cls, value: float, reason: str, before: float = math.nan, after: float = math.nan) -> Temperature:
        made = super().__new__(cls, value)
        made.reason, made.before, made.after = reason, before, after
        return made

    def __getnewargs__(self) -> tuple[float, str, float, float]:  # copy and pickle call __new__ with more than the number
        return float(self), self.reason, self.before, self.after


def fit_temperature(logits: Tensor, targets: Tensor, task: str, *, weights: Tensor | None = None) -> Temperature:
    """The temperature that minimises the log loss of `logits / temperature`, or 1.0 where it gains no more than noise; `.reason` says which.

    "multiclass": logits (n, c), labels (n,), -100 is ignored. "binary": logits (n,), (n, 1) of class 1, or (n, 2). "multilabel": logits and 0/1 (n, c), one
    temperature for all labels. `weights` (n,) weigh rows. Computed in float64, the same on every call: a bracketed Newton search over log T (Guo et al. 2017,
    On Calibration of Modern Neural Networks, section 4.2). Dividing by one number changes no order and no decision at the largest logit.

    Kept where the mean gain is larger than its own standard error (rows paired: both losses of each row). One parameter fitted to n rows gains z^2 / 2n by
    chance with a standard error of |z| / n, z normal; so gain > error is |z| > 2, the 5 % likelihood-ratio test, here without assuming the logits' model.

    >>> round(fit_temperature(torch.tensor([[3.0, 0.0], [3.0, 0.0], [3.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 0, 1, 1]), "multiclass"), 4)
    1.0
    """
    logits, targets, weights = _by_row(logits, targets, task, weights)
    total = float(weights.sum())
    if len(logits) == 0 or total == 0:
        return Temperature(1.0, "There are no validation rows to fit a temperature on.")
    if bool(torch.isnan(logits).any()) or bool((logits == torch.inf).any()):
        row = int((torch.isnan(logits) | (logits == torch.inf)).any(1).nonzero()[0])
        return Temperature(1.0, f"Logits are not finite (first: row {row} of {len(logits):,}), so no temperature was fitted.")
    before = _losses(logits, targets, 1.0)
    if not bool(torch.isfinite(before).all()):
        return Temperature(1.0, "The logit of a right answer is -inf: its log loss is infinite at every temperature.")

    found = _search(logits, targets, weights)
    mean_before = float((before * weights).sum() / total)
    if found <= LOWEST:
        reason = (
            f"On these {len(logits):,} rows the log loss falls the more, the surer the model: nothing here says how sure it may be. The temperature stays 1."
        )
        return Temperature(1.0, reason, mean_before, mean_before)
    after = _losses(logits, targets, found)
    gain = before - after
    mean_after, mean_gain = float((after * weights).sum() / total), float((gain * weights).sum() / total)
    error = math.sqrt(float((weights * (gain - mean_gain)).square().sum())) / total
    numbers = f"log loss {mean_before:.4g} to {mean_after:.4g} at T = {found:.3g}, a gain of {mean_gain:.2g} with a standard error of {error:.2g}"
    if not mean_gain > error:
        return Temperature(1.0, f"No temperature lowers the validation log loss by more than noise ({numbers}). It stays 1.", mean_before, mean_before)
    tells = "the model was too sure of itself" if found > 1 else "the model was less sure than it may be"
    return Temperature(found, f"Logits are divided by {found:.3g}: {tells} ({numbers}).", mean_before, mean_after)


def expected_calibration_error(
    probabilities: Tensor,
    targets: Tensor,
    bins: int = ECE_BINS,
    *,
    weights: Tensor | None = None,
    groups: Tensor | None = None,
    blocks_of_time: Tensor | bool | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Score:
    """The mean distance between how sure the model is and how often it is right, over `bins` equal bins of sureness, with its 95 % interval.

    `probabilities` (n,) are those of class 1 and stand against `targets` 0 or 1, in (n, c) the largest one of a row stands against whether it is right;
    `targets` (n,) int. As torchmetrics' `calibration_error` (norm "l1"), which has 0 as its best value but, on few rows, above 0 by noise alone: the interval
    is mirrored to allow for it. `weights`, `groups`, `blocks_of_time`, `samples`, `seed` as in `score`.

    >>> round(expected_calibration_error(torch.tensor([0.9, 0.9, 0.9, 0.9]), torch.tensor([1, 1, 1, 0])).value, 4)
    0.15
    """
    if bins < 1:
        raise UsageError(f"bins is {bins}; a calibration error needs at least one bin (15 is usual).")
    units = make_units(len(probabilities), groups=groups, times=blocks_of_time, seed=seed)
    evidence = Evidence("binary" if probabilities.ndim == 1 else "multiclass", probabilities, targets, weights=weights, units=units)
    evidence.sums["calibration"] = calibration_sums(evidence, bins)
    metric = METRICS["ece"]
    value = metric.value(evidence)
    again = resample({"ece": (evidence, metric)}, units, samples, seed)["ece"]
    bounds = bounds_of(metric, value, again, units)
    return Score("ece", value, *(bounds or (None, None)), higher_is_better=False, samples=len(again) if bounds else 0)


def _by_row(logits: Tensor, targets: Tensor, task: str, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (n, c), for one or several yes-or-no questions (n, 1) or (n, c); targets to match; weights (n,), all float64."""
    if task not in ("binary", "multiclass", "multilabel"):
        raise UsageError(f"A temperature is for the logits of a binary, multiclass or multilabel task; this one is {task}.")
    logits, targets = logits.detach().cpu().double(), targets.detach().cpu()
    num_rows = len(logits)
    weights = torch.ones(num_rows, dtype=torch.float64) if weights is None else torch.as_tensor(weights).detach().cpu().double()
    if task == "binary" and logits.ndim == 2 and logits.shape[1] == 2:
        logits = logits[:, 1:] - logits[:, :1]  # softmax over two is the sigmoid of their difference
    if task == "binary":
        logits = logits.reshape(num_rows, -1)
    width = logits.shape[1] if logits.ndim == 2 else 0
    expected = (num_rows, width) if task == "multilabel" else (num_rows,)
    if width == 0 or (task == "binary" and width != 1) or targets.numel() != math.prod(expected) or weights.shape != (num_rows,):
        raise UsageError(f"Logits {tuple(logits.shape)}, targets {tuple(targets.shape)} and weights {tuple(weights.shape)} do not fit a {task} task.")
    labels = targets.reshape(expected).long()
    if task != "multilabel" and bool((ignored := labels == IGNORED_LABEL).any()):
        logits, labels, weights = logits[~ignored], labels[~ignored], weights[~ignored]
    num_classes = width if task == "multiclass" else 2
    if bool((wrong := (labels < 0) | (labels >= num_classes)).any()):
        raise DataError(f"Row {int(wrong.nonzero()[0][0])} has a label outside of 0 to {num_classes - 1}; no logit belongs to it.")
    return logits, labels if task == "multiclass" else labels.reshape(logits.shape).double(), weights


def _losses(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """The log loss of each row (n,), a mean over its labels where there are several."""
    chunk = max(1, CHUNK // logits.shape[1])
    parts = []
    for z, y in zip(logits.split(chunk), targets.split(chunk)):
        if y.ndim == 1:
            parts.append(torch.nn.functional.cross_entropy(z / temperature, y, reduction="none"))
        else:
            parts.append(torch.nn.functional.binary_cross_entropy_with_logits(z / temperature, y, reduction="none").mean(1))
    return torch.cat(parts)


def _slope(logits: Tensor, targets: Tensor, weights: Tensor, temperature: float) -> tuple[float, float]:
    """First and second derivative of the summed log loss by s = log T. With b = 1/T and z the logits, dL/db = E_p[z] - z_y and d2L/db2 = Var_p[z]."""
    first, second, b = 0.0, 0.0, 1 / temperature
    chunk = max(1, CHUNK // logits.shape[1])
    for z, y, w in zip(logits.split(chunk), targets.split(chunk), weights.split(chunk)):
        z = z.clamp(min=-1e300)  # a class that is ruled out (-inf): 0 * inf would be NaN, and its probability is 0 either way
        if y.ndim == 1:
            p = (z * b).softmax(1)
            mean = (p * z).sum(1)
            variance = (p * (z - mean[:, None]).square().nan_to_num(posinf=0.0)).sum(1)
            slope = mean - z.gather(1, y[:, None])[:, 0]
        else:
            p = (z * b).sigmoid()
            slope, variance = ((p - y) * z).mean(1), (p * (1 - p) * z.square().nan_to_num(posinf=0.0)).mean(1)
        first += float((w * slope).sum())
        second += float((w * variance).sum())
    return -b * first, b * first + b * b * second


def _search(logits: Tensor, targets: Tensor, weights: Tensor) -> float:
    """The temperature in LOWEST..HIGHEST where the slope is 0. The loss is convex in 1/T, so there is one; a Newton step that leaves the bracket is halved."""
    low, high = math.log(LOWEST), math.log(HIGHEST)
    if _slope(logits, targets, weights, LOWEST)[0] >= 0:
        return LOWEST
    if _slope(logits, targets, weights, HIGHEST)[0] <= 0:
        return HIGHEST
    s = 0.0
    for _ in range(100):
        slope, curvature = _slope(logits, targets, weights, math.exp(s))
        if slope < 0:
            low = s
        else:
            high = s
        step = s - slope / curvature if curvature > 0 else math.nan
        step = step if low < step < high else (low + high) / 2
        if abs(step - s) < 1e-10:
            return math.exp(step)
        s = step
    return math.exp(s)
