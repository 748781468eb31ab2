"""Losses of cloning by any network: one value for each element of a batch, whatever the shape of an action.

Supervised learning of actions as in Pomerleau (1991), https://doi.org/10.1162/neco.1991.3.1.88, in the form that
TF-Agents' ``BehavioralCloningAgent`` gives it: each part of a structured action has a loss of its own, the parts'
losses add up, weights multiply, and the mean divides by the number of elements, not by the sum of the weights.

Here `outer` stands for the axes of the batch: ``batch``, or ``batch time``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

# --- one part of an action ------------------------------------------------------------------------------------------


def choice_error(
    logits: Float[Tensor, "*outer n"], acts: Int[Tensor, "*outer"], start: int = 0
) -> Float[Tensor, "*outer"]:
    """Cross-entropy of one choice among n, −log softmax(logits)[a − start], in nats.

    Args:
        logits: unnormalised log-probabilities.
        acts: the expert's choice, in [start, start + n).
        start: the smallest action.
    """
    return -F.log_softmax(logits, -1).gather(-1, (acts - start).unsqueeze(-1)).squeeze(-1)


def choices_error(
    logits: Float[Tensor, "*outer n"], acts: Int[Tensor, "*outer parts"], starts: list[int], sizes: list[int]
) -> Float[Tensor, "*outer"]:
    """Cross-entropy of several independent choices, summed over them.

    Args:
        logits: the parts' logits side by side, n = Σ sizes.
        acts: the expert's choice in each part.
        starts: smallest action of each part.
        sizes: how many options each part has.
    """
    parts = zip(logits.split(sizes, -1), acts.unbind(-1), starts, strict=True)
    return torch.stack([choice_error(part, chosen, start) for part, chosen, start in parts]).sum(0)


def bits_error(logits: Float[Tensor, "*outer bits"], acts: Float[Tensor, "*outer bits"]) -> Float[Tensor, "*outer"]:
    """Cross-entropy of independent bits, each 1 with probability sigmoid(logit), summed over them."""
    return F.binary_cross_entropy_with_logits(logits, acts, reduction="none").sum(-1)


def values_error(
    predicted: Float[Tensor, "*shape"], expert: Float[Tensor, "*shape"], n_outer: int
) -> Float[Tensor, "..."]:
    """Squared error, averaged over the axes of an action; shape (*outer), also for scalar actions.

    Args:
        predicted: shape (*outer, *act).
        expert: shape (*outer, *act).
        n_outer: how many axes `outer` has.
    """
    squared = (predicted - expert).square()
    return squared.flatten(n_outer).mean(-1) if squared.dim() > n_outer else squared


def surprise(log_prob: Float[Tensor, "*shape"], n_outer: int) -> Float[Tensor, "..."]:
    """Negative log-likelihood, summed over the axes of an action; shape (*outer).

    Args:
        log_prob: shape (*outer, …): a distribution of independent entries gives one value for each of them.
        n_outer: how many axes `outer` has.
    """
    return -(log_prob.flatten(n_outer).sum(-1) if log_prob.dim() > n_outer else log_prob)


# --- from elements to one number ------------------------------------------------------------------------------------


def no_nan_product(values: Float[Tensor, "*shape"], weights: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """values · weights, where a weight of zero gives zero even if the value is NaN or infinite."""
    return torch.where(weights == 0, torch.zeros_like(values), values * weights)


def aggregate(per_element: Float[Tensor, "batch ..."], weights: Tensor | None = None) -> Float[Tensor, ""]:
    """Mean of weighted losses over all axes: with equal weights of 1, the plain mean.

    Args:
        per_element: loss of each element.
        weights: of no, one or more of the leading axes of ``per_element``; the last axes share a weight. Elements
            count in the mean whatever their weight.
    """
    if weights is not None:
        fewer = per_element.dim() - weights.dim()
        weights = weights.reshape(*weights.shape, *[1] * fewer) if weights.dim() else weights
        per_element = no_nan_product(per_element, weights.to(per_element.dtype).expand_as(per_element))
    return per_element.flatten(1).mean(-1).mean() if per_element.dim() > 1 else per_element.mean()


# --- gradients --------------------------------------------------------------------------------------------------------


def clip_each(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    """Scale each gradient whose Euclidean norm exceeds ``max_norm`` down to it, one by one."""
    return [g * (max_norm / torch.linalg.vector_norm(g).clamp(min=max_norm)) for g in gradients]


def clip_together(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    """Scale all gradients alike so that their common Euclidean norm is at most ``max_norm``."""
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    scale = max_norm / norm.clamp(min=max_norm)
    return [g * scale for g in gradients]


# --- acting -----------------------------------------------------------------------------------------------------------


def explores(uniform: Float[Tensor, " batch"], epsilon: float) -> Bool[Tensor, " batch"]:
    """Where an ε-greedy policy acts at random: where its draw from U[0, 1) lies below ε."""
    return uniform < epsilon
