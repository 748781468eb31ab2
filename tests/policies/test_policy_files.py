"""A saved policy acts as before, learns on, holds no code, and shows every changed bit."""

from __future__ import annotations

import json
import pickle
import sys

import numpy as np
import pytest
import torch
from _clock import cpu_seconds
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.dqn.policies import CnnPolicy as DQNCnnPolicy
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from understudy.errors import ConfigError, CorruptFileError, MissingExtraError, UntrustedFileError
from understudy.policies.base import (
    FeedForward32Policy,
    NormalizeFeaturesExtractor,
    OffsetFeedForward32Policy,
    RandomPolicy,
    SAC1024Policy,
    ZeroPolicy,
)
from understudy.policies.serialize import load_saved_policy
from understudy.util.networks import EMANorm
from understudy.util.sealed import read_sealed, write_sealed
from understudy.util.util import save_policy

VECTOR = spaces.Box(-np.inf, np.inf, (4,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
DICT = spaces.Dict({"v": VECTOR, "i": IMAGE})
CONTINUOUS = spaces.Box(-2, 2, (2,), np.float32)
NORMALIZED = {"features_extractor_class": NormalizeFeaturesExtractor}


def constant(rate: float):
    return lambda _: rate


CASES = {
    "actor-critic": (ActorCriticPolicy, VECTOR, spaces.Discrete(3), {}),
    "multi-discrete": (ActorCriticPolicy, VECTOR, spaces.MultiDiscrete([2, 3]), {"ortho_init": False}),
    "multi-binary": (ActorCriticPolicy, VECTOR, spaces.MultiBinary(3), {"activation_fn": nn.LeakyReLU}),
    "two extractors": (ActorCriticPolicy, VECTOR, CONTINUOUS, {"share_features_extractor": False, **NORMALIZED}),
    "gsde": (ActorCriticPolicy, VECTOR, CONTINUOUS, {"use_sde": True, "squash_output": True, "log_std_init": -1.0}),
    "net_arch": (ActorCriticPolicy, VECTOR, CONTINUOUS, {"net_arch": {"pi": [8], "vf": [9, 5]}}),
    "optimizer": (
        ActorCriticPolicy,
        VECTOR,
        CONTINUOUS,
        {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.5}},
    ),
    "image": (ActorCriticCnnPolicy, IMAGE, spaces.Discrete(3), {}),
    "dict": (MultiInputActorCriticPolicy, DICT, CONTINUOUS, {"normalize_images": False}),
    "feed-forward 32": (FeedForward32Policy, VECTOR, spaces.Discrete(3), NORMALIZED),
    "offset": (OffsetFeedForward32Policy, VECTOR, spaces.Discrete(3, start=5), {}),
    "ema": (
        FeedForward32Policy,
        VECTOR,
        CONTINUOUS,
        {**NORMALIZED, "features_extractor_kwargs": {"normalize_class": EMANorm}},
    ),
    "sac": (SACPolicy, VECTOR, CONTINUOUS, {"net_arch": [16], "n_critics": 3}),
    "sac gsde": (SACPolicy, VECTOR, CONTINUOUS, {"net_arch": [16], "use_sde": True}),
    "sac 1024": (SAC1024Policy, VECTOR, CONTINUOUS, {"net_arch": [16]}),
    "td3": (TD3Policy, VECTOR, CONTINUOUS, {"net_arch": [16], "share_features_extractor": True}),
    "dqn": (DQNPolicy, VECTOR, spaces.Discrete(3), {"net_arch": [16]}),
    "dqn image": (DQNCnnPolicy, IMAGE, spaces.Discrete(3), {}),
    "random": (RandomPolicy, VECTOR, spaces.Discrete(3), None),
    "zero": (ZeroPolicy, VECTOR, spaces.Discrete(3), None),
}


def make(name: str):
    cls, observation_space, action_space, kwargs = CASES[name]
    torch.manual_seed(0)
    policy = cls(observation_space, action_space, *([] if kwargs is None else [constant(1e-3)]), **(kwargs or {}))
    for module in policy.modules():  # statistics away from their initial values
        if hasattr(module, "running_mean"):
            module.update_stats(torch.randn(9, 4) * 3 + 1)
    return policy


def batch_of(space: spaces.Space, n: int = 6):
    space.seed(0)
    samples = [space.sample() for _ in range(n)]
    if isinstance(samples[0], dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    return np.stack(samples)


@pytest.mark.parametrize("name", CASES)
def test_same_actions_after_loading(name, tmp_path):
    policy, file = make(name), tmp_path / "policy"
    save_policy(policy, file)
    loaded = load_saved_policy(file, device="cpu")
    assert type(loaded) is type(policy)
    assert loaded.observation_space == policy.observation_space
    assert loaded.action_space == policy.action_space
    before, after = policy.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not loaded.training
    if name != "random":
        obs = batch_of(policy.observation_space)
        np.testing.assert_array_equal(
            policy.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0]
        )
        loaded.predict(obs)  # sampling works as well


@pytest.mark.parametrize("name", ["two extractors", "gsde", "optimizer", "sac gsde", "td3", "dict"])
def test_constructor_arguments_survive(name, tmp_path):
    policy = make(name)
    save_policy(policy, tmp_path / "p")
    loaded = load_saved_policy(tmp_path / "p", device="cpu")
    expected = {k: v for k, v in policy._get_constructor_parameters().items() if k != "lr_schedule"}
    assert {k: v for k, v in loaded._get_constructor_parameters().items() if k != "lr_schedule"} == expected
    if hasattr(policy, "share_features_extractor"):
        assert loaded.share_features_extractor == policy.share_features_extractor


@pytest.mark.defect("B24")
@pytest.mark.parametrize(
    ("rate", "kept"), [(2e-4, 2e-4), (float(np.finfo(np.float32).max), 3e-4), (0.0, 3e-4), (float("inf"), 3e-4)]
)
def test_learning_rate_is_always_one_to_go_on_with(rate, kept, tmp_path):
    save_policy(FeedForward32Policy(VECTOR, spaces.Discrete(2), constant(rate)), tmp_path / "p")
    loaded = load_saved_policy(tmp_path / "p", device="cpu")
    assert [group["lr"] for group in loaded.optimizer.param_groups] == [kept]
    assert b"3.4028234" not in (tmp_path / "p").read_bytes().split(b"learning_rate")[1][:40]


@pytest.mark.defect("B24")
@pytest.mark.parametrize("in_place", [True, False])
def test_a_loaded_policy_goes_on_in_ppo(in_place, tmp_path, cartpole_venv):
    policy = FeedForward32Policy(cartpole_venv.observation_space, cartpole_venv.action_space, constant(3e38))
    save_policy(policy, tmp_path / "p")
    loaded = load_saved_policy(tmp_path / "p", device="cpu")
    model = PPO(FeedForward32Policy, cartpole_venv, n_steps=16, batch_size=16, n_epochs=2, device="cpu", seed=0)
    if in_place:
        model.policy = loaded
    else:
        model.policy.load_state_dict(loaded.state_dict())
    model.learn(64)
    after = model.policy.state_dict()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in after.values())
    assert any(not torch.equal(tensor, policy.state_dict()[key]) for key, tensor in after.items())
    model.save(tmp_path / "model.zip")


