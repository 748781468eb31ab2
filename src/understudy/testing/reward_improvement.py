"""Did training help? One-sided tests on the returns before and after."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from understudy.errors import EmptyDataError
from understudy.evaluation.statistics import permutation_test


def is_significant_reward_improvement(
    old_rewards: Iterable[float], new_rewards: Iterable[float], p_value: float = 0.05
) -> bool:
    """Whether a permutation test finds the new mean higher, at significance level ``p_value``.

    The same returns always give the same answer: shuffles come from a fixed seed, and few returns (up to about seven on
    a side) are tested exactly. Three against three can reach p = 0.05 at best, which is not below the default.
    """
    test = permutation_test(_array(new_rewards), _array(old_rewards), alternative="greater")
    return test.p_value < p_value


def mean_reward_improved_by(old_rews: Iterable[float], new_rews: Iterable[float], min_improvement: float) -> bool:
    """Whether the mean rose by at least ``min_improvement``, in units of return."""
    return bool(np.mean(_array(new_rews)) - np.mean(_array(old_rews)) >= min_improvement)


def _array(returns: Iterable[float]) -> np.ndarray:
    array = np.asarray(list(returns), dtype=np.float64)
    if not array.size:
        raise EmptyDataError("returns of at least one episode", "none", "evaluate the policy first")
    return array
