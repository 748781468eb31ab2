"""What the data doctor says: one finding, how bad it is, where it stands, and how such places are put into words."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np

from understudy.data._dataset import Demonstrations


class Severity(enum.StrEnum):
    """How bad it is."""

    ERROR = "error"
    """Training refuses it, or learns something false."""
    WARNING = "warning"
    """Training works, but probably not as meant."""
    NOTE = "note"
    """Worth knowing."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    severity: Severity
    code: str
    """Stable name for programs, like ``nan-values``."""
    what: str
    """What was found, with figures and where."""
    do: str
    """What to do about it, in one line."""
    places: tuple[tuple[int, int], ...] = ()
    """(episode, step) of every affected step, both counted from 0, where single steps are affected."""


def found(severity: str, code: str, what: str, do: str, places: Sequence[tuple[int, int]] = ()) -> Finding:
    """A finding, with its severity by name."""
    return Finding(Severity(severity), code, what, do, tuple(places))


def places(rows: np.ndarray, demos: Demonstrations) -> list[tuple[int, int]]:
    """(episode, step) of each transition."""
    episodes = np.searchsorted(demos.episode_offsets, rows, side="right") - 1
    steps = rows - demos.episode_offsets[episodes]
    return list(zip(episodes.tolist(), steps.tolist(), strict=True))


def place(row: int, demos: Demonstrations) -> str:
    """``episode 3, step 17`` of a transition."""
    ((episode, step),) = places(np.array([row]), demos)
    return f"episode {episode}, step {step}"


def named(indices: Sequence[int] | np.ndarray, limit: int = 8) -> str:
    """``0, 3, 5`` with an end when there are many."""
    shown = ", ".join(str(int(i)) for i in indices[:limit])
    return f"{shown} and {len(indices) - limit} more" if len(indices) > limit else shown


def numbered(noun: str, indices: Sequence[int] | np.ndarray, limit: int = 8) -> str:
    """``episode 3`` or ``episodes 0, 3``: the numbers of the things, never taken for how many they are."""
    return f"{noun}{'' if len(indices) == 1 else 's'} {named(indices, limit)}"


def steps_by_episode(at: Sequence[tuple[int, int]], limit: int = 10) -> str:
    """``episode 0, steps 3, 4; episode 2, step 0`` for the first few places, and how many more there are."""
    by_episode: dict[int, list[int]] = {}
    for episode, step in at[:limit]:
        by_episode.setdefault(episode, []).append(step)
    shown = "; ".join(f"episode {episode}, {numbered('step', steps, limit)}" for episode, steps in by_episode.items())
    return f"{shown} and {len(at) - limit} more" if len(at) > limit else shown
