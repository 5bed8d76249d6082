"""From what a user calls a model to a module: the same bits as a hand loop, a recipe that gives it again, and lessons for all that is none."""

from __future__ import annotations

import functools
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from fivestep import seeds
from fivestep.errors import MissingInputError, SettingsError
from fivestep.model import building, models

FACTS = {"num_inputs": 3, "num_outputs": 2, "num_categories": None}


class Net(nn.Module):
    def __init__(self, num_inputs: int, num_outputs: int, widths: tuple[int, ...] = (7,), *, slope: float = 0.1):
        super().__init__()
        assert isinstance(widths, tuple)
        self.slope = slope
        self.layers = nn.Sequential(nn.Linear(num_inputs, widths[0]), nn.LeakyReLU(slope), nn.Linear(widths[0], num_outputs))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layers(inputs)


class Outer:
    class Inner(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 2)


class Unseeded(nn.Module):
    """Draws from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(numpy.random.default_rng().normal(size=(3, 2))))


class HiddenBuffer(nn.Module):
    """Its parameters are the same each time, and a buffer that no state_dict holds is not."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("mask", torch.tensor(numpy.random.default_rng().normal(size=3)), persistent=False)


class Popping(nn.Linear):
    """Changes the argument that it is given."""

    def __init__(self, options: dict[str, int]):
        super().__init__(options.pop("inputs"), options.pop("outputs"))


def make(num_outputs: int, /, hidden: int = 5) -> nn.Module:
    return nn.Sequential(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, num_outputs))


SHARED = nn.Linear(3, 2)


def the_same_object() -> nn.Module:
    return SHARED


def with_shared_layer() -> nn.Module:
    return nn.Sequential(SHARED, nn.ReLU())


def forgets_to_return() -> None:
    Net(3, 2)


class ForgetsSuper(nn.Module):
    def __init__(self) -> None:
        self.layer = nn.Linear(3, 2)


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        raise ValueError("the hidden width must divide by the heads")


def states() -> list[Any]:
    return [torch.get_rng_state(), random.getstate(), numpy.random.get_state()]


def same(one: list[Any], other: list[Any]) -> bool:
    return torch.equal(one[0], other[0]) and one[1] == other[1] and str(one[2]) == str(other[2])


def by_hand(call: Any, seed: int) -> nn.Module:
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    module = call()
    torch.set_rng_state(before)
    return module


def equal(one: nn.Module, other: nn.Module) -> bool:
    return building.parameter_hash(one.state_dict()) == building.parameter_hash(other.state_dict())


# -- the same bits ---------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 5, 2**40])
def test_a_class_gives_the_bits_of_a_hand_loop_and_random_states_stay_to_the_bit(seed: int) -> None:
    torch.randn(3), random.random(), numpy.random.rand()
    before = states()
    built = building.build_model(Net, {"widths": (4,)}, facts=FACTS, seed=seed)
    made = building.build_model(make, facts=FACTS, seed=seed)
    mlp = building.build_model("mlp", facts=FACTS, seed=seed)
    assert same(states(), before)
    assert equal(built.module, by_hand(lambda: Net(3, 2, (4,)), seed)) and built.rebuildable
    assert equal(made.module, by_hand(lambda: make(2), seed)) and made.rebuildable
    assert equal(mlp.module, by_hand(lambda: models.MLP(3, 2), seed)) and mlp.rebuildable
    assert not equal(built.module, building.build_model(Net, {"widths": (4,)}, facts=FACTS, seed=seed + 1).module)


def test_random_states_stay_when_building_fails() -> None:
    before = states()
    for model in (Fails, "mlq", forgets_to_return):
        with pytest.raises(SettingsError):
            building.build_model(model, facts=FACTS)
    assert same(states(), before)


def test_a_recipe_goes_through_json_and_gives_the_same_module_again() -> None:
    for model, args in ((Net, {"widths": (4,), "slope": 0.5}), (make, {}), (Outer.Inner, {}), ("mlp", {"width": 4, "depth": 3}), ("resnet", {})):
        built = building.build_model(model, args, facts=FACTS, seed=9)
        assert built.importable and built.why_not is None and built.rebuildable
        again = building.rebuild(json.loads(json.dumps(built.recipe)), seed=9)
        assert equal(built.module, again.module) and again.recipe == built.recipe
        assert not any("source" in sentence for sentence in again.said)


