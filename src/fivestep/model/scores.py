"""What a score is when it travels: a number, its 95 % interval, and what the best constant predictor gets on the same rows.

Enters: numbers, from `metrics.score`. Leaves: frozen `Score` and `Scores`, their text table, their HTML and their JSON. "Better than no skill" is said only
where the paired difference says it: the difference to the constant predictor over the same resamples, its whole 95 % interval on the good side.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

VERDICTS = {
    "better": "better than no skill",
    "unclear": "NOT shown better than no skill",
    "worse": "WORSE than no skill",
}


@dataclass(frozen=True)
class Score:
    """One metric on one split.

    `low`, `high` bound the 95 % bootstrap interval (None: not computed, `note` says why). `baseline` is the metric of the best constant predictor, fitted
    on the training targets and measured on the same rows (None where no constant predictor is defined). `difference` bounds value - baseline
    (95 %, paired: both on the same resamples); `verdict` is "better", "unclear", "worse" or None. `samples` is how many resamples the interval rests on.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    baseline: float | None = None
    higher_is_better: bool | None = None
    unit: str | None = None
    difference: tuple[float, float] | None = None
    samples: int = 0
    note: str | None = None

    def __float__(self) -> float:
        return float(self.value)

    @property
    def verdict(self) -> str | None:
        if self.difference is None or self.higher_is_better is None:
            return None
        low, high = self.difference if self.higher_is_better else (-self.difference[1], -self.difference[0])
        return "better" if low > 0 else "worse" if high < 0 else "unclear"

    @property
    def better_than_baseline(self) -> bool | None:
        """Whether the paired comparison with the constant predictor shows the score better; None where there is nothing to compare."""
        return None if self.verdict is None else self.verdict == "better"

    def texts(self) -> tuple[str, str, str, str]:
        """Value, interval, baseline and verdict as a table shows them: with as many decimals as the interval supports."""
        decimals = _decimals(self)
        unit = f" {self.unit}" if self.unit else ""
        value = _number(self.value, decimals) + unit
        interval = "" if self.low is None or self.high is None else f"{_number(self.low, decimals)} to {_number(self.high, decimals)}"
        baseline = "" if self.baseline is None else _number(self.baseline, decimals)
        return value, interval, baseline, VERDICTS.get(self.verdict or "", "")

    def __repr__(self) -> str:
        value, interval, baseline, verdict = self.texts()
        parts = [f"{self.name} {value}"]
        parts += [f"(95 %: {interval})"] if interval else []
        parts += [f"no skill: {baseline}"] if baseline else []
        parts += [verdict] if verdict else []
        parts += [self.note] if self.note else []
        return ", ".join(parts)


