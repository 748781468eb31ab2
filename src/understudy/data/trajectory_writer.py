"""Recording into a dataset over hours, so that a run that is killed loses only what was not written yet."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from understudy.data import _arrow, _folder
from understudy.data._json_infos import InfoColumn
from understudy.data._trajectory_spec import TrajectorySpec
from understudy.data.types import AnyPath, Trajectory
from understudy.errors import CallOrderError, ConfigError, DataError
from understudy.util.files import replacing, write_atomically
from understudy.util.manifest import MANIFEST, HashingFile, manifest_text
from understudy.util.run_lock import RunLock

__all__ = ["TrajectoryWriter"]

_MAX_FILES = 10_000  # the manifest names each; it is read and compared each time


def _file_name(number: int) -> str:
    return f"data-{number:05d}.arrow"


class TrajectoryWriter:
    """Appends trajectories to a folder that ``serialize.load`` and ``datasets.load_from_disk`` open at any time.

    Trajectories are held, their arrays not copied, until ``flush_bytes`` of them are there, or ``flush`` or ``close``
    is called; then they are written as one more file of the folder, and are there whatever happens to the process
    afterwards. A dataset that is there already is continued. One writer at a time; any process may read. Many small
    files load slower: then ``serialize.save(new, serialize.load(old))`` makes one of them.

    A context manager: it writes what is held at its end, also after an exception.

    Raises:
        ConfigError: ``flush_bytes`` is not positive, or the path ends in ``.npz``, which cannot grow.
        DataError: something else is at the path; on ``append``, a trajectory with other fields than the first. It is
            not taken then, nor where writing fails.
        RunLockedError: another process, or this one, is writing there.
    """

    def __init__(self, path: AnyPath, *, flush_bytes: int = _arrow.BATCH_BYTES) -> None:
        """``flush_bytes``: of observations and actions, before they are written."""
        self._folder = Path(os.path.realpath(os.fsdecode(path)))
        if flush_bytes < 1 or self._folder.suffix == ".npz":
            raise ConfigError(
                expected="flush_bytes ≥ 1 and the path of a folder",
                got=f"flush_bytes={flush_bytes}, {self._folder.name}",
                do="give another name; an npz is written by understudy.data.serialize.save",
            )
        self._flush_bytes = flush_bytes
        self._held: list[Trajectory] = []
        self._held_bytes = 0
        self._closed = False
        self._streams: dict[str, Any] = {}
        self._spec: TrajectorySpec | None = None
        self._counts = np.zeros(2, dtype=np.int64)
        self._lock = RunLock(self._folder)
        if self._folder.is_dir():
            self._begin()
        elif os.path.lexists(self._folder):
            raise self._taken("a file")

    def _begin(self) -> None:
        """Lock the folder, and go on after what is in it."""
        self._lock.__enter__()
        try:
            self._continue()
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise

    def _continue(self) -> None:
        if not (self._folder / MANIFEST).is_file():
            # Killed in the middle of its first flush: nothing was ever listed.
            begun = {_file_name(0), _folder.INFO, _folder.STATE}
            if all(entry.name in begun or entry.name.startswith(".") for entry in self._folder.iterdir()):
                return
            raise self._taken("a folder that is no dataset")
        manifest = _folder.manifest_of(self._folder)
        names = _folder.streams_of(manifest)
        self._streams = {name: manifest["files"][name] for name in names}
        self._spec = _arrow.spec_of(self._folder / names[0])
        for number, trajectory in enumerate(self._held):  # another writer was first, with fields of its own
            self._spec.check(trajectory, number)
        self._counts += [manifest["n_trajectories"], manifest["n_transitions"]]

    def _taken(self, got: str) -> DataError:
        return DataError(
            expected=f"a free name or a dataset at {self._folder}",
            got=got,
            do="record under another name, or move it away",
        )

    @property
    def n_written(self) -> int:
        """Trajectories that are in the folder, those it had before counted."""
        return int(self._counts[0])

    def append(self, trajectory: Trajectory) -> None:
        """Add one trajectory.

        Raises:
            DataError: other fields, shapes or types than the first, or infos that JSON cannot hold.
            CallOrderError: closed.
        """
        if self._closed:
            raise CallOrderError(expected="an open writer", got="a closed one", do="make a new one to continue")
        spec = self._spec or TrajectorySpec.of(trajectory)
        spec.check(trajectory, self.n_written + len(self._held))
        if trajectory.infos is not None:  # told now, while the caller knows which one it was
            infos = InfoColumn.encode([trajectory.infos], first=self.n_written + len(self._held))[0]
            trajectory = dataclasses.replace(trajectory, infos=infos)
        self._spec = spec
        n_bytes = trajectory.obs.nbytes + np.asarray(trajectory.acts).nbytes
        self._held.append(trajectory)
        self._held_bytes += n_bytes
        if self._held_bytes >= self._flush_bytes:
            try:
                self.flush()
            except BaseException:  # not taken, so that appending it again does not store it twice
                if self._held:
                    self._held.pop()
                    self._held_bytes -= n_bytes
                raise

    def extend(self, trajectories: Iterable[Trajectory]) -> None:
        """Add several; as ``append``."""
        for trajectory in trajectories:
            self.append(trajectory)

    def flush(self) -> None:
        """Write what is held; when this returns it is on disk, and listed."""
        if not self._held:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._lock.held:
            self._begin()
        if len(self._streams) >= _MAX_FILES:
            raise ConfigError(
                expected=f"at most {_MAX_FILES} files in {self._folder}",
                got=f"one more, with {len(self._held)} trajectories",
                do="flush less often, and join what is there: serialize.save(new, serialize.load(old))",
            )
        name = _file_name(len(self._streams))
        with replacing(self._folder / name) as staged:
            file = HashingFile(staged)
            try:
                counts = _arrow.write(file, self._held)
            finally:
                file.close()
        self._streams[name] = file.entry
        self._counts += counts
        # The manifest is what counts here; `state.json`, which `datasets` reads, may be one file behind it.
        write_atomically(self._folder / _folder.INFO, _folder.info_text().encode())
        n_trajectories, n_transitions = self._counts.tolist()
        text = manifest_text(
            self._streams, kind=_folder.KIND, n_trajectories=n_trajectories, n_transitions=n_transitions
        )
        write_atomically(self._folder / MANIFEST, text.encode())
        write_atomically(self._folder / _folder.STATE, _folder.state_text(self._streams).encode())
        self._held, self._held_bytes = [], 0

    def close(self) -> None:
        """Write what is held, take no more, and let another process write."""
        try:
            self.flush()
        finally:
            self._closed = True
            self._lock.__exit__(None, None, None)

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
