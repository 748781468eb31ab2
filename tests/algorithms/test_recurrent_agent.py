"""A recurrent network for the cloning agent: it remembers, and learns from pieces of episodes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from _memory_task import ACTIONS, SPACE, demonstrations, venv_of
from gymnasium import spaces
from torch import nn

from understudy.algorithms.cloning_agent import BehavioralCloningAgent, Experience
from understudy.data.rollout import make_sample_until, rollout
from understudy.data.types import Trajectory
from understudy.errors import ConfigError, UnsupportedSpaceError
from understudy.policies.recurrent import RecurrentNetwork
from understudy.util.logger import configure

NUMBER = spaces.Box(-100, 100, (1,))
SGD = functools.partial(torch.optim.SGD, lr=0.01)


def agent_of(network: nn.Module, obs: Any = NUMBER, act: Any = NUMBER, **options: Any) -> BehavioralCloningAgent:
    options = {"optimizer": SGD, "num_outer_dims": 2, "rng": 0, "loss_fn": "sum_of_parts", **options}
    return BehavioralCloningAgent(obs, act, network, custom_logger=configure(format_strs=[]), **options)


def seeded(*args: Any, **options: Any) -> RecurrentNetwork:
    torch.manual_seed(0)
    return RecurrentNetwork(*args, **options)


def parameters(agent: BehavioralCloningAgent) -> torch.Tensor:
    return nn.utils.parameters_to_vector(agent.cloning_network.parameters()).detach().clone()


class Sum(nn.Module):
    """Adds up what it has seen, each number times a weight; the state is the sum so far."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.calls: list[tuple[int, ...]] = []

    def forward(self, obs: torch.Tensor, state: Any = None) -> Any:
        self.calls.append(tuple(obs.shape[:2]))
        sums = (obs.new_zeros(len(obs), 1) if state is None else state)[:, None] + (self.scale * obs).cumsum(1)
        return sums, sums[:, -1]


class SumThatResets(Sum):
    """The same, looking at episode starts itself."""

    def forward(self, obs: torch.Tensor, state: Any, episode_start: torch.Tensor) -> Any:  # type: ignore[override]
        self.calls.append(tuple(obs.shape[:2]))
        total = obs.new_zeros(len(obs), 1) if state is None else state
        seen = []
        for t in range(obs.shape[1]):
            total = torch.where(episode_start[:, t, None], 0.0, total) + self.scale * obs[:, t]
            seen.append(total)
        return torch.stack(seen, 1), total


def test_the_clone_remembers_a_cue_for_twenty_steps() -> None:
    network = seeded(SPACE, ACTIONS, "gru", 32, net_arch=(16,))
    agent = agent_of(network, SPACE, ACTIONS, optimizer=functools.partial(torch.optim.Adam, lr=1e-2))
    agent.fit(demonstrations(64), n_epochs=120, batch_size=16, progress_bar=False)
    enough = make_sample_until(min_episodes=40)
    for policy in (agent.policy, agent.collect_policy):
        policy.epsilon = 0.0 if policy.epsilon is not None else None
        found = rollout(policy, venv_of(8), enough, np.random.default_rng(1))
        assert np.mean([each.rews.sum() for each in found]) >= 0.95


# --- burn-in, worked out by hand --------------------------------------------------------------------------------------

FOUR = Trajectory(np.array([[1.0], [2], [4], [8], [16]], np.float32), np.zeros((4, 1), np.float32), None, terminal=True)
TWO = Trajectory(np.array([[3.0], [5], [7]], np.float32), np.zeros((2, 1), np.float32), None, terminal=True)


@pytest.mark.parametrize("network", [Sum, SumThatResets])
@pytest.mark.parametrize("as_experience", [False, True])
def test_burn_in_runs_the_state_and_has_no_gradient(network: Any, as_experience: bool) -> None:
    """Pieces (1, 2), [2] (4, 8) and (3, 5) of actions 0: the loss is the mean of sum² over the six learned steps.

    With weight w = 1, sums are 1, 3 | 2 + 4, 2 + 4 + 8 | 3, 8. What came before a piece is a constant, so that the
    derivatives of these sums by w are 1, 3 | 4, 12 | 3, 8.
    """
    data: Any = [FOUR, TWO]
    if as_experience:
        data = [Experience(np.asarray(t.obs)[:-1], t.acts) for t in data]
    agent = agent_of(network())
    agent.fit(data, n_batches=1, batch_size=3, sequence_length=2, burn_in=1, progress_bar=False)
    gradient = sum(2 * s * d for s, d in [(1, 1), (3, 3), (6, 4), (14, 12), (3, 3), (8, 8)]) / 6
    assert parameters(agent).item() == pytest.approx(1 - 0.01 * gradient)
    assert agent.cloning_network.calls[-2:] == [(3, 1), (3, 2)]  # type: ignore[index]


def test_burn_in_of_ones_own_experience() -> None:
    steps = Experience(np.array([[[1.0], [2], [4]]]), np.zeros((1, 3, 1)), burn_in=np.array([[True, False, False]]))
    info = agent_of(Sum()).loss(steps)
    assert info.extra.loss.tolist() == [[1, 9, 49]]
    assert info.loss.item() == (9 + 49) / 2
    agent = agent_of(Sum())
    agent.train(steps)
    assert parameters(agent).item() == pytest.approx(1 - 0.01 * (2 * 3 * 2 + 2 * 7 * 6) / 2)


