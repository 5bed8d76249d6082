"""`fit`, whole: every loss, optimizer and schedule of torch trains through it by name, and each setting does what a hand-written line of torch does."""

from __future__ import annotations

import inspect
import json
import math
import warnings

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

import fivestep as fs
from fivestep import seeds
from fivestep.errors import NonFiniteError, SettingsError, UsageError

PLAIN = dict(folder=None, quiet=True, device="cpu", checks=False)


def fit(model, splits, **settings):
    return fs.fit(model, splits, **(PLAIN | settings))


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def numbers(rows: int = 24, width: int = 3, outputs: int = 2, dtype: torch.dtype = torch.float32):
    x = draw(rows, width, dtype=dtype)
    return x, x[:, :1] * torch.arange(1, outputs + 1, dtype=dtype) + 0.5


def labels(rows: int = 30, width: int = 3, classes: int = 4):
    x = draw(rows, width)
    return x, (x[:, 0] * 2).floor().long().clamp(-classes // 2, classes - classes // 2 - 1) + classes // 2


def net(num_inputs: int = 3, num_outputs: int = 2):
    return nn.Sequential(nn.Linear(num_inputs, 5), nn.Tanh(), nn.Linear(5, num_outputs))


def assert_same_bits(one: nn.Module, other: nn.Module):
    for (name, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def assert_close(one: nn.Module, other: nn.Module, tolerance: float = 1e-6):
    for (name, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance, msg=name)


def built(make=net, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return make()


# -- every loss ------------------------------------------------------------------------------------------------------------------------------------------------

EVERY_LOSS = sorted(name for name, value in vars(nn).items() if inspect.isclass(value) and issubclass(value, nn.Module) and name.endswith(("Loss", "Loss2d")))


class Several(nn.Module):
    """As many outputs as asked; `variance=True` makes the second one positive."""

    def __init__(self, count: int, size: int = 2, variance: bool = False):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, size) for _ in range(count))
        self.variance = variance

    def forward(self, x):
        first, *rest = [layer(x) for layer in self.layers]
        return (first, F.softplus(rest[0]) + 0.1) if self.variance else (first, *rest)


class Letters(nn.Module):
    """(n, time, 3) -> log-probabilities (time, n, classes), as CTC has them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 5)

    def forward(self, x):
        return self.layer(x).log_softmax(-1).transpose(0, 1)


def ctc():
    x = draw(12, 7, 3)
    return Letters, fs.Data.arrays(x, (torch.arange(36).reshape(12, 3) % 4 + 1, torch.full((12,), 7), torch.arange(12) % 3 + 1)), {}


def log_probabilities():
    return nn.Sequential(nn.Linear(3, 4), nn.LogSoftmax(1))


x30 = draw(30, 3)
signs = torch.where(x30[:, 0] > 0, 1.0, -1.0)
zero_one = (x30[:, :2] > 0).float()
class_numbers = labels()[1]

# name -> (what is special, the model, its data, more settings). The other losses compare an output with a target of its shape.
SPECIAL = {
    "CrossEntropyLoss": ("class numbers", lambda: (lambda: net(3, 4), (x30, class_numbers), {})),
    "MultiMarginLoss": ("class numbers", lambda: (lambda: net(3, 4), (x30, class_numbers), {})),
    "NLLLoss": ("log-probabilities and class numbers", lambda: (log_probabilities, (x30, class_numbers), {})),
    "NLLLoss2d": ("the old name of NLLLoss", lambda: (log_probabilities, (x30, class_numbers), {})),
    "BCELoss": ("probabilities, 0 and 1", lambda: (lambda: nn.Sequential(net(), nn.Sigmoid()), (x30, zero_one), {})),
    "BCEWithLogitsLoss": ("0 and 1", lambda: (net, (x30, zero_one), {})),
    "SoftMarginLoss": ("-1 and 1", lambda: (net, (x30, 2 * zero_one - 1), {})),
    "MultiLabelSoftMarginLoss": ("0 and 1", lambda: (net, (x30, zero_one), {})),
    "MultiLabelMarginLoss": ("label numbers, then -1", lambda: (lambda: net(3, 4), (x30, torch.tensor([[3, 0, -1, 1]]).repeat(30, 1)), {})),
    "KLDivLoss": ("log-probabilities and probabilities", lambda: (log_probabilities, (x30, draw(30, 4).softmax(1)), {})),
    "PoissonNLLLoss": ("counts", lambda: (net, (x30, draw(30, 2).abs().floor()), {})),
    "GaussianNLLLoss": ("mean and variance", lambda: (lambda: Several(2, variance=True), numbers(), {})),
    "CosineEmbeddingLoss": ("two embeddings, one sign", lambda: (lambda: Several(2), (x30, signs), {})),
    "MarginRankingLoss": ("two scores, signs of their shape", lambda: (lambda: Several(2, 1), (x30, signs[:, None]), {})),
    "HingeEmbeddingLoss": ("a distance, signs of its shape", lambda: (lambda: net(3, 1), (x30, signs[:, None]), {})),
    "TripletMarginLoss": ("three embeddings, no target", lambda: (lambda: Several(3), fs.Data.arrays(x30), {})),
    "TripletMarginWithDistanceLoss": ("three embeddings, no target", lambda: (lambda: Several(3), fs.Data.arrays(x30), {})),
    "CTCLoss": ("three targets, the example on the second axis", ctc),
    "AdaptiveLogSoftmaxWithLoss": (
        "holds the last layer", lambda: (lambda: net(3, 6), (x30, class_numbers),
        {"loss": {"name": "AdaptiveLogSoftmaxWithLoss", "in_features": 6, "n_classes": 4, "cutoffs": [2]}}),
    ),
    "LinearCrossEntropyLoss": (
        "holds the last layer", lambda: (lambda: net(3, 6), (x30, class_numbers), {"loss": {"name": "LinearCrossEntropyLoss", "in_features": 6, "num_classes": 4}}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("checks", [False, True], ids=["plain", "checked"])
@pytest.mark.parametrize("name", EVERY_LOSS)
def test_every_loss_of_torch_trains(name, checks):
    model, data, more = SPECIAL[name][1]() if name in SPECIAL else (net, numbers(), {})
    settings = {"loss": name, "optimizer": "Adam", "lr": 0.02, "epochs": 15, "batch_size": 10, "checks": checks} | more
    run = fit(model, fs.Splits(data), **settings)
    losses = [row["train_loss"] for row in run.history]
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    assert not [finding for finding in run.findings if finding.severity == "error"]


def test_the_special_losses_are_torchs_and_the_list_is_whole():
    assert set(SPECIAL) - {"LinearCrossEntropyLoss", "AdaptiveLogSoftmaxWithLoss", "NLLLoss2d"} <= set(EVERY_LOSS)
    assert all(reason for reason, _ in SPECIAL.values())


def adaptive(**settings):
    _, data, more = SPECIAL["AdaptiveLogSoftmaxWithLoss"][1]()
    return fit(lambda: net(3, 6), fs.Splits(data, val=0.2), optimizer="Adam", lr=0.05, epochs=30, **more, **settings)


def test_a_loss_with_parameters_of_its_own_is_trained_and_predicts():
    run = adaptive(keep="last")
    untrained = fit(lambda: net(3, 6), run.splits, optimizer="Adam", lr=0.0, epochs=1, **SPECIAL["AdaptiveLogSoftmaxWithLoss"][1]()[2])
    truth = run.splits.train.data.source.targets[0][run.splits.train.indices]
    right = (torch.as_tensor(run.predict("train")) == truth).float().mean()
    assert right > 0.8 and right > (torch.as_tensor(untrained.predict("train")) == truth).float().mean()
    probabilities = run.predict("train", probabilities=True)
    assert probabilities.shape == (24, 4)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(24, dtype=probabilities.dtype))


def test_a_loss_with_parameters_of_its_own_is_saved(tmp_path):
    run = adaptive()
    run.save(tmp_path / "m.fivestep")
    loaded = fs.load(tmp_path / "m.fivestep", model=net(3, 6))
    assert torch.equal(loaded.predict(x30, probabilities=True), run.predict(x30, probabilities=True))


def test_a_loss_is_written_in_six_ways():
    x, y = numbers()
    given = [
        "HuberLoss",
        nn.HuberLoss,
        nn.HuberLoss(),
        {"name": "HuberLoss"},
        {"name": nn.HuberLoss, "delta": 1.0},
        lambda output, target: F.huber_loss(output, target),
    ]
    hashes = {fit(net, fs.Splits((x, y)), loss=loss, epochs=2, keep="last").weights_sha256 for loss in given}
    assert len(hashes) == 1


# -- every optimizer and schedule ------------------------------------------------------------------------------------------------------------------------------

EVERY_OPTIMIZER = sorted(
    name
    for name, value in vars(torch.optim).items()
    if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
)
EVERY_SCHEDULER = sorted(
    name for name, value in vars(lr_scheduler).items() if inspect.isclass(value) and issubclass(value, lr_scheduler.LRScheduler) and name[0] != "_" and name != "LRScheduler"
)  # fmt: skip
SCHEDULER_ARGUMENTS = {
    "LambdaLR": {"lr_lambda": lambda k: 0.9**k}, "MultiplicativeLR": {"lr_lambda": lambda k: 0.9}, "StepLR": {"step_size": 2}, "MultiStepLR": {"milestones": [1, 3]},
    "ExponentialLR": {"gamma": 0.5}, "CyclicLR": {"base_lr": 0.001}, "CosineAnnealingWarmRestarts": {"T_0": 2}, "ReduceLROnPlateau": {"patience": 0, "threshold": 1e9},
    "ConstantLR": {"total_iters": 2}, "SequentialLR": {"schedulers": [{"name": "ConstantLR"}, {"name": "ExponentialLR", "gamma": 0.5}], "milestones": [2]},
    "ChainedScheduler": {"schedulers": [{"name": "ExponentialLR", "gamma": 0.9}, {"name": "StepLR", "step_size": 2}]}, "SWALR": {"swa_lr": 0.3, "anneal_epochs": 3},
}  # fmt: skip


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 2))

    def forward(self, x):
        return self.layers(x)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.EmbeddingBag(11, 2, sparse=True, mode="sum")

    def forward(self, words):
        return self.embedding(words)


@pytest.mark.parametrize("name", EVERY_OPTIMIZER)
def test_every_optimizer_of_torch_trains(name):
    x, y = numbers()
    model, data = (Words, (torch.arange(96).reshape(24, 4) % 11, y)) if name == "SparseAdam" else (Deep, (x, y))
    run = fit(model, fs.Splits(data), loss="MSELoss", optimizer=name, epochs=25, batch_size="all")
    losses = [row["train_loss"] for row in run.history]
    assert losses[-1] < 0.995 * losses[0]


@pytest.mark.parametrize("name", EVERY_OPTIMIZER)
def test_every_optimizer_gives_the_bits_of_a_hand_loop_with_the_recorded_arguments(name):
    x, y = numbers()
    model, x = (Words, torch.arange(96).reshape(24, 4) % 11) if name == "SparseAdam" else (Deep, x)
    run = fit(model, fs.Splits((x, y)), loss="MSELoss", optimizer=name, epochs=4, batch_size="all")
    recorded = run.settings.chosen["optimizer"]
    by_hand = built(model)
    named = dict(by_hand.named_parameters())

    def make(entry):
        groups = named.values() if entry["parameters"] == "all" else [named[key] for group in entry["parameters"] for key in group["names"]]
        return getattr(torch.optim, entry["class"].rsplit(".", 1)[1])(list(groups), **entry["arguments"])

    each = [make(entry) for entry in (recorded["optimizers"].values() if "optimizers" in recorded else [recorded])]

    def closure():
        for one in each:
            one.zero_grad()
        value = F.mse_loss(by_hand(x), y)
        value.backward()
        return value

    for _ in range(4):
        if name == "LBFGS":
            each[0].step(closure)
        else:
            closure()
            for one in each:
                one.step()
    assert_same_bits(run.model, by_hand)


def test_muon_goes_with_adamw_and_alone():
    x, y = numbers()
    both = fit(Deep, fs.Splits((x, y)), loss="MSELoss", optimizer="Muon", epochs=2)
    assert set(both.settings.chosen["optimizer"]["optimizers"]) == {"Muon", "AdamW"}
    patterns = fit(Deep, fs.Splits((x, y)), loss="MSELoss", optimizer={"layers.*.weight": "Muon", "*": "AdamW"}, epochs=2)
    assert set(patterns.settings.chosen["optimizer"]["optimizers"]) == {"layers.*.weight", "*"}
    alone = fit(lambda: nn.Linear(3, 2, bias=False), fs.Splits((x, y)), loss="MSELoss", optimizer={"*": "Muon"}, lr=0.01, epochs=10)
    assert alone.history[-1]["train_loss"] < alone.history[0]["train_loss"]


def test_a_closure_optimizer_accepts_parts_clipping_and_a_schedule():
    x, y = numbers(dtype=torch.float64)
    settings = dict(loss="MSELoss", optimizer="LBFGS", epochs=3, batch_size="all", scheduler={"name": "ExponentialLR", "gamma": 0.5})
    whole = fit(lambda: net().double(), fs.Splits((x, y)), **settings)
    parts = fit(lambda: net().double(), fs.Splits((x, y)), part_size=7, clip_norm=1e9, **settings)
    assert_close(whole.model, parts.model, 1e-8)
    assert [row["lr"][0] for row in whole.history] == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("name", EVERY_SCHEDULER)
def test_every_schedule_of_torch_moves_the_rate(name):
    x, y = numbers()
    table = {"name": name, **SCHEDULER_ARGUMENTS.get(name, {})}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as: scheduler.step() before optimizer.step()
        run = fit(
            net,
            fs.Splits((x, y), (x[:7], y[:7])),
            loss="MSELoss",
            optimizer={"name": "SGD", "momentum": 0.9},
            lr=0.05,
            scheduler=table,
            epochs=5,
            batch_size=10,
        )
    assert len({row["lr"][0] for row in run.history}) > 1


def test_a_schedule_gives_the_bits_of_torchs_own():
    x, y = numbers()
    settings = dict(loss="MSELoss", optimizer={"name": "SGD", "momentum": 0.9}, lr=0.05, epochs=4, batch_size=10, shuffle=False)
    run = fit(net, fs.Splits((x, y)), scheduler="OneCycleLR", **settings)
    by_hand = built()
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.05, momentum=0.9, foreach=False)
    schedule = lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=12)
    for _ in range(4):
        for begin in (0, 10, 20):
            optimizer.zero_grad()
            F.mse_loss(by_hand(x[begin : begin + 10]), y[begin : begin + 10]).backward()
            optimizer.step()
            schedule.step()
    assert_same_bits(run.model, by_hand)


# -- what a step does ------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clipping", [{"clip_norm": 0.1}, {"clip_value": 0.01}, {"clip_norm": 0.05, "clip_value": 0.02}], ids=str)
def test_clipping_gives_the_bits_of_torchs_functions(clipping):
    x, y = numbers()
    run = fit(net, fs.Splits((x, y)), loss="MSELoss", optimizer="SGD", lr=0.3, epochs=4, batch_size="all", **clipping)
    by_hand = built()
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.3, foreach=False)
    for _ in range(4):
        optimizer.zero_grad()
        F.mse_loss(by_hand(x), y).backward()
        if "clip_value" in clipping:
            nn.utils.clip_grad_value_(by_hand.parameters(), clipping["clip_value"])
        if "clip_norm" in clipping:
            nn.utils.clip_grad_norm_(by_hand.parameters(), clipping["clip_norm"])
        optimizer.step()
    assert_same_bits(run.model, by_hand)
    assert run.weights_sha256 != fit(net, fs.Splits((x, y)), loss="MSELoss", optimizer="SGD", lr=0.3, epochs=4, batch_size="all").weights_sha256


def test_bf16_trains_under_autocast_saves_and_loads(tmp_path):
    x, y = numbers(60)
    run = fit(net, fs.Splits((x, y), val=0.15), loss="MSELoss", precision="bf16", epochs=30, lr=0.02)
    assert run.history[-1]["train_loss"] < run.history[0]["train_loss"]
    assert all(parameter.dtype == torch.float32 for parameter in run.model.parameters())
    by_hand = built()
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, foreach=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = F.mse_loss(by_hand(x), y)
    value.backward()
    optimizer.step()
    assert_same_bits(fit(net, fs.Splits((x, y)), loss="MSELoss", precision="bf16", epochs=1, optimizer="SGD", lr=0.1, batch_size="all").model, by_hand)
    run.save(tmp_path / "m.fivestep")
    assert torch.equal(fs.load(tmp_path / "m.fivestep", model=net()).predict(x), run.predict(x))


def test_fp16_trains_on_the_cpu_through_torchs_scaler():
    x, y = numbers(60)
    run = fit(net, fs.Splits((x, y)), loss="MSELoss", precision="fp16", epochs=30, lr=0.02)
    assert run.history[-1]["train_loss"] < 0.5 * run.history[0]["train_loss"]


def test_an_unknown_precision_is_refused():
    with pytest.raises(SettingsError, match="float8"):
        fit(net, fs.Splits(numbers()), loss="MSELoss", precision="float8", epochs=1)


def test_a_float64_model_trains_in_float64():
    x, y = numbers(dtype=torch.float64)
    run = fit(lambda: net().double(), fs.Splits((x, y), val=0.25), loss="MSELoss", epochs=3)
    assert run.model[0].weight.dtype == torch.float64 and run.predict(x).dtype == torch.float64
    weights = fit(lambda: net(3, 4).double(), fs.Splits((draw(30, 3, dtype=torch.float64), labels()[1])), class_weights="balanced", epochs=2)
    assert math.isfinite(weights.history[-1]["train_loss"])


def test_a_dataset_of_another_float_takes_the_models_dtype():
    x, y = numbers(dtype=torch.float64)
    rows = [(a.numpy(), b.numpy()) for a, b in zip(x, y)]
    run = fit(net, fs.Splits(fs.Data.dataset(rows), val=0.25), loss="MSELoss", epochs=3, shuffle=False)
    arrays = fit(net, fs.Splits((x, y), val=0.25), loss="MSELoss", epochs=3, shuffle=False)
    assert_close(run.model, arrays.model)
    assert run.predict("val").shape == (6, 2)


def test_parts_add_up_to_the_batch_with_sample_weights():
    x, y = numbers(dtype=torch.float64)
    data = fs.Data.arrays(x, y, weight=torch.linspace(0, 3, 24, dtype=torch.float64))
    whole, parts = (
        fit(lambda: net().double(), fs.Splits(data), loss="MSELoss", optimizer="SGD", lr=0.1, epochs=3, batch_size=11, part_size=size) for size in (None, 4)
    )
    assert_close(whole.model, parts.model, 1e-12)


def test_sample_weights_give_a_hand_written_weighted_mean():
    x, y = numbers()
    weight = torch.linspace(0.1, 3, 24)
    run = fit(net, fs.Splits(fs.Data.arrays(x, y, weight=weight)), loss="MSELoss", optimizer="SGD", lr=0.1, epochs=3, batch_size="all")
    by_hand = built()
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (((by_hand(x) - y) ** 2).mean(1) * weight).sum().div(weight.sum()).backward()
        optimizer.step()
    assert_close(run.model, by_hand)


def test_a_tables_weight_column_gives_the_same_weighted_mean():
    x = draw(24, 2)
    weight = torch.linspace(0.1, 3, 24)
    table = {"a": x[:, 0].numpy(), "b": x[:, 1].numpy(), "w": weight.numpy(), "y": (x[:, 0] - x[:, 1]).numpy()}
    data = fs.Data.table(table, target="y", weight="w", scale_target=False)
    run = fit(lambda: nn.Linear(2, 1), fs.Splits(data), loss="MSELoss", optimizer="SGD", lr=0.1, epochs=3, batch_size="all")
    by_hand = built(lambda: nn.Linear(2, 1))
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    scaled = run.splits.encoded(run.splits.train).inputs
    for _ in range(3):
        optimizer.zero_grad()
        ((by_hand(scaled)[:, 0] - (x[:, 0] - x[:, 1])) ** 2 * weight).sum().div(weight.sum()).backward()
        optimizer.step()
    assert_close(run.model, by_hand)


def test_class_weights_go_to_torchs_argument():
    x, y = labels()
    weights = [0.5, 1.0, 2.0, 4.0]
    run = fit(lambda: net(3, 4), fs.Splits((x, y)), loss="CrossEntropyLoss", class_weights=weights, optimizer="SGD", lr=0.1, epochs=3, batch_size="all")
    instance = nn.CrossEntropyLoss(weight=torch.tensor(weights))
    assert_same_bits(run.model, fit(lambda: net(3, 4), fs.Splits((x, y)), loss=instance, optimizer="SGD", lr=0.1, epochs=3, batch_size="all").model)


def test_balanced_class_weights_are_those_of_scikit_learn():
    x, y = labels()
    counts = y.bincount(minlength=4)
    weights = (30 / (4 * counts)).float()
    one, other = (
        fit(lambda: net(3, 4), fs.Splits((x, y)), loss="CrossEntropyLoss", class_weights=given, optimizer="SGD", lr=0.1, epochs=3, batch_size=8)
        for given in ("balanced", weights)
    )
    assert_same_bits(one.model, other.model)


def test_balanced_weights_of_two_classes_and_one_output_are_negatives_over_positives():
    x = draw(30, 3)
    y = (x[:, :1] > 0.6).float()
    run = fit(lambda: net(3, 1), fs.Splits((x, y)), loss="BCEWithLogitsLoss", class_weights="balanced", optimizer="SGD", lr=0.1, epochs=3, batch_size="all")
    ratio = (y == 0).sum() / (y == 1).sum()
    by_hand = fit(
        lambda: net(3, 1), fs.Splits((x, y)), loss=nn.BCEWithLogitsLoss(pos_weight=ratio.reshape(1)), optimizer="SGD", lr=0.1, epochs=3, batch_size="all"
    )
    assert_same_bits(run.model, by_hand.model)


def test_labels_that_are_ignored_change_nothing():
    x, y = labels()
    y[::3] = -100
    kept = y != -100
    settings = dict(loss="CrossEntropyLoss", optimizer="SGD", lr=0.1, epochs=3, batch_size="all")
    assert_close(fit(lambda: net(3, 4), fs.Splits((x, y)), **settings).model, fit(lambda: net(3, 4), fs.Splits((x[kept], y[kept])), **settings).model)
    balanced = fit(lambda: net(3, 4), fs.Splits((x, y)), class_weights="balanced", **settings)
    assert_close(balanced.model, fit(lambda: net(3, 4), fs.Splits((x[kept], y[kept])), class_weights="balanced", **settings).model)


def test_several_targets_reach_the_loss_in_order():
    x, y = numbers()
    model = lambda: Several(2)  # noqa: E731
    loss = lambda one, two, first, second: F.mse_loss(one, first) + 3 * F.l1_loss(two, second)  # noqa: E731
    run = fit(model, fs.Splits(fs.Data.arrays(x, (y, -y))), loss=loss, optimizer="SGD", lr=0.1, epochs=2, batch_size="all")
    by_hand = built(model)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, foreach=False)
    for _ in range(2):
        optimizer.zero_grad()
        loss(*by_hand(x), y, -y).backward()
        optimizer.step()
    assert_same_bits(run.model, by_hand)


# -- what a model may be ---------------------------------------------------------------------------------------------------------------------------------------


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, left, right):
        return self.one(left) + self.two(right)


def test_several_inputs_as_a_tuple_or_a_dict_are_the_same():
    x, y = numbers()
    z = draw(24, 4, seed=5)
    runs = [fit(TwoInputs, fs.Splits(fs.Data.arrays(inputs, y), val=0.25), loss="MSELoss", epochs=3) for inputs in ((x, z), {"right": z, "left": x})]
    assert_same_bits(runs[0].model, runs[1].model)
    assert torch.equal(runs[0].predict((x, z)), runs[1].predict({"left": x, "right": z}))


@pytest.mark.parametrize("output", [1, "main", lambda outputs: outputs["main"]], ids=["index", "key", "function"])
def test_output_says_what_the_loss_and_predict_see(output):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return (x, self.layer(x)) if output == 1 else {"other": x, "main": self.layer(x)}

    x, y = numbers()
    run = fit(Net, fs.Splits((x, y), val=0.25), loss="MSELoss", output=output, epochs=2)
    plain = fit(lambda: nn.Linear(3, 2), fs.Splits((x, y), val=0.25), loss="MSELoss", epochs=2)
    assert torch.equal(run.predict(x), plain.predict(x))


def test_an_output_that_is_not_there_is_named():
    with pytest.raises(SettingsError, match="logits"):
        fit(lambda: Several(2), fs.Splits(numbers()), loss="MSELoss", output="logits", epochs=1)


def test_a_lazy_module_gets_its_shape_from_the_data():
    x, y = numbers()
    lazy = fit(lambda: nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(2)), fs.Splits((x, y)), loss="MSELoss", epochs=10, lr=0.02)
    assert lazy.model[0].weight.shape == (5, 3) and lazy.history[-1]["train_loss"] < lazy.history[0]["train_loss"]


def test_a_module_of_one_bare_parameter_trains():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return self.value.expand(len(x), 1)

    run = fit(Constant, fs.Splits((draw(20, 3), torch.full((20, 1), 3.0))), loss="MSELoss", optimizer="SGD", lr=0.1, epochs=100, batch_size="all")
    assert float(run.model.value) == pytest.approx(3, abs=1e-4)


def test_an_instance_is_trained_in_place():
    model = net()
    assert fit(model, fs.Splits(numbers()), loss="MSELoss", epochs=1).model is model


# -- compute and step ------------------------------------------------------------------------------------------------------------------------------------------


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(3, 4), nn.Linear(2, 3)

    def forward(self, x):
        return self.decoder(self.encoder(x)[:, :2])


def negative_elbo(model, x, targets):
    mean, log_variance = model.encoder(x).chunk(2, 1)
    latent = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
    return ((model.decoder(latent) - x) ** 2).sum(1).mean() + 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()


def test_compute_replaces_forward_and_loss_to_the_bit():
    x = draw(40, 3)
    run = fit(VAE, fs.Splits(fs.Data.arrays(x)), compute=negative_elbo, optimizer="SGD", lr=0.05, epochs=4, batch_size="all")
    by_hand = built(VAE)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.05, foreach=False)
    for epoch in range(4):
        seeds.seed_everything(seeds.derive(0, "forward", epoch))
        optimizer.zero_grad()
        negative_elbo(by_hand, x, ()).backward()
        optimizer.step()
    assert_same_bits(run.model, by_hand)
    assert run.predict(x).shape == (40, 3)


def test_compute_may_return_a_total_and_its_weight():
    x = draw(40, 3)
    total = lambda model, inputs, targets: (((model(inputs) - inputs) ** 2).sum(), inputs.numel())  # noqa: E731
    mean = lambda model, inputs, targets: ((model(inputs) - inputs) ** 2).mean()  # noqa: E731
    splits = fs.Splits(fs.Data.arrays(x), val=0.2)
    runs = [fit(VAE, splits, compute=f, optimizer="SGD", lr=0.05, epochs=2, part_size=size) for f, size in ((total, None), (mean, None), (total, 5))]
    for other in runs[1:]:
        assert_close(runs[0].model, other.model)
        assert runs[0].history[-1]["val_loss"] == pytest.approx(other.history[-1]["val_loss"], rel=1e-5)


def test_compute_and_a_loss_contradict_each_other():
    with pytest.raises(SettingsError, match="compute="):
        fit(VAE, fs.Splits(fs.Data.arrays(draw(9, 3))), compute=negative_elbo, loss="MSELoss", epochs=1)


class GAN(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator, self.discriminator = nn.Linear(4, 1), nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, noise):
        return self.generator(noise)


def adversarial(model, optimizers, real, targets):
    fake = model(torch.randn(len(real), 4))
    d_loss = F.softplus(-model.discriminator(real)).mean() + F.softplus(model.discriminator(fake.detach())).mean()
    optimizers["discriminator"].zero_grad()
    d_loss.backward()
    optimizers["discriminator"].step()
    g_loss = F.softplus(-model.discriminator(fake)).mean()
    optimizers["generator"].zero_grad()
    g_loss.backward()
    optimizers["generator"].step()
    return {"g_loss": g_loss, "d_loss": d_loss}


def test_step_replaces_the_five_steps(tmp_path):
    real = 4 + draw(64, 1)
    settings = dict(step=adversarial, optimizer={"generator": "Adam", "discriminator": "Adam"}, lr=0.02, batch_size=16, epochs=5)
    runs = [fit(GAN, fs.Splits(fs.Data.arrays(real)), folder=folder, **settings) for folder in (None, "runs")]
    assert_same_bits(runs[0].model, runs[1].model)
    assert abs(runs[0].model(draw(99, 4)).mean() - built(GAN)(draw(99, 4)).mean()) > 0.2
    assert (runs[1].folder / "weights.safetensors").exists()
    for refused in ({"part_size": 4}, {"clip_norm": 1.0}):
        with pytest.raises(SettingsError, match="step="):
            fit(GAN, fs.Splits(fs.Data.arrays(real)), **settings, **refused)


# -- weights, freeze, groups -----------------------------------------------------------------------------------------------------------------------------------


def backbone_and_head(outputs: int = 2):
    return nn.ModuleDict({"backbone": nn.Linear(3, 5), "head": nn.Linear(5, outputs)})


class Body(nn.Module):
    def __init__(self, outputs: int = 2):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
        self.head = nn.Linear(5, outputs)

    def forward(self, x):
        return self.head(self.backbone(x).tanh())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_come_from_a_file(tmp_path, suffix):
    x, y = numbers()
    first = fit(Body, fs.Splits((x, y)), loss="MSELoss", epochs=3)
    path = first.save(tmp_path / f"w{suffix}")
    again = fit(Body, fs.Splits((x, y)), loss="MSELoss", weights=path, lr=0.0, optimizer="SGD", freeze=["backbone.*"], epochs=1)
    assert_same_bits(first.model, again.model)
    with pytest.raises(SettingsError, match="head"):
        fit(lambda: Body(7), fs.Splits((x, draw(24, 7))), loss="MSELoss", weights=path, epochs=1)
    other = fit(lambda: Body(7), fs.Splits((x, draw(24, 7))), loss="MSELoss", weights=path, weights_strict=False, freeze=["backbone.*"], epochs=2)
    assert_same_bits(first.model.backbone, other.model.backbone)


def test_what_is_frozen_does_not_move_batch_norm_included():
    run = fit(Body, fs.Splits(numbers()), loss="MSELoss", freeze=["backbone.*"], lr=0.1, epochs=3)
    assert_same_bits(run.model.backbone, built(Body).backbone)
    assert not torch.equal(run.model.head.weight, built(Body).head.weight)


def test_groups_have_their_own_rate():
    x, y = numbers()
    run = fit(Body, fs.Splits((x, y)), loss="MSELoss", optimizer="SGD", lr=0.1, groups={"backbone.*": {"lr": 0.003}}, epochs=2, batch_size="all")
    by_hand = built(Body)
    optimizer = torch.optim.SGD([{"params": by_hand.backbone.parameters(), "lr": 0.003}, {"params": by_hand.head.parameters()}], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        F.mse_loss(by_hand(x), y).backward()
        optimizer.step()
    assert_close(run.model, by_hand, 1e-7)
    assert set(run.history[0]["lr"]) == {0.003, 0.1}


# -- what stops a run ------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", ["all", 5])
def test_a_row_of_nan_is_named_and_nothing_is_saved(batch_size, tmp_path):
    x, y = numbers()
    x[17] = math.nan
    model = built()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(NonFiniteError) as told:
        fit(model, fs.Splits((x, y)), loss="MSELoss", epochs=3, batch_size=batch_size, folder=tmp_path / "runs")
    assert told.value.rows == (17,) and told.value.origin == "inputs" and told.value.layer == "0" and 1 <= told.value.step <= 5
    assert "17" in str(told.value)
    assert not list((tmp_path / "runs").rglob("*.fivestep"))
    for path in (tmp_path / "runs").rglob("*.safetensors"):  # the checkpoint of step 0 may stand
        assert all(bool(torch.isfinite(tensor).all()) for tensor in load_file(path).values() if tensor.is_floating_point())
    if batch_size == "all":
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_nan_in_a_target_and_in_weighted_rows_is_told_as_well():
    x, y = numbers()
    y[3] = math.nan
    with pytest.raises(NonFiniteError) as told:
        fit(net, fs.Splits(fs.Data.arrays(x, y, weight=torch.ones(24))), loss="MSELoss", epochs=3, batch_size=4, shuffle=False)
    assert told.value.step == 1 and told.value.rows == (3,)


def test_a_layer_that_overflows_is_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.root, self.last = nn.Linear(3, 5), Root(), nn.Linear(5, 2)

        def forward(self, x):
            return self.last(self.root(self.first(x)))

    class Root(nn.Module):
        def forward(self, x):
            return (x.abs() * 1e30) ** 2

    with pytest.raises(NonFiniteError) as told:
        fit(Net, fs.Splits(numbers()), loss="MSELoss", epochs=1)
    assert told.value.layer == "root" and told.value.origin == "layer" and told.value.step == 1


def test_a_diverging_run_ends_in_an_error_and_not_in_a_model():
    x, y = numbers()
    with pytest.raises(NonFiniteError):
        fit(net, fs.Splits((x, 1e20 * y)), loss="MSELoss", optimizer="SGD", lr=1e10, epochs=50)


@pytest.mark.parametrize("setting", [{"epochs": 0}, {"batch_size": -1}, {"part_size": 1.5}, {"lr": "fast"}, {"lr": math.nan}, {"keep": "first"}, {"epochs": True},
                                     {"monitor": "sharpness"}, {"optimizer": "Adm"}, {"loss": "MSE"}, {"device": "abacus"}], ids=str)  # fmt: skip
def test_what_means_nothing_is_refused_by_name(setting):
    with pytest.raises((SettingsError, UsageError)) as told:
        fit(net, fs.Splits(numbers()), **({"loss": "MSELoss"} | setting))
    assert str(next(iter(setting.values()))) in str(told.value)


def test_the_settings_are_json():
    run = fit(
        net, fs.Splits(numbers()), loss={"name": nn.HuberLoss, "delta": 2.0}, optimizer=torch.optim.SGD, scheduler=lambda o: lr_scheduler.StepLR(o, 1), epochs=1
    )
    assert json.loads(json.dumps(run.settings.to_json()))
