"""Environments that remember (all that a vectorised one did, or what a single one gave before other wrappers), and one
that counts its actions from 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from understudy.data._dataset import Demonstrations
from understudy.data._episodes import EpisodeRecorder
from understudy.data._growing import GrowingObs
from understudy.data.dict_obs import Observation, concatenate_maybe_dictobs, map_maybe_dict
from understudy.data.types import TrajectoryWithRew, TransitionsWithRew
from understudy.errors import CallOrderError, ConfigError, UnsupportedSpaceError

__all__ = ["BufferingWrapper", "RolloutInfoWrapper", "StartAtZero", "counted_from_zero"]


class BufferingWrapper(VecEnvWrapper):
    """Records every transition of a vectorised environment until it is popped.

    Each transition is handed out once. Actions are those passed to ``step_async``.
    """

    error_on_premature_event: bool
    """``reset`` refuses while there are transitions that were not popped."""
    n_transitions: int
    """Transitions recorded and not yet popped, over all environments."""

    def __init__(self, venv: VecEnv, error_on_premature_reset: bool = True) -> None:
        """Must be reset before use.

        Args:
            venv: what to record.
            error_on_premature_reset: whether ``reset`` raises while there are transitions not yet popped. If not, they
                are kept, and the episodes that it cuts become fragments (``terminal=False``).
        """
        super().__init__(venv)
        self.error_on_premature_event = error_on_premature_reset
        self.n_transitions = 0
        self._recorder: EpisodeRecorder | None = None
        self._ended: list[TrajectoryWithRew] = []
        self._ep_lens: list[int] = []
        # Length of each running episode, steps already handed out included.
        self._timesteps = np.zeros(self.num_envs, dtype=np.int64)
        self._acts: np.ndarray | None = None

    def reset(self, **kwargs: Any) -> VecEnvObs:
        """Begin new episodes in all environments.

        Raises:
            CallOrderError: there are transitions that were not popped (see ``error_on_premature_reset``).
        """
        if self.error_on_premature_event and self.n_transitions:
            raise CallOrderError(
                expected="all transitions popped before `reset`",
                got=f"{self.n_transitions} not yet popped",
                do="call pop_trajectories() or pop_transitions() first, or pass error_on_premature_reset=False",
            )
        self._ended += self._cut_running()
        obs = self.venv.reset(**kwargs)
        self._recorder = EpisodeRecorder(obs, self.num_envs)
        self._timesteps[:] = 0
        self._acts = None
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """Pass the actions on.

        Raises:
            CallOrderError: before the first ``reset``, or twice without ``step_wait``.
        """
        if self._recorder is None or self._acts is not None:
            raise CallOrderError(
                expected="`reset` before the first step, and `step_wait` before the next",
                got="no reset" if self._recorder is None else "a step that is still running",
                do="call reset() once, then step()",
            )
        self._acts = np.array(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step and record it.

        Raises:
            CallOrderError: no step was begun.
        """
        if self._recorder is None or self._acts is None:
            raise CallOrderError(
                expected="`step_async` before `step_wait`", got="no step running", do="call step(actions)"
            )
        obs, rews, dones, infos = self.venv.step_wait()
        ended = self._recorder.add(self._acts, obs, rews, dones, infos)
        self._acts = None
        self._timesteps += 1
        self.n_transitions += self.num_envs
        for env, trajectory in ended:
            self._ended.append(trajectory)
            self._ep_lens.append(int(self._timesteps[env]))
            self._timesteps[env] = 0
        return obs, rews, dones, infos

    def _cut_running(self) -> list[TrajectoryWithRew]:
        """The running episodes as fragments, by environment; those without a step are left out."""
        if self._recorder is None:
            return []
        return [self._recorder.cut(int(env)) for env in np.flatnonzero(self._recorder.lengths())]

    def pop_finished_trajectories(self) -> tuple[Sequence[TrajectoryWithRew], Sequence[int]]:
        """Hand out the trajectories whose episodes have ended, in the order they ended; running ones stay.

        Returns:
            Trajectories, and the lengths of the episodes that ended since the last pop. A trajectory is shorter than
            its episode where the beginning was popped before.
        """
        ended, ep_lens = self._ended, self._ep_lens
        self._ended, self._ep_lens = [], []
        self.n_transitions -= sum(len(trajectory) for trajectory in ended)
        return ended, ep_lens

    def pop_trajectories(self) -> tuple[Sequence[TrajectoryWithRew], Sequence[int]]:
        """Hand out everything: ended episodes in the order they ended, then the running ones as fragments.

        Running episodes go on: what follows becomes another trajectory, which begins with the fragment's last frame.

        Returns:
            Trajectories, and the lengths of the episodes that ended since the last pop.
        """
        self._ended += self._cut_running()
        return self.pop_finished_trajectories()

    def pop_transitions(self) -> TransitionsWithRew:
        """Hand out everything as transitions, trajectory by trajectory.

        Raises:
            CallOrderError: nothing was recorded since the last pop.
        """
        if self.n_transitions == 0:
            raise CallOrderError(
                expected="at least one step since the last pop", got="none", do="step the environment first"
            )
        trajs, _ = self.pop_trajectories()
        ends = np.cumsum([len(traj) for traj in trajs]) - 1
        dones = np.zeros(ends[-1] + 1, dtype=bool)
        truncated = np.zeros_like(dones)
        dones[ends] = [traj.terminated for traj in trajs]
        truncated[ends] = [traj.truncated for traj in trajs]
        return TransitionsWithRew(
            obs=concatenate_maybe_dictobs([traj.obs[:-1] for traj in trajs]),  # type: ignore[type-var]
            acts=np.concatenate([traj.acts for traj in trajs]),
            infos=np.concatenate([np.asarray(traj.infos) for traj in trajs]),
            next_obs=concatenate_maybe_dictobs([traj.obs[1:] for traj in trajs]),  # type: ignore[type-var]
            dones=dones,
            truncated=truncated,
            rews=np.concatenate([traj.rews for traj in trajs]),
        )


