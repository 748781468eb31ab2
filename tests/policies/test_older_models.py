"""Zips of Stable-Baselines3 from before Gymnasium 1.0, of sb3-contrib, and in the folders of RL Baselines3 Zoo."""

from __future__ import annotations

import io
import shutil
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from test_sb3_zips import CHOICES, CONTINUOUS, ON, VECTOR, assert_same_actions, rewritten, saved, venv_of

from understudy.errors import ConfigError, CorruptFileError, SpaceMismatchError, UnderstudyError
from understudy.policies.serialize import load_policy, load_saved_policy, load_stable_baselines_model, save_policy
from understudy.policies.vec_normalize import load_vec_normalize
from understudy.util.sealed import read_sealed, write_sealed

LARGEST = np.finfo(np.float32).max


@pytest.fixture
def cartpole():
    return DummyVecEnv([lambda: gym.make("CartPole-v1")])


@pytest.fixture
def bounded(tmp_path):
    """A model of CartPole as it was: no bound was the largest float32."""
    high = np.array([4.8, LARGEST, 0.41887903, LARGEST], np.float32)
    return saved(tmp_path, PPO, "MlpPolicy", spaces.Box(-high, high), spaces.Discrete(2), {"net_arch": [8]}, **ON)


def as_gym_wrote_it(data):
    data["observation_space"] = {
        ":type:": "<class 'gym.spaces.box.Box'>",
        ":serialized:": "gASV",
        "dtype": "float32",
        "_shape": [4],
        "low": "[-4.8000002e+00 -3.4028235e+38 -4.1887903e-01 -3.4028235e+38]",
        "high": "[4.8000002e+00 3.4028235e+38 4.1887903e-01 3.4028235e+38]",
        "bounded_below": "[ True  True  True  True]",
        "bounded_above": "[ True  True  True  True]",
        "_np_random": None,
    }
    data["action_space"] = {
        ":type:": "<class 'gym.spaces.discrete.Discrete'>",
        ":serialized:": "gASV",
        "n": 2,
        "_shape": [],
        "dtype": "int64",
        "_np_random": "RandomState(MT19937)",
    }


@pytest.mark.fault("F9")
@pytest.mark.parametrize("change", [lambda data: None, as_gym_wrote_it], ids=["gymnasium", "gym"])
def test_false_bounds_are_none(change, bounded, cartpole):
    model, _, path = bounded
    rewritten(path, change)
    obs = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    expected = model.predict(obs, deterministic=True)[0].tolist()
    for loaded in (
        load_policy("ppo", cartpole, path=path, device="cpu"),
        load_stable_baselines_model(PPO, path, cartpole, device="cpu"),
        load_saved_policy(path, "cpu"),
    ):
        assert loaded.predict(obs, deterministic=True)[0].tolist() == expected


def test_false_bounds_with_trust(bounded, cartpole):
    _, _, path = bounded
    load_policy("ppo", cartpole, path=path, trust="pickle", device="cpu")
    model = load_stable_baselines_model(PPO, path, cartpole, trust="pickle", device="cpu")
    assert model.observation_space == cartpole.observation_space


@pytest.mark.fault("F9")
def test_other_bounds_differ_until_the_caller_says_otherwise(bounded, cartpole):
    model, _, path = bounded
    rewritten(
        path, lambda data: data["observation_space"].update(high="[5. 3.4028235e+38 4.1887903e-01 3.4028235e+38]")
    )
    with pytest.raises(SpaceMismatchError, match=r"custom_objects=\{'observation_space': venv.observation_space\}"):
        load_policy("ppo", cartpole, path=path)
    given = {"observation_space": cartpole.observation_space, "action_space": cartpole.action_space}
    assert_same_actions(model, load_policy("ppo", cartpole, path=path, custom_objects=given, device="cpu"), VECTOR4)
    with pytest.raises(SpaceMismatchError, match="custom_objects"):
        load_stable_baselines_model(PPO, path, cartpole, custom_objects={"observation_space": VECTOR})


