"""Where in an episode a policy would act differently from the one that was recorded.

The policy is asked at the recorded observations, so this is the error on the demonstrator's states: small here and
large in returns means that the clone drifts to states no demonstration shows (Ross et al. 2011,
https://arxiv.org/abs/1011.0686).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from understudy.data.demonstrations import Demonstrations, read_demonstrations
from understudy.data.types import maybe_unwrap_dictobs

_BATCH = 4096
_TOGETHER = 256


@dataclasses.dataclass(frozen=True)
class ActionErrors:
    """Recorded and predicted actions of whole episodes, and how far apart they are."""

    recorded: np.ndarray
    """Shape (transition, *act), episodes one after the other."""

    predicted: np.ndarray
    """Shape (transition, *act)."""

    per_step: np.ndarray
    """Error of each episode at each time step, shape (episode, time); NaN after an episode's end."""

    unit: str
    """What an error of 1 means."""


@dataclasses.dataclass(frozen=True)
class ErrorCurve:
    """Mean error over episodes by time step, with a bootstrap interval over episodes."""

    steps: np.ndarray
    """Middle of each stretch of time steps, shape (point,)."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    episodes: np.ndarray
    """Episodes still running, shape (point,)."""


def action_errors(policy: Any, demonstrations: Any, action_space: gym.Space[Any]) -> ActionErrors:
    """Ask ``policy`` (deterministically) at every recorded observation; one with memory sees whole episodes in order.

    The error is 1 for a different Discrete action; the share of differing components of MultiDiscrete and MultiBinary
    actions; for Box actions the mean absolute difference, as a share of the range where the space is bounded.

    Args:
        policy: with Stable-Baselines3's ``predict``.
        demonstrations: whatever `understudy.data.demonstrations.as_demonstrations` accepts.
        action_space: decides how two actions are compared.

    Raises:
        EmptyDataError: no step at all.
    """
    demos = read_demonstrations(demonstrations)
    predicted = _predict(policy, demos).reshape(demos.acts.shape)
    errors, unit = _distance(demos.acts, predicted, action_space)
    lengths = demos.episode_lengths
    per_step = np.full((len(lengths), lengths.max()), np.nan)
    for row, episode in zip(per_step, np.split(errors, demos.episode_offsets[1:-1]), strict=True):
        row[: len(episode)] = episode
    return ActionErrors(demos.acts, predicted, per_step, unit)


def error_curve(
    per_step: np.ndarray,
    *,
    n_points: int = 100,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    rng: np.random.Generator | None = None,
) -> ErrorCurve:
    """Average errors of shape (episode, time) into a curve of at most ``n_points`` stretches of equal length.

    Whole episodes are resampled, because errors within one depend on each other.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    n_episodes, n_steps = per_step.shape
    width = -(-n_steps // n_points)
    starts = np.arange(0, n_steps, width)
    present = ~np.isnan(per_step)
    sums = np.add.reduceat(np.where(present, per_step, 0.0), starts, axis=1)
    counts = np.add.reduceat(present, starts, axis=1, dtype=np.float64)
    weights = rng.multinomial(n_episodes, np.full(n_episodes, 1 / n_episodes), size=n_resamples)
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample may hold no episode that lived this long
        curves = (weights @ sums) / (weights @ counts)
    low, high = np.nanquantile(curves, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return ErrorCurve(
        steps=starts + (np.minimum(starts + width, n_steps) - starts - 1) / 2,
        mean=sums.sum(axis=0) / counts.sum(axis=0),
        low=low,
        high=high,
        episodes=present[:, starts].sum(axis=0),
    )


def _predict(policy: Any, demos: Demonstrations) -> np.ndarray:
    obs = maybe_unwrap_dictobs(demos.obs)
    chunks = []
    for start in range(0, len(demos), _BATCH):
        acts, memory = policy.predict(_rows(obs, slice(start, start + _BATCH)), deterministic=True)
        if memory is not None:
            return _predict_in_order(policy, obs, demos)
        chunks.append(np.asarray(acts))
    return np.concatenate(chunks)


def _predict_in_order(policy: Any, obs: Any, demos: Demonstrations) -> np.ndarray:
    """Step by step, up to ``_TOGETHER`` episodes beside each other; one that has ended waits for the others."""
    predicted = np.empty_like(demos.acts)
    first, length = demos.episode_offsets[:-1], demos.episode_lengths
    for start in range(0, len(first), _TOGETHER):
        begins, lengths = first[start : start + _TOGETHER], length[start : start + _TOGETHER]
        memory, starts = None, np.ones(len(begins), dtype=bool)
        for t in range(int(lengths.max())):
            rows = begins + np.minimum(t, lengths - 1)
            acts, memory = policy.predict(_rows(obs, rows), memory, starts, deterministic=True)
            running = t < lengths
            predicted[rows[running]] = np.asarray(acts).reshape(len(rows), *demos.acts.shape[1:])[running]
            starts = np.zeros(len(begins), dtype=bool)
    return predicted


def _rows(obs: Any, rows: Any) -> Any:
    # Copied: Stable-Baselines3 hands arrays to torch as they are, and torch warns of those mapped from a file.
    return {key: np.array(value[rows]) for key, value in obs.items()} if isinstance(obs, dict) else np.array(obs[rows])


def _distance(recorded: np.ndarray, predicted: np.ndarray, space: gym.Space[Any]) -> tuple[np.ndarray, str]:
    n = len(recorded)
    if not isinstance(space, spaces.Box):
        differs = (recorded != predicted).reshape(n, -1).mean(axis=1)
        return differs, "share of actions that differ"
    difference = np.abs(recorded.astype(np.float64) - predicted)
    if space.is_bounded():
        spread = space.high.astype(np.float64) - space.low
        difference = difference / np.where(spread > 0, spread, 1.0)
        return difference.reshape(n, -1).mean(axis=1), "absolute error, share of the action range"
    return difference.reshape(n, -1).mean(axis=1), "mean absolute error, in units of the action"
