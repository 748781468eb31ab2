"""Policies with a mixture or a squashed Gaussian: as Stable-Baselines3's own in every loop, and in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO

from understudy.data.rollout import generate_trajectories, make_min_episodes
from understudy.errors import ConfigError, UnsupportedSpaceError
from understudy.policies._own_head import OwnHeadPolicy
from understudy.policies.chunks import ChunkingPolicy
from understudy.policies.heads import log_likelihood
from understudy.policies.mixture import GaussianMixture, MixturePolicy
from understudy.policies.serialize import load_saved_policy, save_policy
from understudy.policies.squashed import SquashedGaussian, SquashedGaussianPolicy
from understudy.util.vec_env import make_vec_env

approx = pytest.approx

OBS = spaces.Box(-1, 1, (3,), np.float32)
ACT = spaces.Box(np.array([-2, 1], np.float32), np.array([2, 5], np.float32))
EITHER = pytest.mark.parametrize("policy_class", [MixturePolicy, SquashedGaussianPolicy])


def policy_of(policy_class: type[OwnHeadPolicy], act: spaces.Space[Any] = ACT, **options: Any) -> OwnHeadPolicy:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return policy_class(OBS, act, net_arch=[8], **options)


def observations(n: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (n, 3)).astype(np.float32)


@EITHER
def test_actions_lie_in_the_box(policy_class: type[OwnHeadPolicy]) -> None:
    policy = policy_of(policy_class, log_std_init=2.0)
    acts, state = policy.predict(observations(500))
    assert state is None
    assert acts.shape == (500, 2)
    assert acts.dtype == np.float32
    assert all(ACT.contains(act) for act in acts)
    assert len(np.unique(acts)) > 100
    assert policy.predict(observations(1)[0])[0].shape == (2,)


def test_rounding_never_leads_beyond_the_bounds() -> None:
    """−0.1 + ½ · 2 · 0.4 is 0.3 and a bit in float32."""
    act = spaces.Box(np.float32(-0.1), np.float32(0.3), (1,))
    policy = policy_of(SquashedGaussianPolicy, act)
    assert act.contains(policy.unscale_action(np.ones(1, np.float32)))


@EITHER
def test_the_likelihood_is_a_density_in_the_scale_of_the_environment(policy_class: type[OwnHeadPolicy]) -> None:
    policy = policy_of(policy_class)
    policy.to(torch.float64)
    xs, ys = np.linspace(-2, 2, 401), np.linspace(1, 5, 401)
    if policy_class is MixturePolicy:  # not bound to the box
        xs, ys = np.linspace(-12, 12, 401), np.linspace(-9, 15, 401)
    grid = torch.as_tensor(np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2))
    obs = torch.zeros(len(grid), 3, dtype=torch.float64)
    with torch.no_grad():
        density = log_likelihood(policy, obs, grid).log_prob.exp().sum().item()
    assert density * (xs[1] - xs[0]) * (ys[1] - ys[0]) == approx(1.0, abs=0.03)


@EITHER
def test_the_head_is_the_distribution_that_reinforcement_learning_sees(policy_class: type[OwnHeadPolicy]) -> None:
    """The squashed one acts in [−1, 1]: its density there is 2 · 2 times that in the environment's scale."""
    policy = policy_of(policy_class)
    obs = torch.as_tensor(observations(5))
    acts, values, log_prob = policy(obs)
    assert values.shape == (5, 1)
    _, again, entropy = policy.evaluate_actions(obs, acts)
    torch.testing.assert_close(again, log_prob)
    assert entropy is not None
    squashes = policy_class is SquashedGaussianPolicy
    executed = torch.as_tensor(policy.unscale_action(acts.detach().numpy())) if squashes else acts
    terms = log_likelihood(policy, obs, executed)
    shift = np.log(4) if squashes else 0.0
    torch.testing.assert_close(terms.log_prob, log_prob - shift, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(terms.entropy, entropy + shift, atol=1e-4, rtol=1e-4)


@EITHER
def test_ppo_learns_with_it(policy_class: type[OwnHeadPolicy]) -> None:
    venv = make_vec_env("Pendulum-v1", rng=np.random.default_rng(0), n_envs=2)
    model = PPO(policy_class, venv, n_steps=16, batch_size=16, n_epochs=1, seed=0)
    before = [p.clone() for p in model.policy.parameters()]
    model.learn(64)
    assert all(torch.isfinite(p).all() for p in model.policy.parameters())
    assert any(not torch.equal(p, q) for p, q in zip(before, model.policy.parameters(), strict=True))
    trajectories = generate_trajectories(model, venv, make_min_episodes(2), np.random.default_rng(0))
    assert all((np.abs(t.acts) <= 2).all() for t in trajectories)


@pytest.mark.parametrize(
    ("policy_class", "options"),
    [
        (MixturePolicy, {"n_components": 3, "min_std": 0.02, "low_noise_evaluation": True}),
        (SquashedGaussianPolicy, {"state_dependent_std": False, "margin": 0.01}),
        (SquashedGaussianPolicy, {"min_std": 0.05}),
        (ChunkingPolicy, {"chunk_size": 4, "open_loop": 2, "ensemble_decay": 0.5}),
        (ChunkingPolicy, {}),
    ],
)
def test_a_file_holds_it_by_name_and_without_pickles(
    policy_class: type[OwnHeadPolicy], options: dict[str, Any], tmp_path: Path
) -> None:
    policy = policy_of(policy_class, **options)
    save_policy(policy, tmp_path / "policy.safetensors")
    loaded = load_saved_policy(tmp_path / "policy.safetensors")
    assert type(loaded) is policy_class
    assert str(loaded) == str(policy)
    obs = observations(20)
    for deterministic in (True, False):
        torch.manual_seed(3)
        expected, _ = policy.predict(obs, deterministic=deterministic)
        torch.manual_seed(3)
        np.testing.assert_array_equal(loaded.predict(obs, deterministic=deterministic)[0], expected)
    for name in options:
        assert getattr(loaded, name) == options[name]


def test_dictionaries_and_images_are_observed() -> None:
    parts = spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(3))
    obs: dict[str, np.ndarray] = {"a": np.zeros((4, 2), np.float32), "b": np.arange(4) % 3}
    image = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    for policy_class in (MixturePolicy, SquashedGaussianPolicy, ChunkingPolicy):
        assert policy_class(parts, ACT).predict(obs)[0].shape == (4, 2)
        assert policy_class(image, ACT).predict(np.zeros((4, 3, 36, 36), np.uint8))[0].shape == (4, 2)


