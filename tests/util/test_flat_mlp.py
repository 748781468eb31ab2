"""Closed-form gradients, packing and the fused Adam, against torch's own."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from understudy.util.flat_mlp import ClosedFormMLP, FlatAdam, FlatParameters, clip_norm, plain_layers

ACTIVATIONS = [
    nn.Tanh,
    nn.ReLU,
    nn.Sigmoid,
    nn.Identity,
    nn.LeakyReLU,
    nn.ELU,
    nn.SiLU,
    nn.GELU,
    lambda: nn.GELU(approximate="tanh"),
    nn.Softplus,
]


def mlp(
    widths: list[int], activation: object, *, bias: bool = True, dtype: torch.dtype = torch.float64
) -> nn.Sequential:
    modules: list[nn.Module] = []
    for i, (size_in, size_out) in enumerate(itertools.pairwise(widths)):
        modules += [nn.Linear(size_in, size_out, bias=bias, dtype=dtype)]
        if i < len(widths) - 2:
            modules.append(activation())  # type: ignore[operator]
    return nn.Sequential(*modules)


@settings(max_examples=60)
@given(
    st.integers(0, 2**31 - 1),
    st.lists(st.integers(1, 9), min_size=2, max_size=5),
    st.sampled_from(ACTIVATIONS),
    st.integers(1, 7),
    st.booleans(),
)
def test_gradients_equal_autograd(seed: int, widths: list[int], activation: object, batch: int, bias: bool) -> None:
    """Random widths, depths, activations and batches, to 1e-10 in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = mlp(widths, activation, bias=bias)
        x, d = torch.randn(batch, widths[0]).double(), torch.randn(batch, widths[-1]).double()
    reference = copy.deepcopy(net)
    (reference(x) * d).sum().backward()
    layers = plain_layers([net])
    assert layers is not None
    flat = FlatParameters(list(net.parameters()))
    closed = ClosedFormMLP(layers)
    assert torch.allclose(closed.forward(x), reference(x), rtol=0, atol=1e-12)
    closed.backward(d)
    for p, q in zip(net.parameters(), reference.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert torch.allclose(p.grad, q.grad, rtol=0, atol=1e-10)
    assert flat.intact()


def test_anything_but_plain_layers_is_refused() -> None:
    hooked = nn.Linear(2, 2)
    hooked.register_forward_hook(lambda *_: None)
    frozen = nn.Linear(2, 2).requires_grad_(False)
    for stack in ([nn.Tanh()], [nn.Linear(2, 2), nn.Dropout()], [hooked], [frozen], [nn.Bilinear(2, 2, 2)], []):
        assert plain_layers(stack) is None
    assert plain_layers([nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))]) is None


