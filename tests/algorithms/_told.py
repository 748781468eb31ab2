"""Environments whose observations say what to do, in every kind of space; shared by the tests of all that clones."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from understudy.util.lean_vec_env import LeanDummyVecEnv

VECTOR = spaces.Box(-1, 1, (4,), np.float32)
OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "vector": VECTOR,
    "dict": spaces.Dict({"told": VECTOR, "phase": spaces.Discrete(2)}),
    "image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
}
ACTIONS: dict[str, spaces.Space[Any]] = {
    "Box": spaces.Box(-1, 1, (2,), np.float32),
    "Discrete": spaces.Discrete(3),
    "Discrete from 3": spaces.Discrete(3, start=3),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(3),
}


class Told(gym.Env[Any, Any]):
    """Shows four random numbers; pays 1 for the action that they ask for. Episodes last ``length`` steps.

    An entry of a Box may be 0.25 off.
    """

    def __init__(self, obs: str = "vector", act: str = "Discrete", length: int = 10) -> None:
        self.observation_space, self.action_space = OBSERVATIONS[obs], ACTIONS[act]
        self._obs, self._length, self._t = obs, length, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._t = 0
        return self._next(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(np.asarray(action, self.action_space.dtype)), action
        right = np.allclose(action, asked_for(np.array(self._told)[None], self.action_space)[0], rtol=0, atol=0.25)
        self._t += 1
        return self._next(), float(right), False, self._t == self._length, {"t": self._t, "cause": object()}

    def _next(self) -> Any:
        self._told = self.np_random.uniform(-1, 1, 4).astype(np.float32)
        if self._obs == "dict":
            return {"told": self._told, "phase": self._t % 2}
        if self._obs == "image":
            bytes_ = ((self._told + 1) * 127.5).astype(np.uint8)
            self._told = (bytes_ / 127.5 - 1).astype(np.float32)
            return np.kron(bytes_.reshape(2, 2), np.ones((18, 18), np.uint8))[..., None]
        return self._told


def asked_for(told: np.ndarray, space: spaces.Space[Any]) -> np.ndarray:
    """The right actions, shape (env, *act)."""
    if isinstance(space, spaces.Box):
        return told[:, :2].astype(np.float32)
    if isinstance(space, spaces.Discrete):
        return told[:, :3].argmax(1) + space.start
    if isinstance(space, spaces.MultiDiscrete):
        return np.stack([(told[:, 0] > 0).astype(np.int64), told[:, :3].argmax(1)], axis=1)
    return (told[:, :3] > 0).astype(np.int8)


def told_in(obs: Any) -> np.ndarray:
    """The four numbers, shape (env, 4)."""
    if hasattr(obs, "keys"):
        return np.asarray(obs.get("told"))
    obs = np.asarray(obs)
    if obs.ndim == 2:
        return obs
    corners = obs[:, [0, 0, -1, -1], [0, -1, 0, -1], 0]
    return (corners / 127.5 - 1).astype(np.float32)


def venv_of(n_envs: int = 2, **options: Any) -> VecEnv:
    return LeanDummyVecEnv([lambda: Told(**options)] * n_envs)
