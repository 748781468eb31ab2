"""How often the expert acts in each round of DAgger."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping
from typing import Any

from understudy.errors import ConfigError

AnyBetaSchedule = Callable[[int], float]
"""From the round, counted from 0, to the probability in [0, 1] that the expert's action is the one executed."""

DEFAULT_RAMPDOWN_ROUNDS = 15


class BetaSchedule(abc.ABC):
    """The share of steps in which the expert acts, round by round; any callable will do in its place."""

    @abc.abstractmethod
    def __call__(self, round_num: int) -> float:
        """β in [0, 1] for a round, counted from 0."""


class LinearBetaSchedule(BetaSchedule):
    """β falls from 1 in round 0 by the same step each round, to 0 in round ``rampdown_rounds`` and after.

    Args:
        rampdown_rounds: at least 1; with 1 the expert acts in round 0 only, which is the paper's parameter-free choice.

    Raises:
        ConfigError: below 1.
    """

    def __init__(self, rampdown_rounds: int) -> None:
        if not rampdown_rounds >= 1:
            raise ConfigError(
                expected="`rampdown_rounds` ≥ 1",
                got=repr(rampdown_rounds),
                do="pass the rounds until β is 0, such as 15",
            )
        self.rampdown_rounds = rampdown_rounds

    def __call__(self, round_num: int) -> float:
        """``max(0, 1 − round_num / rampdown_rounds)``."""
        return max(0.0, min(1.0, (self.rampdown_rounds - round_num) / self.rampdown_rounds))


class ExponentialBetaSchedule(BetaSchedule):
    """β = pⁱ in round i, as in the paper's section 3.

    Args:
        decay_probability: p, in (0, 1].

    Raises:
        ConfigError: outside (0, 1].
    """

    def __init__(self, decay_probability: float) -> None:
        if not 0 < decay_probability <= 1:
            raise ConfigError(
                expected="`decay_probability` in (0, 1]", got=repr(decay_probability), do="pass a number such as 0.7"
            )
        self.decay_probability = decay_probability

    def __call__(self, round_num: int) -> float:
        """``decay_probability ** round_num``."""
        return float(self.decay_probability**round_num)


def beta_of(schedule: AnyBetaSchedule, round_num: int) -> float:
    """What a schedule says for a round.

    Raises:
        ConfigError: it is not in [0, 1].
    """
    beta = float(schedule(round_num))
    if not 0 <= beta <= 1 or math.isnan(beta):
        raise ConfigError(
            expected=f"a probability in [0, 1] from the beta schedule in round {round_num}",
            got=repr(beta),
            do="clip it, for example lambda i: max(0.0, 1 - i / 15)",
        )
    return beta


def schedule_state(schedule: AnyBetaSchedule) -> dict[str, Any]:
    """Plain values that `schedule_from` makes the schedule from, where it is one of this library's."""
    if type(schedule) is LinearBetaSchedule:
        return {"kind": "linear", "rampdown_rounds": schedule.rampdown_rounds}
    if type(schedule) is ExponentialBetaSchedule:
        return {"kind": "exponential", "decay_probability": schedule.decay_probability}
    name = getattr(schedule, "__qualname__", None) or type(schedule).__qualname__
    return {"kind": "own", "name": str(name)}


def schedule_from(saved: Mapping[str, Any], given: AnyBetaSchedule | None) -> AnyBetaSchedule:
    """The saved schedule, or the given one in its place.

    Raises:
        ConfigError: it was a function of the user's, which no file holds, and none is given.
    """
    if given is not None:
        return given
    if saved["kind"] == "linear":
        return LinearBetaSchedule(saved["rampdown_rounds"])
    if saved["kind"] == "exponential":
        return ExponentialBetaSchedule(saved["decay_probability"])
    raise ConfigError(
        expected="`beta_schedule`, since the trainer was saved with one of your own",
        got=f"the name {str(saved['name'])[:60]!r} only",
        do="pass beta_schedule= with the same function again",
    )
