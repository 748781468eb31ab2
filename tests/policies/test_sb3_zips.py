"""What Stable-Baselines3's own ``model.save`` wrote, loaded with no pickle run: the same actions, or a clear reason."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from understudy.errors import ConfigError, CorruptFileError, MissingExtraError, SpaceMismatchError
from understudy.policies.base import FeedForward32Policy, NormalizeFeaturesExtractor
from understudy.policies.serialize import load_policy, load_saved_policy
from understudy.util.networks import EMANorm, RunningNorm

VECTOR = spaces.Box(-3, 3, (5,))
IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)
OBSERVATIONS = {
    "Mlp": VECTOR,
    "Cnn": IMAGE,
    "MultiInput": spaces.Dict({"v": VECTOR, "image": IMAGE, "d": spaces.Discrete(4)}),
}
CHOICES = spaces.Discrete(3)
CONTINUOUS = spaces.Box(-2, 2, (2,))
ON = {"n_steps": 4, "batch_size": 4}
OFF = {"buffer_size": 10}
ALGORITHMS = {
    "ppo": (PPO, CHOICES, ON),
    "a2c": (A2C, CONTINUOUS, {}),
    "sac": (SAC, CONTINUOUS, OFF),
    "td3": (TD3, CONTINUOUS, OFF),
    "ddpg": (DDPG, CONTINUOUS, OFF),
    "dqn": (DQN, CHOICES, OFF),
    "trpo": (sb3_contrib.TRPO, CONTINUOUS, ON),
    "qrdqn": (sb3_contrib.QRDQN, CHOICES, OFF),
    "tqc": (sb3_contrib.TQC, CONTINUOUS, OFF),
    "ppo_lstm": (sb3_contrib.RecurrentPPO, CHOICES, ON),
    "ppo_mask": (sb3_contrib.MaskablePPO, CHOICES, ON),
    "crossq": (sb3_contrib.CrossQ, CONTINUOUS, OFF),
    "ars": (sb3_contrib.ARS, CONTINUOUS, {"zero_policy": False}),
}
EVERY_PAIR = [
    (name, kind) for name in ALGORITHMS for kind in OBSERVATIONS if kind == "Mlp" or name not in {"crossq", "ars"}
]


class Still(gym.Env):
    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def venv_of(observation_space, action_space) -> DummyVecEnv:
    return DummyVecEnv([lambda: Still(observation_space, action_space)])


def saved(tmp_path, cls, policy, observation_space, action_space, policy_kwargs=None, **kwargs):
    """A model with its weights made larger, so that actions differ, and its zip."""
    venv = venv_of(observation_space, action_space)
    model = cls(policy, venv, policy_kwargs=policy_kwargs, seed=0, device="cpu", **kwargs)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            if parameter.ndim > 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.policy.set_training_mode(False)
    model.save(tmp_path / "model.zip")
    return model, venv, tmp_path / "model.zip"


def batch_of(space, n=1000):
    if isinstance(space, spaces.Dict):
        return {key: batch_of(part, n) for key, part in space.spaces.items()}
    if len(space.shape) == 3:  # coarse patterns of any brightness: noise looks alike to a convolution
        rng = np.random.default_rng(0)
        coarse = rng.random((n, *(3 if size == 3 else size // 9 for size in space.shape)))
        for axis, size in enumerate(space.shape, 1):
            coarse = coarse.repeat(1 if size == 3 else 9, axis)
        return (coarse * rng.random((n, 1, 1, 1)) * space.high.max()).astype(space.dtype)
    space.seed(0)
    return np.stack([space.sample() for _ in range(n)])


audited: list[str] = []
hooked = {"on": False}


def audit(event: str, args: tuple[object, ...]) -> None:
    late_import = event == "exec" and "encodings" in getattr(args[0], "co_filename", "")
    if hooked["on"] and event in {"pickle.find_class", "os.system", "subprocess.Popen", "exec"} and not late_import:
        audited.append(f"{event} {args}"[:200])


@contextmanager
def nothing_unpickled(monkeypatch) -> Iterator[None]:
    """No unpickler is made, torch's own included, and nothing is looked up by a pickle or run."""

    def forbidden(*args, **kwargs):
        raise AssertionError("a pickle was run")

    if "installed" not in hooked:
        sys.addaudithook(audit)
        hooked["installed"] = True
    with monkeypatch.context() as patch:
        for owner, name in [(pickle, "load"), (pickle, "loads"), (cloudpickle, "load"), (cloudpickle, "loads")]:
            patch.setattr(owner, name, forbidden)
        for owner, name in [(pickle, "Unpickler"), (pickle, "_Unpickler"), (torch, "load")]:
            patch.setattr(owner, name, forbidden)
        audited.clear()
        hooked["on"] = True
        try:
            yield
        finally:
            hooked["on"] = False
    assert audited == []


