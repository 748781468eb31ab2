"""Reward networks in files: equal to the bit, without pickles, and refused in three parts when they are not ours."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _reward_batches import OBSERVATIONS, SMALL_IMAGE, VECTOR, batch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn

from understudy.algorithms.adversarial.gail import RewardNetFromDiscriminatorLogit
from understudy.errors import (
    ConfigError,
    CorruptFileError,
    DataError,
    RegistryError,
    SpaceMismatchError,
    UntrustedFileError,
    WrongTypeError,
)
from understudy.rewards import serialize
from understudy.rewards.reward_nets import (
    AddSTDRewardWrapper,
    BasicPotentialCNN,
    BasicPotentialMLP,
    BasicRewardNet,
    BasicShapedRewardNet,
    CnnRewardNet,
    NormalizedRewardNet,
    PredictProcessedWrapper,
    RewardEnsemble,
    RewardNet,
    ShapedRewardNet,
    wrap_forward,
)
from understudy.testing.reward_nets import MockRewardNet
from understudy.util.networks import EMANorm, RunningNorm
from understudy.util.sealed import read_sealed, write_sealed
from understudy.util.util import make_vec_env

DISCRETE = spaces.Discrete(2)
IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)
DICT = OBSERVATIONS["Dict"]


def ensemble() -> RewardEnsemble:
    members = [NormalizedRewardNet(BasicRewardNet(VECTOR, DISCRETE), RunningNorm) for _ in range(3)]
    return RewardEnsemble(VECTOR, DISCRETE, (member for member in members))


NETS: dict[str, Any] = {
    "basic": lambda: BasicRewardNet(VECTOR, DISCRETE),
    "basic with options": lambda: BasicRewardNet(
        *(OBSERVATIONS["MultiDiscrete"], spaces.Box(-2, 2, (2,), np.float32), False),
        use_next_state=True,
        use_done=True,
        hid_sizes=[8, 4],
        activation=nn.Tanh,
        dropout_prob=0.1,
        normalize_input_layer=EMANorm,
    ),
    "spectral": lambda: BasicRewardNet(VECTOR, DISCRETE, spectral_norm=True),
    "double": lambda: BasicRewardNet(VECTOR, DISCRETE).double(),
    "convolutions": lambda: CnnRewardNet(SMALL_IMAGE, DISCRETE, features_dim=4, use_next_state=True),
    "nature": lambda: CnnRewardNet(IMAGE, DISCRETE, features_dim=4),
    "an extractor": lambda: CnnRewardNet(
        IMAGE, DISCRETE, features_extractor_class=NatureCNN, features_extractor_kwargs={"features_dim": 4}
    ),
    "a Dict": lambda: CnnRewardNet(DICT, DISCRETE, features_dim=4),
    "shaped": lambda: BasicShapedRewardNet(VECTOR, DISCRETE, discount_factor=0.9, normalize_input_layer=RunningNorm),
    "shaped by another": lambda: ShapedRewardNet(
        BasicRewardNet(VECTOR, DISCRETE), BasicPotentialMLP(VECTOR, iter([3])), 0.5
    ),
    "pictures shaped": lambda: ShapedRewardNet(
        CnnRewardNet(SMALL_IMAGE, DISCRETE, features_dim=4), BasicPotentialCNN(SMALL_IMAGE, (2, 2)), discount_factor=0.5
    ),
    "normalised": lambda: NormalizedRewardNet(BasicRewardNet(VECTOR, DISCRETE), normalize_output_layer=EMANorm),
    "normalised and shaped": lambda: NormalizedRewardNet(
        base=BasicShapedRewardNet(VECTOR, DISCRETE), normalize_output_layer=RunningNorm
    ),
    "of logits": lambda: wrap_forward(
        NormalizedRewardNet(BasicRewardNet(VECTOR, DISCRETE), RunningNorm),
        lambda inner: RewardNetFromDiscriminatorLogit(inner, "log D"),
    ),
    "passed on": lambda: PredictProcessedWrapper(BasicRewardNet(VECTOR, DISCRETE)),
    "ensemble": ensemble,
    "doubtful": lambda: AddSTDRewardWrapper(ensemble(), default_alpha=-0.5),
    "all of it": lambda: NormalizedRewardNet(AddSTDRewardWrapper(ensemble(), -0.5), RunningNorm),
}


def used(net: RewardNet) -> RewardNet:
    """With statistics that are not those of the beginning."""
    rows = batch(net.observation_space, net.action_space)
    net.train()(*net.preprocess(*rows))
    net.predict_processed(*rows)
    return net


@pytest.mark.parametrize("name", NETS)
def test_saved_and_loaded_it_is_the_same(name: str, tmp_path: Path) -> None:
    net = used(NETS[name]())
    rows = batch(net.observation_space, net.action_space)
    file = tmp_path / "reward.safetensors"
    before = torch.get_rng_state()
    serialize.save_reward_net(net, file)
    loaded = serialize.load_reward_net(file, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert type(loaded) is type(net)
    assert not any(module.training for module in loaded.modules())
    assert loaded.dtype == net.dtype
    assert list(loaded.state_dict()) == list(net.state_dict())
    for key, value in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    assert np.array_equal(loaded.predict(*rows), net.predict(*rows))
    processed = loaded.predict_processed(*rows, update_stats=False)
    assert np.array_equal(processed, net.predict_processed(*rows, update_stats=False))
    serialize.save_reward_net(loaded, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


class Weighted(RewardNet):
    """A user's own, with an option, a part and a tensor."""

    def __init__(self, observation_space: Any, action_space: Any, weight: float, part: Any = None) -> None:
        super().__init__(observation_space, action_space)
        self.weight = weight
        self.part = part
        self.layer = nn.Linear(observation_space.shape[0], 1)

    def forward(self, state: torch.Tensor, action: Any, next_state: Any, done: Any) -> torch.Tensor:
        return self.weight * self.layer(state).squeeze(1)


