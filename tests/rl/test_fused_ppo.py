"""``FusedPPO.train`` is PPO's ``train``: the same parameters, moments, statistics and figures."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from _random_env import ACTION_SPACES, DISCRETE, VECTOR, furthest, model, random_venv, set_up, train_alike, twins
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common import policies
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import set_random_seed
from torch import nn

from understudy.errors import TrainingDivergedError
from understudy.functional import policy_gradient
from understudy.policies.base import FeedForward32Policy, NormalizeFeaturesExtractor
from understudy.rl import _ppo_features
from understudy.rl.fused_ppo import FusedPPO
from understudy.util.networks import EMANorm

NORMALIZED = {"features_extractor_class": NormalizeFeaturesExtractor}
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "entropy": {"ent_coef": 0.05, "vf_coef": 0.9},
    "clipped values": {"clip_range_vf": 0.1, "clip_range": 0.05},
    "raw advantages": {"normalize_advantage": False, "max_grad_norm": 100.0},
    "last minibatch smaller": {"batch_size": 24},
    "last minibatch of one": {"batch_size": 21},
    "one minibatch": {"batch_size": 100},
    "schedules": {"learning_rate": lambda left: 3e-3 * left, "clip_range": lambda left: 0.3 * left},
    "uneven networks": {"policy_kwargs": {"net_arch": {"pi": [8], "vf": [5, 4, 3]}, "activation_fn": nn.ReLU}},
    "no hidden layer": {"policy_kwargs": {"net_arch": []}},
    "weight decay": {"policy_kwargs": {"optimizer_kwargs": {"weight_decay": 0.1}}},
    "another optimiser": {"policy_kwargs": {"optimizer_class": torch.optim.RMSprop}, "max_grad_norm": 0.05},
    "running norm": {"policy_kwargs": NORMALIZED},
    "two running norms": {"policy_kwargs": {**NORMALIZED, "share_features_extractor": False}, "batch_size": 24},
    "fading norm": {
        "policy_kwargs": {**NORMALIZED, "features_extractor_kwargs": {"normalize_class": EMANorm}},
    },
    "separate flat features": {"policy_kwargs": {"share_features_extractor": False, "ortho_init": False}},
    "wide": {"policy_kwargs": {"net_arch": [256, 128]}, "n_epochs": 1},
}


@pytest.mark.parametrize("head", ACTION_SPACES)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_float64_to_nine_digits(head: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = twins(ACTION_SPACES[head], dtype=torch.float64, **copy.deepcopy(settings))
    # Stable-Baselines3 makes observations float32 whatever the network is.
    monkeypatch.setattr(policies, "preprocess_obs", lambda *args, **kwargs: preprocess_obs(*args, **kwargs).double())
    if head == "bernoulli":  # torch's cross-entropy has the precision of its targets
        evaluate = theirs.policy.evaluate_actions
        theirs.policy.evaluate_actions = lambda obs, acts: evaluate(obs, acts.double())  # type: ignore[method-assign]
    assert ours.path == "closed_form"
    before = copy.deepcopy(ours.policy.state_dict())
    train_alike(theirs, ours)
    train_alike(theirs, ours, seed=6)
    assert furthest(theirs, ours) < 1e-9
    assert max(float((before[k] - x).abs().max()) for k, x in ours.policy.state_dict().items()) > 1e-4


@pytest.mark.parametrize("head", ACTION_SPACES)
def test_float32_parameters_and_figures(head: str) -> None:
    theirs, ours = twins(ACTION_SPACES[head], ent_coef=0.01, clip_range_vf=0.5, policy_kwargs=NORMALIZED)
    train_alike(theirs, ours)
    assert furthest(theirs, ours) < 1e-4
    expected, got = (m.logger.name_to_value for m in (theirs, ours))
    assert {k for k in expected if k.startswith("train/")} == {k for k in got if k.startswith("train/")}
    for key, value in got.items():
        assert value == pytest.approx(expected[key], rel=1e-4, abs=1e-6), key
    assert got["train/clip_fraction"] > 0  # the data really were an older policy's
    assert ours._n_updates == theirs._n_updates == 3


@pytest.mark.parametrize("target_kl", [1e-6, 0.02, 10.0])
@pytest.mark.parametrize("policy_kwargs", [{}, NORMALIZED, SETTINGS["fading norm"]["policy_kwargs"]])
def test_target_kl_stops_at_the_same_minibatch(target_kl: float, policy_kwargs: dict[str, Any]) -> None:
    theirs, ours = twins(target_kl=target_kl, policy_kwargs=policy_kwargs, n_epochs=8, learning_rate=1e-2)
    for m in (theirs, ours):  # the newest policy's own data: the first minibatch is always learned from
        obs = torch.as_tensor(m.rollout_buffer.observations.reshape(-1, 3))
        m.policy.set_training_mode(False)
        with torch.no_grad():
            terms = m.policy.evaluate_actions(obs, torch.as_tensor(m.rollout_buffer.actions).flatten())
        m.rollout_buffer.log_probs = terms[1].numpy().reshape(16, 4)
    train_alike(theirs, ours)
    assert furthest(theirs, ours) < 1e-4
    assert ours._n_updates == theirs._n_updates
    for key, value in ours.logger.name_to_value.items():
        assert value == pytest.approx(theirs.logger.name_to_value[key], rel=1e-3, abs=1e-5), key
    (steps,) = {float(s["step"]) for s in ours.policy.optimizer.state.values()}
    assert (steps < 32) == (target_kl < 1)


def test_target_kl_really_stops() -> None:
    _, ours = twins(target_kl=1e-9)
    ours.train()
    assert ours._n_updates == 1
    assert {float(s["step"]) for s in ours.policy.optimizer.state.values()} == {0.0}  # too far from the start


@pytest.mark.parametrize(
    "observation_space",
    [
        spaces.Discrete(4),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(4),
        spaces.Box(-1, 1, (2, 3), np.float64),
        spaces.Box(0, 255, (5,), np.uint8),
        spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(3)}),
    ],
    ids=str,
)
def test_observations_of_any_kind(observation_space: spaces.Space[Any]) -> None:
    theirs, ours = twins(DISCRETE, observation_space)
    assert ours.path == "closed_form"
    train_alike(theirs, ours)
    assert furthest(theirs, ours) < 1e-4
    ours.learn(64)


def test_a_policy_of_32_units_over_flattened_images() -> None:
    image = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    theirs, ours = twins(DISCRETE, image, policy=FeedForward32Policy, n_epochs=1)
    assert ours.path == "closed_form"
    train_alike(theirs, ours)
    assert furthest(theirs, ours) < 1e-4
    ours.learn(64)


@pytest.mark.parametrize("policy_kwargs", [{}, NORMALIZED, SETTINGS["fading norm"]["policy_kwargs"]])
def test_observations_in_several_blocks(policy_kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2 minibatches of 12 observations of 3 numbers, the last block of one minibatch of 4."""
    monkeypatch.setattr(_ppo_features, "_BLOCK", 2 * 12 * 3)
    theirs, ours = twins(batch_size=12, policy_kwargs=policy_kwargs)
    train_alike(theirs, ours)
    assert furthest(theirs, ours) < 1e-4


