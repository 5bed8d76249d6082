"""Files that somebody else made, met in the shell: bad tables by `check` and `predict`, and a model folder with a wrong byte anywhere by `load` and `verify`.

Each ends within seconds, in a typed error or in what a person would expect, and never in a traceback. Every single flipped byte and every cut of a real artifact
and a real checkpoint is found (`make test-slow`).
"""

import gzip
import hashlib
import json
import os
import shutil
import signal

import pytest

import fivestep as fs
from fivestep.apps.cli import run as shell_run
from fivestep.results import verifying

ROWS = "".join(f"{i * 7 % 40},{i % 7}.5,{'ab'[i % 2]},{i * 7 % 40 * 3}\n" for i in range(40))
HEADER = "a,b,c,y\n"
SOUND = HEADER + ROWS


def with_first(old, new):
    return SOUND.replace(old, new, 1)


# name: content, whether `check` finds it good, whether `predict` (a needed column is wrong or the text is no table) does.
TABLES = {
    "gzip": (gzip.compress(SOUND.encode()), False, False),
    "UTF-16": (SOUND.encode("utf-16"), False, False),
    "UTF-16 without a mark": (SOUND.encode("utf-16-be"), False, False),
    "UTF-32": (SOUND.encode("utf-32"), False, False),
    "Latin-1": (SOUND.replace("a,", "é,").encode("latin-1"), False, False),
    "no UTF-8 in the last line": (SOUND.encode() + b"1,2,\xff\xfe,3\n", False, False),
    "a spreadsheet": (b"PK\x03\x04" + b"\0" * 200, False, False),
    "a cut Parquet file": (b"PAR1" + bytes(range(256)), False, False),
    "a web page": ("<html><body>" + SOUND, False, False),
    "JSON": ('[{"a":1}]', False, False),
    "a NUL": (with_first("5.5", "5\0.5"), False, False),
    "an unclosed quote": (HEADER + '1,2,"x,4\n' + ROWS, False, False),
    "a quote that ends too early": (HEADER + '1,2,"x"y,4\n' + ROWS, False, False),
    "too few fields": (SOUND + "1,2\n", False, False),
    "too many fields": (SOUND + "1,2,3,4,5\n", False, False),
    "semicolons": (SOUND.replace(",", ";"), False, False),
    "bare carriage returns": (SOUND.replace("\n", "\r"), False, False),
    "the header again": (SOUND + SOUND, False, False),
    "one name twice": ("a,a,c,y\n" + ROWS, False, False),
    "one name twice but for a space": ("a, a,c,y\n" + ROWS, False, False),
    "an empty name": ("a,,c,y\n" + ROWS, False, False),
    "nothing": ("", False, False),
    "blank lines": ("\n\n\n", False, False),
    "1e400": (with_first("5.5", "1e400"), False, False),
    "4000 digits": (with_first("\n7,", "\n" + "9" * 4000 + ","), False, False),
    "Arabic digits": (with_first("\n7,", "\n٧,"), False, False),
    "hexadecimal": (with_first("\n7,", "\n0x1F,"), False, False),
    "underscores": (with_first("\n7,", "\n1_000,"), False, False),
    "decimal commas": (SOUND.replace("5.5", '"5,5"'), False, False),
    "a stray word": (with_first("\n7,", "\nunknown,"), False, False),
    "no row": (HEADER, False, True),
    "a missing target": (HEADER + "1,2,a,\n" + ROWS, False, True),
    "an infinite target": (HEADER + "1,2,a,inf\n" + ROWS, False, True),
    "lines of both kinds": (HEADER + ROWS.replace("\n", "\r\n", 5), True, True),
    "a byte order mark": (b"\xef\xbb\xbf" + SOUND.encode(), True, True),
    "no newline at the end": (SOUND[:-1], True, True),
    "a quote in quotes": (HEADER + '1,2,"a""b",4\n' + ROWS, True, True),
    "an escape sequence": (with_first(",a,", ",\x1b]0;evil\x07,"), True, True),
}


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


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a run of the sound table in runs/r, its artifact and a checkpoint of every epoch."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "sound.csv").write_text(SOUND)
    splits = fs.Data.table(folder / "sound.csv", target="y", columns={"a": "number"}).split()
    fs.fit("linear", splits, epochs=1, quiet=True, checks=False, folder=folder / "runs", name="r", checkpoint="epoch", patience=None)
    return folder


def in_shell(capsys, *words):
    capsys.readouterr()
    code = within_seconds(20, lambda: shell_run([*map(str, words)]))
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err and "\x1b]" not in out + err
    return code, out + err


