"""BC of a 17 → [256, 256] → 6 Gaussian policy, batch 256, on 100,000 samples, 2 epochs."""

from __future__ import annotations

from typing import Any

from cloning import clone
from demonstrations import Demonstrations, wide
from measuring import Arguments, Measurement, run
from stable_baselines3.common.policies import ActorCriticPolicy


def _policy(data: Demonstrations) -> Any:
    return ActorCriticPolicy(data.observation_space, data.action_space, lr_schedule=lambda _: 1e-3, net_arch=[256, 256])


def measure(arguments: Arguments) -> Measurement:
    """Clone the synthetic teacher."""
    _, measurement = clone(arguments.library, wide(), seed=arguments.seed, batch_size=256, n_epochs=2, policy=_policy)
    return measurement


if __name__ == "__main__":
    run(measure)
