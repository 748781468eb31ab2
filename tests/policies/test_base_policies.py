"""Random and zero on every space, batched and single; the ready-made architectures."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO, SAC

from understudy.errors import UnsupportedSpaceError
from understudy.policies.base import (
    FeedForward32Policy,
    NonTrainablePolicy,
    NormalizeFeaturesExtractor,
    OffsetFeedForward32Policy,
    RandomPolicy,
    SAC1024Policy,
    ZeroPolicy,
)
from understudy.util.networks import EMANorm, RunningNorm

BOX = spaces.Box(-1, 1, (3,), np.float32)
ACTIONS = [
    spaces.Box(-2, 2, (2,), np.float32),
    spaces.Box(1, 2, (2, 2), np.float64),
    spaces.Discrete(3),
    spaces.Discrete(3, start=5),
    spaces.Discrete(3, start=-9),
    spaces.MultiDiscrete([3, 4]),
    spaces.MultiDiscrete([3, 4], start=[-1, 7]),
    spaces.MultiBinary(4),
]
OBSERVATIONS = [
    BOX,
    spaces.Discrete(4),
    spaces.Dict({"a": BOX, "b": spaces.Box(0, 255, (8, 8, 3), np.uint8)}),
]


def stack(samples):
    if isinstance(samples[0], dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    return np.stack(samples)


@pytest.mark.parametrize("observation_space", OBSERVATIONS, ids=str)
@pytest.mark.parametrize("action_space", ACTIONS, ids=str)
@pytest.mark.parametrize("cls", [RandomPolicy, ZeroPolicy])
def test_every_action_is_in_the_space(cls, action_space, observation_space):
    policy = cls(observation_space, action_space)
    obs = [observation_space.sample() for _ in range(5)]
    batch, state = policy.predict(stack(obs))
    assert state is None
    assert batch.shape == (5, *action_space.shape)
    assert batch.dtype == action_space.dtype
    single, _ = policy.predict(obs[0])
    for action in (*batch, single):
        assert action_space.contains(action.astype(action_space.dtype))


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (ACTIONS[0], [0, 0]),
        (ACTIONS[1], [[1, 1], [1, 1]]),
        (ACTIONS[2], 0),
        (ACTIONS[3], 5),
        (ACTIONS[4], -7),
        (ACTIONS[6], [0, 7]),
        (ACTIONS[7], [0, 0, 0, 0]),
    ],
)
def test_zero_is_the_nearest_action_to_zero(space, action):
    assert ZeroPolicy(BOX, space).predict(BOX.sample())[0].tolist() == action


def test_zero_needs_numbers():
    with pytest.raises(UnsupportedSpaceError, match="Dict"):
        ZeroPolicy(BOX, spaces.Dict({"a": spaces.Discrete(2)}))


@pytest.mark.defect("B29")
def test_random_follows_its_seed_and_leaves_the_global_generators_alone():
    obs = np.zeros((50, 3), np.float32)
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first = RandomPolicy(BOX, spaces.Discrete(10), seed=3).predict(obs)[0]
    again = RandomPolicy(BOX, spaces.Discrete(10), seed=3).predict(obs)[0]
    other = RandomPolicy(BOX, spaces.Discrete(10), seed=4).predict(obs)[0]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_non_trainable_policies_have_no_forward_and_are_not_abstract_by_accident():
    with pytest.raises(NotImplementedError, match="not trainable"):
        ZeroPolicy(BOX, spaces.Discrete(2))(torch.zeros(1, 3))
    with pytest.raises(TypeError, match="abstract"):
        NonTrainablePolicy(BOX, spaces.Discrete(2))  # type: ignore[abstract]


def test_architectures():
    small = FeedForward32Policy(BOX, spaces.Discrete(2), lambda _: 1e-3)
    assert [m.out_features for m in small.mlp_extractor.policy_net if isinstance(m, torch.nn.Linear)] == [32, 32]
    assert [m.out_features for m in small.mlp_extractor.value_net if isinstance(m, torch.nn.Linear)] == [32, 32]
    wide = FeedForward32Policy(BOX, spaces.Discrete(2), lambda _: 1e-3, net_arch=[8])
    assert wide.net_arch == [8]
    sac = SAC1024Policy(BOX, ACTIONS[0], lambda _: 1e-3)
    assert [m.out_features for m in sac.actor.latent_pi if isinstance(m, torch.nn.Linear)] == [1024, 1024]


@pytest.mark.parametrize("normalize_class", [RunningNorm, EMANorm])
def test_normalised_features_move_in_training_only(normalize_class):
    space = spaces.Box(-9, 9, (2, 2), np.float32)
    extractor = NormalizeFeaturesExtractor(space, normalize_class)
    out = extractor(torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[3.0, 4.0], [5.0, 6.0]]]))
    torch.testing.assert_close(out, torch.tensor([[-1.0] * 4, [1.0] * 4]), atol=1e-4, rtol=0)
    mean = extractor.normalize.running_mean.clone()
    extractor.eval()
    extractor(torch.ones(2, 2, 2) * 100)
    assert torch.equal(extractor.normalize.running_mean, mean)


def test_sb3_learners_take_them():
    ppo = PPO(
        FeedForward32Policy,
        "CartPole-v1",
        n_steps=32,
        batch_size=32,
        n_epochs=1,
        policy_kwargs={"features_extractor_class": NormalizeFeaturesExtractor},
        device="cpu",
    )
    ppo.learn(32)
    assert ppo.policy.features_extractor.normalize.count.item() > 0
    sac = SAC(SAC1024Policy, "Pendulum-v1", learning_starts=4, batch_size=4, buffer_size=16, device="cpu")
    sac.learn(6)


class ThreeToFive(gym.Env):
    """Pays 1 for the action 5 of {3, 4, 5}, and takes no other."""

    observation_space, action_space = BOX, spaces.Discrete(3, start=3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return np.zeros(3, np.float32), float(action == 5), False, False, {}


@pytest.mark.parametrize("kind", [PPO, A2C])
def test_choices_that_do_not_start_at_zero_are_learned_by_reinforcement(kind):
    model = kind(OffsetFeedForward32Policy, ThreeToFive(), n_steps=64, learning_rate=1e-2, gamma=0.0, seed=0)
    model.learn(640)
    assert model.predict(np.zeros(3, np.float32), deterministic=True)[0] == 5
    obs, acts = torch.zeros(1, 3), torch.tensor([5])
    _, log_prob, _ = model.policy.evaluate_actions(obs, acts)
    assert log_prob == model.policy.get_distribution(obs).log_prob(acts - 3)
    assert log_prob.exp() > 0.5
