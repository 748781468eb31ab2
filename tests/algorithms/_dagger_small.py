"""Environments and experts for DAgger: what to do can be read off every observation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from understudy.algorithms.bc import BC
from understudy.algorithms.dagger import SimpleDAggerTrainer
from understudy.util.lean_vec_env import LeanDummyVecEnv
from understudy.util.logger import configure

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
    """Shows four random numbers; pays 1 for the action that they ask for. Episodes last ``length`` steps."""

    def __init__(self, obs: str = "vector", act: str = "Discrete", length: int = 10) -> None:
        self.observation_space, self.action_space = OBSERVATIONS[obs], ACTIONS[act]
        self._obs, self._length, self._t = obs, length, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._t = 0
        return self._next(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        right = np.array_equal(action, asked_for(np.array(self._told)[None], self.action_space)[0])
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


def bc_of(venv: VecEnv, seed: int = 0, **options: Any) -> BC:
    return BC(
        observation_space=venv.observation_space,
        action_space=venv.action_space,
        rng=seed,
        **{"custom_logger": configure(format_strs=[]), **options},
    )


def simple(folder: Path, venv: VecEnv | None = None, *, expert: Any = None, seed: int = 0, **options: Any) -> Any:
    venv = venv_of() if venv is None else venv
    space = venv.action_space
    return SimpleDAggerTrainer(
        venv=venv,
        scratch_dir=folder,
        expert_policy=expert or (lambda obs: asked_for(told_in(obs), space)),
        rng=seed,
        bc_trainer=options.pop("bc_trainer", None) or bc_of(venv, seed),
        **options,
    )


SMALL = {
    "rollout_round_min_timesteps": 30,
    "rollout_round_min_episodes": 2,
    "bc_train_kwargs": {"log_rollouts_n_episodes": 0},
}
"""Rounds of four episodes with two environments."""
