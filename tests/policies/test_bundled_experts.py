"""Every bundled expert earns what its certificate says."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecEnv

from understudy.errors import ConfigError, SpaceMismatchError
from understudy.policies.serialize import bundled_experts, load_policy
from understudy.rl.recipes import PRESETS
from understudy.util.vec_env import make_vec_env

FOLDER = files("understudy.policies").joinpath("bundled")


def certificate(env_id: str):
    return json.loads(FOLDER.joinpath(f"{env_id.replace('/', '__')}.json").read_text())


def returns_of(policy, venv: VecEnv) -> np.ndarray:
    """One episode in each environment."""
    obs, found = venv.reset(), np.full(venv.num_envs, np.nan)
    while np.isnan(found).any():
        obs, _, dones, infos = venv.step(policy.predict(obs, deterministic=True)[0])
        for i in np.flatnonzero(dones & np.isnan(found)):
            found[i] = infos[i]["episode"]["r"]
    return found


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "seals/CartPole-v0"])
def test_twenty_episodes_against_the_certificate(env_id):
    if env_id.startswith("seals/"):
        pytest.importorskip("seals")
    venv = make_vec_env(env_id, rng=np.random.default_rng(7), n_envs=20)
    policy = load_policy("bundled", venv, device="cpu")
    returns = returns_of(policy, venv)
    venv.close()
    measured = certificate(env_id)["returns"]
    assert abs(returns.mean() - measured["mean"]) <= 4 * measured["std"] / np.sqrt(20)
    if env_id.endswith(("CartPole-v0", "CartPole-v1")):
        assert measured["mean"] == measured["min"] == returns.min() == 500.0
    else:
        assert measured["mean"] >= -180


def test_files_are_small_and_carry_their_recipe():
    assert bundled_experts() == ["CartPole-v1", "Pendulum-v1", "seals/CartPole-v0"]
    recipes = {recipe.env_id: recipe for recipe in PRESETS.values()}
    for env_id in bundled_experts():
        size = len(FOLDER.joinpath(f"{env_id.replace('/', '__')}.safetensors").read_bytes())
        assert size < 64 * 1024
        written = certificate(env_id)
        assert written["recipe"] == json.loads(json.dumps(recipes[env_id].to_dict()))
        assert written["returns"]["n_episodes"] >= 100
        # Demonstrations are often sampled: an expert that is good only at its mode would be a trap.
        assert written["returns_when_sampling"]["mean"] >= written["returns"]["mean"] - 10
        assert {"torch", "stable_baselines3"} <= written["versions"].keys()


def test_chosen_by_name_or_by_environment(cartpole_venv, rng):
    load_policy("bundled", cartpole_venv, env_name="CartPole-v1")
    with pytest.raises(SpaceMismatchError):
        load_policy("bundled", cartpole_venv, env_name="Pendulum-v1")
    acrobot = make_vec_env("Acrobot-v1", rng=rng, n_envs=1)
    with pytest.raises(ConfigError, match="CartPole-v1, Pendulum-v1, seals/CartPole-v0"):
        load_policy("bundled", acrobot)
    acrobot.close()
