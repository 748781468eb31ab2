"""Learners paid with learned rewards learn what they would learn from an environment that paid the same."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
from torch import Tensor

from understudy.errors import ConfigError
from understudy.rl.learned_rewards import EpisodeSums, paid_after_rollouts, paid_when_sampled
from understudy.rl.recording import RecordedSteps, StepRecorder
from understudy.rl.rounds import BetweenRollouts


def cartpoles(n_envs: int = 2, max_episode_steps: int = 20) -> VecEnv:
    return DummyVecEnv([lambda: gym.make("CartPole-v1", max_episode_steps=max_episode_steps)] * n_envs)


def pendulums() -> VecEnv:
    return DummyVecEnv([lambda: gym.make("Pendulum-v1", max_episode_steps=30)] * 2)


def parameters(model: Any) -> np.ndarray:
    return torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach().numpy()


@pytest.mark.defect("B5")
@pytest.mark.parametrize("kind", [PPO, A2C])
def test_paid_afterwards_is_paid_all_the_same(kind: Any) -> None:
    """With episodes cut off by a time limit, whose value the learner adds to the last reward."""
    options = {"n_steps": 32, "seed": 3, "device": "cpu"}
    plain = kind("MlpPolicy", cartpoles(), **options).learn(400)
    recorder = StepRecorder(cartpoles())
    asked: list[RecordedSteps] = []

    def own(steps: RecordedSteps) -> np.ndarray:
        asked.append(steps)
        return steps.rews

    learner = kind("MlpPolicy", recorder, **options)
    with paid_after_rollouts(learner, recorder, own):
        learner.learn(400)
    np.testing.assert_allclose(parameters(learner), parameters(plain), atol=1e-6)
    assert sum(steps.truncated.sum() for steps in asked) > 5
    assert len(asked) == 7, "one call a rollout"
    assert recorder.pays
    learner.learn(32, reset_num_timesteps=False)
    assert len(asked) == 7, "and none afterwards"


@pytest.mark.defect("B8")
def test_steps_of_a_rollout_that_was_broken_off_are_not_lost() -> None:
    class StopsAt(BaseCallback):
        def _on_step(self) -> bool:
            return self.num_timesteps != 2 * 40

    recorder, seen = StepRecorder(cartpoles()), []

    def counted(steps: RecordedSteps) -> np.ndarray:
        seen.append(steps.n_steps)
        return steps.rews

    learner = PPO("MlpPolicy", recorder, n_steps=32, device="cpu")
    with paid_after_rollouts(learner, recorder, counted):
        learner.learn(10_000, callback=StopsAt())
        learner.learn(2 * 32, reset_num_timesteps=False)
    assert seen == [32, 8 + 32]


def reward_of_pendulum(obs: Any, acts: Tensor, next_obs: Any, terminated: Tensor) -> Tensor:
    angle: Tensor = torch.atan2(obs[:, 1], obs[:, 0])
    return -(angle**2 + 0.1 * obs[:, 2] ** 2 + 0.001 * acts[:, 0] ** 2)


@pytest.mark.defect("B3")
@pytest.mark.defect("B5")
@pytest.mark.parametrize("normalised", [False, True])
def test_sampled_replay_is_paid_in_the_environments_scale(normalised: bool) -> None:
    venv: VecEnv = pendulums()
    if normalised:
        venv = VecNormalize(venv, norm_reward=False)
    learner = SAC("MlpPolicy", venv, learning_starts=10, device="cpu", seed=0).learn(100)
    assert learner.replay_buffer is not None
    np.random.seed(0)  # noqa: NPY002 - what the buffer draws from
    stored = learner.replay_buffer.sample(64, env=learner._vec_normalize_env)
    ended: list[float] = []

    def rewards(obs: Any, acts: Tensor, next_obs: Any, terminated: Tensor) -> Tensor:
        ended.append(float(terminated.sum()))
        assert float(acts.abs().max()) > 1.2
        return reward_of_pendulum(obs, acts, next_obs, terminated)

    with paid_when_sampled(learner, rewards):
        np.random.seed(0)  # noqa: NPY002
        paid = learner.replay_buffer.sample(64, env=learner._vec_normalize_env)
    torch.testing.assert_close(paid.rewards, stored.rewards, atol=1e-4, rtol=1e-4)
    for name in ("observations", "next_observations", "actions", "dones"):
        torch.testing.assert_close(getattr(paid, name), getattr(stored, name))
    assert ended == [0.0], "only ever cut off, never terminated"


@pytest.mark.defect("B4")
def test_each_sample_carries_the_rewards_of_the_moment() -> None:
    learner = SAC("MlpPolicy", pendulums(), learning_starts=10, device="cpu", seed=0).learn(40)
    assert learner.replay_buffer is not None
    level = torch.tensor(1.0)
    with paid_when_sampled(learner, lambda obs, acts, next_obs, terminated: level.expand(len(acts))):
        assert (learner.replay_buffer.sample(8).rewards == 1).all()
        level.fill_(2.0)
        assert (learner.replay_buffer.sample(8).rewards == 2).all()
        learner.learn(20, reset_num_timesteps=False)
    assert (learner.replay_buffer.sample(8).rewards < 1).all()


def test_sums_over_several_steps_are_refused() -> None:
    learner = SAC("MlpPolicy", pendulums(), n_steps=3, device="cpu")
    with pytest.raises(ConfigError, match="n_steps=3"):
        paid_when_sampled(learner, reward_of_pendulum).__enter__()


def test_a_learner_saved_meanwhile_is_an_ordinary_one(tmp_path: Any) -> None:
    recorder = StepRecorder(cartpoles())
    learner = PPO("MlpPolicy", recorder, n_steps=32, device="cpu")
    with paid_after_rollouts(learner, recorder, lambda steps: steps.rews):
        learner.save(tmp_path / "saved")
    PPO.load(tmp_path / "saved", env=cartpoles(), device="cpu").learn(32)


def test_sums_over_episodes() -> None:
    sums = EpisodeSums(2)
    assert sums.mean is None
    sums.add(np.array([[1.0, 10.0], [2.0, 20.0]]), np.array([[False, False], [True, False]]))
    assert sums.mean == 3.0
    again = EpisodeSums(2)
    again.restore(sums.state())
    again.add(np.array([[5.0, 30.0]]), np.array([[True, True]]))
    assert again.mean == pytest.approx((3 + 5 + 60) / 3)


@pytest.mark.defect("B1")
@pytest.mark.parametrize("learner", ["on-policy", "off-policy"])
def test_between_rollouts_of_one_run(learner: str) -> None:
    events: list[tuple[str, int, float]] = []

    class Watches(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            events.append(("rollout", self.num_timesteps, self.model._current_progress_remaining))

    model: Any
    if learner == "on-policy":
        model = PPO("MlpPolicy", cartpoles(), n_steps=32, device="cpu")
    else:
        model = SAC("MlpPolicy", pendulums(), train_freq=32, learning_starts=0, device="cpu")

    def between(timesteps: int) -> None:
        events.append(("between", timesteps, model._current_progress_remaining))

    model.learn(3 * 64, callback=CallbackList([Watches(), BetweenRollouts(between)]))
    assert [name for name, _, _ in events] == ["rollout", "between"] * 3
    assert [steps for name, steps, _ in events if name == "between"] == [64, 128, 192]
    progress = [value for name, _, value in events if name == "between"]
    np.testing.assert_allclose(progress, [2 / 3, 1 / 3, 0], atol=1e-6)
