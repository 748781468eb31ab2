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
        self._len = 0

    def __len__(self) -> int:
        return self._len

    def append(self, row: Any) -> None:
        """Copy one row in.

        Raises:
            DataError: another shape than the rows before.
        """
        row = np.asarray(row)
        data = self._data
        if data is None:
            data = self._data = np.empty((self._capacity, *row.shape), row.dtype)
        if row.shape != data.shape[1:]:
            raise DataError(
                expected=f"shape {data.shape[1:]}, as at the steps before",
                got=f"shape {row.shape} at step {self._len}",
                do="let the environment return arrays of one shape",
            )
        if row.dtype != data.dtype and (wider := np.result_type(row.dtype, data.dtype)) != data.dtype:
            data = self._data = data.astype(wider)
        if self._len == len(data):
            data = self._data = np.concatenate([data, np.empty_like(data)])
        data[self._len] = row
        self._len += 1

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
        if isinstance(obs, DictObs):
            obs = obs.unwrap()
        if self._parts is None:
            self._parts = {key: GrowingArray() for key in obs} if isinstance(obs, Mapping) else GrowingArray()
        if isinstance(self._parts, GrowingArray):
            self._parts.append(obs)
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
