"""Mixtures of Gaussians: values worked out by hand, gradients of the book, and bounds on the entropy."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from understudy.functional import mixtures
from understudy.functional.cloning import cloning_loss

approx = pytest.approx

LOG_2PI = math.log(2 * math.pi)


def params(seed: int, batch: int = 3, comp: int = 4, act: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, comp, generator=g, dtype=torch.float64)
    mean = torch.randn(batch, comp, act, generator=g, dtype=torch.float64)
    std = 0.1 + torch.rand(batch, comp, act, generator=g, dtype=torch.float64)
    return logits, mean, std


def test_two_components_by_hand() -> None:
    """Weights 1/4 and 3/4 at −1 and 1, deviations 1 and 1/2; at 0 the densities are φ(1) and 2 φ(2)."""
    logits = torch.tensor([[0.0, math.log(3)]])
    mean, std = torch.tensor([[[-1.0], [1.0]]]), torch.tensor([[[1.0], [0.5]]])
    phi1, phi2 = math.exp(-0.5) / math.sqrt(2 * math.pi), math.exp(-2.0) / math.sqrt(2 * math.pi)
    density = 0.25 * phi1 + 0.75 * 2 * phi2
    assert mixtures.mixture_log_prob(logits, mean, std, torch.zeros(1, 1)).item() == approx(math.log(density))
    gamma = 0.25 * phi1 / density
    found = mixtures.responsibilities(logits, mean, std, torch.zeros(1, 1))
    assert found.tolist()[0] == approx([gamma, 1 - gamma])


def test_far_from_every_component_nothing_underflows() -> None:
    """At 1000 deviations a density is 0 in floating point, its logarithm is not."""
    log_prob = mixtures.mixture_log_prob(
        torch.zeros(1, 2), torch.zeros(1, 2, 1), torch.ones(1, 2, 1), torch.full((1, 1), 1000.0)
    )
    assert log_prob.item() == approx(-500_000 - 0.5 * LOG_2PI)


def test_one_component_is_a_gaussian() -> None:
    _, mean, std = params(0, comp=1)
    acts = torch.zeros(3, 2, dtype=torch.float64)
    terms = mixtures.mixture(torch.zeros(3, 1, dtype=torch.float64), mean, std, acts)
    gaussian = torch.distributions.Independent(torch.distributions.Normal(mean[:, 0], std[:, 0]), 1)
    torch.testing.assert_close(terms.log_prob, gaussian.log_prob(acts))
    torch.testing.assert_close(terms.entropy, gaussian.entropy())


@given(st.integers(0, 2**31 - 1))
def test_the_gradients_are_those_of_the_book(seed: int) -> None:
    """Eqs. 5.155 and 5.156: w − γ for the logits, γ (μ − a) / σ² for the means."""
    logits, mean, std = params(seed)
    acts = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    logits.requires_grad_(), mean.requires_grad_()
    error = -mixtures.mixture_log_prob(logits, mean, std, acts).sum()
    by_logits, by_mean = torch.autograd.grad(error, [logits, mean])
    gamma = mixtures.responsibilities(logits, mean, std, acts)
    torch.testing.assert_close(by_logits, logits.softmax(-1) - gamma)
    torch.testing.assert_close(by_mean, gamma[..., None] * (mean - acts[:, None]) / std.square())


def test_the_entropy_is_exact_where_components_coincide_or_lie_far_apart() -> None:
    gaussian = 0.5 + 0.5 * LOG_2PI
    same = mixtures.mixture_entropy(torch.tensor([[0.3, -1.0]]), torch.zeros(1, 2, 1), torch.ones(1, 2, 1))
    assert same.item() == approx(gaussian, abs=1e-6)
    apart = torch.tensor([[[-50.0], [50.0]]])
    assert mixtures.mixture_entropy(torch.zeros(1, 2), apart, torch.ones(1, 2, 1)).item() == approx(
        gaussian + math.log(2), abs=1e-6
    )


@given(st.integers(0, 2**31 - 1))
def test_the_entropy_is_a_lower_bound_and_close(seed: int) -> None:
    """Against the integral over a fine grid, in one dimension: never above, never more than the choice itself below."""
    logits, mean, std = params(seed, batch=1, act=1)
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    n = len(grid)
    log_p = mixtures.mixture_log_prob(
        logits.expand(n, -1).contiguous(),
        mean.expand(n, -1, -1).contiguous(),
        std.expand(n, -1, -1).contiguous(),
        grid,
    )
    exact = -(log_p.exp() * log_p).sum().item() * (24 / 4000)
    estimate = mixtures.mixture_entropy(logits, mean, std).item()
    choice = torch.distributions.Categorical(logits=logits[0]).entropy().item()
    assert exact - choice <= estimate <= exact + 1e-6


def test_samples_follow_the_weights() -> None:
    """U below the first weight takes the first component, above it the second; the noise is scaled and added."""
    logits, mean = torch.tensor([[math.log(0.25), math.log(0.75)]] * 3), torch.tensor([[[-1.0], [1.0]]] * 3)
    std = torch.tensor([[[0.1], [0.5]]] * 3)
    uniform, noise = torch.tensor([0.2, 0.3, 0.999999]), torch.tensor([[1.0], [2.0], [0.0]])
    found = mixtures.sample_mixture(logits, mean, std, uniform, noise)
    assert found.flatten().tolist() == approx([-0.9, 2.0, 1.0])
    assert mixtures.sample_mixture(logits, mean, 0.0, uniform, noise).flatten().tolist() == [-1.0, 1.0, 1.0]


def test_the_likeliest_mean_is_that_of_the_largest_weight() -> None:
    mean = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert mixtures.likeliest_mean(torch.tensor([[0.0, 0.1]]), mean).tolist() == [[3.0, 4.0]]


def test_gradients_of_value_and_entropy_are_finite_differences() -> None:
    logits, mean, std = params(1)
    acts = torch.zeros(3, 2, dtype=torch.float64)

    def terms(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(mixtures.mixture(a, b, c, acts))  # type: ignore[return-value]

    assert torch.autograd.gradcheck(terms, [t.requires_grad_() for t in (logits, mean, std)])


@given(
    st.integers(0, 2**31 - 1), st.integers(1, 5), st.integers(1, 3), st.sampled_from([0.0, 1e-3, 0.7]), st.booleans()
)
def test_the_closed_form_gradient_is_autograds(
    seed: int, comp: int, act: int, ent_weight: float, weighted: bool
) -> None:
    """To 1e-10 in float64."""
    inputs = logits, mean, std = params(seed, 3, comp, act)
    logits.requires_grad_(), mean.requires_grad_(), std.requires_grad_()
    g = torch.Generator().manual_seed(seed)
    acts = torch.randn(3, act, generator=g, dtype=torch.float64)
    weights = torch.rand(3, generator=g, dtype=torch.float64) if weighted else None
    loss = cloning_loss(*mixtures.mixture(logits, mean, std, acts), ent_weight, weights)
    scale = 1 / 3 if weights is None else (weights / 3)[:, None]
    found = mixtures.mixture_gradient(logits.detach(), mean.detach(), std.detach(), acts, ent_weight, scale)
    for own, expected in zip(found, torch.autograd.grad(loss, inputs), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-10)


def test_shapes_are_checked_in_tests() -> None:
    with pytest.raises(Exception, match="act"):
        mixtures.mixture_log_prob(torch.zeros(1, 2), torch.zeros(1, 2, 1), torch.ones(1, 2, 1), torch.zeros(1, 3))
