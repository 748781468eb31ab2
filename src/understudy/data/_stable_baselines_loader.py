"""Minibatches of an expert dataset, in the manner of Stable-Baselines 2, without its processes."""

from __future__ import annotations

from typing import Any

import numpy as np

from understudy.data._stable_baselines_images import read_images
from understudy.errors import ConfigError, DataError, EmptyDataError

_BACKENDS = ("multiprocessing", "sequential", "threading", "loky")


class DataLoader:
    """An iterator over minibatches ``(observations, actions)``.

    After each pass over the data it raises StopIteration once, and then begins the next pass; with
    ``infinite_loop=False`` there is one pass. Images are read when their batch is asked for. No process or thread is
    started, whatever the arguments say, so it can be pickled at any time and goes on where it was.

    Attributes:
        indices: rows in use, int64.
        n_minibatches: batches in a pass, also ``len(loader)``.
        process: always None; older code looks at it.
    """

    process: None = None

    def __init__(
        self,
        indices: Any,
        observations: np.ndarray,
        actions: np.ndarray,
        batch_size: int,
        n_workers: int = 1,
        infinite_loop: bool = True,
        max_queue_len: int = 1,
        shuffle: bool = False,
        start_process: bool = True,
        backend: str = "threading",
        sequential: bool = False,
        partial_minibatch: bool = True,
        *,
        rng: np.random.Generator | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            indices: rows of both arrays to use, in the order of an unshuffled pass.
            observations: shape (row, *obs), or paths of images, shape (row,).
            actions: shape (row, *act).
            batch_size: ≥ 1.
            n_workers: accepted; has no effect.
            infinite_loop: whether another pass follows each.
            max_queue_len: accepted; has no effect.
            shuffle: whether each pass has a new random order.
            start_process: accepted; there is no process.
            backend: accepted, one of joblib's; has no effect.
            sequential: accepted; it always is.
            partial_minibatch: whether a pass ends with a smaller batch where the rows do not divide; else these rows
                are left out of that pass.
            rng: decides the order; ``None`` draws a seed from the system.

        Raises:
            EmptyDataError: no indices.
            DataError: indices that no row has, or arrays of different lengths.
            ConfigError: a number or name out of its range, or not one whole batch where partial ones are not allowed.
        """
        for name, value in (("batch_size", batch_size), ("n_workers", n_workers), ("max_queue_len", max_queue_len)):
            if value < 1:
                raise ConfigError(expected=f"`{name}` ≥ 1", got=str(value), do=f"pass {name}=1 or more")
        if backend not in _BACKENDS:
            raise ConfigError(expected=f"`backend` among {list(_BACKENDS)}", got=repr(backend), do="leave it out")
        rows = np.asarray(indices)
        if rows.size == 0:
            raise EmptyDataError(expected="at least one index", got="none", do="give the loader rows to load")
        if len(observations) != len(actions):
            raise DataError(
                expected="as many observations as actions",
                got=f"{len(observations)} and {len(actions)}",
                do="pass arrays of the same steps",
            )
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= len(actions):
            raise DataError(
                expected=f"`indices` as a row of whole numbers in [0, {len(actions)})",
                got=f"{rows.dtype}, shape {rows.shape}, from {rows.min()} to {rows.max()}",
                do="pass for instance numpy.arange(len(actions))",
            )
        self.indices = rows.astype(np.int64)
        self.observations = observations
        self.actions = actions
        self.batch_size = batch_size
        self.n_workers = n_workers
        self.infinite_loop = infinite_loop
        self.max_queue_len = max_queue_len
        self.shuffle = shuffle
        self.backend = backend
        self.sequential = sequential
        self.partial_minibatch = partial_minibatch
        whole, rest = divmod(len(rows), batch_size)
        self.n_minibatches = whole + (1 if rest and partial_minibatch else 0)
        if self.n_minibatches == 0:
            raise ConfigError(
                expected=f"at least one whole batch, with partial_minibatch=False and batch_size={batch_size}",
                got=f"{len(rows)} rows",
                do="allow partial batches, or pass a smaller batch_size",
            )
        self._rng = np.random.default_rng() if rng is None else rng
        self._order: np.ndarray | None = None  # of the pass that is under way
        self._next = 0
        self._over = False

    def __len__(self) -> int:
        """Batches in a pass."""
        return self.n_minibatches

    def __iter__(self) -> DataLoader:
        """The loader itself, at the beginning of a pass.

        Where the only pass is over, it stays over.
        """
        self._order, self._next = None, 0
        return self

    def __next__(self) -> tuple[np.ndarray, np.ndarray]:
        """The next batch: observations, shape (batch, *obs), and actions, shape (batch, *act)."""
        return self.sequential_next()

    def sequential_next(self) -> tuple[np.ndarray, np.ndarray]:
        """The next batch; never an empty one.

        Raises:
            StopIteration: the pass is over; the next call begins another where there is one.
        """
        if self._over:
            raise StopIteration
        if self._order is None:
            self._order = self._rng.permutation(self.indices) if self.shuffle else self.indices
        if self._next == self.n_minibatches:
            self._order, self._next = None, 0
            self._over = not self.infinite_loop
            raise StopIteration
        start = self._next * self.batch_size
        rows = self._order[start : start + self.batch_size]
        obs = self.observations[rows]
        batch = read_images(obs) if obs.dtype.kind == "U" else obs
        self._next += 1
        return batch, self.actions[rows]

    def start_process(self) -> None:
        """Does nothing: there is no process to start."""
