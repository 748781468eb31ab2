"""Circular buffers of rows: the newest ``capacity`` are kept, any of them is drawn with equal chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from understudy.data.dict_obs import assert_not_dictobs
from understudy.data.types import Transitions, dataclass_quick_asdict
from understudy.errors import ConfigError, DataError, EmptyDataError, UnsupportedSpaceError

__all__ = ["Buffer", "ReplayBuffer", "num_samples"]


def num_samples(data: Mapping[Any, np.ndarray]) -> int:
    """Length that all arrays share.

    Raises:
        DataError: no array, or lengths that differ.
    """
    lengths = {key: len(rows) for key, rows in data.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(
            expected="at least one array, all of one length",
            got=f"lengths {lengths}",
            do="give every array one row a sample",
        )
    return next(iter(lengths.values()))


class Buffer:
    """A circular buffer of named arrays; storing past the end overwrites the oldest rows."""

    capacity: int
    """Most rows it holds."""
    sample_shapes: Mapping[str, tuple[int, ...]]
    """Shape of one row, by name."""

    def __init__(
        self,
        capacity: int,
        sample_shapes: Mapping[str, tuple[int, ...]],
        dtypes: Mapping[str, npt.DTypeLike],
    ) -> None:
        """All memory is taken at once.

        Args:
            capacity: at least 1.
            sample_shapes: shape of one row, by name.
            dtypes: type of each array, by the same names.

        Raises:
            ConfigError: names that differ, or a capacity below 1.
        """
        if sample_shapes.keys() != dtypes.keys():
            raise ConfigError(
                expected="`sample_shapes` and `dtypes` with the same names",
                got=f"{sorted(sample_shapes)} and {sorted(dtypes)}",
                do="give each array a shape and a type",
            )
        if capacity < 1:
            raise ConfigError(expected="a capacity of at least 1", got=str(capacity), do="give the rows to keep")
        self.capacity = capacity
        self.sample_shapes = {name: tuple(shape) for name, shape in sample_shapes.items()}
        self._arrays = {name: np.zeros((capacity, *shape), dtypes[name]) for name, shape in self.sample_shapes.items()}
        self._size = 0
        self._next = 0
        self._rng = np.random.default_rng(0)

    @classmethod
    def from_data(
        cls, data: Mapping[str, np.ndarray], capacity: int | None = None, truncate_ok: bool = False
    ) -> Buffer:
        """A buffer with the shapes and types of ``data``, filled with a copy of it.

        Args:
            data: arrays of one length, at least one row.
            capacity: ``None`` for the rows of ``data``.
            truncate_ok: keep the last rows where the capacity is smaller, instead of an error.

        Raises:
            DataError: lengths differ, nothing in it, or more rows than the capacity.
        """
        data = {name: np.asarray(rows) for name, rows in data.items()}
        n = _at_least_one(data)
        buffer = cls(
            n if capacity is None else capacity,
            {name: rows.shape[1:] for name, rows in data.items()},
            {name: rows.dtype for name, rows in data.items()},
        )
        buffer.store(data, truncate_ok=truncate_ok)
        return buffer

    def store(self, data: Mapping[str, np.ndarray], truncate_ok: bool = False) -> None:
        """Append rows, over the oldest where it is full.

        Args:
            data: arrays of the names, row shapes and kinds of type given at construction.
            truncate_ok: keep the last ``capacity`` rows of more, instead of an error.

        Raises:
            DataError: names, shapes, lengths or types that do not fit, or no row.
        """
        if data.keys() != self.sample_shapes.keys():
            raise DataError(
                expected=f"arrays named {sorted(self.sample_shapes)}",
                got=f"{sorted(data)}",
                do="store exactly the arrays the buffer was made for",
            )
        arrays = {name: np.asarray(rows) for name, rows in data.items()}
        n = _at_least_one(arrays)
        for name, rows in arrays.items():
            self._check(name, rows)
        if n > self.capacity:
            if not truncate_ok:
                raise DataError(
                    expected=f"at most {self.capacity} rows, the buffer's capacity",
                    got=f"{n} rows",
                    do="make the buffer larger, or pass truncate_ok=True to keep the last ones",
                )
            arrays = {name: rows[-self.capacity :] for name, rows in arrays.items()}
            n = self.capacity
        before_end = min(n, self.capacity - self._next)
        for name, rows in arrays.items():
            self._arrays[name][self._next : self._next + before_end] = rows[:before_end]
            self._arrays[name][: n - before_end] = rows[before_end:]
        self._next = (self._next + n) % self.capacity
        self._size = min(self._size + n, self.capacity)

    def _check(self, name: str, rows: np.ndarray) -> None:
        shape, dtype = self.sample_shapes[name], self._arrays[name].dtype
        if rows.shape[1:] != shape:
            raise DataError(
                expected=f"rows of `{name}` of shape {shape}",
                got=f"shape {rows.shape[1:]}",
                do="reshape them, or make a buffer of that shape",
            )
        if not np.can_cast(rows.dtype, dtype, "same_kind"):
            raise DataError(
                expected=f"`{name}` of dtype {dtype}, or one that turns into it without a change of kind",
                got=f"dtype {rows.dtype}",
                do=f"convert it with .astype({str(dtype)!r}) if that loses nothing",
            )

    def sample(self, n_samples: int, *, rng: np.random.Generator | None = None) -> Mapping[str, np.ndarray]:
        """Rows drawn with replacement, each stored row with equal chance; copies.

        Args:
            n_samples: how many.
            rng: ``None`` draws from the buffer's own generator, which begins alike in every buffer.

        Raises:
            EmptyDataError: nothing stored yet.
        """
        if self._size == 0:
            raise EmptyDataError(expected="a buffer with rows in it", got="an empty one", do="call `store` first")
        rows = (self._rng if rng is None else rng).integers(self._size, size=n_samples)
        return {name: array[rows] for name, array in self._arrays.items()}

    def size(self) -> int:
        """Rows stored now, at most the capacity."""
        return self._size


def _at_least_one(data: Mapping[str, np.ndarray]) -> int:
    n = num_samples(data)
    if n == 0:
        raise EmptyDataError(expected="at least one row", got="none", do="do not store empty batches")
    return n


def _object_array(infos: np.ndarray | Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Infos as an object array; NumPy's own conversion would take some mappings for sequences."""
    if isinstance(infos, np.ndarray):
        return infos
    array = np.empty(len(infos), dtype=object)
    for i, info in enumerate(infos):
        array[i] = info
    return array