VECTOR4 = spaces.Box(-1, 1, (4,))
BIASED = {"with_bias": True, "squash_output": False}
LSTM = {"lstm_hidden_size": 12, "n_lstm_layers": 2, "net_arch": [8]}
CONTRIB = {
    "ars": (sb3_contrib.ARS, "MlpPolicy", CONTINUOUS, {"net_arch": [8], "squash_output": False}),
    "ars without bias": (sb3_contrib.ARS, "MlpPolicy", CONTINUOUS, {"net_arch": [8], "with_bias": False}),
    "ars linear": (sb3_contrib.ARS, "LinearPolicy", CONTINUOUS, {}),
    "ars biased": (sb3_contrib.ARS, "LinearPolicy", CONTINUOUS, BIASED),
    "ars choices": (sb3_contrib.ARS, "LinearPolicy", CHOICES, {"with_bias": True}),
    "lstm": (sb3_contrib.RecurrentPPO, "MlpLstmPolicy", CHOICES, LSTM),
    "shared": (
        sb3_contrib.RecurrentPPO,
        "MlpLstmPolicy",
        CHOICES,
        {**LSTM, "shared_lstm": True, "enable_critic_lstm": False},
    ),
    "no critic": (
        sb3_contrib.RecurrentPPO,
        "MlpLstmPolicy",
        CHOICES,
        {**LSTM, "enable_critic_lstm": False, "shared_lstm": True, "lstm_kwargs": {"dropout": 0.25}},
    ),
}


@pytest.mark.parametrize("name", CONTRIB)
def test_what_sb3_contrib_leaves_out_of_its_parameters(name, tmp_path):
    cls, policy, action_space, policy_kwargs = CONTRIB[name]
    options = {"zero_policy": False} if cls is sb3_contrib.ARS else ON
    model, _, _ = saved(tmp_path, cls, policy, VECTOR, action_space, policy_kwargs, **options)
    save_policy(model.policy, tmp_path / "policy")
    loaded = load_saved_policy(tmp_path / "policy", "cpu")
    assert loaded.squash_output == model.policy.squash_output
    assert repr(loaded) == repr(model.policy)  # the LSTM's dropout too
    assert_same_actions(model, loaded, VECTOR)


def test_a_policy_that_its_arguments_do_not_describe_is_not_written(tmp_path):
    model, _, _ = saved(tmp_path, PPO, "MlpPolicy", VECTOR, CHOICES, {"net_arch": [8]}, **ON)
    model.policy.action_net = torch.nn.Sequential(model.policy.action_net, torch.nn.Linear(3, 3))
    with pytest.raises(ConfigError, match=r"action_net.*when built again"):
        save_policy(model.policy, tmp_path / "policy")
    assert not (tmp_path / "policy").exists()


