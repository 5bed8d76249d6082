"""What cannot be written as a script is refused by name, with the way on, and told before the run; nothing is written over."""

import sys

import pytest
import torch
from torch import nn

import fivestep as fs
from fivestep.errors import CannotCreateError, SettingsError, UsageError


def splits(n=40):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, generator=g)
    return fs.Data.arrays(x, x[:, :1]).split(train=0.8, val=0.2)


def fit(model="linear", data=None, **settings):
    return fs.fit(model, data or splits(), **(dict(folder=None, quiet=True, checks=False, epochs=2) | settings))


class Shadow(nn.Module):
    """Stands in a test file that imports fivestep, as a class beside a `fit` would."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x):
        return self.linear(x)


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, row):
        return torch.full((3,), row / 40), torch.tensor([row / 40])


def local_class():
    class Net(Shadow):
        pass

    return Net


REFUSED = {
    "a lambda as a loss": (lambda: dict(loss=lambda o, t: (o - t).square().mean()), "loss is a lambda.*with def in a file of its own"),
    "a class inside a function": (lambda: dict(model=local_class()), "defined inside a function.*top of a"),
    "a file that imports fivestep": (lambda: dict(model=Shadow), r"imports fivestep \(line \d+\).*file of its own"),
    "a Dataset object": (
        lambda: dict(data=fs.Splits(fs.Data.dataset(Rows())), model=nn.Linear, model_args={"in_features": 3, "out_features": 1}, loss="MSELoss"),
        r"an object of Rows.*fs\.Data\.arrays",
    ),
    "a loss with weights of its own": (
        lambda: dict(
            model=nn.Linear,
            model_args={"in_features": 3, "out_features": 8},
            data=fs.Data.arrays(torch.randn(40, 3), torch.arange(40) % 6).split(train=0.8, val=0.2),
            loss={"name": "AdaptiveLogSoftmaxWithLoss", "in_features": 8, "n_classes": 6, "cutoffs": [3]},
        ),
        "AdaptiveLogSoftmaxWithLoss has weights of its own.*end of the model",
    ),
    "LBFGS in parts": (lambda: dict(optimizer="LBFGS", part_size=3, batch_size="all"), "LBFGS with part_size"),
    "a metric without plain text": (lambda: dict(monitor="r2", metrics=["r2"]), "monitor='r2' cannot be written plainly"),
    "schedules within a schedule": (
        lambda: dict(scheduler={"name": "ChainedScheduler", "schedulers": [{"name": "ConstantLR"}, {"name": "ExponentialLR", "gamma": 0.9}]}),
        "holds other schedulers.*list",
    ),
    "a lambda in a schedule": (lambda: dict(scheduler={"name": "LambdaLR", "lr_lambda": lambda epoch: 0.9}), "scheduler.*lambda"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_ejected_is_refused_by_name_and_told_before_the_run(case, tmp_path, capsys):
    make, told = REFUSED[case]
    run = fit(**make())
    with pytest.raises(SettingsError, match=told):
        run.eject(tmp_path / "train.py")
    assert not (tmp_path / "train.py").exists()
    capsys.readouterr()
    kept = fit(**make(), folder="runs", quiet=False)
    shown = capsys.readouterr().err
    assert "Cannot be written as a script later (eject): " in shown.split("epoch 1/")[0]  # before the first epoch's line
    assert kept.folder is not None
    fit(**make(), quiet=False)
    assert "eject" not in capsys.readouterr().err  # where nothing is written, nothing is told


def test_a_run_that_can_be_ejected_is_told_nothing(capsys):
    fit(folder="runs", quiet=False)
    assert "eject" not in capsys.readouterr().err


def test_an_instance_whose_start_nobody_kept_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"an instance, and nothing has kept.*folder='runs'"):
        fit(nn.Linear(3, 1)).eject(tmp_path / "train.py")


def test_an_instance_that_needs_unknown_arguments_is_refused(tmp_path, monkeypatch):
    (tmp_path / "wide.py").write_text(
        "from torch import nn\n\n\nclass Wide(nn.Module):\n    def __init__(self, width):\n        super().__init__()\n"
        "        self.body = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 1))\n\n    def forward(self, x):\n        return self.body(x)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("wide", None)
    from wide import Wide

    run = fit(Wide(5), folder="runs")
    with pytest.raises(SettingsError, match=r"instance of Wide.*model=Wide, model_args"):
        run.eject(tmp_path / "train.py")


def test_a_function_that_draws_from_a_generator_at_the_top_of_its_file_is_named(tmp_path, monkeypatch):
    text = "import numpy\nimport torch\n\nrng = numpy.random.default_rng(1)\n\n\ndef noisy(x, generator):\n    return x + torch.tensor(rng.random(), dtype=x.dtype)\n"
    (tmp_path / "noise.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("noise", None)
    from noise import noisy

    with pytest.raises(SettingsError, match=r"augment, noisy, draws from rng, a generator at the top of noise\.py"):
        fit(augment=noisy).eject(tmp_path / "train.py")


GLOBALS = """
import torch

