"""Returns of a policy over episodes and over seeds."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecMonitor,
    VecNormalize,
    is_vecenv_wrapped,
    unwrap_vec_normalize,
)

from understudy.data.rollout import policy_in_a_loop
from understudy.errors import ConfigError
from understudy.evaluation.statistics import Interval, iqm, stratified_bootstrap
from understudy.util.vec_env import make_vec_env


@dataclasses.dataclass(frozen=True)
class EpisodeReturns:
    """One row an episode; from `evaluate_over_seeds` every array has the shape ``(seed, episode)`` instead.

    Episodes are ordered by environment, then by time, so the order says nothing about their length.
    """

    returns: np.ndarray
    """Undiscounted sum of the environment's own rewards, shape (episode,), float64."""

    lengths: np.ndarray
    """Steps, shape (episode,), int64."""

    truncated: np.ndarray
    """True where a time limit ended the episode, shape (episode,)."""

    def __len__(self) -> int:
        """Number of episodes, over all seeds."""
        return self.returns.size

    def interval(
        self,
        statistic: Callable[..., Any] = iqm,
        confidence: float = 0.95,
        rng: np.random.Generator | None = None,
    ) -> Interval:
        """A statistic of the returns with its bootstrap interval; by default the interquartile mean.

        Of one policy, episodes are resampled: the interval says how well its expected return is known. From
        `evaluate_over_seeds`, each seed counts once with its mean return, and seeds are resampled: the interval says
        how much training varies.

        Args:
            statistic: called as ``statistic(array, axis=-1)``, like ``iqm``, ``np.mean``, ``np.median``.
            confidence: share of intervals that should cover the truth, in (0, 1). Below ten episodes (or seeds) fewer
                do: the interval is too narrow then.
            rng: None uses a generator seeded with 0, so that the same returns always give the same interval.

        Raises:
            DataError: a single episode (or seed) has no spread.
            NonFiniteDataError: a return is NaN or infinite.
        """
        scores = self.returns if self.returns.ndim == 1 else self.returns.mean(axis=1)
        return stratified_bootstrap(scores, statistic, confidence=confidence, rng=rng)


def evaluate_returns(
    policy: Any,
    venv_or_env_id: VecEnv | gym.Env[Any, Any] | str,
    *,
    n_episodes: int = 100,
    seed: int | None = 0,
    deterministic: bool = True,
    n_envs: int = 8,
    progress_bar: bool = False,
) -> EpisodeReturns:
    """Run a policy for exactly ``n_episodes`` and return what each episode earned.

    Every environment has a quota of episodes fixed beforehand, so short episodes are not counted more often than
    long ones. Where ``Monitor`` recorded the true return (below reward wrappers, across lives), that is what counts;
    a ``VecNormalize`` keeps its statistics during the evaluation. The policy's training mode is left as it was.

    Args:
        policy: a Stable-Baselines3 policy or algorithm, anything with such a ``.policy`` (a ``BC``), a callable
            ``obs -> actions`` or ``(obs, state, episode_start) -> actions`` (or ``-> (actions, state)``), or None for
            random actions.
        venv_or_env_id: environments to run in (they are reset and left open), one environment, or the id of one to
            build.
        n_episodes: at least 1.
        seed: decides environments, sampled actions and random actions; the generators that Stable-Baselines3 reads
            are put back afterwards. None seeds nothing.
        deterministic: take the most probable action instead of sampling; a callable decides for itself.
        n_envs: how many to build from an id; never more than episodes.
        progress_bar: show episodes done and the time left.

    Raises:
        ConfigError: ``n_episodes`` or ``n_envs`` below 1, an environment that is not registered, or something that
            cannot act or be acted in.
        SpaceMismatchError: the policy's spaces are not the environment's.
    """
    if n_episodes < 1 or n_envs < 1:
        raise ConfigError(
            "n_episodes and n_envs of at least 1", f"{n_episodes} and {n_envs}", "evaluate one episode or more"
        )
    policy = _actor(policy)
    with _environments(venv_or_env_id, min(n_envs, n_episodes), seed) as venv, _undisturbed(policy, venv, seed):
        return _run(_acting(policy, venv, deterministic), venv, n_episodes, progress_bar)


