"""Observers: functions of one event; they get a run's numbers, never its model. `fs.fit(..., observers=[f])` calls `f(event)` when a run starts, after each epoch and at the
end; `tensorboard(folder)` and `mlflow(experiment)` return such a function."""

from fivestep.train.events import EpochEnded as EpochEnded
from fivestep.train.events import RunEnded as RunEnded
from fivestep.train.events import RunStarted as RunStarted
from fivestep.watch.trackers import mlflow as mlflow
from fivestep.watch.trackers import tensorboard as tensorboard
