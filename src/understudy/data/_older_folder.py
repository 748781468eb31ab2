"""A folder that `datasets` saved, as `imitation` wrote it, read without it: ``state.json`` and Arrow streams."""

from __future__ import annotations

import json
from pathlib import Path, PurePath

import pyarrow as pa

from understudy.data import _older_columns
from understudy.data._arrow_stream import read_stream
from understudy.data._trajectory_spec import FieldSpec, TrajectorySpec, describe
from understudy.data.dict_obs import DictObs
from understudy.data.trajectory_store import TrajectoryColumns
from understudy.errors import CorruptFileError, DataError, EmptyDataError, UnderstudyError

STATE = "state.json"
_MAX_STATE = 16 << 20
_RESTORE = "restore it from where it came from, or record and save the data again"


def plain_file(folder: Path, name: str) -> Path:
    """``folder / name``, if that is a file of this folder and no way out of it.

    Raises:
        DataError: another folder's file, or a symbolic link.
        CorruptFileError: no such file.
    """
    if name in ("", ".", "..") or PurePath(name).name != name or not name.isprintable():
        raise DataError(
            expected=f"plain names of files of {folder}", got=f"{name[:80]!r}", do="do not use this dataset"
        )
    path = folder / name
    if path.is_symlink():
        raise DataError(
            expected=f"the file {path} itself",
            got="a symbolic link",
            do="copy the dataset with what its links point to: cp -rL",
        )
    if not path.is_file():
        raise CorruptFileError(expected=f"the file {path}, which the dataset lists", got="no such file", do=_RESTORE)
    return path


def stream_names(folder: Path) -> list[str]:
    """The names of the streams that ``state.json`` lists, unchecked.

    Raises:
        CorruptFileError: not what `datasets` writes.
    """
    path = plain_file(folder, STATE)
    try:
        if path.stat().st_size > _MAX_STATE:
            raise ValueError("larger than any list of files")
        state = json.loads(path.read_text(encoding="utf-8"))
        names = [entry["filename"] for entry in state["_data_files"]]
        indices = state.get("_indices_data_files")
        if not all(isinstance(name, str) for name in names):
            raise TypeError("names that are no text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise CorruptFileError(
            expected=f"a list of data files in {path}", got=f"{type(err).__name__}: {str(err)[:80]}", do=_RESTORE
        ) from err
    if indices:
        raise DataError(
            expected=f"rows in the order of their files in {folder}",
            got="a separate file of indices",
            do="save dataset.flatten_indices() instead",
        )
    return names


def read(folder: Path) -> list[TrajectoryColumns]:
    """All episodes, mapped into memory, a set of columns a record batch.

    Raises:
        DataError: columns of another layout, or of differing types and shapes.
        CorruptFileError: truncated, altered or incomplete.
        UntrustedFileError: it names code.
    """
    chunks: list[TrajectoryColumns] = []
    first: TrajectorySpec | None = None
    for name in stream_names(folder):
        path = plain_file(folder, name)
        try:
            schema, batches = read_stream(path)
            if not _older_columns.has_layout(schema.names):
                raise DataError(
                    expected=f"a folder at {folder} with trajectories, one a row",
                    got=f"a `datasets` folder that another library wrote: columns {[n[:40] for n in schema.names[:8]]}",
                    do="give the dataset's own folder; or build Trajectory objects from its columns and save them",
                )
            for batch in batches:
                if not batch.num_rows:
                    continue
                chunks.append(_older_columns.read_batch(batch, str(path)))
                spec = _spec_of(chunks[-1])
                first = first or spec
                _check_same(first, spec, path)
        except UnderstudyError:
            raise
        except (pa.ArrowException, OSError, ValueError) as err:
            raise CorruptFileError(
                expected=f"a complete Arrow stream in {path}",
                got=f"{type(err).__name__}: {str(err)[:120]}",
                do=_RESTORE,
            ) from err
    if not chunks:
        raise EmptyDataError(
            expected=f"at least one trajectory in {folder}", got="none", do="record some and save them"
        )
    return chunks


def _spec_of(columns: TrajectoryColumns) -> TrajectorySpec:
    obs: FieldSpec | dict[str, FieldSpec]
    if isinstance(columns.obs, DictObs):
        obs = {key: FieldSpec.of(f"obs[{key!r}]", values) for key, values in columns.obs.items()}
    else:
        obs = FieldSpec.of("obs", columns.obs)
    rews = None if columns.rews is None else FieldSpec.of("rews", columns.rews)
    return TrajectorySpec(obs, FieldSpec.of("acts", columns.acts), rews)


def _check_same(first: TrajectorySpec, spec: TrajectorySpec, path: Path) -> None:
    for name in ("obs", "acts", "rews"):
        wanted, found = getattr(first, name), getattr(spec, name)
        if wanted != found:
            raise DataError(
                expected=f"`{name}` in {path} as in the episodes before it: {describe(wanted)[:200]}",
                got=describe(found)[:200],
                do=f"convert `{name}` to one type and shape, or save the kinds as separate datasets",
            )
