"""Policies of the cloning agent: greedy, sampling, ε-greedy; alone, in predict loops and in rollouts."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv
from torch import nn
from torch.distributions import Independent, MixtureSameFamily, Normal

from understudy.algorithms.cloning_agent import BehavioralCloningAgent
from understudy.data import rollout
from understudy.errors import ConfigError, DataError, NonFiniteDataError
from understudy.util.logger import configure

OBS = spaces.Box(-1, 1, (2,))
ADAM = functools.partial(torch.optim.Adam, lr=0.01)


@pytest.fixture
def make(tmp_path: Path) -> Any:
    def agent(network: nn.Module, action_space: Any, **kwargs: Any) -> BehavioralCloningAgent:
        kwargs = {"optimizer": None, "rng": 0, "custom_logger": configure(tmp_path, []), **kwargs}
        return BehavioralCloningAgent(kwargs.pop("observation_space", OBS), action_space, network, **kwargs)

    return agent


class Fixed(nn.Module):
    """The same output for every observation, through a function of the user's."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(1))
        self._output = output

    def forward(self, obs: torch.Tensor) -> Any:
        return self._output(len(obs), self.zero)


def logits(*values: float) -> Fixed:
    return Fixed(lambda n, zero: zero + torch.tensor(values).expand(n, -1))


def gaussian(mean: float) -> Fixed:
    return Fixed(lambda n, zero: Independent(Normal(mean + zero.expand(n, 1), 1.0), 1))


ROWS = np.zeros((12_000, 2), np.float32)


def test_the_greedy_policy_takes_the_largest_logit_from_the_start_on(make: Any) -> None:
    agent = make(logits(0.0, 2.0, 1.0), spaces.Discrete(3, start=4))
    for deterministic in (False, True):
        acts, state = agent.policy.predict(ROWS[:5], deterministic=deterministic)
        assert acts.tolist() == [5] * 5
        assert state is None
    single, _ = agent.policy.predict(ROWS[0])
    assert (single.shape, single.dtype, single) == ((), np.int64, 5)


def test_epsilon_greedy_explores_uniformly_with_probability_epsilon(make: Any) -> None:
    agent = make(logits(0.0, 2.0, 1.0), spaces.Discrete(3, start=1), epsilon_greedy=0.3)
    torch.manual_seed(0)
    acts, _ = agent.collect_policy.predict(ROWS)
    shares = np.bincount(acts, minlength=4)[1:] / len(acts)
    assert shares == pytest.approx([0.1, 0.8, 0.1], abs=0.01)  # three standard errors
    assert set(agent.collect_policy.predict(ROWS, deterministic=True)[0].tolist()) == {2}


@pytest.mark.parametrize(("epsilon", "share"), [(0.0, 1.0), (torch.tensor(1.0), 1 / 3), (lambda: 0.5, 2 / 3)])
def test_epsilon_may_be_a_number_a_tensor_or_a_function(make: Any, epsilon: Any, share: float) -> None:
    agent = make(logits(0.0, 2.0, 1.0), spaces.Discrete(3), epsilon_greedy=epsilon)
    torch.manual_seed(0)
    assert np.mean(agent.collect_policy.predict(ROWS)[0] == 1) == pytest.approx(share, abs=0.015)


def test_a_function_that_leaves_the_unit_interval_is_told(make: Any) -> None:
    agent = make(logits(0.0, 1.0), spaces.Discrete(2), epsilon_greedy=lambda: 2.0)
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        agent.collect_policy.predict(ROWS[:2])


def test_random_actions_stay_within_every_discrete_space(make: Any) -> None:
    space = spaces.Tuple(
        (
            spaces.Discrete(2, start=1),
            spaces.MultiDiscrete([[2, 3]], start=[[5, 0]]),
            spaces.MultiBinary((2, 1)),
            spaces.Box(3, 6, (), np.int64),
            spaces.Box(-2, 2, (1,), np.int8),
        )
    )
    outputs = [2, 5, 2, 4, 1]
    network = Fixed(lambda n, zero: tuple(zero.expand(n, size) for size in outputs))
    agent = make(network, space, loss_fn="sum_of_parts", epsilon_greedy=1.0)
    torch.manual_seed(0)
    acts, _ = agent.collect_policy.predict(ROWS[:500])
    for part, sub in zip(acts, space.spaces, strict=True):
        assert all(sub.contains(np.asarray(row)) for row in part)
    assert [len(np.unique(part)) for part in acts] == [2, 5, 2, 4, 5]
    greedy, _ = agent.policy.predict(ROWS[:1])
    assert [part.tolist() for part in greedy] == [[1], [[[5, 0]]], [[[0], [0]]], [3], [[0]]]


