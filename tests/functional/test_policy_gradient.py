"""PPO's equations: numbers worked out by hand, and gradients against autograd of Stable-Baselines3's own loss."""

from __future__ import annotations

from math import e, exp, log, pi

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common import distributions
from torch import nn

from understudy.functional import policy_gradient as pg

approx = pytest.approx


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def test_the_surrogate_is_clipped_on_the_side_that_would_gain() -> None:
    # ε = 0.2. A good action counts up to r = 1.2; a bad one down to r = 0.8; losses are never clipped.
    ratio, advantages = array(1.5, 0.5, 1.5, 0.5, 1.1), array(2, 2, -2, -2, -2)
    assert pg.clipped_surrogate(ratio, advantages, 0.2).tolist() == approx([2.4, 1.0, -3.0, -1.6, -2.2])


def test_a_clipped_sample_has_no_gradient() -> None:
    ratio, advantages = array(1.5, 0.5, 1.5, 0.5, 1.1), array(2, 2, -2, -2, -2)
    # ∂ (r A) / ∂ log π = r A where r counts.
    assert pg.clipped_surrogate_gradient(ratio, advantages, 0.2).tolist() == approx([0, 1.0, -3.0, 0, -2.2])


def test_clip_fraction_and_kl_by_hand() -> None:
    assert pg.clip_fraction(array(0.79, 0.81, 1.19, 1.21), 0.2).tolist() == [1, 0, 0, 1]
    # r − 1 − log r at r = 1 and r = e: 0 and e − 2.
    assert pg.approximate_kl(array(0, 1)).tolist() == approx([0, e - 2])


def test_values_count_as_moved_by_at_most_the_clip_range() -> None:
    values, returns, old = array(3, 3, 0), array(1, 1, 1), array(2.9, 0, 0.2)
    assert pg.value_error(values, returns, old).tolist() == approx([4, 4, 1])
    assert pg.value_error_gradient(values, returns, old).tolist() == approx([4, 4, -2])
    # Moved by 0.1, 3 (counts as 0.5: V = 0.5), −0.2.
    assert pg.value_error(values, returns, old, 0.5).tolist() == approx([4, 0.25, 1])
    assert pg.value_error_gradient(values, returns, old, 0.5).tolist() == approx([4, 0, -2])


def test_advantages_have_mean_0_and_deviation_1_in_each_minibatch() -> None:
    # Mean 2, sample deviation 1.
    assert pg.normalized_advantages(array(1, 2, 3)).tolist() == approx([-1, 0, 1], abs=1e-7)
    rows = pg.normalized_advantages(np.stack([array(1, 2, 3), array(10, 20, 30)]))
    assert rows.tolist() == [approx([-1, 0, 1], abs=1e-7)] * 2
    assert pg.normalized_advantages(array(5)).tolist() == [5]


def test_categorical_by_hand() -> None:
    # Odds 1 : 3, so p = (1/4, 3/4); the second was chosen.
    chosen = pg.indicators(np.array([[1]]), [2], np.dtype(np.float64))
    assert chosen.tolist() == [[0], [1]]
    terms = pg.categorical(array(0, log(3))[:, None], chosen)
    assert terms.log_prob.item() == approx(log(3 / 4))
    assert terms.entropy.item() == approx(-(1 / 4) * log(1 / 4) - (3 / 4) * log(3 / 4))
    gradient = pg.categorical_gradient(terms, chosen, array(2.0), 0.0)
    assert gradient[:, 0].tolist() == approx([2 * -1 / 4, 2 * 1 / 4])


def test_parts_of_a_choice_stand_side_by_side() -> None:
    chosen = pg.indicators(np.array([[1, 0], [2, 1]]), [2, 3], np.dtype(np.float64))
    assert chosen.T.tolist() == [[0, 1, 0, 0, 1], [1, 0, 0, 1, 0]]
    parts = pg.multi_categorical(np.zeros((5, 2)), chosen, [2, 3])
    assert sum(part.log_prob[0] for part in parts) == approx(-log(2) - log(3))


def test_bits_by_hand() -> None:
    # p = (1/2, 3/4), drawn (1, 0).
    terms = pg.bernoulli(array(0, log(3))[:, None], array(1, 0)[:, None])
    assert terms.log_prob.item() == approx(log(1 / 2) + log(1 / 4))
    gradient = pg.bernoulli_gradient(array(0, log(3))[:, None], terms, array(1, 0)[:, None], array(1.0), 0.0)
    assert gradient[:, 0].tolist() == approx([1 / 2, -3 / 4])


def test_gaussian_by_hand() -> None:
    # σ = 2, a − mean = 4, so z = 2: ∂ log π/∂mean = z/σ = 1, ∂ log π/∂log σ = z² − 1 = 3, ∂H/∂log σ = 1.
    terms = pg.diagonal_gaussian(np.zeros((1, 1)), array(log(2)), np.full((1, 1), 4.0))
    assert terms.log_prob.item() == approx(log(exp(-2) / (2 * (2 * pi) ** 0.5)))
    assert terms.entropy == approx(0.5 * log(2 * pi * e * 4))
    d_mean, d_log_std = pg.diagonal_gaussian_gradient(terms, array(1.0), 0.5)
    assert (d_mean.item(), d_log_std.item()) == approx((1.0, 3.5))


