"""Trajectories on disk: an Arrow folder, or one ``.npz``.

A folder holds Arrow streams (layout: ``_arrow.py``), ``state.json`` and ``dataset_info.json``, so that
``datasets.load_from_disk`` opens it too, and ``MANIFEST.json`` with the SHA-256 of each file. Nothing in either form is
a pickle. Types, shapes and bytes of the arrays come back as they were. ``load`` reads what `imitation` wrote as well:
folders, and npz files and pickles as far as they are trusted (``_older_files.py``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import cast

from understudy.data._older_pickle import TRUST
from understudy.data.trajectory_store import TrajectoryStore
from understudy.data.types import AnyPath, Trajectory, TrajectoryWithRew
from understudy.errors import ConfigError, CorruptFileError, DataError, EmptyDataError, MissingFileError
from understudy.util.files import put_back, replacing
from understudy.util.manifest import MANIFEST
from understudy.util.run_lock import RunLock

__all__ = ["AnyPath", "load", "load_with_rewards", "save"]


def save(path: AnyPath, trajectories: Iterable[Trajectory]) -> None:
    """Write trajectories to ``path``: one ``.npz`` file if it ends so, else a folder.

    A dataset already there is replaced, in one step: a crash leaves the old one or the new one. A folder is written
    while ``trajectories`` is iterated, in batches of about 64 MiB, so these need not fit into memory; an npz must.
    Infos are kept as JSON: arrays in them come back as lists.

    Args:
        path: its parent folders are made.
        trajectories: with the same fields, shapes and types each; all with rewards or none.

    Raises:
        EmptyDataError: no trajectories.
        DataError: trajectories differ, a field or info cannot be stored, or something else already has this name.
        RunLockedError: a ``TrajectoryWriter`` is writing there.
        FileWriteError: disk full, no rights; what stood there is untouched.
    """
    from understudy.data import _folder

    target = Path(os.path.realpath(os.fsdecode(path)))
    put_back(target)
    _check_replaceable(target)
    # A dataset that a TrajectoryWriter is writing at is not replaced below it.
    with RunLock(target) if target.is_dir() else nullcontext(), replacing(target) as staged:
        if target.suffix == ".npz":
            _save_npz(staged, trajectories)
        else:
            _folder.save(staged, trajectories)


def _save_npz(path: Path, trajectories: Iterable[Trajectory]) -> None:
    from understudy.data import _npz
    from understudy.data._trajectory_spec import TrajectorySpec

    trajs = list(trajectories)
    if not trajs:
        raise EmptyDataError(expected="at least one trajectory", got="none", do="record some before saving")
    spec = TrajectorySpec.of(trajs[0])
    for number, traj in enumerate(trajs):
        spec.check(traj, number)
    _npz.write(path, spec.gather(trajs), spec)


def _check_replaceable(target: Path) -> None:
    """Never remove what is not a dataset: a folder with other files in it, or a file of another kind."""
    from understudy.data import _folder

    if not os.path.lexists(target):
        return
    if target.is_dir():
        names = sorted(entry.name for entry in target.iterdir())
        known = {_folder.STATE, _folder.INFO, MANIFEST, ".lock"}
        strange = [name for name in names if name not in known and not name.endswith(".arrow")]
        if not strange and (not names or _folder.STATE in names):
            return
        got = f"a folder with {', '.join((strange or names)[:3])} in it"
    elif target.suffix == ".npz":
        return
    else:
        got = "a file"
    raise DataError(
        expected=f"a free name or an older dataset at {target}", got=got, do="save under another name, or move it away"
    )


def load(path: AnyPath, *, verify: bool = True, trust: str | None = None) -> TrajectoryStore[Trajectory]:
    """Open what ``save`` or ``TrajectoryWriter`` wrote, or `imitation`; with rewards if they were saved with them.

    A folder is mapped into memory: nothing is read until it is used, except to check the sums.

    Args:
        path: a folder or a file.
        verify: compare each file of a folder with its SHA-256, which reads all of it once; without, only names and
            sizes are compared, and a warning is logged. An npz is read, and its checksums compared, either way. A
            folder that `imitation` wrote has no sums.
        trust: None runs nothing that a file holds: pickles are refused, and infos pickled beside plain arrays left
            out, which the log tells. ``"pickle"`` runs them; write it only for files whose writer you trust.

    Raises:
        MissingFileError: nothing at ``path``.
        CorruptFileError: truncated or altered; the message names the file.
        DataError: a dataset of another layout.
        UntrustedFileError: what it holds is pickled, and ``trust`` is None.
        ConfigError: another ``trust``.
    """
    if trust not in (None, TRUST):
        raise ConfigError(
            expected='trust=None or trust="pickle"',
            got=f"trust={trust!r}",
            do="leave it out, unless you trust whoever wrote the file",
        )
    where = Path(os.fsdecode(path))
    put_back(where)
    if not where.exists():
        raise MissingFileError(
            expected=f"a dataset at {where}",
            got="no such file or folder",
            do=f"check the path; a relative one starts at {Path.cwd()}",
        )
    return _load_folder(where, verify=verify) if where.is_dir() else _load_file(where, trust)


def load_with_rewards(
    path: AnyPath, *, verify: bool = True, trust: str | None = None
) -> TrajectoryStore[TrajectoryWithRew]:
    """As ``load``, for datasets that must have rewards.

    Raises:
        DataError: saved without rewards; and as ``load``.
    """
    store = load(path, verify=verify, trust=trust)
    if not store.has_rewards:
        raise DataError(
            expected=f"trajectories with rewards in {os.fsdecode(path)}",
            got="trajectories without",
            do="use `load`, or save TrajectoryWithRew objects",
        )
    return cast(TrajectoryStore[TrajectoryWithRew], store)


def _load_folder(folder: Path, *, verify: bool) -> TrajectoryStore[Trajectory]:
    from understudy.data import _folder, _older_folder

    if (folder / MANIFEST).is_file():
        return _folder.load(folder, verify=verify)
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
        raise DataError(
            expected=f"the folder of one dataset at {folder}",
            got=f"several, one a split: {', '.join(splits[:5])}",
            do=f"load one of them: {folder / (splits or ['train'])[0]}",
        )
    if (folder / _folder.STATE).is_file():
        if any(_folder.is_ours(_older_folder.plain_file(folder, name)) for name in _older_folder.stream_names(folder)):
            raise CorruptFileError(
                expected=f"the file {folder / MANIFEST}",
                got="no such file, beside a stream that was saved with one",
                do="copy the dataset again, with all its files",
            )
        return TrajectoryStore(_older_folder.read(folder))
    raise DataError(
        expected=f"a folder at {folder} that `understudy.data.serialize.save` wrote, or `datasets`",
        got=f"a folder without {MANIFEST}",
        do="give the dataset's own folder; or build Trajectory objects from its columns and save them",
    )


def _load_file(path: Path, trust: str | None) -> TrajectoryStore[Trajectory]:
    from understudy.data import _npz, _older_files
    from understudy.data._older_pickle import is_pickle, untrusted

    if not path.is_file():
        raise DataError(expected=f"a dataset at {path}", got="neither a file nor a folder", do="check the path")
    with path.open("rb") as file:
        head = file.read(8)
    if is_pickle(path) or path.suffix in (".pkl", ".pickle"):
        if trust is None:
            raise untrusted(path, "a pickle")
        return TrajectoryStore([_older_files.read_pickle(path)])
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")) or path.suffix == ".npz":
        return TrajectoryStore([_npz.read(path) if _npz.is_ours(path) else _older_files.read_npz(path, trust)])
    if head.startswith(b"\x93NUMPY") and _older_files.is_of_objects(path):
        if trust is None:
            raise untrusted(path, "an array of pickled objects")
        return TrajectoryStore([_older_files.read_pickle(path)])
    known = {b"\x93NUMPY": "one NumPy array", b"\x89HDF": "an HDF5 file", b"PAR1": "a Parquet file"}
    got = next((what for magic, what in known.items() if head.startswith(magic)), f"a file that begins {head!r}")
    raise DataError(
        expected=f"a dataset at {path} that `understudy.data.serialize.save` wrote: a folder, or an npz",
        got=got,
        do="read it with its own library, build Trajectory objects and save them with `understudy.data.serialize.save`",
    )
