"""Rollouts: run a policy in vectorised environments and get its episodes."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from understudy.data._acting import lean_actor
from understudy.data._below_normalize import below
from understudy.data._episodes import EpisodeRecorder
from understudy.data._flatten import flatten_trajectories, flatten_trajectories_with_rew
from understudy.data.types import DictObs, TrajectoryWithRew, TransitionsWithRew, stack_maybe_dictobs
from understudy.errors import ConfigError, DataError, EmptyDataError, SpaceMismatchError

_Obs = np.ndarray | dict[str, np.ndarray]
_State = tuple[np.ndarray, ...] | None
PolicyCallable = Callable[[_Obs, _State, np.ndarray | None], tuple[np.ndarray, _State]]
"""(observations, recurrent state, episode starts) → (actions, recurrent state), all batched over environments."""

AnyPolicy = BaseAlgorithm | BasePolicy | Callable[..., Any] | None
"""A Stable-Baselines3 algorithm or policy, a PolicyCallable, a plain function of observations, or None (random)."""

GenTrajTerminationFn = Callable[[Sequence[TrajectoryWithRew]], bool]
"""Asked after each finished episode with all episodes so far: is that enough?"""

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
    "policy_to_callable",
    "rollout",
    "rollout_stats",
    "unwrap_traj",
]

_log = logging.getLogger(__name__)


# --- when to stop -----------------------------------------------------------------------------------------------


class _MinTimesteps:
    """Enough steps? Keeps a running count, so that asking costs only what is new."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._first: TrajectoryWithRew | None = None
        self._counted = 0
        self._steps = 0

    def __call__(self, trajectories: Sequence[TrajectoryWithRew]) -> bool:
        first = trajectories[0] if trajectories else None
        if first is not self._first or len(trajectories) < self._counted:  # another collection: start again
            self._first, self._counted, self._steps = first, 0, 0
        self._steps += sum(len(trajectories[i]) for i in range(self._counted, len(trajectories)))
        self._counted = len(trajectories)
        return self._steps >= self._n


def _at_least_one(name: str, n: int) -> None:
    if n < 1:
        raise ConfigError(expected=f"`{name}` ≥ 1", got=str(n), do=f"ask for at least one with {name}=1")


def make_min_episodes(n: int) -> GenTrajTerminationFn:
    """Stop after at least ``n`` episodes.

    Raises:
        ConfigError: ``n`` < 1.
    """
    _at_least_one("n", n)
    return lambda trajectories: len(trajectories) >= n


def make_min_timesteps(n: int) -> GenTrajTerminationFn:
    """Stop after at least ``n`` steps in finished episodes.

    Raises:
        ConfigError: ``n`` < 1.
    """
    _at_least_one("n", n)
    return _MinTimesteps(n)


def make_sample_until(min_timesteps: int | None = None, min_episodes: int | None = None) -> GenTrajTerminationFn:
    """Stop once every given minimum is met.

    Raises:
        ConfigError: no minimum is given, or one is below 1.
    """
    conditions = []
    if min_timesteps is not None:
        conditions.append(make_min_timesteps(min_timesteps))
    if min_episodes is not None:
        conditions.append(make_min_episodes(min_episodes))
    if not conditions:
        raise ConfigError(
            expected="`min_timesteps`, `min_episodes` or both",
            got="neither",
            do="say how much to sample, for example make_sample_until(min_episodes=50)",
        )
    # A list, not a generator: every condition keeps its own count up to date.
    return lambda trajectories: all([condition(trajectories) for condition in conditions])  # noqa: C419


# --- who acts ---------------------------------------------------------------------------------------------------


def check_policy_spaces(
    policy: BaseAlgorithm | BasePolicy, observation_space: gym.Space[Any], action_space: gym.Space[Any]
) -> None:
    """Raise SpaceMismatchError unless the policy was made for these spaces (channels-last images are the same)."""
    for kind, mine, theirs in (
        ("observation space", policy.observation_space, observation_space),
        ("action space", policy.action_space, action_space),
    ):
        if mine is not None and mine != theirs and not _same_up_to_channels(mine, theirs):
            raise SpaceMismatchError(
                expected=f"an environment with the policy's {kind} {mine}",
                got=str(theirs),
                do="use the environment the policy was made for, with the same wrappers",
            )


