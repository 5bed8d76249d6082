"""Rules on how rows were split and what leaks (letter S), and the selection on test rows (E03).

Rows are compared by their bits, only where chance could not make two rows equal. Nothing here predicts: the test split's rows are read, never scored.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy

from fivestep.checks.arrays import Column, as_numbers
from fivestep.checks.before_columns import evenly_spaced, ordered_correlation
from fivestep.checks.before_rows import is_continuous, row_keys
from fivestep.checks.findings import Finding
from fivestep.checks.probe import Probe
from fivestep.checks.subject import Subject


def shared_rows(probe: Probe, first: str, second: str) -> tuple[float, int] | None:
    """As `find_shared_rows`, asked once for each pair of splits: three rules want to know."""
    if (first, second) not in probe.shared:
        probe.shared[first, second] = find_shared_rows(probe, first, second)
    return probe.shared[first, second]


def find_shared_rows(probe: Probe, first: str, second: str) -> tuple[float, int] | None:
    """The share (and number) of rows of `first` that stand in `second`: by original position where known, else by bits. None where it cannot be told."""
    one, other = probe.readable.get(first), probe.readable.get(second)
    if one is None or other is None or len(one) == 0:
        return None
    if one.rows is not None and other.rows is not None:
        common = numpy.isin(one.rows, other.rows)
        if common.any():
            return float(common.mean()), int(common.sum())
    rows, reference = probe.flat(first), probe.flat(second)
    if rows is None or reference is None or rows.shape[1] != reference.shape[1] or len(rows) == 0:
        return None
    train = probe.flat("train")
    # Judged on the training rows, whatever is compared: a column of forty values looks continuous in a split of eighty rows.
    if train is None or train.shape[1] != rows.shape[1] or not is_continuous(train) or twins_by_chance(train) > 0.01:
        return None
    if second not in probe.known_rows:
        if len(reference) < len(other):  # a copy can stand anywhere: all rows of one side, a part of the other
            reference = probe.whole_flat(second)
            assert reference is not None
        # Sixteen varied columns find the candidates, all columns confirm them.
        spread = numpy.abs(reference[:500] - reference[:1]).mean(0)
        few = numpy.sort(numpy.argsort(-numpy.where(numpy.isfinite(spread), spread, 0))[:16])
        probe.known_rows[second] = reference, few, row_keys(reference[:, few])
    reference, few, known = probe.known_rows[second]
    keys = row_keys(rows[:, few])
    common = numpy.isin(keys, known)
    if common.any() and len(few) < rows.shape[1]:
        candidates = numpy.isin(known, keys[common])
        common[common] = numpy.isin(row_keys(rows[common]), row_keys(reference[candidates]))
    if rows.shape[1] > 1:  # blank rows repeat by nature
        common[common] &= rows[common].max(1) > rows[common].min(1)
    if common.sum() >= 10 and not same_answers(probe, first, second, rows, reference, common):
        return None
    return float(common.mean()), int(common.sum())


def twins_by_chance(train: numpy.ndarray) -> float:
    """How many training rows would equal a new row by chance, if columns were independent: two weights to a tenth of a gram agree in one of 900 pairs (`cats`).

    From pairs of rows that agree in a column, so that a column whose values are all different gives 0, however few rows there are.
    """
    sample = train[:2000]
    agree = 1.0
    for column in sample.T[:64]:
        counts = numpy.unique(column, return_counts=True)[1]
        agree *= float((counts * (counts - 1.0)).sum()) / max(1, len(column) * (len(column) - 1))
    return agree * len(train)


def same_answers(probe: Probe, first: str, second: str, rows: numpy.ndarray, reference: numpy.ndarray, common: numpy.ndarray) -> bool:
    """Whether at least a quarter of the rows found again have their target again too; True where targets cannot be laid beside them.

    The same flight on another day has another delay: such rows are no copies, and knowing one does not give the other away.
    """
    asked, known = probe.target_rows(first), probe.target_rows(second)
    if asked is None or known is None or len(asked) != len(rows) or len(known) != len(reference) or asked.shape[1] != known.shape[1]:
        return True
    keys = row_keys(numpy.concatenate([rows, asked.astype(numpy.float32)], 1)[common])
    return bool(numpy.isin(keys, row_keys(numpy.concatenate([reference, known.astype(numpy.float32)], 1))).mean() >= 0.25)


def rule_s01(subject: Subject, probe: Probe) -> Finding | None:
    """Over 5 % of the validation or test rows are bit-equal to a training row (95 % of validation: S09 says it)."""
    for name in ("val", "test"):
        found = shared_rows(probe, name, "train")
        if found is not None and found[0] > 0.05 and found[1] >= 3 and not (name == "val" and found[0] > 0.95):
            return Finding(
                "S01", "warning", f"{found[1]} of {len(probe.readable[name])} {name} rows ({found[0]:.0%}) stand bit for bit in the training rows too.",
                {"split": name, "rows": found[1], "share": found[0]},
                "The model has seen their answers: the score is above what new rows would give.",
                "Remove duplicates before the split, or keep copies together: split(group=...).",
            )  # fmt: skip
    return None


ID_NAME = re.compile(
    r"(^|_|\b)(id|ids|uid|uuid|patient|subject|user|customer|client|person|group|household|session|device|site|hospital|store|family|animal|speaker|writer|account|member)s?(_?id)?($|_|\b|\d)",
    re.I,
)


def likeness(group: numpy.ndarray, signal: numpy.ndarray) -> float:
    """The intraclass correlation of a number within groups: 0 where rows of one group are no more alike than others, 1 where they are equal."""
    sizes = numpy.bincount(group)
    means = numpy.bincount(group, signal) / sizes
    num_rows, num_groups = len(signal), len(sizes)
    between = float((sizes * (means - signal.mean()) ** 2).sum()) / max(1, num_groups - 1)
    within = float(((signal - means[group]) ** 2).sum()) / max(1, num_rows - num_groups)
    typical = (num_rows - float((sizes**2).sum()) / num_rows) / max(1, num_groups - 1)
    return (between - within) / max(1e-300, between + (typical - 1) * within)


def answers_of(probe: Probe) -> list[numpy.ndarray]:
    """The target as numbers of which alikeness means something: itself, or yes/no for each of up to ten classes; empty where it is unknown."""
    target = probe.target_column
    if target is None or not numpy.isfinite(target).all():
        return []
    return [(target == name).astype(float) for name in numpy.unique(target)[:10]] if probe.has_classes else [target]


def rises_with(numbers: numpy.ndarray, target: numpy.ndarray | None) -> bool:
    """Whether the target goes up or down with a number (rank correlation over 0.5): then the number is a quantity (casual riders among all), not a name."""
    if target is None or len(target) != len(numbers) or not (numpy.isfinite(numbers).all() and numpy.isfinite(target).all()):
        return False
    ranks = [numpy.unique(values, return_inverse=True)[1].astype(float) for values in (numbers, target)]
    return bool(all(rank.std() > 0 for rank in ranks) and abs(numpy.corrcoef(ranks[0], ranks[1])[0, 1]) > 0.5)


def rule_s02(subject: Subject, probe: Probe) -> Finding | None:
    """A column of repeated names or numbers that is no feature, whose groups cross the splits and whose rows are alike."""
    if subject.table is None or subject.split == "group" or probe.readable["train"].rows is None:
        return None
    others = [part.rows for name, part in probe.readable.items() if name != "train" and part.rows is not None]
    if not others:
        return None
    signals = [column.values for column in probe.columns if column.used][:40]
    if probe.target_column is not None:
        signals.append(probe.target_column)
    for name, values in subject.table.items():
        feature, by_name = name in subject.used, bool(ID_NAME.search(name))
        if name == subject.target or name == subject.split_column or (feature and not by_name):
            continue
        values = numpy.asarray(values)
        numbers, kind = as_numbers(values)
        if kind == "date" or (numbers is not None and not Column(name, numbers, "").is_integer):
            continue
        _, group, sizes = numpy.unique(values.astype(str), return_inverse=True, return_counts=True)
        num_groups = len(sizes)
        if numbers is not None and not by_name and rises_with(numbers, probe.target_column):
            continue
        # Ids repeat: at least two rows a group on the average, at least ten groups (three to nine are a category), not one group of nearly all.
        if not 10 <= num_groups <= len(values) / 2 or sizes.max() > len(values) / 3:
            continue
        crossing = float(numpy.mean([numpy.isin(group[rows], group[subject_rows(probe)]).mean() for rows in others]))
        alike = [
            likeness(group[numpy.isfinite(signal)], signal[numpy.isfinite(signal)])
            for signal in signals
            if numpy.nanstd(signal) > 0 and numpy.isfinite(signal).all()
        ]
        strongest = max(alike, default=0.0)
        needed = max(0.15 if by_name else 0.3, 4 * numpy.sqrt(2 / len(values)))
        # Whom one recognises by its features helps only where its rows share an answer: planes fly one route, and are late by chance.
        answers = max((likeness(group, answer) for answer in answers_of(probe) if answer.std() > 0), default=1.0)
        if crossing > 0.2 and strongest > needed and answers > max(0.05, 2 * numpy.sqrt(2 / len(values))):
            return Finding(
                "S02", "warning", f"{crossing:.0%} of the validation and test rows share their '{name}' with training rows, and rows of one '{name}' are alike (intraclass correlation {strongest:.2f} at most over the columns, {answers:.2f} of the target).",
                {"column": name, "groups": num_groups, "crossing": crossing, "intraclass_correlation": strongest},
                "The model recognises whom it has seen: on new ones it is worse than the score says.", f"Keep each together: split(group={name!r}).",
            )  # fmt: skip
    return None


def subject_rows(probe: Probe) -> numpy.ndarray:
    rows = probe.readable["train"].rows
    assert rows is not None
    return rows


TIME_NAME = re.compile(
    r"(^|_|\b)(time|timestamp|date|datetime|day|days|week|month|year|hour|minute|second|epoch|ts|t|step|tick|period|quarter)s?($|_|\b|\d)", re.I
)


RECORD_NAME = re.compile(r"(^|_|\b)(id|ids|uid|row|rows|rownames|line|record|case|obs|observation|entry|index|idx|number|no|nr|num|unnamed)($|_|\b|\d)", re.I)


def rule_s03(subject: Subject, probe: Probe) -> Finding | None:
    """A random split although rows come in order of time and each target resembles the one before."""
    if subject.split in ("time", "ordered", "given") or ("val" not in subject.parts and "test" not in subject.parts):
        return None
    target = probe.target_column
    if target is None or len(target) < 40 or not numpy.isfinite(target).all() or (len(probe.columns) < 2 and subject.table is None):
        return None
    for column in probe.columns:
        values = column.values
        if len(values) != len(target) or not numpy.isfinite(values).all() or column.distinct < max(20, 0.3 * len(column.finite)):
            continue
        steps = numpy.diff(values)
        monotone = bool(numpy.all(steps >= 0) or numpy.all(steps <= 0))
        counter = column.is_integer and column.distinct == len(column.finite) and evenly_spaced(numpy.sort(values))
        if not (column.kind == "date" or (monotone and (counter or (subject.table is not None and TIME_NAME.search(column.name))))):
            continue
        if column.kind != "date" and not TIME_NAME.search(column.name) and (RECORD_NAME.search(column.name) or rises_with(values, target) or is_sorted(target)):
            continue  # The number of a record, or of a line in a file that was sorted (more or less) by its target: rows that come in no order of time.
        correlation = ordered_correlation(values, target, probe.has_classes)
        if correlation > 0.2 and correlation * numpy.sqrt(len(target)) > 4:
            return Finding(
                "S03", "warning", f"Rows are in the order of {column.name}, each target resembles the one before (correlation {correlation:.2f}), and the split is random.",
                {"column": column.name, "correlation": correlation},
                "Test rows lie between training rows of nearly the same time: the score tells about filling gaps, not about the future.",
                f"Split by time: split(time={column.name!r})." if subject.table is not None else "Split in order: split(shuffle=False).",
            )  # fmt: skip
    return None


def is_sorted(values: numpy.ndarray) -> bool:
    """Whether nearly every change from one value to the next goes one way: rows sorted by them, be it in several runs (a series in time goes up and down)."""
    changes = numpy.diff(values)
    changes = changes[changes != 0]
    return len(changes) > 0 and max((changes > 0).mean(), (changes < 0).mean()) > 0.95


def ranks(values: numpy.ndarray) -> numpy.ndarray:
    """Mean ranks from 1 on, ties shared."""
    _, place, counts = numpy.unique(values, return_inverse=True, return_counts=True)
    ends = numpy.cumsum(counts)
    return (ends - (counts - 1) / 2)[place]


def area(values: numpy.ndarray, positive: numpy.ndarray) -> float:
    """Area under the ROC curve of one column for a yes/no answer, at least 0.5."""
    num_positive, num_negative = positive.sum(), (~positive).sum()
    value = (ranks(values)[positive].sum() - num_positive * (num_positive + 1) / 2) / max(1, num_positive * num_negative)
    return float(max(value, 1 - value))


def rule_s04(subject: Subject, probe: Probe) -> Finding | None:
    """One column alone gives a yes/no target away: AUC over 0.999 while no other comes near, or zero exactly for one class."""
    target = probe.target_column
    if target is None or not probe.has_classes:
        return None
    names = numpy.unique(target[numpy.isfinite(target)])
    columns = [column for column in probe.columns if column.used and len(column.values) == len(target)]
    if len(names) != 2 or not 2 <= len(columns) <= 200 or min((target == names[0]).sum(), (target == names[1]).sum()) < 10:
        return None
    positive = target == names[1]
    scores = []
    for column in columns:
        step = max(1, len(target) // 10_000)
        values, answer = column.values[::step], positive[::step]
        ok = numpy.isfinite(values)
        scores.append(area(values[ok], answer[ok]) if ok.sum() > 20 and values[ok].std() > 0 else 0.5)
    best = int(numpy.argmax(scores))
    values = columns[best].values
    zero = values == 0
    zero_for_one = bool(numpy.all(zero == positive) or numpy.all(zero == ~positive))
    second = sorted(scores)[-2]
    # Two groups far apart are far apart in several columns; what was written down after the outcome stands alone.
    if zero_for_one or (scores[best] > 0.999 and second < 0.95):
        seen = (
            "is zero for one class and never for the other"
            if zero_for_one
            else f"orders the classes nearly without error (AUC {scores[best]:.5f}; the next best column {second:.2f})"
        )
        return Finding(
            "S04", "warning", f"{columns[best].name} {seen}.", {"column": columns[best].name, "auc": scores[best], "next": second},
            "Such a column is usually written after the outcome is known: at prediction time it is empty.",
            f"Ask when it is known; if after the outcome: {columns[best].left_out}.",
        )  # fmt: skip
    return None


def rule_s05(subject: Subject, probe: Probe) -> Finding | None:
    """A column equals the target, is it times a constant plus another, or a growing function of it."""
    target = probe.target_column
    columns = [column for column in probe.columns if column.used]
    if target is None or len(columns) < 2 or len(target) < 20:
        return None
    step = max(1, len(target) // 10_000)
    outcome = target[::step]
    if not numpy.isfinite(outcome).all() or outcome.std() == 0:
        return None
    order = ranks(outcome)
    outcome = (outcome - outcome.mean()) / outcome.std()
    for column in columns:
        values = column.values[::step]
        if len(column.values) != len(target) or not numpy.isfinite(values).all() or values.std() == 0:
            continue
        scaled = (values - values.mean()) / values.std()
        if abs(float((scaled * outcome).mean())) < 0.5:
            continue
        away = float(min(numpy.abs(scaled - outcome).max(), numpy.abs(scaled + outcome).max()))
        tolerance = 2e-5 if column.dtype in ("float32", "float16") else 1e-6
        bent = away >= tolerance and not probe.has_classes and column.distinct > 20 and abs(float(numpy.corrcoef(ranks(values), order)[0, 1])) > 1 - 1e-9
        if away < tolerance or bent:
            return Finding(
                "S05", "warning", f"{column.name} is the target itself" + (", bent by a growing function." if bent else " (in another unit or the same)."), {"column": column.name, "away": away},
                "The score is perfect, and useless: at prediction time this column is not known.", f"Leave it out: {column.left_out}.",
            )  # fmt: skip
    return None


def rule_s06(subject: Subject, probe: Probe) -> Finding | None:
    """A class of validation or test that no training row has."""
    labels = label_sets(subject, probe)
    if labels is None or len(labels["train"]) > 1000:
        return None
    for name in ("val", "test"):
        missing = sorted(labels.get(name, set()) - labels["train"])
        if missing and len(labels["train"]) > 0:
            words = [str(subject.classes[label]) if subject.classes is not None and 0 <= label < len(subject.classes) else str(label) for label in missing[:5]]
            return Finding(
                "S06", "warning", f"The {name} split has {len(missing)} class(es) that no training row has: {', '.join(words)}.", {"split": name, "classes": words},
                "The model cannot predict them: each such row is an error by construction.", "Split with stratify, or leave out classes of a row or two.",
            )  # fmt: skip
    return None


def label_sets(subject: Subject, probe: Probe) -> dict[str, set[int]] | None:
    """The labels of each split, also of sequences and masks; None where targets are no classes. `ignore_index` is none."""
    ignored = getattr(subject.loss, "ignore_index", -100)
    if probe.classes_of_rows is not None:
        return {name: set(map(int, numpy.unique(values))) - {ignored} for name, values in probe.classes_of_rows.items()} if probe.train.complete else None
    if subject.loss_name not in ("CrossEntropyLoss", "NLLLoss") or not probe.train.complete:
        return None
    found = {}
    for name in probe.readable:
        view = probe.view(name)
        if view is None or view.target is None or view.target.is_floating_point():
            return None
        found[name] = set(map(int, view.target.unique().tolist())) - {ignored}
    return found


def rule_s07(subject: Subject, probe: Probe) -> Finding | None:
    """Columns are centred over all rows and not over the training rows: fitted before the split. A note: the gain is small, and public data often come so."""
    if (
        subject.standardised
        or subject.table is not None
        or not probe.columns
        or len(subject.parts) < 2
        or probe.original_order is None
        or len(probe.column_order) < len(probe.original_order)
    ):
        return None
    if len(probe.columns[0].values) < 30:
        return None
    whole, train = [], []
    for column in probe.columns:
        whole.append(abs(float(column.values.mean())) / max(float(column.finite.std()), 1e-12))
        if not whole[-1] < 1e-5:
            return None
        train.append(abs(float(column.values[probe.in_train].mean())) / max(float(column.finite.std()), 1e-12))
    if max(train) > 1e-3:
        return Finding(
            "S07", "note", f"All {len(probe.columns)} columns have mean 0 over all rows, but up to {max(train):.3f} deviations over the training rows.", {"train_mean": max(train)},
            "The scale was fitted on validation and test rows too: the score is a little too good.", "Fit on the training rows: split first, then standardise.",
        )  # fmt: skip
    return None


def rule_s08(subject: Subject, probe: Probe) -> Finding | None:
    """A feature equals the mean target of the rows that share its value, more exactly than chance allows: each row's own target is in it."""
    target = probe.target_column
    if target is None or not numpy.isfinite(target).all() or len(target) < 40:
        return None
    names = numpy.unique(target)
    signals = [target] if not probe.has_classes or len(names) == 2 else [(target == label).astype(float) for label in names[:10]]
    if probe.has_classes and len(names) == 2:
        signals = [(target == names[1]).astype(float)]
    for column in probe.columns:
        if (
            not column.used
            or len(column.values) != len(target)
            or not 5 <= column.distinct < 0.9 * len(column.finite)
            or not numpy.isfinite(column.values).all()
        ):
            continue
        if not probe.has_time(0.5):
            return None
        levels, group, sizes = numpy.unique(column.values, return_inverse=True, return_counts=True)
        for signal in signals:
            means = numpy.bincount(group, signal) / sizes
            inside = float(((signal - means[group]) ** 2).mean())
            if signal.std() == 0 or inside < 1e-4 * signal.var():
                continue
            # By chance the mean of m rows lies inside / sqrt(m) away from the value; target encoding lies on it.
            chance = numpy.sqrt(inside / sizes)
            away = numpy.abs(means - levels)
            weights = sizes * (sizes > 1)
            if weights.sum() >= 0.3 * len(target) and float((weights * away).sum()) < 0.02 * float((weights * chance).sum()):
                return Finding(
                    "S08", "warning", f"{column.name} is the mean target of the rows that share its value (off by {away.max():.2g} at most, over all splits).",
                    {"column": column.name, "levels": len(levels), "largest_difference": float(away.max())},
                    "Each row's own target is in its feature: training and test scores are too good, new rows have no such help.",
                    "Compute it from training rows only, without the row itself, or give the model the category.",
                )  # fmt: skip
    return None


