"""Proximal policy optimisation's loss and its gradient, in closed form.

Schulman et al. (2017), "Proximal Policy Optimization Algorithms", https://arxiv.org/abs/1707.06347. The loss of a
minibatch (eq. 9, signs turned for descent) is

    −mean L^CLIP  +  c₁ · mean (V − return)²  −  c₂ · mean H(π(· | o)).

It reaches a network only through log π(a | o), H and V. So the gradient comes in two halves: of the loss by these
three, and of log π and H by the actor's outputs, which is a matter of the distribution alone.

Arrays are NumPy's, of any floating dtype, and the batch is the *last* axis: sums over choices or over an action's
entries then run along whole rows, which at these sizes is what a step costs.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_LOG_2PI = math.log(2 * math.pi)


# --- the loss, by log-likelihood and value ----------------------------------------------------------------------


def clipped_surrogate(
    ratio: Float[np.ndarray, " batch"], advantages: Float[np.ndarray, " batch"], clip_range: float
) -> Float[np.ndarray, " batch"]:
    """L^CLIP = min(r A, clip(r, 1 − ε, 1 + ε) A), eq. 7; to be made large.

    Args:
        ratio: r = π(a | o) / π_old(a | o).
        advantages: A.
        clip_range: ε.
    """
    return np.asarray(np.minimum(ratio * advantages, _clipped(ratio, clip_range) * advantages))


def clipped_surrogate_gradient(
    ratio: Float[np.ndarray, " batch"], advantages: Float[np.ndarray, " batch"], clip_range: float
) -> Float[np.ndarray, " batch"]:
    """∂ L^CLIP / ∂ log π: r A, and 0 where the clipped term is the smaller one (then r no longer matters).

    Linear in A, so that a mean's 1/batch may be put there.
    """
    gain = ratio * advantages
    return np.asarray(gain * (gain <= _clipped(ratio, clip_range) * advantages))


def _clipped(ratio: np.ndarray, clip_range: float) -> np.ndarray:
    return np.asarray(np.minimum(np.maximum(ratio, 1 - clip_range), 1 + clip_range))


def clip_fraction(ratio: Float[np.ndarray, " batch"], clip_range: float) -> Float[np.ndarray, " batch"]:
    """1 where r has left [1 − ε, 1 + ε], else 0."""
    return np.asarray(np.abs(ratio - 1) > clip_range, ratio.dtype)


def approximate_kl(log_ratio: Float[np.ndarray, " batch"]) -> Float[np.ndarray, " batch"]:
    """r − 1 − log r, whose mean over actions of the old policy is KL(π_old ‖ π); never negative.

    The third estimator of Schulman (2020), http://joschu.net/blog/kl-approx.html.
    """
    return np.asarray(np.expm1(log_ratio) - log_ratio)


def value_error(
    values: Float[np.ndarray, " batch"],
    returns: Float[np.ndarray, " batch"],
    old_values: Float[np.ndarray, " batch"],
    clip_range: float | None = None,
) -> Float[np.ndarray, " batch"]:
    """L^VF = (V − return)², eq. 9.

    Args:
        values: V.
        returns: what V should have been, the advantage plus the old value.
        old_values: V when the data were collected; not used without ``clip_range``.
        clip_range: V counts as moved by at most this much; None leaves it as it is.
    """
    error = _moved(values, old_values, clip_range) - returns
    return np.asarray(error * error)


def value_error_gradient(
    values: Float[np.ndarray, " batch"],
    returns: Float[np.ndarray, " batch"],
    old_values: Float[np.ndarray, " batch"],
    clip_range: float | None = None,
) -> Float[np.ndarray, " batch"]:
    """∂ L^VF / ∂ V: 2 (V − return), and 0 where V has moved further than ``clip_range``."""
    if clip_range is None:
        return np.asarray(2 * (values - returns))
    inside = np.abs(values - old_values) <= clip_range
    return np.asarray(2 * (_moved(values, old_values, clip_range) - returns) * inside)


def _moved(values: np.ndarray, old_values: np.ndarray, clip_range: float | None) -> np.ndarray:
    if clip_range is None:
        return values
    return np.asarray(old_values + np.minimum(np.maximum(values - old_values, -clip_range), clip_range))


def normalized_advantages(advantages: Float[np.ndarray, "*minibatch batch"]) -> Float[np.ndarray, "*minibatch batch"]:
    """(A − mean) / (std + 1e-8) along the last axis; std divides by batch − 1. A batch of one stays as it is."""
    if advantages.shape[-1] < 2:
        return advantages
    centred = advantages - advantages.mean(-1, keepdims=True)
    return np.asarray(centred / (advantages.std(-1, ddof=1, keepdims=True) + 1e-8))


# --- one choice among n, or several choices at once -------------------------------------------------------------


class ChoiceTerms(NamedTuple):
    """What softmax distributions say of the choices made."""

    log_prob: Float[np.ndarray, " batch"]
    """log π(a | o), in nats; summed over the choices."""

    entropy: Float[np.ndarray, " batch"]
    """H(π(· | o)), in nats; summed over the choices."""

    log_p: Float[np.ndarray, "n batch"]
    """Normalised log-probability of each option."""

    p: Float[np.ndarray, "n batch"]
    """Probability of each option."""


def indicators(acts: Int[np.ndarray, "parts batch"], sizes: list[int], dtype: np.dtype) -> np.ndarray:
    """1 at the options chosen, else 0: the form in which choices are asked for below, shape (Σ sizes, batch).

    Args:
        acts: index of the choice in each part.
        sizes: how many options each part has.
        dtype: that of the logits.
    """
    starts = np.cumsum([0, *sizes[:-1]])
    chosen = np.zeros((sum(sizes), acts.shape[1]), dtype)
    chosen[acts + starts[:, None], np.arange(acts.shape[1])] = 1
    return chosen


def categorical(logits: Float[np.ndarray, "n batch"], chosen: Float[np.ndarray, "n batch"]) -> ChoiceTerms:
    """Log-likelihood and entropy of softmax(logits).

    Args:
        logits: unnormalised log-probabilities.
        chosen: from ``indicators``.
    """
    log_p = logits - np.maximum.reduce(logits, 0)
    p = np.exp(log_p)
    total = np.add.reduce(p, 0)
    log_p -= np.log(total)
    p /= total
    return ChoiceTerms(np.add.reduce(log_p * chosen, 0), -np.add.reduce(log_p * p, 0), log_p, p)


def categorical_gradient(
    terms: ChoiceTerms,
    chosen: Float[np.ndarray, "n batch"],
    d_log_prob: Float[np.ndarray, " batch"],
    d_entropy: float,
) -> Float[np.ndarray, "n batch"]:
    """∂/∂logits of Σ (d_log_prob · log π + d_entropy · H), that is d_log_prob (e_a − p) − d_entropy p (log p + H).

    Args:
        terms: from ``categorical``.
        chosen: the same as there, e_a.
        d_log_prob: what multiplies each sample's log-likelihood.
        d_entropy: what multiplies every sample's entropy.
    """
    gradient = d_log_prob * (chosen - terms.p)
    if d_entropy:
        gradient -= d_entropy * terms.p * (terms.log_p + terms.entropy)
    return np.asarray(gradient)


def multi_categorical(
    logits: Float[np.ndarray, "n batch"], chosen: Float[np.ndarray, "n batch"], sizes: list[int]
) -> tuple[ChoiceTerms, ...]:
    """Independent choices side by side, n = Σ sizes: one part after the other; likelihoods and entropies add up."""
    bounds = np.cumsum([0, *sizes])
    return tuple(categorical(logits[a:b], chosen[a:b]) for a, b in itertools.pairwise(bounds))


def multi_categorical_gradient(
    terms: tuple[ChoiceTerms, ...],
    chosen: Float[np.ndarray, "n batch"],
    d_log_prob: Float[np.ndarray, " batch"],
    d_entropy: float,
) -> Float[np.ndarray, "n batch"]:
    """As ``categorical_gradient``, part by part."""
    gradient = np.empty_like(chosen)
    start = 0
    for part in terms:
        stop = start + len(part.p)
        gradient[start:stop] = categorical_gradient(part, chosen[start:stop], d_log_prob, d_entropy)
        start = stop
    return gradient


# --- independent bits -------------------------------------------------------------------------------------------


class BitTerms(NamedTuple):
    """What independent bits say of those drawn."""

    log_prob: Float[np.ndarray, " batch"]
    """log π(a | o), in nats; summed over the bits."""

    entropy: Float[np.ndarray, " batch"]
    """H(π(· | o)), in nats; summed over the bits."""

    p: Float[np.ndarray, "bits batch"]
    """Probability of a 1."""


def bernoulli(logits: Float[np.ndarray, "bits batch"], acts: Float[np.ndarray, "bits batch"]) -> BitTerms:
    """Bits that are 1 with probability sigmoid(logit): log π = a l − softplus(l), H = softplus(l) − l σ(l)."""
    softplus = np.logaddexp(logits.dtype.type(0), logits)
    p = np.exp(logits - softplus)
    return BitTerms(np.add.reduce(acts * logits - softplus, 0), np.add.reduce(softplus - logits * p, 0), p)


def bernoulli_gradient(
    logits: Float[np.ndarray, "bits batch"],
    terms: BitTerms,
    acts: Float[np.ndarray, "bits batch"],
    d_log_prob: Float[np.ndarray, " batch"],
    d_entropy: float,
) -> Float[np.ndarray, "bits batch"]:
    """∂/∂logits of Σ (d_log_prob · log π + d_entropy · H), that is d_log_prob (a − p) − d_entropy l p (1 − p)."""
    gradient = d_log_prob * (acts - terms.p)
    if d_entropy:
        gradient -= d_entropy * logits * terms.p * (1 - terms.p)
    return np.asarray(gradient)


# --- diagonal Gaussian ------------------------------------------------------------------------------------------


class GaussianTerms(NamedTuple):
    """What a diagonal Gaussian says of the actions drawn."""

    log_prob: Float[np.ndarray, " batch"]
    """log π(a | o), in nats."""

    entropy: float
    """H, in nats; the same for every observation."""

    z: Float[np.ndarray, "act batch"]
    """(a − mean) / σ."""

    inverse_std: Float[np.ndarray, "act 1"]
    """1 / σ."""


def diagonal_gaussian(
    mean: Float[np.ndarray, "act batch"], log_std: Float[np.ndarray, " act"], acts: Float[np.ndarray, "act batch"]
) -> GaussianTerms:
    """N(mean, diag(exp(log_std)²)) with a standard deviation that does not depend on the observation."""
    inverse_std = np.exp(-log_std)[:, None]
    z = (acts - mean) * inverse_std
    n, total = len(log_std), float(np.add.reduce(log_std))
    log_prob = np.add.reduce(z * z, 0) * -0.5 - (total + 0.5 * n * _LOG_2PI)
    return GaussianTerms(log_prob, total + 0.5 * n * (1 + _LOG_2PI), z, inverse_std)


def diagonal_gaussian_gradient(
    terms: GaussianTerms, d_log_prob: Float[np.ndarray, " batch"], d_entropy: float
) -> tuple[Float[np.ndarray, "act batch"], Float[np.ndarray, " act"]]:
    """Gradients of Σ (d_log_prob · log π + d_entropy · H) by the mean and by the log standard deviation.

    They are d_log_prob z / σ and Σ (d_log_prob (z² − 1) + d_entropy).
    """
    weighted = d_log_prob * terms.z
    d_log_std = np.add.reduce(weighted * terms.z, 1) + (len(d_log_prob) * d_entropy - np.add.reduce(d_log_prob))
    return np.asarray(weighted * terms.inverse_std), np.asarray(d_log_std)
