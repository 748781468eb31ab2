"""Warming the critic up, filling the replay buffer, and learning on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from test_pretrain import CONTINUOUS, KINDS, TORQUE, VECTOR, Fixed, data, make, quick

from understudy.algorithms.pretrain import CriticWarmup, HoldActor, StayClose, pretrain
from understudy.errors import ConfigError

LONG = CriticWarmup(n_epochs=120, learning_rate=3e-3, batch_size=15)


def value_of(model: Any, obs: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.policy.predict_values(torch.as_tensor(obs)).numpy().ravel()  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", KINDS)
def test_the_critic_learns_the_demonstrations_returns(kind: type[BaseAlgorithm]) -> None:
    demos = data(kind in CONTINUOUS) | {"rews": np.full(60, 2.0)}
    report = quick(make(kind, gamma=0.5), demos, critic_warmup=30).critic
    assert report.mean_return == pytest.approx(4.0, abs=0.6)  # 2/(1 − ½), less at two ends
    assert report.loss_after < 0.3 * report.loss_before


@pytest.mark.parametrize("kind", [k for k in KINDS if k.__name__ not in ("DQN", "QRDQN")])
def test_the_actor_does_not_move_while_its_critic_learns(kind: type[BaseAlgorithm]) -> None:
    """The order of the batches is drawn first, so both clones are the same."""
    demos = data(kind in CONTINUOUS)
    alone, warmed = make(kind), make(kind)
    quick(alone, demos)
    quick(warmed, demos, critic_warmup=5)
    first, second = (m.predict(demos["obs"], deterministic=True)[0] for m in (alone, warmed))
    assert np.array_equal(first, second)
    moved = [not torch.equal(a, b) for a, b in zip(alone.policy.parameters(), warmed.policy.parameters(), strict=True)]
    assert any(moved)


def test_values_are_discounted_returns_where_the_environment_ended() -> None:
    """Rewards of 1, γ = ½, episodes of two steps: 1.5, then 1."""
    obs = np.tile(np.array([[0.0, 0, 1], [1, 0, 0]], np.float32), (20, 1))
    ends = np.tile([False, True], 20)
    demos = {"obs": obs, "acts": np.zeros(40, np.int64), "next_obs": obs, "rews": np.ones(40)}
    model = make(PPO, gamma=0.5)
    quick(model, demos | {"terminated": ends, "truncated": ~ends & ends}, critic_warmup=LONG)
    np.testing.assert_allclose(value_of(model, obs[:2]), [1.5, 1.0], atol=0.05)


@pytest.mark.defect("B5")
def test_a_time_limit_is_not_the_end() -> None:
    """The same steps cut by a time limit go on for ever: 1/(1 − ½) = 2 everywhere."""
    obs = np.tile(np.array([[0.0, 0, 1], [1, 0, 0]], np.float32), (20, 1))
    ends = np.tile([False, True], 20)
    demos = {"obs": obs, "acts": np.zeros(40, np.int64), "next_obs": obs[::-1].copy(), "rews": np.ones(40)}
    model = make(PPO, gamma=0.5)
    quick(model, demos | {"terminated": ends & ~ends, "truncated": ends}, critic_warmup=LONG)
    np.testing.assert_allclose(value_of(model, obs[:2]), [2.0, 2.0], atol=0.05)


def test_unknown_ends_are_what_the_caller_says() -> None:
    obs = np.ones((20, 3), np.float32)
    demos = {"obs": obs, "acts": np.zeros(20, np.int64), "rews": np.ones(20), "episode_ends": np.arange(1, 21)}
    values = {}
    for kind in ("terminated", "truncated"):
        model = make(PPO, gamma=0.5)
        quick(model, demos, critic_warmup=LONG, unknown_ends=kind)
        values[kind] = value_of(model, obs[:1])[0]
    assert values["terminated"] == pytest.approx(1.0, abs=0.05)
    assert values["truncated"] == pytest.approx(2.0, abs=0.05)


def test_q_values_keep_the_experts_choice_ahead() -> None:
    """Rewards that the second entry of the observation decides, at γ = 0."""
    demos = data(False)
    demos["rews"] = 5.0 * np.sign(demos["obs"][:, 1])
    model = make(DQN, gamma=0.0)
    quick(model, demos, 100, critic_warmup=LONG)
    with torch.no_grad():
        q = model.q_net(torch.as_tensor(demos["obs"])).numpy()
    rows = np.arange(60)
    assert np.mean(q[rows, demos["acts"]] > q[rows, 1 - demos["acts"]]) >= 0.95
    assert np.corrcoef(q.max(1), demos["rews"])[0, 1] > 0.8


# --- the replay buffer ------------------------------------------------------------------------------------------


@pytest.mark.defect("B3")
@pytest.mark.parametrize("kind", [SAC, TD3])
def test_the_replay_buffer_holds_the_demonstrations_exactly(kind: type[BaseAlgorithm]) -> None:
    model, demos = make(kind), data(True)
    result = quick(model, demos, fill_replay_buffer=True)
    buffer = model.replay_buffer
    assert result.n_replayed == 60 == buffer.size()
    assert np.array_equal(buffer.observations[:60, 0], demos["obs"])
    assert np.array_equal(buffer.next_observations[:60, 0], demos["next_obs"])
    assert np.array_equal(buffer.actions[:60, 0], demos["acts"] / 2)  # ±1.5 of ±2 is ±0.75 of ±1
    assert np.array_equal(buffer.rewards[:60, 0], demos["rews"].astype(np.float32))


@pytest.mark.defect("B5")
def test_what_is_sampled_is_done_only_where_the_environment_ended() -> None:
    model, demos = make(DQN), data(False)
    quick(model, demos, fill_replay_buffer=True)
    buffer = model.replay_buffer
    ends = demos["terminated"] | demos["truncated"]
    assert np.array_equal(buffer.dones[:60, 0].astype(bool), ends)
    assert np.array_equal(buffer.timeouts[:60, 0].astype(bool), demos["truncated"])
    samples = buffer._get_samples(np.arange(60))
    assert np.array_equal(samples.dones.numpy().ravel().astype(bool), demos["terminated"])
    assert np.array_equal(buffer.actions[:60, 0, 0], demos["acts"])


def test_actions_beyond_the_bounds_are_stored_as_executed() -> None:
    model = make(SAC)
    quick(model, data(True) | {"acts": np.full((60, 1), 3.0, np.float32)}, fill_replay_buffer=True)
    assert np.all(model.replay_buffer.actions[:60] == 1.0)


def test_columns_of_several_environments_are_runs_of_the_demonstrations() -> None:
    """60 rows in 7 columns of 8; 4 are left over. A run that stops inside an episode looks cut by a time limit."""
    venv = make_vec_env(lambda: Fixed(VECTOR, TORQUE), n_envs=7)
    model, demos = make(SAC, venv), data(True)
    assert quick(model, demos, fill_replay_buffer=True).n_replayed == 56
    buffer = model.replay_buffer
    columns = demos["obs"][:56].reshape(7, 8, 3)
    assert np.array_equal(buffer.observations[:8].swapaxes(0, 1), columns)
    ends = demos["truncated"][:56].reshape(7, 8).copy()
    ends[:, -1] |= ~demos["terminated"][:56].reshape(7, 8)[:, -1]
    assert np.array_equal(buffer.timeouts[:8].T.astype(bool), ends)


def test_a_cut_step_with_nothing_known_after_it_is_left_out() -> None:
    """Without next observations the last of each two time-limited episodes of 15 steps cannot be stored."""
    demos = {k: v for k, v in data(True).items() if k != "next_obs"}
    model = make(SAC)
    assert quick(model, demos, fill_replay_buffer=True).n_replayed == 58
    buffer = model.replay_buffer
    kept = ~demos["truncated"]
    assert np.array_equal(buffer.observations[:58, 0], demos["obs"][kept])
    inside = np.flatnonzero(~(demos["truncated"] | demos["terminated"])[kept])
    rows = np.flatnonzero(kept)[inside]
    assert np.array_equal(buffer.next_observations[inside, 0], demos["obs"][rows + 1])


# --- learning on ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_learning_goes_on_from_the_clone(kind: type[BaseAlgorithm]) -> None:
    model, demos = make(kind), data(kind in CONTINUOUS)
    quick(model, demos, critic_warmup=1, fill_replay_buffer=kind.__name__ in ("SAC", "DQN"))
    rates = [group["lr"] for group in _optimizer(model).param_groups]
    model.learn(16, **({"use_masking": False} if kind.__name__ == "MaskablePPO" else {}))
    assert all(torch.isfinite(p).all() for p in model.policy.parameters())
    assert [group["lr"] for group in _optimizer(model).param_groups] == rates
    assert all(np.isfinite(rate) and rate < 1 for rate in rates)


def _optimizer(model: Any) -> torch.optim.Optimizer:
    return getattr(model.policy, "optimizer", None) or model.actor.optimizer  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [PPO, SAC])
def test_the_actor_is_held_for_so_many_steps_and_let_go(kind: type[BaseAlgorithm]) -> None:
    demos = data(kind in CONTINUOUS)
    held, free = make(kind), make(kind)
    before = held.predict(demos["obs"], deterministic=True)[0]
    logits = _scores(held, demos["obs"])
    kwargs = {"total_timesteps": 128 if kind is SAC else 32}
    held.learn(callback=HoldActor(128 if kind is SAC else 32), **kwargs)
    assert np.array_equal(held.predict(demos["obs"], deterministic=True)[0], before)
    assert np.array_equal(_scores(held, demos["obs"]), logits)
    assert all(p.requires_grad for p in held.policy.parameters()) or kind is SAC
    free.learn(callback=HoldActor(16), **kwargs)
    assert not np.array_equal(_scores(free, demos["obs"]), logits)


@pytest.mark.parametrize("kind", [PPO, DQN, SAC])
def test_cloning_goes_on_while_learning(kind: type[BaseAlgorithm]) -> None:
    """The same learner ends nearer to the demonstrations than without."""
    demos = data(kind in CONTINUOUS)
    losses = []
    for callback in (None, StayClose(demos, 10_000, n_steps=16, batch_size=15)):
        model = make(kind, **({"learning_starts": 8} if kind is not PPO else {}))
        model.learn(64, callback=callback)
        result = pretrain(model, demos, 1, 1e-12, progress_bar=False, rng=0)
        losses.append(result.losses[0].train)
    assert losses[1] < 0.9 * losses[0]


def test_cloning_while_learning_fades_out() -> None:
    """8 steps a rollout of one environment step, falling to 0 over 10: 0 at first, then 8 · (0.9 + 0.8 + … + 0.1)."""
    model = make(SAC, learning_starts=1000)
    callback = StayClose(data(True), 10, n_steps=8, batch_size=15)
    before = [p.detach().clone() for p in model.critic.parameters()]
    model.learn(20, callback=callback)
    assert callback.optimizer is not None
    steps = {int(s["step"]) for s in callback.optimizer.state.values()}
    assert steps == {36}
    assert all(torch.equal(a, b) for a, b in zip(before, model.critic.parameters(), strict=True))


def test_callbacks_refuse_what_they_cannot_do() -> None:
    with pytest.raises(ConfigError):
        HoldActor(0)
    with pytest.raises(ConfigError):
        StayClose(data(False), 0)
    with pytest.raises(ConfigError, match="actor and a critic"):
        make(DQN).learn(1, callback=HoldActor(1))
    with pytest.raises(ConfigError, match="without memory"):
        make(RecurrentPPO).learn(1, callback=StayClose(data(False), 10))


def _scores(model: Any, obs: np.ndarray) -> np.ndarray:
    tensors = torch.as_tensor(obs)
    with torch.no_grad():
        if isinstance(model, PPO):
            choices: Any = model.policy.get_distribution(tensors).distribution
            return np.asarray(choices.logits)
        return model.actor(tensors, deterministic=True).numpy()  # type: ignore[no-any-return]
