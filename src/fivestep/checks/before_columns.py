"""Rules on single columns (letter D): codes for missing, constants, row numbers, names taken as amounts, twins, offsets, numbers read as text.

A column is judged over all rows, in the order and precision of the file: what was rounded away or counts the rows cannot be seen in encoded inputs.
"""

from __future__ import annotations

import re

import numpy

from fivestep.checks.arrays import Column, as_numbers
from fivestep.checks.findings import Finding
from fivestep.checks.probe import Probe
from fivestep.checks.rules import Rule
from fivestep.checks.subject import Subject


def named_column(subject: Subject, number: int) -> str:
    names = list(subject.used)
    return f"'{names[number]}'" if subject.table is not None and number < len(names) else f"column {number}"


SENTINELS = {
    -1.0,
    -9.0,
    -99.0,
    -999.0,
    -9999.0,
    -99999.0,
    99.0,
    999.0,
    9999.0,
    99999.0,
    999999.0,
    -32768.0,
    32767.0,
    65535.0,
    -2147483648.0,
    2147483647.0,
    1e10,
    -1e10,
    1e20,
}


def rule_d04(subject: Subject, probe: Probe) -> Finding | None:
    """An extreme value repeated exactly in at least 2 % of the rows (a usual code: 0.5 %) and farther from the rest than ten times their quartile range."""
    columns = [column for column in probe.columns if column.used]
    target = probe.target_column
    if target is not None and not probe.has_classes:
        columns.append(Column(f"the target {subject.target!r}" if subject.target else "the target", target, "float64"))
    for column in columns:
        values = column.finite
        if len(values) < 40 or column.distinct < 12:
            continue
        for extreme in (values.min(), values.max()):
            same = values == extreme
            share = float(same.mean())
            usual = float(extreme) in SENTINELS and abs(extreme) > 9
            if not ((0.005 if usual else 0.02) <= share <= 0.7 and same.sum() >= 4):
                continue
            rest = values[~same]
            low, high = numpy.percentile(rest, [25, 75])
            gap = float(numpy.abs(rest - extreme).min())
            # A cap or a true zero lies next to the bulk; a code lies far outside. Zero itself is a code only where it is absurdly far.
            if high > low and gap > (10 if extreme != 0 else 30) * (high - low):
                return Finding(
                    "D04", "warning", f"{column.name}: {int(same.sum())} rows ({share:.1%}) hold exactly {extreme:g}; all others lie between {rest.min():.4g} and {rest.max():.4g}.",
                    {"column": column.name, "value": float(extreme), "share": share, "least_of_rest": float(rest.min()), "most_of_rest": float(rest.max())},
                    "A code for 'missing' taken as a number is the largest outlier of the column: it sets the scale and pulls the weights.",
                    f"Read it as missing (Data.table(..., missing=[\"{extreme:g}\"])), or fill it and add a yes/no column beside it.",
                )  # fmt: skip
    return None


def rule_d06(subject: Subject, probe: Probe) -> Finding | None:
    """All inputs equal in every row (an error), or a column that never varies (a note)."""
    flat = probe.flat("train")
    if flat is None or len(flat) < 4:
        return None
    constant = flat.max(0) == flat.min(0)
    if constant.all():
        return Finding(
            "D06", "error", f"All {len(flat)} training rows hold the same inputs ({flat[0, 0]:g}, ...).", {"rows": len(flat)},
            "The model can only learn how often each target occurs.", "Look at how the inputs were read or computed.",
        )  # fmt: skip
    pictures = getattr(probe.train.inputs, "ndim", 2) > 2  # the border of digits is black in all of them
    if constant.any() and flat.shape[1] <= 512 and not pictures:
        names = [named_column(subject, int(number)) for number in numpy.flatnonzero(constant)[:5]]
        return Finding(
            "D06",
            "note",
            f"{int(constant.sum())} of {flat.shape[1]} columns never vary: {', '.join(names)}.",
            {"columns": names},
            "They carry nothing.",
            "Drop them.",
        )
    return None


