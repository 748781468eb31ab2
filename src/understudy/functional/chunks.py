"""Action chunks: the next k actions from one observation, and how overlapping chunks are joined.

Zhao et al. (2023), "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware", https://arxiv.org/abs/2304.13705
(ACT), sec. IV.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from understudy.functional.cloning import HeadTerms

_LOG_2PI = math.log(2 * math.pi)


def chunk_terms(
    log_prob: Float[Tensor, "batch step"], entropy: Float[Tensor, "batch step"], known: Bool[Tensor, "batch step"]
) -> HeadTerms:
    """Log-likelihood and entropy of chunks whose steps are independent given the observation: sums over known steps.

    Args:
        log_prob: of each step's action.
        entropy: of each step's distribution.
        known: False beyond the end of an episode; such steps count nothing, whatever stands there.
    """
    zero = log_prob.new_zeros(())
    return HeadTerms(torch.where(known, log_prob, zero).sum(-1), torch.where(known, entropy, zero).sum(-1))


def gaussian_steps(
    mean: Float[Tensor, "batch step act"], std: Float[Tensor, "step act"], acts: Float[Tensor, "batch step act"]
) -> HeadTerms:
    """Log-likelihood and entropy of each step under a diagonal Gaussian with a deviation of its own, (batch, step)."""
    log_std = std.log()
    log_prob = (-0.5 * ((acts - mean) / std).square() - log_std - 0.5 * _LOG_2PI).sum(-1)
    return HeadTerms(log_prob, (log_std + 0.5 + 0.5 * _LOG_2PI).sum(-1).expand_as(log_prob))


def gaussian_steps_gradient(
    mean: Float[Tensor, "batch step act"],
    std: Float[Tensor, "step act"],
    acts: Float[Tensor, "batch step act"],
    ent_weight: float,
    scale: Float[Tensor, "batch step"],
) -> tuple[Float[Tensor, "batch step act"], Float[Tensor, "step act"]]:
    """Gradients of Σ scale · (−log π − λ H) with respect to the means and the deviations.

    They are scale · (μ − a) / σ² and Σ scale · (1 − z² − λ) / σ, with z = (a − μ) / σ.

    Args:
        mean: of each step.
        std: of each step and entry, > 0.
        acts: the expert's actions; anything finite beyond the end of an episode.
        ent_weight: λ.
        scale: weight of each sample over the batch size; zero beyond the end of an episode.
    """
    inverse = std.reciprocal()
    z = (mean - acts) * inverse
    wide = scale.unsqueeze(-1)
    return wide * z * inverse, (wide * (1 - ent_weight - z.square())).sum(0) * inverse


# --- temporal ensembling ----------------------------------------------------------------------------------------------


def temporal_ensemble(predictions: Float[Tensor, "chunk *act"], decay: float) -> Float[Tensor, "*act"]:
    """The action for now from all chunks that foresaw it: Σ wᵢ aᵢ / Σ wᵢ with wᵢ = exp(−m i), sec. IV-A.

    Args:
        predictions: what each chunk holds for now, the oldest chunk (i = 0) first.
        decay: m ≥ 0; the smaller, the faster new observations count. 0 is the plain mean; 0.01 in the paper.
    """
    weights = torch.exp(-decay * torch.arange(len(predictions), dtype=predictions.dtype, device=predictions.device))
    found: Tensor = torch.tensordot(weights / weights.sum(), predictions, dims=1)
    return found


def join_chunk(
    total: Float[Tensor, "env step value"],
    count: Int[Tensor, "env step"],
    chunk: Float[Tensor, "env step value"],
    decay: float,
) -> tuple[Float[Tensor, "env step value"], Int[Tensor, "env step"]]:
    """Take a new chunk into the weighted sums of what was foreseen for the next steps; `temporal_ensemble` online.

    The i-th prediction of a step weighs exp(−m i), whatever comes later, so that k sums are all the memory there is.

    Args:
        total: Σ exp(−m i) aᵢ for now and the steps after it.
        count: how many predictions each holds.
        chunk: the newest predictions.
        decay: m.
    """
    weight = torch.exp(-decay * count.to(chunk.dtype)).unsqueeze(-1)
    return total + weight * chunk, count + 1


def joined(
    total: Float[Tensor, "env step value"], count: Int[Tensor, "env step"], decay: float
) -> Float[Tensor, "env value"]:
    """The weighted mean for now: the first step's sum over the sum of its weights.

    Args:
        total: of `join_chunk`.
        count: of `join_chunk`, ≥ 1 at the first step.
        decay: m.
    """
    n = count[:, :1].to(total.dtype)
    sums = n if decay == 0 else torch.expm1(-decay * n) / torch.expm1(-decay * torch.ones_like(n))
    return total[:, 0] / sums


def advance(
    total: Float[Tensor, "env step value"], count: Int[Tensor, "env step"]
) -> tuple[Float[Tensor, "env step value"], Int[Tensor, "env step"]]:
    """One step later: what was for the next step is for now, and of the last nothing is known yet."""
    return (
        torch.cat([total[:, 1:], torch.zeros_like(total[:, :1])], 1),
        torch.cat([count[:, 1:], torch.zeros_like(count[:, :1])], 1),
    )
