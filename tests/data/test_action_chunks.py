"""The actions of the next k steps: within an episode, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from understudy.data import _arrow, _mapped, _order, serialize
from understudy.data._mapped import MappedDemonstrations
from understudy.data.batches import ResidentBatches
from understudy.data.chunks import ActionChunks
from understudy.data.demonstrations import Demonstrations, as_demonstrations
from understudy.data.types import Trajectory
from understudy.errors import ConfigError, DataError

BOX = spaces.Box(-9, 9, (1,))


def demonstrations(*lengths: int) -> Demonstrations:
    """Episodes whose actions count 0, 1, 2, … over all of them."""
    first = np.cumsum([0, *lengths])
    found = as_demonstrations(
        [
            Trajectory(np.zeros((n + 1, 1), np.float32), np.arange(f, f + n, dtype=np.float32)[:, None], None, True)
            for n, f in zip(lengths, first, strict=False)
        ]
    )
    assert isinstance(found, Demonstrations)
    return found


def test_a_chunk_ends_with_its_episode() -> None:
    chunks = ActionChunks(demonstrations(3, 2), 3, BOX)(np.arange(5))[..., 0]
    nan = float("nan")
    expected = [[0.0, 1, 2], [1, 2, nan], [2, nan, nan], [3, 4, nan], [4, nan, nan]]
    torch.testing.assert_close(chunks, torch.tensor(expected), equal_nan=True)


def test_choices_beyond_the_end_are_one_less_than_the_smallest() -> None:
    demos = as_demonstrations(
        {"obs": np.zeros((2, 1)), "acts": np.array([4, 3], np.uint8), "episode_ends": np.array([2])}
    )
    assert isinstance(demos, Demonstrations)
    assert ActionChunks(demos, 2, spaces.Discrete(2, start=3))(np.arange(2)).tolist() == [[4, 3], [3, 2]]


def test_a_missing_step_ends_a_chunk_too() -> None:
    """As in HG-DAgger, where steps that nobody labelled are left out: frames 0, 1, 3 of one episode."""
    demos = Demonstrations(
        frames=np.zeros((5, 1), np.float32),
        obs_rows=np.array([0, 1, 3]),
        acts=np.array([[0.0], [1.0], [3.0]], np.float32),
        episode_offsets=np.array([0, 3]),
    )
    known = ~ActionChunks(demos, 3, BOX)(np.arange(3)).isnan()[..., 0]
    assert known.tolist() == [[True, True, False], [True, False, False], [True, False, False]]


def test_rows_without_episodes_are_refused() -> None:
    rows = as_demonstrations((np.zeros((4, 1)), np.zeros((4, 1))))
    assert isinstance(rows, Demonstrations)
    with pytest.raises(DataError, match="where episodes end"):
        ActionChunks(rows, 2, BOX)
    with pytest.raises(ConfigError, match="at least one"):
        ActionChunks(demonstrations(3), 0, BOX)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(1, 9), st.integers(0, 2**31 - 1))
def test_shuffled_batches_carry_the_chunks_of_their_rows(lengths: list[int], k: int, seed: int) -> None:
    """Each known step is the first one plus its number; as many are known as the episode has left."""
    demos = demonstrations(*lengths)
    source = ResidentBatches(
        demos,
        4,
        device=torch.device("cpu"),
        generator=torch.Generator().manual_seed(seed),
        targets=ActionChunks(demos, k, BOX),
    )
    chunks = torch.cat([chunk.acts for chunk in source.epoch()])[..., 0]
    assert sorted(chunks[:, 0].tolist()) == list(range(len(demos)))
    ends = np.repeat(demos.episode_offsets[1:], demos.episode_lengths)
    for chunk in chunks:
        first = int(chunk[0])
        left = min(k, int(ends[first]) - first)
        assert chunk[:left].tolist() == list(range(first, first + left))
        assert chunk[left:].isnan().all()


@pytest.mark.parametrize("in_windows", [False, True])
def test_data_that_stays_on_disk_has_chunks_too(
    in_windows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shuffled as a whole or in windows; the observation of transition i is i, its chunk i, i + 1, …"""
    monkeypatch.setattr(_mapped, "JOIN_BYTES", 0)
    monkeypatch.setattr(_arrow, "BATCH_BYTES", 500)
    if in_windows:
        monkeypatch.setattr(_order, "EXACT_ROWS", 10)
        monkeypatch.setattr(_order, "WINDOW_BYTES", 200)
        monkeypatch.setattr(_order, "BLOCK_BYTES", 40)
    lengths = [7, 1, 30, 12]
    first = np.cumsum([0, *lengths])
    frames = [np.arange(f, f + n + 1, dtype=np.float32)[:, None] for n, f in zip(lengths, first, strict=False)]
    serialize.save(tmp_path / "data", [Trajectory(f, f[:-1], None, True) for f in frames])
    demos = as_demonstrations(tmp_path / "data")
    assert isinstance(demos, MappedDemonstrations)
    source = ResidentBatches(
        demos,
        4,
        device=torch.device("cpu"),
        generator=torch.Generator().manual_seed(0),
        targets=ActionChunks(demos, 3, BOX),
    )
    chunks = list(source.epoch())
    rows = torch.cat([chunk.obs for chunk in chunks if isinstance(chunk.obs, torch.Tensor)])[:, 0]
    acts = torch.cat([chunk.acts for chunk in chunks])[..., 0]
    assert sorted(rows.tolist()) == list(range(50))
    assert rows.tolist() != list(range(50))
    expected = ActionChunks(demos, 3, BOX)(rows.long().numpy())[..., 0]
    torch.testing.assert_close(acts, expected, equal_nan=True)
    assert torch.equal(acts[:, 0], rows)
