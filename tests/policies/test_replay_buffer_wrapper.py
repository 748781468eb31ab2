"""Rewards computed when a batch is drawn: current, of executed actions, of true endings."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from understudy.errors import ConfigError, DataError
from understudy.policies.replay_buffer_wrapper import ReplayBufferRewardWrapper
from understudy.rewards.reward_nets import BasicRewardNet, NormalizedRewardNet
from understudy.util.networks import RunningNorm


class Walk(gym.Env[Any, Any]):
    """Remembers what it executed; only ever cut by a time limit of 5 steps, unless it terminates."""

    def __init__(self, action_space: gym.Space[Any], terminates: bool = False, dictionary: bool = False) -> None:
        self.action_space, self.terminates, self.dictionary = action_space, terminates, dictionary
        plain = spaces.Box(-99, 99, (2,), np.float32)
        self.observation_space = spaces.Dict({"x": plain}) if dictionary else plain
        self.executed: list[Any] = []
        self.count = 0

    def frame(self) -> Any:
        frame = np.array([self.t, self.count], np.float32)
        return {"x": frame} if self.dictionary else frame

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=kwargs.get("seed"))
        self.t = 0
        return self.frame(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        self.count += 1
        self.executed.append(np.array(action))
        over = self.t == 5
        return self.frame(), 100.0, over and self.terminates, over and not self.terminates, {}


BOX = spaces.Box(-2, 2, (2,), np.float32)


class Seen:
    """A reward function that keeps its last batch; the reward is ``value``."""

    value = 1.0

    def __call__(self, state: Any, action: Any, next_state: Any, done: Any) -> np.ndarray:
        self.state, self.action, self.next_state, self.done = state, action, next_state, done
        return np.full(len(done), self.value)


def learner(venv: Any, reward_fn: Any, algorithm: Any = SAC, inner: Any = ReplayBuffer, **kwargs: Any) -> Any:
    policy = "MultiInputPolicy" if inner is DictReplayBuffer else "MlpPolicy"
    return algorithm(
        policy,
        venv,
        replay_buffer_class=ReplayBufferRewardWrapper,
        replay_buffer_kwargs={"replay_buffer_class": inner, "reward_fn": reward_fn},
        buffer_size=200,
        learning_starts=20,
        batch_size=16,
        policy_kwargs={"net_arch": [8]},
        seed=0,
        device="cpu",
        **kwargs,
    )


@pytest.mark.defect("B3", "B5")
@pytest.mark.parametrize("terminates", [False, True])
def test_the_reward_sees_executed_actions_true_frames_and_terminations(terminates: bool) -> None:
    env = Walk(BOX, terminates)
    fn = Seen()
    model = learner(DummyVecEnv([lambda: env]), fn)
    model.learn(60)
    model.replay_buffer.sample(200)
    rows = fn.next_state[:, 1].astype(int) - 1  # how many steps before this one
    assert fn.action == pytest.approx(np.array(env.executed)[rows], abs=1e-6)
    assert np.abs(fn.action).max() > 1
    assert fn.action.dtype == np.float32
    # The next observation is the episode's own, never the next one's first.
    assert np.array_equal(fn.next_state[:, 0], fn.state[:, 0] + 1)
    assert np.array_equal(fn.done, (fn.next_state[:, 0] == 5) & terminates)
    assert fn.done.dtype == bool


@pytest.mark.defect("B4")
def test_sampled_rewards_are_those_of_the_network_as_it_is_now() -> None:
    venv = DummyVecEnv([lambda: Walk(BOX)] * 2)
    net = BasicRewardNet(venv.observation_space, venv.action_space)
    model = learner(venv, net)
    model.learn(40)
    for _ in range(2):
        samples = model.replay_buffer.sample(32)
        acts = 2 * samples.actions  # of Box(-2, 2)
        expected = net.predict(samples.observations, acts, samples.next_observations, samples.dones)
        assert samples.rewards.shape == (32, 1)
        assert samples.rewards.dtype == torch.float32
        assert samples.rewards.squeeze(1).numpy() == pytest.approx(expected, abs=1e-5)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(1.5)
    assert (model.replay_buffer.rewards[:20] == 100).all()  # the environment's stay in the buffer


@pytest.mark.defect("B12")
@pytest.mark.parametrize("bound", [False, True])
def test_drawing_moves_no_statistics(bound: bool) -> None:
    venv = DummyVecEnv([lambda: Walk(BOX)])
    net = NormalizedRewardNet(BasicRewardNet(venv.observation_space, venv.action_space), RunningNorm)
    learner(venv, net.predict_processed if bound else net).learn(30)
    assert net.normalize_output_layer.count.item() == 0


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.Discrete(3, start=2)])
def test_choices_come_as_they_were_executed(space: spaces.Discrete) -> None:
    env = Walk(spaces.Discrete(3))
    fn = Seen()
    model = learner(DummyVecEnv([lambda: env]), fn, DQN)
    model.learn(30)
    model.replay_buffer.sample(50)
    assert fn.action.shape == (50,)
    assert np.array_equal(fn.action, np.array(env.executed)[fn.next_state[:, 1].astype(int) - 1])


def test_dictionaries() -> None:
    fn = Seen()
    model = learner(DummyVecEnv([lambda: Walk(BOX, dictionary=True)]), fn, inner=DictReplayBuffer)
    model.learn(30)
    samples = model.replay_buffer.sample(7)
    assert fn.state["x"].shape == (7, 2)
    assert samples.observations["x"].shape == (7, 2)


def test_the_learner_sees_normalised_observations_and_the_reward_the_environments() -> None:
    fn = Seen()
    fn.value = 5.0
    venv = VecNormalize(DummyVecEnv([lambda: Walk(BOX)]))
    model = learner(venv, fn)
    model.learn(40)
    samples = model.replay_buffer.sample(64, env=venv)
    assert fn.state[:, 1].max() > 20  # a count of steps
    assert samples.observations.numpy() == pytest.approx(venv.normalize_obs(fn.state), abs=1e-6)
    assert samples.next_observations.numpy() == pytest.approx(venv.normalize_obs(fn.next_state), abs=1e-6)
    assert samples.rewards.unique().tolist() == [5.0]


@pytest.mark.defect("C9")
def test_the_memory_is_allocated_once() -> None:
    venv = DummyVecEnv([lambda: Walk(BOX)])
    buffer = learner(venv, Seen()).replay_buffer
    assert "observations" not in vars(buffer)
    assert buffer.observations is buffer.replay_buffer.observations
    assert buffer.buffer_size == buffer.replay_buffer.buffer_size == 200


def test_it_is_a_replay_buffer_like_the_one_inside() -> None:
    fn = Seen()
    buffer = ReplayBufferRewardWrapper(
        8, Walk(BOX).observation_space, BOX, replay_buffer_class=ReplayBuffer, reward_fn=fn, n_envs=2, device="cpu"
    )
    obs, acts = np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32)
    for _ in range(3):
        buffer.add(obs, obs, acts, np.zeros(2), np.zeros(2), [{}, {}])
    assert (buffer.pos, buffer.full, buffer.size(), buffer.n_envs) == (3, False, 3, 2)
    buffer.add(obs, obs, acts, np.zeros(2), np.zeros(2), [{}, {}])
    assert (buffer.pos, buffer.full, buffer.size()) == (0, True, 4)
    assert copy.deepcopy(buffer).sample(3).rewards.tolist() == [[1.0]] * 3
    buffer.reset()
    assert buffer.size() == buffer.replay_buffer.size() == 0


def test_actions_that_are_stored_as_they_are() -> None:
    fn = Seen()
    buffer = ReplayBufferRewardWrapper(
        *(8, Walk(BOX).observation_space, BOX),
        replay_buffer_class=ReplayBuffer,
        reward_fn=fn,
        scaled_actions=False,
        device="cpu",
    )
    buffer.add(np.zeros((1, 2)), np.zeros((1, 2)), np.full((1, 2), 1.5), np.zeros(1), np.zeros(1), [{}])
    buffer.sample(batch_size=1)
    assert fn.action.tolist() == [[1.5, 1.5]]


def test_what_cannot_be_relabelled_is_refused() -> None:
    space = Walk(BOX).observation_space
    make = ReplayBufferRewardWrapper
    with pytest.raises(ConfigError, match="n_steps=3"):
        make(8, space, BOX, replay_buffer_class=NStepReplayBuffer, reward_fn=Seen(), n_steps=3, gamma=0.9)
    make(8, space, BOX, replay_buffer_class=NStepReplayBuffer, reward_fn=Seen(), n_steps=1, gamma=0.9)
    with pytest.raises(ConfigError, match="innermost"):
        make(8, space, BOX, replay_buffer_class=ReplayBufferRewardWrapper, reward_fn=Seen())
    buffer = make(8, space, BOX, replay_buffer_class=ReplayBuffer, reward_fn=lambda *rows: np.zeros((1, 1)))
    buffer.add(np.zeros((1, 2)), np.zeros((1, 2)), np.zeros((1, 2)), np.zeros(1), np.zeros(1), [{}])
    with pytest.raises(DataError, match=r"\(1, 1\)"):
        buffer.sample(1)
