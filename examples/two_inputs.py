"""A model with two inputs: a tuple reaches forward as `model(*inputs)`, here numbers and the code of a district for an embedding."""

import torch
from torch import nn

import fivestep as fs


class Rent(nn.Module):
    def __init__(self, num_districts):
        super().__init__()
        self.district = nn.Embedding(num_districts, 4)
        self.layers = nn.Sequential(nn.Linear(2 + 4, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, numbers, district):
        return self.layers(torch.cat([numbers, self.district(district)], dim=1))


def main():
    draw = torch.Generator().manual_seed(0)
    numbers = torch.randn(2000, 2, generator=draw)  # area and age, standardised
    district = torch.randint(5, (2000,), generator=draw)
    level = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.5])[district].unsqueeze(1)  # what a district adds to the rent
    rent = numbers[:, :1] - 0.3 * numbers[:, 1:] + level + 0.1 * torch.randn(2000, 1, generator=draw)

    splits = fs.Data.arrays((numbers, district), rent).split(seed=0)
    run = fs.fit(Rent, splits, model_args={"num_districts": 5}, loss="MSELoss", optimizer="AdamW", lr=1e-2, epochs=30)
    print(run.evaluate("test"))

    same_flat = torch.zeros(5, 2)
    for code, value in enumerate(run.predict((same_flat, torch.arange(5))).flatten().tolist()):
        print(f"the same flat in district {code}: {value:+.2f}")


if __name__ == "__main__":
    main()
