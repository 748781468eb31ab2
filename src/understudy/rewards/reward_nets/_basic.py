"""A reward from a multilayer perceptron."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as normalized_spectrally

from understudy.errors import ConfigError
from understudy.rewards.reward_nets._base import RewardNet
from understudy.util.networks import build_mlp


class BasicRewardNet(RewardNet):
    """A multilayer perceptron on the flattened inputs that are asked for, side by side."""

    mlp: nn.Sequential

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        use_state: bool = True,
        use_action: bool = True,
        use_next_state: bool = False,
        use_done: bool = False,
        *,
        spectral_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        """Build the layers.

        Args:
            observation_space: as in `RewardNet`; the entries of a Dict are joined.
            action_space: as in `RewardNet`.
            use_state: whether the reward depends on the state;
            use_action: on the action;
            use_next_state: on the next state;
            use_done: on whether the episode terminated.
            spectral_norm: divide each layer's weights by their largest singular value (Miyato et al. 2018,
                https://arxiv.org/abs/1802.05957), which bounds the slope of a discriminator.
            kwargs: for `build_mlp`: ``hid_sizes`` (default ``(32, 32)``), ``activation``, ``dropout_prob``,
                ``normalize_input_layer``; and ``normalize_images`` as in `RewardNet`.

        Raises:
            ConfigError: no input is used.
            UnsupportedSpaceError: as in `RewardNet`.
        """
        normalize_images = kwargs.pop("normalize_images", True)
        super().__init__(observation_space, action_space, normalize_images)
        self.use_state = use_state
        self.use_action = use_action
        self.use_next_state = use_next_state
        self.use_done = use_done
        obs, act = self.encoders
        in_size = obs.width * (use_state + use_next_state) + act.width * use_action + use_done
        if in_size == 0:
            raise ConfigError(
                expected="a reward of something: one of use_state, use_action, use_next_state, use_done",
                got="all of them False",
                do="leave use_state=True",
            )
        self.mlp = build_mlp(
            **{"hid_sizes": (32, 32), **kwargs, "in_size": in_size, "out_size": 1, "squeeze_output": True}
        )
        if spectral_norm:
            normalize_spectrum(self.mlp)

    def joined(self, state: Any, action: Tensor, next_state: Any, done: Tensor) -> Tensor:
        """The inputs that are used, flattened and side by side, shape (batch, in_size)."""
        obs, act = self.encoders
        parts = []
        if self.use_state:
            parts.append(obs.join(state))
        if self.use_action:
            parts.append(act.join(action))
        if self.use_next_state:
            parts.append(obs.join(next_state))
        if self.use_done:
            parts.append(done.reshape(-1, 1))
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def forward(self, state: Any, action: Tensor, next_state: Any, done: Tensor) -> Tensor:
        """Shape (batch,)."""
        rews: Tensor = self.mlp(self.joined(state, action, next_state, done))
        return rews


def normalize_spectrum(net: nn.Module) -> None:
    """Spectral normalisation of every linear and convolutional layer, in place."""
    for module in list(net.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d):
            normalized_spectrally(module)
