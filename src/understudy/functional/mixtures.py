"""Mixtures of diagonal Gaussians: several right answers to one observation.

Bishop (1994), "Mixture Density Networks", https://publications.aston.ac.uk/id/eprint/373/; equations are numbered as in
Bishop (2006), "Pattern Recognition and Machine Learning", sec. 5.6. As a head for cloning: Mandlekar et al. (2021),
"What Matters in Learning from Offline Human Demonstrations", https://arxiv.org/abs/2108.03298 (BC-GMM).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from understudy.functional.cloning import HeadTerms

_LOG_2PI = math.log(2 * math.pi)


class MixtureGradient(NamedTuple):
    """A gradient by the parameters of a mixture."""

    logits: Tensor
    """Shape (batch, comp)."""

    mean: Tensor
    """Shape (batch, comp, act)."""

    std: Tensor
    """Shape (batch, comp, act)."""


def mixture(
    logits: Float[Tensor, "batch comp"],
    mean: Float[Tensor, "batch comp act"],
    std: Float[Tensor, "batch comp act"],
    acts: Float[Tensor, "batch act"],
) -> HeadTerms:
    """Log-likelihood of actions under a mixture, and `mixture_entropy`.

    Args:
        logits: the weights are softmax(logits), eq. 5.150.
        mean: of each component.
        std: of each component and entry, > 0.
        acts: the expert's actions.
    """
    return HeadTerms(mixture_log_prob(logits, mean, std, acts), mixture_entropy(logits, mean, std))


def mixture_log_prob(
    logits: Float[Tensor, "batch comp"],
    mean: Float[Tensor, "batch comp act"],
    std: Float[Tensor, "batch comp act"],
    acts: Float[Tensor, "batch act"],
) -> Float[Tensor, " batch"]:
    """log Σₖ wₖ N(a; μₖ, diag σₖ²), eq. 5.148, by the log of a sum of exponentials, so that nothing underflows.

    Args:
        logits: the weights are softmax(logits), eq. 5.150.
        mean: of each component.
        std: of each component and entry, > 0.
        acts: where to evaluate it.
    """
    return torch.logsumexp(_joint(logits, mean, std, acts), -1)


def responsibilities(
    logits: Float[Tensor, "batch comp"],
    mean: Float[Tensor, "batch comp act"],
    std: Float[Tensor, "batch comp act"],
    acts: Float[Tensor, "batch act"],
) -> Float[Tensor, "batch comp"]:
    """Probability that each component made the action, γₖ of eq. 5.154.

    The gradient by the logits in short: ∂ log p / ∂ logits = γ − w, eq. 5.155.
    """
    return _joint(logits, mean, std, acts).softmax(-1)


def _joint(logits: Tensor, mean: Tensor, std: Tensor, acts: Tensor) -> Tensor:
    """log wₖ N(a; μₖ, diag σₖ²), shape (batch, comp)."""
    z = (acts.unsqueeze(-2) - mean) / std
    log_component = -0.5 * z.square().sum(-1) - std.log().sum(-1) - 0.5 * _LOG_2PI * mean.shape[-1]
    return F.log_softmax(logits, -1) + log_component


def mixture_entropy(
    logits: Float[Tensor, "batch comp"],
    mean: Float[Tensor, "batch comp act"],
    std: Float[Tensor, "batch comp act"],
) -> Float[Tensor, " batch"]:
    """An estimate of a mixture's entropy, which has no closed form; never above it.

    Kolchinsky & Tracey (2017), "Estimating Mixture Entropy with Pairwise Distances", https://arxiv.org/abs/1706.02419,
    eq. 10: Ĥ = Σᵢ wᵢ Hᵢ − Σᵢ wᵢ log Σⱼ wⱼ exp(−Dᵢⱼ), with the Bhattacharyya distance for D, which makes it a lower
    bound. It is exact where all components coincide, and where they lie far apart; no sample is drawn.

    Args:
        logits: the weights are softmax(logits).
        mean: of each component.
        std: of each component and entry, > 0.
    """
    log_weights = F.log_softmax(logits, -1)
    log_overlap, _, _ = _overlaps(log_weights, mean, std)
    surprise = _gaussian_entropy(std) - torch.logsumexp(log_overlap, -1)
    return (log_weights.exp() * surprise).sum(-1)


def _gaussian_entropy(std: Tensor) -> Tensor:
    return (std.log() + 0.5 + 0.5 * _LOG_2PI).sum(-1)


def _overlaps(log_weights: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log wⱼ − Dᵢⱼ, (batch, comp, comp); μᵢ − μⱼ and σᵢ² + σⱼ², (batch, comp, comp, act)."""
    variance = std.square()
    sums = variance.unsqueeze(-2) + variance.unsqueeze(-3)
    differences = mean.unsqueeze(-2) - mean.unsqueeze(-3)
    log_std = std.log().sum(-1)
    products = log_std.unsqueeze(-1) + log_std.unsqueeze(-2)
    distance = (0.25 * differences.square() / sums + 0.5 * (0.5 * sums).log()).sum(-1) - 0.5 * products
    return log_weights.unsqueeze(-2) - distance, differences, sums


