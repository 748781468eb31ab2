"""Learning curves after pretraining, against a fresh learner of the same settings.

    python benchmarks/pretrain_then_learn.py --task cartpole --out benchmarks/results/pretrain_then_learn.json

Both learners see the same environments and have the same settings; one is first pretrained on demonstrations thin
enough that its clone falls short of the expert. Every few environment steps the deterministic policy is evaluated, from
the same start states each time. Counted are the environment steps until an evaluation reaches 95 % of the expert (on
the scale where a random policy is 0 and the expert 1), and how low the pretrained learner falls in the first ten
evaluations after its actor was let go; evaluations of a held actor, which is still the clone, do not count.
"""

from __future__ import annotations

import argparse
import copy
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

from understudy.algorithms.pretrain import Anchor, CriticWarmup, HoldActor, pretrain
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
    clone_between: tuple[float, float] | None = None
    """Demonstrations are drawn anew until their clone's return lies here, random being 0 and the expert 1."""
    hold: int = 0
    """Environment steps in which only the pretrained learner's critic learns."""
    anchor: dict[str, Any] | None = None
    """What ties the pretrained learner's actor afterwards."""


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
            "learning_rate": 1e-3,
            "buffer_size": 50_000,
            "batch_size": 256,
            "gamma": 0.98,
            "learning_starts": 0,
            "ent_coef": "auto_0.1",
        },
        n_envs=1,
        n_episodes=3,
        steps_of_each=60,
        clone_between=(0.4, 0.8),
        pretraining={"n_epochs": 300, "learning_rate": 1e-3, "batch_size": 32, "fill_replay_buffer": True},
        hold=400,
        anchor={"n_timesteps": 600, "expert_weight": 2.0, "clone_weight": 0.5},
        evaluate_every=200,
        n_evaluated=50,
        budget=6_000,
    ),
}


class Curve(BaseCallback):
    """Evaluates every so many environment steps, and stops once ten evaluations are made and the goal is reached."""

    def __init__(self, task: Task, venv: VecEnv, goal: float, held: int) -> None:
        super().__init__()
        self._task, self._venv, self._goal, self._held = task, venv, goal, held
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
        return sum(step > self._held for step in self.steps) < 10 or max(self.returns) < self._goal


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


def thin_demonstrations(
    task: Task,
    expert: Any,
    single: VecEnv,
    eval_venv: VecEnv,
    rng: np.random.Generator,
    seed: int,
    worst: float,
    best: float,
) -> tuple[list[TrajectoryWithRew], int]:
    """Demonstrations whose clone is as good as the task says, and how often they were drawn."""
    for draws in range(1, 51):
        demos = demonstrations(task, expert, single, rng)
        if task.clone_between is None:
            return demos, draws
        model = task.learner("MlpPolicy", single, seed=seed, device="cpu", **copy.deepcopy(task.settings))
        pretrain(model, demos, rng=seed, progress_bar=False, **task.pretraining)
        clone = evaluate_returns(model.policy, eval_venv, n_episodes=task.n_evaluated, seed=1000).returns.mean()
        if task.clone_between[0] <= (clone - worst) / (best - worst) <= task.clone_between[1]:
            return demos, draws
    raise RuntimeError(f"no demonstrations of seed {seed} have a clone of {task.clone_between} of the expert")


def released(task: Task, run: dict[str, Any]) -> list[float]:
    """The first ten returns after the actor was let go."""
    return [r for step, r in zip(run["steps"], run["returns"], strict=True) if step > task.hold][:10]


def one_seed(task: Task, seed: int, fresh: dict[str, Any] | None) -> dict[str, Any]:
    """Both learners of one seed; the fresh one's figures may be known."""
    rng = np.random.default_rng(seed)
    single = make_vec_env(task.env_id, rng=rng, n_envs=1)
    eval_venv = make_vec_env(task.env_id, rng=rng, n_envs=task.n_evaluated)
    expert = load_policy("bundled", single)
    best = float(evaluate_returns(expert, eval_venv, n_episodes=100, seed=1000).returns.mean())
    worst = float(evaluate_returns(None, eval_venv, n_episodes=100, seed=1000).returns.mean())
    demos, draws = thin_demonstrations(task, expert, single, eval_venv, rng, seed, worst, best)
    found: dict[str, Any] = {"seed": seed, "expert": best, "random": worst, "draws": draws}
    goal = worst + 0.95 * (best - worst)
    for name in _LEARNERS:
        if name == "fresh" and fresh is not None:
            found[name] = fresh
            continue
        began = time.perf_counter()
        venv = make_vec_env(task.env_id, rng=np.random.default_rng(seed), n_envs=task.n_envs)
        model = task.learner("MlpPolicy", venv, seed=seed, device="cpu", **copy.deepcopy(task.settings))
        if name == "pretrained":
            result = pretrain(model, demos, rng=seed, progress_bar=False, **task.pretraining)
            clone = evaluate_returns(model.policy, eval_venv, n_episodes=task.n_evaluated, seed=1000)
            found["clone"] = float(clone.returns.mean())
            found["critic"] = None if result.critic is None else dataclasses.asdict(result.critic)
        held = task.hold if name == "pretrained" else 0
        curve = Curve(task, eval_venv, goal, held)
        ties: list[BaseCallback] = [HoldActor(held)] if held else []
        if task.anchor and name == "pretrained":
            ties.append(Anchor(demos, rng=seed, **task.anchor))
        model.learn(task.budget, callback=[curve, *ties])
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


