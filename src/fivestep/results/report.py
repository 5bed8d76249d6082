"""The report of a run: one HTML file that tells in words and pictures what was trained, on what, how good it is against no skill, and where it errs.

Enters: a `Run`. Leaves: `report.html`, complete in itself, without a script or an address, below 2 MB. The decision that shaped it: pictures are drawn from
validation rows; the test split is scored by nobody but who asked for it, and then the report says how often.
"""

from __future__ import annotations

import datetime
import math
import time
from pathlib import Path
from typing import Any

from fivestep._version import __version__
from fivestep.results import diagnosis
from fivestep.results.figures_svg import Series, chart
from fivestep.results.importance import importance
from fivestep.results.page import Cell, figure, folded, number, number_text, page, paragraph, section, table, text, write_page
from fivestep.results.report_data import data_section
from fivestep.results.report_errors import errors_section
from fivestep.results.report_record import again_section, findings_section, settings_section
from fivestep.results.report_rows import importance_section, rows_section, subgroups_section
from fivestep.results.report_verdict import METRIC_NAMES, headline, keeps_best, scores_section, tiles, verdict


def write(run: Any, path: str | Path | None = None) -> Path:
    """Write the report of a run as one HTML file and return its path: `path`, else `report.html` in the run's folder (in the current one without)."""
    return write_page(render(run), path if path is not None else run.folder or Path("."))


def render(run: Any) -> str:
    """The report as HTML text."""
    started = time.perf_counter()
    split = diagnosis.drawn_part(run)
    found = diagnosis.predicted(run, split)
    scores = run.scored(split)
    looks, test = run.looked()
    company = run._known_company() if split == "val" else None
    measured = importance(run, split, seed=run._seed) if found is not None else "The outputs of this model are no prediction of its target."
    name = run.folder.name if run.folder is not None else type(run.model).__name__
    sections = [
        ("scores", "Scores", scores_section(run, scores, looks, test, company)),
        ("training", "Training", training_section(run)),
        ("errors", "Where it errs", errors_section(run, found) if found is not None else ""),
        ("rows", "Worst rows", rows_section(run, found, measured) if found is not None else ""),
        ("importance", "What it looks at", importance_section(measured)),
        ("subgroups", "Subgroups", subgroups_section(run, found) if found is not None else ""),
        ("data", "Data and splits", data_section(run)),
        ("findings", "Findings", findings_section(run)),
        ("settings", "Settings and versions", settings_section(run)),
        ("again", "Do it again", again_section(run)),
    ]
    there = [(anchor, title, content) for anchor, title, content in sections if content]
    links = "".join(f'<li><a href="#{anchor}">{text(title)}</a></li>' for anchor, title, _ in there)
    header = (
        f'<header><h1>{text(name)}: {text(headline(run))}</h1><p class="soft">{text(run.splits.train.data.origin)}; written '
        f"{datetime.datetime.now().strftime('%Y-%m-%d %H:%M')} by fivestep {text(__version__)}</p></header>"
    )
    body = "\n".join(section(anchor, title, content) for anchor, title, content in there)
    took = time.perf_counter() - started
    sums = " Checksums in model.fivestep/MANIFEST.json prove that nothing of the model changed by accident." if run.folder is not None else ""
    footer = f"<footer>Made offline in {took:.1f} s. This page holds no script and fetches nothing.{sums}</footer>"
    return page(
        f"{name}: fivestep report",
        f'{header}\n<nav aria-label="Sections"><ul>{links}</ul></nav>\n<main>{verdict(run, scores, found, looks, company)}{tiles(run, scores)}\n{body}</main>\n{footer}',
    )


