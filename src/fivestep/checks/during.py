"""What is seen while training goes on: `Watch` is told losses and epochs, looks at gradients, weights and dead units at a few epochs' ends, and afterwards says what it means.

Enters: losses of steps in groups, each epoch's numbers, the model between two epochs. Leaves: findings at the end. It never touches model, data or random state.
The decision that shaped it: nothing happens inside a step. The gradient of an epoch's last step still stands in `.grad` when the epoch is over, where an
accelerator has been waited for anyway; it is measured after epochs 1, 2, 4, 8, ... only, so that the cost falls with the length of the run.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fivestep import seeds
from fivestep.checks.asking import is_scale_free, maximizes, rates
from fivestep.checks.before_model import dead_share, is_relu
from fivestep.checks.findings import Finding
from fivestep.checks.probe import Probe, copy_together
from fivestep.checks.recording import Recorder
from fivestep.checks.subject import Subject
from fivestep.data.batches import map_tensors
from fivestep.train.loop import forward

KEPT_STEPS = 100_000  # losses beyond are not kept: trends show long before


@dataclass(frozen=True)
class Epoch:
    """One epoch's numbers; `val_loss` is None where there was no validation."""

    number: int
    train_loss: float
    val_loss: float | None
    rate: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Sample:
    """Gradients and weights at one epoch's end, by parameter name: norms of the last step's gradient, of the weight, and of its move over that epoch (empty: unknown)."""

    epoch: int
    gradients: Mapping[str, float]
    weights: Mapping[str, float]
    moves: Mapping[str, float]

    @property
    def gradient(self) -> float:
        """The norm of the whole gradient, as clipping left it."""
        return math.sqrt(sum(norm * norm for norm in self.gradients.values()))


def is_sampled(epoch: int) -> bool:
    """Whether gradients are looked at after this epoch (from 1): after 1, 2, 4, 8, ..., so 10 looks in 1,000 epochs."""
    return epoch > 0 and epoch & (epoch - 1) == 0


class Watch:
    """An observer of one run. `found` are the findings from before it, `probe` (if given) holds the copy of the model's start."""

    def __init__(self, subject: Subject, found: Sequence[Finding] = (), *, probe: Probe | None = None):
        self.subject, self.found = subject, list(found)
        self.probe = probe if probe is not None else Probe(subject)
        self.losses: list[float] = []
        self.gradient_norms: list[float] = []
        self.epochs: list[Epoch] = []
        self.samples: list[Sample] = []
        self.before_epoch: dict[str, torch.Tensor] = {}
        self.rows: Any = None  # training inputs that ReLUs are looked at with; None where there are none
        self.dead: list[tuple[int, tuple[float, ...]]] = []  # (epoch, of each ReLU in the order of forward: the share of units that are zero for every row)
        try:
            _ = self.probe.pair  # the copy has to be taken now, before weights move
            if subject.step is None and any(is_relu(call) for call in self.probe.training.calls):
                self.rows = self.probe.batch[0]
                self.dead.append((0, dead_shares(subject.model, self.rows)))
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

    def model_seen(self, model: nn.Module, epoch: int) -> None:
        """The model after `epoch` (from 1), between two epochs. Its weights are copied only at the start of an epoch that will be sampled."""
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.is_floating_point()}
        if is_sampled(epoch) and named:
            graded = {name: parameter.grad for name, parameter in named.items() if parameter.grad is not None and not parameter.grad.is_sparse}
            kept = {name: old for name, old in self.before_epoch.items() if name in named and old.shape == named[name].shape}
            with torch.no_grad():
                moves = norms({name: named[name].detach() - old for name, old in kept.items()})
                self.samples.append(Sample(epoch, norms(graded), norms(named), moves))
            # A look costs a copy and one forward of at most 256 rows, about as much as two steps: one in 200 steps keeps it at a hundredth of the run.
            if self.rows is not None and len(self.losses) >= 200 * len(self.dead):
                self.dead.append((epoch, dead_shares(model, self.rows)))
        self.before_epoch = {name: parameter.detach().clone() for name, parameter in named.items()} if is_sampled(epoch + 1) else {}

    def trained(self, model: nn.Module) -> None:
        """The model as training left it: a last look at dead units. Call it before `findings`, once the run has ended."""
        if self.rows is not None and self.epochs:
            self.dead.append((self.epochs[-1].number + 1, dead_shares(model, self.rows)))

    def findings(self) -> list[Finding]:
        """What the course of the losses means; call it once the run has ended."""
        found = [rule(self) for rule in RULES]
        return [finding for finding in found if finding is not None]


