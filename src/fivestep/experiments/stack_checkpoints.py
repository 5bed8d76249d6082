"""Checkpoints of a group that trains stacked: a killed sweep loses at most the interval, and ends in the same bits.

Enters: the sweep's folder and a group. Leaves: `SWEEP/stacks/<group>/epoch-000000000012` through the protocol of every checkpoint (`files.publish`), taken at the
edge of an epoch once `checkpoint=` (5 minutes) has passed; they go when the group has ended. A run alone has checkpoints inside epochs too; members of a stack
are many and their epochs short, so here the edge of an epoch is the only place.
"""

from __future__ import annotations

import hashlib
import shutil
import time
import warnings
from pathlib import Path
from signal import Signals
from typing import Any

from fivestep import files
from fivestep.errors import ArtifactError, Interrupted, StorageError
from fivestep.train import checkpoints, population_state
from fivestep.train.population import Population
from fivestep.train.signals import Listener

PREFIX = "epoch-"
KEEP = 2  # the newest, and one before it should a byte of the newest be damaged


class StackKeeper:
    """Writes a group's checkpoints, and ends it at the edge of an epoch when a signal asks for it; `after_epoch` is the population's hook."""

    def __init__(self, sweep_folder: Path, job_names: list[str], *, checkpoint: Any, on_error: str, heard: Listener):
        # The folder's name tells which trainings stand in it: after a kill a group of other members begins anew.
        digest = hashlib.sha256("\n".join(job_names).encode()).hexdigest()[:12]
        self.folder = sweep_folder / "stacks" / f"{job_names[0]}-{digest}"
        self.rhythm, self.every = checkpoints.read_rhythm(checkpoint)
        self.on_error, self.heard = on_error, heard
        self.due_time, self.due_step = float("inf"), 0
        self.save_seconds = 0.0

    def begin(self, population: Population) -> int:
        """Go on from the newest checkpoint where there is one; returns how many epochs are done."""
        files.make_folder(self.folder.parent, exist_ok=True)
        files.make_folder(self.folder, exist_ok=True)
        files.remove_dead_temporaries(self.folder)
        newest = files.newest_valid(self.folder, PREFIX, checkpoints.FILES, parse=checkpoints.parsed)
        for path, reason in newest.damaged:
            warnings.warn(f"{path} is damaged and was passed over: {reason}", stacklevel=2)
        if newest.published is not None:
            try:
                population_state.restore(population, *newest.parsed)
            except ArtifactError as error:
                raise ArtifactError(f"{error} It stands in {newest.published.path}. To train these variants from the start, remove {self.folder}.") from error
        self._next(population)
        return population.epoch

    def after_epoch(self, population: Population) -> None:
        asked = self.heard.number
        due = self.rhythm == "epoch" or time.monotonic() >= self.due_time or (self.rhythm == "steps" and population.report.steps >= self.due_step)
        if self.rhythm != "never" and (due or asked is not None):
            try:
                self._write(population)
            except StorageError as error:
                if self.on_error != "retry" or asked is not None:
                    raise
                warnings.warn(f"{error}. Training goes on and tries again (on_checkpoint_error='retry').", stacklevel=2)
            self._next(population)
        if asked is not None:
            saved = (
                f"The stacked trainings are saved after epoch {population.epoch}"
                if self.rhythm != "never"
                else "The stacked trainings begin again (checkpoint=None)"
            )
            raise Interrupted(f"Stopped by {Signals(asked).name}. {saved}", exit_code=128 + asked)

    def ended(self) -> None:
        """All trainings of the group are kept, and nothing needs its checkpoints any more."""
        shutil.rmtree(self.folder)

    def _write(self, population: Population) -> None:
        began = time.monotonic()
        tensors, entry = population_state.capture(population)
        contents = checkpoints.contents_of(tensors, entry)
        files.publish(self.folder, f"{PREFIX}{population.epoch:012d}", contents, facts={"step": population.epoch})
        files.prune(self.folder, KEEP, prefix=PREFIX)
        self.save_seconds = time.monotonic() - began

    def _next(self, population: Population) -> None:
        if self.rhythm == "steps":
            self.due_step = population.report.steps + int(self.every)
        elif self.rhythm == "seconds":
            self.due_time = time.monotonic() + checkpoints.wait_seconds(self.every, self.save_seconds)
