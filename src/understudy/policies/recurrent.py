"""Policies and networks with memory.

Stable-Baselines3's recurrent policies come from sb3-contrib (``RecurrentPPO(...).policy``). `RecurrentNetwork` is a
network of our own for ``BehavioralCloningAgent``: Elman (1990), https://doi.org/10.1207/s15516709cog1402_1, with the
cells of Hochreiter & Schmidhuber (1997), https://doi.org/10.1162/neco.1997.9.8.1735, or Cho et al. (2014),
https://arxiv.org/abs/1406.1078.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from torch import Tensor, nn

from understudy.data.nests import leaf_spaces, leaves, nest_like
from understudy.errors import ConfigError, UnsupportedSpaceError
from understudy.policies.heads import action_offset

__all__ = ["RecurrentNetwork", "RecurrentState", "is_recurrent"]

RecurrentState = Tensor | tuple[Tensor, Tensor]
"""A GRU's hidden state, shape (layer, batch, hidden), or an LSTM's pair of hidden and cell state."""


def is_recurrent(policy: Any) -> bool:
    """Whether it is one of sb3-contrib's policies with memory."""
    found: Any = sys.modules.get("sb3_contrib.common.recurrent.policies")  # an instance has its module loaded
    return found is not None and isinstance(policy, found.RecurrentActorCriticPolicy)


