"""One door for demonstrations: every form of the same data gives the same arrays, and what is wrong is named."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset

from understudy.data import serialize
from understudy.data.demonstrations import BatchStream, Demonstrations, as_demonstrations, read_demonstrations
from understudy.data.rollout import flatten_trajectories, flatten_trajectories_with_rew
from understudy.data.trajectory_store import TrajectoryStore
from understudy.data.types import (
    DictObs,
    Trajectory,
    TrajectoryWithRew,
    Transitions,
    TransitionsMinimal,
    transitions_collate_fn,
)
from understudy.errors import (
    ConfigError,
    CorruptFileError,
    DataError,
    EmptyDataError,
    MissingFileError,
    NonFiniteDataError,
    SpaceMismatchError,
    UnderstudyError,
    UnsupportedSpaceError,
    UntrustedFileError,
)

Form = Callable[[Path], Any]


def frames(start: int, stop: int) -> np.ndarray:
    """Frame ``i`` is (i, 10 i), so each tells where it came from."""
    return np.array([[i, 10 * i] for i in range(start, stop)], dtype=np.float32)


def three_episodes() -> list[TrajectoryWithRew]:
    """Two steps and a termination, one step and a time limit, three steps of a fragment."""
    return [
        TrajectoryWithRew(frames(0, 3), np.array([0, 1]), None, True, np.array([1, 2], np.float32)),
        TrajectoryWithRew(frames(3, 5), np.array([1]), None, True, np.array([4], np.float32), truncated=True),
        TrajectoryWithRew(frames(5, 9), np.array([0, 0, 1]), None, False, np.array([8, 16, 32], np.float32)),
    ]


OBS, NEXT_OBS = frames(0, 9)[[0, 1, 3, 5, 6, 7]], frames(0, 9)[[1, 2, 4, 6, 7, 8]]
ACTS = np.array([0, 1, 1, 0, 0, 1])
REWS = np.array([1, 2, 4, 8, 16, 32], np.float32)
DONES = np.array([0, 1, 0, 0, 0, 0], bool)
TRUNCATED = np.array([0, 0, 1, 0, 0, 0], bool)
ARRAYS = {"obs": OBS, "acts": ACTS, "next_obs": NEXT_OBS, "dones": DONES, "truncated": TRUNCATED, "rews": REWS}


def batches() -> list[dict[str, np.ndarray]]:
    """The same in batches of 4 and 2; the second episode ends within the first."""
    return [{key: array[rows] for key, array in ARRAYS.items()} for rows in (slice(0, 4), slice(4, 6))]


def saved(path: Path) -> Path:
    serialize.save(path, three_episodes())
    return path


def archived(path: Path) -> Path:
    np.savez(path, **ARRAYS)  # type: ignore[arg-type]
    return path


def loader(batch_size: int, data: Any) -> DataLoader[Any]:
    return DataLoader(data, batch_size=batch_size, collate_fn=transitions_collate_fn)


WHOLE: dict[str, Form] = {
    "list of trajectories": lambda _: three_episodes(),
    "tuple of trajectories": lambda _: tuple(three_episodes()),
    "generator of trajectories": lambda _: (t for t in three_episodes()),
    "transitions with rewards": lambda _: flatten_trajectories_with_rew(three_episodes()),
    "list of transitions": lambda _: [flatten_trajectories_with_rew([t]) for t in three_episodes()],
    "mapping of arrays": lambda _: ARRAYS,
    "mapping, `terminated` for `dones`": lambda _: {
        ("terminated" if key == "dones" else key): value for key, value in ARRAYS.items()
    },
    "mapping, `rew` for `rews`": lambda _: {("rew" if k == "rews" else k): v for k, v in ARRAYS.items()},
    "mapping of tensors": lambda _: {key: torch.from_numpy(value) for key, value in ARRAYS.items()},
    "list of batches": lambda _: batches(),
    "generator of batches": lambda _: (batch for batch in batches()),
    "folder": lambda tmp: saved(tmp / "data"),
    "folder as a string": lambda tmp: str(saved(tmp / "data")),
    "folder as bytes": lambda tmp: str(saved(tmp / "data")).encode(),
    "loaded trajectories": lambda tmp: serialize.load(saved(tmp / "data")),
    "npz of trajectories": lambda tmp: saved(tmp / "data.npz"),
    "npz of arrays": lambda tmp: archived(tmp / "arrays.npz"),
    "demonstrations": lambda _: as_demonstrations(three_episodes()),
}
"""With everything that trajectories hold."""

PARTIAL: dict[str, Form] = {
    "pair": lambda _: (OBS, ACTS),
    "pair of tensors": lambda _: (torch.from_numpy(OBS), torch.from_numpy(ACTS)),
    "minimal transitions": lambda _: TransitionsMinimal(OBS, ACTS, None),
    "plain transitions": lambda _: flatten_trajectories(three_episodes()),
    "loader": lambda _: loader(4, flatten_trajectories(three_episodes())),
    "loader that does not batch": lambda _: DataLoader(batches(), batch_size=None),  # type: ignore[arg-type]
    "obs and acts only": lambda _: {"obs": OBS, "acts": ACTS},
    "nested lists": lambda _: {"obs": OBS, "acts": ACTS.tolist()},
}


@pytest.mark.parametrize("form", WHOLE.values(), ids=WHOLE.keys())
def test_every_whole_form_gives_the_same_data(form: Form, tmp_path: Path) -> None:
    demos = as_demonstrations(form(tmp_path))
    assert isinstance(demos, Demonstrations)
    assert len(demos) == 6
    for mine, expected in (
        (demos.obs, OBS),
        (demos.acts, ACTS),
        (demos.next_obs, NEXT_OBS),
        (demos.rews, REWS),
        (demos.dones, DONES),
        (demos.truncated, TRUNCATED),
    ):
        assert isinstance(mine, np.ndarray)
        np.testing.assert_array_equal(mine, expected)
        assert mine.dtype == expected.dtype
    assert demos.episode_offsets.tolist() == [0, 2, 3, 6]
    assert demos.episodes_known
    assert demos.n_episodes == 3
    assert demos.episode_lengths.tolist() == [2, 1, 3]
    returns = demos.episode_returns()
    assert returns is not None
    assert returns.tolist() == [3, 4, 56]
    assert returns.dtype == np.float64
    assert demos.rows_of_episodes(np.array([2, 0])).tolist() == [3, 4, 5, 0, 1]


@pytest.mark.defect("B23")
@pytest.mark.parametrize("form", PARTIAL.values(), ids=PARTIAL.keys())
def test_every_partial_form_gives_the_same_observations_and_actions(form: Form, tmp_path: Path) -> None:
    demos = read_demonstrations(form(tmp_path))
    np.testing.assert_array_equal(demos.obs, OBS)
    np.testing.assert_array_equal(demos.acts, ACTS)
    assert isinstance(demos.obs, np.ndarray)
    assert [demos.obs.dtype, demos.acts.dtype] == [np.float32, np.int64]


def test_a_single_trajectory_is_one_episode() -> None:
    demos = read_demonstrations(three_episodes()[0])
    assert demos.episode_offsets.tolist() == [0, 2]
    assert demos.rows_of_episodes(np.array([], dtype=np.int64)).tolist() == []


def test_data_that_does_not_say_where_episodes_end_counts_as_one() -> None:
    demos = read_demonstrations((OBS, ACTS))
    assert (demos.episode_offsets.tolist(), demos.episodes_known) == ([0, 6], False)
    assert demos.episode_returns() is None
    assert demos.next_obs is None
    with pytest.raises(DataError, match="next observations"):
        demos.to_transitions()


def test_transitions_come_back_whole() -> None:
    transitions = read_demonstrations(three_episodes()).to_transitions()
    assert transitions == flatten_trajectories(three_episodes())


def test_infos_are_kept_where_there_are_some() -> None:
    infos = np.array([{"i": 0}, {"i": 1}], dtype=object)
    with_infos = Trajectory(frames(0, 3), np.array([0, 1]), infos, True)
    demos = read_demonstrations([with_infos, three_episodes()[1]])
    assert demos.infos is not None
    assert demos.infos.tolist() == [{"i": 0}, {"i": 1}, {}]
    assert read_demonstrations(flatten_trajectories([with_infos])).infos is not None
    assert read_demonstrations(three_episodes()).infos is None
    assert read_demonstrations(TransitionsMinimal(OBS[:1], ACTS[:1], None)).infos is None


# --- where episodes end -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ends",
    [
        [2, 3, 6],
        [2, 3],
        np.array([2, 3, 6], dtype=np.uint8),
        torch.tensor([2, 3, 6]),
        np.array([0, 1, 1, 0, 0, 1], dtype=bool),
        np.array([0, 1, 1, 0, 0, 0], dtype=bool),
    ],
    ids=["indices", "the last left out", "unsigned", "tensor", "flags", "flags, the last left out"],
)
def test_episode_ends_cut_episodes(ends: Any) -> None:
    demos = read_demonstrations({"obs": OBS, "acts": ACTS, "episode_ends": ends})
    assert demos.episode_offsets.tolist() == [0, 2, 3, 6]
    assert demos.episodes_known


@pytest.mark.parametrize(
    "ends",
    [[], [0, 6], [3, 2], [2, 2], [7], [-1, 6], [2.0, 6.0], [2.5], [float("nan")], 6, [[2, 6]], np.array([4, 2], "u8")],
    ids=str,
)
def test_wrong_episode_ends_are_refused(ends: Any) -> None:
    with pytest.raises(ConfigError, match="episode_ends") as caught:
        as_demonstrations({"obs": OBS, "acts": ACTS, "episode_ends": ends})
    assert "cumsum" in caught.value.do


def test_flags_for_episode_ends_need_one_a_row() -> None:
    with pytest.raises(DataError, match=r"flags of shape \(6,\)"):
        as_demonstrations({"obs": OBS, "acts": ACTS, "episode_ends": np.ones(5, bool)})


def test_an_episode_may_run_on_from_one_batch_into_the_next() -> None:
    rows = [{"obs": OBS[a:b], "acts": ACTS[a:b], "dones": DONES[a:b]} for a, b in ((0, 1), (1, 4), (4, 6))]
    assert read_demonstrations(rows).episode_offsets.tolist() == [0, 2, 6]


def test_episode_ends_of_each_batch_count() -> None:
    rows = [
        {"obs": OBS[:3], "acts": ACTS[:3], "episode_ends": [2, 3]},
        {"obs": OBS[3:], "acts": ACTS[3:], "episode_ends": [1]},
    ]
    assert read_demonstrations(rows).episode_offsets.tolist() == [0, 2, 3, 4, 6]


def test_a_row_cannot_be_both_terminated_and_truncated() -> None:
    both = np.array([0, 1, 0, 0, 0, 0], bool)
    with pytest.raises(DataError, match="1 rows with both"):
        as_demonstrations({**ARRAYS, "dones": both, "truncated": both})


# --- data stays as it is ----------------------------------------------------------------------------------------


@pytest.mark.defect("B19")
def test_the_callers_arrays_are_neither_copied_nor_locked() -> None:
    obs, acts = OBS.copy(), ACTS.copy()
    demos = read_demonstrations({"obs": obs, "acts": acts}, observation_space=spaces.Box(-100, 100, (2,)))
    assert demos.obs is obs
    assert demos.acts is acts
    assert obs.flags.writeable
    assert acts.flags.writeable
    transitions = flatten_trajectories(three_episodes())
    assert read_demonstrations(transitions).obs is transitions.obs


def test_read_only_and_memory_mapped_arrays_stay_where_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "obs.npy", OBS)
    mapped = np.load(tmp_path / "obs.npy", mmap_mode="r")
    demos = read_demonstrations({"obs": mapped, "acts": np.broadcast_to(np.int64(1), (6,))})
    assert isinstance(demos.obs, np.ndarray)
    assert np.shares_memory(demos.obs, mapped)
    assert not demos.obs.flags.writeable
    assert demos.acts.strides == (0,)
    from_disk = read_demonstrations(saved(tmp_path / "data")).frames
    assert isinstance(from_disk, np.ndarray)
    assert not from_disk.flags.owndata
    assert not from_disk.flags.writeable


@pytest.mark.defect("B22")
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float16, np.float32, np.float64, bool])
@pytest.mark.parametrize("form", ["trajectories", "arrays", "batches", "folder", "npz", "stream"])
def test_a_dtype_never_changes(dtype: Any, form: str, tmp_path: Path) -> None:
    obs, acts = np.array([[0], [1], [1]], dtype=dtype), np.array([[0.5], [1.5]], dtype=np.float64)
    trajectories = [Trajectory(obs, acts, None, True)] * 2
    arrays = {"obs": obs[:2], "acts": acts}
    if form in ("folder", "npz"):
        serialize.save(tmp_path / ("x.npz" if form == "npz" else "x"), trajectories)
    source: Any = {
        "trajectories": trajectories,
        "arrays": arrays,
        "batches": [arrays, arrays],
        "folder": tmp_path / "x",
        "npz": tmp_path / "x.npz",
        "stream": BatchStream([arrays, arrays], None, None),
    }[form]
    demos = read_demonstrations(source)
    assert isinstance(demos.frames, np.ndarray)
    assert demos.frames.dtype == dtype
    assert demos.acts.dtype == np.float64


def test_dictionary_observations_keep_each_type() -> None:
    obs = DictObs({"image": np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2), "speed": np.array([[0.5], [1.5]])})
    space = spaces.Dict({"image": spaces.Box(0, 255, (3, 2, 2), np.uint8), "speed": spaces.Box(-1, 2, (1,))})
    trajectory = Trajectory(obs, np.array([1]), None, True)
    for source in (
        [trajectory, trajectory],
        ({"image": obs.get("image"), "speed": obs.get("speed")}, np.array([1, 0])),
        (obs, np.array([1, 0])),
        {"obs": {"image": obs.get("image").tolist(), "speed": torch.from_numpy(obs.get("speed"))}, "acts": [1, 0]},
    ):
        demos = read_demonstrations(source, observation_space=space)
        assert isinstance(demos.obs, DictObs)
        assert demos.obs.shape == {"image": (2, 3, 2, 2), "speed": (2, 1)}
        assert demos.obs.get("speed").tolist()[0] == [0.5]
        assert demos.obs.get("speed").dtype == np.float64
    assert read_demonstrations([trajectory], observation_space=space).next_obs == obs[1:]


@pytest.mark.defect("B25")
def test_channels_last_images_are_turned_to_a_channels_first_space_without_a_copy() -> None:
    last = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    first = spaces.Box(0, 255, (3, 4, 5), np.uint8)
    arrays = {"obs": last, "acts": [0, 1], "next_obs": last}
    demos = read_demonstrations(arrays, observation_space=first)
    assert isinstance(demos.obs, np.ndarray)
    assert isinstance(demos.next_obs, np.ndarray)
    assert demos.obs.shape == demos.next_obs.shape == (2, 3, 4, 5)
    assert demos.obs[1, 2, 3, 4] == last[1, 3, 4, 2]
    assert np.shares_memory(demos.obs, last)
    same = read_demonstrations(arrays, observation_space=spaces.Box(0, 255, (4, 5, 3), np.uint8))
    assert same.obs is last


@pytest.mark.parametrize(
    ("acts", "space", "expected"),
    [
        (np.array([[0], [1]]), spaces.Discrete(2), np.array([0, 1])),
        (np.array([0.0, 1.0], np.float32), spaces.Discrete(2), np.array([0, 1])),
        (np.array([-1, 1], np.int8), spaces.Discrete(3, start=-1), np.array([-1, 1], np.int8)),
        (np.array([0.5, 3.0]), spaces.Box(-1, 1, (1,)), np.array([[0.5], [3.0]])),
        (np.array([[[1], [0]]]), spaces.MultiBinary(2), np.array([[1, 0]])),
        (np.array([[True, False]]), spaces.MultiBinary(2), np.array([[True, False]])),
        (np.array([[1, 4]], np.uint8), spaces.MultiDiscrete([2, 5]), np.array([[1, 4]], np.uint8)),
        (np.array([[1, 4]]), spaces.MultiDiscrete([2, 2], start=[0, 3]), np.array([[1, 4]])),
    ],
    ids=lambda x: str(x) if isinstance(x, spaces.Space) else "",
)
def test_actions_take_the_layout_of_their_space(acts: Any, space: Any, expected: np.ndarray) -> None:
    fitted = read_demonstrations((OBS[: len(acts)], acts), action_space=space).acts
    np.testing.assert_array_equal(fitted, expected)
    assert fitted.dtype == expected.dtype


def test_whole_number_rewards_become_float32() -> None:
    demos = read_demonstrations({"obs": OBS, "acts": ACTS, "rews": np.arange(6)})
    assert demos.rews is not None
    assert demos.rews.dtype == np.float32


# --- streams ----------------------------------------------------------------------------------------------------


class Stream(IterableDataset[dict[str, Any]]):
    """Rows one by one; each pass over it is counted."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.passes += 1
        for obs, act in zip(OBS, ACTS, strict=True):
            yield {"obs": obs, "acts": act}


