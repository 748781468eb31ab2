"""A dataset's folder: Arrow streams, what `datasets` needs to open them, and a manifest of sums.

``MANIFEST.json`` lists the streams; where more were appended it is the last thing written, so that it lists only
complete ones.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from understudy.data import _arrow
from understudy.data._older_folder import STATE, plain_file
from understudy.data.trajectory_store import TrajectoryStore
from understudy.data.types import Trajectory
from understudy.errors import CorruptFileError, DataError
from understudy.util.manifest import MANIFEST, HashingFile, check_files, read_manifest, write_file, write_manifest

INFO = "dataset_info.json"
KIND = "trajectories"
_STREAM = "data-00000-of-00001.arrow"
_MAX_MANIFEST = 16 << 20

_logger = logging.getLogger(__name__)

is_ours = _arrow.is_ours

__all__ = ["INFO", "KIND", "STATE", "info_text", "is_ours", "load", "manifest_of", "save", "state_text", "streams_of"]


def state_text(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """``state.json`` for the streams of a manifest."""
    state = {
        "_data_files": [{"filename": name} for name in entries],
        "_fingerprint": list(entries.values())[-1]["sha256"][:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    return json.dumps(state, indent=1)


def info_text() -> str:
    """``dataset_info.json``."""
    # No "features": `datasets` reads them off the schema, in the words of its own version.
    return json.dumps(
        {"citation": "", "description": "Trajectories, one a row.", "homepage": "", "license": ""}, indent=1
    )


def save(folder: Path, trajectories: Iterable[Trajectory]) -> None:
    """Write a new folder."""
    folder.mkdir()
    file = HashingFile(folder / _STREAM)
    try:
        n_trajectories, n_transitions = _arrow.write(file, trajectories)
    finally:
        file.close()
    entries = {
        _STREAM: file.entry,
        STATE: write_file(folder / STATE, state_text({_STREAM: file.entry})),
        INFO: write_file(folder / INFO, info_text()),
    }
    write_manifest(folder, entries, kind=KIND, n_trajectories=n_trajectories, n_transitions=n_transitions)


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest of a dataset of trajectories.

    Raises:
        CorruptFileError: altered.
        DataError: of something else.
    """
    path = plain_file(folder, MANIFEST)
    if path.stat().st_size > _MAX_MANIFEST:
        raise CorruptFileError(
            expected=f"{path} as it was written", got=f"{path.stat().st_size} bytes", do="restore it from its source"
        )
    manifest = read_manifest(folder)
    if manifest.get("kind") == KIND and streams_of(manifest):
        return manifest
    raise DataError(
        expected=f"a folder at {folder} that `understudy.data.serialize.save` wrote",
        got=f"{path} of kind {str(manifest.get('kind'))[:40]!r}",
        do="give the dataset's own folder; or build Trajectory objects from its columns and save them",
    )


def streams_of(manifest: Mapping[str, Any]) -> list[str]:
    """Names of the streams, in the order of their rows."""
    return sorted(name for name in manifest["files"] if name.endswith(".arrow"))


def load(folder: Path, *, verify: bool) -> TrajectoryStore[Trajectory]:
    """Open a folder that has a manifest."""
    manifest = manifest_of(folder)
    for name in manifest["files"]:
        plain_file(folder, name)
    check_files(folder, manifest["files"], hashes=verify)
    if not verify:
        _logger.warning("verify=False: the contents of %s are not compared with their SHA-256", folder)
    streams = [folder / name for name in streams_of(manifest)]
    store = TrajectoryStore[Trajectory](_arrow.read_all(streams))
    told = (manifest.get("n_trajectories"), manifest.get("n_transitions"))
    if told != (len(store), store.n_transitions):
        where = streams[0] if len(streams) == 1 else folder
        raise CorruptFileError(
            expected=f"{told[0]} trajectories with {told[1]} transitions in {where}",
            got=f"{len(store)} with {store.n_transitions}",
            do="restore it from where it came from, or record and save the data again",
        )
    return store
