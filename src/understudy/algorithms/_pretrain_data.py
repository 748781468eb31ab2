"""Demonstrations as a model sees them: in its layout, normalised with its statistics; and how their episodes end."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from understudy.data.demonstrations import BatchStream, Demonstrations, as_demonstrations
from understudy.data.dict_obs import DictObs, Observation
from understudy.errors import DataError

UnknownEnds = Literal["terminated", "truncated"]


@dataclasses.dataclass(frozen=True)
class Views:
    """The same demonstrations twice."""

    raw: Demonstrations | BatchStream
    """As the environment gave them."""

    seen: Demonstrations | BatchStream
    """As the model's networks read them."""

    vec_normalize: VecNormalize | None
    """Whose statistics lie between the two."""


def read_views(model: BaseAlgorithm, demonstrations: Any, *, in_hand: bool, update_normalization: bool) -> Views:
    """Read and check demonstrations in the environment's own observations.

    Args:
        model: who is to learn from them.
        demonstrations: anything the data door takes.
        in_hand: a DataLoader is read once, not anew each epoch.
        update_normalization: move the statistics of the model's VecNormalize with them.

    Raises:
        SpaceMismatchError: they do not fit the model's spaces.
        DataError: they cannot be used; see ``as_demonstrations``.
    """
    normalizer = model.get_vec_normalize_env()
    space = model.observation_space if normalizer is None else normalizer.venv.observation_space
    raw = as_demonstrations(demonstrations, observation_space=space, action_space=model.action_space)
    if isinstance(raw, BatchStream) and (in_hand or normalizer is not None):
        raw = raw.read()
    if normalizer is None or isinstance(raw, BatchStream):
        return Views(raw, raw, None)
    raw = in_memory(raw)
    if update_normalization:
        _move_statistics(normalizer, raw)
    seen = raw
    if normalizer.norm_obs:
        after = raw.next_frames
        seen = dataclasses.replace(
            raw,
            frames=_normalized(normalizer, raw.frames),
            next_frames=None if after is None else _normalized(normalizer, after),
        )
    # The environments may turn images after they are normalised.
    fitted = as_demonstrations(seen, observation_space=model.observation_space, action_space=model.action_space)
    raw_fitted = raw if normalizer.norm_obs else fitted
    return Views(raw_fitted, fitted, normalizer)


def rewards_seen(demos: Demonstrations, normalizer: VecNormalize | None) -> np.ndarray:
    """Rewards as the learner's critic sees them, float64, shape (transition,).

    Raises:
        DataError: the demonstrations have none.
    """
    if demos.rews is None:
        raise DataError(
            expected="demonstrations with rewards, from which a critic or a replay buffer can be filled",
            got="observations and actions only",
            do="record with rewards (TrajectoryWithRew, or `rews` beside `obs` and `acts`), or leave the critic out",
        )
    rews = np.asarray(demos.rews, dtype=np.float64)
    if normalizer is None or not normalizer.norm_reward:
        return rews
    return np.asarray(normalizer.normalize_reward(rews), dtype=np.float64)


@dataclasses.dataclass(frozen=True)
class Ends:
    """How each transition stands in its episode, each of shape (transition,), bool."""

    last: np.ndarray
    """The last of its episode or recording."""

    terminated: np.ndarray
    """The environment ended there."""

    @property
    def cut(self) -> np.ndarray:
        """Something would have followed: a time limit, or the recording stopped."""
        return np.asarray(self.last & ~self.terminated)


def ends_of(demos: Demonstrations, unknown_ends: UnknownEnds | None) -> Ends:
    """Where episodes end, and which ends are the environment's.

    Raises:
        DataError: the data does not say, and neither does ``unknown_ends``.
    """
    last = np.zeros(len(demos), dtype=bool)
    last[demos.episode_offsets[1:] - 1] = True
    if demos.dones is not None:
        return Ends(last | np.asarray(demos.dones, dtype=bool), np.asarray(demos.dones, dtype=bool))
    if demos.truncated is not None and unknown_ends is None:
        return Ends(last, last & ~np.asarray(demos.truncated, dtype=bool))
    if unknown_ends is None:
        raise DataError(
            expected="demonstrations that say whether an episode ended by itself or by a time limit",
            got="neither `dones` nor `truncated`",
            do="pass unknown_ends='terminated' or unknown_ends='truncated', whichever the environment does",
        )
    return Ends(last, last.copy() if unknown_ends == "terminated" else np.zeros_like(last))


def in_memory(demos: Demonstrations) -> Demonstrations:
    """Plain arrays, whatever kind of demonstrations it was."""
    if type(demos) is Demonstrations:
        return demos
    return Demonstrations(**{field.name: getattr(demos, field.name) for field in dataclasses.fields(Demonstrations)})


def _normalized(normalizer: VecNormalize, obs: Observation) -> Observation:
    if isinstance(obs, DictObs):
        return DictObs(normalizer.normalize_obs(obs.unwrap()))  # type: ignore[arg-type]
    return np.asarray(normalizer.normalize_obs(obs))


def _move_statistics(normalizer: VecNormalize, demos: Demonstrations) -> None:
    """As if the environments had shown the demonstrations once."""
    obs = demos.obs
    if normalizer.norm_obs:
        moments: Any = normalizer.obs_rms
        if isinstance(obs, DictObs):
            for key, rms in moments.items():
                rms.update(obs.get(key))
        else:
            moments.update(obs)
    if demos.rews is None or not normalizer.norm_reward:
        return
    sums = np.empty(len(demos), dtype=np.float64)
    for start, stop in zip(demos.episode_offsets[:-1], demos.episode_offsets[1:], strict=True):
        so_far = 0.0
        for t in range(start, stop):
            so_far = so_far * normalizer.gamma + float(demos.rews[t])
            sums[t] = so_far
    normalizer.ret_rms.update(sums)
