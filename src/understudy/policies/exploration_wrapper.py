"""A policy that now and then acts at random for a while, to see what it would not have done."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from understudy.data.acting import AnyPolicy, policy_to_callable
from understudy.errors import ConfigError

__all__ = ["ExplorationWrapper"]


class ExplorationWrapper:
    """Mixes a policy with uniformly random actions, in stretches, each environment by itself.

    Before each action, with probability ``switch_prob``, it is drawn anew who acts: random actions with probability
    ``random_prob``, else the policy. So a share ``random_prob`` of all actions is random, and whoever acts does so for
    1 / ``switch_prob`` draws on average. A callable that `rollout` and its like take as a policy.
    """

    def __init__(
        self,
        policy: AnyPolicy,
        venv: VecEnv,
        random_prob: float,
        switch_prob: float,
        rng: np.random.Generator,
        deterministic_policy: bool = False,
    ) -> None:
        """Draw who acts first.

        Args:
            policy: as for `rollout`.
            venv: where it will act. Its own random state is left alone.
            random_prob: in [0, 1].
            switch_prob: in [0, 1].
            rng: decides everything that is random here, the random actions too.
            deterministic_policy: take the mode of the policy's distribution.

        Raises:
            ConfigError: a probability outside [0, 1].
            SpaceMismatchError: the policy was made for other spaces.
        """
        for name, probability in (("random_prob", random_prob), ("switch_prob", switch_prob)):
            if not 0 <= probability <= 1:
                raise ConfigError(f"{name} in [0, 1]", f"{probability}", "pass a probability")
        self.wrapped_policy = policy_to_callable(policy, venv, deterministic_policy)
        self.random_prob = random_prob
        self.switch_prob = switch_prob
        self.rng = rng
        self._space: gym.Space[Any] = copy.deepcopy(venv.action_space)
        self._space.seed(int(rng.integers(2**31 - 1)))
        self._random = self._drawn(venv.num_envs)

    def _drawn(self, n: int) -> np.ndarray:
        return self.rng.random(n) < self.random_prob

    def __call__(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        input_state: tuple[np.ndarray, ...] | None,
        episode_start: np.ndarray | None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Actions, and the policy's recurrent state, which goes on while others act.

        Args:
            observation: one row an environment.
            input_state: what the last call returned; None at first.
            episode_start: True where an episode begins, shape (env,), or None.
        """
        rows = next(iter(observation.values())) if isinstance(observation, dict) else observation
        if len(rows) != len(self._random):
            self._random = self._drawn(len(rows))
        switching = self.rng.random(len(rows)) < self.switch_prob
        self._random = np.where(switching, self._drawn(len(rows)), self._random)
        acts, state = self.wrapped_policy(observation, input_state, episode_start)
        which = np.flatnonzero(self._random)
        if len(which):
            acts = np.array(acts)
            acts[which] = [self._space.sample() for _ in which]
        return acts, state
