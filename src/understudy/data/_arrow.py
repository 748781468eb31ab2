"""Trajectories as an Arrow stream: a row is a trajectory, a cell a list over time.

| column               | cell                                              |
|----------------------|---------------------------------------------------|
| obs, or obs.<key>    | list of T + 1 frames, nested fixed-size lists     |
| acts                 | list of T actions, nested likewise                |
| rews                 | list of T numbers; absent without rewards         |
| infos                | list of T JSON strings, or null                   |
| terminal, truncated  | boolean                                           |

All numbers of a column lie end to end in one buffer per record batch, so NumPy views them where they are, also in a
memory map. Booleans, which Arrow packs into bits, are kept as bytes; the schema's metadata tells what they were.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from understudy.data._arrow_stream import read_stream
from understudy.data._json_infos import InfoColumn
from understudy.data._trajectory_spec import FieldSpec, TrajectorySpec
from understudy.data.dict_obs import DictObs, Observation
from understudy.data.trajectory_store import TrajectoryColumns
from understudy.data.types import Trajectory
from understudy.errors import CorruptFileError, DataError, EmptyDataError, UnderstudyError

METADATA = b"understudy"
_LAYOUT = 1
BATCH_BYTES = 64 << 20
"""A record batch is written when it reaches this size; a trajectory is never split."""


def _stored_type(spec: FieldSpec) -> Any:
    return pa.uint8() if spec.dtype == np.bool_ else pa.from_numpy_dtype(spec.dtype)


def _cell_type(spec: FieldSpec) -> Any:
    item = _stored_type(spec)
    for size in reversed(spec.shape):
        item = pa.list_(item, size)
    return pa.large_list(item)


def _obs_columns(spec: TrajectorySpec) -> dict[str, FieldSpec]:
    if not isinstance(spec.obs, dict):
        return {"obs": spec.obs}
    # A lone surrogate has no UTF-8 form; its true name stands in the metadata.
    return {f"obs.{key}".encode(errors="backslashreplace").decode(): field for key, field in spec.obs.items()}


def _columns(spec: TrajectorySpec) -> dict[str, FieldSpec]:
    return {**_obs_columns(spec), "acts": spec.acts, **({} if spec.rews is None else {"rews": spec.rews})}


def schema_of(spec: TrajectorySpec) -> Any:
    """Arrow schema, with shapes and types in its metadata too."""
    fields = [pa.field(name, _cell_type(field)) for name, field in _columns(spec).items()]
    fields += [pa.field("infos", pa.large_list(pa.large_string()))]
    fields += [pa.field("terminal", pa.bool_()), pa.field("truncated", pa.bool_())]
    return pa.schema(fields, metadata={METADATA: json.dumps({"layout": _LAYOUT, **spec.to_json()})})


def _list_array(values: np.ndarray, offsets: np.ndarray, spec: FieldSpec) -> Any:
    flat = values.reshape(-1)
    if spec.dtype == np.bool_:
        flat = flat.view(np.uint8)
    nested = pa.Array.from_buffers(_stored_type(spec), len(flat), [None, pa.py_buffer(flat)])
    for size in reversed(spec.shape):
        nested = pa.FixedSizeListArray.from_arrays(nested, size)
    return pa.LargeListArray.from_arrays(pa.array(offsets), nested)


def _infos_array(infos: InfoColumn) -> Any:
    buffers = [None, pa.py_buffer(infos.text_offsets), pa.py_buffer(infos.text)]
    strings = pa.Array.from_buffers(pa.large_string(), len(infos.text_offsets) - 1, buffers)
    valid = pa.py_buffer(np.packbits(infos.present, bitorder="little"))
    return pa.Array.from_buffers(
        pa.large_list(pa.large_string()),
        len(infos.present),
        [valid, pa.py_buffer(infos.row_offsets)],
        children=[strings],
    )


def _batch(columns: TrajectoryColumns, spec: TrajectorySpec, schema: Any) -> Any:
    obs = list(columns.obs.values()) if isinstance(columns.obs, DictObs) else [columns.obs]
    arrays = [
        _list_array(values, columns.frame_offsets, field)
        for values, field in zip(obs, _obs_columns(spec).values(), strict=True)
    ]
    arrays.append(_list_array(columns.acts, columns.transition_offsets, spec.acts))
    if spec.rews is not None and columns.rews is not None:
        arrays.append(_list_array(columns.rews, columns.transition_offsets, spec.rews))
    assert isinstance(columns.infos, InfoColumn)  # what `TrajectorySpec.gather` makes
    arrays += [_infos_array(columns.infos), pa.array(columns.terminal), pa.array(columns.truncated)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _groups(trajectories: Iterable[Trajectory], spec: TrajectorySpec) -> Iterator[tuple[int, list[Trajectory]]]:
    """Trajectories that make up a batch, each group with the number of its first one."""
    group: list[Trajectory] = []
    size = 0
    number = -1
    for number, traj in enumerate(trajectories):
        spec.check(traj, number)
        nbytes = traj.obs.nbytes + np.asarray(traj.acts).nbytes
        if group and size + nbytes > BATCH_BYTES:
            yield number - len(group), group
            group, size = [], 0
        group.append(traj)
        size += nbytes
    if group:
        yield number + 1 - len(group), group


def write(sink: Any, trajectories: Iterable[Trajectory]) -> tuple[int, int]:
    """Stream trajectories to a writable file, a batch at a time; returns the numbers of trajectories and transitions.

    Raises:
        DataError: no trajectory at all, or ones that do not fit together or into a file.
    """
    remaining = iter(trajectories)
    first = next(remaining, None)
    if first is None:
        raise EmptyDataError(expected="at least one trajectory", got="none", do="record some before saving")
    spec = TrajectorySpec.of(first)
    schema = schema_of(spec)
    n_trajectories = n_transitions = 0
    with pa.ipc.new_stream(sink, schema) as writer:
        for number, group in _groups(chain([first], remaining), spec):
            columns = spec.gather(group, first=number)
            writer.write_batch(_batch(columns, spec, schema))
            n_trajectories += len(columns)
            n_transitions += len(columns.acts)
            del group, columns  # else they stay while the next batch is collected
    return n_trajectories, n_transitions


def _corrupt(path: Path, got: str) -> CorruptFileError:
    return CorruptFileError(
        expected=f"a complete Arrow stream of trajectories in {path}",
        got=got,
        do="restore it from where it came from, or record and save the data again",
    )


def is_ours(path: Path) -> bool:
    """Whether an Arrow stream begins with this layout's metadata."""
    try:
        return METADATA in (read_stream(path)[0].metadata or {})
    except (pa.ArrowException, OSError, UnderstudyError):
        return False