class RecurrentNetwork(nn.Module):
    """Observations through layers, through a memory, to an output for each part of an action.

    Give it to ``BehavioralCloningAgent`` with ``num_outer_dims=2``. Outputs are nested like the action space: logits
    for choices and bits, the action itself for numbers.

    Args:
        observation_space: Dict and Tuple may nest; leaves are Box, Discrete, MultiDiscrete or MultiBinary. Choices are
            encoded one-hot, images (bytes, with 1, 3 or 4 channels, first or last) by convolutions.
        action_space: likewise nested.
        cell: of the memory.
        hidden_size: of the memory.
        n_layers: of the memory, one on top of the other.
        net_arch: widths of the layers before it.
        activation_fn: between those.
        forget_bias: added to the biases of an LSTM's forget gates, so that it begins by remembering (Gers et al. 2000,
            https://doi.org/10.1162/089976600300015015). About ln(T) where T steps have to be bridged (Tallec & Ollivier
            2018, https://arxiv.org/abs/1804.11188).

    Raises:
        ConfigError: sizes below 1, or another cell.
        UnsupportedSpaceError: another kind of leaf.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        cell: Literal["lstm", "gru"] = "lstm",
        hidden_size: int = 64,
        n_layers: int = 1,
        net_arch: Sequence[int] = (64,),
        activation_fn: type[nn.Module] = nn.Tanh,
        forget_bias: float = 1.0,
    ) -> None:
        super().__init__()
        if cell not in ("lstm", "gru"):
            raise ConfigError(expected="`cell` 'lstm' or 'gru'", got=repr(cell), do="correct it")
        if min(hidden_size, n_layers, *net_arch) < 1:
            raise ConfigError(
                expected="`hidden_size`, `n_layers` and `net_arch` ≥ 1",
                got=f"{hidden_size}, {n_layers}, {list(net_arch)}",
                do="leave them out for the defaults",
            )
        self._observation_space = observation_space
        self._action_space = action_space
        self.encoders = nn.ModuleList([_encoder(space) for space in _parts(observation_space)])
        width = sum(encoder.n_features for encoder in self.encoders)  # type: ignore[misc]
        layers: list[nn.Module] = []
        for size in net_arch:
            layers += [nn.Linear(width, size), activation_fn()]
            width = size
        self.layers = nn.Sequential(*layers)
        memory = nn.LSTM if cell == "lstm" else nn.GRU
        self.memory = memory(width, hidden_size, n_layers, batch_first=True)
        if cell == "lstm":
            with torch.no_grad():
                for layer in range(n_layers):  # order of the gates: input, forget, cell, output
                    getattr(self.memory, f"bias_hh_l{layer}")[hidden_size : 2 * hidden_size] += forget_bias
        self.heads = nn.ModuleList([nn.Linear(hidden_size, _n_outputs(space)) for space in _parts(action_space)])

    def forward(self, obs: Any, state: RecurrentState | None = None) -> tuple[Any, RecurrentState]:
        """Outputs of all steps, and the state after the last.

        Args:
            obs: tensors nested like the observation space, shape (batch, time, *obs).
            state: before the first step; None is zeros.

        Returns:
            Tensors nested like the action space, shape (batch, time, *outputs); and the next state.
        """
        parts = leaves(obs, self._observation_space, "obs")
        dtype = self.memory.weight_ih_l0.dtype
        encoded = [encoder(part, dtype) for encoder, part in zip(self.encoders, parts, strict=True)]
        latent, state = self.memory(self.layers(torch.cat(encoded, -1)), state)
        heads = zip(self.heads, _parts(self._action_space), strict=True)
        outputs = [self._shaped(head(latent), space) for head, space in heads]
        return nest_like(self._action_space, outputs), state

    @staticmethod
    def _shaped(outputs: Tensor, space: gym.Space[Any]) -> Tensor:
        return outputs.unflatten(-1, space.shape) if isinstance(space, spaces.Box) and space.shape else outputs


class _Flat(nn.Module):
    """Numbers as they are, one flat row; bytes from 0 to 1."""

    def __init__(self, space: gym.Space[Any]) -> None:
        super().__init__()
        self._n_axes = len(space.shape or ())
        self._scale = 1 / 255 if space.dtype == np.uint8 and isinstance(space, spaces.Box) else 1.0
        self.n_features = math.prod(space.shape or ())

    def forward(self, part: Tensor, dtype: torch.dtype) -> Tensor:
        outer = part.shape[: part.dim() - self._n_axes]
        return part.to(dtype).reshape(*outer, self.n_features) * self._scale


class _OneHot(nn.Module):
    """Choices as rows of zeros and a one, side by side."""

    def __init__(self, space: spaces.Discrete | spaces.MultiDiscrete) -> None:
        super().__init__()
        self._n_axes = len(space.shape or ())
        sizes = [int(space.n)] if isinstance(space, spaces.Discrete) else [int(n) for n in np.ravel(space.nvec)]
        self._sizes = sizes
        self._starts = np.broadcast_to(np.ravel(action_offset(space)), len(sizes)).tolist()
        self.n_features = sum(sizes)

    def forward(self, part: Tensor, dtype: torch.dtype) -> Tensor:
        outer = part.shape[: part.dim() - self._n_axes]
        columns = part.long().reshape(*outer, len(self._sizes)).unbind(-1)
        places = zip(columns, self._starts, self._sizes, strict=True)
        # Filling between episodes may hold any value: it is no choice, and nothing comes of it.
        return torch.cat(
            [(c[..., None] - start == torch.arange(n, device=c.device)).to(dtype) for c, start, n in places], -1
        )


class _Image(nn.Module):
    """Three convolutions (Mnih et al. 2015, https://doi.org/10.1038/nature14236), smaller for small images."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        self._first = is_image_space_channels_first(space)
        c, h, w = space.shape if self._first else (space.shape[2], *space.shape[:2])
        if min(h, w) >= 36:
            plan = [(32, 8, 4), (64, 4, 2), (64, 3, 1)]
        else:
            plan = [(16, 3, 2), (32, 3, 2)]
        layers: list[nn.Module] = []
        for n, kernel, stride in plan:
            layers += [nn.Conv2d(c, n, kernel, stride, padding=0 if min(h, w) >= 36 else 1), nn.ReLU()]
            c = n
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            self.n_features = self.convolutions(torch.zeros(1, *self._channels_first(space.shape))).shape[1]

    def _channels_first(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if self._first else (shape[2], shape[0], shape[1])

    def forward(self, part: Tensor, dtype: torch.dtype) -> Tensor:
        outer = part.shape[:-3]
        images = part.reshape(-1, *part.shape[-3:])
        images = images if self._first else images.permute(0, 3, 1, 2)
        return self.convolutions(images.to(dtype) / 255).reshape(*outer, self.n_features)  # type: ignore[no-any-return]


def _parts(space: gym.Space[Any]) -> list[gym.Space[Any]]:
    return [part for _, part in leaf_spaces(space)]


def _encoder(space: gym.Space[Any]) -> nn.Module:
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        return _OneHot(space)
    if isinstance(space, spaces.Box) and is_image_space(space) and min(sorted(space.shape)[1:]) >= 4:
        return _Image(space)
    if isinstance(space, (spaces.Box, spaces.MultiBinary)):
        return _Flat(space)
    raise UnsupportedSpaceError(
        expected="Box, Discrete, MultiDiscrete or MultiBinary, nested in Dict and Tuple",
        got=str(space),
        do="flatten such parts with a wrapper",
    )


def _n_outputs(space: gym.Space[Any]) -> int:
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, (spaces.Box, spaces.MultiBinary)):
        return math.prod(space.shape)
    raise UnsupportedSpaceError(
        expected="actions of Box, Discrete, MultiDiscrete or MultiBinary, nested in Dict and Tuple",
        got=str(space),
        do="flatten such parts with a wrapper",
    )
