"""Trajectories and transitions, checked when they are made.

The caller's arrays are kept as they are: neither copied nor made read-only. How an episode ended is told by two
facts that never mix: *terminated* (the environment reached an end of its own) and *truncated* (a time limit cut
it). A return may be bootstrapped past the second, never past the first.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypedDict, TypeVar, Union

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from understudy.data.dict_obs import (
    DictObs,
    Observation,
    ObsVar,
    assert_not_dictobs,
    concatenate_maybe_dictobs,
    map_maybe_dict,
    maybe_unwrap_dictobs,
    maybe_wrap_in_dictobs,
    stack_maybe_dictobs,
)
from understudy.errors import DataError, EmptyDataError

AnyPath = Union[str, bytes, "os.PathLike[str]"]
AnyTensor = np.ndarray | torch.Tensor
T = TypeVar("T")
Pair = tuple[T, T]

__all__ = [
    "AnyPath",
    "AnyTensor",
    "DictObs",
    "ObsVar",
    "Observation",
    "Pair",
    "Trajectory",
    "TrajectoryPair",
    "TrajectoryWithRew",
    "TransitionMapping",
    "TransitionMappingNoNextObs",
    "Transitions",
    "TransitionsMinimal",
    "TransitionsWithRew",
    "assert_not_dictobs",
    "concatenate_maybe_dictobs",
    "dataclass_quick_asdict",
    "map_maybe_dict",
    "maybe_unwrap_dictobs",
    "maybe_wrap_in_dictobs",
    "no_infos",
    "stack_maybe_dictobs",
    "transitions_collate_fn",
]


def dataclass_quick_asdict(obj: Any) -> dict[str, Any]:
    """The fields of a dataclass instance by name; unlike ``dataclasses.asdict``, nothing is copied."""
    return {f.name: getattr(obj, f.name) for f in dataclasses.fields(obj)}


def no_infos(length: int) -> np.ndarray:
    """``length`` empty info dictionaries that take no memory: one read-only row, repeated."""
    return np.broadcast_to(np.array({}, dtype=object), (length,))


def _check_rows(name: str, rows: Any, expected: int, why: str) -> None:
    if len(rows) != expected:
        raise DataError(
            expected=f"{expected} rows of `{name}` ({why})",
            got=f"{len(rows)} rows",
            do=f"check how `{name}` was cut from the recording",
        )


def _float_rewards(values: Any, length: int) -> np.ndarray:
    rews: np.ndarray = np.asarray(values)
    if rews.shape != (length,):
        raise DataError(
            expected=f"rewards of shape ({length},), one scalar an action",
            got=f"shape {rews.shape}",
            do="sum or squeeze vector rewards to one number a step",
        )
    if np.issubdtype(rews.dtype, np.integer) or rews.dtype == np.bool_:
        return rews.astype(np.float32)
    if not np.issubdtype(rews.dtype, np.floating):
        raise DataError(
            expected="numeric rewards", got=f"dtype {rews.dtype}", do="convert the rewards to float32 before use"
        )
    return rews


def _flags(name: str, values: Any, length: int) -> np.ndarray:
    flags: np.ndarray = np.asarray(values)
    if flags.dtype != np.bool_ or flags.shape != (length,):
        raise DataError(
            expected=f"`{name}` as booleans of shape ({length},)",
            got=f"dtype {flags.dtype}, shape {flags.shape}",
            do=f"pass {name}.astype(bool) with one flag a transition",
        )
    return flags


def _equal(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    if isinstance(a, DictObs) or isinstance(b, DictObs):
        return type(a) is type(b) and bool(a == b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(value, b[key]) for key, value in a.items())
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype == object and b.dtype == object and a.ndim:  # infos: dictionaries that may hold arrays
        return a.shape == b.shape and all(map(_equal, a.flat, b.flat))
    return np.array_equal(a, b)


class _FieldwiseEqual:
    """Equality by content: arrays may differ in identity and dtype, not in shape or values."""

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        mine, theirs = dataclass_quick_asdict(self), dataclass_quick_asdict(other)
        return all(_equal(value, theirs[name]) for name, value in mine.items())

    __hash__ = None  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectory(_FieldwiseEqual):
    """One episode, or a fragment of one.

    Raises:
        EmptyDataError: no action at all.
        DataError: the lengths do not fit, or ``truncated`` without ``terminal``.
    """

    obs: Observation
    """Observations, shape (time + 1, *obs): the last one follows the last action."""

    acts: np.ndarray
    """Actions, shape (time, *act)."""

    infos: np.ndarray | Sequence[Mapping[str, Any]] | None
    """Info dictionary of each step, length time, or None."""

    terminal: bool
    """The episode ended here, by itself or by a time limit; False only for a fragment."""

    truncated: bool = dataclasses.field(default=False, kw_only=True)
    """The episode was ended by a time limit, so the last state has a future of its own."""

    def __post_init__(self) -> None:
        if isinstance(self.obs, dict):
            object.__setattr__(self, "obs", DictObs(self.obs))
        if len(self.acts) == 0:
            raise EmptyDataError(
                expected="a trajectory with at least one action",
                got="zero actions",
                do="drop empty episodes before building trajectories",
            )
        _check_rows("obs", self.obs, len(self.acts) + 1, "one more than the actions: the last follows the last action")
        if self.infos is not None:
            _check_rows("infos", self.infos, len(self.acts), "one an action")
        if self.truncated and not self.terminal:
            raise DataError(
                expected="`terminal=True` on a truncated trajectory (terminal means: the episode ended, either way)",
                got="truncated=True, terminal=False",
                do="set terminal=True, or truncated=False if this is a fragment",
            )

    def __len__(self) -> int:
        """Number of actions."""
        return len(self.acts)

    @property
    def terminated(self) -> bool:
        """The environment ended the episode by itself: nothing comes after the last state."""
        return self.terminal and not self.truncated


@dataclasses.dataclass(frozen=True, eq=False)
class TrajectoryWithRew(Trajectory):
    """A trajectory with the reward of each step.

    Raises:
        DataError: as Trajectory, or rewards that are not one number a step.
    """

    rews: np.ndarray
    """Rewards, shape (time,), floating point; integers become float32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "rews", _float_rewards(self.rews, len(self.acts)))