def test_double_precision_survives(tmp_path):
    save_policy(make("actor-critic").double(), tmp_path / "p")
    loaded = load_saved_policy(tmp_path / "p", device="cpu")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float64}


def test_shared_tensors_are_stored_once(tmp_path):
    policy = make("image")
    save_policy(policy, tmp_path / "p")
    unique = sum(p.numel() * 4 for p in policy.parameters())
    assert (tmp_path / "p").stat().st_size < unique + 10_000


@pytest.mark.defect("B29")
def test_same_policy_same_bytes(tmp_path):
    save_policy(make("actor-critic"), tmp_path / "a")
    save_policy(load_saved_policy(tmp_path / "a", device="cpu"), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["a", "b"]


def test_the_spec_can_be_read_without_this_library(tmp_path):
    save_policy(make("ema"), tmp_path / "p")
    content = (tmp_path / "p").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    spec = json.loads(header["__metadata__"]["understudy"])
    assert spec["format"] == 1
    assert spec["policy"] == {"class": "FeedForward32Policy"}
    assert spec["parameters"]["features_extractor_kwargs"] == {"dict": {"normalize_class": {"class": "EMANorm"}}}
    assert spec["learning_rate"] == 1e-3
    assert {"python", "torch", "stable_baselines3", "gymnasium", "numpy", "understudy"} == spec["versions"].keys()
    assert len(spec["sha256"]) == 64


class OwnExtractor(FlattenExtractor):
    def __init__(self, observation_space: spaces.Space, scale: object) -> None:
        super().__init__(observation_space)
        self.scale = scale


class OwnPolicy(ActorCriticPolicy):
    pass


class Keeps(FlattenExtractor):
    def __init__(self, observation_space: spaces.Space, **kept: object) -> None:
        super().__init__(observation_space)
        self.kept = kept


def test_every_kind_of_plain_argument_survives(tmp_path):
    kept = {
        "numbers": [1, 2.5, -np.inf, True, None],
        "pair": (1, ("a", [2])),
        "nested": {"class": "not a class", "inner": {"x": np.float32(0.5), "y": np.int64(3)}},
        "space": spaces.Discrete(3, start=1),
        "layer": nn.Tanh,
        "normalizer": EMANorm,
    }
    policy = ActorCriticPolicy(
        VECTOR, CONTINUOUS, constant(1e-3), features_extractor_class=Keeps, features_extractor_kwargs=kept
    )
    save_policy(policy, tmp_path / "p")
    loaded = load_saved_policy(tmp_path / "p", "cpu", {"Keeps": Keeps})
    assert isinstance(loaded.features_extractor, Keeps)
    assert loaded.features_extractor.kept == kept


def test_maskable_policies_of_sb3_contrib(tmp_path, monkeypatch):
    policies = pytest.importorskip("sb3_contrib.common.maskable.policies")
    save_policy(policies.MaskableActorCriticPolicy(VECTOR, spaces.Discrete(3), constant(1e-3)), tmp_path / "p")
    loaded = load_saved_policy(tmp_path / "p", device="cpu")
    assert type(loaded) is policies.MaskableActorCriticPolicy
    masks = np.array([[False, True, False]])
    assert loaded.predict(np.zeros((1, 4), np.float32), action_masks=masks)[0].tolist() == [1]
    monkeypatch.setitem(sys.modules, "sb3_contrib.common.maskable.policies", None)
    with pytest.raises(MissingExtraError, match="contrib"):
        load_saved_policy(tmp_path / "p")


def test_a_state_without_tensors_is_refused_at_saving(tmp_path):
    class WithExtraState(ActorCriticPolicy):
        def get_extra_state(self) -> dict[str, int]:
            return {"a": 1}

        def set_extra_state(self, state: object) -> None: ...

    with pytest.raises(ConfigError, match="state_dict of tensors"):
        save_policy(WithExtraState(VECTOR, CONTINUOUS, constant(1e-3)), tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


class ReLU(nn.ReLU):
    """Named like torch's, but another class."""


def test_unknown_classes_and_values_come_from_the_caller(tmp_path):
    scale = object()
    policy = OwnPolicy(
        VECTOR,
        CONTINUOUS,
        constant(1e-3),
        activation_fn=ReLU,
        features_extractor_class=OwnExtractor,
        features_extractor_kwargs={"scale": scale},
    )
    save_policy(policy, tmp_path / "p")
    with pytest.raises(ConfigError, match=r"custom_objects=\{'OwnPolicy'"):
        load_saved_policy(tmp_path / "p")
    custom = {"OwnPolicy": OwnPolicy, "OwnExtractor": OwnExtractor, "scale": scale}
    with pytest.raises(ConfigError, match=r"custom_objects=\{'ReLU'"):
        load_saved_policy(tmp_path / "p", custom_objects=custom)
    loaded = load_saved_policy(tmp_path / "p", "cpu", {**custom, "ReLU": ReLU})
    assert isinstance(loaded.features_extractor, OwnExtractor)
    assert isinstance(loaded.features_extractor, BaseFeaturesExtractor)
    assert loaded.features_extractor.scale is scale
    assert loaded.activation_fn is ReLU


@pytest.mark.fault("F5")
def test_every_flipped_bit_is_found(tmp_path):
    file = tmp_path / "p"
    save_policy(FeedForward32Policy(VECTOR, spaces.Discrete(2), constant(1e-3), net_arch=[2]), file)
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(content) * 8, 300):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << (position % 8)
        file.write_bytes(flipped)
        with pytest.raises((CorruptFileError, UntrustedFileError), match=str(file)):
            load_saved_policy(file)


@pytest.mark.fault("F4")
def test_every_truncation_is_found(tmp_path):
    file = tmp_path / "p"
    save_policy(make("actor-critic"), file)
    content = file.read_bytes()
    for size in [0, 1, 7, 8, 9, *np.linspace(10, len(content) - 1, 40, dtype=int)]:
        file.write_bytes(content[:size])
        with pytest.raises(CorruptFileError, match=str(file)):
            load_saved_policy(file)


def test_files_whose_header_length_begins_like_a_pickle_load(tmp_path):
    """The length's lowest byte is a multiple of 8, so one file in 32 begins with 0x80."""
    file = tmp_path / "p"
    policy = make("actor-critic")
    seen = set()
    for padding in range(0, 512, 4):
        save_policy(policy, file)
        document, tensors = read_sealed(file)
        write_sealed(file, {**document, "extra": {"padding": "x" * padding}}, tensors)
        seen.add(file.read_bytes()[0])
        load_saved_policy(file, device="cpu")
    assert 0x80 in seen


def rewrite(file, change) -> None:
    """Put a changed spec in the file under a sum that matches it."""
    document, tensors = read_sealed(file)
    write_sealed(file, {**document, **change}, tensors)


@pytest.mark.fault("F6")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"policy": {"class": "os:system"}}, ConfigError, "custom_objects"),
        ({"policy": {"custom": "subprocess.Popen"}}, ConfigError, "custom_objects"),
        ({"policy": {"class": "Tanh"}}, ConfigError, "custom_objects"),
        ({"policy": {"evil": 1}}, CorruptFileError, "evil"),
        ({"policy": {"class": "Tanh", "custom": "x"}}, CorruptFileError, "one key"),
        ({"policy": {"class": "TD3Policy"}}, CorruptFileError, "TD3Policy"),
        ({"parameters": {"net_arch": [10**9]}}, CorruptFileError, "a tensor of 4000000000 elements"),
        ({"parameters": {"activation_fn": {"class": "os.system"}}}, ConfigError, "custom_objects"),
        ({"parameters": {"no_such_argument": 1}}, CorruptFileError, "no_such_argument"),
        ({"parameters": {"net_arch": [8]}}, CorruptFileError, "size mismatch"),
        ({"format": 2}, CorruptFileError, "format 2"),
        ({"observation_space": {"type": "Nothing"}}, CorruptFileError, "description of a space"),
        ({"aliases": {"a": "no such tensor"}}, CorruptFileError, "no such tensor"),
        ({"aliases": 3}, CorruptFileError, "aliases|attribute"),
    ],
)
def test_hostile_specs(change, error, message, tmp_path):
    file = tmp_path / "p"
    save_policy(make("actor-critic"), file)
    rewrite(file, {})
    load_saved_policy(file)  # the tool itself makes valid files
    rewrite(file, change)
    with pytest.raises(error, match=message):
        load_saved_policy(file)


