"""Older files of trajectories, as `imitation` wrote them: ``.npz`` and pickles.

===========================  ==================================================================
npz of trajectories          ``obs``, ``acts``, ``terminal``, ``indices``, ``rews``, ``infos``;
                             all trajectories but the first begin at ``indices``
npz of transitions           ``obs``, ``acts``, ``next_obs``, ``dones``, ``rews``, ``infos``
npz of one array of objects  each a trajectory
pickle                       a list of trajectories, or the fields of either npz
===========================  ==================================================================

Numbers are read without trust. ``infos`` are arrays of objects, which is to say pickles: without trust they are left
out, and the log tells it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from understudy.data._json_infos import HeldInfos, InfoColumn
from understudy.data._npz_members import UNREADABLE, Members, read_header, unreadable
from understudy.data._older_pickle import TRUST, episodes, fields_of, plain_observation, unpickle, untrusted
from understudy.data._trajectory_spec import TrajectorySpec
from understudy.data.dict_obs import DictObs, Observation
from understudy.data.trajectory_store import TrajectoryColumns
from understudy.data.types import Trajectory, TrajectoryWithRew
from understudy.errors import DataError, EmptyDataError, UnderstudyError

_logger = logging.getLogger(__name__)

_FIELDS = ("obs", "acts", "next_obs", "dones", "terminal", "indices", "rews", "truncated", "infos")


def read_npz(path: Path, trust: str | None) -> TrajectoryColumns:
    """An npz that this library did not write.

    Raises:
        UntrustedFileError: nothing can be read of it without running what is stored.
        CorruptFileError: truncated or altered.
        DataError: other arrays.
    """
    try:
        with Members(path) as archive:
            objects = [name for name in archive.names if archive.header(name).dtype.hasobject]
            names = [name for name in archive.names if name in _FIELDS]
            if trust == TRUST:
                return _trusted(archive, names, objects, path)
            if objects and not _has_layout(names):
                raise untrusted(path, f"a pickle in {objects[0] + '.npy'!r}")
            _check_layout(names, archive.names, path)
            if needed := [name for name in names if name in objects and name != "infos"]:
                raise untrusted(path, f"a pickle in {needed[0] + '.npy'!r}")
            if "infos" in objects:
                _logger.warning(
                    'the infos in %s are pickled and were left out%s; load(path, trust="pickle") reads them',
                    path,
                    "" if "truncated" in names else ", and with them what a time limit ended",
                )
            return _columns({name: archive.read(name) for name in names if name not in objects}, path)
    except UnderstudyError:
        raise
    except UNREADABLE as err:
        raise unreadable(path, err) from err


def _trusted(archive: Members, names: list[str], objects: list[str], path: Path) -> TrajectoryColumns:
    def read(name: str) -> Any:
        if name not in objects:
            return archive.read(name)
        return archive.read_objects(name, lambda file: unpickle(file, path))

    if not names and len(archive.names) == 1 and objects:
        return _of_objects(read(objects[0]), path)
    _check_layout(names, archive.names, path)
    return _columns({name: read(name) for name in names}, path)


def read_pickle(path: Path) -> TrajectoryColumns:
    """A pickle, or a ``.npy`` of objects. **Runs what is stored there.**

    Raises:
        CorruptFileError: truncated or altered.
        DataError: not trajectories.
    """
    with path.open("rb") as file:
        try:
            if file.read(6) == b"\x93NUMPY":
                file.seek(0)
                read_header(file)
            else:
                file.seek(0)
        except UNREADABLE as err:
            raise unreadable(path, err) from err
        return _of_objects(unpickle(file, path), path)


def is_of_objects(path: Path) -> bool:
    """Whether a ``.npy`` holds objects, told by its header."""
    try:
        with path.open("rb") as file:
            return read_header(file).dtype.hasobject
    except UNREADABLE:
        return False


def _of_objects(value: Any, path: Path) -> TrajectoryColumns:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if (fields := fields_of(value)) is not None and not {"indices", "next_obs"}.isdisjoint(fields):
        return _columns(fields, path)
    if fields is not None:
        return _gathered([_trajectory(fields, 0, path)])
    if (trajectories := episodes(value)) is None:
        raise DataError(
            expected=f"pickled trajectories in {path}",
            got=f"a {type(value).__name__}",
            do="build Trajectory objects from it and save them with `understudy.data.serialize.save`",
        )
    return _gathered([_trajectory(item, number, path) for number, item in enumerate(trajectories)])


def _has_layout(names: Sequence[str]) -> bool:
    return any({"obs", "acts", *more} <= set(names) for more in (("terminal", "indices"), ("next_obs", "dones")))


def _check_layout(names: Sequence[str], all_names: Sequence[str], path: Path) -> None:
    if _has_layout(names):
        return
    raise DataError(
        expected=f"an npz in {path} that `understudy.data.serialize.save` wrote, or an older one of trajectories",
        got=f"arrays {[name[:40] for name in all_names[:12]]}",
        do="build Trajectory objects from these arrays and save them with `understudy.data.serialize.save`",
    )


def cut_by_time_limit(infos: Any) -> bool:
    """Whether the last of an episode's infos says that a time limit ended it."""
    last = infos[-1] if infos is not None and len(infos) else None
    return isinstance(last, Mapping) and bool(last.get("TimeLimit.truncated", False))