def test_a_network_of_ones_own_is_given_again(tmp_path: Path) -> None:
    net = NormalizedRewardNet(Weighted(VECTOR, DISCRETE, 3.0), RunningNorm)
    serialize.save_reward_net(net, tmp_path / "net")
    with pytest.raises(ConfigError, match=r"custom_objects=\{'Weighted'"):
        serialize.load_reward_net(tmp_path / "net")
    loaded = serialize.load_reward_net(tmp_path / "net", custom_objects={"Weighted": Weighted})
    rows = batch(VECTOR, DISCRETE)
    assert np.array_equal(loaded.predict(*rows), net.predict(*rows))


def test_an_argument_that_is_no_plain_value_is_given_again_by_its_name(tmp_path: Path) -> None:
    serialize.save_reward_net(Weighted(VECTOR, DISCRETE, 3.0, object()), tmp_path / "net")
    with pytest.raises(ConfigError, match="'part'"):
        serialize.load_reward_net(tmp_path / "net", custom_objects={"Weighted": Weighted})
    given = {"Weighted": Weighted, "part": "given"}
    loaded = serialize.load_reward_net(tmp_path / "net", custom_objects=given)
    assert isinstance(loaded, Weighted)
    assert (loaded.part, loaded.weight) == ("given", 3.0)


def test_a_potential_that_is_a_function_is_given_again(tmp_path: Path) -> None:
    def potential(state: torch.Tensor) -> torch.Tensor:
        return state.sum(1)

    net = ShapedRewardNet(BasicRewardNet(VECTOR, DISCRETE), potential, 0.9)
    serialize.save_reward_net(net, tmp_path / "net")
    with pytest.raises(ConfigError, match="'potential'"):
        serialize.load_reward_net(tmp_path / "net")
    loaded = serialize.load_reward_net(tmp_path / "net", custom_objects={"potential": potential})
    rows = batch(VECTOR, DISCRETE)
    assert np.array_equal(loaded.predict(*rows), net.predict(*rows))


def test_layers_changed_after_it_was_made_are_noticed_when_it_is_saved(tmp_path: Path) -> None:
    net = BasicRewardNet(VECTOR, DISCRETE)
    net.mlp.dense_final = nn.Linear(32, 2)
    with pytest.raises(ConfigError, match="dense_final"):
        serialize.save_reward_net(net, tmp_path / "net")
    assert not (tmp_path / "net").exists()


# --- load_reward ------------------------------------------------------------------------------------------------


@pytest.fixture
def venv() -> Any:
    made = make_vec_env("CartPole-v1", rng=np.random.default_rng(0), n_envs=1)
    yield made
    made.close()


def rows_of(venv: Any) -> tuple[Any, ...]:
    states, acts, next_states, dones = batch(VECTOR, DISCRETE)
    return states, acts, next_states, dones


def shaped(venv: Any, normalized: bool) -> tuple[RewardNet, RewardNet]:
    inner = BasicShapedRewardNet(venv.observation_space, venv.action_space)
    return (NormalizedRewardNet(inner, RunningNorm) if normalized else inner), inner


