"""The data doctor: what is in a set of demonstrations, and what is wrong with it, as plain values.

Unlike the door that training goes through (`understudy.data.demonstrations`), nothing here stops at the first fault:
every check adds its findings, each with a severity and one thing to do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.data import _checks_of_actions, _checks_of_copies, _checks_of_episodes, _checks_of_values
from understudy.data._findings import Finding, Severity
from understudy.data.demonstrations import BatchStream, Demonstrations
from understudy.data.dict_obs import DictObs

__all__ = ["Field", "Finding", "Inspection", "Severity", "Spread", "inspect_demonstrations", "observations"]


@dataclasses.dataclass(frozen=True)
class Field:
    """One array of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int


@dataclasses.dataclass(frozen=True)
class Spread:
    """Lowest, median and highest of one number per episode."""

    low: float
    median: float
    high: float


@dataclasses.dataclass(frozen=True)
class Inspection:
    """Everything the doctor has to say, worst findings first."""

    n_episodes: int
    n_transitions: int
    fields: tuple[Field, ...]
    lengths: Spread
    """Steps of an episode."""
    returns: Spread | None
    """Sum of rewards of an episode; None without rewards."""
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """No finding is an error."""
        return self.count(Severity.ERROR) == 0

    def count(self, severity: Severity) -> int:
        """How many findings are so bad."""
        return sum(finding.severity is severity for finding in self.findings)


def inspect_demonstrations(
    demonstrations: Any,
    *,
    observation_space: gym.Space[Any] | None = None,
    action_space: gym.Space[Any] | None = None,
) -> Inspection:
    """Look at demonstrations of any form that `as_demonstrations` accepts, without changing or refusing their values.

    Args:
        demonstrations: trajectories, arrays, a path, and so on.
        observation_space: judge observations by it; None judges by the data alone.
        action_space: judge actions by it; None judges by the data alone.

    Raises:
        DataError: it is no demonstration at all, or its arrays do not fit each other.
        EmptyDataError: nothing in it.
    """
    demos = _unchecked(demonstrations)
    obs = observations(demos)
    findings = [
        *_checks_of_values.findings(demos, obs, observation_space),
        *_checks_of_actions.findings(demos, action_space),
        *_checks_of_episodes.findings(demos, obs),
        *_checks_of_copies.findings(demos, obs),
    ]
    order = list(Severity)
    returns = demos.episode_returns()
    return Inspection(
        n_episodes=demos.n_episodes,
        n_transitions=len(demos),
        fields=tuple(_fields(demos, obs)),
        lengths=_spread(demos.episode_lengths),
        returns=None if returns is None else _spread(returns),
        findings=tuple(sorted(findings, key=lambda finding: order.index(finding.severity))),
    )


def observations(demos: Demonstrations) -> Mapping[str, np.ndarray]:
    """Observations before acting by name; one array alone is called ``obs``."""
    obs = demos.obs
    return {f"obs[{key!r}]": value for key, value in obs.items()} if isinstance(obs, DictObs) else {"obs": obs}


def _unchecked(source: Any) -> Demonstrations:
    from torch.utils.data import DataLoader

    from understudy.data import demonstrations

    if isinstance(source, DataLoader):
        source = list(source)
    if isinstance(source, BatchStream):
        return source.read()
    return demonstrations.read_unchecked(source)


def _fields(demos: Demonstrations, obs: Mapping[str, np.ndarray]) -> Iterator[Field]:
    arrays = {**obs, "acts": demos.acts, "rews": demos.rews, "dones": demos.dones, "truncated": demos.truncated}
    for name, array in {**arrays, "weights": demos.weights}.items():
        if array is not None:
            yield Field(name, str(array.dtype), array.shape, array.nbytes)


def _spread(values: np.ndarray) -> Spread:
    return Spread(float(np.min(values)), float(np.median(values)), float(np.max(values)))
