"""The columns of an expert dataset, from an archive or from arrays in hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from understudy.data._dataset import Demonstrations
from understudy.data._door import check_finite, check_numeric
from understudy.data._npz_members import UNREADABLE, Members, unreadable
from understudy.data._older_pickle import TRUST, unpickle
from understudy.data._stable_baselines_images import located, read_images
from understudy.errors import (
    ConfigError,
    DataError,
    EmptyDataError,
    MissingFileError,
    UnderstudyError,
    UntrustedFileError,
)

REQUIRED = ("actions", "obs", "episode_starts")
_FIELDS = (*REQUIRED, "rewards", "episode_returns", "terminal_obs", "truncated")


@dataclasses.dataclass(frozen=True, eq=False)
class ExpertColumns:
    """Steps of all episodes, one array a field."""

    obs: np.ndarray
    """Shape (step, *obs); or paths of images, absolute, shape (step,)."""
    acts: np.ndarray
    """Shape (step, *act)."""
    rews: np.ndarray | None
    """Shape (step,)."""
    returns: np.ndarray
    """Sum of rewards of each episode, float64, shape (episode,)."""
    offsets: np.ndarray
    """Where each episode begins, int64, shape (episode + 1,)."""
    terminal_obs: np.ndarray | None = None
    """Observation after each episode's last action, shape (episode, *obs), or paths of images."""
    truncated: np.ndarray | None = None
    """A time limit ended the episode, shape (episode,); None where nothing tells."""

    @property
    def in_files(self) -> bool:
        """Whether observations are images in files."""
        return self.obs.dtype.kind == "U"

    def first_episodes(self, n: int) -> ExpertColumns:
        """The first ``n``."""
        stop = int(self.offsets[n])
        return ExpertColumns(
            obs=self.obs[:stop],
            acts=self.acts[:stop],
            rews=None if self.rews is None else self.rews[:stop],
            returns=self.returns[:n],
            offsets=self.offsets[: n + 1],
            terminal_obs=None if self.terminal_obs is None else self.terminal_obs[:n],
            truncated=None if self.truncated is None else self.truncated[:n],
        )

    def first_rows(self, n: int) -> ExpertColumns:
        """The first ``n`` steps; how the last episode ended is then not known."""
        return ExpertColumns(
            obs=self.obs[:n],
            acts=self.acts[:n],
            rews=None if self.rews is None else self.rews[:n],
            returns=self.returns[:n],  # an index of steps on episodes: that is how it was
            offsets=np.append(self.offsets[self.offsets < n], n),
        )

    def to_demonstrations(self) -> Demonstrations:
        """In the form that all algorithms take; images are read into memory, discrete actions lose their extra axis.

        Whether an episode terminated is said only where the archive says it.
        """
        acts = self.acts
        if acts.dtype.kind in "iu" and acts.shape[1:] == (1,):
            acts = acts[:, 0]
        obs, after = self.obs, self.terminal_obs
        rows = None
        if after is not None:
            obs = np.insert(obs, self.offsets[1:], after, axis=0)
            rows = np.arange(len(acts)) + np.repeat(np.arange(len(after)), np.diff(self.offsets))
        dones = truncated = None
        if self.truncated is not None:
            dones, truncated = np.zeros((2, len(acts)), dtype=bool)
            last = self.offsets[1:] - 1
            dones[last], truncated[last] = ~self.truncated, self.truncated
        return Demonstrations(
            frames=read_images(obs) if self.in_files else obs,
            obs_rows=rows,
            acts=acts,
            episode_offsets=self.offsets,
            rews=self.rews,
            dones=dones,
            truncated=truncated,
        )


def has_layout(path: Path) -> bool:
    """Whether a file looks like an archive of this kind; False for what cannot be read."""
    try:
        with Members(path) as archive:
            return set(REQUIRED) <= set(archive.names)
    except UNREADABLE:
        return False


def read(path: Path, trust: str | None = None) -> ExpertColumns:
    """Read an archive.

    Args:
        path: with its extension.
        trust: ``"pickle"`` runs what pickled members hold; older recordings of vectorised environments have one.

    Raises:
        MissingFileError: nothing there, or images that it names are not.
        CorruptFileError: truncated or altered.
        UntrustedFileError: a member is pickled, and ``trust`` is None.
        DataError: arrays that do not fit each other; and as ``from_arrays``.
        ConfigError: another ``trust``.
    """
    if trust not in (None, TRUST):
        raise ConfigError(
            expected='trust=None or trust="pickle"',
            got=f"trust={trust!r}",
            do="leave it out, unless you trust whoever wrote the file",
        )
    if not path.is_file():
        raise MissingFileError(
            expected=f"an expert dataset at {path}", got="no such file", do=f"check it; relative is from {Path.cwd()}"
        )
    try:
        with Members(path) as archive:
            names = [name for name in _FIELDS if name in archive.names]
            _check_names(names, archive.names, str(path))
            arrays = {name: _member(archive, name, path, trust) for name in names}
    except UnderstudyError:
        raise
    except UNREADABLE as err:
        raise unreadable(path, err) from err
    return from_arrays(arrays, str(path), folder=path.parent)


def _member(archive: Members, name: str, path: Path, trust: str | None) -> np.ndarray:
    if not archive.header(name).dtype.hasobject:
        return archive.read(name)
    if trust is None:
        raise UntrustedFileError(
            expected=f"plain arrays in {path}",
            got=f"a pickle in {name + '.npy'!r}, which runs code when it is read",
            do='if you trust whoever wrote it: understudy.data.stable_baselines.ExpertDataset(path, trust="pickle")',
        )
    return archive.read_objects(name, lambda file: unpickle(file, path))


