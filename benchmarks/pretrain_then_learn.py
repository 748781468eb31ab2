"""Learning curves after pretraining, against a fresh learner of the same settings.

    python benchmarks/pretrain_then_learn.py --task cartpole --out benchmarks/results/pretrain_then_learn.json

Both learners see the same environments and have the same settings, unless a fresh one is quicker with others; one is
first pretrained on demonstrations thin enough that its clone falls short of the expert. Every few environment steps
the deterministic policy is evaluated. Counted are the environment steps until an evaluation reaches 95 % of the expert
(on the scale where a random policy is 0 and the expert 1), and how low the pretrained learner falls in its first ten
evaluations.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from understudy.algorithms.pretrain import CriticWarmup, StayClose, pretrain
from understudy.data import rollout
from understudy.data.types import TrajectoryWithRew
from understudy.evaluation.returns import evaluate_returns
from understudy.evaluation.statistics import stratified_bootstrap
from understudy.policies.serialize import load_policy
from understudy.util.util import make_vec_env
from understudy.util.versions import library_versions


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learned, from what, and with which settings."""

    env_id: str
    learner: Any
    settings: dict[str, Any]
    n_envs: int
    n_episodes: int
    """Demonstrated episodes."""
    steps_of_each: int
    """Steps of each that are kept."""
    pretraining: dict[str, Any]
    evaluate_every: int
    """Environment steps between two evaluations."""
    n_evaluated: int
    """Episodes to an evaluation."""
    budget: int
    """Environment steps."""
    stay_close: dict[str, Any] | None = None
    """Cloning that goes on while the pretrained learner learns."""
    fresh_settings: dict[str, Any] | None = None
    """What the fresh learner does otherwise, because it is quicker so."""


TASKS = {
    "cartpole": Task(
        env_id="CartPole-v1",
        learner=PPO,
        settings={
            "n_steps": 128,
            "batch_size": 128,
            "n_epochs": 10,
            "gamma": 0.99,
            "gae_lambda": 0.95,
            "learning_rate": 3e-4,
            "target_kl": 0.01,
        },
        n_envs=8,
        n_episodes=1,
        steps_of_each=60,
        pretraining={
            "n_epochs": 100,
            "learning_rate": 1e-3,
            "batch_size": 32,
            "critic_warmup": CriticWarmup(n_epochs=200),
        },
        evaluate_every=1024,
        n_evaluated=20,
        budget=80_000,
    ),
    "pendulum": Task(
        env_id="Pendulum-v1",
        learner=SAC,
        settings={
            "learning_rate": 5e-4,
            "buffer_size": 50_000,
            "batch_size": 128,
            "gamma": 0.98,
            "learning_starts": 0,
            "ent_coef": "auto_0.1",
            "policy_kwargs": {"net_arch": [64, 64], "n_critics": 5},
        },
        fresh_settings={"learning_rate": 1e-3, "policy_kwargs": {"net_arch": [64, 64], "n_critics": 2}},
        n_envs=1,
        n_episodes=4,
        steps_of_each=60,
        pretraining={
            "n_epochs": 200,
            "learning_rate": 1e-3,
            "batch_size": 32,
            "critic_warmup": CriticWarmup(n_epochs=100),
            "fill_replay_buffer": True,
        },
        stay_close={"n_timesteps": 20_000, "n_steps": 8, "learning_rate": 1e-3, "batch_size": 64},
        evaluate_every=200,
        n_evaluated=20,
        budget=6_000,
    ),
}


class Curve(BaseCallback):
    """Evaluates every so many environment steps, and stops once ten evaluations are made and the goal is reached."""

    def __init__(self, task: Task, venv: VecEnv, goal: float) -> None:
        super().__init__()
        self._task, self._venv, self._goal = task, venv, goal
        self.steps: list[int] = []
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        updates = getattr(self.model, "_n_updates", 1)  # before the first it is still the clone
        if self.num_timesteps % self._task.evaluate_every or not updates:
            return True
        return self._measure()

    def _measure(self) -> bool:
        found = evaluate_returns(self.model.policy, self._venv, n_episodes=self._task.n_evaluated, seed=1000)
        self.steps.append(self.num_timesteps)
        self.returns.append(float(found.returns.mean()))
        return len(self.returns) < 10 or max(self.returns) < self._goal


def demonstrations(task: Task, expert: Any, venv: VecEnv, rng: np.random.Generator) -> list[TrajectoryWithRew]:
    """The beginnings of a few of the expert's episodes."""
    whole = rollout.generate_trajectories(
        expert, venv, rollout.make_min_episodes(task.n_episodes), rng=rng, deterministic_policy=True
    )[: task.n_episodes]
    return [
        TrajectoryWithRew(
            obs=t.obs[: task.steps_of_each + 1],
            acts=t.acts[: task.steps_of_each],
            infos=None,
            terminal=t.terminal and len(t) <= task.steps_of_each,
            rews=t.rews[: task.steps_of_each],
            truncated=t.truncated and len(t) <= task.steps_of_each,
        )
        for t in whole
    ]


_LEARNERS = ("pretrained", "fresh")


def _settings(task: Task, name: str) -> dict[str, Any]:
    return {**task.settings, **((task.fresh_settings or {}) if name == "fresh" else {})}


