"""Making a bundled expert, in small."""

from __future__ import annotations

import json

import torch

from understudy.policies.serialize import load_saved_policy
from understudy.rl.recipes import Recipe
from understudy.scripts.recipes_experts import make_expert


def test_policy_and_certificate_are_written_side_by_side(tmp_path):
    recipe = Recipe("CartPole-v1", "ppo", 32, n_envs=2, hyperparameters={"n_steps": 16, "batch_size": 16})
    certificate = make_expert(recipe, tmp_path, n_episodes=4)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["CartPole-v1.json", "CartPole-v1.safetensors"]
    assert json.loads((tmp_path / "CartPole-v1.json").read_text()) == certificate
    assert Recipe(**certificate["recipe"]) == recipe
    returns = certificate["returns"]
    assert returns["n_episodes"] == 4
    assert 8 <= returns["min"] <= returns["iqm"] <= returns["max"] <= 500
    assert returns["min"] <= returns["mean"] <= returns["max"]

    again = make_expert(recipe, tmp_path / "again", n_episodes=4)
    assert again == certificate
    first = load_saved_policy(tmp_path / "CartPole-v1.safetensors").state_dict()
    second = load_saved_policy(tmp_path / "again" / "CartPole-v1.safetensors").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
