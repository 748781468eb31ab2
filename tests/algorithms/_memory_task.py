"""An environment that shows a cue at first and asks for it twenty steps later; and its expert."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from understudy.data.types import TrajectoryWithRew
from understudy.policies.base import NonTrainablePolicy
from understudy.util.lean_vec_env import LeanDummyVecEnv

DELAY = 20
SPACE = spaces.Box(-1, 1, (2,), np.float32)
ACTIONS = spaces.Discrete(3)


class Recall(gym.Env[np.ndarray, Any]):
    """Observations are (cue, asked): the cue, ±1, at step 0 only; asked = 1 at step 20, the last.

    The reward is 1 for action 1 (cue −1) or 2 (cue +1) at step 20, and 0 for everything else.
    """

    observation_space, action_space = SPACE, ACTIONS

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._cue = int(self.np_random.integers(2))
        self._t = 0
        return np.array([2 * self._cue - 1, 0], np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = float(self._t == DELAY and int(action) == 1 + self._cue)
        self._t += 1
        return np.array([0, float(self._t == DELAY)], np.float32), reward, self._t > DELAY, False, {}


def venv_of(n_envs: int = 4) -> VecEnv:
    return LeanDummyVecEnv([Recall] * n_envs)


def answers(obs: np.ndarray, cues: np.ndarray) -> np.ndarray:
    """What is right: 0 until asked."""
    return np.where(obs[:, 1] > 0, 1 + cues, 0)


def demonstrations(n: int) -> list[TrajectoryWithRew]:
    """The expert's, half of them for each cue."""
    found = []
    for i in range(n):
        obs = np.zeros((DELAY + 2, 2), np.float32)
        obs[0, 0], obs[DELAY, 1] = 2 * (i % 2) - 1, 1
        acts = answers(obs[:-1], np.full(DELAY + 1, i % 2))
        rews = np.eye(DELAY + 1)[-1]
        found.append(TrajectoryWithRew(obs=obs, acts=acts, infos=None, terminal=True, rews=rews))
    return found


class RecallExpert(NonTrainablePolicy):
    """Acts as the expert does; its state is each environment's cue."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        cues = (observation[:, 0] > 0).astype(np.int64)
        if state is not None:
            cues = np.where(episode_start, cues, state[0])
        return answers(observation, cues), (cues,)

    def _choose_action(self, obs: Any) -> np.ndarray:
        raise NotImplementedError
