"""DAgger in environments where what to do can be read off every observation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _told import ACTIONS as ACTIONS
from _told import OBSERVATIONS as OBSERVATIONS
from _told import Told as Told
from _told import asked_for, told_in, venv_of
from stable_baselines3.common.vec_env import VecEnv

from understudy.algorithms.bc import BC
from understudy.algorithms.dagger import SimpleDAggerTrainer
from understudy.util.logger import configure


def bc_of(venv: VecEnv, seed: int = 0, **options: Any) -> BC:
    return BC(
        observation_space=venv.observation_space,
        action_space=venv.action_space,
        rng=seed,
        **{"custom_logger": configure(format_strs=[]), **options},
    )


def simple(folder: Path, venv: VecEnv | None = None, *, expert: Any = None, seed: int = 0, **options: Any) -> Any:
    venv = venv_of() if venv is None else venv
    space = venv.action_space
    return SimpleDAggerTrainer(
        venv=venv,
        scratch_dir=folder,
        expert_policy=expert or (lambda obs: asked_for(told_in(obs), space)),
        rng=seed,
        bc_trainer=options.pop("bc_trainer", None) or bc_of(venv, seed),
        **options,
    )


SMALL = {
    "rollout_round_min_timesteps": 30,
    "rollout_round_min_episodes": 2,
    "bc_train_kwargs": {"log_rollouts_n_episodes": 0},
}
"""Rounds of four episodes with two environments."""
