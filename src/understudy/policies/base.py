"""Policies that need no training, and the ready-made architectures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.sac.policies import SACPolicy

from understudy.errors import UnsupportedSpaceError
from understudy.policies.heads import action_offset
from understudy.util.networks import RunningNorm


class NonTrainablePolicy(BasePolicy, ABC):
    """A policy without parameters: subclasses say which action answers one observation.

    Works for every action space and for batched, single and Dict observations, because the batching is SB3's own
    `BasePolicy.predict`.
    """

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        super().__init__(observation_space=observation_space, action_space=action_space)

    @abstractmethod
    def _choose_action(self, obs: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
        """The action for one observation (no batch axis)."""

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        if isinstance(observation, dict):
            arrays = {key: value.cpu().numpy() for key, value in observation.items()}
            n = len(next(iter(arrays.values())))
            acts = [self._choose_action({key: value[i] for key, value in arrays.items()}) for i in range(n)]
        else:
            acts = [self._choose_action(obs) for obs in observation.cpu().numpy()]
        return torch.as_tensor(np.stack(acts), device=self.device)

    def forward(self, *args: Any) -> NoReturn:
        """There is nothing to differentiate: always raises."""
        raise NotImplementedError(f"{type(self).__name__} is not trainable and has no forward(); call predict()")


class RandomPolicy(NonTrainablePolicy):
    """Uniform samples of the action space, from that space's own generator.

    Args:
        observation_space: any.
        action_space: any; it is shared with the caller and its generator moves on with each action.
        seed: seeds the action space first; ``None`` leaves its generator as it is.
    """

    def __init__(
        self, observation_space: gym.Space[Any], action_space: gym.Space[Any], *, seed: int | None = None
    ) -> None:
        super().__init__(observation_space, action_space)
        if seed is not None:
            self.action_space.seed(seed)

    def _choose_action(self, obs: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
        return np.asarray(self.action_space.sample())


class ZeroPolicy(NonTrainablePolicy):
    """Always the action nearest to zero that the space contains: 0 itself wherever 0 is an action.

    Raises:
        UnsupportedSpaceError: an action space other than Box, Discrete, MultiDiscrete or MultiBinary.
    """

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        super().__init__(observation_space, action_space)
        self._zero_action = nearest_to_zero(action_space)

    def _choose_action(self, obs: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
        return self._zero_action


def nearest_to_zero(space: gym.Space[Any]) -> np.ndarray:
    """The element of the space that is closest to zero, coordinate by coordinate."""
    if isinstance(space, spaces.Box):
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high).astype(space.dtype)
    if isinstance(space, spaces.Discrete):
        return np.asarray(np.clip(0, space.start, space.start + space.n - 1), dtype=space.dtype)
    if isinstance(space, spaces.MultiDiscrete):
        return np.asarray(np.clip(0, space.start, space.start + space.nvec - 1), dtype=space.dtype)
    if isinstance(space, spaces.MultiBinary):
        return np.zeros(space.shape, space.dtype)
    raise UnsupportedSpaceError(
        "an action space of type Box, Discrete, MultiDiscrete or MultiBinary",
        str(space),
        "flatten the action space with a wrapper first",
    )


class FeedForward32Policy(ActorCriticPolicy):
    """An actor-critic MLP with two hidden layers of 32 units each, separate for actor and critic.

    Small on purpose: the usual choice for cloning on low-dimensional tasks.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("net_arch", [32, 32])
        super().__init__(*args, **kwargs)


class OffsetFeedForward32Policy(FeedForward32Policy):
    """A FeedForward32Policy for discrete actions that do not start at 0: it answers with the environment's values.

    Stable-Baselines3 policies count choices from 0 whatever the space says. Here what PPO and A2C learn with
    (``forward``, ``evaluate_actions``) speaks the environment's values too; ``get_distribution`` counts from 0.
    """

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Actions in the values of the action space, values of the states, and log-likelihoods."""
        acts, values, log_prob = super().forward(obs, deterministic)
        return acts + self._offset(acts), values, log_prob

    def evaluate_actions(
        self, obs: Any, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Values, log-likelihoods and entropy of actions in the values of the action space."""
        return super().evaluate_actions(obs, actions - self._offset(actions))

    def _offset(self, acts: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(action_offset(self.action_space), device=acts.device)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Actions from observations, batched or single, in the values of the action space."""
        acts, state = super().predict(observation, state, episode_start, deterministic)
        offset = action_offset(self.action_space)
        return acts + offset, state


class SAC1024Policy(SACPolicy):
    """SAC's policy with two hidden layers of 1024 units, as used for harder continuous control."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("net_arch", [1024, 1024])
        super().__init__(*args, **kwargs)


class NormalizeFeaturesExtractor(FlattenExtractor):
    """Flattens observations, then normalises them.

    Args:
        observation_space: its flattened size is the number of features.
        normalize_class: built with that number; its running statistics move whenever the policy is in training
            mode and sees a batch.
    """

    def __init__(self, observation_space: gym.Space[Any], normalize_class: type[torch.nn.Module] = RunningNorm) -> None:
        super().__init__(observation_space)
        self.normalize = normalize_class(self.features_dim)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Shape ``(batch, features_dim)``."""
        flattened = super().forward(observations)
        normalized: torch.Tensor = self.normalize(flattened)
        return normalized