def evaluate_over_seeds(
    policies: Sequence[Any] | Callable[[int], Any] | BasePolicy | BaseAlgorithm,
    venv_or_env_id: VecEnv | gym.Env[Any, Any] | str,
    *,
    seeds: Sequence[int] = tuple(range(10)),
    n_episodes: int = 100,
    deterministic: bool = True,
    n_envs: int = 8,
    progress_bar: bool = False,
) -> EpisodeReturns:
    """Returns as a matrix ``(seed, episode)``: one row for each trained policy, or for each seed of one policy.

    The mean over episodes of each row is a score for `understudy.evaluation.statistics`: an interval over seeds says
    how much training varies, an interval over the episodes of one seed only how much its episodes do.

    Args:
        policies: one policy a seed in the order of ``seeds``; or a function that trains or loads the policy of a
            seed (called when its turn comes, so only one need be in memory); or one Stable-Baselines3 policy.
        venv_or_env_id: as in `evaluate_returns`.
        seeds: at least one; also the seeds of the evaluations.
        n_episodes: for each seed.
        deterministic: as in `evaluate_returns`.
        n_envs: as in `evaluate_returns`.
        progress_bar: one bar a seed.

    Raises:
        ConfigError: no seed, or not as many policies as seeds; else as `evaluate_returns`.
    """
    if not len(seeds):
        raise ConfigError("at least one seed", "none", "use seeds=range(10)")
    if isinstance(policies, Sequence) and len(policies) != len(seeds):
        raise ConfigError(
            f"one policy for each of the {len(seeds)} seeds",
            f"{len(policies)} policies",
            "pass as many policies as seeds, or a function of the seed",
        )
    rows = []
    for i, seed in enumerate(seeds):
        if isinstance(policies, Sequence):
            policy = policies[i]
        elif isinstance(policies, BaseAlgorithm) or isinstance(_actor(policies), BasePolicy):
            policy = policies
        else:
            policy = policies(seed)
        rows.append(
            evaluate_returns(
                policy,
                venv_or_env_id,
                n_episodes=n_episodes,
                seed=seed,
                deterministic=deterministic,
                n_envs=n_envs,
                progress_bar=progress_bar,
            )
        )
    return EpisodeReturns(
        returns=np.stack([row.returns for row in rows]),
        lengths=np.stack([row.lengths for row in rows]),
        truncated=np.stack([row.truncated for row in rows]),
    )


