"""Fine-tuning: weights from a file, the first layer frozen, the second moved gently, and a new head at the full learning rate."""

import torch
from torch import nn

import fivestep as fs


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        return self.head(self.backbone(x))


def main():
    images, labels = map(torch.from_numpy, fs.datasets.digits())
    pixels = images.flatten(1) / 255
    low, high = labels < 5, labels >= 5

    # What stands for a model from elsewhere: trained to tell 0 to 4, and its backbone kept as a state_dict.
    first = fs.fit(Net, fs.Data.arrays(pixels[low], labels[low]).split(seed=0), loss="CrossEntropyLoss", lr=3e-3, epochs=30)
    torch.save({name: tensor for name, tensor in first.model.state_dict().items() if name.startswith("backbone.")}, "backbone.pt")

    # Few pictures of 5 to 9. weights_strict=False: the file holds no head.
    splits = fs.Data.arrays(pixels[high], labels[high] - 5).split(train=0.1, val=0.1, test=0.8, stratify=True, seed=0)
    run = fs.fit(
        Net,
        splits,
        weights="backbone.pt",
        weights_strict=False,
        freeze=["backbone.0.*"],
        groups={"backbone.2.*": {"lr": 1e-3}},
        loss="CrossEntropyLoss",
        optimizer="AdamW",
        lr=1e-2,
        epochs=100,
    )
    print(run.evaluate("test"))

    before, after = torch.load("backbone.pt", weights_only=True), run.model.state_dict()
    for name in ("backbone.0.weight", "backbone.2.weight"):
        print(f"{name} moved by {(after[name] - before[name]).abs().mean():.5f} on average")


if __name__ == "__main__":
    main()
