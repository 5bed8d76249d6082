"""Progress on stderr: what will happen, a panel that moves while it trains, and what was kept.

Enters: the session, and frozen events once an epoch. Leaves: text. In a terminal a panel is redrawn four times a second by a thread of rich's own, which only
reads; the loop pays for nothing but an append an epoch. Elsewhere about ten plain lines are written in all, and rich is not imported.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from fivestep.train import signals
from fivestep.train.events import EpochEnded, RunEnded, RunStarted

BLOCKS, PLAIN_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
MOST_LINES = 14  # columns or layers that are shown; the report has all
COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}


def observer(session: Any, stream: Any = None) -> Progress | Lines:
    """An observer that tells a run's progress to people: a live panel in a terminal, else a few plain lines. Its `close()` is called when the run is over,
    however it ended."""
    out = stream or sys.stderr
    terminal = bool(getattr(out, "isatty", lambda: False)()) and os.environ.get("TERM") != "dumb"
    return Progress(session, out) if terminal else Lines(session, out)


@contextlib.contextmanager
def shown(progress: Progress | Lines | None) -> Iterator[None]:
    """While the run goes on; afterwards, however it ended, the terminal is as it was."""
    try:
        yield
    finally:
        if progress is not None:
            progress.close()


class Lines:
    """Plain lines, for a file or a pipe: the opening, about ten epochs, the end."""

    def __init__(self, session: Any, out: Any):
        self.session, self.out, self.started, self.start_epoch = session, out, time.perf_counter(), 0

    def __call__(self, event: Any) -> None:
        if isinstance(event, RunStarted):
            self.started, self.start_epoch = time.perf_counter(), event.start_epoch
            for text in opening(self.session, event):
                self.say(text)
        elif isinstance(event, EpochEnded):
            if event.epoch in (1, event.epochs) or event.epoch % max(1, event.epochs // 10) == 0:
                self.say(epoch_line(event, time.perf_counter() - self.started, self.start_epoch))
        elif isinstance(event, RunEnded) and event.status == "done":  # else whoever ends the run says why
            self.say(closing(self.session, event))

    def say(self, text: str) -> None:
        try:
            print(text, file=self.out, flush=True)
        except BrokenPipeError:  # nobody reads it any more; the run goes on
            self.out = open(os.devnull, "w")  # noqa: SIM115  until the process ends

    def close(self) -> None:
        """Nothing stands open."""


class Progress:
    """The live panel of a terminal."""

    def __init__(self, session: Any, out: Any):
        from rich.console import Console

        self.session, self.console, self.live = session, Console(file=out, highlight=False), None
        self.listener: signals.Listener | None = None
        self.train: list[float] = []
        self.val: list[float] = []
        self.last: EpochEnded | None = None
        self.best: EpochEnded | None = None
        self.started, self.first_epoch, self.epochs, self.steps = time.perf_counter(), 0, 0, 0

    def __call__(self, event: Any) -> None:
        if isinstance(event, RunStarted):
            self.started, self.first_epoch, self.epochs, self.steps = time.perf_counter(), event.start_epoch, event.epochs, event.steps_per_epoch
            self.console.print(picture(self.session, event, self.console.width - 8))
            self.open()
        elif isinstance(event, EpochEnded):
            self.train.append(event.train_loss)
            if event.val_loss is not None:
                self.val.append(event.val_loss)
            self.last = event
            if event.is_best:
                self.best = event
        elif isinstance(event, RunEnded):
            self.close()
            if event.status == "done":  # else whoever ends the run says why
                self.console.print(f"[bold]{escaped(closing(self.session, event))}[/]")

    def open(self) -> None:
        from rich.live import Live

        # A worker process forked while the panel holds rich's lock would wait for it at its first print for ever, so with workers print stays what it is.
        workers = getattr(getattr(self.session.encoded["train"], "source", None), "workers", 0)
        self.live = Live(get_renderable=self.panel, console=self.console, refresh_per_second=4, redirect_stdout=not workers, redirect_stderr=not workers)
        self.live.start(refresh=True)
        self.listener = signals.active()
        if self.listener is not None:
            self.listener.shown = True

    def close(self) -> None:
        """The panel's last state stays; cursor, stdout and stderr are given back."""
        if self.listener is not None:
            self.listener.shown, self.listener = False, None
        if self.live is not None:
            live, self.live = self.live, None
            live.stop()

    def panel(self) -> Any:
        """The panel as it is now: epochs, steps, losses as curves, best epoch, rate, time left, memory."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        last, training = self.last, self.session.training
        done = last.epoch if last is not None else self.first_epoch
        width = min(self.console.width, 100)
        step = min(training.step_in_epoch, self.steps) if self.steps and done < self.epochs else 0
        part = done + (step / self.steps if self.steps else 0)
        bar_width = max(10, width - 40)
        filled = round(bar_width * part / self.epochs) if self.epochs else 0
        full, empty = ("━", "─") if self.unicode else ("#", "-")
        head = Text.assemble((f"epoch {done}/{self.epochs} ", "bold"), (full * filled, "green"), (empty * (bar_width - filled), "dim"))
        if step:
            head.append(f" step {step:,}/{self.steps:,}", "dim")
        table = Table.grid(padding=(0, 2))
        curve = max(8, min(60, width - 44))
        for name, values, colour in (("train", self.train, "blue"), ("val", self.val, "yellow")):
            if values:
                table.add_row(name, number(values[-1]), Text(sparkline(values, curve, self.unicode), colour), self.best_text() if name == "val" else "")
        if last is not None:
            for name, value in list(last.metrics.items())[:3]:
                table.add_row(name, number(value), "", "")
            if last.test_loss is not None:
                table.add_row("test", number(last.test_loss), "", "")
        facts = Text(" · ".join(self.facts(part)) if self.unicode else ", ".join(self.facts(part)), "dim")
        stopping = self.listener.words if self.listener is not None else ""
        return Group(head, table, facts, *([Text(stopping, "yellow")] if stopping else []))

    @property
    def unicode(self) -> bool:
        return "utf" in (self.console.encoding or "").lower()

    def best_text(self) -> str:
        if self.best is None:
            return ""
        return f"best: epoch {self.best.epoch}" + (f" ({number(self.best.val_loss)})" if self.best.val_loss is not None else "")

    def facts(self, part: float) -> list[str]:
        """Rate, time, time left, learning rate and memory, each as a text."""
        seconds = time.perf_counter() - self.started
        done = part - self.first_epoch
        rates = self.last.lr if self.last is not None else tuple(group["lr"] for group in self.session.training.optimizer.param_groups)
        facts = ["lr " + ", ".join(f"{rate:.3g}" for rate in sorted(set(rates)))]
        if done > 0 and seconds > 0:
            rate = done / seconds
            facts.append(f"{rate:.3g} epochs/s" if rate >= 1 else f"{duration(1 / rate)} an epoch")
            if part < self.epochs:
                facts.append(f"{duration((self.epochs - part) / rate)} left")
        return [*facts, f"{duration(seconds)} gone", memory(self.session.device)]


# -- before -----------------------------------------------------------------------------------------------------------------------------------------------------


def opening(session: Any, event: RunStarted) -> list[str]:
    """What will happen, before it does, in plain lines."""
    lines = [repr(session.splits), f"Model: {model_words(session)}", how_words(session, event)]
    lines += [f"  {text}" for text in session.said]
    lines += [str(finding) for finding in session.findings if finding.severity != "note"]
    return lines


def picture(session: Any, event: RunStarted, room: int) -> Any:
    """What will happen as a terminal shows it: rows, columns and how each is read, the model's layers, loss and optimizer, findings."""
    from rich.console import Group
    from rich.rule import Rule
    from rich.table import Table
    from rich.text import Text

    splits = session.splits
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="bold", width=7)
    grid.add_column(overflow="fold")
    grid.add_row("Rows", Text(rows_words(splits)))
    if splits.task:
        grid.add_row("Target", Text(target_words(splits)))
    if splits.columns is not None:
        columns = splits.columns.describe().lines
        wide = room >= 70
        table = listing(room, [line.name for line in columns], "column", *(["kind"] if wide else []), "how it is read", "missing")
        for line in columns[:MOST_LINES]:
            style = "dim" if line.use.startswith("left out") else ""
            kind = [Text(line.kind, style)] if wide else []
            table.add_row(Text(line.name, style), *kind, Text(line.use, style), f"{line.num_missing:,}" if line.num_missing else "")
        grid.add_row("", table)
        if len(columns) > MOST_LINES:
            grid.add_row("", Text(more(len(columns), "column"), "dim"))
    grid.add_row("Model", Text(model_words(session)))
    summary = layers_of(session)
    if summary is not None:
        heads = ("output for 2 rows", "parameters") if room >= 70 else ("output", "params")
        table = listing(room, [layer.name for layer in summary.layers], "layer", "type", *heads)
        for layer in summary.layers[:MOST_LINES]:
            count = f"{layer.parameters:,}" + (" frozen" if layer.trainable == "no" else "") if layer.parameters else ""
            table.add_row(Text(layer.name), Text(layer.type), Text(layer.output_shape or "-"), count)
        grid.add_row("", table)
        if len(summary.layers) > MOST_LINES:
            grid.add_row("", Text(more(len(summary.layers), "layer"), "dim"))
    grid.add_row("Train", Text(how_words(session, event)))
    if session.said:
        grid.add_row("", Text("\n".join(session.said), "dim"))
    grid.add_row("Checks", Text(checks_words(session)))
    for finding in session.findings:
        if finding.severity != "note":
            grid.add_row("", Text(str(finding), COLOURS[finding.severity]))
    return Group(Rule("what will happen", style="dim"), grid, Rule(style="dim"))


