"""Reading each form in which demonstrations come; nothing is compared with a space or checked for NaN here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy.data._dataset import Demonstrations
from understudy.data._mapped import MappedDemonstrations, stays_on_disk
from understudy.data._names import check_names
from understudy.data._npz_members import UNREADABLE, Members
from understudy.data._older_pickle import is_pickle
from understudy.data._stable_baselines_archive import has_layout, read
from understudy.data._stable_baselines_dataset import ExpertDataset
from understudy.data.dict_obs import DictObs, Observation, concatenate_maybe_dictobs
from understudy.data.trajectory_store import TrajectoryColumns, TrajectoryStore
from understudy.data.types import Trajectory, TrajectoryWithRew, Transitions, TransitionsMinimal, no_infos
from understudy.errors import ConfigError, CorruptFileError, DataError, EmptyDataError

_ACCEPTED = (
    "trajectories, a transitions object, a mapping of arrays with `obs` and `acts`, an iterable of such batches, "
    "a DataLoader, or the path of a dataset"
)


def read_unchecked(source: Any) -> Demonstrations:
    if isinstance(source, Demonstrations):
        return source
    if isinstance(source, Trajectory):
        return _from_trajectories([source])
    if isinstance(source, TransitionsMinimal):
        return _from_transitions(source)
    if isinstance(source, (str, bytes, os.PathLike)):
        return _from_path(Path(os.fsdecode(source)))
    if isinstance(source, Mapping):
        return from_arrays(source)
    if isinstance(source, TrajectoryStore):
        return _from_store(source)
    if isinstance(source, ExpertDataset):
        return source.to_demonstrations()
    if (
        isinstance(source, tuple)
        and len(source) == 2
        and isinstance(source[0], (np.ndarray, torch.Tensor, DictObs, Mapping))
        and isinstance(source[1], (np.ndarray, torch.Tensor))
    ):
        return from_arrays({"obs": source[0], "acts": source[1]})
    if _is_table_of_episodes(source):
        from understudy.data.huggingface_utils import TrajectoryDatasetSequence

        return _from_trajectories(list(TrajectoryDatasetSequence(source)))
    if isinstance(source, Iterable) and not isinstance(source, (np.ndarray, torch.Tensor)):
        return _from_iterable(source)
    raise DataError(
        expected=_ACCEPTED,
        got=type(source).__name__,
        do="pass for instance understudy.data.demonstrations.as_demonstrations({'obs': obs, 'acts': acts})",
    )


def _is_table_of_episodes(source: Any) -> bool:
    """Whether this is a `datasets.Dataset` with an episode a row; one with a step a row is an iterable of mappings."""
    package = type(source).__module__.partition(".")[0]
    return package == "datasets" and "terminal" in (getattr(source, "column_names", None) or ())


def _from_iterable(source: Iterable[Any]) -> Demonstrations:
    items = list(source)
    if not items:
        raise _empty("an iterable with nothing in it")
    if all(isinstance(item, Trajectory) for item in items):
        return _from_trajectories(items)
    if all(isinstance(item, Mapping) for item in items):
        return from_batches(items)
    if all(isinstance(item, TransitionsMinimal) for item in items):
        return _joined([_from_transitions(item) for item in items])
    kinds = (Trajectory, Mapping, TransitionsMinimal)
    kind = next((kind for kind in kinds if isinstance(items[0], kind)), None)
    odd = 0 if kind is None else next(i for i, item in enumerate(items) if not isinstance(item, kind))
    raise DataError(
        expected="an iterable of trajectories, or of mappings with `obs` and `acts`, not mixed",
        got=f"item {odd} of type {type(items[odd]).__name__}",
        do="convert the items to Trajectory, or pass {'obs': obs, 'acts': acts} with whole arrays",
    )


def _from_trajectories(trajectories: Sequence[Trajectory]) -> Demonstrations:
    lengths = np.array([len(t) for t in trajectories], dtype=np.int64)
    offsets = _offsets(lengths)
    last = offsets[1:] - 1
    dones, truncated = np.zeros((2, offsets[-1]), dtype=bool)
    dones[last] = [t.terminated for t in trajectories]
    truncated[last] = [t.truncated for t in trajectories]
    obs = [_array_or_dict(t.obs) for t in trajectories]
    acts = [_array(t.acts) for t in trajectories]
    rewarded = [t for t in trajectories if isinstance(t, TrajectoryWithRew)]
    for name, pieces in (("obs", obs), ("acts", acts), ("rews", [t.rews for t in rewarded])):
        _same_layouts(name, pieces)
    with_infos = any(t.infos is not None for t in trajectories)
    return Demonstrations(
        frames=concatenate_maybe_dictobs(obs),
        obs_rows=_frame_rows(lengths, offsets),
        acts=np.concatenate(acts),
        episode_offsets=offsets,
        dones=dones,
        truncated=truncated,
        rews=np.concatenate([t.rews for t in rewarded]) if len(rewarded) == len(trajectories) else None,
        infos=np.concatenate([no_infos(len(t)) if t.infos is None else np.asarray(t.infos) for t in trajectories])
        if with_infos
        else None,
    )


def _from_store(store: TrajectoryStore[Any]) -> Demonstrations:
    """What is too large to be joined stays where it is."""
    if not stays_on_disk(store):
        return _from_columns(store.columns())
    mapped = MappedDemonstrations(list(store.chunks()))
    if (mapped.episode_lengths == 0).any():
        raise _empty(f"trajectory {int(np.argmin(mapped.episode_lengths))} without an action")
    return mapped


def _from_columns(columns: TrajectoryColumns) -> Demonstrations:
    """A trajectory dataset on disk: its columns are taken as they are, memory-mapped where they were."""
    if len(columns.acts) == 0:
        raise _empty("a dataset without a step")
    offsets = np.asarray(columns.transition_offsets, dtype=np.int64)
    lengths = np.diff(offsets)
    if (lengths == 0).any():
        raise _empty(f"trajectory {int(np.argmin(lengths))} without an action")
    last = offsets[1:] - 1
    dones, truncated = np.zeros((2, offsets[-1]), dtype=bool)
    dones[last] = columns.terminal & ~columns.truncated
    truncated[last] = columns.truncated
    return Demonstrations(
        frames=columns.obs,
        obs_rows=_frame_rows(lengths, offsets),
        acts=columns.acts,
        episode_offsets=offsets,
        dones=dones,
        truncated=truncated,
        rews=columns.rews,
    )


def _from_transitions(transitions: TransitionsMinimal[Any]) -> Demonstrations:
    n = len(transitions)
    if n == 0:
        raise _empty("transitions without a row")
    infos = (
        transitions.infos if isinstance(transitions.infos, np.ndarray) else np.asarray(transitions.infos, dtype=object)
    )
    whole = isinstance(transitions, Transitions)
    ends: Any = (
        np.flatnonzero(transitions.dones | transitions.truncated) + 1 if isinstance(transitions, Transitions) else []
    )
    return Demonstrations(
        frames=_array_or_dict(transitions.obs),
        obs_rows=None,
        acts=_array(transitions.acts),
        episode_offsets=_offsets_from_ends(ends, n),
        episodes_known=len(ends) > 0,
        next_frames=_array_or_dict(transitions.next_obs) if isinstance(transitions, Transitions) else None,
        dones=transitions.dones if whole else None,  # type: ignore[attr-defined]
        truncated=transitions.truncated if whole else None,  # type: ignore[attr-defined]
        rews=getattr(transitions, "rews", None),
        # infos that take no memory are infos that were never there
        infos=None if infos.strides == (0,) else infos,
    )


def from_arrays(
    arrays: Mapping[str, Any], where: str = "the mapping", *, others_allowed: bool = False
) -> Demonstrations:
    """Whole arrays by name; names that are not known are refused, save where ``others_allowed``."""
    check_names(arrays, where, others_allowed=others_allowed)
    obs, next_obs = (_array_or_dict(arrays.get(name)) for name in ("obs", "next_obs"))
    acts = _array(arrays["acts"])
    for name, array in (("obs", obs), ("acts", acts)):
        if isinstance(array, np.ndarray) and array.ndim == 0:
            raise DataError(
                expected=f"`{name}` in {where} with one row a transition",
                got="a single value",
                do="pass whole arrays, or batches of rows, not single steps",
            )
    n = len(acts)
    if n == 0 or len(obs) == 0:
        raise _empty(f"{len(obs)} observations and {n} actions in {where}")
    terminated = arrays.get("terminated", arrays.get("dones"))
    flags = {
        name: None if value is None else _array(value).astype(bool).reshape(-1)
        for name, value in (("dones", terminated), ("truncated", arrays.get("truncated")))
    }
    rews = arrays.get("rews", arrays.get("rew"))
    columns: dict[str, np.ndarray | None] = {
        **flags,
        "rews": None if rews is None else _array(rews).reshape(-1),
        "weights": None if arrays.get("weights") is None else _array(arrays["weights"]).reshape(-1),
        "infos": None if arrays.get("infos") is None else np.asarray(arrays["infos"], dtype=object),
    }
    for name, column in {"obs": obs, "next_obs": next_obs, **columns}.items():
        if column is not None and len(column) != n:
            raise DataError(
                expected=f"as many rows of `{name}` as actions ({n}) in {where}",
                got=f"{len(column)}",
                do="give every array one row an action; for episodes with a last observation, pass Trajectory objects",
            )
    if next_obs is not None:
        _same_layout(obs, next_obs, "next_obs", where)
    if flags["dones"] is not None and flags["truncated"] is not None and (flags["dones"] & flags["truncated"]).any():
        raise DataError(
            expected=f"`dones` (terminated) and `truncated` never both True in {where}",
            got=f"{int((flags['dones'] & flags['truncated']).sum())} rows with both",
            do="if `dones` marks ends of either kind: dones &= ~truncated; else let it win: truncated &= ~dones",
        )
    if (columns["rews"] is not None) and columns["rews"].dtype.kind in "biu":
        columns["rews"] = columns["rews"].astype(np.float32)
    if arrays.get("episode_ends") is not None:
        ends = _ends(_array(arrays["episode_ends"]), n)
    else:
        known = [flag for flag in (flags["dones"], flags["truncated"]) if flag is not None]
        ends = np.flatnonzero(np.logical_or.reduce(known)) + 1 if known else np.array([], dtype=np.int64)
    return Demonstrations(
        frames=obs,
        obs_rows=None,
        acts=acts,
        episode_offsets=_offsets_from_ends(ends, n),
        episodes_known=len(ends) > 0,
        next_frames=next_obs,
        **columns,
    )


def from_batches(batches: Iterable[Mapping[str, Any]]) -> Demonstrations:
    parts, closed = [], []
    for i, batch in enumerate(batches):
        parts.append(from_arrays(batch, f"batch {i}", others_allowed=True))
        closed.append(batch.get("episode_ends") is not None)
    if not parts:
        raise _empty("a stream without a batch")
    return _joined(parts, closed)


def _from_path(path: Path) -> Demonstrations:
    from understudy.data import serialize  # reading files pulls in pyarrow: only when a path is given

    archive = path.suffix == ".npz" and path.is_file()
    if archive and has_layout(path):
        return read(path).to_demonstrations()
    arrays = _plain_archive(path) if archive else None
    return read_unchecked(serialize.load(path)) if arrays is None else from_arrays(arrays, path.name)


def _plain_archive(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of an npz of the user's own making, or None where it is of another kind."""
    try:
        with Members(path) as archive:
            datasets_own = "meta" in archive.names or {"terminal", "indices"} <= set(archive.names)
            if datasets_own or any(archive.header(name).dtype.hasobject for name in archive.names):
                return None  # the reader of datasets knows what to do, or to say
            return {name: archive.read(name) for name in archive.names}
    except UNREADABLE as error:
        if is_pickle(path):  # under a wrong name
            return None
        raise CorruptFileError(
            expected=f"a complete NumPy archive at {path}",
            got=f"{type(error).__name__}: {str(error)[:200]}",
            do="restore it from where it came from, or save it again with numpy.savez(path, obs=…, acts=…)",
        ) from error


