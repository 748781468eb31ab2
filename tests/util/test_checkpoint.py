"""Checkpoint folders: complete and verified, or not there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from understudy.data import serialize
from understudy.data.types import Trajectory
from understudy.errors import CheckpointError, ConfigError, CorruptFileError, MissingFileError
from understudy.util import files
from understudy.util.checkpoint import (
    all_checkpoints,
    keep_newest,
    latest,
    read_checkpoint,
    step_folder,
    step_of,
    verify,
    write_checkpoint,
)

STATE = {"weights": torch.arange(3.0), "steps": 7, "moments": {0: (torch.zeros(2), None)}}


def some(folder: Path, *steps: int) -> list[Path]:
    return [write_checkpoint(step_folder(folder, step), {**STATE, "steps": step}, kind="K") for step in steps]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    files = {"note.txt": lambda path: path.write_text("hello")}
    where = write_checkpoint(tmp_path / "deep" / "c", STATE, kind="K", files=files, seed=3)  # type: ignore[arg-type]
    found = read_checkpoint(where, kind="K")
    assert found.kind == "K"
    assert found.state["steps"] == 7
    assert torch.equal(found.state["weights"], torch.arange(3.0))
    assert found.state["moments"][0][1] is None
    assert found.facts["seed"] == 3
    assert found.facts["threads"] == torch.get_num_threads()
    assert set(found.facts["files"]) == {"state.json", "tensors.safetensors", "note.txt"}
    assert (where / "note.txt").read_text() == "hello"


def test_one_name_twice_is_the_newer_one(tmp_path: Path) -> None:
    for step in (1, 2):
        write_checkpoint(tmp_path / "c", {"steps": step}, kind="K")
    assert read_checkpoint(tmp_path / "c").state["steps"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_latest_is_the_newest_that_verifies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert latest(tmp_path / "nothing") is None
    assert latest(tmp_path) is None
    first, second, third = some(tmp_path, 9, 100, 1_000_000_000_000)
    assert all_checkpoints(tmp_path) == [first, second, third]
    assert latest(tmp_path) == third
    assert step_of(third) == 10**12
    (third / "state.json").unlink()
    assert latest(tmp_path) == second
    assert third.name in caplog.text
    for path in (first, second):
        (path / "MANIFEST.json").write_text("{}")
    with pytest.raises(CheckpointError, match="step-000000000100"):
        latest(tmp_path)


def test_only_the_newest_are_kept_and_what_is_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    some(tmp_path, 1, 2, 3)
    (tmp_path / ".step-000000000004.tmp-x-1-y").mkdir()
    (tmp_path / "step-x").mkdir()
    keep_newest(tmp_path, 2)
    assert [step_of(path) for path in all_checkpoints(tmp_path)] == [2, 3]


def test_what_an_earlier_process_left_is_swept(tmp_path: Path) -> None:
    from understudy.util.files import staged_name

    target = step_folder(tmp_path, 5)
    name = staged_name(target).name.split("-")
    name[-2] = str(2**22 + 1)  # above every process number that Linux gives
    (tmp_path / "-".join(name)).mkdir()
    write_checkpoint(target, STATE, kind="K")
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_another_kind_is_told(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c", STATE, kind="GAIL")
    with pytest.raises(CheckpointError, match="one of GAIL"):
        read_checkpoint(tmp_path / "c", kind="BC")


def test_no_checkpoint_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no MANIFEST"):
        read_checkpoint(tmp_path)


def test_a_manifest_without_the_state_is_told(tmp_path: Path) -> None:
    from understudy.util.manifest import write_manifest

    write_manifest(tmp_path, {}, kind="trajectories")
    with pytest.raises(CorruptFileError, match="trajectories"):
        verify(tmp_path)


def test_what_is_no_checkpoint_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    serialize.save(tmp_path / "data", [Trajectory(np.zeros((2, 1)), np.zeros(1), None, True)])
    noted = write_checkpoint(tmp_path / "noted", STATE, kind="K")
    (noted / "notes.txt").write_text("mine")
    for name, told in (
        ("mine", "thesis.tex"),
        ("file", "a file"),
        ("data", "dataset_info.json"),
        ("noted", "notes.txt"),
    ):
        with pytest.raises(CheckpointError, match=told):
            write_checkpoint(tmp_path / name, STATE, kind="K")
    assert len(serialize.load(tmp_path / "data")) == 1
    (tmp_path / "empty").mkdir()
    write_checkpoint(tmp_path / "empty", STATE, kind="K")


@pytest.mark.fault("F3")
def test_where_nothing_can_be_written_the_reason_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match=r"file/c.*(Not a directory|File exists)"):
        write_checkpoint(tmp_path / "file" / "c", STATE, kind="K")


def test_a_long_state_belongs_into_tensors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="arrays or tensors"):
        write_checkpoint(tmp_path / "c", {"losses": list(range(300_000))}, kind="K")


def test_a_state_that_lies_within_a_true_manifest_is_refused(tmp_path: Path) -> None:
    from understudy.util.manifest import manifest_entry, write_manifest

    where = write_checkpoint(tmp_path / "c", STATE, kind="K")
    (where / "state.json").write_text(json.dumps({"$tensor": "elsewhere"}))
    (where / "MANIFEST.json").unlink()
    names = ("state.json", "tensors.safetensors")
    write_manifest(where, {name: manifest_entry(where / name) for name in names}, kind="K", format=1)
    with pytest.raises(CorruptFileError, match=r"state.json"):
        read_checkpoint(where)


@pytest.mark.fault("F26")
def test_another_format_is_told_with_the_version_that_wrote_it(tmp_path: Path) -> None:
    from understudy.util.manifest import manifest_entry, write_manifest

    where = write_checkpoint(tmp_path / "c", STATE, kind="K")
    (where / "MANIFEST.json").unlink()
    names = ("state.json", "tensors.safetensors")
    write_manifest(where, {name: manifest_entry(where / name) for name in names}, kind="K", format=2)
    with pytest.raises(CheckpointError, match=r"format 2, written by understudy \d"):
        read_checkpoint(where)


@pytest.mark.fault("F6")
def test_a_link_in_a_checkpoint_is_not_followed(tmp_path: Path) -> None:
    where = write_checkpoint(tmp_path / "c", STATE, kind="K")
    (where / "state.json").rename(tmp_path / "elsewhere.json")
    (where / "state.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(CorruptFileError, match="no such file there"):
        read_checkpoint(where)


def test_verifying_does_not_wait_for_a_lock_that_a_dead_child_may_hold(tmp_path: Path) -> None:
    """tqdm's own lock is shared between processes; a child killed inside it never gives it back."""
    import threading

    from tqdm.auto import tqdm

    where = write_checkpoint(tmp_path / "c", STATE, kind="K")
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with tqdm.get_lock():
            held.set()
            done.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(5)
    verifier = threading.Thread(target=verify, args=(where,))
    verifier.start()
    verifier.join(5)
    stuck = verifier.is_alive()
    done.set()
    holder.join()
    verifier.join()
    assert not stuck


@pytest.mark.fault("F1")
def test_killed_between_two_renames_the_old_version_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system has no atomic swap of two folders."""
    target = write_checkpoint(tmp_path / "c", {"steps": 1}, kind="K")
    rename = Path.rename

    def killed(self: Path, to: Path) -> Path:
        if to == target:
            raise KeyboardInterrupt
        moved = rename(self, to)
        parts = moved.name.split("-")
        parts[-2] = str(2**22 + 1)  # as if another process had done it, which is gone
        return rename(moved, moved.with_name("-".join(parts)))

    with monkeypatch.context() as patch:
        patch.setattr(files, "_exchange", lambda a, b: False)
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            write_checkpoint(target, {"steps": 2}, kind="K")
    assert not target.exists()
    assert read_checkpoint(target).state["steps"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_others_may_read_what_the_folder_lets_them(tmp_path: Path) -> None:
    where = write_checkpoint(tmp_path / "c", STATE, kind="K")
    assert len({path.stat().st_mode for path in where.iterdir()}) == 1