def test_low_noise_evaluation_keeps_the_choice_and_drops_the_noise() -> None:
    """Two components at −1 and 1 (half the range is 2): both are drawn, each at its mean to 0.001."""
    policy = policy_of(MixturePolicy, spaces.Box(-2, 2, (1,)), n_components=2, low_noise_evaluation=True)
    assert isinstance(policy.action_net, torch.nn.Linear)
    with torch.no_grad():
        policy.action_net.weight.zero_()
        policy.action_net.bias.copy_(torch.tensor([0.0, 0.1, -0.5, 0.5, 0.0, 0.0]))
    torch.manual_seed(0)
    acts, _ = policy.predict(np.zeros((200, 3), np.float32))
    np.testing.assert_allclose(np.abs(acts), 1.0, atol=1e-3)
    assert 0.3 < (acts < 0).mean() < 0.7
    assert policy.predict(np.zeros((1, 3), np.float32), deterministic=True)[0].item() == approx(1.0)


def test_deviations_have_a_lower_bound() -> None:
    """0.1 of half the range, 2: no more than 1 / (0.2 √2π) of density, whatever the network says."""
    policy = policy_of(MixturePolicy, spaces.Box(-2, 2, (1,)), n_components=1, min_std=0.1)
    assert isinstance(policy, MixturePolicy)
    _, _, std = policy.components(torch.tensor([[0.0, 0.0, -1e4]]))
    assert std.item() == approx(0.2)


def test_without_bounds_numbers_are_taken_as_they_are() -> None:
    space = spaces.Box(-np.inf, np.inf, (2,))
    policy = policy_of(MixturePolicy, space)
    assert isinstance(policy, MixturePolicy)
    assert policy.center.tolist() == [0, 0]
    assert policy.half_range.tolist() == [1, 1]
    assert policy.predict(observations(3))[0].shape == (3, 2)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: MixturePolicy(OBS, spaces.Discrete(2)), UnsupportedSpaceError, "a Box of actions"),
        (lambda: SquashedGaussianPolicy(OBS, spaces.MultiBinary(2)), UnsupportedSpaceError, "a Box of actions"),
        (lambda: SquashedGaussianPolicy(OBS, spaces.Box(0, np.inf, (1,))), UnsupportedSpaceError, "finite bounds"),
        (lambda: ChunkingPolicy(OBS, spaces.Dict(a=ACT)), UnsupportedSpaceError, "MultiBinary"),
        (lambda: MixturePolicy(OBS, ACT, n_components=0), ConfigError, "n_components"),
        (lambda: MixturePolicy(OBS, ACT, min_std=0.0), ConfigError, "min_std"),
        (lambda: MixturePolicy(OBS, ACT, use_sde=True), ConfigError, "use_sde"),
        (lambda: SquashedGaussianPolicy(OBS, ACT, margin=0.0), ConfigError, "margin"),
        (lambda: ChunkingPolicy(OBS, ACT, chunk_size=0), ConfigError, "chunk_size"),
        (lambda: ChunkingPolicy(OBS, ACT, chunk_size=4, open_loop=5), ConfigError, "open_loop"),
        (lambda: ChunkingPolicy(OBS, ACT, ensemble_decay=-1.0), ConfigError, "ensemble_decay"),
    ],
)
def test_what_cannot_work_says_so_at_construction(make: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        make()
    assert "Do this:" in str(caught.value)


def test_the_distributions_are_of_stable_baselines() -> None:
    logits, mean, std = torch.zeros(2, 3), torch.randn(2, 3, 1), torch.ones(2, 3, 1)
    mixture = GaussianMixture()
    acts, log_prob = mixture.log_prob_from_params(logits, mean, std)
    torch.testing.assert_close(mixture.log_prob(acts), log_prob)
    assert mixture.actions_from_params(logits, mean, std, deterministic=True).tolist() == mean[:, 0].tolist()
    assert mixture.proba_distribution_net(4, 9).out_features == 9
    squashed = SquashedGaussian(mean[:, 0], std[:, 0])
    acts, log_prob = squashed.log_prob_from_params(mean[:, 0], std[:, 0])
    torch.testing.assert_close(squashed.log_prob(acts), log_prob)
    torch.testing.assert_close(squashed.mode(), mean[:, 0].tanh())
    assert squashed.proba_distribution_net(4, 2).out_features == 2
