"""What policies with a distribution of ours share: how they are built, and the scale of their actions."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
)
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import ConstantSchedule
from torch import nn

from understudy.errors import ConfigError, UnsupportedSpaceError
from understudy.policies.heads import Head

_DEFAULT_LEARNING_RATE = 1e-3


class OwnHeadPolicy(ActorCriticPolicy, ABC):
    """An actor-critic policy whose distribution Stable-Baselines3 does not have.

    Subclasses set what `_n_outputs` needs before they call this constructor.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule | None = None,
        *,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        use_sde: bool = False,
        **kwargs: Any,
    ) -> None:
        if use_sde:
            raise ConfigError(
                expected=f"`use_sde=False` with {type(self).__name__}",
                got="use_sde=True",
                do="leave it out: state-dependent exploration is a distribution of its own",
            )
        super().__init__(
            observation_space,
            action_space,
            lr_schedule or ConstantSchedule(_DEFAULT_LEARNING_RATE),
            features_extractor_class=features_extractor_class or _extractor_for(observation_space),
            **kwargs,
        )

    @property
    @abstractmethod
    def cloning_head(self) -> Head:
        """What the actor's outputs mean."""

    @abstractmethod
    def _n_outputs(self) -> int:
        """Outputs of the actor."""

    def _start_head(self) -> None:
        """Set the head's first biases, and make parameters of its own."""

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        if hasattr(self, "log_std"):
            del self.log_std
        self.action_net: nn.Module = nn.Linear(self.mlp_extractor.latent_dim_pi, self._n_outputs())
        if self.ortho_init:
            self.action_net.apply(functools.partial(self.init_weights, gain=0.01))
        with torch.no_grad():
            self._start_head()
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _options(self) -> dict[str, Any]:
        """Arguments of the constructor that Stable-Baselines3's policies do not have."""
        return {}

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self._options()}

    def extra_repr(self) -> str:
        """Options of the head."""
        return ", ".join(f"{name}={value}" for name, value in self._options().items())


def _extractor_for(observation_space: gym.Space[Any]) -> type[BaseFeaturesExtractor]:
    if isinstance(observation_space, spaces.Dict):
        return CombinedExtractor
    return NatureCNN if is_image_space(observation_space) else FlattenExtractor


def require_box(space: gym.Space[Any], policy: str) -> spaces.Box:
    """The space, if it holds numbers.

    Raises:
        UnsupportedSpaceError: it is another space than a Box.
    """
    if not isinstance(space, spaces.Box):
        raise UnsupportedSpaceError(
            expected=f"a Box of actions for {policy}",
            got=str(space),
            do="leave `policy` out: a policy for choices can have several modes already",
        )
    return space


def affine(space: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """Middle and half the width of the bounds, float32, shape (act,); 0 and 1 where there are none."""
    low, high = (bound.reshape(-1).astype(np.float64) for bound in (space.low, space.high))
    bounded = np.isfinite(low) & np.isfinite(high) & (high > low)
    # Bounds near the largest float stand for none.
    with np.errstate(over="ignore", invalid="ignore"):
        bounded &= high - low < 1e10
        center = np.where(bounded, (low + high) / 2, 0.0)
        half = np.where(bounded, (high - low) / 2, 1.0)
    return center.astype(np.float32), half.astype(np.float32)


def keep_affine(policy: nn.Module, space: spaces.Box) -> None:
    """As buffers ``center`` and ``half_range`` that follow the policy to its device, and stay out of files."""
    for name, value in zip(("center", "half_range"), affine(space), strict=True):
        policy.register_buffer(name, torch.from_numpy(value), persistent=False)


def check_std(min_std: float) -> None:
    """Raise ConfigError unless 0 < ``min_std`` < 1."""
    if not 0 < min_std < 1:
        raise ConfigError(
            expected="`min_std` in (0, 1), a share of half the action's range", got=str(min_std), do="use 0.01"
        )


def raw_std(std: float, min_std: float) -> float:
    """The output that stands for a standard deviation: the inverse of σ = ``min_std`` + softplus(x)."""
    wanted = max(std - min_std, 1e-6)
    return wanted + math.log(-math.expm1(-wanted))
