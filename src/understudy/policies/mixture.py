"""A policy with several right answers: a mixture of diagonal Gaussians."""

from __future__ import annotations

import math
from typing import Any, Self

import gymnasium as gym
import torch
import torch.nn.functional as F
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from understudy.errors import ConfigError
from understudy.functional import mixtures
from understudy.functional.cloning import HeadTerms
from understudy.policies._own_head import (
    OwnHeadPolicy,
    check_std,
    keep_affine,
    raw_std,
    require_box,
)

_LOW_NOISE = 1e-4


class GaussianMixture(Distribution):
    """A mixture of diagonal Gaussians as a distribution of Stable-Baselines3.

    `BehavioralCloningAgent` takes it as a network's output, too.

    Args:
        logits: the weights are softmax(logits), shape (batch, comp).
        mean: of each component, shape (batch, comp, act).
        std: of each component and entry, shape (batch, comp, act), > 0.
    """

    def __init__(self, logits: Tensor | None = None, mean: Tensor | None = None, std: Tensor | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if logits is not None and mean is not None and std is not None:
            self.proba_distribution(logits, mean, std)

    def proba_distribution_net(self, latent_dim: int, n_outputs: int) -> nn.Module:
        """A layer for the parameters; `MixturePolicy` makes its own."""
        return nn.Linear(latent_dim, n_outputs)

    def proba_distribution(self, logits: Tensor, mean: Tensor, std: Tensor) -> Self:
        """Take other parameters."""
        self.logits, self.mean, self.std = logits, mean, std
        return self

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of actions of shape (batch, *act), shape (batch,)."""
        return mixtures.mixture_log_prob(self.logits, self.mean, self.std, x.flatten(1))

    def entropy(self) -> Tensor:
        """A lower bound, see ``functional.mixtures.mixture_entropy``, shape (batch,)."""
        return mixtures.mixture_entropy(self.logits, self.mean, self.std)

    def sample(self) -> Tensor:
        """Actions of shape (batch, act), from torch's global generator."""
        return self._drawn(self.std)

    def low_noise_sample(self, std: Tensor | float) -> Tensor:
        """As `sample`, with another standard deviation: which component is still drawn by its weight."""
        return self._drawn(std if isinstance(std, float) else std.expand_as(self.mean))

    def _drawn(self, std: Tensor | float) -> Tensor:
        uniform = torch.rand_like(self.mean[:, 0, 0])
        noise = torch.randn_like(self.mean[:, 0])
        return mixtures.sample_mixture(self.logits, self.mean, std, uniform, noise)

    def mode(self) -> Tensor:
        """Mean of the component with the largest weight, shape (batch, act)."""
        return mixtures.likeliest_mean(self.logits, self.mean)

    def actions_from_params(self, logits: Tensor, mean: Tensor, std: Tensor, deterministic: bool = False) -> Tensor:
        """Actions of a mixture with these parameters."""
        return self.proba_distribution(logits, mean, std).get_actions(deterministic=deterministic)

    def log_prob_from_params(self, logits: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Samples of a mixture with these parameters, and their log-densities."""
        actions = self.actions_from_params(logits, mean, std)
        return actions, self.log_prob(actions)


class MixturePolicy(OwnHeadPolicy):
    """An actor-critic policy that answers with a mixture of diagonal Gaussians, Bishop (1994).

    Where demonstrations pass an obstacle left and right, one Gaussian answers with their mean and runs into it; a
    mixture keeps both ways apart. The most likely action is the mean of the component with the largest weight.

    Components' means and deviations are in units of half the action's range (1 where an entry has no bounds), so that
    the same options suit every Box. Actions outside the bounds are clipped when they are executed.

    Args:
        observation_space: any that Stable-Baselines3's policies take.
        action_space: a Box.
        lr_schedule: of the policy's own optimiser, for reinforcement learning; None is 1e-3 throughout.
        n_components: how many Gaussians, ≥ 1.
        min_std: lower bound of their standard deviations, in units of half the range; without one, a component that
            sits on a single action has infinite likelihood.
        low_noise_evaluation: ``predict`` draws a component by its weight, and answers with its mean (deviation 1e-4).
        kwargs: of ``ActorCriticPolicy``: ``net_arch``, ``activation_fn``, ``log_std_init`` (default −1) and so on.

    Raises:
        UnsupportedSpaceError: actions that are no Box.
        ConfigError: no component, or ``min_std`` outside (0, 1).
    """

    center: Tensor
    half_range: Tensor

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule | None = None,
        *,
        n_components: int = 5,
        min_std: float = 0.01,
        low_noise_evaluation: bool = False,
        **kwargs: Any,
    ) -> None:
        box = require_box(action_space, "MixturePolicy")
        if n_components < 1:
            raise ConfigError(expected="`n_components` ≥ 1", got=str(n_components), do="use 5")
        check_std(min_std)
        self.n_components = int(n_components)
        self.min_std = float(min_std)
        self.low_noise_evaluation = bool(low_noise_evaluation)
        self._n_acts = math.prod(box.shape)
        kwargs.setdefault("log_std_init", -1.0)
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        keep_affine(self, box)
        self.action_dist = GaussianMixture()

    @property
    def cloning_head(self) -> _MixtureHead:
        """What the actor's outputs mean."""
        return _MixtureHead(self)

    def components(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (batch, comp), means and standard deviations (batch, comp, act), from the actor's outputs."""
        size = self.n_components * self._n_acts
        logits, mean, raw = outputs.split([self.n_components, size, size], -1)
        shape = (len(outputs), self.n_components, self._n_acts)
        std = self.half_range * (self.min_std + F.softplus(raw.reshape(shape)))
        return logits, self.center + self.half_range * mean.reshape(shape), std

    def _n_outputs(self) -> int:
        return self.n_components * (1 + 2 * self._n_acts)

    def _start_head(self) -> None:
        """Means all over the range: components that begin alike learn alike."""
        assert isinstance(self.action_net, nn.Linear)
        _, mean, raw = self.action_net.bias.split([self.n_components, *[self.n_components * self._n_acts] * 2])
        mean.uniform_(-1, 1)
        raw.fill_(raw_std(math.exp(self.log_std_init), self.min_std))

    def _options(self) -> dict[str, Any]:
        return {
            "n_components": self.n_components,
            "min_std": self.min_std,
            "low_noise_evaluation": self.low_noise_evaluation,
        }

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> GaussianMixture:
        assert isinstance(self.action_dist, GaussianMixture)
        return self.action_dist.proba_distribution(*self.components(self.action_net(latent_pi)))

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        distribution = self.get_distribution(observation)
        if self.low_noise_evaluation and not deterministic:
            assert isinstance(distribution, GaussianMixture)
            return distribution.low_noise_sample(_LOW_NOISE * self.half_range)
        return distribution.get_actions(deterministic=deterministic)


class _MixtureHead:
    parameters: tuple[nn.Parameter, ...] = ()

    def __init__(self, policy: MixturePolicy) -> None:
        self._policy = policy

    def terms(self, outputs: Tensor, acts: Tensor) -> HeadTerms:
        return mixtures.mixture(*self._policy.components(outputs), acts)

    @torch.no_grad()
    def gradient(self, outputs: Tensor, acts: Tensor, ent_weight: float, scale: Tensor | float) -> Tensor:
        policy = self._policy
        found = mixtures.mixture_gradient(*policy.components(outputs), acts, ent_weight, scale)
        raw = outputs[:, -found.std[0].numel() :].sigmoid()  # the slope of softplus
        by_raw = (found.std * policy.half_range).flatten(1).mul_(raw)
        return torch.cat([found.logits, (found.mean * policy.half_range).flatten(1), by_raw], -1)
