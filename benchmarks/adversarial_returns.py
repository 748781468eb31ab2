"""Returns that GAIL and AIRL reach on seals/CartPole, with the documented settings and with settings of ours.

    python benchmarks/adversarial_returns.py --algorithm gail --settings preset --seeds 5

Sixty episodes of the bundled expert, which earns 500 of 500. Returns are means over 50 episodes, with the most likely
action and with sampled ones. Figures are added to benchmarks/results/adversarial_returns.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from tqdm.auto import trange

from understudy import AIRL, GAIL, FusedPPO, evaluate_returns, load_policy, make_sample_until, make_vec_env, rollout
from understudy.rewards.reward_nets import BasicRewardNet, BasicShapedRewardNet
from understudy.util.logger import configure
from understudy.util.networks import RunningNorm
from understudy.util.versions import library_versions

ENV = "seals/CartPole-v0"
OUT = Path(__file__).parent / "results" / "adversarial_returns.json"

_DOCUMENTED: dict[str, dict[str, Any]] = {
    "gail": {
        "n_timesteps": 800_000,
        "learner": {"batch_size": 64, "ent_coef": 0.0, "learning_rate": 4e-4, "gamma": 0.95, "n_epochs": 5},
        "trainer": {"demo_batch_size": 1024, "gen_replay_buffer_capacity": 512, "n_disc_updates_per_round": 8},
    },
    "airl": {
        "n_timesteps": 2_000_000,
        "learner": {
            "batch_size": 64,
            "ent_coef": 0.0,
            "learning_rate": 5e-4,
            "gamma": 0.95,
            "clip_range": 0.1,
            "vf_coef": 0.1,
            "n_epochs": 5,
        },
        "trainer": {"demo_batch_size": 2048, "gen_replay_buffer_capacity": 512, "n_disc_updates_per_round": 16},
    },
}
# Rounds of an eighth of the steps, all rows of a round for the discriminator, and a learning rate that falls to 0.
_PRESET: dict[str, dict[str, Any]] = {
    name: {
        "n_timesteps": 300_000,
        "learner": {
            **settings["learner"],
            "n_steps": 256,
            "gamma": 0.98 if name == "gail" else 0.95,
            "learning_rate": "linear from 1e-3",
        },
        "trainer": {"demo_batch_size": 1024, "n_disc_updates_per_round": 4},
    }
    for name, settings in _DOCUMENTED.items()
}
SETTINGS = {"documented": _DOCUMENTED, "preset": _PRESET}


def one(algorithm: str, settings: dict[str, Any], seed: int) -> dict[str, float]:
    """Train and evaluate."""
    torch.manual_seed(seed)
    venv = make_vec_env(ENV, rng=np.random.default_rng(seed), n_envs=8)
    episodes = rollout(
        load_policy("bundled", venv), venv, make_sample_until(min_episodes=60), rng=np.random.default_rng(seed)
    )
    options = dict(settings["learner"])
    if options["learning_rate"] == "linear from 1e-3":
        options["learning_rate"] = lambda remaining: 1e-3 * remaining
    learner = FusedPPO("MlpPolicy", venv, seed=seed, device="cpu", **options)
    net = BasicRewardNet if algorithm == "gail" else BasicShapedRewardNet
    trainer = (GAIL if algorithm == "gail" else AIRL)(
        demonstrations=episodes,
        venv=venv,
        gen_algo=learner,
        reward_net=net(venv.observation_space, venv.action_space, normalize_input_layer=RunningNorm),
        custom_logger=configure(tempfile.mkdtemp(), []),
        rng=seed,
        **settings["trainer"],
    )
    start = time.perf_counter()
    trainer.train(settings["n_timesteps"])
    seconds = time.perf_counter() - start
    likely, sampled = (
        evaluate_returns(trainer.policy, ENV, n_episodes=50, seed=9, deterministic=choice) for choice in (True, False)
    )
    return {
        "seed": seed,
        "return": float(likely.returns.mean()),
        "return_sampled": float(sampled.returns.mean()),
        "seconds": round(seconds, 2),
        "n_timesteps": int(learner.num_timesteps),
    }


def main() -> None:
    """Run and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", choices=("gail", "airl"), default="gail")
    parser.add_argument("--settings", choices=tuple(SETTINGS), default="preset")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = SETTINGS[given.settings][given.algorithm]
    runs = [one(given.algorithm, settings, seed) for seed in trange(given.seeds, desc="seeds")]
    for run in runs:
        print(run)
    found = json.loads(OUT.read_text()) if OUT.exists() else {}
    found[f"{given.algorithm} {given.settings}"] = {"settings": settings, "runs": runs, "versions": library_versions()}
    OUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
