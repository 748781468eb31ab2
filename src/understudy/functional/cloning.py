"""Losses of behavioural cloning.

Maximum likelihood of the expert's actions, Pomerleau (1991), "Efficient Training of Artificial Neural Networks for
Autonomous Navigation", https://doi.org/10.1162/neco.1991.3.1.88, as stated for stochastic policies in Ross, Gordon &
Bagnell (2011), https://arxiv.org/abs/1011.0686, sec. 2; the entropy bonus is Ziebart's (2010) causal entropy at one
step.

Each head comes as a pair: the log-likelihood and entropy of its distribution, and the gradient of the cloning loss
with respect to the head's outputs in closed form, so that a plain network trains without a graph.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

_LOG_2PI = math.log(2 * math.pi)


class HeadTerms(NamedTuple):
    """What a distribution says of the expert's actions, one value a sample."""

    log_prob: Tensor
    """log π(a | o), shape (batch,), in nats."""

    entropy: Tensor
    """H(π(· | o)), shape (batch,), in nats."""


def cloning_loss(
    log_prob: Float[Tensor, " batch"],
    entropy: Float[Tensor, " batch"],
    ent_weight: float,
    weights: Float[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Negative log-likelihood of the expert's actions less an entropy bonus: −mean(w (log π + λ H)).

    Args:
        log_prob: log π(a | o) of the expert's action.
        entropy: entropy of the policy at the same observation.
        ent_weight: λ; 0 is plain maximum likelihood.
        weights: w, one a sample; None means 1. The mean divides by the number of samples, not by Σw.
    """
    gain = log_prob + ent_weight * entropy
    return -(gain if weights is None else weights * gain).mean()


def l2_norm(parameters: list[Tensor]) -> Float[Tensor, ""]:
    """Half the sum of squares of all parameters: ½ Σ θ²; its gradient is θ."""
    return 0.5 * torch.stack([p.detach().square().sum() for p in parameters]).sum()


def squared_error(predicted: Float[Tensor, "batch act"], expert: Float[Tensor, "batch act"]) -> Float[Tensor, " batch"]:
    """Mean squared error over the action's entries, one value a sample: the loss of a deterministic policy."""
    return (predicted - expert).square().mean(-1)


# --- categorical: one choice among n ----------------------------------------------------------------------------


def categorical(logits: Float[Tensor, "batch n"], acts: Int[Tensor, " batch"]) -> HeadTerms:
    """Log-likelihood and entropy of softmax(logits)."""
    log_p = F.log_softmax(logits, -1)
    return HeadTerms(log_p.gather(-1, acts[:, None]).squeeze(-1), -(log_p.exp() * log_p).sum(-1))


def categorical_gradient(
    logits: Float[Tensor, "batch n"],
    acts: Int[Tensor, " batch"],
    ent_weight: float,
    scale: Float[Tensor, "batch 1"] | float,
) -> Float[Tensor, "batch n"]:
    """∂/∂logits of Σ scale · (−log p_a − λ H), that is scale · (p − e_a + λ p (log p + H)).

    Args:
        logits: unnormalised log-probabilities.
        acts: index of the expert's choice.
        ent_weight: λ.
        scale: weight of each sample over the batch size; a number where all weigh the same.
    """
    log_p = torch.log_softmax(logits, -1)
    p = log_p.exp()
    if ent_weight:
        negative_entropy = (p * log_p).sum(-1, keepdim=True)
        p = torch.addcmul(p, p, log_p.sub_(negative_entropy), value=ent_weight)
    return p.scatter_(-1, acts[:, None], -1.0, reduce="add").mul_(scale)


# --- several choices at once ------------------------------------------------------------------------------------


def multi_categorical(
    logits: Float[Tensor, "batch n"], acts: Int[Tensor, "batch parts"], sizes: list[int]
) -> HeadTerms:
    """Independent choices: log-likelihoods and entropies add up over the parts.

    Args:
        logits: the parts' logits side by side, n = Σ sizes.
        acts: index of the choice in each part.
        sizes: how many options each part has.
    """
    terms = [categorical(part, acts[:, i]) for i, part in enumerate(logits.split(sizes, -1))]
    return HeadTerms(torch.stack([t.log_prob for t in terms]).sum(0), torch.stack([t.entropy for t in terms]).sum(0))


def multi_categorical_gradient(
    logits: Float[Tensor, "batch n"],
    acts: Int[Tensor, "batch parts"],
    ent_weight: float,
    scale: Float[Tensor, "batch 1"] | float,
    sizes: list[int],
) -> Float[Tensor, "batch n"]:
    """As ``categorical_gradient``, part by part."""
    parts = logits.split(sizes, -1)
    return torch.cat([categorical_gradient(part, acts[:, i], ent_weight, scale) for i, part in enumerate(parts)], -1)


def bernoulli(logits: Float[Tensor, "batch bits"], acts: Float[Tensor, "batch bits"]) -> HeadTerms:
    """Independent bits with probability sigmoid(logit) of being 1."""
    log_prob = -F.binary_cross_entropy_with_logits(logits, acts, reduction="none").sum(-1)
    # H = softplus(l) − l σ(l)
    return HeadTerms(log_prob, (F.softplus(logits) - logits * torch.sigmoid(logits)).sum(-1))


def bernoulli_gradient(
    logits: Float[Tensor, "batch bits"],
    acts: Float[Tensor, "batch bits"],
    ent_weight: float,
    scale: Float[Tensor, "batch 1"] | float,
) -> Float[Tensor, "batch bits"]:
    """∂/∂logits of Σ scale · (−log p(a) − λ H), that is scale · (p − a + λ l p (1 − p))."""
    p = torch.sigmoid(logits)
    return (p - acts + ent_weight * logits * p * (1 - p)).mul_(scale)


# --- diagonal Gaussian ------------------------------------------------------------------------------------------


def diagonal_gaussian(
    mean: Float[Tensor, "batch act"], log_std: Float[Tensor, " act"], acts: Float[Tensor, "batch act"]
) -> HeadTerms:
    """N(mean, diag(exp(log_std)²)) with a standard deviation that does not depend on the observation."""
    z = (acts - mean) * torch.exp(-log_std)
    log_prob = -0.5 * z.square().sum(-1) - log_std.sum() - 0.5 * _LOG_2PI * mean.shape[-1]
    entropy = (log_std + 0.5 + 0.5 * _LOG_2PI).sum()
    return HeadTerms(log_prob, entropy.expand_as(log_prob))


def diagonal_gaussian_gradient(
    mean: Float[Tensor, "batch act"],
    log_std: Float[Tensor, " act"],
    acts: Float[Tensor, "batch act"],
    ent_weight: float,
    scale: Float[Tensor, "batch 1"] | float,
) -> tuple[Float[Tensor, "batch act"], Float[Tensor, " act"]]:
    """Gradients of Σ scale · (−log π − λ H) with respect to the mean and the log standard deviation.

    They are scale · (mean − a) / σ² and Σ scale · (1 − z² − λ), with z = (a − mean) / σ.
    """
    inverse_std = torch.exp(-log_std)
    z = (mean - acts).mul_(inverse_std)
    d_log_std = torch.addcmul(z.new_full((), 1.0 - ent_weight), z, z, value=-1.0)
    if isinstance(scale, float):
        return z.mul_(inverse_std * scale), d_log_std.sum(0).mul_(scale)
    return z.mul_(inverse_std).mul_(scale), d_log_std.mul_(scale).sum(0)