def assert_same_actions(model, loaded, observation_space):
    obs = batch_of(model.observation_space)
    expected, _ = model.predict(obs, deterministic=True)
    actual, _ = loaded.predict(obs, deterministic=True)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(actual, expected)
    assert actual.dtype == expected.dtype


@pytest.mark.parametrize(("name", "kind"), EVERY_PAIR)
def test_same_actions_without_running_a_pickle(name, kind, tmp_path, monkeypatch):
    cls, action_space, kwargs = ALGORITHMS[name]
    extractor = {"Mlp": {}, "Cnn": {"features_dim": 16}, "MultiInput": {"cnn_output_dim": 16}}[kind]
    policy_kwargs = {"net_arch": [8], "features_extractor_kwargs": extractor} if extractor else {"net_arch": [8]}
    policy = f"{kind}LstmPolicy" if name == "ppo_lstm" else f"{kind}Policy"
    model, venv, path = saved(tmp_path, cls, policy, OBSERVATIONS[kind], action_space, policy_kwargs, **kwargs)
    with nothing_unpickled(monkeypatch):
        loaded = load_policy(name, venv, path=path, device="cpu")
    assert type(loaded) is type(model.policy)
    assert not loaded.training
    assert_same_actions(model, loaded, model.observation_space)


VARIANTS = {
    "relu": (PPO, VECTOR, CHOICES, {"activation_fn": nn.ReLU}),
    "separate": (PPO, VECTOR, CONTINUOUS, {"net_arch": {"pi": [8], "vf": [9, 5]}, "share_features_extractor": False}),
    "no hidden layer": (PPO, VECTOR, CHOICES, {"net_arch": []}),
    "log_std": (PPO, VECTOR, CONTINUOUS, {"log_std_init": -1.5, "ortho_init": False}),
    "optimizer": (PPO, VECTOR, CHOICES, {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.5}}),
    "flat image": (PPO, IMAGE, CHOICES, {"features_extractor_class": FlattenExtractor, "net_arch": [4]}),
    "raw image": (PPO, spaces.Box(0, 1, (3, 36, 36)), CHOICES, {"features_extractor_class": NatureCNN,
                  "features_extractor_kwargs": {"normalized_image": True, "features_dim": 8},
                  "normalize_images": False}),
    "start": (PPO, VECTOR, spaces.Discrete(3, start=4), {}),
    "multi-discrete": (PPO, VECTOR, spaces.MultiDiscrete([2, 3]), {}),
    "multi-binary": (PPO, VECTOR, spaces.MultiBinary(3), {}),
    "discrete observations": (PPO, spaces.Discrete(6), CHOICES, {}),
    "multi-discrete observations": (PPO, spaces.MultiDiscrete([3, 4]), CHOICES, {}),
    "normaliser": (PPO, VECTOR, CHOICES, {"features_extractor_class": NormalizeFeaturesExtractor,
                   "features_extractor_kwargs": {"normalize_class": EMANorm}}),
    "critics": (SAC, VECTOR, CONTINUOUS, {"net_arch": {"pi": [8], "qf": [6, 7]}, "n_critics": 3,
                "share_features_extractor": True}),
    "td3 image": (TD3, IMAGE, CONTINUOUS, {"net_arch": [8], "share_features_extractor": True,
                  "features_extractor_class": NatureCNN, "features_extractor_kwargs": {"features_dim": 8}}),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_network(name, tmp_path, monkeypatch):
    cls, observation_space, action_space, policy_kwargs = VARIANTS[name]
    kwargs = ON if cls is PPO else OFF
    model, venv, path = saved(tmp_path, cls, "MlpPolicy", observation_space, action_space, policy_kwargs, **kwargs)
    with nothing_unpickled(monkeypatch):
        loaded = load_policy(cls.__name__.lower(), venv, path=path, device="cpu")
    assert_same_actions(model, loaded, observation_space)


