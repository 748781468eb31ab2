"""Checkpoints: folders that are complete and verified, or are not there.

A checkpoint is a folder ``step-000000012000`` with ``state.json``, ``tensors.safetensors``, files of the caller's, and
``MANIFEST.json`` (SHA-256 and size of each file, versions, threads). It is written under a hidden name, synced and
renamed, so that a process killed at any instant leaves the checkpoints that were there before. Nothing in it is a
pickle.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors
import safetensors.torch
import torch

from understudy.errors import (
    CheckpointError,
    ConfigError,
    CorruptFileError,
    FileWriteError,
    MissingFileError,
    UnderstudyError,
)
from understudy.util.files import put_back, replacing, staged_name
from understudy.util.manifest import (
    MANIFEST,
    check_files,
    manifest_entry,
    read_manifest,
    write_file,
    write_manifest,
)
from understudy.util.paths import AnyPath, parse_path
from understudy.util.state_tree import Tree, pack, unpack
from understudy.util.versions import library_versions

_STATE = "state.json"
_TENSORS = "tensors.safetensors"
_NAME = re.compile(r"step-(\d{12,})")
_FORMAT = 1
_MAX_STATE_BYTES = 2 << 20  # a tree is counters and names: what is large is in the tensors

_log = logging.getLogger(__name__)

Writer = Callable[[Path], None]
"""Writes one file at the path it is given."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds."""

    path: Path
    """Its folder."""

    kind: str
    """Which class of state it is, as the writer said."""

    state: Tree
    """The nested state, tensors on the CPU."""

    facts: Mapping[str, Any]
    """Versions, threads and what else the manifest says."""


def write_checkpoint(
    target: AnyPath,
    state: Tree,
    *,
    kind: str,
    files: Mapping[str, Writer] = MappingProxyType({}),
    **facts: Any,
) -> Path:
    """Write one checkpoint folder; a folder of that name is replaced in one step.

    Args:
        target: the folder.
        state: what `understudy.util.state_tree.pack` takes.
        kind: which class of state it is; ``read_checkpoint`` compares.
        files: further files by name, each written by its function.
        facts: further plain values for the manifest.

    Returns:
        The folder's absolute path.

    Raises:
        CheckpointError: it cannot be written (disk full, no rights, not a folder); what stood there before is
            untouched.
        ConfigError: ``state`` holds something that is no plain value, array or tensor.
    """
    target = parse_path(target)
    packed, tensors = pack(state)
    text = json.dumps(packed, indent=1, allow_nan=False) + "\n"
    if len(text) > _MAX_STATE_BYTES:
        raise ConfigError(
            expected=f"at most {_MAX_STATE_BYTES} bytes of plain values in a checkpoint",
            got=f"{len(text)}",
            do="keep long lists of numbers as arrays or tensors",
        )
    _check_replaceable(target)
    try:
        with replacing(target) as staged:
            staged.mkdir()
            entries = {_STATE: write_file(staged / _STATE, text)}
            safetensors.torch.save_file(tensors, staged / _TENSORS)
            shutil.copymode(staged / _STATE, staged / _TENSORS)  # written for the owner alone, else
            for name, write in files.items():
                write(staged / name)
            for name in (_TENSORS, *files):
                entries[name] = manifest_entry(staged / name)
            versions, threads = library_versions(), torch.get_num_threads()
            write_manifest(staged, entries, kind=kind, format=_FORMAT, versions=versions, threads=threads, **facts)
    except (OSError, safetensors.SafetensorError) as err:
        raise CheckpointError(
            expected=f"to write the checkpoint {target}",
            got=err.got if isinstance(err, FileWriteError) else f"{type(err).__name__}: {err}",
            do="make room, or choose a folder that can be written to; earlier checkpoints are untouched",
        ) from err
    return target


def _check_replaceable(target: Path) -> None:
    """Never remove a folder that is no checkpoint, or that has something of the user's in it."""
    if not os.path.lexists(target):
        return
    got = "a file"
    if target.is_dir():
        names = {path.name for path in target.iterdir()}
        if not names or names <= {MANIFEST, *_files_listed(target)}:
            return
        got = f"a folder with {', '.join(sorted(names)[:3])} in it"
    raise CheckpointError(
        expected=f"a free name, or an earlier checkpoint, at {target}",
        got=got,
        do="save under another name, or move it away",
    )


def _files_listed(folder: Path) -> set[str]:
    """What a checkpoint's manifest lists; nothing if it is not one, or damaged beyond reading."""
    try:
        names = set(read_manifest(folder)["files"])
    except (UnderstudyError, OSError):
        return {_STATE, _TENSORS}  # one of ours that was damaged holds nothing else
    return names if {_STATE, _TENSORS} <= names else set()