def _read_spec(schema: Any, path: Path) -> TrajectorySpec:
    content = (schema.metadata or {}).get(METADATA)
    if content is None:
        raise DataError(
            expected=f"an Arrow stream in {path} that `understudy.data.serialize.save` wrote",
            got=f"columns {[name[:40] for name in schema.names[:12]]} without its metadata",
            do="build Trajectory objects from these columns and save them with `understudy.data.serialize.save`",
        )
    try:
        content = json.loads(content)
        layout = content["layout"]
        spec = TrajectorySpec.from_json(content) if layout == _LAYOUT else None
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as err:
        raise _corrupt(path, "unreadable metadata") from err
    if spec is None:
        raise DataError(
            expected=f"layout {_LAYOUT} in {path}",
            got=f"layout {str(layout)[:40]}",
            do="read it with a newer understudy",
        )
    if not schema.equals(schema_of(spec), check_metadata=False):
        raise _corrupt(path, f"columns {[name[:40] for name in schema.names[:12]]} that do not fit the metadata")
    return spec


def _offsets(column: Any, limit: int) -> np.ndarray:
    """Row offsets of a list column, checked: NumPy's slices would hide an offset that points outside."""
    offsets: np.ndarray = column.offsets.to_numpy()
    if offsets[0] != 0 or offsets[-1] > limit or np.any(np.diff(offsets) < 0):
        raise ValueError("row offsets out of order or out of range")
    return offsets


