"""Reinforcement learning after pretraining: it does not fall behind the clone, and arrives sooner than from nothing."""

from __future__ import annotations

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from understudy.algorithms.pretrain import CriticWarmup, pretrain
from understudy.data import rollout
from understudy.data.types import TrajectoryWithRew
from understudy.evaluation.returns import evaluate_returns
from understudy.policies.serialize import load_policy
from understudy.util.util import make_vec_env

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SETTINGS = {
    "n_steps": 128,
    "batch_size": 128,
    "n_epochs": 10,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "learning_rate": 3e-4,
    "target_kl": 0.01,
}
"""PPO with 8 environments: updates of limited size, which a clone survives while its critic finds out more."""


class Evaluations(BaseCallback):
    """Deterministic returns after each update."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__()
        self._venv = venv
        self.returns: list[float] = []
        self.steps: list[int] = []

    def _on_rollout_start(self) -> None:
        if self.num_timesteps:
            found = evaluate_returns(self.model.policy, self._venv, n_episodes=20, seed=1000)
            self.returns.append(float(found.returns.mean()))
            self.steps.append(self.num_timesteps)

    def _on_step(self) -> bool:
        return len(self.returns) < 10


def first_sixty_steps(venv: VecEnv, seed: int) -> list[TrajectoryWithRew]:
    expert = load_policy("bundled", venv)
    whole = rollout.generate_trajectories(
        expert, venv, rollout.make_min_episodes(1), rng=np.random.default_rng(seed), deterministic_policy=True
    )[0]
    return [
        TrajectoryWithRew(obs=whole.obs[:61], acts=whole.acts[:60], infos=None, terminal=False, rews=whole.rews[:60])
    ]


@pytest.mark.defect("B24")
def test_ppo_never_falls_below_nine_tenths_of_the_clone() -> None:
    clones, curves = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        venv = make_vec_env("CartPole-v1", rng=rng, n_envs=8)
        evaluated = make_vec_env("CartPole-v1", rng=rng, n_envs=20)
        single = make_vec_env("CartPole-v1", rng=rng, n_envs=1)
        model = PPO("MlpPolicy", venv, seed=seed, device="cpu", **SETTINGS)  # type: ignore[arg-type]
        warmup = CriticWarmup(n_epochs=200)
        demos = first_sixty_steps(single, seed)
        pretrain(model, demos, 100, 1e-3, batch_size=32, critic_warmup=warmup, rng=seed, progress_bar=False)
        clones.append(float(evaluate_returns(model.policy, evaluated, n_episodes=20, seed=1000).returns.mean()))
        evaluations = Evaluations(evaluated)
        model.learn(11 * 1024, callback=evaluations)
        curves.append(evaluations.returns)
        for env in (venv, evaluated, single):
            env.close()
    mean = np.mean(curves, axis=0)
    assert mean.shape == (10,)
    assert mean.min() >= 0.9 * np.mean(clones)
    assert mean.max() >= 475  # and it learns
