"""What a module keeps in plain attributes comes back with a checkpoint, or is named before the run: resumed is never killed, or told (RELIABILITY S)."""

import collections
import copy
import random
import warnings

import numpy
import pytest
import torch
from torch import nn

import fivestep as fs
from fivestep.model.optimizer_state import join_state, split_state
from fivestep.strict_json import read_json, write_json
from fivestep.train.attributes import Attributes, changed_by


class Keeps(nn.Module):
    """One attribute of each kind that a checkpoint holds."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.alias = [self.layer.weight]
        self.count, self.mean, self.name, self.nothing, self.yes = 0, 0.1, "a", None, False
        self.cache, self.half = torch.zeros(3), torch.zeros(2, dtype=torch.bfloat16)
        self.past, self.table, self.pair = [1, torch.ones(2)], {"a": {1: 2.5}}, (1, (torch.ones(1), "x"))
        self.rng, self.torch_rng, self.numpy_rng = random.Random(1), torch.Generator().manual_seed(2), numpy.random.default_rng(3)
        self.array, self.window = numpy.arange(3.0), collections.deque([1.0, 2.0], maxlen=2)

    def change(self):
        self.count += 1
        self.mean, self.name, self.nothing, self.yes = self.mean / 3, self.name + "b", float("inf"), not self.yes
        self.cache += self.rng.random()
        self.half = self.half + 1.5
        self.past.append(torch.rand(2, generator=self.torch_rng))
        self.table["a"][2] = self.numpy_rng.random()
        self.pair = (2, (torch.full((1,), 7.0), "y"))
        self.array = self.array + 1
        self.window.append(self.mean)
        self.made_late = torch.full((2,), float(self.count))

    def seen(self):
        return repr(
            [
                getattr(self, key)
                for key in ("count", "mean", "name", "nothing", "yes", "cache", "half", "past", "table", "pair", "array", "window", "made_late")
            ]
        )


def through_json(held):
    tensors, entry = split_state(held)
    return join_state({name: tensor.clone() for name, tensor in tensors.items()}, read_json(write_json(entry), what="state.json"))


def test_s2_every_kind_of_plain_attribute_comes_back_and_goes_on_the_same():
    one, two = Keeps(), Keeps()
    watched, other = Attributes({"model": one}), Attributes({"model": two})
    for _ in range(3):
        one.change()
    other.restore(through_json(watched.capture()))
    assert two.seen() == one.seen() and watched.unheld() == []
    one.change()
    two.change()
    assert two.seen() == one.seen()
    assert type(two.window) is collections.deque and two.window.maxlen == 2 and two.array.dtype == numpy.float64
    assert two.alias[0] is two.layer.weight, "what is registered stands elsewhere and is not copied"


def test_s2_identity_is_kept_where_others_hold_on_to_it():
    one, two = nn.Module(), nn.Module()
    for module in (one, two):
        module.shared = [torch.zeros(2, requires_grad=True)]
        module.weight = torch.zeros(3, requires_grad=True)
    parts = {"model": nn.ModuleList([type("A", (nn.Module,), {})(), type("B", (nn.Module,), {})()])}
    for part in parts["model"]:
        part.shared, part.weight = two.shared, two.weight
    optimizer = torch.optim.SGD([two.shared[0], two.weight], lr=1.0)
    held = copy.deepcopy(Attributes(parts).capture())
    with torch.no_grad():
        two.shared[0] += 5
        two.weight += 5
    Attributes(parts).restore(held)
    assert parts["model"][0].shared is parts["model"][1].shared is two.shared
    assert optimizer.param_groups[0]["params"][0] is two.shared[0] and not two.shared[0].any() and not two.weight.any()


class Box:
    def __init__(self):
        self.number = 0


class Holds(nn.Module):
    def __init__(self, how="counter"):
        super().__init__()
        self.body, self.how = nn.Linear(3, 1), how
        self.count, self.scale, self.past, self.box, self.config = 0, 1.0, [], Box(), Box()
        self.rng, self.large = numpy.random.default_rng(0), torch.zeros(20_000)

    def forward(self, x):
        if self.training:
            self.count += 1
            self.scale = 0.9 * self.scale + 0.1 * float(x.detach().abs().mean())
            self.past = [*self.past[-2:], x.detach().mean(0)]
            self.large[self.count] += self.scale
            if self.how == "box":
                self.box.number += 1
            x = x + 0.01 * self.count + 0.1 * self.scale + 0.1 * sum(self.past) + self.box.number + 0.01 * self.rng.random() + self.large.sum()
        return self.body(x)


class Moving(nn.Module):
    """A loss that divides by a running mean: a buffer and a plain number, no parameters."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.ones(()))
        self.calls = 0

    def forward(self, outputs, targets):
        value = (outputs - targets).square().mean()
        if torch.is_grad_enabled():
            self.calls += 1
            self.mean = 0.9 * self.mean + 0.1 * value.detach()
        return value / self.mean / (1 + 0.01 * self.calls)


