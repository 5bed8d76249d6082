"""Progress on stderr: what will happen, a line that moves while it trains, and what was kept. Quiet moves only where stderr is a terminal."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

from fivestep.train.events import EpochEnded, RunEnded, RunStarted


def observer(session: Any, stream: Any = None) -> Callable[[Any], None]:
    """An observer that tells a run's progress to people. In a terminal one line moves; elsewhere about ten plain lines are written in all."""
    out = stream or sys.stderr
    live = bool(getattr(out, "isatty", lambda: False)())
    state = {"started": time.perf_counter(), "drawn": 0.0, "steps": 0, "wide": 0}

    def say(text: str) -> None:
        print(text, file=out, flush=True)

    def line(text: str, final: bool = False) -> None:
        state["wide"] = max(state["wide"], len(text))
        out.write("\r" + text.ljust(state["wide"]) + ("\n" if final else ""))
        out.flush()

    def see(event: Any) -> None:
        if isinstance(event, RunStarted):
            state.update(started=time.perf_counter(), steps=event.steps_per_epoch)
            for text in opening(session, event):
                say(text)
        elif isinstance(event, EpochEnded):
            text = epoch_line(event, time.perf_counter() - state["started"])
            if live:
                now = time.perf_counter()
                if now - state["drawn"] > 0.1 or event.epoch == event.epochs:
                    state["drawn"] = now
                    line(text)
            elif event.epoch == 1 or event.epoch == event.epochs or event.epoch % max(1, event.epochs // 10) == 0:
                say(text)
        elif isinstance(event, RunEnded):
            if live:
                out.write("\n")
            say(closing(session, event))

    return see


def opening(session: Any, event: RunStarted) -> list[str]:
    """What will happen, before it does."""
    lines = [repr(session.splits)]
    parameters = sum(parameter.numel() for parameter in session.training.model.parameters() if not hasattr(parameter, "materialize"))
    trainable = sum(p.numel() for p in session.training.model.parameters() if p.requires_grad and not hasattr(p, "materialize"))
    loss = (
        session.loss_name or getattr(session.loss, "__name__", None) or ("compute=" if session.plan.compute else "step=" if session.plan.user_step else "loss")
    )
    names = sorted({type(each).__name__ for each in getattr(session.training.optimizer, "named", {"": session.training.optimizer}).values()})
    rates = ", ".join(f"{rate:g}" for rate in sorted({group["lr"] for group in session.training.optimizer.param_groups}))
    lines.append(
        f"Model: {type(session.training.model).__name__}, {parameters:,} parameters" + (f" ({trainable:,} trained)" if trainable != parameters else "")
    )
    lines.append(f"Loss {loss}; {' + '.join(names)}, lr {rates}; {event.epochs} epochs of {event.steps_per_epoch} steps on {session.device}")
    lines += [f"  {text}" for text in session.said]
    lines += [str(finding) for finding in session.findings if finding.severity != "note"]
    return lines


def say_findings(findings: Any, stream: Any = None) -> None:
    """Warnings and errors that were found late: on the history and the trained model."""
    for finding in findings:
        if finding.severity != "note":
            print(finding, file=stream or sys.stderr, flush=True)


def epoch_line(event: EpochEnded, seconds: float) -> str:
    """`epoch 12/100  train 0.1234  val 0.1456*  lr 0.001  8.1 epochs/s  11 s left`"""
    text = f"epoch {event.epoch}/{event.epochs}  train {number(event.train_loss)}"
    if event.val_loss is not None:
        text += f"  val {number(event.val_loss)}{'*' if event.is_best else ''}"
    if event.test_loss is not None:
        text += f"  test {number(event.test_loss)}"
    text += "".join(f"  {name} {number(value)}" for name, value in event.metrics.items())
    rate = event.epoch / seconds if seconds else math.inf
    left = (event.epochs - event.epoch) / rate if rate else math.inf
    rates = ", ".join(f"{value:.3g}" for value in sorted(set(event.lr)))
    return text + f"  lr {rates}  {rate:.3g} epochs/s" + (f"  {left:.0f} s left" if event.epoch < event.epochs else "")


def closing(session: Any, event: RunEnded) -> str:
    kept = f"kept epoch {event.kept_epoch}" + (f", best {session.plan.monitor} on validation" if session.plan.keep == "best" else ", the last")
    return f"Done in {event.seconds:.1f} s: {event.reason}; {kept}."


def number(value: float) -> str:
    return f"{value:.4g}" if 1e-4 <= abs(value) < 1e6 or value == 0 else f"{value:.3e}"
