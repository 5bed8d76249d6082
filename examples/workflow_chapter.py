"""The classic chapter on PyTorch's workflow: a straight line, a module of two parameters, 300 epochs, predictions in a picture, saved, loaded, equal."""

import matplotlib.pyplot as plt
import torch
from torch import nn

import fivestep as fs


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1))
        self.bias = nn.Parameter(torch.randn(1))

    def forward(self, x):
        return self.weight * x + self.bias


def main():
    # 1. Data: 200 points on a known line, the first 80 % to train on. The test points lie to the right of them, so the line is extrapolated.
    x = torch.arange(0, 1, 0.005).unsqueeze(1)
    y = 0.3 * x + 0.9
    splits = fs.Data.arrays(x, y).split(train=0.8, test=0.2, shuffle=False)

    # 2. and 3. Model and training. watch_test is the chapter's habit: the test loss every 20 epochs. Each look is counted, none chooses anything.
    run = fs.fit(Line, splits, loss="L1Loss", optimizer="SGD", lr=0.01, batch_size="all", epochs=300, validate_every=20, watch_test=True, seed=42)
    for row in run.history:
        if "test_loss" in row:
            print(f"epoch {row['epoch']:3}   train loss {row['train_loss']:.4f}   test loss {row['test_loss']:.4f}")
    print(f"learned: weight {run.model.weight.item():.4f} (true 0.3), bias {run.model.bias.item():.4f} (true 0.9)")

    # 4. Predictions, on the CPU and in the order of the rows.
    x_train, y_train, x_test, y_test = x[:160], y[:160], x[160:], y[160:]
    predictions = run.predict(x_test)
    plt.figure(figsize=(8, 5))
    plt.scatter(x_train, y_train, s=4, label="training data")
    plt.scatter(x_test, y_test, s=4, label="test data")
    plt.scatter(x_test, predictions, s=4, label="predictions")
    plt.legend()
    plt.savefig("predictions.png")

    # 5. Saved, loaded, and the same predictions to the last bit.
    run.save("line.fivestep", replace=True)
    loaded = fs.load("line.fivestep", model=Line)
    print("loaded predictions are equal:", torch.equal(loaded.predict(x_test), predictions))


if __name__ == "__main__":
    main()