@pytest.mark.parametrize(("cls", "options"), [(PPO, ON), (A2C, {}), (SAC, OFF)])
def test_state_dependent_exploration(cls, options, tmp_path):
    kwargs = {"squash_output": True, "full_std": False} if cls is PPO else {"log_std_init": -2}
    model, venv, path = saved(
        tmp_path, cls, "MlpPolicy", VECTOR, CONTINUOUS, {"net_arch": [8], **kwargs}, use_sde=True, **options
    )
    loaded = load_policy(cls.__name__.lower(), venv, path=path, device="cpu")
    assert_same_actions(model, loaded, VECTOR)
    loaded.reset_noise()
    loaded.predict(batch_of(VECTOR, 3))


def test_double_precision_stays(tmp_path):
    model, venv, path = saved(tmp_path, PPO, "MlpPolicy", VECTOR, CHOICES, {"net_arch": [8]}, **ON)
    model.policy.double()
    model.save(path)
    loaded = load_policy("ppo", venv, path=path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float64}


def test_our_own_policy_class_is_known(tmp_path):
    model, venv, path = saved(tmp_path, PPO, FeedForward32Policy, VECTOR, CHOICES, **ON)
    assert_same_actions(model, load_policy("ppo", venv, path=path), VECTOR)


@pytest.mark.parametrize(("made_by", "read_as"), [("ppo", "dqn"), ("dqn", "ppo"), ("sac", "td3"), ("td3", "sac")])
def test_another_algorithm_is_named(made_by, read_as, tmp_path):
    cls, action_space, kwargs = ALGORITHMS[made_by]
    _, venv, path = saved(tmp_path, cls, "MlpPolicy", VECTOR, action_space, {"net_arch": [8]}, **kwargs)
    with pytest.raises(ConfigError, match=f"tensors of .*{made_by}.*load it as .*'{made_by}'"):
        load_policy(read_as, venv, path=path)


def test_sac_and_tqc_are_told_apart(tmp_path):
    _, venv, path = saved(tmp_path, SAC, "MlpPolicy", VECTOR, CONTINUOUS, {"net_arch": [8]}, **OFF)
    with pytest.raises(ConfigError, match="SACPolicy"):
        load_policy("tqc", venv, path=path)


@pytest.mark.fault("F9")
@pytest.mark.parametrize(
    ("observation_space", "action_space"),
    [
        (spaces.Box(-3, 3, (4,)), CHOICES),
        (spaces.Box(-3, 3.5, (5,)), CHOICES),
        (spaces.Box(-3, 3, (5,), np.float64), CHOICES),
        (VECTOR, spaces.Discrete(4)),
        (VECTOR, spaces.Discrete(3, start=1)),
        (VECTOR, CONTINUOUS),
        (spaces.Dict({"v": VECTOR}), CHOICES),
    ],
)
def test_other_spaces_are_refused(observation_space, action_space, tmp_path):
    _, _, path = saved(tmp_path, PPO, "MlpPolicy", VECTOR, CHOICES, {"net_arch": [8]}, **ON)
    with pytest.raises(SpaceMismatchError):
        load_policy("ppo", venv_of(observation_space, action_space), path=path)


def test_parts_of_a_dict_are_compared(tmp_path):
    space = spaces.Dict({"a": VECTOR, "n": spaces.Discrete(4), "b": spaces.MultiBinary(3)})
    model, venv, path = saved(tmp_path, PPO, "MultiInputPolicy", space, CHOICES, {"net_arch": [8]}, **ON)
    assert_same_actions(model, load_policy("ppo", venv, path=path), space)
    for change in ({"n": spaces.Discrete(5)}, {"a": spaces.Box(-3, 4, (5,))}, {"c": VECTOR}):
        with pytest.raises(SpaceMismatchError):
            load_policy("ppo", venv_of(spaces.Dict({**space.spaces, **change}), CHOICES), path=path)


class Halved(BaseFeaturesExtractor):
    def __init__(self, observation_space, scale=0.5):
        super().__init__(observation_space, observation_space.shape[0])
        self.scale = scale

    def forward(self, observations):
        return observations * self.scale


class OwnActivation(nn.Tanh):
    pass


class OwnPolicy(ActorCriticPolicy):
    def forward(self, obs, deterministic=False):
        return super().forward(obs, deterministic)