def ratio_interval(fresh: np.ndarray, pretrained: np.ndarray) -> tuple[float, float]:
    """95 % of the ratio of mean steps, by drawing seeds (pairs of learners) with replacement."""
    drawn = np.random.default_rng(0).integers(len(fresh), size=(10_000, len(fresh)))
    ratios = fresh[drawn].mean(1) / np.maximum(1.0, pretrained[drawn].mean(1))
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def summary(task: Task, seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Over seeds: means with bootstrap intervals. A learner that never got there counts with its whole budget."""
    best, worst = (np.array([s[k] for s in seeds]) for k in ("expert", "random"))
    clone = np.array([s["clone"] for s in seeds])
    each = np.array([released(task, s["pretrained"]) for s in seeds])
    first_ten = each.mean(0)
    steps = {
        name: np.array([task.budget if s[name]["steps_to_goal"] is None else s[name]["steps_to_goal"] for s in seeds])
        for name in _LEARNERS
    }
    # Returns may be negative: kept of the way from random to the clone.
    kept = (first_ten - worst.mean()) / (clone.mean() - worst.mean())
    found: dict[str, Any] = {
        "clone_of_expert": float(((clone - worst) / (best - worst)).mean()),
        "lowest_of_first_ten_over_clone": float(kept.min()),
        "lowest_of_first_ten_over_clone_each": ((each.min(1) - worst) / (clone - worst)).tolist(),
        "lowest_mean_return_of_first_ten": float(first_ten.min()),
        "clone_mean_return": float(clone.mean()),
        "ratio_of_mean_steps": {
            name: float(values.mean() / max(1.0, steps["pretrained"].mean()))
            for name, values in steps.items()
            if name != "pretrained"
        },
        "never_reached": {n: sum(s[n]["steps_to_goal"] is None for s in seeds) for n in steps},
    }
    if len(seeds) > 1:
        found["ratio_interval"] = dict(
            zip(("low", "high"), ratio_interval(steps["fresh"], steps["pretrained"]), strict=True)
        )
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
    parser.add_argument("--keep-fresh", action="store_true", help="take fresh learners with these settings from OUT")
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = TASKS[options.task]
    known = fresh_learners(options.out, options.task) if options.keep_fresh else {}
    seeds = []
    for seed in options.seeds:
        seeds.append(one_seed(task, seed, known.get(seed)))
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
    print(json.dumps(summary(task, seeds), indent=1))


FRESH = ("env_id", "settings", "n_envs", "evaluate_every", "n_evaluated", "budget")
"""What decides a fresh learner's figures."""


def fresh_learners(out: Path, name: str) -> dict[int, dict[str, Any]]:
    """By seed, where they were run with what the task says now and with the same versions."""
    kept = json.loads(out.read_text()) if out.exists() else {"tasks": {}}
    entry = kept["tasks"].get(name)
    if entry is None or kept["versions"] != library_versions():
        return {}
    if any(entry["task"][key] != getattr(TASKS[name], key) for key in FRESH):
        return {}
    return {s["seed"]: s["fresh"] for s in entry["seeds"]}


def write(out: Path, name: str, seeds: list[dict[str, Any]]) -> None:
    """Keep a task's figures so far beside those of the others."""
    task = TASKS[name]
    kept = json.loads(out.read_text()) if out.exists() else {"tasks": {}}
    described = {k: (v.__name__ if isinstance(v, type) else v) for k, v in vars(task).items()}
    described["pretraining"] = {
        k: dataclasses.asdict(v) if isinstance(v, CriticWarmup) else v for k, v in task.pretraining.items()
    }
    kept["versions"] = library_versions()
    kept["tasks"][name] = {"task": described, "summary": summary(task, seeds), "seeds": seeds}
    out.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
