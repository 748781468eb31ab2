"""Trajectories and transitions check themselves and leave the caller's arrays alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from understudy.data.types import (
    DictObs,
    Trajectory,
    TrajectoryWithRew,
    Transitions,
    TransitionsMinimal,
    TransitionsWithRew,
    dataclass_quick_asdict,
    no_infos,
    transitions_collate_fn,
)
from understudy.errors import DataError, EmptyDataError


def make_transitions(n: int = 4) -> Transitions:
    frames = np.arange(2 * (n + 1), dtype=np.float32).reshape(n + 1, 2)
    infos = np.array([{"step": i} for i in range(n)], dtype=object)
    return Transitions(frames[:-1], np.arange(n), infos, frames[1:], np.arange(n) == n - 1)


def test_a_trajectory_is_as_long_as_its_actions() -> None:
    assert len(Trajectory(np.zeros((4, 2)), np.zeros(3), None, True)) == 3


@pytest.mark.parametrize(
    ("terminal", "truncated", "terminated"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_terminated_is_ended_and_not_truncated(terminal: bool, truncated: bool, terminated: bool) -> None:
    traj = Trajectory(np.zeros((2, 1)), np.zeros(1), None, terminal, truncated=truncated)
    assert traj.terminated is terminated


def test_a_fragment_cannot_be_truncated() -> None:
    with pytest.raises(DataError, match="terminal=True"):
        Trajectory(np.zeros((2, 1)), np.zeros(1), None, False, truncated=True)


def test_lengths_that_do_not_fit_are_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match=r"4 rows of `obs`.*got 3 rows"):
        Trajectory(np.zeros((3, 2)), np.zeros(3), None, True)
    with pytest.raises(DataError, match=r"3 rows of `infos`.*got 2 rows"):
        Trajectory(np.zeros((4, 2)), np.zeros(3), [{}, {}], True)
    with pytest.raises(EmptyDataError, match="zero actions"):
        Trajectory(np.zeros((1, 2)), np.zeros(0), None, True)


@pytest.mark.usefixtures("as_users_run_it")
def test_a_plain_dictionary_of_observations_becomes_dictobs() -> None:
    traj = Trajectory({"a": np.zeros((2, 3))}, np.zeros(1), None, True)  # type: ignore[arg-type]
    assert isinstance(traj.obs, DictObs)
    rows = TransitionsMinimal({"a": np.zeros((1, 3))}, np.zeros(1), None)  # type: ignore[arg-type]
    assert isinstance(rows.obs, DictObs)


@pytest.mark.defect("B26")
@pytest.mark.parametrize(
    ("given_", "kept"), [(np.int64, np.float32), (bool, np.float32), (np.float16, np.float16), (float, np.float64)]
)
def test_integer_rewards_become_float32_and_floats_stay(given_: Any, kept: Any) -> None:
    traj = TrajectoryWithRew(np.zeros((3, 1)), np.zeros(2), None, True, np.array([1, 0], dtype=given_))
    assert traj.rews.dtype == kept
    assert traj.rews.tolist() == [1.0, 0.0]


def test_rewards_are_one_number_a_step() -> None:
    with pytest.raises(DataError, match=r"shape \(2, 1\)"):
        TrajectoryWithRew(np.zeros((3, 1)), np.zeros(2), None, True, np.zeros((2, 1)))
    with pytest.raises(DataError, match="numeric"):
        TrajectoryWithRew(np.zeros((3, 1)), np.zeros(2), None, True, np.array(["1", "0"]))


@pytest.mark.defect("B19")
def test_arrays_are_kept_as_they_are_without_a_copy() -> None:
    obs, acts, rews = np.zeros((3, 2)), np.zeros(2), np.zeros(2)
    dones, infos = np.array([False, True]), np.array([{}, {}], dtype=object)
    next_obs = np.zeros((2, 2))
    traj = TrajectoryWithRew(obs, acts, infos, True, rews)
    rows = TransitionsWithRew(obs[:2], acts, infos, next_obs, dones, rews)
    assert traj.obs is obs
    assert rows.next_obs is next_obs
    for array in (traj.acts, traj.rews, rows.acts, rows.rews):
        assert array is acts or array is rews
    assert rows.dones is dones
    for array in (obs, acts, rews, dones, infos, next_obs):
        assert array.flags.writeable


def test_trajectories_are_equal_by_content() -> None:
    def make(**changes: Any) -> Trajectory:
        fields: dict[str, Any] = {"obs": np.zeros((3, 2)), "acts": np.zeros(2), "infos": None, "terminal": True}
        return Trajectory(**{**fields, **changes})

    assert make() == make()
    assert make() != make(acts=np.ones(2))
    assert make() != make(truncated=True)
    assert make() != make(infos=[{}, {}])
    assert make() != TrajectoryWithRew(np.zeros((3, 2)), np.zeros(2), None, True, np.zeros(2))
    assert make() != 3
    with pytest.raises(TypeError, match="unhashable"):
        hash(make())


def test_fields_cannot_be_reassigned() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Trajectory(np.zeros((2, 1)), np.zeros(1), None, True).terminal = False  # type: ignore[misc]


def test_an_integer_gives_a_row_and_a_slice_the_same_type() -> None:
    rows = make_transitions()
    one = rows[1]
    assert one["obs"].tolist() == [2, 3]
    assert one["next_obs"].tolist() == [4, 5]
    assert one["acts"] == 1
    assert one["infos"] == {"step": 1}
    assert not one["dones"]
    part = rows[1:3]
    assert type(part) is Transitions
    assert part.acts.tolist() == [1, 2]
    assert rows[np.array([3, 0])].acts.tolist() == [3, 0]


def test_infos_in_a_list_can_be_indexed_by_an_array() -> None:
    rows = TransitionsMinimal(np.zeros((3, 1)), np.arange(3), [{"i": 0}, {"i": 1}, {"i": 2}])
    assert list(rows[np.array([2, 1])].infos) == [{"i": 2}, {"i": 1}]
    assert rows[0]["infos"] == {"i": 0}


@given(n=st.integers(1, 6), data=st.data())
def test_slices_of_transitions_slice_every_field(n: int, data: st.DataObject) -> None:
    rows = make_transitions(n)
    cut = data.draw(st.slices(n))
    for name, value in dataclass_quick_asdict(rows[cut]).items():
        np.testing.assert_array_equal(value, getattr(rows, name)[cut])


def test_no_infos_take_no_memory() -> None:
    assert no_infos(10**9).shape == (10**9,)
    rows = TransitionsMinimal(np.zeros((3, 1)), np.arange(3), None)
    assert list(rows.infos) == [{}, {}, {}]


@pytest.mark.defect("B5")
def test_no_row_is_both_terminated_and_truncated() -> None:
    obs, acts, flags = np.zeros((2, 1)), np.zeros(2), np.array([False, True])
    assert not Transitions(obs, acts, None, obs, flags).truncated.any()
    with pytest.raises(DataError, match="1 rows with both"):
        Transitions(obs, acts, None, obs, flags, truncated=flags)


def test_flags_must_be_booleans_and_observations_alike() -> None:
    obs, acts, flags = np.zeros((2, 1)), np.zeros(2), np.zeros(2, dtype=bool)
    with pytest.raises(DataError, match="booleans"):
        Transitions(obs, acts, None, obs, np.zeros(2))
    with pytest.raises(DataError, match="booleans"):
        Transitions(obs, acts, None, obs, flags, truncated=np.zeros(3, dtype=bool))
    with pytest.raises(DataError, match="`next_obs` like `obs`"):
        Transitions(obs, acts, None, obs.astype(np.float32), flags)
    with pytest.raises(DataError, match="`next_obs`"):
        Transitions(obs, acts, None, np.zeros((3, 1)), flags)


def test_collate_gives_a_loader_stacked_batches() -> None:
    loader = DataLoader(make_transitions(4), batch_size=3, collate_fn=transitions_collate_fn)  # type: ignore[arg-type]
    first, second = list(loader)
    assert first["obs"].shape == (3, 2)
    assert first["obs"].dtype == np.float32
    assert torch.equal(first["acts"], torch.tensor([0, 1, 2]))
    assert [info["step"] for info in first["infos"]] == [0, 1, 2]
    assert second["dones"].tolist() == [True]
    with pytest.raises(EmptyDataError):
        transitions_collate_fn([])


@pytest.mark.usefixtures("as_users_run_it")
def test_collate_keeps_dictionary_observations() -> None:
    rows = TransitionsMinimal(DictObs({"a": np.arange(3.0)}), np.arange(3), None)
    batch = transitions_collate_fn([rows[0], rows[2]])
    assert batch["obs"] == DictObs({"a": np.array([0.0, 2.0])})
