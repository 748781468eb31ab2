"""Stable-Baselines3's ``DummyVecEnv`` without its deep copies."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs

_CANNOT_CHANGE = frozenset((bool, int, float, str, type(None), np.bool_, np.float32, np.float64, np.int64))


def _copied(info: dict[str, Any]) -> dict[str, Any]:
    """As ``deepcopy``, which walks the dictionary slowly even where nothing in it could change later."""
    if all(type(value) in _CANNOT_CHANGE for value in info.values()):
        return info.copy()
    return deepcopy(info)


class LeanDummyVecEnv(DummyVecEnv):
    """Environments stepped one after the other in this process.

    What ``step`` and ``reset`` return belongs to the caller, as in the base class; arrays are copied as arrays, and
    info dictionaries deeply only where they hold something that could change.
    """

    def step_wait(self) -> VecEnvStepReturn:
        """Step all environments; finished ones are reset, their last observation is in their info."""
        infos: list[dict[str, Any]] = []
        for i, env in enumerate(self.envs):
            obs, self.buf_rews[i], terminated, truncated, info = env.step(self.actions[i])
            done = terminated or truncated
            self.buf_dones[i] = done
            info = _copied(info)
            info["TimeLimit.truncated"] = truncated and not terminated
            if done:
                info["terminal_observation"] = deepcopy(obs)
                obs, self.reset_infos[i] = env.reset()
            self._save_obs(i, obs)
            infos.append(info)
        self.buf_infos = infos
        return self._obs_from_buf(), self.buf_rews.copy(), self.buf_dones.copy(), infos

    def _obs_from_buf(self) -> VecEnvObs:
        copies = {key: array.copy() for key, array in self.buf_obs.items()}
        return dict_to_obs(self.observation_space, copies)
