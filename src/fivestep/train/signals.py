"""SIGTERM and SIGINT while a run is prepared, trained and finished (RELIABILITY P2).

Enters: signals. Leaves: a number that the loop looks at between steps, or, where nobody looks (reading data, scoring, saving the model), an exception that unwinds
at once. A second signal ends the process at once. Handlers are set explicitly, as a job under `nohup ... &` inherits SIGINT as ignored, and given back afterwards.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

NUMBERS = (signal.SIGTERM, signal.SIGINT)


class StopSignal(BaseException):
    """A signal came where nobody polls. No Exception, so that no `except Exception` (of a check, of the user's code) holds it back; becomes `Interrupted`."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class Listener:
    """`number` is the signal that asked to stop, or None; `polled` says that a loop looks at it, so that nothing has to be raised."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.polled = False
        self.edge = "step"  # where the loop looks
        self.shown = False  # whether a panel that is redrawn shows `words`: written between two redraws they would be lost
        self.process = os.getpid()

    def handle(self, number: int, _: Any) -> None:
        if os.getpid() != self.process:  # a process forked from here: Ctrl-C reaches all of a terminal, and what to do is decided above
            if number != signal.SIGINT:
                quit_at_once(number)
            return
        if self.number is not None:
            quit_at_once(number)
            return
        self.number = number
        if not self.polled:
            raise StopSignal(number)
        if self.shown or multiprocessing.parent_process() is not None:
            return  # a worker process: what stops is told once, by its parent
        with contextlib.suppress(OSError):
            os.write(2, f"\n{self.words}\n".encode())

    @property
    def words(self) -> str:
        """What a signal does while a loop looks at it; "" as long as none came."""
        return "" if self.number is None else f"Stopping after this {self.edge}; once more stops at once."

    @contextlib.contextmanager
    def polling(self, edge: str = "step") -> Iterator[None]:
        """Inside, a signal only sets `number`: whoever trains looks at it between steps (or epochs: `edge`)."""
        self.polled, self.edge = True, edge
        try:
            yield
        finally:
            self.polled = False


def quit_at_once(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


_active: Listener | None = None


def active() -> Listener | None:
    """The listener of this process while one listens."""
    return _active


@contextlib.contextmanager
def listening() -> Iterator[Listener]:
    """The listener of this process; inside another one it is that one. Only the main thread can listen: elsewhere signals do what they did."""
    global _active
    if _active is not None and _active.process == os.getpid():
        yield _active
        return
    listener = Listener()
    if threading.current_thread() is not threading.main_thread():
        yield listener
        return
    before: list[tuple[int, Any]] = [(number, signal.signal(number, listener.handle)) for number in NUMBERS]
    _active = listener
    try:
        yield listener
    finally:
        _active = None
        for number, handler in before:
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