def rule_s09(subject: Subject, probe: Probe) -> Finding | None:
    """Over 95 % of the validation rows are training rows."""
    found = shared_rows(probe, "val", "train")
    if found is None or found[0] <= 0.95:
        return None
    on_purpose = len(probe.readable["train"]) <= 2 * subject.batch_size and len(probe.readable["train"]) <= 64
    return Finding(
        "S09", "note" if on_purpose else "warning", f"{found[1]} of {len(probe.readable['val'])} validation rows ({found[0]:.0%}) are training rows.", {"rows": found[1], "share": found[0]},
        "Validation follows training: it chooses the most overfitted epoch and never warns.", "Cut validation out of the training rows: Splits(train, val=.15).",
    )  # fmt: skip


def rule_s10(subject: Subject, probe: Probe) -> Finding | None:
    """Fewer than 30 validation rows; a warning where the training rows would allow more."""
    part = subject.val
    if part is None or not 1 < len(part) < 30:
        return None
    spared = len(subject.train) >= 8 * len(part) and len(subject.train) >= 160
    return Finding(
        "S10", "warning" if spared else "note", f"{len(part)} validation rows beside {len(subject.train)} training rows.", {"val_rows": len(part), "train_rows": len(subject.train)},
        f"An accuracy of 0.8 on {len(part)} rows has a standard error of {numpy.sqrt(0.16 / len(part)):.2f}: the best epoch is the luckiest.",
        "Give validation at least 100 rows or 15 %, or use cross_validate.",
    )  # fmt: skip


