from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from understudy.algorithms.bc import BC
from understudy.errors import ConfigError, DataError, SpaceMismatchError
from understudy.evaluation.returns import EpisodeReturns, evaluate_over_seeds, evaluate_returns
from understudy.evaluation.statistics import stratified_bootstrap
from understudy.policies.base import FeedForward32Policy, RandomPolicy


class ShortOrLong(gym.Env[np.ndarray, int]):
    """Episodes of 1 or 9 steps, alternating from a chosen start; reward 1 a step; 9 ends by a time limit."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, starts_long: bool = False) -> None:
        self.long = not starts_long

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.long, self.t = not self.long, 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        limit = 9 if self.long else 1
        over = self.t >= limit
        return np.zeros(1, np.float32), 1.0, over and not self.long, over and self.long, {}


def _zeros(obs: np.ndarray) -> np.ndarray:
    return np.zeros(len(obs), dtype=int)


def _both_kinds(n_envs: int = 4) -> DummyVecEnv:
    return DummyVecEnv([lambda i=i: ShortOrLong(starts_long=i % 2 == 0) for i in range(n_envs)])


def test_short_episodes_count_no_more_than_long_ones() -> None:
    """Counting the first 8 episodes to finish would favour length 1; quotas give 4 of each."""
    result = evaluate_returns(_zeros, _both_kinds(), n_episodes=8)
    assert len(result) == 8
    assert sorted(result.returns) == [1, 1, 1, 1, 9, 9, 9, 9]
    np.testing.assert_array_equal(result.lengths, result.returns)
    np.testing.assert_array_equal(result.truncated, result.lengths == 9)


@pytest.mark.parametrize("n_episodes", [1, 3, 5, 9])
def test_exactly_the_episodes_asked_for(n_episodes: int) -> None:
    assert len(evaluate_returns(_zeros, _both_kinds(), n_episodes=n_episodes)) == n_episodes


def test_the_true_return_counts_not_the_learned_or_scaled_one() -> None:
    scaled = gym.wrappers.TransformReward(Monitor(ShortOrLong()), lambda reward: reward * 100)
    assert set(evaluate_returns(_zeros, DummyVecEnv([lambda: scaled]), n_episodes=4).returns) == {1.0, 9.0}


def test_a_normalizer_neither_moves_nor_scales() -> None:
    venv = VecNormalize(DummyVecEnv([ShortOrLong]), norm_reward=True)
    before = venv.obs_rms.count
    result = evaluate_returns(_zeros, venv, n_episodes=4)
    assert set(result.returns) == {1.0, 9.0}
    assert venv.obs_rms.count == before
    assert venv.training


class LostLife(gym.Wrapper[Any, Any, Any, Any]):
    """Reports an end every three steps although the game below goes on, as episodic-life wrappers do."""

    def reset(self, **kwargs: Any) -> Any:
        self.left = 3
        if getattr(self, "over", True):
            self.last = super().reset(**kwargs)
        self.over = False
        return self.last

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        self.left -= 1
        self.over = terminated or truncated
        return obs, reward, terminated or self.left == 0, truncated, info


def test_a_lost_life_is_not_an_episode() -> None:
    venv = DummyVecEnv([lambda: LostLife(Monitor(ShortOrLong()))])
    assert sorted(evaluate_returns(_zeros, venv, n_episodes=4).returns) == [1, 1, 9, 9]


def test_a_single_environment_and_a_policy_with_state() -> None:
    states = []

    def counting(obs: np.ndarray, state: Any, episode_start: np.ndarray) -> tuple[np.ndarray, Any]:
        states.append((state, bool(episode_start[0])))
        return np.zeros(len(obs), dtype=int), (state or 0) + 1

    evaluate_returns(counting, ShortOrLong(starts_long=True), n_episodes=1)
    assert states[:3] == [(None, True), (1, False), (2, False)]


def test_a_policy_with_state_may_answer_with_actions_alone() -> None:
    assert len(evaluate_returns(lambda obs, state, starts: _zeros(obs), _both_kinds(), n_episodes=2)) == 2


def test_an_id_builds_environments_and_one_seed_decides_all() -> None:
    first = evaluate_returns(None, "CartPole-v1", n_episodes=6, seed=3)
    np.testing.assert_array_equal(first.returns, evaluate_returns(None, "CartPole-v1", n_episodes=6, seed=3).returns)
    assert not np.array_equal(first.returns, evaluate_returns(None, "CartPole-v1", n_episodes=6, seed=4).returns)
    assert first.lengths.min() >= 8
    assert first.lengths.max() <= 500


def _cartpole_policy() -> FeedForward32Policy:
    env = gym.make("CartPole-v1")
    torch.manual_seed(0)
    return FeedForward32Policy(env.observation_space, env.action_space, lambda _: 1e-3)


def test_sampled_actions_repeat_and_leave_torch_and_the_policy_as_they_were() -> None:
    policy = _cartpole_policy()
    policy.train()
    policy.mlp_extractor.eval()
    state = torch.random.get_rng_state()
    first = evaluate_returns(policy, "CartPole-v1", n_episodes=4, deterministic=False)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(99)
    second = evaluate_returns(policy, "CartPole-v1", n_episodes=4, deterministic=False)
    np.testing.assert_array_equal(first.returns, second.returns)
    assert policy.training
    assert not policy.mlp_extractor.training


def test_the_random_policys_own_generator_is_seeded_and_put_back() -> None:
    env = gym.make("CartPole-v1")
    policy = RandomPolicy(env.observation_space, env.action_space, seed=5)
    expected = RandomPolicy(env.observation_space, gym.make("CartPole-v1").action_space, seed=5).action_space.sample()
    first = evaluate_returns(policy, "CartPole-v1", n_episodes=5)
    assert policy.action_space.sample() == expected
    np.testing.assert_array_equal(first.returns, evaluate_returns(policy, "CartPole-v1", n_episodes=5).returns)


def test_algorithms_are_policies_too() -> None:
    assert len(evaluate_returns(PPO("MlpPolicy", "CartPole-v1", device="cpu"), "CartPole-v1", n_episodes=2)) == 2


def test_a_trainer_is_evaluated_by_its_policy() -> None:
    env = gym.make("CartPole-v1")
    trainer = BC(observation_space=env.observation_space, action_space=env.action_space, rng=0, device="cpu")
    by_trainer = evaluate_returns(trainer, "CartPole-v1", n_episodes=3)
    np.testing.assert_array_equal(
        by_trainer.returns, evaluate_returns(trainer.policy, "CartPole-v1", n_episodes=3).returns
    )
    assert evaluate_over_seeds(trainer, "CartPole-v1", seeds=(0, 1), n_episodes=2).returns.shape == (2, 2)


def test_a_policy_acts_in_evaluation_mode() -> None:
    modes = []

    class Watching(FeedForward32Policy):
        def _predict(self, observation: torch.Tensor, deterministic: bool = False) -> torch.Tensor:
            modes.append(self.training)
            return super()._predict(observation, deterministic)

    env = gym.make("CartPole-v1")
    policy = Watching(env.observation_space, env.action_space, lambda _: 1e-3)
    policy.train()
    evaluate_returns(policy, "CartPole-v1", n_episodes=2)
    assert modes
    assert not any(modes)
    assert policy.training


def test_what_is_no_environment_is_refused() -> None:
    with pytest.raises(ConfigError, match="environments"):
        evaluate_returns(None, [gym.make("CartPole-v1")])


def test_the_interval_is_the_bootstraps() -> None:
    returns = np.arange(20.0)
    episodes = EpisodeReturns(returns, np.ones(20, dtype=int), np.zeros(20, dtype=bool))
    interval = episodes.interval()
    assert interval.point == 9.5
    assert interval == stratified_bootstrap(returns)
    narrower = episodes.interval(np.mean, 0.5, np.random.default_rng(1))
    assert interval.low < narrower.low < 9.5 < narrower.high < interval.high


def test_over_seeds_the_interval_is_over_seeds() -> None:
    returns = np.array([[0.0, 2.0], [2.0, 4.0], [5.0, 5.0]])
    result = EpisodeReturns(returns, np.ones((3, 2), dtype=int), np.zeros((3, 2), dtype=bool))
    assert result.interval(np.mean) == stratified_bootstrap([1.0, 3.0, 5.0], np.mean)
    with pytest.raises(DataError):
        EpisodeReturns(returns[:1], returns[:1], returns[:1] > 9).interval()


@pytest.mark.fault("F9")
def test_another_environments_policy_is_refused() -> None:
    with pytest.raises(SpaceMismatchError):
        evaluate_returns(_cartpole_policy(), "Pendulum-v1", n_episodes=2)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ConfigError, match="n_episodes"):
        evaluate_returns(None, "CartPole-v1", n_episodes=0)
    with pytest.raises(ConfigError):
        evaluate_returns(None, "NoSuchEnv-v0")
    with pytest.raises(ConfigError, match="at least one seed"):
        evaluate_over_seeds([], "CartPole-v1", seeds=())
    with pytest.raises(ConfigError, match="2 seeds"):
        evaluate_over_seeds([None], "CartPole-v1", seeds=(0, 1))


def test_over_seeds_gives_a_row_a_seed() -> None:
    asked = []

    def factory(seed: int) -> Any:
        asked.append(seed)
        return _zeros

    result = evaluate_over_seeds(factory, _both_kinds(), seeds=(3, 4, 5), n_episodes=4)
    assert asked == [3, 4, 5]
    assert result.returns.shape == result.lengths.shape == result.truncated.shape == (3, 4)
    assert len(result) == 12
    policy = _cartpole_policy()
    one = evaluate_over_seeds(policy, "CartPole-v1", seeds=(0, 1), n_episodes=3)
    many = evaluate_over_seeds([policy, policy], "CartPole-v1", seeds=(0, 1), n_episodes=3)
    np.testing.assert_array_equal(one.returns, many.returns)
    assert not np.array_equal(one.returns[0], one.returns[1])
