"""Filling a rollout buffer with a plain policy: action, value and log-likelihood from one lean pass a step.

What a step does, and in which order, is what Stable-Baselines3's ``collect_rollouts`` does; only how the policy is
asked differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from understudy.policies.base import NormalizeFeaturesExtractor
from understudy.rl._plain_policies import PlainPolicy
from understudy.rl._ppo_features import Pair, batch_features, shares_features
from understudy.rl._twin_networks import TwinNetworks
from understudy.util.networks import BaseNorm

if TYPE_CHECKING:
    from understudy.rl.fused_ppo import FusedPPO


def collect(
    self: FusedPPO,
    plain: PlainPolicy,
    env: VecEnv,
    callback: BaseCallback,
    rollout_buffer: RolloutBuffer,
    n_rollout_steps: int,
) -> bool:
    """``OnPolicyAlgorithm.collect_rollouts`` for a plain policy; False if a callback said to stop."""
    assert self._last_obs is not None, "No previous observation was provided"
    policy, space = self.policy, self.action_space
    policy.set_training_mode(False)
    box = isinstance(space, spaces.Box)
    executed = space.dtype if box and space.dtype == np.float32 else None  # of a policy in double precision, too
    add = _adder(rollout_buffer)

    n_steps = 0
    rollout_buffer.reset()
    callback.on_rollout_start()
    networks = _Networks(plain)
    features_of = _features_of(plain, networks.dtype)
    n = networks.n_outputs
    noise = plain.head.noise(n_rollout_steps, n, env.num_envs)
    while n_steps < n_rollout_steps:
        obs_tensor = obs_as_tensor(self._last_obs, self.device)  # type: ignore[arg-type]
        outputs = networks.forward(features_of(self._last_obs))
        actions, sampled_log_probs = plain.head.sample(outputs[:n], noise[n_steps])
        values = torch.from_numpy(outputs[n:].T.copy())
        log_probs = torch.from_numpy(sampled_log_probs)
        actions = actions.reshape(-1, *space.shape)  # type: ignore[misc]
        clipped_actions = actions
        if box:
            clipped_actions = np.minimum(np.maximum(actions, space.low), space.high)  # type: ignore[attr-defined]
            clipped_actions = clipped_actions.astype(executed or clipped_actions.dtype, copy=False)
        new_obs, rewards, dones, infos = env.step(clipped_actions)
        self.num_timesteps += env.num_envs
        callback.update_locals(locals())
        if not callback.on_step():
            return False
        self._update_info_buffer(infos, dones)
        n_steps += 1
        if isinstance(space, spaces.Discrete):
            actions = actions.reshape(-1, 1)
        for idx in dones.nonzero()[0]:
            terminal_obs = infos[idx].get("terminal_observation")
            if terminal_obs is not None and infos[idx].get("TimeLimit.truncated", False):
                # A time limit is no end: what would have come is the value of the last observation.
                last = _to_numpy(policy.obs_to_tensor(terminal_obs)[0])
                rewards[idx] += self.gamma * networks.forward(features_of(last))[n, 0]
        add(self._last_obs, actions, rewards, self._last_episode_starts, values, log_probs)
        self._last_obs = new_obs  # type: ignore[assignment]
        self._last_episode_starts = dones
    values = torch.from_numpy(networks.forward(features_of(new_obs))[n:].T.copy())
    rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
    callback.update_locals(locals())
    callback.on_rollout_end()
    return True


class _Networks:
    """The policy's networks, read where its parameters are now: a callback may have trained or replaced them."""

    def __init__(self, plain: PlainPolicy) -> None:
        self._plain = plain
        self._parameters = [p for dense in (*plain.actor, *plain.critic) for p in dense.linear.parameters()]
        self._read()
        self.dtype, self.n_outputs = self._twin.dtype, self._twin.n_outputs

    def _read(self) -> None:
        self._twin = TwinNetworks(self._plain.actor, self._plain.critic, packed=False)
        self._addresses = [p.data_ptr() for p in self._parameters]

    def forward(self, features: Pair) -> np.ndarray:
        if [p.data_ptr() for p in self._parameters] != self._addresses:
            self._read()
        return self._twin.forward(features)


def _features_of(plain: PlainPolicy, dtype: np.dtype[Any]) -> Callable[[Any], Pair]:
    """Features of observations as environments give them; the policy is in evaluation mode."""
    policy = plain.policy
    extractor = policy.pi_features_extractor
    space = policy.observation_space
    vectors = isinstance(space, spaces.Box) and not is_image_space(space) and shares_features(policy)

    if vectors and type(extractor) is FlattenExtractor:

        def flattened(obs: np.ndarray) -> Pair:
            x = obs.reshape(len(obs), -1).astype(dtype, copy=False)
            return x, x

        return flattened

    if vectors and type(extractor) is NormalizeFeaturesExtractor and _only_scales(extractor.normalize):
        norm = extractor.normalize

        def normalised(obs: np.ndarray) -> Pair:
            x = obs.reshape(len(obs), -1).astype(dtype, copy=False)
            x = (x - norm.running_mean.numpy()) / np.sqrt(norm.running_var.numpy() + norm.eps)
            return x, x

        return normalised

    def extracted(obs: Any) -> Pair:
        return batch_features(policy, obs_as_tensor(obs, policy.device), torch.from_numpy(np.empty(0, dtype)).dtype)

    return extracted


def _only_scales(module: torch.nn.Module) -> TypeGuard[BaseNorm]:
    return isinstance(module, BaseNorm) and type(module).forward is BaseNorm.forward


def _to_numpy(obs: Any) -> Any:
    return {key: x.numpy() for key, x in obs.items()} if isinstance(obs, dict) else obs.numpy()


def _adder(buffer: RolloutBuffer) -> Callable[..., None]:
    """The buffer's ``add``; for the plain buffer one that writes the arrays directly."""
    if type(buffer).add is not RolloutBuffer.add or "add" in vars(buffer):
        return buffer.add

    def add(
        obs: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        episode_starts: np.ndarray,
        values: torch.Tensor,
        log_probs: torch.Tensor,
    ) -> None:
        pos = buffer.pos
        buffer.observations[pos] = obs.reshape(buffer.observations.shape[1:])
        buffer.actions[pos] = actions.reshape(buffer.actions.shape[1:])
        buffer.rewards[pos] = rewards
        buffer.episode_starts[pos] = episode_starts
        buffer.values[pos] = values.numpy()[:, 0]
        buffer.log_probs[pos] = log_probs.numpy()
        buffer.pos = pos = pos + 1
        buffer.full = buffer.full or pos == buffer.buffer_size

    return add