def shares_differ(first: numpy.ndarray, second: numpy.ndarray) -> bool:
    """Whether two samples of labels have different shares beyond chance (p < 1e-6 in Pearson's test, by its normal approximation)."""
    names = numpy.union1d(first, second)
    counts = numpy.array([[(labels == name).sum() for name in names] for labels in (first, second)], float)
    expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / counts.sum()
    if (expected < 3).mean() > 0.5:
        return False
    statistic, freedom = float(((counts - expected) ** 2 / numpy.maximum(expected, 1e-9)).sum()), len(names) - 1
    # Wilson-Hilferty: the cube root of chi-square over its freedom is nearly normal.
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / numpy.sqrt(2 / (9 * freedom))
    return bool(z > 4.75)


def evenly_stepped(values: numpy.ndarray) -> bool:
    """Whether numbers go up in equal steps, but for rounding."""
    steps = numpy.diff(values)
    return bool(numpy.abs(steps - steps.mean()).max() < 0.01 * abs(steps.mean()))


def rule_s11(subject: Subject, probe: Probe) -> Finding | None:
    """An ordered split whose validation or test rows differ from training: a mean 3 deviations away, other label shares, another range of targets."""
    if subject.split != "ordered":
        return None
    train = probe.flat("train")
    target = probe.target_rows("train")
    for name in ("val", "test"):
        rows, labels = probe.flat(name), probe.target_rows(name)
        seen = ""
        if train is not None and rows is not None and len(rows) >= 10:
            spread = numpy.maximum(train.std(0), 1e-9)
            shift = numpy.abs(rows.mean(0) - train.mean(0)) / spread
            varied = (train != train[0]).mean(0) > 0.05
            if varied.any() and float((shift * varied).max()) > 3:
                seen = f"a column's mean is {float((shift * varied).max()):.1f} training deviations away"
        if (
            not seen
            and probe.classes_of_rows is not None
            and name in probe.classes_of_rows
            and shares_differ(probe.classes_of_rows["train"], probe.classes_of_rows[name])
        ):
            seen = "classes have other shares"
        if (
            not seen
            and probe.classes_of_rows is None
            and target is not None
            and labels is not None
            and target.shape[1] == labels.shape[1] == 1
            and len(labels) >= 20
        ):
            shift = abs(float(labels.mean() - target.mean())) / max(float(target.std()), 1e-12)
            if shift > 1.5:
                seen = f"the mean target is {shift:.1f} training deviations away"
        if seen:
            # An evenly spaced input (a grid, a time index) that is cut in order is extrapolated on purpose.
            grid = any(bool((numpy.diff(column.values) > 0).all()) and evenly_stepped(column.values) for column in probe.columns if len(column.values) > 2)
            return Finding(
                "S11", "note" if grid else "warning", f"The split follows the order of the rows, and in the {name} rows {seen}.", {"split": name},
                "The rows are sorted: training and test are different populations.", "Leave shuffle at True, or split(time=...) if the order is time.",
            )  # fmt: skip
    return None


