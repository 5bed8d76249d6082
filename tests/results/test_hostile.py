"""Hostile and damaged artifacts and run folders, met as a user meets them: by `load`, `predict` and the shell. Each is refused with a typed error within seconds.

`test_artifact.py` holds the corpus of hostile bytes (headers, JSON, names, links). Here every value of a real artifact's description and facts is exchanged for
others, with manifests that fit (whoever makes an artifact makes its manifest): nothing but a refusal or the same predictions may come of it.
"""

import copy
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fivestep as fs
from fivestep import files
from fivestep.apps.cli import run as shell_run
from fivestep.errors import FivestepError
from fivestep.locks import Lock
from fivestep.results import artifact as artifacts
from fivestep.strict_json import write_json

VALUES = [None, True, -1, 0, 2**62, 1e308, -1.5, "", "x\x1b[2J", "os:system", [], [[]], {}, {"a": 1}, ["a"] * 3, [0] * 3]
DELETE = object()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with d.csv and a run of it in runs/r."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = [f"{i * 0.5 if i % 9 else ''},{'red' if i % 3 else 'blue'},2024-01-{i % 27 + 1:02d},{'yes' if i % 2 else 'no'}" for i in range(60)]
    (folder / "d.csv").write_text("size,color,day,y\n" + "\n".join(rows) + "\n")
    splits = fs.Data.table(folder / "d.csv", target="y").split(seed=0)
    fs.fit("mlp", splits, epochs=2, quiet=True, checks=False, folder=folder / "runs", name="r", checkpoint="epoch")
    return folder


def places(value, at=()):
    """Every place in a nest, by its keys."""
    if at:
        yield at
    for key in value if isinstance(value, dict) else range(min(len(value), 2)) if isinstance(value, list) else ():
        yield from places(value[key], (*at, key))


def changed(value, at, new):
    value = copy.deepcopy(value)
    inner = value
    for key in at[:-1]:
        inner = inner[key]
    if new is DELETE:
        del inner[at[-1]]
    else:
        inner[at[-1]] = new
    return value


class TooLong(BaseException):
    pass


def within_seconds(seconds, action):
    def late(*_):
        raise TooLong

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        return action()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def exchanged(folder, share):
    """-> (how many mutations, those that gave anything but a refusal of exit code 65 or 66 or the same predictions)."""
    path = folder / "runs/r/model.fivestep"
    description, facts = json.loads((path / "artifact.json").read_text()), json.loads((path / "MANIFEST.json").read_text())["facts"]
    contents = {name: (path / name).read_bytes() for name in artifacts.NAMES}
    target = folder / "m.fivestep"

    def predictions(described, told):
        shutil.rmtree(target, ignore_errors=True)
        files.publish(folder, target.name, contents | {"artifact.json": write_json(described)}, facts=told)
        return fs.load(target).predict(folder / "d.csv", probabilities=True)

    sound, draw, count, wrong = predictions(description, facts), random.Random(0), 0, []
    for which, content in enumerate((description, facts)):
        for at in places(content):
            for new in [DELETE, *VALUES]:
                if draw.random() > share:
                    continue
                hostile = changed(content, at, new)
                if hostile == content:
                    continue
                count += 1
                try:
                    found = within_seconds(20, lambda hostile=hostile, which=which: predictions(*((description, hostile) if which else (hostile, facts))))
                    result = None if found.equals(sound) else "OTHER PREDICTIONS"
                except FivestepError as error:
                    result = None if error.exit_code in (65, 66) else f"exit code {error.exit_code}: {error}"
                except BaseException as error:
                    result = f"{type(error).__name__}: {error}"
                if result is not None:
                    wrong.append((at, new, result))
    return count, wrong


def test_a3_a9_whatever_value_of_an_artifact_is_exchanged_it_is_refused_or_predicts_the_same(made):
    count, wrong = exchanged(made, 0.1)
    assert count > 100 and wrong == []


@pytest.mark.slow
def test_a3_a9_every_value_of_an_artifact_exchanged_for_every_other(made):
    count, wrong = exchanged(made, 1)
    assert count > 1500 and wrong == []


def test_a9_columns_of_another_model_are_refused(made):
    """Same shapes, other means: the weights answer as they did, and every prediction would be wrong."""
    path = made / "runs/r/model.fivestep"
    found = artifacts.read_artifact(path)
    columns = copy.deepcopy(found.columns)
    column = next(column for column in columns["inputs"] if column["center"])
    column["center"][0] += 1.0
    swapped = artifacts.save_artifact(
        made / "columns.fivestep", recipe=found.recipe, state=found.state, columns=columns, decoding=found.decoding, self_test=found.self_test,
        facts=found.facts, card=found.card,
    )  # fmt: skip
    with pytest.raises(fs.ArtifactError, match="self-test"):
        fs.load(swapped)
    columns = copy.deepcopy(found.columns)
    vocabulary = next(column for column in columns["inputs"] if column["vocabulary"])["vocabulary"]
    vocabulary.reverse()
    swapped = artifacts.save_artifact(
        made / "words.fivestep", recipe=found.recipe, state=found.state, columns=columns, decoding=found.decoding, self_test=found.self_test,
        facts=found.facts, card=found.card,
    )  # fmt: skip
    with pytest.raises(fs.ArtifactError, match="columns and classes"):
        fs.load(swapped)


