"""What a reward function is."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

__all__ = ["RewardFn"]


@runtime_checkable
class RewardFn(Protocol):
    """Anything that rates a batch of transitions, for example ``reward_net.predict_processed``."""

    def __call__(self, state: Any, action: np.ndarray, next_state: Any, done: np.ndarray) -> np.ndarray:
        """Rewards of shape (batch,).

        Args:
            state: observations, shape (batch, *obs), or a dictionary of these.
            action: as the environment executed them, shape (batch, *act).
            next_state: observations after the step; at the end of an episode its last one, not the next one's first.
            done: whether the episode *terminated* with the step, shape (batch,); a time limit is no termination.
        """
        ...
