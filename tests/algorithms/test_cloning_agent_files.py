"""Fitting a cloning agent to demonstrations, and saving and loading it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.utils.data import DataLoader

from understudy.algorithms.cloning_agent import BehavioralCloningAgent, Experience
from understudy.data.types import Trajectory, TransitionsMinimal, transitions_collate_fn
from understudy.errors import CheckpointError, ConfigError, SpaceMismatchError, TrainingDivergedError
from understudy.util.logger import configure

OBS = spaces.Box(-1, 1, (2,))
CHOICES = spaces.Discrete(2, start=1)
ADAM = functools.partial(torch.optim.Adam, lr=0.01)


def network(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.Dropout(dropout), nn.Linear(16, 2))


class Memory(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory, self.head = nn.GRU(2, 8, batch_first=True), nn.Linear(8, 2)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, obs: torch.Tensor, state: Any) -> Any:
        self.shapes.append(tuple(obs.shape[:2]))
        latent, state = self.memory(obs, state)
        return self.head(latent), state


@pytest.fixture
def make(tmp_path: Path) -> Any:
    def agent(net: nn.Module, **kwargs: Any) -> BehavioralCloningAgent:
        options = {"observation_space": OBS, "action_space": CHOICES, "optimizer": ADAM, "rng": 0}
        return BehavioralCloningAgent(cloning_network=net, **{**options, "custom_logger": quiet(tmp_path), **kwargs})

    return agent


def quiet(folder: Path) -> Any:
    return configure(folder / "log", [])


def episode(length: int, seed: int) -> Trajectory:
    obs = np.random.default_rng(seed).uniform(-1, 1, (length + 1, 2)).astype(np.float32)
    return Trajectory(obs, 1 + (obs[:-1, 0] > 0), None, terminal=True)


EPISODES = [episode(n, n) for n in (30, 20, 14)]
ROWS = TransitionsMinimal(
    obs=np.concatenate([e.obs[:-1] for e in EPISODES]), acts=np.concatenate([e.acts for e in EPISODES]), infos=None
)


@pytest.mark.parametrize(
    "form",
    [
        EPISODES,
        ROWS,
        {"obs": ROWS.obs, "acts": ROWS.acts},
        Experience(ROWS.obs, ROWS.acts),
        DataLoader(ROWS, batch_size=16, collate_fn=transitions_collate_fn),
    ],
    ids=["trajectories", "transitions", "arrays", "experience", "loader"],
)
def test_fit_takes_what_the_door_takes_and_experience(make: Any, form: Any) -> None:
    agent = make(network())
    before = agent.loss((ROWS.obs, ROWS.acts)).loss
    calls = []
    result = agent.fit(form, n_epochs=5, batch_size=16, on_epoch_end=lambda: calls.append(1), progress_bar=False)
    assert (result.n_epochs, result.n_batches, result.n_samples, len(calls)) == (5, 20, 5 * 64, 5)
    assert agent.train_step_counter == 20
    assert agent.loss((ROWS.obs, ROWS.acts)).loss < 0.8 * before


def test_fit_makes_sequences_of_episodes(make: Any) -> None:
    net = Memory()
    agent = make(net, num_outer_dims=2)
    net.shapes.clear()
    agent.fit(EPISODES, n_epochs=1, batch_size=8, progress_bar=False)
    assert net.shapes == [(3, 30)]
    net.shapes.clear()
    agent.fit(EPISODES, n_epochs=1, batch_size=8, sequence_length=10, progress_bar=False)
    assert net.shapes == [(7, 10)]  # 3 + 2 + 2 pieces
    net.shapes.clear()
    pieces = [Experience(e.obs[:-1], e.acts) for e in EPISODES]
    agent.fit(pieces, n_batches=2, batch_size=4, sequence_length=10, progress_bar=False)
    assert net.shapes == [(4, 10), (3, 10)]


def test_padding_is_never_learned_from(make: Any) -> None:
    agent = make(Memory(), num_outer_dims=2, mask_boundary=False)
    one_by_one = [agent.loss([e]).extra.loss.sum().item() for e in EPISODES]
    together = agent.loss(EPISODES)
    steps = sum(len(e.acts) for e in EPISODES)
    assert together.loss.item() == pytest.approx(sum(one_by_one) / steps, rel=1e-5)


def test_weights_of_demonstrations_are_used(make: Any) -> None:
    def fitted(acts: np.ndarray) -> torch.Tensor:
        agent = make(network())
        rows = {"obs": ROWS.obs, "acts": acts, "weights": np.repeat([1.0, 0.0], 32)}
        agent.fit(rows, n_epochs=2, batch_size=64, progress_bar=False)
        return nn.utils.parameters_to_vector(agent.cloning_network.parameters())

    other = ROWS.acts.copy()
    other[32:] = 3 - other[32:]
    assert torch.equal(fitted(ROWS.acts), fitted(other))
    other[0] = 3 - other[0]
    assert not torch.equal(fitted(ROWS.acts), fitted(other))


def test_fit_is_repeatable_and_follows_a_schedule(make: Any) -> None:
    def fitted(seed: int) -> bytes:
        agent = make(network(dropout=0.3), rng=seed)
        agent.fit(EPISODES, n_epochs=2, batch_size=16, schedule=lambda left: 0.01 * left, progress_bar=False)
        assert agent.optimizer is not None
        assert agent.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 / 8)
        return nn.utils.parameters_to_vector(agent.cloning_network.parameters()).detach().numpy().tobytes()

    assert fitted(1) == fitted(1)
    assert fitted(1) != fitted(2)


def test_fit_refuses_what_it_cannot_use(make: Any) -> None:
    agent = make(network())
    with pytest.raises(ConfigError, match="exactly one"):
        agent.fit(EPISODES)
    with pytest.raises(ConfigError, match="sequence_length"):
        agent.fit(EPISODES, n_epochs=1, sequence_length=3)
    with pytest.raises(SpaceMismatchError):
        agent.fit((ROWS.obs, ROWS.acts + 5), n_epochs=1)
    with pytest.raises(ConfigError, match="DataLoader"):
        make(Memory(), num_outer_dims=2).fit(
            DataLoader(ROWS, batch_size=16, collate_fn=transitions_collate_fn), n_epochs=1
        )


def test_a_divergence_in_fit_keeps_finite_parameters(make: Any) -> None:
    net = nn.Linear(2, 2)
    agent = make(net, action_space=OBS, optimizer=torch.optim.SGD(net.parameters(), lr=1e30))
    with pytest.raises(TrainingDivergedError):
        agent.fit((ROWS.obs, ROWS.obs), n_epochs=50, progress_bar=False)
    assert all(torch.isfinite(p).all() for p in net.parameters())


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_loaded_agent_goes_on_exactly(make: Any, tmp_path: Path) -> None:
    agent = make(network(dropout=0.3), gradient_clipping=0.5, clip="global", epsilon_greedy=0.25, name="clone")
    for _ in range(3):
        agent.train(ROWS)
    agent.save(tmp_path / "agent")
    loss = agent.loss(ROWS).loss.item()
    loaded = BehavioralCloningAgent.load(
        tmp_path / "agent", network(seed=9, dropout=0.3), ADAM, custom_logger=quiet(tmp_path)
    )
    assert loaded.loss(ROWS).loss.item() == loss
    assert loaded.train_step_counter == 3
    for name in ("gradient_clipping", "clip", "epsilon_greedy", "name", "observation_space", "action_space"):
        assert getattr(loaded, name) == getattr(agent, name)
    for _ in range(3):  # moments and the generator of dropout too
        assert loaded.train(ROWS).loss.item() == agent.train(ROWS).loss.item()
    pairs = zip(loaded.cloning_network.state_dict().values(), agent.cloning_network.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_zeros_saved_are_zeros_restored(make: Any, tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    agent = make(net)
    nn.init.zeros_(net.weight)
    agent.save(tmp_path / "agent")
    nn.init.ones_(net.weight)
    BehavioralCloningAgent.load(tmp_path / "agent", net, ADAM, custom_logger=quiet(tmp_path))
    assert net.weight.abs().max() == 0


def test_structured_spaces_are_kept(make: Any, tmp_path: Path) -> None:
    class Net(nn.Linear):
        def forward(self, obs: torch.Tensor) -> Any:
            out = super().forward(obs)
            return {"a": (out,), "b": out}

    space = spaces.Dict(a=spaces.Tuple((CHOICES,)), b=OBS)
    agent = make(Net(2, 2), action_space=space, loss_fn="sum_of_parts", optimizer=None)
    agent.save(tmp_path / "agent")
    loaded = BehavioralCloningAgent.load(tmp_path / "agent", Net(2, 2), None, custom_logger=quiet(tmp_path))
    assert loaded.action_space == space
    acts, again = agent.policy.predict(ROWS.obs)[0], loaded.policy.predict(ROWS.obs)[0]
    assert np.array_equal(acts["b"], again["b"])
    assert np.array_equal(acts["a"][0], again["a"][0])


def test_functions_and_other_networks_are_asked_for(make: Any, tmp_path: Path) -> None:
    def loss_fn(experience: Experience, training: bool) -> torch.Tensor:
        return net(experience.obs).square().mean(-1)

    net = nn.Linear(2, 2)
    agent = make(net, loss_fn=loss_fn, epsilon_greedy=lambda: 0.1)
    agent.save(tmp_path / "agent")
    load = functools.partial(BehavioralCloningAgent.load, tmp_path / "agent", custom_logger=quiet(tmp_path))
    with pytest.raises(ConfigError, match="loss_fn"):
        load(net, ADAM, epsilon_greedy=0.1)
    with pytest.raises(ConfigError, match="epsilon_greedy"):
        load(net, ADAM, loss_fn=loss_fn)
    with pytest.raises(CheckpointError, match=r"weight \(2, 2\).*weight \(2, 3\)|0.weight"):
        load(nn.Sequential(nn.Linear(2, 2)), ADAM, loss_fn=loss_fn, epsilon_greedy=0.1)
    with pytest.raises(CheckpointError, match="Adam"):
        load(net, functools.partial(torch.optim.SGD, lr=0.1), loss_fn=loss_fn, epsilon_greedy=0.1)
    assert load(net, ADAM, loss_fn=loss_fn, epsilon_greedy=0.1).loss_fn is loss_fn
