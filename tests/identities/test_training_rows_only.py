"""Promise: columns and weights are fitted on training rows only; perturbing every other row changes no bit of them."""

import numpy
import torch

import fivestep as fs


def table(perturb=(), value=1e4):
    generator = torch.Generator().manual_seed(7)
    a, b = torch.randn(80, generator=generator).numpy(), torch.randn(80, generator=generator).numpy()
    kind = numpy.array(["u", "v", "w", "x"], dtype=object)[torch.randint(0, 4, (80,), generator=generator).numpy()]
    y = a * 2 + b
    for row in perturb:
        a[row], y[row] = value, -value
        b[row] = numpy.nan
        kind[row] = "never seen in training"
    return {"a": a, "b": b, "kind": kind.tolist(), "y": y}


def fit(data):
    splits = fs.Data.table(data, target="y").split(seed=3)
    return splits, fs.fit("mlp", splits, epochs=3, keep="last", patience=None, calibrate=False, folder=None, quiet=True, checks=False, device="cpu")


def test_the_test_and_validation_rows_change_no_bit_of_the_weights():
    splits, run = fit(table())
    others = [int(row) for part in (splits.val, splits.test) for row in part.indices]
    perturbed_splits, perturbed = fit(table(perturb=others))
    assert torch.equal(splits.train.indices, perturbed_splits.train.indices)
    assert run.weights_sha256 == perturbed.weights_sha256
    assert splits.columns.to_json() == perturbed_splits.columns.to_json()


def test_a_training_row_does_change_them():
    splits, run = fit(table())
    assert run.weights_sha256 != fit(table(perturb=[int(splits.train.indices[0])], value=3.0))[1].weights_sha256