def ordered_correlation(keys: numpy.ndarray, target: numpy.ndarray, classes: bool) -> float:
    """Correlation of each target with the one before it, along `keys`; for classes the largest over the classes."""
    ordered = target[numpy.argsort(keys, kind="stable")]
    signals = [(ordered == label).astype(float) for label in numpy.unique(ordered)[:20]] if classes else [ordered]
    best = 0.0
    for signal in signals:
        if signal.std() > 0:
            best = max(best, float(numpy.corrcoef(signal[1:], signal[:-1])[0, 1]))
    return best


def evenly_spaced(ordered: numpy.ndarray) -> bool:
    """Whether sorted whole numbers are a counter: step 1, or one step where every k-th row was taken."""
    steps = numpy.diff(ordered)
    if len(steps) == 0:
        return False
    if bool(numpy.all(steps == steps[0])):
        return bool(steps[0] == 1) or len(ordered) > 4000 or bool(ordered[0] != round(ordered[0]))
    # Divided by a hundred and stored in float32, its steps are equal but for rounding.
    return bool(numpy.any(ordered != ordered.round())) and bool(numpy.abs(steps - steps.mean()).max() < 0.01 * abs(steps.mean()))


def id_like(subject: Subject, probe: Probe) -> Finding | None:
    """D13 as a note: a column that the reader left out as a counter or an id, or one of whole numbers, each other than all before, that went in as a feature."""
    reasons = {name: why.split(";")[0] for name, why in subject.left_out.items() if why.startswith(("it counts the rows", "an id"))}
    if reasons:
        return Finding(
            "D13", "note", f"Left out as no feature: {', '.join(f'{name} ({why})' for name, why in reasons.items())}.", {"columns": list(reasons)},
            "As a feature it would be learnt by heart and say nothing about new rows.", f"Nothing, or columns={{{next(iter(reasons))!r}: \"number\"}} if it is meant.",
        )  # fmt: skip
    if subject.table is None:
        return None
    for column in probe.columns:
        # Amounts in whole numbers repeat here and there: among a thousand of them up to a million some two are equal nearly always (birthdays).
        values = column.finite
        if not (
            column.used
            and column.kind == "number"
            and column.is_integer
            and 200 <= len(values) == column.distinct
            and len(values) ** 2 > 4 * (values.max() - values.min())
        ):
            continue
        return Finding(
            "D13", "note", f"{column.name} holds {column.distinct} whole numbers, each other than all the rest.", {"column": column.name},
            "If it is an id, it is learnt by heart and says nothing about new rows.", f"If it is an id: {column.left_out}.",
        )  # fmt: skip
    return None


def rule_d13(subject: Subject, probe: Probe) -> Finding | None:
    """A feature that counts the rows (whole, unique, step 1) while the targets depend on the order of the rows."""
    target = probe.target_column
    if target is None or subject.split == "time" or len(probe.columns) < 2 or not numpy.isfinite(target).all():
        return id_like(subject, probe)
    for column in probe.columns:
        if not (column.used and len(column.finite) == column.distinct and len(column.values) == len(target) and len(target) >= 30):
            continue
        ordered = numpy.sort(column.values)
        # A row number may have been divided since; then only a column that also runs with the rows is one (a grid of a curve is no row number).
        if not column.is_integer and (subject.split == "given" or len(probe.columns) < 3 or not bool((numpy.diff(column.values) > 0).all())):
            continue
        if not evenly_spaced(ordered):
            continue
        correlation = ordered_correlation(column.values, target, probe.has_classes)
        # Where every other column is a smooth function of this one (x beside x**2 and x**3), the rows are points of a curve and it is the curve's argument.
        others = [other for other in probe.columns if other is not column and other.used and len(other.finite) == len(column.values) and other.distinct > 1]
        if others and all(ordered_correlation(column.values, other.values, False) > 0.99 for other in others):
            continue
        if correlation > 0.5:
            return Finding(
                "D13", "warning", f"{column.name} numbers the rows from {ordered[0]:g} to {ordered[-1]:g}, and targets of neighbouring numbers are alike (correlation {correlation:.2f}).",
                {"column": column.name, "correlation": correlation},
                "The model learns the order of the file: a perfect score here, none on new rows.", f"Leave it out: {column.left_out}.",
            )  # fmt: skip
    return id_like(subject, probe)


