"""Progress in a notebook: one display below the cell that is updated in place, however long the run. Events enter; nothing leaves but what is seen.

The front end gets at most four updates a second: each is a message that a notebook's file and its reader must take.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from fivestep import displays
from fivestep.train.events import EpochEnded, RunEnded, RunStarted
from fivestep.watch import console

SECONDS = 0.25  # between two updates


def running() -> bool:
    """Whether this process is a notebook's kernel. Never imports IPython: where it has not been imported there is no kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def observer(session: Any) -> Callable[[Any], None]:
    """An observer that shows what will happen, then a bar, the last losses and their curves, then why the run ended; all in one place below the cell."""
    from IPython.display import display

    opening: list[str] = []
    history: list[dict[str, Any]] = []
    place: Any = None
    started = shown = 0.0

    def show(*pieces: str, plain: str) -> None:
        nonlocal place, shown
        bundle = {"text/html": f"<div>{displays.lines(opening)}{''.join(pieces)}</div>", "text/plain": "\n".join([*opening, plain])}
        if place is None:
            place = display(bundle, raw=True, display_id=True)
        else:
            place.update(bundle, raw=True)
        shown = time.perf_counter()

    def see(event: Any) -> None:
        nonlocal opening, started
        if isinstance(event, RunStarted):
            opening, started = console.opening(session, event), time.perf_counter()
            history.extend(session.training.history)  # what a resumed run has behind it
            show(displays.bar(event.start_epoch / event.epochs), plain=f"epoch {event.start_epoch}/{event.epochs}")
        elif isinstance(event, EpochEnded):
            history.append(event.as_row())
            if time.perf_counter() - shown > SECONDS:
                line = console.epoch_line(event, time.perf_counter() - started)
                show(displays.bar(event.epoch / event.epochs), f"<div><small>{displays.text(line)}</small></div>", displays.curves(history), plain=line)
        elif isinstance(event, RunEnded):
            line = console.closing(session, event)
            show(f"<div>{displays.text(line)}</div>", displays.curves(history, best=event.kept_epoch or None if event.status == "done" else None), plain=line)

    return see
