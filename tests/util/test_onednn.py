"""The faster product is the same product."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from understudy.util import onednn

needs_operation = pytest.mark.skipif(
    onednn._operation() is None or not torch.backends.mkldnn.is_available(),
    reason="this build of torch has no oneDNN linear operation, so the library never uses it either",
)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where it pays."""
    monkeypatch.setattr(onednn, "beats_blas", lambda: True)


@needs_operation
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_equal_torchs(always: None, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(300, 256, bias=bias)
    twin = copy.deepcopy(layer)
    x = torch.randn(64, 300, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    assert onednn.worthwhile(64, layer.weight)
    with onednn.fast_linears(layer):
        assert "forward" in vars(layer)
        ours = layer(x)
    assert "forward" not in vars(layer)
    theirs = twin(y)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    assert torch.allclose(ours, theirs, atol=1e-4)
    for a, b in zip((x, *layer.parameters()), (y, *twin.parameters()), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("rows", "weight"),
    [(4, torch.zeros(64, 64)), (512, torch.zeros(128, 128, dtype=torch.float64))],
)
def test_small_or_other_products_stay_with_torch(always: None, rows: int, weight: torch.Tensor) -> None:
    assert not onednn.worthwhile(rows, weight)


def test_small_layers_and_other_machines_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = nn.Linear(8, 8), nn.Linear(512, 512)
    monkeypatch.setattr(onednn, "beats_blas", lambda: True)
    with onednn.fast_linears(small):
        assert "forward" not in vars(small)
    monkeypatch.setattr(onednn, "beats_blas", lambda: False)
    with onednn.fast_linears(large):
        assert "forward" not in vars(large)
        assert not onednn.worthwhile(4096, large.weight)


@needs_operation
def test_closed_form_gradients_of_wide_layers(always: None) -> None:
    """Widths at which the closed form itself uses the faster product."""
    from understudy.util.flat_mlp import ClosedFormMLP, FlatParameters, plain_layers

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 256))
    reference = copy.deepcopy(net)
    x, d = torch.randn(64, 256), torch.randn(64, 256)
    (reference(x) * d).sum().backward()
    layers = plain_layers([net])
    assert layers is not None
    FlatParameters(list(net.parameters()))
    closed = ClosedFormMLP(layers)
    assert torch.allclose(closed.forward(x), reference(x), atol=1e-5)
    closed.backward(d)
    for p, q in zip(net.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-3, atol=1e-3)
