"""The one door for demonstrations: whatever a user holds becomes one type, or the error says what is wrong with it.

Accepted: a trajectory or any iterable of trajectories; a transitions object; a mapping of arrays (``obs``, ``acts``,
and optionally ``next_obs``, ``dones`` or ``terminated``, ``truncated``, ``rews``, ``episode_ends``, ``weights``); a
pair ``(obs, acts)``; an iterable of batches of such mappings; a ``DataLoader``; the path of a dataset on disk.

A ``DataLoader`` stays a stream, read anew each epoch, because it may augment or shuffle in its own way. All else is
read once into contiguous arrays whose dtype never changes.
"""

from __future__ import annotations

import dataclasses
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch.utils.data import DataLoader

from understudy.data._door import check_finite, check_numeric, fitted_acts, fitted_obs
from understudy.data.dict_obs import DictObs, Observation, concatenate_maybe_dictobs
from understudy.data.trajectory_store import TrajectoryColumns, TrajectoryStore
from understudy.data.types import AnyPath, Trajectory, TrajectoryWithRew, Transitions, TransitionsMinimal, no_infos
from understudy.errors import ConfigError, CorruptFileError, DataError, EmptyDataError

AnyDemonstrations = (
    Iterable[Trajectory]
    | Iterable[Mapping[str, Any]]
    | TransitionsMinimal[Any]
    | Mapping[str, Any]
    | tuple[Any, Any]
    | AnyPath
)

_ACCEPTED = (
    "trajectories, a transitions object, a mapping of arrays with `obs` and `acts`, an iterable of such batches, "
    "a DataLoader, or the path of a dataset"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Demonstrations:
    """All steps of all demonstrations in contiguous arrays, one per field.

    Where observations come from trajectories, the stored frames hold one more row an episode than there are actions,
    and ``obs_rows`` says which frame each action was taken in; the frame after it is the next row, so no second copy
    of the observations is needed.
    """

    frames: Observation
    """Stored observations, shape (frame, *obs)."""

    obs_rows: np.ndarray | None
    """For each transition, its row in ``frames``, shape (transition,), int64; None when they are the same."""

    acts: np.ndarray
    """Actions, shape (transition, *act)."""

    episode_offsets: np.ndarray
    """Episode ``e`` is the transitions ``offsets[e]:offsets[e + 1]``; int64, shape (episode + 1,)."""

    episodes_known: bool = True
    """False when the data did not say where episodes end, so that all of it counts as one."""

    next_frames: Observation | None = None
    """Observations after acting, shape (transition, *obs), only where they do not stand in ``frames``."""

    dones: np.ndarray | None = None
    """True where the environment terminated, shape (transition,)."""

    truncated: np.ndarray | None = None
    """True where a time limit cut the episode, shape (transition,)."""

    rews: np.ndarray | None = None
    """Rewards, shape (transition,)."""

    infos: np.ndarray | None = None
    """Info dictionaries, shape (transition,)."""

    weights: np.ndarray | None = None
    """Weight of each transition in a loss, shape (transition,), ≥ 0."""

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self.acts)

    @property
    def n_episodes(self) -> int:
        """Number of episodes, fragments counted."""
        return len(self.episode_offsets) - 1

    @property
    def episode_lengths(self) -> np.ndarray:
        """Transitions in each episode, shape (episode,)."""
        return np.diff(self.episode_offsets)

    @property
    def obs(self) -> Observation:
        """Observations before acting, shape (transition, *obs); a copy when frames are shared between fields."""
        return self.frames if self.obs_rows is None else self.frames[self.obs_rows]

    @property
    def next_obs(self) -> Observation | None:
        """Observations after acting, shape (transition, *obs), or None where the data has none."""
        if self.next_frames is not None:
            return self.next_frames
        return None if self.obs_rows is None else self.frames[self.obs_rows + 1]

    def rows_of_episodes(self, episodes: np.ndarray) -> np.ndarray:
        """Indices of all transitions of the given episodes, in order, int64."""
        rows = [np.arange(self.episode_offsets[e], self.episode_offsets[e + 1]) for e in episodes]
        return np.concatenate([np.empty(0, dtype=np.int64), *rows])

    def episode_returns(self) -> np.ndarray | None:
        """Sum of rewards of each episode in float64, shape (episode,), or None without rewards."""
        if self.rews is None:
            return None
        return np.add.reduceat(self.rews.astype(np.float64), self.episode_offsets[:-1])

    def to_transitions(self) -> Transitions:
        """A plain transitions object.

        Raises:
            DataError: the data has no next observations.
        """
        next_obs = self.next_obs
        if next_obs is None:
            raise DataError(
                expected="demonstrations with next observations",
                got="observations and actions only",
                do="pass trajectories, or transitions with `next_obs` and `dones`",
            )
        return Transitions(
            obs=self.obs,
            acts=self.acts,
            infos=no_infos(len(self)) if self.infos is None else self.infos,
            next_obs=next_obs,
            dones=np.zeros(len(self), dtype=bool) if self.dones is None else self.dones,
            truncated=self.truncated,  # type: ignore[arg-type]
        )


