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
        self.rows: Rows | None = None
        self._told = False

    def __len__(self) -> int:
        """How many there are."""
        return 0 if self.rows is None else len(self.rows["acts"])

    def store(self, rows: Rows, rng: np.random.Generator) -> None:
        """Keep these, and of the older ones as many of the newest as fit."""
        n = len(rows["acts"])
        if n > self.capacity:
            if not self._told:
                _log.info("keeping %d of %d learner's rows a round, drawn at random", self.capacity, n)
                self._told = True
            self.rows = picked(rows, np.sort(rng.permutation(n)[: self.capacity]))
        elif self.rows is None or n == self.capacity:
            self.rows = rows
        else:
            old = len(self)
            self.rows = joined(picked(self.rows, slice(max(0, old + n - self.capacity), old)), rows)

    def sample(self, n: int, rng: np.random.Generator) -> Rows:
        """``n`` rows, each drawn from all.

        Raises:
            CallOrderError: there are none yet.
        """
        if self.rows is None:
            raise CallOrderError(
                expected="steps of the learner",
                got="none yet",
                do="call train_gen before train_disc, or pass gen_samples",
            )
        return picked(self.rows, rng.integers(len(self), size=n))

    def state(self) -> dict[str, Any]:
        """All rows, as plain arrays."""
        if self.rows is None:
            return {"rows": None}
        plain = {
            name: dict(value.unwrap()) if isinstance(value, DictObs) else value for name, value in self.rows.items()
        }
        return {"rows": plain}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.rows = None if state["rows"] is None else rows_of(state["rows"])


def labels(n_expert: int, n_learner: int, device: torch.device) -> Tensor:
    """1 for the expert's rows, which come first, shape (batch,), float32."""
    found = torch.zeros(n_expert + n_learner, device=device)
    found[:n_expert] = 1
    return found
