"""Clones of the bundled experts over five seeds: what a user may expect."""

from __future__ import annotations

import numpy as np
import pytest

from understudy.algorithms import bc
from understudy.data import rollout
from understudy.evaluation.returns import evaluate_returns
from understudy.evaluation.statistics import iqm
from understudy.policies.serialize import load_policy
from understudy.rl.recipes import get_recipe
from understudy.rl.training import train_recipe
from understudy.util import logger
from understudy.util.util import make_vec_env

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def clone_return(env_id: str, seed: int, n_episodes: int, n_epochs: int) -> float:
    rng = np.random.default_rng(seed)
    venv = make_vec_env(env_id, rng=rng, n_envs=8)
    expert = load_policy("bundled", venv)
    demonstrations = rollout.rollout(expert, venv, rollout.make_min_episodes(n_episodes), rng=rng)
    trainer = bc.BC(
        observation_space=venv.observation_space,
        action_space=venv.action_space,
        demonstrations=demonstrations,
        rng=rng,
        custom_logger=logger.configure(format_strs=[]),
    )
    trainer.train(n_epochs=n_epochs, progress_bar=False)
    returns = iqm(evaluate_returns(trainer.policy, venv, n_episodes=50, seed=seed).returns)
    venv.close()
    return float(returns)


@pytest.mark.parametrize(
    ("env_id", "n_episodes", "n_epochs", "at_least"),
    [("CartPole-v1", 50, 5, 495.0), ("seals/CartPole-v0", 50, 5, 495.0), ("Pendulum-v1", 100, 20, -200.0)],
)
def test_clones_over_seeds_reach_the_expert(env_id: str, n_episodes: int, n_epochs: int, at_least: float) -> None:
    scores = [clone_return(env_id, seed, n_episodes, n_epochs) for seed in range(5)]
    print(env_id, [round(score, 1) for score in scores])
    assert iqm(np.array(scores)) >= at_least


def test_the_recipe_of_the_cartpole_expert_makes_one_again() -> None:
    model = train_recipe(get_recipe("CartPole-v1"))
    assert evaluate_returns(model, "CartPole-v1", n_episodes=50).returns.min() == 500
