"""Promise: an ejected script, run where fivestep cannot be imported, ends in the same SHA-256 of the weights as the run (CPU)."""

import math
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fivestep as fs

# A process that cannot import fivestep; it forks for each script, as importing torch anew for each would take most of the time.
SERVER = """
import os, runpy, sys
sys.modules["fivestep"] = None
import numpy, torch
for line in sys.stdin:
    folder, elsewhere, log = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child == 0:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(1, 2)
        os.chdir(elsewhere)
        sys.path.insert(0, folder)
        code = 0
        try:
            runpy.run_path(os.path.join(folder, "train.py"), run_name="__main__")
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.fixture(scope="module")
def without_fivestep():
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean, cwd="/")
    yield process
    process.stdin.close()
    process.wait(timeout=60)


@pytest.fixture(autouse=True)
def server(without_fivestep):
    global SCRIPTS
    SCRIPTS = without_fivestep


def run_script(folder: Path, elsewhere: Path) -> str:
    """What the script prints, in a process that cannot import fivestep, from another folder."""
    log = elsewhere / "log.txt"
    SCRIPTS.stdin.write(f"{folder}\t{elsewhere}\t{log}\n")
    SCRIPTS.stdin.flush()
    code = SCRIPTS.stdout.readline().strip()
    assert code == "0", log.read_text()[-3000:] + (folder / "train.py").read_text()
    return log.read_text()


def test_the_scripts_run_where_fivestep_cannot_be_imported(tmp_path):
    (tmp_path / "train.py").write_text("try:\n    import fivestep\nexcept ImportError:\n    print('blocked')\n")
    assert run_script(tmp_path, tmp_path) == "blocked\n"


def assert_same_weights(run, tmp_path: Path, ignore: str = "E999") -> str:
    """Ejects, runs, compares; returns the script's text."""
    folder, elsewhere = tmp_path / "ejected", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    run.eject(folder / "train.py")
    text = (folder / "train.py").read_text()
    printed = run_script(folder, elsewhere).splitlines()
    assert printed[-1] == f"SHA-256 of the weights: {run.weights_sha256}", text
    assert len(printed) == len(run.history) + 1  # a line for each epoch: it stopped where the run stopped
    ruff = shutil.which("ruff", path=os.path.dirname(sys.executable))
    if ruff is not None:  # no import, variable or f-string that nothing needs
        done = subprocess.run(
            [ruff, "check", "--isolated", "--select", "E,F,W", "--line-length", "130", "--ignore", ignore, str(folder / "train.py")],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + text
    return text


def numbers(n=113, width=7, seed=3, outputs=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=g)
    return x, x[:, :1] * 2 - x[:, 1:2] + 0.1 * torch.randn(n, outputs, generator=g)


def labels(n=113, width=7, classes=3, seed=3):
    x, y = numbers(n, width, seed)
    return x, torch.bucketize(y[:, 0], torch.linspace(-2, 2, classes - 1))


def fit(model, splits, **settings):
    return fs.fit(model, splits, **(dict(folder=None, quiet=True, device="cpu", checks=False, epochs=4) | settings))


def dropout_mlp():
    return nn.Sequential(nn.Linear(7, 11), nn.ReLU(), nn.Dropout(0.3), nn.Linear(11, 1))


MINE = """
import torch
from torch import nn

from parts import Head


class Net(nn.Module):
    def __init__(self, num_inputs, num_outputs, widths=(11,)):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(num_inputs, widths[0]), nn.BatchNorm1d(widths[0]), nn.ReLU(), nn.Dropout(0.2))
        self.middle = nn.Linear(widths[0], 5)
        self.head = Head(5, num_outputs)

    def forward(self, x):
        return self.head(torch.relu(self.middle(self.backbone(x))))


def huber(outputs, targets):
    return nn.functional.huber_loss(outputs, targets)


def noisy(inputs, generator):
    return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


def halving(epoch):
    return 0.5**epoch


def by_length(epoch, generator):
    return torch.randperm(79, generator=generator).split(17)


def predicting_loss(model, inputs, targets):
    outputs = model(inputs)
    return ((outputs - targets[0]) ** 2).mean() + 0.01 * outputs.square().mean()


def own_step(model, optimizer, inputs, targets):
    value = nn.functional.mse_loss(model(inputs), targets[0])
    optimizer.zero_grad()
    value.backward()
    optimizer.step()
    return {"loss": value}
"""

PARTS = """
from torch import nn


class Head(nn.Module):
    def __init__(self, num_inputs, num_outputs):
        super().__init__()
        self.linear = nn.Linear(num_inputs, num_outputs)

    def forward(self, x):
        return self.linear(x)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The user's module `mine`, which imports another file beside it."""
    folder = tmp_path / "users"
    folder.mkdir()
    (folder / "mine.py").write_text(MINE)
    (folder / "parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(folder))
    for name in ("mine", "parts"):
        sys.modules.pop(name, None)
    import mine

    yield mine
    for name in ("mine", "parts"):
        sys.modules.pop(name, None)


# -- tables ----------------------------------------------------------------------------------------------------------------------------------------------------


def houses(n=90, seed=1, missing=True):
    """A CSV with every kind of column: numbers, a boolean, categories, a date, a datetime, a time; gaps in most of them."""
    rng = np.random.default_rng(seed)
    lines = ["area,rooms,garden,city,heating,built,sold,opens,weight,price"]
    for row in range(n):
        area, rooms = rng.normal(100, 30), rng.integers(1, 8)
        city = ["Bonn", "Oslo", "Rome"][rng.integers(3)]
        day, month, year = rng.integers(1, 29), rng.integers(1, 13), rng.integers(1950, 2020)
        fields = [
            "NA" if missing and row % 11 == 3 else f"{area:.3f}",
            str(rooms),
            "" if missing and row % 13 == 5 else ("yes" if rng.random() < 0.4 else "no"),
            "" if missing and row % 9 == 2 else city,
            "NA" if row % 7 == 1 else "gas",
            f"{day:02d}.{month:02d}.{year}",
            "" if missing and row % 17 == 4 else f"{year + 5}-{month:02d}-{day:02d} {rng.integers(24):02d}:{rng.integers(60):02d}:07",
            f"{rng.integers(24):02d}:{rng.integers(60):02d}",
            f"{rng.random():.2f}",
            f"{area * 3 + rooms * 20 + rng.normal():.2f}",
        ]
        lines.append(",".join(fields))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("categories", ["onehot", "codes"])
def test_a_table_with_every_kind_of_column_and_a_scaled_target(tmp_path, categories):
    (tmp_path / "houses.csv").write_text(houses())
    splits = fs.Data.table(tmp_path / "houses.csv", target="price", categories=categories, drop=["weight"]).split(seed=5)
    text = assert_same_weights(fit("mlp", splits, model_args={"widths": [9]}, patience=2), tmp_path)
    assert "houses.csv" in text and "to_datetime" in text and not list((tmp_path / "ejected").glob("*.npy"))


def test_a_table_without_gaps_has_no_line_about_gaps(tmp_path):
    (tmp_path / "houses.csv").write_text(houses(missing=False))
    splits = fs.Data.table(tmp_path / "houses.csv", target="price", weight="weight").split(train=0.8, val=0.2)
    text = assert_same_weights(fit("mlp", splits, loss="HuberLoss"), tmp_path)
    assert "missing" not in text and "nan" not in text.lower()


def test_penguins_by_class_with_balanced_class_weights(tmp_path):
    splits = fs.Data.table(fs.datasets.penguins(), target="species").split(stratify=True)
    assert_same_weights(fit("mlp", splits, class_weights="balanced"), tmp_path)


def test_a_table_in_memory_split_by_time_and_two_classes(tmp_path):
    rng = np.random.default_rng(0)
    frame = {"a": rng.normal(size=80), "when": rng.permutation(80) + 0.5, "kind": list("xyzz" * 20), "y": list("ny" * 40)}
    splits = fs.Data.table(frame, target="y").split(time="when")
    assert_same_weights(fit("linear", splits, loss="BCEWithLogitsLoss", model_args={"num_outputs": 1}), tmp_path)


def test_a_table_split_by_a_column_and_by_groups(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["a,who,part,y"] + [f"{rng.normal():.4f},p{rng.integers(12)},{'train' if row % 5 else 'val'},{rng.normal():.4f}" for row in range(70)]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    data = fs.Data.table(tmp_path / "t.csv", target="y", drop=["who", "part"])
    for number, splits in enumerate((data.split(column="part"), data.split(train=0.7, val=0.3, group="who"))):
        (tmp_path / str(number)).mkdir()
        text = assert_same_weights(fit("linear", splits), tmp_path / str(number))
        assert "split.json" not in text


def test_training_and_validation_rows_in_files_of_their_own(tmp_path):
    (tmp_path / "a.csv").write_text(houses(70, seed=1))
    (tmp_path / "b.csv").write_text(houses(30, seed=2))
    data = [fs.Data.table(tmp_path / name, target="price") for name in ("a.csv", "b.csv")]
    assert_same_weights(fit("linear", fs.Splits(data[0], val=data[1])), tmp_path)


def test_several_targets_and_a_decimal_comma(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["a;b;c;d"] + [";".join(f"{rng.normal():.4f}".replace(".", ",") for _ in range(4)) for _ in range(50)]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    data = fs.Data.table(tmp_path / "t.csv", target=["c", "d"], delimiter=";", decimal=",")
    assert_same_weights(fit("linear", data.split()), tmp_path, ignore="E501")  # the line with the file's path is as long as the path


# -- arrays and images -----------------------------------------------------------------------------------------------------------------------------------------


def test_arrays_with_dropout_batch_25_width_7(tmp_path):
    splits = fs.Data.arrays(*numbers()).split(seed=2)
    assert_same_weights(fit(dropout_mlp_in_a_file(tmp_path), splits, batch_size=25), tmp_path)


def dropout_mlp_in_a_file(tmp_path):
    path = tmp_path / "dropout_net.py"
    path.write_text(textwrap.dedent("""
        from torch import nn

        def dropout_mlp():
            return nn.Sequential(nn.Linear(7, 11), nn.ReLU(), nn.Dropout(0.3), nn.Linear(11, 1))
    """))  # fmt: skip
    return f"{path}:dropout_mlp"


def test_the_classic_line_in_full_batches_from_an_instance(tmp_path):
    x = torch.arange(0, 1, 0.02)[:, None]
    splits = fs.Data.arrays(x, 0.7 * x + 0.3).split(train=0.8, test=0.2, shuffle=False)
    run = fit(nn.Linear(1, 1), splits, loss=nn.L1Loss(), optimizer="SGD", lr=0.01, batch_size="all", folder="runs")
    text = assert_same_weights(run, tmp_path)
    assert "initial.safetensors" in text and "evaluate" not in text and "SEED" not in text


def test_digits_through_a_cnn_with_batch_norm(tmp_path):
    images, classes = fs.datasets.digits()
    splits = fs.Data.images(images[:200], classes[:200]).split()
    text = assert_same_weights(fit("cnn", splits, model_args={"channels": [3, 5]}, epochs=2), tmp_path)
    assert np.load(tmp_path / "ejected" / "inputs.npy").dtype == np.uint8 and "/ 255" in text


def test_a_folder_of_images(tmp_path):
    from PIL import Image

    images, classes = fs.datasets.digits()
    for number in range(60):
        folder = tmp_path / "pictures" / f"class{classes[number] % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[number]).save(folder / f"{number}.png")
    splits = fs.Data.images(tmp_path / "pictures").split()
    text = assert_same_weights(fit("cnn", splits, model_args={"channels": [3]}, epochs=2), tmp_path)
    assert "Image.open" in text and not (tmp_path / "ejected" / "inputs.npy").exists()


def test_two_inputs_and_weights_in_float64(tmp_path):
    path = tmp_path / "two.py"
    path.write_text(textwrap.dedent("""
        import torch
        from torch import nn

        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Linear(7, 3), nn.Linear(2, 3)
                self.double()

            def forward(self, left, right):
                return (self.a(left) + self.b(right)).sum(1, keepdim=True)
    """))  # fmt: skip
    x, y = numbers()
    data = fs.Data.arrays({"left": x, "right": torch.rand(113, 2)}, y, weight=torch.rand(113))
    assert_same_weights(fit(f"{path}:Two", data.split()), tmp_path)


def test_data_that_came_split_already(tmp_path):
    x, y = labels()
    run = fit("mlp", fs.Splits((x[:80], y[:80]), val=(x[80:], y[80:])), model_args={"widths": [5]}, loss={"name": "CrossEntropyLoss", "label_smoothing": 0.1})
    assert_same_weights(run, tmp_path)


# -- what acts in the loop -------------------------------------------------------------------------------------------------------------------------------------

RUNS = {
    "schedule by step, clipping, accumulation, EMA": dict(
        scheduler="OneCycleLR", clip_norm=0.5, part_size=6, batch_size=16, average={"name": "EMA", "decay": 0.9}, optimizer={"name": "SGD", "momentum": 0.9}
    ),
    "schedule by epoch, clipped values": dict(scheduler="CosineAnnealingLR", clip_value=0.01),
    "warm-up, then a decay": dict(scheduler=[{"name": "LinearLR", "epochs": 2}, "CosineAnnealingLR"], epochs=6),
    "warm-up by step, then StepLR by epoch": dict(
        scheduler=[{"name": "LinearLR", "steps": 4, "every": "step"}, {"name": "StepLR", "step_size": 1, "gamma": 0.5}], epochs=5
    ),
    "a cycle, then constant": dict(scheduler=[{"name": "OneCycleLR", "epochs": 2}, {"name": "ConstantLR", "factor": 0.5}], optimizer="SGD"),
    "plateau, early stopping": dict(scheduler={"name": "ReduceLROnPlateau", "patience": 0}, lr=0.5, patience=1, epochs=12, optimizer="SGD"),
    "warm-up, then plateau": dict(
        scheduler=[{"name": "LinearLR", "epochs": 2}, {"name": "ReduceLROnPlateau", "patience": 0}], lr=0.5, optimizer="SGD", epochs=7
    ),
    "early stopping keeps the best": dict(lr=0.3, patience=2, epochs=30),
    "SWA, validated every second epoch": dict(average={"name": "SWA", "start": 0.5}, validate_every=2, epochs=5),
    "SWA, the last": dict(average="SWA", keep="last"),
    "EMA, the last": dict(average={"name": "EMA", "decay": 0.8}, keep="last"),
    "LBFGS": dict(optimizer="LBFGS", batch_size="all", clip_norm=1.0),
    "Muon and AdamW, cosine": dict(optimizer="Muon", scheduler="CosineAnnealingLR", clip_norm=1.0),
    "bfloat16": dict(precision="bf16"),
    "a sum, in file order": dict(loss={"name": "MSELoss", "reduction": "sum"}, shuffle=False, lr=1e-3, part_size=5),
    "a function of torch": dict(loss=nn.functional.smooth_l1_loss),
}


@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS.keys())
def test_what_acts_in_the_loop(tmp_path, settings):
    splits = fs.Data.arrays(*numbers()).split(train=0.8, val=0.2)
    args = {"widths": [11, 5], "dropout": 0.2}
    assert_same_weights(fit("mlp", splits, **({"model_args": args, "lr": 0.01} | settings)), tmp_path)


def test_class_weights_sample_weights_and_accuracy_chooses(tmp_path):
    x, y = labels()
    data = fs.Data.arrays(x, y, weight=torch.linspace(0.1, 2, 113))
    run = fit("mlp", data.split(stratify=True), class_weights=[1.0, 2.0, 0.5], monitor="accuracy", metrics=["accuracy"], part_size=7)
    assert_same_weights(run, tmp_path)


def test_labels_that_are_ignored(tmp_path):
    x, y = labels()
    y[::5] = -100
    assert_same_weights(fit("mlp", fs.Data.arrays(x, y).split(), model_args={"num_outputs": 3}), tmp_path)


def test_a_resnet_and_an_ensemble(tmp_path):
    for number, (name, args) in enumerate({"resnet": {"width": 8, "depth": 1}, "ensemble": {"members": 2, "widths": [5], "task": "multiclass"}}.items()):
        (tmp_path / str(number)).mkdir()
        run = fit(name, fs.Data.arrays(*labels()).split(), model_args=args)
        assert_same_weights(run, tmp_path / str(number), ignore="E501" if name == "ensemble" else "E999")  # its class stands there as our source has it


# -- the user's own code ---------------------------------------------------------------------------------------------------------------------------------------


def test_a_users_module_with_freeze_and_groups(tmp_path, mine):
    splits = fs.Data.arrays(*numbers()).split()
    run = fit(
        mine.Net, splits, freeze=["backbone.*"], groups={"middle.*": {"lr": 1e-4, "weight_decay": 0.0}}, lr=0.01, model_args={"widths": (9,)}, clip_norm=1.0
    )
    text = assert_same_weights(run, tmp_path)
    assert {path.name for path in (tmp_path / "ejected").glob("*.py")} == {"train.py", "mine.py", "parts.py"}
    assert "model.backbone.eval()" in text and "model.middle.parameters()" in text


OWN = {
    "loss": lambda mine: dict(loss=mine.huber),
    "augment": lambda mine: dict(augment=mine.noisy),
    "a lambda schedule of a named function": lambda mine: dict(scheduler={"name": "LambdaLR", "lr_lambda": mine.halving}),
    "batches": lambda mine: dict(batches=mine.by_length),
    "compute": lambda mine: dict(compute=mine.predicting_loss, loss="auto"),
    "step": lambda mine: dict(step=mine.own_step),
    "several optimizers by pattern": lambda mine: dict(optimizer={"backbone": "SGD", "*": "AdamW"}, groups={"head.*": {"lr": 0.001}}),
}


@pytest.mark.parametrize("name", OWN)
def test_the_users_own_functions(tmp_path, mine, name):
    splits = fs.Data.arrays(*numbers()).split()
    assert_same_weights(fit(mine.Net, splits, **OWN[name](mine)), tmp_path)


def test_a_fine_tuned_start_is_shipped(tmp_path, mine):
    splits = fs.Data.arrays(*numbers()).split()
    first = mine.Net(7, 1)
    run = fit(mine.Net, splits, weights={name: tensor.clone() for name, tensor in first.state_dict().items()}, folder="runs")
    assert_same_weights(run, tmp_path)
    assert (tmp_path / "ejected" / "initial.safetensors").exists() and math.isfinite(run.history[-1]["train_loss"])


def test_a_run_of_the_shells_defaults_on_a_table(tmp_path):
    """`model="auto"`, written to a folder: an ensemble with buffers of its own, cut rates, early stopping."""
    shutil.copy(Path(fs.datasets.__file__).parent / "penguins.csv", tmp_path / "penguins.csv")
    run = fs.fit(
        "auto", fs.Data.table(tmp_path / "penguins.csv", target="species").split(), epochs=8, folder=tmp_path / "runs", quiet=True, device="cpu", checks=False
    )
    text = assert_same_weights(run, tmp_path, ignore="E501")
    assert "class Ensemble" in text and "initial.safetensors" not in text


@pytest.mark.parametrize("augment", [{"shift": 2, "flip": True}, {"shift": 1}, {"flip": True}])
def test_shifts_and_mirrors_of_images_stand_in_the_script(tmp_path, augment):
    images, classes = fs.datasets.digits()
    splits = fs.Data.images(images[:120], classes[:120]).split()
    text = assert_same_weights(fit("cnn", splits, model_args={"channels": [3]}, epochs=2, augment=augment), tmp_path)
    assert text.count("def augmented") == 1 and ("flip(3)" in text) == ("flip" in augment) and ("functional.pad" in text) == ("shift" in augment)


def test_one_category_with_rare_values_alone_can_be_ejected(tmp_path):
    states = [f"state {number}" for number in range(20)] * 10 + ["rare", "rarer"]
    data = fs.Data.table({"state": states, "rate": [float(len(state) + position % 3) for position, state in enumerate(states)]}, target="rate")
    run = fit("linear", data.split(seed=0))
    assert run.splits.columns.inputs[0].other and "other(" in assert_same_weights(run, tmp_path)


@pytest.mark.parametrize("kind", ["grey", "mirrored", "coloured"])
def test_auto_on_images_can_be_ejected(tmp_path, kind):
    """Residual convolutions with a pixel's channels side by side: the order that slices and stacks leave in memory must not choose other kernels."""
    images, classes = fs.datasets.digits()
    images, classes = images[:120], classes[:120]
    if kind == "mirrored":
        images = np.maximum(images, images[:, :, ::-1])
    if kind == "coloured":
        images = np.stack([images, images, 255 - images], axis=1)
    splits = fs.Data.images(images, classes).split()
    text = assert_same_weights(fit("auto", splits, epochs=2, folder=tmp_path / "runs"), tmp_path, ignore="E501")
    assert "class CNN" in text and "class Correction" in text and "def augmented" in text and ("flip(3)" in text) == (kind == "mirrored")