def test_continuous_policies_greedy_and_sampling_are_clipped(make: Any) -> None:
    agent = make(gaussian(0.5), spaces.Box(-1, 1, (1,)))
    torch.manual_seed(0)
    sampled, _ = agent.collect_policy.predict(ROWS)
    assert agent.policy.predict(ROWS[:3])[0].tolist() == [[0.5]] * 3
    assert (sampled.min(), sampled.max(), sampled.dtype) == (-1.0, 1.0, np.float32)
    # P(N(0.5, 1) ≥ 1) = 0.3085 lies at the bound, P(≤ −1) = 0.0668 at the other
    assert np.mean(sampled == 1) == pytest.approx(0.3085, abs=0.013)
    assert np.mean(sampled == -1) == pytest.approx(0.0668, abs=0.007)
    assert make(gaussian(7.0), spaces.Box(-1, 1, (1,))).policy.predict(ROWS[:1])[0].tolist() == [[1.0]]


def test_tensors_are_the_action_whether_greedy_or_not(make: Any) -> None:
    agent = make(Fixed(lambda n, zero: 0.25 + zero.expand(n, 1)), spaces.Box(-1, 1, (1,)), epsilon_greedy=1.0)
    assert agent.policy.predict(ROWS[:2])[0].tolist() == agent.collect_policy.predict(ROWS[:2])[0].tolist()


def test_a_distribution_without_mode_is_told_by_the_greedy_policy_only(make: Any) -> None:
    def mixture(n: int, zero: torch.Tensor) -> Any:
        parts = Independent(Normal(zero.expand(n, 2, 1), 1.0), 1)
        return MixtureSameFamily(torch.distributions.Categorical(logits=zero.expand(n, 2)), parts)

    agent = make(Fixed(mixture), spaces.Box(-1, 1, (1,)))
    assert agent.loss((ROWS[:3], np.zeros((3, 1)))).loss.item() == pytest.approx(0.9189, abs=1e-4)
    assert agent.collect_policy.predict(ROWS[:3])[0].shape == (3, 1)
    with pytest.raises(ConfigError, match="does not implement mode"):
        agent.policy.predict(ROWS[:3])


def test_a_mixed_action_counts_as_continuous(make: Any) -> None:
    space = spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(-1, 1, (1,)))
    network = Fixed(lambda n, zero: {"a": torch.tensor([9.0, 0.0]).expand(n, 2), "b": zero.expand(n, 1)})
    agent = make(network, space, loss_fn="sum_of_parts", epsilon_greedy=1.0)
    assert not agent.is_discrete
    assert agent.collect_policy.predict(ROWS[:1000])[0]["a"].mean() < 0.01  # sampled from the logits, not at random


def test_more_than_one_batch_axis_is_refused(make: Any) -> None:
    with pytest.raises(DataError, match="single batch dimension"):
        make(logits(0.0, 1.0), spaces.Discrete(2)).collect_policy.predict(np.zeros((3, 4, 2)))


@pytest.mark.parametrize(
    "space", [spaces.Box(-1, 1, (2,)), spaces.Discrete(2), spaces.MultiDiscrete([2]), spaces.MultiBinary(2)], ids=str
)
def test_nan_is_told(make: Any, space: Any) -> None:
    agent = make(Fixed(lambda n, zero: zero.expand(n, 2) * np.nan), space, loss_fn="sum_of_parts")
    with pytest.raises(NonFiniteDataError, match="finite outputs"):
        agent.policy.predict(ROWS[:1])


def test_it_acts_in_rollouts_and_evaluations_and_repeats_them(make: Any, cartpole_venv: VecEnv) -> None:
    space = cartpole_venv.observation_space
    network = nn.Linear(4, 2)
    with torch.no_grad():  # push where the pole falls
        network.weight.copy_(torch.tensor([[0.0, 0.0, -1.0, -1.0], [0.0, 0.0, 1.0, 1.0]]))
        network.bias.zero_()
    agent = make(network, cartpole_venv.action_space, observation_space=space)

    def episodes(policy: Any) -> list[int]:
        until = rollout.make_sample_until(min_episodes=4)
        found = rollout.rollout(policy, cartpole_venv, until, np.random.default_rng(1), verbose=False)
        return [len(t) for t in found]

    assert min(episodes(agent.policy)) > 100
    assert episodes(agent) == episodes(agent.policy)  # the agent acts through its policy
    assert episodes(agent.collect_policy) == episodes(agent.collect_policy)
    mean, _ = evaluate_policy(agent.policy, cartpole_venv, n_eval_episodes=2, warn=False)
    assert mean > 100


