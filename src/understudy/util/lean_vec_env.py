"""Stable-Baselines3's ``DummyVecEnv`` without its deep copies."""

from __future__ import annotations

import functools
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs

_CANNOT_CHANGE = frozenset((bool, int, float, str, type(None), np.bool_, np.float32, np.float64, np.int64))


def _copied(info: dict[str, Any]) -> dict[str, Any]:
    """As ``deepcopy``, which walks the dictionary slowly even where nothing in it could change later."""
    for value in info.values():
        if type(value) not in _CANNOT_CHANGE:
            return deepcopy(info)
    return info.copy()


class LeanDummyVecEnv(DummyVecEnv):
    """Environments stepped one after the other in this process.

    What ``step`` and ``reset`` return belongs to the caller, as in the base class; arrays are copied as arrays, and
    info dictionaries deeply only where they hold something that could change.
    """

    def step_wait(self) -> VecEnvStepReturn:
        """Step all environments; finished ones are reset, their last observation is in their info."""
        rews, dones, actions = self.buf_rews, self.buf_dones, self.actions
        whole = self.buf_obs[None] if list(self.keys) == [None] else None  # type: ignore[index]
        infos: list[dict[str, Any]] = []
        for i, env in enumerate(self.envs):
            obs, rews[i], terminated, truncated, info = env.step(actions[i])
            dones[i] = done = terminated or truncated
            info = _copied(info)
            info["TimeLimit.truncated"] = truncated and not terminated
            if done:
                info["terminal_observation"] = deepcopy(obs)
                obs, self.reset_infos[i] = env.reset()
            if whole is None:
                self._save_obs(i, obs)
            else:
                whole[i] = obs
            infos.append(info)
        self.buf_infos = infos
        return self._obs_from_buf(), rews.copy(), dones.copy(), infos

    def _obs_from_buf(self) -> VecEnvObs:
        copies = {key: array.copy() for key, array in self.buf_obs.items()}
        return dict_to_obs(self.observation_space, copies)


def first_of(venv: VecEnv, n: int) -> VecEnv:
    """The first ``n`` environments, where they can be stepped without the others; else all of them.

    They are the same objects: a step in one of the two is a step in both. Reset before going on with the other.
    """
    if type(venv) not in (DummyVecEnv, LeanDummyVecEnv) or n >= venv.num_envs:
        return venv
    assert isinstance(venv, DummyVecEnv)
    return LeanDummyVecEnv([functools.partial(_itself, env) for env in venv.envs[:n]])


def _itself(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return env
