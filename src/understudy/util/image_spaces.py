"""Which observations a policy takes: images come in two layouts, and unbounded ones are written in two ways.

Environments often give channels last, Stable-Baselines3's policies take channels first. Gym, and Gymnasium before 1.0,
wrote the largest float32 where there is no bound; today's environments write infinity.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env.vec_transpose import VecTransposeImage

_NO_BOUND = 3.4e38  # float32 ends at 3.4028235e38, which text may have rounded down


def channels_first(space: gym.Space[Any]) -> gym.Space[Any]:
    """The space that a policy sees: channels-last images turned, in a Dict entry by entry; all else as it is."""
    if isinstance(space, gym.spaces.Dict):  # from pairs: a plain dict would be sorted by key
        return gym.spaces.Dict([(key, channels_first(sub)) for key, sub in space.spaces.items()])
    if isinstance(space, gym.spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space):
        return VecTransposeImage.transpose_space(space)
    return space


def policy_sees(policy_space: gym.Space[Any], space: gym.Space[Any]) -> bool:
    """Whether a policy made for ``policy_space`` takes observations of ``space``: the same, or the same images turned.

    The order of a Dict's keys does not count: a policy takes each entry by its name.
    """
    return same_space(policy_space, space) or same_space(policy_space, channels_first(space))


def same_space(first: gym.Space[Any], second: gym.Space[Any]) -> bool:
    """Whether two spaces are the same, up to the order of a Dict's keys and how a missing bound is written."""
    if isinstance(first, gym.spaces.Dict) and isinstance(second, gym.spaces.Dict):
        return first.spaces.keys() == second.spaces.keys() and all(
            same_space(part, second.spaces[key]) for key, part in first.spaces.items()
        )
    if isinstance(first, gym.spaces.Tuple) and isinstance(second, gym.spaces.Tuple):
        return len(first.spaces) == len(second.spaces) and all(map(same_space, first.spaces, second.spaces))
    if isinstance(first, gym.spaces.Box) and isinstance(second, gym.spaces.Box) and first.dtype == second.dtype:
        return first.shape == second.shape and all(
            np.allclose(without_false_bounds(one), without_false_bounds(other))
            for one, other in ((first.low, second.low), (first.high, second.high))
        )
    return bool(first == second)


def ordered_like(space: gym.Space[Any], other: gym.Space[Any]) -> gym.Space[Any]:
    """A Dict with its keys in another's order, where they have the same; a policy joins what it sees in that order."""
    if (
        isinstance(space, gym.spaces.Dict)
        and isinstance(other, gym.spaces.Dict)
        and space.spaces.keys() == other.spaces.keys()
    ):
        return gym.spaces.Dict([(key, ordered_like(space.spaces[key], part)) for key, part in other.spaces.items()])
    return space


def without_false_bounds(bounds: np.ndarray) -> np.ndarray:
    """Bounds in which the largest float32, which stands for none, is an infinity; otherwise as they are."""
    if bounds.dtype.kind != "f" or bounds.dtype.itemsize < 4:
        return bounds
    return np.where(np.abs(bounds) >= _NO_BOUND, np.copysign(np.inf, bounds), bounds)
