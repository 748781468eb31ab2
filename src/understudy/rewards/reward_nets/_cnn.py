"""A reward from pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from understudy.errors import ConfigError, UnsupportedSpaceError
from understudy.rewards.reward_nets._base import RewardNet
from understudy.rewards.reward_nets._basic import normalize_spectrum
from understudy.rewards.reward_nets._encoders import DictEncoder, Encoder
from understudy.rewards.reward_nets._images import channels_first_shape, cnn_transpose, is_picture, picture_features
from understudy.util.networks import build_mlp

_Extractor = Callable[[tuple[int, int, int]], tuple[nn.Module, int]]


class PictureTrunk(nn.Module):
    """Features of all pictures of an observation, or of two observations laid over each other, and the rest as it is.

    Args:
        observation_space: one picture, or a Dict with at least one.
        encoder: of that space.
        n_frames: observations that are laid over each other, along the channels.
        hwc_format: whether pictures have their channels last.
        extractor: called with (channels, height, width), gives the network for a picture and how many features it has.

    Raises:
        UnsupportedSpaceError: no picture in it.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        encoder: Encoder,
        n_frames: int,
        hwc_format: bool,
        extractor: _Extractor,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.hwc_format = hwc_format
        self.whole = is_picture(observation_space)
        entries = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"": observation_space}
        self.pictures = [key for key, space in entries.items() if is_picture(space)]
        if not self.pictures:
            raise UnsupportedSpaceError(
                expected="images: a Box of three axes, or a Dict with at least one",
                got=str(observation_space),
                do="use BasicRewardNet, or BasicPotentialMLP",
            )
        self.out_size = 0
        extractors = []
        for key in self.pictures:
            channels, height, width = channels_first_shape(entries[key], hwc_format)
            made, size = extractor((channels * n_frames, height, width))
            extractors.append(made)
            self.out_size += size
        self.extractors = nn.ModuleList(extractors)
        self.others = [key for key in entries if key not in self.pictures]
        if isinstance(encoder, DictEncoder):
            self.out_size += n_frames * sum(encoder.parts[key].width for key in self.others)

    def forward(self, *observations: Any) -> Tensor:
        """Encoded observations, as many as ``n_frames``, to shape (batch, out_size)."""
        found = []
        for key, extractor in zip(self.pictures, self.extractors, strict=True):
            frames = [obs if self.whole else obs[key] for obs in observations]
            frames = [cnn_transpose(frame) if self.hwc_format else frame for frame in frames]
            found.append(extractor(torch.cat(frames, 1) if len(frames) > 1 else frames[0]))
        if isinstance(self.encoder, DictEncoder):
            found += [self.encoder.parts[key].join(obs[key]) for obs in observations for key in self.others]
        return torch.cat(found, 1) if len(found) > 1 else found[0]


class CnnRewardNet(RewardNet):
    """Convolutions on the pictures, then a small perceptron on their features, the action and ``done``.

    The convolutions are Stable-Baselines3's `NatureCNN` (Mnih et al. 2015), or two that halve the picture where it is
    smaller than 36 pixels. State and next state are laid over each other along the channels.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        use_state: bool = True,
        use_action: bool = True,
        use_next_state: bool = False,
        use_done: bool = False,
        hwc_format: bool = True,
        *,
        features_dim: int = 512,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        head_hid_sizes: tuple[int, ...] | list[int] = (64,),
        spectral_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        """Build the layers.

        Args:
            observation_space: images, or a Dict with at least one; its other entries join the features.
            action_space: any but Dict.
            use_state: whether the reward depends on the state;
            use_action: on the action;
            use_next_state: on the next state;
            use_done: on whether the episode terminated.
            hwc_format: whether the space has its channels last. Batches may come either way.
            features_dim: features of each picture.
            features_extractor_class: an extractor of Stable-Baselines3's or your own in place of the convolutions,
                built with a Box of channels-first pictures of bytes; called with them divided by 255.
            features_extractor_kwargs: for it.
            head_hid_sizes: units of the perceptron's hidden layers.
            spectral_norm: as in `BasicRewardNet`, convolutions included.
            kwargs: ``hid_channels``, ``kernel_size``, ``stride``, ``padding``, ``activation``, ``dropout_prob`` of
                convolutions in place of NatureCNN's; ``normalize_images`` as in `RewardNet`.

        Raises:
            ConfigError: neither state nor next state is used, or the layout is the other one.
            UnsupportedSpaceError: there is no image.
        """
        normalize_images = kwargs.pop("normalize_images", True)
        super().__init__(observation_space, action_space, normalize_images)
        if not (use_state or use_next_state):
            raise ConfigError(
                expected="use_state or use_next_state: images to look at",
                got="both False",
                do="use BasicRewardNet for a reward of the action alone",
            )
        self.use_state = use_state
        self.use_action = use_action
        self.use_next_state = use_next_state
        self.use_done = use_done
        self.hwc_format = hwc_format

        def extractor(in_shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
            if features_extractor_class is None:
                return picture_features(in_shape, features_dim, kwargs), features_dim
            space = spaces.Box(0, 255, in_shape, np.uint8)
            made = features_extractor_class(space, **(features_extractor_kwargs or {}))
            return made, made.features_dim

        obs, act = self.encoders
        self.trunk = PictureTrunk(observation_space, obs, use_state + use_next_state, hwc_format, extractor)
        in_size = self.trunk.out_size + act.width * use_action + use_done
        self.head = build_mlp(in_size, head_hid_sizes, squeeze_output=True)
        if spectral_norm:
            normalize_spectrum(self)

    def get_num_channels_obs(self, space: spaces.Box) -> int:
        """Channels of one picture of that space, by ``hwc_format``."""
        return int(space.shape[-1] if self.hwc_format else space.shape[0])

    def forward(self, state: Any, action: Tensor, next_state: Any, done: Tensor) -> Tensor:
        """Shape (batch,)."""
        frames = [frame for frame, used in ((state, self.use_state), (next_state, self.use_next_state)) if used]
        parts = [self.trunk(*frames)]
        if self.use_action:
            parts.append(self.encoders[1].join(action))
        if self.use_done:
            parts.append(done.reshape(-1, 1))
        rews: Tensor = self.head(torch.cat(parts, 1) if len(parts) > 1 else parts[0])
        return rews
