"""Pieces of HTML for notebooks: plain values enter, escaped HTML leaves. No script, no style sheet, no colour of text or ground: light and dark notebooks both read.

What is shown of an object is decided by its class (`_repr_html_`); here stands only how. Everything that comes from a user's data passes through `text`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from fivestep.figures import BLUE, GREY, ORANGE

LOUD = {"error": ORANGE, "warning": "#B58900", "note": GREY}


def text(value: Any) -> str:
    """Any value as text of a page.

    >>> text("<b>")
    '&lt;b&gt;'
    """
    return html.escape(str(value))


def table(rows: Iterable[Sequence[Any]], head: Sequence[Any] = (), *, caption: str = "") -> str:
    """Rows of values as a table. The first cell of a row is its name, numbers stand to the right."""

    def cell(value: Any, first: bool) -> str:
        side = "right" if isinstance(value, (int, float)) and not isinstance(value, bool) else "left"
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value:.6g}" if isinstance(value, float) else text(value)
        return f'<th scope="row" style="text-align:left">{shown}</th>' if first else f'<td style="text-align:{side}">{shown}</td>'

    top = "".join(f'<th scope="col" style="text-align:left">{text(name)}</th>' for name in head)
    body = "".join("<tr>" + "".join(cell(value, not place) for place, value in enumerate(row)) + "</tr>" for row in rows)
    title = f'<caption style="text-align:left">{text(caption)}</caption>' if caption else ""
    return f"<table>{title}{f'<thead><tr>{top}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"


def lines(given: Iterable[Any]) -> str:
    """Short texts, one below the other; nothing where there are none."""
    shown = [f"<div>{text(line)}</div>" for line in given]
    return f"<small>{''.join(shown)}</small>" if shown else ""


def finding(found: Any) -> str:
    """One finding: what was seen, what it costs, what to do, behind a bar in the colour of its severity (which stands there as a word too)."""
    told = [("seen", found.what), ("costs", found.cause), ("fix", found.fix)]
    body = "".join(f"<div><b>{name}</b> {text(value)}</div>" for name, value in told if value)
    head = f"<b>{text(found.code)} {text(found.severity)}: {text(found.name)}</b>"
    return f'<div style="border-left:4px solid {LOUD[found.severity]};padding:2px 0 2px 10px;margin:6px 0">{head}{body}</div>'


def bar(share: float, *, width: int = 240) -> str:
    """A bar that is filled to `share` (0 to 1)."""
    filled = round(width * min(max(share, 0.0), 1.0))
    return (
        f'<svg width="{width}" height="10" role="img" aria-label="{share:.0%} done">'
        f'<rect width="{width}" height="10" fill="{GREY}" fill-opacity="0.25"/><rect width="{filled}" height="10" fill="{BLUE}"/></svg>'
    )


def curves(history: Sequence[dict[str, Any]], *, width: int = 360, height: int = 90, best: int | None = None) -> str:
    """Training loss (blue) and validation loss (orange) over epochs, small; "" with fewer than two epochs. At most 200 points a curve, whatever the run's length."""
    named = {
        key: [(row["epoch"], row[key]) for row in history if isinstance(row.get(key), float) and abs(row[key]) < 1e30] for key in ("train_loss", "val_loss")
    }
    values = [value for points in named.values() for _, value in points]
    if len(history) < 2 or not values:
        return ""
    first, last = history[0]["epoch"], history[-1]["epoch"]
    low, high = min(values), max(values)
    drawn = []
    for points, colour, name in zip(named.values(), (BLUE, ORANGE), ("training", "validation")):
        every = max(1, len(points) // 200)
        kept = [*points[::every], *points[-1:]]
        at = " ".join(f"{(epoch - first) / (last - first) * width:.1f},{height - (value - low) / ((high - low) or 1) * height:.1f}" for epoch, value in kept)
        if points:
            drawn.append(f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="1.5"><title>{name} loss</title></polyline>')
    if best is not None:
        place = (best - first) / (last - first) * width
        drawn.append(
            f'<line x1="{place:.1f}" x2="{place:.1f}" y1="0" y2="{height}" stroke="{GREY}" stroke-dasharray="3"><title>kept: epoch {best}</title></line>'
        )
    legend = f'<span style="color:{BLUE}">&#9632;</span> training' + (f' <span style="color:{ORANGE}">&#9632;</span> validation' if named["val_loss"] else "")
    label = f"loss from {high:.4g} to {low:.4g} over epochs {first} to {last}"
    picture = f'<svg width="{width}" height="{height}" style="overflow:visible;margin:4px 0" role="img" aria-label="{label}">{"".join(drawn)}</svg>'
    return f"<div>{picture}<br><small>{legend} loss, epochs {first} to {last}, {low:.4g} to {high:.4g}</small></div>"