WEIGHTS = torch.tensor([1.0, 3.0], dtype=torch.float64)
POWER = 2
NAMES = ["a", "b"]
DRAWN = torch.rand(3)
COUNTS = torch.zeros(2)
SEEN = []
CALLS = 0


def constant(outputs, targets):
    return ((outputs - targets) ** POWER).mean() * WEIGHTS[1].float() * len(NAMES)


def drawn(outputs, targets):
    return ((outputs - targets) ** 2).mean() * DRAWN.sum()


def fills(outputs, targets):
    COUNTS.add_(1)
    return ((outputs - targets) ** 2).mean() * COUNTS[0]


def appends(outputs, targets):
    SEEN.append(1)
    return ((outputs - targets) ** 2).mean() * len(SEEN)


def counts(outputs, targets):
    global CALLS
    CALLS += 1
    return ((outputs - targets) ** 2).mean() * CALLS


def through(outputs, targets):
    return fills(outputs, targets)
"""


@pytest.fixture
def own_globals(tmp_path, monkeypatch):
    (tmp_path / "own_globals.py").write_text(GLOBALS)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("own_globals", None)
    import own_globals

    return own_globals


@pytest.mark.parametrize("loss,name", [("drawn", "DRAWN"), ("fills", "COUNTS"), ("appends", "SEEN"), ("counts", "CALLS"), ("through", "COUNTS")])
def test_a_global_variable_that_the_script_would_not_have_is_named_before_the_run(loss, name, own_globals, capsys):
    fit(loss=getattr(own_globals, loss), folder="runs", quiet=False)
    shown = " ".join(capsys.readouterr().err.split("epoch 1/")[0].split())
    assert f"Its script (eject) may end in other weights: loss, {loss}, uses the global variable {name} of own_globals.py" in shown


def test_a_constant_at_the_top_of_a_file_is_not_until_somebody_changes_it(own_globals, capsys):
    for change, name in ((lambda: None, None), (lambda: setattr(own_globals, "POWER", 3), "POWER"), (lambda: own_globals.WEIGHTS.mul_(2), "WEIGHTS")):
        change()
        fit(loss=own_globals.constant, folder="runs", quiet=False)
        shown = " ".join(capsys.readouterr().err.split("epoch 1/")[0].split())
        assert (f"uses the global variable {name} of own_globals.py" in shown) if name else ("eject" not in shown)


def test_an_instance_without_checkpoints_is_told_before_the_run(capsys):
    fit(nn.Linear(3, 1), folder="runs", checkpoint=None, quiet=False)
    assert "eject): nothing keeps the weights that it begins with" in capsys.readouterr().err.split("epoch 1/")[0]


def test_nothing_is_written_over(tmp_path):
    run = fit()
    (tmp_path / "train.py").write_text("mine")
    with pytest.raises(CannotCreateError, match="exists already"):
        run.eject(tmp_path / "train.py")
    assert (tmp_path / "train.py").read_text() == "mine"
    (tmp_path / "inputs.npy").write_bytes(b"other")
    with pytest.raises(CannotCreateError, match=r"inputs\.npy.*another file"):
        run.eject(tmp_path / "again.py")
    assert not (tmp_path / "again.py").exists()
    with pytest.raises(CannotCreateError, match="there is no folder"):
        run.eject(tmp_path / "nowhere" / "train.py")
    for name in ("train", "train.txt", "my-script.py"):
        with pytest.raises(UsageError, match=r"ends in \.py"):
            run.eject(tmp_path / name)


def test_the_script_cannot_have_the_name_of_the_module_it_imports(tmp_path, monkeypatch):
    folder = tmp_path / "users"
    folder.mkdir()
    (folder / "net.py").write_text("from torch import nn\n\n\ndef make():\n    return nn.Linear(3, 1)\n")
    run = fit(f"{folder}/net.py:make")
    with pytest.raises(UsageError, match="another name for the script"):
        run.eject(tmp_path / "net.py")
    paths = run.eject(folder / "train.py")  # beside the module: it is there already
    assert {path.name for path in paths} == {"train.py", "net.py", "inputs.npy", "targets.npy"}


def test_a_split_without_a_plain_rule_stands_in_a_file(tmp_path):
    rows = torch.randperm(40).tolist()
    run = fit(data=fs.Data.arrays(torch.randn(40, 3), torch.randn(40, 1)).split(indices=(rows[:25], rows[25:33], rows[33:])))
    assert "split.json" in {path.name for path in run.eject(tmp_path / "train.py")}


def test_a_compiled_run_is_written_eagerly_and_says_so(tmp_path):
    from dataclasses import replace

    run = fit()
    run._prepared.settings = replace(run._prepared.settings, asked=run._prepared.settings.asked | {"compile": "epoch"})
    run.eject(tmp_path / "train.py")
    last = (tmp_path / "train.py").read_text().splitlines()[-1]
    assert last.startswith("print(") and "The run was compiled" in last and "not to the bit" in last
