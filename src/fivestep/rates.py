"""lr="find": a learning-rate test over decades, before the run, on training rows alone.

Enters: the arguments of `fit`. Leaves: a rate, the sentence that says how it was picked, and the table it was picked from. The decision that shaped it: one run
whose rate ramps up mixes what a rate does with what all smaller ones did before; here every rate trains fresh models of its own, with two seeds, all of them
stacked in the same steps where the model allows it. Validation and test rows are not touched, so no choice has been made on them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from fivestep import seeds
from fivestep.data.data import Part, Splits, as_splits
from fivestep.errors import NonFiniteError, SettingsError
from fivestep.preparing import prepare
from fivestep.session import Session
from fivestep.train import epochs
from fivestep.train.population import Member, Population
from fivestep.train.tracing import Unstackable

DECADES = (-5, 0)
PER_DECADE = 4
STEPS = 200  # at least so many for each rate, in whole epochs; data that has more batches is cut down to as many rows
MOST_NUMBERS = 2_000_000  # parameters; above, half as many rates and one seed: the test would cost more than it tells
WITHIN = 0.05
BELOW_DIVERGENCE = 3.0


def find_rate(arguments: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[float, str, dict[str, Any]]:
    """(rate, sentence, table).

    Each rate of 1e-5 ... 1 (four a decade) trains from fresh weights for about 200 steps. Its score is the mean training loss of the last quarter of its steps,
    the worse of two seeds. All rates whose score is within 5 % of the best one's improvement are as good; the one taken is their geometric middle, but at most a
    third of the smallest rate that diverged or ended worse than it began. Raises SettingsError where no rate improved the loss.
    """
    splits = as_splits(arguments["splits"])
    plain: dict[str, Any] = dict(
        scheduler=None, patience=None, average=None, metrics=None, monitor="loss", mode=None, watch_test=False, keep="last", folder=None, name=None, quiet=True,
        checks=False, observers=(), compile=None, calibrate=False,
    )  # fmt: skip
    probe = prepared(arguments, defaults, plain | {"epochs": 1, "lr": "auto"}, splits, arguments["seed"])
    numbers = sum(parameter.numel() for parameter in probe.training.model.parameters())
    small = numbers <= MOST_NUMBERS
    rates = [float(f"{10 ** (DECADES[0] + k / (PER_DECADE if small else 2)):.4g}") for k in range((DECADES[1] - DECADES[0]) * (PER_DECADE if small else 2) + 1)]
    test_seeds = [arguments["seed"], arguments["seed"] + 1] if small else [arguments["seed"]]
    steps = probe.plan.batches.steps(0)
    batch_size = getattr(probe.plan.batches, "batch_size", 32)
    rows = splits.train.indices
    if steps > STEPS and hasattr(probe.encoded["train"], "inputs"):
        kept = torch.randperm(len(rows), generator=seeds.generator(arguments["seed"], "rates"))[: STEPS * batch_size]
        rows, steps = rows[kept.sort().values], STEPS
    part = Splits._of([Part("train", splits.train.data, rows), None, None], how=splits.how, options=splits.options, groups=splits.group, times=splits.time)
    plain["epochs"] = max(1, math.ceil(STEPS / steps))
    plain["batch_size"] = batch_size

    def sessions() -> list[Session]:
        return [prepared(arguments, defaults, plain | {"lr": rate}, part, seed) for rate in rates for seed in test_seeds]

    made = sessions()
    how = "stacked"
    losses: list[list[float]] = []
    try:
        losses = stacked_losses(made)
    except Unstackable as told:
        how = f"one after another ({told})"
        for session in sessions():
            losses.append(losses_alone(session))
    starts = [one[0] for one in losses if one and math.isfinite(one[0])]
    scores = [worst_of_seeds(losses[k * len(test_seeds) : (k + 1) * len(test_seeds)]) for k in range(len(rates))]
    start = sum(starts) / len(starts) if starts else math.nan
    rate, good = pick(rates, scores, start)
    table = {"rates": rates, "losses": [score if math.isfinite(score) else None for score in scores], "start": start, "picked": rate}
    span = f"{min(good):.2g} to {max(good):.2g}" if len(good) > 1 else f"{good[0]:.2g}"
    sentence = (
        f"lr={rate:.2g}, found on training rows: of {len(rates)} rates from {rates[0]:.0e} to {rates[-1]:.0e} ({len(test_seeds)} seeds, "
        f"{plain['epochs'] * steps} steps each, {how}) those from {span} were as good, and this is their middle."
    )
    return rate, sentence, table


def prepared(arguments: Mapping[str, Any], defaults: Mapping[str, Any], changed: dict[str, Any], splits: Any, seed: int) -> Session:
    model = arguments["model"]
    with seeds.restored():
        model = copy.deepcopy(model) if isinstance(model, nn.Module) else model
        session = prepare(dict(arguments) | changed | dict(model=model, splits=splits, seed=seed), dict(defaults))
    return session


def stacked_losses(made: Sequence[Session]) -> list[list[float]]:
    """The training loss of each step of each session, all trained together; infinite from where one is not finite."""
    members = [Member(session.training, session.plan) for session in made]
    taken: list[list[float]] = [[] for _ in made]
    for member, into in zip(members, taken):
        member.plan = replace(member.plan, observers=(lambda event, into=into: into.extend(getattr(event, "losses", ())),))
    population = Population(members, shared=True)
    population.prepare()
    population.run()
    for member, into in zip(members, taken):
        if member.status == "diverged":
            into[:] = [into[0] if into else math.inf, math.inf]
    return taken


def losses_alone(session: Session) -> list[float]:
    taken: list[float] = []
    plan = replace(session.plan, observers=(lambda event: taken.extend(getattr(event, "losses", ())),))
    before = seeds.capture()
    try:
        epochs.train(session.training, plan)
    except NonFiniteError:
        return [taken[0] if taken else math.inf, math.inf]
    finally:
        seeds.restore(before)
    return taken


def worst_of_seeds(losses: Sequence[Sequence[float]]) -> float:
    """The mean of the last quarter of the steps, of the seed that ended worse."""
    ends = [sum(one[-max(1, len(one) // 4) :]) / max(1, len(one) // 4) if one else math.inf for one in losses]
    return max(ends) if all(map(math.isfinite, ends)) else math.inf


def pick(rates: Sequence[float], scores: Sequence[float], start: float) -> tuple[float, list[float]]:
    """(the rate by the rule of `find_rate`, the rates that were as good).

    >>> round(pick([0.001, 0.01, 0.1, 1.0], [0.9, 0.2, 0.21, float("inf")], 1.0)[0], 6)
    0.031623
    """
    best = min(range(len(rates)), key=lambda k: scores[k])
    if not math.isfinite(scores[best]) or not scores[best] < start:
        raise SettingsError(
            f"lr='find': no rate from {rates[0]:.0e} to {rates[-1]:.0e} brought the training loss below its start ({start:.4g}), so the rate is not what is in the "
            "way. Look at the loss, the scale of the inputs and the targets (fs.check), or give a number."
        )
    limit = scores[best] + WITHIN * (start - scores[best])
    low = high = best
    while low > 0 and scores[low - 1] <= limit:
        low -= 1
    while high + 1 < len(rates) and scores[high + 1] <= limit:
        high += 1
    good = list(rates[low : high + 1])
    rate = math.exp(sum(map(math.log, good)) / len(good))
    failing = [one for one, score in zip(rates, scores) if one > rates[best] and not score < start]
    if failing:
        rate = min(rate, min(failing) / BELOW_DIVERGENCE)
    return rate, good
