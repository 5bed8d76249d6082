"""Promise: at most 4 library frames from `fit` to `backward`, at most 15 library calls a step (one part, default observers, in memory)."""

import sys
import traceback

import torch
from torch import nn

import fivestep as fs

LIBRARY = fs.__path__[0]


class Watched(nn.Module):
    """Walks the stack inside its own forward and inside the backward of its output."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.frames_at_forward: list[int] = []

    def forward(self, x):
        if self.training:
            self.frames_at_forward.append(sum(frame.filename.startswith(LIBRARY) for frame in traceback.extract_stack()))
        return self.layer(x)


def test_at_most_four_library_frames_stand_between_fit_and_the_step():
    model = Watched()
    fs.fit(model, fs.Splits((torch.randn(64, 3), torch.randn(64, 1))), loss="MSELoss", epochs=1, batch_size=8, folder=None, quiet=True)
    assert max(model.frames_at_forward) <= 4  # fit, train, train_epoch, train_step_plain, which calls forward and backward itself


def test_at_most_fifteen_library_calls_a_step():
    def calls(epochs):
        count = 0

        def profile(frame, event, _):
            nonlocal count
            count += event == "call" and frame.f_code.co_filename.startswith(LIBRARY)

        x, y = torch.randn(800, 3), torch.randn(800, 1)
        sys.setprofile(profile)
        try:
            fs.fit(nn.Linear(3, 1), fs.Splits((x, y)), loss="MSELoss", optimizer="AdamW", epochs=epochs, batch_size=8, folder=None, quiet=True)
        finally:
            sys.setprofile(None)
        return count

    steps = 100
    calls(1)
    assert (calls(3) - calls(1)) / (2 * steps) <= 15
