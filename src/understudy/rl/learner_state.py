"""Everything a Stable-Baselines3 learner changes as it learns, as plain values, arrays and tensors; and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from understudy.errors import CheckpointError, ConfigError

_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_n_calls", "exploration_rate")
_REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def learner_state(learner: BaseAlgorithm) -> dict[str, Any]:
    """Parameters, optimisers, counters, replay and normalisation. Tensors are the learner's own, not copies.

    What its environments hold is not among them: reset those, seeded, before it goes on.

    Raises:
        ConfigError: a replay buffer of hindsight episodes.
    """
    _, variables = learner._get_torch_save_params()
    return {
        "parameters": learner.get_parameters(),
        "variables": {name: recursive_getattr(learner, name).detach() for name in variables},
        "counters": {name: getattr(learner, name) for name in _COUNTERS if hasattr(learner, name)},
        "replay": _replay_state(learner),
        "normalisation": _normalisation_state(learner.get_vec_normalize_env()),
    }


def restore_learner(learner: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """Become what `learner_state` gave; the learner is of the same class, networks and settings.

    Raises:
        CheckpointError: it is not.
    """
    try:
        learner.set_parameters(dict(state["parameters"]), exact_match=True, device=learner.device)
        with torch.no_grad():
            for name, value in state["variables"].items():
                recursive_getattr(learner, name).copy_(value)
        for name, value in state["counters"].items():
            setattr(learner, name, value)
        _restore_replay(learner, state["replay"])
        _restore_normalisation(learner.get_vec_normalize_env(), state["normalisation"])
    except (KeyError, ValueError, RuntimeError, AttributeError, TypeError) as err:
        raise CheckpointError(
            expected=f"the state of a {type(learner).__name__} with the same networks and settings",
            got=f"{type(err).__name__}: {str(err)[:200]}",
            do="make the learner as it was made for the run that was saved",
        ) from err


def _replay_state(learner: BaseAlgorithm) -> dict[str, Any] | None:
    buffer = learner.replay_buffer if isinstance(learner, OffPolicyAlgorithm) else None
    if buffer is None:
        return None
    if isinstance(buffer, HerReplayBuffer):
        raise ConfigError(
            expected="a replay buffer of single transitions",
            got="HerReplayBuffer, whose running episodes cannot be cut where a run is saved",
            do="train without checkpoints, or with ReplayBuffer or DictReplayBuffer",
        )
    rows = buffer.buffer_size if buffer.full else buffer.pos
    return {
        "pos": buffer.pos,
        "full": bool(buffer.full),
        **{n: _first(getattr(buffer, n), rows) for n in _held(buffer)},
    }


def _held(buffer: ReplayBuffer) -> list[str]:
    return [name for name in _REPLAY if hasattr(buffer, name)]


def _first(column: Any, rows: int) -> Any:
    return {key: value[:rows] for key, value in column.items()} if isinstance(column, dict) else column[:rows]


def _restore_replay(learner: BaseAlgorithm, state: Mapping[str, Any] | None) -> None:
    buffer = learner.replay_buffer if isinstance(learner, OffPolicyAlgorithm) else None
    if (buffer is None) != (state is None):
        raise ValueError("a replay buffer in one of the two only")
    if buffer is None or state is None:
        return
    buffer.pos, buffer.full = state["pos"], state["full"]
    for name in _held(buffer):
        _copy(state[name], getattr(buffer, name))


def _copy(source: Any, target: Any) -> None:
    if isinstance(target, dict):
        for key, column in target.items():
            _copy(source[key], column)
    else:
        target[: len(source)] = source


def _normalisation_state(env: VecNormalize | None) -> dict[str, Any] | None:
    if env is None:
        return None
    obs = env.obs_rms
    return {
        "obs": {key: _moments(value) for key, value in obs.items()} if isinstance(obs, dict) else _moments(obs),
        "ret": _moments(env.ret_rms),
    }


def _moments(found: RunningMeanStd) -> dict[str, Any]:
    return {"mean": np.asarray(found.mean), "var": np.asarray(found.var), "count": float(found.count)}


def _restore_normalisation(env: VecNormalize | None, state: Mapping[str, Any] | None) -> None:
    if (env is None) != (state is None):
        raise ValueError("VecNormalize in one of the two only")
    if env is None or state is None:
        return
    obs = env.obs_rms
    pairs = (
        [(value, state["obs"][key]) for key, value in obs.items()] if isinstance(obs, dict) else [(obs, state["obs"])]
    )
    for found, saved in [*pairs, (env.ret_rms, state["ret"])]:
        found.mean, found.var, found.count = saved["mean"].copy(), saved["var"].copy(), saved["count"]


def begin_anew(learner: BaseAlgorithm, rng: np.random.Generator) -> None:
    """Seed the learner's environments and action space from ``rng``, and reset the environments.

    The learner's next step starts from there, also if it is in the middle of a ``learn``. Global generators, from which
    it draws actions, are not seeded here.
    """
    env = learner.env
    assert env is not None
    env_seed, action_seed = (int(seed) for seed in rng.integers(2**31 - 1, size=2))
    env.seed(env_seed)
    learner.action_space.seed(action_seed)
    learner._last_obs = env.reset()  # type: ignore[assignment]
    learner._last_episode_starts = np.ones(env.num_envs, dtype=bool)
    if learner._vec_normalize_env is not None:
        learner._last_original_obs = learner._vec_normalize_env.get_original_obs()
    if learner.action_noise is not None:
        learner.action_noise.reset()
