"""Rules on the outputs of a scored split."""

from __future__ import annotations

from dataclasses import replace

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


def test_e13_names_the_class_as_the_data_does() -> None:
    labels = torch.tensor([0] * 60 + [1] * 20 + [2] * 10)
    outputs = torch.zeros(90, 3)
    outputs[:, 1] = 3.0
    subject = replace(subject_of(classify()), classes=("Adelie", "Chinstrap", "Gentoo"))
    (finding,) = check_scores(subject, "val", outputs, (labels,))
    assert finding.code == "E13" and finding.severity == "warning"
    assert "given class 'Chinstrap'" in finding.what and "the most frequent one, 'Adelie', have 67%" in finding.what
