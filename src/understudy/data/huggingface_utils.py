"""Trajectories as a `datasets.Dataset` in the columns that `imitation` uses, and from the Hugging Face hub.

A row is an episode, with the columns ``obs``, ``acts``, ``infos`` (one JSON text a step), ``terminal`` and, where there
are rewards, ``rews``. Infos are read as data, whatever they name (``_jsonpickle.py``); features are never decoded by
`datasets`. Needs the extra ``hf``, except for reading a folder, which ``serialize.load`` does without it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, SupportsIndex, TypeVar, overload

import numpy as np

from understudy.data._json_infos import encode_info
from understudy.data.types import DictObs, Trajectory, TrajectoryWithRew
from understudy.errors import (
    ConfigError,
    CorruptFileError,
    DataError,
    EmptyDataError,
    MissingExtraError,
    MissingFileError,
    UnderstudyError,
    UntrustedFileError,
)

__all__ = ["TrajectoryDatasetSequence", "load_from_hub", "trajectories_to_dataset", "trajectories_to_dict"]

TrajectoryT = TypeVar("TrajectoryT", bound=Trajectory)

_TABULAR = ("parquet", "arrow", "json", "csv")
"""Forms that are read as numbers and text; others may call decoders for what a repository holds."""
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"PK", b"Rar!", b"7z\xbc")
"""How packed files begin, of gzip, bzip2, xz, zstd, lz4, zip and two more; `datasets` would unpack them."""
_WITHOUT_SCRIPTS = 4


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as err:
        raise MissingExtraError("datasets", "hf") from err
    return datasets


class TrajectoryDatasetSequence(Sequence[TrajectoryT], Generic[TrajectoryT]):
    """The rows of a `datasets.Dataset` as trajectories, each read when it is asked for.

    Numbers keep the types of the columns. Rows have rewards where there is a column ``rews``. An episode counts as
    truncated where a column ``truncated`` says so or, without one, ``TimeLimit.truncated`` in its last info.

    Raises:
        DataError: no such columns; on access, cells that do not fit each other, naming the row.
    """

    def __init__(self, dataset: Any) -> None:
        """``dataset``: one split, not the dictionary of all."""
        from understudy.data._older_columns import has_layout, unfit

        names = getattr(dataset, "column_names", None)
        if isinstance(dataset, Mapping) or not isinstance(names, list):
            raise DataError(
                expected="a datasets.Dataset",
                got=f"{type(dataset).__name__}{f' of {sorted(dataset)[:5]}' if isinstance(dataset, Mapping) else ''}",
                do='pass one split, such as dataset["train"]',
            )
        if not has_layout(names):
            raise unfit("the dataset", f"columns {names[:8]}")
        self._dataset = dataset
        self._arrow = dataset.with_format("arrow")

    @property
    def dataset(self) -> Any:
        """The dataset as it was given."""
        return self._dataset

    def __len__(self) -> int:
        """Number of trajectories."""
        return len(self._dataset)

    @overload
    def __getitem__(self, idx: SupportsIndex) -> TrajectoryT: ...
    @overload
    def __getitem__(self, idx: slice) -> TrajectoryDatasetSequence[TrajectoryT]: ...
    def __getitem__(self, idx: SupportsIndex | slice) -> TrajectoryT | TrajectoryDatasetSequence[TrajectoryT]:
        """One trajectory; a slice is a sequence of the same kind, of which nothing is read yet."""
        rows = range(len(self))[idx]
        if isinstance(rows, range):
            return TrajectoryDatasetSequence(self._dataset.select(rows or range(0)))
        return next(self._read(rows, rows + 1))

    def __iter__(self) -> Iterator[TrajectoryT]:
        """All trajectories in order; a hundred rows are read at a time."""
        step = 100
        for start in range(0, len(self), step):
            yield from self._read(start, min(start + step, len(self)))

    def _read(self, start: int, stop: int) -> Iterator[TrajectoryT]:
        from understudy.data._older_columns import read_batch

        row = start
        for batch in self._arrow[start:stop].to_batches():
            columns = read_batch(batch, f"the dataset, rows from {row}")
            for local in range(len(columns)):
                yield columns.trajectory(local)  # type: ignore[misc]
            row += len(columns)

    def __repr__(self) -> str:
        return f"<TrajectoryDatasetSequence of {len(self)} trajectories>"


def trajectories_to_dict(trajectories: Sequence[Trajectory]) -> dict[str, Sequence[Any]]:
    """The columns, a list with one entry an episode each.

    Infos become one JSON text a step: arrays in them become lists, no infos become empty ones, and where a time limit
    ended the episode the last one says ``TimeLimit.truncated``, since there is no column for it.

    Raises:
        EmptyDataError: no trajectory.
        DataError: some with rewards and others without; dictionary observations; infos that JSON cannot hold.
    """
    trajectories = list(trajectories)
    if not trajectories:
        raise EmptyDataError(expected="at least one trajectory", got="none", do="record some before converting them")
    rewarded = [isinstance(trajectory, TrajectoryWithRew) for trajectory in trajectories]
    if any(rewarded) and not all(rewarded):
        raise DataError(
            expected="all trajectories with rewards, or none",
            got=f"trajectory {rewarded.index(False)} without and trajectory {rewarded.index(True)} with",
            do="convert them to one kind",
        )
    if any(isinstance(trajectory.obs, DictObs) for trajectory in trajectories):
        raise DataError(
            expected="observations that are one array: these columns know no other",
            got="dictionary observations",
            do="save them with understudy.data.serialize.save, whose folder datasets.load_from_disk opens",
        )
    columns: dict[str, Sequence[Any]] = {
        "obs": [trajectory.obs for trajectory in trajectories],
        "acts": [trajectory.acts for trajectory in trajectories],
        "infos": [_info_texts(trajectory, number) for number, trajectory in enumerate(trajectories)],
        "terminal": [bool(trajectory.terminal) for trajectory in trajectories],
    }
    if all(rewarded):
        columns["rews"] = [trajectory.rews for trajectory in trajectories if isinstance(trajectory, TrajectoryWithRew)]
    return columns


def _info_texts(trajectory: Trajectory, number: int) -> list[str]:
    infos: Sequence[Mapping[str, Any]] | np.ndarray = [{}] * len(trajectory)
    if trajectory.infos is not None:
        infos = trajectory.infos
    texts = [encode_info(info, f"trajectory {number}, infos[{t}]").decode() for t, info in enumerate(infos)]
    if trajectory.truncated:
        texts[-1] = encode_info({**infos[-1], "TimeLimit.truncated": True}, f"trajectory {number}, infos[-1]").decode()
    return texts


def trajectories_to_dataset(trajectories: Sequence[Trajectory], info: Any = None) -> Any:
    """A `datasets.Dataset` in memory, ready for ``save_to_disk`` or ``push_to_hub``.

    Args:
        trajectories: a TrajectoryDatasetSequence gives back its own dataset.
        info: a `datasets.DatasetInfo` to keep with it.

    Raises:
        MissingExtraError: `datasets` is not installed.
        DataError: as ``trajectories_to_dict``.
    """
    if isinstance(trajectories, TrajectoryDatasetSequence):
        return trajectories.dataset
    columns = trajectories_to_dict(trajectories)
    # Arrow has no arrays of several axes: these go in as nested lists, with the types that they have.
    return _datasets().Dataset(_table(columns), info=info)


def _table(columns: Mapping[str, Sequence[Any]]) -> Any:
    import pyarrow as pa

    made = {
        name: _lists([np.asarray(row) for row in rows]) if name in ("obs", "acts", "rews") else pa.array(rows)
        for name, rows in columns.items()
    }
    return pa.table(made)


def _lists(rows: Sequence[np.ndarray]) -> Any:
    import pyarrow as pa

    if len({(row.dtype, row.shape[1:]) for row in rows}) > 1:
        raise DataError(
            expected="one dtype and shape of a step in all trajectories",
            got=f"{sorted({f'{row.dtype} {row.shape[1:]}' for row in rows})[:4]}",
            do="convert them to one kind",
        )
    joined = np.concatenate(rows)
    nested = pa.array(joined.reshape(-1))
    length = joined.size
    for size in reversed(joined.shape[1:]):
        length //= size
        nested = pa.ListArray.from_arrays(pa.array(np.arange(length + 1, dtype=np.int32) * np.int32(size)), nested)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), nested)


def load_from_hub(
    repo_id: str, *, split: str = "train", revision: str | None = None, name: str | None = None
) -> TrajectoryDatasetSequence[Any]:
    """Trajectories from a dataset on the Hugging Face hub, or a folder laid out like one; no code of it is run.

    Args:
        repo_id: ``"owner/name"``, or a folder with Parquet files.
        split: which of its splits.
        revision: a branch, tag or commit; a commit makes a result repeatable.
        name: which of its configurations, where it has several.

    Raises:
        MissingExtraError: `datasets` is not installed.
        UntrustedFileError: stored in another form than tables, or with a script.
        ConfigError: a `datasets` so old that it would run scripts.
        MissingFileError: no such dataset, or it cannot be reached.
        CorruptFileError: tables that are truncated, altered or do not fit each other.
        DataError: no such split or configuration, other columns, or files that unpack to more than 16 MiB and 100
            times their size.
    """
    datasets = _datasets()
    if int(datasets.__version__.partition(".")[0]) < _WITHOUT_SCRIPTS:
        raise ConfigError(
            expected=f"datasets ≥ {_WITHOUT_SCRIPTS}, which runs no script of a repository",
            got=f"datasets {datasets.__version__}",
            do="pip install -U datasets",
        )
    with _naming(f"{repo_id!r}"[:200], f"split={split!r}, name={name!r}, revision={revision!r}"):
        try:
            builder = datasets.load_dataset_builder(repo_id, name, revision=revision)
        except RuntimeError as err:
            if "script" not in str(err):
                raise
            raise _no_table(repo_id, "a loading script") from err
        *_, packages, form, _ = ["", "", "", *type(builder).__module__.split(".")]
        if packages != "packaged_modules" or form not in _TABULAR:
            raise _no_table(repo_id, f"the form {form!r}")
        downloads = _downloads(datasets, builder)
        _check_files(downloads.download(builder.config.data_files), form, repo_id)
        builder.download_and_prepare(dl_manager=downloads)
        return TrajectoryDatasetSequence(builder.as_dataset(split=split))


def _downloads(datasets: Any, builder: Any) -> Any:
    """What fetches the files, once for looking at them and, from its cache, once more for reading them."""
    options = datasets.DownloadConfig(
        use_etag=False, token=builder.token, storage_options=builder.storage_options, extract_on_the_fly=True
    )
    return datasets.DownloadManager(
        dataset_name=builder.dataset_name,
        data_dir=builder.config.data_dir,
        download_config=options,
        base_path=builder.base_path,
    )


def _check_files(files: Mapping[Any, Sequence[Any]], form: str, repo_id: str) -> None:
    """Nothing that grows beyond all proportion when it is read."""
    paths = [Path(str(name)) for split in files.values() for name in split]
    for path in paths:
        with path.open("rb") as file:
            head = file.read(512)
        if head.startswith(_PACKED) or (form in ("json", "csv") and b"\0" in head):
            raise DataError(
                expected=f"files in the dataset {repo_id} that are not packed",
                got=f"{path.name[-80:]!r}, which begins {head[:6]!r}",
                do="unpack them, or convert them to Parquet, which is compressed by itself",
            )
    if form == "parquet":
        from understudy.data._parquet_size import check_sizes

        check_sizes(paths)
    elif form == "arrow":
        from understudy.data._arrow_stream import read_stream

        for path in paths:
            for _ in read_stream(path)[1]:  # mapped, not read; compressed ones are refused
                pass


_NOT_THERE = frozenset({"DataFilesNotFoundError", "DatasetNotFoundError", "EmptyDatasetError"})
_DAMAGED = frozenset(
    {"DatasetGenerationError", "DatasetGenerationCastError", "ArrowInvalid", "ArrowTypeError", "ParserError"}
)


@contextlib.contextmanager
def _naming(source: str, options: str) -> Iterator[None]:
    """What `datasets` and those below it say, said of this dataset; none of them has one class for it."""
    try:
        yield
    except UnderstudyError:
        raise
    except Exception as err:
        kinds = {kind.__name__ for kind in type(err).__mro__}
        cause = err.__cause__ if type(err).__name__.startswith("DatasetGeneration") and err.__cause__ else err
        got = f"{type(cause).__name__}: {' '.join(str(cause).split())[:240]}"
        if kinds & _DAMAGED or isinstance(err, UnicodeError):
            raise CorruptFileError(
                expected=f"complete tables of one layout in the dataset {source}",
                got=got,
                do="download it again, or ask whoever published it",
            ) from err
        if kinds & _NOT_THERE or isinstance(err, OSError):
            raise MissingFileError(
                expected=f"a dataset {source} with tables, on the hub or in a folder",
                got=got,
                do="check the name, the network and, for a private one, that you are logged in: hf auth login",
            ) from err
        raise DataError(
            expected=f"a dataset {source} that `datasets` opens with {options}",
            got=got,
            do="check split=, name= and revision= against its page, and its files",
        ) from err


def _no_table(repo_id: str, got: str) -> UntrustedFileError:
    return UntrustedFileError(
        expected=f"tables ({', '.join(_TABULAR)}) in the dataset {repo_id}",
        got=f"{got}, which may run code when it is read",
        do="convert it to Parquet where you trust it",
    )
