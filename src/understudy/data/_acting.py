"""Acting many times in a row with a Stable-Baselines3 policy, without paying for ``predict`` at each step.

``predict`` walks all modules to switch their mode and builds a distribution object each time; a rollout needs neither.
The actions are those ``predict`` would give: from the same distribution, clipped or unscaled in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common import distributions
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from torch import Tensor

from understudy.data._small_networks import actor_outputs
from understudy.errors import NonFiniteDataError

Actor = Callable[[Any], np.ndarray]
"""Observations of all environments → actions in the environment's values, shape (env, *act)."""


def lean_actor(policy: BasePolicy, deterministic: bool) -> Actor | None:
    """A faster ``predict`` for a policy in evaluation mode, or None where ``predict`` has a behaviour of its own.

    Reads torch's global generator, as the policy itself does. The actor raises NonFiniteDataError when the policy's
    outputs are NaN.
    """
    if type(policy).predict is not BasePolicy.predict or "predict" in vars(policy):
        return None
    small = _small_actor(policy, deterministic)
    if small is not None:
        return small
    choose = _plain_head(policy, deterministic)
    if choose is None:

        def choose(obs: Any) -> Tensor:
            return policy._predict(obs, deterministic=deterministic)

    space = policy.action_space
    shape = space.shape or ()
    needs_care = isinstance(policy.observation_space, spaces.Dict) or len(policy.observation_space.shape or ()) != 1

    def act(obs: Any) -> np.ndarray:
        with torch.inference_mode():
            if needs_care or isinstance(obs, Mapping) or not obs.flags.forc or not obs.flags.writeable:
                tensor, _ = policy.obs_to_tensor(obs)
            else:
                tensor = torch.as_tensor(obs, device=policy.device)
            acts = np.asarray(choose(tensor).cpu().numpy().reshape((-1, *shape)))
        if isinstance(space, spaces.Box):
            if np.isnan(acts).any():
                raise _not_a_number(policy)
            if policy.squash_output:
                return np.asarray(policy.unscale_action(acts))
            return np.asarray(np.clip(acts, space.low, space.high))
        return acts

    return act


def _not_a_number(policy: BasePolicy) -> NonFiniteDataError:
    return NonFiniteDataError(
        expected=f"finite outputs of the {type(policy).__name__}",
        got="NaN",
        do="check its parameters (did training diverge?) and the observations it is given",
    )


def _is_unmodified(policy: BasePolicy) -> TypeGuard[ActorCriticPolicy]:
    if not isinstance(policy, ActorCriticPolicy):
        return False
    kind = type(policy)
    return (
        kind._predict is ActorCriticPolicy._predict
        and kind.get_distribution is ActorCriticPolicy.get_distribution
        and kind._get_action_dist_from_latent is ActorCriticPolicy._get_action_dist_from_latent
        and kind.extract_features is ActorCriticPolicy.extract_features
    )


def _small_actor(policy: BasePolicy, deterministic: bool) -> Actor | None:
    """Choices, or samples of a Gaussian, of a small network over vectors.

    The mean of a Gaussian is left to torch: it is compared with ``predict`` to the last bit.
    """
    if not _is_unmodified(policy):
        return None
    distribution = type(policy.action_dist)
    chooses = distribution is distributions.CategoricalDistribution
    if not chooses and (deterministic or distribution is not distributions.DiagGaussianDistribution):
        return None
    outputs = actor_outputs(policy)
    if outputs is None:
        return None

    def finite(obs: np.ndarray) -> np.ndarray:
        out = outputs(obs)
        if math.isnan(np.add.reduce(out, axis=None)):  # −∞ is a choice that is never made
            raise _not_a_number(policy)
        return out

    if not chooses:
        space = policy.action_space
        assert isinstance(space, spaces.Box)

        def sampled(obs: np.ndarray) -> np.ndarray:
            mean, std = finite(obs), policy.log_std.detach().exp().numpy()
            acts = (mean + std * torch.randn(mean.shape).numpy()).reshape(-1, *space.shape)
            return np.asarray(np.clip(acts, space.low, space.high))

        return sampled
    if deterministic:
        return lambda obs: finite(obs).argmax(1)

    def choices(obs: np.ndarray) -> np.ndarray:
        logits = finite(obs)
        # The largest of log p − log E with E ~ Exp(1) is a draw from p (the Gumbel-max trick, −log E being Gumbel).
        return np.asarray((logits - np.log(torch.empty(logits.shape).exponential_().numpy())).argmax(1))

    return choices


def _plain_head(policy: BasePolicy, deterministic: bool) -> Callable[[Any], Tensor] | None:
    """Sampling straight from the actor's outputs, for the plain distributions of an unmodified policy."""
    if not _is_unmodified(policy):
        return None

    def outputs(obs: Any) -> Tensor:
        features = BasePolicy.extract_features(policy, obs, policy.pi_features_extractor)
        return policy.action_net(policy.mlp_extractor.forward_actor(features))  # type: ignore[no-any-return]

    distribution = type(policy.action_dist)
    if distribution is distributions.CategoricalDistribution:

        def logits(obs: Any) -> Tensor:
            out = outputs(obs)
            if math.isnan(out.sum().item()):  # the largest of NaNs is an index like any other
                raise _not_a_number(policy)
            return out

        if deterministic:
            return lambda obs: logits(obs).argmax(-1)
        return lambda obs: torch.multinomial(logits(obs).softmax(-1), 1)
    if distribution is distributions.DiagGaussianDistribution:
        if deterministic:
            return outputs

        def sample(obs: Any) -> Tensor:
            mean = outputs(obs)
            return torch.addcmul(mean, policy.log_std.exp(), torch.randn_like(mean))

        return sample
    return None
