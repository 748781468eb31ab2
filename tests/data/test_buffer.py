"""Circular buffers keep the newest rows, in their own types."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from understudy.data.buffer import Buffer, ReplayBuffer, num_samples
from understudy.data.types import DictObs, Transitions, TransitionsWithRew
from understudy.errors import ConfigError, DataError, EmptyDataError, UnsupportedSpaceError


def rows_of(buffer: Buffer) -> set[int]:
    """All values of the array ``x``; 64 draws a row miss one with a chance below 1e-20 a row."""
    return set(buffer.sample(64 * buffer.capacity)["x"].tolist())


def transitions(n: int, start: int = 0, obs_dtype: Any = np.uint8) -> Transitions:
    frames = np.arange(start, start + n + 1).astype(obs_dtype)[:, None]
    infos = [{"i": start + i} for i in range(n)]
    truncated = np.arange(n) % 2 == 1
    return Transitions(
        frames[:-1], np.arange(start, start + n), infos, frames[1:], np.zeros(n, dtype=bool), truncated=truncated
    )


@given(capacity=st.integers(1, 7), lengths=st.lists(st.integers(1, 7), min_size=1, max_size=8))
def test_the_newest_rows_are_kept(capacity: int, lengths: list[int]) -> None:
    buffer = Buffer(capacity, {"x": ()}, {"x": np.int64})
    stored: list[int] = []
    for length in lengths:
        new = np.arange(len(stored), len(stored) + length)
        buffer.store({"x": new}, truncate_ok=True)
        stored += new.tolist()
        assert buffer.size() == min(capacity, len(stored))
        assert rows_of(buffer) == set(stored[-capacity:])


def test_rows_of_all_arrays_stay_together() -> None:
    x = np.arange(5)
    buffer = Buffer.from_data({"x": x, "y": np.stack([x, -x], axis=1)}, capacity=7)
    buffer.store({"x": x + 5, "y": np.stack([x + 5, -x - 5], axis=1)})
    batch = buffer.sample(100)
    np.testing.assert_array_equal(batch["y"], np.stack([batch["x"], -batch["x"]], axis=1))
    assert buffer.sample_shapes == {"x": (), "y": (2,)}


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64, np.int32, bool, object])
def test_types_are_kept(dtype: Any) -> None:
    data = np.array([0, 1, 1], dtype=dtype)
    assert Buffer.from_data({"x": data}).sample(4)["x"].dtype == dtype


def test_a_change_of_kind_is_refused() -> None:
    buffer = Buffer(3, {"x": ()}, {"x": np.uint8})
    with pytest.raises(DataError, match="float64"):
        buffer.store({"x": np.array([0.5])})
    single = Buffer(3, {"x": ()}, {"x": np.float32})
    single.store({"x": np.array([0.5])})
    assert single.sample(1)["x"].tolist() == [0.5]


def test_too_much_at_once_is_refused_unless_allowed() -> None:
    buffer = Buffer(3, {"x": ()}, {"x": np.int64})
    with pytest.raises(DataError, match=r"at most 3 rows.*got 4 rows"):
        buffer.store({"x": np.arange(4)})
    assert buffer.size() == 0
    buffer.store({"x": np.arange(4)}, truncate_ok=True)
    assert rows_of(buffer) == {1, 2, 3}
    with pytest.raises(DataError):
        Buffer.from_data({"x": np.arange(4)}, capacity=2)
    assert rows_of(Buffer.from_data({"x": np.arange(4)}, capacity=2, truncate_ok=True)) == {2, 3}


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"y": np.zeros((1, 2))},
        {"x": np.zeros((1, 2)), "y": np.zeros(1)},
        {"x": np.zeros((1, 3))},
        {"x": np.zeros((0, 2))},
    ],
)
def test_data_that_does_not_fit_is_refused(data: dict[str, np.ndarray]) -> None:
    with pytest.raises(DataError):
        Buffer(3, {"x": (2,)}, {"x": np.float64}).store(data)


def test_construction_says_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match="same names"):
        Buffer(3, {"x": ()}, {"y": np.float64})
    with pytest.raises(ConfigError, match="at least 1"):
        Buffer(0, {"x": ()}, {"x": np.float64})
    with pytest.raises(EmptyDataError, match="store"):
        Buffer(1, {"x": ()}, {"x": np.float64}).sample(1)


@pytest.mark.defect("B29")
def test_draws_follow_a_generator_and_never_the_global_one() -> None:
    data = {"x": np.arange(1000)}
    first, second = Buffer.from_data(data), Buffer.from_data(data)
    before = np.random.get_state()[1].copy()  # noqa: NPY002  (to see that nothing reads it)
    np.testing.assert_array_equal(first.sample(20)["x"], second.sample(20)["x"])
    again = [first.sample(20, rng=np.random.default_rng(3))["x"] for _ in range(2)]
    np.testing.assert_array_equal(*again)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.defect("B19")
def test_storing_copies_and_leaves_the_callers_array_alone() -> None:
    x = np.arange(3)
    buffer = Buffer.from_data({"x": x})
    assert x.flags.writeable
    x[:] = -1
    assert rows_of(buffer) == {0, 1, 2}


def test_num_samples() -> None:
    assert num_samples({"a": np.zeros(3), "b": np.zeros((3, 2))}) == 3
    with pytest.raises(DataError, match="'b': 2"):
        num_samples({"a": np.zeros(3), "b": np.zeros(2)})


def test_replay_buffer_gives_back_what_was_stored() -> None:
    buffer = ReplayBuffer.from_data(transitions(3), capacity=4)
    buffer.store(transitions(3, start=10))
    assert (buffer.size(), buffer.capacity) == (4, 4)
    batch = buffer.sample(200, rng=np.random.default_rng(0))
    assert type(batch) is Transitions
    assert batch.obs.dtype == np.uint8
    assert set(batch.acts.tolist()) == {2, 10, 11, 12}
    np.testing.assert_array_equal(batch.obs[:, 0], batch.acts)
    np.testing.assert_array_equal(batch.next_obs[:, 0], batch.acts + 1)
    np.testing.assert_array_equal(batch.truncated, batch.acts == 11)
    assert all(info == {"i": act} for info, act in zip(batch.infos, batch.acts, strict=True))


def test_replay_buffer_keeps_the_last_by_default_and_drops_rewards() -> None:
    buffer = ReplayBuffer(2, obs_shape=(1,), act_shape=(), obs_dtype=np.uint8, act_dtype=np.int64)
    rows = transitions(3)
    buffer.store(
        TransitionsWithRew(
            rows.obs, rows.acts, rows.infos, rows.next_obs, rows.dones, np.zeros(3), truncated=rows.truncated
        )
    )
    assert set(buffer.sample(50).acts.tolist()) == {1, 2}
    with pytest.raises(DataError, match="capacity"):
        buffer.store(transitions(3), truncate_ok=False)
    with pytest.raises(EmptyDataError):
        ReplayBuffer.from_data(transitions(3)[:0])


class Spaces:
    """As much of a vectorised environment as the buffer reads."""

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        self.observation_space = observation_space
        self.action_space = spaces.Discrete(3)


@pytest.mark.usefixtures("as_users_run_it")
def test_replay_buffer_takes_shapes_from_an_environment_or_from_all_four() -> None:
    venv: Any = Spaces(spaces.Box(0, 255, (1,), np.uint8))
    buffer = ReplayBuffer(5, venv)
    buffer.store(transitions(2))
    assert buffer.size() == 2
    for bad in ({}, {"venv": venv, "obs_shape": (1,)}, {"obs_shape": (1,)}):
        with pytest.raises(ConfigError, match="either `venv`"):
            ReplayBuffer(5, **bad)
    with pytest.raises(UnsupportedSpaceError, match="Dict"):
        ReplayBuffer(5, Spaces(spaces.Dict({"a": spaces.Discrete(2)})))  # type: ignore[arg-type]


def test_dictionary_observations_are_refused_by_name() -> None:
    obs = DictObs({"camera": np.zeros((2, 1))})
    rows = Transitions(obs, np.zeros(2), None, obs, np.zeros(2, dtype=bool))
    with pytest.raises(DataError, match="camera"):
        ReplayBuffer.from_data(rows)
    with pytest.raises(DataError, match="camera"):
        ReplayBuffer.from_data(transitions(2)).store(rows)