def test_a_loader_is_read_anew_each_epoch() -> None:
    source = Stream()
    stream = as_demonstrations(
        DataLoader(source, batch_size=4),
        observation_space=spaces.Box(-100, 100, (2,)),
        action_space=spaces.Discrete(2),
    )
    assert isinstance(stream, BatchStream)
    assert source.passes == 0
    for epoch in (1, 2):
        found = list(stream)
        assert [len(batch["acts"]) for batch in found] == [4, 2]
        np.testing.assert_array_equal(np.concatenate([batch["obs"] for batch in found]), OBS)
        assert source.passes == epoch
    assert as_demonstrations(stream) is stream
    np.testing.assert_array_equal(stream.read().acts, ACTS)


def test_a_stream_is_compared_with_the_spaces_it_is_given_later() -> None:
    stream = as_demonstrations(DataLoader(Stream(), batch_size=4))
    fitted = as_demonstrations(stream, action_space=spaces.Discrete(1))
    assert isinstance(fitted, BatchStream)
    with pytest.raises(SpaceMismatchError):
        list(fitted)


def test_a_wrong_batch_of_a_loader_is_named() -> None:
    poisoned = [{"obs": OBS, "acts": ACTS}, {"obs": np.where(OBS == 70, np.nan, OBS), "acts": ACTS}]
    with pytest.raises(NonFiniteDataError, match=r"`obs` of batch 1.*step 5, entry \(1,\)"):
        list(BatchStream(poisoned, None, None))
    pairs = DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(OBS), torch.from_numpy(ACTS)))
    with pytest.raises(DataError, match=r"batch 0 of the loader.*collate_fn"):
        read_demonstrations(pairs)


