"""Squashed Gaussians: values worked out by hand, also where tanh is flat."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from understudy.functional import squashing
from understudy.functional.cloning import cloning_loss

approx = pytest.approx

ZERO, ONE = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)


def rows(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_the_density_by_hand() -> None:
    """Bounds 1 … 5 (c = 3, h = 2); a = 4 is u = artanh ½ = ½ log 3, where tanh's slope is 3/4."""
    terms = squashing.squashed_gaussian(rows(0.0), rows(1.0), 3 * ONE, 2 * ONE, rows(4.0))
    u = 0.5 * math.log(3)
    expected = -0.5 * u**2 - 0.5 * math.log(2 * math.pi) - math.log(0.75) - math.log(2)
    assert terms.log_prob.item() == approx(expected)


def test_the_density_integrates_to_one_in_the_scale_of_the_environment() -> None:
    grid = torch.linspace(1, 5, 20001, dtype=torch.float64)[1:-1, None]
    mean, std = torch.full_like(grid, 0.4), torch.full_like(grid, 0.7)
    log_prob = squashing.squashed_gaussian(mean, std, 3 * ONE, 2 * ONE, grid).log_prob
    assert log_prob.exp().sum().item() * (4 / 20000) == approx(1.0, abs=1e-4)


def test_the_slope_is_stable_where_tanh_is_flat() -> None:
    """At u = 30, 1 − tanh² u is 0 in float32; its logarithm is log 4 − 60, to all digits."""
    assert 1 - torch.tanh(torch.tensor(30.0)) ** 2 == 0
    assert squashing.log_squash_slope(torch.tensor([30.0, -30.0])).tolist() == approx([math.log(4) - 60] * 2)
    u = torch.linspace(-3, 3, 13, dtype=torch.float64)
    torch.testing.assert_close(squashing.log_squash_slope(u), torch.log(1 - torch.tanh(u) ** 2))


def test_actions_at_and_beyond_the_bounds_are_taken_just_inside() -> None:
    found = squashing.unsquash(rows(-2.0, 2.0, 9.0), ZERO, 2 * ONE, margin=1e-3).flatten()
    u = 0.5 * math.log(1.999 / 0.001)
    assert found.tolist() == approx([-u, u, u])
    terms = squashing.squashed_gaussian(rows(0.0), rows(1.0), ZERO, 2 * ONE, rows(2.0))
    assert math.isfinite(terms.log_prob.item())
    single = squashing.unsquash(torch.ones(1, 1), torch.zeros(1), torch.ones(1), 1e-6)
    assert math.isfinite(single.item())


@given(st.floats(-3, 3), st.floats(0.5, 4), st.floats(-0.99, 0.99))
def test_squashing_and_back(center: float, half: float, share: float) -> None:
    act = rows(center + half * share)
    c, h = center * ONE, half * ONE
    torch.testing.assert_close(squashing.squash(squashing.unsquash(act, c, h), c, h), act)


@given(st.floats(-4, 4), st.floats(0.05, 3))
def test_the_entropy_is_that_of_the_integral(mean: float, std: float) -> None:
    """Against a fine sum over u: within 0.003 nats."""
    u = np.linspace(mean - 10 * std, mean + 10 * std, 20001)
    density = np.exp(-0.5 * ((u - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    slope = 2 * (math.log(2) - u - np.logaddexp(0, -2 * u))
    log_density = np.log(np.maximum(density, 1e-300)) - slope - math.log(2)
    exact = -np.sum(density * log_density) * (u[1] - u[0])
    found = squashing.squashed_gaussian_entropy(rows(mean), rows(std), 2 * ONE).item()
    assert found == approx(exact, abs=0.003)


def test_gradients_are_finite_differences() -> None:
    acts = rows(-0.999999, 0.3, 1.0)

    def terms(mean: torch.Tensor, std: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(squashing.squashed_gaussian(mean, std, ZERO, ONE, acts))  # type: ignore[return-value]

    inputs = [rows(-1.0, 0.2, 3.0).requires_grad_(), rows(0.3, 1.0, 2.0).requires_grad_()]
    assert torch.autograd.gradcheck(terms, inputs)


@given(st.integers(0, 2**31 - 1), st.sampled_from([0.0, 1e-3, 0.7]), st.booleans())
def test_the_closed_form_gradient_is_autograds(seed: int, ent_weight: float, weighted: bool) -> None:
    """To 1e-10 in float64, also beyond the bounds."""
    g = torch.Generator().manual_seed(seed)
    mean = torch.randn(4, 2, generator=g, dtype=torch.float64, requires_grad=True)
    std = (0.1 + torch.rand(4, 2, generator=g, dtype=torch.float64)).requires_grad_()
    acts = 2 * torch.randn(4, 2, generator=g, dtype=torch.float64)
    bounds = (torch.tensor([0.5, -1.0], dtype=torch.float64), torch.tensor([2.0, 0.3], dtype=torch.float64))
    weights = torch.rand(4, generator=g, dtype=torch.float64) if weighted else None
    loss = cloning_loss(*squashing.squashed_gaussian(mean, std, *bounds, acts, 1e-3), ent_weight, weights)
    scale = 0.25 if weights is None else (weights / 4)[:, None]
    found = squashing.squashed_gaussian_gradient(
        mean.detach(), std.detach(), *bounds, acts, ent_weight, scale, margin=1e-3
    )
    for own, expected in zip(found, torch.autograd.grad(loss, [mean, std]), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-10)
