"""Trajectories in one uncompressed ``.npz`` without pickles.

Members: ``meta`` (JSON as bytes: shapes, types, names of observation entries), ``obs`` or ``obs_0`` …, ``acts``,
``rews``, ``offsets`` (where each trajectory's actions begin; its frames begin ``offsets[i] + i``), ``terminal``,
``truncated``, and the infos as JSON text with offsets.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from understudy.data._json_infos import InfoColumn
from understudy.data._trajectory_spec import FieldSpec, TrajectorySpec
from understudy.data.dict_obs import DictObs, Observation
from understudy.data.trajectory_store import TrajectoryColumns
from understudy.errors import CorruptFileError, DataError, UntrustedFileError

_LAYOUT = 1
_INFO_MEMBERS = ("infos_text", "infos_text_offsets", "infos_row_offsets", "infos_present")


def _obs_members(spec: TrajectorySpec) -> dict[str, FieldSpec]:
    if not isinstance(spec.obs, dict):
        return {"obs": spec.obs}
    return {f"obs_{i}": field for i, field in enumerate(spec.obs.values())}


def write(path: Path, columns: TrajectoryColumns, spec: TrajectorySpec) -> None:
    """Write a new file."""
    obs = list(columns.obs.values()) if isinstance(columns.obs, DictObs) else [columns.obs]
    meta = json.dumps({"understudy_layout": _LAYOUT, **spec.to_json()}).encode()
    members = {
        "meta": np.frombuffer(meta, dtype=np.uint8),
        **dict(zip(_obs_members(spec), obs, strict=True)),
        "acts": columns.acts,
        **({} if columns.rews is None else {"rews": columns.rews}),
        "offsets": columns.transition_offsets,
        "terminal": columns.terminal,
        "truncated": columns.truncated,
        "infos_text": columns.infos.text,
        "infos_text_offsets": columns.infos.text_offsets,
        "infos_row_offsets": columns.infos.row_offsets,
        "infos_present": columns.infos.present,
    }
    with path.open("xb") as file:
        np.savez(file, **members)  # type: ignore[arg-type]


def _restore(path: Path, got: str) -> CorruptFileError:
    return CorruptFileError(
        expected=f"a complete npz of trajectories in {path}",
        got=got,
        do="restore it from where it came from, or record and save the data again",
    )


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> np.ndarray:
    """One array, read-only. The sizes told in headers are believed only if the file is that large."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > path.stat().st_size:
        raise ValueError(f"member {name!r} is compressed or larger than the file")
    with archive.open(info) as file:
        if npy.read_magic(file) != (1, 0):
            raise ValueError(f"member {name!r} has an unknown header")
        shape, fortran, dtype = npy.read_array_header_1_0(file)
        data = file.read()  # to the end, where the checksum is compared
    if fortran or dtype.hasobject or dtype.itemsize == 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"member {name!r} does not fit its header")
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def _field(archive: zipfile.ZipFile, name: str, spec: FieldSpec, steps: int, path: Path) -> np.ndarray:
    array = _member(archive, name, path)
    if array.dtype != spec.dtype or array.shape != (steps, *spec.shape):
        raise ValueError(f"member {name!r} is {array.dtype} of shape {array.shape}; told {spec}, {steps} steps")
    return array


def _offsets(archive: zipfile.ZipFile, name: str, path: Path, *, last: int | None = None) -> np.ndarray:
    offsets = _member(archive, name, path)
    ordered = offsets.dtype == np.int64 and offsets.ndim == 1 and len(offsets) and offsets[0] == 0
    if not ordered or np.any(np.diff(offsets) < 0) or (last is not None and offsets[-1] != last):
        raise ValueError(f"member {name!r} holds no offsets that fit")
    return offsets


def _columns(archive: zipfile.ZipFile, spec: TrajectorySpec, path: Path) -> TrajectoryColumns:
    offsets = _offsets(archive, "offsets", path)
    steps, rows = int(offsets[-1]), len(offsets) - 1
    frames = [_field(archive, name, field, steps + rows, path) for name, field in _obs_members(spec).items()]
    obs: Observation = DictObs(dict(zip(spec.obs, frames, strict=True))) if isinstance(spec.obs, dict) else frames[0]
    flag = FieldSpec(np.dtype(bool), ())
    text = _member(archive, "infos_text", path)
    text_offsets = _offsets(archive, "infos_text_offsets", path, last=len(text))
    infos = InfoColumn(
        text=text,
        text_offsets=text_offsets,
        row_offsets=_offsets(archive, "infos_row_offsets", path, last=len(text_offsets) - 1),
        present=_field(archive, "infos_present", flag, rows, path),
        source=str(path),
    )
    if np.any(np.diff(infos.row_offsets) != np.where(infos.present, np.diff(offsets), 0)):
        raise ValueError("infos and actions of different lengths")
    return TrajectoryColumns(
        obs=obs,
        acts=_field(archive, "acts", spec.acts, steps, path),
        rews=None if spec.rews is None else _field(archive, "rews", spec.rews, steps, path),
        transition_offsets=offsets,
        terminal=_field(archive, "terminal", flag, rows, path),
        truncated=_field(archive, "truncated", flag, rows, path),
        infos=infos,
    )


def _foreign(archive: zipfile.ZipFile, path: Path) -> DataError | UntrustedFileError:
    """What to say of an npz that this module did not write."""
    for name in archive.namelist():
        with archive.open(name) as file:
            read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(file)]
            if read_header(file)[2].hasobject:
                return UntrustedFileError(
                    expected=f"plain numbers in {path}",
                    got=f"pickled objects in {name!r}, which run code when they are read",
                    do="read it where you trust it, build Trajectory objects and save them with "
                    "`understudy.data.serialize.save`",
                )
    return DataError(
        expected=f"an npz in {path} that `understudy.data.serialize.save` wrote",
        got=f"arrays {[name.removesuffix('.npy') for name in archive.namelist()]}",
        do="build Trajectory objects from these arrays and save them with `understudy.data.serialize.save`",
    )


def read(path: Path) -> TrajectoryColumns:
    """Read a file that ``write`` wrote; the checksum of every member is verified.

    Raises:
        CorruptFileError: truncated, altered, or no zip archive.
        DataError: an npz of another layout.
        UntrustedFileError: an npz with pickled objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if "meta.npy" not in archive.namelist():
                raise _foreign(archive, path)
            meta: dict[str, Any] = json.loads(_member(archive, "meta", path).tobytes())
            layout = meta["understudy_layout"]
            if layout != _LAYOUT:
                raise DataError(
                    expected=f"layout {_LAYOUT} in {path}", got=f"layout {layout}", do="read it with a newer understudy"
                )
            return _columns(archive, TrajectorySpec.from_json(meta), path)
    except (DataError, UntrustedFileError):
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,  # a flipped "encrypted" flag, or an unknown zip version
        RecursionError,
        IndexError,
    ) as err:
        raise _restore(path, f"{type(err).__name__}: {err}") from err
