"""What the discriminator learns from: rows of the expert's, in passes, and rows of the learner's newest steps."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy.data.dict_obs import DictObs
from understudy.errors import CallOrderError, ConfigError

_log = logging.getLogger(__name__)

Rows = dict[str, Any]
"""``obs``, ``acts``, ``next_obs`` and ``dones`` (terminated), arrays or DictObs of one length."""

FIELDS = ("obs", "acts", "next_obs", "dones")


def rows_of(samples: Mapping[str, Any]) -> Rows:
    """The four fields as NumPy arrays.

    Raises:
        ConfigError: a field is missing, or their lengths differ.
    """
    missing = [name for name in FIELDS if samples.get(name) is None]
    if missing:
        raise ConfigError(
            expected=f"samples with {', '.join(FIELDS)}", got=f"no {', '.join(missing)}", do="pass all four"
        )
    rows = {name: _array(samples[name]) for name in FIELDS}
    lengths = {name: len(value) for name, value in rows.items()}
    if len(set(lengths.values())) > 1:
        raise ConfigError(expected="one row a sample in each field", got=str(lengths), do="cut them to one length")
    return rows


def _array(values: Any) -> Any:
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    if isinstance(values, Mapping):
        return DictObs({key: _array(value) for key, value in values.items()})
    return values if isinstance(values, DictObs) else np.asarray(values)


def joined(first: Rows, second: Rows) -> Rows:
    """Rows of both, one after the other."""
    return {name: _joined(first[name], second[name]) for name in FIELDS}


def _joined(a: Any, b: Any) -> Any:
    return DictObs.concatenate([a, b]) if isinstance(a, DictObs) else np.concatenate([a, b])


def picked(rows: Rows, index: Any) -> Rows:
    """These rows, in this order."""
    return {name: value[index] for name, value in rows.items()}


class ExpertRows:
    """The expert's rows in shuffled passes; a batch goes on in the next pass where one ends, so none is left out.

    Args:
        rows: all of them.
        batch_size: at most as many as there are.

    Raises:
        ConfigError: fewer rows than a batch.
    """

    def __init__(self, rows: Rows, batch_size: int) -> None:
        n = len(rows["acts"])
        if n < batch_size:
            raise ConfigError(
                expected=f"at least `demo_batch_size` = {batch_size} transitions of the expert",
                got=str(n),
                do=f"record more demonstrations, or pass demo_batch_size={n} or less",
            )
        self.rows = rows
        self._batch_size = batch_size
        self._order = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.rows["acts"])

    def next_batch(self, rng: np.random.Generator) -> Rows:
        """The next rows, ``batch_size`` of them."""
        while len(self._order) < self._batch_size:
            self._order = np.concatenate([self._order, rng.permutation(len(self))])
        index, self._order = self._order[: self._batch_size], self._order[self._batch_size :]
        return picked(self.rows, index)

    def state(self) -> dict[str, Any]:
        """What is left of the pass under way."""
        return {"order": self._order.copy()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._order = np.array(state["order"], dtype=np.int64)


class LearnerRows:
    """The learner's newest rows, ``capacity`` at most.

    Of a rollout that is larger than that, rows are kept at random: all environments and times have the same chance.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ConfigError(
                expected="`gen_replay_buffer_capacity` ≥ 1", got=str(capacity), do="leave it out to keep a round"
            )
        self.capacity = capacity
        self._kept: Rows | None = None
        """A ring once it is full: the oldest row is at ``_oldest``. Before that it has room behind the newest."""
        self._n = self._oldest = 0
        self._told = False

    def __len__(self) -> int:
        """How many there are."""
        return self._n

    @property
    def rows(self) -> Rows | None:
        """All, oldest first; None before the first."""
        if self._kept is None:
            return None
        return self._kept if self._whole else picked(self._kept, self._places(np.arange(self._n)))

    @property
    def _whole(self) -> bool:
        return self._kept is not None and self._oldest == 0 and len(self._kept["acts"]) == self._n

    def _places(self, numbers: np.ndarray) -> np.ndarray:
        places: np.ndarray = (self._oldest + numbers) % self._room
        return places

    @property
    def _room(self) -> int:
        assert self._kept is not None
        return len(self._kept["acts"])

    def store(self, rows: Rows, rng: np.random.Generator) -> None:
        """Keep these, and of the older ones as many of the newest as fit."""
        n = len(rows["acts"])
        if n > self.capacity:
            if not self._told:
                _log.info("keeping %d of %d learner's rows a round, drawn at random", self.capacity, n)
                self._told = True
            self._begin(picked(rows, np.sort(rng.permutation(n)[: self.capacity])))
        elif self._kept is None or n == self.capacity:
            self._begin(rows)
        else:
            self._append(rows, n)

    def _begin(self, rows: Rows) -> None:
        self._kept, self._n, self._oldest = rows, len(rows["acts"]), 0

    def _append(self, rows: Rows, n: int) -> None:
        """Steps come a few at a time off-policy: room grows by doubling, and nothing is moved once it is full."""
        if self._n + n > self._room and self._room < self.capacity:
            room = min(self.capacity, max(2 * self._room, self._n + n))
            assert self._kept is not None
            self._kept = {name: _with_room(value, room) for name, value in self._kept.items()}
        assert self._kept is not None
        places = self._places(np.arange(self._n, self._n + n))
        for name, column in self._kept.items():
            _put(column, places, rows[name])
        dropped = max(0, self._n + n - self._room)
        self._oldest, self._n = (self._oldest + dropped) % self._room, self._n + n - dropped

    def sample(self, n: int, rng: np.random.Generator) -> Rows:
        """``n`` rows, each drawn from all.

        Raises:
            CallOrderError: there are none yet.
        """
        if self._kept is None:
            raise CallOrderError(
                expected="steps of the learner",
                got="none yet",
                do="call train_gen before train_disc, or pass gen_samples",
            )
        return picked(self._kept, self._places(rng.integers(len(self), size=n)))

    def state(self) -> dict[str, Any]:
        """All rows, as plain arrays."""
        rows = self.rows
        if rows is None:
            return {"rows": None}
        plain = {name: dict(value.unwrap()) if isinstance(value, DictObs) else value for name, value in rows.items()}
        return {"rows": plain}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        if state["rows"] is None:
            self._kept, self._n, self._oldest = None, 0, 0
        else:
            rows = rows_of(state["rows"])  # copied, for they are written to
            self._begin({name: _with_room(value, len(value)) for name, value in rows.items()})


def _with_room(column: Any, room: int) -> Any:
    """A copy of the rows at the front of so many."""
    if isinstance(column, DictObs):
        return column.map_arrays(lambda array: _with_room(array, room))
    grown = np.empty((room, *column.shape[1:]), dtype=column.dtype)
    grown[: len(column)] = column
    return grown


def _put(column: Any, places: np.ndarray, rows: Any) -> None:
    if isinstance(column, DictObs):
        for key, array in column.items():
            array[places] = rows.get(key)
    else:
        column[places] = rows


def labels(n_expert: int, n_learner: int, device: torch.device) -> Tensor:
    """1 for the expert's rows, which come first, shape (batch,), float32."""
    found = torch.zeros(n_expert + n_learner, device=device)
    found[:n_expert] = 1
    return found