def test_nothing_but_the_values_changes() -> None:
    _, ours = twins()
    parameters, optimizer = dict(ours.policy.named_parameters()), ours.policy.optimizer
    ours.train()
    assert ours.policy.optimizer is optimizer
    assert all(p is parameters[name] for name, p in ours.policy.named_parameters())
    storages = [t.untyped_storage() for p in parameters.values() for t in (p, *optimizer.state[p].values())]
    assert len({s.data_ptr() for s in storages}) == len(storages)  # none is a view into another
    assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in parameters.values())
    assert all(p.grad is None for p in parameters.values())
    ours.policy.double()  # as with any module
    assert {p.dtype for p in ours.policy.parameters()} == {torch.float64}


def test_an_interruption_leaves_ordinary_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = twins()
    calls: list[int] = []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return gradient(*args)

    gradient = policy_gradient.clipped_surrogate_gradient
    monkeypatch.setattr(policy_gradient, "clipped_surrogate_gradient", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ours.train()
    assert all(p.untyped_storage().nbytes() == p.numel() * 4 for p in ours.policy.parameters())
    assert {float(s["step"]) for s in ours.policy.optimizer.state.values()} == {4.0}


def test_training_goes_on_after_either_library() -> None:
    """The optimiser's state passes from one to the other, its step count included."""
    theirs, ours = twins()
    for seed, kind in enumerate((PPO, FusedPPO, PPO)):
        for m, train in ((ours, kind.train), (theirs, PPO.train)):
            set_random_seed(seed)
            train(m)
    assert furthest(theirs, ours) < 1e-4
    assert {float(s["step"]) for s in ours.policy.optimizer.state.values()} == {36.0}


def test_an_actor_that_was_frozen_for_a_while() -> None:
    """Its moments are then younger than the critic's."""
    theirs, ours = twins()
    for m in (theirs, ours):
        m.policy.action_net.requires_grad_(False)
    train_alike(theirs, ours)
    for m in (theirs, ours):
        m.policy.action_net.requires_grad_(True)
    assert ours.path == "closed_form"
    train_alike(theirs, ours)
    assert furthest(theirs, ours) < 1e-4
    assert {float(s["step"]) for s in ours.policy.optimizer.state.values()} == {12.0, 24.0}


def test_resuming_in_the_middle_gives_the_same_bytes(tmp_path: Any) -> None:
    _, unbroken = twins(policy_kwargs=NORMALIZED)
    buffer = copy.deepcopy(unbroken.rollout_buffer)
    train_alike(unbroken)
    unbroken.save(tmp_path / "half.zip")
    loaded = FusedPPO.load(tmp_path / "half.zip", env=unbroken.env, device="cpu")
    other = model(FusedPPO, policy_kwargs=NORMALIZED)
    other.set_parameters(unbroken.get_parameters())
    for m in (unbroken, loaded, other):
        set_up(m)
        m.rollout_buffer = copy.deepcopy(buffer)
    train_alike(unbroken, loaded, other, seed=7)
    assert furthest(unbroken, loaded) == 0
    assert furthest(unbroken, other) == 0


@pytest.mark.parametrize(("writer", "reader"), [(FusedPPO, PPO), (PPO, FusedPPO)])
def test_files_are_interchangeable(writer: type[PPO], reader: type[PPO], tmp_path: Any) -> None:
    written = model(writer, policy_kwargs=NORMALIZED, clip_range_vf=0.3, target_kl=0.1)
    written.learn(64)
    written.save(tmp_path / "model.zip")
    read = reader.load(tmp_path / "model.zip", env=random_venv(), device="cpu")
    assert type(read) is reader
    assert furthest(written, read) == 0
    assert {k: v for k, v in vars(read).items() if isinstance(v, (int, float, str))} == {
        k: v for k, v in vars(written).items() if isinstance(v, (int, float, str))
    }
    assert vars(written).keys() - vars(read).keys() == {"_logger"}
    obs = np.stack([VECTOR.sample() for _ in range(5)])
    assert (read.predict(obs, deterministic=True)[0] == written.predict(obs, deterministic=True)[0]).all()
    read.learn(64, reset_num_timesteps=False)
    assert read.num_timesteps == 128


class OwnGet(RolloutBuffer):
    def get(self, batch_size: int | None = None) -> Any:
        return super().get(batch_size)


class OwnEvaluation(policies.ActorCriticPolicy):
    def evaluate_actions(self, obs: Any, actions: torch.Tensor) -> Any:
        return super().evaluate_actions(obs, actions)


class OwnFeatures(FlattenExtractor):
    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        super().__init__(observation_space)
        self.layer = nn.Linear(3, 3)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.layer(super().forward(observations))


GAUSSIAN = ACTION_SPACES["gaussian"]
FALLBACKS: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "gSDE": ((GAUSSIAN,), {"use_sde": True}, "state-dependent"),
    "CNN": (
        (DISCRETE, spaces.Box(0, 255, (36, 36, 3), np.uint8)),
        {"policy": "CnnPolicy", "n_epochs": 1},
        "outside the two networks",
    ),
    "own policy": ((), {"policy": OwnEvaluation}, "OwnEvaluation has its own evaluate_actions"),
    "own features": ((), {"policy_kwargs": {"features_extractor_class": OwnFeatures}}, "outside the two networks"),
    "activation": ((), {"policy_kwargs": {"activation_fn": nn.ELU}}, "tanh or ReLU"),
    "buffer": ((), {"rollout_buffer_class": OwnGet}, "OwnGet has its own get"),
}