def _same_up_to_channels(mine: Any, theirs: Any) -> bool:
    """Stable-Baselines3 policies take images channels-first and turn channels-last observations themselves."""
    if hasattr(mine, "spaces") and hasattr(theirs, "spaces"):
        return mine.spaces.keys() == theirs.spaces.keys() and all(
            mine[k] == theirs[k] or _same_up_to_channels(mine[k], theirs[k]) for k in mine.spaces
        )
    shape, other = getattr(mine, "shape", None), getattr(theirs, "shape", None)
    if shape is None or other is None or len(shape) != 3 or len(other) != 3:
        return False
    return bool(mine.dtype == theirs.dtype == np.uint8) and (other[2], *other[:2]) == shape


def _takes_observations_only(policy: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(policy)
    except (TypeError, ValueError):
        return False
    for n in (3, 1):
        try:
            signature.bind(*[None] * n)
        except TypeError:
            continue
        return n == 1
    raise ConfigError(
        expected="a policy that is called with observations, or with observations, state and episode starts",
        got=f"a callable with the parameters {signature}",
        do="wrap it, for example lambda obs: policy(obs, my_option)",
    )


def policy_to_callable(policy: AnyPolicy, venv: VecEnv, deterministic_policy: bool = False) -> PolicyCallable:
    """Make anything that acts into one kind of callable.

    Args:
        policy: a Stable-Baselines3 algorithm or policy, a callable with or without recurrent state, or None for
            uniformly random actions.
        venv: where it will act; spaces are compared.
        deterministic_policy: take the mode of the policy's distribution. A callable decides for itself.

    Raises:
        SpaceMismatchError: the policy was made for other spaces.
        ConfigError: ``deterministic_policy`` with random actions, or something that cannot act.
    """
    if policy is None:
        if deterministic_policy:
            raise ConfigError(
                expected="a policy with a most likely action",
                got="random actions (policy=None) with deterministic_policy=True",
                do="pass a policy, or leave deterministic_policy at False",
            )

        def random_actions(obs: _Obs, state: _State, episode_starts: np.ndarray | None) -> tuple[np.ndarray, _State]:
            return np.stack([venv.action_space.sample() for _ in range(venv.num_envs)]), None

        return random_actions
    if isinstance(policy, (BaseAlgorithm, BasePolicy)):
        check_policy_spaces(policy, venv.observation_space, venv.action_space)
        actor = policy

        def predicted(obs: _Obs, state: _State, episode_starts: np.ndarray | None) -> tuple[np.ndarray, _State]:
            return actor.predict(obs, state=state, episode_start=episode_starts, deterministic=deterministic_policy)

        return predicted
    if callable(policy):
        function = policy
        if _takes_observations_only(function):
            return lambda obs, state, episode_starts: (np.asarray(function(obs)), None)
        return function
    raise ConfigError(
        expected="a Stable-Baselines3 algorithm or policy, a callable, or None",
        got=type(policy).__name__,
        do="wrap it in a function of the observations that returns actions",
    )


@contextmanager
def _drawing_from(rng: np.random.Generator, policy: AnyPolicy, venv: VecEnv) -> Iterator[None]:
    """Everything random inside comes from ``rng``, and the caller finds all as it was.

    Stable-Baselines3 policies sample from torch's global generator (and DQN from NumPy's), so these are seeded and put
    back; their ``predict`` switches to evaluation mode, so the mode of every module is put back.
    """
    seeds = rng.integers(2**31 - 1, size=3)
    actor = getattr(policy, "__self__", policy)  # for a bound method, such as `policy.predict`, its object
    module = actor if isinstance(actor, torch.nn.Module) else getattr(actor, "policy", None)
    modes = {m: m.training for m in module.modules()} if isinstance(module, torch.nn.Module) else {}
    devices = [module.device] if isinstance(module, BasePolicy) and module.device.type == "cuda" else []
    # Algorithms and policies such as RandomPolicy may sample from a copy of their own.
    sampled = [venv.action_space, *(getattr(owner, "action_space", None) for owner in (actor, module))]
    action_spaces = [space for space in sampled if isinstance(space, gym.Space)]
    space_states = [space.np_random.bit_generator.state for space in action_spaces]
    numpy_state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=devices):
        try:
            if isinstance(module, BasePolicy):
                module.set_training_mode(False)
            torch.manual_seed(int(seeds[0]))
            np.random.seed(int(seeds[0]))  # noqa: NPY002
            venv.seed(int(seeds[1]))
            for space in action_spaces:
                space.seed(int(seeds[2]))
            yield
        finally:
            for m, mode in modes.items():
                m.training = mode
            for space, state in zip(action_spaces, space_states, strict=True):
                space.np_random.bit_generator.state = state
            np.random.set_state(numpy_state)  # noqa: NPY002


