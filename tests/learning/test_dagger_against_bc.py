"""DAgger against cloning one episode of a mediocre expert, decided by the library's own test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO

from understudy.algorithms.bc import BC
from understudy.algorithms.dagger import SimpleDAggerTrainer
from understudy.data import rollout
from understudy.evaluation.returns import evaluate_returns
from understudy.evaluation.statistics import permutation_test, probability_of_improvement, stratified_bootstrap
from understudy.util.logger import configure
from understudy.util.util import make_vec_env

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SEEDS = range(5)


def mediocre_expert() -> PPO:
    """PPO as the tutorial for `imitation` trains it: 10,000 steps, about two thirds of the best return."""
    env = make_vec_env("CartPole-v1", rng=np.random.default_rng(0), n_envs=1)
    settings: dict[str, Any] = {"n_steps": 64, "batch_size": 64, "n_epochs": 10, "learning_rate": 3e-4, "ent_coef": 0.0}
    return PPO("MlpPolicy", env, seed=0, device="cpu", **settings).learn(10_000)


def test_dagger_is_significantly_better_than_one_cloned_episode(tmp_path: Path) -> None:
    """Five wins of five against five: the smallest p-value there is, 1 of C(10, 5) = 252."""
    expert = mediocre_expert()
    expert_return = evaluate_returns(expert, "CartPole-v1", n_episodes=100).interval().point
    assert 100 < expert_return < 400  # neither bad nor good
    cloned: list[float] = []
    with_dagger: list[float] = []
    for seed in SEEDS:
        rng = np.random.default_rng([1, seed])
        venv = make_vec_env("CartPole-v1", rng=rng, n_envs=1)
        spaces: dict[str, Any] = {"observation_space": venv.observation_space, "action_space": venv.action_space}
        quiet = configure(format_strs=[])
        episode = rollout.rollout(expert, venv, rollout.make_min_episodes(1), rng=rng)
        bc = BC(**spaces, demonstrations=episode, rng=rng, custom_logger=quiet)
        bc.train(n_epochs=1, progress_bar=False)
        trainer = SimpleDAggerTrainer(
            venv=venv,
            scratch_dir=tmp_path / str(seed),
            expert_policy=expert,
            bc_trainer=BC(**spaces, rng=rng, custom_logger=quiet),
            rng=rng,
        )
        trainer.train(5_000)
        for policy, scores in ((bc.policy, cloned), (trainer.policy, with_dagger)):
            found = evaluate_returns(policy, "CartPole-v1", n_episodes=100, seed=1000 + seed)
            scores.append(float(found.returns.mean()))
        venv.close()
    test = permutation_test(with_dagger, cloned)
    print(f"expert {expert_return:.1f}")
    for name, scores in (("BC", cloned), ("DAgger", with_dagger)):
        print(name, [round(score, 1) for score in scores], stratified_bootstrap(scores))
    print(test, probability_of_improvement(with_dagger, cloned))
    assert test.p_value < 0.05
