"""What people see in a terminal, in a narrow one, without colour, and where there is no terminal; and that a run's bits and its end do not depend on it."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

import fivestep as fs
from fivestep.errors import Interrupted, NonFiniteError
from fivestep.model.scores import Score, Scores
from fivestep.terminal import print_lines
from fivestep.train.events import EpochEnded
from fivestep.watch import console

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def table(rows=60):
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0)).double().numpy()
    return {"a": x[:, 0], "[bold]b": x[:, 1], "kind": [["red", "[/x]green"][row % 2] for row in range(rows)], "y": x[:, 0] * 30 + 100}


def fit(monkeypatch, stream, width=100, splits=None, **settings):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "60")
    monkeypatch.setenv("TERM", "xterm-256color")
    splits = splits or fs.Data.table(table(), target="y").split()
    return fs.fit("linear", splits, **(dict(epochs=3, folder=None, device="cpu", checks=False) | settings)), stream.getvalue()


def test_a_terminal_is_shown_what_will_happen_then_a_panel_then_the_end(monkeypatch):
    _, text = fit(monkeypatch, Terminal())
    plain = CONTROL.sub("", text)
    rows = "training 42 (70%) / validation 9 (15%) / test 9 (15%)"
    for told in (rows, "y, regression", "kind", "2 categories, one-hot", "Linear", "parameters", "Loss MSELoss", "off (checks=False)"):
        assert told in plain, told
    assert plain.index("what will happen") < plain.index("epoch 0/3") < plain.index("epoch 3/3") < plain.index("Done in")
    assert "best: epoch" in plain and "MB" in plain and "lr 0.001" in plain
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is given back


@pytest.mark.parametrize("width", [60, 80, 160])
def test_no_line_is_wider_than_the_terminal(monkeypatch, width):
    _, text = fit(monkeypatch, Terminal(), width=width)
    assert max(len(line) for line in CONTROL.sub("", text).replace("\r", "\n").splitlines()) <= width


def test_without_colour_there_is_none(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    _, text = fit(monkeypatch, Terminal())
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", text)


def test_names_in_the_data_are_no_markup(monkeypatch):
    _, text = fit(monkeypatch, Terminal())
    assert "[bold]b" in CONTROL.sub("", text)


def test_where_there_is_no_terminal_few_plain_lines_are_written(monkeypatch):
    _, text = fit(monkeypatch, io.StringIO(), epochs=50)
    assert "\x1b" not in text and "\r" not in text
    assert len(text.splitlines()) < 20 and text.splitlines()[0].startswith("Splits: ") and "Done in" in text
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(console.observer(None, Terminal()), console.Lines)


def test_quiet_writes_nothing(monkeypatch):
    _, text = fit(monkeypatch, Terminal(), quiet=True)
    assert text == ""


def test_watching_in_a_terminal_changes_no_bit(monkeypatch):
    shown, _ = fit(monkeypatch, Terminal(), epochs=5)
    quiet, _ = fit(monkeypatch, Terminal(), epochs=5, quiet=True)
    assert shown.weights_sha256 == quiet.weights_sha256 and [row["train_loss"] for row in shown.history] == [row["train_loss"] for row in quiet.history]


class Stops(nn.Module):
    """A loss that is not finite from the 20th call on."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, outputs, targets):
        self.calls += 1
        return (outputs - targets).square().mean() * (float("nan") if self.calls > 20 else 1.0)


def test_a_run_that_fails_gives_the_terminal_back(monkeypatch):
    stream, before = Terminal(), sys.stdout
    with pytest.raises(NonFiniteError):
        fit(monkeypatch, stream, loss=Stops(), epochs=30)
    text = stream.getvalue()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert sys.stdout is before and sys.stderr is stream


