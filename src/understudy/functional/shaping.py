"""Rewards changed without changing what is optimal: potentials, and what comes after the end of an episode.

Ng, Harada & Russell (1999), "Policy invariance under reward transformations", theorem 1; Kostrikov et al. (2019),
"Discriminator-Actor-Critic", https://arxiv.org/abs/1809.02925, sec. 4.2.

``terminated`` is 1 where the episode ended in the environment. Where it was only cut by a time limit it is 0: the state
goes on having its potential, and no absorbing state follows.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from understudy.errors import ConfigError


def potential_shaping(
    rews: Float[Tensor, " batch"],
    potential: Float[Tensor, " batch"],
    next_potential: Float[Tensor, " batch"],
    terminated: Float[Tensor, " batch"] | Bool[Tensor, " batch"],
    gamma: float,
) -> Float[Tensor, " batch"]:
    """r + γ Φ(s') (1 − terminated) − Φ(s); Ng et al. (1999), eq. 2.

    Over an episode that terminates the added terms sum, discounted, to −Φ(s_0), whatever the policy did: an absorbing
    state must have potential 0. (Were a time limit taken for termination, the same sum would hold −γᵀ Φ(s_T) more,
    which depends on where the limit struck.)

    Args:
        rews: r.
        potential: Φ(s).
        next_potential: Φ(s'), also where s' is terminal.
        terminated: 1 where s' ended the episode for good.
        gamma: γ, in [0, 1], the learner's own discount.
    """
    going_on = 1 - terminated.to(rews.dtype)
    return rews + gamma * going_on * next_potential - potential


def absorbing_tail(
    absorbing_rews: Float[Tensor, "*shape"],
    gamma: float,
    remaining: Float[Tensor, "*shape"] | Int[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    """What a learner would collect if it stood in the absorbing state after a termination, as of the last real step.

    Kostrikov et al. (2019), sec. 4.2: R_T = r(s_T, a_T) + Σ_{k ≥ 1} γ^k r_abs. The sum is geometric:

    - to a horizon, ``remaining`` = n steps on: Σ_{k=1..n} γ^k r_abs = γ (1 − γⁿ) / (1 − γ) · r_abs; n r_abs at γ = 1;
    - without end: γ / (1 − γ) · r_abs.

    Args:
        absorbing_rews: r_abs, the reward of one step in the absorbing state.
        gamma: γ, in [0, 1].
        remaining: n ≥ 0, steps that the episode would have had left; None means without end (γ < 1).

    Raises:
        ConfigError: γ outside [0, 1], or γ = 1 without a horizon: the sum has no limit.
    """
    if not 0 <= gamma <= 1 or (gamma == 1 and remaining is None):
        raise ConfigError(
            expected="0 ≤ gamma ≤ 1, and below 1 where no horizon is given",
            got=f"gamma={gamma}",
            do="pass remaining=, the steps left to the horizon, or a smaller gamma",
        )
    if remaining is None:
        return absorbing_rews * (gamma / (1 - gamma))
    steps = remaining.to(absorbing_rews.dtype)
    if gamma == 1:
        return absorbing_rews * steps
    if gamma == 0:
        return torch.zeros_like(absorbing_rews)
    # expm1: 1 − γⁿ keeps its digits where γⁿ is nearly 1.
    return absorbing_rews * (-torch.expm1(steps * math.log(gamma)) * (gamma / (1 - gamma)))


def with_absorbing_tail(
    rews: Float[Tensor, " batch"],
    terminated: Float[Tensor, " batch"] | Bool[Tensor, " batch"],
    absorbing_rews: Float[Tensor, " batch"],
    gamma: float,
    remaining: Float[Tensor, " batch"] | Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, " batch"]:
    """r + terminated · `absorbing_tail`: rewards under which ending early is neither a gift nor a penalty.

    Args:
        rews: r of each step.
        terminated: 1 where the episode ended for good with that step; a time limit is not an end.
        absorbing_rews: r_abs for each row; rows that did not terminate do not use it.
        gamma: γ.
        remaining: as in `absorbing_tail`.

    Raises:
        ConfigError: as `absorbing_tail`.
    """
    tail = absorbing_tail(absorbing_rews, gamma, remaining)
    return torch.where(terminated.to(torch.bool), rews + tail, rews)