def _run(act: Callable[..., Any], venv: VecEnv, n_episodes: int, progress_bar: bool) -> EpisodeReturns:
    from tqdm import tqdm

    n_envs = venv.num_envs
    quotas = [(n_episodes + i) // n_envs for i in range(n_envs)]
    episodes: list[list[tuple[float, int, bool]]] = [[] for _ in range(n_envs)]
    monitored = is_vecenv_wrapped(venv, VecMonitor) or all(venv.env_is_wrapped(Monitor))
    normalizer = unwrap_vec_normalize(venv)

    returns, lengths = np.zeros(n_envs), np.zeros(n_envs, dtype=np.int64)
    obs: Any = venv.reset()
    state, starts = None, np.ones(n_envs, dtype=bool)
    with tqdm(total=n_episodes, desc="evaluating", unit="episode", disable=not progress_bar, leave=False) as bar:
        while any(len(done) < quota for done, quota in zip(episodes, quotas, strict=True)):
            actions, state = act(obs, state, starts)
            obs, rewards, starts, infos = venv.step(actions)
            returns += rewards if normalizer is None else normalizer.get_original_reward()
            lengths += 1
            for i in np.flatnonzero(starts):
                record = infos[i].get("episode")
                # Below an episodic-life wrapper a life may end while Monitor's episode goes on: not an episode.
                if len(episodes[i]) < quotas[i] and (record is not None or not monitored):
                    earned, length = (returns[i], lengths[i]) if record is None else (record["r"], record["l"])
                    truncated = bool(infos[i].get("TimeLimit.truncated", False))
                    episodes[i].append((float(earned), int(length), truncated))
                    bar.update()
                returns[i], lengths[i] = 0.0, 0
    rows = [row for done in episodes for row in done]
    return EpisodeReturns(
        returns=np.array([row[0] for row in rows], dtype=np.float64),
        lengths=np.array([row[1] for row in rows], dtype=np.int64),
        truncated=np.array([row[2] for row in rows], dtype=bool),
    )


def _actor(policy: Any) -> Any:
    """What acts: the policy of a trainer that holds one, else what was given."""
    held = None if isinstance(policy, BaseAlgorithm) else getattr(policy, "policy", None)
    return held if isinstance(held, BasePolicy) else policy


def _acting(policy: Any, venv: VecEnv, deterministic: bool) -> Callable[..., Any]:
    """The policy as ``(obs, state, episode_start) -> (actions, state)``."""
    act = policy_in_a_loop(policy, venv, deterministic and policy is not None)

    def with_state(obs: Any, state: Any, episode_start: Any) -> tuple[Any, Any]:
        answer: Any = act(obs, state, episode_start)
        return answer if isinstance(answer, tuple) else (np.asarray(answer), None)

    return with_state


@contextlib.contextmanager
def _environments(venv_or_env_id: VecEnv | gym.Env[Any, Any] | str, n_envs: int, seed: int | None) -> Iterator[VecEnv]:
    if isinstance(venv_or_env_id, str):
        venv = make_vec_env(venv_or_env_id, rng=np.random.default_rng(seed), n_envs=n_envs)
        try:
            yield venv
        finally:
            venv.close()
        return
    env = venv_or_env_id
    if not isinstance(env, (VecEnv, gym.Env)):
        raise ConfigError(
            "environments (a VecEnv), one environment, or the id of one",
            type(env).__name__,
            "use make_vec_env('CartPole-v1', rng=rng), or pass the id itself",
        )
    venv = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])
    if seed is not None:
        venv.seed(seed)
    normalizer = unwrap_vec_normalize(venv)
    with contextlib.nullcontext() if normalizer is None else _frozen(normalizer):
        yield venv


@contextlib.contextmanager
def _frozen(normalizer: VecNormalize) -> Iterator[None]:
    training, normalizer.training = normalizer.training, False
    try:
        yield
    finally:
        normalizer.training = training


@contextlib.contextmanager
def _undisturbed(policy: Any, venv: VecEnv, seed: int | None) -> Iterator[None]:
    """Seed what acting reads, then put everything back: modes of the networks, torch's generators, action spaces."""
    import torch

    network = getattr(policy, "policy", policy)
    modules = list(network.modules()) if isinstance(network, torch.nn.Module) else []
    modes = [module.training for module in modules]
    action_spaces = {id(space): space for space in (venv.action_space, getattr(network, "action_space", None))}
    spaces = [space for space in action_spaces.values() if space is not None]
    device = getattr(network, "device", None)
    devices = [device] if isinstance(device, torch.device) and device.type == "cuda" else []
    with contextlib.ExitStack() as stack:
        if seed is not None:
            stack.enter_context(torch.random.fork_rng(devices=devices))
            torch.default_generator.manual_seed(seed)
            for cuda in devices:
                with torch.cuda.device(cuda):
                    torch.cuda.manual_seed(seed)
            for space in spaces:
                stack.callback(setattr, space, "_np_random", space.__dict__.get("_np_random"))
                space.seed(seed)
        try:
            if isinstance(network, BasePolicy):
                network.set_training_mode(False)
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