def _joined(parts: list[Demonstrations], closed: Sequence[bool] | None = None) -> Demonstrations:
    """Put pieces end to end; a field survives when every piece has it.

    An episode may run on from one piece into the next, unless a flag or ``closed`` says that it ends with the piece.
    """
    optional: dict[str, Any] = {}
    for name in ("frames", "acts", "next_frames", "dones", "truncated", "rews", "infos", "weights"):
        pieces = [getattr(part, name) for part in parts]
        if all(piece is not None for piece in pieces):
            if name != "infos":
                _same_layouts({"frames": "obs", "next_frames": "next_obs"}.get(name, name), pieces)
            optional[name] = concatenate_maybe_dictobs(pieces)
    starts = _offsets(np.array([len(part) for part in parts]))
    ends = np.concatenate([_known_ends(p, closed is not None and closed[i]) + starts[i] for i, p in enumerate(parts)])
    return Demonstrations(
        obs_rows=None,
        episode_offsets=_offsets_from_ends(ends, int(starts[-1])),
        episodes_known=len(ends) > 0,
        **optional,
    )


def _known_ends(part: Demonstrations, closed: bool) -> np.ndarray:
    """Where episodes are known to end, as exclusive row indices."""
    if not part.episodes_known:
        return np.array([], dtype=np.int64)
    ended = closed or any(flags is not None and flags[-1] for flags in (part.dones, part.truncated))
    return part.episode_offsets[1:] if ended else part.episode_offsets[1:-1]


