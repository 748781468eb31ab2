"""Vectorised environments whose every source of chance follows one generator."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from understudy.errors import ConfigError, MissingExtraError
from understudy.util.guarded_vec_env import GuardedSubprocVecEnv
from understudy.util.lean_vec_env import LeanDummyVecEnv
from understudy.util.seeding import make_seeds

PostWrapper = Callable[[gym.Env[Any, Any], int], gym.Env[Any, Any]]

# Packages that register their environments on import: (package, extra), by the namespace in the environment's id.
_NAMESPACES = {"seals": ("seals", "seals"), "ALE": ("ale_py", "atari")}


def resolve_spec(env_name: str) -> EnvSpec:
    """The registered spec of ``"Env-v0"``, ``"namespace/Env-v0"`` or ``"module:Env-v0"`` (the module is imported).

    Raises:
        ConfigError: nothing is registered under that name.
        MissingExtraError: the namespace belongs to a package that is not installed.
    """
    module, _, name = env_name.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        elif name not in gym.registry and (namespace := name.partition("/")[0]) in _NAMESPACES and "/" in name:
            package, extra = _NAMESPACES[namespace]
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(package, extra)
            importlib.import_module(package)
        return deepcopy(gym.spec(name))
    except ModuleNotFoundError as err:
        if module and err.name is not None and (module == err.name or module.startswith(err.name + ".")):
            raise ConfigError(
                "an importable module before the colon of the environment's id",
                f"{env_name!r}, and no module named {err.name!r}",
                "install the package, or correct the name",
            ) from err
        raise
    except gym.error.Error as err:
        raise ConfigError(
            "the id of a registered environment",
            f"{env_name!r} ({err})",
            "import the package that registers it first, or write 'package:Env-v0'",
        ) from err


def make_vec_env(
    env_name: str,
    *,
    rng: np.random.Generator,
    n_envs: int = 8,
    parallel: bool = False,
    log_dir: str | None = None,
    max_episode_steps: int | None = None,
    post_wrappers: Sequence[PostWrapper] | None = None,
    env_make_kwargs: Mapping[str, Any] | None = None,
    step_timeout: float | None = 60.0,
) -> VecEnv:
    """Build ``n_envs`` monitored copies of an environment.

    Each copy gets a seed of its own from ``rng``, for the environment and for its action space, so one generator
    decides everything that happens in them.

    Args:
        env_name: ``"Env-v0"``, ``"namespace/Env-v0"`` or ``"module:Env-v0"``.
        rng: moved on by ``2 * n_envs`` draws.
        n_envs: at least 1.
        parallel: one process per copy (GuardedSubprocVecEnv) instead of one loop in this process; the numbers are
            the same.
        log_dir: Monitor files go to ``log_dir/monitor/mon000.monitor.csv`` and so on.
        max_episode_steps: replaces the time limit of the registered spec; ``None`` keeps it.
        post_wrappers: called in turn with the environment (outermost so far) and its index.
        env_make_kwargs: passed to ``gymnasium.make``.
        step_timeout: with ``parallel``, seconds until an environment without an answer is an error; ``None``: never.

    Raises:
        ConfigError: an unknown environment, ``n_envs`` or ``max_episode_steps`` below 1, ``step_timeout`` not above 0.
        EnvCrashedError: with ``parallel``, an environment could not be made.
    """
    if n_envs < 1:
        raise ConfigError("n_envs of at least 1", str(n_envs), "ask for one environment or more")
    if max_episode_steps is not None and max_episode_steps < 1:
        raise ConfigError(
            "max_episode_steps of at least 1", str(max_episode_steps), "pass None to keep the spec's limit"
        )
    monitor_dir = None if log_dir is None else str(Path(log_dir) / "monitor")
    # The spec itself travels to the workers, so environments registered only in this process work there as well.
    make = functools.partial(
        _make_env,
        spec=resolve_spec(env_name),
        monitor_dir=monitor_dir,
        max_episode_steps=max_episode_steps,
        post_wrappers=tuple(post_wrappers or ()),
        env_make_kwargs=dict(env_make_kwargs or {}),
    )
    seeds = make_seeds(rng, n_envs)
    action_seeds = make_seeds(rng, n_envs)
    env_fns: list[Callable[[], gym.Env[Any, Any]]] = [
        functools.partial(make, i, seeds[i], action_seeds[i]) for i in range(n_envs)
    ]
    if parallel:
        return GuardedSubprocVecEnv(env_fns, step_timeout=step_timeout, seeds=seeds)
    return LeanDummyVecEnv(env_fns)


def _make_env(
    index: int,
    seed: int,
    action_seed: int,
    *,
    spec: EnvSpec,
    monitor_dir: str | None,
    max_episode_steps: int | None,
    post_wrappers: Sequence[PostWrapper],
    env_make_kwargs: Mapping[str, Any],
) -> gym.Env[Any, Any]:
    with _quiet_box_precision():
        env: gym.Env[Any, Any] = gym.make(deepcopy(spec), max_episode_steps=max_episode_steps, **env_make_kwargs)
    env.reset(seed=seed)
    filename = None
    if monitor_dir is not None:
        Path(monitor_dir).mkdir(parents=True, exist_ok=True)
        filename = str(Path(monitor_dir) / f"mon{index:03d}")
    env = Monitor(env, filename)
    for wrapper in post_wrappers:
        env = wrapper(env, index)
    env.action_space.seed(action_seed)
    return env


@contextlib.contextmanager
def _quiet_box_precision() -> Iterator[None]:
    """Hide Gymnasium's note that a space given in float64 is kept in float32: the caller cannot act on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*precision lowered by casting")
        yield