@pytest.mark.fault("F10")
def test_an_iterator_that_was_used_up_is_empty_and_says_so() -> None:
    source = iter(three_episodes())
    assert len(read_demonstrations(source)) == 6
    with pytest.raises(EmptyDataError):
        as_demonstrations(source)
    stream = BatchStream(iter(batches()), None, None)
    assert len(stream.read()) == 6
    with pytest.raises(EmptyDataError, match="without a batch"):
        stream.read()


# --- what is wrong ----------------------------------------------------------------------------------------------

EMPTY: dict[str, Form] = {
    "list": lambda _: [],
    "generator": lambda _: (t for t in three_episodes()[:0]),
    "arrays": lambda _: {"obs": OBS[:0], "acts": ACTS[:0]},
    "pair": lambda _: (OBS[:0], ACTS[:0]),
    "minimal transitions": lambda _: TransitionsMinimal(OBS[:0], ACTS[:0], None),
    "transitions": lambda _: flatten_trajectories(three_episodes())[:0],
    "a batch": lambda _: [{"obs": OBS, "acts": ACTS}, {"obs": OBS[:0], "acts": ACTS[:0]}],
    "store": lambda tmp: serialize.load(saved(tmp / "x"))[:0],
    "npz of arrays": lambda tmp: archived_empty(tmp / "x.npz"),
    "dictionary": lambda _: {"obs": {"a": OBS[:0]}, "acts": ACTS[:0]},
}


