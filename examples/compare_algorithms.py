"""Is DAgger better than behavioural cloning? Five seeds each, tested, and again with more updates or more answers.

Run: python examples/compare_algorithms.py, and with a file name behind it to draw the returns of all seeds.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping

import numpy as np
from stable_baselines3.common.policies import BasePolicy

from understudy import BC, make_sample_until, make_vec_env, rollout
from understudy.algorithms.dagger import SimpleDAggerTrainer
from understudy.data.rollout import flatten_trajectories
from understudy.evaluation.returns import evaluate_over_seeds
from understudy.evaluation.statistics import permutation_test, probability_of_improvement, stratified_bootstrap
from understudy.policies.base import NonTrainablePolicy
from understudy.util.logger import configure

ENV = "CartPole-v1"
SEEDS = range(5)


class Mediocre(NonTrainablePolicy):
    """The expert: it pushes the way the pole is turning, and earns about 200 of 500."""

    def _choose_action(self, obs: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
        assert isinstance(obs, np.ndarray)
        return np.asarray(obs[3] > 0, dtype=np.int64)


def generator(seed: int) -> np.random.Generator:
    """For training. Evaluations of ``seed`` are seeded with the seed itself, so they begin in other states."""
    return np.random.default_rng([1, seed])


def cloned(seed: int, n_answers: int | None = None, n_batches: int | None = None) -> BasePolicy:
    """Behavioural cloning from so many steps of the expert, else one episode; so many updates, else once through."""
    rng = generator(seed)
    venv = make_vec_env(ENV, rng=rng, n_envs=1)
    expert = Mediocre(venv.observation_space, venv.action_space)
    enough = make_sample_until(min_episodes=1, min_timesteps=n_answers)
    demonstrations = flatten_trajectories(rollout(expert, venv, enough, rng=rng))[:n_answers]
    bc = BC(
        observation_space=venv.observation_space,
        action_space=venv.action_space,
        demonstrations=demonstrations,
        rng=rng,
        custom_logger=configure(format_strs=[]),
    )
    bc.train(n_epochs=None if n_batches else 1, n_batches=n_batches, progress_bar=False)
    return bc.policy


def with_dagger(seed: int) -> BasePolicy:
    rng = generator(seed)
    venv = make_vec_env(ENV, rng=rng, n_envs=1)
    expert = Mediocre(venv.observation_space, venv.action_space)
    bc = BC(
        observation_space=venv.observation_space,
        action_space=venv.action_space,
        rng=rng,
        custom_logger=configure(format_strs=[]),
    )
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SimpleDAggerTrainer(venv=venv, scratch_dir=scratch, expert_policy=expert, bc_trainer=bc, rng=rng)
        trainer.train(5_000, bc_train_kwargs={"log_rollouts_n_episodes": 0})
    return trainer.policy


def main(picture: str | None = None) -> None:
    ways: dict[str, Callable[[int], BasePolicy]] = {
        "BC, one episode, once through": cloned,
        "BC, one episode, 600 updates": lambda seed: cloned(seed, n_batches=600),
        "BC, 5,000 answers, 600 updates": lambda seed: cloned(seed, 5_000, 600),
        "DAgger, 5,000 answers": with_dagger,
    }
    scores = {
        name: evaluate_over_seeds(train, ENV, seeds=SEEDS, n_episodes=32).returns.mean(axis=1)
        for name, train in ways.items()
    }
    for name, of_seeds in scores.items():
        listed = " ".join(f"{score:5.1f}" for score in of_seeds)
        print(f"{name:>31}: {stratified_bootstrap(of_seeds)}   each seed: {listed}")
    *clones, dagger = scores
    for name in clones:
        better = probability_of_improvement(scores[dagger], scores[name])
        p_value = permutation_test(scores[dagger], scores[name]).p_value
        print(f"{dagger} beats {name}: {better.point:.0%} of the pairs, p = {p_value:.3f}")
    if picture is not None:
        draw(scores, picture)


def draw(scores: Mapping[str, np.ndarray], path: str) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 2.4), layout="constrained")
    for row, of_seeds in enumerate(scores.values()):
        interval = stratified_bootstrap(of_seeds)
        axes.plot([interval.low, interval.high], [row, row], color="tab:blue", linewidth=9, alpha=0.3)
        axes.plot([interval.point] * 2, [row - 0.2, row + 0.2], color="tab:blue", linewidth=2)
        axes.plot(of_seeds, np.full(len(of_seeds), row), "o", color="0.2", markersize=4)
    axes.set_yticks(range(len(scores)), list(scores))
    axes.set_ylim(len(scores) - 0.5, -0.5)
    axes.set_xlabel("mean return of each seed; interquartile mean, 95 % interval")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90, pil_kwargs={"optimize": True})
    plt.close(figure)


if __name__ == "__main__":
    main(*sys.argv[1:2])
