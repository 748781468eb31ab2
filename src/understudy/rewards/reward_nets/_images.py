"""From images to features, with the position of things kept."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.torch_layers import NatureCNN
from torch import Tensor, nn

from understudy.errors import ConfigError, DataError

NATURE_MINIMUM = 36
"""Pixels that the three convolutions of `NatureCNN` need each way."""
_FEW_CHANNELS, _MANY_CHANNELS = 4, 16


def cnn_transpose(tens: Tensor) -> Tensor:
    """Images with channels last as images with channels first: (batch, h, w, c) to (batch, c, h, w).

    Raises:
        DataError: not four axes.
    """
    if tens.ndim != 4:
        raise DataError("images of shape (batch, height, width, channels)", f"shape {tuple(tens.shape)}", "add an axis")
    return tens.permute(0, 3, 1, 2)


def is_picture(space: gym.Space[Any]) -> bool:
    """Whether a space is a Box of three axes, of bytes or not."""
    return isinstance(space, spaces.Box) and len(space.shape) == 3


def channels_first_shape(space: gym.Space[Any], hwc_format: bool) -> tuple[int, int, int]:
    """(channels, height, width) of a picture's space.

    Raises:
        ConfigError: it would have 16 channels or more, and 4 or fewer the other way round.
    """
    assert space.shape is not None
    first, second, third = space.shape
    claimed, other = (third, first) if hwc_format else (first, third)
    if claimed >= _MANY_CHANNELS and other <= _FEW_CHANNELS:
        raise ConfigError(
            expected=f"images with their channels {'last' if hwc_format else 'first'} (hwc_format={hwc_format})",
            got=f"the shape {space.shape}",
            do=f"pass hwc_format={not hwc_format}",
        )
    return (third, first, second) if hwc_format else (first, second, third)


def convolutions(
    in_shape: tuple[int, int, int],
    out_size: int,
    hid_channels: Iterable[int] = (32, 64),
    name: str | None = None,
    activation: type[nn.Module] = nn.ReLU,
    kernel_size: int = 3,
    stride: int | None = None,
    padding: int | str = 1,
    dropout_prob: float = 0.0,
) -> nn.Sequential:
    """Convolutions, then one linear layer on all positions: (batch, channels, h, w) to (batch, out_size).

    The options are `build_cnn`'s; that one averages over the positions and so cannot tell left from right. Here each
    convolution halves the picture instead.

    Args:
        in_shape: (channels, height, width), of any size.
        out_size: features.
        hid_channels: channels of each convolution.
        name: put before the layers' names.
        activation: after each convolution.
        kernel_size: of each convolution.
        stride: None is 2, or 1 with ``padding="same"``.
        padding: pixels, or "same" or "valid".
        dropout_prob: after each activation; 0 adds no layer.

    Raises:
        ConfigError: nothing is left of a picture of that size.
    """
    if stride is None:
        stride = 1 if padding == "same" else 2
    prefix = f"{name}_" if name else ""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, *sides = in_shape
    for i, hid in enumerate(hid_channels):
        layers[f"{prefix}conv{i}"] = nn.Conv2d(channels, hid, kernel_size, stride=stride, padding=padding)
        layers[f"{prefix}act{i}"] = activation()
        if dropout_prob > 0:
            layers[f"{prefix}dropout{i}"] = nn.Dropout(dropout_prob)
        channels = hid
        if padding != "same":
            margin = 0 if padding == "valid" else int(padding)
            sides = [(side + 2 * margin - kernel_size) // stride + 1 for side in sides]
    if min(sides) < 1:
        raise ConfigError(
            expected="convolutions that leave something of the picture",
            got=f"a picture of {in_shape[1]}x{in_shape[2]} and a kernel of {kernel_size}, stride {stride}",
            do="use fewer layers, a smaller stride or padding='same'",
        )
    layers[f"{prefix}flatten"] = nn.Flatten()
    layers[f"{prefix}dense_final"] = nn.Linear(channels * math.prod(sides), out_size)
    return nn.Sequential(layers)


def picture_features(in_shape: tuple[int, int, int], features_dim: int, options: dict[str, Any]) -> nn.Module:
    """Stable-Baselines3's `NatureCNN`; for pictures too small for it, or with options of `convolutions`, those."""
    if options or min(in_shape[1:]) < NATURE_MINIMUM:
        return nn.Sequential(convolutions(in_shape, features_dim, **options), nn.ReLU())
    return NatureCNN(spaces.Box(0, 1, in_shape, np.float32), features_dim, normalized_image=True)
