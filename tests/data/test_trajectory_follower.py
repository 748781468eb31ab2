"""Reading a dataset while it grows."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy.data import serialize, trajectory_follower
from understudy.data.trajectory_follower import TrajectoryFollower
from understudy.data.trajectory_writer import TrajectoryWriter
from understudy.data.types import Trajectory
from understudy.errors import ConfigError, CorruptFileError, DataError, FileWriteError, RunLockedError


def episode(length: int) -> Trajectory:
    obs = np.full((length + 1, 2), length, np.float32)
    return Trajectory(obs=obs, acts=np.arange(length), infos=None, terminal=True)


@pytest.mark.defect("C7")
def test_each_round_reads_only_what_it_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    check = trajectory_follower.check_files

    def counted(folder: Path, entries: dict[str, Any], *, hashes: bool) -> None:
        hashed.extend(entries)
        check(folder, entries, hashes=hashes)

    monkeypatch.setattr(trajectory_follower, "check_files", counted)
    follower = TrajectoryFollower(tmp_path / "data")
    assert len(follower.read_new()) == 0
    with TrajectoryWriter(tmp_path / "data") as writer:
        for n in (1, 2, 3):
            writer.extend([episode(n), episode(n)])
            assert len(follower.read_new()) == 0
            writer.flush()
            assert list(follower.read_new()) == [episode(n), episode(n)]
            assert len(follower.read_new()) == 0
    assert follower.n_read == 6
    assert hashed == ["data-00000.arrow", "data-00001.arrow", "data-00002.arrow"]
    assert len(serialize.load(tmp_path / "data")) == 6


def test_what_was_there_before_comes_first(tmp_path: Path) -> None:
    serialize.save(tmp_path / "data", [episode(1), episode(2)])
    follower = TrajectoryFollower(tmp_path / "data")
    assert len(follower.read_new()) == 2
    with TrajectoryWriter(tmp_path / "data") as writer:
        writer.append(episode(3))
    assert list(follower.read_new()) == [episode(3)]


@pytest.mark.fault("F5")
def test_a_new_file_is_verified(tmp_path: Path) -> None:
    with TrajectoryWriter(tmp_path / "data") as writer:
        writer.append(episode(3))
    stream = tmp_path / "data" / "data-00000.arrow"
    content = bytearray(stream.read_bytes())
    content[len(content) // 2] ^= 1
    stream.write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"data-00000\.arrow"):
        TrajectoryFollower(tmp_path / "data").read_new()


def test_another_dataset_in_its_place_is_told(tmp_path: Path) -> None:
    serialize.save(tmp_path / "data", [episode(1)])
    follower = TrajectoryFollower(tmp_path / "data")
    follower.read_new()
    serialize.save(tmp_path / "data", [episode(2)])
    with pytest.raises(DataError, match="another one"):
        follower.read_new()


@pytest.mark.fault("F15")
def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with TrajectoryWriter(tmp_path / "data", flush_bytes=1) as writer:
        writer.append(episode(1))
        with pytest.raises(RunLockedError):
            TrajectoryWriter(tmp_path / "data")
        writer.append(episode(2))
    with TrajectoryWriter(tmp_path / "data", flush_bytes=1) as writer:
        writer.append(episode(3))
    assert len(serialize.load(tmp_path / "data")) == 3
    serialize.save(tmp_path / "data", [episode(4)])


def test_too_many_files_are_refused_before_they_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.data.trajectory_writer._MAX_FILES", 2)
    writer = TrajectoryWriter(tmp_path / "data", flush_bytes=1)
    writer.extend([episode(1), episode(2)])
    with pytest.raises(ConfigError, match="at most 2 files"):
        writer.append(episode(3))
    assert len(serialize.load(tmp_path / "data")) == 2


def test_a_writer_made_before_another_recorded_goes_on_after_it(tmp_path: Path) -> None:
    late = TrajectoryWriter(tmp_path / "data")
    with TrajectoryWriter(tmp_path / "data") as writer:
        writer.extend([episode(1), episode(2)])
    with late:
        late.append(episode(3))
    assert list(serialize.load(tmp_path / "data")) == [episode(1), episode(2), episode(3)]


def test_a_dataset_is_not_replaced_below_its_writer(tmp_path: Path) -> None:
    with TrajectoryWriter(tmp_path / "data", flush_bytes=1) as writer:
        writer.append(episode(1))
        with pytest.raises(RunLockedError):
            serialize.save(tmp_path / "data", [episode(2)])
        writer.append(episode(3))
    assert list(serialize.load(tmp_path / "data")) == [episode(1), episode(3)]


@pytest.mark.fault("F3")
def test_what_could_not_be_written_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = TrajectoryWriter(tmp_path / "data", flush_bytes=1)
    writer.append(episode(1))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FileWriteError, match="No space left"):
            writer.append(episode(2))
    writer.append(episode(2))
    writer.close()
    assert list(serialize.load(tmp_path / "data")) == [episode(1), episode(2)]


def test_a_first_episode_that_is_refused_decides_nothing(tmp_path: Path) -> None:
    bad = Trajectory(np.zeros((2, 9)), np.zeros(1), [{"x": object()}], True)
    with TrajectoryWriter(tmp_path / "data") as writer:
        with pytest.raises(DataError):
            writer.append(bad)
        writer.append(episode(2))
    assert list(serialize.load(tmp_path / "data")) == [episode(2)]
