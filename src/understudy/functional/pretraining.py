"""Losses that start a reinforcement learner from demonstrations.

Actors: the cross-entropy of Q-values read as logits, and the error of a deterministic action in the environment's
units. Critics: the demonstrations' discounted returns as targets, and margins that keep the expert's action the best
one. The margin for choices is that of Hester et al. (2018), "Deep Q-learning from Demonstrations",
https://arxiv.org/abs/1704.03732, eq. 2; the bowl carries it over to continuous actions.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def q_cross_entropy(q_values: Float[Tensor, "batch n"], acts: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """−log softmax(Q(o, ·))_a in nats, one value a sample: Q-values are read as logits.

    Args:
        q_values: value of each choice.
        acts: index of the expert's choice.
    """
    return F.cross_entropy(q_values, acts, reduction="none")


def unscale_action(
    scaled: Float[Tensor, "batch act"], low: Float[Tensor, " act"], high: Float[Tensor, " act"]
) -> Float[Tensor, "batch act"]:
    """From [−1, 1] to [low, high]: low + (a + 1)(high − low)/2."""
    return low + 0.5 * (scaled + 1.0) * (high - low)


def scale_action(
    acts: Float[Tensor, "batch act"], low: Float[Tensor, " act"], high: Float[Tensor, " act"]
) -> Float[Tensor, "batch act"]:
    """From [low, high] to [−1, 1]: 2 (a − low)/(high − low) − 1."""
    return 2.0 * (acts - low) / (high - low) - 1.0


def deterministic_action_error(
    scaled: Float[Tensor, "batch act"],
    expert: Float[Tensor, "batch act"],
    low: Float[Tensor, " act"],
    high: Float[Tensor, " act"],
) -> Float[Tensor, " batch"]:
    """Mean over the action's entries of (μ − a)², both in the environment's units, one value a sample.

    Args:
        scaled: the actor's action, in [−1, 1].
        expert: the expert's action, in [low, high].
        low: smallest action.
        high: largest action.
    """
    return (unscale_action(scaled, low, high) - expert).square().mean(-1)


def margin_of_choice(
    q_values: Float[Tensor, "batch n"], acts: Int[Tensor, " batch"], margin: float
) -> Float[Tensor, " batch"]:
    """max_a [Q(o, a) + margin · 1(a ≠ a_E)] − Q(o, a_E) ≥ 0, one value a sample (Hester et al. 2018, eq. 2).

    Zero exactly where the expert's choice leads every other by the margin.

    Args:
        q_values: value of each choice.
        acts: index a_E of the expert's choice.
        margin: by how much it should lead, in units of return.
    """
    ahead = torch.full_like(q_values, margin).scatter_(-1, acts[:, None], 0.0)
    return (q_values + ahead).amax(-1) - q_values.gather(-1, acts[:, None]).squeeze(-1)


def bowl_target(
    returns: Float[Tensor, " batch"],
    scaled: Float[Tensor, "batch act"],
    expert: Float[Tensor, "batch act"],
    depth: float,
) -> Float[Tensor, " batch"]:
    """What an action near the expert's is taken to be worth: G − depth · mean((a − a_E)²), actions in [−1, 1].

    A critic that has only seen the expert's actions says nothing of their neighbours, and an actor that climbs it
    leaves the demonstrations at once. The bowl gives the neighbours a value whose peak is the expert's action.

    Args:
        returns: G, the expert's discounted return.
        scaled: the action to be valued.
        expert: a_E, the expert's action.
        depth: how much an action at distance 1 in every entry loses, in units of return.
    """
    return returns - depth * (scaled - expert).square().mean(-1)


def anchored_loss(
    scaled: Float[Tensor, "batch act"], anchor: Float[Tensor, "batch act"], q_values: Float[Tensor, "batch critic"]
) -> Float[Tensor, ""]:
    """mean ``|Q|`` · mean over the batch of ‖a − a_anchor‖², beside an actor's loss −Q.

    Fujimoto & Gu (2021), "A Minimalist Approach to Offline Reinforcement Learning", https://arxiv.org/abs/2106.06860,
    eqs. 3–5, with λ = α / mean ``|Q|`` taken to the other term: −Q + (mean ``|Q|`` / α) ‖a − a_anchor‖².

    Args:
        scaled: the actor's action a, in [−1, 1].
        anchor: where it shall stay, in [−1, 1].
        q_values: of the actor's action; of several critics their mean is taken. No gradient passes through.
    """
    scale = q_values.detach().mean(1).abs().mean()
    return scale * (scaled - anchor).square().sum(1).mean()


def discounted_returns(
    rews: Float[np.ndarray, " time"],
    ends: Bool[np.ndarray, " time"],
    after_end: Float[np.ndarray, " time"],
    discount: float,
) -> Float[np.ndarray, " time"]:
    """G_t = r_t + γ G_{t+1} within each episode; at its last step G_t = r_t + γ · (value after the end).

    Args:
        rews: rewards of all episodes, one after the other.
        ends: True at each episode's last step; the last entry must be.
        after_end: value of what would have followed, read at last steps only: 0 where the environment terminated, a
            critic's estimate where a time limit (or the end of the recording) cut the episode.
        discount: γ in [0, 1].
    """
    returns = np.empty(len(rews), dtype=np.float64)
    following = 0.0
    for t in range(len(rews) - 1, -1, -1):
        if ends[t]:
            following = float(after_end[t])
        following = float(rews[t]) + discount * following
        returns[t] = following
    return returns
