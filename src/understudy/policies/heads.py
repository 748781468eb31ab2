"""What an actor's outputs mean: the distribution of a Stable-Baselines3 policy, as equations.

A head knows the log-likelihood and entropy of actions and, in closed form, the gradient of the cloning loss with
respect to the actor's outputs. Policies with other distributions (state-dependent exploration, squashing, one's own)
have no head here and are asked through ``get_distribution``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common import distributions
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from torch import Tensor, nn

from understudy.functional import cloning
from understudy.functional.cloning import HeadTerms


class Head(Protocol):
    """The distribution that turns an actor's outputs into actions."""

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """Parameters of its own, besides the network's."""

    def terms(self, outputs: Tensor, acts: Tensor) -> HeadTerms:
        """Log-likelihood and entropy, each of shape (batch,)."""

    def gradient(self, outputs: Tensor, acts: Tensor, ent_weight: float, scale: Tensor | float) -> Tensor:
        """Gradient of Σ scale · (−log π − λ H) by the outputs; that of its own parameters goes to their ``grad``."""


class _Categorical:
    parameters: tuple[nn.Parameter, ...] = ()

    def terms(self, outputs: Tensor, acts: Tensor) -> HeadTerms:
        return cloning.categorical(outputs, acts)

    def gradient(self, outputs: Tensor, acts: Tensor, ent_weight: float, scale: Tensor | float) -> Tensor:
        return cloning.categorical_gradient(outputs, acts, ent_weight, scale)


class _MultiCategorical:
    parameters: tuple[nn.Parameter, ...] = ()

    def __init__(self, sizes: list[int]) -> None:
        self._sizes = sizes

    def terms(self, outputs: Tensor, acts: Tensor) -> HeadTerms:
        return cloning.multi_categorical(outputs, acts, self._sizes)

    def gradient(self, outputs: Tensor, acts: Tensor, ent_weight: float, scale: Tensor | float) -> Tensor:
        return cloning.multi_categorical_gradient(outputs, acts, ent_weight, scale, self._sizes)


class _Bernoulli:
    parameters: tuple[nn.Parameter, ...] = ()

    def terms(self, outputs: Tensor, acts: Tensor) -> HeadTerms:
        return cloning.bernoulli(outputs, acts)

    def gradient(self, outputs: Tensor, acts: Tensor, ent_weight: float, scale: Tensor | float) -> Tensor:
        return cloning.bernoulli_gradient(outputs, acts, ent_weight, scale)


class _DiagonalGaussian:
    def __init__(self, log_std: nn.Parameter) -> None:
        self.parameters = (log_std,)

    def terms(self, outputs: Tensor, acts: Tensor) -> HeadTerms:
        return cloning.diagonal_gaussian(outputs, self.parameters[0], acts)

    def gradient(self, outputs: Tensor, acts: Tensor, ent_weight: float, scale: Tensor | float) -> Tensor:
        log_std = self.parameters[0]
        d_mean, d_log_std = cloning.diagonal_gaussian_gradient(outputs, log_std.detach(), acts, ent_weight, scale)
        assert log_std.grad is not None
        log_std.grad.copy_(d_log_std)
        return d_mean


def head_of(policy: ActorCriticPolicy) -> Head | None:
    """The head of a policy, or None where its distribution is not one of the four plain ones and it brings none."""
    own: Head | None = getattr(policy, "cloning_head", None)  # of a policy of ours that brings one
    if own is not None:
        return own
    distribution = policy.action_dist
    kind = type(distribution)
    if kind is distributions.CategoricalDistribution:
        return _Categorical()
    if isinstance(distribution, distributions.MultiCategoricalDistribution):
        return _MultiCategorical([int(n) for n in distribution.action_dims])
    if kind is distributions.BernoulliDistribution:
        return _Bernoulli()
    if kind is distributions.DiagGaussianDistribution:
        return _DiagonalGaussian(policy.log_std)
    return None


