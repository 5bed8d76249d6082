"""Improve: many trainings of one model, and the truth about what helped.

`sweep` and `cross_validate` (sweeps.py) train variants or folds; `compare` (comparisons.py) puts finished runs beside each other.
"""

from fivestep.experiments.comparisons import compare
from fivestep.experiments.sweeps import Sweep, cross_validate, sweep

__all__ = ["Sweep", "compare", "cross_validate", "sweep"]