def training_section(run: Any) -> str:
    history = run.history
    if not history:
        return ""
    series = []
    for key, label, colour in (("train_loss", "training", 1), ("val_loss", "validation", 2), ("test_loss", "test (watched, chose nothing)", 3)):
        rows = [(row["epoch"], row[key]) for row in history if row.get(key) is not None]
        if rows:
            series.append(Series(label, [row[0] for row in rows], [row[1] for row in rows], colour))
    best = run.best
    marks = [(float(best["epoch"]), f"kept: epoch {best['epoch']}")] if best and keeps_best(run) else []
    values = [value for one in series for value in one.y if value is not None and math.isfinite(value)]
    log = bool(values) and min(values) > 0 and max(values) / min(values) > 20
    first, last = history[0], history[-1]
    told = f"The training loss went from {number_text(first['train_loss'])} to {number_text(last['train_loss'])}"
    if best and best.get("val_loss") is not None:
        lowest = min((row for row in history if row.get("val_loss") is not None), key=lambda row: row["val_loss"])
        told += f", the validation loss was lowest, {number_text(lowest['val_loss'])}, in epoch {lowest['epoch']}"
        if last.get("val_loss") is not None and last["val_loss"] - lowest["val_loss"] > 0.1 * abs(lowest["val_loss"]) and lowest["epoch"] < last["epoch"]:
            told += f" and rose to {number_text(last['val_loss'])} by the end: what was learned after that epoch does not carry over to new rows"
    unit = diagnosis.loss_unit(run)
    known = ", ".join(filter(None, (unit.removesuffix(" target"), "log") if log else (unit,)))
    drawn = chart(f"Learning curves. {told}.", series, x_label="epoch", whole_x=True, y_label=f"loss ({known})" if known else "loss", log_y=log, marks=marks)
    parts = [figure(drawn, told + ".")]
    after = ""
    rates = [(row["epoch"], rate) for row in history for rate in row.get("lr", [])[:1]]
    several = len({len(row.get("lr", [])) for row in history}) == 1 and len(set(history[0].get("lr", []))) > 1
    of = " of the first group of parameters" if several else ""
    if rates:
        lrs = [rate for _, rate in rates]
        constant = max(lrs) == min(lrs)
        if constant:
            after = paragraph(f"The learning rate{of} was {number_text(lrs[0])} throughout." + (" Those of the others stand in the table." if several else ""))
        else:
            log_rate = min(lrs) > 0 and max(lrs) / min(lrs) > 20
            drawn = chart(
                f"Learning rate from {number_text(lrs[0])} to {number_text(lrs[-1])}.", [Series("lr", [e for e, _ in rates], lrs)],
                x_label="epoch", whole_x=True, y_label="learning rate" + (" (logarithmic)" if log_rate else ""), log_y=log_rate,
            )  # fmt: skip
            parts.append(figure(drawn, f"The learning rate{of} went from {number_text(lrs[0])} to {number_text(lrs[-1])}."))
    known = {"epoch", "step", "train_loss", "val_loss", "test_loss", "lr", "seconds", "best"}
    for name in [str(key) for key in last if key not in known and isinstance(last[key], (int, float))][:4]:
        rows = [(row["epoch"], row[name]) for row in history if isinstance(row.get(name), (int, float))]
        drawn = chart(
            f"{name} on validation rows",
            [Series(name, [e for e, _ in rows], [v for _, v in rows], 2)],
            x_label="epoch",
            whole_x=True,
            y_label=METRIC_NAMES.get(name, name) or name,
            marks=marks,
        )
        parts.append(figure(drawn, f"{METRIC_NAMES.get(name, name)} on validation rows after each epoch."))
    stride = max(1, len(history) // 40)
    heads = ["epoch", "training loss", *(["validation loss"] if any("val_loss" in row for row in history) else []), "learning rate", "seconds"]
    rows = []
    for position, row in enumerate(history):
        if position % stride and row is not last and row is not best:
            continue
        shown = [f"{row['epoch']}{' (kept)' if row is best else ''}", number(row.get("train_loss"))]
        shown += [number(row.get("val_loss"))] if len(heads) == 5 else []
        rows.append([*shown, Cell(", ".join(number_text(rate) for rate in row.get("lr", [])), "n"), number(row.get("seconds"))])
    caption = "Epochs" if stride == 1 else f"Every {stride}th epoch, the kept one and the last; all stand in history.jsonl"
    return f'<div class="grid2">{"".join(parts)}</div>' + after + folded("Losses as a table", table(caption, heads, rows))