@pytest.mark.fault("F6")
def test_pickles_are_refused_unread(tmp_path):
    executed: list[str] = []
    audited = {"on": True}

    def audit(event: str, _args: object) -> None:
        if audited["on"] and event in {"pickle.find_class", "os.system", "subprocess.Popen"}:
            executed.append(event)

    sys.addaudithook(audit)
    try:
        (tmp_path / "old.pkl").write_bytes(pickle.dumps({"a": 1}))
        torch.save(make("actor-critic").state_dict(), tmp_path / "old.pt")
        executed.clear()
        for name in ("old.pkl", "old.pt"):
            with pytest.raises(UntrustedFileError, match="save_policy"):
                load_saved_policy(tmp_path / name)
    finally:
        audited["on"] = False
    assert executed == []
    with pytest.raises(FileNotFoundError):
        load_saved_policy(tmp_path / "nothing")


@pytest.mark.defect("B29")
def test_the_same_policy_gives_the_same_bytes(tmp_path):
    for name in ("dict", "sac gsde"):
        policy = make(name)
        save_policy(policy, tmp_path / "a")
        save_policy(policy, tmp_path / "b")
        save_policy(load_saved_policy(tmp_path / "a", device="cpu"), tmp_path / "c")
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


@pytest.mark.defect("B28")
def test_the_path_is_used_as_it_is(tmp_path):
    for name in ("x.npz", "x.zip", "x.pt", "x"):
        save_policy(make("actor-critic"), tmp_path / name)
        assert (tmp_path / name).is_file()
        load_saved_policy(tmp_path / name)
    with pytest.raises(CorruptFileError, match="folder"):
        load_saved_policy(tmp_path)


