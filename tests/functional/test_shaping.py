"""Potential shaping and absorbing tails against sums written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import ConfigError
from understudy.functional import shaping


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.defect("B5")
def test_the_next_potential_vanishes_on_termination_and_only_there() -> None:
    shaped = shaping.potential_shaping(
        tensor(1, 1), tensor(2, 2), tensor(10, 10), torch.tensor([False, True]), gamma=0.5
    )
    assert shaped.tolist() == [1 + 0.5 * 10 - 2, 1 - 2]


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.floats(0, 1))
def test_over_a_terminated_episode_the_terms_telescope_to_minus_the_first_potential(
    potentials: list[float], gamma: float
) -> None:
    phi = tensor(*potentials)
    ends = torch.zeros(len(phi) - 1, dtype=torch.bool)
    ends[-1] = True
    added = shaping.potential_shaping(torch.zeros(len(phi) - 1).double(), phi[:-1], phi[1:], ends, gamma)
    discounts = tensor(*[gamma**t for t in range(len(added))])
    assert (discounts * added).sum().item() == pytest.approx(-potentials[0], abs=1e-9)


@given(st.floats(0.01, 1), st.integers(0, 40))
def test_the_tail_to_a_horizon_is_the_sum_written_out(gamma: float, remaining: int) -> None:
    tail = shaping.absorbing_tail(tensor(2.0), gamma, torch.tensor([remaining]))
    assert tail.item() == pytest.approx(sum(2.0 * gamma**k for k in range(1, remaining + 1)), rel=1e-9, abs=1e-12)


def test_the_tail_without_end() -> None:
    # 0.9 / 0.1 · 2 = 18, which is also the tail to a very far horizon.
    assert shaping.absorbing_tail(tensor(2.0), 0.9).item() == pytest.approx(18.0)
    assert shaping.absorbing_tail(tensor(2.0), 0.9, torch.tensor([10_000])).item() == pytest.approx(18.0)


def test_the_tail_at_the_ends_of_the_range_of_discounts() -> None:
    assert shaping.absorbing_tail(tensor(2.0), 1.0, torch.tensor([5])).item() == 10.0
    assert shaping.absorbing_tail(tensor(2.0), 0.0, torch.tensor([5])).item() == 0.0
    assert shaping.absorbing_tail(tensor(2.0), 0.0).item() == 0.0
    # Nearly 1 in float32: 1 − γⁿ by subtraction would keep three digits.
    near = shaping.absorbing_tail(torch.tensor([1.0]), 1 - 1e-6, torch.tensor([3]))
    assert near.item() == pytest.approx(3.0, rel=1e-5)


@pytest.mark.parametrize("gamma", [1.0, -0.1, 1.5])
def test_a_sum_without_limit_is_refused(gamma: float) -> None:
    with pytest.raises(ConfigError, match="gamma"):
        shaping.absorbing_tail(tensor(1.0), gamma)


@pytest.mark.defect("B5")
def test_only_terminated_steps_get_a_tail() -> None:
    # Third row: cut by a time limit, so not terminated; an unused r_abs may even be NaN.
    rews = shaping.with_absorbing_tail(
        tensor(1, 1, 1), torch.tensor([0.0, 1.0, 0.0]), tensor(4, 4, float("nan")), 0.5, torch.tensor([9, 2, 0])
    )
    assert rews.tolist() == [1.0, 1 + 4 * (0.5 + 0.25), 1.0]
