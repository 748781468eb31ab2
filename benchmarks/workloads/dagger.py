"""DAgger as its documentation runs it: seals/CartPole in 8 environments, 8,000 steps, everything else by default.

``--case documented`` measures returns whenever a line is logged, as both libraries do unless told otherwise;
``--case learning`` leaves that out. The expert is a linear controller carried by a network of two layers of 32, and
the return is that of the learned policy, actions sampled, over 16 episodes.
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

N_TIMESTEPS, N_EVALUATED = 8_000, 16


def measure(arguments: Arguments) -> Measurement:
    """Train once, warmed up by one update of a policy that is thrown away."""
    torch.set_num_threads(1)
    importlib.import_module("seals")
    library = arguments.library
    bc, dagger, util, rollout = (
        importlib.import_module(f"{library}.{name}")
        for name in ("algorithms.bc", "algorithms.dagger", "util.util", "data.rollout")
    )
    options: dict[str, Any] = {"log_rollouts_venv": None} if arguments.case == "learning" else {}

    def trained(n_timesteps: int, seed: int, watch: Stopwatch) -> tuple[Any, Any, int]:
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        venv = util.make_vec_env("seals/CartPole-v0", rng=rng)
        expert = balancing_policy(library, venv)
        learner = bc.BC(observation_space=venv.observation_space, action_space=venv.action_space, rng=rng)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            trainer = dagger.SimpleDAggerTrainer(
                venv=venv, scratch_dir=folder, expert_policy=expert, bc_trainer=learner, rng=rng
            )
            with watch:
                trainer.train(n_timesteps, bc_train_kwargs=options or None)
        return trainer.policy, venv, trainer.round_num

    trained(1, arguments.seed + 1000, Stopwatch())
    watch = Stopwatch()
    policy, venv, rounds = trained(N_TIMESTEPS, arguments.seed, watch)
    episodes = rollout.rollout(
        policy, venv, rollout.make_min_episodes(N_EVALUATED), np.random.default_rng(0), unwrap=False, verbose=False
    )
    return Measurement(
        seconds=watch.seconds,
        cpu_seconds=watch.cpu_seconds,
        result={
            "rounds": int(rounds),
            "return": float(np.mean([np.sum(episode.rews) for episode in episodes])),
            "n_evaluated": len(episodes),
        },
    )


if __name__ == "__main__":
    run(measure, cases=("documented", "learning"))
