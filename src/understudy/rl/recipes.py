"""Recipes that train an expert: plain values, so that a file can hold one and anybody can repeat it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from understudy.errors import ConfigError


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what an RL run produces, besides library versions and the thread count.

    ``hyperparameters`` are the learner's keyword arguments as plain values. Two forms stand for objects that JSON
    cannot hold: ``"linear:0.001"`` is a schedule falling from 0.001 to 0 over the run, and
    ``policy_kwargs["activation_fn"]`` is the name of a ``torch.nn`` class.
    """

    env_id: str
    """As `understudy.util.vec_env.make_vec_env` takes it."""
    algo: str
    """One of ``ppo a2c sac td3 ddpg dqn``."""
    total_timesteps: int
    """Environment steps, summed over the copies."""
    n_envs: int = 8
    seed: int = 0
    policy: str = "MlpPolicy"
    """A name the learner knows, or ``FeedForward32Policy`` / ``SAC1024Policy``."""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-ready values."""
        return asdict(self)


_CARTPOLE: dict[str, Any] = {
    "n_steps": 32,
    "batch_size": 256,
    "n_epochs": 20,
    "gamma": 0.98,
    "gae_lambda": 0.8,
    "learning_rate": "linear:0.001",
    "clip_range": "linear:0.2",
    "ent_coef": 0.0,
}

PRESETS: dict[str, Recipe] = {
    "cartpole": Recipe("CartPole-v1", "ppo", 200_000, seed=0, policy="FeedForward32Policy", hyperparameters=_CARTPOLE),
    "seals_cartpole": Recipe(
        "seals/CartPole-v0", "ppo", 200_000, seed=0, policy="FeedForward32Policy", hyperparameters=_CARTPOLE
    ),
    "pendulum": Recipe(
        "Pendulum-v1",
        "ppo",
        500_000,
        n_envs=4,
        seed=0,
        hyperparameters={
            "n_steps": 1024,
            "batch_size": 64,
            "n_epochs": 10,
            "gamma": 0.95,
            "gae_lambda": 0.95,
            "learning_rate": "linear:0.001",
            "clip_range": 0.2,
            "ent_coef": 0.0,
            "policy_kwargs": {"net_arch": [64, 64], "activation_fn": "Tanh"},
        },
    ),
}


def get_recipe(name: str) -> Recipe:
    """A preset by its name or by the id of its environment.

    Raises:
        ConfigError: no such preset.
    """
    if name in PRESETS:
        return PRESETS[name]
    for recipe in PRESETS.values():
        if recipe.env_id == name:
            return recipe
    known = ", ".join(f"{key} ({recipe.env_id})" for key, recipe in PRESETS.items())
    raise ConfigError(f"a preset: {known}", repr(name), "pick one of these, or write a Recipe of your own")
