"""Demonstrations as the first content of an off-policy learner's replay buffer, in the form the learner stores."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from understudy.algorithms._pretrain_data import Ends
from understudy.data.demonstrations import Demonstrations
from understudy.data.dict_obs import DictObs, Observation
from understudy.errors import ConfigError


def replay_buffer_of(model: BaseAlgorithm) -> ReplayBuffer:
    """The buffer to fill.

    Raises:
        ConfigError: there is none, or one that cannot hold demonstrations.
    """
    if not isinstance(model, OffPolicyAlgorithm) or model.replay_buffer is None:
        raise ConfigError(
            expected="`fill_replay_buffer` with an off-policy model (DQN, QRDQN, SAC, TD3, DDPG, TQC)",
            got=type(model).__name__,
            do="leave fill_replay_buffer out: this learner trains on its own rollouts only",
        )
    buffer = model.replay_buffer
    if isinstance(buffer, HerReplayBuffer) or buffer.optimize_memory_usage:
        raise ConfigError(
            expected="a replay buffer that stores each transition by itself",
            got="optimize_memory_usage=True" if buffer.optimize_memory_usage else type(buffer).__name__,
            do="make the model with optimize_memory_usage=False and without hindsight replay",
        )
    return buffer


def check_room(buffer: ReplayBuffer, n_rows: int) -> None:
    """Raise ConfigError where demonstrations would overwrite each other."""
    room = buffer.buffer_size * buffer.n_envs
    if n_rows > room:
        raise ConfigError(
            expected=f"a replay buffer that holds all {n_rows} demonstrated transitions",
            got=f"room for {room}",
            do=f"make the model with buffer_size={n_rows} or more, or pass fewer demonstrations",
        )


def fill(model: BaseAlgorithm, demos: Demonstrations, rews: np.ndarray, ends: Ends) -> int:
    """Add the demonstrations; the number of transitions added.

    With several environments the buffer has a column for each and rows are added across all of them, so the
    transitions are cut into as many runs of equal length; up to ``n_envs − 1`` transitions are left over. The last
    transition of a recording that was cut is left out where nobody knows what came after it.

    Args:
        model: off-policy.
        demos: in the environment's own observations, in the model's layout.
        rews: the environment's own rewards, shape (transition,).
        ends: how episodes end.
    """
    buffer = replay_buffer_of(model)
    rows, after = _with_successors(demos, ends)
    length = len(rows) // buffer.n_envs
    acts = _stored_actions(model, demos.acts_at(rows))
    # A run that goes on elsewhere must look like one that a time limit ended, for buffers that read n steps ahead.
    goes_on = np.zeros(len(rows), dtype=bool)
    goes_on[:-1] = (rows[1:] == rows[:-1] + 1) & ~ends.last[rows[:-1]]
    for step in range(length):
        here = np.arange(buffer.n_envs) * length + step
        terminated = ends.terminated[rows[here]]
        truncated = ~terminated & (~goes_on[here] | (step == length - 1))
        infos = [{"TimeLimit.truncated": bool(cut)} for cut in truncated]
        obs, next_obs = demos.obs_at(rows[here]), _successors(demos, rows[here], after[here])
        done = terminated | truncated
        if not buffer.handle_timeout_termination:
            done = terminated
        _add(buffer, obs, next_obs, acts[here], rews[rows[here]], done, infos)
    return length * buffer.n_envs


def _with_successors(demos: Demonstrations, ends: Ends) -> tuple[np.ndarray, np.ndarray]:
    """Transitions that can be stored, and for each the transition whose observation follows it."""
    rows = np.arange(len(demos))
    if demos.next_frames is not None or demos.obs_rows is not None:
        return rows, rows
    kept = rows[~ends.cut]
    # What follows a terminated transition is never read; its own observation stands in.
    return kept, np.where(ends.last[kept], kept, kept + 1)


def _successors(demos: Demonstrations, rows: np.ndarray, after: np.ndarray) -> Observation:
    if demos.next_frames is not None:
        return demos.next_frames[rows]
    if demos.obs_rows is not None:
        return demos.frames[demos.obs_rows[rows] + 1]
    return demos.obs_at(after)


def _stored_actions(model: BaseAlgorithm, acts: np.ndarray) -> np.ndarray:
    """Continuous actions as executed, scaled to [−1, 1]; choices as they are."""
    space = model.action_space
    if not isinstance(space, spaces.Box):
        return acts
    return np.asarray(model.policy.scale_action(np.clip(acts, space.low, space.high)))


def _add(
    buffer: ReplayBuffer,
    obs: Observation,
    next_obs: Observation,
    acts: np.ndarray,
    rews: np.ndarray,
    done: np.ndarray,
    infos: list[dict[str, Any]],
) -> None:
    if isinstance(buffer, DictReplayBuffer):
        assert isinstance(obs, DictObs)
        assert isinstance(next_obs, DictObs)
        buffer.add(dict(obs.unwrap()), dict(next_obs.unwrap()), acts, rews, done, infos)
    else:
        assert isinstance(obs, np.ndarray)
        assert isinstance(next_obs, np.ndarray)
        buffer.add(obs, next_obs, acts, rews, done, infos)