def one_seed(task: Task, seed: int) -> dict[str, Any]:
    """Both learners of one seed."""
    rng = np.random.default_rng(seed)
    single = make_vec_env(task.env_id, rng=rng, n_envs=1)
    eval_venv = make_vec_env(task.env_id, rng=rng, n_envs=task.n_evaluated)
    expert = load_policy("bundled", single)
    best = float(evaluate_returns(expert, eval_venv, n_episodes=100, seed=1000).returns.mean())
    worst = float(evaluate_returns(None, eval_venv, n_episodes=100, seed=1000).returns.mean())
    demos = demonstrations(task, expert, single, rng)
    found: dict[str, Any] = {"seed": seed, "expert": best, "random": worst}
    goal = worst + 0.95 * (best - worst)
    for name in _LEARNERS:
        began = time.perf_counter()
        venv = make_vec_env(task.env_id, rng=np.random.default_rng(seed), n_envs=task.n_envs)
        model = task.learner("MlpPolicy", venv, seed=seed, device="cpu", **_settings(task, name))
        if name == "pretrained":
            result = pretrain(model, demos, rng=seed, progress_bar=False, **task.pretraining)
            clone = evaluate_returns(model.policy, eval_venv, n_episodes=task.n_evaluated, seed=1000)
            found["clone"] = float(clone.returns.mean())
            found["critic"] = None if result.critic is None else dataclasses.asdict(result.critic)
        curve = Curve(task, eval_venv, goal)
        close = [StayClose(demos, **task.stay_close)] if task.stay_close and name == "pretrained" else []
        model.learn(task.budget, callback=[curve, *close])
        reached = [s for s, r in zip(curve.steps, curve.returns, strict=True) if r >= goal]
        if name == "pretrained" and found["clone"] >= goal:
            reached = [0]
        found[name] = {
            "steps": curve.steps,
            "returns": curve.returns,
            "steps_to_goal": reached[0] if reached else None,
            "seconds": time.perf_counter() - began,
        }
        venv.close()
    single.close()
    eval_venv.close()
    return found


def summary(task: Task, seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Over seeds: means with bootstrap intervals. A learner that never got there counts with its whole budget."""
    best, worst = (np.array([s[k] for s in seeds]) for k in ("expert", "random"))
    clone = np.array([s["clone"] for s in seeds])
    first_ten = np.array([s["pretrained"]["returns"][:10] for s in seeds]).mean(0)
    steps = {
        name: np.array([task.budget if s[name]["steps_to_goal"] is None else s[name]["steps_to_goal"] for s in seeds])
        for name in _LEARNERS
    }
    # Returns may be negative: kept of the way from random to the clone.
    kept = (first_ten - worst.mean()) / (clone.mean() - worst.mean())
    found: dict[str, Any] = {
        "clone_of_expert": float(((clone - worst) / (best - worst)).mean()),
        "lowest_of_first_ten_over_clone": float(kept.min()),
        "lowest_mean_return_of_first_ten": float(first_ten.min()),
        "clone_mean_return": float(clone.mean()),
        "ratio_of_mean_steps": {
            name: float(values.mean() / max(1.0, steps["pretrained"].mean()))
            for name, values in steps.items()
            if name != "pretrained"
        },
        "never_reached": {n: sum(s[n]["steps_to_goal"] is None for s in seeds) for n in steps},
    }
    for name, values in steps.items():
        mean = float(values.mean())
        found[f"steps_{name}"] = {"mean": mean, "each": values.tolist()}
        if len(values) > 1 and values.std() > 0:
            interval = stratified_bootstrap(values.astype(float), np.mean, rng=np.random.default_rng(0))
            found[f"steps_{name}"] |= {"low": interval.low, "high": interval.high}
    return found


def main() -> None:
    """Run a task and keep its figures beside those of the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=sorted(TASKS), required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = TASKS[options.task]
    seeds = []
    for seed in options.seeds:
        seeds.append(one_seed(task, seed))
        print(json.dumps({k: v for k, v in seeds[-1].items() if k not in _LEARNERS}))
        for name in _LEARNERS:
            run = seeds[-1][name]
            print(
                name,
                run["steps_to_goal"],
                [round(r) for r in run["returns"][:12]],
                f"{run['seconds']:.0f} s",
                flush=True,
            )
    write(options.out, options.task, seeds)


def write(out: Path, name: str, seeds: list[dict[str, Any]]) -> None:
    """Keep a task's figures beside those of the others."""
    task = TASKS[name]
    kept = json.loads(out.read_text()) if out.exists() else {"tasks": {}}
    described = {k: (v.__name__ if isinstance(v, type) else v) for k, v in vars(task).items()}
    described["pretraining"] = {
        k: dataclasses.asdict(v) if isinstance(v, CriticWarmup) else v for k, v in task.pretraining.items()
    }
    kept["versions"] = library_versions()
    kept["tasks"][name] = {"task": described, "summary": summary(task, seeds), "seeds": seeds}
    out.write_text(json.dumps(kept, indent=1) + "\n")
    print(json.dumps(kept["tasks"][name]["summary"], indent=1))


if __name__ == "__main__":
    main()
