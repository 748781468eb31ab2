"""The documented pieces of behavioural cloning, used on their own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from understudy.algorithms import bc
from understudy.errors import ConfigError, EmptyDataError

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)


def policy_of(action_space: Any, **kwargs: Any) -> ActorCriticPolicy:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ActorCriticPolicy(BOX, action_space, lambda _: 1e-3, net_arch=[8], **kwargs)


def uniform(n: int) -> ActorCriticPolicy:
    """All actions equally likely: the last layer is zero."""
    policy = policy_of(spaces.Discrete(n))
    torch.nn.init.zeros_(policy.action_net.weight)
    return policy


def test_metrics_of_a_uniform_policy_by_hand() -> None:
    calculator = bc.BehaviorCloningLossCalculator(ent_weight=0.5, l2_weight=0.1)
    policy = uniform(4)
    metrics = calculator(policy, np.ones((6, 3), np.float32), np.zeros(6, int))
    squares = sum(float(p.detach().square().sum()) for p in policy.parameters())
    assert metrics.entropy is not None
    assert metrics.neglogp.item() == pytest.approx(math.log(4))
    assert metrics.entropy.item() == pytest.approx(math.log(4))
    assert metrics.prob_true_act.item() == pytest.approx(0.25)
    assert metrics.ent_loss.item() == pytest.approx(-0.5 * math.log(4))
    assert metrics.l2_norm.item() == pytest.approx(squares / 2, rel=1e-5)
    assert metrics.l2_loss.item() == pytest.approx(0.1 * squares / 2, rel=1e-5)
    assert metrics.loss.item() == pytest.approx(0.5 * math.log(4) + 0.1 * squares / 2, rel=1e-5)


def test_the_loss_can_be_differentiated_penalty_included() -> None:
    policy = uniform(2)
    metrics = bc.BehaviorCloningLossCalculator(0.0, 1.0)(policy, torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    metrics.loss.backward()
    assert torch.allclose(policy.value_net.weight.grad, policy.value_net.weight)


def test_shifted_actions_are_read_in_the_environments_values() -> None:
    policy = policy_of(spaces.Discrete(2, start=3))
    torch.nn.init.zeros_(policy.action_net.weight)
    policy.action_net.bias.data = torch.tensor([0.0, 100.0])
    metrics = bc.BehaviorCloningLossCalculator(0.0, 0.0)(policy, np.zeros((1, 3), np.float32), np.array([4]))
    assert metrics.neglogp.item() == pytest.approx(0.0, abs=1e-6)


def test_a_callable_trainer_fits_a_policy() -> None:
    policy = policy_of(spaces.Discrete(2))
    trainer = bc.BehaviorCloningTrainer(
        bc.BehaviorCloningLossCalculator(0.0, 0.0), torch.optim.Adam(policy.parameters(), 1e-2), policy
    )
    batch = {"obs": np.eye(3, dtype=np.float32), "acts": np.array([0, 1, 0])}
    losses = [trainer(batch).loss.item() for _ in range(100)]
    assert losses[-1] < 0.1 < losses[0]


@pytest.mark.parametrize(
    ("n_epochs", "n_batches", "seen"), [(2, None, "aabeaabe"), (None, 4, "aabea"), (None, 3, "aab")]
)
def test_epochs_and_batches(n_epochs: int | None, n_batches: int | None, seen: str) -> None:
    out: list[str] = []
    batches: Any = ["a", "a", "b"]
    iterator = bc.BatchIteratorWithEpochEndCallback(batches, n_epochs, n_batches, lambda epoch: out.append("e"))
    for batch in iterator:
        out += str(batch)
    assert "".join(out) == seen


def test_an_epoch_without_batches_is_an_error() -> None:
    with pytest.raises(EmptyDataError, match="epoch 1"):
        list(bc.BatchIteratorWithEpochEndCallback(iter([{}]), 2, None, None))  # type: ignore[typeddict-item, list-item]


def test_exactly_one_budget() -> None:
    with pytest.raises(ConfigError):
        bc.BatchIteratorWithEpochEndCallback([], None, None, None)


def test_enumerate_batches_counts_samples() -> None:
    batches: Any = [{"obs": [0], "acts": [0] * n} for n in (3, 3, 1)]
    assert [stats for stats, _ in bc.enumerate_batches(batches)] == [(0, 3, 3), (1, 3, 6), (2, 1, 7)]


@pytest.mark.parametrize("n_episodes", [2, 0])
def test_rollout_statistics(n_episodes: int, cartpole_venv: VecEnv, rng: np.random.Generator) -> None:
    from understudy.policies.serialize import load_policy

    stats = bc.RolloutStatsComputer(cartpole_venv, n_episodes)(load_policy("bundled", cartpole_venv), rng)  # type: ignore[arg-type]
    expected = {"return_min", "return_mean", "return_std", "return_max"} if n_episodes else set()
    assert set(stats) == expected
    assert bc.RolloutStatsComputer(None, 5)(policy_of(spaces.Discrete(2)), rng) == {}