@pytest.mark.parametrize("name", TABLES)
def test_p4_a_bad_table_is_told_by_check_and_predict(name, made, tmp_path, capsys):
    content, good, predictable = TABLES[name]
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, said = in_shell(capsys, "check", path, "--target", "y")
    assert code == (0 if good else 65) and "t.csv" in said, said
    code, said = in_shell(capsys, "predict", made / "runs/r", path, "-o", tmp_path / "out.csv")
    assert code == (0 if predictable else 65), said
    assert (tmp_path / "out.csv").exists() == predictable


@pytest.mark.parametrize("kind,code", [("folder", 64), ("pipe", 65), ("device", 65), ("loop", 66), ("dangling", 66)])
def test_p4_what_is_no_file_is_told_without_waiting(kind, code, made, tmp_path, capsys):
    path = tmp_path / "t.csv"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"device": "/dev/zero", "loop": path, "dangling": "/nowhere"}[kind])
    assert in_shell(capsys, "check", path, "--target", "y")[0] == code
    assert in_shell(capsys, "predict", made / "runs/r", path)[0] in (64, 65, 66)


# -- every byte --------------------------------------------------------------------------------------------------------------------------------------------------


def undetected(folder, finds, stride):
    """-> (how many damages were tried, those that `finds` did not find): each byte changed in one bit and in all, and each file cut there and made longer."""
    tried, missed = 0, []
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        whole = file.read_bytes()
        for place in range(tried % stride, len(whole), stride):
            for kind, damaged in (
                ("one bit", whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]),
                ("all bits", whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]),
                ("cut", whole[:place]),
            ):
                file.write_bytes(damaged)
                tried += 1
                if not finds(folder):
                    missed.append((file.name, place, kind))
        file.write_bytes(whole + b"\n")
        if not finds(folder):
            missed.append((file.name, len(whole), "longer"))
        file.write_bytes(whole)
    assert not finds(folder), "whole again"
    return tried, missed


def artifact_is_refused(folder):
    try:
        fs.load(folder)
    except fs.ArtifactError:
        return True
    return False


def checkpoint_is_refused(folder):
    try:
        verifying.read_checkpoint(folder)
    except fs.ArtifactError:
        return True
    return False


@pytest.mark.parametrize("what", ["artifact", "checkpoint"])
@pytest.mark.parametrize("stride", [97, pytest.param(1, marks=pytest.mark.slow)], ids=["some bytes", "every byte"])
def test_c2_a5_any_byte_of_an_artifact_and_of_a_checkpoint_is_found(what, stride, made, tmp_path):
    source = made / "runs/r" / {"artifact": "model.fivestep", "checkpoint": "checkpoints/step-000000000000"}[what]
    copy = tmp_path / source.name
    shutil.copytree(source, copy)
    size = sum(path.stat().st_size for path in copy.iterdir())
    tried, missed = undetected(copy, artifact_is_refused if what == "artifact" else checkpoint_is_refused, stride)
    assert missed == [] and tried >= 3 * (size // stride - 5)


# -- artifacts that were sealed again ------------------------------------------------------------------------------------------------------------------------------


def everywhere(value, change):
    """The nest with each of its leaves changed."""
    if isinstance(value, dict):
        return {key: everywhere(item, change) for key, item in value.items()}
    return [everywhere(item, change) for item in value] if isinstance(value, list) else change(value)


SWEEPS = {
    "long words": lambda value: "9" * 3000 if isinstance(value, str) else value,
    "true for integers": lambda value: True if type(value) is int else value,
    "floats for integers": lambda value: float(value) if type(value) is int else value,
    "negative": lambda value: -value if type(value) is int else value,
    "huge": lambda value: 10**9 if type(value) is int else value,
    "beyond": lambda value: 2**62 if type(value) is int else value,
    "null": lambda value: None,
    "doubled": lambda value: value * 2 if type(value) in (int, float) else value,
    "shifted": lambda value: value + 0.5 if type(value) is float else value,
    "os:system": lambda value: "os:system" if isinstance(value, str) else value,
    "surrogates": lambda value: "\ud800" if isinstance(value, str) else value,
}


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("sweep", SWEEPS)
def test_a3_a9_a_description_changed_everywhere_at_once_is_refused(sweep, sealed, made, tmp_path, capsys):
    folder = tmp_path / "m.fivestep"
    shutil.copytree(made / "runs/r/model.fivestep", folder)
    content = json.dumps(everywhere(json.loads((folder / "artifact.json").read_text()), SWEEPS[sweep])).encode()
    assert content != json.dumps(json.loads((folder / "artifact.json").read_text())).encode()
    (folder / "artifact.json").write_bytes(content)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    if sealed:
        entry = manifest["files"]["artifact.json"]
        entry.update({key: len(content) if type(old) is int else hashlib.sha256(content).hexdigest() for key, old in entry.items()})
        (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(fs.ArtifactError):
        within_seconds(20, lambda: fs.load(folder))
    assert in_shell(capsys, "verify", folder)[0] == 66
