"""Names of several files reach the disk together."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from understudy.errors import FileWriteError
from understudy.util import files


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was synced, in order."""
    seen: list[Path] = []
    monkeypatch.setattr(files, "sync", seen.append)
    return seen


def written(folder: Path, name: str) -> None:
    with files.replacing(folder / name) as staged:
        staged.write_text(name)


def test_the_folder_is_synced_once_and_each_file_before_it_gets_its_name(tmp_path: Path, synced: list[Path]) -> None:
    with files.names_synced_once():
        for name in ("a", "b", "c"):
            written(tmp_path, name)
            assert (tmp_path / name).read_text() == name
        assert tmp_path not in synced
        assert len(synced) == 3
    assert synced[3:] == [tmp_path]


def two_of_which_one_fails(folder: Path) -> None:
    with files.names_synced_once():
        written(folder, "a")
        written(folder, "a/below a file")


def test_also_when_something_fails_between(tmp_path: Path, synced: list[Path]) -> None:
    with pytest.raises(FileWriteError):
        two_of_which_one_fails(tmp_path)
    assert synced[-1] == tmp_path


def test_afterwards_each_name_is_synced_again(tmp_path: Path, synced: list[Path]) -> None:
    with files.names_synced_once():
        written(tmp_path, "a")
    del synced[:]
    written(tmp_path, "b")
    assert synced[-1] == tmp_path


def written_and_removed(folder: Path) -> None:
    with files.names_synced_once():
        written(folder, "a")
        shutil.rmtree(folder)
        raise KeyError("the reason")


def test_a_folder_that_is_gone_does_not_hide_what_failed(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="the reason"):
        written_and_removed(tmp_path / "folder")


def test_names_that_do_not_reach_the_disk_are_a_write_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = files.sync

    def broken(path: Path) -> None:
        if path == tmp_path:
            raise OSError(errno.EIO, "Input/output error")
        sync(path)

    monkeypatch.setattr(files, "sync", broken)
    with pytest.raises(FileWriteError, match="Input/output"), files.names_synced_once():
        written(tmp_path, "a")
