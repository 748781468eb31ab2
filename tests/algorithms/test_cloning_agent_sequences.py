"""Cloning networks with memory: states begin at zero, are reset where episodes begin, and travel through predict."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.distributions import Independent, Normal

from understudy.algorithms.cloning_agent import BehavioralCloningAgent, Experience
from understudy.errors import ConfigError
from understudy.util.logger import configure

ADAM = functools.partial(torch.optim.Adam, lr=0.01)
NUMBER = spaces.Box(-100, 100, (1,))


@pytest.fixture
def make(tmp_path: Path) -> Any:
    def agent(network: nn.Module, **kwargs: Any) -> BehavioralCloningAgent:
        options = {
            "observation_space": NUMBER,
            "action_space": NUMBER,
            "optimizer": ADAM,
            "num_outer_dims": 2,
            "rng": 0,
        }
        return BehavioralCloningAgent(
            cloning_network=network, **{**options, "custom_logger": configure(tmp_path, []), **kwargs}
        )

    return agent


class Sum(nn.Module):
    """Adds up what it has seen; the state is the sum so far."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, obs: torch.Tensor, state: Any) -> Any:
        before = obs.new_zeros(len(obs), 1) if state is None else state["sum"]
        sums = before[:, None] + obs.cumsum(1)
        return sums * self.scale, {"sum": sums[:, -1]}


class SumThatResets(Sum):
    """The same, looking at episode starts itself, one step after the other."""

    def forward(self, obs: torch.Tensor, state: Any, episode_start: torch.Tensor) -> Any:
        total = obs.new_zeros(1, len(obs), 1) if state is None else state[0]
        seen = []
        for t in range(obs.shape[1]):
            total = torch.where(episode_start[None, :, t, None], 0.0, total) + obs[None, :, t]
            seen.append(total[0])
        return torch.stack(seen, 1) * self.scale, (total,)


class Lstm(nn.Module):
    def __init__(self, n_in: int = 1, n_out: int = 1, size: int = 40) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.memory, self.head = nn.LSTM(n_in, size, batch_first=True), nn.Linear(size, n_out)

    def forward(self, obs: torch.Tensor, state: Any = None) -> Any:
        latent, state = self.memory(obs, state)
        return self.head(latent), state


OBS = np.array([[1.0, 2, 3, 4], [10, 20, 30, 40]])[..., None]
STARTS = np.array([[0, 0, 1, 0], [0, 0, 0, 1]], bool)
SUMS = np.array([[1.0, 3, 3, 7], [10, 30, 60, 40]])[..., None]


@pytest.mark.parametrize("network", [Sum, SumThatResets])
def test_memory_begins_at_zero_and_is_reset_where_an_episode_begins(make: Any, network: Any) -> None:
    agent = make(network())
    assert agent.loss(Experience(OBS, SUMS, STARTS)).extra.loss.abs().max() == 0
    without = agent.loss(Experience(OBS, SUMS)).extra.loss
    assert without.tolist() == [[0, 0, 9, 9], [0, 0, 0, 60.0**2]]


@pytest.mark.parametrize("network", [Sum, SumThatResets])
def test_predict_hands_the_state_on_and_resets_it(make: Any, network: Any) -> None:
    policy = make(network()).policy
    state, starts = None, np.ones(2, bool)
    for t in range(4):
        acts, state = policy.predict(OBS[:, t], state, starts)
        assert acts.tolist() == SUMS[:, t].tolist()
        starts = STARTS[:, t + 1] if t < 3 else starts
    assert isinstance(state, tuple)
    assert all(isinstance(part, np.ndarray) for part in state)


def test_what_followed_the_end_of_an_episode_begins_a_new_one(make: Any) -> None:
    boundary = np.array([[0, 1, 0, 0], [0, 0, 1, 0]], bool)
    starts = np.array([[1, 0, 1, 0], [1, 0, 0, 1]], bool)
    acts = np.where(boundary[..., None], 99.0, SUMS)  # meaningless there
    told = make(Sum()).loss(Experience(OBS, acts, starts, boundary))
    concluded = make(Sum()).loss(Experience(OBS, acts, None, boundary))
    assert told.loss.item() == concluded.loss.item() == 0


