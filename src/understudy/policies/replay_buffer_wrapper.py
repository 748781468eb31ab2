"""A replay buffer whose rewards are computed when it is sampled, by the reward function as it is then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from understudy.errors import ConfigError, DataError
from understudy.rewards.reward_function import RewardFn
from understudy.rewards.reward_nets import RewardNet

__all__ = ["ReplayBufferRewardWrapper"]

Samples = ReplayBufferSamples | DictReplayBufferSamples


class ReplayBufferRewardWrapper(ReplayBuffer):
    """Another replay buffer with rewards that never go stale; give it to a learner as ``replay_buffer_class``.

    At each `sample` the reward function sees the observations as the environment gave them (before ``VecNormalize``),
    the actions as the environment executed them, the episode's last observation where it ended, and ``dones`` that are
    terminations: a time limit is none. What the inner buffer stored as reward is not used, and learned rewards are not
    normalised by the environment's statistics of its own.
    """

    replay_buffer: ReplayBuffer
    """The buffer that holds the transitions; the only one."""
    reward_fn: RewardFn

    def __init__(
        self,
        buffer_size: int,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        *,
        replay_buffer_class: type[ReplayBuffer],
        reward_fn: RewardFn | RewardNet,
        scaled_actions: bool = True,
        **kwargs: Any,
    ) -> None:
        """Make the inner buffer.

        Args:
            buffer_size: transitions, over all environments.
            observation_space: the learner's.
            action_space: the learner's.
            replay_buffer_class: of the inner buffer: ``ReplayBuffer``, ``DictReplayBuffer``, ``HerReplayBuffer`` or
                one of your own.
            reward_fn: rates a batch; a `RewardNet`, or its ``predict_processed``, is asked with
                ``update_stats=False``, since old transitions are drawn again and again.
            scaled_actions: Box actions are stored in [-1, 1], as Stable-Baselines3's off-policy learners do, and
                brought back to the environment's scale.
            kwargs: for the inner buffer: ``device``, ``n_envs``, ``optimize_memory_usage``, ...

        Raises:
            ConfigError: a buffer that sums rewards over several steps, which cannot be computed afterwards, or this
                class again.
        """
        if issubclass(replay_buffer_class, ReplayBufferRewardWrapper):
            raise ConfigError("a buffer to wrap", replay_buffer_class.__name__, "name the innermost buffer's class")
        self.replay_buffer = replay_buffer_class(buffer_size, observation_space, action_space, **kwargs)
        if getattr(self.replay_buffer, "n_steps", 1) > 1:
            raise ConfigError(
                expected="a buffer of single steps",
                got=f"{replay_buffer_class.__name__} with n_steps={getattr(self.replay_buffer, 'n_steps', None)}",
                do="use n_steps=1: rewards summed over steps cannot be replaced when they are sampled",
            )
        self.reward_fn = _still(reward_fn)
        self.scaled_actions = scaled_actions
        # Not ReplayBuffer's constructor, which would allocate the arrays a second time.
        BaseBuffer.__init__(
            self,
            self.replay_buffer.buffer_size,
            observation_space,
            action_space,
            device=self.replay_buffer.device,
            n_envs=self.replay_buffer.n_envs,
        )

    def __getattr__(self, name: str) -> Any:
        # Only what is not found here: the arrays, and whatever else the inner buffer has.
        if name == "replay_buffer" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.replay_buffer, name)

    @property
    def pos(self) -> int:
        """Where the inner buffer writes next."""
        return self.replay_buffer.pos

    @pos.setter
    def pos(self, value: int) -> None:
        self.replay_buffer.pos = value

    @property
    def full(self) -> bool:
        """Whether the inner buffer has come round once."""
        return self.replay_buffer.full

    @full.setter
    def full(self, value: bool) -> None:
        self.replay_buffer.full = value

    def add(self, *args: Any, **kwargs: Any) -> None:
        """As the inner buffer does."""
        self.replay_buffer.add(*args, **kwargs)

    def reset(self) -> None:
        """As the inner buffer does."""
        self.replay_buffer.reset()

    def sample(self, *args: Any, **kwargs: Any) -> Samples:  # type: ignore[override]
        """As the inner buffer, with rewards of shape (batch, 1) by the reward function as it is now.

        Raises:
            DataError: the reward function gave another number of rewards.
        """
        env: VecNormalize | None = kwargs.pop("env", args[1] if len(args) > 1 else None)
        samples = self.replay_buffer.sample(*args[:1], **kwargs)
        n = len(samples.dones)
        state, next_state = _arrays(samples.observations), _arrays(samples.next_observations)
        rews = np.asarray(
            self.reward_fn(state, self._executed(samples.actions), next_state, _arrays(samples.dones).reshape(-1) > 0)
        )
        if rews.shape != (n,):
            raise DataError(
                expected=f"one reward a row, shape ({n},)",
                got=f"shape {rews.shape}",
                do="let reward_fn return a flat array",
            )
        rewards = torch.as_tensor(rews.reshape(-1, 1), dtype=torch.float32, device=self.device)
        samples = samples._replace(rewards=rewards)
        if env is None:
            return samples
        return samples._replace(
            observations=self._tensors(env.normalize_obs(state)),
            next_observations=self._tensors(env.normalize_obs(next_state)),
        )

    def _executed(self, stored: Tensor) -> np.ndarray:
        """Actions in the environment's scale and shape."""
        acts: np.ndarray = _arrays(stored)
        space = self.action_space
        if isinstance(space, spaces.Box):
            acts = acts.reshape(-1, *space.shape)
            if self.scaled_actions:
                acts = (space.low + 0.5 * (acts + 1.0) * (space.high - space.low)).astype(space.dtype)
            return acts
        return acts.reshape(-1, *(space.shape or ()))

    def _tensors(self, obs: Any) -> Any:
        if isinstance(obs, Mapping):
            return {key: self.to_torch(value) for key, value in obs.items()}
        return self.to_torch(obs)

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> Any:
        raise NotImplementedError("rows are drawn by the inner buffer; call `sample`")


def _arrays(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _arrays(part) for key, part in value.items()}
    return value.cpu().numpy()


def _still(reward_fn: RewardFn | RewardNet) -> Callable[..., np.ndarray]:
    """The reward function; of a network, with its normalisers held still."""
    if isinstance(reward_fn, RewardNet):
        return partial(reward_fn.predict_processed, update_stats=False)
    owner = getattr(reward_fn, "__self__", None)
    if isinstance(owner, RewardNet) and getattr(reward_fn, "__name__", "") == "predict_processed":
        return partial(owner.predict_processed, update_stats=False)
    return reward_fn
