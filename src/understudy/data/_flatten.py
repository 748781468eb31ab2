"""Trajectories laid end to end as transitions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from understudy.data._json_infos import JsonInfos
from understudy.data.dict_obs import DictObs, Observation
from understudy.data.types import Trajectory, TrajectoryWithRew, Transitions, TransitionsWithRew, no_infos
from understudy.errors import DataError, EmptyDataError


def _joined(pieces: Sequence[np.ndarray], name: str) -> np.ndarray:
    """One new array of all pieces; a dtype is kept, never widened by mixing."""
    dtypes = {p.dtype for p in pieces}
    shapes = {p.shape[1:] for p in pieces}
    if len(dtypes) > 1 or len(shapes) > 1:
        raise DataError(
            expected=f"the same dtype and shape of `{name}` in every trajectory",
            got=f"dtypes {sorted(map(str, dtypes))}, shapes {sorted(shapes)}",
            do="convert all trajectories to one dtype and shape first",
        )
    return np.concatenate(pieces)


def _joined_obs(pieces: list[Observation], name: str) -> Observation:
    dicts = [p for p in pieces if isinstance(p, DictObs)]
    if dicts:
        if len(dicts) < len(pieces) or any(d.keys() != dicts[0].keys() for d in dicts):
            raise DataError(
                expected="dictionary observations with the same keys in every trajectory",
                got="arrays or other keys among them",
                do="record all trajectories from environments with one observation space",
            )
        return DictObs({key: _joined([d.get(key) for d in dicts], f"{name}[{key!r}]") for key in dicts[0].unwrap()})
    return _joined([p for p in pieces if isinstance(p, np.ndarray)], name)


def _held(trajectory: Trajectory) -> np.ndarray:
    infos = trajectory.infos
    return infos.to_array() if isinstance(infos, JsonInfos) else np.asarray(infos)


def _fields(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    if not trajectories:
        raise EmptyDataError(
            expected="at least one trajectory", got="none", do="check that sampling or loading gave episodes"
        )
    lengths = [len(t) for t in trajectories]
    last = np.cumsum(lengths) - 1
    dones, truncated = np.zeros((2, last[-1] + 1), dtype=bool)
    dones[last] = [t.terminated for t in trajectories]
    truncated[last] = [t.truncated for t in trajectories]
    with_infos = [
        t.infos is not None and not (isinstance(t.infos, JsonInfos) and t.infos.are_empty()) for t in trajectories
    ]
    if any(with_infos):
        infos = np.concatenate(
            [_held(t) if there else no_infos(len(t)) for t, there in zip(trajectories, with_infos, strict=True)]
        )
    else:
        infos = no_infos(int(last[-1]) + 1)
    return {
        "obs": _joined_obs([t.obs[:-1] for t in trajectories], "obs"),
        "next_obs": _joined_obs([t.obs[1:] for t in trajectories], "obs"),
        "acts": _joined([t.acts for t in trajectories], "acts"),
        "dones": dones,
        "truncated": truncated,
        "infos": infos,
    }


def flatten_trajectories(trajectories: Iterable[Trajectory]) -> Transitions:
    """All steps of all trajectories, in order.

    ``dones`` is True only where an episode terminated by itself; ``truncated`` where a time limit ended it.

    Args:
        trajectories: any iterable, a generator too.

    Raises:
        EmptyDataError: no trajectory.
        DataError: dtypes or shapes differ between trajectories.
    """
    return Transitions(**_fields(list(trajectories)))


def flatten_trajectories_with_rew(trajectories: Iterable[TrajectoryWithRew]) -> TransitionsWithRew:
    """As ``flatten_trajectories``, with rewards.

    Raises:
        DataError: as ``flatten_trajectories``, or a trajectory without rewards.
    """
    trajectories = list(trajectories)
    for i, t in enumerate(trajectories):
        if not isinstance(t, TrajectoryWithRew):
            raise DataError(
                expected="trajectories with rewards",
                got=f"trajectory {i} without",
                do="use flatten_trajectories, or build TrajectoryWithRew objects",
            )
    fields = _fields(trajectories)
    return TransitionsWithRew(rews=_joined([t.rews for t in trajectories], "rews"), **fields)
