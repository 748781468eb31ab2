"""Rollouts: run a policy in vectorised environments and get its episodes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from understudy.data._accumulator import TrajectoryAccumulator
from understudy.data._below_normalize import below
from understudy.data._episodes import EpisodeRecorder
from understudy.data._flatten import flatten_trajectories, flatten_trajectories_with_rew
from understudy.data._until import GenTrajTerminationFn, make_min_episodes, make_min_timesteps, make_sample_until
from understudy.data.acting import (
    AnyPolicy,
    PolicyCallable,
    check_policy_spaces,
    drawing_from,
    policy_in_a_loop,
    policy_to_callable,
)
from understudy.data.types import TrajectoryWithRew, TransitionsWithRew
from understudy.errors import ConfigError, EmptyDataError, EnvCrashedError

__all__ = [
    "AnyPolicy",
    "GenTrajTerminationFn",
    "PolicyCallable",
    "TrajectoryAccumulator",
    "check_policy_spaces",
    "discounted_sum",
    "flatten_trajectories",
    "flatten_trajectories_with_rew",
    "generate_trajectories",
    "generate_transitions",
    "make_min_episodes",
    "make_min_timesteps",
    "make_sample_until",
    "policy_in_a_loop",
    "policy_to_callable",
    "rollout",
    "rollout_stats",
    "unwrap_traj",
]

_log = logging.getLogger(__name__)


def generate_trajectories(
    policy: AnyPolicy,
    venv: VecEnv,
    sample_until: GenTrajTerminationFn,
    rng: np.random.Generator,
    *,
    deterministic_policy: bool = False,
) -> Sequence[TrajectoryWithRew]:
    """Run ``policy`` until ``sample_until`` is content; only whole episodes, in random order.

    Once it is content, environments in the middle of an episode still finish it: dropping them would favour short
    episodes.

    Args:
        policy: see AnyPolicy.
        venv: vectorised environments; they are seeded from ``rng`` and reset.
        sample_until: asked whenever an episode ends.
        rng: decides everything random here: environments, sampled actions, order.
        deterministic_policy: as in ``policy_to_callable``.

    Raises:
        SpaceMismatchError: the policy was made for other spaces.
        EnvCrashedError: an environment in a process of its own raised, died or hung; the error's ``finished`` holds the
            trajectories that had ended. What an environment of this process raises comes through as it is.
    """
    return _generate(policy, venv, sample_until, rng, deterministic_policy=deterministic_policy, keep_infos=True)


def _generate(
    policy: AnyPolicy,
    venv: VecEnv,
    sample_until: GenTrajTerminationFn,
    rng: np.random.Generator,
    *,
    deterministic_policy: bool,
    keep_infos: bool,
    unwrap: bool = False,
) -> list[TrajectoryWithRew]:
    act = policy_in_a_loop(policy, venv, deterministic_policy)
    normalised = unwrap_vec_normalize(venv) if unwrap else None
    trajectories: list[TrajectoryWithRew] = []
    with (
        drawing_from(rng, policy, venv),
        nullcontext() if normalised is None else below(normalised) as original,
        _handing_over(trajectories),
    ):
        obs: Any = venv.reset()
        n_envs = venv.num_envs
        seen = obs if original is None else original.obs()
        space = venv.observation_space if normalised is None else normalised.observation_space
        recorder = EpisodeRecorder(_in_the_type_of(space, seen), n_envs, keep_infos=keep_infos)
        state: tuple[np.ndarray, ...] | None = None
        dones = np.ones(n_envs, dtype=bool)
        active = np.ones(n_envs, dtype=bool)
        idle: list[int] = []
        while len(idle) < n_envs:
            acts, state = act(obs, state, dones)
            chosen = np.array(acts)  # an environment may scale its action in place
            obs, rews, dones, infos = venv.step(acts)
            ends = None
            seen = obs
            if original is not None:
                seen, rews, ends = original.obs(), original.rews(), original.last_obs()
            # As in Stable-Baselines3's environments of one process: the others pass on whatever type the reward has.
            ended = recorder.add(chosen, seen, np.asarray(rews, dtype=np.float32), dones, infos, ends=ends)
            for env, trajectory in ended:
                if not active[env]:
                    continue
                last_info = infos[env]
                trajectories.append(_as_the_environment_saw(trajectory, last_info) if unwrap else trajectory)
            if ended and sample_until(trajectories):
                active &= ~dones
                idle = np.flatnonzero(~active).tolist()
            for env in idle:
                recorder.forget(env)
    # Environments finish short episodes first; without shuffling, a prefix of the list would be biased to them.
    rng.shuffle(trajectories)
    return trajectories


@contextmanager
def _handing_over(finished: list[TrajectoryWithRew]) -> Iterator[None]:
    """What is finished goes with the error when an environment crashes."""
    try:
        yield
    except EnvCrashedError as err:
        err.finished = tuple(finished)
        raise


def _in_the_type_of(space: gym.Space[Any], obs: Any) -> Any:
    """Observations in the dtype that the space promises, as environments of one process already give them."""
    if isinstance(space, gym.spaces.Dict):
        return {key: _in_the_type_of(sub, obs[key]) for key, sub in space.spaces.items()}
    obs = np.asarray(obs)
    keep = space.dtype is None or not np.can_cast(obs.dtype, space.dtype, "same_kind")
    return obs if keep else obs.astype(space.dtype, copy=False)


def _as_the_environment_saw(trajectory: TrajectoryWithRew, last_info: Mapping[str, Any]) -> TrajectoryWithRew:
    """Observations and rewards as recorded innermost by ``RolloutInfoWrapper``, where there is one."""
    if "rollout" not in last_info:
        return trajectory
    original = last_info["rollout"]
    return TrajectoryWithRew(
        obs=original["obs"],
        acts=trajectory.acts,
        infos=trajectory.infos,
        terminal=trajectory.terminal,
        rews=original["rews"],
        truncated=trajectory.truncated,
    )


def unwrap_traj(traj: TrajectoryWithRew) -> TrajectoryWithRew:
    """The trajectory with the observations and rewards that ``RolloutInfoWrapper`` recorded.

    A trajectory from an environment without that wrapper comes back as it is.
    """
    if traj.infos is None or len(traj.infos) == 0:
        return traj
    return _as_the_environment_saw(traj, traj.infos[-1])


def rollout(
    policy: AnyPolicy,
    venv: VecEnv,
    sample_until: GenTrajTerminationFn,
    rng: np.random.Generator,
    *,
    unwrap: bool = True,
    exclude_infos: bool = True,
    verbose: bool = True,
    **kwargs: Any,
) -> Sequence[TrajectoryWithRew]:
    """Episodes of ``policy``, as the innermost environment saw them.

    Args:
        policy: see AnyPolicy.
        venv: vectorised environments; seeded from ``rng`` and reset.
        sample_until: asked whenever an episode ends; see ``make_sample_until``.
        rng: decides everything random here.
        unwrap: undo ``VecNormalize``, and use what ``RolloutInfoWrapper`` recorded where that wrapper is present.
        exclude_infos: drop the info dictionaries (they are large and seldom used).
        verbose: log the statistics of the returns.
        kwargs: ``deterministic_policy``, as in ``generate_trajectories``.

    Raises:
        SpaceMismatchError: the policy was made for other spaces.
        ConfigError: an unknown keyword.
        EnvCrashedError: as in ``generate_trajectories``, with what had ended in ``finished``.
    """
    deterministic = bool(kwargs.pop("deterministic_policy", False))
    if kwargs:
        raise ConfigError(
            expected="the keyword deterministic_policy", got=f"{sorted(kwargs)}", do="check the spelling of the keyword"
        )
    trajectories = _generate(
        policy,
        venv,
        sample_until,
        rng,
        deterministic_policy=deterministic,
        keep_infos=not exclude_infos,
        unwrap=unwrap,
    )
    if verbose:
        _log.info("Rollout stats: %s", rollout_stats(trajectories))
    return trajectories


def generate_transitions(
    policy: AnyPolicy,
    venv: VecEnv,
    n_timesteps: int,
    rng: np.random.Generator,
    *,
    truncate: bool = True,
    **kwargs: Any,
) -> TransitionsWithRew:
    """At least ``n_timesteps`` transitions of whole episodes; with ``truncate``, exactly so many."""
    trajectories = generate_trajectories(policy, venv, make_min_timesteps(n_timesteps), rng, **kwargs)
    transitions = flatten_trajectories_with_rew(trajectories)
    if truncate and n_timesteps is not None:
        return transitions[:n_timesteps]  # type: ignore[no-any-return]
    return transitions


def rollout_stats(trajectories: Sequence[TrajectoryWithRew]) -> Mapping[str, float]:
    """Statistics of returns and lengths.

    Returns:
        ``n_traj``; ``return_`` and ``len_`` each with ``min``, ``mean``, ``std``, ``max``; and where infos hold the
        true return kept by a ``Monitor``, ``monitor_return_…`` with ``len`` (how many episodes had one).

    Raises:
        EmptyDataError: no trajectory.
    """
    if len(trajectories) == 0:
        raise EmptyDataError(expected="at least one trajectory", got="none", do="sample at least one episode")
    values = {
        "return": np.array([np.sum(t.rews) for t in trajectories], dtype=np.float64),
        "len": np.array([len(t) for t in trajectories]),
    }
    stats: dict[str, float] = {"n_traj": len(trajectories)}
    monitored = [t.infos[-1]["episode"]["r"] for t in trajectories if t.infos is not None and "episode" in t.infos[-1]]
    if monitored:
        values["monitor_return"] = np.array(monitored, dtype=np.float64)
        stats["monitor_return_len"] = len(monitored)
    for name, numbers in values.items():
        for statistic in ("min", "mean", "std", "max"):
            stats[f"{name}_{statistic}"] = getattr(np, statistic)(numbers).item()
    return stats


def discounted_sum(arr: np.ndarray, gamma: float) -> np.ndarray | float:
    """Σₜ γᵗ arr[t] over the first axis; trailing axes are kept.

    Args:
        arr: shape (time, ...).
        gamma: discount in [0, 1].

    Raises:
        ConfigError: ``gamma`` outside [0, 1].
    """
    if not 0.0 <= gamma <= 1.0:
        raise ConfigError(expected="a discount in [0, 1]", got=str(gamma), do="pass gamma between 0 and 1")
    total = arr.sum(axis=0) if gamma == 1.0 else np.tensordot(gamma ** np.arange(len(arr)), arr, axes=1)
    return total if np.ndim(total) else float(total)
