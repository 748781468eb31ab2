"""What a ``VecNormalize`` was given, exactly: undoing its arithmetic would lose what it clipped and rounded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class _KeepsLastObs(VecEnvWrapper):
    """Stands below the normaliser, which overwrites the last observations in the infos it is given."""

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        obs, rews, dones, infos = self.venv.step_wait()
        self.kept_last_obs: list[Any] = [infos[env]["terminal_observation"] for env in np.flatnonzero(dones)]
        return obs, rews, dones, infos


class BelowNormalize:
    """Observations and rewards of the last step as they were before normalising."""

    def __init__(self, normalised: VecNormalize, keeper: _KeepsLastObs) -> None:
        self._normalised = normalised
        self._keeper = keeper

    def obs(self) -> Any:
        """Shape (env, *obs) or a dictionary of such."""
        return self._normalised.get_original_obs()

    def rews(self) -> np.ndarray:
        """Shape (env,)."""
        return self._normalised.get_original_reward()

    def last_obs(self) -> list[Any]:
        """The last observation of each environment that finished with this step, by rising index."""
        return self._keeper.kept_last_obs


@contextmanager
def below(normalised: VecNormalize) -> Iterator[BelowNormalize]:
    """Look below the normaliser while inside; afterwards it is as it was."""
    keeper = _KeepsLastObs(normalised.venv)
    normalised.venv = keeper
    try:
        yield BelowNormalize(normalised, keeper)
    finally:
        normalised.venv = keeper.venv
