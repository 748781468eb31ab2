"""Every kind of action space with every kind of observation, through each way of cloning, in one table.

In each pair the observation says what to do, so a clone that learned nothing is right as often as chance.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _dagger_small import bc_of, simple
from _told import ACTIONS, OBSERVATIONS, Told, asked_for, told_in, venv_of
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from understudy.algorithms.pretrain import pretrain
from understudy.data import rollout
from understudy.data.types import Trajectory
from understudy.data.wrappers import StartAtZero, counted_from_zero
from understudy.evaluation.returns import evaluate_returns
from understudy.util.lean_vec_env import LeanDummyVecEnv

SB3_POLICY = {"vector": "MlpPolicy", "dict": "MultiInputPolicy", "image": "CnnPolicy"}


def quick(obs: str) -> dict[str, Any]:
    return {"optimizer_kwargs": {"lr": 2e-3 if obs == "image" else 1e-2}, "ent_weight": 0.0}


def right(policy: Any, venv: VecEnv) -> float:
    """Share of the environment's questions that the policy answers rightly; the environment refuses foreign actions."""
    return float(evaluate_returns(policy, venv, n_episodes=10).returns.mean() / 10)


def recorded(obs: str, act: str) -> list[Trajectory]:
    """150 steps of the expert, in the environment's own actions."""
    space = ACTIONS[act]
    return list(
        rollout.generate_trajectories(
            lambda seen: asked_for(told_in(seen), space),
            venv_of(1, obs=obs, act=act),
            rollout.make_min_episodes(15),
            rng=np.random.default_rng(0),
        )
    )


def by_bc(obs: str, act: str) -> tuple[float, float]:
    venv = venv_of(2, obs=obs, act=act)
    bc = bc_of(venv, demonstrations=recorded(obs, act), **quick(obs))
    before = right(bc.policy, venv)
    bc.train(n_batches=150, progress_bar=False)
    return before, right(bc.policy, venv)


def by_pretrain(obs: str, act: str) -> tuple[float, float]:
    """And the model goes on learning by reinforcement in the same environment."""
    demos: Any = recorded(obs, act)
    if act == "Discrete from 3":  # which Stable-Baselines3's models would answer with 0, 1, 2
        venv: VecEnv = LeanDummyVecEnv([lambda: StartAtZero(Told(obs, act))] * 2)
        demos = counted_from_zero(demos, ACTIONS[act])
    else:
        venv = venv_of(2, obs=obs, act=act)
    small: dict[str, Any] = {"net_arch": [32]}
    if obs == "image":
        small["features_extractor_kwargs"] = {"features_dim": 32}
    model = PPO(SB3_POLICY[obs], venv, n_steps=8, batch_size=16, n_epochs=1, policy_kwargs=small, seed=0, device="cpu")
    before = right(model, venv)
    pretrain(model, demos, 15, 5e-3, batch_size=30, rng=0, progress_bar=False)
    after = right(model, venv)
    model.learn(32)
    return before, after


def by_dagger(obs: str, act: str, folder: Path) -> tuple[float, float]:
    venv = venv_of(2, obs=obs, act=act)
    trainer = simple(folder, venv, bc_trainer=bc_of(venv, **quick(obs)))
    before = right(trainer.policy, venv)
    trainer.train(
        150,
        rollout_round_min_timesteps=50,
        rollout_round_min_episodes=2,
        bc_train_kwargs={"n_epochs": 20, "log_rollouts_n_episodes": 0},
    )
    return before, right(trainer.policy, venv)


def test_every_pair_of_spaces_through_everything_that_clones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The clone is right much more often than before training, in the environment's own actions."""
    lines, unlearned = [], []
    for obs in OBSERVATIONS:
        for act in ACTIONS:
            cells = {
                "BC": by_bc(obs, act),
                "pretrain(PPO)": by_pretrain(obs, act),
                "DAgger": by_dagger(obs, act, tmp_path / obs / act),
            }
            if not lines:
                lines.append(f"{'observation':<12}{'actions':<17}" + "".join(f"{name:>15}" for name in cells))
            row = "".join(f"{f'{before:.2f} → {after:.2f}':>15}" for before, after in cells.values())
            lines.append(f"{obs:<12}{act:<17}{row}")
            unlearned += [(obs, act, name) for name, (before, after) in cells.items() if after < before + 0.2]
    with capsys.disabled():
        print("\nShare of right answers before → after training\n" + "\n".join(lines))
    assert not unlearned
