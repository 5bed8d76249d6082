"""The report of a comparison: one HTML file with each variant's score, its difference to the best, and what could be luck.

Enters: a `Comparison`. Leaves: a page that is complete in itself, as a run's report is. A sweep puts sections of its own below (experiments/report.py).
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from fivestep._version import __version__
from fivestep.results.figures_svg import strip
from fivestep.results.page import Cell, number, number_text, page, paragraph, section, table, text
from fivestep.results.report_verdict import counted

LOOKS = {"best": "good", "worse": "bad", "worse with this seed": "warn", "diverged": "bad", "refused": "bad"}
MOST_ROWS = 200


def render(comparison: Any, *, title: str = "Comparison", sections: Sequence[tuple[str, str, str]] = ()) -> str:
    """The page as HTML text; `sections` are more parts as (anchor, title, HTML)."""
    all_sections = [("variants", "Variants", variants_table(comparison)), *sections, ("method", "How this was told", notes(comparison))]
    there = [one for one in all_sections if one[2]]
    links = "".join(f'<li><a href="#{anchor}">{text(name)}</a></li>' for anchor, name, _ in there)
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    header = f'<header><h1>{text(title)}</h1><p class="soft">Written {now} by fivestep {text(__version__)}</p></header>'
    body = "\n".join(section(*one) for one in there)
    footer = "<footer>This page holds no script and fetches nothing.</footer>"
    nav = f'<nav aria-label="Sections"><ul>{links}</ul></nav>'
    return page(f"{title}: fivestep report", f"{header}\n{nav}\n<main>{verdict(comparison)}\n{body}</main>\n{footer}")


def verdict(comparison: Any) -> str:
    """What may be said of the best one, first thing on the page."""
    best, others = comparison.rows[0], comparison.rows[1:]
    close = [row for row in others if row.verdict.startswith("could be luck")]
    behind = [row for row in others if row.verdict == "worse with this seed"]
    scored = [row for row in others if row.difference is not None]
    all_of_them = "the other one" if len(scored) == 1 else f"all {len(scored)} others"
    unscored = f" {counted(len(others) - len(scored), 'variant')} could not be scored in each of its trainings." if len(scored) < len(others) else ""
    if best.score.value != best.score.value:
        look, told = "bad", "No variant could be scored in each of its trainings, so none is the best."
    elif comparison.better and scored:
        look, told = "good", f"{best.name} is shown better than {all_of_them}.{unscored}"
    elif close:
        count = all_of_them if len(close) == len(scored) else f"{len(close)} of the {len(scored)} others"
        look, told = "warn", f"{best.name} has the best score, but its lead over {count} could be luck.{unscored}"
    elif behind:
        seed = "with one seed each: whether the setting or the seed did it is not told."
        look, told = "warn", f"{best.name} is ahead of {all_of_them} on these rows, {seed}{unscored}"
    else:
        look, told = "warn", f"{best.name} stands alone: there is nothing to compare it with.{unscored}"
    where = {"val": "validation rows", "test": "test rows"}.get(comparison.split, comparison.split)
    better = "higher" if comparison.higher_is_better else "lower"
    return f'<div class="verdict {look}"><p><strong>{text(told, 900)}</strong></p>{paragraph(f"{comparison.metric} on {where}; {better} is better.")}</div>'


def variants_table(comparison: Any) -> str:
    rows = []
    for row in comparison.rows[:MOST_ROWS]:
        score, difference = row.score, row.difference
        rows.append([
            row.name, number(score.value), Cell(text(interval(score)), "n"), Cell("" if difference is None else text(number_text(difference.value)), "n"),
            Cell("" if difference is None else text(interval(difference)), "n"),
            Cell("" if difference is None else strip(f"difference {number_text(difference.value)}, interval {interval(difference)}", difference.value, difference.low, difference.high, 0.0)),
            Cell(f'<span class="tag {LOOKS.get(row.verdict, "")}">{text(row.verdict).replace(" (", "<br>(").replace(" with ", "<br>with ")}</span>'), number(row.replicates),
        ])  # fmt: skip
    more = f"; {len(comparison.rows) - MOST_ROWS:,} more are left out" if len(comparison.rows) > MOST_ROWS else ""
    heads = ["variant", comparison.metric, "95 % interval", "to the best", "corrected interval", "bar: interval, line: no difference", "", "trainings"]
    return table(f"Best first; differences are this one minus the best{more}", heads, rows)


def interval(one: Any) -> str:
    return "–" if one.low is None or one.high is None else f"{number_text(one.low, 3)} to {number_text(one.high, 3)}"


def notes(comparison: Any) -> str:
    return "".join(paragraph(note) for note in comparison.notes)
