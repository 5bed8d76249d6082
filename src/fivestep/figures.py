"""An empty figure and the colours of all pictures. matplotlib is imported only when a picture is asked for, and no window or global state is touched."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from typing import Any

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"  # Okabe & Ito's palette: told apart with any colour vision
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#601800", "#000078")  # the last two are none of theirs, which are too pale for lines on white (2.3 to 1)
LINES = ("-", "--", ":", "-.", (0, (6, 1)), (0, (1, 1)))  # and by more than colour


def figure(columns: int = 1, rows: int = 1) -> tuple[Any, Any]:
    """A figure and its axes: one, an array of `columns` (or `rows`), or an array (rows, columns)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(6.4 * columns, 4.2 * rows), layout="constrained")
    FigureCanvasAgg(made)  # no global pyplot state, no window
    made._repr_png_ = partial(as_png, made)  # type: ignore[attr-defined]  # what a notebook shows; without pyplot nothing else would
    return made, made.subplots(rows, columns)


def tell_left_out(made: Any, count: int, what: str = "target") -> None:
    """Says over the picture how many more there are than it shows; nothing where it shows all."""
    if count:
        made.suptitle(f"{count:,} more {what}{'s are' if count != 1 else ' is'} not drawn", fontsize="medium")


def as_png(made: Any) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def shortened(name: object, most: int) -> str:
    """The name in at most `most` characters. Its middle is left out: names that begin alike stay apart, and a unit at the end is kept.

    >>> shortened("growth of the yearly revenue (EUR)", 20)
    'growth of the…(EUR)'
    """
    whole = str(name)
    if len(whole) <= most:
        return whole
    end = most // 3
    return f"{whole[: most - end - 1].rstrip()}…{whole[len(whole) - end :].lstrip()}"


def name_ticks(axes: Any, names: Sequence[object], most: int, room: int) -> None:
    """Names at the places 0, 1, 2, ... of the x axis, turned where all together have more than `room` letters."""
    turned = len(names) * max(len(shortened(name, most)) for name in names) > room
    axes.set_xticks(
        range(len(names)), [literal(name, most) for name in names],
        rotation=60 if turned else 0, ha="right" if turned else "center", rotation_mode="anchor" if turned else None,
    )  # fmt: skip


def literal(name: object, most: int | None = None) -> str:
    r"""The name, in at most `most` visible letters, as matplotlib draws it letter for letter. Every name of the user's in a figure passes here.

    Between two "$" matplotlib reads a formula: "$0-$50K" loses its signs, and "$\frac$" is a ValueError when it is drawn. What begins with "_" it leaves out of
    a legend, but not where a space of no width stands before it.

    >>> literal("$0-$50K"), literal("growth of the yearly revenue ($)", 20)
    ('\\$0-\\$50K', 'growth of the…ue (\\$)')
    """
    whole = str(name) if most is None else shortened(name, most)
    return ("\u200b" if whole.startswith("_") else "") + whole.replace("$", r"\$")
