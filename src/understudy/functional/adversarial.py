"""Telling expert from learner: the discriminator's loss, its regularisers, and the rewards made of its logits.

Sources: Ho & Ermon (2016), "Generative Adversarial Imitation Learning", https://arxiv.org/abs/1606.03476; Fu, Luo &
Levine (2018), "Learning Robust Rewards with Adversarial Inverse Reinforcement Learning",
https://arxiv.org/abs/1710.11248; Gulrajani et al. (2017), "Improved Training of Wasserstein GANs",
https://arxiv.org/abs/1704.00028; Kostrikov et al. (2019), "Discriminator-Actor-Critic",
https://arxiv.org/abs/1809.02925.

One sign throughout: a logit l is high for the expert, and D = sigmoid(l) is the probability of *expert*. Ho & Ermon
write D for the probability of *learner*; their D is 1 − D here. From D = 1 / (1 + exp(−l)) follow the two identities
that everything below is written with, and that no rounding breaks however large l is:

    log D       = −log(1 + exp(−l)) = −softplus(−l)
    log (1 − D) = −log(1 + exp(l))  = −softplus(l)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

SATURATED_LOGIT = math.log(99)
"""Beyond it the discriminator is surer than 99 %: abs(l) > log(0.99 / 0.01) ≈ 4.595."""


# --- what the discriminator minimises ---------------------------------------------------------------------------


def discriminator_loss(
    expert_logits: Float[Tensor, " expert"], learner_logits: Float[Tensor, " learner"], ent_weight: float = 0.0
) -> Float[Tensor, ""]:
    """Binary cross-entropy of telling expert from learner, less an entropy bonus.

    Ho & Ermon (2016), eq. 16, with the labels of this module: −E_expert[log D] − E_learner[log(1 − D)] − λ H̄. The two
    expectations are means of their own, so unequal numbers of rows do not shift the balance. At l = 0 everywhere the
    loss is 2 log 2. The cross-entropy averaged over both batches together, as many implementations have it, is half
    of this at equal sizes.

    Args:
        expert_logits: of the expert's transitions.
        learner_logits: of the learner's.
        ent_weight: λ ≥ 0, in front of the mean entropy of the Bernoulli(D) over the two batches, each weighing half:
            a discriminator that is sure of everything gives no gradient, and pays for it.
    """
    loss = F.softplus(-expert_logits).mean() + F.softplus(learner_logits).mean()
    if ent_weight:
        entropy = (bernoulli_entropy(expert_logits).mean() + bernoulli_entropy(learner_logits).mean()) / 2
        loss = loss - ent_weight * entropy
    return loss


def bernoulli_entropy(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """H(D) = −D log D − (1 − D) log(1 − D) = softplus(l) − l D, in nats: log 2 at l = 0, 0 at ±∞.

    With D = sigmoid(l): −D log D − (1 − D) log(1 − D) = D softplus(−l) + (1 − D) softplus(l), and
    softplus(−l) = softplus(l) − l. Written with abs(l), of which it is a function, so that nothing large cancels.
    """
    magnitude = logits.abs()
    return F.softplus(-magnitude) + magnitude * torch.sigmoid(-magnitude)


def interpolates(expert: Any, learner: Any, mix: Float[Tensor, " batch"]) -> Any:
    """x̂ = ε x + (1 − ε) x̃, one ε a row for all parts of the row; Gulrajani et al. (2017), sec. 4.

    Args:
        expert: x, a tensor with the batch on its first axis, or a dictionary, list or tuple of these.
        learner: x̃, of the same structure and shapes.
        mix: ε, uniform in [0, 1].
    """
    if isinstance(expert, Mapping):
        return {key: interpolates(part, learner[key], mix) for key, part in expert.items()}
    if isinstance(expert, (tuple, list)):
        return type(expert)(interpolates(x, y, mix) for x, y in zip(expert, learner, strict=True))
    weight = mix.reshape(-1, *[1] * (expert.ndim - 1)).to(expert.dtype)
    return torch.lerp(learner, expert, weight)


def gradient_penalty(
    discriminator: Callable[..., Tensor],
    expert: Sequence[Any],
    learner: Sequence[Any],
    mix: Float[Tensor, " batch"],
    target: float = 1.0,
) -> Float[Tensor, ""]:
    """E[(‖∇_x̂ l(x̂)‖₂ − 1)²] on interpolates between expert and learner; Gulrajani et al. (2017), eq. 3, without λ.

    The norm is over all entries of all inputs of a row. Gradients flow to the discriminator's parameters. A layer that
    gathers statistics in training mode would gather those of interpolates: call it with such layers in evaluation
    mode.

    Args:
        discriminator: called as ``discriminator(*inputs)``; logits of shape (batch,), each depending on its row only.
        expert: the inputs, floating point, each as in `interpolates`.
        learner: the same of the learner, as many rows.
        mix: ε, one a row.
        target: the norm that is aimed at; 0 penalises every slope.
    """
    inputs = interpolates(tuple(expert), tuple(learner), mix)
    found: list[Tensor] = []
    inputs = _requiring_grad(inputs, found)
    logits = discriminator(*inputs)
    grads = torch.autograd.grad(logits.sum(), found, create_graph=True, allow_unused=True)
    flat = [grad.reshape(len(mix), -1) for grad in grads if grad is not None]
    slopes: Tensor = torch.linalg.vector_norm(torch.cat(flat, 1), dim=1)
    return (slopes - target).square().mean()


def _requiring_grad(value: Any, found: list[Tensor]) -> Any:
    if isinstance(value, Mapping):
        return {key: _requiring_grad(part, found) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_requiring_grad(part, found) for part in value)
    found.append(value.detach().requires_grad_(True))
    return found[-1]


# --- what the learner maximises ---------------------------------------------------------------------------------


def minus_log_one_minus_d(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """−log(1 − D) = softplus(l) ≥ 0: what Ho & Ermon's implementation rewards (their −log D).

    Never negative, so every further step is worth something: a learner may prefer to survive rather than to imitate
    where episodes end by themselves (Kostrikov et al. 2019, sec. 4.1).
    """
    return F.softplus(logits)


def log_d(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Log D = −softplus(−l) ≤ 0: the saturating form of Ho & Ermon (2016), algorithm 1, line 5, as a reward.

    Never positive: each further step costs, so a learner may prefer to end the episode.
    """
    return -F.softplus(-logits)