@dataclass(frozen=True, repr=False, eq=False)
class Scores(Mapping[str, Score]):
    """All scores of one split, by name: `scores["mae"].value`, `.low`, `.high`, `.baseline`.

    `resampled` is what was drawn again for the intervals ("rows", "groups", "blocks of time") and `num_independent` how many of them there are; `samples` is
    the fewest resamples that one of the intervals rests on; `looks` counts how often this split has been looked at (None where that is not counted).
    """

    scores: tuple[Score, ...]
    num_rows: int
    split: str
    task: str | None = None
    resampled: str = "rows"
    num_independent: int = 0
    samples: int = 0
    seed: int = 0
    looks: int | None = None
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Score:
        for score in self.scores:
            if score.name == name:
                return score
        raise KeyError(f"{name!r} was not scored; there are {', '.join(self) or 'no scores'}. Ask for it by metrics=[{name!r}].")

    def __iter__(self) -> Iterator[str]:
        return iter(score.name for score in self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scores) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]  # a mapping that compares by content

    def with_looks(self, looks: int) -> Scores:
        """The same scores, with the number of looks that were taken at this split so far."""
        return replace(self, looks=looks)

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON holds; a number that is not finite becomes its name ("nan", "inf", "-inf"), which `from_json` reads back."""
        rows = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "scores"}
        return rows | {"notes": list(self.notes), "scores": {score.name: _json(asdict(score)) for score in self.scores}}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Scores:
        """The inverse of `to_json`."""
        scores = []
        for row in data["scores"].values():
            numbers: dict[str, Any] = {name: value if name in ("name", "unit", "note") else _from_json(value) for name, value in row.items()}
            numbers["difference"] = None if numbers["difference"] is None else tuple(numbers["difference"])
            scores.append(Score(**numbers))
        return Scores(**{**data, "scores": tuple(scores), "notes": tuple(data["notes"])})

    def _headline(self) -> str:
        """What the rows are and what the intervals rest on: "val: 1,234 rows; 95 % intervals from 1,000 resamples of 80 groups"."""
        line = f"{self.split}: {self.num_rows:,} row{'s' * (self.num_rows != 1)}"
        counts = sorted({score.samples for score in self.scores if score.samples})
        if counts:
            samples = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
            units = self.resampled if self.resampled == "rows" else f"{self.num_independent:,} {self.resampled}"
            line += f"; 95 % intervals from {samples} resamples of {units}"
        if self.looks is not None:
            line += f"; look {self.looks:,} at this split" + (" (each further look makes the next score too hopeful)" if self.looks > 1 else "")
        return line

    def _footnotes(self) -> list[str]:
        names_by_note: dict[str, list[str]] = {}
        for score in self.scores:
            if score.note:
                names_by_note.setdefault(score.note, []).append(score.name)
        notes = [f"{', '.join(names)}: {note}" for note, names in names_by_note.items()] + list(self.notes)
        judged = [score for score in self.scores if score.verdict is not None]
        if judged and not any(score.verdict == "better" for score in judged):
            notes.insert(0, "By none of these scores is the model shown to be better than a constant that ignores the inputs.")
        return notes

    def told(self, width: int | None = None) -> str:
        """As text, for a terminal of `width` characters: where the table does not fit, its verdicts are said in fewer words (its head says "no skill")."""
        rows: list[tuple[str, ...]] = [("", "value", "95 % interval", "no skill", "")] + [(score.name, *score.texts()) for score in self.scores]
        used = [column for column in range(5) if column < 2 or any(row[column] for row in rows[1:])]
        lines = _table(rows, used, "  ", "  ")
        for shorter, gap, indent in (((" than no skill", ""), "  ", "  "), (("NOT shown better", "not shown"), " ", "")):
            if width is not None and max(map(len, lines)) > width:
                rows = [(*row[:4], row[4].replace(*shorter)) for row in rows]
                lines = _table(rows, used, gap, indent)
        return "\n".join([self._headline(), *lines, *("  " + note for note in self._footnotes())])

    def __repr__(self) -> str:
        return self.told()

    def _repr_html_(self) -> str:
        head = "<td></td>" + "".join(f'<th scope="col">{name}</th>' for name in ("value", "95 % interval", "no skill")) + "<td></td>"
        body = "".join(
            f'<tr><th scope="row" style="text-align:left">{html.escape(score.name)}</th>'
            + "".join(f"<td>{html.escape(text)}</td>" for text in score.texts())
            + "</tr>"
            for score in self.scores
        )
        notes = "".join(f"<br>{html.escape(note)}" for note in self._footnotes())
        return f"<table><caption>{html.escape(self._headline())}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><small>{notes}</small>"


def _table(rows: Sequence[tuple[str, ...]], used: list[int], gap: str, indent: str) -> list[str]:
    """Names and verdicts stand left, numbers right."""
    widths = {column: max(len(row[column]) for row in rows) for column in used}
    return [indent + gap.join(row[c].ljust(widths[c]) if c in (0, 4) else row[c].rjust(widths[c]) for c in used).rstrip() for row in rows]


def _decimals(score: Score) -> int | None:
    """Decimals that show the interval's width with two digits; None where there is no interval to go by."""
    if score.low is None or score.high is None or not score.high > score.low or not math.isfinite(score.high - score.low):
        return None
    return max(0, 1 - math.floor(math.log10(score.high - score.low)))


def _number(value: float, decimals: int | None) -> str:
    if not math.isfinite(value):
        return str(value)
    if decimals is None or decimals > 8 or abs(value) >= 1e12:
        return f"{value:.4g}"
    return f"{round(value, decimals) + 0.0:,.{decimals}f}"  # + 0.0: no "-0.00"


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _json(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [_json(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(part) for part in value]
    return float(value) if isinstance(value, str) else value
