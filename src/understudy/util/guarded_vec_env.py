"""Stable-Baselines3's ``SubprocVecEnv`` that never hangs: a crash or a silence is an error that names its culprit."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.util import Finalize
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from understudy.errors import ConfigError
from understudy.util._env_pipes import EnvPipe, Watch, end_processes
from understudy.util._env_worker import MakeEnv, work

_SECONDS_TO_START = 60.0
_SECONDS_TO_START_EACH = 5.0  # side by side on few cores, each loads torch and the environment's package
_SECONDS_TO_CLOSE = 3.0


class GuardedSubprocVecEnv(SubprocVecEnv):
    """One process per environment; what they return is what ``DummyVecEnv`` would return, to the bit.

    Waiting watches all environments at once. One that raises or whose process dies gives EnvCrashedError, with its
    index, last seed, step and its own traceback; one that does not answer gives EnvTimeoutError. After either, every
    call but ``close`` raises that error again. Workers leave Ctrl-C to this process and end when it ends, however it
    does; ``close`` takes 5 s at most and leaves none.

    Args:
        env_fns: one function per environment; picklable by cloudpickle.
        start_method: as in the base class: ``"forkserver"`` where there is one, else ``"spawn"``.
        step_timeout: seconds to wait for any answer, ``None`` for ever. Making the environments may take a minute,
            and 5 s more for each, or this time if it is longer.
        seeds: what the functions seed their environments with; only named in errors.

    Raises:
        ConfigError: ``step_timeout`` is not positive, or no function was given.
        EnvCrashedError: an environment could not be made.
        EnvTimeoutError: making them took too long.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env[Any, Any]]],
        start_method: str | None = None,
        *,
        step_timeout: float | None = 60.0,
        seeds: Sequence[int] | None = None,
    ) -> None:
        if step_timeout is not None and not step_timeout > 0:
            raise ConfigError("a step_timeout above 0 s", str(step_timeout), "pass seconds, or None to wait for ever")
        if len(env_fns) == 0:
            raise ConfigError("at least one environment", "none", "pass one function per environment")
        if start_method is None:
            start_method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context: Any = multiprocessing.get_context(start_method)
        self.waiting = False
        self.closed = False
        self.processes: list[Any] = []
        pipes: list[EnvPipe] = []
        # Also when nobody calls `close`: on collection, and at exit before multiprocessing joins its children.
        self._end = Finalize(self, end_processes, args=(self.processes,), exitpriority=10)
        try:
            for index, make in enumerate(env_fns):
                # A pipe is made just before its process, so that a forked worker holds no other worker's end.
                mine, theirs = context.Pipe()
                process = context.Process(target=work, args=(theirs, mine, MakeEnv(make)), daemon=True)
                process.start()
                theirs.close()
                self.processes.append(process)
                pipes.append(EnvPipe(index, mine, process, None if seeds is None else seeds[index]))
        except BaseException:
            self._end()
            raise
        start = _SECONDS_TO_START + _SECONDS_TO_START_EACH * len(pipes)
        self._watch = Watch(pipes, None if step_timeout is None else max(start, step_timeout))
        self.remotes: Any = tuple(pipes)
        try:
            pipes[0].send(("get_spaces", None))
            observation_space, action_space = pipes[0].recv()
            VecEnv.__init__(self, len(pipes), observation_space, action_space)
            self._watch.all_made(step_timeout)
        except BaseException:
            self.close()
            raise

    def reset(self) -> VecEnvObs:
        """Reset all environments, with the seeds and options given before."""
        obs: VecEnvObs = _in_the_type_of(self.observation_space, super().reset())
        return obs

    def step_wait(self) -> VecEnvStepReturn:
        """What the environments answer to the step; in the dtypes of ``DummyVecEnv``."""
        obs, rews, dones, infos = super().step_wait()
        return _in_the_type_of(self.observation_space, obs), rews.astype(np.float32), dones, list(infos)

    def close(self) -> None:
        """Close the environments and end their processes, those that hang too; at most 5 s."""
        if self.closed:
            return
        self.closed = True
        self._watch.end(_SECONDS_TO_CLOSE)
        self._end.cancel()


def _in_the_type_of(space: spaces.Space[Any], obs: Any) -> Any:
    """Stacked observations in the dtype that the space promises; no copy where they have it."""
    if isinstance(space, spaces.Dict):
        return {key: _in_the_type_of(sub, obs[key]) for key, sub in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_in_the_type_of(sub, part) for sub, part in zip(space.spaces, obs, strict=True))
    return obs if obs.dtype == space.dtype else obs.astype(space.dtype)