def _trajectory(fields: Mapping[str, Any], number: int, path: Path) -> Trajectory:
    try:
        obs, acts, infos = plain_observation(fields["obs"]), np.asarray(fields["acts"]), fields.get("infos")
        obs = DictObs(obs) if isinstance(obs, dict) else obs
        terminal = bool(fields.get("terminal", True))
        truncated = bool(fields.get("truncated", terminal and cut_by_time_limit(infos)))
        if fields.get("rews") is None:
            return Trajectory(obs, acts, infos, terminal, truncated=truncated)
        return TrajectoryWithRew(obs, acts, infos, terminal, np.asarray(fields["rews"]), truncated=truncated)
    except UnderstudyError as err:
        raise _unfit(path, f"trajectory {number}: {err.got}") from err
    except (ValueError, TypeError, KeyError, IndexError) as err:
        raise _unfit(path, f"trajectory {number}: {err}") from err


def _gathered(trajectories: list[Trajectory]) -> TrajectoryColumns:
    """One set of columns; infos stay the objects they are."""
    spec = TrajectorySpec.of(trajectories[0])
    for number, trajectory in enumerate(trajectories):
        spec.check(trajectory, number)
    bare = [dataclasses.replace(trajectory, infos=None) for trajectory in trajectories]
    return dataclasses.replace(spec.gather(bare), infos=HeldInfos([t.infos for t in trajectories]))


def _unfit(path: Path, got: str) -> DataError:
    return DataError(
        expected=f"arrays in {path} that fit each other as trajectories",
        got=got,
        do="check how the file was written, or build Trajectory objects from its arrays",
    )


def _columns(fields: Mapping[str, Any], path: Path) -> TrajectoryColumns:
    """From whole arrays by name, of either layout."""
    obs = plain_observation(fields["obs"])
    acts = np.asarray(fields["acts"])
    if acts.ndim == 0 or len(acts) == 0:
        raise EmptyDataError(expected=f"at least one action in {path}", got="none", do="record some and save them")
    for name in ("rews", "infos"):
        if fields.get(name) is not None and len(fields[name]) != len(acts):
            raise _unfit(path, f"{len(fields[name])} rows of {name!r} for {len(acts)} actions")
    cut = _of_trajectories if fields.get("indices") is not None else _of_transitions
    offsets, frames, terminal, truncated = cut(fields, obs, acts, path)
    infos = fields.get("infos")
    split = [None] * (len(offsets) - 1) if infos is None else np.split(np.asarray(infos, object), offsets[1:-1])
    if truncated is None:
        truncated = terminal & np.array([cut_by_time_limit(part) for part in split])
    rews = None if fields.get("rews") is None else np.asarray(fields["rews"])
    columns = TrajectoryColumns(
        obs=DictObs(frames) if isinstance(frames, dict) else frames,
        acts=acts,
        rews=rews,
        transition_offsets=offsets,
        terminal=terminal,
        truncated=truncated,
        infos=InfoColumn.encode(split) if infos is None else HeldInfos(split),
    )
    try:
        first = columns.trajectory(0)
        spec = TrajectorySpec.of(first)
    except DataError as err:
        raise _unfit(path, err.got) from err
    if spec.rews is not None and rews is not None and spec.rews.dtype != rews.dtype:  # whole numbers
        columns = dataclasses.replace(columns, rews=rews.astype(spec.rews.dtype))
    return columns


