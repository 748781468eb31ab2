"""A dataset that grows: what was flushed is there whatever happens next, for us and for `datasets`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from understudy.data import serialize
from understudy.data.trajectory_writer import TrajectoryWriter
from understudy.data.types import Trajectory, TrajectoryWithRew
from understudy.errors import CallOrderError, ConfigError, CorruptFileError, DataError
from understudy.util.manifest import MANIFEST


def episode(length: int, **changes: object) -> Trajectory:
    fields = {
        "obs": np.full((length + 1, 2), length, np.float32),
        "acts": np.arange(length),
        "infos": [{"t": t} for t in range(length)],
        "terminal": True,
        "rews": np.ones(length),
        "truncated": length % 2 == 0,
    }
    return TrajectoryWithRew(**{**fields, **changes})  # type: ignore[arg-type]


EPISODES = [episode(n) for n in range(1, 7)]


def test_what_is_appended_in_several_sessions_is_one_dataset(tmp_path: Path) -> None:
    with TrajectoryWriter(tmp_path / "data", flush_bytes=1) as writer:
        writer.extend(EPISODES[:2])
        assert writer.n_written == 2
    with TrajectoryWriter(tmp_path / "data") as writer:
        writer.extend(EPISODES[2:])
        assert writer.n_written == 2
    assert len(list((tmp_path / "data").glob("*.arrow"))) == 3
    assert list(serialize.load(tmp_path / "data")) == EPISODES


def test_it_continues_what_save_wrote_and_save_makes_one_file_of_it(tmp_path: Path) -> None:
    serialize.save(tmp_path / "data", EPISODES[:3])
    with TrajectoryWriter(tmp_path / "data", flush_bytes=1) as writer:
        writer.extend(EPISODES[3:])
    assert list(serialize.load(tmp_path / "data")) == EPISODES
    serialize.save(tmp_path / "data", serialize.load(tmp_path / "data"))
    assert len(list((tmp_path / "data").glob("*.arrow"))) == 1
    assert list(serialize.load(tmp_path / "data")) == EPISODES


def test_huggingface_datasets_opens_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    with TrajectoryWriter(tmp_path / "data", flush_bytes=1) as writer:
        writer.extend(EPISODES)
    opened = datasets.load_from_disk(str(tmp_path / "data"))
    assert [len(acts) for acts in opened["acts"]] == [1, 2, 3, 4, 5, 6]


def test_many_files_lie_where_they_are(tmp_path: Path) -> None:
    with TrajectoryWriter(tmp_path / "data", flush_bytes=1) as writer:
        writer.extend(EPISODES)
    store = serialize.load(tmp_path / "data")
    assert [len(chunk) for chunk in store.chunks()] == [1] * 6
    assert not store[3].obs.flags.owndata
    assert not store[3].obs.flags.writeable


@pytest.mark.fault("F1")
def test_after_a_kill_every_flushed_episode_is_there(tmp_path: Path) -> None:
    """The child flushes two episodes and is killed holding a third, and while a fourth is half written."""
    child = os.fork()
    if child == 0:
        writer = TrajectoryWriter(tmp_path / "data")
        writer.extend(EPISODES[:2])
        writer.flush()
        (tmp_path / "data" / "data-00001.arrow").write_bytes(b"half")  # written, not listed yet
        writer.append(EPISODES[2])
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert list(serialize.load(tmp_path / "data")) == EPISODES[:2]
    with TrajectoryWriter(tmp_path / "data") as writer:
        writer.extend(EPISODES[2:])
    assert list(serialize.load(tmp_path / "data")) == EPISODES


@pytest.mark.fault("F1")
def test_a_kill_before_anything_was_listed_leaves_a_place_to_start(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data-00000.arrow").write_bytes(b"half")
    with TrajectoryWriter(tmp_path / "data") as writer:
        writer.extend(EPISODES)
    assert list(serialize.load(tmp_path / "data")) == EPISODES


def test_an_exception_keeps_what_was_recorded(tmp_path: Path) -> None:
    def record() -> None:
        with TrajectoryWriter(tmp_path / "data") as writer:
            writer.append(EPISODES[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record()
    assert list(serialize.load(tmp_path / "data")) == EPISODES[:1]


def test_an_episode_that_does_not_fit_is_told_when_it_is_appended(tmp_path: Path) -> None:
    serialize.save(tmp_path / "data", EPISODES[:2])
    with TrajectoryWriter(tmp_path / "data") as writer:
        writer.append(EPISODES[2])
        for bad, message in [
            (episode(2, obs=np.zeros((3, 3), np.float32)), "trajectory 3"),
            (episode(2, acts=np.zeros(2)), "`acts`"),
            (Trajectory(EPISODES[0].obs, EPISODES[0].acts, None, True), "`rews`"),
            (episode(1, infos=[{"x": object()}]), r"trajectory 3, infos\[0\]"),
        ]:
            with pytest.raises(DataError, match=message):
                writer.append(bad)
    assert list(serialize.load(tmp_path / "data")) == EPISODES[:3]


def test_a_closed_writer_and_wrong_paths_are_refused(tmp_path: Path) -> None:
    writer = TrajectoryWriter(tmp_path / "data")
    writer.close()
    assert not (tmp_path / "data").exists()
    with pytest.raises(CallOrderError):
        writer.append(EPISODES[0])
    with pytest.raises(ConfigError):
        TrajectoryWriter(tmp_path / "data.npz")
    with pytest.raises(ConfigError):
        TrajectoryWriter(tmp_path / "data", flush_bytes=0)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear")
    (tmp_path / "file").write_text("x")
    for name in ("notes", "file"):
        with pytest.raises(DataError, match="free name"):
            TrajectoryWriter(tmp_path / name)


@pytest.mark.fault("F5")
def test_a_flipped_bit_in_any_file_is_told(tmp_path: Path, rng: np.random.Generator) -> None:
    with TrajectoryWriter(tmp_path / "data", flush_bytes=1) as writer:
        writer.extend(EPISODES[:3])
    for name in ["data-00000.arrow", "data-00002.arrow", MANIFEST]:
        path = tmp_path / "data" / name
        good = path.read_bytes()
        for position in rng.integers(0, len(good), size=20):
            bad = bytearray(good)
            bad[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(bad)
            with pytest.raises(CorruptFileError):
                serialize.load(tmp_path / "data")
        path.write_bytes(good)
