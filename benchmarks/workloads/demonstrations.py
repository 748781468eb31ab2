"""The arrays that the workloads clone: made from a fixed seed, equal in both libraries (their SHA-256 is compared)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

CACHE = Path(__file__).resolve().parents[2] / "output" / "benchmarks"

#: Pushing the cart by the sign of this product (position, velocity, angle, angular velocity) balances all 500 steps.
CARTPOLE_CONTROLLER = np.array([0.1, 0.2, 1.0, 1.0])
CARTPOLE_SAMPLES = 28_000


@dataclass(frozen=True)
class Demonstrations:
    """Transitions and the spaces they live in.

    Cloning reads neither ``next_obs`` nor ``dones``, but the older library's batches cannot be formed without them.
    """

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    obs: NDArray[Any]
    acts: NDArray[Any]
    next_obs: NDArray[Any]
    dones: NDArray[np.bool_]

    def sha256(self) -> str:
        """Of the bytes of observations and actions."""
        digest = hashlib.sha256()
        for array in (self.obs, self.acts):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _balance_cartpole(n_samples: int) -> dict[str, NDArray[Any]]:
    env = gym.make("CartPole-v1")
    columns: dict[str, list[Any]] = {"obs": [], "acts": [], "next_obs": [], "dones": []}
    episode = 0
    while len(columns["obs"]) < n_samples:
        obs, _ = env.reset(seed=episode)
        over = False
        while not over:
            act = int(CARTPOLE_CONTROLLER @ obs > 0)
            next_obs, _, terminated, truncated, _ = env.step(act)
            for name, value in (("obs", obs), ("acts", act), ("next_obs", next_obs), ("dones", terminated)):
                columns[name].append(value)
            obs, over = next_obs, terminated or truncated
        episode += 1
    return {
        "obs": np.stack(columns["obs"][:n_samples]),
        "acts": np.array(columns["acts"][:n_samples], dtype=np.int64),
        "next_obs": np.stack(columns["next_obs"][:n_samples]),
        "dones": np.array(columns["dones"][:n_samples], dtype=bool),
    }


def _stored(name: str, make: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The arrays of ``name``, made at first use and read from one file ever after.

    The last bit of a product or a tanh is not the same in every process and NumPy release, so a seed alone does not
    give both libraries equal bytes.
    """
    path = CACHE / f"{name}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(partial, **make())  # type: ignore[arg-type, unused-ignore]
        partial.replace(path)
    with np.load(path) as stored:
        return dict(stored)


def _one_long_episode(
    observation_space: gym.Space[Any], action_space: gym.Space[Any], *, obs: NDArray[Any], acts: NDArray[Any]
) -> Demonstrations:
    return Demonstrations(
        observation_space, action_space, obs, acts, np.roll(obs, -1, axis=0), np.zeros(len(obs), dtype=bool)
    )


def cartpole() -> Demonstrations:
    """28,000 steps of a linear controller on CartPole-v1."""
    limits = np.array([4.8, np.inf, 0.42, np.inf], dtype=np.float32)
    arrays = _stored("cartpole", lambda: _balance_cartpole(CARTPOLE_SAMPLES))
    return Demonstrations(gym.spaces.Box(-limits, limits, dtype=np.float32), gym.spaces.Discrete(2), **arrays)


def _tanh_teacher(n_samples: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(17)
    obs = rng.standard_normal((n_samples, 17), dtype=np.float32)
    hidden = np.tanh(obs @ (rng.standard_normal((17, 64), dtype=np.float32) * np.float32(0.3)))
    acts = np.tanh(hidden @ (rng.standard_normal((64, 6), dtype=np.float32) * np.float32(0.15)))
    acts += np.float32(0.05) * rng.standard_normal(acts.shape, dtype=np.float32)
    return {"obs": obs, "acts": np.clip(acts, -1.0, 1.0).astype(np.float32)}


def wide() -> Demonstrations:
    """100,000 answers of a random two-layer tanh teacher, 17 → 6, with noise of standard deviation 0.05."""
    box = gym.spaces.Box(-1.0, 1.0, (6,), np.float32)
    unbounded = gym.spaces.Box(-np.inf, np.inf, (17,), np.float32)
    return _one_long_episode(unbounded, box, **_stored("wide", lambda: _tanh_teacher(100_000)))


def images(n_samples: int = 2_048) -> Demonstrations:
    """Noise of 4 × 84 × 84 bytes with a bright square in one quarter; the action names the quarter.

    One action in five is drawn at random instead (so 85 % are right), which keeps the best loss above zero: 0.59 nats.
    """
    rng = np.random.default_rng(84)
    obs = rng.integers(0, 128, (n_samples, 4, 84, 84), dtype=np.uint8)
    acts = rng.integers(0, 4, n_samples, dtype=np.int64)
    for frame, quarter in zip(obs, acts, strict=True):
        top, left = 11 + 42 * (quarter // 2), 11 + 42 * (quarter % 2)
        frame[:, top : top + 20, left : left + 20] += np.uint8(100)
    acts = np.where(rng.random(n_samples) < 0.2, rng.integers(0, 4, n_samples), acts)
    return _one_long_episode(gym.spaces.Box(0, 255, (4, 84, 84), np.uint8), gym.spaces.Discrete(4), obs=obs, acts=acts)
