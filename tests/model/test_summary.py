"""A summary of any module, which is only looked at."""

from __future__ import annotations

import random
from typing import Any

import numpy
import torch
from torch import nn

from fivestep.model.summary import describe
from fivestep.model.weights import parameter_hash


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5)
        self.blocks = nn.ModuleList([nn.Linear(5, 5)])
        self.head, self.unused = nn.Linear(5, 2), nn.Linear(7, 11)
        self.scale = nn.Parameter(torch.ones(2))
        self.seen: list[Any] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        random.random(), numpy.random.rand(), torch.randn(3)
        x = self.drop(self.norm(self.first(x)))
        x = self.blocks[0](self.blocks[0](x))
        return self.head(x) * self.scale


def test_rows_totals_and_shapes() -> None:
    net = Net()
    net.head.weight.requires_grad_(False)
    net.norm.requires_grad_(False)
    summary = describe(net, torch.randn(4, 3))
    rows = {layer.name: layer for layer in summary.layers}
    assert {name: (row.output_shape, row.parameters, row.trainable, row.calls) for name, row in rows.items()} == {
        "(itself)": ("(4, 2)", 2, "yes", 1),
        "first": ("(4, 5)", 20, "yes", 1),
        "norm": ("(4, 5)", 10, "no", 1),
        "drop": ("(4, 5)", 0, "", 1),
        "blocks.0": ("(4, 5)", 30, "yes", 2),
        "head": ("(4, 2)", 12, "partly", 1),
        "unused": (None, 88, "yes", 0),
    }
    assert summary.parameters == 162 == sum(parameter.numel() for parameter in net.parameters()) and summary.trainable == 162 - 10 - 10
    assert summary.bytes == 162 * 4 + 2 * 5 * 4 + 8 and (summary.dtype, summary.device) == ("float32", "cpu")
    assert "Never called in this forward: unused." in summary.said
    text = repr(summary)
    assert "(4, 5) x2" in text and "162 parameters, 142 of them trained" in text and text.splitlines()[0] == "Net"
    assert "<td>blocks.0</td>" in summary._repr_html_()


def test_looking_changes_nothing_to_the_bit() -> None:
    net, inputs = Net(), torch.randn(4, 3)
    net.train()
    before = (parameter_hash(net.state_dict()), torch.get_rng_state(), random.getstate(), str(numpy.random.get_state()), inputs.clone())
    describe(net, inputs)
    after = (parameter_hash(net.state_dict()), torch.get_rng_state(), random.getstate(), str(numpy.random.get_state()), inputs)
    assert before[0] == after[0] and torch.equal(before[1], after[1]) and before[2:4] == after[2:4] and torch.equal(before[4], after[4])
    assert net.training and net.seen == [] and not net._forward_hooks and not net.first._forward_hooks
    assert all(parameter.grad is None for parameter in net.parameters())


def test_inputs_may_be_a_tuple_or_a_dict_and_outputs_any_nest() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 5), nn.Linear(2, 7)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
            return {"one": self.a(x), "rest": (self.b(y), None)}

    x, y = torch.zeros(4, 3), torch.zeros(4, 2)
    for inputs in ((x, y), {"y": y, "x": x}):
        rows = {layer.name: layer.output_shape for layer in describe(Two(), inputs).layers}
        assert rows == {"a": "(4, 5)", "b": "(4, 7)"}
    assert describe(Two(), (x, y)).said == ()


def test_one_example_is_enough_for_batch_norm() -> None:
    """In train() it would refuse a batch of one."""
    assert describe(Net().train(), torch.zeros(1, 3)).layers[0].output_shape == "(1, 2)"


def test_without_inputs_there_are_no_shapes() -> None:
    summary = describe(Net())
    assert all(layer.output_shape is None and layer.calls is None for layer in summary.layers) and summary.parameters == 162 and summary.said == ()


def test_a_forward_that_fails_shows_the_shapes_up_to_there_and_where() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(7, 2))
    summary = describe(model, torch.zeros(4, 3))
    assert [layer.output_shape for layer in summary.layers] == ["(4, 5)", "(4, 5)", None]
    assert "failed in '2'" in summary.said[0] and "(4x5 and 7x2)" in summary.said[0] and "given (4, 3)" in summary.said[0]


def test_lazy_layers_are_said_and_stay_lazy() -> None:
    model = nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.Linear(5, 2))
    without = describe(model)
    assert without.layers[0].parameters is None and without.parameters == 12 and "0.weight" in without.said[0] and "not initialised" in repr(without)
    given = describe(model, torch.zeros(4, 3))
    assert given.layers[0].parameters == 20 and given.parameters == 32 and "lazy" in given.said[0]
    assert isinstance(model[0].weight, nn.parameter.UninitializedParameter)


def test_bare_parameters_tied_ones_and_nothing_at_all() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight

    summary = describe(Bare(), torch.zeros(4, 3))
    assert [(layer.name, layer.output_shape, layer.parameters) for layer in summary.layers] == [("(itself)", "(4, 2)", 6)]
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert [layer.parameters for layer in describe(tied).layers] == [12, 3] and describe(tied).parameters == 15
    nothing = describe(nn.ReLU(), torch.zeros(4, 3))
    assert nothing.parameters == 0 and nothing.dtype == "no dtype" and nothing.layers[0].output_shape == "(4, 3)"
    assert describe(nn.Sequential().half()).layers == () or repr(describe(nn.Sequential()))


def test_attention_is_not_accused_of_an_unused_layer_and_uncopyable_modules_are_said() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
    assert describe(layer, torch.zeros(3, 5, 4)).said == ()
    model = nn.Linear(3, 2)
    model.file = (part for part in ())  # type: ignore[assignment]
    assert "cannot be copied" in describe(model, torch.zeros(4, 3)).said[0]


def test_html_is_escaped() -> None:
    model = nn.Sequential()
    model.add_module("<b>", nn.Linear(3, 2))
    assert "<td>&lt;b&gt;</td>" in describe(model)._repr_html_()