def rule_s13(subject: Subject, probe: Probe) -> Finding | None:
    """Most validation or test rows have a training row right beside them, then a wide gap: jittered copies stand on both sides."""
    train = probe.flat("train")
    if train is None or train.shape[1] <= 3 or len(train) < 40 or not is_continuous(train):
        return None
    generator = numpy.random.default_rng(0)
    reference = train if len(train) == len(probe.readable["train"]) else probe.whole_flat("train")
    assert reference is not None
    reference = reference[:4000]
    if not numpy.isfinite(reference).all():
        return None
    spread = reference.std(0)
    wide = numpy.flatnonzero(spread > 0)
    wide = wide[:: max(1, len(wide) // 128)]  # what is near in all columns is near in a part of them
    for name in ("val", "test"):
        rows = probe.flat(name)
        if rows is None or len(rows) < 10 or rows.shape[1] != train.shape[1] or not numpy.isfinite(rows).all():
            continue
        rows = rows[generator.permutation(len(rows))[:150]]
        one, other = rows[:, wide] / spread[wide], reference[:, wide] / spread[wide]
        # Distances by products lose digits for rows that nearly coincide; float64 keeps enough for a jitter of 1e-4.
        one, other = one.astype(numpy.float64), other.astype(numpy.float64)
        squared = (one**2).sum(1)[:, None] + (other**2).sum(1)[None] - 2 * one @ other.T
        distance = numpy.sqrt(numpy.maximum(squared, 1e-10))
        count = min(16, distance.shape[1] - 1)
        near = numpy.sort(numpy.partition(distance, count, axis=1)[:, : count + 1], axis=1)
        middle = numpy.median(distance, axis=1)
        close = near[:, 0] < 0.3 * middle
        # Points of a dense cloud have neighbours at growing distances; copies have some at the jitter's and the next far away.
        gap = (near[:, 1:] / near[:, :-1]).max(1)
        share = float((close & (gap > numpy.where(near[:, 0] < 0.15 * middle, 3, 2.5))).mean())
        if share > 0.5 and not (shared_rows(probe, name, "train") or (0.0, 0))[0] > 0.05:
            return Finding(
                "S13", "warning", f"{share:.0%} of the {name} rows have a training row at {float(numpy.median(near[:, 0] / middle)):.1%} of the usual distance, and the next ones are far off.",
                {"split": name, "share": share},
                "The test rows are training rows with a little noise: copies that were augmented before the split, or rows that come in pairs.",
                "Split first, then augment training batches only (augment=...); keep pairs on one side: split(group=...).",
            )  # fmt: skip
    return None


def spread_columns(probe: Probe, name: str) -> numpy.ndarray | None:
    """A split as (values, columns): pictures by channel, everything else by column. Codes left out."""
    view = probe.view(name)
    if view is None:
        return None
    tensor = view.inputs
    if hasattr(tensor, "dim") and tensor.dim() == 4 and (tensor.is_floating_point() or tensor.dtype.itemsize == 1):
        rows = tensor[:500].detach().cpu().float()
        return rows.movedim(1, -1).reshape(-1, rows.shape[1]).numpy()
    if hasattr(tensor, "dim") and tensor.dim() == 3 and tensor.is_floating_point():
        return tensor[:2000].detach().cpu().float().reshape(-1, tensor.shape[-1]).numpy()
    return probe.flat(name)


def distance(one: numpy.ndarray, two: numpy.ndarray) -> float:
    """The largest difference between the shares of two samples (n,), (m,) below a value: the statistic of Kolmogorov and Smirnov, from 0 to 1."""
    values = numpy.concatenate([one, two])
    shares = [numpy.searchsorted(numpy.sort(sample), values, side="right") / len(sample) for sample in (one, two)]
    return float(numpy.abs(shares[0] - shares[1]).max())


def rule_s14(subject: Subject, probe: Probe) -> Finding | None:
    """Over 30 % of the columns of another split are shifted by 3 training deviations or have 4 times the spread (twice, where all columns agree)."""
    if subject.split in ("ordered", "time"):
        return None  # parts of one column in its order: what differs is drift or sorting, and S11 tells of it
    train = spread_columns(probe, "train")
    if train is None or len(train) < 20 or not numpy.isfinite(train).all():
        return None
    modal = numpy.array([numpy.unique(column[:2000], return_counts=True)[1].max() for column in train.T[:2000]]) / len(train[:2000])
    distinct = numpy.array([len(numpy.unique(column[:2000])) for column in train.T[:2000]])
    usable = numpy.flatnonzero((modal < 0.8) & (distinct > 4))  # sparse and yes/no columns have no steady spread
    if len(usable) == 0:
        return None
    for name in ("val", "test"):
        other = spread_columns(probe, name)
        if other is None or len(other) < 10 or other.shape[1] != train.shape[1] or not numpy.isfinite(other).all():
            continue
        one, two = train[:, usable].astype(numpy.float64), other[:, usable].astype(numpy.float64)
        spread = numpy.maximum(one.std(0), 1e-12)
        shift, ratio = numpy.abs(two.mean(0) - one.mean(0)) / spread, numpy.maximum(two.std(0), 1e-12) / spread
        factor = numpy.maximum(ratio, 1 / ratio)
        # Where a few wild values make the deviation (weights of a mouse and an elephant), chance decides which split has them: all values must tell it too.
        chance = 1.36 * numpy.sqrt(1 / len(one) + 1 / len(two))  # 5 % of draws from one distribution lie farther apart (Kolmogorov and Smirnov)
        for column in numpy.flatnonzero(factor > 4):
            if distance(one[:, column], two[:, column]) <= chance:
                factor[column] = 1.0
        odd = float(((shift > 3) | (factor > 4)).mean())
        # Drift moves columns apart; a forgotten scaling moves all of them one way.
        together = min(float((ratio > 2).mean()), 1.0) > 0.95 or float((ratio < 0.5).mean()) > 0.95
        if odd > 0.3 or (together and len(two) >= 30):
            return Finding(
                "S14", "warning", f"In the {name} rows {max(odd, float(together)):.0%} of the columns have another scale than in training: shift {numpy.median(shift):.2g} deviations, spread times {numpy.median(ratio):.3g}.",
                {"split": name, "share": odd, "median_shift": float(numpy.median(shift)), "median_ratio": float(numpy.median(ratio))},
                "One split was prepared, the other not: the model sees numbers it has never met, the score is that of chance.",
                "Apply what was fitted on training rows to every split alike.",
            )  # fmt: skip
    return None


def rule_s16(subject: Subject, probe: Probe) -> Finding | None:
    """All targets of a split of over 30 rows are one value, while training has several."""
    train = probe.target_rows("train")
    if train is None or not numpy.any(train != train[0]):
        return None
    for name in ("val", "test"):
        target = probe.target_rows(name)
        if target is None or len(target) <= 30 or numpy.any(target != target[0]):
            continue
        share = float((train == target[0]).all(1).mean())
        if share < 0.9:
            return Finding(
                "S16", "warning", f"All {len(target)} {name} targets are {target[0, 0]:g}; in training {share:.0%} are.", {"split": name, "value": float(target[0, 0]), "rows": len(target)},
                "These are placeholders: the score means nothing.", "Score on rows whose targets are known; predict the others.",
            )  # fmt: skip
    return None


def rule_e03(subject: Subject, probe: Probe) -> Finding | None:
    """Over half of the test rows are validation rows."""
    found = shared_rows(probe, "test", "val")
    if found is not None and found[0] > 0.5:
        return Finding(
            "E03", "warning", f"{found[1]} of {len(probe.readable['test'])} test rows ({found[0]:.0%}) are validation rows.", {"rows": found[1], "share": found[0]},
            "Epochs and settings are chosen on the very rows that are reported: the score is that of the luckiest choice.",
            "Keep three splits that share no row.",
        )  # fmt: skip
    return None


RULES: tuple[Callable[[Subject, Probe], Finding | None], ...] = (
    rule_s01, rule_s02, rule_s03, rule_s04, rule_s05, rule_s06, rule_s07, rule_s08, rule_s09, rule_s10, rule_s11, rule_s13, rule_s14, rule_s16, rule_e03,
)  # fmt: skip
