"""How often a policy gives way to random actions, and for how long."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from understudy.data.rollout import generate_trajectories, make_sample_until
from understudy.errors import ConfigError
from understudy.policies.exploration_wrapper import ExplorationWrapper


class Spaces(VecEnv):
    """Nothing but spaces: actions of a large set, so that a random one is never the policy's."""

    def __init__(self, n: int) -> None:
        super().__init__(n, spaces.Box(0, 1, (2,), np.float32), spaces.Discrete(10**9, start=1))

    def unused(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    reset = step_async = step_wait = close = set_attr = env_method = unused

    def env_is_wrapped(self, *args: Any, **kwargs: Any) -> list[bool]:
        return [False] * self.num_envs

    def get_attr(self, *args: Any, **kwargs: Any) -> list[Any]:
        return [None] * self.num_envs


def random_steps(random_prob: float, switch_prob: float, steps: int = 4000, n: int = 4, seed: int = 0) -> np.ndarray:
    """Where an action was random, shape (steps, n); the policy always says 0, which is not in the space."""
    wrapper = ExplorationWrapper(
        lambda obs: np.zeros(len(obs), np.int64), Spaces(n), random_prob, switch_prob, np.random.default_rng(seed)
    )
    obs = np.zeros((n, 2), np.float32)
    return np.array([wrapper(obs, None, None)[0] for _ in range(steps)]) != 0


@pytest.mark.parametrize("random_prob", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("switch_prob", [0.1, 1.0])
def test_the_share_of_random_actions(random_prob: float, switch_prob: float) -> None:
    share = random_steps(random_prob, switch_prob).mean()
    # 16,000 draws, or one tenth of them: 4 standard deviations of 0.011
    assert share == pytest.approx(random_prob, abs=0 if random_prob in (0, 1) else 0.05)


def test_how_long_one_of_them_acts() -> None:
    """A stretch ends with probability switch_prob · (1 − random_prob) a step if random: mean length 1 / (0.2 · 0.5)."""
    acts = random_steps(0.5, 0.2)
    ends = (acts[:-1] & ~acts[1:]).sum()
    assert acts.sum() / ends == pytest.approx(10.0, rel=0.1)


def test_without_switches_each_environment_keeps_the_first_draw() -> None:
    acts = random_steps(0.5, 0.0, steps=20, n=64)
    assert (acts == acts[0]).all()
    assert 10 < acts[0].sum() < 54  # each environment by itself


def test_one_generator_decides_everything_and_the_environments_state_is_left_alone() -> None:
    venv = Spaces(3)
    venv.action_space.seed(5)
    before = venv.action_space.np_random.bit_generator.state
    runs = []
    for _ in range(2):
        wrapper = ExplorationWrapper(lambda obs: np.ones(3, np.int64), venv, 0.5, 0.5, np.random.default_rng(1))
        runs.append([wrapper(np.zeros((3, 2)), None, None)[0].tolist() for _ in range(20)])
    assert runs[0] == runs[1]
    assert venv.action_space.np_random.bit_generator.state == before


def test_a_recurrent_state_goes_on_while_others_act() -> None:
    def counting(obs: Any, state: Any, episode_start: Any) -> Any:
        count = np.zeros(len(obs)) if state is None else state[0]
        return np.zeros(len(obs), np.int64), (count + 1,)

    wrapper = ExplorationWrapper(counting, Spaces(2), 1.0, 1.0, np.random.default_rng(0))
    state = None
    for _ in range(3):
        acts, state = wrapper(np.zeros((2, 2)), state, None)
        assert (acts > 0).all()
    assert state[0].tolist() == [3, 3]


def test_dictionaries_count_by_their_rows() -> None:
    wrapper = ExplorationWrapper(lambda obs: np.zeros(5, np.int64), Spaces(2), 0.5, 0.5, np.random.default_rng(0))
    assert wrapper({"a": np.zeros((5, 1))}, None, None)[0].shape == (5,)


def test_probabilities_are_checked() -> None:
    for probabilities, name in (((1.5, 0.5), "random_prob"), ((0.5, -0.1), "switch_prob")):
        with pytest.raises(ConfigError, match=name):
            ExplorationWrapper(None, Spaces(1), *probabilities, np.random.default_rng(0))


def test_it_rolls_out(cartpole_venv: VecEnv, rng: np.random.Generator) -> None:
    always_left = ExplorationWrapper(lambda obs: np.zeros(2, np.int64), cartpole_venv, 0.5, 0.5, rng)
    trajectories = generate_trajectories(always_left, cartpole_venv, make_sample_until(min_episodes=4), rng)
    acts = np.concatenate([trajectory.acts for trajectory in trajectories])
    assert 0.05 < acts.mean() < 0.5  # half of a half, about
