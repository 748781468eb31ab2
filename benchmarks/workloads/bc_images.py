"""BC of a NatureCNN on 2,048 images of 4 × 84 × 84 bytes, channels first as SB3 stores them, batch 64, one epoch."""

from __future__ import annotations

from typing import Any

from cloning import clone
from demonstrations import Demonstrations, images
from measuring import Arguments, Measurement, run
from stable_baselines3.common.policies import ActorCriticCnnPolicy


def _policy(data: Demonstrations) -> Any:
    return ActorCriticCnnPolicy(data.observation_space, data.action_space, lr_schedule=lambda _: 1e-3)


def measure(arguments: Arguments) -> Measurement:
    """Clone the teacher that names the bright quarter."""
    _, measurement = clone(arguments.library, images(), seed=arguments.seed, batch_size=64, n_epochs=1, policy=_policy)
    return measurement


if __name__ == "__main__":
    run(measure)
