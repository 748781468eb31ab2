"""Pretraining a Stable-Baselines3 model in place."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch.utils.data import DataLoader

from understudy.algorithms.pretrain import CriticWarmup, pretrain
from understudy.data.stable_baselines import ExpertDataset
from understudy.data.wrappers import StartAtZero
from understudy.errors import ConfigError, DataError, SpaceMismatchError, UnsupportedSpaceError

TINY: dict[str, Any] = {"net_arch": [16]}
KINDS: list[type[BaseAlgorithm]] = [PPO, A2C, TRPO, MaskablePPO, RecurrentPPO, DQN, QRDQN, SAC, TD3, DDPG, TQC]
CONTINUOUS = (SAC, TD3, DDPG, TQC)
OFF_POLICY = (*CONTINUOUS, DQN, QRDQN)


class Fixed(gym.Env[Any, Any]):
    """An environment that is there for its spaces."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        observation_space.seed(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 1.0, False, False, {}


VECTOR = spaces.Box(-10.0, 10.0, (3,), np.float32)
TORQUE = spaces.Box(-2.0, 2.0, (1,), np.float32)


def data(continuous: bool, n_episodes: int = 4, length: int = 15) -> dict[str, np.ndarray]:
    """The sign of the first entry decides: a choice, or a torque of ±1.5. Odd episodes end by a time limit."""
    rng = np.random.default_rng(3)
    n = n_episodes * length
    obs = rng.normal(size=(n, 3)).astype(np.float32)
    right = obs[:, 0] > 0
    ends = np.zeros(n, dtype=bool)
    ends[length - 1 :: length] = True
    terminated = ends.copy()
    terminated[2 * length - 1 :: 2 * length] = False
    return {
        "obs": obs,
        "acts": np.where(right, 1.5, -1.5).astype(np.float32)[:, None] if continuous else right.astype(np.int64),
        "next_obs": obs + np.float32(0.5),
        "terminated": terminated,
        "truncated": ends & ~terminated,
        "rews": np.arange(n, dtype=np.float64) % 7,
    }


def make(kind: type[BaseAlgorithm], env: Any = None, **kwargs: Any) -> Any:
    policy = "MlpLstmPolicy" if kind is RecurrentPPO else "MlpPolicy"
    net = {**TINY, "lstm_hidden_size": 16} if kind is RecurrentPPO else TINY
    options: dict[str, Any] = {"policy_kwargs": dict(net), "seed": 0, "device": "cpu"}
    if kind in OFF_POLICY:
        options["buffer_size"] = 200
    if kind is PPO:
        options |= {"n_steps": 16, "batch_size": 16}
    if env is None:
        env = Fixed(VECTOR, TORQUE if kind in CONTINUOUS else spaces.Discrete(2))
    build: Any = kind
    return build(policy, env, **{**options, **kwargs})


def quick(model: Any, demos: Any, n_epochs: int = 3, **kwargs: Any) -> Any:
    return pretrain(model, demos, n_epochs, 5e-3, **{"progress_bar": False, "rng": 0, "batch_size": 15, **kwargs})


def optimizers_of(model: Any) -> list[torch.optim.Optimizer]:
    parts = [model.policy, getattr(model.policy, "actor", None), getattr(model.policy, "critic", None)]
    found = [part.optimizer for part in parts if hasattr(part, "optimizer")]
    return [*found, *([model.ent_coef_optimizer] if getattr(model, "ent_coef_optimizer", None) else [])]


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_falls_in_place_and_the_learners_own_optimisers_see_nothing(kind: type[BaseAlgorithm]) -> None:
    model = make(kind)
    demos = data(kind in CONTINUOUS)
    identities = [id(p) for p in model.policy.parameters()]
    optimizers = optimizers_of(model)
    states = [copy.deepcopy(o.state_dict()) for o in optimizers]
    result = quick(model, demos, 30, val_interval=10)
    first, last = result.losses[0], result.losses[-1]
    assert result.model is model
    assert [loss.epoch for loss in result.losses] == [9, 19, 29]
    assert last.train < 0.8 * first.train
    assert [id(p) for p in model.policy.parameters()] == identities
    assert all(o is now for o, now in zip(optimizers, optimizers_of(model), strict=True))
    assert [o.state_dict() for o in optimizers] == states
    assert all(p.grad is None for p in model.policy.parameters())


