"""Trainings that survive: where to save, how often, and how a killed run goes on.

A run that checkpoints is cut into legs. Each leg begins by seeding every generator from ``SeedSequence([seed, leg])``,
whether or not the run was ever interrupted, and ends with a checkpoint. So a run that was killed at any instant and
resumed gives the same bytes as one that was not; on the same versions, kind of processor and number of threads.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from understudy.errors import ConfigError
from understudy.util.paths import AnyPath

__all__ = ["Checkpoints"]


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """What ``train`` needs to know to save as it goes.

    Ctrl-C or SIGTERM ends a training that has it at the next safe point: what was learned so far is then in
    ``folder/snapshot``, for use, and ``resume=True`` goes on from the last leg's end. A second signal ends it at once.
    """

    folder: AnyPath
    """Where the checkpoints of this one run lie; made if missing. One process at a time may work in it."""

    every: int = 5_000
    """Length of a leg in the trainer's own unit: optimiser steps for behavioural cloning. What a kill can lose."""

    keep: int = 2
    """How many of the newest checkpoints stay."""

    resume: bool = False
    """Go on from the newest checkpoint in ``folder`` that verifies; begin there if there is none."""

    allow_other_threads: bool = False
    """Resume with another number of threads than the run began with: the result may then differ in its last bits."""

    def __post_init__(self) -> None:
        """Raise ConfigError for lengths and numbers below 1."""
        for name in ("every", "keep"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ConfigError(
                    expected=f"`{name}` as a whole number ≥ 1", got=repr(value), do=f"leave `{name}` out, or pass 1"
                )
            object.__setattr__(self, name, int(value))