def mixture_gradient(
    logits: Float[Tensor, "batch comp"],
    mean: Float[Tensor, "batch comp act"],
    std: Float[Tensor, "batch comp act"],
    acts: Float[Tensor, "batch act"],
    ent_weight: float,
    scale: Float[Tensor, "batch 1"] | float,
) -> MixtureGradient:
    """Gradients of Σ scale · (−log p(a) − λ Ĥ) in closed form.

    Those of −log p are eqs. 5.155 to 5.157: w − γ for the logits, γ (μ − a) / σ² for the means, and γ (1 − z²) / σ for
    the deviations, with z = (a − μ) / σ.

    Args:
        logits: the weights are softmax(logits).
        mean: of each component.
        std: of each component and entry, > 0.
        acts: the expert's actions.
        ent_weight: λ.
        scale: weight of each sample over the batch size; a number where all weigh the same.
    """
    log_weights = F.log_softmax(logits, -1)
    weights = log_weights.exp()
    inverse = std.reciprocal()
    z = (acts.unsqueeze(-2) - mean) * inverse
    gamma = (log_weights - 0.5 * z.square().sum(-1) - std.log().sum(-1)).softmax(-1)
    shares = gamma.unsqueeze(-1) * inverse
    by_logits, by_mean, by_std = weights - gamma, -shares * z, shares * (1 - z.square())
    if ent_weight:
        more = _entropy_gradient(log_weights, weights, mean, std)
        by_logits, by_mean, by_std = (
            torch.sub(own, other, alpha=ent_weight)
            for own, other in zip((by_logits, by_mean, by_std), more, strict=True)
        )
    wide = scale if isinstance(scale, float) else scale.unsqueeze(-1)
    return MixtureGradient(by_logits * scale, by_mean * wide, by_std * wide)


def _entropy_gradient(log_weights: Tensor, weights: Tensor, mean: Tensor, std: Tensor) -> MixtureGradient:
    """Of `mixture_entropy`. With qᵢⱼ the share of component j in the overlap of i, pairs pull with wᵢ qᵢⱼ + wⱼ qⱼᵢ."""
    log_overlap, differences, sums = _overlaps(log_weights, mean, std)
    log_total = torch.logsumexp(log_overlap, -1, keepdim=True)
    pull = weights.unsqueeze(-1) * (log_overlap - log_total).exp()
    by_log_weight = weights * (_gaussian_entropy(std) - log_total.squeeze(-1)) - pull.sum(-2)
    by_logits = by_log_weight - weights * by_log_weight.sum(-1, keepdim=True)
    pairs = (pull + pull.transpose(-1, -2)).unsqueeze(-1)
    ratio = 0.5 * differences / sums
    by_mean = (pairs * ratio).sum(-2)
    by_std = 2 * std * (pairs * (0.5 / sums - ratio.square())).sum(-2)
    by_std = by_std + (weights.unsqueeze(-1) - 0.5 * pairs.sum(-2)) / std
    return MixtureGradient(by_logits, by_mean, by_std)


def sample_mixture(
    logits: Float[Tensor, "batch comp"],
    mean: Float[Tensor, "batch comp act"],
    std: Float[Tensor, "batch comp act"] | float,
    uniform: Float[Tensor, " batch"],
    noise: Float[Tensor, "batch act"],
) -> Float[Tensor, "batch act"]:
    """Actions of the mixture, from given randomness: a component by its weight, then its Gaussian.

    Args:
        logits: the weights are softmax(logits).
        mean: of each component.
        std: of each component and entry; one number for all.
        uniform: draws from U[0, 1), which choose the components by the cumulative weights.
        noise: draws from N(0, 1).
    """
    cumulative = logits.softmax(-1).cumsum(-1)
    chosen = (uniform.unsqueeze(-1) >= cumulative).sum(-1).clamp(max=logits.shape[-1] - 1)
    own_mean = of_component(mean, chosen)
    return own_mean + noise * (std if isinstance(std, float) else of_component(std, chosen))


def likeliest_mean(
    logits: Float[Tensor, "batch comp"], mean: Float[Tensor, "batch comp act"]
) -> Float[Tensor, "batch act"]:
    """Mean of the component with the largest weight: the mixture's own mode has no closed form."""
    return of_component(mean, logits.argmax(-1))


def of_component(values: Float[Tensor, "batch comp act"], chosen: Tensor) -> Float[Tensor, "batch act"]:
    """The row of one component for each sample; ``chosen`` has the shape (batch,)."""
    return values.gather(-2, chosen[:, None, None].expand(-1, 1, values.shape[-1])).squeeze(-2)
