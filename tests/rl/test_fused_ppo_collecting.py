"""Collecting with ``FusedPPO``: everything around the sampled actions is as in PPO's ``collect_rollouts``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from _random_env import ACTION_SPACES, DISCRETE, VECTOR, model, random_venv, set_up
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize, VecTransposeImage
from torch import nn

from understudy.policies.base import NormalizeFeaturesExtractor
from understudy.rl.fused_ppo import FusedPPO

NORMALIZED = {"features_extractor_class": NormalizeFeaturesExtractor}
DICT = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(3)})


def collected(learner: PPO, callback: BaseCallback | None = None, rollouts: int = 1) -> RolloutBuffer:
    callback = callback or set_up(learner)
    for _ in range(rollouts):
        learner.collect_rollouts(learner.env, callback, learner.rollout_buffer, learner.n_steps)
    return learner.rollout_buffer


def flat(x: Any) -> torch.Tensor:
    return torch.as_tensor(x.reshape(-1, *x.shape[2:]))


@pytest.mark.parametrize("head", ACTION_SPACES)
@pytest.mark.parametrize("settings", [{}, {"policy_kwargs": NORMALIZED}, {"policy_kwargs": {"activation_fn": nn.ReLU}}])
@pytest.mark.parametrize("observation_space", [VECTOR, DICT, spaces.Discrete(4)], ids=["vector", "dict", "discrete"])
def test_values_and_log_likelihoods_are_the_policys(
    head: str, settings: dict[str, Any], observation_space: spaces.Space[Any]
) -> None:
    if observation_space is not VECTOR and "policy_kwargs" in settings:
        settings = {"policy_kwargs": {"share_features_extractor": False}}
    ours = model(FusedPPO, ACTION_SPACES[head], observation_space, **settings)
    if head == "gaussian":
        ours.policy.log_std.data = torch.tensor([-0.5, 0.3])
    collected(ours)
    ours.train()  # moves statistics, if there are any
    buffer = collected(ours, rollouts=2)
    obs = buffer.observations
    obs = {k: flat(x) for k, x in obs.items()} if isinstance(obs, dict) else flat(obs)
    acts = flat(buffer.actions)
    ours.policy.set_training_mode(False)
    with torch.no_grad():
        values, log_prob, _ = ours.policy.evaluate_actions(
            obs, acts.flatten() if head == "categorical" else acts.float()
        )
    assert np.abs(values.numpy().reshape(16, 4) - buffer.values).max() < 1e-5
    assert np.abs(log_prob.numpy().reshape(16, 4) - buffer.log_probs).max() < 1e-5
    assert buffer.actions.dtype == RolloutBuffer(1, VECTOR, ACTION_SPACES[head]).actions.dtype


def drawn(head: str) -> tuple[FusedPPO, np.ndarray]:
    """A policy that answers every observation alike, and 8,192 of its actions."""
    ours = model(FusedPPO, ACTION_SPACES[head], n_steps=2048, batch_size=64)
    ours.policy.action_net.weight.data.zero_()
    n = len(ours.policy.action_net.bias)
    ours.policy.action_net.bias.data = torch.linspace(-1, 0.5, n)
    if head == "gaussian":
        ours.policy.log_std.data = torch.tensor([-1.0, 0.5])
    torch.manual_seed(1)
    return ours, flat(collected(ours).actions).numpy()


def test_choices_are_drawn_with_their_probabilities() -> None:
    ours, acts = drawn("categorical")
    p = ours.policy.action_net.bias.softmax(0).detach().numpy()
    counts = np.bincount(acts[:, 0].astype(int), minlength=3)
    assert (np.abs(counts / 8192 - p) < 4 * np.sqrt(p * (1 - p) / 8192)).all()


def test_several_choices_are_drawn_independently() -> None:
    ours, acts = drawn("multi_categorical")
    bias = ours.policy.action_net.bias.detach()
    p = np.outer(bias[:2].softmax(0), bias[2:].softmax(0))
    counts = np.zeros((2, 3))
    np.add.at(counts, tuple(acts.astype(int).T), 1)
    assert (np.abs(counts / 8192 - p) < 4 * np.sqrt(p * (1 - p) / 8192)).all()


def test_bits_are_drawn_with_their_probabilities() -> None:
    ours, acts = drawn("bernoulli")
    p = ours.policy.action_net.bias.sigmoid().detach().numpy()
    assert set(np.unique(acts)) == {0, 1}
    assert (np.abs(acts.mean(0) - p) < 4 * np.sqrt(p * (1 - p) / 8192)).all()


def test_gaussians_are_drawn_unclipped_and_acted_clipped() -> None:
    ours, acts = drawn("gaussian")
    mean, std = ours.policy.action_net.bias.detach().numpy(), ours.policy.log_std.exp().detach().numpy()
    assert (np.abs(acts.mean(0) - mean) < 4 * std / 8192**0.5).all()
    assert (np.abs(acts.std(0) / std - 1) < 4 / (2 * 8192) ** 0.5).all()
    assert np.abs(acts).max() > 1  # the environment asserts that what reaches it lies within [-1, 1]


class Recording(BaseCallback):
    """The events that a callback sees, and the locals of the third step."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.events: list[str] = []
        self.seen: dict[str, Any] = {}
        self.stop_at = stop_at
        self.truncated: list[tuple[int, int, Any]] = []
        self.rewards: list[np.ndarray] = []

    def _on_training_start(self) -> None:
        self.events.append("training starts")

    def _on_rollout_start(self) -> None:
        self.events.append("rollout starts")

    def _on_step(self) -> bool:
        self.events.append(f"step {self.num_timesteps}")
        self.rewards.append(self.locals["rewards"].copy())
        for i, info in enumerate(self.locals["infos"]):
            if info["TimeLimit.truncated"]:
                self.truncated.append((self.locals["n_steps"], i, info["terminal_observation"]))
        if len(self.rewards) == 3:
            self.seen = {k: v for k, v in self.locals.items() if k != "self"}
        return self.num_timesteps != self.stop_at

    def _on_rollout_end(self) -> None:
        self.events.append("rollout ends")
        assert self.model.rollout_buffer.full
        assert np.abs(self.model.rollout_buffer.advantages).max() > 0

    def _on_training_end(self) -> None:
        self.events.append("training ends")


