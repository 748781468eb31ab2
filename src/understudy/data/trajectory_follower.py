"""Reading a dataset while it grows: each call gives what was appended since the last."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from understudy.data import _arrow, _folder
from understudy.data._older_folder import plain_file
from understudy.data.trajectory_store import TrajectoryStore
from understudy.data.types import AnyPath, Trajectory
from understudy.errors import DataError
from understudy.util.manifest import MANIFEST, check_files

__all__ = ["TrajectoryFollower"]


class TrajectoryFollower:
    """Follows what a ``TrajectoryWriter`` records, in this process or another.

    Only files that were not there at the last call are read and verified, so a round of an interactive algorithm costs
    what it added, however much was recorded before.

    Args:
        path: the dataset's folder; it need not be there yet.
    """

    def __init__(self, path: AnyPath) -> None:
        self._folder = Path(os.path.realpath(os.fsdecode(path)))
        self._seen: dict[str, Any] = {}
        self.n_read = 0
        """Trajectories that were given so far."""

    def read_new(self) -> TrajectoryStore[Trajectory]:
        """The trajectories that were written since the last call, mapped into memory; perhaps none.

        Raises:
            CorruptFileError: truncated or altered.
            DataError: it is not a dataset, or it was replaced by another one since.
        """
        if not (self._folder / MANIFEST).exists():
            return TrajectoryStore([])
        entries = _folder.manifest_of(self._folder)["files"]
        if any(entries.get(name) != entry for name, entry in self._seen.items()):
            raise DataError(
                expected=f"the dataset at {self._folder} that was read before, with more in it",
                got="another one",
                do="follow it anew with another TrajectoryFollower",
            )
        streams = _folder.streams_of({"files": entries})
        new = {name: entries[name] for name in streams if name not in self._seen}
        paths = [plain_file(self._folder, name) for name in new]
        check_files(self._folder, new, hashes=True)
        store = TrajectoryStore[Trajectory](_arrow.read_all(paths) if paths else [])
        self._seen.update(new)
        self.n_read += len(store)
        return store