_Cut = tuple[np.ndarray, Any, np.ndarray, np.ndarray | None]


def _flags(fields: Mapping[str, Any], name: str, rows: int, of: str, path: Path) -> np.ndarray:
    flags = np.asarray(fields.get(name))
    if flags.shape != (rows,) or flags.dtype.kind not in "biu":
        raise _unfit(path, f"`{name}` of type {flags.dtype} and shape {flags.shape} for {rows} {of}")
    return flags.astype(bool)


def _lengths(obs: Any) -> set[int]:
    return {len(part) for part in (obs.values() if isinstance(obs, dict) else [obs])}


def _map(function: Callable[..., np.ndarray], *observations: Any) -> Any:
    if isinstance(observations[0], dict):
        return {key: function(*(o[key] for o in observations)) for key in observations[0]}
    return function(*observations)


def _of_trajectories(fields: Mapping[str, Any], obs: Observation, acts: np.ndarray, path: Path) -> _Cut:
    inner = np.asarray(fields["indices"])
    if inner.size == 0:
        inner = inner.astype(np.int64)
    if inner.ndim != 1 or inner.dtype.kind not in "iu":
        raise _unfit(path, f"`indices` of type {inner.dtype} and shape {inner.shape}")
    offsets = np.concatenate([[0], inner.astype(np.int64), [len(acts)]]).astype(np.int64)
    if np.any(np.diff(offsets) <= 0):
        raise _unfit(path, "`indices` that do not rise from 1 to below the number of actions")
    n = len(offsets) - 1
    terminal = _flags(fields, "terminal", n, "trajectories", path)
    truncated = None
    if fields.get("truncated") is not None:
        truncated = _flags(fields, "truncated", n, "trajectories", path)
        if np.any(truncated & ~terminal):
            raise _unfit(path, "`truncated` where `terminal` is False, which here means that the episode goes on")
    if _lengths(obs) != {len(acts) + n}:
        raise _unfit(path, f"{_lengths(obs)} observations for {len(acts)} actions in {n} trajectories")
    return offsets, obs, terminal, truncated


def _of_transitions(fields: Mapping[str, Any], obs: Any, acts: np.ndarray, path: Path) -> _Cut:
    """Rows that follow each other are one episode: until a flag, or until the next row begins elsewhere."""
    if fields.get("next_obs") is None or fields.get("dones") is None:
        raise _unfit(path, f"fields {sorted(fields)}, neither of trajectories nor of transitions")
    following = plain_observation(fields["next_obs"])
    dones = _flags(fields, "dones", len(acts), "actions", path)
    truncated = None
    if fields.get("truncated") is not None:
        truncated = _flags(fields, "truncated", len(acts), "actions", path)
        dones = dones | truncated
    if isinstance(obs, dict) != isinstance(following, dict) or _lengths(obs) | _lengths(following) != {len(acts)}:
        raise _unfit(path, f"{_lengths(obs)} observations, {_lengths(following)} next ones, {len(acts)} actions")
    ends = dones.copy()
    pairs = [(obs[key], following[key]) for key in obs] if isinstance(obs, dict) else [(obs, following)]
    for before, after in pairs:
        if before.shape != after.shape or before.dtype != after.dtype:
            raise _unfit(
                path, f"`next_obs` of shape {after.shape}, {after.dtype}; `obs` {before.shape}, {before.dtype}"
            )
        ends[:-1] |= np.any(_differ(before[1:], after[:-1]).reshape(len(acts) - 1, -1), axis=1)
    ends[-1] = True
    stops = np.flatnonzero(ends) + 1
    frames = _map(lambda before, after: np.insert(before, stops, after[stops - 1], axis=0), obs, following)
    cut = None if truncated is None else truncated[stops - 1]
    return np.concatenate([[0], stops]).astype(np.int64), frames, dones[stops - 1], cut


def _differ(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Elementwise; what is not a number is the same as itself here."""
    differ: np.ndarray = before != after
    return differ & ((before == before) | (after == after)) if before.dtype.kind in "fc" else differ
