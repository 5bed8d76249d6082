"""All parts of one training, composed: what `prepare` made, what trains, and what `finish` needs for scores and the artifact.

Enters: the parts, each made by the module that owns it. Leaves: one object that is handed from preparing to training to finishing. The decision that shaped it: what
will change is `training`, what will not is `plan`; the rest is there to be read.
"""

from __future__ import annotations

import time as clock
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fivestep.checks.findings import Finding
from fivestep.data.data import Splits
from fivestep.model import building
from fivestep.model.decoding import Decoding
from fivestep.results.predictor import Predictor
from fivestep.settings import Settings
from fivestep.train import checkpoints
from fivestep.train.epochs import Plan, Training


@dataclass
class Session:
    """All parts of one fit, composed: what `prepare` made and `finish` needs."""

    arguments: dict[str, Any]
    settings: Settings
    splits: Splits
    built: building.Built
    training: Training
    plan: Plan
    decoding: Decoding
    loss: Any
    loss_name: str | None
    predictor: Predictor
    task: str | None
    device: torch.device
    folder: Path | None
    encoded: dict[str, Any]
    targets_in_unit: Callable[[str], Tensor | None]
    evaluate_loss: Callable[[str], float | tuple[Tensor, Tensor] | None]
    findings: list[Finding] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    started: float = field(default_factory=clock.perf_counter)
    inexact: list[str] = field(default_factory=list)  # why a resume would not end in the same bits; empty where it does
    weights_report: Any = None
    can_predict: bool = True
    checks: Any = None
    batch_size: int = 32
    user_metrics: dict[str, Callable[..., Any]] = field(default_factory=dict)
    keepers: list[checkpoints.Keeper] = field(default_factory=list)
    progress: Any = None  # what tells people how far the run is; closed when it ends, however it ends
