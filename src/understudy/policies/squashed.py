"""A policy whose actions lie in the bounds: a Gaussian squashed by tanh."""

from __future__ import annotations

import math
from typing import Any, Self

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from understudy.errors import ConfigError, UnsupportedSpaceError
from understudy.functional import squashing
from understudy.functional.cloning import HeadTerms
from understudy.policies._own_head import (
    OwnHeadPolicy,
    affine,
    check_std,
    keep_affine,
    raw_std,
    require_box,
)


class SquashedGaussian(Distribution):
    """tanh of a diagonal Gaussian, in [−1, 1], as a distribution of Stable-Baselines3.

    Unlike Stable-Baselines3's own it has an entropy, and no constant in its log-density that keeps it finite.

    Args:
        mean: before squashing, shape (batch, act).
        std: before squashing, shape (batch, act), > 0.
    """

    def __init__(self, mean: Tensor | None = None, std: Tensor | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if mean is not None and std is not None:
            self.proba_distribution(mean, std)

    def proba_distribution_net(self, latent_dim: int, n_outputs: int) -> nn.Module:
        """A layer for the parameters; `SquashedGaussianPolicy` makes its own."""
        return nn.Linear(latent_dim, n_outputs)

    def proba_distribution(self, mean: Tensor, std: Tensor) -> Self:
        """Take other parameters."""
        self.mean, self.std = mean, std
        return self

    def _unit(self) -> tuple[Tensor, Tensor]:
        ones = torch.ones_like(self.mean[0])
        return torch.zeros_like(ones), ones

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of actions in [−1, 1], of shape (batch, *act), shape (batch,)."""
        return squashing.squashed_gaussian(self.mean, self.std, *self._unit(), x.flatten(1)).log_prob

    def entropy(self) -> Tensor:
        """See ``functional.squashing.squashed_gaussian_entropy``, shape (batch,)."""
        return squashing.squashed_gaussian_entropy(self.mean, self.std, self._unit()[1])

    def sample(self) -> Tensor:
        """Actions of shape (batch, act) in [−1, 1], from torch's global generator; gradients pass through."""
        return torch.tanh(self.mean + self.std * torch.randn_like(self.mean))

    def mode(self) -> Tensor:
        """tanh of the mean, which is the median, shape (batch, act)."""
        return torch.tanh(self.mean)

    def actions_from_params(self, mean: Tensor, std: Tensor, deterministic: bool = False) -> Tensor:
        """Actions with these parameters."""
        return self.proba_distribution(mean, std).get_actions(deterministic=deterministic)

    def log_prob_from_params(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Samples with these parameters, and their log-densities."""
        actions = self.actions_from_params(mean, std)
        return actions, self.log_prob(actions)


class SquashedGaussianPolicy(OwnHeadPolicy):
    """An actor-critic policy that answers with a squashed Gaussian, Haarnoja et al. (2018), app. C.

    No probability lies outside the bounds, so nothing is lost to clipping. Cloning takes the density in the
    environment's scale, so that its loss compares with that of other heads; as a policy of Stable-Baselines3 it acts in
    [−1, 1] and is scaled from there (``squash_output``).

    Args:
        observation_space: any that Stable-Baselines3's policies take.
        action_space: a Box with bounds.
        lr_schedule: of the policy's own optimiser, for reinforcement learning; None is 1e-3 throughout.
        state_dependent_std: whether the deviation depends on the observation.
        min_std: lower bound of the standard deviation before squashing.
        margin: in cloning, the expert's actions are taken to lie at least this share of half the range inside the
            bounds, where the Gaussian would have to be infinite.
        kwargs: of ``ActorCriticPolicy``: ``net_arch``, ``activation_fn``, ``log_std_init`` and so on.

    Raises:
        UnsupportedSpaceError: actions that are no Box, or without bounds.
        ConfigError: ``min_std`` or ``margin`` outside (0, 1).
    """

    center: Tensor
    half_range: Tensor

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule | None = None,
        *,
        state_dependent_std: bool = True,
        min_std: float = 0.01,
        margin: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        box = _with_bounds(require_box(action_space, "SquashedGaussianPolicy"))
        check_std(min_std)
        if not 1e-7 <= margin < 1:
            raise ConfigError(expected="`margin` in [1e-7, 1)", got=str(margin), do="use 0.001")
        self.state_dependent_std = bool(state_dependent_std)
        self.min_std = float(min_std)
        self.margin = float(margin)
        self._n_acts = math.prod(box.shape)
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        keep_affine(self, box)
        self._squash_output = True
        self.action_dist = SquashedGaussian()

    @property
    def cloning_head(self) -> _SquashedHead:
        """What the actor's outputs mean."""
        return _SquashedHead(self)

    def mean_and_std(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Of the Gaussian before squashing, each of shape (batch, act), from the actor's outputs."""
        if self.state_dependent_std:
            mean, raw = outputs.chunk(2, -1)
        else:
            mean, raw = outputs, self.raw_std.expand_as(outputs)
        return mean, self.min_std + F.softplus(raw)

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """Actions in [−1, 1] in the environment's scale; rounding never leads beyond the bounds."""
        assert isinstance(self.action_space, spaces.Box)
        acts = super().unscale_action(scaled_action)
        return np.asarray(np.clip(acts, self.action_space.low, self.action_space.high))

    def _n_outputs(self) -> int:
        return self._n_acts * (2 if self.state_dependent_std else 1)

    def _start_head(self) -> None:
        start = raw_std(math.exp(self.log_std_init), self.min_std)
        if self.state_dependent_std:
            assert isinstance(self.action_net, nn.Linear)
            self.action_net.bias[self._n_acts :].fill_(start)
        else:
            self.raw_std = nn.Parameter(torch.full((self._n_acts,), start))

    def _options(self) -> dict[str, Any]:
        return {"state_dependent_std": self.state_dependent_std, "min_std": self.min_std, "margin": self.margin}

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> SquashedGaussian:
        assert isinstance(self.action_dist, SquashedGaussian)
        return self.action_dist.proba_distribution(*self.mean_and_std(self.action_net(latent_pi)))


class _SquashedHead:
    def __init__(self, policy: SquashedGaussianPolicy) -> None:
        self._policy = policy
        self.parameters: tuple[nn.Parameter, ...] = () if policy.state_dependent_std else (policy.raw_std,)

    def terms(self, outputs: Tensor, acts: Tensor) -> HeadTerms:
        policy = self._policy
        return squashing.squashed_gaussian(
            *policy.mean_and_std(outputs), policy.center, policy.half_range, acts, policy.margin
        )

    @torch.no_grad()
    def gradient(self, outputs: Tensor, acts: Tensor, ent_weight: float, scale: Tensor | float) -> Tensor:
        policy = self._policy
        mean, std = policy.mean_and_std(outputs)
        by_mean, by_std = squashing.squashed_gaussian_gradient(
            mean, std, policy.center, policy.half_range, acts, ent_weight, scale, policy.margin
        )
        by_raw = by_std * -torch.expm1(policy.min_std - std)  # the slope of softplus
        if policy.state_dependent_std:
            return torch.cat([by_mean, by_raw], -1)
        assert policy.raw_std.grad is not None
        policy.raw_std.grad.copy_(by_raw.sum(0))
        return by_mean


def _with_bounds(box: spaces.Box) -> spaces.Box:
    center, half = affine(box)
    low, high = box.low.reshape(-1), box.high.reshape(-1)
    if not (np.isclose(center - half, low).all() and np.isclose(center + half, high).all()):
        raise UnsupportedSpaceError(
            expected="a Box with finite bounds that differ in every entry, for SquashedGaussianPolicy",
            got=str(box),
            do="use MixturePolicy or leave `policy` out, or bound the actions with gymnasium.wrappers.RescaleAction",
        )
    return box
