"""The options of DAgger's rounds, and how their results are shown."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from understudy.errors import ConfigError
from understudy.scripts._parts import at_least
from understudy.scripts._run_folder import read_metrics
from understudy.util.files import write_atomically

_STEPS = 20_000
_STEPS_OF_A_PERSON = 500
_RAMPDOWN, _DECAY = 15, 0.7
_ROUND = "dagger/round_num"


@dataclasses.dataclass(frozen=True)
class Rounds:
    """How the expert is asked."""

    total_timesteps: int | None = None
    """Steps to label; only whole rounds are made, so a few more. None: 20000, or 500 for a person."""

    rollout_round_min_episodes: int = 3
    """A round ends when so many episodes have ended …"""

    rollout_round_min_timesteps: int = 500
    """… with at least so many steps in them; total-timesteps if those are fewer."""

    beta: str = "linear"
    """Share of steps the expert acts in: linear[:ROUNDS] (15 to reach 0), exponential[:FACTOR] (0.7), or a constant."""

    take_over: bool = False
    """You decide here, at each step, whether the expert drives; only those steps are learned from (HG-DAgger)."""

    n_epochs: int | None = None
    """Passes over all answers so far, in each round (4 if neither this nor n-batches is given)."""

    n_batches: int | None = None
    """Updates in each round, instead of n-epochs."""

    log_interval: int = 100
    """Updates between two points of the learning curve."""

    def check(self) -> None:
        """Raise ConfigError for options out of range or at odds with each other."""
        from understudy.algorithms._dagger_beta import beta_of

        at_least(1, total_timesteps=self.total_timesteps, log_interval=self.log_interval)
        at_least(1, rollout_round_min_episodes=self.rollout_round_min_episodes)
        at_least(1, rollout_round_min_timesteps=self.rollout_round_min_timesteps)
        if self.n_epochs is not None and self.n_batches is not None:
            raise ConfigError("one of --n-epochs and --n-batches", "both", "leave one out")
        at_least(1, n_epochs=self.n_epochs, n_batches=self.n_batches)
        beta_of(self.schedule(), 0)
        if self.take_over and self.beta != Rounds.beta:
            raise ConfigError(
                "--take-over or --beta", "both", "leave --beta out: who takes over decides in place of a schedule"
            )

    def steps(self, *, at_console: bool) -> int:
        """Steps to label."""
        return self.total_timesteps or (_STEPS_OF_A_PERSON if at_console else _STEPS)

    def schedule(self) -> Callable[[int], float]:
        """β by round.

        Raises:
            ConfigError: ``beta`` is none of its forms, or out of range.
        """
        from understudy.algorithms.dagger import ExponentialBetaSchedule, LinearBetaSchedule

        kind, colon, value = self.beta.partition(":")
        try:
            if kind == "linear":
                return LinearBetaSchedule(int(value) if colon else _RAMPDOWN)
            if kind == "exponential":
                return ExponentialBetaSchedule(float(value) if colon else _DECAY)
            if not colon and 0 <= (constant := float(kind)) <= 1:
                return _Constant(constant)
        except ConfigError:
            raise
        except ValueError:
            pass
        raise ConfigError(
            "--beta linear, linear:ROUNDS, exponential, exponential:FACTOR, or a number in [0, 1]",
            self.beta,
            "for example --beta linear:1, where the expert acts in the first round only",
        )

    def training(self) -> dict[str, Any]:
        """What ``BC.train`` is given in each round; returns are measured afterwards instead of while training."""
        length = {"n_batches": self.n_batches} if self.n_batches is not None else {"n_epochs": self.n_epochs}
        return {**length, "log_interval": self.log_interval, "log_rollouts_n_episodes": 0}


class _Constant:
    """The same β in every round; its name is what a checkpoint knows of it."""

    def __init__(self, beta: float) -> None:
        self._beta = beta
        self.__qualname__ = f"constant {beta}"

    def __call__(self, round_num: int) -> float:
        return self._beta


def forget_rounds(folder: Path, first: int) -> None:
    """Remove the lines of ``metrics.jsonl`` from round ``first`` on: a resumed run will write them again."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return
    kept: list[Mapping[str, Any]] = []
    for line in read_metrics(path):
        number = line.get(_ROUND)
        if isinstance(number, (int, float)) and number >= first:
            break
        kept.append(line)
    if first == 0:
        kept = []
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())


def rounds_logged(folder: Path) -> list[Mapping[str, Any]]:
    """The line of each round that was made, in order."""
    return [line for line in read_metrics(folder / "metrics.jsonl") if isinstance(line.get(_ROUND), int)]
