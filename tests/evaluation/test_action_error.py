from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from understudy.data.types import DictObs, Trajectory
from understudy.errors import EmptyDataError
from understudy.evaluation.action_error import action_errors, error_curve


class Constant:
    def __init__(self, action: Any) -> None:
        self.action = np.asarray(action)

    def predict(self, obs: Any, deterministic: bool = False) -> tuple[np.ndarray, None]:
        n = len(obs["a"]) if isinstance(obs, dict) else len(obs)
        return np.broadcast_to(self.action, (n, *self.action.shape)), None


def _trajectory(acts: Any) -> Trajectory:
    acts = np.asarray(acts)
    return Trajectory(np.zeros((len(acts) + 1, 1), np.float32), acts, None, True)


def test_discrete_errors_are_disagreements_padded_to_the_longest_episode() -> None:
    errors = action_errors(Constant(1), [_trajectory([1, 0]), _trajectory([0, 1, 1])], spaces.Discrete(2))
    np.testing.assert_array_equal(errors.per_step, [[0, 1, np.nan], [1, 0, 0]])
    np.testing.assert_array_equal(errors.recorded, [1, 0, 0, 1, 1])
    np.testing.assert_array_equal(errors.predicted, [1, 1, 1, 1, 1])


def test_multidiscrete_errors_are_shares_of_components() -> None:
    errors = action_errors(Constant([1, 2]), [_trajectory([[1, 2], [1, 0], [0, 0]])], spaces.MultiDiscrete([2, 3]))
    np.testing.assert_array_equal(errors.per_step, [[0, 0.5, 1]])


def test_box_errors_are_shares_of_the_range() -> None:
    space = spaces.Box(np.array([-2, 0], np.float32), np.array([2, 10], np.float32))
    errors = action_errors(Constant([0.0, 5.0]), [_trajectory([[2.0, 5.0], [0.0, 0.0]])], space)
    np.testing.assert_allclose(errors.per_step, [[0.25, 0.25]])
    free = spaces.Box(-np.inf, np.inf, (2,))
    errors = action_errors(Constant([0.0, 5.0]), [_trajectory([[2.0, 5.0], [0.0, 0.0]])], free)
    np.testing.assert_allclose(errors.per_step, [[1.0, 2.5]])
    assert "units" in errors.unit


def test_dict_observations_reach_the_policy_as_a_dict() -> None:
    trajectory = Trajectory(DictObs({"a": np.zeros((3, 1))}), np.array([0, 1]), None, True)
    np.testing.assert_array_equal(action_errors(Constant(0), [trajectory], spaces.Discrete(2)).per_step, [[0, 1]])


class Counts:
    """Answers the number of observations it has seen in this episode."""

    def predict(
        self, obs: np.ndarray, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, tuple[np.ndarray]]:
        before = np.zeros(len(obs)) if state is None else state[0]
        seen = np.where(np.ones(len(obs), bool) if episode_start is None else episode_start, 0, before) + 1
        return seen.astype(np.int64), (seen,)


def test_a_policy_with_memory_sees_each_episode_in_order() -> None:
    episodes = [_trajectory([1, 2, 3]), _trajectory([1]), _trajectory([1, 2, 0, 4, 5])]
    errors = action_errors(Counts(), episodes, spaces.Discrete(9))
    np.testing.assert_array_equal(errors.predicted, [1, 2, 3, 1, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(np.nansum(errors.per_step, axis=1), [0, 0, 1])


def test_curve_averages_stretches_and_ignores_what_is_over() -> None:
    per_step = np.array([[0, 1, 1, 1], [0, 0, 1, np.nan]], dtype=float)
    curve = error_curve(per_step, n_points=2)
    np.testing.assert_array_equal(curve.steps, [0.5, 2.5])
    np.testing.assert_allclose(curve.mean, [1 / 4, 3 / 3])
    np.testing.assert_array_equal(curve.episodes, [2, 2])
    assert (curve.low <= curve.mean).all()
    assert (curve.high >= curve.mean).all()


def test_curve_interval_resamples_whole_episodes() -> None:
    """One of two episodes is always wrong: resamples hold it 0, 1 or 2 times."""
    per_step = np.array([[1.0] * 6, [0.0] * 6])
    curve = error_curve(per_step, n_points=3)
    np.testing.assert_array_equal(curve.mean, [0.5] * 3)
    np.testing.assert_array_equal(curve.low, [0.0] * 3)
    np.testing.assert_array_equal(curve.high, [1.0] * 3)


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(EmptyDataError):
        action_errors(Constant(0), [], spaces.Discrete(2))