def test_a_state_of_nan_does_not_outlive_its_episode(make: Any) -> None:
    policy = make(Sum()).policy
    acts, _ = policy.predict(OBS[:, 0], (np.full((2, 1), math.nan, np.float32),), np.ones(2, bool))
    assert acts.tolist() == [[1.0], [10.0]]


def test_an_initial_state_of_the_networks_own_is_used(make: Any) -> None:
    class FromFive(Sum):
        def initial_state(self, batch_size: int) -> Any:
            return {"sum": torch.full((batch_size, 1), 5.0)}

    agent = make(FromFive())
    assert agent.loss(Experience(OBS, SUMS + 5, STARTS)).loss.item() == 0
    acts, _ = agent.policy.predict(OBS[:, 0], (np.zeros((2, 1), np.float32),), np.array([True, False]))
    assert acts.tolist() == [[6.0], [10.0]]


def test_single_rows_see_single_steps(make: Any) -> None:
    rows = make(Sum(), num_outer_dims=1)
    assert rows.loss(Experience(OBS[0], OBS[0])).loss.item() == 0


def test_a_network_with_memory_must_return_its_state(make: Any) -> None:
    class Forgets(Sum):
        def forward(self, obs: torch.Tensor, state: Any) -> Any:
            return super().forward(obs, state)[0]

    with pytest.raises(ConfigError, match="pair"):
        make(Forgets())


def test_a_state_without_a_batch_axis_cannot_be_reset_from_outside(make: Any) -> None:
    class Shared(Sum):
        def forward(self, obs: torch.Tensor, state: Any) -> Any:
            return obs * self.scale, obs.new_zeros(7)

    agent = make(Shared())
    assert agent.loss(Experience(OBS, OBS)).loss.item() == 0
    with pytest.raises(ConfigError, match="episode_start"):
        agent.loss(Experience(OBS, OBS, STARTS))


def test_networks_without_memory_may_return_a_pair_and_see_rows(make: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, obs: torch.Tensor, dropout: float = 0.0) -> Any:
            assert obs.dim() == 2
            return self.layer(obs), ()

    agent = make(Net())
    assert agent.loss(Experience(OBS, SUMS)).extra.loss.shape == (2, 4)
    assert agent.policy.predict(OBS[:, 0])[0].shape == (2, 1)


def test_a_recurrent_gaussian_has_a_loss_of_each_step_across_resets(make: Any) -> None:
    class Net(Sum):
        def forward(self, obs: torch.Tensor, state: Any) -> Any:
            mean, state = super().forward(obs, state)
            return Independent(Normal(mean, 1.0), 1), state

    info = make(Net()).loss(Experience(OBS, SUMS, STARTS))
    assert info.extra.loss.flatten().tolist() == pytest.approx([0.5 * math.log(2 * math.pi)] * 8)


def test_the_loss_of_an_lstm_falls_in_ten_steps(make: Any) -> None:
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (16, 7, 1))
    steps = Experience(obs, (obs.cumsum(1)[..., 0] > 0) + 1, np.eye(7, dtype=bool)[:1].repeat(16, 0))
    agent = make(Lstm(n_out=2), action_space=spaces.Discrete(2, start=1))
    losses = [agent.train(steps).loss.item() for _ in range(10)]
    assert losses[0] == pytest.approx(math.log(2), abs=0.02)
    assert losses[-1] < 0.9 * losses[0]


def test_acting_step_by_step_is_what_was_trained_on(make: Any) -> None:
    agent = make(Lstm())
    experience = Experience(OBS / 40, SUMS, STARTS)
    state, starts, errors = None, np.ones(2, bool), []
    for t in range(4):
        acts, state = agent.policy.predict(OBS[:, t] / 40, state, starts)
        errors.append((acts - SUMS[:, t]) ** 2)
        starts = STARTS[:, t + 1] if t < 3 else starts
    expected = np.stack(errors, 1)[..., 0]
    assert agent.loss(experience).extra.loss.detach().numpy() == pytest.approx(expected, rel=1e-5)