def test_normalised_and_not(venv: Any, tmp_path: Path) -> None:
    net, inner = shaped(venv, normalized=True)
    serialize.save_reward_net(used_on(net, venv), tmp_path / "net")
    rows = rows_of(venv)
    normalized = serialize.load_reward("RewardNet_normalized", tmp_path / "net", venv)
    expected = net.predict_processed(*rows, update_stats=False)
    for _ in range(2):  # frozen
        assert normalized(*rows) == pytest.approx(expected, abs=1e-6)
    moving = serialize.load_reward("RewardNet_normalized", tmp_path / "net", venv, update_stats=True)
    assert moving(*rows) == pytest.approx(expected, abs=1e-6)
    moving(rows[0] + 1, *rows[1:])
    assert moving(*rows) != pytest.approx(expected, abs=1e-3)
    plain = serialize.load_reward("RewardNet_unnormalized", tmp_path / "net", venv)
    assert plain(*rows) == pytest.approx(inner.predict(*rows), abs=1e-6)


def used_on(net: RewardNet, venv: Any) -> RewardNet:
    net.predict_processed(*rows_of(venv))
    return net


@pytest.mark.parametrize("normalized", [False, True])
def test_shaped_and_not_wherever_the_shaping_stands(normalized: bool, venv: Any, tmp_path: Path) -> None:
    net, inner = shaped(venv, normalized)
    serialize.save_reward_net(used_on(net, venv), tmp_path / "net")
    rows = rows_of(venv)
    with_shaping = serialize.load_reward("RewardNet_shaped", tmp_path / "net", venv)
    assert with_shaping(*rows) == pytest.approx(net.predict_processed(*rows, update_stats=False), abs=1e-6)
    without = serialize.load_reward("RewardNet_unshaped", tmp_path / "net", venv)
    assert isinstance(inner, ShapedRewardNet)
    base = inner.base.predict(*rows)
    if isinstance(net, NormalizedRewardNet):
        base = net.standardize(torch.as_tensor(base), update_stats=False).numpy()
    assert without(*rows) == pytest.approx(base, abs=1e-6)


def test_unshaped_needs_no_potential(venv: Any, tmp_path: Path) -> None:
    """Not even one with tensors of its own, such as a learner's critic."""
    base = BasicRewardNet(venv.observation_space, venv.action_space)
    net = ShapedRewardNet(base, nn.Sequential(nn.Linear(4, 1)), 0.99)
    serialize.save_reward_net(net, tmp_path / "net")
    with pytest.raises(ConfigError, match="'potential'"):
        serialize.load_reward("RewardNet_shaped", tmp_path / "net", venv)
    rows = rows_of(venv)
    assert serialize.load_reward("RewardNet_unshaped", tmp_path / "net", venv)(*rows) == pytest.approx(
        base.predict(*rows)
    )


def test_doubt_added(venv: Any, tmp_path: Path) -> None:
    spaces_ = (venv.observation_space, venv.action_space)
    net = AddSTDRewardWrapper(RewardEnsemble(*spaces_, [BasicRewardNet(*spaces_) for _ in range(2)]), -1.0)
    serialize.save_reward_net(net, tmp_path / "net")
    rows = rows_of(venv)
    load = serialize.load_reward
    assert load("RewardNet_std_added", tmp_path / "net", venv)(*rows) == pytest.approx(net.predict_processed(*rows))
    given = load("RewardNet_std_added", tmp_path / "net", venv, alpha=0)
    assert given(*rows) == pytest.approx(net.base.predict(*rows))


def test_zero(venv: Any) -> None:
    zero = serialize.load_reward("zero", "nowhere", venv)
    assert zero(*rows_of(venv)).tolist() == [0.0] * 6
    assert serialize.load_zero(None, venv)({"a": np.zeros((3, 2))}, np.zeros(3), None, np.zeros(3)).shape == (3,)


def test_what_is_missing_is_said(venv: Any, tmp_path: Path) -> None:
    net = BasicRewardNet(venv.observation_space, venv.action_space)
    serialize.save_reward_net(net, tmp_path / "net")
    for kind, wrapper in (("shaped", "Shaped"), ("normalized", "Normalized"), ("std_added", "AddSTD")):
        with pytest.raises(TypeError, match=f"{wrapper}Reward.*; got BasicRewardNet"):
            serialize.load_reward(f"RewardNet_{kind}", tmp_path / "net", venv)
    with pytest.raises(WrongTypeError, match="alpha"):
        serialize.load_reward("RewardNet_unshaped", tmp_path / "net", venv, alpha=1.0)
    with pytest.raises(RegistryError, match="RewardNet_shaped"):
        serialize.load_reward("RewardNet_shapd", tmp_path / "net", venv)
    with pytest.raises(FileNotFoundError):
        serialize.load_reward("RewardNet_unshaped", tmp_path / "none", venv)
    serialize.save_reward_net(BasicRewardNet(VECTOR, spaces.Discrete(3)), tmp_path / "other")
    with pytest.raises(SpaceMismatchError, match="observation space"):
        serialize.load_reward("RewardNet_unshaped", tmp_path / "other", venv)