def box(*shape: int) -> dict[str, object]:
    return {"type": "Box", "shape": list(shape), "dtype": "float32", "low": 0, "high": 1}


@pytest.mark.fault("F7")
@pytest.mark.parametrize(
    "change",
    [
        {"observation_space": box(1 << 24)},
        {"observation_space": box(1 << 40, 1 << 40)},
        {"observation_space": {"type": "Discrete", "n": 10**12, "start": 0, "dtype": "int64"}},
        {"action_space": {"type": "Discrete", "n": 10**9, "start": 0, "dtype": "int64"}},
        {"action_space": {"type": "MultiBinary", "shape": [10**9]}},
        {"action_space": {"type": "MultiDiscrete", "shape": [1 << 23], "dtype": "int64", "nvec": 2, "start": 0}},
        {"observation_space": {"type": "Dict", "spaces": [[str(i), box(1)] for i in range(5000)]}},
        {"parameters": {"net_arch": {"dict": {"pi": [10**8], "vf": []}}}},
        {"parameters": {"net_arch": [1] * 20_000}},
        {"parameters": {"net_arch": [4], "features_extractor_kwargs": {"dict": {"features_dim": 10**9}}}},
    ],
    ids=range(10),
)
def test_bombs_are_refused_before_they_grow(change, tmp_path):
    import resource

    save_policy(make("actor-critic"), tmp_path / "p")
    rewrite(tmp_path / "p", change)
    peak, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, cpu_seconds()
    with pytest.raises(CorruptFileError):
        load_saved_policy(tmp_path / "p")
    assert cpu_seconds() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 64 * 1024


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    high = np.arange(200_000, dtype=np.float32)
    space = spaces.Box(-high - 1, high, dtype=np.float32)
    with pytest.raises(ConfigError, match="same bounds"):
        save_policy(RandomPolicy(space, spaces.Discrete(2)), tmp_path / "p")
    assert not (tmp_path / "p").exists()