def read_checkpoint(folder: AnyPath, *, kind: str | None = None) -> Checkpoint:
    """Read and verify one checkpoint; nothing in it is executed.

    Args:
        folder: the checkpoint.
        kind: what it must be of; None takes any.

    Raises:
        MissingFileError: no checkpoint there.
        CorruptFileError: truncated or altered; the message names the file.
        CheckpointError: of another kind.
    """
    folder = parse_path(folder)
    facts = verify(folder)
    if facts.get("format") != _FORMAT:
        raise CheckpointError(
            expected=f"a checkpoint of format {_FORMAT} at {folder}",
            got=f"format {facts.get('format')!r}, written by understudy {facts.get('understudy')}",
            do="load it with that version",
        )
    got = facts.get("kind")
    if kind is not None and got != kind:
        raise CheckpointError(
            expected=f"a checkpoint of {kind} at {folder}",
            got=f"one of {got}",
            do="load it with the class that wrote it",
        )
    try:
        packed = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(folder / _TENSORS)
    except (ValueError, RecursionError, OSError, KeyError, safetensors.SafetensorError) as err:
        raise CorruptFileError(
            expected=f"a checkpoint at {folder}",
            got=f"{type(err).__name__}: {' '.join(str(err).split())[:160]}",
            do="use an earlier checkpoint, or restore it from a copy",
        ) from err
    try:
        state = unpack(packed, tensors)
    except CorruptFileError as err:
        raise CorruptFileError(f"{err.expected} in {folder / _STATE}", err.got, err.do) from err
    return Checkpoint(folder, str(got), state, facts)


@contextlib.contextmanager
def using(checkpoint: Path) -> Iterator[None]:
    """While the state of a checkpoint is taken apart here, a part that is missing or of another kind is its fault.

    Raises:
        CorruptFileError: instead of KeyError, TypeError and their like.
    """
    try:
        yield
    except UnderstudyError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as err:
        raise CorruptFileError(
            expected=f"the state of a trainer in {checkpoint}",
            got=f"{type(err).__name__}: {' '.join(str(err).split())[:120]}",
            do="use an earlier checkpoint, or restore it from a copy",
        ) from err


def verify(folder: AnyPath) -> dict[str, Any]:
    """Compare every file of a checkpoint with its SHA-256; the manifest's content.

    Raises:
        MissingFileError: no checkpoint there.
        CorruptFileError: truncated, altered, or not a checkpoint.
    """
    folder = parse_path(folder)
    put_back(folder)
    if not (folder / MANIFEST).is_file():
        raise MissingFileError(
            expected=f"a checkpoint at {folder}",
            got=f"no {MANIFEST} there",
            do="give the folder of one checkpoint, such as checkpoints/step-000000005000",
        )
    manifest = read_manifest(folder)
    entries = manifest["files"]
    if not {_STATE, _TENSORS} <= entries.keys():
        raise CorruptFileError(
            expected=f"{_STATE} and {_TENSORS} in {folder / MANIFEST}",
            got=f"a manifest of kind {manifest.get('kind')!r}",
            do="give the folder of a checkpoint",
        )
    check_files(folder, entries, hashes=True)
    if entries[_STATE]["size"] > _MAX_STATE_BYTES:
        raise CorruptFileError(
            expected=f"{folder / _STATE} of at most {_MAX_STATE_BYTES} bytes",
            got=f"{entries[_STATE]['size']}",
            do="restore it from a copy",
        )
    return manifest


def step_folder(folder: AnyPath, step: int) -> Path:
    """The folder of the checkpoint at ``step``, among those of one run."""
    return parse_path(folder) / f"step-{step:012d}"


def step_of(checkpoint: Path) -> int:
    """The step that `step_folder` named a checkpoint by.

    Raises:
        CheckpointError: the folder has another name.
    """
    match = _NAME.fullmatch(checkpoint.name)
    if match is None:
        raise CheckpointError(
            expected="the folder of a checkpoint, such as step-000000005000",
            got=checkpoint.name,
            do="give one of a run's checkpoints",
        )
    return int(match[1])


def all_checkpoints(folder: AnyPath) -> list[Path]:
    """The checkpoints of one run by rising step, verified or not."""
    parent = parse_path(folder)
    if not parent.is_dir():
        return []
    steps = {path: int(m[1]) for path in parent.iterdir() if (m := _NAME.fullmatch(path.name)) and path.is_dir()}
    return sorted(steps, key=steps.__getitem__)


def latest(folder: AnyPath) -> Path | None:
    """The newest checkpoint of a run that verifies; None where there is none at all.

    Those that do not verify are named in the log and passed over.

    Raises:
        CheckpointError: there are checkpoints, and none of them verifies.
    """
    reasons = []
    for path in reversed(all_checkpoints(folder)):
        try:
            verify(path)
        except (UnderstudyError, OSError) as err:
            _log.warning("passed over the checkpoint %s: %s", path, err)
            reasons.append(f"{path.name}: {err.got if isinstance(err, UnderstudyError) else err}")
        else:
            return path
    if reasons:
        raise CheckpointError(
            expected=f"a checkpoint in {parse_path(folder)} that verifies",
            got="; ".join(reasons[:3]),
            do="restore the folder from a copy, or begin again in another one",
        )
    return None


def set_aside_newer(checkpoint: Path) -> None:
    """Rename the checkpoints of a run that are newer than this one: they are damaged, and would count as good ones."""
    for path in all_checkpoints(checkpoint.parent):
        if step_of(path) > step_of(checkpoint):
            aside = path.with_name(f"damaged-{path.name}")
            if os.path.lexists(aside):
                shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def keep_newest(folder: AnyPath, keep: int) -> None:
    """Remove all but the ``keep`` newest checkpoints of a run."""
    for path in all_checkpoints(folder)[:-keep]:
        # Renamed first: a half removed folder must not look like a damaged checkpoint.
        doomed = staged_name(path)
        try:
            path.rename(doomed)
        except OSError as err:
            _log.warning("could not remove the old checkpoint %s: %s", path, err)
        else:
            shutil.rmtree(doomed, ignore_errors=True)
