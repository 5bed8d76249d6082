"""What is seen while training goes on: `Watch` is told losses and epochs, and afterwards says what their course means.

Enters: losses of steps in groups, and each epoch's numbers. Leaves: findings at the end. It never touches model, data or random state; per step it only keeps a float.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fivestep.checks.before_loss import maximizes, rates
from fivestep.checks.findings import Finding
from fivestep.checks.probe import Probe
from fivestep.checks.subject import Subject

KEPT_STEPS = 100_000  # losses beyond are not kept: trends show long before


@dataclass(frozen=True)
class Epoch:
    """One epoch's numbers; `val_loss` is None where there was no validation."""

    number: int
    train_loss: float
    val_loss: float | None
    rate: float
    metrics: Mapping[str, float]


class Watch:
    """An observer of one run. `found` are the findings from before it, `probe` (if given) holds the copy of the model's start."""

    def __init__(self, subject: Subject, found: Sequence[Finding] = (), *, probe: Probe | None = None):
        self.subject, self.found = subject, list(found)
        self.probe = probe if probe is not None else Probe(subject)
        self.losses: list[float] = []
        self.gradient_norms: list[float] = []
        self.epochs: list[Epoch] = []
        try:
            _ = self.probe.pair  # the copy has to be taken now, before weights move
        except Exception:  # a model that cannot be copied has its note from `check_before`; rules that need its start stay silent
            self.probe.__dict__["pair"] = None
        self.probe.release()  # a run may last for days; graphs of the probes need not

    def steps_ended(self, losses: Sequence[float], gradient_norms: Sequence[float] = ()) -> None:
        """The losses of the steps since the last call, in order, and their gradient norms where they are known."""
        if len(self.losses) < KEPT_STEPS:
            self.losses += [float(loss) for loss in losses]
            self.gradient_norms += [float(norm) for norm in gradient_norms]

    def epoch_ended(
        self, epoch: int, train_loss: float, val_loss: float | None = None, lr: float = math.nan, metrics: Mapping[str, float] | None = None
    ) -> None:
        """The numbers of one epoch; epochs come in order."""
        self.epochs.append(Epoch(epoch, float(train_loss), None if val_loss is None else float(val_loss), float(lr), dict(metrics or {})))

    def findings(self) -> list[Finding]:
        """What the course of the losses means; call it once the run has ended."""
        found = [rule(self) for rule in RULES]
        return [finding for finding in found if finding is not None]


def first_loss(watch: Watch) -> float:
    """The loss at the start: the mean of the first three steps, or the first epoch's."""
    return statistics.fmean(watch.losses[:3]) if watch.losses else watch.epochs[0].train_loss if watch.epochs else math.nan


def rule_o01(watch: Watch) -> Finding | None:
    """Training loss ends 1.5 times above where it began, or was not finite."""
    if not watch.epochs or maximizes(watch.subject.optimizer):
        return None
    begun, ended = first_loss(watch), watch.epochs[-1].train_loss
    bad = not math.isfinite(ended) or any(not math.isfinite(loss) for loss in watch.losses)
    if bad or (begun > 0 and ended > 1.5 * begun and len(watch.losses or watch.epochs) >= 10):
        rate = max(rates(watch.subject.optimizer), default=watch.epochs[-1].rate)
        return Finding(
            "O01", "warning", f"The training loss began at {begun:.4g} and ended at {ended:.4g}, with a rate of {rate:g}.", {"first": begun, "last": ended, "rate": rate},
            "Steps are too long: each throws away what the last one learnt.", f"A rate of {rate / 10:.2g}, a warm-up, clip_norm=1, or lr='find'.",
        )  # fmt: skip
    return None


def rule_t01(watch: Watch) -> Finding | None:
    """A gradient norm a thousand times its running median (over the fifty steps before)."""
    for place in range(20, len(watch.gradient_norms)):
        middle = statistics.median(watch.gradient_norms[max(0, place - 50) : place])
        norm = watch.gradient_norms[place]
        if middle > 1e-6 and norm > 1000 * middle:
            return Finding(
                "T01", "warning", f"At step {place + 1} the gradient's norm is {norm:.3g}; the median of the steps before is {middle:.3g}.", {"step": place + 1, "norm": norm, "median": middle},
                "One such step undoes hundreds.", "clip_norm=1, and look at the rows of this step.",
            )  # fmt: skip
    return None


