"""An empty figure and the colours of all pictures. matplotlib is imported only when a picture is asked for, and no window or global state is touched."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"  # Okabe & Ito's palette: told apart with any colour vision
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", "--", ":", "-.", (0, (6, 1)), (0, (1, 1)))  # and by more than colour


def figure(columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(6.4 * columns, 4.2), layout="constrained")
    FigureCanvasAgg(made)  # no global pyplot state, no window
    made._repr_png_ = partial(as_png, made)  # type: ignore[attr-defined]  # what a notebook shows; without pyplot nothing else would
    return made, made.subplots(1, columns)


def as_png(made: Any) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