class BatchStream:
    """Batches of a loader of the user's own, read anew each epoch and checked as they come.

    Iterating gives mappings with ``obs`` (array, tensor or DictObs), ``acts``, and whatever else the loader yields.
    """

    def __init__(
        self,
        loader: Iterable[Mapping[str, Any]],
        observation_space: gym.Space[Any] | None,
        action_space: gym.Space[Any] | None,
    ) -> None:
        self._loader = loader
        self._spaces = (observation_space, action_space)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for i, batch in enumerate(self._loader):
            yield _fitted_batch(batch, f"batch {i}", *self._spaces)

    def read(self) -> Demonstrations:
        """One pass over the stream as contiguous arrays."""
        return _from_batches(iter(self))


def as_demonstrations(
    demonstrations: Any,
    *,
    observation_space: gym.Space[Any] | None = None,
    action_space: gym.Space[Any] | None = None,
) -> Demonstrations | BatchStream:
    """Turn anything that holds demonstrations into one type.

    Args:
        demonstrations: see the module's docstring.
        observation_space: if given, observations are compared with it; channels-last images are turned to a
            channels-first space.
        action_space: if given, actions are compared with it; ``(n, 1)`` discrete actions lose the extra axis.

    Raises:
        EmptyDataError: nothing in it.
        NonFiniteDataError: NaN or infinity in observations, actions, rewards or weights, naming where.
        SpaceMismatchError: shapes or values do not fit the spaces.
        DataError: it is no demonstration at all, or its parts do not fit each other.
    """
    spaces = (observation_space, action_space)
    if isinstance(demonstrations, BatchStream):
        return demonstrations if spaces == (None, None) else BatchStream(demonstrations, *spaces)
    if isinstance(demonstrations, DataLoader):
        return BatchStream(demonstrations, *spaces)
    return _fit(read_unchecked(demonstrations), *spaces)


def read_demonstrations(demonstrations: Any, **spaces: gym.Space[Any] | None) -> Demonstrations:
    """As ``as_demonstrations``, with streams read once: for algorithms that need all the data in hand."""
    found = as_demonstrations(demonstrations, **spaces)
    return found.read() if isinstance(found, BatchStream) else found


# --- reading each form ------------------------------------------------------------------------------------------


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
        return _from_arrays(source)
    if isinstance(source, TrajectoryStore):
        return _from_columns(source.columns())
    if (
        isinstance(source, tuple)
        and len(source) == 2
        and isinstance(source[0], (np.ndarray, torch.Tensor, DictObs, Mapping))
        and isinstance(source[1], (np.ndarray, torch.Tensor))
    ):
        return _from_arrays({"obs": source[0], "acts": source[1]})
    if isinstance(source, Iterable) and not isinstance(source, (np.ndarray, torch.Tensor)):
        return _from_iterable(source)
    raise DataError(
        expected=_ACCEPTED,
        got=type(source).__name__,
        do="pass for instance understudy.data.demonstrations.as_demonstrations({'obs': obs, 'acts': acts})",
    )


def _from_iterable(source: Iterable[Any]) -> Demonstrations:
    items = list(source)
    if not items:
        raise _empty("an iterable with nothing in it")
    if all(isinstance(item, Trajectory) for item in items):
        return _from_trajectories(items)
    if all(isinstance(item, Mapping) for item in items):
        return _from_batches(items)
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


_KEYS = {
    "obs",
    "acts",
    "next_obs",
    "dones",
    "terminated",
    "truncated",
    "rews",
    "rew",
    "infos",
    "episode_ends",
    "weights",
}


def _from_arrays(arrays: Mapping[str, Any], where: str = "the mapping") -> Demonstrations:
    missing = {"obs", "acts"} - set(arrays)
    if missing:
        raise DataError(
            expected=f"{where} to hold `obs` and `acts`",
            got=f"keys {sorted(arrays)}",
            do=f"add {sorted(missing)}; known names are {sorted(_KEYS)}",
        )
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


