"""Demonstrations that stay in their file: what is used of them is read, the rest is not."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from understudy.data._dataset import Demonstrations
from understudy.data._pieces import Piece, Pieces
from understudy.data.dict_obs import Observation, concatenate_maybe_dictobs
from understudy.data.trajectory_store import TrajectoryColumns, TrajectoryStore

JOIN_BYTES = 64 << 20
"""A dataset on disk that is no larger is read as one set of arrays."""

_log = logging.getLogger(__name__)


class MappedDemonstrations(Demonstrations):
    """Trajectories in several pieces, usually pages of a file.

    Rows are gathered from the pieces by ``at``, ``obs_at`` and by batches, with memory for these rows only. ``frames``,
    ``acts`` and the other columns are those of all pieces joined: a copy in memory, made at first use, for what cannot
    do without.

    Args:
        columns: the pieces, in order; none empty.
        act_dtype: show actions as this type; None for their own.
    """

    def __init__(self, columns: Sequence[TrajectoryColumns], act_dtype: np.dtype[Any] | None = None) -> None:
        lengths = np.concatenate([np.diff(part.transition_offsets) for part in columns])
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        own = {"columns": tuple(columns), "act_dtype": act_dtype, "episode_offsets": offsets, "episodes_known": True}
        for name, value in own.items():
            object.__setattr__(self, name, value)

    columns: tuple[TrajectoryColumns, ...]
    act_dtype: np.dtype[Any] | None

    def __len__(self) -> int:
        """Number of transitions."""
        return int(self.episode_offsets[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of all frames and actions."""
        return nbytes_of(self.columns)

    @functools.cached_property
    def pieces(self) -> Pieces:
        """The transitions, ready to be gathered."""
        return Pieces(
            [Piece(part.obs, part.acts, part.transition_offsets) for part in self.columns], act_dtype=self.act_dtype
        )

    def at(self, rows: np.ndarray) -> Demonstrations:
        """A copy of these transitions in memory: observations and actions, without episodes."""
        return self.pieces.gather(rows)

    def obs_at(self, rows: np.ndarray) -> Observation:
        """Observations before acting of some transitions only, shape (row, *obs); the others are not read."""
        return self.at(np.asarray(rows)).frames

    def acts_at(self, rows: np.ndarray) -> np.ndarray:
        """Actions of some transitions only, shape (row, *act); the others are not read."""
        return self.at(np.asarray(rows)).acts

    @property
    def frame_offsets(self) -> np.ndarray:
        """Episode ``e`` has the frames ``frame_offsets[e]:frame_offsets[e + 1]``; int64, shape (episode + 1,)."""
        return self.episode_offsets + np.arange(len(self.episode_offsets))

    @functools.cached_property
    def frames(self) -> Observation:
        """All frames, copied into memory."""
        _log.warning("copying %.1f GiB of observations into memory", self.nbytes / (1 << 30))
        return concatenate_maybe_dictobs([part.obs for part in self.columns])  # type: ignore[type-var]

    @functools.cached_property
    def acts(self) -> np.ndarray:
        """All actions, copied into memory."""
        joined = np.concatenate([part.acts for part in self.columns])
        return joined if self.act_dtype is None else joined.astype(self.act_dtype, copy=False)

    @functools.cached_property
    def rews(self) -> np.ndarray | None:
        """All rewards, copied into memory; None where there are none."""
        rews = [part.rews for part in self.columns if part.rews is not None]
        return np.concatenate(rews) if rews else None

    @functools.cached_property
    def obs_rows(self) -> np.ndarray:
        """Row in ``frames`` of each transition, int64."""
        return np.arange(len(self)) + np.repeat(np.arange(self.n_episodes), self.episode_lengths)

    @functools.cached_property
    def dones(self) -> np.ndarray:
        """True where the environment terminated."""
        return self._last_steps(np.concatenate([part.terminal & ~part.truncated for part in self.columns]))

    @functools.cached_property
    def truncated(self) -> np.ndarray:
        """True where a time limit cut the episode."""
        return self._last_steps(np.concatenate([part.truncated for part in self.columns]))

    def _last_steps(self, flags: np.ndarray) -> np.ndarray:
        marked = np.zeros(len(self), dtype=bool)
        marked[self.episode_offsets[1:] - 1] = flags
        return marked


def nbytes_of(columns: Sequence[TrajectoryColumns]) -> int:
    """Bytes of all frames and actions."""
    return sum(part.obs.nbytes + part.acts.nbytes for part in columns)


def stays_on_disk(store: TrajectoryStore[Any]) -> bool:
    """Whether a store is too large to be joined: more than 64 MiB, in several pieces or mapped from a file."""
    parts = list(store.chunks())
    return nbytes_of(parts) > JOIN_BYTES and (len(parts) > 1 or not parts[0].acts.flags.writeable)