def layers_of(session: Any) -> Any:
    """The model's layers with their output shapes for two rows; None where its forward cannot be run for a picture: the run itself will tell better."""
    from fivestep.model.summary import describe

    source = session.encoded["train"]
    with contextlib.suppress(Exception):
        return describe(session.training.model, source.take(torch.arange(min(2, len(source))))[0])
    return None


def listing(room: int, names: Sequence[str], *heads: str) -> Any:
    """An empty table without lines, one line a row in `room` characters: `names` will stand in its first column, numbers in its last; the one before gives way."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    name_width = min(max(len(heads[0]), *map(len, names), 1), max(10, room // 4))
    rest = room - name_width - 2 - (10 if len(heads) == 4 else 0) - 2 - len(heads[-1]) - 2
    for position, head in enumerate(heads):
        last, flexible = position == len(heads) - 1, position == len(heads) - 2
        table.add_column(
            head, no_wrap=True, overflow="ellipsis", justify="right" if last else "left", max_width=name_width if not position else rest if flexible else None
        )
    return table


def more(count: int, what: str) -> str:
    return f"... and {counted(count - MOST_LINES, 'more ' + what)}"


def target_words(splits: Any) -> str:
    names = ", ".join(map(str, splits.train.data.target_names))
    classes = splits.classes if splits.task in ("binary", "multiclass") else None
    told = f": {', '.join(map(str, classes[:8]))}{' ...' if len(classes) > 8 else ''}" if classes else ""
    return f"{names + ', ' if names else ''}{splits.task}{told}"


def rows_words(splits: Any) -> str:
    parts = [part for part in (splits.train, splits.val, splits.test) if part is not None]
    total = sum(map(len, parts))
    names = {"train": "training", "val": "validation", "test": "test"}
    return " / ".join(f"{names[part.name]} {len(part):,} ({len(part) / total:.0%})" for part in parts) + f" of {splits.train.data.origin}"


def checks_words(session: Any) -> str:
    if session.checks is None:
        return "off (checks=False)"
    kinds = [finding.severity for finding in session.findings]
    told = [counted(kinds.count(kind), kind) for kind in ("error", "warning", "note") if kind in kinds]
    return ", ".join(told) + (" (in the report)" if "note" in kinds else "") if told else "nothing found"


def model_words(session: Any) -> str:
    tensors = [parameter for parameter in session.training.model.parameters() if not hasattr(parameter, "materialize")]
    parameters, trained = sum(p.numel() for p in tensors), sum(p.numel() for p in tensors if p.requires_grad)
    return f"{type(session.training.model).__name__}, {counted(parameters, 'parameter')}" + (f" ({trained:,} trained)" if trained != parameters else "")


def how_words(session: Any, event: RunStarted) -> str:
    """`Loss MSELoss; AdamW, lr 0.001; 60 epochs of 40 steps on cpu`"""
    loss = (
        session.loss_name or getattr(session.loss, "__name__", None) or ("compute=" if session.plan.compute else "step=" if session.plan.user_step else "loss")
    )
    names = sorted({type(each).__name__ for each in getattr(session.training.optimizer, "named", {"": session.training.optimizer}).values()})
    rates = ", ".join(f"{rate:g}" for rate in sorted({group["lr"] for group in session.training.optimizer.param_groups}))
    return f"Loss {loss}; {' + '.join(names)}, lr {rates}; {counted(event.epochs, 'epoch')} of {counted(event.steps_per_epoch, 'step')} on {session.device}"


# -- while ----------------------------------------------------------------------------------------------------------------------------------------------------


def epoch_line(event: EpochEnded, seconds: float, start_epoch: int = 0) -> str:
    """`epoch 12/100  train 0.1234  val 0.1456*  lr 0.001  8.1 epochs/s  11 s left`; the first `start_epoch` epochs were trained before these seconds."""
    text = f"epoch {event.epoch}/{event.epochs}  train {number(event.train_loss)}"
    if event.val_loss is not None:
        text += f"  val {number(event.val_loss)}{'*' if event.is_best else ''}"
    if event.test_loss is not None:
        text += f"  test {number(event.test_loss)}"
    text += "".join(f"  {name} {number(value)}" for name, value in event.metrics.items())
    rate = (event.epoch - start_epoch) / seconds if seconds else math.inf
    left = (event.epochs - event.epoch) / rate if rate else math.inf
    rates = ", ".join(f"{value:.3g}" for value in sorted(set(event.lr)))
    return text + f"  lr {rates}  {rate:.3g} epochs/s" + (f"  {duration(left)} left" if event.epoch < event.epochs else "")


def sparkline(values: Sequence[float], width: int, unicode: bool = True) -> str:
    """A curve in one line of text, `width` characters at most: the mean of each stretch of epochs, logarithmic where values span more than 4 times.

    >>> sparkline([4.0, 3.0, 2.0, 1.0], 4)
    '█▆▃▁'
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    if min(finite) > 0 and max(finite) > 4 * min(finite):
        finite = [math.log(value) for value in finite]
    if len(finite) > width:
        edges = [round(position * len(finite) / width) for position in range(width + 1)]
        finite = [sum(finite[begin:end]) / (end - begin) for begin, end in itertools.pairwise(edges)]
    low, high = min(finite), max(finite)
    signs = BLOCKS if unicode else PLAIN_BLOCKS
    return "".join(signs[min(7, int((value - low) / (high - low) * 8)) if high > low else 0] for value in finite)