def _check_names(known: list[str], given: list[str], where: str) -> None:
    if missing := [name for name in REQUIRED if name not in known]:
        raise DataError(
            expected=f"arrays {list(REQUIRED)} in {where}",
            got=f"arrays {sorted(given)[:12]}, without {missing}",
            do="record it with understudy.data.stable_baselines.generate_expert_traj, or rename its arrays",
        )


def from_arrays(arrays: Mapping[str, Any], where: str, folder: Path | None = None) -> ExpertColumns:
    """From the arrays of an archive, by their names there.

    Args:
        arrays: arrays, lists, or arrays of objects that hold numbers.
        where: what to call them in errors.
        folder: the archive's; see ``located``.

    Raises:
        EmptyDataError: not one step.
        NonFiniteDataError: NaN or infinity.
        DataError: they do not fit each other.
        MissingFileError: images that are not there.
    """
    _check_names([name for name in _FIELDS if name in arrays], [str(name) for name in arrays], where)
    given = {name: arrays[name] for name in _FIELDS if arrays.get(name) is not None}
    starts = _flags(given["episode_starts"], "episode_starts", where)
    obs, acts = (_dense(given[name], name, where) for name in ("obs", "actions"))
    n = len(acts)
    if n == 0 or len(obs) == 0:
        raise EmptyDataError(expected=f"at least one step in {where}", got="none", do="record some episodes")
    for name, length in (("obs", len(obs)), ("episode_starts", len(starts))):
        if length != n:
            raise _unfit(where, f"{length} rows of {name!r} for {n} actions")
    if not starts[0]:
        raise _unfit(where, "`episode_starts` whose first row is False")
    offsets = np.append(np.flatnonzero(starts), n).astype(np.int64)
    episodes = len(offsets) - 1
    rews = None if "rewards" not in given else _dense(given["rewards"], "rewards", where).reshape(-1)
    if rews is not None and len(rews) != n:
        raise _unfit(where, f"{len(rews)} rows of 'rewards' for {n} actions")
    returns = _returns(given, rews, offsets, where)
    truncated = _flags(given["truncated"], "truncated", where) if "truncated" in given else None
    after = _dense(given["terminal_obs"], "terminal_obs", where) if "terminal_obs" in given else None
    for name, told in (("episode_returns", returns), ("truncated", truncated), ("terminal_obs", after)):
        if told is not None and len(told) != episodes:
            raise _unfit(where, f"{len(told)} rows of {name!r} for {episodes} episodes")
    if after is not None and (after.shape[1:] != obs.shape[1:] or after.dtype.kind != obs.dtype.kind):
        raise _unfit(where, f"`terminal_obs` of shape {after.shape[1:]}, {after.dtype} for `obs` {obs.shape[1:]}")
    if obs.dtype.kind == "U":
        if obs.ndim != 1:
            raise _unfit(where, f"names of images of shape {obs.shape}")
        obs = located(obs, folder)
        after = None if after is None else located(after, folder)
    for name, column, bounds in (
        ("obs", obs, offsets),
        ("actions", acts, offsets),
        ("rewards", rews, offsets),
        ("episode_returns", returns, np.arange(episodes + 1)),
        ("terminal_obs", after, np.arange(episodes + 1)),
    ):
        if column is not None and column.dtype.kind != "U":
            check_numeric(name, column)
            check_finite(name, column, bounds, where)
    return ExpertColumns(obs, acts, rews, returns, offsets, after, truncated)


def _returns(given: Mapping[str, Any], rews: np.ndarray | None, offsets: np.ndarray, where: str) -> np.ndarray:
    if "episode_returns" in given:
        returns = _dense(given["episode_returns"], "episode_returns", where).reshape(-1)
        check_numeric("episode_returns", returns)
        return returns.astype(np.float64)
    if rews is None:
        raise _unfit(where, "neither `episode_returns` nor `rewards`")
    check_numeric("rewards", rews)
    return np.add.reduceat(rews.astype(np.float64), offsets[:-1])


def _dense(values: Any, name: str, where: str) -> np.ndarray:
    """One array of numbers or text."""
    try:
        array = values if isinstance(values, np.ndarray) else np.asarray(values)
        if array.dtype == object:
            array = np.stack([np.asarray(value) for value in array])
        if array.ndim == 0 or array.dtype.kind not in ("biufU" if name in ("obs", "terminal_obs") else "biuf"):
            raise TypeError(f"dtype {array.dtype}, shape {array.shape}")
        if array.dtype.kind == "U":
            array = np.array(array.tolist(), dtype=str)  # text that is no text is found here
    except (ValueError, TypeError) as err:
        raise _unfit(where, f"{name!r} that is no array of rows: {str(err)[:200]}") from err
    return array


def _flags(values: Any, name: str, where: str) -> np.ndarray:
    """One boolean a row. Recordings of vectorised environments mix booleans with arrays of one."""
    try:
        return np.array([np.asarray(value, dtype=bool).item() for value in values], dtype=bool)
    except (ValueError, TypeError) as err:
        raise _unfit(where, f"{name!r} that are no flags: {str(err)[:200]}") from err


def _unfit(where: str, got: str) -> DataError:
    return DataError(
        expected=f"arrays in {where} that fit each other as an expert dataset",
        got=got,
        do="check how it was written; the layout is told in understudy.data.stable_baselines",
    )
