"""Rolling out: 40,000 CartPole steps in 8 environments of one process, with ``rollout.rollout``'s own defaults.

``--case wrapped`` puts ``RolloutInfoWrapper`` around each environment, which ``unwrap=True`` needs in the older
library; ``--case bare`` leaves it out.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from demonstrations import CARTPOLE_CONTROLLER
from measuring import Arguments, Measurement, Stopwatch, run

N_STEPS, N_ENVS = 40_000, 8


def balancing_policy(library: str, venv: Any) -> Any:
    """A ``FeedForward32Policy`` whose first unit carries the linear controller through to the logits.

    The remaining units keep their seeded weights and are multiplied by zero at the head: the same arithmetic, a known
    behaviour. The logits are steep, so that sampled actions balance too.
    """
    base = importlib.import_module(f"{library}.policies.base")
    torch.manual_seed(0)
    policy = base.FeedForward32Policy(venv.observation_space, venv.action_space, lambda _: 1e-3)
    first, second = (layer for layer in policy.mlp_extractor.policy_net if isinstance(layer, torch.nn.Linear))
    head = policy.action_net
    with torch.no_grad():
        first.weight[0] = torch.as_tensor(CARTPOLE_CONTROLLER, dtype=torch.float32)
        second.weight[0] = torch.eye(second.in_features)[0]
        head.weight.zero_()
        head.weight[:, 0] = torch.tensor([-20.0, 20.0])
        for layer in (first, second, head):
            layer.bias.zero_()
    return policy


def measure(arguments: Arguments) -> Measurement:
    """Collect at least 40,000 steps of whole episodes."""
    torch.set_num_threads(1)
    library = arguments.library
    rollout = importlib.import_module(f"{library}.data.rollout")
    util = importlib.import_module(f"{library}.util.util")
    wrap = None
    if arguments.case == "wrapped":
        wrappers = importlib.import_module(f"{library}.data.wrappers")
        wrap = [lambda env, _: wrappers.RolloutInfoWrapper(env)]
    rng = np.random.default_rng(arguments.seed)
    venv = util.make_vec_env("CartPole-v1", rng=rng, n_envs=N_ENVS, post_wrappers=wrap)
    policy = balancing_policy(library, venv)
    rollout.rollout(policy, venv, rollout.make_min_timesteps(1_000), rng, verbose=False)
    torch.manual_seed(arguments.seed)
    with (watch := Stopwatch()):
        trajectories = rollout.rollout(policy, venv, rollout.make_min_timesteps(N_STEPS), rng)
    lengths = [len(trajectory) for trajectory in trajectories]
    return Measurement(
        seconds=watch.seconds,
        cpu_seconds=watch.cpu_seconds,
        result={
            "n_steps": sum(lengths),
            "n_trajectories": len(lengths),
            "return_mean": float(np.mean([trajectory.rews.sum() for trajectory in trajectories])),
            "microseconds_per_step": 1e6 * watch.seconds / sum(lengths),
            "obs_dtype": str(trajectories[0].obs.dtype),
        },
    )


if __name__ == "__main__":
    run(measure, cases=("wrapped", "bare"))
