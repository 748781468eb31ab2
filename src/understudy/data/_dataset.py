"""Demonstrations in hand: contiguous arrays, one per field, and where episodes begin."""

from __future__ import annotations

import dataclasses

import numpy as np

from understudy.data._order import RowRanges
from understudy.data.dict_obs import Observation
from understudy.data.types import Transitions, no_infos
from understudy.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class Demonstrations:
    """All steps of all demonstrations in contiguous arrays, one per field.

    Where observations come from trajectories, the stored frames hold one more row an episode than there are actions,
    and ``obs_rows`` says which frame each action was taken in; the frame after it is the next row, so no second copy
    of the observations is needed.
    """

    frames: Observation
    """Stored observations, shape (frame, *obs)."""

    obs_rows: np.ndarray | None
    """For each transition, its row in ``frames``, shape (transition,), int64; None when they are the same."""

    acts: np.ndarray
    """Actions, shape (transition, *act)."""

    episode_offsets: np.ndarray
    """Episode ``e`` is the transitions ``offsets[e]:offsets[e + 1]``; int64, shape (episode + 1,)."""

    episodes_known: bool = True
    """False when the data did not say where episodes end, so that all of it counts as one."""

    next_frames: Observation | None = None
    """Observations after acting, shape (transition, *obs), only where they do not stand in ``frames``."""

    dones: np.ndarray | None = None
    """True where the environment terminated, shape (transition,)."""

    truncated: np.ndarray | None = None
    """True where a time limit cut the episode, shape (transition,)."""

    rews: np.ndarray | None = None
    """Rewards, shape (transition,)."""

    infos: np.ndarray | None = None
    """Info dictionaries, shape (transition,)."""

    weights: np.ndarray | None = None
    """Weight of each transition in a loss, shape (transition,), ≥ 0."""

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self.acts)

    @property
    def n_episodes(self) -> int:
        """Number of episodes, fragments counted."""
        return len(self.episode_offsets) - 1

    @property
    def episode_lengths(self) -> np.ndarray:
        """Transitions in each episode, shape (episode,)."""
        return np.diff(self.episode_offsets)

    @property
    def obs(self) -> Observation:
        """Observations before acting, shape (transition, *obs); a copy when frames are shared between fields."""
        return self.frames if self.obs_rows is None else self.frames[self.obs_rows]

    def obs_at(self, rows: np.ndarray) -> Observation:
        """Observations before acting of some transitions only, shape (row, *obs); the others are not copied."""
        return self.frames[rows if self.obs_rows is None else self.obs_rows[rows]]

    @property
    def next_obs(self) -> Observation | None:
        """Observations after acting, shape (transition, *obs), or None where the data has none."""
        if self.next_frames is not None:
            return self.next_frames
        return None if self.obs_rows is None else self.frames[self.obs_rows + 1]

    def acts_at(self, rows: np.ndarray) -> np.ndarray:
        """Actions of some transitions only, shape (row, *act)."""
        return np.asarray(self.acts[rows])

    def ranges_of_episodes(self, episodes: np.ndarray) -> RowRanges:
        """As ``rows_of_episodes``, without writing all of them out."""
        return RowRanges(self.episode_offsets[episodes], self.episode_offsets[episodes + 1])

    def rows_of_episodes(self, episodes: np.ndarray) -> np.ndarray:
        """Indices of all transitions of the given episodes, in order, int64."""
        rows = [np.arange(self.episode_offsets[e], self.episode_offsets[e + 1]) for e in episodes]
        return np.concatenate([np.empty(0, dtype=np.int64), *rows])

    def episode_returns(self) -> np.ndarray | None:
        """Sum of rewards of each episode in float64, shape (episode,), or None without rewards."""
        if self.rews is None:
            return None
        return np.add.reduceat(self.rews.astype(np.float64), self.episode_offsets[:-1])

    def to_transitions(self) -> Transitions:
        """A plain transitions object.

        Raises:
            DataError: the data has no next observations.
        """
        next_obs = self.next_obs
        if next_obs is None:
            raise DataError(
                expected="demonstrations with next observations",
                got="observations and actions only",
                do="pass trajectories, or transitions with `next_obs` and `dones`",
            )
        return Transitions(
            obs=self.obs,
            acts=self.acts,
            infos=no_infos(len(self)) if self.infos is None else self.infos,
            next_obs=next_obs,
            dones=np.zeros(len(self), dtype=bool) if self.dones is None else self.dones,
            truncated=self.truncated,  # type: ignore[arg-type]
        )

    @property
    def frame_offsets(self) -> np.ndarray:
        """Episode ``e`` has the frames ``frame_offsets[e]:frame_offsets[e + 1]``; int64, shape (episode + 1,)."""
        offsets = self.episode_offsets
        return offsets if self.obs_rows is None else offsets + np.arange(len(offsets))
