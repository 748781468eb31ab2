"""Trajectories on disk: an Arrow folder, or one ``.npz``.

A folder holds an Arrow stream (layout: ``_arrow.py``), ``state.json`` and ``dataset_info.json``, so that
``datasets.load_from_disk`` opens it too, and ``MANIFEST.json`` with the SHA-256 of each file. Nothing in either form is
a pickle. Types, shapes and bytes of the arrays come back as they were.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from understudy.data.trajectory_store import TrajectoryStore
from understudy.data.types import AnyPath, Trajectory, TrajectoryWithRew
from understudy.errors import (
    CorruptFileError,
    DataError,
    EmptyDataError,
    MissingFileError,
    UntrustedFileError,
)
from understudy.util.files import replacing
from understudy.util.manifest import MANIFEST, HashingFile, check_files, read_manifest, write_file, write_manifest

__all__ = ["AnyPath", "load", "load_with_rewards", "save"]

_STREAM = "data-00000-of-00001.arrow"
_STATE = "state.json"
_INFO = "dataset_info.json"
_KIND = "trajectories"
_REBUILD = "build Trajectory objects and save them with `understudy.data.serialize.save`"

_logger = logging.getLogger(__name__)


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
    """
    target = Path(os.path.realpath(os.fsdecode(path)))
    _check_replaceable(target)
    with replacing(target) as staged:
        if target.suffix == ".npz":
            _save_npz(staged, trajectories)
        else:
            _save_folder(staged, trajectories)


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


def _save_folder(folder: Path, trajectories: Iterable[Trajectory]) -> None:
    from understudy.data import _arrow

    folder.mkdir()
    file = HashingFile(folder / _STREAM)
    try:
        n_trajectories, n_transitions = _arrow.write(file, trajectories)
    finally:
        file.close()
    state = {
        "_data_files": [{"filename": _STREAM}],
        "_fingerprint": file.entry["sha256"][:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    # No "features": `datasets` reads them off the schema, in the words of its own version.
    info = {"citation": "", "description": "Trajectories, one a row.", "homepage": "", "license": ""}
    entries = {
        _STREAM: file.entry,
        _STATE: write_file(folder / _STATE, json.dumps(state, indent=1)),
        _INFO: write_file(folder / _INFO, json.dumps(info, indent=1)),
    }
    write_manifest(folder, entries, kind=_KIND, n_trajectories=n_trajectories, n_transitions=n_transitions)


def _check_replaceable(target: Path) -> None:
    """Never remove what is not a dataset: a folder with other files in it, or a file of another kind."""
    if not os.path.lexists(target):
        return
    if target.is_dir():
        names = sorted(entry.name for entry in target.iterdir())
        known = {_STATE, _INFO, MANIFEST}
        strange = [name for name in names if name not in known and not name.endswith(".arrow")]
        if not strange and (not names or _STATE in names):
            return
        got = f"a folder with {', '.join((strange or names)[:3])} in it"
    elif target.suffix == ".npz":
        return
    else:
        got = "a file"
    raise DataError(
        expected=f"a free name or an older dataset at {target}", got=got, do="save under another name, or move it away"
    )


def load(path: AnyPath, *, verify: bool = True) -> TrajectoryStore[Trajectory]:
    """Open what ``save`` wrote; the trajectories have rewards if they were saved with them.

    A folder is mapped into memory: nothing is read until it is used, except to check the sums.

    Args:
        path: a folder or an npz file.
        verify: compare each file of a folder with its SHA-256, which reads all of it once; without, only names and
            sizes are compared, and a warning is logged. An npz is read, and its checksums compared, either way.

    Raises:
        MissingFileError: nothing at ``path``.
        CorruptFileError: truncated or altered; the message names the file.
        DataError: a dataset of another layout.
        UntrustedFileError: it holds pickled objects.
    """
    where = Path(os.fsdecode(path))
    if not where.exists():
        raise MissingFileError(
            expected=f"a dataset at {where}",
            got="no such file or folder",
            do=f"check the path; a relative one starts at {Path.cwd()}",
        )
    return _load_folder(where, verify=verify) if where.is_dir() else _load_file(where)


def load_with_rewards(path: AnyPath, *, verify: bool = True) -> TrajectoryStore[TrajectoryWithRew]:
    """As ``load``, for datasets that must have rewards.

    Raises:
        DataError: saved without rewards; and as ``load``.
    """
    store = load(path, verify=verify)
    if not store.has_rewards:
        raise DataError(
            expected=f"trajectories with rewards in {os.fsdecode(path)}",
            got="trajectories without",
            do="use `load`, or save TrajectoryWithRew objects",
        )
    return cast(TrajectoryStore[TrajectoryWithRew], store)


def _load_folder(folder: Path, *, verify: bool) -> TrajectoryStore[Trajectory]:
    from understudy.data import _arrow

    manifest = _manifest(folder)
    check_files(folder, manifest["files"], hashes=verify)
    if not verify:
        _logger.warning("verify=False: the contents of %s are not compared with their SHA-256", folder)
    store = TrajectoryStore[Trajectory](_arrow.read(folder / _STREAM))
    told = (manifest.get("n_trajectories"), manifest.get("n_transitions"))
    if told != (len(store), store.n_transitions):
        raise CorruptFileError(
            expected=f"{told[0]} trajectories with {told[1]} transitions in {folder / _STREAM}",
            got=f"{len(store)} with {store.n_transitions}",
            do="restore it from where it came from, or record and save the data again",
        )
    return store


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if path.is_file():
        manifest = read_manifest(folder)
        if manifest.get("kind") == _KIND and _STREAM in manifest["files"]:
            return manifest
        got = f"{path} of kind {manifest.get('kind')!r}"
    elif (folder / _STATE).is_file():
        from understudy.data import _arrow

        if _arrow.is_ours(folder / _STREAM):
            raise CorruptFileError(
                expected=f"the file {path}",
                got="no such file, beside a stream that was saved with one",
                do="copy the dataset again, with all its files",
            )
        got = "a `datasets` folder that another library wrote"
    else:
        got = "a folder without MANIFEST.json"
    raise DataError(
        expected=f"a folder at {folder} that `understudy.data.serialize.save` wrote",
        got=got,
        do="give the dataset's own folder; or build Trajectory objects from its columns and save them",
    )


def _load_file(path: Path) -> TrajectoryStore[Trajectory]:
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")) or path.suffix == ".npz":
        from understudy.data import _npz

        if not head.startswith(b"\x80"):
            return TrajectoryStore([_npz.read(path)])
    if head.startswith(b"\x80"):
        raise UntrustedFileError(
            expected=f"arrays and JSON in {path}",
            got="a pickle, which runs code when it is read",
            do=f"read it where you trust it, {_REBUILD}",
        )
    known = {b"\x93NUMPY": "one NumPy array", b"\x89HDF": "an HDF5 file", b"PAR1": "a Parquet file"}
    got = next((what for magic, what in known.items() if head.startswith(magic)), f"a file that begins {head!r}")
    raise DataError(
        expected=f"a dataset at {path} that `understudy.data.serialize.save` wrote: a folder, or an npz",
        got=got,
        do=f"read it with its own library, {_REBUILD}",
    )
