"""A policy joins the entries of a Dict in the order of its space: that order survives every kind of file."""

from __future__ import annotations

import json
from collections import OrderedDict

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv
from test_sb3_zips import Still, rewritten

from understudy.errors import ConfigError, SpaceMismatchError
from understudy.policies.serialize import (
    load_policy,
    load_saved_policy,
    load_stable_baselines_model,
    save_policy,
    save_stable_model,
)
from understudy.util.image_spaces import channels_first, ordered_like, policy_sees, same_space
from understudy.util.sealed import read_sealed
from understudy.util.space_json import space_from_json, space_to_json

PART = spaces.Box(-1, 1, (2,))
ACTIONS = spaces.Box(-1, 1, (1,))
TRAINED = spaces.Dict(OrderedDict([("z", PART), ("a", PART)]))
OTHER = spaces.Dict({"a": PART, "z": PART})
OBS = {"z": np.full((5, 2), 0.5, np.float32), "a": np.full((5, 2), -0.3, np.float32)}


def venv_of(space) -> DummyVecEnv:
    return DummyVecEnv([lambda: Still(space, ACTIONS)])


@pytest.fixture
def model():
    trained = PPO("MultiInputPolicy", venv_of(TRAINED), n_steps=8, batch_size=8, device="cpu", seed=0)
    for layer in (trained.policy.mlp_extractor.policy_net[0], trained.policy.action_net):
        layer.weight.data.normal_()
    return trained


def actions(policy) -> list[float]:
    return policy.predict(OBS, deterministic=True)[0].ravel().tolist()


def test_the_order_matters(model):
    swapped = {"z": OBS["a"], "a": OBS["z"]}
    assert model.predict(swapped, deterministic=True)[0].ravel().tolist() != actions(model)


@pytest.mark.parametrize("space", [TRAINED, OTHER], ids=["same", "other"])
@pytest.mark.parametrize("trust", [None, "pickle"])
def test_zips(model, space, trust, tmp_path):
    path = tmp_path / "model.zip"
    model.save(path)
    policy = load_policy("ppo", venv_of(space), path=path, device="cpu", trust=trust)
    assert actions(policy) == actions(model)
    whole = load_stable_baselines_model(PPO, path, venv_of(space), trust=trust, device="cpu")
    assert actions(whole) == actions(model)
    whole.learn(8)


def test_zips_without_environments(model, tmp_path):
    model.save(tmp_path / "model.zip")
    policy = load_saved_policy(tmp_path / "model.zip", device="cpu")
    assert list(policy.observation_space.spaces) == ["z", "a"]
    assert actions(policy) == actions(model)


@pytest.mark.parametrize("space", [TRAINED, OTHER], ids=["same", "other"])
def test_our_own_files(model, space, tmp_path):
    save_policy(model.policy, tmp_path / "policy.safetensors")
    assert actions(load_saved_policy(tmp_path / "policy.safetensors", device="cpu")) == actions(model)
    save_stable_model(tmp_path / "whole", model)
    assert actions(load_policy("ppo", venv_of(space), path=tmp_path / "whole", device="cpu")) == actions(model)


def test_environments_with_other_keys_are_refused(model, tmp_path):
    model.save(tmp_path / "model.zip")
    with pytest.raises(SpaceMismatchError, match="a Dict of a, z"):
        load_policy("ppo", venv_of(spaces.Dict({"z": PART, "b": PART})), path=tmp_path / "model.zip")


def test_a_zip_that_does_not_tell_the_order(model, tmp_path):
    path = tmp_path / "model.zip"
    model.save(path)
    rewritten(path, lambda data: data["observation_space"].pop("spaces"))
    with pytest.raises(ConfigError, match=r"custom_objects=\{'observation_space'"):
        load_policy("ppo", venv_of(OTHER), path=path)
    policy = load_policy("ppo", venv_of(OTHER), path=path, custom_objects={"observation_space": TRAINED}, device="cpu")
    assert actions(policy) == actions(model)


def test_the_zips_order_counts_over_that_of_a_given_space(model, tmp_path):
    model.save(tmp_path / "model.zip")
    given = {"observation_space": OTHER}
    for policy in (
        load_policy("ppo", venv_of(OTHER), path=tmp_path / "model.zip", custom_objects=given, device="cpu"),
        load_saved_policy(tmp_path / "model.zip", "cpu", given),
    ):
        assert actions(policy) == actions(model)


def test_spaces_as_json():
    text = json.dumps(space_to_json(TRAINED), sort_keys=True)
    assert list(space_from_json(json.loads(text)).spaces) == ["z", "a"]


def test_arguments_keep_their_order(model, tmp_path):
    model.policy.optimizer_kwargs = {"weight_decay": 0.0, "eps": 1e-5, "amsgrad": False}
    save_policy(model.policy, tmp_path / "policy")
    document, _ = read_sealed(tmp_path / "policy")
    assert list(document["parameters"]["optimizer_kwargs"]["dict"]) == ["weight_decay", "eps", "amsgrad"]


def test_images_are_turned_in_place():
    image = spaces.Box(0, 255, (36, 40, 3), np.uint8)
    space = spaces.Dict(OrderedDict([("z", image), ("a", PART)]))
    turned = channels_first(space)
    assert list(turned.spaces) == ["z", "a"]
    assert turned["z"].shape == (3, 36, 40)
    assert list(ordered_like(spaces.Dict({"z": turned["z"], "a": PART}), space).spaces) == ["z", "a"]
    assert ordered_like(OTHER, PART) is OTHER


def test_what_a_policy_sees():
    assert policy_sees(TRAINED, OTHER)
    assert not policy_sees(TRAINED, spaces.Dict({"a": PART}))
    largest = np.float32(np.finfo(np.float32).max)
    open_box, closed_box = spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(-largest, largest, (2,))
    assert open_box != closed_box
    assert same_space(open_box, closed_box)
    assert same_space(spaces.Tuple([open_box, PART]), spaces.Tuple([closed_box, PART]))
    assert not same_space(spaces.Tuple([open_box]), spaces.Tuple([closed_box, PART]))
    assert not same_space(open_box, spaces.Box(-np.inf, 3e38, (2,)))
    assert not same_space(open_box, spaces.Box(-np.inf, np.inf, (2,), np.float64))
    assert not same_space(spaces.Box(-largest, np.inf, (2,)), spaces.Box(np.inf, np.inf, (2,)))
    assert not same_space(spaces.Discrete(2), spaces.Discrete(3))