def acts_by_its_parts(policy: ActorCriticPolicy) -> bool:
    """Whether the policy's distribution comes from its parts the way Stable-Baselines3 puts them together."""
    kind = type(policy)
    from_latent = kind._get_action_dist_from_latent is ActorCriticPolicy._get_action_dist_from_latent
    return (
        kind.get_distribution is ActorCriticPolicy.get_distribution
        and (from_latent or getattr(policy, "cloning_head", None) is not None)
        and kind.extract_features is ActorCriticPolicy.extract_features
    )


def actor_features(policy: ActorCriticPolicy, obs: Any, preprocess: Callable[..., Any] = preprocess_obs) -> Tensor:
    """What the actor's network reads, shape (batch, features), in the policy's own precision.

    Args:
        policy: in the mode (training or evaluation) that is wanted; a normaliser's statistics move in the former.
        obs: tensor of shape (batch, *obs), or a dictionary of such, not yet preprocessed.
        preprocess: does the work of Stable-Baselines3's ``preprocess_obs``, called with the same arguments.
    """
    ready = preprocess(obs, policy.observation_space, normalize_images=policy.normalize_images)
    dtype = policy.action_net.weight.dtype
    if dtype != torch.float32:  # what Stable-Baselines3 always gives
        ready = {key: x.to(dtype) for key, x in ready.items()} if isinstance(ready, dict) else ready.to(dtype)
    return policy.pi_features_extractor(ready)  # type: ignore[no-any-return]


def log_likelihood(
    policy: ActorCriticPolicy, obs: Any, targets: Tensor, preprocess: Callable[..., Any] = preprocess_obs
) -> HeadTerms:
    """Log-likelihood and entropy of actions under any actor-critic policy; the critic is not evaluated.

    Args:
        policy: in the mode (training or evaluation) that is wanted.
        obs: tensor of shape (batch, *obs), or a dictionary of such, not yet preprocessed.
        targets: from ``as_targets``. A squashing policy's distribution lives in [-1, 1]; they are scaled to it, and the
            likelihood is the density there.
        preprocess: see ``actor_features``.
    """
    head = head_of(policy) if acts_by_its_parts(policy) else None
    if head is not None:
        features = actor_features(policy, obs, preprocess)
        return head.terms(policy.action_net(policy.mlp_extractor.forward_actor(features)), targets)
    return distribution_terms(policy, policy.get_distribution(obs), targets)


def distribution_terms(
    policy: ActorCriticPolicy, distribution: distributions.Distribution, targets: Tensor
) -> HeadTerms:
    """As ``log_likelihood``, of a distribution that the policy gave."""
    if policy.squash_output:
        assert isinstance(policy.action_space, spaces.Box)
        low, high = (
            torch.as_tensor(bound.reshape(-1), dtype=targets.dtype, device=targets.device)
            for bound in (policy.action_space.low, policy.action_space.high)
        )
        targets = 2 * (targets - low) / (high - low) - 1
    shape = policy.action_space.shape
    log_prob = distribution.log_prob(targets.reshape(-1, *shape) if shape else targets)
    entropy = distribution.entropy()
    # A squashed Gaussian's entropy has no closed form; −log π is its unbiased estimate at one action.
    return HeadTerms(log_prob, -log_prob if entropy is None else entropy)


def action_offset(space: spaces.Space[Any]) -> np.ndarray | int:
    """The value of the first discrete action: policies count from 0, spaces from ``start``."""
    if isinstance(space, spaces.Discrete):
        return int(space.start)
    if isinstance(space, spaces.MultiDiscrete):
        return np.asarray(getattr(space, "start", np.zeros_like(space.nvec)))
    return 0


def as_targets(acts: Tensor, space: spaces.Space[Any], dtype: torch.dtype) -> Tensor:
    """Actions as a head reads them, shape (batch, *act).

    Discrete choices become int64 counted from 0; bits and continuous actions the policy's ``dtype``, one flat row.
    """
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        offset = torch.as_tensor(action_offset(space), device=acts.device)
        acts = acts.to(torch.int64)
        acts = acts - offset if bool((offset != 0).any()) else acts
        return acts.flatten(1) if acts.ndim > 1 else acts
    return acts.to(dtype).flatten(1)
