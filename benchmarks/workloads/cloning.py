"""Behavioural cloning on either library, timed, and what the clone is worth afterwards."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from demonstrations import Demonstrations
from measuring import Measurement, Stopwatch

PolicyFactory = Callable[[Demonstrations], Any]


def transitions(library: str, data: Demonstrations, n_samples: int | None = None) -> Any:
    """``data`` as the library's own transitions, the first ``n_samples`` of them."""
    types = importlib.import_module(f"{library}.data.types")
    part = slice(n_samples)
    infos = np.array([{}] * len(data.obs[part]))
    return types.Transitions(
        obs=data.obs[part], acts=data.acts[part], infos=infos, next_obs=data.next_obs[part], dones=data.dones[part]
    )


def mean_neglogp(policy: Any, data: Demonstrations, chunk: int = 2_048) -> float:
    """Mean negative log-likelihood (nats) of all demonstrated actions under SB3's own ``evaluate_actions``."""
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(data.obs), chunk):
            obs = torch.as_tensor(data.obs[start : start + chunk])
            acts = torch.as_tensor(data.acts[start : start + chunk])
            total -= float(policy.evaluate_actions(obs, acts)[1].double().sum())
    return total / len(data.obs)


def cartpole_returns(policy: Any, n_episodes: int = 20) -> list[float]:
    """Returns of the deterministic policy from fixed initial states, all episodes side by side."""
    envs = [gym.make("CartPole-v1") for _ in range(n_episodes)]
    obs = np.stack([env.reset(seed=10_000 + i)[0] for i, env in enumerate(envs)])
    returns = [0.0] * n_episodes
    running = set(range(n_episodes))
    while running:
        acts, _ = policy.predict(obs, deterministic=True)
        for i in sorted(running):
            obs[i], reward, terminated, truncated, _ = envs[i].step(acts[i])
            returns[i] += float(reward)
            if terminated or truncated:
                running.discard(i)
    return returns


def optimiser_steps(trainer: Any) -> int:
    """How many updates the optimiser has made, or -1 where it does not say."""
    states = getattr(getattr(trainer, "optimizer", None), "state", {})
    return int(max((float(state["step"]) for state in states.values() if "step" in state), default=-1))


def clone(
    library: str,
    data: Demonstrations,
    *,
    seed: int,
    batch_size: int,
    n_epochs: int,
    policy: PolicyFactory | None = None,
) -> tuple[Any, Measurement]:
    """Construct BC and train it, both timed; the trainer and the measurement.

    A short run on a trainer of its own comes first, so that one-time costs of torch stay outside.
    """
    torch.set_num_threads(1)
    bc = importlib.import_module(f"{library}.algorithms.bc")
    logging = importlib.import_module(f"{library}.util.logger")

    def trainer(n_samples: int | None) -> tuple[Stopwatch, Any]:
        demonstrations = transitions(library, data, n_samples)
        logger = logging.configure(tempfile.mkdtemp(), format_strs=[])
        torch.manual_seed(seed)
        built = None if policy is None else policy(data)
        with (watch := Stopwatch()):
            made = bc.BC(
                observation_space=data.observation_space,
                action_space=data.action_space,
                rng=np.random.default_rng(seed),
                policy=built,
                demonstrations=demonstrations,
                batch_size=batch_size,
                device="cpu",
                custom_logger=logger,
            )
        return watch, made

    _, warm_up = trainer(2 * batch_size)
    warm_up.train(n_batches=5, progress_bar=False)
    watch, made = trainer(None)
    construction = watch.seconds
    with watch:
        made.train(n_epochs=n_epochs, progress_bar=False)
    return made, Measurement(
        seconds=watch.seconds,
        cpu_seconds=watch.cpu_seconds,
        result={
            "construction_seconds": construction,
            "optimiser_steps": optimiser_steps(made),
            "neglogp": mean_neglogp(made.policy, data),
            "demonstrations_sha256": data.sha256(),
        },
    )
