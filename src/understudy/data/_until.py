"""When a rollout has enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from understudy.data.types import TrajectoryWithRew
from understudy.errors import ConfigError

GenTrajTerminationFn = Callable[[Sequence[TrajectoryWithRew]], bool]
"""Asked after each finished episode with all episodes so far: is that enough?"""


class _MinTimesteps:
    """Enough steps? Keeps a running count, so that asking costs only what is new."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._first: TrajectoryWithRew | None = None
        self._counted = 0
        self._steps = 0

    def __call__(self, trajectories: Sequence[TrajectoryWithRew]) -> bool:
        first = trajectories[0] if trajectories else None
        if first is not self._first or len(trajectories) < self._counted:  # another collection: start again
            self._first, self._counted, self._steps = first, 0, 0
        self._steps += sum(len(trajectories[i]) for i in range(self._counted, len(trajectories)))
        self._counted = len(trajectories)
        return self._steps >= self._n


def _at_least_one(name: str, n: int) -> None:
    if n < 1:
        raise ConfigError(expected=f"`{name}` ≥ 1", got=str(n), do=f"ask for at least one with {name}=1")


def make_min_episodes(n: int) -> GenTrajTerminationFn:
    """Stop after at least ``n`` episodes.

    Raises:
        ConfigError: ``n`` < 1.
    """
    _at_least_one("n", n)
    return lambda trajectories: len(trajectories) >= n


def make_min_timesteps(n: int) -> GenTrajTerminationFn:
    """Stop after at least ``n`` steps in finished episodes.

    Raises:
        ConfigError: ``n`` < 1.
    """
    _at_least_one("n", n)
    return _MinTimesteps(n)


def make_sample_until(min_timesteps: int | None = None, min_episodes: int | None = None) -> GenTrajTerminationFn:
    """Stop once every given minimum is met.

    Raises:
        ConfigError: no minimum is given, or one is below 1.
    """
    conditions = []
    if min_timesteps is not None:
        conditions.append(make_min_timesteps(min_timesteps))
    if min_episodes is not None:
        conditions.append(make_min_episodes(min_episodes))
    if not conditions:
        raise ConfigError(
            expected="`min_timesteps`, `min_episodes` or both",
            got="neither",
            do="say how much to sample, for example make_sample_until(min_episodes=50)",
        )
    # A list, not a generator: every condition keeps its own count up to date.
    return lambda trajectories: all([condition(trajectories) for condition in conditions])  # noqa: C419