def _from_batches(batches: Iterable[Mapping[str, Any]]) -> Demonstrations:
    parts, closed = [], []
    for i, batch in enumerate(batches):
        parts.append(_from_arrays(batch, f"batch {i}"))
        closed.append(batch.get("episode_ends") is not None)
    if not parts:
        raise _empty("a stream without a batch")
    return _joined(parts, closed)


def _from_path(path: Path) -> Demonstrations:
    from understudy.data import serialize  # reading files pulls in pyarrow: only when a path is given

    arrays = _plain_archive(path) if path.suffix == ".npz" and path.is_file() else None
    return read_unchecked(serialize.load(path)) if arrays is None else _from_arrays(arrays, path.name)


def _plain_archive(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of an npz of the user's own making, or None where it is of another kind."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            names = set(archive.files)
            if not ({"obs", "acts"} <= names <= _KEYS):
                return None
            return {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise CorruptFileError(
            expected=f"a complete NumPy archive at {path}",
            got=f"{type(error).__name__}: {error}",
            do="restore it from where it came from, or save it again with numpy.savez(path, obs=…, acts=…)",
        ) from error
    except ValueError:  # pickled objects, or no archive at all: the reader of datasets knows what to say
        return None


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


# --- fitting to spaces and checking -----------------------------------------------------------------------------


def _fit(
    demos: Demonstrations,
    observation_space: gym.Space[Any] | None,
    action_space: gym.Space[Any] | None,
    where: str = "",
) -> Demonstrations:
    _check_values(demos, where)
    frames = demos.frames if observation_space is None else fitted_obs(demos.frames, observation_space, "obs")
    next_frames = demos.next_frames
    if next_frames is not None and observation_space is not None:
        next_frames = fitted_obs(next_frames, observation_space, "next_obs")
    acts = demos.acts if action_space is None else fitted_acts(demos.acts, action_space)
    return dataclasses.replace(demos, frames=frames, next_frames=next_frames, acts=acts)


def _check_values(demos: Demonstrations, where: str) -> None:
    """Before anything is compared with a space, so that a NaN is not taken for a wrong index."""
    for name, column, offsets in (
        ("obs", demos.frames, _frame_offsets(demos)),
        ("next_obs", demos.next_frames, demos.episode_offsets),
        ("acts", demos.acts, demos.episode_offsets),
        ("rews", demos.rews, demos.episode_offsets),
        ("weights", demos.weights, demos.episode_offsets),
    ):
        if column is not None:
            check_numeric(name, column)
            check_finite(name, column, offsets, where)
    if demos.weights is not None and (demos.weights < 0).any():
        raise DataError(
            expected="weights ≥ 0", got=f"{int((demos.weights < 0).sum())} negative weights", do="clip or shift them"
        )


def _fitted_batch(
    batch: Any, where: str, observation_space: gym.Space[Any] | None, action_space: gym.Space[Any] | None
) -> Mapping[str, Any]:
    if not isinstance(batch, Mapping):
        raise DataError(
            expected=f"{where} of the loader to be a mapping with `obs` and `acts`",
            got=type(batch).__name__,
            do="give the DataLoader collate_fn=understudy.data.types.transitions_collate_fn, or yield dictionaries",
        )
    demos = _fit(_from_arrays(batch, where), observation_space, action_space, where)
    fields = {name: getattr(demos, name) for name in ("next_obs", "dones", "truncated", "rews", "infos", "weights")}
    known = {name: value for name, value in fields.items() if value is not None}
    return {"obs": demos.frames, "acts": demos.acts, **known}


# --- small parts ------------------------------------------------------------------------------------------------


def _empty(got: str) -> EmptyDataError:
    return EmptyDataError(
        expected="demonstrations with at least one step", got=got, do="check the source: it gave nothing to learn from"
    )


def _array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
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


def _frame_offsets(demos: Demonstrations) -> np.ndarray:
    offsets = demos.episode_offsets
    return offsets if demos.obs_rows is None else offsets + np.arange(len(offsets))


def _ends(ends: np.ndarray, n: int) -> np.ndarray:
    """Episode ends as exclusive indices, from flags of length n or from indices."""
    if ends.dtype == np.bool_:
        if ends.shape != (n,):
            raise DataError(
                expected=f"`episode_ends` flags of shape ({n},)", got=str(ends.shape), do="pass one flag a transition"
            )
        return np.flatnonzero(ends) + 1
    whole = ends.astype(np.int64) if ends.dtype.kind in "iu" and ends.ndim == 1 and len(ends) else None
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


__all__ = ["AnyDemonstrations", "BatchStream", "Demonstrations", "as_demonstrations", "read_demonstrations"]
