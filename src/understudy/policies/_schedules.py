"""Learning rates and other schedules, as far as a zip shows them outside its pickles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule

from understudy.policies._plain_text import Construction, TokenBudget, UnreadableTextError, parse
from understudy.policies._spec import FALLBACK_LEARNING_RATE

MAX_RATE = 100.0
_LINEAR = ("start", "end", "end_fraction")


def read_schedule(entry: Any, budget: TokenBudget | None = None) -> float | ConstantSchedule | LinearSchedule | None:
    """A number or a schedule of Stable-Baselines3's own; None if the entry is anything else."""
    if isinstance(entry, bool) or entry is None:
        return None
    if isinstance(entry, int | float):
        return float(entry) if math.isfinite(entry) else None
    if not isinstance(entry, Mapping):
        return None
    if "value_schedule" in entry:
        return _from_text(entry["value_schedule"], budget)
    if ":type:" in entry and str(entry[":type:"]).endswith(".LinearSchedule'>"):
        return _linear([entry.get(name) for name in _LINEAR])
    if ":type:" in entry and str(entry[":type:"]).endswith(".ConstantSchedule'>"):
        return read_schedule(entry.get("val"))
    return None


def first_rate(data: Mapping[str, Any], budget: TokenBudget | None = None) -> float:
    """The learning rate to begin with: finite, above 0 and at most 100; 3e-4 where the zip shows none."""
    for name in ("learning_rate", "lr_schedule"):
        schedule = read_schedule(data.get(name), budget)
        rate = schedule if isinstance(schedule, float) or schedule is None else schedule(1.0)
        if rate is not None and 0 < rate <= MAX_RATE:
            return float(rate)
    return FALLBACK_LEARNING_RATE


def _from_text(text: Any, budget: TokenBudget | None) -> ConstantSchedule | LinearSchedule | None:
    try:
        shown = parse(text, budget) if isinstance(text, str) else None
    except UnreadableTextError:
        return None
    if isinstance(shown, Construction) and shown.name == "ConstantSchedule":
        value = read_schedule(shown.keywords.get("val"))
        return ConstantSchedule(value) if isinstance(value, float) else None
    if isinstance(shown, Construction) and shown.name == "LinearSchedule":
        return _linear([shown.keywords.get(name) for name in _LINEAR])
    return None


def _linear(values: list[Any]) -> LinearSchedule | None:
    if any(isinstance(each, bool) or not isinstance(each, int | float) or not math.isfinite(each) for each in values):
        return None
    start, end, fraction = map(float, values)
    return LinearSchedule(start, end, fraction) if 0 < fraction <= 1 else None
