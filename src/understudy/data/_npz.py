"""Trajectories in one uncompressed ``.npz`` without pickles.

Members: ``meta`` (JSON as bytes: shapes, types, names of observation entries), ``obs`` or ``obs_0`` …, ``acts``,
``rews``, ``offsets`` (where each trajectory's actions begin; its frames begin ``offsets[i] + i``), ``terminal``,
``truncated``, and the infos as JSON text with offsets.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from understudy.data._json_infos import InfoColumn
from understudy.data._npz_members import UNREADABLE, Members, unreadable
from understudy.data._trajectory_spec import FieldSpec, TrajectorySpec
from understudy.data.dict_obs import DictObs, Observation
from understudy.data.trajectory_store import TrajectoryColumns
from understudy.errors import DataError, UnderstudyError

_LAYOUT = 1
_INFO_MEMBERS = ("infos_text", "infos_text_offsets", "infos_row_offsets", "infos_present")


def _obs_members(spec: TrajectorySpec) -> dict[str, FieldSpec]:
    if not isinstance(spec.obs, dict):
        return {"obs": spec.obs}
    return {f"obs_{i}": field for i, field in enumerate(spec.obs.values())}


def write(path: Path, columns: TrajectoryColumns, spec: TrajectorySpec) -> None:
    """Write a new file."""
    obs = list(columns.obs.values()) if isinstance(columns.obs, DictObs) else [columns.obs]
    infos = columns.infos
    assert isinstance(infos, InfoColumn)  # what `TrajectorySpec.gather` makes
    meta = json.dumps({"understudy_layout": _LAYOUT, **spec.to_json()}).encode()
    members = {
        "meta": np.frombuffer(meta, dtype=np.uint8),
        **dict(zip(_obs_members(spec), obs, strict=True)),
        "acts": columns.acts,
        **({} if columns.rews is None else {"rews": columns.rews}),
        "offsets": columns.transition_offsets,
        "terminal": columns.terminal,
        "truncated": columns.truncated,
        "infos_text": infos.text,
        "infos_text_offsets": infos.text_offsets,
        "infos_row_offsets": infos.row_offsets,
        "infos_present": infos.present,
    }
    with path.open("xb") as file:
        np.savez(file, **members)  # type: ignore[arg-type]


def _field(archive: Members, name: str, spec: FieldSpec, steps: int) -> np.ndarray:
    array = archive.read(name)
    if array.dtype != spec.dtype or array.shape != (steps, *spec.shape):
        raise ValueError(f"member {name!r} is {array.dtype} of shape {array.shape}; told {spec}, {steps} steps")
    return array


def _offsets(archive: Members, name: str, *, last: int | None = None) -> np.ndarray:
    offsets = archive.read(name)
    ordered = offsets.dtype == np.int64 and offsets.ndim == 1 and len(offsets) and offsets[0] == 0
    if not ordered or np.any(np.diff(offsets) < 0) or (last is not None and offsets[-1] != last):
        raise ValueError(f"member {name!r} holds no offsets that fit")
    return offsets


def _columns(archive: Members, spec: TrajectorySpec, path: Path) -> TrajectoryColumns:
    offsets = _offsets(archive, "offsets")
    steps, rows = int(offsets[-1]), len(offsets) - 1
    frames = [_field(archive, name, field, steps + rows) for name, field in _obs_members(spec).items()]
    obs: Observation = DictObs(dict(zip(spec.obs, frames, strict=True))) if isinstance(spec.obs, dict) else frames[0]
    flag = FieldSpec(np.dtype(bool), ())
    text = archive.read("infos_text")
    text_offsets = _offsets(archive, "infos_text_offsets", last=len(text))
    infos = InfoColumn(
        text=text,
        text_offsets=text_offsets,
        row_offsets=_offsets(archive, "infos_row_offsets", last=len(text_offsets) - 1),
        present=_field(archive, "infos_present", flag, rows),
        source=str(path),
    )
    if np.any(np.diff(infos.row_offsets) != np.where(infos.present, np.diff(offsets), 0)):
        raise ValueError("infos and actions of different lengths")
    return TrajectoryColumns(
        obs=obs,
        acts=_field(archive, "acts", spec.acts, steps),
        rews=None if spec.rews is None else _field(archive, "rews", spec.rews, steps),
        transition_offsets=offsets,
        terminal=_field(archive, "terminal", flag, rows),
        truncated=_field(archive, "truncated", flag, rows),
        infos=infos,
    )


def is_ours(path: Path) -> bool:
    """Whether an archive looks like one that ``write`` wrote.

    Raises:
        CorruptFileError: no complete archive.
    """
    try:
        with Members(path) as archive:
            return "meta" in archive.names
    except UNREADABLE as err:
        raise unreadable(path, err) from err


def read(path: Path) -> TrajectoryColumns:
    """Read a file that ``write`` wrote; the checksum of every member is verified.

    Raises:
        CorruptFileError: truncated, altered, or no zip archive.
        DataError: an npz of another layout.
    """
    try:
        with Members(path, compressed=False) as archive:
            meta: dict[str, Any] = json.loads(archive.read("meta").tobytes())
            layout = meta["understudy_layout"]
            if layout != _LAYOUT:
                raise DataError(
                    expected=f"layout {_LAYOUT} in {path}",
                    got=f"layout {str(layout)[:40]}",
                    do="read it with a newer understudy",
                )
            return _columns(archive, TrajectorySpec.from_json(meta), path)
    except UnderstudyError:
        raise
    except UNREADABLE as err:
        raise unreadable(path, err) from err
