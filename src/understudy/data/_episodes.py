"""Cutting episodes out of the steps of vectorised environments.

Steps of all environments are kept in preallocated arrays, one row a time step; an episode is one slice, copied once
when it ends. No dictionary per environment per step, no list of small arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from understudy.data.dict_obs import DictObs, Observation
from understudy.data.types import TrajectoryWithRew

_FIRST_CAPACITY = 256


class _Column:
    """A growing array of shape (rows, env, *item) with the dtype of the first values it gets.

    Only values of another kind, such as fractions after whole numbers, change that dtype, and then for all rows.
    """

    def __init__(self, first: np.ndarray) -> None:
        self.rows = np.empty((_FIRST_CAPACITY, *first.shape), first.dtype)

    def write(self, row: int, values: np.ndarray) -> None:
        dtype = self.rows.dtype
        if values.dtype != dtype and not np.can_cast(values.dtype, dtype, "same_kind"):
            self.rows = self.rows.astype(np.result_type(values.dtype, dtype))
        self.rows[row] = values

    def compact(self, first_row: int, last_row: int, capacity: int) -> None:
        kept = self.rows[first_row:last_row]
        if capacity == len(self.rows):
            self.rows[: len(kept)] = kept
            return
        grown = np.empty((capacity, *self.rows.shape[1:]), self.rows.dtype)
        grown[: len(kept)] = kept
        self.rows = grown

    def episode(self, start: int, stop: int, env: int, last: np.ndarray | None = None) -> np.ndarray:
        """Rows ``start:stop`` of one environment as a new contiguous array, with ``last`` appended if given."""
        out = np.empty((stop - start + (last is not None), *self.rows.shape[2:]), self.rows.dtype)
        out[: stop - start] = self.rows[start:stop, env]
        if last is not None:
            out[-1] = last
        return out


def _parts(obs: Any) -> dict[str, np.ndarray]:
    """Observations as named arrays; a plain array gets the empty name."""
    if type(obs) is np.ndarray:
        return {"": obs}
    if isinstance(obs, DictObs):
        return obs.unwrap()
    if isinstance(obs, Mapping):
        return {key: np.asarray(value) for key, value in obs.items()}
    return {"": np.asarray(obs)}


def _whole(parts: dict[str, np.ndarray]) -> Observation:
    return parts[""] if parts.keys() == {""} else DictObs(parts)


class EpisodeRecorder:
    """Collects the steps of ``n_envs`` environments and gives out an episode when it ends.

    What it is given is copied at once, so that its owner may overwrite it.

    Args:
        first_obs: what ``venv.reset()`` returned, shape (env, *obs) or a dictionary of such.
        keep_infos: whether trajectories carry the info dictionaries of their steps.
    """

    def __init__(self, first_obs: Any, n_envs: int, *, keep_infos: bool = True) -> None:
        self.n_envs = n_envs
        self._keep_infos = keep_infos
        # One row more than the other columns: the last one holds the current observations.
        self._obs = {name: _Column(array) for name, array in _parts(first_obs).items()}
        for name, array in _parts(first_obs).items():
            self._obs[name].write(0, array)
        self._acts: _Column | None = None
        self._rews: _Column | None = None
        self._infos: list[Sequence[Mapping[str, Any]]] = []
        self._rows = 0
        self._capacity = _FIRST_CAPACITY
        self._start = np.zeros(n_envs, dtype=np.int64)

    def lengths(self) -> np.ndarray:
        """Steps of each environment's running episode, shape (env,)."""
        return self._rows - self._start

    def add(
        self,
        acts: np.ndarray,
        next_obs: Any,
        rews: np.ndarray,
        dones: np.ndarray,
        infos: Sequence[Mapping[str, Any]],
        *,
        ends: Sequence[Any] | None = None,
    ) -> list[tuple[int, TrajectoryWithRew]]:
        """Record one step of all environments.

        Args:
            acts: the actions executed, shape (env, *act).
            next_obs: what the step returned; after a done this is already the next episode's first observation.
            rews: shape (env,); whole numbers become float32.
            dones: shape (env,), either kind of end.
            infos: one dictionary an environment; ``terminal_observation`` and ``TimeLimit.truncated`` tell the end.
            ends: where given, the last observation of each finished environment in place of its info's.

        Returns:
            (environment index, trajectory) of every episode that ended with this step.
        """
        acts, rews = np.asarray(acts), np.asarray(rews)
        if self._acts is None or self._rews is None:
            # Environments may pay 0 until they pay 0.9: the first step's type says little.
            self._acts, self._rews = _Column(acts), _Column(rews if rews.dtype.kind == "f" else rews.astype(np.float32))
        if self._rows + 1 == self._capacity:
            self._make_room()
        row = self._rows
        self._acts.write(row, acts)
        self._rews.write(row, rews)
        for name, array in _parts(next_obs).items():
            self._obs[name].write(row + 1, array)
        if self._keep_infos:
            self._infos.append(infos)
        self._rows += 1
        finished: list[tuple[int, TrajectoryWithRew]] = []
        if not np.any(dones):
            return finished
        for nth, env in enumerate(np.flatnonzero(dones)):
            info = infos[int(env)]
            last = info["terminal_observation"] if ends is None else ends[nth]
            finished.append((int(env), self.cut(int(env), last, True, bool(info.get("TimeLimit.truncated", False)))))
        return finished

    def cut(self, env: int, last_obs: Any = None, terminal: bool = False, truncated: bool = False) -> TrajectoryWithRew:
        """End the running episode of one environment here; without ``last_obs``, at its current observation."""
        start, stop = int(self._start[env]), self._rows
        if last_obs is None:
            obs = {name: column.episode(start, stop + 1, env) for name, column in self._obs.items()}
        else:
            last = _parts(last_obs)
            obs = {name: column.episode(start, stop, env, last[name]) for name, column in self._obs.items()}
        assert self._acts is not None, "no step was recorded"
        assert self._rews is not None
        infos = None
        if self._keep_infos:
            infos = np.array([step[env] for step in self._infos[start:stop]], dtype=object)
        trajectory = TrajectoryWithRew(
            obs=_whole(obs),
            acts=self._acts.episode(start, stop, env),
            infos=infos,
            terminal=terminal,
            rews=self._rews.episode(start, stop, env),
            truncated=truncated,
        )
        self._start[env] = self._rows
        return trajectory

    def forget(self, env: int) -> None:
        """Drop the running episode of an environment whose steps are no longer wanted."""
        self._start[env] = self._rows

    def _make_room(self) -> None:
        first = int(self._start.min())
        kept = self._rows - first
        # Moving rows down is worth it only when it frees half the space; else double.
        capacity = self._capacity if kept < self._capacity // 2 else 2 * self._capacity
        assert self._acts is not None
        assert self._rews is not None
        for column in (*self._obs.values(), self._acts, self._rews):
            column.compact(first, self._rows + 1, capacity)
        if self._keep_infos:
            del self._infos[:first]
        self._capacity = capacity
        self._rows = kept
        self._start -= first