class Interrupts(nn.Module):
    """A loss in whose 20th call somebody presses Ctrl-C, and which takes longer than the panel waits for its next redraw."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, outputs, targets):
        self.calls += 1
        if self.calls == 20:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.6)
        return (outputs - targets).square().mean()


def test_the_panel_itself_tells_that_a_run_is_stopping(monkeypatch, tmp_path, capfd):
    stream = Terminal()
    with pytest.raises(Interrupted):
        fit(monkeypatch, stream, loss=Interrupts(), epochs=30, folder=tmp_path)
    assert "Stopping after this step; once more stops at once." in stream.getvalue() and "Stopping" not in capfd.readouterr().err
    last = CONTROL.sub("", stream.getvalue()[stream.getvalue().rindex("epoch ") :])
    assert "Stopping" not in last  # when it has stopped, whoever ends the run says why


def test_one_of_a_thing_is_singular(monkeypatch):
    x = torch.randn(10, 1)
    _, text = fit(monkeypatch, io.StringIO(), splits=fs.Splits(train=(x, x)), epochs=1, batch_size=10, loss="MSELoss")
    assert "1 epoch of 1 step on cpu" in text and "1 input, 1 output" in text and "2 parameters" in text and "None" not in text
    images = repr(fs.Data.images(torch.zeros(6, 8, 8), [0, 1, 0, 1, 0, 1]).split())
    assert "images of 1 x 8 x 8" in images and "1 inputs" not in images
    assert "None" not in repr(fs.Splits(train=fs.Data.dataset([(torch.zeros(2), 1.0)] * 4)))


def test_curves_fall_where_losses_fall():
    assert console.sparkline([3.0, 2.0, 1.0], 10) == "█▅▁"
    assert len(console.sparkline(list(range(1, 1000)), 40)) == 40
    assert console.sparkline([float("nan")], 5) == "" and console.sparkline([2.0, 2.0], 5) == "▁▁"
    assert console.sparkline([3.0, 1.0], 5, unicode=False) == "@_"


def test_an_epochs_line_tells_what_it_always_told():
    event = EpochEnded(2, 4, 10, 0.5, 0.25, None, {"mae": 1.5}, (0.001,), 0.1, True)
    assert console.epoch_line(event, 4.0) == "epoch 2/4  train 0.5  val 0.25*  mae 1.5  lr 0.001  0.5 epochs/s  4.0 s left"
    assert console.epoch_line(event, 4.0, start_epoch=1).endswith("0.25 epochs/s  8.0 s left")  # a resumed run


def test_scores_are_coloured_in_a_terminal_only(monkeypatch):
    run, _ = fit(monkeypatch, io.StringIO())
    scores = run.evaluate("val")
    plain, shown = io.StringIO(), Terminal()
    console.print_scores(scores, plain)
    console.print_scores(scores, shown)
    assert plain.getvalue() == f"{scores}\n" and COLOUR.sub("", shown.getvalue()).rstrip() == repr(scores)
    assert "\x1b[" in shown.getvalue()


def narrow(monkeypatch, columns):
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_: os.terminal_size((columns, 24)))
    return Terminal()


def test_in_60_columns_each_verdict_stands_in_the_line_of_its_score(monkeypatch):
    score = Score("balanced_accuracy", 0.5, 0.45, 0.55, baseline=0.5, higher_is_better=True, difference=(-0.05, 0.05), samples=1000)
    shown = narrow(monkeypatch, 60)
    console.print_scores(Scores((score,), 450, "val", "binary"), shown)
    lines = COLOUR.sub("", shown.getvalue()).splitlines()
    assert lines[2].rstrip().endswith("not shown") and max(map(len, lines)) <= 60
    wide = narrow(monkeypatch, 100)
    console.print_scores(Scores((score,), 450, "val", "binary"), wide)
    assert "NOT shown better than no skill" in COLOUR.sub("", wide.getvalue())


def test_long_lines_break_between_words_in_a_terminal_and_nowhere_else(monkeypatch):
    text = "head\n  " + "abcdefghi " * 12
    shown, piped = narrow(monkeypatch, 60), io.StringIO()
    print_lines(text, shown)
    print_lines(text, piped)
    assert piped.getvalue() == text + "\n"
    assert set(shown.getvalue().split()) == {"head", "abcdefghi"} and max(map(len, shown.getvalue().splitlines())) <= 60
    assert shown.getvalue().splitlines()[2].startswith("    abcdefghi")
    path = "runs/" + "long_name-" * 9
    print_lines(f"all is saved in {path}, go on", whole := narrow(monkeypatch, 60))
    assert path in whole.getvalue()  # it can be copied


def test_rich_is_imported_only_for_a_terminal():
    code = "import sys, io, fivestep.watch.console as c; c.observer(None, io.StringIO()); sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