def rule_d14(subject: Subject, probe: Probe) -> Finding | None:
    """A whole-number column of 5 to 50 values whose target means jump about: far from any smooth curve, so its numbers are names."""
    target = probe.target_column
    if target is None or len(probe.columns) > 64 or subject.split == "time":
        return None
    rows = probe.in_train
    outcome = target[rows]
    if probe.has_classes and len(numpy.unique(outcome)) > 2:
        values, counts = numpy.unique(outcome, return_counts=True)
        outcome = (outcome == values[counts.argmax()]).astype(float)
    if not numpy.isfinite(outcome).all() or outcome.std() == 0:
        return None
    for column in probe.columns:
        if not column.used or not column.is_integer or column.kind == "category" or not 5 <= column.distinct <= 50:
            continue
        values = column.values[rows]
        if not numpy.isfinite(values).all():
            continue
        levels, group, sizes = numpy.unique(values, return_inverse=True, return_counts=True)
        if len(levels) < 5 or numpy.median(sizes) < 8 or levels[-1] - levels[0] > 3 * len(levels):
            continue
        means = numpy.bincount(group, outcome) / sizes
        by_level = 1 - float(((outcome - means[group]) ** 2).mean()) / outcome.var()
        degree = 2 if len(levels) <= 6 else 3
        position = (values - values.mean()) / values.std()
        design = numpy.vander(position, degree + 1)
        fitted = design @ numpy.linalg.lstsq(design, outcome, rcond=None)[0]
        smooth = 1 - float(((outcome - fitted) ** 2).mean()) / outcome.var()
        chance = len(levels) / len(values)
        # Grades, counts, hours follow a curve of degree three; names do not. Below a tenth of the variance it does not matter.
        if by_level - smooth > 0.1 + 2 * chance and by_level > 2 * max(smooth, 0):
            return Finding(
                "D14", "warning", f"{column.name} has {len(levels)} whole numbers; taken as names they explain {by_level:.0%} of the target, as a smooth number only {smooth:.0%}.",
                {"column": column.name, "levels": len(levels), "as_names": by_level, "as_number": smooth},
                "The model is told that code 3 lies between 2 and 4.", f"Tell that it is a category: columns={{{column.name!r}: \"category\"}}, or use nn.Embedding.",
            )  # fmt: skip
    return None


def rule_d16(subject: Subject, probe: Probe) -> Finding | None:
    """Two continuous columns that are one (correlation over 0.9999); for discrete ones a note."""
    columns = [column for column in probe.columns if column.used and bool(numpy.isfinite(column.values[:5000]).all()) and column.distinct > 1]
    if not 2 <= len(columns) <= 64 or len(columns[0].values) < 10:
        return None
    matrix = numpy.stack([column.values[:5000] for column in columns])
    keep = matrix.std(1) > 0
    columns = [column for column, kept in zip(columns, keep) if kept]
    if len(columns) < 2:
        return None
    correlation = numpy.abs(numpy.triu(numpy.corrcoef(matrix[keep]), 1))
    first, second = numpy.unravel_index(int(numpy.nanargmax(correlation)), correlation.shape)
    value = float(correlation[first, second])
    if value <= 0.9999:
        return None
    pair = (columns[first], columns[second])
    continuous = min(column.distinct for column in pair) > 12
    return Finding(
        "D16", "warning" if continuous else "note", f"{pair[0].name} and {pair[1].name} are the same column in other words (correlation {value:.6f}).",
        {"columns": [column.name for column in pair], "correlation": value},
        "Their weights are not determined: they grow apart and cancel, and importance is split by chance.", "Drop one of the two.",
    )  # fmt: skip


