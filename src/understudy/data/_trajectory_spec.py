"""What all trajectories of one dataset share: entries of the observation, shapes, types, rewards or none."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from understudy.data._json_infos import InfoColumn
from understudy.data.dict_obs import DictObs, Observation
from understudy.data.trajectory_store import TrajectoryColumns
from understudy.data.types import Trajectory, TrajectoryWithRew
from understudy.errors import DataError

_MAX_AXES = 32
_MAX_VALUES = 2**31 - 1
"""In one step: what Arrow can count."""
_KINDS = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8)}


@dataclasses.dataclass(frozen=True)
class FieldSpec:
    """One array a time step."""

    dtype: np.dtype[Any]
    """In the machine's byte order."""
    shape: tuple[int, ...]
    """Without the time axis."""

    @classmethod
    def of(cls, name: str, array: Any) -> FieldSpec:
        """Read off an array with a leading time axis.

        Raises:
            DataError: no boolean, integer or floating type that a file can hold, or nothing in it.
        """
        array = np.asarray(array)
        dtype = array.dtype.newbyteorder("=")
        if dtype.itemsize not in _KINDS.get(dtype.kind, ()):
            raise DataError(
                expected=f"`{name}` of a boolean, integer or floating type of at most 64 bits",
                got=f"dtype {array.dtype}",
                do=f"convert `{name}` to such a type (complex numbers: two floats; text: integer codes)",
            )
        if 0 in array.shape[1:]:
            raise DataError(
                expected=f"at least one number a step in `{name}`",
                got=f"shape {array.shape}",
                do="drop the empty entry before saving",
            )
        return cls(dtype, array.shape[1:])

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        return {"dtype": self.dtype.name, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> FieldSpec:
        """As read.

        Raises:
            ValueError, KeyError, TypeError: not what ``to_json`` writes.
        """
        dtype, shape = np.dtype(content["dtype"]), tuple(content["shape"])
        known = dtype.itemsize in _KINDS.get(dtype.kind, ()) and len(shape) <= _MAX_AXES
        if not known or not all(type(n) is int and n > 0 for n in shape) or math.prod(shape) > _MAX_VALUES:
            raise ValueError("no field that a file can hold")
        return cls(dtype, shape)

    def __str__(self) -> str:
        return f"{self.dtype} of shape {self.shape}"


@dataclasses.dataclass(frozen=True)
class TrajectorySpec:
    """Fields of every trajectory of a dataset."""

    obs: FieldSpec | dict[str, FieldSpec]
    acts: FieldSpec
    rews: FieldSpec | None

    @classmethod
    def of(cls, traj: Trajectory) -> TrajectorySpec:
        """Read off one trajectory.

        Raises:
            DataError: a field that no file can hold.
        """
        obs: FieldSpec | dict[str, FieldSpec]
        if isinstance(traj.obs, DictObs):
            obs = {key: FieldSpec.of(f"obs[{key!r}]", value) for key, value in traj.obs.items()}
        else:
            obs = FieldSpec.of("obs", traj.obs)
        rews = FieldSpec.of("rews", traj.rews) if isinstance(traj, TrajectoryWithRew) else None
        return cls(obs, FieldSpec.of("acts", traj.acts), rews)

    def check(self, traj: Trajectory, number: int) -> None:
        """Compare trajectory ``number`` with this.

        Raises:
            DataError: it has other fields.
        """
        other = TrajectorySpec.of(traj)
        if other == self:
            return
        for name in ("obs", "acts", "rews"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise DataError(
                    expected=f"`{name}` in every trajectory as in the first: {describe(mine)}",
                    got=f"{describe(theirs)} in trajectory {number}",
                    do=f"convert `{name}` to one type and shape, or save the kinds in separate files",
                )

    def gather(self, trajs: Sequence[Trajectory], *, first: int = 0) -> TrajectoryColumns:
        """Join trajectories that fit; ``first`` is the number of the first one in error messages."""
        lengths = np.array([len(traj) for traj in trajs], dtype=np.int64)
        obs: Observation
        if isinstance(self.obs, dict):
            parts = [traj.obs for traj in trajs if isinstance(traj.obs, DictObs)]
            obs = DictObs({k: _join([part.get(k) for part in parts], spec) for k, spec in self.obs.items()})
        else:
            obs = _join([traj.obs for traj in trajs], self.obs)
        rews = [traj.rews for traj in trajs if isinstance(traj, TrajectoryWithRew)]
        return TrajectoryColumns(
            obs=obs,
            acts=_join([traj.acts for traj in trajs], self.acts),
            rews=None if self.rews is None else _join(rews, self.rews),
            transition_offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
            terminal=np.array([traj.terminal for traj in trajs], dtype=bool),
            truncated=np.array([traj.truncated for traj in trajs], dtype=bool),
            infos=InfoColumn.encode((traj.infos for traj in trajs), first=first),
        )

    def to_json(self) -> dict[str, Any]:
        """As stored; the entries of a dictionary are a list, since their names may be any string."""
        obs: Any
        if isinstance(self.obs, dict):
            obs = {"entries": [{"key": key, **spec.to_json()} for key, spec in self.obs.items()]}
        else:
            obs = self.obs.to_json()
        return {"obs": obs, "acts": self.acts.to_json(), "rews": self.rews and self.rews.to_json()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TrajectorySpec:
        """As read.

        Raises:
            ValueError, KeyError, TypeError: not what ``to_json`` writes.
        """
        obs: FieldSpec | dict[str, FieldSpec]
        if "entries" in content["obs"]:
            obs = {str(entry["key"]): FieldSpec.from_json(entry) for entry in content["obs"]["entries"]}
        else:
            obs = FieldSpec.from_json(content["obs"])
        rews = content["rews"] and FieldSpec.from_json(content["rews"])
        return cls(obs, FieldSpec.from_json(content["acts"]), rews)


def describe(spec: FieldSpec | dict[str, FieldSpec] | None) -> str:
    """For messages."""
    if spec is None:
        return "none"
    if isinstance(spec, dict):
        return "{" + ", ".join(f"{key!r}: {field}" for key, field in spec.items()) + "}"
    return str(spec)


def _join(arrays: Sequence[Any], spec: FieldSpec) -> np.ndarray:
    """One C-contiguous array; a single one that is so already is not copied."""
    joined = np.concatenate(arrays) if len(arrays) > 1 else np.asarray(arrays[0])
    return np.ascontiguousarray(joined, dtype=spec.dtype)