@pytest.mark.parametrize(
    ("policy", "policy_kwargs", "missing", "custom"),
    [
        ("MlpPolicy", {"features_extractor_class": Halved}, "features_extractor_class", Halved),
        ("MlpPolicy", {"activation_fn": OwnActivation}, "activation_fn", OwnActivation),
        (OwnPolicy, {}, "policy_class", OwnPolicy),
    ],
)
def test_what_is_missing_is_named_and_can_be_given(policy, policy_kwargs, missing, custom, tmp_path, monkeypatch):
    model, venv, path = saved(tmp_path, PPO, policy, VECTOR, CHOICES, {"net_arch": [8], **policy_kwargs}, **ON)
    with (
        nothing_unpickled(monkeypatch),
        pytest.raises(ConfigError, match=rf"{missing} = .*{custom.__name__}.*custom_objects.*trust='pickle'"),
    ):
        load_policy("ppo", venv, path=path)
    by_class = {custom.__name__: custom}
    whole = {"policy_kwargs": {"net_arch": [8], **policy_kwargs}, "policy_class": policy}
    for given in (
        {missing: custom},
        by_class,
        whole if policy != "MlpPolicy" else {"policy_kwargs": whole["policy_kwargs"]},
    ):
        assert_same_actions(model, load_policy("ppo", venv, path=path, custom_objects=given), VECTOR)
    assert_same_actions(model, load_policy("ppo", venv, path=path, trust="pickle", device="cpu"), VECTOR)


def test_a_function_in_the_arguments_is_no_class(tmp_path):
    _, venv, path = saved(tmp_path, PPO, "MlpPolicy", VECTOR, CHOICES, {"activation_fn": lambda: nn.Tanh()}, **ON)
    with pytest.raises(ConfigError, match="activation_fn"):
        load_policy("ppo", venv, path=path)
    load_policy("ppo", venv, path=path, custom_objects={"activation_fn": nn.Tanh})