@pytest.mark.parametrize("kind", [PPO, DQN, SAC])
def test_weights_are_never_initialised_again(kind: type[BaseAlgorithm]) -> None:
    """A learning rate near zero leaves a model as good as it was."""
    model = make(kind)
    before = [p.detach().clone() for p in model.policy.parameters()]
    pretrain(model, data(kind in CONTINUOUS), 2, 1e-12, progress_bar=False, rng=0)
    for old, new in zip(before, model.policy.parameters(), strict=True):
        torch.testing.assert_close(old, new, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", [PPO, A2C, MaskablePPO, DQN, QRDQN])
def test_the_greedy_choice_becomes_the_experts(kind: type[BaseAlgorithm]) -> None:
    model, demos = make(kind), data(False)
    quick(model, demos, 150)
    acts, _ = model.predict(demos["obs"], deterministic=True)
    assert np.mean(acts == demos["acts"]) >= 0.97


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_actions_come_out_in_the_environments_units(kind: type[BaseAlgorithm]) -> None:
    """A constant torque of 1.5 of ±2 is 0.75 of ±1."""
    demos = data(True) | {"acts": np.full((60, 1), 1.5, np.float32)}
    model = make(kind)
    quick(model, demos, 150)
    acts, _ = model.predict(demos["obs"], deterministic=True)
    np.testing.assert_allclose(acts, 1.5, atol=0.1)


def test_the_loss_of_an_actor_is_squared_torque() -> None:
    """tanh of zeros is 0, the middle of the range; the expert's 1.5 is 1.5 away."""
    model = make(SAC)
    for p in model.actor.parameters():
        p.data.zero_()
    result = pretrain(model, data(True), 1, 1e-12, progress_bar=False, rng=0)
    assert result.losses[0].train == pytest.approx(2.25)


def test_actions_beyond_the_bounds_count_as_executed() -> None:
    model = make(TD3)
    for p in model.actor.parameters():
        p.data.zero_()
    result = pretrain(
        model, data(True) | {"acts": np.full((60, 1), 3.0, np.float32)}, 1, 1e-12, progress_bar=False, rng=0
    )
    assert result.losses[0].train == pytest.approx(4.0)


@pytest.mark.parametrize("kind", [DQN, QRDQN, TD3])
def test_target_networks_follow(kind: type[BaseAlgorithm]) -> None:
    model = make(kind)
    quick(model, data(kind in CONTINUOUS))
    source, target = {
        DQN: ("q_net", "q_net_target"),
        QRDQN: ("quantile_net", "quantile_net_target"),
        TD3: ("actor", "actor_target"),
    }[kind]
    pairs = zip(getattr(model, source).parameters(), getattr(model, target).parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_same_seed_gives_the_same_bytes_and_no_global_generator_moves() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    models = [make(SAC), make(SAC)]
    torch.set_rng_state(before)
    for model in models:
        quick(model, data(True), critic_warmup=2)
    assert torch.equal(torch.get_rng_state(), before)
    first, second = (m.policy.state_dict() for m in models)
    assert all(torch.equal(first[k], second[k]) for k in first)


# --- validation, batches ----------------------------------------------------------------------------------------


def test_validation_holds_out_whole_episodes() -> None:
    result = quick(make(PPO), data(False), validation_fraction=0.25)
    assert result.held_out_episodes == 1
    assert result.fit.n_samples == 3 * 45
    assert all(loss.validation is not None for loss in result.losses)


@pytest.mark.parametrize(("n_epochs", "measured"), [(4, 4), (20, 10), (25, 13)])
def test_validation_comes_every_epoch_or_every_tenth(n_epochs: int, measured: int) -> None:
    """25 // 10 = 2: after epochs 2, 4, …, 24, and after the last."""
    assert len(quick(make(PPO), data(False), n_epochs).losses) == measured


def test_an_expert_dataset_brings_its_batch_size_and_its_split() -> None:
    """0.75 of 60 rows is 45, in batches of 20: 3 an epoch."""
    demos = data(False)
    archive = {
        "obs": demos["obs"],
        "actions": demos["acts"][:, None],
        "rewards": demos["rews"],
        "episode_returns": demos["rews"].reshape(4, 15).sum(1),
        "episode_starts": np.arange(60) % 15 == 0,
    }
    dataset = ExpertDataset(traj_data=archive, train_fraction=0.75, batch_size=20, verbose=0)
    result = pretrain(make(PPO), dataset, 2, progress_bar=False, rng=0)
    assert (result.fit.n_batches, result.fit.n_samples) == (6, 90)
    assert all(loss.validation is not None for loss in result.losses)


def test_a_loader_is_read_anew_each_epoch() -> None:
    demos = data(False)
    rows: Any = [{"obs": demos["obs"][i], "acts": demos["acts"][i]} for i in range(60)]
    result = quick(make(PPO), DataLoader(rows, batch_size=30, shuffle=True), 2)
    assert (result.fit.n_batches, result.fit.n_samples) == (4, 120)


def test_memory_starts_empty_with_each_episode() -> None:
    """What a recurrent policy is trained on is what it answers when stepped through the episodes."""
    model, demos = make(RecurrentPPO), data(False)
    result = quick(model, demos, 40)
    states, log_probs = None, []
    for t in range(60):
        start = np.array([t % 15 == 0])
        tensors = torch.as_tensor(demos["obs"][t : t + 1])
        if states is None:
            zero = torch.zeros(1, 1, 16)
            states = (zero, zero)
        with torch.no_grad():
            distribution, states = model.policy.get_distribution(tensors, states, torch.as_tensor(start).float())
        log_probs.append(float(distribution.log_prob(torch.as_tensor(demos["acts"][t : t + 1]))))
    assert result.losses[-1].train == pytest.approx(-np.mean(log_probs), abs=1e-5)


# --- spaces -----------------------------------------------------------------------------------------------------

IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)
DICT = spaces.Dict({"a": VECTOR, "b": spaces.Discrete(3)})


@pytest.mark.parametrize(
    "action_space",
    [TORQUE, spaces.Discrete(3)],
    ids=["box", "discrete"],
)
@pytest.mark.parametrize("observation_space", [VECTOR, DICT, IMAGE], ids=["vector", "dict", "image"])
def test_every_space_that_an_off_policy_family_allows(observation_space: Any, action_space: Any) -> None:
    env = Fixed(observation_space, action_space)
    env.observation_space.seed(0)
    env.action_space.seed(0)
    observed = [observation_space.sample() for _ in range(6)]
    stacked = (
        {k: np.stack([o[k] for o in observed]) for k in DICT.spaces}
        if observation_space is DICT
        else np.stack(observed)
    )
    demos = {"obs": stacked, "acts": np.stack([np.asarray(action_space.sample()) for _ in range(6)])}
    policy = {"image": "CnnPolicy", "dict": "MultiInputPolicy"}.get(
        "image" if observation_space is IMAGE else "dict" if observation_space is DICT else "", "MlpPolicy"
    )
    kind: Any = SAC if isinstance(action_space, spaces.Box) else DQN
    small: dict[str, Any] = {"net_arch": [8]}
    if policy == "CnnPolicy":
        small["features_extractor_kwargs"] = {"features_dim": 8}
    model = kind(policy, env, policy_kwargs=small, device="cpu", seed=0, buffer_size=8)
    result = quick(model, demos, 8)
    assert result.losses[-1].train < result.losses[0].train


@pytest.mark.parametrize("kind", [PPO, DQN])
def test_choices_that_do_not_start_at_zero_are_refused(kind: type[BaseAlgorithm]) -> None:
    model = make(kind, Fixed(VECTOR, spaces.Discrete(2, start=3)))
    with pytest.raises(UnsupportedSpaceError, match="StartAtZero"):
        quick(model, data(False) | {"acts": data(False)["acts"] + 3})


def test_demonstrations_of_the_environment_itself_are_refused_where_its_actions_were_shifted() -> None:
    model = make(PPO, StartAtZero(Fixed(VECTOR, spaces.Discrete(2, start=3))))
    with pytest.raises(SpaceMismatchError):
        quick(model, data(False) | {"acts": data(False)["acts"] + 3})


# --- VecNormalize -----------------------------------------------------------------------------------------------


def normalized(action_space: gym.Space[Any] = TORQUE) -> Any:
    venv: Any = VecNormalize(DummyVecEnv([lambda: Fixed(VECTOR, action_space)]))
    venv.obs_rms.mean, venv.obs_rms.var = np.array([1.0, 2.0, 3.0]), np.array([4.0, 4.0, 4.0])
    venv.ret_rms.var = np.array(9.0)
    return venv


def test_demonstrations_are_normalised_as_the_model_sees_them_and_statistics_stay() -> None:
    venv, demos = normalized(), data(True)
    model = make(SAC, venv)
    plain = make(SAC)
    plain.policy.load_state_dict(model.policy.state_dict())
    quick(model, demos, critic_warmup=2)
    seen = {k: venv.normalize_obs(demos[k]) for k in ("obs", "next_obs")}
    quick(plain, demos | seen | {"rews": demos["rews"] / np.sqrt(9.0 + 1e-8)}, critic_warmup=2)
    for a, b in zip(model.policy.parameters(), plain.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert venv.obs_rms.mean.tolist() == [1.0, 2.0, 3.0]


def test_the_replay_buffer_holds_what_the_environment_gave() -> None:
    venv, demos = normalized(), data(True)
    model = make(SAC, venv)
    quick(model, demos, fill_replay_buffer=True)
    assert np.array_equal(model.replay_buffer.observations[:60, 0], demos["obs"])
    assert np.array_equal(model.replay_buffer.rewards[:60, 0], demos["rews"].astype(np.float32))


def test_statistics_move_when_asked() -> None:
    venv: Any = VecNormalize(DummyVecEnv([lambda: Fixed(VECTOR, TORQUE)]))
    demos = data(True)
    quick(make(SAC, venv), demos, update_normalization=True)
    np.testing.assert_allclose(venv.obs_rms.mean, demos["obs"].mean(0), rtol=1e-3)
    np.testing.assert_allclose(venv.obs_rms.var, demos["obs"].var(0), rtol=1e-3)
    assert float(venv.ret_rms.count) == pytest.approx(60, abs=0.01)


# --- refusals ---------------------------------------------------------------------------------------------------


def refused(error: type[Exception], model: Any, demos: Any, **kwargs: Any) -> str:
    before = copy.deepcopy(model.policy.state_dict()) if isinstance(model, BaseAlgorithm) else {}
    with pytest.raises(error) as raised:
        quick(model, demos, **kwargs)
    if before:
        after = model.policy.state_dict()
        assert all(torch.equal(before[k], after[k]) for k in before)
    return str(raised.value)


def test_what_cannot_be_pretrained_is_refused_before_anything_moves() -> None:
    demos = data(False)
    bare = {"obs": demos["obs"], "acts": demos["acts"]}
    assert "Stable-Baselines3 model" in refused(ConfigError, make(PPO).policy, demos)
    assert "ARS" in refused(ConfigError, ARS("LinearPolicy", Fixed(VECTOR, spaces.Discrete(2))), demos)
    assert "off-policy" in refused(ConfigError, make(PPO), demos, fill_replay_buffer=True)
    assert "rewards" in refused(DataError, make(PPO), bare, critic_warmup=1)
    with_rewards = bare | {"rews": demos["rews"]}
    assert "unknown_ends" in refused(DataError, make(PPO), with_rewards, critic_warmup=1)
    assert "room for 200" in refused(ConfigError, make(DQN), data(False, 20), fill_replay_buffer=True)
    assert "optimize_memory_usage" in refused(
        ConfigError,
        make(DQN, optimize_memory_usage=True, replay_buffer_kwargs={"handle_timeout_termination": False}),
        demos,
        fill_replay_buffer=True,
    )
    refused(SpaceMismatchError, make(PPO), demos | {"obs": demos["obs"][:, :2], "next_obs": demos["next_obs"][:, :2]})
    refused(DataError, make(PPO), with_rewards, validation_fraction=0.5)
    for option in (
        {"n_epochs": 0},
        {"batch_size": 0},
        {"val_interval": 0},
        {"critic_warmup": -1},
        {"validation_fraction": 1.0},
    ):
        refused(ConfigError, make(PPO), demos, **option)
    with pytest.raises(ConfigError):
        pretrain(make(PPO), demos, learning_rate=float("nan"), progress_bar=False)
    with pytest.raises(ConfigError):
        CriticWarmup(n_epochs=0)
