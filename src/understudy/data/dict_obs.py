"""Observations that are dictionaries of arrays, indexed as one array."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, KeysView
from typing import Any, TypeVar

import numpy as np

from understudy.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class DictObs:
    """A mapping of names to arrays that share their first axis, sliced together like one array.

    Raises:
        DataError: a value is no array, or a key no string.
    """

    _d: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        for key, value in self._d.items():
            if not isinstance(key, str) or not isinstance(value, np.ndarray):
                raise DataError(
                    expected="a dictionary of str → NumPy array",
                    got=f"{key!r} → {type(value).__name__}",
                    do="convert each value with numpy.asarray before wrapping it in DictObs",
                )

    @classmethod
    def from_obs_list(cls, obs_list: list[dict[str, np.ndarray]]) -> DictObs:
        """Stack single observations, one dictionary a time step, along a new first axis."""
        return cls.stack([cls({k: np.asarray(v) for k, v in obs.items()}) for obs in obs_list])

    def __len__(self) -> int:
        """Length of the shared first axis.

        Raises:
            DataError: the arrays differ in length or are scalars, or there are none.
        """
        lengths = {len(v) if v.ndim else None for v in self._d.values()}
        if len(lengths) != 1 or None in lengths:
            raise DataError(
                expected="arrays that share the length of their first axis",
                got=f"shapes {self.shape}",
                do="check that every entry has one row a time step",
            )
        (length,) = lengths
        assert length is not None
        return length

    @property
    def dict_len(self) -> int:
        """Number of entries of the dictionary."""
        return len(self._d)

    def __getitem__(self, key: Any) -> DictObs:
        """Index every array alike with an integer, slice, tuple or index array."""
        # `np.asarray` keeps a scalar (one element of a 1-D entry) an array.
        return self.map_arrays(lambda a: np.asarray(a[key]))

    def __iter__(self) -> Iterator[DictObs]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DictObs):
            return NotImplemented
        return self.keys() == other.keys() and all(np.array_equal(v, other._d[k]) for k, v in self.items())

    __hash__ = None  # type: ignore[assignment]

    @property
    def shape(self) -> dict[str, tuple[int, ...]]:
        """Shape of each entry."""
        return {k: v.shape for k, v in self.items()}

    @property
    def dtype(self) -> dict[str, np.dtype[Any]]:
        """Data type of each entry."""
        return {k: v.dtype for k, v in self.items()}

    @property
    def nbytes(self) -> int:
        """Bytes held by all entries."""
        return sum(v.nbytes for v in self.values())

    def keys(self) -> KeysView[str]:
        """Names of the entries."""
        return self._d.keys()

    def values(self) -> Iterable[np.ndarray]:
        """Arrays of the entries."""
        return self._d.values()

    def items(self) -> Iterable[tuple[str, np.ndarray]]:
        """Pairs of name and array."""
        return self._d.items()

    def get(self, key: str) -> np.ndarray:
        """One entry by name.

        Raises:
            KeyError: there is no such entry.
        """
        return self._d[key]

    def unwrap(self) -> dict[str, np.ndarray]:
        """The plain dictionary; the arrays are not copied."""
        return dict(self._d)

    def map_arrays(self, fn: Callable[[np.ndarray], np.ndarray]) -> DictObs:
        """A new DictObs with ``fn`` applied to each array."""
        return DictObs({k: fn(v) for k, v in self.items()})

    @classmethod
    def stack(cls, dictobs_list: Iterable[DictObs], axis: int = 0) -> DictObs:
        """``np.stack`` entry by entry."""
        return cls._join(dictobs_list, lambda arrays: np.stack(arrays, axis=axis))

    @classmethod
    def concatenate(cls, dictobs_list: Iterable[DictObs], axis: int = 0) -> DictObs:
        """``np.concatenate`` entry by entry."""
        return cls._join(dictobs_list, lambda arrays: np.concatenate(arrays, axis=axis))

    @classmethod
    def _join(cls, parts: Iterable[DictObs], join: Callable[[list[np.ndarray]], np.ndarray]) -> DictObs:
        parts = list(parts)
        if not parts or any(p.keys() != parts[0].keys() for p in parts):
            raise DataError(
                expected="at least one DictObs, all with the same keys",
                got=f"key sets {[sorted(p.keys()) for p in parts[:4]]}",
                do="give every observation the same entries",
            )
        return cls({k: join([p._d[k] for p in parts]) for k in parts[0].unwrap()})


Observation = np.ndarray | DictObs
ObsVar = TypeVar("ObsVar", np.ndarray, DictObs)


def assert_not_dictobs(x: Observation) -> np.ndarray:
    """The array itself, for code that handles plain arrays only.

    Raises:
        DataError: ``x`` is a DictObs.
    """
    if isinstance(x, DictObs):
        raise DataError(
            expected="array observations",
            got=f"dictionary observations with keys {sorted(x.keys())}",
            do="use a policy or network for dictionary observations, or flatten them first",
        )
    return x


def concatenate_maybe_dictobs(arrs: list[ObsVar]) -> ObsVar:
    """Concatenate arrays, or DictObs entry by entry, along the first axis."""
    if isinstance(arrs[0], DictObs):
        return DictObs.concatenate(arrs)
    return np.concatenate(arrs)


def stack_maybe_dictobs(arrs: list[ObsVar]) -> ObsVar:
    """Stack arrays, or DictObs entry by entry, along a new first axis."""
    if isinstance(arrs[0], DictObs):
        return DictObs.stack(arrs)
    return np.stack(arrs)


def map_maybe_dict(fn: Callable[[Any], Any], maybe_dict: Any) -> Any:
    """Apply ``fn`` to every value of a dictionary or DictObs, or to the thing itself."""
    if isinstance(maybe_dict, DictObs):
        return maybe_dict.map_arrays(fn)
    if isinstance(maybe_dict, dict):
        return {k: fn(v) for k, v in maybe_dict.items()}
    return fn(maybe_dict)


def maybe_unwrap_dictobs(maybe_dictobs: Any) -> Any:
    """A DictObs becomes its dictionary; anything else stays as it is."""
    return maybe_dictobs.unwrap() if isinstance(maybe_dictobs, DictObs) else maybe_dictobs


def maybe_wrap_in_dictobs(obs: dict[str, np.ndarray] | np.ndarray | DictObs) -> Observation:
    """A dictionary becomes a DictObs; an array or DictObs stays as it is."""
    return DictObs(obs) if isinstance(obs, dict) else obs