def test_recorded_arguments_give_the_same_when_given_back_as_model_args() -> None:
    """As `load` and the shell do with the arguments of a record: tuples stay tuples."""
    built = building.build_model(Net, {"widths": (4,)}, facts=FACTS, seed=9)
    assert built.recipe["args"]["widths"] == {"tuple": [4]}
    assert equal(building.build_model(Net, built.recipe["args"], seed=9).module, built.module)


def test_a_recipe_is_import_path_and_source_hash() -> None:
    recipe = building.build_model(Net, facts=FACTS).recipe
    assert recipe["kind"] == "import" and recipe["module"] == __name__ and recipe["qualname"] == "Net" and recipe["file"] == __file__
    assert recipe["args"] == {"num_inputs": 3, "num_outputs": 2} and len(recipe["source_sha256"]) == 64
    assert building.build_model(Outer.Inner).recipe["qualname"] == "Outer.Inner"


def test_a_changed_source_is_said() -> None:
    recipe = building.build_model(Net, facts=FACTS).recipe | {"source_sha256": "0" * 64}
    assert "not what it was" in building.rebuild(recipe, seed=0).said[-1]


@pytest.mark.parametrize("model", [Unseeded, HiddenBuffer, the_same_object, with_shared_layer])
def test_what_gives_other_bits_when_called_again_is_named_before_the_run(model: Any) -> None:
    built = building.build_model(model)
    assert built.rebuildable is False and any("must be kept" in sentence for sentence in built.said)


def test_a_class_that_changes_its_arguments_is_recorded_and_rebuilt_with_what_it_was_given() -> None:
    built = building.build_model(Popping, {"options": {"inputs": 3, "outputs": 2}}, seed=1)
    assert built.rebuildable and built.recipe["args"] == {"options": {"inputs": 3, "outputs": 2}}


def test_lazy_modules_are_rebuildable() -> None:
    built = building.build_model(lambda: nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)))
    assert built.rebuildable and not built.importable


# -- arguments -------------------------------------------------------------------------------------------------------------------------------------------------


def test_facts_fill_only_parameters_of_their_name_that_were_not_given() -> None:
    built = building.build_model(Net, {"num_outputs": 5}, facts=FACTS)
    assert built.module.layers[2].out_features == 5 and built.module.layers[0].in_features == 3  # type: ignore[index,union-attr]
    assert "num_inputs=3 filled in" in built.said[0] and "num_outputs" not in built.said[0].split(":")[1]
    assert building.build_model(Outer.Inner, facts=FACTS).said == ()
    coded = building.build_model("mlp", facts={**FACTS, "num_categories": [4, 6]})
    assert coded.recipe["args"]["num_categories"] == [4, 6]
    wide = building.build_model("mlp", facts={"num_inputs": numpy.int64(3), "num_outputs": 2})
    assert wide.recipe["args"]["num_inputs"] == 3 and json.dumps(wide.recipe)


