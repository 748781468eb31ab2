"""The policy that learns, as it acts in DAgger's environments."""

from __future__ import annotations

from typing import Any

import numpy as np

from understudy.data.acting import PolicyCallable


class Learner:
    """A policy's actions from observations, with a memory of each environment that begins anew with its episodes.

    It is to be called with the observations of every step, also where its actions are not executed.

    Args:
        act: the policy.
    """

    def __init__(self, act: PolicyCallable) -> None:
        self._act = act
        self._state: Any = None
        self._starts: np.ndarray | None = None

    def begin(self, n_envs: int) -> None:
        """Episodes begin in all environments."""
        self._state, self._starts = None, np.ones(n_envs, dtype=bool)

    def stepped(self, dones: np.ndarray) -> None:
        """The environments made a step, and some of them, a mask of shape (env,), were reset with it."""
        self._starts = np.array(dones, dtype=bool)

    def __call__(self, obs: Any) -> np.ndarray:
        acts, self._state = self._act(obs, self._state, self._starts)
        return acts