def test_distributions_of_other_libraries_act_and_are_fitted(make: Any) -> None:
    """Stable-Baselines3's have ``mode()`` as a method, and no logits."""
    kinds: list[tuple[Any, Any, int, Any, list[float], float]] = [
        (spaces.Discrete(2, start=3), CategoricalDistribution(2), 2, 4, [0.0, 1.0], math.log(1 + math.e) - 1),
        (
            spaces.MultiDiscrete([2, 2], start=[5, 0]),
            MultiCategoricalDistribution([2, 2]),
            4,
            [6, 0],
            [0.0, 1.0, 0.0, 0.0],
            math.log(1 + math.e) - 1 + math.log(2),
        ),
        (spaces.MultiBinary(2), BernoulliDistribution(2), 2, [1, 0], [1.0, -1.0], 2 * (math.log(1 + math.e) - 1)),
    ]
    for space, distribution, n, best, outputs, loss in kinds:
        network = Fixed(
            lambda rows, zero, d=distribution, o=outputs, n=n: d.proba_distribution(
                zero + torch.tensor(o).expand(rows, n)
            )
        )
        agent = make(network, space, loss_fn="sum_of_parts", epsilon_greedy=0.0)
        acts, _ = agent.policy.predict(ROWS[:2])
        assert acts.tolist() == [best] * 2
        assert space.contains(agent.collect_policy.predict(ROWS[:2])[0][0])
        assert agent.loss((ROWS[:2], acts)).loss.item() == pytest.approx(loss)


def test_called_as_a_module_it_gives_tensors(make: Any) -> None:
    policy = make(logits(0.0, 1.0), spaces.Discrete(2, start=5)).policy
    assert policy(torch.zeros(3, 2)).tolist() == [6, 6, 6]


class Identity(gym.Env[Any, Any]):
    """Pays 1 if the action says again what was seen."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Dict(sign=spaces.Discrete(2, start=1), values=spaces.Box(-1, 1, (2,)))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._steps = 0
        return self._see(), {}

    def _see(self) -> np.ndarray:
        self._obs = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self._obs

    def step(self, action: Any) -> Any:
        right = action["sign"] == 1 + (self._obs[0] > 0) and np.abs(action["values"] - self._obs).max() < 3e-2
        self._steps += 1
        return self._see(), float(right), False, self._steps == 20, {}


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(2, 32), nn.ReLU())
        self.sign, self.values = nn.Linear(34, 2), nn.Linear(34, 2)

    def forward(self, obs: torch.Tensor) -> Any:
        latent = torch.cat([obs, self.trunk(obs)], -1)
        return {"sign": self.sign(latent), "values": self.values(latent)}


def test_a_dict_of_choice_and_numbers_is_cloned_on_an_identity_task(make: Any) -> None:
    env = gym.vector.SyncVectorEnv([Identity] * 8)
    data = np.random.default_rng(0).uniform(-1, 1, (4096, 2)).astype(np.float32)
    expert = {"obs": data, "acts": {"sign": 1 + (data[:, 0] > 0), "values": data}}
    torch.manual_seed(0)
    agent = make(
        TwoHeads(),
        Identity.action_space,
        optimizer=functools.partial(torch.optim.Adam, lr=0.02),
        loss_fn="sum_of_parts",
    )
    agent.fit(expert, n_epochs=30, batch_size=128, schedule=lambda left: 0.02 * left, progress_bar=False)
    fresh = np.random.default_rng(1).uniform(-1, 1, (5000, 2)).astype(np.float32)
    acts, _ = agent.policy.predict(fresh)
    assert np.mean(acts["sign"] == 1 + (fresh[:, 0] > 0)) >= 0.99
    assert np.mean((acts["values"] - fresh) ** 2) <= 1e-3
    obs, _ = env.reset(seed=0)
    rewards = []
    for _ in range(20):
        chosen, _ = agent.policy.predict(obs)
        obs, reward, *_ = env.step(chosen)
        rewards.append(reward)
    env.close()
    assert np.mean(rewards) >= 0.97