def _values(column: Any, spec: FieldSpec) -> tuple[np.ndarray, np.ndarray]:
    """All steps of a column, shape (steps, *spec.shape), and the rows' offsets."""
    if column.null_count or column.values.null_count:
        raise ValueError("missing values")
    rows = len(column.values)
    flat = column.values
    for _ in spec.shape:
        flat = flat.values
    values = np.frombuffer(flat.buffers()[1], dtype=spec.dtype, count=rows * int(np.prod(spec.shape, dtype=np.int64)))
    offsets = _offsets(column, rows)
    return values.reshape(rows, *spec.shape), offsets


def _infos(column: Any, path: Path) -> InfoColumn:
    strings = column.values
    row_offsets = _offsets(column, len(strings))
    _, offsets, text = strings.buffers()
    return InfoColumn(
        text=np.zeros(0, np.uint8) if text is None else np.frombuffer(text, dtype=np.uint8),
        text_offsets=np.frombuffer(offsets, dtype=np.int64, count=len(strings) + 1)
        if len(strings)
        else np.zeros(1, np.int64),
        row_offsets=row_offsets,
        present=column.is_valid().to_numpy(zero_copy_only=False),
        source=str(path),
    )


def _chunk(batch: Any, spec: TrajectorySpec, path: Path) -> TrajectoryColumns:
    batch.validate()
    acts, offsets = _values(batch.column("acts"), spec.acts)
    frames: list[np.ndarray] = []
    for name, field in _obs_columns(spec).items():
        values, frame_offsets = _values(batch.column(name), field)
        if not np.array_equal(frame_offsets, offsets + np.arange(len(offsets))):
            raise ValueError(f"{name!r} and 'acts' of different lengths")
        frames.append(values)
    rews = None
    if spec.rews is not None:
        rews, reward_offsets = _values(batch.column("rews"), spec.rews)
        if not np.array_equal(reward_offsets, offsets):
            raise ValueError("'rews' and 'acts' of different lengths")
    infos = _infos(batch.column("infos"), path)
    if np.any(np.diff(infos.row_offsets) != np.where(infos.present, np.diff(offsets), 0)):
        raise ValueError("'infos' and 'acts' of different lengths")
    obs: Observation = DictObs(dict(zip(spec.obs, frames, strict=True))) if isinstance(spec.obs, dict) else frames[0]
    terminal, truncated = (batch.column(n).to_numpy(zero_copy_only=False) for n in ("terminal", "truncated"))
    return TrajectoryColumns(obs, acts, rews, offsets, terminal, truncated, infos)


def read(path: Path) -> list[TrajectoryColumns]:
    """Map a stream into memory, one set of columns a record batch; nothing is copied but flags.

    Raises:
        CorruptFileError: not a complete stream, or one that contradicts itself.
        DataError: a stream of another layout.
        UntrustedFileError: a stream that names code.
    """
    return _read(path)[1]


def read_all(paths: Sequence[Path]) -> list[TrajectoryColumns]:
    """The record batches of several streams of one layout, in order.

    Raises:
        CorruptFileError: as ``read``, or streams of different layouts.
    """
    chunks: list[TrajectoryColumns] = []
    first = None
    for path in paths:
        spec, found = _read(path)
        first = first or spec
        if spec != first:
            raise _corrupt(path, f"other fields than in {paths[0].name}")
        chunks += found
    return chunks


def spec_of(path: Path) -> TrajectorySpec:
    """What the trajectories of a stream share.

    Raises:
        CorruptFileError, DataError, UntrustedFileError: as ``read``.
    """
    with _naming(path):
        return _read_spec(read_stream(path)[0], path)


def _read(path: Path) -> tuple[TrajectorySpec, list[TrajectoryColumns]]:
    with _naming(path):
        schema, batches = read_stream(path)
        spec = _read_spec(schema, path)
        chunks = [_chunk(batch, spec, path) for batch in batches if batch.num_rows]
    if not chunks:
        raise _corrupt(path, "no row")
    return spec, chunks


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What Arrow and NumPy say of a damaged stream, said of this file."""
    try:
        yield
    except UnderstudyError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as err:
        raise _corrupt(path, f"{type(err).__name__}: {str(err)[:200]}") from err
