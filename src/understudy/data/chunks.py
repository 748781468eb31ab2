"""Targets of policies that foresee several actions: from each transition, the actions of the next k steps."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from understudy.data.demonstrations import BatchStream, Demonstrations
from understudy.errors import ConfigError, DataError


class ActionChunks:
    """The next k actions of each transition, never across the end of an episode.

    What lies beyond the end is marked: NaN in actions of numbers or bits, and one less than the smallest choice in
    others. Steps that are missing inside an episode (nobody labelled them) end a chunk as well.

    Args:
        demos: with episodes, see `check_chunks`. Those on disk have their actions copied into memory.
        size: k ≥ 1.
        action_space: of the actions.

    Raises:
        ConfigError: ``size`` < 1.
        DataError: the data does not tell where episodes end.
    """

    def __init__(self, demos: Demonstrations, size: int, action_space: gym.Space[Any]) -> None:
        if size < 1:
            raise ConfigError(expected="chunks of at least one action", got=str(size), do="pass chunk_size=8")
        check_chunks(demos)
        self.size = size
        choices = isinstance(action_space, (spaces.Discrete, spaces.MultiDiscrete))
        acts = demos.acts
        if choices:
            self._acts = acts.astype(np.int64, copy=False)
            self._unknown: Any = np.asarray(action_space.start) - 1  # type: ignore[attr-defined]
        else:
            self._acts = acts if acts.dtype.kind == "f" else acts.astype(np.float32)
            self._unknown = np.nan
        self._ends = _ends_of_runs(demos)
        self.row_bytes = size * self._acts.nbytes // max(1, len(acts))
        """Bytes of one chunk."""

    def __call__(self, rows: np.ndarray) -> Tensor:
        """Chunks that begin at these transitions, shape (row, k, *act), on the CPU."""
        end = self._ends[np.searchsorted(self._ends, rows, side="right")][:, None]
        wanted = rows[:, None] + np.arange(self.size)
        chunks = self._acts[np.minimum(wanted, end - 1)]
        chunks[wanted >= end] = self._unknown
        return torch.from_numpy(chunks)


def check_chunks(demos: Demonstrations | BatchStream) -> None:
    """Raise DataError unless the data says which actions follow each other, and where episodes end."""
    if isinstance(demos, BatchStream) or not demos.episodes_known:
        raise DataError(
            expected="demonstrations that say where episodes end, for a policy that foresees actions",
            got="a DataLoader of rows" if isinstance(demos, BatchStream) else "rows that do not",
            do="pass trajectories, or arrays with `episode_ends` (or `dones` and `truncated`)",
        )


def _ends_of_runs(demos: Demonstrations) -> np.ndarray:
    """Where runs of consecutive steps end, rising: at the ends of episodes, and where a step is missing."""
    ends = demos.episode_offsets[1:]
    if demos.obs_rows is not None:
        ends = np.union1d(ends, np.flatnonzero(np.diff(demos.obs_rows) != 1) + 1)
    return np.asarray(ends, dtype=np.int64)
