"""Reinforcement learning after pretraining: it does not fall behind the clone, and arrives sooner than from nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.vec_env import VecEnv

from understudy.algorithms.pretrain import Anchor, CriticWarmup, HoldActor, pretrain
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


SWING = {"learning_rate": 1e-3, "buffer_size": 50_000, "gamma": 0.98, "learning_starts": 0, "ent_coef": "auto_0.1"}
"""SAC on Pendulum, where a clone without ties is at a random policy's level 200 steps after its actor is let go."""


def swing_beginnings(expert: Any, venv: VecEnv, rng: np.random.Generator) -> list[TrajectoryWithRew]:
    """The first 60 steps of three episodes."""
    whole = rollout.generate_trajectories(expert, venv, rollout.make_min_episodes(3), rng=rng)
    return [
        TrajectoryWithRew(obs=t.obs[:61], acts=t.acts[:60], infos=None, terminal=False, rews=t.rews[:60])
        for t in whole[:3]
    ]


@pytest.mark.defect("B24")
def test_sac_keeps_nine_tenths_of_the_clone_and_passes_it() -> None:
    """On the scale where a random policy (−1,260) is 0 and the expert (−160) is 1."""

    def scaled(returns: float) -> float:
        return (returns + 1260.0) / 1100.0

    clones, curves = [], []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        venv = make_vec_env("Pendulum-v1", rng=rng, n_envs=1)
        evaluated = make_vec_env("Pendulum-v1", rng=rng, n_envs=50)
        expert = load_policy("bundled", venv)
        clone = 0.0
        while not 0.4 <= clone <= 0.8:
            demos = swing_beginnings(expert, venv, rng)
            model = SAC("MlpPolicy", venv, seed=seed, device="cpu", **SWING)  # type: ignore[arg-type]
            pretrain(model, demos, 300, 1e-3, batch_size=32, fill_replay_buffer=True, rng=seed, progress_bar=False)
            clone = scaled(float(evaluate_returns(model.policy, evaluated, n_episodes=50, seed=1000).returns.mean()))
        curve: list[float] = []

        def evaluate(
            local: dict[str, Any], _: dict[str, Any], venv: VecEnv = evaluated, to: list[float] = curve
        ) -> bool:
            step = local["self"].num_timesteps
            if step > 400 and step % 200 == 0:
                found = evaluate_returns(local["self"].policy, venv, n_episodes=50, seed=1000)
                to.append(scaled(float(found.returns.mean())))
            return True

        ties = [HoldActor(400), Anchor(demos, 600, expert_weight=2.0, clone_weight=0.5)]
        model.learn(2400, callback=CallbackList([*ties, ConvertCallback(evaluate)]))
        clones.append(clone)
        curves.append(curve)
        venv.close()
        evaluated.close()
    mean = np.mean(curves, axis=0)
    assert mean.shape == (10,)
    assert mean.min() >= 0.9 * np.mean(clones)
    assert mean.max() >= 0.9  # and it learns