def archived_empty(path: Path) -> Path:
    np.savez(path, obs=OBS[:0], acts=ACTS[:0])
    return path


@pytest.mark.fault("F10")
@pytest.mark.parametrize("form", EMPTY.values(), ids=EMPTY.keys())
def test_nothing_to_learn_from_is_refused(form: Form, tmp_path: Path) -> None:
    with pytest.raises(EmptyDataError):
        as_demonstrations(form(tmp_path))


@pytest.mark.fault("F10")
def test_the_place_of_something_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(EmptyDataError, match="batch 1"):
        as_demonstrations([{"obs": OBS, "acts": ACTS}, {"obs": OBS[:0], "acts": ACTS[:0]}])
    (columns,) = serialize.load(saved(tmp_path / "x")).chunks()
    empty = dataclasses.replace(columns, transition_offsets=np.array([0, 2, 2, 6]))
    with pytest.raises(EmptyDataError, match="trajectory 1 without an action"):
        as_demonstrations(TrajectoryStore([empty]))


@pytest.mark.fault("F10")
@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_episodes_of_any_length_stay_apart(lengths: list[int]) -> None:
    starts = np.concatenate([[0], np.cumsum([n + 1 for n in lengths])])
    trajectories = [
        Trajectory(frames(start, start + n + 1), np.arange(n), None, True)
        for start, n in zip(starts, lengths, strict=False)
    ]
    demos = read_demonstrations(trajectories)
    assert demos.episode_lengths.tolist() == lengths
    assert demos.dones is not None
    assert demos.dones.sum() == len(lengths)
    assert isinstance(demos.obs, np.ndarray)
    assert isinstance(demos.next_obs, np.ndarray)
    np.testing.assert_array_equal(demos.next_obs[:, 0] - demos.obs[:, 0], 1)
    for episode, (start, n) in enumerate(zip(starts, lengths, strict=False)):
        rows = demos.rows_of_episodes(np.array([episode]))
        np.testing.assert_array_equal(demos.obs[rows], frames(start, start + n))


