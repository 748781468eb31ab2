"""Rows picked out of data that lies in pieces, each of them perhaps in a file."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from understudy.data._dataset import Demonstrations
from understudy.data.dict_obs import DictObs, Observation


def lies_in_file(values: Observation) -> bool:
    """Whether this memory is the pages of a file (``numpy.memmap`` or a view of one)."""
    if isinstance(values, DictObs):
        return any(lies_in_file(array) for array in values.values())
    base: Any = values
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, mmap.mmap)


class Piece(NamedTuple):
    """Some of the transitions, in order."""

    frames: Observation
    """Shape (frame, *obs)."""

    acts: np.ndarray
    """Shape (transition, *act)."""

    offsets: np.ndarray | None = None
    """Where each episode's actions begin, first 0, last the number of transitions, where every episode has one frame
    more than actions; None where it has as many."""

    weights: np.ndarray | None = None
    """Shape (transition,)."""


class Pieces:
    """Transitions end to end, gathered without joining anything.

    Args:
        pieces: in order; all of the same fields, shapes and types.
        act_dtype: give actions as this type; None for their own.
    """

    def __init__(self, pieces: Sequence[Piece], act_dtype: np.dtype[Any] | None = None) -> None:
        self._offsets = [piece.offsets for piece in pieces]
        self._starts = np.concatenate([[0], np.cumsum([len(piece.acts) for piece in pieces])]).astype(np.int64)
        self._acts = _Column([piece.acts for piece in pieces], act_dtype)
        first = pieces[0]
        keys = list(first.frames.keys()) if isinstance(first.frames, DictObs) else [None]
        self._obs = {key: _Column([_entry(piece.frames, key) for piece in pieces]) for key in keys}
        weights = [piece.weights for piece in pieces if piece.weights is not None]
        self._weights = _Column(weights) if weights else None

    def __len__(self) -> int:
        """Number of transitions."""
        return int(self._starts[-1])

    @property
    def row_bytes(self) -> int:
        """Bytes of one observation and action."""
        return sum(column.row_bytes for column in (*self._obs.values(), self._acts))

    def gather(self, rows: np.ndarray) -> Demonstrations:
        """A copy of these transitions (indices, in any order), as one episode.

        They are read in the order in which they lie: what stands on one page of a file is read together.
        """
        if np.all(rows[1:] >= rows[:-1]):
            return self._gather_rising(rows, None)
        order = np.argsort(rows)
        places = np.empty(len(rows), dtype=np.int64)
        places[order] = np.arange(len(rows))
        return self._gather_rising(rows[order], places)

    def _gather_rising(self, rows: np.ndarray, places: np.ndarray | None) -> Demonstrations:
        """``obs_rows`` cannot say that actions stand elsewhere too, so a reordered copy is made at the end."""
        bounds = np.searchsorted(rows, self._starts)
        obs = {key: column.empty(len(rows)) for key, column in self._obs.items()}
        acts = self._acts.empty(len(rows))
        weights = None if self._weights is None else self._weights.empty(len(rows))
        for nth in np.flatnonzero(np.diff(bounds)).tolist():
            part = slice(bounds[nth], bounds[nth + 1])
            local = rows[part] - self._starts[nth]
            offsets = self._offsets[nth]
            frames = local if offsets is None else local + np.searchsorted(offsets, local, side="right") - 1
            for key, column in self._obs.items():
                column.read(nth, frames, obs[key][part])
            self._acts.read(nth, local, acts[part])
            if self._weights is not None and weights is not None:
                self._weights.read(nth, local, weights[part])
        if places is not None:
            obs = {key: array.take(places, axis=0) for key, array in obs.items()}
            acts = acts.take(places, axis=0)
            weights = None if weights is None else weights.take(places)
        shown = {key: column.shown(obs[key]) for key, column in self._obs.items()}
        return Demonstrations(
            frames=shown[None] if None in shown else DictObs({str(key): array for key, array in shown.items()}),
            obs_rows=None,
            acts=acts,
            episode_offsets=np.array([0, len(rows)]),
            episodes_known=False,
            weights=weights,
        )


def _entry(obs: Observation, key: str | None) -> np.ndarray:
    if isinstance(obs, DictObs):
        assert key is not None
        return obs.get(key)
    return obs


class _Column:
    """One array in pieces."""

    def __init__(self, pieces: list[np.ndarray], dtype: np.dtype[Any] | None = None) -> None:
        # Channels-last images seen through a channels-first view are read as they lie.
        self._turned = all(p.ndim == 4 and p.transpose(0, 2, 3, 1).flags.c_contiguous for p in pieces)
        self._pieces = [piece.transpose(0, 2, 3, 1) for piece in pieces] if self._turned else pieces
        self._dtype = (dtype or pieces[0].dtype).newbyteorder("=")
        self.row_bytes = self._dtype.itemsize * int(np.prod(pieces[0].shape[1:], dtype=np.int64))

    def empty(self, n: int) -> np.ndarray:
        return np.empty((n, *self._pieces[0].shape[1:]), dtype=self._dtype)

    def read(self, nth: int, rows: np.ndarray, out: np.ndarray) -> None:
        piece = self._pieces[nth]
        if piece.flags.c_contiguous and piece.dtype == out.dtype:
            np.take(piece, rows, axis=0, out=out, mode="clip")  # of anything else it would copy the whole piece first
        else:
            out[:] = piece[rows]

    def shown(self, gathered: np.ndarray) -> np.ndarray:
        return gathered.transpose(0, 3, 1, 2) if self._turned else gathered
