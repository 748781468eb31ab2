"""Arrays that grow row by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from understudy.data.dict_obs import DictObs, Observation
from understudy.errors import DataError


class GrowingArray:
    """Rows appended one by one into one array, whose memory doubles when it is full and is kept when it is cleared.

    Rows keep their type; if a later row has a wider one, all take it.
    """

    def __init__(self, capacity: int = 64) -> None:
        self._capacity = capacity
        self._data: np.ndarray | None = None
        self._shape: tuple[int, ...] = ()
        self._dtype: np.dtype[Any] | None = None
        self._len = 0

    def append(self, row: Any) -> None:
        """Copy one row in.

        Raises:
            DataError: another shape than the rows before.
        """
        # Once a step of an environment: the common case stands first and asks little.
        if type(row) is np.ndarray and row.dtype is self._dtype and row.shape == self._shape:
            if self._len == self._capacity:
                self._grow()
        else:
            row = np.asarray(row)
            self._make_fit(row)
        self._data[self._len] = row  # type: ignore[index]
        self._len += 1

    def _make_fit(self, row: np.ndarray) -> None:
        if self._data is None:
            self._data = np.empty((self._capacity, *row.shape), row.dtype)
            self._shape = row.shape
        if row.shape != self._shape:
            raise DataError(
                expected=f"shape {self._shape}, as at the steps before",
                got=f"shape {row.shape} at step {self._len}",
                do="let the environment return arrays of one shape",
            )
        wider = np.result_type(row.dtype, self._data.dtype)
        if wider != self._data.dtype:
            self._data = self._data.astype(wider)
        self._dtype = self._data.dtype
        if self._len == self._capacity:
            self._grow()

    def _grow(self) -> None:
        assert self._data is not None
        self._data = np.concatenate([self._data, np.empty_like(self._data)])
        self._capacity = len(self._data)

    @property
    def rows(self) -> np.ndarray:
        """A view of what was appended; later calls overwrite it."""
        assert self._data is not None
        return self._data[: self._len]

    def clear(self) -> None:
        """Forget all rows; shape, type and memory stay."""
        self._len = 0


class GrowingObs:
    """The same for observations that are arrays or dictionaries of arrays."""

    def __init__(self) -> None:
        self._parts: dict[str, GrowingArray] | GrowingArray | None = None

    def append(self, obs: Any) -> None:
        """Copy one observation in: an array, a number, a dictionary of these or a DictObs.

        Raises:
            DataError: other entries or another shape than before.
        """
        if isinstance(self._parts, GrowingArray):
            self._parts.append(obs)
            return
        if isinstance(obs, DictObs):
            obs = obs.unwrap()
        if self._parts is None:
            self._parts = {key: GrowingArray() for key in obs} if isinstance(obs, Mapping) else GrowingArray()
            self.append(obs)
            return
        if not isinstance(obs, Mapping) or obs.keys() != self._parts.keys():
            raise DataError(
                expected=f"a dictionary observation with entries {sorted(self._parts)}",
                got=f"entries {sorted(obs)}" if isinstance(obs, Mapping) else type(obs).__name__,
                do="let the environment return the same entries at each step",
            )
        for key, part in self._parts.items():
            part.append(obs[key])

    @property
    def rows(self) -> Observation:
        """A view of what was appended; later calls overwrite it."""
        if isinstance(self._parts, dict):
            return DictObs({key: part.rows for key, part in self._parts.items()})
        assert self._parts is not None
        return self._parts.rows

    def clear(self) -> None:
        """Forget all observations; entries, shapes, types and memory stay."""
        for part in self._parts.values() if isinstance(self._parts, dict) else [self._parts]:
            if part is not None:
                part.clear()
