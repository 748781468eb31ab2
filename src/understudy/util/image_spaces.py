"""Images in two layouts: environments often give channels last, Stable-Baselines3's policies take channels first."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env.vec_transpose import VecTransposeImage


def channels_first(space: gym.Space[Any]) -> gym.Space[Any]:
    """The space that a policy sees: channels-last images turned, in a Dict entry by entry; all else as it is."""
    if isinstance(space, gym.spaces.Dict):
        return gym.spaces.Dict({key: channels_first(sub) for key, sub in space.spaces.items()})
    if isinstance(space, gym.spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space):
        return VecTransposeImage.transpose_space(space)
    return space


def policy_sees(policy_space: gym.Space[Any], space: gym.Space[Any]) -> bool:
    """Whether a policy made for ``policy_space`` takes observations of ``space``: equal, or the same images turned."""
    return bool(policy_space == space or policy_space == channels_first(space))