def splits():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 3, generator=g), torch.randn(40, 1, generator=g)
    return fs.Splits((x[:30], y[:30]), val=(x[30:], y[30:]))


class Die(Exception):
    pass


def fit(folder, dies=None, **settings):
    def observer(event):
        if getattr(event, "epoch", None) == dies and hasattr(event, "val_loss"):
            raise Die

    given = dict(model=Holds, loss="MSELoss", lr=0.01, epochs=4, batch_size=8, quiet=True, checks=False, checkpoint=3, folder=folder, name="run") | settings
    return fs.fit(given.pop("model"), splits(), observers=[observer], **given)


@pytest.mark.parametrize("settings", [dict(), dict(loss=Moving), dict(model=lambda: Holds(), loss=Moving())], ids=["model", "loss", "instances"])
def test_s6_plain_attributes_that_forward_changes_resume_to_the_bit(settings, tmp_path):
    loss = settings.get("loss", "MSELoss")
    fresh = lambda: settings | ({"loss": Moving()} if isinstance(loss, Moving) else {})  # noqa: E731
    whole = fit(tmp_path / "whole", **fresh())
    with pytest.raises(Die):
        fit(tmp_path, dies=3, **fresh())
    more = {key: value for key, value in fresh().items() if key == "model" or isinstance(value, Moving)}
    run = fs.resume(tmp_path / "run", splits=splits(), quiet=True, **more)
    assert run.weights_sha256 == whole.weights_sha256
    assert run.model.count == whole.model.count == 16 and run.model.rng.bit_generator.state == whole.model.rng.bit_generator.state


def test_s6_the_instance_that_was_trained_may_be_given_again(tmp_path):
    """In a notebook the same object is at hand, and its counters are those of the moment of death."""
    whole = fit(tmp_path / "whole", model=Holds())
    torch.manual_seed(1)
    model = Holds()
    start = copy.deepcopy(model)
    whole = fit(tmp_path / "whole2", model=start)
    with pytest.raises(Die):
        fit(tmp_path, dies=3, model=model)
    run = fs.resume(tmp_path / "run", splits=splits(), quiet=True, model=model)
    assert run.weights_sha256 == whole.weights_sha256


def test_s1_an_attribute_that_cannot_be_held_is_named_before_the_run_and_a_resume_must_be_allowed(tmp_path):
    found = [finding for finding in fs.check(lambda: Holds("box"), splits(), loss="MSELoss", epochs=1) if finding.code == "P15"]
    assert len(found) == 1 and "model.box" in found[0].what and "model.config" not in found[0].what
    assert not [finding for finding in fs.check(Holds, splits(), loss="MSELoss", epochs=1) if finding.code == "P15"]
    with pytest.raises(Die), pytest.warns(UserWarning, match=r"model\.box"):
        fit(tmp_path, dies=3, model=Holds("box"))
    with pytest.raises(fs.SettingsError, match=r"model\.box"):
        fs.resume(tmp_path / "run", splits=splits(), quiet=True, model=Holds("box"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fs.resume(tmp_path / "run", splits=splits(), quiet=True, model=Holds("box"), allow_inexact=True)


class OwnGenerator(torch.utils.data.Dataset):
    def __init__(self):
        self.rng = numpy.random.default_rng(0)

    def __len__(self):
        return 24

    def __getitem__(self, row):
        return torch.full((3,), float(row)) + float(self.rng.random()), torch.ones(1)


def test_s1_a_dataset_whose_rows_cannot_be_repeated_is_named_before_the_run(tmp_path):
    data = fs.Splits(fs.Data.dataset(OwnGenerator()))
    assert [finding.what for finding in fs.check(lambda: nn.Linear(3, 1), data, loss="MSELoss", epochs=1) if finding.code == "P15"]
    with pytest.raises(Die):
        fs.fit(
            nn.Linear(3, 1),
            data,
            loss="MSELoss",
            epochs=3,
            lr=1e-4,
            quiet=True,
            checks=False,
            checkpoint=1,
            folder=tmp_path,
            name="run",
            observers=[die_in_second],
        )
    with pytest.raises(fs.SettingsError, match="OwnGenerator"):
        fs.resume(tmp_path / "run", splits=data, quiet=True, model=nn.Linear(3, 1))


def die_in_second(event):
    if getattr(event, "epoch", None) == 2 and hasattr(event, "val_loss"):
        raise Die


def test_torchs_own_modules_and_what_is_registered_cost_nothing():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout())
    assert Attributes({"model": model, "loss": nn.CrossEntropyLoss(), "compute": len, "step": None}).capture() == {}
    assert changed_by({"model": model}, lambda copies: 1 / 0) == []
