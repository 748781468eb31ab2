"""Acting by chunks: open loop and joined, each environment with a memory of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from understudy.errors import ConfigError, NonFiniteDataError
from understudy.policies.chunks import ChunkingPolicy
from understudy.policies.heads import as_targets, log_likelihood

approx = pytest.approx

OBS = spaces.Box(-10, 10, (1,), np.float32)
LINE = spaces.Box(-np.inf, np.inf, (1,))


def counting(**options: Any) -> ChunkingPolicy:
    """Answers o with the chunk o, o + 10, o + 20."""
    policy = ChunkingPolicy(OBS, LINE, net_arch=[], chunk_size=3, **options)
    assert isinstance(policy.action_net, torch.nn.Linear)
    with torch.no_grad():
        policy.action_net.weight.fill_(1.0)
        policy.action_net.bias.copy_(torch.tensor([0.0, 10.0, 20.0]))
    return policy


def act(policy: ChunkingPolicy, obs: list[float], state: Any, starts: list[bool] | None = None) -> tuple[Any, Any]:
    begins = None if starts is None else np.array(starts)
    acts, state = policy.predict(np.array(obs, np.float32)[:, None], state, begins, deterministic=True)
    return acts[:, 0].tolist(), state


def test_open_loop_looks_again_after_so_many_steps() -> None:
    policy = counting(open_loop=2)
    seen, state = [], None
    for obs in (1.0, 2.0, 3.0, 4.0, 5.0):
        acts, state = act(policy, [obs], state)
        seen += acts
    assert seen == [1.0, 11.0, 3.0, 13.0, 5.0]


def test_joined_chunks_weigh_the_oldest_most() -> None:
    """m = log 2. At the second step 11 (old) and 2 (new): (11 + ½·2)/1.5; at the third 21, 12, 3: (21 + 6 + ¾)/1.75."""
    policy = counting(ensemble_decay=float(np.log(2)))
    seen, state = [], None
    for obs in (1.0, 2.0, 3.0, 4.0):
        acts, state = act(policy, [obs], state)
        seen += acts
    assert seen == approx([1.0, 12 / 1.5, 27.75 / 1.75, (22 + 13 / 2 + 4 / 4) / 1.75])


@pytest.mark.parametrize("open_loop", [None, 2])
def test_environments_do_not_mix_and_begin_anew(open_loop: int | None) -> None:
    """Side by side as alone; where an episode starts, as the very first step."""
    policy = counting(open_loop=open_loop)
    script = np.random.default_rng(0).uniform(-9, 9, (8, 3))
    starts = np.zeros((8, 3), dtype=bool)
    starts[0], starts[3, 1], starts[6, 2] = True, True, True
    together, state = [], None
    for obs, begins in zip(script, starts, strict=True):
        acts, state = act(policy, obs.tolist(), state, begins.tolist())
        together.append(acts)
    for env in range(3):
        state = None
        for t in range(8):
            if starts[t, env]:
                state = None
            acts, state = act(policy, [script[t, env]], state)
            assert acts[0] == approx(together[t][env], abs=1e-5)


def test_without_a_state_it_acts_by_the_first_action() -> None:
    for policy in (counting(), counting(open_loop=3)):
        assert act(policy, [1.0, 5.0], None)[0] == [1.0, 5.0]
        obs = torch.tensor([[1.0], [5.0]])
        assert policy.get_distribution(obs).mode().flatten().tolist() == [1.0, 5.0]
        single, state = policy.predict(np.array([4.0], np.float32), deterministic=True)
        assert single.shape == (1,)
        assert policy.predict(np.array([4.0], np.float32), state, deterministic=True)[0].shape == (1,)


def test_a_state_of_other_environments_is_refused() -> None:
    policy = counting()
    _, state = act(policy, [1.0, 2.0], None)
    with pytest.raises(ConfigError, match="3 environments"):
        act(policy, [1.0, 2.0, 3.0], state)


def test_probabilities_are_joined_for_choices() -> None:
    """Old chunk: 0.2 for the second choice now; new: 0.9. With m = 0 the mean 0.55 wins; with a large m the old one."""
    space = spaces.Discrete(2, start=5)
    for decay, expected in ((0.0, 6), (50.0, 5)):
        policy = ChunkingPolicy(OBS, space, net_arch=[], chunk_size=2, ensemble_decay=decay)
        odds = [np.log(0.9 / 0.1), np.log(0.2 / 0.8)]
        assert isinstance(policy.action_net, torch.nn.Linear)
        with torch.no_grad():
            policy.action_net.weight.zero_()
            policy.action_net.bias.copy_(torch.tensor([0.0, odds[0], 0.0, odds[1]]))
        first, state = policy.predict(np.zeros((1, 1), np.float32), deterministic=True)
        assert first.tolist() == [6]
        assert policy.predict(np.zeros((1, 1), np.float32), state, deterministic=True)[0].tolist() == [expected]


SPACES = [
    spaces.Box(-2, 2, (2,)),
    spaces.Box(0, 1, (2, 2)),
    spaces.Discrete(3),
    spaces.MultiDiscrete([2, 3], start=[1, -1]),
    spaces.MultiBinary(3),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("open_loop", [None, 3])
def test_every_space_is_acted_in_and_learned_from(space: spaces.Space[Any], open_loop: int | None) -> None:
    policy = ChunkingPolicy(OBS, space, net_arch=[4], chunk_size=3, open_loop=open_loop)
    obs = np.zeros((6, 1), np.float32)
    state = None
    for step in range(4):
        acts, state = policy.predict(obs, state, np.full(6, step == 2), deterministic=bool(step % 2))
        assert all(space.contains(a.astype(space.dtype)) for a in acts), acts
    acts = np.stack([[space.sample() for _ in range(3)] for _ in range(6)])
    targets = as_targets(torch.as_tensor(acts), space, torch.float32)
    tensor = torch.as_tensor(obs)
    whole = log_likelihood(policy, tensor, targets)
    assert whole.log_prob.shape == whole.entropy.shape == (6,)
    # The first step alone is what the policy of Stable-Baselines3 sees.
    _, log_prob, entropy = policy.evaluate_actions(
        tensor, as_targets(torch.as_tensor(acts[:, 0]), space, torch.float32)
    )
    flat = targets.reshape(6, 3, -1).clone()
    flat[:, 1:] = -1 if not flat.is_floating_point() else float("nan")
    first = log_likelihood(policy, tensor, flat.flatten(1))
    torch.testing.assert_close(first.log_prob, log_prob)
    torch.testing.assert_close(first.entropy, entropy)


def test_sampled_actions_have_the_deviation_of_their_step() -> None:
    """softplus(x) + 0.01 with x for 0.5 at the first step and 3 at the second."""
    policy = counting(open_loop=2)
    with torch.no_grad():
        policy.raw_std.copy_(torch.log(torch.expm1(torch.tensor([[0.49], [2.99], [1.0]]))))
    torch.manual_seed(0)
    obs = np.zeros((4000, 1), np.float32)
    first, state = policy.predict(obs)
    second, _ = policy.predict(obs, state)
    assert first.std() == approx(0.5, rel=0.05)
    assert second.std() == approx(3.0, rel=0.05)


def test_nan_is_not_an_action() -> None:
    policy = counting()
    with torch.no_grad():
        policy.raw_std.zero_()
        policy.action_net.bias.fill_(float("nan"))  # type: ignore[operator]
    with pytest.raises(NonFiniteDataError, match="finite outputs"):
        act(policy, [1.0], None)


def test_single_actions_are_no_targets() -> None:
    with pytest.raises(ConfigError, match="train a ChunkingPolicy with BC"):
        log_likelihood(counting(), torch.zeros(2, 1), torch.zeros(2, 1))