@pytest.mark.parametrize(("args", "settings", "reason"), FALLBACKS.values(), ids=FALLBACKS)
def test_other_policies_take_stable_baselines3s_own_steps(
    args: tuple[Any, ...], settings: dict[str, Any], reason: str
) -> None:
    theirs, ours = (model(kind, *args, **settings) for kind in (PPO, FusedPPO))
    assert ours.path == "stable_baselines3"
    assert reason in ours.path_reason
    for m in (theirs, ours):
        set_random_seed(0)
        m.learn(128)
    assert furthest(theirs, ours) == 0  # collecting falls back as well, so even the draws are the same


def test_the_path_follows_changes_of_the_policy() -> None:
    ours = model(FusedPPO)
    assert (ours.path, ours.path_reason) == ("closed_form", None)
    ours.policy.value_net.weight.requires_grad_(False)
    assert "frozen" in ours.path_reason
    ours.policy.value_net.weight.requires_grad_(True)
    handle = ours.policy.action_net.register_forward_hook(lambda *_: None)
    assert "hooks" in ours.path_reason
    handle.remove()
    optimizer, ours.policy.optimizer = ours.policy.optimizer, torch.optim.Adam(ours.policy.value_net.parameters())
    assert "not over all parameters" in ours.path_reason
    ours.policy.optimizer = optimizer
    ours.policy.mlp_extractor.value_net = ours.policy.mlp_extractor.policy_net
    assert "shared between layers" in ours.path_reason


@pytest.mark.parametrize("optimizer_class", [torch.optim.Adam, torch.optim.AdamW])
def test_numbers_that_are_not_finite_change_nothing(optimizer_class: type[torch.optim.Optimizer]) -> None:
    _, ours = twins(policy_kwargs={"optimizer_class": optimizer_class})
    buffer = copy.deepcopy(ours.rollout_buffer)
    ours.train()
    before = copy.deepcopy((ours.policy.state_dict(), ours.policy.optimizer.state_dict()))
    ours.rollout_buffer = buffer
    rollout = copy.deepcopy(buffer)
    buffer.advantages[3, 1] = np.nan
    with pytest.raises(TrainingDivergedError, match="learning_rate"):
        ours.train()
    assert all(torch.equal(x, before[0][k]) for k, x in ours.policy.state_dict().items())
    after = ours.policy.optimizer.state_dict()["state"]
    assert all(torch.equal(x, before[1]["state"][i][k]) for i, s in after.items() for k, x in s.items())
    ours.rollout_buffer = rollout
    ours.train()
    assert all(p.isfinite().all() for p in ours.policy.parameters())
