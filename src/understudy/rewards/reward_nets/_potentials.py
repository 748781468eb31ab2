"""Potentials Φ(s) for `ShapedRewardNet`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium as gym
from torch import Tensor, nn

from understudy.rewards.reward_nets._arguments import KnowsItsArguments
from understudy.rewards.reward_nets._cnn import PictureTrunk
from understudy.rewards.reward_nets._encoders import encoder_of
from understudy.rewards.reward_nets._images import convolutions
from understudy.util.networks import SqueezeLayer, build_mlp


class BasicPotentialMLP(KnowsItsArguments, nn.Module):
    """A multilayer perceptron on the flattened state."""

    def __init__(self, observation_space: gym.Space[Any], hid_sizes: Iterable[int], **kwargs: Any) -> None:
        """Build the layers.

        Args:
            observation_space: as in `RewardNet`.
            hid_sizes: units of the hidden layers.
            kwargs: for `build_mlp`.
        """
        super().__init__()
        hid_sizes = tuple(hid_sizes)
        self._built_with = ((observation_space, hid_sizes), kwargs)  # an iterator would be spent
        self._encoder = encoder_of(observation_space)
        self._potential_net = build_mlp(
            **{**kwargs, "in_size": self._encoder.width, "hid_sizes": hid_sizes, "squeeze_output": True}
        )

    def forward(self, state: Any) -> Tensor:
        """Encoded observations to shape (batch,)."""
        potential: Tensor = self._potential_net(self._encoder.join(state))
        return potential


class BasicPotentialCNN(KnowsItsArguments, nn.Module):
    """Convolutions on the state's pictures, each halving them, and one linear layer on what they find and where."""

    def __init__(
        self, observation_space: gym.Space[Any], hid_sizes: Iterable[int], hwc_format: bool = True, **kwargs: Any
    ) -> None:
        """Build the layers.

        Args:
            observation_space: images, or a Dict with at least one.
            hid_sizes: channels of the convolutions.
            hwc_format: whether the space has its channels last.
            kwargs: ``activation``, ``kernel_size``, ``stride``, ``padding``, ``dropout_prob`` of the convolutions.

        Raises:
            UnsupportedSpaceError: there is no image.
            ConfigError: the layout is the other one.
        """
        super().__init__()
        hid_sizes = tuple(hid_sizes)
        self._built_with = ((observation_space, hid_sizes, hwc_format), kwargs)
        encoder = encoder_of(observation_space)

        def extractor(in_shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
            return convolutions(in_shape, 1, hid_sizes, **kwargs), 1

        self._trunk = PictureTrunk(observation_space, encoder, 1, hwc_format, extractor)
        more = self._trunk.out_size > 1
        self._head = nn.Sequential(nn.Linear(self._trunk.out_size, 1), SqueezeLayer()) if more else SqueezeLayer()

    def forward(self, state: Any) -> Tensor:
        """Encoded observations to shape (batch,)."""
        potential: Tensor = self._head(self._trunk(state))
        return potential
