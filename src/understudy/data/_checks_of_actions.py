"""The data doctor's checks of actions: outside the space, clipped, never varied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from understudy.data._checks_of_values import columns
from understudy.data._dataset import Demonstrations
from understudy.data._findings import Finding, found, numbered, place

_CLIPPED_SHARE = 0.02  # of the steps, at one bound exactly: rarer than that is chance for a continuous action
_MANY = 20  # distinct values from which an action counts as continuous


def findings(demos: Demonstrations, space: gym.Space[Any] | None) -> Iterator[Finding]:
    """All findings about actions."""
    acts = demos.acts
    if acts.dtype.kind not in "fiub":
        yield found("error", "action-dtype", f"acts: dtype {acts.dtype}", "store actions as numbers")
        return
    yield from _constant(acts)
    if space is None:
        yield from _whole_floats(acts)
    else:
        shape = space.shape or ()
        if acts.shape[1:] != shape and acts[0].size != int(np.prod(shape)):
            yield found(
                "error",
                "action-space",
                f"acts: rows of shape {acts.shape[1:]} where the environment has {space}",
                "inspect with the environment that the demonstrations were recorded in",
            )
            return
        acts = acts.reshape(len(acts), *shape)
        yield from _outside(acts, space, demos)
        yield from _unused(acts, space)
    yield from _clipped(acts, space)


def _constant(acts: np.ndarray) -> Iterator[Finding]:
    table = columns(acts)
    constant = np.flatnonzero((table == table[:1]).all(axis=0))
    if len(acts) > 1 and len(constant):
        many = f" in {numbered('dimension', constant)}" if table.shape[1] > 1 else ""
        yield found(
            "warning",
            "constant-actions",
            f"acts: always the same{many}",
            "check the recording; if it is right, the clone will always do this too",
        )


def _whole_floats(acts: np.ndarray) -> Iterator[Finding]:
    if acts.dtype.kind == "f" and np.isfinite(acts).all() and (acts == np.round(acts)).all():
        yield found(
            "note",
            "whole-floats",
            f"acts: stored as {acts.dtype}, but all are whole numbers",
            "store discrete actions as integers, so that nobody takes them for continuous ones",
        )


def _outside(acts: np.ndarray, space: gym.Space[Any], demos: Demonstrations) -> Iterator[Finding]:
    bounds = _bounds(space)
    if bounds is None:
        return
    with np.errstate(invalid="ignore"):
        rows = np.flatnonzero(((acts < bounds[0]) | (acts > bounds[1])).reshape(len(acts), -1).any(axis=1))
    if len(rows):
        first = f"{len(rows)} of {len(acts)} steps, first {acts[rows[0]]} at {place(int(rows[0]), demos)}"
        if isinstance(space, spaces.Box):
            yield found(
                "warning",
                "actions-outside",
                f"acts: outside the bounds of {space} in {first}",
                "record what the environment executed (clipped) unless the expert's unclipped samples are wanted",
            )
        else:
            yield found(
                "error",
                "actions-outside",
                f"acts: not in {space} in {first}",
                "check that action numbers start where the space starts",
            )


def _unused(acts: np.ndarray, space: gym.Space[Any]) -> Iterator[Finding]:
    if isinstance(space, spaces.Discrete):
        possible = np.arange(space.start, space.start + space.n)
        unused = possible[~np.isin(possible, acts)]
        if len(unused):
            yield found(
                "note",
                "unused-actions",
                f"acts: {numbered('action', unused)} never occur{'s' if len(unused) == 1 else ''}",
                "record more if the expert has a use for them",
            )


def _clipped(acts: np.ndarray, space: gym.Space[Any] | None) -> Iterator[Finding]:
    """Many steps exactly at the end of the range: commands were cut off there."""
    if acts.dtype.kind != "f" or (space is not None and not isinstance(space, spaces.Box)):
        return
    table = columns(acts)
    if space is not None and isinstance(space, spaces.Box):
        low, high = space.low.reshape(-1), space.high.reshape(-1)
    else:
        low, high = table.min(axis=0), table.max(axis=0)
    at_bound = (table == low) | (table == high)
    hit = []
    for i in range(table.shape[1]):
        share = at_bound[:, i].mean()
        if share > _CLIPPED_SHARE and at_bound[:, i].sum() > 2 and len(np.unique(table[:, i])) > _MANY:
            hit.append((i, share))
    if hit:
        shares = ", ".join(f"dimension {i}: {100 * share:.0f} %" for i, share in hit[:6])
        yield found(
            "note",
            "clipped-actions",
            f"acts: many lie exactly at the end of their range ({shares})",
            "they were probably clipped; the expert wanted more there, so expect the clone to act a little softer",
        )


def _bounds(space: gym.Space[Any]) -> tuple[Any, Any] | None:
    if isinstance(space, spaces.Box):
        return space.low, space.high
    if isinstance(space, spaces.Discrete):
        return space.start, space.start + space.n - 1
    if isinstance(space, spaces.MultiDiscrete):
        start = np.asarray(getattr(space, "start", 0))
        return start, start + space.nvec - 1
    if isinstance(space, spaces.MultiBinary):
        return 0, 1
    return None
