"""The recorder keeps what the environments saw."""

from __future__ import annotations

from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from understudy.data.dict_obs import DictObs, Observation
from understudy.errors import CallOrderError
from understudy.rl.recording import StepRecorder


class Counter(gym.Env[Any, Any]):
    """Observes how many steps its episode has had, in hundreds of its episodes; ends after 3, every second cut off."""

    def __init__(self, *, as_dict: bool = False) -> None:
        box = spaces.Box(-1e6, 1e6, (1,), np.float32)
        self.observation_space = spaces.Dict({"x": box, "n": spaces.Discrete(9)}) if as_dict else box
        self.action_space = spaces.Box(-2, 2, (1,), np.float32)
        self._as_dict, self._episode = as_dict, 0

    def _obs(self) -> Any:
        x = np.array([100 * self._episode + self._t], dtype=np.float32)
        return {"x": x, "n": self._t} if self._as_dict else x

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._episode, self._t = self._episode + 1, 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._t += 1
        action[:] = 0  # careless with what it is given
        ended, cut_off = self._t == 3, self._episode % 2 == 0
        return self._obs(), 0.5 * self._t, ended and not cut_off, ended and cut_off, {}


def rows(obs: Observation) -> np.ndarray:
    """Observations that are one array."""
    return cast(np.ndarray, obs)


def recorded(n_steps: int, **kwargs: Any) -> StepRecorder:
    recorder = StepRecorder(DummyVecEnv([lambda: Counter(**kwargs)] * 2), pays=False)
    recorder.reset()
    for t in range(n_steps):
        _, rews, _, _ = recorder.step(np.full((2, 1), t / 100, dtype=np.float32))
        assert (rews == 0).all()
    return recorder


def test_steps_are_those_of_the_environments() -> None:
    steps = recorded(7).take()
    np.testing.assert_array_equal(rows(steps.obs)[:, 0, 0], [100, 101, 102, 200, 201, 202, 300])
    np.testing.assert_array_equal(rows(steps.next_obs)[:, 1, 0], [101, 102, 103, 201, 202, 203, 301])
    np.testing.assert_array_equal(steps.terminated[:, 0], [False, False, True, False, False, False, False])
    np.testing.assert_array_equal(steps.truncated[:, 1], [False, False, False, False, False, True, False])
    np.testing.assert_array_equal(steps.rews[:, 0], np.float32([0.5, 1, 1.5, 0.5, 1, 1.5, 0.5]))
    np.testing.assert_allclose(steps.acts[:, 1, 0], np.arange(7) / 100)


def test_dictionaries_too() -> None:
    steps = recorded(4, as_dict=True).take()
    assert isinstance(steps.next_obs, DictObs)
    np.testing.assert_array_equal(steps.next_obs.get("x")[:, 0, 0], [101, 102, 103, 201])
    np.testing.assert_array_equal(steps.next_obs.get("n")[:, 1], [1, 2, 3, 1])
    flat = steps.flat()
    assert flat["obs"].get("x").shape == (8, 1)
    assert flat["obs"].get("n").shape == (8,)


def test_flat_rows_go_time_by_time() -> None:
    flat = recorded(3).take().flat()
    np.testing.assert_array_equal(flat["obs"][:, 0], [100, 100, 101, 101, 102, 102])
    np.testing.assert_array_equal(flat["dones"], [False] * 4 + [True] * 2)


def test_what_was_taken_is_forgotten_here_and_kept_there() -> None:
    recorder = recorded(5)
    first = recorder.take()
    before = rows(first.obs).copy()
    assert len(recorder) == 0
    with pytest.raises(CallOrderError):
        recorder.take()
    recorder.step(np.zeros((2, 1), dtype=np.float32))
    second = recorder.take()
    np.testing.assert_array_equal(rows(second.obs)[0, :, 0], rows(first.next_obs)[-1, :, 0])
    np.testing.assert_array_equal(rows(first.obs), before)


def test_it_grows_as_far_as_it_must() -> None:
    steps = recorded(700).take()
    assert steps.n_steps == 700
    assert rows(steps.obs)[-1, 0, 0] == 100 * 234
    last = steps.last(2)
    np.testing.assert_array_equal(last.acts, steps.acts[-2:])
    np.testing.assert_array_equal(last.truncated, steps.truncated[-2:])


@pytest.mark.defect("B11")
def test_after_a_reset_behind_its_back_the_first_observation_is_the_environments() -> None:
    recorder = recorded(2)
    recorder.reset()
    recorder.step(np.zeros((2, 1), dtype=np.float32))
    np.testing.assert_array_equal(rows(recorder.take().obs)[:, 0, 0], [100, 101, 200])


def test_a_step_before_the_first_reset_is_refused() -> None:
    with pytest.raises(CallOrderError):
        StepRecorder(DummyVecEnv([Counter])).step(np.zeros((1, 1), dtype=np.float32))
