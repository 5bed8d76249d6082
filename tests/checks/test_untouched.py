"""Checks leave model, optimizer, data, random state and threads as they were, to the bit; they take at most a second and never raise."""

from __future__ import annotations

import copy
import random
import time
from typing import Any

import numpy
import pytest
import torch
from adapter import subject_of, train
from cases import CASES, HEALTHY, Drifting, blobs, case, classify, mlp
from torch import Tensor, nn

from fivestep.checks.after import check_trained
from fivestep.checks.before import RULES, check_before
from fivestep.checks.during import Watch
from fivestep.checks.probe import Probe
from fivestep.checks.recording import tensors_in


def bits(value: Any) -> list[bytes]:
    return [tensor.detach().contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else str(tensor).encode() for tensor in tensors_in(value)]


def everything(subject: Any) -> list[Any]:
    state: list[Any] = [bits(dict(subject.model.state_dict()))]
    state.append([(module.training, sorted(vars(module))) for module in subject.model.modules()])
    state.append([None if parameter.grad is None else bits(parameter.grad) for parameter in subject.model.parameters()])
    state.append([parameter.requires_grad for parameter in subject.model.parameters()])
    state.append(str(subject.optimizer.state_dict()))
    state += [bits([part.inputs, part.targets]) for part in subject.parts.values() if part.inputs is not None]
    state += [torch.get_rng_state().tolist(), str(numpy.random.get_state()), str(random.getstate()), torch.get_num_threads(), torch.is_grad_enabled()]
    return state


SOME = ["m23 input changed in place", "m30 state kept", "p06 fitted buffer not persistent", "m28 dropout in eval", "m21 batch norm that lags", "m03"]


@pytest.mark.parametrize("name", [*SOME[:5], "convolutions with batch norm", "variational autoencoder", "transformer with a class token"])
def test_nothing_of_the_users_is_touched(name: str) -> None:
    torch.manual_seed(5)
    subject = subject_of(CASES[name][2]() if name in CASES else HEALTHY[name]())
    torch.manual_seed(7)
    numpy.random.seed(7)
    random.seed(7)
    before = everything(subject)
    check_before(subject)
    assert everything(subject) == before


def test_a_dataset_that_changes_itself_is_read_on_a_copy() -> None:
    X, y = blobs(300)
    dataset = Drifting(X.clone(), y, True)
    check_before(subject_of(case(mlp(8, 3), "CrossEntropyLoss", "multiclass", dataset=dataset)))
    assert torch.equal(dataset.X, X)


def test_after_training_nothing_is_touched() -> None:
    made = HEALTHY["convolutions with batch norm"]()
    subject = subject_of(made)
    watch = Watch(subject, check_before(subject))
    train(subject, made, watch)
    before = everything(subject)
    check_trained(subject, subject.model, watch=watch)
    watch.findings()
    assert everything(subject) == before


def test_the_start_is_kept_although_training_goes_on_in_place() -> None:
    made = classify()
    subject = subject_of(made)
    start = copy.deepcopy(subject.model.state_dict())
    watch = Watch(subject)
    train(subject, made, watch)
    assert "training" not in vars(watch.probe)  # no graph is held while training goes on
    assert all(torch.equal(value, start[key]) for key, value in watch.probe.fresh().state_dict().items())
    assert not torch.equal(subject.model.state_dict()["0.weight"], start["0.weight"])


class Counter(nn.Module):
    """Holds a tensor with a graph from an earlier forward, which torch refuses to copy."""

    def __init__(self) -> None:
        super().__init__()
        self.f = mlp(8, 3)
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = made = self.f(x)
        return made


def test_a_model_that_has_kept_a_graph_is_checked() -> None:
    net = Counter()
    net(torch.randn(4, 8))
    assert [finding for finding in check_before(subject_of(classify(net))) if finding.code == "C00"] == []


class Uncopyable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = mlp(8, 3)

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("cannot pickle an open file")

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


def test_a_model_that_cannot_be_copied_is_a_note_and_data_are_checked_all_the_same() -> None:
    made = classify(Uncopyable())
    made["X"] = made["X"].clone()
    made["X"][3, 2] = float("nan")
    found = check_before(subject_of(made))
    assert [finding.severity for finding in found if finding.code == "D03"] == ["error"]
    notes = [finding for finding in found if finding.code == "C00"]
    assert notes and all(finding.severity == "note" for finding in notes) and any("open file" in finding.what for finding in notes)


def test_a_rule_that_fails_is_a_note_with_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def rule_d01(subject: Any, probe: Any) -> None:
        raise ZeroDivisionError("nothing to divide by")

    monkeypatch.setattr("fivestep.checks.before.RULES", (rule_d01,))
    (note,) = check_before(subject_of(classify()))
    assert (note.code, note.severity, note.evidence["rules"]) == ("C00", "note", ["D01"]) and "nothing to divide by" in note.what


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = mlp(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("not today")


def test_a_model_that_cannot_run_never_raises_here() -> None:
    found = check_before(subject_of(classify(Failing())))
    assert {finding.severity for finding in found} == {"note"} and all("not today" in finding.what for finding in found if finding.code == "C00")


def test_ignore_leaves_a_code_out() -> None:
    subject = subject_of(CASES["m02 layers in a list"][2]())
    assert "M02" in {finding.code for finding in check_before(subject)}
    assert "M02" not in {finding.code for finding in check_before(subject, ignore=["M02"])}


def test_without_time_the_rules_that_were_not_made_are_named() -> None:
    (note,) = [finding for finding in check_before(subject_of(classify()), seconds=1e-6) if "used up" in finding.what]
    assert note.code == "C00" and "M06" in note.evidence["rules"]


def test_errors_come_first() -> None:
    made = CASES["l09 in a loss of one's own"][2]()
    found = check_before(subject_of(made | dict(optimizer_kwargs=dict(weight_decay=1.0))))
    assert found[0].severity == "error" and "O06" in {finding.code for finding in found}


@pytest.mark.parametrize("size", ["a table of 200,000 rows", "pictures and three convolutions", "a transformer"])
def test_checks_take_at_most_a_second(size: str) -> None:
    torch.manual_seed(0)
    if size.startswith("a table"):
        X = torch.randn(200_000, 30)
        made = case(mlp(30, 1, 128), "MSELoss", "regression", X, X[:, :1] * X[:, 1:2])
    elif size.startswith("pictures"):
        net = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
        )  # fmt: skip
        made = case(net, "CrossEntropyLoss", "multiclass", torch.randn(2000, 3, 32, 32), torch.randint(0, 10, (2000,)))
    else:
        net = nn.Sequential(
            nn.Embedding(1000, 96), nn.TransformerEncoder(nn.TransformerEncoderLayer(96, 4, 192, batch_first=True), 2), nn.Flatten(), nn.Linear(96 * 48, 2)
        )
        tokens = torch.randint(0, 1000, (2000, 48))
        made = case(net, "CrossEntropyLoss", "multiclass", tokens, (tokens[:, 0] > 500).long())
    subject = subject_of(made)
    begun = time.thread_time()  # of this thread: a busy machine is not the checks' fault
    probe = Probe(subject)
    check_before(subject, probe=probe)
    assert time.thread_time() - begun < 1.3  # one rule may have begun just before the time was up


def test_rules_have_one_name_each() -> None:
    names = [rule.__name__ for rule in RULES]
    assert len(names) == len(set(names)) > 80 and all(rule.__doc__ for rule in RULES)