def test_large_logits_stay_finite() -> None:
    logits = np.array([[1e4], [-1e4]], np.float32)
    terms = pg.categorical(logits, np.array([[1], [0]], np.float32))
    assert (terms.log_prob.item(), terms.entropy.item()) == (0, 0)
    bits = pg.bernoulli(logits, np.array([[1], [0]], np.float32))
    assert (bits.log_prob.item(), bits.entropy.item()) == (0, 0)


def sb3_loss(
    head: str, outputs: torch.Tensor, log_std: torch.Tensor, values: torch.Tensor, acts: torch.Tensor, batch: dict
) -> torch.Tensor:
    """The loss as Stable-Baselines3 puts it together, on its own distributions."""
    n = outputs.shape[1]
    distribution = {
        "categorical": lambda: distributions.CategoricalDistribution(n).proba_distribution(outputs),
        "multi": lambda: distributions.MultiCategoricalDistribution([1, n - 1]).proba_distribution(outputs),
        "bernoulli": lambda: distributions.BernoulliDistribution(n).proba_distribution(outputs),
        "gaussian": lambda: distributions.DiagGaussianDistribution(n).proba_distribution(outputs, log_std),
    }[head]()
    ratio = torch.exp(distribution.log_prob(acts) - batch["old_log_prob"])
    gain = torch.min(batch["adv"] * ratio, batch["adv"] * torch.clamp(ratio, 1 - batch["clip"], 1 + batch["clip"]))
    if batch["clip_vf"] is not None:
        moved = torch.clamp(values - batch["old_values"], -batch["clip_vf"], batch["clip_vf"])
        values = batch["old_values"] + moved
    error = nn.functional.mse_loss(batch["returns"], values)
    return -gain.mean() - batch["ent_coef"] * distribution.entropy().mean() + batch["vf_coef"] * error


@given(
    st.sampled_from(["categorical", "multi", "bernoulli", "gaussian"]),
    st.integers(0, 2**31 - 1),
    st.integers(1, 7),
    st.integers(2, 5),
    st.sampled_from([0.0, 0.01, 0.7]),
    st.sampled_from([0.05, 0.2, 1.5]),
    st.sampled_from([None, 0.1, 1.0]),
)
def test_gradients_are_autograds(
    head: str, seed: int, rows: int, n: int, ent_coef: float, clip: float, clip_vf: float | None
) -> None:
    """By the outputs, the log standard deviation and the value, to 1e-9 in float64."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    outputs, log_std, values = (x.requires_grad_() for x in (normal(rows, n), normal(n) * 0.3, normal(rows)))
    choice = torch.randint(n, (rows,), generator=g)
    parts = torch.stack([torch.zeros_like(choice), choice % (n - 1)], 1)
    bits = torch.randint(2, (rows, n), generator=g).double()
    acts = {"categorical": choice, "multi": parts, "bernoulli": bits, "gaussian": normal(rows, n)}[head]
    batch = {"adv": normal(rows), "returns": normal(rows), "old_values": normal(rows), "vf_coef": 0.5}
    batch |= {"ent_coef": ent_coef, "clip": clip, "clip_vf": clip_vf, "old_log_prob": torch.zeros(())}

    # Old log-likelihoods near the new ones, so that some ratios are clipped and some are not.
    logits, std = np.ascontiguousarray(outputs.detach().numpy().T), log_std.detach().numpy()
    dtype = np.dtype(np.float64)
    if head in ("categorical", "multi"):
        sizes = [n] if head == "categorical" else [1, n - 1]
        chosen = pg.indicators(np.atleast_2d(acts.numpy().T), sizes, dtype)
        many = pg.multi_categorical(logits, chosen, sizes)
        log_prob = np.add.reduce([part.log_prob for part in many], 0)
    elif head == "bernoulli":
        bit_terms = pg.bernoulli(logits, acts.numpy().T)
        log_prob = bit_terms.log_prob
    else:
        gaussian = pg.diagonal_gaussian(logits, std, acts.numpy().T)
        log_prob = gaussian.log_prob
    old_log_prob = log_prob + 0.3 * normal(rows).numpy()
    batch["old_log_prob"] = torch.from_numpy(old_log_prob)

    loss = sb3_loss(head, outputs, log_std, values, acts, batch)
    expected = torch.autograd.grad(loss, (outputs, log_std, values), allow_unused=True)

    ratio = np.exp(log_prob - old_log_prob)
    d_log_prob = -pg.clipped_surrogate_gradient(ratio, batch["adv"].numpy() / rows, clip)
    d_entropy = -ent_coef / rows
    d_values = pg.value_error_gradient(
        values.detach().numpy(), batch["returns"].numpy(), batch["old_values"].numpy(), clip_vf
    )
    if head == "gaussian":
        d_outputs, d_log_std = pg.diagonal_gaussian_gradient(gaussian, d_log_prob, d_entropy)
        assert np.abs(d_log_std - expected[1].numpy()).max() < 1e-9
    elif head == "bernoulli":
        d_outputs = pg.bernoulli_gradient(logits, bit_terms, acts.numpy().T, d_log_prob, d_entropy)
    else:
        d_outputs = pg.multi_categorical_gradient(many, chosen, d_log_prob, d_entropy)
    assert np.abs(d_outputs.T - expected[0].numpy()).max() < 1e-9
    assert np.abs(0.5 * d_values / rows - expected[2].numpy()).max() < 1e-9


def test_shapes_are_checked_in_tests() -> None:
    with pytest.raises(Exception, match="batch"):
        pg.clipped_surrogate(np.ones(3), np.ones(2), 0.2)
