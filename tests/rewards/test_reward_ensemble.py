"""Ensembles: evaluated together or one by one, the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from _reward_batches import ACTIONS, OBSERVATIONS, SMALL_IMAGE, VECTOR, batch
from gymnasium import spaces
from torch import nn

from understudy.errors import ConfigError, SpaceMismatchError
from understudy.rewards.reward_nets import (
    AddSTDRewardWrapper,
    BasicRewardNet,
    BasicShapedRewardNet,
    CnnRewardNet,
    NormalizedRewardNet,
    RewardEnsemble,
    RewardNet,
    _ensemble,
)
from understudy.testing.reward_nets import MockRewardNet, make_ensemble
from understudy.util.networks import EMANorm, RunningNorm

DISCRETE = spaces.Discrete(2)


def basic(**kwargs: Any) -> RewardNet:
    return BasicRewardNet(VECTOR, DISCRETE, **kwargs)


def normalized(**kwargs: Any) -> RewardNet:
    return NormalizedRewardNet(basic(**kwargs), RunningNorm)


MEMBERS: dict[str, tuple[Any, bool]] = {
    "plain": (lambda _: basic(), True),
    "leaky": (lambda _: basic(activation=nn.LeakyReLU, hid_sizes=(5, 6, 7)), True),
    "no hidden layer": (lambda _: basic(hid_sizes=()), True),
    "normalised inputs": (lambda _: basic(normalize_input_layer=EMANorm), True),
    "normalised": (lambda _: normalized(), True),
    "normalised twice": (lambda _: NormalizedRewardNet(normalized(), EMANorm), True),
    "dropout": (lambda _: basic(dropout_prob=0.5), True),
    "other sizes": (lambda i: basic(hid_sizes=(4 + i,)), False),
    "other inputs": (lambda i: basic(use_state=i > 0, use_next_state=i == 0), False),
    "other activations": (lambda i: basic(activation=(nn.ReLU, nn.Tanh)[i % 2]), False),
    "one normalised": (lambda i: normalized() if i == 1 else basic(), True),
    "shaped": (lambda _: BasicShapedRewardNet(VECTOR, DISCRETE), False),
    "spectral": (lambda _: basic(spectral_norm=True), False),
}


def ensemble(name: str, n: int = 3) -> RewardEnsemble:
    torch.manual_seed(0)
    members = [MEMBERS[name][0](i) for i in range(n)]
    made = RewardEnsemble(VECTOR, DISCRETE, members)
    rows = batch(VECTOR, DISCRETE, 9)
    for i, member in enumerate(members):  # their own statistics each
        member.train()
        member(*member.preprocess(rows[0] * (i + 1), *rows[1:]))
        member.predict_processed(*rows)
    return made


@pytest.mark.defect("B12")
@pytest.mark.parametrize("name", MEMBERS)
def test_together_equals_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, rows = ensemble(name), batch(VECTOR, DISCRETE, 7)
    taken = []
    together = _ensemble.forward_together
    monkeypatch.setattr(_ensemble, "forward_together", lambda *args: taken.append(1) or together(*args))
    before = {key: value.clone() for key, value in made.state_dict().items()}
    loop = np.stack([member.predict_processed(*rows, update_stats=False) for member in made.members], -1)
    found = made.predict_processed_all(*rows, update_stats=False)
    assert bool(taken) is MEMBERS[name][1]
    assert found == pytest.approx(loop, rel=1e-4, abs=1e-5)
    assert found.shape == (7, 3)
    assert found.dtype == np.float32
    assert made.predict_processed(*rows, update_stats=False) == pytest.approx(loop.mean(-1), rel=1e-4, abs=1e-5)
    assert made.predict(*rows) == pytest.approx(loop.mean(-1), rel=1e-4, abs=1e-5)
    assert made.predict_th(*rows).numpy() == pytest.approx(loop.mean(-1), rel=1e-4, abs=1e-5)
    mean, variance = made.predict_reward_moments(*rows, update_stats=False)
    assert mean == pytest.approx(loop.mean(-1), rel=1e-4, abs=1e-5)
    assert variance == pytest.approx(((loop - loop.mean(-1, keepdims=True)) ** 2).sum(-1) / 2, rel=1e-4, abs=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())
    assert all(module.training for module in made.modules())


@pytest.mark.parametrize("name", ["normalised", "one normalised", "shaped"])
def test_statistics_move_as_one_by_one(name: str) -> None:
    one, other, rows = ensemble(name), ensemble(name), batch(VECTOR, DISCRETE, 7)
    one.predict_processed_all(*rows)
    for member in other.members:
        member.predict_processed(*rows)
    for key, value in one.state_dict().items():
        assert torch.allclose(value, other.state_dict()[key], atol=1e-6), key


@pytest.mark.parametrize("name", [name for name in MEMBERS if name != "dropout"])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_together_equal_those_one_by_one(name: str, training: bool) -> None:
    one, other, rows = ensemble(name).train(training), ensemble(name).train(training), batch(VECTOR, DISCRETE, 7)
    weights = torch.linspace(-1, 1, 21).reshape(7, 3)
    columns = one.forward_all(*one.preprocess(*rows))
    assert columns.shape == (7, 3)
    (columns * weights).sum().backward()
    looped = torch.stack([member(*member.preprocess(*rows)) for member in other.members], 1)
    (looped * weights).sum().backward()
    assert torch.allclose(columns, looped, atol=1e-6)
    for (key, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        if theirs.grad is not None:
            assert torch.allclose(mine.grad, theirs.grad, atol=1e-5), key


def test_dropout_in_training_is_drawn_for_each_member() -> None:
    torch.manual_seed(0)
    net = basic(dropout_prob=0.5)
    made = RewardEnsemble(VECTOR, DISCRETE, [net, net]).train()
    columns = made.forward_all(*made.preprocess(*batch(VECTOR, DISCRETE)))
    assert not torch.equal(columns[:, 0], columns[:, 1])


def test_a_hook_is_called() -> None:
    made, rows = ensemble("plain"), batch(VECTOR, DISCRETE)
    made.members[1].mlp.dense0.register_forward_hook(lambda module, inputs, output: output * 0)
    constant = made.predict_processed_all(*rows)[:, 1]
    assert np.ptp(constant) == pytest.approx(0.0)


def test_beyond_some_thousand_rows_it_is_a_loop_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    made, rows = ensemble("plain"), batch(VECTOR, DISCRETE, 40)
    together = made.predict_processed_all(*rows)
    monkeypatch.setattr("understudy.rewards.reward_nets._together._ROWS", 39)
    monkeypatch.setattr(_ensemble, "forward_together", lambda *args: pytest.fail("not wanted"))
    assert made.predict_processed_all(*rows) == pytest.approx(together, abs=1e-6)


@pytest.mark.parametrize("obs", OBSERVATIONS)
def test_every_space(obs: str) -> None:
    obs_space = OBSERVATIONS[obs]
    for act_space in (ACTIONS["Discrete start 2"], ACTIONS["Box 2-D"]):
        made = RewardEnsemble(obs_space, act_space, [BasicRewardNet(obs_space, act_space) for _ in range(2)])
        rows = batch(obs_space, act_space, 3)
        loop = np.stack([member.predict(*rows) for member in made.members], -1)
        assert made.predict_processed_all(*rows) == pytest.approx(loop, abs=1e-5)


def test_convolutions_one_by_one() -> None:
    made = RewardEnsemble(
        SMALL_IMAGE, DISCRETE, [CnnRewardNet(SMALL_IMAGE, DISCRETE, features_dim=4) for _ in range(2)]
    )
    rows = batch(SMALL_IMAGE, DISCRETE)
    assert made.predict_processed_all(*rows)[:, 1] == pytest.approx(made.members[1].predict(*rows), abs=1e-6)


def test_mean_and_doubt_by_hand() -> None:
    members = [MockRewardNet(VECTOR, DISCRETE, value=value) for value in (1.0, 2.0, 6.0)]
    net = AddSTDRewardWrapper(RewardEnsemble(VECTOR, DISCRETE, members), default_alpha=-1.0)
    rows = batch(VECTOR, DISCRETE, 2)
    mean, variance = net.base.predict_reward_moments(*rows)
    assert mean == pytest.approx([3.0, 3.0])
    assert variance == pytest.approx([7.0, 7.0])  # ((−2)² + (−1)² + 3²) / 2
    assert net.predict_processed(*rows) == pytest.approx(3 - np.sqrt([7.0, 7.0]))
    assert net.predict_processed(*rows, alpha=2) == pytest.approx(3 + 2 * np.sqrt([7.0, 7.0]))
    assert net.predict(*rows) == pytest.approx([3.0, 3.0])
    assert NormalizedRewardNet(net, RunningNorm).predict_processed(*rows, alpha=0) == pytest.approx(
        [3.0, 3.0], rel=1e-4
    )


def test_the_mean_has_a_gradient() -> None:
    made = ensemble("plain")
    rows = batch(VECTOR, DISCRETE)
    made(*made.preprocess(*rows)).sum().backward()
    assert all(p.grad is not None for p in made.parameters())


def test_what_is_no_ensemble_is_refused() -> None:
    with pytest.raises(ConfigError, match="two"):
        RewardEnsemble(VECTOR, DISCRETE, [basic()])
    with pytest.raises(SpaceMismatchError, match="Discrete"):
        RewardEnsemble(VECTOR, DISCRETE, [basic(), BasicRewardNet(VECTOR, spaces.Discrete(3))])
    assert make_ensemble(VECTOR, DISCRETE, 4, value=1.0).num_members == 4


def test_members_may_come_from_a_generator() -> None:
    made = RewardEnsemble(VECTOR, DISCRETE, (basic() for _ in range(2)))
    assert len(made.constructor_arguments()[0][2]) == 2
