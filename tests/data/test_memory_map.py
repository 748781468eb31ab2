"""Demonstrations that stay in their file: the same rows, the same answers, little memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from understudy.data import _arrow, _mapped, _order, serialize
from understudy.data import batches as batches_module
from understudy.data._mapped import MappedDemonstrations
from understudy.data._order import RowRanges, Windows
from understudy.data.batches import ResidentBatches
from understudy.data.demonstrations import read_demonstrations
from understudy.data.dict_obs import DictObs
from understudy.data.trajectory_store import TrajectoryStore
from understudy.data.types import Trajectory, TrajectoryWithRew
from understudy.errors import EmptyDataError, NonFiniteDataError, SpaceMismatchError

CPU = torch.device("cpu")
BOX = spaces.Box(-np.inf, np.inf, (2,), np.float32)


@pytest.fixture
def tiny_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dataset is too large to be joined, and a record batch holds some hundred bytes."""
    monkeypatch.setattr(_mapped, "JOIN_BYTES", 0)
    monkeypatch.setattr(_arrow, "BATCH_BYTES", 500)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(lengths: list[int], *, acts: Any = np.int64, obs: Any = np.float32) -> list[Trajectory]:
    """Transition ``i`` of all is the observation (i, trajectory) and the action i; the last frames are -1."""
    trajectories: list[Trajectory] = []
    first = 0
    for number, n in enumerate(lengths):
        frames = np.full((n + 1, 2), -1, dtype=obs)
        frames[:-1, 0], frames[:, 1] = np.arange(first, first + n), number
        rows = np.arange(first, first + n)
        trajectories.append(
            TrajectoryWithRew(frames, rows.astype(acts), None, True, rows / 2, truncated=number % 2 == 1)
        )
        first += n
    return trajectories


LENGTHS = [7, 1, 30, 12, 3, 22, 1, 1, 40, 9]


def on_disk(tmp_path: Path, trajectories: list[Trajectory]) -> Path:
    serialize.save(tmp_path / "data", trajectories)
    return tmp_path / "data"


def mapped(tmp_path: Path, trajectories: list[Trajectory], **spaces_given: Any) -> MappedDemonstrations:
    demos = read_demonstrations(on_disk(tmp_path, trajectories), **spaces_given)
    assert isinstance(demos, MappedDemonstrations)
    assert len(demos.columns) > 1
    return demos


def test_a_large_dataset_stays_where_it_is_and_a_small_one_is_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = on_disk(tmp_path, numbered(LENGTHS))
    assert not isinstance(read_demonstrations(path), MappedDemonstrations)
    n_bytes = (sum(LENGTHS) + len(LENGTHS)) * 8 + sum(LENGTHS) * 8
    monkeypatch.setattr(_mapped, "JOIN_BYTES", n_bytes)
    assert not isinstance(read_demonstrations(path), MappedDemonstrations)
    monkeypatch.setattr(_mapped, "JOIN_BYTES", n_bytes - 1)
    demos = read_demonstrations(path)
    assert isinstance(demos, MappedDemonstrations)
    assert demos.nbytes == n_bytes
    assert read_demonstrations(serialize.load(path)[2:4]).n_episodes == 2


def test_it_answers_as_if_it_were_in_memory(tmp_path: Path, tiny_pieces: None) -> None:
    trajectories = numbered(LENGTHS)
    there, here = mapped(tmp_path, trajectories), read_demonstrations(trajectories)
    rows = np.array([125, 0, 7, 7, 8, 60])
    np.testing.assert_array_equal(there.obs_at(rows), here.obs_at(rows))  # type: ignore[arg-type]
    np.testing.assert_array_equal(there.at(rows).acts, rows)
    assert not {"frames", "acts", "obs_rows", "dones", "truncated", "rews"} & set(vars(there))
    assert (len(there), there.n_episodes) == (len(here), here.n_episodes) == (126, 10)
    names = ("frames", "obs_rows", "acts", "dones", "truncated", "rews", "obs", "next_obs")
    for name in (*names, "episode_offsets", "frame_offsets", "episode_lengths"):
        mine, expected = getattr(there, name), getattr(here, name)
        assert mine.dtype == expected.dtype, name
        np.testing.assert_array_equal(mine, expected, err_msg=name)
    np.testing.assert_array_equal(there.episode_returns(), here.episode_returns())
    np.testing.assert_array_equal(there.to_transitions().dones, here.to_transitions().dones)
    assert there.infos is here.weights is None


