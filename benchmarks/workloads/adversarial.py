"""GAIL and AIRL as their documentation sets them: seals/CartPole in 8 environments, three rounds of 16,384 steps.

Expert: the linear controller carried by a network. Learner settings, reward nets and numbers of updates are the same on
both; understudy's learner is its ``FusedPPO`` where ``--case`` has ``fused`` in it; ``long`` means 30 rounds. With
the library ``stable_baselines3`` its PPO learns alone, from the environment's own rewards, settings and steps the same.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import tempfile
from typing import Any

import numpy as np
import torch
from measuring import Arguments, Measurement, Stopwatch, run
from rollout import balancing_policy
from stable_baselines3 import PPO

A_ROUND, N_EPISODES = 16_384, 20
LEARNER = {
    "gail": {"learning_rate": 0.0004, "gamma": 0.95, "n_epochs": 5, "ent_coef": 0.0, "batch_size": 64},
    "airl": {
        "learning_rate": 0.0005,
        "gamma": 0.95,
        "clip_range": 0.1,
        "vf_coef": 0.1,
        "n_epochs": 5,
        "ent_coef": 0.0,
        "batch_size": 64,
    },
}
TRAINER = {
    "gail": {"demo_batch_size": 1024, "gen_replay_buffer_capacity": 512, "n_disc_updates_per_round": 8},
    "airl": {"demo_batch_size": 2048, "gen_replay_buffer_capacity": 512, "n_disc_updates_per_round": 16},
}


def measure(arguments: Arguments) -> Measurement:
    """Train once; expert and demonstrations are made before the clock runs."""
    torch.set_num_threads(1)
    importlib.import_module("seals")
    library = arguments.library
    algorithm, *options = arguments.case.split("-")
    n_timesteps = A_ROUND * (30 if "long" in options else 3)
    if library == "stable_baselines3":
        return learner_alone(arguments.seed, LEARNER[algorithm], n_timesteps)
    module, util, rollout, nets, networks = (
        importlib.import_module(f"{library}.{name}")
        for name in (
            f"algorithms.adversarial.{algorithm}",
            "util.util",
            "data.rollout",
            "rewards.reward_nets",
            "util.networks",
        )
    )
    wrappers = importlib.import_module(f"{library}.data.wrappers")
    rng = np.random.default_rng(arguments.seed)
    torch.manual_seed(arguments.seed)
    wrap = [lambda env, _: wrappers.RolloutInfoWrapper(env)] if library == "imitation" else None
    venv = util.make_vec_env("seals/CartPole-v0", rng=rng, post_wrappers=wrap)
    expert = balancing_policy(library, venv)
    episodes = rollout.rollout(expert, venv, rollout.make_min_episodes(N_EPISODES), rng, verbose=False)
    learner_class: Any = importlib.import_module("understudy.rl.fused_ppo").FusedPPO if "fused" in options else PPO
    learner = learner_class("MlpPolicy", venv, seed=arguments.seed, device="cpu", **LEARNER[algorithm])
    net_class = nets.BasicRewardNet if algorithm == "gail" else nets.BasicShapedRewardNet
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
        trainer = getattr(module, algorithm.upper())(
            demonstrations=episodes,
            venv=venv,
            gen_algo=learner,
            reward_net=net_class(venv.observation_space, venv.action_space, normalize_input_layer=networks.RunningNorm),
            log_dir=folder,
            **TRAINER[algorithm],
        )
        with (watch := Stopwatch()):
            trainer.train(n_timesteps)
    return Measurement(
        seconds=watch.seconds,
        cpu_seconds=watch.cpu_seconds,
        result={"n_timesteps": int(learner.num_timesteps), "updates": int(learner._n_updates)},
    )


def learner_alone(seed: int, settings: dict[str, Any], n_timesteps: int) -> Measurement:
    """Stable-Baselines3's own PPO."""
    util = importlib.import_module("understudy.util.util")
    venv = util.make_vec_env("seals/CartPole-v0", rng=np.random.default_rng(seed))
    learner = PPO("MlpPolicy", venv, seed=seed, device="cpu", **settings)
    with (watch := Stopwatch()):
        learner.learn(n_timesteps)
    return Measurement(
        seconds=watch.seconds,
        cpu_seconds=watch.cpu_seconds,
        result={"n_timesteps": int(learner.num_timesteps), "updates": int(learner._n_updates)},
    )


if __name__ == "__main__":
    run(measure, cases=("gail", "airl", "gail-long", "gail-fused", "airl-fused", "gail-fused-long"))
