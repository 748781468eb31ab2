"""Recipes are plain values and decide everything."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback

from understudy.errors import ConfigError
from understudy.policies.base import FeedForward32Policy
from understudy.rl.recipes import PRESETS, Recipe, get_recipe
from understudy.rl.training import train_recipe

TINY = Recipe(
    "CartPole-v1",
    "ppo",
    64,
    n_envs=2,
    seed=3,
    policy="FeedForward32Policy",
    hyperparameters={
        "n_steps": 16,
        "batch_size": 16,
        "learning_rate": "linear:0.01",
        "policy_kwargs": {"activation_fn": "ReLU"},
    },
)


class Rates(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.seen.append(self.model.lr_schedule(self.model._current_progress_remaining))


@pytest.mark.defect("B29")
def test_same_recipe_same_weights():
    first, again = (train_recipe(TINY).policy.state_dict() for _ in range(2))
    other = train_recipe(replace(TINY, seed=4)).policy.state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_plain_values_become_objects():
    rates = Rates()
    model = train_recipe(TINY, callback=rates)
    assert isinstance(model, PPO)
    assert type(model.policy) is FeedForward32Policy
    assert model.policy.activation_fn is torch.nn.ReLU
    assert model.num_timesteps == 64
    assert rates.seen == pytest.approx([0.01, 0.005])


def test_every_preset_is_json_and_found_by_either_name():
    for name, recipe in PRESETS.items():
        assert Recipe(**json.loads(json.dumps(recipe.to_dict()))) == recipe
        assert get_recipe(name) is get_recipe(recipe.env_id) is recipe


def test_off_policy_recipe():
    recipe = Recipe("Pendulum-v1", "sac", 12, n_envs=1, hyperparameters={"learning_starts": 4, "buffer_size": 20})
    assert isinstance(train_recipe(recipe), SAC)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algo": "pqo"}, "'pqo'"),
        ({"hyperparameters": {"learning_rate": "cosine:1"}}, "cosine"),
        ({"hyperparameters": {"learning_rate": "linear:x"}}, "linear:x"),
        ({"hyperparameters": {"policy_kwargs": {"activation_fn": "Module2"}}}, "Module2"),
        ({"env_id": "Nope-v0"}, "Nope-v0"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        train_recipe(replace(TINY, **change))


def test_unknown_preset():
    with pytest.raises(ConfigError, match="cartpole"):
        get_recipe("cartpol")