def rule_d20(subject: Subject, probe: Probe) -> Finding | None:
    """A float32 column whose mean is over 100,000 deviations away from zero: 24 bits hold nothing of its variation."""
    for column in probe.columns:
        if not column.used or column.dtype != "float32" or len(column.finite) < 2:
            continue
        spread, middle = float(column.finite.std()), abs(float(column.finite.mean()))
        if spread > 0 and middle / spread > 1e5:
            resolution = float(numpy.spacing(numpy.float32(middle)))
            return Finding(
                "D20", "warning", f"{column.name} is float32 around {middle:.6g} with a spread of {spread:.4g}: its smallest step there is {resolution:g}.",
                {"column": column.name, "mean": middle, "deviation": spread, "step": resolution},
                "Most of the column's variation was rounded away when it was stored.", "Subtract the offset in float64, then go to float32.",
            )  # fmt: skip
    return None


NUMBER = re.compile(r"^\s*[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?\s*%?\s*$")


def rule_d21(subject: Subject, probe: Probe) -> Finding | None:
    """A column held as text and read as numbers; or one used as a category of which over 95 % are numbers with decimals, or whole numbers that go with the target."""
    for name, odd in subject.texts.items():
        some = sorted(set(odd))[:3]
        none = f", {len(odd)} are none ({', '.join(map(repr, some))}) and count as missing" if odd else ""
        return Finding(
            "D21", "warning", f"'{name}' is held as text; it was read as numbers{none}.", {"column": name, "none": len(odd), "others": some},
            "One odd value makes a whole column text: other tools make a level of each number, and what is no number is lost here without a word.",
            f"table[{name!r}] = pandas.to_numeric(table[{name!r}], errors='coerce') before Data.table" + (f", after a look at {', '.join(map(repr, some))}." if odd else "."),
        )  # fmt: skip
    for name, values in (subject.table or {}).items():
        if name not in subject.used or subject.kinds.get(name) == "number" or as_numbers(numpy.asarray(values))[0] is not None:
            continue
        texts = ["" if value is None else str(value) for value in values]
        filled = [text for text in texts if text.strip()]
        reads = [bool(NUMBER.match(text)) for text in filled]
        if len(filled) < 20 or sum(reads) / len(filled) <= 0.95 or len(set(filled)) <= 12:
            continue
        numbers = numpy.array([float(text.strip().rstrip("%").replace(",", ".")) if NUMBER.match(text) else numpy.nan for text in texts])
        decimals = float(numpy.mean(["." in text or "," in text or "-" in text for text in filled]))
        target, ok = probe.target_column, numpy.isfinite(numbers)
        related = 0.0
        if target is not None and len(target) == len(numbers) and numbers[ok].std() > 0 and target[ok].std() > 0:
            related = abs(float(numpy.corrcoef(numbers[ok], target[ok])[0, 1]))
        fixed_width = len({len(text) for text in filled}) == 1  # zip codes and product numbers are names
        if decimals > 0.3 or (not fixed_width and related > 0.2):
            odd = sorted({text for text, good in zip(filled, reads) if not good})[:3]
            read = f'Read it as a number: columns={{{name!r}: "number"}}, missing={odd or ["?"]}.'
            if any("%" in text for text in filled):
                read = "Take the % away in the data; it is then read as a number."
            return Finding(
                "D21", "warning", f"'{name}' is text, but {sum(reads)} of {len(filled)} values are numbers" + (f" (not: {', '.join(map(repr, odd))})." if odd else "."),
                {"column": name, "numbers": sum(reads), "values": len(filled), "others": odd},
                f"Each of its {len(set(filled))} texts becomes a level of its own.", read,
            )  # fmt: skip
    return None


RULES: tuple[Rule, ...] = (rule_d04, rule_d06, rule_d13, rule_d14, rule_d16, rule_d20, rule_d21)
