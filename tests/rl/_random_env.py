"""Environments with any spaces, whose observations and rewards are random, and PPO twins on them."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from understudy.rl.fused_ppo import FusedPPO

VECTOR = spaces.Box(-1, 1, (3,), np.float32)
DISCRETE = spaces.Discrete(3)
ACTION_SPACES: dict[str, spaces.Space[Any]] = {
    "categorical": DISCRETE,
    "gaussian": spaces.Box(-1, 1, (2,), np.float32),
    "multi_categorical": spaces.MultiDiscrete([2, 3]),
    "bernoulli": spaces.MultiBinary(3),
}


class RandomEnv(gym.Env[Any, Any]):
    """Ends after 7 steps: by termination, or every second time by a time limit."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], seed: int) -> None:
        self.observation_space, self.action_space = copy.deepcopy(observation_space), action_space
        self.observation_space.seed(seed)
        self._rng = np.random.default_rng(seed)
        self._steps = self._episodes = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action if np.ndim(action) else int(action))
        self._steps += 1
        done = self._steps == 7
        self._episodes += done
        truncated = done and self._episodes % 2 == 0
        obs = self.observation_space.sample()
        return obs, float(self._rng.normal()), done and not truncated, truncated, {}


def random_venv(
    action_space: spaces.Space[Any] = DISCRETE, observation_space: spaces.Space[Any] = VECTOR, n_envs: int = 4
) -> VecEnv:
    return DummyVecEnv([lambda i=i: RandomEnv(observation_space, action_space, i) for i in range(n_envs)])


SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 3, "learning_rate": 3e-3, "seed": 0}


def model(
    kind: type[PPO],
    action_space: spaces.Space[Any] = DISCRETE,
    observation_space: spaces.Space[Any] = VECTOR,
    policy: Any = None,
    **settings: Any,
) -> Any:
    if policy is None:
        policy = "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a minibatch that does not divide the buffer
        return kind(policy, random_venv(action_space, observation_space), device="cpu", **{**SMALL, **settings})


def set_up(learner: PPO) -> BaseCallback:
    """What ``learn`` does before its first step."""
    return learner._setup_learn(1000)[1]


def twins(*spaces_and_more: Any, dtype: torch.dtype = torch.float32, **settings: Any) -> tuple[PPO, FusedPPO]:
    """SB3's PPO and ours with equal parameters, and in both buffers the same rollout of an older policy."""
    theirs, ours = (model(kind, *spaces_and_more, **settings) for kind in (PPO, FusedPPO))
    theirs.collect_rollouts(theirs.env, set_up(theirs), theirs.rollout_buffer, theirs.n_steps)
    set_up(ours)
    with torch.no_grad():
        for p in theirs.policy.parameters():
            p.add_(0.1 * torch.randn_like(p))  # so that ratios lie on both sides of the clip range
    ours.policy.load_state_dict(theirs.policy.state_dict())
    buffer = theirs.rollout_buffer
    if dtype is torch.float64:
        for name in ("values", "log_probs", "advantages", "returns"):
            setattr(buffer, name, getattr(buffer, name).astype(np.float64))
        theirs.policy.double()
        ours.policy.double()
    ours.rollout_buffer = copy.deepcopy(buffer)
    return theirs, ours


def train_alike(*models: PPO, seed: int = 5) -> None:
    """``train`` of each with the same permutations."""
    for each in models:
        set_random_seed(seed)
        each.train()


ZEROS = dict.fromkeys(("step", "exp_avg", "exp_avg_sq"), torch.zeros(()))


def furthest(a: PPO, b: PPO) -> float:
    """The largest difference of parameters, buffers and Adam's moments."""
    differences = [x.double() - b.policy.state_dict()[name].double() for name, x in a.policy.state_dict().items()]
    states = [m.policy.optimizer.state for m in (a, b)]
    for p, q in zip(a.policy.parameters(), b.policy.parameters(), strict=True):
        # No state yet is the same as zeros.
        first, second = states[0].get(p, ZEROS), states[1].get(q, ZEROS)
        names = {*first, *second} - {"momentum_buffer"}
        differences += [torch.as_tensor(first[k]).double() - torch.as_tensor(second[k]).double() for k in names]
    return max(float(d.abs().max()) for d in differences)
