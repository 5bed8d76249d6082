"""Rules on the outputs of a scored split."""

from __future__ import annotations

import numpy
import torch
from adapter import subject_of
from cases import classify
from torch.nn import functional as F

from fivestep.checks.after_scores import check_scores, renaming


def test_s15_at_scores() -> None:
    labels = torch.arange(90) % 3
    outputs = F.one_hot((labels + 1) % 3, 3).float() * 5
    subject = subject_of(classify())
    assert [finding.code for finding in check_scores(subject, "test", outputs, (labels,), train_accuracy=0.95)] == ["S15"]
    assert check_scores(subject, "test", outputs, (labels,), train_accuracy=0.4) == []
    assert renaming(numpy.array([1, 2, 0]), numpy.array([0, 1, 2])) == 1.0