@pytest.mark.parametrize("head", ACTION_SPACES)
def test_callbacks_see_what_ppo_shows_them(head: str) -> None:
    callbacks = []
    for kind in (PPO, FusedPPO):
        callbacks.append(Recording())
        model(kind, ACTION_SPACES[head]).learn(128, callback=callbacks[-1])
    theirs, ours = callbacks
    assert ours.events == theirs.events
    # `idx` and `done` are of a loop over the environments.
    assert {*theirs.seen, "self"} - {"idx", "done"} <= {*ours.seen, "self"}
    for name in ("obs_tensor", "actions", "clipped_actions", "values", "log_probs", "new_obs", "rewards", "dones"):
        a, b = theirs.seen[name], ours.seen[name]
        assert (type(a), a.dtype, a.shape) == (type(b), b.dtype, b.shape), name


def test_a_callback_stops_it() -> None:
    ours, callback = model(FusedPPO), Recording(stop_at=20)
    ours.learn(128, callback=callback)
    assert ours.num_timesteps == 20
    assert callback.events[-1] == "training ends"
    assert "rollout ends" not in callback.events
    assert ours._n_updates == 0


def test_time_limits_bootstrap_and_ends_do_not() -> None:
    ours = model(FusedPPO, gamma=0.9, policy_kwargs=NORMALIZED)
    callback = Recording()
    callback.init_callback(ours)
    set_up(ours)
    buffer = collected(ours, callback)
    added = buffer.rewards - np.stack(callback.rewards)
    expected = np.zeros_like(added)
    for step, env, obs in callback.truncated:
        with torch.no_grad():
            expected[step, env] = 0.9 * ours.policy.predict_values(torch.as_tensor(obs)[None]).item()
    assert len(callback.truncated) == 4  # steps 14 of each of 4 environments
    assert np.abs(added - expected).max() < 1e-5
    with torch.no_grad():
        last = ours.policy.predict_values(torch.as_tensor(ours._last_obs)).numpy()[:, 0]
    deltas = buffer.rewards[-1] + 0.9 * last * (1 - ours._last_episode_starts) - buffer.values[-1]
    assert np.abs(buffer.advantages[-1] - deltas).max() < 1e-5


class InMemory(KVWriter):
    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        self.written.append(dict(key_values))

    def close(self) -> None:
        pass


def test_learning_logs_and_counts_as_ppo_does() -> None:
    written = []
    for kind in (PPO, FusedPPO):
        learner = kind("MlpPolicy", VecMonitor(random_venv()), n_steps=16, batch_size=16, device="cpu", seed=0)
        memory = InMemory()
        learner.set_logger(Logger(folder=None, output_formats=[memory]))
        learner.learn(150)
        written.append((learner.num_timesteps, learner._n_updates, learner._episode_num, memory.written))
    theirs, ours = written
    assert ours[:3] == theirs[:3]
    assert [set(row) for row in ours[3]] == [set(row) for row in theirs[3]]
    assert [row["rollout/ep_len_mean"] for row in ours[3]] == [7.0] * 3


def test_vec_normalize_and_images() -> None:
    counts = []
    for kind in (PPO, FusedPPO):
        venv = VecNormalize(random_venv(ACTION_SPACES["gaussian"]))
        kind("MlpPolicy", venv, n_steps=16, batch_size=16, device="cpu", seed=0).learn(128)
        counts.append((venv.obs_rms.count, venv.ret_rms.count))
    assert counts[0] == counts[1]
    image = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    ours = FusedPPO("MlpPolicy", VecTransposeImage(random_venv(DISCRETE, image)), n_steps=16, batch_size=16)
    assert ours.path == "closed_form"
    ours.learn(64)


def test_hooks_on_the_buffer_are_called() -> None:
    ours = model(FusedPPO)
    calls: list[str] = []
    buffer = ours.rollout_buffer
    add, compute = buffer.add, buffer.compute_returns_and_advantage

    def counted_add(*args: Any) -> None:
        calls.append("add")
        add(*args)

    def counted_compute(last_values: torch.Tensor, dones: np.ndarray) -> None:
        assert last_values.shape == (4, 1)
        calls.append("compute")
        compute(last_values=last_values, dones=dones)

    buffer.add, buffer.compute_returns_and_advantage = counted_add, counted_compute
    ours.learn(64)
    assert calls == ["add"] * 16 + ["compute"]


def test_double_precision_throughout() -> None:
    """Which PPO itself cannot do: it makes observations float32."""
    ours = model(FusedPPO, ACTION_SPACES["gaussian"])
    ours.policy.double()
    ours.learn(128)
    assert {p.dtype for p in ours.policy.parameters()} == {torch.float64}


@pytest.mark.parametrize("in_place", [True, False])
def test_a_policy_that_changes_while_collecting_is_followed(in_place: bool) -> None:
    class Shift(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 8:
                bias = self.model.policy.value_net.bias.data
                self.model.policy.value_net.bias.data = bias.add_(100) if in_place else bias + 100
            return True

    ours = model(FusedPPO)
    callback = Shift()
    callback.init_callback(ours)
    set_up(ours)
    values = collected(ours, callback).values
    assert values[:8].max() < 50 < values[8:].min()
