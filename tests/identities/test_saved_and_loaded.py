"""Promise: saved and loaded predicts the same bits; a row's answer does not depend on its neighbours."""

import polars
import pytest
import torch
from torch import nn

import fivestep as fs


def table(rows=90):
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(rows, generator=generator), torch.rand(rows, generator=generator) * 40
    kind = [["red", "green", "blue"][int(value) % 3] for value in torch.randint(0, 3, (rows,), generator=generator)]
    y = 3 * a - 0.1 * b + torch.tensor([{"red": 0.0, "green": 1.0, "blue": 5.0}[k] for k in kind])
    return {"a": a.numpy(), "b": b.numpy(), "kind": kind, "y": y.numpy()}


SETTINGS = dict(epochs=3, folder=None, quiet=True, device="cpu")


class Net(nn.Module):
    def __init__(self, num_inputs):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(num_inputs, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 1))

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("model", ["linear", "mlp", "resnet", Net])
def test_a_table_saved_and_loaded_predicts_the_same_bits(model, tmp_path):
    run = fs.fit(model, fs.Data.table(table(), target="y").split(seed=1), **SETTINGS)
    run.save(tmp_path / "model.fivestep")
    loaded = fs.load(tmp_path / "model.fivestep", model=None if isinstance(model, str) else model)
    new = {key: value for key, value in table().items() if key != "y"}
    before, after = run.predict(new), loaded.predict(new)
    assert before["y"].tobytes() == after["y"].tobytes()


def test_a_row_alone_and_among_others_is_the_same_to_the_bit():
    run = fs.fit(Net, fs.Data.table(table(), target="y").split(seed=1), **SETTINGS)
    rows = polars.DataFrame(table()).drop("y")
    together = run.predict(rows)["y"].to_list()
    alone = [run.predict(rows[k : k + 1])["y"].item() for k in range(len(rows))]
    assert together == alone


def test_an_array_row_alone_and_among_others_is_the_same_to_the_bit():
    x = torch.randn(600, 7)
    run = fs.fit(lambda: nn.Sequential(nn.Linear(7, 33), nn.ReLU(), nn.Linear(33, 2)), fs.Data.arrays(x, x[:, :2]).split(), loss="MSELoss", **SETTINGS)
    together = run.predict(x)
    for k in (0, 1, 255, 256, 599):
        assert torch.equal(together[k : k + 1], run.predict(x[k : k + 1]))
    assert isinstance(run.predict(x.numpy()), type(x.numpy()))


def test_images_saved_and_loaded_predict_the_same_bits(tmp_path):
    x, y = torch.rand(60, 1, 8, 8), torch.arange(60) % 3
    run = fs.fit("cnn", fs.Data.images(x, y).split(stratify=True), **SETTINGS)
    run.save(tmp_path / "m.fivestep")
    assert torch.equal(run._predictor.outputs(run._encoded["test"]), fs.load(tmp_path / "m.fivestep")._predictor.outputs(run._encoded["test"]))


@pytest.mark.parametrize(
    "loss", [{"name": "AdaptiveLogSoftmaxWithLoss", "in_features": 5, "n_classes": 7, "cutoffs": [3]}, {"name": "LinearCrossEntropyLoss", "in_features": 5, "num_classes": 7}], ids=lambda spec: spec["name"]
)  # fmt: skip
def test_a_built_in_model_whose_loss_holds_the_last_layer_predicts_the_same_bits_when_it_is_loaded(tmp_path, loss):
    if not hasattr(nn, loss["name"]):
        pytest.skip(f"this torch has no {loss['name']}")
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    splits = fs.Data.arrays(x, (x[:, 0] > 0).long() * 5 + (x[:, 1] > 0).long()).split(seed=0)
    run = fs.fit("mlp", splits, model_args={"num_outputs": 5}, loss=loss, epochs=2, folder=tmp_path, quiet=True, checks=False)
    again = fs.load(run.folder)
    assert again.predict(x).equal(run.predict(x))
    run.save(tmp_path / "plain.safetensors")
    from safetensors.torch import load_file

    plain = load_file(tmp_path / "plain.safetensors")
    assert any(name.startswith("loss:") for name in plain) and all(plain[name].equal(tensor) for name, tensor in run.model.state_dict().items())
