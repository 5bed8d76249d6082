"""Every loss of torch.nn with arguments, outputs and targets that it takes; all axes differ."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

N, C, T, D = 23, 5, 11, 7  # examples, classes, time steps, features: all axes different
EVERY_LOSS = sorted(name for name in dir(nn) if name.endswith(("Loss", "Loss2d")))
VARIANTS = [(name, {}) for name in EVERY_LOSS] + [
    ("CrossEntropyLoss", {"ignore_index": 2}),
    ("CrossEntropyLoss", {"weight": torch.tensor([0.5, 1.0, 2.0, 0.25, 4.0], dtype=torch.float64)}),
    ("CrossEntropyLoss", {"weight": torch.tensor([0.5, 1.0, 2.0, 0.25, 4.0], dtype=torch.float64), "ignore_index": 0, "label_smoothing": 0.1}),
    ("NLLLoss", {"weight": torch.tensor([0.5, 1.0, 2.0, 0.25, 4.0], dtype=torch.float64), "ignore_index": 4}),
    ("NLLLoss2d", {"ignore_index": 1}),
    ("LinearCrossEntropyLoss", {"weight": torch.tensor([0.5, 1.0, 2.0, 0.25, 4.0], dtype=torch.float64), "ignore_index": 3}),
    ("MultiMarginLoss", {"weight": torch.tensor([0.5, 1.0, 2.0, 0.25, 4.0], dtype=torch.float64), "p": 2}),
    ("BCEWithLogitsLoss", {"pos_weight": torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)}),
    ("KLDivLoss", {"reduction": "batchmean"}),
]  # fmt: skip


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def labels(*shape: int) -> Tensor:
    return torch.randint(0, C, shape)


def signs(*shape: int) -> Tensor:
    return torch.randint(0, 2, shape).double() * 2 - 1


def case(name: str) -> tuple[dict, Tensor | tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Arguments, raw model outputs of N examples (before what `ending` does) and targets for a loss by name."""
    if name in ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss"):
        return {}, draw(N, 3), (draw(N, 3),)
    if name == "GaussianNLLLoss":
        return {}, (draw(N, 3), draw(N, 3)), (draw(N, 3),)
    if name == "PoissonNLLLoss":
        return {"full": True}, draw(N, 3), (torch.randint(0, 6, (N, 3)).double(),)
    if name in ("CrossEntropyLoss", "NLLLoss"):
        return {}, draw(N, C), (labels(N),)
    if name == "NLLLoss2d":
        return {}, draw(N, C, 2, 3), (labels(N, 2, 3),)
    if name == "LinearCrossEntropyLoss":
        return {"in_features": D, "num_classes": C, "dtype": torch.float64}, draw(N, D), (labels(N),)
    if name == "AdaptiveLogSoftmaxWithLoss":
        return {"in_features": D, "n_classes": C, "cutoffs": [2], "div_value": 2.0, "dtype": torch.float64}, draw(N, D), (labels(N),)
    if name == "MultiMarginLoss":
        return {}, draw(N, C), (labels(N),)
    if name in ("BCELoss", "BCEWithLogitsLoss", "MultiLabelSoftMarginLoss"):
        return {}, draw(N, 3), (torch.randint(0, 2, (N, 3)).double(),)
    if name in ("SoftMarginLoss", "HingeEmbeddingLoss"):
        return {}, draw(N, 3), (signs(N, 3),)
    if name == "MultiLabelMarginLoss":
        lists = torch.full((N, C), -1)
        lists[:, 0], lists[::2, 1] = 3, 1
        return {}, draw(N, C), (lists,)
    if name == "KLDivLoss":
        return {}, draw(N, C), (draw(N, C).softmax(1),)
    if name == "CTCLoss":
        return {}, draw(N, T, C), (torch.randint(1, C, (N, 4)), torch.randint(8, T + 1, (N,)), torch.randint(1, 5, (N,)))
    if name == "CosineEmbeddingLoss":
        return {"margin": 0.2}, (draw(N, D), draw(N, D)), (signs(N),)
    if name == "MarginRankingLoss":
        return {"margin": 0.2}, (draw(N), draw(N)), (signs(N),)
    if name in ("TripletMarginLoss", "TripletMarginWithDistanceLoss"):
        return {}, (draw(N, D), draw(N, D), draw(N, D)), ()
    raise AssertionError(f"no case for {name}: LOSSES and this test must learn it")


def ending(name: str, outputs):
    """What the model of this loss ends in."""
    if name in ("NLLLoss", "NLLLoss2d", "KLDivLoss"):
        return outputs.log_softmax(1)
    if name == "CTCLoss":
        return outputs.transpose(0, 1).log_softmax(-1)  # time first
    if name == "BCELoss":
        return outputs.sigmoid()
    if name == "GaussianNLLLoss":
        return outputs[0], F.softplus(outputs[1]) + 0.01
    return outputs
