"""The closed form and autograd are one algorithm: same parameters after the same steps."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from understudy.algorithms._cloning_steps import AutogradStep, LossSettings, cloning_step, closed_form_layers
from understudy.data.batches import Batch
from understudy.policies.base import FeedForward32Policy, NormalizeFeaturesExtractor
from understudy.util.networks import EMANorm, RunningNorm

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTIONS: dict[str, gym.Space[Any]] = {
    "Discrete": spaces.Discrete(3),
    "MultiDiscrete": spaces.MultiDiscrete([2, 4]),
    "MultiBinary": spaces.MultiBinary(3),
    "Box": spaces.Box(-2.0, 2.0, (2,), np.float32),
}


def make_policy(action_space: gym.Space[Any], **kwargs: Any) -> ActorCriticPolicy:
    kwargs.setdefault("net_arch", [8, 8])
    return ActorCriticPolicy(BOX, action_space, lambda _: 1e-3, **kwargs)


def make_batch(action_space: gym.Space[Any], n: int, seed: int, weighted: bool = False) -> Batch:
    g = np.random.default_rng(seed)
    action_space.seed(seed)
    acts = np.stack([action_space.sample() for _ in range(n)])
    obs = torch.from_numpy(g.normal(size=(n, 3)).astype(np.float32))
    weights = torch.from_numpy(g.random(n).astype(np.float32)) if weighted else None
    return Batch(obs, torch.as_tensor(acts), weights)


def trained(
    policy: ActorCriticPolicy, closed: bool, batches: list[Batch], settings_: LossSettings, **kwargs: Any
) -> Any:
    # In double precision by plain steps, so that a difference of parameters is one of gradients; Adam would blow up the
    # rounding of gradients that are nearly zero. Its own steps are compared with torch's in the tests of flat_mlp.
    double = next(policy.parameters()).dtype == torch.float64
    optimizer = (torch.optim.SGD if double else torch.optim.Adam)(policy.parameters(), lr=1e-2)
    step = (
        cloning_step(policy, optimizer, settings_, **kwargs)
        if closed
        else AutogradStep(policy, optimizer, settings_, kwargs.get("minibatch_size"))
    )
    assert (step.path == "closed_form") == closed
    with step.running():
        for batch in batches:
            step.train(step.prepare(batch))
    return step


@settings(max_examples=60)
@given(
    st.integers(0, 2**31 - 1),
    st.sampled_from(sorted(ACTIONS)),
    st.lists(st.integers(1, 9), max_size=3),
    st.sampled_from([nn.Tanh, nn.ReLU, nn.Sigmoid, nn.Identity, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Softplus]),
    st.sampled_from([None, RunningNorm, EMANorm]),
    st.sampled_from([0.0, 1e-3, 0.3]),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([None, 0.5]),
    st.booleans(),
    st.sampled_from([None, 2]),
)
def test_both_ways_follow_the_same_gradients_to_1e_10(
    seed: int,
    kind: str,
    net_arch: list[int],
    activation: type[nn.Module],
    norm: type[nn.Module] | None,
    ent_weight: float,
    l2_weight: float,
    max_grad_norm: float | None,
    weighted: bool,
    minibatch_size: int | None,
) -> None:
    """Random widths, depths, activations, heads, normalisers and options, in float64."""
    extractor = (
        {}
        if norm is None
        else {
            "features_extractor_class": NormalizeFeaturesExtractor,
            "features_extractor_kwargs": {"normalize_class": norm},
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy = make_policy(ACTIONS[kind], net_arch=net_arch, activation_fn=activation, ortho_init=False, **extractor)
    policy.double()
    twin = copy.deepcopy(policy)
    batches = [make_batch(ACTIONS[kind], n, seed + n, weighted) for n in (4, 6, 3)]
    options = LossSettings(ent_weight, l2_weight, max_grad_norm)
    trained(policy, True, batches, options, minibatch_size=minibatch_size)
    trained(twin, False, batches, options, minibatch_size=minibatch_size)
    for (name, p), q in zip(policy.state_dict().items(), twin.state_dict().values(), strict=True):
        # Steps of 1e-2 along gradients that agree to 1e-10.
        assert torch.allclose(p, q, rtol=0, atol=1e-12), name


@pytest.mark.parametrize("kind", sorted(ACTIONS))
@pytest.mark.parametrize("norm", [None, RunningNorm])
def test_gradient_of_the_whole_policy_equals_autograd_in_float64(kind: str, norm: type[nn.Module] | None) -> None:
    """Head, trunk and log_std together, to 1e-10."""
    from understudy.functional.cloning import cloning_loss
    from understudy.policies.heads import as_targets, head_of
    from understudy.util.flat_mlp import ClosedFormMLP, FlatParameters

    torch.manual_seed(1)
    policy = make_policy(ACTIONS[kind]).double()
    layers, head = closed_form_layers(policy), head_of(policy)
    assert layers is not None
    assert head is not None
    batch = make_batch(ACTIONS[kind], 5, 1)
    assert isinstance(batch.obs, torch.Tensor)
    obs = batch.obs.double()
    if norm is not None:
        obs = norm(3).double()(obs)
    acts = as_targets(batch.acts, ACTIONS[kind], torch.float64)
    actor = [p for layer in layers for p in layer.linear.parameters()] + list(head.parameters)
    terms = head.terms(policy.action_net(policy.mlp_extractor.forward_actor(obs)), acts)
    expected = torch.autograd.grad(cloning_loss(*terms, 0.01), actor)
    flat = FlatParameters(actor)
    mlp = ClosedFormMLP(layers)
    mlp.backward(head.gradient(mlp.forward(obs), acts, 0.01, 1 / 5))
    for view, gradient in zip(flat.split(flat.gradient), expected, strict=True):
        assert torch.allclose(view, gradient, rtol=0, atol=1e-10)


def test_which_policies_take_the_closed_form(cartpole_venv: Any) -> None:
    plain = {
        "PPO": PPO("MlpPolicy", cartpole_venv).policy,
        "FeedForward32": FeedForward32Policy(BOX, spaces.Discrete(2), lambda _: 1e-3),
        "normalised": make_policy(spaces.Discrete(2), features_extractor_class=NormalizeFeaturesExtractor),
        "no hidden layer": make_policy(spaces.Discrete(2), net_arch=[]),
        "shared arch dict": make_policy(spaces.Discrete(2), net_arch={"pi": [4], "vf": [8, 8]}),
    }
    for name, policy in plain.items():
        assert closed_form_layers(policy) is not None, name
    hooked = make_policy(spaces.Discrete(2))
    hooked.mlp_extractor.policy_net[0].register_forward_hook(lambda *_: None)
    frozen = make_policy(spaces.Discrete(2))
    frozen.action_net.requires_grad_(False)
    dropout = make_policy(spaces.Discrete(2))
    dropout.mlp_extractor.policy_net.append(nn.Dropout(0.5))

    class OwnDistribution(ActorCriticPolicy):
        def get_distribution(self, obs: Any) -> Any:
            return super().get_distribution(obs)

    others = {
        "gSDE": make_policy(ACTIONS["Box"], use_sde=True),
        "hooked": hooked,
        "frozen": frozen,
        "dropout": dropout,
        "own distribution": OwnDistribution(BOX, spaces.Discrete(2), lambda _: 1e-3),
    }
    for name, policy in others.items():
        assert closed_form_layers(policy) is None, name


def test_gsde_and_own_distributions_learn_by_autograd() -> None:
    torch.manual_seed(0)
    policy = make_policy(ACTIONS["Box"], use_sde=True)
    batch = make_batch(ACTIONS["Box"], 16, 0)
    step = cloning_step(policy, torch.optim.Adam(policy.parameters(), 1e-2), LossSettings(0.0, 0.0))
    assert step.path == "autograd"
    with step.running():
        prepared = step.prepare(batch)
        before = step.terms(prepared).log_prob.mean()
        for _ in range(50):
            step.train(prepared)
        assert step.terms(prepared).log_prob.mean() > before + 0.5


_COMPILED = """
import copy, numpy as np, torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from understudy.algorithms import bc
from understudy.util import logger
g = np.random.default_rng(0)
data = {"obs": g.normal(size=(20, 3)).astype(np.float32), "acts": g.integers(0, 3, 20)}
box, choice = spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Discrete(3)
policy = ActorCriticPolicy(box, choice, lambda _: 1e-3, net_arch=[8])
ends = []
for compile in (False, "eager"):
    trainer = bc.BC(observation_space=box, action_space=choice, rng=0, policy=copy.deepcopy(policy), batch_size=8,
                    demonstrations=data, compile=compile, custom_logger=logger.configure(format_strs=[]))
    print(trainer.path)
    trainer.train(n_epochs=2, progress_bar=False)
    ends.append(torch.cat([p.detach().flatten() for p in trainer.policy.parameters()]))
