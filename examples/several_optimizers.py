"""Several optimizers in one run: Muon for the hidden matrices, AdamW for the rest, and a warm-up before a cosine decay for both."""

import torch
from torch import nn

import fivestep as fs


class Net(nn.Module):
    def __init__(self, num_inputs, num_outputs):
        super().__init__()
        self.first = nn.Linear(num_inputs, 64)
        self.body = nn.Sequential(nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU())
        self.last = nn.Linear(64, num_outputs)

    def forward(self, x):
        return self.last(self.body(self.first(x)))


def main():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 6, generator=draw)
    y = (x[:, 0] * x[:, 1] + torch.sin(2 * x[:, 2])).unsqueeze(1) + 0.1 * torch.randn(2000, 1, generator=draw)

    run = fs.fit(
        Net,
        fs.Data.arrays(x, y).split(seed=0),
        loss="MSELoss",
        # Patterns over the names of parameters, the first that fits wins. Muon (Jordan 2024) takes matrices only, so the biases go to AdamW.
        optimizer={"body.*.weight": {"name": "Muon", "lr": 2e-2}, "*": {"name": "AdamW", "lr": 3e-3}},
        scheduler=[{"name": "LinearLR", "start_factor": 0.1, "epochs": 3}, {"name": "CosineAnnealingLR"}],
        clip_norm=1.0,
        epochs=30,
    )
    print(run.evaluate("test"))
    print("learning rates by epoch:", [tuple(round(rate, 5) for rate in row["lr"]) for row in run.history[:5]], "...")


if __name__ == "__main__":
    main()