def dead_shares(model: nn.Module, inputs: Any) -> tuple[float, ...]:
    """Of each ReLU of a forward, in order: the share of its units that are zero for all of `inputs`. A copy in train mode is asked; nothing of the model's moves."""
    with seeds.restored(0), torch.no_grad(), Recorder() as recorder:
        forward(copy_together(model)[0].train(), map_tensors(lambda tensor: tensor.clone(), inputs))
    return tuple(dead_share(call.result) for call in recorder.calls if is_relu(call) and isinstance(call.result, torch.Tensor) and call.result.dim() >= 2)


def rule_t03(watch: Watch) -> Finding | None:
    """A ReLU layer whose units died on the way: at most 90 % dead at the start, over 90 % at the last look. A note where over half are, and twice as many."""
    looked = [(epoch, dead) for epoch, dead in watch.dead if len(dead) == len(watch.dead[0][1])]
    if len(looked) < 2:
        return None
    for number in range(len(looked[0][1])):
        first, *shares = [dead[number] for _, dead in looked]
        last = shares[-1]
        # Between a half and nine tenths a sparse code may be meant, and half of the units still work.
        gone = last > 0.9 >= first
        if gone or (last > 0.5 and last > 2 * first):
            since = next(epoch for (epoch, _), share in zip(looked[1:], shares) if share > (0.9 if gone else 0.5))
            course = ", ".join(f"{share:.0%} after epoch {epoch}" for (epoch, _), share in zip(looked[1:], shares))
            return Finding(
                "T03", "warning" if gone else "note", f"In ReLU number {number + 1} (in the order of forward) {first:.0%} of the units were zero for every row at the start, {course}.",
                {"relu": number + 1, "start": first, "epochs": [epoch for epoch, _ in looked[1:]], "shares": shares, "since_epoch": since},
                "Dead units have no gradient and do not come back: the model has shrunk." if gone else "The model shrinks as it trains.",
                "A smaller rate or a warm-up (they die in the epochs in which steps are longest), clip_norm=1, or nn.LeakyReLU in that place.",
            )  # fmt: skip
    return None


