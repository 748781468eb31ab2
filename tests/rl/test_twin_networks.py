"""Products of every size, and twin networks against autograd."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from understudy.rl._twin_networks import Dense, TwinNetworks, _product, dense_layers, packing_order
from understudy.util.flat_mlp import FlatParameters


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("m", "k", "n"), [(3, 4, 5), (100, 70, 60), (1, 600, 600), (130, 130, 130), (2, 2000, 600)])
def test_products_of_every_size_and_layout(m: int, k: int, n: int, dtype: type, rng: np.random.Generator) -> None:
    """One call up to 2**18 multiplications, blocks of rows up to 2**21, then torch."""
    a, b = rng.normal(size=(m, k)).astype(dtype), rng.normal(size=(k, n)).astype(dtype)
    for left, right in ((a, b), (np.asfortranarray(a), b), (a, np.asfortranarray(b))):
        out = np.full((m, n), np.nan, dtype)
        _product(left, right, out)
        assert np.abs(out - a.astype(np.float64) @ b).max() < (1e-3 if dtype is np.float32 else 1e-11)


def stack(widths: list[int], activation: type[nn.Module]) -> tuple[nn.Sequential, list[Dense]]:
    modules: list[nn.Module] = []
    for size_in, size_out in itertools.pairwise(widths):
        modules += [nn.Linear(size_in, size_out, dtype=torch.float64), activation()]
    net = nn.Sequential(*modules[:-1])
    layers = dense_layers(modules[:-2], modules[-2])
    assert layers is not None
    return net, layers


WIDTHS = st.lists(st.integers(1, 6), max_size=3)


@settings(max_examples=60)
@given(st.integers(0, 2**31 - 1), st.integers(1, 5), WIDTHS, WIDTHS, st.integers(1, 4), st.booleans(), st.booleans())
def test_gradients_are_autograds(
    seed: int, n_features: int, actor: list[int], critic: list[int], n_outputs: int, shared: bool, relu: bool
) -> None:
    """Of networks of any two depths, on the same or on different features, to 1e-12 in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        activation = nn.ReLU if relu else nn.Tanh
        pi, pi_layers = stack([n_features, *actor, n_outputs], activation)
        vf, vf_layers = stack([n_features, *critic, 1], activation)
        x = torch.randn(2, 7, n_features, dtype=torch.float64)
        d = torch.randn(n_outputs + 1, 7, dtype=torch.float64)
    x_pi, x_vf = x[0], x[0 if shared else 1]
    expected = torch.cat([pi(x_pi), vf(x_vf)], 1).T
    parameters = packing_order(pi_layers, vf_layers)
    assert set(parameters) == {*pi.parameters(), *vf.parameters()}
    gradients = torch.autograd.grad((expected * d).sum(), parameters)

    features = (x_pi.numpy(), x_vf.numpy())
    unpacked = TwinNetworks(pi_layers, vf_layers, packed=False).forward(features).copy()
    flat = FlatParameters(parameters)
    twin = TwinNetworks(pi_layers, vf_layers, packed=True, shared_inputs=shared)
    outputs = twin.forward(features).copy()
    twin.backward(features, d.numpy().copy())
    assert np.abs(unpacked - expected.detach().numpy()).max() < 1e-12
    assert np.abs(outputs - expected.detach().numpy()).max() < 1e-12
    for got, want in zip(flat.split(flat.gradient), gradients, strict=True):
        assert (got - want).abs().max() < 1e-12


@pytest.mark.parametrize(
    "modules",
    [
        [nn.Linear(2, 3)],
        [nn.Linear(2, 3), nn.GELU()],
        [nn.Linear(2, 3, bias=False), nn.Tanh()],
        [nn.Linear(2, 3), nn.Linear(3, 3)],
        [nn.LayerNorm(2), nn.Tanh()],
    ],
)
def test_other_stacks_are_not_dense_layers(modules: list[nn.Module]) -> None:
    assert dense_layers(modules, nn.Linear(3, 1)) is None
