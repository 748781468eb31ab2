"""The lean actor gives the actions that ``predict`` would give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy

from understudy.data._acting import lean_actor
from understudy.errors import NonFiniteDataError
from understudy.policies.base import FeedForward32Policy, RandomPolicy

OBS = spaces.Box(-2, 2, (3,))
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
BOX = spaces.Box(np.array([-1, -3], np.float32), np.array([1, 0.5], np.float32))
DICT = spaces.Dict({"image": IMAGE, "n": spaces.Discrete(4), "x": OBS})


def made(kind: type[Any], observation_space: Any, action_space: Any, **kwargs: Any) -> BasePolicy:
    """A policy in evaluation mode whose outputs differ from observation to observation."""
    torch.manual_seed(0)
    policy = kind(observation_space, action_space, lambda _: 1e-3, **kwargs)
    for module in policy.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.5)
            torch.nn.init.normal_(module.bias, std=0.5)
    policy.set_training_mode(False)
    assert isinstance(policy, BasePolicy)
    return policy


POLICIES: dict[str, Callable[[], BasePolicy]] = {
    "choice": lambda: made(ActorCriticPolicy, OBS, spaces.Discrete(4)),
    "continuous": lambda: made(ActorCriticPolicy, OBS, BOX),
    "one continuous": lambda: made(ActorCriticPolicy, OBS, spaces.Box(-1, 1, (1,))),
    "continuous matrix": lambda: made(ActorCriticPolicy, OBS, spaces.Box(-1, 1, (2, 2))),
    "choices": lambda: made(ActorCriticPolicy, OBS, spaces.MultiDiscrete([2, 3])),
    "switches": lambda: made(ActorCriticPolicy, OBS, spaces.MultiBinary(3)),
    "32 by 32": lambda: made(FeedForward32Policy, OBS, spaces.Discrete(2)),
    "image": lambda: made(ActorCriticCnnPolicy, IMAGE, spaces.Discrete(3)),
    "dictionary": lambda: made(MultiInputActorCriticPolicy, DICT, spaces.Discrete(3)),
    "dictionary, continuous": lambda: made(MultiInputActorCriticPolicy, DICT, BOX),
    "observed choice": lambda: made(ActorCriticPolicy, spaces.Discrete(5), BOX),
    "observed matrix": lambda: made(ActorCriticPolicy, spaces.Box(-1, 1, (2, 3)), BOX),
    "observed in float64": lambda: made(ActorCriticPolicy, spaces.Box(-2, 2, (3,), np.float64), BOX),
    "separate extractors": lambda: made(ActorCriticPolicy, OBS, BOX, share_features_extractor=False),
    "squashed, state-dependent": lambda: made(ActorCriticPolicy, OBS, BOX, use_sde=True, squash_output=True),
    "state-dependent": lambda: made(ActorCriticPolicy, OBS, BOX, use_sde=True),
    "SAC": lambda: made(SACPolicy, OBS, BOX),
    "TD3": lambda: made(TD3Policy, OBS, BOX),
    "DQN": lambda: made(DQNPolicy, OBS, spaces.Discrete(4)),
}


def sampled_obs(space: Any, n: int = 32) -> Any:
    space.seed(0)
    rows = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([row[key] for row in rows]) for key in space}
    return np.stack(rows)


@pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES.keys())
def test_the_most_likely_action_is_the_same(make: Callable[[], BasePolicy]) -> None:
    policy = make()
    obs = sampled_obs(policy.observation_space)
    act = lean_actor(policy, deterministic=True)
    assert act is not None
    mine, (theirs, _) = act(obs), policy.predict(obs, deterministic=True)
    np.testing.assert_array_equal(mine, theirs)
    assert mine.dtype == theirs.dtype
    assert mine.shape == (32, *(policy.action_space.shape or ()))
    assert len(np.unique(mine.reshape(32, -1), axis=0)) > 1, "a policy that always does the same tests nothing"


@pytest.mark.parametrize(
    "make", [m for key, m in POLICIES.items() if not isinstance(m().action_space, spaces.Discrete) or key == "DQN"]
)
def test_samples_from_one_seed_are_the_same(make: Callable[[], BasePolicy]) -> None:
    policy = make()
    obs = sampled_obs(policy.observation_space)
    act = lean_actor(policy, deterministic=False)
    assert act is not None
    for seed in range(3):
        torch.manual_seed(seed)
        mine = act(obs)
        torch.manual_seed(seed)
        theirs, _ = policy.predict(obs, deterministic=False)
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
        assert mine.dtype == theirs.dtype


@pytest.mark.parametrize("name", ["choice", "image", "dictionary"])
def test_choices_are_sampled_with_the_policys_probabilities(name: str) -> None:
    policy = POLICIES[name]()
    assert isinstance(policy, ActorCriticPolicy)
    (row, n) = ({key: value[:1] for key, value in sampled_obs(DICT).items()}, 2000)
    if name != "dictionary":
        row = sampled_obs(policy.observation_space)[:1]
    with torch.no_grad():
        assert isinstance(policy.action_net, torch.nn.Linear)
        policy.action_net.weight.mul_(0.05)  # so that no choice is all but certain
        tensor, _ = policy.obs_to_tensor(row)
        expected = policy.get_distribution(tensor).distribution.probs[0].numpy()  # type: ignore[union-attr]
    many = {k: np.repeat(v, n, 0) for k, v in row.items()} if isinstance(row, dict) else np.repeat(row, n, 0)
    act = lean_actor(policy, deterministic=False)
    assert act is not None
    torch.manual_seed(0)
    found = np.bincount(act(many), minlength=len(expected)) / n
    assert ((expected > 0.02) & (expected < 0.98)).sum() >= 2
    # Four standard errors of a share of 2000 draws are at most 0.045.
    np.testing.assert_allclose(found, expected, atol=0.045)


def test_continuous_samples_have_the_policys_mean_and_spread() -> None:
    policy = made(ActorCriticPolicy, OBS, spaces.Box(-100, 100, (2,)), log_std_init=-0.5)
    obs = sampled_obs(OBS)[:1]
    mean, _ = policy.predict(obs, deterministic=True)
    act = lean_actor(policy, deterministic=False)
    assert act is not None
    torch.manual_seed(0)
    found = act(np.repeat(obs, 20_000, 0))
    np.testing.assert_allclose(found.mean(0), mean[0], atol=0.02)
    np.testing.assert_allclose(found.std(0), np.exp(-0.5), atol=0.02)


def test_continuous_actions_are_clipped_or_unscaled_to_the_space() -> None:
    wide = made(ActorCriticPolicy, OBS, BOX, log_std_init=3.0)
    squashed = made(SACPolicy, OBS, BOX)
    obs = np.repeat(sampled_obs(OBS), 10, 0)
    for policy in (wide, squashed):
        act = lean_actor(policy, deterministic=False)
        assert act is not None
        found = act(obs)
        assert np.all((found >= BOX.low) & (found <= BOX.high))
        assert np.ptp(found[:, 1]) > 2
    clipped = lean_actor(wide, deterministic=False)
    assert clipped is not None
    assert (clipped(obs) == BOX.low).mean() > 0.3


class OwnPredict(ActorCriticPolicy):
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        return super().predict(*args, **kwargs)


class OwnDistribution(ActorCriticPolicy):
    """Twice the logits, so its choices differ."""

    def get_distribution(self, obs: Any) -> Any:
        found = super().get_distribution(obs)
        return found.proba_distribution(-found.distribution.logits)  # type: ignore[union-attr]


class OwnPredictInner(ActorCriticPolicy):
    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return torch.full((len(observation),), 2)


def test_a_policy_with_a_behaviour_of_its_own_keeps_it() -> None:
    assert lean_actor(made(OwnPredict, OBS, spaces.Discrete(3)), True) is None
    patched = made(ActorCriticPolicy, OBS, spaces.Discrete(3))
    patched.predict = lambda *_, **__: (np.zeros(1), None)  # type: ignore[method-assign]
    assert lean_actor(patched, True) is None
    obs = sampled_obs(OBS)
    for kind in (OwnDistribution, OwnPredictInner):
        policy = made(kind, OBS, spaces.Discrete(3))
        act = lean_actor(policy, True)
        assert act is not None
        np.testing.assert_array_equal(act(obs), policy.predict(obs, deterministic=True)[0])
        if kind is OwnPredictInner:
            assert (act(obs) == 2).all()


def test_policies_that_draw_from_their_space() -> None:
    policy: BasePolicy = RandomPolicy(OBS, spaces.Discrete(3))
    act = lean_actor(policy, False)
    obs = sampled_obs(OBS)
    assert act is not None
    policy.action_space.seed(0)
    mine = act(obs)
    policy.action_space.seed(0)
    np.testing.assert_array_equal(mine, policy.predict(obs)[0])


@pytest.mark.parametrize(
    "kind", ["read-only", "repeated", "backwards", "every second", "float64", "channels-last images"]
)
def test_observations_in_unusual_memory(kind: str) -> None:
    policy = POLICIES["image" if "images" in kind else "continuous"]()
    obs = sampled_obs(policy.observation_space)
    forms: dict[str, Callable[[], np.ndarray]] = {
        "read-only": lambda: np.frombuffer(obs.tobytes(), obs.dtype).reshape(obs.shape),
        "repeated": lambda: np.broadcast_to(obs[:1], obs.shape),
        "backwards": lambda: obs[::-1],
        "every second": lambda: obs[::2],
        "float64": lambda: obs.astype(np.float64),
        "channels-last images": lambda: np.ascontiguousarray(obs.transpose(0, 2, 3, 1)),
    }
    given = forms[kind]()
    act = lean_actor(policy, True)
    assert act is not None
    np.testing.assert_allclose(act(given), policy.predict(given, deterministic=True)[0], rtol=1e-6)


def test_samples_follow_the_policys_spread() -> None:
    policy = POLICIES["continuous"]()
    act = lean_actor(policy, False)
    assert act is not None
    obs = sampled_obs(OBS)
    assert np.ptp(act(np.repeat(obs[:1], 50, 0)), axis=0).min() > 0.1
    with torch.no_grad():
        policy.log_std.fill_(-20)  # type: ignore[operator]
    np.testing.assert_allclose(act(obs), policy.predict(obs, deterministic=True)[0], atol=1e-5)


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_choice_of_probability_zero_is_never_made(deterministic: bool) -> None:
    policy = POLICIES["choice"]()
    with torch.no_grad():
        policy.action_net.bias[:3] = -torch.inf  # type: ignore[union-attr, operator]
    act = lean_actor(policy, deterministic)
    assert act is not None
    np.testing.assert_array_equal(act(sampled_obs(OBS)), 3)


@pytest.mark.fault("F8")
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("name", ["choice", "continuous", "TD3", "SAC", "image"])
def test_a_policy_that_is_not_a_number_is_not_acted_on(name: str, deterministic: bool) -> None:
    policy = POLICIES[name]()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.fill_(torch.nan)
    act = lean_actor(policy, deterministic)
    assert act is not None
    with pytest.raises((NonFiniteDataError, ValueError)) as caught:
        act(sampled_obs(policy.observation_space))
    if isinstance(policy, ActorCriticPolicy):
        assert isinstance(caught.value, NonFiniteDataError)


def test_the_actor_keeps_no_gradient_and_no_mode() -> None:
    policy = POLICIES["choice"]()
    act = lean_actor(policy, True)
    assert act is not None
    act(sampled_obs(OBS))
    assert not policy.training
    assert all(parameter.grad is None for parameter in policy.parameters())
    assert isinstance(policy, ActorCriticPolicy)
    policy.evaluate_actions(torch.zeros(2, 3), torch.zeros(2))[1].sum().backward()
