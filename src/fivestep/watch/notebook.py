"""Progress in a notebook: one display below the cell that is updated in place, however long the run. Events or lines enter; nothing leaves but what is seen.

The front end gets at most four updates a second: each is a message that a notebook's file and its reader must take.
"""

from __future__ import annotations

import re
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
    start_epoch = 0

    def show(*pieces: str, plain: str) -> None:
        nonlocal place, shown
        bundle = {"text/html": f"<div>{displays.lines(opening)}{''.join(pieces)}</div>", "text/plain": "\n".join([*opening, plain])}
        if place is None:
            place = display(bundle, raw=True, display_id=True)
        else:
            place.update(bundle, raw=True)
        shown = time.perf_counter()

    def see(event: Any) -> None:
        nonlocal opening, started, start_epoch
        if isinstance(event, RunStarted):
            opening, started, start_epoch = console.opening(session, event), time.perf_counter(), event.start_epoch
            history.extend(session.training.history)  # what a resumed run has behind it
            show(displays.bar(event.start_epoch / event.epochs), plain=f"epoch {event.start_epoch}/{event.epochs}")
        elif isinstance(event, EpochEnded):
            history.append(event.as_row())
            if time.perf_counter() - shown > SECONDS:
                line = console.epoch_line(event, time.perf_counter() - started, start_epoch)
                show(displays.bar(event.epoch / event.epochs), f"<div><small>{displays.text(line)}</small></div>", displays.curves(history), plain=line)
        elif isinstance(event, RunEnded):
            line = console.closing(session, event)
            show(f"<div>{displays.text(line)}</div>", displays.curves(history, best=event.kept_epoch or None if event.status == "done" else None), plain=line)

    return see


class Lines:
    """What a sweep tells, in one place: its plan and what it says beside, and of the lines `[3/24] ...` the newest, under a bar."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.newest, self.share, self.shown = "", 0.0, 0.0
        self.place: Any = None

    def __call__(self, line: Any) -> None:
        counted = re.match(r" *\[(\d+)/(\d+)\]", str(line))
        if counted is None:
            self.told.append(str(line))
        else:
            self.newest, self.share = str(line), int(counted[1]) / int(counted[2])
        if counted is None or time.perf_counter() - self.shown > SECONDS:
            self.show()

    def show(self) -> None:
        from IPython.display import display

        seen = [*self.told, *([self.newest] if self.newest else [])]
        bundle = {"text/html": f"<div>{displays.lines(seen)}{displays.bar(self.share)}</div>", "text/plain": "\n".join(seen)}
        if self.place is None:
            self.place = display(bundle, raw=True, display_id=True)
        else:
            self.place.update(bundle, raw=True)
        self.shown = time.perf_counter()