def test_a_reward_of_ones_own_is_registered_and_validated(venv: Any) -> None:
    serialize.reward_registry.register("column", value=lambda path, venv: lambda *rows: np.zeros((len(rows[0]), 1)))
    with pytest.raises(DataError, match=r"\(6, 1\)"):
        serialize.load_reward("column", "", venv)(*rows_of(venv))


# --- what is not ours -------------------------------------------------------------------------------------------


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UntrustedFileError, match="save_reward_net"):
        serialize.load_reward_net(tmp_path / "net")
    torch.save(BasicRewardNet(VECTOR, DISCRETE).state_dict(), tmp_path / "net")
    with pytest.raises(UntrustedFileError, match="zip archive"):
        serialize.load_reward_net(tmp_path / "net")


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "net"
    serialize.save_reward_net(BasicRewardNet(VECTOR, DISCRETE, hid_sizes=()), file)
    good = file.read_bytes()
    for place in range(0, len(good), 37):
        damaged = bytearray(good)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        with pytest.raises((CorruptFileError, UntrustedFileError)):
            serialize.load_reward_net(file)
    file.write_bytes(good[:-1])
    with pytest.raises(CorruptFileError, match="net"):
        serialize.load_reward_net(file)


def huge(spec: Any) -> None:
    spec["kwargs"]["hid_sizes"] = [10**6, 10**6]


def many(spec: Any) -> None:
    inner = json.loads(json.dumps(spec))
    spec["class"] = {"class": "RewardEnsemble"}
    spec["args"] = [*spec["args"][:2], [{"net": inner}] * 3000]


CHANGES: dict[str, Any] = {
    "layers without end": huge,
    "members without end": many,
    "no such class": lambda spec: spec.update({"class": {"class": "os.system"}}),
    "a list as a name": lambda spec: spec.update({"class": {"class": ["a"]}}),
    "no class": lambda spec: spec.pop("class"),
    "a part as the whole": lambda spec: spec.update(
        {"class": {"class": "BasicPotentialMLP"}, "args": [spec["args"][0], [3]]}
    ),
    "an argument too many": lambda spec: spec["kwargs"].update({"nonsense": 1}),
    "no space": lambda spec: spec.update({"args": [1, 2]}),
    "a space of terabytes": lambda spec: spec["args"][0]["space"].update({"shape": [10**6, 10**6]}),
    "another network": lambda spec: spec["kwargs"].update({"hid_sizes": [3]}),
}


@pytest.mark.fault("F6")
@pytest.mark.parametrize("change", CHANGES)
def test_a_hostile_spec_is_refused_in_three_parts(change: str, tmp_path: Path) -> None:
    file = tmp_path / "net"
    serialize.save_reward_net(BasicRewardNet(VECTOR, DISCRETE), file)
    document, tensors = read_sealed(file)
    CHANGES[change](document["reward_net"])
    write_sealed(file, document, tensors)
    with pytest.raises((CorruptFileError, ConfigError)) as caught:
        serialize.load_reward_net(file)
    assert caught.value.do
    assert "\n" not in str(caught.value)


@pytest.mark.fault("F6")
def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "net"
    serialize.save_reward_net(BasicRewardNet(VECTOR, DISCRETE), file)
    document, tensors = read_sealed(file)
    spec = document["reward_net"]
    for _ in range(60):
        spec = {"class": {"class": "PredictProcessedWrapper"}, "args": [{"net": spec}], "kwargs": {}}
    write_sealed(file, {**document, "reward_net": spec}, tensors)
    with pytest.raises(CorruptFileError, match="nested"):
        serialize.load_reward_net(file)


def test_a_later_format_names_itself(tmp_path: Path) -> None:
    file = tmp_path / "net"
    serialize.save_reward_net(MockRewardNet(VECTOR, DISCRETE), file)
    document, tensors = read_sealed(file)
    write_sealed(file, {**document, "format": 99}, tensors)
    with pytest.raises(CorruptFileError, match="format 99"):
        serialize.load_reward_net(file)