TrajectoryPair = Pair[Trajectory]


class TransitionMappingNoNextObs(TypedDict):
    """A batch with what cloning needs."""

    obs: AnyTensor | DictObs
    acts: AnyTensor


class TransitionMapping(TransitionMappingNoNextObs, total=False):
    """A batch with everything a reward or a critic needs."""

    next_obs: AnyTensor | DictObs
    dones: AnyTensor
    rew: AnyTensor


TransitionsMinimalSelf = TypeVar("TransitionsMinimalSelf", bound="TransitionsMinimal[Any]")


@dataclasses.dataclass(frozen=True, eq=False)
class TransitionsMinimal(_FieldwiseEqual, Dataset, Sequence, Generic[T]):  # type: ignore[type-arg]
    """Observations and the actions taken there; rows need not follow each other.

    Raises:
        DataError: the fields differ in length.
    """

    obs: Observation
    """Observations before acting, shape (batch, *obs)."""

    acts: np.ndarray
    """Actions, shape (batch, *act)."""

    infos: np.ndarray | Sequence[Mapping[str, Any]] | None
    """Info dictionary of each row, or None for none at all (kept as empty ones)."""

    def __post_init__(self) -> None:
        if isinstance(self.obs, dict):
            object.__setattr__(self, "obs", DictObs(self.obs))
        if self.infos is None:
            object.__setattr__(self, "infos", no_infos(len(self.acts)))
        _check_rows("obs", self.obs, len(self.acts), "one an action")
        _check_rows("infos", self.infos, len(self.acts), "one an action")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.acts)

    def __getitem__(self, key: Any) -> Any:
        """An integer gives one row as a dictionary; a slice or index array gives the same type."""
        fields = dataclass_quick_asdict(self)
        if isinstance(key, (int, np.integer)):
            return {name: value[key] for name, value in fields.items()}
        if not isinstance(key, slice) and not isinstance(fields["infos"], np.ndarray):
            fields["infos"] = np.asarray(fields["infos"], dtype=object)
        return dataclasses.replace(self, **{name: value[key] for name, value in fields.items()})


@dataclasses.dataclass(frozen=True, eq=False)
class Transitions(TransitionsMinimal[Any]):
    """Steps of an environment: before, action, after, and whether that was a terminal state.

    Raises:
        DataError: the fields differ in length or type, or a row is both terminated and truncated.
    """

    next_obs: Observation
    """Observations after acting, shape (batch, *obs)."""

    dones: np.ndarray
    """True where the environment terminated by itself, shape (batch,); a time limit is not a done."""

    truncated: np.ndarray = dataclasses.field(default=None, kw_only=True)  # type: ignore[arg-type]
    """True where a time limit ended the episode, shape (batch,); None means nowhere."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.next_obs, dict):
            object.__setattr__(self, "next_obs", DictObs(self.next_obs))
        n = len(self.acts)
        _check_rows("next_obs", self.next_obs, n, "one an action")
        if self.obs.shape != self.next_obs.shape or self.obs.dtype != self.next_obs.dtype:
            raise DataError(
                expected=f"`next_obs` like `obs`: shape {self.obs.shape}, dtype {self.obs.dtype}",
                got=f"shape {self.next_obs.shape}, dtype {self.next_obs.dtype}",
                do="record both from the same source, without a change of type",
            )
        truncated = np.zeros(n, dtype=bool) if self.truncated is None else self.truncated
        object.__setattr__(self, "dones", _flags("dones", self.dones, n))
        object.__setattr__(self, "truncated", _flags("truncated", truncated, n))
        if np.any(self.dones & self.truncated):
            raise DataError(
                expected="`dones` (terminated) and `truncated` never both True",
                got=f"{int(np.sum(self.dones & self.truncated))} rows with both",
                do="let a state that terminates win: truncated &= ~dones",
            )


@dataclasses.dataclass(frozen=True, eq=False)
class TransitionsWithRew(Transitions):
    """Transitions with the reward of each step.

    Raises:
        DataError: as Transitions, or rewards that are not one number a step.
    """

    rews: np.ndarray
    """Rewards, shape (batch,), floating point; integers become float32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "rews", _float_rewards(self.rews, len(self.acts)))


def transitions_collate_fn(batch: Sequence[Mapping[str, np.ndarray]]) -> Mapping[str, Any]:
    """Collate rows of a transitions object for a ``torch.utils.data.DataLoader``.

    Observations are stacked as NumPy arrays (or DictObs), infos become a list, all else tensors.
    """
    if not batch:
        raise EmptyDataError(expected="at least one row", got="an empty batch", do="use a batch size of 1 or more")
    collated: dict[str, Any] = {}
    for name in batch[0]:
        column: list[Any] = [row[name] for row in batch]
        if name in ("obs", "next_obs"):
            collated[name] = stack_maybe_dictobs(column)
        elif name == "infos":
            collated[name] = column
        else:
            collated[name] = default_collate(column)
    return collated
