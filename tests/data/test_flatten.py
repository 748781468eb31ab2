"""Trajectories end to end as transitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.data.rollout import flatten_trajectories, flatten_trajectories_with_rew
from understudy.data.types import DictObs, Trajectory, TrajectoryWithRew, Transitions, TransitionsWithRew
from understudy.errors import DataError, EmptyDataError


def trajectory(start: int, n: int, *, terminal: bool = True, truncated: bool = False) -> TrajectoryWithRew:
    """Frames ``start, start + 1, …`` as uint8; actions are ten times the frame, rewards half of it."""
    steps = np.arange(start, start + n)
    return TrajectoryWithRew(
        np.arange(start, start + n + 1, dtype=np.uint8)[:, None],
        10 * steps,
        None,
        terminal,
        (steps / 2).astype(np.float32),
        truncated=truncated,
    )


def three() -> list[TrajectoryWithRew]:
    return [trajectory(0, 2), trajectory(5, 1, truncated=True), trajectory(8, 3, terminal=False)]


def test_steps_are_laid_end_to_end() -> None:
    found = flatten_trajectories_with_rew(three())
    assert type(found) is TransitionsWithRew
    assert isinstance(found.obs, np.ndarray)
    assert isinstance(found.next_obs, np.ndarray)
    assert found.obs.tolist() == [[0], [1], [5], [8], [9], [10]]
    assert found.next_obs.tolist() == [[1], [2], [6], [9], [10], [11]]
    assert found.acts.tolist() == [0, 10, 50, 80, 90, 100]
    assert found.rews.tolist() == [0, 0.5, 2.5, 4, 4.5, 5]
    assert [x.dtype for x in (found.obs, found.acts, found.rews)] == [np.uint8, np.int64, np.float32]
    assert found.infos is not None
    assert list(found.infos) == [{}] * 6


@pytest.mark.defect("B5")
def test_a_time_limit_is_no_done_and_a_fragment_ends_in_neither() -> None:
    found = flatten_trajectories(three())
    assert found.dones.tolist() == [False, True, False, False, False, False]
    assert found.truncated.tolist() == [False, False, True, False, False, False]
    assert type(found) is Transitions


@pytest.mark.defect("B20")
def test_any_iterable_will_do() -> None:
    expected = flatten_trajectories(three())
    assert flatten_trajectories(t for t in three()) == expected
    assert flatten_trajectories(tuple(three())) == expected
    assert flatten_trajectories(dict.fromkeys("abc", three()[0]).values()).acts.tolist() == [0, 10] * 3
    assert flatten_trajectories_with_rew(iter(three())) == flatten_trajectories_with_rew(three())


@pytest.mark.defect("B19")
def test_the_trajectories_stay_as_they_are() -> None:
    source = three()
    found = flatten_trajectories_with_rew(source)
    assert isinstance(found.obs, np.ndarray)
    found.obs[:] = 99
    found.rews[:] = 99
    assert source == three()
    assert all(isinstance(t.obs, np.ndarray) and t.obs.flags.writeable and t.acts.flags.writeable for t in source)


def test_infos_of_some_are_kept() -> None:
    told = Trajectory(np.zeros((3, 1), np.uint8), np.array([1, 2]), [{"i": 0}, {"i": 1}], True)
    found = flatten_trajectories([trajectory(0, 1), told])
    assert found.infos is not None
    assert list(found.infos) == [{}, {"i": 0}, {"i": 1}]


def test_dictionary_observations_stay_dictionaries() -> None:
    frames = DictObs({"a": np.arange(3, dtype=np.uint8), "b": np.arange(6.0).reshape(3, 2)})
    found = flatten_trajectories([Trajectory(frames, np.array([0, 1]), None, True)] * 2)
    assert isinstance(found.obs, DictObs)
    assert isinstance(found.next_obs, DictObs)
    assert found.obs.get("a").tolist() == [0, 1, 0, 1]
    assert found.next_obs.get("b").tolist() == [[2, 3], [4, 5]] * 2
    assert found.obs.dtype == {"a": np.uint8, "b": np.float64}


DICT = Trajectory(DictObs({"a": np.zeros((2, 1), np.uint8)}), np.array([1]), None, True)
MIXED: dict[str, tuple[list[Trajectory], str]] = {
    "observation types": ([trajectory(0, 1), Trajectory(np.zeros((2, 1)), np.array([0]), None, True)], "`obs`"),
    "observation shapes": (
        [trajectory(0, 1), Trajectory(np.zeros((2, 2), np.uint8), np.array([0]), None, True)],
        "`obs`",
    ),
    "action types": (
        [trajectory(0, 1), Trajectory(np.zeros((2, 1), np.uint8), np.array([0.5]), None, True)],
        "`acts`",
    ),
    "a dictionary after an array": ([trajectory(0, 1), DICT], "dictionary observations"),
    "an array after a dictionary": ([DICT, trajectory(0, 1)], "dictionary observations"),
    "other keys": (
        [DICT, Trajectory(DictObs({"b": np.zeros((2, 1), np.uint8)}), np.array([1]), None, True)],
        "same keys",
    ),
    "types of an entry": (
        [DICT, Trajectory(DictObs({"a": np.zeros((2, 1))}), np.array([1]), None, True)],
        r"`obs\['a'\]`",
    ),
}


@pytest.mark.parametrize(("trajectories", "message"), MIXED.values(), ids=MIXED.keys())
def test_nothing_is_widened_to_fit(trajectories: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        flatten_trajectories(trajectories)
    assert caught.value.do


def test_rewards_must_be_there_and_of_one_type() -> None:
    double = TrajectoryWithRew(np.zeros((2, 1), np.uint8), np.array([0]), None, True, np.array([1.0]))
    with pytest.raises(DataError, match="`rews`"):
        flatten_trajectories_with_rew([trajectory(0, 1), double])


@pytest.mark.usefixtures("as_users_run_it")
def test_a_trajectory_without_rewards_is_named() -> None:
    with pytest.raises(DataError, match="trajectory 1 without"):
        flatten_trajectories_with_rew([three()[0], DICT])  # type: ignore[list-item]


@pytest.mark.fault("F10")
def test_no_trajectories_are_refused() -> None:
    for flatten in (flatten_trajectories, flatten_trajectories_with_rew):
        with pytest.raises(EmptyDataError):
            flatten([])
        with pytest.raises(EmptyDataError):
            flatten(t for t in three()[:0])


@pytest.mark.fault("F10")
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_ends_stand_where_episodes_end(lengths: list[int]) -> None:
    found = flatten_trajectories([trajectory(0, n) for n in lengths])
    assert (np.flatnonzero(found.dones) + 1).tolist() == np.cumsum(lengths).tolist()
    assert isinstance(found.next_obs, np.ndarray)
    assert found.next_obs[found.dones, 0].tolist() == lengths