def log_d_minus_log_one_minus_d(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Log D − log(1 − D) = l: Fu et al. (2018), sec. 4, where it equals f − log π.

    −softplus(−l) + softplus(l) = l, by softplus(l) − softplus(−l) = l. Of both signs, and unbounded.
    """
    return logits


REWARD_FORMS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "-log(1-D)": minus_log_one_minus_d,
    "log D": log_d,
    "log D - log(1-D)": log_d_minus_log_one_minus_d,
}
"""Rewards of a logit that is high for the expert, by the formula. All grow with the logit."""


def airl_logits(
    reward: Float[Tensor, " batch"], log_policy_act_prob: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """l = f − log π.

    Fu et al. (2018), eq. 3 and sec. 6: D = exp f / (exp f + π). Divided by π above and below,
    D = 1 / (1 + exp(−(f − log π))) = sigmoid(f − log π).

    Args:
        reward: f(s, a, s').
        log_policy_act_prob: log π(a | s) of the learner's policy as it is now, in the environment's units, for expert
            and learner rows alike.
    """
    return reward - log_policy_act_prob


# --- how it stands ----------------------------------------------------------------------------------------------


class DiscriminatorStatistics(NamedTuple):
    """Figures of one whole batch, each a scalar tensor, so that nothing waits for the device until it is logged.

    A figure of a class without rows is NaN.
    """

    loss: Tensor
    """Mean binary cross-entropy over all rows, in nats; log 2 is chance at equal classes."""
    accuracy: Tensor
    """Share of rows told right; expert is predicted where l > 0."""
    accuracy_expert: Tensor
    """The same over the expert's rows."""
    accuracy_learner: Tensor
    """The same over the learner's rows."""
    proportion_expert_true: Tensor
    """Share of the expert's rows among all."""
    proportion_expert_predicted: Tensor
    """Share of rows taken for the expert's."""
    entropy: Tensor
    """Mean entropy of Bernoulli(D), in nats: from 0 (sure of everything) to log 2."""
    saturation: Tensor
    """Share of rows of which the discriminator is surer than 99 %; there the gradient of D vanishes."""
    calibration_error: Tensor
    """Expected calibration error, from 0 to 1; see `expected_calibration_error`."""
    n_expert: Tensor
    """Rows of the expert."""
    n_learner: Tensor
    """Rows of the learner."""


@torch.no_grad()
def discriminator_statistics(
    logits: Float[Tensor, " batch"], expert_is_one: Bool[Tensor, " batch"], n_bins: int = 10
) -> DiscriminatorStatistics:
    """All figures in one pass, without a loop or a wait.

    Args:
        logits: of the whole batch; of minibatches put together, not of the last one.
        expert_is_one: True where the row is the expert's.
        n_bins: of the calibration error.
    """
    label = expert_is_one.to(logits.dtype)
    predicted = logits > 0
    right = (predicted == expert_is_one).to(logits.dtype)
    n = logits.new_full((), float(len(logits)))
    n_expert = label.sum()
    return DiscriminatorStatistics(
        loss=F.binary_cross_entropy_with_logits(logits, label),
        accuracy=right.sum() / n,
        accuracy_expert=(right * label).sum() / n_expert,
        accuracy_learner=(right * (1 - label)).sum() / (n - n_expert),
        proportion_expert_true=n_expert / n,
        proportion_expert_predicted=predicted.to(logits.dtype).sum() / n,
        entropy=bernoulli_entropy(logits).sum() / n,
        saturation=(logits.abs() > SATURATED_LOGIT).to(logits.dtype).sum() / n,
        calibration_error=expected_calibration_error(logits, expert_is_one, n_bins),
        n_expert=n_expert,
        n_learner=n - n_expert,
    )


@torch.no_grad()
def expected_calibration_error(
    logits: Float[Tensor, " batch"], expert_is_one: Bool[Tensor, " batch"], n_bins: int = 10
) -> Float[Tensor, ""]:
    """Σ_b (n_b / n) abs(mean of D in b − share of experts in b), over equal bins of D.

    Guo et al. (2017), "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599, eq. 3, for the
    probability of one of two classes.

    Args:
        logits: of the whole batch.
        expert_is_one: True where the row is the expert's.
        n_bins: how many bins [0, 1] is cut into; the last holds D = 1 too.
    """
    p = torch.sigmoid(logits)
    which = (p * n_bins).long().clamp(max=n_bins - 1)
    # |mean D − share| · n_b is the absolute sum of the differences: empty bins add 0.
    gaps = p.new_zeros(n_bins).index_add_(0, which, p - expert_is_one.to(p.dtype))
    return gaps.abs().sum() / len(logits)