def rewritten(path, change) -> None:
    """The zip with its ``data`` changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(members["data"])
    change(data)
    members["data"] = json.dumps(data).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def edit_class(path_text):
    return lambda data: data["policy_kwargs"].update(activation_fn=f"<class '{path_text}'>")


@pytest.mark.fault("F6")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (edit_class("os.system"), ConfigError, "os.system"),
        (edit_class("evil.torch.nn.ReLU"), ConfigError, "evil"),
        (edit_class("torch.nn.Module"), ConfigError, "Module"),
        (lambda data: data["policy_kwargs"].update(activation_fn="__import__('os')"), ConfigError, "activation_fn"),
        (lambda data: data["policy_kwargs"].update(net_arch="[" * 5000), ConfigError, "net_arch"),
        (lambda data: data["policy_kwargs"].update(net_arch=[10**9]), CorruptFileError, "elements"),
        (lambda data: data["policy_kwargs"].update(net_arch=[5] * 100_000), CorruptFileError, "more layers"),
        (lambda data: data["policy_kwargs"].update(net_arch=[9]), CorruptFileError, "size mismatch"),
        (lambda data: data["policy_kwargs"].update(no_such=1), CorruptFileError, "no_such"),
        (lambda data: data.update(policy_kwargs=3), CorruptFileError, "policy_kwargs"),
        (lambda data: data["policy_class"].update(__module__="os"), ConfigError, "policy_class"),
        (lambda data: data.pop("policy_class"), ConfigError, "policy_class"),
        (lambda data: data["policy_class"].update(__init__="<function TD3Policy.__init__ at 0x1>"), ConfigError, "pol"),
    ],
)
def test_hostile_text(change, error, message, tmp_path, monkeypatch):
    _, venv, path = saved(
        tmp_path, PPO, "MlpPolicy", VECTOR, CHOICES, {"net_arch": [8], "activation_fn": nn.ReLU}, **ON
    )
    rewritten(path, lambda data: None)
    load_policy("ppo", venv, path=path)  # the tool itself makes zips that load
    rewritten(path, change)
    with nothing_unpickled(monkeypatch), pytest.raises(error, match=message):
        load_policy("ppo", venv, path=path)


def test_replaced_pickles_change_nothing(tmp_path, monkeypatch):
    """The bytes that Stable-Baselines3 would run are not even decoded."""
    model, venv, path = saved(tmp_path, PPO, "MlpPolicy", VECTOR, CHOICES, {"activation_fn": nn.ReLU}, **ON)

    def poison(data):
        for entry in data.values():
            if isinstance(entry, dict) and ":serialized:" in entry:
                entry[":serialized:"] = "not even base64"

    rewritten(path, poison)
    with nothing_unpickled(monkeypatch):
        loaded = load_policy("ppo", venv, path=path)
    assert_same_actions(model, loaded, VECTOR)


def test_a_model_from_before_the_extractors_were_separate(tmp_path):
    """Before 1.7 a shared extractor was saved under one name, and ``net_arch`` was a list of one dict."""
    model, venv, path = saved(
        tmp_path, PPO, "CnnPolicy", IMAGE, CHOICES, {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}},
        **ON,
    )  # fmt: skip
    state = {
        name: value
        for name, value in model.policy.state_dict().items()
        if not name.startswith(("pi_features_extractor", "vf_features_extractor"))
    }
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    torch.save(state, tmp_path / "policy.pth")
    members["policy.pth"] = (tmp_path / "policy.pth").read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    rewritten(path, lambda data: data["policy_kwargs"].update(net_arch=[{"pi": [8], "vf": [8]}]))
    assert_same_actions(model, load_policy("ppo", venv, path=path), IMAGE)


def test_a_zip_without_environments(tmp_path):
    """`load_saved_policy` has only the text to take the spaces from."""
    space = spaces.Dict({"v": VECTOR, "n": spaces.Discrete(4)})
    model, _, path = saved(tmp_path, SAC, "MultiInputPolicy", space, CONTINUOUS, {"net_arch": [8]}, **OFF)
    loaded = load_saved_policy(path, device="cpu")
    assert loaded.observation_space == space
    assert loaded.action_space == CONTINUOUS
    assert_same_actions(model, loaded, space)
    third = spaces.Box(-1 / 3, np.float32(1 / 3), (2,))  # NumPy shows 8 digits, float32 may need 9
    _, _, path = saved(tmp_path, SAC, "MlpPolicy", VECTOR, third, {"net_arch": [8]}, **OFF)
    with pytest.raises(ConfigError, match=r"rounded.*load_policy"):
        load_saved_policy(path)
    assert load_saved_policy(path, custom_objects={"action_space": third}).action_space == third


def test_classes_of_the_library_before_this_one(tmp_path):
    """Models on the hub name imitation's extractor and normaliser; ours have the same tensors."""
    ours = {
        "features_extractor_class": NormalizeFeaturesExtractor,
        "features_extractor_kwargs": {"normalize_class": RunningNorm},
    }
    model, venv, path = saved(tmp_path, PPO, FeedForward32Policy, VECTOR, CHOICES, ours, **ON)

    def renamed(data):
        for name in ("policy_kwargs", "policy_class"):
            text = json.dumps(data[name]).replace("understudy.policies.base", "imitation.policies.base")
            data[name] = json.loads(text.replace("understudy.util.networks", "imitation.util.networks"))
        assert "imitation.util.networks.RunningNorm" in json.dumps(data)

    rewritten(path, renamed)
    assert_same_actions(model, load_policy("ppo", venv, path=path), VECTOR)


def test_without_sb3_contrib(tmp_path, monkeypatch):
    _, venv, path = saved(tmp_path, sb3_contrib.QRDQN, "MlpPolicy", VECTOR, CHOICES, {"net_arch": [8]}, **OFF)

    def absent(place):
        raise ModuleNotFoundError(place)

    monkeypatch.setattr("understudy.policies._rebuild.load_attr", absent)
    with pytest.raises(MissingExtraError, match=r"understudy\[contrib\]"):
        load_policy("qrdqn", venv, path=path)


def test_loading_moves_no_generator(tmp_path):
    _, venv, path = saved(tmp_path, PPO, "CnnPolicy", IMAGE, CHOICES, {"net_arch": [8]}, **ON)
    venv.observation_space.seed(0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    np.random.seed(0)  # noqa: NPY002
    numpy_before = np.random.get_state()[1].copy()  # noqa: NPY002
    load_policy("ppo", venv, path=path)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    first = venv.observation_space.sample()
    venv.observation_space.seed(0)
    np.testing.assert_array_equal(first, venv.observation_space.sample())
