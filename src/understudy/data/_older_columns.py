"""The older columns of trajectories in Arrow, a row an episode: ``obs``, ``acts``, ``infos``, ``terminal``, ``rews``.

Cells are nested lists of any kind, as long as the frames of a column have one shape; ``infos`` are JSON, perhaps
jsonpickle's (``_jsonpickle.py``). This library's own columns, opened by `datasets`, are read too;
booleans in them, kept as bytes, stay bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from understudy.data._json_infos import InfoColumn
from understudy.data._jsonpickle import decode_info
from understudy.data._older_files import cut_by_time_limit
from understudy.data.dict_obs import DictObs, Observation
from understudy.data.trajectory_store import TrajectoryColumns
from understudy.errors import DataError, UnderstudyError


def has_layout(names: list[str]) -> bool:
    """Whether columns of these names may be trajectories."""
    return {"acts", "terminal"} <= set(names) and ("obs" in names or any(n.startswith("obs.") for n in names))


def unfit(source: str, got: str) -> DataError:
    """For columns of another layout."""
    return DataError(
        expected=f"columns obs, acts, infos, terminal and perhaps rews in {source}, a row an episode",
        got=got,
        do="build Trajectory objects from its columns and save them with `understudy.data.serialize.save`",
    )


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _flattened(column: Any, name: str) -> tuple[Any, np.ndarray]:
    """Elements of a list column and where each row's begin."""
    if not _is_list(column.type) or column.null_count:
        raise ValueError(f"{name!r} of type {str(column.type)[:60]}, {column.null_count} rows missing")
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten(), np.arange(len(column) + 1, dtype=np.int64) * column.type.list_size
    offsets = column.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    return column.flatten(), offsets - offsets[0]


def _steps(column: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """All steps of a column, shape (steps, *shape), and the rows' offsets."""
    inner, offsets = _flattened(column, name)
    shape: list[int] = []
    while _is_list(inner.type):
        inner, ends = _flattened(inner, name)
        sizes = np.diff(ends)
        if len(sizes) == 0 or sizes[0] == 0 or np.any(sizes != sizes[0]):
            raise ValueError(f"{name!r} with frames of differing or no size")
        shape.append(int(sizes[0]))
    kind = inner.type
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)) or inner.null_count:
        raise ValueError(f"{name!r} holds {str(kind)[:60]}, {inner.null_count} values missing")
    values = inner.to_numpy(zero_copy_only=not pa.types.is_boolean(kind))
    return values.reshape(int(offsets[-1]), *shape), offsets


def _infos(column: Any, rows: int, source: str) -> InfoColumn:
    if column is None:
        return InfoColumn.encode([None] * rows)
    if column.null_count == rows:
        return InfoColumn.encode([None] * rows)
    if not _is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        raise ValueError(f"'infos' of type {str(column.type)[:60]}")
    starts = column.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    strings = column.flatten()
    large = pa.types.is_large_string(strings.type)
    if not (large or pa.types.is_string(strings.type)) or strings.null_count:
        raise ValueError(f"'infos' of type {str(column.type)[:60]}, {strings.null_count} missing")
    present = column.is_valid().to_numpy(zero_copy_only=False)
    lengths = np.where(present, np.diff(starts), 0)
    _, ends, text = strings.buffers()
    text_offsets = np.zeros(1, np.int64)
    if len(strings):
        kind = np.dtype(np.int64 if large else np.int32)
        text_offsets = np.frombuffer(ends, kind, len(strings) + 1, strings.offset * kind.itemsize).astype(np.int64)
    return InfoColumn(
        text=np.zeros(0, np.uint8) if text is None else np.frombuffer(text, dtype=np.uint8),
        text_offsets=text_offsets,
        row_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        present=present,
        source=source,
        decode=decode_info,
    )


def _truncated(infos: InfoColumn, terminal: np.ndarray) -> np.ndarray:
    """From the last info of each episode, of which only those that speak of it are decoded."""
    truncated = np.zeros(len(terminal), dtype=bool)
    for row in np.flatnonzero(terminal & infos.present):
        steps = infos[int(row)]
        if steps and b"TimeLimit.truncated" in steps[-1:].lines()[0]:  # type: ignore[attr-defined]
            truncated[row] = cut_by_time_limit(steps[-1:])
    return truncated


def _observations(batch: Any) -> tuple[Observation, np.ndarray]:
    names = [name for name in batch.schema.names if name.startswith("obs.")] or ["obs"]
    read = {name: _steps(batch.column(name), name) for name in names}
    offsets = read[names[0]][1]
    if any(not np.array_equal(offsets, other) for _, other in read.values()):
        raise ValueError("observation columns of different lengths")
    if names == ["obs"]:
        return read["obs"][0], offsets
    return DictObs({name.removeprefix("obs."): values for name, (values, _) in read.items()}), offsets


def read_batch(batch: Any, source: str) -> TrajectoryColumns:
    """The trajectories of a record batch; numbers are views of it.

    Args:
        batch: with one column a field, a row an episode.
        source: where it comes from, for messages.

    Raises:
        DataError: columns of another layout, or that do not fit each other.
        CorruptFileError: a batch that contradicts itself.
    """
    names = batch.schema.names
    if not has_layout(names):
        raise unfit(source, f"columns {[name[:40] for name in names[:8]]}")
    try:
        batch.validate(full=True)
        obs, frame_offsets = _observations(batch)
        acts, offsets = _steps(batch.column("acts"), "acts")
        rews = None
        if "rews" in names:
            rews, reward_offsets = _steps(batch.column("rews"), "rews")
            rews = rews.astype(np.float32) if rews.dtype.kind in "biu" else rews
            if rews.ndim != 1 or not np.array_equal(reward_offsets, offsets):
                raise ValueError("'rews' without one number an action")
        if not np.array_equal(frame_offsets, offsets + np.arange(len(offsets))):
            raise ValueError("'obs' without one frame more than 'acts' in each row")
        infos = _infos(batch.column("infos") if "infos" in names else None, len(batch), source)
        if np.any(np.diff(infos.row_offsets) != np.where(infos.present, np.diff(offsets), 0)):
            raise ValueError("'infos' without one text an action")
        terminal = _flags(batch.column("terminal"), "terminal")
        truncated = _flags(batch.column("truncated"), "truncated") if "truncated" in names else None
        truncated = _truncated(infos, terminal) if truncated is None else truncated & terminal
    except UnderstudyError:
        raise
    except (pa.ArrowException, ValueError, TypeError, AttributeError, KeyError, OverflowError) as err:
        raise unfit(source, str(err)[:200]) from err
    return TrajectoryColumns(obs, acts, rews, offsets, terminal, truncated, infos)


def _flags(column: Any, name: str) -> np.ndarray:
    if not pa.types.is_boolean(column.type) or column.null_count:
        raise ValueError(f"{name!r} of type {str(column.type)[:60]}, {column.null_count} missing")
    flags: np.ndarray = column.to_numpy(zero_copy_only=False)
    return flags
