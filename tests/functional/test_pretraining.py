"""Losses of pretraining, with numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from understudy.functional.pretraining import (
    anchored_loss,
    bowl_target,
    deterministic_action_error,
    discounted_returns,
    margin_of_choice,
    q_cross_entropy,
    scale_action,
    unscale_action,
)


def test_equal_q_values_cost_log_n() -> None:
    assert q_cross_entropy(torch.zeros(2, 3), torch.tensor([0, 2])).tolist() == pytest.approx([math.log(3)] * 2)


def test_a_lead_of_log_three_makes_the_choice_three_times_as_likely() -> None:
    q = torch.tensor([[math.log(3.0), 0.0]])
    assert q_cross_entropy(q, torch.tensor([0])).item() == pytest.approx(-math.log(3 / 4))
    assert q_cross_entropy(q, torch.tensor([1])).item() == pytest.approx(-math.log(1 / 4))


def test_scaling_maps_the_bounds_to_one_and_back() -> None:
    low, high = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 10.0])
    acts = torch.tensor([[-2.0, 10.0], [1.0, 5.0]])
    scaled = scale_action(acts, low, high)
    assert scaled.tolist() == [[-1.0, 1.0], [0.5, 0.0]]
    assert torch.equal(unscale_action(scaled, low, high), acts)


def test_the_action_error_is_in_the_environments_units() -> None:
    """0.5 of Box(-2, 2) is a torque of 1; the expert's 2 is one away. Entry two is right: the mean is 1/2."""
    low, high = torch.tensor([-2.0, -1.0]), torch.tensor([2.0, 1.0])
    error = deterministic_action_error(torch.tensor([[0.5, 0.25]]), torch.tensor([[2.0, 0.25]]), low, high)
    assert error.tolist() == [0.5]


def test_a_choice_that_leads_by_the_margin_costs_nothing() -> None:
    q = torch.tensor([[3.0, 2.0], [3.0, 2.0], [3.0, 2.5]])
    # leads by 1 ≥ 0.8; trails by 1, plus 0.8; leads by 0.5, 0.3 short of 0.8
    assert margin_of_choice(q, torch.tensor([0, 1, 0]), 0.8).tolist() == pytest.approx([0.0, 1.8, 0.3])


def test_the_bowls_peak_is_the_experts_action() -> None:
    returns, expert = torch.tensor([5.0, 5.0]), torch.zeros(2, 2)
    tried = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    assert bowl_target(returns, tried, expert, 4.0).tolist() == [5.0, 3.0]


def test_the_anchor_pulls_in_units_of_q() -> None:
    """mean |Q| = (|−3| + |1|)/2 = 2; squared distances 0.25 + 0 and 1: 2 · (0.25 + 1)/2 = 1.25."""
    scaled = torch.tensor([[0.5, 0.0], [0.0, 1.0]], requires_grad=True)
    q = torch.tensor([[-2.0, -4.0], [1.0, 1.0]], requires_grad=True)
    loss = anchored_loss(scaled, torch.zeros(2, 2), q)
    assert loss.item() == pytest.approx(1.25)
    loss.backward()
    assert scaled.grad is not None
    assert scaled.grad.tolist() == [[1.0, 0.0], [0.0, 2.0]]
    assert q.grad is None


def test_returns_of_two_episodes_are_kept_apart() -> None:
    """γ = ½: 1 + ½·(2 + ½·4) = 3, 2 + ½·4 = 4, 4; then 1 + ½·10 = 6 where a time limit cut."""
    returns = discounted_returns(
        np.array([1.0, 2.0, 4.0, 1.0]),
        np.array([False, False, True, True]),
        np.array([7.0, 7.0, 0.0, 10.0]),
        0.5,
    )
    assert returns.tolist() == [3.0, 4.0, 4.0, 6.0]
