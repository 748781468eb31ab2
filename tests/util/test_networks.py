"""Normalisers against numbers worked out by hand and against one pass over all rows; layers by name; modes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from understudy.errors import ConfigError
from understudy.util.networks import (
    EMANorm,
    RunningNorm,
    SqueezeLayer,
    build_cnn,
    build_mlp,
    evaluating,
    training,
    training_mode,
)


def test_running_norm_by_hand():
    norm = RunningNorm(2, eps=0.0)
    out = norm(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))  # means 2, 4; variances 1, 4
    assert out.tolist() == [[-1.0, -1.0], [1.0, 1.0]]
    norm(torch.tensor([[5.0, 4.0]]))  # rows 1 3 5: mean 3, variance 8/3; rows 2 6 4: mean 4, variance 8/3
    assert norm.running_mean.tolist() == pytest.approx([3.0, 4.0])
    assert norm.running_var.tolist() == pytest.approx([8 / 3, 8 / 3])
    assert norm.count.item() == 3


@given(
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(any),
    offset=st.sampled_from([0.0, 1e3, -1e5]),
    seed=st.integers(0, 99),
)
def test_running_norm_equals_one_pass_over_all_rows(sizes, offset, seed):
    rows = np.random.default_rng(seed).normal(offset, 2.0, (sum(sizes), 3))
    norm = RunningNorm(3).double()
    for batch in np.split(rows, np.cumsum(sizes)[:-1]):
        norm(torch.as_tensor(batch))
    np.testing.assert_allclose(norm.running_mean, rows.mean(0), rtol=1e-9)
    np.testing.assert_allclose(norm.running_var, rows.var(0), rtol=1e-6, atol=1e-9)
    assert norm.count.item() == len(rows)


def test_running_norm_takes_a_single_row_and_a_plain_vector_of_one_feature():
    norm = RunningNorm(1)
    norm.update_stats(torch.tensor([1.0, 3.0]))
    assert (norm.running_mean.item(), norm.running_var.item(), norm.count.item()) == (2.0, 1.0, 2)
    single = RunningNorm(3)
    assert single(torch.tensor([[4.0, 5.0, 6.0]])).abs().max() == 0
    assert single.running_var.tolist() == [0.0, 0.0, 0.0]


def test_ema_norm_by_hand():
    norm = EMANorm(1, decay=0.5)
    norm(torch.tensor([[1.0], [3.0]]))  # the first batch counts fully: mean 2, variance 1
    assert (norm.running_mean.item(), norm.running_var.item()) == (2.0, 1.0)
    norm(torch.tensor([[5.0], [5.0], [5.0]]))
    # Weights 1/3 and 2/3: mean (2 + 2 * 5) / 3 = 4; second moments 5 and 25: (5 + 50) / 3 - 16 = 7/3.
    assert norm.running_mean.item() == pytest.approx(4.0)
    assert norm.running_var.item() == pytest.approx(7 / 3)
    assert norm.inv_learning_rate.item() == 1.5
    assert (norm.num_batches.item(), norm.count.item()) == (2, 5)


@pytest.mark.parametrize("cls", [RunningNorm, EMANorm])
def test_statistics_move_only_in_training_and_can_be_forgotten(cls):
    norm = cls(2)
    fresh = {name: buffer.clone() for name, buffer in norm.state_dict().items()}
    assert {"running_mean", "running_var", "count"} <= fresh.keys()
    with evaluating(norm):
        out = norm(torch.tensor([[2.0, -2.0]]))
    torch.testing.assert_close(out, torch.tensor([[2.0, -2.0]]))
    assert all(torch.equal(fresh[name], buffer) for name, buffer in norm.state_dict().items())
    norm(torch.randn(5, 2, generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(norm.running_mean, fresh["running_mean"])
    norm.reset_running_stats()
    assert all(torch.equal(fresh[name], buffer) for name, buffer in norm.state_dict().items())


def test_gradient_flows_through_the_input_only():
    norm = RunningNorm(2)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    norm(x).sum().backward()
    assert x.grad is not None
    assert not norm.running_mean.requires_grad


def test_wrong_number_of_features_is_refused():
    with pytest.raises(ConfigError, match="3 features"):
        RunningNorm(3)(torch.zeros(6, 1))
    with pytest.raises(ConfigError, match="decay"):
        EMANorm(1, decay=1.0)


def test_mlp_layers_by_name():
    net = build_mlp(
        3,
        [4, 5],
        name="foo",
        dropout_prob=0.1,
        squeeze_output=True,
        flatten_input=True,
        normalize_input_layer=RunningNorm,
    )
    assert list(dict(net.named_children())) == [
        "foo_flatten",
        "foo_normalize_input",
        "foo_dense0",
        "foo_act0",
        "foo_dropout0",
        "foo_dense1",
        "foo_act1",
        "foo_dropout1",
        "foo_dense_final",
        "foo_squeeze",
    ]
    assert net(torch.zeros(7, 1, 3)).shape == (7,)
    plain = build_mlp(3, [], out_size=2, activation=nn.Tanh)
    assert list(dict(plain.named_children())) == ["dense_final"]
    assert plain(torch.zeros(7, 3)).shape == (7, 2)


def test_cnn_layers_by_name_and_any_image_size():
    net = build_cnn(3, [4], name="bar", dropout_prob=0.2, squeeze_output=True)
    assert list(dict(net.named_children())) == [
        "bar_conv0",
        "bar_act0",
        "bar_dropout0",
        "bar_avg_pool",
        "bar_flatten",
        "bar_dense_final",
        "bar_squeeze",
    ]
    assert net(torch.zeros(2, 3, 9, 5)).shape == (2,)
    assert build_cnn(3, [4, 4], out_size=6, stride=2, padding=1)(torch.zeros(2, 3, 16, 16)).shape == (2, 6)


def test_options_that_contradict_each_other():
    with pytest.raises(ConfigError, match="out_size=2"):
        build_mlp(3, [4], out_size=2, squeeze_output=True)
    with pytest.raises(ConfigError, match="out_size=2"):
        build_cnn(3, [4], out_size=2, squeeze_output=True)
    with pytest.raises(ConfigError, match="stride"):
        build_cnn(3, [4], stride=2)
    with pytest.raises(ConfigError, match="shape"):
        SqueezeLayer()(torch.zeros(2, 2))


def _mixed() -> tuple[nn.Module, list[bool]]:
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Dropout()))
    net[1][0].eval()  # a child that is not in its parent's mode
    return net, [module.training for module in net.modules()]


@pytest.mark.defect("B6")
@pytest.mark.parametrize(("context", "inside"), [(training, True), (evaluating, False), (training_mode, False)])
def test_every_submodule_gets_its_own_mode_back(context, inside):
    net, before = _mixed()
    with context(net):
        assert {module.training for module in net.modules()} == {inside}
    assert [module.training for module in net.modules()] == before
    with pytest.raises(ZeroDivisionError), context(net):
        raise ZeroDivisionError
    assert [module.training for module in net.modules()] == before