def rule_t05(watch: Watch) -> Finding | None:
    """Eight epochs and more, validation loss half above its least and training loss still falling, with the last epoch kept."""
    subject = watch.subject
    epochs = [epoch for epoch in watch.epochs if epoch.val_loss is not None and math.isfinite(epoch.val_loss)]
    if len(epochs) < 8 or subject.keep == "best" or subject.has_patience or (subject.val is not None and len(subject.val) < 20):
        return None
    values = [epoch.val_loss for epoch in epochs if epoch.val_loss is not None]
    least = min(values)
    place = values.index(least)
    # The mean of the last three: one unlucky epoch is no trend. The rise has to be seen beside where validation began too.
    last = statistics.fmean(values[-3:])
    rise = last - least
    if rise > 0.5 * abs(least) + 0.02 and rise > 0.1 * abs(values[0]) and epochs[-1].train_loss < epochs[place].train_loss and place < len(values) - 3:
        return Finding(
            "T05", "warning", f"Validation loss was least in epoch {epochs[place].number + 1} ({least:.4g}) and is {last:.4g} now; training loss fell from {epochs[place].train_loss:.4g} to {epochs[-1].train_loss:.4g}.",
            {"best_epoch": epochs[place].number + 1, "least": least, "last": last}, "The model learns the training rows by heart, and its last epoch is kept.", "keep='best' and patience=10; a smaller model, dropout, weight decay.",
        )  # fmt: skip
    return None


def rule_t06(watch: Watch) -> Finding | None:
    """The last fifth of ten epochs and more still brought over a tenth of the whole gain. A note: a budget may be meant."""
    values = [epoch.val_loss if epoch.val_loss is not None else epoch.train_loss for epoch in watch.epochs]
    if len(values) < 10 or not all(map(math.isfinite, values)):
        return None
    tail = max(2, len(values) // 5)
    whole, late = values[0] - values[-1], values[-tail - 1] - values[-1]
    if whole > 0.01 * abs(values[0]) and late > 0.1 * whole:
        return Finding(
            "T06",
            "note",
            f"The last {tail} of {len(values)} epochs still brought {late / whole:.0%} of the gain.",
            {"late": late, "whole": whole},
            "It could be better.",
            "More epochs.",
        )
    return None


def rule_t07(watch: Watch) -> Finding | None:
    """Three steps and more that cost over ten times the running median and more than twice the start, after the first epoch."""
    if not watch.epochs or len(watch.losses) < 60 or watch.subject.batch_size < 4:
        return None
    begun = first_loss(watch)
    skipped = max(20, len(watch.losses) // max(1, len(watch.epochs)))
    spikes = []
    for place in range(skipped, len(watch.losses)):
        middle = statistics.median(watch.losses[max(0, place - 50) : place])
        loss = watch.losses[place]
        # Near the end the median is tiny and an ordinary hard batch is a hundred times it; a spike also beats what an untrained model paid.
        if middle > 0 and loss > 10 * middle and loss > 2 * abs(begun):
            spikes.append((place + 1, loss, middle))
    if len(spikes) >= 3:
        step, loss, middle = max(spikes, key=lambda spike: spike[1] / spike[2])
        return Finding(
            "T07", "warning", f"{len(spikes)} of {len(watch.losses)} steps cost over ten times the running median; the worst is step {step}: {loss:.3g} beside {middle:.3g}.", {"spikes": len(spikes), "step": step, "loss": loss, "median": middle},
            "A few rows undo what the others teach, epoch after epoch.", "Look at these rows (a wrong unit, a code for missing); HuberLoss, clip_norm=1.",
        )  # fmt: skip
    return None


RULES: tuple[Any, ...] = (rule_o01, rule_t01, rule_t05, rule_t06, rule_t07)
