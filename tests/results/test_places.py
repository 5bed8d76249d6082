"""A row gets the same bits wherever it stands: what is asked of each product, what follows for prediction, and that it is asked of shapes, not of data."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fivestep as fs
from fivestep.results import places
from fivestep.results.places import ProductsByPlace
from fivestep.results.predictor import ArrayRows, Predictor

SHAPES = [(7, 33), (33, 2), (5, 9), (9, 1), (5, 8), (64, 3)]


@pytest.mark.parametrize(("num_inputs", "num_outputs"), SHAPES)
def test_at_every_place_that_the_stride_names_a_row_gets_the_bits_of_the_first(num_inputs, num_outputs):
    layer = nn.Linear(num_inputs, num_outputs)
    with torch.no_grad():
        with ProductsByPlace(256) as products:
            layer(torch.zeros(256, num_inputs))  # zeros have the same answer everywhere: what counts are the shapes
        for _ in range(20):
            answers = layer(torch.randn(1, num_inputs).repeat(256, 1))[:: products.stride]
            assert torch.equal(answers, answers[:1].expand_as(answers))


@pytest.mark.parametrize(
    "module", [nn.LSTM(5, 9, batch_first=True), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Conv1d(6, 4, 3)], ids=lambda one: type(one).__name__
)
def test_layers_of_sequences_can_be_looked_at(module):
    width = 5 if isinstance(module, nn.LSTM) else 8
    with torch.no_grad(), ProductsByPlace(64) as products:
        module.eval()(torch.randn(64, 6, width))
    assert products.stride in places.STRIDES


@pytest.mark.parametrize("stride", [1, 2, 4, 32])
def test_rows_that_stand_apart_come_back_in_order(stride, monkeypatch):
    x = torch.arange(700.0)[:, None]
    predictor = Predictor(nn.Identity(), fs.fit("linear", fs.Data.arrays(x, x).split(), epochs=1, folder=None, quiet=True, checks=False)._predictor.decoding)
    seen = []
    monkeypatch.setattr(predictor.module, "forward", lambda inputs: seen.append(inputs) or inputs, raising=False)
    monkeypatch.setattr(Predictor, "_stride", lambda *_: stride)
    assert torch.equal(predictor.outputs(ArrayRows(x)), x) and torch.equal(predictor.outputs(ArrayRows(x), torch.tensor([5, 3])), x[[5, 3]])
    assert all(len(block) == 256 for block in seen) and torch.equal(seen[0][:: max(1, stride)], x[: 256 // stride])


def test_inputs_of_other_shapes_are_looked_at_for_themselves(monkeypatch):
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    predictor = Predictor(module, None)  # type: ignore[arg-type]  nothing is decoded
    looked = []
    before = ProductsByPlace.__init__
    monkeypatch.setattr(ProductsByPlace, "__init__", lambda self, block: looked.append(block) or before(self, block))
    for size in (8, 8, 12, 8):
        predictor.outputs(ArrayRows(torch.randn(5, 1, size, size)))
    assert len(looked) == 2


def test_what_is_looked_at_once_leaves_the_random_streams_as_they_were():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 9)

        def forward(self, x):
            return self.layer(x).sum(1, keepdim=True) + torch.randn(len(x), 1)

    x = torch.randn(40, 5)
    run = fs.fit(Noisy, fs.Data.arrays(x, x[:, :1]).split(), epochs=1, folder=None, quiet=True, checks=False, device="cpu")
    run._predictor._strides.clear()
    torch.manual_seed(3)
    first = run.predict(x)
    torch.manual_seed(3)
    assert torch.equal(run.predict(x), first)