class RolloutInfoWrapper(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Puts the whole episode into the last info, as it was below any wrapper outside this one.

    ``info["rollout"]`` is ``{"obs": frames of shape (time + 1, *obs) or a DictObs of these, "rews": shape (time,)}``,
    in the types that the environment gave. ``understudy.data.rollout.unwrap_traj`` puts them back into a trajectory.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._obs = GrowingObs()
        self._rews: list[Any] = []

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode and its record."""
        obs, info = self.env.reset(**kwargs)
        self._obs.clear()
        self._rews.clear()
        self._obs.append(obs)
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, record, and at the end of the episode add the record to the info.

        Raises:
            ConfigError: the info has a ``"rollout"`` already.
        """
        obs, rew, terminated, truncated, info = self.env.step(action)
        self._obs.append(obs)
        self._rews.append(rew)
        if terminated or truncated:
            if "rollout" in info:
                raise ConfigError(
                    expected="one RolloutInfoWrapper around an environment",
                    got="an info that has 'rollout' already",
                    do="wrap the environment once",
                )
            frames: Observation = map_maybe_dict(np.copy, self._obs.rows)
            info = {**info, "rollout": {"obs": frames, "rews": np.asarray(self._rews)}}
        return obs, rew, terminated, truncated, info


class StartAtZero(gym.ActionWrapper[Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Counts discrete actions from 0, for learners that answer 0 … n−1 whatever the space says.

    Stable-Baselines3's models do. Their demonstrations, recorded without the wrapper, go through `counted_from_zero`.

    Raises:
        UnsupportedSpaceError: actions that are not Discrete or MultiDiscrete.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._start = _first_action(env.action_space)
        self.action_space = _from_zero(env.action_space)

    def action(self, action: Any) -> Any:
        """The environment's own action for one counted from 0."""
        return action + self._start


def counted_from_zero(demonstrations: Any, action_space: gym.Space[Any]) -> Demonstrations:
    """Demonstrations with the actions of an environment in `StartAtZero`; they are read into memory.

    Args:
        demonstrations: anything that ``understudy.data.demonstrations`` takes, in the environment's own actions.
        action_space: of the environment itself.

    Raises:
        UnsupportedSpaceError: actions that are not Discrete or MultiDiscrete.
        SpaceMismatchError: an action that is not in the space, as where they are counted from 0 already.
        DataError: as ``as_demonstrations``.
    """
    from understudy.data.demonstrations import read_demonstrations

    start = _first_action(action_space)
    demos = read_demonstrations(demonstrations, action_space=action_space)
    return dataclasses.replace(demos, acts=demos.acts - start)


def _first_action(space: gym.Space[Any]) -> Any:
    if isinstance(space, gym.spaces.Discrete):
        return int(space.start)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return np.asarray(getattr(space, "start", np.zeros_like(space.nvec)), dtype=space.dtype)
    raise UnsupportedSpaceError(
        expected="Discrete or MultiDiscrete actions", got=str(space), do="leave other environments as they are"
    )


def _from_zero(space: gym.Space[Any]) -> gym.Space[Any]:
    if isinstance(space, gym.spaces.Discrete):
        return gym.spaces.Discrete(int(space.n))
    assert isinstance(space, gym.spaces.MultiDiscrete)
    return gym.spaces.MultiDiscrete(space.nvec, dtype=space.dtype.type)