def with_tensors(path, change):
    """The zip with its policy's tensors changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    state = torch.load(io.BytesIO(members["policy.pth"]), weights_only=True)
    buffer = io.BytesIO()
    torch.save(change(state), buffer)
    members["policy.pth"] = buffer.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_layers_that_actor_and_critic_share(tmp_path):
    _, venv, path = saved(tmp_path, PPO, "MlpPolicy", VECTOR, CHOICES, {"net_arch": [8]}, **ON)
    rewritten(path, lambda data: data["policy_kwargs"].update(net_arch=[8, {"pi": [8], "vf": [8]}]))
    with pytest.raises(ConfigError, match=r"dropped in 1\.8.*trust='pickle' does not help"):
        load_policy("ppo", venv, path=path)
    rewritten(path, lambda data: data["policy_kwargs"].update(net_arch=[8]))
    with_tensors(path, lambda state: {name.replace("policy_net", "shared_net"): state[name] for name in state})
    with pytest.raises(ConfigError, match=r"mlp_extractor\.shared_net\.0\.weight.*dropped in 1\.8"):
        load_policy("ppo", venv, path=path)


def test_keywords_that_are_no_more(tmp_path):
    model, venv, path = saved(tmp_path, PPO, "MlpPolicy", VECTOR, CHOICES, {"net_arch": [8]}, **ON)
    rewritten(path, lambda data: data["policy_kwargs"].update(sde_net_arch=None))
    assert_same_actions(model, load_policy("ppo", venv, path=path), VECTOR)
    assert_same_actions(model, load_stable_baselines_model(PPO, path, venv), VECTOR)
    rewritten(path, lambda data: data["policy_kwargs"].update(sde_net_arch=[64]))
    with pytest.raises(ConfigError, match=r"sde_net_arch.*1\.8"):
        load_policy("ppo", venv, path=path)


def test_numbers_as_numpy_2_writes_them(tmp_path):
    adam = {"optimizer_class": torch.optim.Adam, "optimizer_kwargs": {"eps": np.float64(1e-5)}}
    model, venv, path = saved(tmp_path, PPO, "MlpPolicy", VECTOR, CHOICES, {"net_arch": [8], **adam}, **ON)
    assert load_policy("ppo", venv, path=path).optimizer.defaults["eps"] == 1e-5
    rewritten(path, lambda data: data["policy_kwargs"].update(optimizer_kwargs="{'eps': <object at 0x1>}"))
    assert_same_actions(model, load_policy("ppo", venv, path=path), VECTOR)


@pytest.mark.parametrize("name", ["CartPole-v1.zip", "best_model.zip"])
def test_folders_of_the_zoo(name, tmp_path):
    model, venv, path = saved(tmp_path, PPO, "MlpPolicy", VECTOR, CHOICES, {"net_arch": [8]}, **ON)
    run = tmp_path / "CartPole-v1_3"
    (run / "CartPole-v1").mkdir(parents=True)
    shutil.copy(path, run / name)
    normalized = VecNormalize(venv, clip_obs=3.0)
    normalized.save(run / "CartPole-v1" / "vecnormalize.pkl")
    with pytest.raises(ConfigError, match="VecNormalize"):
        load_policy("ppo", venv, path=run / name)
    assert load_vec_normalize(run / name, venv).clip_obs == 3.0
    assert load_vec_normalize(run, venv).clip_obs == 3.0
    if name != "best_model.zip":
        assert_same_actions(model, load_policy("ppo", load_vec_normalize(run, venv), path=run, device="cpu"), VECTOR)
        run.rename(tmp_path / "CartPole-v1")
        load_policy("ppo", load_vec_normalize(tmp_path / "CartPole-v1", venv), path=tmp_path / "CartPole-v1")


@pytest.mark.fault("F7")
@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["policy_class"].update(__module__="a\nb"),
        lambda data: data["policy_kwargs"].update({"a\nb": 1}),
        lambda data: data["observation_space"].update(high="[5.\n\n 5. 5. 5. 5.]"),
        lambda data: data["policy_kwargs"].update(net_arch=[9, 9]),
    ],
    ids=range(4),
)
def test_one_line_says_it(change, tmp_path):
    _, venv, path = saved(tmp_path, PPO, "MlpPolicy", VECTOR, CHOICES, {"net_arch": [8]}, **ON)
    rewritten(path, change)
    with pytest.raises(UnderstudyError) as caught:
        load_policy("ppo", venv, path=path)
    assert "\n" not in str(caught.value)


@pytest.mark.fault("F7")
def test_versions_in_a_message_are_one_line(tmp_path):
    model, _, _ = saved(tmp_path, PPO, "MlpPolicy", VECTOR, CHOICES, {"net_arch": [8]}, **ON)
    save_policy(model.policy, tmp_path / "policy")
    document, tensors = read_sealed(tmp_path / "policy")
    for change in ({"format": "2\n3", "versions": "a\nb"}, {"aliases": {"a\nb": "log_std"}}, {"policy": {"a\nb": 1}}):
        write_sealed(tmp_path / "changed", {**document, **change}, tensors)
        with pytest.raises(CorruptFileError) as caught:
            load_saved_policy(tmp_path / "changed")
        assert "\n" not in str(caught.value)


def test_a_model_for_other_environments_is_made_for_them(tmp_path):
    """The spaces that count are those of the environments, so that what is learned on them fits."""
    _, _, path = saved(tmp_path, PPO, "MlpPolicy", VECTOR, CHOICES, {"net_arch": [8]}, **ON)
    model = load_stable_baselines_model(PPO, path, venv_of(VECTOR, CHOICES), device="cpu")
    model.learn(4)
    assert model.rollout_buffer.buffer_size == 4
