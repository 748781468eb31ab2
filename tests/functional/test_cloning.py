"""The equations of behavioural cloning, with numbers worked out by hand and gradients against autograd."""

from math import e, log, pi

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from understudy.functional import cloning

approx = pytest.approx


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=1e-10)


def test_uniform_choice_of_two_costs_log_2_and_has_entropy_log_2() -> None:
    terms = cloning.categorical(torch.zeros(1, 2), torch.tensor([1]))
    assert terms.log_prob.item() == approx(-log(2))
    assert terms.entropy.item() == approx(log(2))


def test_categorical_by_hand() -> None:
    # Odds 1 : 3, so p = (1/4, 3/4).
    terms = cloning.categorical(torch.tensor([[0.0, log(3)]]), torch.tensor([1]))
    assert terms.log_prob.item() == approx(log(3 / 4))
    assert terms.entropy.item() == approx(-(1 / 4) * log(1 / 4) - (3 / 4) * log(3 / 4))


def test_categorical_gradient_by_hand() -> None:
    # Without entropy: p − e_a = (1/4, 3/4) − (0, 1).
    gradient = cloning.categorical_gradient(torch.tensor([[0.0, log(3)]]), torch.tensor([1]), 0.0, 1.0)
    assert gradient.tolist()[0] == approx([1 / 4, -1 / 4])


def test_standard_normal_at_its_mean_and_one_sigma_off() -> None:
    mean, acts = torch.zeros(2, 1), torch.tensor([[0.0], [1.0]])
    terms = cloning.diagonal_gaussian(mean, torch.zeros(1), acts)
    assert terms.log_prob.tolist() == approx([-0.5 * log(2 * pi), -0.5 * log(2 * pi) - 0.5])
    assert terms.entropy.tolist() == approx([0.5 * log(2 * pi * e)] * 2)


def test_gaussian_gradient_by_hand() -> None:
    # σ = 2, a − mean = 4: z = 2, so ∂/∂mean = −4/4 = −1 and ∂/∂log σ = 1 − 4 = −3; λ = ½ takes ½ off the latter.
    d_mean, d_log_std = cloning.diagonal_gaussian_gradient(
        torch.zeros(1, 1), torch.tensor([log(2)]), torch.tensor([[4.0]]), 0.5, 1.0
    )
    assert (d_mean.item(), d_log_std.item()) == approx((-1.0, -3.5))


def test_fair_bits_cost_log_2_each() -> None:
    terms = cloning.bernoulli(torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 1.0]]))
    assert (terms.log_prob.item(), terms.entropy.item()) == approx((-3 * log(2), 3 * log(2)))


def test_independent_choices_add_up() -> None:
    terms = cloning.multi_categorical(torch.zeros(1, 5), torch.tensor([[1, 2]]), [2, 3])
    assert (terms.log_prob.item(), terms.entropy.item()) == approx((-log(2) - log(3), log(2) + log(3)))


def test_cloning_loss_weighs_entropy_and_samples() -> None:
    log_prob, entropy = torch.tensor([-1.0, -3.0]), torch.tensor([0.5, 1.5])
    assert cloning.cloning_loss(log_prob, entropy, 0.0).item() == approx(2.0)
    assert cloning.cloning_loss(log_prob, entropy, 0.1).item() == approx(2.0 - 0.1)
    # The mean divides by the number of samples, not by the sum of weights.
    assert cloning.cloning_loss(log_prob, entropy, 0.0, torch.tensor([2.0, 0.0])).item() == approx(1.0)


def test_l2_norm_is_half_the_sum_of_squares() -> None:
    assert cloning.l2_norm([torch.tensor([3.0]), torch.tensor([[4.0]])]).item() == approx(12.5)


def test_squared_error_is_the_mean_over_the_action() -> None:
    error = cloning.squared_error(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0]]))
    assert error.tolist() == approx([5.0])


@given(
    st.integers(0, 2**31 - 1), st.integers(1, 6), st.integers(2, 5), st.sampled_from([0.0, 1e-3, 0.7]), st.booleans()
)
def test_closed_form_gradients_are_autograds(seed: int, batch: int, n: int, ent_weight: float, weighted: bool) -> None:
    """Every head, to 1e-10 in float64."""
    g = torch.Generator().manual_seed(seed)
    outputs = torch.randn(batch, n, generator=g, dtype=torch.float64, requires_grad=True)
    log_std = torch.randn(n, generator=g, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(batch, generator=g, dtype=torch.float64) if weighted else None
    scale = 1.0 / batch if weights is None else (weights / batch)[:, None]
    choice = torch.randint(n, (batch,), generator=g)
    bits = torch.randint(2, (batch, n), generator=g).double()
    acts = torch.randn(batch, n, generator=g, dtype=torch.float64)
    sizes = [1, n - 1]
    parts = torch.stack([torch.zeros_like(choice), choice % (n - 1)], 1)

    def autograd(terms: cloning.HeadTerms, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(cloning.cloning_loss(*terms, ent_weight, weights), inputs)

    value, std = outputs.detach(), log_std.detach()
    (expected,) = autograd(cloning.categorical(outputs, choice), outputs)
    assert close(cloning.categorical_gradient(value, choice, ent_weight, scale), expected)
    (expected,) = autograd(cloning.multi_categorical(outputs, parts, sizes), outputs)
    assert close(cloning.multi_categorical_gradient(value, parts, ent_weight, scale, sizes), expected)
    (expected,) = autograd(cloning.bernoulli(outputs, bits), outputs)
    assert close(cloning.bernoulli_gradient(value, bits, ent_weight, scale), expected)
    expected_mean, expected_std = autograd(cloning.diagonal_gaussian(outputs, log_std, acts), outputs, log_std)
    d_mean, d_std = cloning.diagonal_gaussian_gradient(value, std, acts, ent_weight, scale)
    assert close(d_mean, expected_mean)
    assert close(d_std, expected_std)


def test_shapes_are_checked_in_tests() -> None:
    """The annotations are enforced here: a wrong shape is an error, not a broadcast."""
    with pytest.raises(Exception, match="batch"):
        cloning.cloning_loss(torch.zeros(3), torch.zeros(2), 0.0)
