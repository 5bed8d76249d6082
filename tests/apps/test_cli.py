"""A new user's first ten minutes in the shell: what works prints results on stdout, and each mistake ends in a short lesson with its exit code (RELIABILITY P3, P4)."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import polars
import pytest
import torch

import fivestep as fs
from fivestep.apps.cli import run
from fivestep.apps.spelling import shell_options

HEADER = "area,rooms,city,price"
NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self, num_inputs, num_outputs, width=16):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(num_inputs, width), nn.ReLU(), nn.Linear(width, num_outputs))
    def forward(self, x):
        return self.layers(x)
"""


def homes(count: int = 200) -> list[list[str]]:
    """Rows of HEADER whose price follows from the rest."""
    draw = random.Random(1)
    rows = []
    for _ in range(count):
        area, rooms, city = round(draw.uniform(20, 120), 2), draw.randint(1, 5), draw.choice(["Bonn", "Koeln", "Ulm"])
        rows.append([str(area), str(rooms), city, str(round(area * 3000 + rooms * 5000 + len(city) * 10000 + draw.gauss(0, 3000), 2))])
    return rows


def write(path: str, rows: list[list[str]], header: str = HEADER, delimiter: str = ",", encoding: str = "utf-8") -> str:
    Path(path).write_text("\n".join([header, *(delimiter.join(row) for row in rows)]) + "\n", encoding=encoding)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with homes.csv, new.csv, net.py and the runs runs/one (a built-in) and runs/own (a class of the user's)."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("shell")
    before = os.getcwd()
    os.chdir(folder)
    try:
        write("homes.csv", homes())
        write("new.csv", [row[:3] for row in homes(50)], header="area,rooms,city")
        Path("net.py").write_text(NET)
        assert run(["fit", "homes.csv", "--target", "price", "--epochs", "3", "--name", "one", "--quiet"]) == 0
        assert run(["fit", "homes.csv", "--target", "price", "--epochs", "2", "--name", "own", "--model", "net.py:Net", "--set", "model.width=8"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `trained` to work in."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shell(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """-> exit code, stdout, stderr; a traceback anywhere fails the test."""
    capsys.readouterr()
    code = run(list(words))
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out, err


def test_without_arguments_help_is_shown(capsys):
    code, out, _ = shell(capsys)
    assert code == 0 and "evaluate" in out and "explain" in out
    assert shell(capsys, "fit", "-h")[0] == 0


def test_fit_prints_scores_on_stdout_and_about_ten_lines_of_progress_on_stderr(here, capsys):
    code, out, err = shell(capsys, "fit", "homes.csv", "--target", "price", "--epochs", "40", "--name", "two")
    assert code == 0
    assert "rmse" in out and "fivestep evaluate runs/two --split test" in out
    assert "epoch" not in out and 8 <= len(err.splitlines()) <= 25
    assert sum(line.startswith("epoch") for line in err.splitlines()) <= 12


def test_quiet_leaves_stderr_empty(here, capsys):
    assert shell(capsys, "fit", "homes.csv", "--target", "price", "--epochs", "2", "--quiet")[2] == ""


MISTAKES = [
    ("fit homes.csv --target prise", 65, "did you mean 'price'"),
    ("fit homes.csv", 64, "--target"),
    ("fit text.csv --target price", 65, "line 4: 'big' is no number"),
    ("fit question.csv --target price", 65, "--set 'data.missing=?'"),
    ("fit comma.csv --target price", 65, "--set 'data.delimiter=;'"),
    ("fit comma.csv --target price --set data.delimiter=;", 65, "--set data.decimal=,"),
    ("fit latin.csv --target price", 65, "--set data.encoding=latin-1"),
    ("fit empty.csv --target price", 65, "empty"),
    ("fit header.csv --target price", 65, "no rows"),
    ("fit nofile.csv --target price", 66, "nofile.csv"),
    ("fit homes.csv --target price --val nofile.csv", 66, "nofile.csv"),
    ("fit homes.csv --target price --name one", 73, "never overwritten"),
    ("fit homes.csv --target price --epocs 3", 64, "--epochs"),
    ("fit homes.csv --target price --epochs three", 64, "--epochs"),
    ("fit homes.csv --target price --epochs -1", 78, "at least 1"),
    ("fit homes.csv --target price --set epocs=3", 64, "Did you mean 'epochs'"),
    ("fit homes.csv --target price --set target=x", 64, "data.target"),
    ("fit homes.csv --target price --set data.mising=x", 64, "'missing'"),
    ("fit homes.csv --target price --set split.grup=city", 64, "'group'"),
    ("fit homes.csv --target price --set split.group=town", 65, "no column 'town'"),
    ("fit homes.csv --target price --set epochs", 64, "name=value"),
    ("fit homes.csv --target price --ignore O99", 64, "O09"),
    ("fit homes.csv --target price --set optimizer=SDG", 78, '"SGD"'),
    ("fit homes.csv --target price --set loss=MSE", 78, '"MSELoss"'),
    ("fit homes.csv --target price --model mpl", 78, "'mlp'"),
    ("fit homes.csv --target price --model net.py:Nett", 78, "'Net'"),
    ("fit homes.csv --target price --model nett.py:Net", 66, "'net.py'"),
    ("fit homes.csv --target price --model net.py:Net --set model.wdith=8", 78, "'width'"),
    ("fit homes.csv --target price --config none.toml", 66, "none.toml"),
    ("fit homes.csv --target price --config bad.toml", 78, "line 1"),
    ("fti homes.csv", 64, "Did you mean 'fit'"),
    ("predict runs/none new.csv", 66, "runs/none"),
    ("predict runs/one nofile.csv", 66, "nofile.csv"),
    ("predict runs/one missing.csv", 65, "'rooms' is missing"),
    ("predict runs/one empty.csv", 65, "empty"),
    ("predict runs/one new.csv --probabilities", 64, "classes"),
    ("predict runs/one new.csv -o out.xlsx", 64, ".parquet"),
    ("predict runs/one new.csv -o nowhere/out.csv", 73, "no folder"),
    ("predict runs/one new.csv -o new.csv", 64, "would be lost"),
    ("predict runs/own new.csv", 64, "--model mine.py:Net"),
    ("predict runs/own new.csv --model net.py:Nett", 78, "'Net'"),
    ("evaluate runs/one --split tset", 64, "'tset'"),
    ("evaluate runs/one nofile.csv", 66, "nofile.csv"),
    ("evaluate runs/one homes.csv --split test", 64, "one of them"),
    ("evaluate runs/one new.csv", 65, "'price' is missing"),
    ("evaluate runs/one header.csv", 65, "a header and no rows"),
    ("report runs/one -o homes.csv", 64, "a name that ends in .html"),
    ("fit homes.csv --target price --set split=time", 64, "--set split.time=COLUMN"),
    ("fit homes.csv --target price --set data=3", 64, "--set data.missing=NA"),
    ("fit homes.csv --target price --set patience=-1", 78, "a whole number of validations"),
    ("fit homes.csv --target price --set clip_norm=abc", 78, "a number above 0"),
    ("fit homes.csv --target price --set name=2026", 78, "it must be a text"),
    ("check nofile.csv", 66, "nofile.csv"),
    ("show nofile", 66, "nofile"),
    ("explain O111", 64, "O11"),
]


@pytest.mark.parametrize(("line", "code", "lesson"), MISTAKES, ids=[mistake[0] for mistake in MISTAKES])
def test_a_mistake_ends_in_a_lesson_and_its_exit_code(here, capsys, line, code, lesson):
    rows = homes()
    write("text.csv", [*rows[:2], ["big", *rows[2][1:]], *rows[3:]])
    write("question.csv", [*rows[:2], ["?", *rows[2][1:]], *rows[3:]])
    write("comma.csv", [[cell.replace(".", ",") for cell in row] for row in rows], HEADER.replace(",", ";"), delimiter=";")
    write("latin.csv", [[cell.replace("oe", "ö") for cell in row] for row in rows], encoding="latin-1")
    write("header.csv", [])
    write("missing.csv", [[row[0], row[2]] for row in rows[:5]], header="area,city")
    Path("empty.csv").touch()
    Path("bad.toml").write_text("epochs = \n")
    found, out, err = shell(capsys, *line.split(" "))
    assert (found, out) == (code, "")
    assert err.startswith("error: ") and lesson in err
    found, out, _ = shell(capsys, *line.split(" "), "--json")
    assert found == code and json.loads(out)["exit_code"] == code


def test_the_options_that_a_lesson_names_do_what_it_says(here, capsys):
    write("question.csv", [["?", *homes()[0][1:]], *homes()[1:]])
    write("comma.csv", [[cell.replace(".", ",") for cell in row] for row in homes()], HEADER.replace(",", ";"), delimiter=";")
    write("latin.csv", [[cell.replace("oe", "ö") for cell in row] for row in homes()], encoding="latin-1")
    for words in (["question.csv", "--set", "data.missing=?"], ["latin.csv", "--set", "data.encoding=latin-1"],
                  ["comma.csv", "--set", "data.delimiter=;", "--set", "data.decimal=,"]):  # fmt: skip
        assert shell(capsys, "fit", *words, "--target", "price", "--epochs", "1", "--quiet")[0] == 0
    assert shell_options("columns", {"zip": "category"}) == ["--set data.columns.zip=category"]


def test_check_tells_all_problems_at_once(here, capsys):
    write("many.csv", [["big", "1", "Ulm", "2"], ["3", "4", "Ulm"], ["1", "?", "Bonn", ""], *homes(20)])
    code, out, _ = shell(capsys, "check", "many.csv", "--target", "price")
    assert code == 65 and all(text in out for text in ("'big'", "'?'", "line 3", "missing in 1"))
    code, out, _ = shell(capsys, "check", "many.csv", "--target", "price", "--json")
    found = json.loads(out)
    assert code == 65 and len(found["problems"]) == 4 and [column["name"] for column in found["columns"]] == HEADER.split(",")
    assert shell(capsys, "check", "homes.csv", "--set", "data.quote=none")[0] == 0


def test_an_exit_of_the_users_own_code_is_no_success(here, capsys):
    Path("leaves.py").write_text(NET.replace("return self.layers(x)", "raise SystemExit(3)"))
    with pytest.raises(SystemExit) as told:
        run(["fit", "homes.csv", "--target", "price", "--model", "leaves.py:Net", "--quiet"])
    assert told.value.code == 3


def test_check_tells_the_options_as_they_are_typed(here, capsys):
    write("bad.csv", [*homes(30), ["big", "3", "Bonn", "1"]])
    code, out, _ = shell(capsys, "check", "bad.csv", "--target", "price")
    assert code == 65 and "in the shell: --set data.missing=big  or  --set data.columns.area=category" in out


def test_predictions_keep_the_order_and_equal_those_of_python(here, capsys):
    assert shell(capsys, "predict", "runs/one", "new.csv", "-o", "out.csv")[:2] == (0, "")
    assert shell(capsys, "predict", "runs/one", "new.csv", "-o", "out.parquet")[0] == 0
    polars.read_csv("new.csv").write_parquet("new.parquet")
    _, from_parquet, _ = shell(capsys, "predict", "runs/one", "new.parquet", "--json")
    expected = fs.load("runs/one").predict("new.csv")["price"].to_list()
    assert len(expected) == 50 and len(set(expected)) > 40
    assert polars.read_csv("out.csv")["price"].to_list() == expected
    assert polars.read_parquet("out.parquet")["price"].to_list() == expected
    assert json.loads(from_parquet)["predictions"]["price"] == expected


def test_odd_rows_to_predict_are_told(here, capsys):
    write("unseen.csv", [["50", "2", "Paris"], ["60", "3", "Ulm"]], header="area,rooms,city")
    code, out, err = shell(capsys, "predict", "runs/one", "unseen.csv", "--json")
    assert code == 0 and json.loads(out)["rows"] == 2 and "Paris" in json.loads(out)["notes"][0] and "Paris" in err + out
    write("header.csv", [], header="area,rooms,city")
    assert json.loads(shell(capsys, "predict", "runs/one", "header.csv", "--json")[1])["rows"] == 0
    assert shell(capsys, "predict", "runs/one", "header.csv", "-o", "none.csv")[0] == 0
    assert Path("none.csv").read_text() == "price\n"


def test_looks_at_the_test_rows_are_counted(here, capsys):
    looks = [json.loads(shell(capsys, "evaluate", "runs/one", "--split", "test", "--json")[1])["looks"] for _ in range(3)]
    assert looks == [looks[0], looks[0] + 1, looks[0] + 2]


def test_data_that_changed_since_the_run_is_not_scored(here, capsys):
    write("homes.csv", homes()[1:])
    code, _, err = shell(capsys, "evaluate", "runs/one", "--split", "test")
    assert code == 65 and "has changed" in err


def test_files_that_come_split_and_the_next_command_they_get(here, capsys):
    rows = homes()
    for name, part in (("train.csv", rows[:140]), ("val.csv", rows[140:170]), ("test.csv", rows[170:])):
        write(name, part)
    code, out, _ = shell(capsys, "fit", "train.csv", "--val", "val.csv", "--test", "test.csv", "--target", "price", "--epochs", "2", "--name", "three")
    assert code == 0 and "val: 30 rows" in out and "fivestep evaluate runs/three --split test" in out
    code, out, _ = shell(capsys, "evaluate", "runs/three", "--split", "test", "--json")
    assert code == 0 and json.loads(out)["num_rows"] == len(rows) - 170 and json.loads(out)["looks"] == 1


def test_a_class_of_ones_own_and_a_config_give_the_same_weights_again(here, capsys):
    again = json.loads(shell(capsys, "fit", "homes.csv", "--config", "runs/own/settings.json", "--name", "again", "--json")[1])
    Path("run.toml").write_text('epochs = 2\n[model]\nname = "net.py:Net"\nwidth = 8\n[data]\ntarget = "price"\n')
    from_toml = json.loads(shell(capsys, "fit", "homes.csv", "--config", "run.toml", "--name", "toml", "--json")[1])
    assert again["weights_sha256"] == from_toml["weights_sha256"] == fs.load("runs/own", fs_class()).facts["weights_sha256"]
    assert shell(capsys, "predict", "runs/own", "new.csv", "--model", "net.py:Net", "-o", "own.csv")[0] == 0


def test_a_record_that_holds_widths_takes_another_width(here, capsys):
    asked = ("fit", "homes.csv", "--target", "price", "--model", "mlp", "--epochs", "1")
    first = json.loads(shell(capsys, *asked, "--set", "model.width=8", "--name", "narrow", "--json")[1])
    again = json.loads(shell(capsys, "fit", "homes.csv", "--config", "runs/narrow/settings.json", "--name", "narrow2", "--json")[1])
    assert first["weights_sha256"] == again["weights_sha256"]
    assert shell(capsys, "fit", "homes.csv", "--config", "runs/narrow/settings.json", "--set", "model.width=4", "--name", "narrower")[0] == 0
    assert fs.load("runs/narrower").model.layers[0].out_features == 4


def fs_class():
    from fivestep.model.building import load_file_class

    return load_file_class("net.py:Net")


def test_parquet_and_a_folder_of_images(here, capsys):
    import numpy as np
    from PIL import Image

    polars.read_csv("homes.csv").write_parquet("homes.parquet")
    assert json.loads(shell(capsys, "fit", "homes.parquet", "--target", "price", "--epochs", "1", "--json")[1])["epochs"] == 1
    draw = np.random.default_rng(0)
    for shade, name in ((0, "dark"), (120, "light")):
        Path("pictures", name).mkdir(parents=True)
        for number in range(20):
            Image.fromarray((draw.integers(0, 100, (8, 6, 3)) + shade).astype("uint8")).save(f"pictures/{name}/{number}.png")
    code, out, _ = shell(capsys, "fit", "pictures", "--epochs", "2", "--name", "pictures")
    assert code == 0 and "accuracy" in out
    assert shell(capsys, "evaluate", "runs/pictures", "--split", "test", "--json")[0] == 0
    code, out, _ = shell(capsys, "predict", "runs/pictures", "pictures")
    assert code == 0 and out.startswith("file,prediction\ndark/0.png,") and len(out.splitlines()) == 41
    code, _, err = shell(capsys, "predict", "runs/pictures", "new.csv")
    assert code == 65 and "new.csv cannot be read as an image" in err


def test_show_and_verify_and_what_a_damaged_artifact_gets(here, capsys):
    assert "ensemble" in shell(capsys, "show", "runs/one")[1]
    assert json.loads(shell(capsys, "show", "runs/one", "--json")[1])["rows"]["train"] == 140
    assert json.loads(shell(capsys, "verify", "runs/one", "--json")[1])["problems"] == []
    weights = Path("runs/one/model.fivestep/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"X")
    assert shell(capsys, "verify", "runs/one")[0] == 66
    assert json.loads(shell(capsys, "verify", "runs/one", "--json")[1])["problems"]
    assert shell(capsys, "predict", "runs/one", "new.csv")[0] == 66


def test_explain_prints_the_rule(capsys):
    code, out, _ = shell(capsys, "explain", "o01")
    assert code == 0 and out.startswith("O01") and "wrong" in out and "right" in out
    assert json.loads(shell(capsys, "explain", "O01", "--json")[1])["code"] == "O01"


def test_the_demo_prints_one_json_object(here, capsys):
    code, out, err = shell(capsys, "demo", "--json", "--quiet")
    found = json.loads(out)
    assert (code, err) == (0, "") and all(found[name]["equal_after_load"] for name in ("penguins", "digits"))


def test_a_model_that_runs_away_stops_with_70(here, capsys):
    code, out, err = shell(capsys, "fit", "homes.csv", "--target", "price", "--lr", "1e9", "--epochs", "3", "--ignore", "O01")
    assert (code, out) == (70, "") and "not finite" in err


def test_labels_that_start_at_1_are_explained():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    splits = fs.Data.arrays(x, torch.arange(60) % 3 + 1).split(train=0.8, val=0.2)
    with pytest.raises((fs.FindingsError, fs.DataError, fs.SettingsError), match=r"label|class"):
        fs.fit(torch.nn.Linear(4, 3), splits, loss="CrossEntropyLoss", epochs=2, folder=None, quiet=True)


def test_a_cell_of_a_notebook_that_is_run_again(here):
    x = torch.arange(0, 1, 0.02)[:, None]
    splits = fs.Data.arrays(x, 0.7 * x + 0.3).split(train=0.8, test=0.2)

    def cell() -> Path:
        run_ = fs.fit(torch.nn.Linear(1, 1), splits, loss="L1Loss", epochs=1, quiet=True)
        run_.save("mine.fivestep", replace=True)
        return run_.folder  # type: ignore[return-value]

    assert cell() != cell()
    fs.fit(torch.nn.Linear(1, 1), splits, loss="L1Loss", epochs=1, quiet=True, name="mine")
    with pytest.raises(fs.CannotCreateError, match="choose another"):
        fs.fit(torch.nn.Linear(1, 1), splits, loss="L1Loss", epochs=1, quiet=True, name="mine")


def test_a_full_disk_a_closed_pipe_and_debug_in_a_real_process(here):
    def process(line: str) -> subprocess.CompletedProcess[str]:
        command = f"{sys.executable} -m fivestep {line}"
        return subprocess.run(command, shell=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)

    for line in ("predict runs/one new.csv > /dev/full", "show runs/one --json > /dev/full"):
        done = process(line)
        assert done.returncode == 74 and "No space left" in done.stderr and "Traceback" not in done.stderr
    assert process("predict runs/one new.csv | head -1").stderr == ""
    for line in ("check homes.csv | true; exit ${PIPESTATUS[0]}", "check homes.csv >&-"):
        done = subprocess.run(["bash", "-c", f"{sys.executable} -m fivestep {line}"], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "Traceback" not in done.stderr, line
    assert process("fit homes.csv --target price --model linear --epochs 20 --name unread 2>&1 | head -1").returncode == 0
    assert len(Path("runs/unread/history.jsonl").read_text().splitlines()) == 20  # nobody read its progress, and it trained on
    done = process("fit homes.csv --target prise --debug")
    assert done.returncode == 65 and "Traceback" in done.stderr
    assert process("--version").stdout.strip() == fs.__version__