class ReplayBuffer:
    """A circular buffer of transitions with array observations."""

    capacity: int
    """Most transitions it holds."""

    def __init__(
        self,
        capacity: int,
        venv: VecEnv | None = None,
        *,
        obs_shape: tuple[int, ...] | None = None,
        act_shape: tuple[int, ...] | None = None,
        obs_dtype: npt.DTypeLike | None = None,
        act_dtype: npt.DTypeLike | None = None,
    ) -> None:
        """Shapes and types are those of ``venv``'s spaces, or all four are given.

        Raises:
            ConfigError: both a ``venv`` and shapes, or not all of them.
            UnsupportedSpaceError: dictionary observations.
        """
        told = {"obs_shape": obs_shape, "act_shape": act_shape, "obs_dtype": obs_dtype, "act_dtype": act_dtype}
        given = [name for name, value in told.items() if value is not None]
        if len(given) != (0 if venv is not None else 4):
            raise ConfigError(
                expected="either `venv`, or all of obs_shape, act_shape, obs_dtype and act_dtype",
                got=", ".join([*(["venv"] if venv is not None else []), *given]) or "neither",
                do="pass the environment alone, or the four alone",
            )
        if venv is not None:
            obs_shape, obs_dtype = _shape_and_dtype(venv.observation_space)
            act_shape, act_dtype = _shape_and_dtype(venv.action_space)
        assert obs_shape is not None
        assert act_shape is not None
        self.capacity = capacity
        self._buffer = Buffer(
            capacity,
            {"obs": obs_shape, "acts": act_shape, "infos": (), "next_obs": obs_shape, "dones": (), "truncated": ()},
            {
                "obs": np.dtype(obs_dtype),
                "acts": np.dtype(act_dtype),
                "infos": np.dtype(object),
                "next_obs": np.dtype(obs_dtype),
                "dones": np.dtype(bool),
                "truncated": np.dtype(bool),
            },
        )

    @classmethod
    def from_data(
        cls, transitions: Transitions, capacity: int | None = None, truncate_ok: bool = False
    ) -> ReplayBuffer:
        """A buffer with the shapes and types of ``transitions``, filled with a copy of them.

        Args:
            transitions: at least one.
            capacity: ``None`` for as many as there are.
            truncate_ok: keep the last ones where the capacity is smaller, instead of an error.

        Raises:
            DataError: dictionary observations, none at all, or more than the capacity.
        """
        obs = assert_not_dictobs(transitions.obs)
        _at_least_one({"obs": obs})
        buffer = cls(
            len(obs) if capacity is None else capacity,
            obs_shape=obs.shape[1:],
            act_shape=transitions.acts.shape[1:],
            obs_dtype=obs.dtype,
            act_dtype=transitions.acts.dtype,
        )
        buffer.store(transitions, truncate_ok=truncate_ok)
        return buffer

    def sample(self, n_samples: int, *, rng: np.random.Generator | None = None) -> Transitions:
        """Transitions drawn with replacement; copies, but for the info dictionaries.

        Args:
            n_samples: how many.
            rng: ``None`` draws from the buffer's own generator, which begins alike in every buffer.

        Raises:
            EmptyDataError: nothing stored yet.
        """
        return Transitions(**self._buffer.sample(n_samples, rng=rng))

    def store(self, transitions: Transitions, truncate_ok: bool = True) -> None:
        """Append transitions, over the oldest where it is full.

        Args:
            transitions: of the shapes and kinds of type given at construction; rewards are not kept.
            truncate_ok: keep the last ``capacity`` of more, instead of an error.

        Raises:
            DataError: dictionary observations, or arrays that do not fit.
        """
        assert_not_dictobs(transitions.obs)
        rows = {name: value for name, value in dataclass_quick_asdict(transitions).items() if name != "rews"}
        self._buffer.store({**rows, "infos": _object_array(rows["infos"])}, truncate_ok=truncate_ok)

    def size(self) -> int:
        """Transitions stored now, at most the capacity."""
        return self._buffer.size()


def _shape_and_dtype(space: spaces.Space[Any]) -> tuple[tuple[int, ...], npt.DTypeLike]:
    if space.shape is None or space.dtype is None:
        raise UnsupportedSpaceError(
            expected="a space whose elements are arrays",
            got=str(space),
            do="keep trajectories instead, or flatten the space with gymnasium.wrappers.FlattenObservation",
        )
    return space.shape, space.dtype
