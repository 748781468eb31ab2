"""Observations and actions as the numbers a network takes in: one encoder a space, made once."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from torch import Tensor

from understudy.data.dict_obs import DictObs
from understudy.errors import DataError, UnsupportedSpaceError
from understudy.util.tensors import safe_to_tensor

Rows = np.ndarray | Tensor | DictObs | Mapping[str, Any]
"""A batch of observations or actions, as a buffer, an environment or a rollout holds them."""
Encoded = Tensor | dict[str, Any]
"""A batch encoded: floats of shape (batch, ...), for a Dict space a dictionary of these."""


class Encoder(ABC):
    """Turns rows of one space into floats."""

    width: int
    """Numbers a row has when flattened."""

    @abstractmethod
    def encode(self, rows: Any, device: torch.device, dtype: torch.dtype) -> Any:
        """Floats on the device, one row each.

        Raises:
            DataError: rows of another shape, or choices outside the space.
        """

    def join(self, encoded: Any) -> Tensor:
        """Flattened, shape (batch, `width`)."""
        flat: Tensor = encoded.reshape(encoded.shape[0], -1)
        return flat


class BoxEncoder(Encoder):
    """Box and MultiBinary: the numbers themselves; images of bytes divided by 255 if asked to.

    Images may also come with their channels first where the space has them last, or the other way round, as the
    buffers of Stable-Baselines3 hold them; they are turned to the space's layout.
    """

    def __init__(self, space: gym.Space[Any], normalize_images: bool) -> None:
        assert space.shape is not None
        self.shape = tuple(space.shape)
        self.width = math.prod(self.shape)
        image = isinstance(space, spaces.Box) and len(self.shape) == 3
        self.scale = normalize_images and image and is_image_space(space)
        self.turns: dict[tuple[int, ...], tuple[int, ...]] = {}
        if image:
            first, second, third = self.shape
            # channels last is what the space has, and channels first came; and the reverse
            self.turns = {(third, first, second): (0, 2, 3, 1), (second, third, first): (0, 3, 1, 2)}

    def encode(self, rows: Any, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Shape (batch, *shape)."""
        tensor = safe_to_tensor(_plain(rows), device=device)
        shape = tuple(tensor.shape[1:])
        if shape != self.shape:
            if shape in self.turns:
                tensor = tensor.permute(self.turns[shape])
            elif tensor.ndim == 2 and shape[0] == self.width:
                tensor = tensor.reshape(-1, *self.shape)  # buffers keep actions flat
            else:
                raise _other_shape(f"(batch, {', '.join(map(str, self.shape))})", tensor)
        converted = tensor.to(dtype)
        if self.scale:
            # Not in place where the conversion was none and the memory is the caller's.
            converted = converted.div_(255) if tensor.dtype != dtype else converted / 255
        return converted


class ChoiceEncoder(Encoder):
    """Discrete and MultiDiscrete: a one-hot vector for each choice, side by side; the space's start is number 0."""

    def __init__(self, sizes: np.ndarray, start: np.ndarray) -> None:
        self.sizes = torch.as_tensor(sizes.reshape(-1).astype(np.int64))
        self.start = torch.as_tensor(start.reshape(-1).astype(np.int64))
        self.shifted = bool(self.start.any())
        self.width = int(self.sizes.sum())
        self.offsets = torch.cumsum(self.sizes, 0) - self.sizes

    def encode(self, rows: Any, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Shape (batch, Σ sizes)."""
        tensor = safe_to_tensor(_plain(rows))
        parts = len(self.sizes)
        if tensor.ndim == 0 or math.prod(tensor.shape[1:]) != parts:
            raise _other_shape(f"(batch,{f' {parts}' if parts > 1 else ''})", tensor)
        where = tensor.device
        index = tensor.reshape(-1, parts).long()
        if self.shifted:
            index = index - self.start.to(where)
        if len(index) and (int(index.amin()) < 0 or int((index - self.sizes.to(where)).amax()) >= 0):
            raise DataError(
                expected=f"choices from {self.start.tolist()} to {(self.start + self.sizes - 1).tolist()}",
                got=f"values from {tensor.min().item()} to {tensor.max().item()}",
                do="check that the data and the reward network have the same space",
            )
        if parts > 1:
            index = index + self.offsets.to(where)
        return torch.zeros(len(index), self.width, dtype=dtype, device=device).scatter_(1, index.to(device), 1.0)


class DictEncoder(Encoder):
    """Dict: each entry by its own encoder, in the space's order; further entries in the data are left out."""

    def __init__(self, parts: dict[str, Encoder]) -> None:
        self.parts = parts
        self.width = sum(part.width for part in parts.values())

    def encode(self, rows: Any, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """A dictionary of what the entries' encoders give."""
        entries = rows.unwrap() if isinstance(rows, DictObs) else rows
        if not isinstance(entries, Mapping) or any(key not in entries for key in self.parts):
            raise DataError(
                expected=f"observations with the entries {list(self.parts)}",
                got=f"{list(entries) if isinstance(entries, Mapping) else type(rows).__name__}",
                do="give the observations of the space that the reward network was made for",
            )
        return {key: part.encode(entries[key], device, dtype) for key, part in self.parts.items()}

    def join(self, encoded: Any) -> Tensor:
        """Flattened and side by side."""
        return torch.cat([part.join(encoded[key]) for key, part in self.parts.items()], 1)


def encoder_of(space: gym.Space[Any], normalize_images: bool = True) -> Encoder:
    """The encoder of a space.

    Raises:
        UnsupportedSpaceError: a space other than Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these.
    """
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return BoxEncoder(space, normalize_images)
    if isinstance(space, spaces.Discrete):
        return ChoiceEncoder(np.array([space.n]), np.array([space.start]))
    if isinstance(space, spaces.MultiDiscrete):
        return ChoiceEncoder(np.asarray(space.nvec), np.asarray(space.start))
    if isinstance(space, spaces.Dict):
        return DictEncoder({key: encoder_of(part, normalize_images) for key, part in space.spaces.items()})
    raise UnsupportedSpaceError(
        expected="a space of type Box, Discrete, MultiDiscrete, MultiBinary or Dict",
        got=str(space),
        do="wrap the environment, or override `preprocess` in a reward network of your own",
    )


def count_rows(rows: Rows) -> int:
    """Length of the first axis, also of dictionaries."""
    while isinstance(rows, DictObs | Mapping):
        rows = next(iter(rows.values()))
    return len(rows)


def _plain(rows: Any) -> np.ndarray | Tensor:
    if isinstance(rows, Tensor):
        return rows
    if isinstance(rows, np.ndarray):
        # torch cannot look at an array backwards
        return rows if min(rows.strides, default=0) >= 0 else np.ascontiguousarray(rows)
    if isinstance(rows, DictObs | Mapping):
        raise DataError(
            expected="an array, as the space has no entries",
            got=f"a dictionary with {list(rows.keys())}",
            do="make the reward network for the Dict space, or take the entry that it is for",
        )
    return np.asarray(rows)


def _other_shape(expected: str, got: Tensor) -> DataError:
    return DataError(
        expected=f"rows of shape {expected}",
        got=f"shape {tuple(got.shape)}",
        do="give batches of the space that the reward network was made for, with the batch on the first axis",
    )