def test_auto_and_built_ins_take_other_facts_too() -> None:
    image = building.build_model("auto", facts={"image_shape": (3, 9, 7), "num_outputs": 5, "task": "multiclass", "rows": 50})
    assert image.recipe["name"] == "cnn" and image.recipe["args"]["image_shape"] == [3, 9, 7] and "auto" in image.said[0]
    narrow = building.build_model("auto", {"width": 6}, facts=FACTS)
    assert narrow.recipe["args"]["widths"] == [6, 6]
    assert building.build_model("ensemble", facts={**FACTS, "task": "binary"}).recipe["args"]["task"] == "binary"


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        ({"width": (4,)}, ["Net(num_inputs", "no parameter 'width'", "Did you mean 'widths'"]),
        ({"zzz": 1}, ["no parameter 'zzz'", "num_inputs, num_outputs, widths, slope"]),
    ],
)
def test_unknown_arguments_are_told_with_the_signature_and_the_nearest_spelling(args: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(SettingsError) as told:
        building.build_model(Net, args, facts=FACTS)
    assert all(part in str(told.value) for part in parts), str(told.value)


def test_missing_arguments_are_told_with_what_the_data_say() -> None:
    with pytest.raises(SettingsError, match=r"needs in_features, out_features.*num_inputs=3, num_outputs=2"):
        building.build_model(nn.Linear, facts=FACTS)
    with pytest.raises(SettingsError, match=r"needs num_inputs.*none of them"):
        building.build_model(Net, {"num_outputs": 2})


# -- what is no model ------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (None, "NoneType"),
        (3, "type int"),
        ({"weight": torch.zeros(2)}, "belongs in weights="),
        ([nn.Linear(3, 2)], "nn.Sequential"),
        (dict, "no torch.nn.Module"),
        ("mpl", "Did you mean 'mlp'"),
        ("net.pt", "weights alone are no model"),
        ("runs/a/model.fivestep", "fs.load"),
        ("no.such.package:Net", "cannot be imported"),
        ("torch.nn:Liner", "Did you mean 'Linear'"),
        (forgets_to_return, "lack `return`"),
        (lambda: 5, "of type int"),
        (ForgetsSuper, "super"),
        (Fails, r"the hidden width must divide by the heads \(line \d+ of test_building.py\)"),
    ],
)
def test_what_is_no_model_is_a_lesson(model: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        building.build_model(model, facts=FACTS)


def test_an_estimator_with_a_fit_of_its_own_is_named() -> None:
    from sklearn.neural_network import MLPClassifier

    with pytest.raises(SettingsError, match="estimator"):
        building.build_model(MLPClassifier)


# -- instances -------------------------------------------------------------------------------------------------------------------------------------------------


def test_an_instance_is_used_in_place_and_its_weights_must_be_kept() -> None:
    net = Net(3, 2)
    built = building.build_model(net, facts=FACTS)
    assert built.module is net and not built.rebuildable and built.said == () and built.importable
    assert built.recipe["kind"] == "instance" and built.recipe["class"] == f"{__name__}.Net"
    json.dumps(built.recipe)
    with pytest.raises(SettingsError, match="instance of"):
        building.rebuild(built.recipe, seed=0)
    assert building.rebuild(built.recipe, seed=0, model=net).module is net


def test_an_instance_that_was_trained_before_is_said() -> None:
    with_gradients = Net(3, 2)
    with_gradients(torch.ones(5, 3)).sum().backward()
    with_statistics = nn.Sequential(nn.BatchNorm1d(3))
    with_statistics(torch.ones(5, 3))
    for net in (with_gradients, with_statistics):
        assert "trained before" in building.build_model(net).said[0]
    assert building.build_model(nn.BatchNorm1d(3)).said == ()


def test_an_instance_takes_no_arguments_and_needs_memory() -> None:
    with pytest.raises(SettingsError, match="could change nothing"):
        building.build_model(Net(3, 2), {"slope": 0.5})
    with torch.device("meta"):
        net = nn.Linear(3, 2)
    with pytest.raises(SettingsError, match="meta device"):
        building.build_model(net)


# -- what a new process cannot import --------------------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_imported_again_is_named() -> None:
    class Local(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 2)

    notebook = type("Net", (nn.Linear,), {"__module__": "__main__", "__init__": lambda self: nn.Linear.__init__(self, 3, 2)})
    replaced = type("Net", (nn.Linear,), {"__module__": __name__, "__init__": lambda self: nn.Linear.__init__(self, 3, 2)})
    for model, why in (
        (Local, "defined inside a function"),
        (lambda: nn.Linear(3, 2), "lambda"),
        (functools.partial(nn.Linear, 3, 2), "partial"),
        (notebook, "new process cannot import"),
        (replaced, "not this object"),
    ):
        built = building.build_model(model)
        assert not built.importable and why in str(built.why_not), built.why_not
        json.dumps(built.recipe)
        assert built.rebuildable  # in this process it is
    built = building.build_model(nn.Linear, {"in_features": 3, "out_features": 2, "dtype": torch.float64})
    assert not built.importable and "dtype" in str(built.why_not) and built.recipe["args"] == {"in_features": 3, "out_features": 2}


def test_rebuild_takes_the_class_where_it_cannot_be_imported() -> None:
    notebook = type("Net", (nn.Linear,), {"__module__": "__main__", "__init__": lambda self: nn.Linear.__init__(self, 3, 2)})
    built = building.build_model(notebook, seed=4)
    with pytest.raises(SettingsError, match="Give it: model=Net"):
        building.rebuild(built.recipe, seed=4)
    assert equal(building.rebuild(built.recipe, seed=4, model=notebook).module, built.module)


# -- a class from a file ---------------------------------------------------------------------------------------------------------------------------------------

SOURCE = """
import torch
from torch import nn
from neighbour_of_mine import WIDTH

torch.manual_seed(1)

class Net(nn.Module):
    def __init__(self, num_inputs, num_outputs):
        super().__init__()
        self.layer = nn.Linear(num_inputs, WIDTH)
        self.head = nn.Linear(WIDTH, num_outputs)
    def forward(self, x):
        return self.head(self.layer(x))

class Other(nn.Linear):
    pass
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "mine.py").write_text(SOURCE)
    (folder / "neighbour_of_mine.py").write_text("WIDTH = 7\n")
    yield folder / "mine.py"  # type: ignore[misc]
    for name in [name for name, module in sys.modules.items() if str(getattr(module, "__file__", "")).startswith(str(tmp_path))]:
        del sys.modules[name]


def test_a_file_and_class_give_the_class_and_leave_no_trace(mine: Path) -> None:
    before, path = states(), list(sys.path)
    built = building.build_model(f"{mine}:Net", facts=FACTS, seed=3)
    assert same(states(), before) and sys.path == path and not (mine.parent / "__pycache__" / "mine.cpython-311.pyc").exists()
    assert built.importable and built.rebuildable and built.recipe["file"] == str(mine) and built.recipe["qualname"] == "Net"
    cls = building.load_file_class(f"{mine}:Net")
    assert type(built.module) is cls and equal(built.module, by_hand(lambda: cls(3, 2), 3))


def test_a_new_process_rebuilds_it_from_the_recipe(mine: Path) -> None:
    built = building.build_model(f"{mine}:Net", facts=FACTS, seed=3)
    code = "import json, sys; from fivestep.model import building as b; print(b.parameter_hash(b.rebuild(json.loads(sys.argv[1]), seed=3).module.state_dict()))"
    found = subprocess.run([sys.executable, "-c", code, json.dumps(built.recipe)], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == building.parameter_hash(built.module.state_dict())


def test_an_edited_file_is_read_again_at_once(mine: Path) -> None:
    first = building.load_file_class(f"{mine}:Net")
    assert building.load_file_class(f"{mine}:Net") is first
    mine.write_text(SOURCE.replace("self.head(self.layer(x))", "self.head(self.layer(x))*9")[:-1])
    assert building.load_file_class(f"{mine}:Net") is not first


def test_a_file_called_like_another_module_hides_nothing(mine: Path) -> None:
    for name in ("json", "torch", "colorsys", "my-net"):
        other = mine.with_name(f"{name}.py")
        other.write_text("from torch import nn\nclass Net(nn.Linear):\n    def __init__(self):\n        super().__init__(3, 2)\n")
        built = building.build_model(f"{other}:Net", seed=3)
        assert name not in sys.modules or sys.modules[name].__file__ != str(other)
        assert built.importable and equal(building.rebuild(built.recipe, seed=3).module, built.module)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("mine.py:Nett", SettingsError, "Did you mean 'Net'"),
        ("mine.py", SettingsError, "it defines Net, Other.*mine.py:Net"),
        ("mien.py:Net", MissingInputError, "Did you mean 'mine.py'"),
        ("nowhere/mine.py:Net", MissingInputError, "no folder"),
    ],
)
def test_a_file_or_class_that_is_not_there_is_told_with_what_is(mine: Path, text: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        building.build_model(f"{mine.parent}/{text}", facts=FACTS)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("from torch import nn\nclass Net(nn.Module:\n    pass\n", "not valid Python.*line 2: class Net"),
        ("x = 1\ny = undefined\n", r"NameError.*line 2 of broken.py"),
        ("import sys\nsys.exit(0)\n", "__main__"),
        ("from . import neighbour\n", "package.module:Net"),
        ("a\0b", "not valid Python"),
    ],
)
def test_a_file_that_cannot_be_run_is_told_with_the_line(mine: Path, source: str, message: str) -> None:
    path = mine.with_name("broken.py")
    path.write_text(source)
    before = list(sys.path)
    with pytest.raises(SettingsError, match=message):
        building.load_file_class(f"{path}:Net")
    assert sys.path == before and "broken" not in sys.modules


def test_a_file_that_the_user_imported_is_the_users_module(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(mine.parent))
    import mine as users  # type: ignore[import-not-found]

    assert building.load_file_class(f"{mine}:Net") is users.Net


def test_an_instance_or_a_dotted_path_may_be_named(mine: Path) -> None:
    mine.write_text(SOURCE + "\nnet = Net(3, 2)\n")
    assert building.build_model(f"{mine}:net").recipe["kind"] == "instance"
    assert building.build_model("torch.nn:Linear", {"in_features": 3, "out_features": 2}).recipe["qualname"] == "Linear"


def test_seeds_are_still_what_the_bits_depend_on() -> None:
    """The test of the tests: another stream gives other bits."""
    with seeds.restored(1):
        assert not equal(Net(3, 2), building.build_model(Net, facts=FACTS, seed=2).module)