def test_a_dataset_without_rewards_has_none(tmp_path: Path, tiny_pieces: None) -> None:
    plain = [Trajectory(t.obs, t.acts, None, t.terminal) for t in numbered(LENGTHS)]
    demos = mapped(tmp_path, plain)
    assert demos.rews is None
    assert demos.episode_returns() is None


def every_batch(demos: Any, **kwargs: Any) -> Iterator[batches_module.Batch]:
    source = ResidentBatches(demos, 8, device=CPU, **{"generator": seeded(), **kwargs})
    for _ in range(2):
        for chunk in source.epoch():
            yield from chunk.split(8)


@pytest.mark.fault("F11")
@pytest.mark.parametrize("chunk_bytes", [1, 400, 1 << 22])
@pytest.mark.parametrize("rows", [None, np.array([100, 3, 8, 9, 77, 2, 31, 30, 29, 0])])
def test_batches_are_bit_for_bit_those_of_memory(
    tmp_path: Path, tiny_pieces: None, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, rows: np.ndarray | None
) -> None:
    monkeypatch.setattr(batches_module, "_CHUNK_BYTES", chunk_bytes)
    trajectories = numbered(LENGTHS)
    there = every_batch(mapped(tmp_path, trajectories), rows=rows)
    here = every_batch(read_demonstrations(trajectories), rows=rows)
    n = 0
    for mine, expected in zip(there, here, strict=True):
        assert isinstance(mine.obs, torch.Tensor)
        assert isinstance(expected.obs, torch.Tensor)
        assert (mine.obs.dtype, mine.acts.dtype) == (torch.float32, torch.int64)
        assert torch.equal(mine.obs, expected.obs)
        assert torch.equal(mine.acts, expected.acts)
        n += 1
    assert n >= 4


def test_the_order_of_the_data_without_a_generator(tmp_path: Path, tiny_pieces: None) -> None:
    acts = torch.cat([b.acts for b in every_batch(mapped(tmp_path, numbered(LENGTHS)), generator=None)])
    assert acts.tolist() == [*range(126), *range(126)]


@pytest.mark.fault("F11")
@pytest.mark.parametrize("ranged", [False, True])
@pytest.mark.parametrize("first_chunk", [0, 1, 3, 4])
def test_windows_show_every_row_once_in_an_order_the_generator_decides(
    tmp_path: Path, tiny_pieces: None, monkeypatch: pytest.MonkeyPatch, ranged: bool, first_chunk: int
) -> None:
    monkeypatch.setattr(_order, "EXACT_ROWS", 10)
    monkeypatch.setattr(_order, "WINDOW_BYTES", 16 * 40)
    monkeypatch.setattr(_order, "BLOCK_BYTES", 16 * 3)
    monkeypatch.setattr(batches_module, "_CHUNK_BYTES", 16 * 16)
    demos = mapped(tmp_path, numbered(LENGTHS))
    rows = demos.ranges_of_episodes(np.array([0, 2, 3, 8])) if ranged else None
    wanted = [*range(7), *range(8, 50), *range(77, 117)] if ranged else list(range(126))

    def epoch(generator: torch.Generator, first: int) -> list[int]:
        source = ResidentBatches(demos, 8, device=CPU, generator=generator, rows=rows)
        assert source.chunk_batches == 2
        acts: list[int] = []
        for chunk in source.epoch(first):
            assert isinstance(chunk.obs, torch.Tensor)
            assert torch.equal(chunk.obs[:, 0], chunk.acts.float())
            acts += chunk.acts.tolist()
        return acts

    generator = seeded()
    whole, second = epoch(generator, 0), epoch(generator, 0)
    assert sorted(whole) == sorted(second) == wanted
    assert whole != wanted != second
    assert whole != second
    assert epoch(seeded(1), 0) != whole
    assert epoch(seeded(), first_chunk) == whole[first_chunk * 16 :]


