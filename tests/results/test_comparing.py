"""What is said is true: a variant with itself is not called better, a real gain is, and one seed shows nothing."""

from __future__ import annotations

import pytest
import torch

from fivestep.results.comparing import Interval, Measured, compare_measured, estimate, main_effects, t_quantile


def simulated(generator: torch.Generator, *, seeds: int, gain: float, first_seed: int, rows: int = 60, of_seed: float = 0.1, of_both: float = 1.0) -> Measured:
    """Scores of one variant: each seed trains a model that is better or worse on all rows (`of_seed`) and on each row (`of_both`)."""
    values = gain + of_seed * torch.randn(seeds, 1, generator=generator) + of_both * torch.randn(seeds, rows, generator=generator)
    drawn = torch.Generator().manual_seed(0)  # the rows are resampled alike for both
    counts = torch.zeros(150, rows).scatter_add_(1, torch.randint(rows, (150, rows), generator=drawn), torch.ones(150, rows))
    return Measured(f"{first_seed}", values.mean(1), values @ counts.T / rows, tuple(range(first_seed, first_seed + seeds)), rows)


@pytest.mark.parametrize(("seeds", "of_seed"), [(5, 0.1), (5, 0.0), (3, 0.5)])
def test_in_200_comparisons_of_a_variant_with_itself_under_other_seeds_better_is_said_in_at_most_5_percent(seeds: int, of_seed: float) -> None:
    generator = torch.Generator().manual_seed(11)
    said = 0
    for _ in range(200):
        pair = [simulated(generator, seeds=seeds, gain=0.0, first_seed=first, of_seed=of_seed) for first in (0, 100)]
        said += compare_measured(pair, metric="loss", higher_is_better=False).better
    assert said <= 10


def test_the_best_of_many_equal_variants_is_not_called_better_than_the_worst() -> None:
    generator = torch.Generator().manual_seed(12)
    said = 0
    for _ in range(100):
        many = [simulated(generator, seeds=5, gain=0.0, first_seed=0) for _ in range(6)]
        said += any(row.verdict == "worse" for row in compare_measured(many, metric="loss", higher_is_better=False).rows)
    assert said <= 5


@pytest.mark.parametrize(("errors", "at_least"), [(4, 40), (5, 50)])
def test_a_planted_gain_of_four_standard_errors_is_mostly_found_and_of_five_nearly_always(errors: int, at_least: int) -> None:
    generator = torch.Generator().manual_seed(13)
    gain = errors * (2 * (0.1**2 + 1 / 60) / 5) ** 0.5  # 5 seeds: the standard error of the difference of two means is 0.103
    found = sum(
        compare_measured([simulated(generator, seeds=5, gain=one, first_seed=0) for one in (0.0, gain)], metric="loss", higher_is_better=False).better
        for _ in range(60)
    )
    assert found >= at_least


def test_one_seed_each_is_never_called_better() -> None:
    generator = torch.Generator().manual_seed(14)
    pair = [simulated(generator, seeds=1, gain=gain, first_seed=0) for gain in (0.0, 50.0)]
    compared = compare_measured(pair, metric="loss", higher_is_better=False)
    assert compared.rows[1].verdict == "worse with this seed" and not compared.better
    difference = compared.rows[1].difference
    assert difference is not None and difference.low is not None and difference.low > 0  # these two models do differ, and that is shown


def test_the_interval_of_many_comparisons_is_wider_than_that_of_one() -> None:
    pair = [Measured("a", torch.tensor([1.0, 1.2, 0.9]), None, (0, 1, 2)), Measured("b", torch.tensor([2.0, 2.1, 2.2]), None, (0, 1, 2))]
    one, many = (estimate({1: 1.0, 0: -1.0}, pair, comparisons=count) for count in (1, 28))
    assert one.low is not None and many.low is not None and many.low < one.low
    differences = torch.tensor([1.0, 0.9, 1.3], dtype=torch.float64)
    assert one.low == pytest.approx(float(differences.mean() - t_quantile(0.975, 2) * differences.std() / 3**0.5), rel=1e-6)


@pytest.mark.parametrize(
    ("probability", "degrees", "expected"), [(0.975, 1, 12.7062), (0.975, 4, 2.7764), (0.995, 10, 3.1693), (0.9999, 4, 13.0337), (0.975, 1e9, 1.95996)]
)
def test_the_quantiles_of_students_t_are_those_of_the_tables(probability: float, degrees: float, expected: float) -> None:
    assert t_quantile(probability, degrees) == pytest.approx(expected, rel=1e-4)


def test_a_variant_that_diverged_in_one_seed_is_never_the_best() -> None:
    nan = float("nan")
    compared = compare_measured(
        [Measured("a", torch.tensor([0.1, nan]), None, (0, 1)), Measured("b", torch.tensor([0.5, 0.6]), None, (0, 1))], metric="loss", higher_is_better=False
    )
    assert compared.best == "b" and compared["a"].verdict == "diverged"


def test_main_effects_find_the_factor_that_matters_and_not_the_other() -> None:
    settings = [{"lr": lr, "width": width} for lr in (1, 2) for width in (3, 4)]
    noise = torch.Generator().manual_seed(5)
    measured = [Measured(str(one), one["lr"] + 0.05 * torch.randn(5, generator=noise), None, tuple(range(5))) for one in settings]
    effects = {(effect.factor, effect.level): effect for effect in main_effects(measured, settings, higher_is_better=False)}
    assert effects["lr", 1].verdict == "best" and effects["lr", 2].verdict == "worse"
    difference = effects["lr", 2].difference
    assert isinstance(difference, Interval) and difference.value == pytest.approx(1.0, abs=0.1)
    assert {effects["width", width].verdict for width in (3, 4)} == {"best", "could be luck"}