def _empty(got: str) -> EmptyDataError:
    return EmptyDataError(
        expected="demonstrations with at least one step", got=got, do="check the source: it gave nothing to learn from"
    )


def _array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        try:
            return value.detach().cpu().numpy()
        except TypeError as error:
            raise DataError(
                expected="tensors of a type that NumPy has", got=str(value.dtype), do="convert them: tensor.float()"
            ) from error
    try:
        return np.asarray(value)
    except ValueError as error:
        raise DataError(
            expected="rows of one shape", got=f"rows of differing lengths ({error})", do="pad or cut them to one length"
        ) from error


def _array_or_dict(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, Mapping):
        return DictObs({key: _array(item) for key, item in value.items()})
    return value if isinstance(value, DictObs) else _array(value)


def _same_layouts(name: str, pieces: Sequence[Observation]) -> None:
    for i, piece in enumerate(pieces):
        _same_layout(pieces[0], piece, name, f"item {i}")


def _same_layout(first: Observation, other: Observation, name: str, where: str) -> None:
    def layout(x: Observation) -> Any:
        if isinstance(x, DictObs):
            return {key: (value.dtype, value.shape[1:]) for key, value in x.items()}
        return x.dtype, x.shape[1:]

    if layout(first) != layout(other):
        raise DataError(
            expected=f"`{name}` of one dtype and shape throughout, {layout(first)} as in the first",
            got=f"{layout(other)} in {where}",
            do="convert all to one dtype and shape (dtypes are never changed silently)",
        )


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _frame_rows(lengths: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Row in the frames of each transition: every earlier episode shifts it by its one extra frame."""
    return np.arange(offsets[-1], dtype=np.int64) + np.repeat(np.arange(len(lengths)), lengths)


def _ends(ends: np.ndarray, n: int) -> np.ndarray:
    """Episode ends as exclusive indices, from flags of length n or from indices."""
    if ends.dtype == np.bool_ and ends.shape != (n,):
        raise DataError(
            expected=f"`episode_ends` flags of shape ({n},)", got=str(ends.shape), do="pass one flag a transition"
        )
    if ends.shape == (n,) and n > 1 and ends.dtype.kind in "biuf" and np.isin(ends, (0, 1)).all():
        return np.flatnonzero(ends) + 1
    whole = ends.astype(np.int64) if ends.dtype.kind in "iu" and ends.ndim == 1 and len(ends) else None
    if whole is not None and whole[-1] == n - 1 and n > 1:
        raise ConfigError(
            expected=f"`episode_ends` one past each episode's last row, so that the last is {n}",
            got=f"{n - 1} as the last: this looks like the index of the last row itself",
            do="add 1 to all of them, or pass one boolean a row",
        )
    if whole is None or (np.diff(whole) <= 0).any() or whole[0] < 1 or whole[-1] > n:
        raise ConfigError(
            expected=f"`episode_ends` as rising indices in [1, {n}], each one past an episode's last row",
            got=f"{ends[:5]}…" if ends.size > 5 else str(ends),
            do="pass numpy.cumsum(episode_lengths), or one boolean a row",
        )
    return whole


def _offsets_from_ends(ends: Any, n: int) -> np.ndarray:
    inner = np.asarray(ends, dtype=np.int64)
    inner = inner[inner < n]
    return np.concatenate([[0], inner, [n]]).astype(np.int64)