def test_a9_an_artifact_without_self_test_rows_is_refused(made):
    found = artifacts.read_artifact(made / "runs/r/model.fivestep")
    empty = artifacts.save_artifact(
        made / "empty.fivestep", recipe=found.recipe, state=found.state, columns=found.columns, decoding=found.decoding, self_test=({}, found.self_test[1]),
        facts=found.facts, card=found.card,
    )  # fmt: skip
    with pytest.raises(fs.ArtifactError, match="self-test rows"):
        fs.load(empty)


# -- run folders -------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(made):
    shutil.rmtree(made / "runs/copy", ignore_errors=True)
    shutil.copytree(made / "runs/r", made / "runs/copy")
    return made / "runs/copy"


COMMANDS = (("verify",), ("show",), ("resume",), ("evaluate", "--split", "val"))


def in_shell(capsys, *words):
    """-> exit code and stderr; a traceback fails the test, and so does a command that takes longer than 60 seconds."""
    capsys.readouterr()
    code = within_seconds(60, lambda: shell_run([*map(str, words)]))
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, err


@pytest.mark.parametrize("name", ["settings.json", "environment.json", "history.jsonl", "findings.json"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"format": 1}', b'{"format": 99}', b"\xff\xfe", b'{"a": NaN}', b"[" * 5000, b'{"format": 1, "format": 1}']
)
def test_p4_a_damaged_record_ends_in_a_typed_error_and_never_in_a_traceback(run, name, content, capsys):
    (run / name).write_bytes(content)
    code, err = in_shell(capsys, "verify", run)
    assert code in (0, 66) and (code == 66 or content in (b"", b"[]", b"{}"))
    for command in COMMANDS[1:]:
        code, err = in_shell(capsys, command[0], run, *command[1:])
        assert code in (0, 65, 66, 78), (command, code, err)
        if name == "settings.json":
            assert code != 0


def test_p4_a8_values_of_settings_exchanged_end_in_a_typed_error(run, capsys):
    """A run's own record is trusted to name imports, but a damaged one must not end in a traceback either."""
    content, draw, count = json.loads((run / "settings.json").read_text()), random.Random(0), 0
    for at in places(content):
        for new in (DELETE, *VALUES):
            if draw.random() > 0.04:
                continue
            count += 1
            (run / "settings.json").write_text(json.dumps(changed(content, at, new)))
            for command in (("show",), ("resume",)):
                code, err = in_shell(capsys, command[0], run, *command[1:])
                assert code in (0, 64, 65, 66, 78), (at, new, command, code, err)
    assert count > 10


@pytest.mark.parametrize("kind", ["link", "FIFO", "folder"])
@pytest.mark.parametrize("name", ["settings.json", "history.jsonl", "checkpoints/step-000000000000/state.json", "model.fivestep/weights.safetensors"])
def test_a2_links_fifos_and_folders_in_a_run_are_refused_without_waiting(run, name, kind, capsys):
    path = run / name
    path.rename(run.parent / "moved")
    if kind == "link":
        path.symlink_to(run.parent / "moved")
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        path.mkdir()
    for command in COMMANDS:
        code, err = in_shell(capsys, command[0], run, *command[1:])
        assert code == 66 or (code == 0 and command[0] != "verify"), (command, code, err)
    if path.is_dir() and kind == "folder":
        path.rmdir()
    (run.parent / "moved").unlink()


def test_p1_p3_two_processes_on_one_run_exit_75_and_name_the_pid(run):
    environment = os.environ | {"PYTHONPATH": str(Path(fs.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    with Lock(run):
        second = subprocess.run([sys.executable, "-m", "fivestep", "resume", str(run)], capture_output=True, text=True, env=environment)
        assert second.returncode == 75 and f"process {os.getpid()}" in second.stderr and "Traceback" not in second.stderr
        assert subprocess.run([sys.executable, "-m", "fivestep", "show", str(run)], capture_output=True, env=environment).returncode == 0, (
            "readers need no lock"
        )


def test_p7_a_used_run_folder_is_never_overwritten(made, capsys):
    before = {path: path.stat().st_mtime_ns for path in (made / "runs/r").rglob("*") if path.is_file()}
    code, err = in_shell(capsys, "fit", made / "d.csv", "--target", "y", "--folder", made / "runs", "--name", "r", "--quiet")
    assert code == 73 and "Resume it, or choose another" in err
    assert before == {path: path.stat().st_mtime_ns for path in (made / "runs/r").rglob("*") if path.is_file()}