print(float((ends[0] - ends[1]).abs().max()) < 1e-5)
"""


def test_compiled_on_request_and_equal() -> None:
    """In a process of its own: the run-time shape checks of the tests cannot be traced."""
    done = subprocess.run([sys.executable, "-c", _COMPILED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["closed_form", "compiled", "True"]


def test_measuring_moves_no_statistic() -> None:
    policy = make_policy(spaces.Discrete(3), features_extractor_class=NormalizeFeaturesExtractor)
    step = cloning_step(policy, torch.optim.Adam(policy.parameters()), LossSettings(0.0, 0.0))
    with step.running():
        batch = step.prepare(make_batch(spaces.Discrete(3), 8, 0))
        step.train(batch)
        before = copy.deepcopy(policy.state_dict())
        step.terms(batch)
        assert policy.training
        assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_a_callback_may_move_the_policy_or_load_an_optimiser() -> None:
    """After `.double()` or a loaded state in a callback, training goes on from what is there now."""
    torch.manual_seed(0)
    policy = make_policy(spaces.Discrete(3))
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    step = cloning_step(policy, optimizer, LossSettings(0.0, 0.0))
    batch = make_batch(spaces.Discrete(3), 8, 0)
    with step.running():
        step.train(step.prepare(batch))
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        step.refresh()
        before = policy.action_net.weight.detach().clone()
        step.train(step.prepare(batch))
        assert not torch.equal(before, policy.action_net.weight)
        policy.double()
        step.refresh()
        before = policy.action_net.weight.detach().clone()
        step.train(step.prepare(batch))
        assert policy.action_net.weight.dtype == torch.float64
        assert not torch.equal(before, policy.action_net.weight)


def test_a_squashing_policy_learns_actions_in_the_values_of_the_environment() -> None:
    """Its distribution lives in [-1, 1], ``predict`` answers in [-2, 6]: log π of the action 4 is that of 0.5."""
    space = spaces.Box(-2.0, 6.0, (1,), np.float32)
    torch.manual_seed(0)
    policy = ActorCriticPolicy(BOX, space, lambda _: 1e-3, use_sde=True, squash_output=True, net_arch=[8])
    obs = torch.zeros(16, 3)
    step = cloning_step(policy, torch.optim.Adam(policy.parameters(), 1e-2), LossSettings(0.0, 0.0))
    with step.running():
        batch = step.prepare(Batch(obs, torch.full((16, 1), 4.0)))
        with torch.no_grad():
            expected = policy.get_distribution(obs).log_prob(torch.full((16, 1), 0.5))
        assert torch.allclose(step.terms(batch).log_prob, expected)
        for _ in range(300):
            step.train(batch)
    assert policy.predict(np.zeros(3, np.float32), deterministic=True)[0] == pytest.approx(4.0, abs=0.1)