@pytest.mark.parametrize("network", [Sum, SumThatResets])
def test_padding_is_no_element(network: Any) -> None:
    agent = agent_of(network())
    both = agent.loss([FOUR, TWO]).loss.item()
    alone = [agent.loss([each]).loss.item() for each in (FOUR, TWO)]
    assert both == pytest.approx((4 * alone[0] + 2 * alone[1]) / 6)


def test_a_step_of_weight_zero_runs_the_memory() -> None:
    data = {
        "obs": np.asarray(FOUR.obs)[:-1],
        "acts": np.array([[0.0], [99], [0], [0]], np.float32),
        "weights": np.array([1.0, 0, 1, 1]),
        "episode_ends": np.array([4]),
    }
    agent = agent_of(Sum())
    agent.fit(data, n_batches=1, batch_size=1, progress_bar=False)
    gradient = sum(2 * s * s for s in (1, 7, 15)) / 4  # it counts in the mean, as weights of zero do here
    assert parameters(agent).item() == pytest.approx(1 - 0.01 * gradient)


def test_burn_in_is_for_pieces_of_episodes() -> None:
    with pytest.raises(ConfigError, match="sequence_length"):
        agent_of(Sum()).fit([FOUR], n_epochs=1, burn_in=2)
    with pytest.raises(ConfigError, match="burn_in"):
        agent_of(Sum()).fit([FOUR], n_epochs=1, sequence_length=2, burn_in=-1)


# --- the network ------------------------------------------------------------------------------------------------------

NESTED = spaces.Dict(
    {
        "place": spaces.Box(-1, 1, (2,)),
        "picture": spaces.Box(0, 255, (8, 8, 3), np.uint8),
        "rest": spaces.Tuple([spaces.Discrete(3, start=2), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)]),
        "large": spaces.Box(0, 255, (1, 40, 40), np.uint8),
    }
)
ACTS = spaces.Dict(
    {
        "go": spaces.Box(-1, 1, (2, 2)),
        "pick": spaces.Tuple([spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)]),
    }
)


def batched(space: spaces.Space[Any], n: int, steps: int) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: batched(sub, n, steps) for key, sub in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(batched(sub, n, steps) for sub in space.spaces)
    return np.array([[space.sample() for _ in range(steps)] for _ in range(n)])


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_nested_spaces_and_steps_one_by_one(cell: Any) -> None:
    NESTED.seed(0)
    ACTS.seed(0)
    agent = agent_of(seeded(NESTED, ACTS, cell, 8, n_layers=2, net_arch=(8, 8)), NESTED, ACTS)
    obs = batched(NESTED, 2, 5)
    experience = Experience(obs, batched(ACTS, 2, 5))
    loss = agent.loss(experience).extra.loss
    assert loss.shape == (2, 5)
    assert agent.train(experience).loss > agent.loss(experience).loss

    def at(nest: Any, t: int) -> Any:
        if isinstance(nest, dict):
            return {key: at(value, t) for key, value in nest.items()}
        return tuple(at(value, t) for value in nest) if isinstance(nest, tuple) else nest[:, t]

    state, gone = None, []
    for t in range(5):
        acts, state = agent.policy.predict(at(obs, t), state, np.full(2, t == 0))
        gone.append(acts["go"])
    with torch.no_grad():
        whole, _ = agent.cloning_network(agent.read(experience).obs)
    assert np.stack(gone, 1) == pytest.approx(whole["go"].clip(-1, 1).numpy(), abs=1e-5)
    assert state is not None
    assert [part.shape for part in state] == [(2, 2, 8)] * (2 if cell == "lstm" else 1)


def test_images_first_and_last_are_the_same_network() -> None:
    first, last = spaces.Box(0, 255, (3, 40, 40), np.uint8), spaces.Box(0, 255, (40, 40, 3), np.uint8)
    image = torch.as_tensor(np.random.default_rng(0).integers(0, 256, (2, 4, 3, 40, 40), dtype=np.uint8))
    networks = seeded(first, ACTIONS), seeded(last, ACTIONS)
    outputs = networks[0](image)[0], networks[1](image.permute(0, 1, 3, 4, 2))[0]
    assert torch.allclose(outputs[0], outputs[1], atol=1e-6)
    assert outputs[0].shape == (2, 4, 3)


def test_an_lstm_begins_with_open_forget_gates() -> None:
    memory: Any = seeded(NUMBER, NUMBER, "lstm", 64).memory
    bias = (memory.bias_ih_l0 + memory.bias_hh_l0)[64:128]
    assert bias.mean().item() == pytest.approx(1, abs=0.05)
    wide: Any = seeded(NUMBER, NUMBER, "lstm", 64, forget_bias=3.0).memory
    assert (wide.bias_hh_l0 - memory.bias_hh_l0).tolist() == pytest.approx(
        [0.0] * 64 + [2.0] * 64 + [0.0] * 128, abs=1e-6
    )


def test_other_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match="cell"):
        RecurrentNetwork(NUMBER, NUMBER, "rnn")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="hidden_size"):
        RecurrentNetwork(NUMBER, NUMBER, hidden_size=0)
    for spaces_ in ((spaces.Text(5), NUMBER), (NUMBER, spaces.Text(5))):
        with pytest.raises(UnsupportedSpaceError):
            RecurrentNetwork(*spaces_)
