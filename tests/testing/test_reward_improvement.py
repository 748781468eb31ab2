from __future__ import annotations

import pytest

from understudy.errors import EmptyDataError
from understudy.testing.reward_improvement import is_significant_reward_improvement, mean_reward_improved_by


def test_four_against_four_is_significant_at_one_in_seventy() -> None:
    """C(8, 4) = 70 regroupings, one of them as good: p = 1/70 ≈ 0.0143."""
    old, new = [1, 2, 3, 4], [5, 6, 7, 8]
    assert is_significant_reward_improvement(old, new)
    assert is_significant_reward_improvement(old, new, p_value=0.015)
    assert not is_significant_reward_improvement(old, new, p_value=0.014)


def test_a_fall_or_no_change_is_no_improvement() -> None:
    assert not is_significant_reward_improvement([5, 6, 7, 8], [1, 2, 3, 4])
    assert not is_significant_reward_improvement([5, 5, 5, 5], [5, 5, 5, 5])


def test_three_against_three_never_suffices_at_the_default() -> None:
    assert not is_significant_reward_improvement([1, 2, 3], [4, 5, 6])


def test_generators_are_welcome() -> None:
    assert is_significant_reward_improvement(range(10), (x + 100.0 for x in range(10)))


def test_mean_improvement_includes_its_bound() -> None:
    assert mean_reward_improved_by([1, 3], [4, 6], 3)
    assert not mean_reward_improved_by([1, 3], [4, 6], 3.1)
    assert not mean_reward_improved_by([4, 6], [1, 3], 0)


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(EmptyDataError):
        mean_reward_improved_by([], [1], 0)
