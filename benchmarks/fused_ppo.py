"""``FusedPPO`` against Stable-Baselines3's PPO: a minibatch update, a step of collecting, and a whole run.

    python benchmarks/fused_ppo.py --out benchmarks/results/fused_ppo.json

Both run in this process, in turn (A B A B), on one thread of the CPU, on the same environments with the same settings
and seeds. Updates are timed on the same rollout with the same permutations, so their parameters can be compared, too.
``seconds`` is wall time, ``cpu_seconds`` processor time of the same section: on a busy machine trust the latter more.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import set_random_seed

from understudy.policies.base import NormalizeFeaturesExtractor
from understudy.rl.fused_ppo import FusedPPO
from understudy.util.versions import library_versions

N_ENVS = 8
GAIL_SETTINGS: dict[str, Any] = {
    "n_steps": 2048,
    "batch_size": 64,
    "n_epochs": 5,
    "gamma": 0.95,
    "learning_rate": 4e-4,
    "ent_coef": 0.0,
}
"""The learner of the documented GAIL example: 16,384 steps a rollout, 1,280 minibatches a rollout."""


@dataclasses.dataclass(frozen=True)
class Update:
    """A policy and a minibatch whose update is timed."""

    env_id: str = "CartPole-v1"
    net_arch: tuple[int, ...] = (64, 64)
    batch_size: int = 64
    normalized: bool = False
    ent_coef: float = 0.0


UPDATES = {
    "cartpole_64x64": Update(),
    "cartpole_64x64_entropy": Update(ent_coef=0.01),
    "cartpole_32x32_running_norm": Update(net_arch=(32, 32), normalized=True),
    "pendulum_64x64": Update(env_id="Pendulum-v1"),
    "pendulum_64x64_batch_256": Update(env_id="Pendulum-v1", batch_size=256),
    "pendulum_256x256": Update(env_id="Pendulum-v1", net_arch=(256, 256)),
}
KINDS: dict[str, type[PPO]] = {"stable_baselines3": PPO, "understudy": FusedPPO}


class Stopwatch:
    """Wall and processor seconds of repeated sections."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Time what stands inside."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds.append(time.perf_counter() - wall)
        self.cpu_seconds.append(time.process_time() - cpu)

    def summary(self, per: int) -> dict[str, Any]:
        """Medians in milliseconds for each of ``per`` parts, and every sample in seconds."""
        return {
            "median_ms": statistics.median(self.seconds) / per * 1e3,
            "median_cpu_ms": statistics.median(self.cpu_seconds) / per * 1e3,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }


def compared(watches: dict[str, Stopwatch], per: int) -> dict[str, Any]:
    """Both libraries' summaries and the ratio of their medians."""
    rows = {name: watch.summary(per) for name, watch in watches.items()}
    theirs, ours = rows["stable_baselines3"], rows["understudy"]
    return {
        **rows,
        "ratio": theirs["median_ms"] / ours["median_ms"],
        "cpu_ratio": theirs["median_cpu_ms"] / ours["median_cpu_ms"],
    }


def in_turn(repeats: int, section: Callable[[str, Stopwatch], None]) -> dict[str, Stopwatch]:
    """A B A B … after one untimed round."""
    watches = {name: Stopwatch() for name in KINDS}
    for repeat in range(repeats + 1):
        for name, watch in watches.items():
            section(name, watch if repeat else Stopwatch())
    return watches


def built(kind: type[PPO], env_id: str, **settings: Any) -> PPO:
    """A learner on fresh environments of seed 0."""
    return kind("MlpPolicy", make_vec_env(env_id, n_envs=N_ENVS, seed=0), seed=0, device="cpu", **settings)


def update_and_collecting(case: Update, repeats: int) -> dict[str, Any]:
    """Milliseconds of a minibatch update and of a vectorised step, and how far the parameters are apart at the end."""
    kwargs: dict[str, Any] = {"net_arch": list(case.net_arch)}
    if case.normalized:
        kwargs["features_extractor_class"] = NormalizeFeaturesExtractor
    settings = {"n_steps": 256, "n_epochs": 5, "batch_size": case.batch_size, "ent_coef": case.ent_coef}
    learners = {
        name: built(kind, case.env_id, policy_kwargs=copy.deepcopy(kwargs), **settings) for name, kind in KINDS.items()
    }
    callbacks = {name: learner._setup_learn(10**6)[1] for name, learner in learners.items()}
    theirs, ours = learners.values()
    assert isinstance(ours, FusedPPO)
    assert ours.path == "closed_form"
    theirs.collect_rollouts(theirs.get_env(), callbacks["stable_baselines3"], theirs.rollout_buffer, theirs.n_steps)  # type: ignore[arg-type]
    ours.rollout_buffer = copy.deepcopy(theirs.rollout_buffer)

    def update(name: str, watch: Stopwatch) -> None:
        set_random_seed(len(watch.seconds))
        with watch.timed():
            learners[name].train()

    def collecting(name: str, watch: Stopwatch) -> None:
        learner = learners[name]
        with watch.timed():
            learner.collect_rollouts(learner.get_env(), callbacks[name], learner.rollout_buffer, learner.n_steps)  # type: ignore[arg-type]

    updates = compared(in_turn(repeats, update), per=5 * 256 * N_ENVS // case.batch_size)
    pairs = zip(theirs.policy.parameters(), ours.policy.parameters(), strict=True)
    apart = max(float((p - q).detach().abs().max()) for p, q in pairs)
    steps = compared(in_turn(repeats, collecting), per=256)
    return {"case": dataclasses.asdict(case), "minibatch": updates, "vectorised_step": steps, "parameters_apart": apart}


def whole_run(n_timesteps: int, repeats: int) -> dict[str, Any]:
    """Seconds of ``learn`` on CartPole, construction of the learner left out."""
    returns: dict[str, list[float]] = {name: [] for name in KINDS}

    def learn(name: str, watch: Stopwatch) -> None:
        learner = built(KINDS[name], "CartPole-v1", **GAIL_SETTINGS)
        with watch.timed():
            learner.learn(n_timesteps)
        assert learner.ep_info_buffer is not None
        returns[name].append(statistics.fmean(info["r"] for info in learner.ep_info_buffer))

    row = compared(in_turn(repeats, learn), per=1000)
    return {"n_timesteps": n_timesteps, "n_envs": N_ENVS, "settings": GAIL_SETTINGS, "returns": returns, **row}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fused_ppo.json")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--run-repeats", type=int, default=3)
    parser.add_argument("--timesteps", type=int, default=49_152)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "versions": library_versions(),
        "threads": 1,
        "seed": 0,
        "load_average_before": os.getloadavg(),
        "updates": {name: update_and_collecting(case, arguments.repeats) for name, case in UPDATES.items()},
        "learn": whole_run(arguments.timesteps, arguments.run_repeats),
    }
    results["load_average_after"] = os.getloadavg()
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name, row in results["updates"].items():
        for part in ("minibatch", "vectorised_step"):
            theirs, ours = row[part]["stable_baselines3"], row[part]["understudy"]
            print(
                f"{name:32}{part:18}{theirs['median_ms']:8.3f} → {ours['median_ms']:.3f} ms"
                f"  × {row[part]['ratio']:.1f} (cpu × {row[part]['cpu_ratio']:.1f})"
                f"  parameters apart {row['parameters_apart']:.1e}"
            )
    row = results["learn"]
    theirs, ours = row["stable_baselines3"], row["understudy"]
    print(f"learn: {theirs['median_ms']:.2f} → {ours['median_ms']:.2f} s  × {row['ratio']:.1f}")


if __name__ == "__main__":
    main()
