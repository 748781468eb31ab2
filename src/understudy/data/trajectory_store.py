"""Many trajectories as contiguous columns, and the sequence that cuts them back into trajectories on access."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Generic, SupportsIndex, TypeVar, overload

import numpy as np

from understudy.data._json_infos import AnyInfoColumn, concatenate_infos
from understudy.data.dict_obs import Observation, concatenate_maybe_dictobs
from understudy.data.types import Trajectory, TrajectoryWithRew

__all__ = ["TrajectoryColumns", "TrajectoryStore"]


@dataclasses.dataclass(frozen=True, eq=False)
class TrajectoryColumns:
    """Trajectories end to end, one contiguous array a field.

    The actions of trajectory ``i`` are ``acts[transition_offsets[i]:transition_offsets[i + 1]]``; its frames, one more,
    are ``obs[frame_offsets[i]:frame_offsets[i + 1]]``.
    """

    obs: Observation
    """All frames, shape (transitions + trajectories, *obs)."""
    acts: np.ndarray
    """All actions, shape (transitions, *act)."""
    rews: np.ndarray | None
    """All rewards, shape (transitions,), or None if there are none."""
    transition_offsets: np.ndarray
    """Where each trajectory's actions begin, int64, shape (trajectories + 1,); begins with 0."""
    terminal: np.ndarray
    """The episode ended, either way; False for fragments; shape (trajectories,)."""
    truncated: np.ndarray
    """A time limit ended it, shape (trajectories,)."""
    infos: AnyInfoColumn
    """Info dictionaries, decoded on access: ``infos[i]`` are those of trajectory ``i``, or None."""

    @property
    def frame_offsets(self) -> np.ndarray:
        """Where each trajectory's frames begin in ``obs``, int64, shape (trajectories + 1,)."""
        return self.transition_offsets + np.arange(len(self.transition_offsets))

    def __len__(self) -> int:
        """Number of trajectories."""
        return len(self.terminal)

    def trajectory(self, row: int) -> Trajectory:
        """Trajectory ``row``, with views of the arrays; with rewards where there are any."""
        start, stop = int(self.transition_offsets[row]), int(self.transition_offsets[row + 1])
        obs, acts, infos = self.obs[start + row : stop + row + 1], self.acts[start:stop], self.infos[row]
        terminal, truncated = bool(self.terminal[row]), bool(self.truncated[row])
        if self.rews is None:
            return Trajectory(obs, acts, infos, terminal, truncated=truncated)
        return TrajectoryWithRew(obs, acts, infos, terminal, self.rews[start:stop], truncated=truncated)

    def slice(self, start: int, stop: int) -> TrajectoryColumns:
        """The trajectories ``start:stop``, with views of the arrays."""
        first, last = int(self.transition_offsets[start]), int(self.transition_offsets[stop])
        return TrajectoryColumns(
            obs=self.obs[first + start : last + stop],
            acts=self.acts[first:last],
            rews=None if self.rews is None else self.rews[first:last],
            transition_offsets=self.transition_offsets[start : stop + 1] - first,
            terminal=self.terminal[start:stop],
            truncated=self.truncated[start:stop],
            infos=self.infos.slice(start, stop),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[TrajectoryColumns]) -> TrajectoryColumns:
        """All parts end to end, copied; all have rewards or none has."""
        rews = [part.rews for part in parts if part.rews is not None]
        assert len(rews) in (0, len(parts))
        return cls(
            obs=concatenate_maybe_dictobs([part.obs for part in parts]),  # type: ignore[type-var]
            acts=np.concatenate([part.acts for part in parts]),
            rews=np.concatenate(rews) if rews else None,
            transition_offsets=_offsets([np.diff(part.transition_offsets) for part in parts]),
            terminal=np.concatenate([part.terminal for part in parts]),
            truncated=np.concatenate([part.truncated for part in parts]),
            infos=concatenate_infos([part.infos for part in parts]),
        )


def _offsets(lengths: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([[0], *lengths]).astype(np.int64).cumsum()


TrajectoryT = TypeVar("TrajectoryT", bound=Trajectory)


class TrajectoryStore(Sequence[TrajectoryT], Generic[TrajectoryT]):
    """Trajectories cut from columns on access: views, not copies, and read-only where the columns are.

    Data read from disk lies in several chunks if it is large; nothing is joined unless ``columns`` is called.
    """

    def __init__(self, chunks: Sequence[TrajectoryColumns], *, rows: range | None = None) -> None:
        """``rows``: which trajectories, and in which order; ``None`` for all."""
        self._chunks = chunks
        self._starts = np.concatenate([[0], np.cumsum([len(chunk) for chunk in chunks])]).astype(np.int64)
        self._rows = range(int(self._starts[-1])) if rows is None else rows

    def __len__(self) -> int:
        """Number of trajectories."""
        return len(self._rows)

    @overload
    def __getitem__(self, key: SupportsIndex) -> TrajectoryT: ...
    @overload
    def __getitem__(self, key: slice) -> TrajectoryStore[TrajectoryT]: ...
    def __getitem__(self, key: SupportsIndex | slice) -> TrajectoryT | TrajectoryStore[TrajectoryT]:
        rows = self._rows[key]
        if isinstance(rows, range):
            return TrajectoryStore(self._chunks, rows=rows)
        chunk, row = self._locate(rows)
        return chunk.trajectory(row)  # type: ignore[return-value]

    def _locate(self, row: int) -> tuple[TrajectoryColumns, int]:
        nth = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._chunks[nth], row - int(self._starts[nth])

    @property
    def has_rewards(self) -> bool:
        """Every trajectory has rewards (else none has)."""
        return self._chunks[0].rews is not None

    @property
    def n_transitions(self) -> int:
        """Number of actions in all trajectories."""
        return int(self.transition_offsets[-1])

    @property
    def transition_offsets(self) -> np.ndarray:
        """Where each trajectory's actions begin in ``columns().acts``, int64, shape (trajectories + 1,)."""
        return _offsets([np.diff(part.transition_offsets) for part in self.chunks()])

    @property
    def frame_offsets(self) -> np.ndarray:
        """Where each trajectory's frames begin in ``columns().obs``, int64, shape (trajectories + 1,)."""
        return self.transition_offsets + np.arange(len(self) + 1)

    def chunks(self) -> Iterator[TrajectoryColumns]:
        """The data in the pieces it lies in, in order, without a copy."""
        if self._rows.step != 1:
            for row in self._rows:
                chunk, local = self._locate(row)
                yield chunk.slice(local, local + 1)
            return
        for start, part in zip(self._starts.tolist(), self._chunks, strict=False):
            first, last = max(self._rows.start - start, 0), min(self._rows.stop - start, len(part))
            if first < last:
                yield part if (first, last) == (0, len(part)) else part.slice(first, last)

    def columns(self) -> TrajectoryColumns:
        """All trajectories as one set of columns: views if they lie in one chunk, else a copy in memory."""
        parts = list(self.chunks())
        if not parts:
            return self._chunks[0].slice(0, 0)
        return parts[0] if len(parts) == 1 else TrajectoryColumns.concatenate(parts)

    def __repr__(self) -> str:
        rewards = "with" if self.has_rewards else "without"
        return f"<TrajectoryStore of {len(self)} trajectories, {self.n_transitions} transitions, {rewards} rewards>"
