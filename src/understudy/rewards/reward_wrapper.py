"""Environments that pay another reward than their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from understudy.errors import CallOrderError, ConfigError, DataError
from understudy.rewards.reward_function import RewardFn
from understudy.rewards.reward_nets import RewardNet

__all__ = ["RewardVecEnvWrapper", "WrappedRewardCallback"]


class RewardVecEnvWrapper(VecEnvWrapper):
    """Pays ``reward_fn`` in place of the environment's reward, which stays in ``info["original_env_rew"]``.

    The reward of a step that ends an episode is that of the episode's last observation (its
    ``info["terminal_observation"]``), not of the next one's first. ``done`` is 1 only where the episode terminated, not
    where a time limit cut it. Monitors below still see the environment's own return.
    """

    episode_rewards: deque[float]
    """Wrapped returns of the last episodes, oldest first."""

    def __init__(self, venv: VecEnv, reward_fn: RewardFn | RewardNet, ep_history: int = 100) -> None:
        """Wrap; the environments are not touched.

        Args:
            venv: not wrapped in this class already.
            reward_fn: called once a step with the rows of all environments, for example
                ``reward_net.predict_processed``; a network stands for that.
            ep_history: how many episodes' returns are kept.

        Raises:
            ConfigError: the environments pay a wrapped reward already.
        """
        if isinstance(venv, RewardVecEnvWrapper):
            raise ConfigError(
                expected="environments that pay their own reward",
                got="a RewardVecEnvWrapper",
                do="wrap the environments once; its `venv` attribute is the one inside",
            )
        super().__init__(venv)
        self.reward_fn: RewardFn = reward_fn.predict_processed if isinstance(reward_fn, RewardNet) else reward_fn
        self.episode_rewards = deque(maxlen=ep_history)
        self._returns = np.zeros(venv.num_envs, dtype=np.float64)
        self._obs: VecEnvObs | None = None
        self._actions: np.ndarray | None = None

    def make_log_callback(self) -> WrappedRewardCallback:
        """A callback for ``learn`` that logs the mean wrapped return."""
        return WrappedRewardCallback(self.episode_rewards)

    @property
    def envs(self) -> Sequence[Any]:
        """The single environments, where the vectorised one has them in this process.

        Raises:
            AttributeError: it has not.
        """
        found: Sequence[Any] = self.venv.envs  # type: ignore[attr-defined]
        return found

    def reset(self) -> VecEnvObs:
        """Begin new episodes in all environments; running ones do not count as ended."""
        obs = self.venv.reset()
        self._obs = _kept(obs)
        self._actions = None
        self._returns[:] = 0
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """Pass the actions on.

        Raises:
            CallOrderError: before the first `reset`.
        """
        if self._obs is None:
            raise CallOrderError(
                expected="`reset` before the first step, since the reward is of the observation before it",
                got="no reset",
                do="call reset() on this wrapper once; set_env() of a learner does it for you",
            )
        self._actions = np.array(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step and pay for it.

        Raises:
            CallOrderError: no step was begun.
            DataError: ``reward_fn`` gave another number of rewards than there are environments.
        """
        if self._actions is None or self._obs is None:
            raise CallOrderError("`step_async` before `step_wait`", "no step running", "call step(actions)")
        obs, env_rews, dones, infos = self.venv.step_wait()
        cut = np.array([bool(info.get("TimeLimit.truncated", False)) for info in infos])
        rews = np.asarray(self.reward_fn(self._obs, self._actions, _last_frames(obs, dones, infos), dones & ~cut))
        if rews.shape != (self.num_envs,):
            raise DataError(
                expected=f"one reward for each of {self.num_envs} environments, shape ({self.num_envs},)",
                got=f"shape {rews.shape}",
                do="let reward_fn return a flat array",
            )
        infos = [{**info, "original_env_rew": rew} for info, rew in zip(infos, env_rews, strict=True)]
        self._returns += rews
        self.episode_rewards.extend(self._returns[dones].tolist())
        self._returns[dones] = 0
        self._obs = _kept(obs)
        self._actions = None
        return obs, rews.astype(np.float32, copy=False), dones, infos


class WrappedRewardCallback(BaseCallback):
    """Logs ``rollout/ep_rew_wrapped_mean``, the mean return of the last episodes in the wrapped reward.

    An adversarial or preference trainer logs under a prefix, so there it becomes ``gen/rollout/ep_rew_wrapped_mean``.
    """

    def __init__(self, episode_rewards: deque[float], *args: Any, **kwargs: Any) -> None:
        """Take the returns from ``episode_rewards``, a `RewardVecEnvWrapper`'s; the rest is for the base class."""
        super().__init__(*args, **kwargs)
        self.episode_rewards = episode_rewards

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.episode_rewards:
            self.logger.record("rollout/ep_rew_wrapped_mean", float(np.mean(self.episode_rewards)))


def _kept(obs: VecEnvObs) -> VecEnvObs:
    """A copy, which neither the caller nor the environment can change before the step that needs it."""
    if isinstance(obs, dict):
        return {key: array.copy() for key, array in obs.items()}
    if isinstance(obs, tuple):
        return tuple(array.copy() for array in obs)
    return obs.copy()


def _last_frames(obs: VecEnvObs, dones: np.ndarray, infos: Sequence[dict[str, Any]]) -> VecEnvObs:
    """What the step led to: where an episode ended its last observation, since ``obs`` is the next one's first."""
    ended = np.flatnonzero(dones).tolist()
    if not ended:
        return obs
    fixed = _kept(obs)
    for env in ended:
        last = infos[env]["terminal_observation"]
        if isinstance(fixed, dict):
            for key, array in fixed.items():
                array[env] = last[key]
        elif isinstance(fixed, tuple):
            for array, part in zip(fixed, last, strict=True):
                array[env] = part
        else:
            fixed[env] = last
    return fixed