@pytest.mark.parametrize(
    "options", [{}, {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-5}, {"weight_decay": 0.1}, {"maximize": True}]
)
def test_fused_steps_equal_torchs_adam(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    net = mlp([3, 4, 2], nn.Tanh)
    reference = copy.deepcopy(net)
    ours = torch.optim.Adam(net.parameters(), **options)
    theirs = torch.optim.Adam(reference.parameters(), **options)
    flat = FlatParameters(list(net.parameters()))
    assert FlatAdam.supports(ours, flat.parameters)
    fused = FlatAdam(ours, flat)
    for _ in range(5):
        gradient = torch.randn_like(flat.gradient)
        flat.gradient.copy_(gradient)
        fused.step()
        for p, g in zip(reference.parameters(), flat.split(gradient), strict=True):
            p.grad = g.clone()
        theirs.step()
    fused.release()
    flat.release()
    for p, q in zip(net.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=0, atol=1e-12)
    mine, other = ours.state_dict()["state"], theirs.state_dict()["state"]
    for i, state in other.items():
        for name, value in state.items():
            assert torch.allclose(mine[i][name], value, rtol=0, atol=1e-12)


def test_optimiser_state_survives_save_load_and_resume() -> None:
    """Three steps, the state carried to a new optimiser, three more: the same as six in a row."""
    torch.manual_seed(0)
    unbroken = mlp([3, 4, 2], nn.Tanh)
    broken = copy.deepcopy(unbroken)
    gradients = [torch.randn(sum(p.numel() for p in unbroken.parameters())).double() for _ in range(6)]

    def run(net: nn.Module, optimizer: torch.optim.Adam, steps: list[torch.Tensor]) -> None:
        flat = FlatParameters(list(net.parameters()))
        fused = FlatAdam(optimizer, flat)
        for gradient in steps:
            flat.gradient.copy_(gradient)
            fused.step()
        fused.release()
        flat.release()

    run(unbroken, torch.optim.Adam(unbroken.parameters()), gradients)
    first = torch.optim.Adam(broken.parameters())
    run(broken, first, gradients[:3])
    second = torch.optim.Adam(broken.parameters())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(broken, second, gradients[3:])
    for p, q in zip(unbroken.parameters(), broken.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_moved_module_is_noticed() -> None:
    net = mlp([2, 2], nn.Tanh, dtype=torch.float32)
    flat = FlatParameters(list(net.parameters()))
    assert flat.intact()
    net.double()
    assert not flat.intact()


def test_release_gives_every_parameter_storage_of_its_own() -> None:
    net = mlp([2, 3, 2], nn.Tanh)
    flat = FlatParameters(list(net.parameters()))
    shared = {p.untyped_storage().data_ptr() for p in net.parameters()}
    assert len(shared) == 1
    flat.release()
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    assert len(own) == len(list(net.parameters()))
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    "make",
    [
        lambda ps: torch.optim.SGD(ps, 0.1),
        lambda ps: torch.optim.AdamW(ps),
        lambda ps: torch.optim.Adam(ps, amsgrad=True),
        lambda ps: torch.optim.Adam(ps, lr=torch.tensor(0.1)),
        lambda ps: torch.optim.Adam([{"params": ps[:1]}, {"params": ps[1:]}]),
    ],
)
def test_other_optimisers_keep_their_own_step(make: object) -> None:
    parameters = list(mlp([2, 2], nn.Tanh).parameters())
    assert not FlatAdam.supports(make(parameters), parameters)  # type: ignore[operator]


def test_clip_norm_by_hand() -> None:
    gradient = torch.tensor([3.0, 4.0])
    clip_norm(gradient, 10.0)
    assert gradient.tolist() == [3.0, 4.0]
    clip_norm(gradient, 1.0)
    assert gradient.tolist() == pytest.approx([0.6, 0.8], abs=1e-5)


@pytest.mark.parametrize(
    "activations",
    [[nn.Tanh(), nn.Tanh()], [nn.Tanh(), nn.Sigmoid()], [nn.Sigmoid(), nn.GELU()], [nn.Identity(), nn.Tanh()]],
    ids=lambda modules: " ".join(type(m).__name__ for m in modules),
)
def test_an_activation_after_another_spares_what_the_first_one_keeps(activations: list[nn.Module]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), *activations, nn.Linear(5, 2)).double()
    x = torch.randn(7, 3, dtype=torch.float64)
    net(x).square().sum().backward()
    expected = torch.cat([p.grad.reshape(-1) for p in net.parameters() if p.grad is not None])
    layers = plain_layers([net])
    assert layers is not None
    flat = FlatParameters(list(net.parameters()))
    closed = ClosedFormMLP(layers)
    closed.backward(2 * closed.forward(x))
    assert torch.allclose(flat.gradient, expected, rtol=0, atol=1e-10)


def test_layers_that_closed_form_would_treat_differently_are_refused() -> None:
    shared = nn.Linear(2, 2)
    watched = nn.Linear(2, 2)
    watched.weight.register_hook(lambda gradient: gradient * 0)
    replaced = nn.Linear(2, 2)
    replaced.forward = lambda x: x  # type: ignore[method-assign]
    hooked = nn.Sequential(nn.Linear(2, 2))
    hooked.register_forward_pre_hook(lambda *_: None)
    stacks: list[list[nn.Module]] = [
        [shared, nn.Tanh(), shared],
        [watched],
        [replaced],
        [hooked],
        [nn.Linear(2, 2), nn.Softplus(threshold=1.0)],
    ]
    for stack in stacks:
        assert plain_layers(stack) is None


def test_an_optimiser_that_is_watched_keeps_its_own_step() -> None:
    parameters = list(mlp([2, 2], nn.Tanh).parameters())
    hooked, scheduled = torch.optim.Adam(parameters), torch.optim.Adam(parameters)
    hooked.register_step_post_hook(lambda *_: None)
    torch.optim.lr_scheduler.StepLR(scheduled, 1)
    assert not FlatAdam.supports(hooked, parameters)
    assert not FlatAdam.supports(scheduled, parameters)
    assert FlatAdam.supports(torch.optim.Adam(parameters), parameters)
