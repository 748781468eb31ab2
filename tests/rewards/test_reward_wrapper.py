"""Environments that pay a learned reward: of the right frames, with the true one kept."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from understudy.data.wrappers import BufferingWrapper
from understudy.errors import CallOrderError, ConfigError, DataError
from understudy.rewards.reward_nets import BasicRewardNet
from understudy.rewards.reward_wrapper import RewardVecEnvWrapper
from understudy.util.logger import HierarchicalLogger


class Counting(gym.Env[Any, int]):
    """Its observation is the time; it ends after ``length`` steps, by itself or by a time limit."""

    action_space = spaces.Discrete(2)

    def __init__(self, length: int, truncates: bool, dictionary: bool = False) -> None:
        self.length, self.truncates, self.dictionary = length, truncates, dictionary
        plain = spaces.Box(0, 99, (1,), np.float32)
        self.observation_space = spaces.Dict({"t": plain}) if dictionary else plain

    def frame(self) -> Any:
        frame = np.array([self.t], np.float32)
        return {"t": frame} if self.dictionary else frame

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self.t = 0
        return self.frame(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        over = self.t == self.length
        return self.frame(), 7.0, over and not self.truncates, over and self.truncates, {}


class Recording:
    """A reward function that keeps what it was asked: 10 · state + next state."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, state: Any, action: np.ndarray, next_state: Any, done: np.ndarray) -> np.ndarray:
        if isinstance(state, dict):
            state, next_state = state["t"], next_state["t"]
        self.calls.append((state[:, 0].tolist(), action.tolist(), next_state[:, 0].tolist(), done.tolist()))
        return (10 * state + next_state)[:, 0]


def wrapped(dictionary: bool = False, **kwargs: Any) -> tuple[RewardVecEnvWrapper, Recording]:
    fn = Recording()
    venv = DummyVecEnv([lambda: Counting(2, False, dictionary), lambda: Counting(3, True, dictionary)])
    return RewardVecEnvWrapper(venv, fn, **kwargs), fn


@pytest.mark.defect("B5")
@pytest.mark.parametrize("dictionary", [False, True])
def test_each_step_is_paid_for_its_own_frames(dictionary: bool) -> None:
    venv, fn = wrapped(dictionary)
    venv.reset()
    paid = []
    for step in range(4):
        _, rews, _, infos = venv.step(np.array([step % 2, 1]))
        paid.append(rews.tolist())
        assert [info["original_env_rew"] for info in infos] == [7.0, 7.0]
        assert rews.dtype == np.float32
    # The first ends by itself with 1 → 2, the second is cut by a time limit with 2 → 3; then each starts at 0.
    assert fn.calls == [
        ([0.0, 0.0], [0, 1], [1.0, 1.0], [False, False]),
        ([1.0, 1.0], [1, 1], [2.0, 2.0], [True, False]),
        ([0.0, 2.0], [0, 1], [1.0, 3.0], [False, False]),
        ([1.0, 0.0], [1, 1], [2.0, 1.0], [True, False]),
    ]
    assert paid == [[1, 1], [12, 12], [1, 23], [12, 1]]
    assert list(venv.episode_rewards) == [13, 36, 13]


def test_a_reset_begins_anew() -> None:
    venv, fn = wrapped()
    venv.reset()
    venv.step(np.array([0, 0]))
    venv.reset()
    venv.step(np.array([0, 0]))
    assert fn.calls[-1][0] == [0.0, 0.0]
    venv.step(np.array([0, 0]))
    assert list(venv.episode_rewards) == [13]  # 1 + 12: the step before the reset is in no return


def test_only_the_last_episodes_are_kept() -> None:
    venv, _ = wrapped(ep_history=2)
    venv.reset()
    for _ in range(12):
        venv.step(np.array([0, 0]))
    assert len(venv.episode_rewards) == 2


def test_what_the_caller_writes_into_does_not_count() -> None:
    venv, fn = wrapped()
    obs = venv.reset()
    obs[:] = 50
    acts = np.array([0, 1])
    venv.step_async(acts)
    acts[:] = 9
    venv.step_wait()
    assert fn.calls[0][:2] == ([0.0, 0.0], [0, 1])


def test_order_and_shape_are_checked() -> None:
    venv, _ = wrapped()
    with pytest.raises(CallOrderError, match="reset"):
        venv.step(np.array([0, 0]))
    venv.reset()
    with pytest.raises(CallOrderError, match="step_async"):
        venv.step_wait()
    venv.reward_fn = lambda state, action, next_state, done: np.zeros((2, 1))
    with pytest.raises(DataError, match=r"\(2, 1\)"):
        venv.step(np.array([0, 0]))
    with pytest.raises(ConfigError, match="once"):
        RewardVecEnvWrapper(venv, venv.reward_fn)
    assert len(venv.envs) == 2


def test_a_buffer_around_it_holds_the_wrapped_reward() -> None:
    venv, _ = wrapped()
    buffer = BufferingWrapper(venv)
    buffer.reset()
    for _ in range(3):
        buffer.step(np.array([0, 0]))
    transitions = buffer.pop_transitions()
    assert sorted(transitions.rews.tolist()) == [1, 1, 1, 12, 12, 23]
    assert transitions.dones.sum() == 1
    assert transitions.truncated.sum() == 1


def test_a_learner_is_paid_and_the_callback_logs_it() -> None:
    venv, fn = wrapped()
    logged: dict[str, Any] = {}

    class Log(HierarchicalLogger):
        def record(self, key: str, val: Any, exclude: Any = None) -> None:
            logged[key] = val

    model = PPO("MlpPolicy", venv, n_steps=12, batch_size=12, n_epochs=1, seed=0, device="cpu")
    model.set_logger(Log(Logger(None, [])))
    model.learn(24, callback=venv.make_log_callback())
    assert logged["rollout/ep_rew_wrapped_mean"] == pytest.approx(np.mean(venv.episode_rewards))
    assert set(np.unique(venv.episode_rewards)) == {13.0, 36.0}
    assert len(fn.calls) == 12


@pytest.mark.parametrize("given", ["the network", "its function"])
def test_a_network_pays(given: str) -> None:
    venv = DummyVecEnv([lambda: Counting(3, True)] * 2)
    net = BasicRewardNet(venv.observation_space, venv.action_space)
    paying = RewardVecEnvWrapper(venv, net if given == "the network" else net.predict_processed)
    obs = paying.reset()
    then, rews, _, _ = paying.step(np.array([0, 1]))
    assert rews == pytest.approx(net.predict(obs, np.array([0, 1]), then, np.zeros(2, bool)))
