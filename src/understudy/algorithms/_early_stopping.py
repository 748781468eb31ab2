"""Validation on held-out episodes: split, measure, keep the best, know when to stop."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from understudy.algorithms._cloning_steps import CloningStep
from understudy.data.batches import ResidentBatches
from understudy.data.demonstrations import Demonstrations, RowRanges
from understudy.data.sequences import SequenceBatches
from understudy.errors import ConfigError, DataError


def split_episodes(
    demos: Demonstrations, fraction: float, rng: np.random.Generator
) -> tuple[RowRanges | None, RowRanges | None]:
    """Rows to train on and rows held out; whole episodes only, since neighbouring steps are nearly copies.

    Returns:
        (training rows, held-out rows); (None, None) for all rows and no validation.

    Raises:
        ConfigError: ``fraction`` outside [0, 1).
        DataError: fewer than two episodes.
    """
    check_split(demos, fraction)
    if fraction == 0:
        return None, None
    n_held_out = min(max(1, round(fraction * demos.n_episodes)), demos.n_episodes - 1)
    order = rng.permutation(demos.n_episodes)
    held_out, train = np.sort(order[:n_held_out]), np.sort(order[n_held_out:])
    return demos.ranges_of_episodes(train), demos.ranges_of_episodes(held_out)


def check_split(demos: Demonstrations, fraction: float) -> None:
    """Raise what ``split_episodes`` would raise, without drawing anything."""
    if not 0 <= fraction < 1:
        raise ConfigError(expected="`validation_fraction` in [0, 1)", got=str(fraction), do="hold out 0.1, for example")
    if fraction and demos.n_episodes < 2:
        raise DataError(
            expected="at least two episodes, one to learn from and one to hold out",
            got="one episode" if demos.episodes_known else "rows that do not say where episodes end",
            do="pass trajectories, or arrays with `episode_ends` (or `dones` and `truncated`)",
        )


def episodes_of(demos: Demonstrations, rows: RowRanges) -> tuple[int, ...]:
    """The whole episodes whose transitions are given, rising."""
    return tuple((np.searchsorted(demos.episode_offsets, rows.starts, side="right") - 1).tolist())


class EarlyStopping:
    """Follows the validation loss over epochs.

    Args:
        validation: the held-out rows.
        patience: epochs without improvement before ``should_stop``; None never stops.
        save_best: put the best epoch's parameters back at the end.
        episodes: the episodes these rows are, kept for the result.
    """

    def __init__(
        self,
        validation: ResidentBatches | SequenceBatches,
        patience: int | None,
        save_best: bool,
        episodes: tuple[int, ...],
    ) -> None:
        if patience is not None and patience < 1:
            raise ConfigError(expected="`patience` ≥ 1", got=str(patience), do="allow at least one epoch")
        self._validation = validation
        self.episodes = episodes
        self._patience = patience
        self._save_best = save_best
        self._best: dict[str, torch.Tensor] | None = None
        self.best_epoch: int | None = None
        self.losses: list[float] = []

    def measure(self, epoch: int, step: CloningStep) -> float:
        """Mean negative log-likelihood of the held-out actions, in nats; every one weighs the same."""
        total = 0.0
        for chunk in self._validation.epoch():
            for batch in step.prepare(chunk).split(1024):
                total -= float(step.terms(batch).log_prob.double().sum())
        loss = total / self._validation.n_rows
        if self.best_epoch is None or loss < self.losses[self.best_epoch]:
            self.best_epoch = epoch
            if self._save_best:
                self._best = copy.deepcopy(step.policy.state_dict())
        self.losses.append(loss)
        return loss

    @property
    def should_stop(self) -> bool:
        """Whether patience has run out."""
        if self._patience is None or self.best_epoch is None:
            return False
        return len(self.losses) - 1 - self.best_epoch >= self._patience

    def state(self) -> dict[str, Any]:
        """What was measured so far, and the best parameters."""
        return {"losses": np.array(self.losses), "best_epoch": self.best_epoch, "best": self._best}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.losses = np.asarray(state["losses"], dtype=np.float64).tolist()
        self.best_epoch = state["best_epoch"]
        self._best = state["best"]

    def finish(self, step: CloningStep) -> None:
        """Measure once if no epoch ended, and put the best parameters back, if that is wanted."""
        if not self.losses:
            self.measure(0, step)
        if self._best is not None:
            step.policy.load_state_dict(self._best)