def norms(tensors: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """The norm of each tensor, fetched from the device together."""
    if not tensors:
        return {}
    found = torch.stack([value.detach().float().norm() for value in tensors.values()])
    return dict(zip(tensors, found.tolist()))


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


def rule_diverged(watch: Watch) -> Finding | None:
    """O01 for a run that had learnt and fell apart: the last three epochs cost over five times the best one and over 30 % of what the start cost."""
    values = [epoch.train_loss for epoch in watch.epochs]
    if len(values) < 8 or not all(map(math.isfinite, values)) or maximizes(watch.subject.optimizer):
        return None
    least, last, begun = min(values), statistics.fmean(values[-3:]), first_loss(watch)
    place = values.index(least)
    # Overfitting does not raise the training loss, and a batch of bad luck does not last three epochs; rule_o01 tells of an end above the start.
    if least > 0 and last > 5 * least and 0.3 * begun < last <= 1.5 * begun and place < len(values) - 3:
        rate = max(rates(watch.subject.optimizer), default=watch.epochs[-1].rate)
        return Finding(
            "O01", "warning", f"The training loss fell to {least:.4g} in epoch {watch.epochs[place].number + 1} and is {last:.4g} at the end; it began at {begun:.4g}.", {"least": least, "last": last, "rate": rate},
            "One step too long has thrown away what was learnt.", f"A rate of {rate / 10:.2g}, a schedule that falls, clip_norm=1.",
        )  # fmt: skip
    return None


def layers(sample: Sample) -> dict[str, float]:
    """Norms of the gradients of weights (a name ending in "weight", or of recurrent layers), in the order of the model; biases and norms say little."""
    return {name: norm for name, norm in sample.gradients.items() if "weight" in name.rpartition(".")[2]}


def rule_t02(watch: Watch) -> Finding | None:
    """From the third look on a weight's gradient is under a millionth of another's, at each of three looks, and was over a ten-thousandth at the first."""
    if len(watch.samples) < 4:
        return None
    looked = [layers(sample) for sample in watch.samples]
    common = set.intersection(*map(set, looked))
    for name in [name for name in looked[0] if name in common]:
        # The largest gradient of the same look is the measure: near the end of a good run all of them are small together.
        shares = [look[name] / max(max(look.values()), 1e-30) for look in looked]
        largest = [max(look.values()) for look in looked[-3:]]
        if shares[0] > 1e-4 and all(share < 1e-6 for share in shares[-3:]) and min(largest) > 1e-6:
            return Finding(
                "T02", "warning", f"The gradient of {name} was {shares[0]:.1g} of the largest one in epoch {watch.samples[0].epoch}, and is {shares[-1]:.1g} of it in epoch {watch.samples[-1].epoch}.",
                {"layer": name, "first": shares[0], "last": shares[-1]}, "This layer has stopped learning: units before or behind it are dead or saturated.",
                "A smaller rate, LeakyReLU or GELU, a norm layer, a residual connection.",
            )  # fmt: skip
    return None


def rule_exploding(watch: Watch) -> Finding | None:
    """T01 by layer: a gradient a thousand times that of the first epoch, and larger than the weight itself. A note where the optimizer divides by its size."""
    if len(watch.samples) < 2:
        return None
    first = watch.samples[0].gradients
    for sample in watch.samples[1:]:
        for name, norm in sample.gradients.items():
            if first.get(name, 0.0) > 1e-8 and norm > 1000 * first[name] and norm > sample.weights.get(name, math.inf):
                mild = is_scale_free(watch.subject.optimizer) or watch.subject.clip_norm is not None
                return Finding(
                    "T01", "note" if mild else "warning", f"The gradient of {name} had norm {first[name]:.3g} in epoch {watch.samples[0].epoch} and has {norm:.3g} in epoch {sample.epoch} (its weight has {sample.weights[name]:.3g}).",
                    {"layer": name, "first": first[name], "norm": norm, "epoch": sample.epoch}, "One such step undoes hundreds.", "clip_norm=1, a smaller rate.",
                )  # fmt: skip
    return None


def rule_t08(watch: Watch) -> Finding | None:
    """How far weights move in an epoch: all of them further than their own size again and again, or none by more than a millionth. Notes: the loss decides."""
    looked = [sample for sample in watch.samples[2:] if sample.moves]
    if len(looked) < 2:
        return None
    shares = []
    for sample in looked:
        size = math.sqrt(sum(norm * norm for norm in sample.weights.values()))
        shares.append(math.sqrt(sum(norm * norm for norm in sample.moves.values())) / max(size, 1e-30))
    if min(shares) > 1 or max(shares) < 1e-6:
        far = min(shares) > 1
        return Finding(
            "T08", "note", f"In epochs {', '.join(str(sample.epoch) for sample in looked)} the weights moved by {min(shares):.2g} to {max(shares):.2g} of their size.", {"moves": shares},
            "Weights that move by their own size each epoch never settle." if far else "Weights that stand still learn nothing more.", "A smaller rate at the end of the run (a schedule)." if far else "A larger rate, or stop here.",
        )  # fmt: skip
    return None


def rule_t09(watch: Watch) -> Finding | None:
    """The gradient has exactly the length of the clip at each of five looks and more: every step is clipped. A note: transformers are trained so."""
    clip = watch.subject.clip_norm
    if clip is None or len(watch.samples) < 5:
        return None
    if all(abs(sample.gradient - clip) < 1e-3 * clip for sample in watch.samples):
        return Finding(
            "T09", "note", f"At all {len(watch.samples)} epochs that were looked at the gradient had the clip's length, {clip:g}.", {"clip_norm": clip, "looks": len(watch.samples)},
            "Every step is clipped: the rate and the clip together are the step's length, and the loss's slope no longer counts.", "A larger clip_norm, unless it is meant.",
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
    """Three steps and more that cost over ten times the running median and more than twice the start, after the first epoch; the worst over a hundred times.

    Counts and amounts have long tails: a batch with one of their largest rows costs forty times the median (hours in `fair`); a wrong unit costs thousands.
    """
    if not watch.epochs or len(watch.losses) < 60 or watch.subject.batch_size < 4:
        return None
    begun = first_loss(watch)
    skipped = max(20, len(watch.losses) // max(1, len(watch.epochs)))
    spikes = []
    for place in range(skipped, len(watch.losses)):
        loss = watch.losses[place]
        # Near the end the median is tiny and an ordinary hard batch is a hundred times it; a spike also beats what an untrained model paid.
        if not loss > 2 * abs(begun):
            continue  # asked first: a median for each step cost 4 us, half of a compiled step of W1
        middle = statistics.median(watch.losses[max(0, place - 50) : place])
        if middle > 0 and loss > 10 * middle:
            spikes.append((place + 1, loss, middle))
    if len(spikes) >= 3:
        step, loss, middle = max(spikes, key=lambda spike: spike[1] / spike[2])
        return Finding(
            "T07", "warning" if loss > 100 * middle else "note", f"{len(spikes)} of {len(watch.losses)} steps cost over ten times the running median; the worst is step {step}: {loss:.3g} beside {middle:.3g}.", {"spikes": len(spikes), "step": step, "loss": loss, "median": middle},
            "A few rows undo what the others teach, epoch after epoch.", "Look at these rows (a wrong unit, a code for missing); HuberLoss, clip_norm=1.",
        )  # fmt: skip
    return None


RULES: tuple[Any, ...] = (rule_o01, rule_diverged, rule_t01, rule_exploding, rule_t02, rule_t03, rule_t05, rule_t06, rule_t07, rule_t08, rule_t09)
