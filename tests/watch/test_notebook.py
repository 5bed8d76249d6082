"""A real notebook with a real kernel: every object has a display, progress is one place that is updated, and an interrupted cell leaves a run to go on with."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

START = """
import torch, fivestep as fs
from torch import nn
torch.set_num_threads(1)
x = torch.linspace(0, 1, 500)[:, None]
splits = fs.Data.arrays(x, 3 * x + 1).split()
"""


class Notebook:
    """A kernel of its own; calling it runs one more cell and returns the cell's outputs."""

    def __init__(self, client: NotebookClient):
        self.client = client

    def __call__(self, source: str) -> list[Any]:
        self.client.nb.cells.append(nbformat.v4.new_code_cell(source))
        place = len(self.client.nb.cells) - 1
        return self.client.execute_cell(self.client.nb.cells[place], place).outputs


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """One kernel for all tests here: to start one takes seconds."""
    client = NotebookClient(nbformat.v4.new_notebook(), timeout=120, resources={"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}})
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path_factory.mktemp("ipython"))}  # the user's own profile may load anything
    with client.setup_kernel(env=environment):
        notebook = Notebook(client)
        notebook(START)
        yield notebook


def html_of(outputs: list[Any]) -> str:
    (output,) = outputs
    assert output["output_type"] in ("execute_result", "display_data"), output
    return output["data"]["text/html"]


def test_every_object_has_a_display(kernel: Notebook) -> None:
    assert "float32" in html_of(kernel("splits.train.data")) and "(500, 1)" in html_of(kernel("splits.train.data"))
    assert re.search(r'<th scope="row"[^>]*>val</th><td[^>]*>75</td><td[^>]*>15.0%</td>', html_of(kernel("splits")))
    kernel("run = fs.fit('linear', splits, epochs=12, lr=0.01, folder=None, quiet=True)")
    shown = html_of(kernel("run"))
    assert "Linear" in shown and shown.count("<polyline") == 2 and "validation loss" in shown
    assert "95 %" in html_of(kernel("run.evaluate('val')"))
    assert "no findings" in html_of(kernel("type(run.findings)()"))
    assert html_of(kernel("fs.check(nn.Linear(1, 1), splits, loss='MSELoss', optimizer='SGD', lr=1e6)")).count("border-left") >= 1
    assert "Linear" in html_of(kernel("run.save('line.fivestep'); fs.load('line.fivestep')"))


def test_a_table_shows_how_each_column_is_read(kernel: Notebook) -> None:
    shown = html_of(kernel("fs.Data.table(fs.datasets.penguins(), target='species', missing=['NA'])"))
    assert re.search(r"<th[^>]*>island</th><td[^>]*>category</td>", shown)
    assert shown.count("<tr>") >= 8


def test_a_figure_is_shown_without_pyplot(kernel: Notebook) -> None:
    (output,) = kernel("run.plot('loss')")
    assert output["data"]["image/png"]


def test_progress_is_one_place_that_ends_with_the_result(kernel: Notebook) -> None:
    outputs = kernel("run = fs.fit(nn.Linear(1, 1), splits, loss='L1Loss', optimizer='SGD', lr=0.01, epochs=150, folder='runs')")
    assert [output["output_type"] for output in outputs] == ["display_data"], outputs
    shown = outputs[0]["data"]["text/html"]
    assert "Done in" in shown and "kept epoch" in shown and "<polyline" in shown
    assert len(shown) < 20_000
    assert "Done in" in outputs[0]["data"]["text/plain"]


def test_updates_are_few_however_many_epochs_there_are(kernel: Notebook) -> None:
    count = """
from fivestep.watch import notebook
from fivestep.train.events import EpochEnded, RunStarted, RunEnded
from IPython.core.displaypub import DisplayPublisher
sent, publish = [], get_ipython().display_pub.publish
def counting(*arguments, **named):
    sent.append(named.get('update', False))
    return publish(*arguments, **named)
get_ipython().display_pub.publish = counting
import time
begun = time.perf_counter()
run = fs.fit(nn.Linear(1, 1), splits, loss='L1Loss', optimizer='SGD', lr=0.01, batch_size='all', epochs=600, folder=None, patience=None)
seconds = time.perf_counter() - begun
get_ipython().display_pub.publish = publish
"""
    kernel(count)
    (output,) = kernel("print(sent.count(False), sent.count(True) <= 3 + seconds / notebook.SECONDS, len(run.history))")
    assert output["text"].split() == ["1", "True", "600"]


def test_a_sweep_tells_in_one_place_and_ends_with_what_it_kept(kernel: Notebook) -> None:
    outputs = kernel("found = fs.sweep('mlp', splits, over={'lr': [0.001, 0.01, 0.1]}, seeds=2, epochs=3, stack=False, folder=None)")
    assert [output["output_type"] for output in outputs] == ["display_data"], outputs
    shown = outputs[0]["data"]["text/html"]
    assert "6 one after another" in shown and "[6/6] lr=0.1, seed 1" in shown and "[5/6]" not in shown and "6 trainings in" in shown and "100% done" in shown
    assert "<table" in html_of(kernel("found"))


def test_quiet_shows_nothing(kernel: Notebook) -> None:
    assert kernel("run = fs.fit('linear', splits, epochs=3, lr=0.01, folder=None, quiet=True)") == []


def test_an_interrupted_cell_leaves_a_run_that_ends_in_the_same_bits(kernel: Notebook) -> None:
    folder = Path(kernel.client.resources["metadata"]["path"])
    pid = kernel.client.km.provisioner.pid
    settings = "loss='L1Loss', optimizer='SGD', lr=0.001, epochs=400, patience=None, name=NAME"
    kernel(f"whole = fs.fit('linear', splits, quiet=True, {settings.replace('NAME', repr('whole'))})")

    def interrupt() -> None:
        """As the stop button does: SIGINT, once training is under way."""
        history = folder / "runs" / "stopped" / "history.jsonl"
        while not history.exists() or history.stat().st_size < 2000:
            time.sleep(0.01)
        os.kill(pid, signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(CellExecutionError) as stopped:
        kernel(f"run = fs.fit('linear', splits, {settings.replace('NAME', repr('stopped'))})")
    thread.join(10)
    assert stopped.value.ename == "Interrupted" and "fs.resume('runs/stopped')" in str(stopped.value)
    assert "workflow.py" not in str(stopped.value), "an interrupted run did nothing wrong: no frames are shown"
    (output,) = kernel("print(len((__import__('pathlib').Path('runs/stopped/history.jsonl')).read_text().splitlines()))")
    assert 0 < int(output["text"]) < 400
    kernel("again = fs.resume('runs/stopped', splits=splits, quiet=True)")
    (output,) = kernel("print(again.weights_sha256 == whole.weights_sha256, len(again.history))")
    assert output["text"].split() == ["True", "400"]


def test_nothing_of_the_data_becomes_markup(kernel: Notebook) -> None:
    kernel("bad = '<script>alert(1)</script>'")
    kernel("data = fs.Data.table({bad: [bad, 'b'] * 20, 'y': ['<i>', 'n'] * 20}, target='y')")
    for source in ("data", "data.split()", "data.typed.table", "fs.Finding('D01', 'warning', bad, {}, bad, bad)"):
        shown = html_of(kernel(source))
        assert "<script" not in shown and "<i>" not in shown, source
    kernel("run = fs.fit('linear', data.split(), epochs=2, checks=False, folder=None, quiet=True)")
    for source in ("run", "run.evaluate('val')", "run.findings"):
        assert "<script" not in html_of(kernel(source)), source