@given(n=st.integers(1, 300), row_bytes=st.integers(0, 40), multiple=st.integers(1, 20), seed=st.integers(0, 99))
def test_windows_are_a_permutation(n: int, row_bytes: int, multiple: int, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_order, "WINDOW_BYTES", 400)
        patch.setattr(_order, "BLOCK_BYTES", 60)
        plan = Windows(n, row_bytes, multiple)
        drawn = list(plan.draw(seeded(seed)))
    assert plan.size % multiple == 0
    assert [len(w.positions) for w in drawn[:-1]] == [plan.size] * (len(drawn) - 1)
    assert all((np.diff(w.positions) > 0).all() for w in drawn)
    assert all(sorted(w.shuffle.tolist()) == list(range(len(w.positions))) for w in drawn)
    assert sorted(np.concatenate([w.positions for w in drawn]).tolist()) == list(range(n))


def test_any_row_may_stand_in_any_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 rows in windows of 20 and blocks of 6: over 2,000 epochs each row is 400 ± 5 σ (18) times in the first."""
    monkeypatch.setattr(_order, "WINDOW_BYTES", 20)
    monkeypatch.setattr(_order, "BLOCK_BYTES", 6)
    generator = seeded()
    counts = np.zeros(100)
    for _ in range(2000):
        counts[next(Windows(100, 1, 1).draw(generator)).positions] += 1
    assert counts.sum() == 2000 * 20
    assert np.abs(counts - 400).max() < 5 * np.sqrt(2000 * 0.2 * 0.8)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=8))
def test_ranges_are_the_rows_they_stand_for(gaps_and_lengths: list[tuple[int, int]]) -> None:
    starts, rows, at = [], [], 0
    for gap, length in gaps_and_lengths:
        at += gap
        starts.append(at)
        rows += range(at, at + length)
        at += length
    lengths = np.array([length for _, length in gaps_and_lengths], dtype=np.int64)
    ranges = RowRanges(np.array(starts, dtype=np.int64), np.array(starts, dtype=np.int64) + lengths)
    assert len(ranges) == len(rows)
    assert np.asarray(ranges).tolist() == rows
    assert ranges.at(np.arange(len(rows))[::-1]).tolist() == rows[::-1]


def test_episodes_as_ranges_are_the_same_rows(tmp_path: Path, tiny_pieces: None) -> None:
    for demos in (mapped(tmp_path, numbered(LENGTHS)), read_demonstrations(numbered(LENGTHS))):
        for episodes in (np.array([1, 4, 5]), np.array([], dtype=np.int64), np.arange(10)):
            ranges = np.asarray(demos.ranges_of_episodes(episodes))
            np.testing.assert_array_equal(ranges, demos.rows_of_episodes(episodes))


def test_images_and_dictionaries(tmp_path: Path, tiny_pieces: None) -> None:
    rng = np.random.default_rng(0)
    trajectories = [
        Trajectory(
            DictObs(
                {
                    "image": rng.integers(0, 256, (n + 1, 3, 5, 4)).astype(np.uint8),
                    "speed": rng.standard_normal((n + 1, 2)),
                }
            ),
            rng.standard_normal((n, 1)).astype(np.float32),
            None,
            True,
        )
        for n in (5, 2, 9, 4)
    ]
    space = spaces.Dict(
        {"image": spaces.Box(0, 255, (4, 3, 5), np.uint8), "speed": spaces.Box(-9, 9, (2,), np.float64)}
    )
    there = mapped(tmp_path, trajectories, observation_space=space)
    here = read_demonstrations(trajectories, observation_space=space)
    for channels_last in (False, True):
        pairs = zip(
            every_batch(there, channels_last=channels_last),
            every_batch(here, channels_last=channels_last),
            strict=True,
        )
        for mine, expected in pairs:
            assert isinstance(mine.obs, dict)
            assert isinstance(expected.obs, dict)
            assert (mine.obs["image"].dtype, mine.obs["speed"].dtype) == (torch.uint8, torch.float64)
            assert mine.obs["image"].shape[1:] == (4, 3, 5)
            assert torch.equal(mine.obs["image"], expected.obs["image"])
            assert torch.equal(mine.obs["speed"], expected.obs["speed"])
            assert mine.obs["image"].is_contiguous(memory_format=torch.channels_last) or not channels_last


def test_choices_stored_as_floats_become_whole_numbers_as_they_are_read(tmp_path: Path, tiny_pieces: None) -> None:
    demos = mapped(tmp_path, numbered(LENGTHS, acts=np.float32), action_space=spaces.Discrete(126))
    assert {part.acts.dtype for part in demos.columns} == {np.dtype(np.float32)}
    for batch in every_batch(demos):
        assert batch.acts.dtype == torch.int64
    np.testing.assert_array_equal(demos.acts, np.arange(126))
    assert demos.acts.dtype == np.int64


@pytest.mark.fault("F8")
def test_what_is_wrong_is_found_in_any_piece(tmp_path: Path, tiny_pieces: None) -> None:
    trajectories = numbered(LENGTHS, acts=np.float32)
    trajectories[5].obs[4, 1] = np.nan  # type: ignore[index]
    trajectories[8].obs[0, 0] = np.inf  # type: ignore[index]
    with pytest.raises(NonFiniteDataError, match=r"in 2 rows, first in trajectory 5, step 4, entry \(1,\)"):
        mapped(tmp_path / "obs", trajectories)
    trajectories = numbered(LENGTHS, acts=np.float32)
    trajectories[8].acts[2] = np.inf
    with pytest.raises(NonFiniteDataError, match=r"`acts`.*first in trajectory 8, step 2"):
        mapped(tmp_path / "acts", trajectories)
    trajectories = numbered(LENGTHS)
    trajectories[9].rews[0] = np.nan  # type: ignore[attr-defined]
    with pytest.raises(NonFiniteDataError, match=r"`rews`.*first in trajectory 9, step 0"):
        mapped(tmp_path / "rews", trajectories)
    with pytest.raises(SpaceMismatchError, match="1 values outside"):
        mapped(tmp_path / "space", numbered(LENGTHS), action_space=spaces.Discrete(125))
    with pytest.raises(SpaceMismatchError):
        mapped(tmp_path / "shape", numbered(LENGTHS), observation_space=spaces.Box(-1, 1, (3,)))


def test_a_map_of_the_users_own_is_read_in_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_order, "EXACT_ROWS", 50)
    monkeypatch.setattr(_order, "WINDOW_BYTES", 16 * 40)
    monkeypatch.setattr(_order, "BLOCK_BYTES", 16 * 3)
    rows = np.arange(200)
    np.save(tmp_path / "obs.npy", np.stack([rows, -rows], axis=1).astype(np.float32))
    np.save(tmp_path / "acts.npy", rows)
    maps = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("obs", "acts")}
    demos = read_demonstrations({**maps, "weights": rows / 4}, observation_space=BOX)
    found = list(every_batch(demos))
    acts = torch.cat([batch.acts for batch in found])
    assert sorted(acts[:200].tolist()) == sorted(acts[200:].tolist()) == rows.tolist()
    assert not torch.equal(acts[:200], acts[200:])
    for batch in found:
        assert isinstance(batch.obs, torch.Tensor)
        assert batch.weights is not None
        assert torch.equal(batch.obs[:, 1], -batch.acts.float())
        assert torch.equal(batch.weights, batch.acts / 4)
    in_memory = read_demonstrations({"obs": np.array(maps["obs"]), "acts": rows})
    exact = torch.cat([batch.acts for batch in every_batch(in_memory)])
    assert exact[:200].tolist() == torch.randperm(200, generator=seeded()).tolist()


def test_an_episode_without_a_step_is_refused(tmp_path: Path, tiny_pieces: None) -> None:
    columns = list(serialize.load(on_disk(tmp_path, numbered(LENGTHS))).chunks())
    first = columns[0]
    offsets = first.transition_offsets.copy()
    offsets[1:-1] = offsets[-1]
    broken = dataclasses.replace(first, transition_offsets=offsets)
    with pytest.raises(EmptyDataError, match="without an action"):
        read_demonstrations(TrajectoryStore([*columns[1:], broken]))