def memory(device: torch.device) -> str:
    """The most memory so far: of the GPU where the model is on one, else of this process."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**20:,.0f} MB on {device}"
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{most / (2**20 if sys.platform == 'darwin' else 2**10):,.0f} MB"


# -- after -----------------------------------------------------------------------------------------------------------------------------------------------------


def closing(session: Any, event: RunEnded) -> str:
    if event.status != "done":
        return f"{event.status.capitalize()} after {duration(event.seconds)} at step {event.step:,}: {event.reason}"
    kept = f"kept epoch {event.kept_epoch}" + (f", best {session.plan.monitor} on validation" if session.plan.keep == "best" else ", the last")
    return f"Done in {duration(event.seconds)}: {event.reason}; {kept}."


def say_findings(findings: Any, stream: Any = None) -> None:
    """Warnings and errors that were found late: on the history and the trained model."""
    for finding in findings:
        if finding.severity != "note":
            print(finding, file=stream or sys.stderr, flush=True)


def print_scores(scores: Any, stream: Any = None) -> None:
    """The table of scores on stdout; in a terminal what is not better than no skill is red, and what is better green."""
    out = stream or sys.stdout
    if not getattr(out, "isatty", lambda: False)() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        print(scores, file=out)
        return
    from rich.console import Console
    from rich.text import Text

    width = shutil.get_terminal_size().columns
    told = Text(scores.told(width))
    told.highlight_regex(r"(?<!NOT shown )\bbetter( than no skill)?$", "green")
    told.highlight_regex(r"NOT shown better|not shown$|WORSE|By none of these scores .*", "bold red")
    Console(file=out, highlight=False, width=width).print(told)  # sentences are wrapped between words


# -- words -----------------------------------------------------------------------------------------------------------------------------------------------------


def counted(count: int, one: str) -> str:
    """
    >>> counted(1, "epoch"), counted(2000, "step")
    ('1 epoch', '2,000 steps')
    """
    return f"{count:,} {one}{'s' * (count != 1)}"


def duration(seconds: float) -> str:
    """
    >>> duration(3.21), duration(75), duration(7260), duration(float("inf"))
    ('3.2 s', '1 min 15 s', '2 h 1 min', '?')
    """
    if not math.isfinite(seconds):
        return "?"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def number(value: float) -> str:
    return f"{value:.4g}" if 1e-4 <= abs(value) < 1e6 or value == 0 else f"{value:.3e}"


def escaped(text: str) -> str:
    """A text in which rich finds no markup."""
    from rich.markup import escape

    return escape(text)
