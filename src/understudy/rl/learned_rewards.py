"""Paying a Stable-Baselines3 learner with learned rewards: once a rollout, or whenever its replay is sampled.

Both hooks sit on the learner's buffer, which Stable-Baselines3 never saves, so a learner saved meanwhile is an
ordinary one.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from understudy.errors import ConfigError
from understudy.rl.recording import RecordedSteps, StepRecorder

StepRewards = Callable[[RecordedSteps], np.ndarray]
"""Rewards of recorded steps, shape (time, env)."""

TensorRewards = Callable[[Any, Tensor, Any, Tensor], Tensor]
"""(observations, actions in the environment's scale, next observations, terminated) → rewards, shape (batch,)."""


class EpisodeSums:
    """Sums of rewards over episodes, kept across rollouts.

    Args:
        n_envs: of the environments.
        window: how many of the newest episodes are remembered.
    """

    def __init__(self, n_envs: int, window: int = 100) -> None:
        self._running = np.zeros(n_envs, dtype=np.float64)
        self._ended: collections.deque[float] = collections.deque(maxlen=window)

    def add(self, rews: np.ndarray, dones: np.ndarray) -> None:
        """Rewards and ends of episodes, both of shape (time, env)."""
        for t in range(len(rews)):
            self._running += rews[t]
            if dones[t].any():
                self._ended.extend(self._running[dones[t]].tolist())
                self._running[dones[t]] = 0.0

    @property
    def mean(self) -> float | None:
        """Over the newest episodes; None before the first end."""
        return float(np.mean(self._ended)) if self._ended else None

    def begin_anew(self) -> None:
        """The environments were reset: the running episodes are forgotten."""
        self._running[:] = 0.0

    def state(self) -> dict[str, Any]:
        """What `restore` takes."""
        return {"running": self._running.copy(), "ended": np.array(self._ended, dtype=np.float64)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._running = np.array(state["running"], dtype=np.float64)
        self._ended.clear()
        self._ended.extend(state["ended"].tolist())


@contextmanager
def paid_after_rollouts(learner: OnPolicyAlgorithm, recorder: StepRecorder, rewards: StepRewards) -> Iterator[None]:
    """While this is open, each finished rollout is paid in one call, before advantages are computed.

    The recorder, which is the learner's environment, pays nothing meanwhile, so that the buffer holds exactly what the
    learner adds for episodes that were cut off (γ V of their last observation); the rewards are added to that.

    Args:
        learner: its environment is the recorder, possibly wrapped.
        recorder: gives the steps; they are taken from it.
        rewards: asked with the steps of the rollout.
    """
    buffer = learner.rollout_buffer
    compute = buffer.compute_returns_and_advantage

    def paid(last_values: Tensor, dones: np.ndarray) -> None:
        steps = recorder.take()
        earned = rewards(steps)
        # A rollout that a callback broke off left its steps behind; the buffer has only those of this one.
        buffer.rewards += earned[-buffer.buffer_size :]
        compute(last_values=last_values, dones=dones)

    pays, recorder.pays = recorder.pays, False
    with _method(buffer, "compute_returns_and_advantage", paid):
        try:
            yield
        finally:
            recorder.pays = pays


@contextmanager
def paid_when_sampled(learner: OffPolicyAlgorithm, rewards: TensorRewards) -> Iterator[None]:
    """While this is open, what is sampled from the learner's replay carries the rewards of the moment.

    Args:
        learner: with a replay buffer of single steps.
        rewards: gets original observations, actions in the environment's scale, and true ends.

    Raises:
        ConfigError: a replay buffer whose rewards are sums over several steps.
    """
    buffer = learner.replay_buffer
    assert buffer is not None
    if getattr(buffer, "n_steps", 1) != 1:
        raise ConfigError(
            expected="a replay buffer of single steps",
            got=f"sums over n_steps={buffer.n_steps}",  # type: ignore[attr-defined]
            do="make the learner with n_steps=1: rewards that change cannot be summed in advance",
        )
    sample = buffer.sample
    in_env_scale = _unscaling(learner)

    def paid(batch_size: int, env: VecNormalize | None = None) -> Any:
        batch = sample(batch_size, env=None)
        earned = rewards(
            batch.observations, in_env_scale(batch.actions), batch.next_observations, batch.dones.reshape(-1)
        )
        batch = batch._replace(rewards=earned.detach().reshape(-1, 1).to(batch.rewards.dtype))
        return batch if env is None else _normalised(buffer, batch, env)

    with _method(buffer, "sample", paid):
        yield


def _unscaling(learner: OffPolicyAlgorithm) -> Callable[[Tensor], Tensor]:
    """Off-policy learners store actions of a Box scaled to [-1, 1]."""
    space = learner.action_space
    if not isinstance(space, spaces.Box):
        return lambda acts: acts
    low = torch.as_tensor(space.low, device=learner.device)
    high = torch.as_tensor(space.high, device=learner.device)
    return lambda acts: low + 0.5 * (acts + 1.0) * (high - low)


def _normalised(buffer: ReplayBuffer, batch: Any, env: VecNormalize) -> Any:
    def turned(obs: Any) -> Any:
        arrays = {k: v.cpu().numpy() for k, v in obs.items()} if isinstance(obs, dict) else obs.cpu().numpy()
        seen = env.normalize_obs(arrays)
        return {k: buffer.to_torch(v) for k, v in seen.items()} if isinstance(seen, dict) else buffer.to_torch(seen)

    return batch._replace(observations=turned(batch.observations), next_observations=turned(batch.next_observations))


@contextmanager
def _method(owner: RolloutBuffer | ReplayBuffer, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """While this is open, the object has this method."""
    own = vars(owner).get(name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