@pytest.mark.fault("F8")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_found_by_trajectory_and_step(value: float) -> None:
    trajectories = three_episodes()
    trajectories[2].obs[1, 1] = value  # type: ignore[index]
    with pytest.raises(NonFiniteDataError, match=r"`obs`.*1 rows, first in trajectory 2, step 1, entry \(1,\)"):
        as_demonstrations(trajectories)


@pytest.mark.fault("F8")
@pytest.mark.parametrize("field", ["obs", "next_obs", "acts", "rews", "weights"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_each_field_is_checked(field: str, dtype: Any) -> None:
    arrays = {**ARRAYS, "weights": np.ones(6)}
    if field in ("obs", "next_obs"):
        arrays |= {"obs": OBS.astype(dtype), "next_obs": NEXT_OBS.astype(dtype)}
    arrays[field] = arrays[field].astype(dtype)
    arrays[field][3:5] = np.nan
    with pytest.raises(NonFiniteDataError, match=rf"`{field}`.*2 rows, first in trajectory 2, step 0"):
        as_demonstrations(arrays)


@pytest.mark.fault("F8")
def test_the_entry_of_a_dictionary_is_named() -> None:
    obs = {"far": OBS, "near": np.where(OBS == 30, np.inf, OBS)}
    with pytest.raises(NonFiniteDataError, match=r"obs\['near'\].*trajectory 0, step 2, entry \(1,\)"):
        as_demonstrations({"obs": obs, "acts": ACTS})


@pytest.mark.fault("F8")
def test_large_finite_values_whose_sum_overflows_pass() -> None:
    obs = np.full((6, 2), 60_000, dtype=np.float16)
    assert read_demonstrations((obs, ACTS)).obs is obs


@pytest.mark.fault("F8")
@pytest.mark.parametrize("space", [spaces.Discrete(2), spaces.MultiDiscrete([2]), spaces.MultiBinary(1)])
def test_nan_is_not_taken_for_a_wrong_choice(space: Any) -> None:
    acts = np.array([0, 1, np.nan, 0, 0, 0]).reshape(6, *space.shape)
    with pytest.raises(NonFiniteDataError, match="trajectory 0, step 2"):
        as_demonstrations((OBS, acts), action_space=space)


@pytest.mark.fault("F8")
def test_in_chunks_the_row_is_still_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.data._door._CHUNK", 4)
    obs = np.zeros((50, 2), np.float32)
    obs[[31, 47], 1] = np.nan
    arrays = {"obs": obs, "acts": np.zeros(50), "episode_ends": [30, 50]}
    with pytest.raises(NonFiniteDataError, match=r"2 rows, first in trajectory 1, step 1, entry \(1,\)"):
        as_demonstrations(arrays)


BOX = spaces.Box(-1, 1, (2,))
IMAGE = spaces.Box(0, 255, (3, 8, 8), np.uint8)
DICT = spaces.Dict({"a": BOX, "b": spaces.Discrete(3)})
A, B = np.zeros((4, 2), np.float32), np.zeros(4, np.int64)
MISMATCHED: list[tuple[str, Any, Any, Any, Any]] = [
    ("fewer numbers", A[:, :1], B, BOX, None),
    ("a row too many", np.zeros((4, 3)), B, BOX, None),
    ("scalars for vectors", B, B, BOX, None),
    ("matrices for vectors", np.zeros((4, 2, 2)), B, BOX, None),
    ("a dictionary for an array", {"a": A}, B, BOX, None),
    ("an array for a dictionary", A, B, DICT, None),
    ("other keys", {"a": A, "c": B}, B, DICT, None),
    ("a key too many", {"a": A, "b": B, "c": B}, B, DICT, None),
    ("one entry's shape", {"a": A[:, :1], "b": B}, B, DICT, None),
    ("one entry's range", {"a": A, "b": B + 3}, B, DICT, None),
    ("image size", np.zeros((4, 9, 9, 3), np.uint8), B, IMAGE, None),
    ("image channels", np.zeros((4, 8, 8, 4), np.uint8), B, IMAGE, None),
    ("image without channels", np.zeros((4, 8, 8), np.uint8), B, IMAGE, None),
    ("an observed choice out of range", B + 5, B, spaces.Discrete(5), None),
    ("an observed fraction", B + 0.5, B, spaces.Discrete(5), None),
    ("observed choices out of range", A.astype(int) + 2, B, spaces.MultiDiscrete([2, 2]), None),
    ("observed bits of 2", A.astype(int) + 2, B, spaces.MultiBinary(2), None),
    ("vectors for choices", A, A, None, spaces.Discrete(3)),
    ("a choice too high", A, B + 3, None, spaces.Discrete(3)),
    ("a choice below the start", A, B, None, spaces.Discrete(3, start=1)),
    ("a negative choice", A, B - 1, None, spaces.Discrete(3)),
    ("half a choice", A, B + 0.5, None, spaces.Discrete(3)),
    ("a huge float", A, B + 1e30, None, spaces.Discrete(3)),
    ("choices for a Box", A, B, None, BOX),
    ("rows to be flattened", A, np.zeros((4, 2, 3), np.float32), None, spaces.Box(-1, 1, (6,))),
    ("rows to be folded", A, np.zeros((4, 6), np.float32), None, spaces.Box(-1, 1, (2, 3))),
    ("booleans for a Box", A, A > 0, None, BOX),
    ("one of several too high", A, np.array([[0, 2]] * 4), None, spaces.MultiDiscrete([2, 2])),
    ("a switch too few", A, B[:, None], None, spaces.MultiBinary(2)),
    ("a switch at 2", A, np.full((4, 2), 2), None, spaces.MultiBinary(2)),
    ("a switch at 256, a byte's 0", A, np.full((4, 2), 256), None, spaces.MultiBinary(2)),
    ("half a switch", A, np.full((4, 2), 0.5), None, spaces.MultiBinary(2)),
]


@pytest.mark.fault("F9")
@pytest.mark.parametrize("case", MISMATCHED, ids=[case[0] for case in MISMATCHED])
def test_data_that_does_not_fit_a_space_is_refused(case: tuple[str, Any, Any, Any, Any]) -> None:
    _, obs, acts, observation_space, action_space = case
    with pytest.raises(SpaceMismatchError) as caught:
        as_demonstrations({"obs": obs, "acts": acts}, observation_space=observation_space, action_space=action_space)
    error = caught.value
    shown = observation_space or action_space
    inner = [str(sub) for sub in shown.values()] if isinstance(shown, spaces.Dict) else []
    assert any(text in error.expected for text in [str(shown), *inner])
    assert error.got
    assert error.do


def test_spaces_without_one_shape_are_unsupported() -> None:
    pair = spaces.Tuple([spaces.Discrete(2), BOX])
    with pytest.raises(UnsupportedSpaceError, match="Tuple"):
        as_demonstrations((A, B), observation_space=pair)
    with pytest.raises(UnsupportedSpaceError, match="Tuple"):
        as_demonstrations((A, B), action_space=pair)


WRONG: dict[str, tuple[Any, str]] = {
    "a number": (3, "got int"),
    "one array": (OBS, "got ndarray"),
    "None": (None, "got NoneType"),
    "arrays in a list": ([OBS, ACTS], "item 0 of type ndarray"),
    "numbers": ([1, 2], "item 0 of type int"),
    "three arrays": ((OBS, ACTS, REWS), "item 0 of type ndarray"),
    "mixed": ([three_episodes()[0], {"obs": OBS, "acts": ACTS}], "item 1 of type dict"),
    "no actions": ({"obs": OBS}, "add `acts`"),
    "other names": (
        {"observations": OBS, "actions": ACTS},
        "rename `actions` to `acts`, rename `observations` to `obs`",
    ),
    "too few actions": ({"obs": OBS, "acts": ACTS[:5]}, r"rows of `obs` as actions \(5\)"),
    "too few rewards": ({**ARRAYS, "rews": REWS[:5]}, "rows of `rews`"),
    "rewards of two columns": ({**ARRAYS, "rews": np.stack([REWS, REWS], 1)}, "rows of `rews`"),
    "too few flags": ({**ARRAYS, "dones": DONES[:5]}, "rows of `dones`"),
    "one step": ({"obs": OBS[0], "acts": ACTS[0]}, "`acts` in the mapping with one row a transition"),
    "single steps": ([{"obs": o, "acts": a} for o, a in zip(OBS, ACTS, strict=True)], "in batch 0 with one row"),
    "other next observations": ({**ARRAYS, "next_obs": NEXT_OBS[:, :1]}, "`next_obs` of one dtype and shape"),
    "ragged": ({"obs": [[1.0, 2.0], [3.0]], "acts": [0, 1]}, "rows of one shape"),
    "text": ({"obs": OBS, "acts": np.array(list("abcdef"))}, "`acts` as numbers"),
    "objects": ({"obs": np.array([None] * 6), "acts": ACTS}, "`obs` as numbers"),
    "complex numbers": ({"obs": OBS.astype(complex), "acts": ACTS}, "`obs` as numbers"),
    "negative weights": ({**ARRAYS, "weights": -REWS}, "weights ≥ 0; got 6 negative"),
    "mixed observation types": (
        [three_episodes()[0], Trajectory(frames(0, 2).astype(float), np.array([0]), None, True)],
        r"`obs` of one dtype.*float64.*item 1",
    ),
    "mixed action types": (
        [three_episodes()[0], Trajectory(frames(0, 2), np.array([0.5]), None, True)],
        r"`acts` of one dtype.*float64.*item 1",
    ),
    "mixed reward types": (
        [three_episodes()[0], TrajectoryWithRew(frames(0, 2), np.array([0]), None, True, np.array([1.0]))],
        r"`rews` of one dtype.*float64.*item 1",
    ),
    "arrays and dictionaries": (
        [three_episodes()[0], Trajectory(DictObs({"a": frames(0, 2)}), np.array([0]), None, True)],
        "`obs` of one dtype",
    ),
    "mixed types in batches": (
        [{"obs": OBS, "acts": ACTS}, {"obs": OBS.astype(np.float64), "acts": ACTS}],
        r"`obs` of one dtype.*item 1",
    ),
    "mixed weights in batches": (
        [{**ARRAYS, "weights": REWS}, {**ARRAYS, "weights": REWS.astype(float)}],
        r"`weights` of one dtype.*item 1",
    ),
}


@pytest.mark.fault("F10")
@pytest.mark.parametrize(("source", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_read_is_named_with_a_way_out(source: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        as_demonstrations(source)
    assert all((caught.value.expected, caught.value.got, caught.value.do))


@pytest.mark.usefixtures("as_users_run_it")
def test_lists_and_tensors_inside_trajectories_are_read() -> None:
    listed = Trajectory([[0.0], [1.0]], [1], None, True)  # type: ignore[arg-type]
    assert isinstance(as_demonstrations(listed), Demonstrations)
    tensors: TransitionsMinimal[Any] = TransitionsMinimal(torch.from_numpy(OBS), torch.from_numpy(ACTS), None)  # type: ignore[arg-type]
    np.testing.assert_array_equal(read_demonstrations(tensors).obs, OBS)


# --- files ------------------------------------------------------------------------------------------------------


def test_the_faults_of_an_archive_of_arrays_keep_their_type(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", obs=OBS, acts=ACTS[:5])
    with pytest.raises(DataError, match=r"rows of `obs` as actions \(5\) in rows.npz"):
        as_demonstrations(tmp_path / "rows.npz")
    np.savez(tmp_path / "nan.npz", obs=OBS * np.nan, acts=ACTS)
    with pytest.raises(NonFiniteDataError):
        as_demonstrations(tmp_path / "nan.npz")
    with pytest.raises(MissingFileError):
        as_demonstrations(tmp_path / "nothing.npz")
    np.savez(tmp_path / "names.npz", observations=OBS, actions=ACTS)
    with pytest.raises(DataError, match="observations"):
        as_demonstrations(tmp_path / "names.npz")


@pytest.mark.fault("F4")
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_truncated_archive_of_arrays_is_corrupt(save: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save(path, obs=OBS, acts=ACTS)
    whole = path.read_bytes()
    for length in (5, 60, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptFileError, match=r"x\.npz"):
            as_demonstrations(path)


@pytest.mark.fault("F5")
def test_a_flipped_bit_in_an_archive_of_arrays_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, obs=OBS, acts=ACTS)
    whole = bytearray(path.read_bytes())
    whole[whole.index(OBS.tobytes()) + 5] ^= 1
    path.write_bytes(whole)
    with pytest.raises(CorruptFileError, match="CRC"):
        as_demonstrations(path)


@pytest.mark.fault("F6")
def test_pickled_objects_in_an_archive_are_not_read(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return functools.partial(pytest.fail, "code of the file was run"), ()

    np.savez(tmp_path / "x.npz", obs=OBS, acts=ACTS, infos=np.array([Bomb()] * 6, dtype=object))
    with pytest.raises(UntrustedFileError, match=r"infos\.npy"):
        as_demonstrations(tmp_path / "x.npz")


def test_errors_can_be_caught_as_what_users_expect() -> None:
    for error in (DataError, EmptyDataError, NonFiniteDataError, SpaceMismatchError):
        assert issubclass(error, ValueError)
        assert issubclass(error, UnderstudyError)


def test_a_demonstration_of_transitions_keeps_both_kinds_of_end() -> None:
    rows = Transitions(OBS, ACTS, None, NEXT_OBS, DONES, truncated=TRUNCATED)
    demos = read_demonstrations(rows)
    assert demos.dones is not None
    assert demos.truncated is not None
    assert (demos.dones.sum(), demos.truncated.sum()) == (1, 1)
    assert demos.episode_offsets.tolist() == [0, 2, 3, 6]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("episode_end", "rename `episode_end` to `episode_ends`"),
        ("terminals", "rename `terminals` to `dones`"),
        ("weight", "rename `weight` to `weights`"),
        ("foo", "leave out `foo`"),
    ],
)
def test_a_misspelt_name_is_never_dropped_in_silence(name: str, advice: str, tmp_path: Path) -> None:
    arrays = {"obs": np.zeros((3, 2)), "acts": np.zeros(3), name: np.zeros(3, dtype=bool)}
    np.savez(tmp_path / "typo.npz", **arrays)
    for source in (arrays, tmp_path / "typo.npz"):
        with pytest.raises(DataError, match=advice):
            as_demonstrations(source)


def test_batches_may_carry_columns_of_their_own_but_no_misspelt_ones() -> None:
    batch = {"obs": np.zeros((3, 2)), "acts": np.zeros(3)}
    assert len(read_demonstrations([{**batch, "camera_id": np.zeros(3)}])) == 3
    with pytest.raises(DataError, match="rename `episode_end` to `episode_ends`"):
        as_demonstrations([{**batch, "episode_end": np.zeros(3)}])


def test_observations_of_some_rows_are_those_of_all() -> None:
    for source in (three_episodes(), ARRAYS):
        demos = read_demonstrations(source)
        rows = np.array([4, 0, 4])
        np.testing.assert_array_equal(demos.obs_at(rows), demos.obs[rows])


def test_episode_ends_by_flags_of_any_kind_agree() -> None:
    arrays = {"obs": np.zeros((4, 2)), "acts": np.zeros(4)}
    for ends in ([2, 4], [False, True, False, True], [0, 1, 0, 1], [0.0, 1.0, 0.0, 1.0]):
        demos = read_demonstrations({**arrays, "episode_ends": np.array(ends)})
        assert demos.episode_lengths.tolist() == [2, 2]


def test_indices_of_last_rows_are_noticed() -> None:
    with pytest.raises(ConfigError, match="add 1"):
        as_demonstrations({"obs": np.zeros((4, 2)), "acts": np.zeros(4), "episode_ends": np.array([1, 3])})
