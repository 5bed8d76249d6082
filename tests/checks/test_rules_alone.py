"""Rules that no case dict can reach: arguments of `fit`, notes, histories."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy
import pytest
import torch
from adapter import loud, subject_of
from cases import blobs, case, classify, curve, language, mlp, pictures, regress
from torch import Tensor, nn
from torch.nn import functional as F

import fivestep as fs
from fivestep.checks.before import check_before
from fivestep.checks.before_split import likeness, ranks, shares_differ
from fivestep.checks.during import Watch
from fivestep.checks.findings import Finding
from fivestep.checks.recording import Recorder, last_operations, weight_depth
from fivestep.checks.subject import Subject


def codes(subject: Subject, severity: str | None = None) -> set[str]:
    return {finding.code for finding in check_before(subject, seconds=5.0) if severity is None or finding.severity == severity}


# before: by arguments


def test_d12_half_precision_overflows() -> None:
    made = classify(mlp(8, 3).half())
    made["X"] = (made["X"] * 3e4).half()
    assert "D12" in codes(subject_of(made), "warning")
    assert "D12" not in codes(subject_of(classify()))


@pytest.mark.parametrize(("turn", "found"), [(True, True), (False, False)])
def test_d17_augment_that_turns_one_class_into_another(turn: bool, found: bool) -> None:
    X, y = pictures(500)
    keep = y < 2
    X, y = (X[keep] - 0.2) / 0.25, y[keep]
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 2))

    def augment(inputs: Tensor, generator: torch.Generator) -> Tensor:
        return inputs.transpose(2, 3) if turn else inputs + 0.1 * torch.randn(inputs.shape, generator=generator)

    subject = dataclasses.replace(subject_of(case(net, "CrossEntropyLoss", "multiclass", X, y)), augment=augment)
    assert ("D17" in codes(subject, "warning")) == found


def test_m27_and_m32_are_notes() -> None:
    X, y = blobs(500, C=3)
    assert "M27" in codes(subject_of(case(mlp(8, 6), "CrossEntropyLoss", "multiclass", X, y)), "note")
    bag = nn.Sequential(nn.EmbeddingBag(9, 6, mode="mean"), nn.Linear(6, 2))
    assert "M32" in codes(subject_of(case(bag, "CrossEntropyLoss", "multiclass", torch.randint(0, 9, (300, 5)), torch.randint(0, 2, (300,)))), "note")


def test_s07_is_a_note() -> None:
    X, y = blobs(500)
    assert "S07" in codes(subject_of(classify(X=(X - X.mean(0)) / X.std(0), y=y)), "note")
    assert "S07" not in codes(subject_of(classify()))


def test_o07_is_a_note() -> None:
    assert "O07" in codes(subject_of(classify(optimizer="AdamW", optimizer_kwargs=dict(weight_decay=0.1))), "note")


def test_s03_for_arrays_with_a_counting_column() -> None:
    n = 500
    time = torch.arange(n).float()
    y = torch.sin(time / 25)[:, None] + 0.1 * torch.randn(n, 1)
    X = torch.stack([time, torch.randn(n), torch.randn(n)], 1)
    assert codes(subject_of(case(mlp(3, 1), "MSELoss", "regression", X, y)), "warning") & {"S03", "D13"}


def test_e02_asks_a_metric_whose_name_says_nothing() -> None:
    def goodness(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == targets).float().mean()

    subject = dataclasses.replace(subject_of(classify()), metrics={"goodness": goodness}, monitor="goodness", keep="best", mode="min")
    assert "E02" in codes(subject, "warning")
    assert "E02" not in codes(dataclasses.replace(subject, mode="max"))


def test_compute_in_place_of_a_loss_is_checked_as_far_as_it_goes() -> None:
    def compute(model: nn.Module, inputs: Tensor, targets: tuple[Tensor, ...]) -> Tensor:
        return F.cross_entropy(model(inputs), targets[0])

    subject = dataclasses.replace(subject_of(classify()), loss=None, loss_name=None, compute=compute)
    assert not loud(check_before(subject))
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    net.register_parameter("spare", nn.Parameter(torch.zeros(3)))
    assert "M13" in codes(dataclasses.replace(subject_of(classify(net)), loss=None, loss_name=None, compute=compute), "warning")


def test_a_step_of_ones_own_is_left_alone() -> None:
    subject = dataclasses.replace(subject_of(classify()), loss=None, loss_name=None, step=lambda *_: {})
    assert not loud(check_before(subject))


def test_a_sum_with_adam_is_a_note() -> None:
    assert "L13" in codes(subject_of(regress(loss=nn.MSELoss(reduction="sum"), lr=0.02)), "note")


def test_weights_with_a_new_head_are_a_note() -> None:
    net = mlp(8, 3)
    state = {key: value for key, value in mlp(8, 3).state_dict().items() if not key.startswith("4.")}
    found = [finding for finding in check_before(subject_of(classify(net, checkpoint=state, load_strict=False))) if finding.code == "P02"]
    assert [finding.severity for finding in found] == ["note"]


def test_causal_targets_of_floats_are_seen() -> None:
    series = torch.sin(torch.arange(330) / 7.0).unfold(0, 12, 1).contiguous()
    X, y = series[:, :-1, None], series[:, 1:, None]
    both = nn.GRU(1, 6, batch_first=True, bidirectional=True)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = both, nn.Linear(12, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.rnn(x)[0])

    assert "M24" in codes(subject_of(case(Net(), "MSELoss", "regression", X, y, split=dict(method="ordered"))), "warning")


def test_language_that_ignores_its_padding_keeps_label_zero_free() -> None:
    X, y = language()
    net = nn.Sequential(nn.Embedding(8, 6), nn.Linear(6, 8))
    assert "L10" not in codes(subject_of(case(net, lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten()), "sequence", X, y)))


# during


def history(train: list[float], val: list[float | None], **changes: Any) -> Watch:
    watch = Watch(dataclasses.replace(subject_of(classify()), **changes))
    for epoch, (one, two) in enumerate(zip(train, val)):
        watch.steps_ended([one] * 10)
        watch.epoch_ended(epoch, one, two, 1e-3)
    return watch


def test_t05_overfitting_and_its_healthy_neighbours() -> None:
    falling = [1 / (1 + epoch) for epoch in range(12)]
    rising: list[float | None] = [1.0, 0.8, 0.6, 0.5, 0.52, 0.58, 0.66, 0.74, 0.8, 0.86, 0.9, 0.95]
    assert "T05" in loud(history(falling, rising).findings())
    assert "T05" not in loud(history(falling, rising, keep="best").findings())
    assert "T05" not in loud(history(falling, rising, has_patience=True).findings())
    assert "T05" not in loud(history(falling, [value and 0.5 + 0.1 * value for value in rising]).findings())
    tiny: list[float | None] = [0.7, 0.2, 0.05, 0.02, 0.015, 0.018, 0.02, 0.022, 0.03, 0.03, 0.03, 0.035]
    assert "T05" not in loud(history(falling, tiny).findings())  # beside where it began the rise is nothing


def test_o01_loss_that_rises_or_is_not_finite() -> None:
    assert "O01" in loud(history([1.0, 5.0, 9.0], [1.0, 5.0, 9.0]).findings())
    assert "O01" in loud(history([1.0, math.nan], [1.0, math.nan]).findings())
    assert "O01" not in loud(history([-1.0, -3.0, -4.0], [-1.0, -2.0, -3.0]).findings())


def test_t06_is_a_note() -> None:
    values: list[float | None] = [1 - 0.05 * epoch for epoch in range(12)]
    (finding,) = [finding for finding in history([1 - 0.05 * epoch for epoch in range(12)], values).findings() if finding.code == "T06"]
    assert finding.severity == "note"


def test_t01_a_gradient_a_thousand_times_the_median() -> None:
    watch = history([1.0, 0.9], [1.0, 0.9])
    watch.steps_ended([0.9] * 40, [1.0] * 39 + [2000.0])
    assert "T01" in loud(watch.findings())


def test_t07_needs_spikes_beyond_the_start() -> None:
    watch = history([1.0] * 4, [1.0] * 4)
    watch.losses = [1.0] * 30 + ([0.01] * 30 + [0.5]) * 4  # hard batches late in training
    assert "T07" not in loud(watch.findings())
    watch.losses = [1.0] * 30 + ([0.1] * 30 + [40.0]) * 4
    assert "T07" in loud(watch.findings())


# what the rules stand on


def test_last_operations_look_through_views() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    assert last_operations(torch.relu(x).t()[None].squeeze(0)) == {"Relu"}
    assert last_operations(torch.cat([x.sigmoid(), x * 2], 1)) == {"Sigmoid", "Mul"}
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert weight_depth(net(x)) == 2 and weight_depth(net[0](x) + nn.Linear(3, 4)(x)) == 1


def test_the_recorder_sees_every_spelling_of_relu() -> None:
    x = torch.randn(2, 3)
    with Recorder() as recorder:
        _ = nn.ReLU()(x), F.relu(x), torch.relu(x), x.relu(), x.clamp(min=0)
    assert [call.name for call in recorder.calls] == ["relu"] * 4 + ["clamp"]


def test_statistics_of_the_split_rules() -> None:
    group = numpy.arange(200) // 4
    generator = numpy.random.default_rng(0)
    assert abs(likeness(group, generator.normal(size=200))) < 0.15
    assert likeness(group, group + 0.01 * generator.normal(size=200)) > 0.99
    assert ranks(numpy.array([3.0, 1.0, 3.0])).tolist() == [2.5, 1.0, 2.5]
    assert shares_differ(numpy.repeat([0, 1], [180, 20]), numpy.repeat([0, 1], [40, 60]))
    assert not shares_differ(numpy.repeat([0, 1], [180, 20]), numpy.repeat([0, 1], [88, 12]))


def test_findings_carry_values_not_tensors() -> None:
    X, y = curve()
    for finding in check_before(subject_of(case(mlp(6, 1), "MSELoss", "regression", X, y[:, 0]))):
        assert isinstance(finding, Finding)
        json.dumps(finding.to_json(), allow_nan=False)


def test_a_column_is_left_out_by_an_option_of_tables_and_by_the_columns_of_an_array():
    x = torch.randn(120, 3, generator=torch.Generator().manual_seed(0))
    (array,) = [finding for finding in fs.check("linear", fs.Data.arrays(x, x[:, 1:2] * 3).split()) if finding.code == "S05"]
    assert "numpy.delete(x, 1, axis=1)" in array.fix
    frame = {"a": x[:, 0].tolist(), "b": x[:, 1].tolist(), "y": (3 * x[:, 1]).tolist()}
    (table,) = [finding for finding in fs.check("linear", fs.Data.table(frame, target="y").split()) if finding.code == "S05"]
    assert "drop=['b']" in table.fix
