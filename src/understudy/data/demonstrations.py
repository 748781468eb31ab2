"""The one door for demonstrations: whatever a user holds becomes one type, or the error says what is wrong with it.

Accepted: a trajectory or any iterable of trajectories; a transitions object; a mapping of arrays (``obs``, ``acts``,
and optionally ``next_obs``, ``dones`` or ``terminated``, ``truncated``, ``rews``, ``episode_ends``, ``weights``); a
pair ``(obs, acts)``; an iterable of batches of such mappings; a ``DataLoader``; the path of a dataset on disk.

A ``DataLoader`` stays a stream, read anew each epoch, because it may augment or shuffle in its own way. All else is
read once into contiguous arrays whose dtype never changes; a dataset on disk of more than 64 MiB is checked once and
stays there, and what is used of it is read when it is used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import gymnasium as gym
from torch.utils.data import DataLoader

from understudy.data._dataset import Demonstrations
from understudy.data._door import check_finite, check_numeric, checked_acts, fitted_acts, fitted_obs
from understudy.data._forms import from_arrays, from_batches, read_unchecked
from understudy.data._mapped import MappedDemonstrations
from understudy.data._order import RowRanges
from understudy.data.types import AnyPath, Trajectory, TransitionsMinimal
from understudy.errors import DataError

AnyDemonstrations = (
    Demonstrations
    | Iterable[Trajectory]
    | Iterable[Mapping[str, Any]]
    | TransitionsMinimal[Any]
    | Mapping[str, Any]
    | tuple[Any, Any]
    | AnyPath
)

__all__ = [
    "AnyDemonstrations",
    "BatchStream",
    "Demonstrations",
    "RowRanges",
    "as_demonstrations",
    "read_demonstrations",
    "read_unchecked",
]


class BatchStream:
    """Batches of a loader of the user's own, read anew each epoch and checked as they come.

    Iterating gives mappings with ``obs`` (array, tensor or DictObs), ``acts``, and whatever else the loader yields.
    """

    def __init__(
        self,
        loader: Iterable[Mapping[str, Any]],
        observation_space: gym.Space[Any] | None,
        action_space: gym.Space[Any] | None,
    ) -> None:
        self._loader = loader
        self._spaces = (observation_space, action_space)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for i, batch in enumerate(self._loader):
            yield _fitted_batch(batch, f"batch {i}", *self._spaces)

    def read(self) -> Demonstrations:
        """One pass over the stream as contiguous arrays."""
        return from_batches(iter(self))


def as_demonstrations(
    demonstrations: Any,
    *,
    observation_space: gym.Space[Any] | None = None,
    action_space: gym.Space[Any] | None = None,
) -> Demonstrations | BatchStream:
    """Turn anything that holds demonstrations into one type.

    Args:
        demonstrations: see the module's docstring.
        observation_space: if given, observations are compared with it; channels-last images are turned to a
            channels-first space.
        action_space: if given, actions are compared with it; ``(n, 1)`` discrete actions lose the extra axis.

    Raises:
        EmptyDataError: nothing in it.
        NonFiniteDataError: NaN or infinity in observations, actions, rewards or weights, naming where.
        SpaceMismatchError: shapes or values do not fit the spaces.
        DataError: it is no demonstration at all, or its parts do not fit each other.
    """
    spaces = (observation_space, action_space)
    if isinstance(demonstrations, BatchStream):
        return demonstrations if spaces == (None, None) else BatchStream(demonstrations, *spaces)
    if isinstance(demonstrations, DataLoader):
        return BatchStream(demonstrations, *spaces)
    return _fit(read_unchecked(demonstrations), *spaces)


def read_demonstrations(demonstrations: Any, **spaces: gym.Space[Any] | None) -> Demonstrations:
    """As ``as_demonstrations``, with streams read once: for algorithms that need all the data in hand."""
    found = as_demonstrations(demonstrations, **spaces)
    return found.read() if isinstance(found, BatchStream) else found


def _fit(
    demos: Demonstrations,
    observation_space: gym.Space[Any] | None,
    action_space: gym.Space[Any] | None,
    where: str = "",
) -> Demonstrations:
    if isinstance(demos, MappedDemonstrations):
        return _fit_mapped(demos, observation_space, action_space)
    _check_values(demos, where)
    frames = demos.frames if observation_space is None else fitted_obs(demos.frames, observation_space, "obs")
    next_frames = demos.next_frames
    if next_frames is not None and observation_space is not None:
        next_frames = fitted_obs(next_frames, observation_space, "next_obs")
    acts = demos.acts if action_space is None else fitted_acts(demos.acts, action_space)
    return dataclasses.replace(demos, frames=frames, next_frames=next_frames, acts=acts)


def _fit_mapped(
    demos: MappedDemonstrations, observation_space: gym.Space[Any] | None, action_space: gym.Space[Any] | None
) -> MappedDemonstrations:
    """As ``_fit``, a piece at a time; the pieces stay as they are, seen another way where the spaces want it."""
    first = demos.columns[0]
    check_numeric("obs", first.obs)
    check_numeric("acts", first.acts)
    check_finite("obs", [part.obs for part in demos.columns], demos.frame_offsets)
    check_finite("acts", [part.acts for part in demos.columns], demos.episode_offsets)
    if first.rews is not None:
        check_numeric("rews", first.rews)
        check_finite("rews", [p.rews for p in demos.columns if p.rews is not None], demos.episode_offsets)
    columns = list(demos.columns)
    if observation_space is not None:
        columns = [dataclasses.replace(p, obs=fitted_obs(p.obs, observation_space, "obs")) for p in columns]
    act_dtype = demos.act_dtype
    if action_space is not None:
        act_dtype = fitted_acts(columns[0].acts[:1], action_space).dtype
        columns = [dataclasses.replace(p, acts=checked_acts(p.acts, action_space)) for p in columns]
    return MappedDemonstrations(columns, act_dtype)


def _check_values(demos: Demonstrations, where: str) -> None:
    """Before anything is compared with a space, so that a NaN is not taken for a wrong index."""
    for name, column, offsets in (
        ("obs", demos.frames, demos.frame_offsets),
        ("next_obs", demos.next_frames, demos.episode_offsets),
        ("acts", demos.acts, demos.episode_offsets),
        ("rews", demos.rews, demos.episode_offsets),
        ("weights", demos.weights, demos.episode_offsets),
    ):
        if column is not None:
            check_numeric(name, column)
            check_finite(name, column, offsets, where)
    if demos.weights is not None and (demos.weights < 0).any():
        raise DataError(
            expected="weights ≥ 0", got=f"{int((demos.weights < 0).sum())} negative weights", do="clip or shift them"
        )


def _fitted_batch(
    batch: Any, where: str, observation_space: gym.Space[Any] | None, action_space: gym.Space[Any] | None
) -> Mapping[str, Any]:
    if not isinstance(batch, Mapping):
        raise DataError(
            expected=f"{where} of the loader to be a mapping with `obs` and `acts`",
            got=type(batch).__name__,
            do="give the DataLoader collate_fn=understudy.data.types.transitions_collate_fn, or yield dictionaries",
        )
    demos = _fit(from_arrays(batch, where, others_allowed=True), observation_space, action_space, where)
    fields = {name: getattr(demos, name) for name in ("next_obs", "dones", "truncated", "rews", "infos", "weights")}
    known = {name: value for name, value in fields.items() if value is not None}
    return {"obs": demos.frames, "acts": demos.acts, **known}
