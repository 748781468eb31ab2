"""Batches of transitions in any space."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)
SMALL_IMAGE = spaces.Box(0, 255, (8, 6, 3), np.uint8)
VECTOR = spaces.Box(-1, 1, (4,), np.float32)

OBSERVATIONS: dict[str, gym.Space[Any]] = {
    "Box": VECTOR,
    "Box 2-D float64": spaces.Box(-1, 1, (2, 3), np.float64),
    "Discrete": spaces.Discrete(5),
    "Discrete start 3": spaces.Discrete(5, start=3),
    "MultiDiscrete": spaces.MultiDiscrete([3, 4]),
    "MultiBinary": spaces.MultiBinary(4),
    "image HWC": IMAGE,
    "image CHW": spaces.Box(0, 255, (3, 36, 36), np.uint8),
    "small image": SMALL_IMAGE,
    "Dict": spaces.Dict({"pose": VECTOR, "mode": spaces.Discrete(3, start=1), "camera": SMALL_IMAGE}),
}
ACTIONS: dict[str, gym.Space[Any]] = {
    "Discrete": spaces.Discrete(3),
    "Discrete start 2": spaces.Discrete(3, start=2),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiDiscrete start": spaces.MultiDiscrete([2, 3], start=[-1, 5]),
    "MultiBinary": spaces.MultiBinary(3),
    "Box": spaces.Box(-2, 2, (2,), np.float32),
    "Box 2-D": spaces.Box(-1, 1, (2, 2), np.float64),
}


def sampled(space: gym.Space[Any], n: int, seed: int = 0) -> Any:
    space.seed(seed)
    rows = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([np.asarray(row[key]) for row in rows]) for key in space.spaces}
    return np.stack([np.asarray(row) for row in rows])


def batch(obs_space: gym.Space[Any], act_space: gym.Space[Any], n: int = 6) -> tuple[Any, np.ndarray, Any, np.ndarray]:
    """Of n transitions, the last of them terminated."""
    done = np.zeros(n, bool)
    done[-1] = True
    return sampled(obs_space, n, 0), sampled(act_space, n, 1), sampled(obs_space, n, 2), done
