"""Small networks computed by NumPy give torch's outputs; whatever is not plainly one is left to torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from understudy.data._small_networks import actor_outputs

OBS, CHOICES = spaces.Box(-2, 2, (3,)), spaces.Discrete(4)


def made(observation_space: spaces.Space[Any] = OBS, **kwargs: Any) -> ActorCriticPolicy:
    torch.manual_seed(0)
    policy = ActorCriticPolicy(observation_space, CHOICES, lambda _: 1e-3, **kwargs)
    for layer in policy.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.bias)
    nn.init.normal_(policy.action_net.weight)  # type: ignore[arg-type]
    return policy


def by_torch(policy: ActorCriticPolicy, obs: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        hidden = policy.mlp_extractor.forward_actor(torch.as_tensor(obs, dtype=torch.float32))
        return np.asarray(policy.action_net(hidden).numpy())


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("net_arch", [[], [5], [32, 32, 7]], ids=str)
def test_outputs_are_torchs(activation: type[nn.Module], net_arch: list[int]) -> None:
    policy = made(net_arch=net_arch, activation_fn=activation)
    outputs = actor_outputs(policy)
    assert outputs is not None
    obs = np.random.default_rng(0).normal(size=(6, 3))
    np.testing.assert_allclose(outputs(obs), by_torch(policy, obs), rtol=1e-5, atol=1e-5)
    assert outputs(obs).dtype == np.float32
    assert np.ptp(outputs(obs), axis=0).min() > 0.1


def test_they_follow_the_policy() -> None:
    policy = made()
    outputs = actor_outputs(policy)
    assert outputs is not None
    obs = np.ones((2, 3), dtype=np.float32)
    before = outputs(obs)
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    policy.evaluate_actions(torch.ones(2, 3), torch.zeros(2))[1].sum().backward()
    optimizer.step()
    assert not np.allclose(before, outputs(obs))
    np.testing.assert_allclose(outputs(obs), by_torch(policy, obs), rtol=1e-5, atol=1e-5)


def put_others_in_place(policy: ActorCriticPolicy) -> None:
    policy.to(torch.float64).to(torch.float32)
    with torch.no_grad():
        policy.action_net.bias.add_(1)  # type: ignore[operator]


def replace_a_layer(policy: ActorCriticPolicy) -> None:
    policy.action_net = nn.Linear(64, 4)


def replace_it_by_more(policy: ActorCriticPolicy) -> None:
    policy.action_net = nn.Sequential(nn.Linear(64, 4), nn.Softplus())


@pytest.mark.parametrize("change", [put_others_in_place, replace_a_layer, replace_it_by_more])
def test_they_follow_other_parameters(change: Callable[[ActorCriticPolicy], None]) -> None:
    policy = made()
    outputs = actor_outputs(policy)
    assert outputs is not None
    obs = np.ones((2, 3), dtype=np.float32)
    before = outputs(obs)
    change(policy)
    assert not np.allclose(before, outputs(obs))
    np.testing.assert_allclose(outputs(obs), by_torch(policy, obs), rtol=1e-5, atol=1e-5)


def test_the_observations_given_are_not_written_to() -> None:
    policy = made(net_arch=[])
    outputs = actor_outputs(policy)
    assert outputs is not None
    obs = np.ones((2, 3), dtype=np.float32)
    outputs(obs)
    np.testing.assert_array_equal(obs, 1)


def hooked() -> ActorCriticPolicy:
    policy = made()
    policy.action_net.register_forward_hook(lambda module, given, out: out + 1)
    return policy


OTHERS: dict[str, Callable[[], ActorCriticPolicy]] = {
    "another activation": lambda: made(activation_fn=nn.ELU),
    "many parameters": lambda: made(net_arch=[256, 256]),
    "a hook": hooked,
    "double precision": lambda: made().double(),
    "choices as observations": lambda: made(spaces.Discrete(3)),
    "a matrix as observation": lambda: made(spaces.Box(-1, 1, (2, 2))),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS.keys())
def test_others_are_left_to_torch(make: Callable[[], ActorCriticPolicy]) -> None:
    assert actor_outputs(make()) is None