# --- episodes ---------------------------------------------------------------------------------------------------


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
    """
    return _generate(policy, venv, sample_until, rng, deterministic_policy=deterministic_policy, keep_infos=True)


def _policy_in_a_loop(policy: AnyPolicy, venv: VecEnv, deterministic_policy: bool) -> PolicyCallable:
    """As ``policy_to_callable``, faster where nobody can see the difference."""
    act = policy_to_callable(policy, venv, deterministic_policy)
    plain = policy.policy if isinstance(policy, BaseAlgorithm) else policy
    own_predict = isinstance(policy, BaseAlgorithm) and type(policy).predict is not BaseAlgorithm.predict
    if not isinstance(plain, BasePolicy) or own_predict:
        return act
    lean = lean_actor(plain, deterministic_policy)
    return act if lean is None else lambda obs, state, episode_starts: (lean(obs), None)


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
    act = _policy_in_a_loop(policy, venv, deterministic_policy)
    normalised = unwrap_vec_normalize(venv) if unwrap else None
    trajectories: list[TrajectoryWithRew] = []
    with (
        _drawing_from(rng, policy, venv),
        nullcontext() if normalised is None else below(normalised) as original,
    ):
        obs: Any = venv.reset()
        n_envs = venv.num_envs
        seen = obs if original is None else original.obs()
        space = venv.observation_space if normalised is None else normalised.observation_space
        recorder = EpisodeRecorder(_in_the_type_of(space, seen), n_envs, keep_infos=keep_infos)
        state: _State = None
        dones = np.ones(n_envs, dtype=bool)
        active = np.ones(n_envs, dtype=bool)
        while active.any():
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
            for idle in np.flatnonzero(~active):
                recorder.forget(int(idle))
    # Environments finish short episodes first; without shuffling, a prefix of the list would be biased to them.
    rng.shuffle(trajectories)
    return trajectories


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


# --- numbers ----------------------------------------------------------------------------------------------------


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


class TrajectoryAccumulator:
    """Gathers steps into trajectories, keyed by anything (for instance the environment's index).

    For vectorised sampling use ``generate_trajectories``; this is for loops of your own.
    """

    def __init__(self) -> None:
        self.partial_trajectories: dict[Hashable, list[dict[str, Any]]] = {}

    def add_step(self, step_dict: Mapping[str, Any], key: Hashable = None) -> None:
        """Add a step: the first of an episode holds ``obs`` only, later ones ``acts``, ``rews``, ``obs``, ``infos``."""
        self.partial_trajectories.setdefault(key, []).append(dict(step_dict))

    def finish_trajectory(self, key: Hashable, terminal: bool, *, truncated: bool = False) -> TrajectoryWithRew:
        """Give out the steps gathered under ``key`` as a trajectory and forget them.

        Raises:
            DataError: nothing was gathered under ``key``; EmptyDataError where that is a first observation only.
        """
        steps = self.partial_trajectories.pop(key, None)
        if steps is None:
            raise DataError(
                expected=f"steps gathered under {key!r}", got="none", do="call add_step before finish_trajectory"
            )
        if len(steps) < 2:
            raise EmptyDataError(
                expected=f"at least one action gathered under {key!r}",
                got="a first observation only",
                do="call add_step with `acts`, `rews` and `obs` before finish_trajectory",
            )
        obs = [
            DictObs({name: np.asarray(value) for name, value in o.items()}) if isinstance(o, dict) else o
            for o in (step["obs"] for step in steps)
        ]
        infos = [step["infos"] for step in steps if "infos" in step]
        return TrajectoryWithRew(
            obs=stack_maybe_dictobs(obs),
            acts=np.stack([step["acts"] for step in steps if "acts" in step]),
            infos=np.array(infos, dtype=object) if infos else None,
            terminal=terminal,
            rews=np.stack([step["rews"] for step in steps if "rews" in step]),
            truncated=truncated,
        )

    def add_steps_and_auto_finish(
        self,
        acts: np.ndarray,
        obs: np.ndarray | DictObs | dict[str, np.ndarray],
        rews: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> list[TrajectoryWithRew]:
        """Add a step of each environment; give out the trajectories that ended.

        ``add_step({"obs": …}, key=i)`` must have been called with the first observation of environment ``i``.
        """
        finished = []
        rows = DictObs(obs) if isinstance(obs, dict) else obs
        for env, (act, next_obs, rew, done, info) in enumerate(zip(acts, rows, rews, dones, infos, strict=True)):
            last = info["terminal_observation"] if done else next_obs
            self.add_step({"acts": act, "rews": rew, "obs": last, "infos": info}, env)
            if done:
                finished.append(self.finish_trajectory(env, True, truncated=bool(info.get("TimeLimit.truncated"))))
                self.add_step({"obs": next_obs}, env)
        return finished
