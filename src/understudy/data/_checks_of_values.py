"""The data doctor's checks of numbers: NaN, constants, scales, dtypes, observations outside their space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from understudy.data._dataset import Demonstrations
from understudy.data._findings import Finding, found, numbered, places, steps_by_episode

_MAX_COLUMNS = 4096  # beyond that an array is an image or the like, where single entries say little


def findings(demos: Demonstrations, obs: Mapping[str, np.ndarray], space: gym.Space[Any] | None) -> Iterator[Finding]:
    """All findings about values."""
    for name, array in {**obs, "acts": demos.acts, "rews": demos.rews, "weights": demos.weights}.items():
        if array is not None:
            yield from _not_finite(name, array, demos)
    if demos.next_frames is not None and isinstance(demos.next_frames, np.ndarray):
        yield from _not_finite("next_obs", demos.next_frames, demos)
    for name, array in obs.items():
        yield from _constant(name, array)
        yield from _scales(name, array)
        yield from _dtype(name, array)
    if space is not None:
        yield from _observation_space(obs, space)


def columns(array: np.ndarray) -> np.ndarray:
    """Shape (transition, entry)."""
    return array.reshape(len(array), -1)


def _not_finite(name: str, array: np.ndarray, demos: Demonstrations) -> Iterator[Finding]:
    if array.dtype.kind not in "fc":
        return
    finite = np.isfinite(columns(array))
    rows = np.flatnonzero(~finite.all(axis=1))
    if len(rows):
        where = f" in {numbered('dimension', np.flatnonzero(~finite.all(axis=0)))}" if array.ndim > 1 else ""
        at = places(rows, demos)
        episodes = sorted({episode for episode, _ in at})
        drop = f"drop {numbered('episode', episodes)}, " if demos.episodes_known else "drop these steps, "
        yield found(
            "error",
            "nan-values",
            f"{name}: NaN or infinity in {len(rows)} of {len(array)} steps{where}: {steps_by_episode(at)}",
            f"{drop}or repair what wrote them; training refuses them",
            at,
        )


def _constant(name: str, array: np.ndarray) -> Iterator[Finding]:
    if len(array) < 2:
        return
    table = columns(array)
    constant = np.flatnonzero((table == table[:1]).all(axis=0))
    if not len(constant):
        return
    if len(constant) == table.shape[1]:
        yield found(
            "error",
            "constant-observations",
            f"{name}: every step has the same observation",
            "check how observations were recorded: nothing can be learned from these",
        )
    elif table.shape[1] <= _MAX_COLUMNS:
        yield found(
            "warning",
            "constant-dimensions",
            f"{name}: {numbered('dimension', constant)} never change{'s' if len(constant) == 1 else ''} "
            f"(they count from 0 to {table.shape[1] - 1})",
            "leave them out, or check that they were recorded; a policy meets other values there untrained",
        )


def _scales(name: str, array: np.ndarray) -> Iterator[Finding]:
    table = columns(array)
    if array.dtype.kind != "f" or table.shape[1] > _MAX_COLUMNS or len(array) < 2:
        return
    with np.errstate(invalid="ignore", over="ignore"):
        std = table.std(axis=0, dtype=np.float64)
    std = std[np.isfinite(std) & (std > 0)]
    if len(std) and (std.max() > 100 or std.max() / std.min() > 1000):
        yield found(
            "warning",
            "scales",
            f"{name}: standard deviations of dimensions range from {std.min():.3g} to {std.max():.3g}",
            "clone with normalised observations (NormalizeFeaturesExtractor; --normalize on the command line)",
        )


def _dtype(name: str, array: np.ndarray) -> Iterator[Finding]:
    if array.dtype.kind in "iu" and array.ndim >= 3 and array.dtype.itemsize > 1 and array.size:
        low, high = int(array.min()), int(array.max())
        if low >= 0 and high <= 255:
            yield found(
                "warning",
                "wide-images",
                f"{name}: pixels from {low} to {high} stored as {array.dtype}, {array.nbytes / 1e6:.0f} MB",
                f"store them as uint8: {array.dtype.itemsize} times smaller, and recognised as images",
            )
    elif array.dtype == np.float64:
        yield found(
            "note",
            "float64",
            f"{name}: float64",
            "float32 takes half the space, and networks train in float32 anyway",
        )


def _observation_space(obs: Mapping[str, np.ndarray], space: gym.Space[Any]) -> Iterator[Finding]:
    if isinstance(space, spaces.Dict):
        parts = {f"obs[{key!r}]": part for key, part in space.spaces.items()}
    else:
        parts = {"obs": space}
    if parts.keys() != obs.keys():
        yield found(
            "error",
            "observation-space",
            f"observations {sorted(obs)} where the environment has {sorted(parts)}",
            "inspect with the environment that the demonstrations were recorded in",
        )
        return
    for name, part in parts.items():
        array, shape = obs[name], part.shape or ()
        rows = array.shape[1:]
        if rows != shape and not (len(rows) == 3 and (rows[2], rows[0], rows[1]) == shape):
            yield found(
                "error",
                "observation-space",
                f"{name}: rows of shape {rows} where the environment has {shape}",
                "inspect with the environment that the demonstrations were recorded in",
            )
        elif isinstance(part, spaces.Box) and rows == shape:
            with np.errstate(invalid="ignore"):
                outside = ((array < part.low) | (array > part.high)).reshape(len(array), -1).any(axis=1)
            if outside.any():
                yield found(
                    "warning",
                    "observations-outside",
                    f"{name}: {int(outside.sum())} of {len(array)} steps lie outside the environment's bounds",
                    "check for another unit or scaling when recording",
                )
