"""Plain networks trained without a graph: parameters in one vector, gradients in closed form, one fused Adam call.

Small networks are bound by the cost of dispatching operations, not by arithmetic. The gradient of a stack of linear
layers and pointwise activations is known, so a step needs about a dozen operations forward and back, and the
optimiser a single one over the vector of all parameters.

While packed, each parameter is a view into the vector, so the modules go on working as ever (``predict``,
``state_dict``, callbacks). ``release`` gives every parameter storage of its own again; nothing outside a training run
ever sees a view. Views break silently when someone moves the module (``.to``, ``.double()``): ask ``intact`` first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from understudy.util import onednn

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Activation:
    """A pointwise function and its vector-Jacobian product."""

    forward: Callable[[Tensor], Tensor]
    """Applied to the linear layer's output; may overwrite it when ``keeps_input`` is False."""

    backward: Callable[[Tensor, Tensor], Tensor]
    """(gradient of the output, what was kept) → gradient of the input."""

    keeps_input: bool
    """Whether ``backward`` needs the input; else it needs the output."""


def _activation(module: nn.Module) -> Activation | None:
    """How to differentiate this module, or None if it is no activation known here."""
    kind = type(module)
    if kind is nn.Tanh:
        return Activation(torch.Tensor.tanh_, _aten.tanh_backward, False)
    if kind is nn.ReLU:
        return Activation(torch.Tensor.relu_, lambda d, out: _aten.threshold_backward(d, out, 0), False)
    if kind is nn.Sigmoid:
        return Activation(torch.Tensor.sigmoid_, _aten.sigmoid_backward, False)
    if kind is nn.Identity:
        return Activation(lambda x: x, lambda d, out: d, False)
    if isinstance(module, nn.LeakyReLU) and kind is nn.LeakyReLU:
        slope = module.negative_slope
        return Activation(
            lambda x: nn.functional.leaky_relu(x, slope),
            lambda d, x: _aten.leaky_relu_backward(d, x, slope, False),
            True,
        )
    if isinstance(module, nn.ELU) and kind is nn.ELU:
        alpha = module.alpha
        return Activation(
            lambda x: nn.functional.elu(x, alpha), lambda d, x: _aten.elu_backward(d, alpha, 1, 1, False, x), True
        )
    if kind is nn.SiLU:
        return Activation(nn.functional.silu, _aten.silu_backward, True)
    if isinstance(module, nn.GELU) and kind is nn.GELU:
        approximate = module.approximate
        return Activation(
            lambda x: nn.functional.gelu(x, approximate=approximate),
            lambda d, x: _aten.gelu_backward(d, x, approximate=approximate),
            True,
        )
    if kind is nn.Softplus and module.beta == 1 and module.threshold == 20:
        return Activation(nn.functional.softplus, lambda d, x: d * torch.sigmoid(x), True)
    return None


@dataclasses.dataclass(frozen=True)
class Layer:
    """A linear layer and the activations after it."""

    linear: nn.Linear
    activations: tuple[Activation, ...]


def plain_layers(modules: Iterable[nn.Module]) -> list[Layer] | None:
    """Read a stack of modules as linear layers with activations, or None if it holds anything else.

    Hooks, parametrisations and subclasses of ``nn.Linear`` have behaviour of their own, and so do frozen parameters and
    those that two layers share: all are anything else.
    """
    layers: list[Layer] = []
    seen: set[nn.Parameter] = set()
    for module in _leaves(modules):
        if _has_hooks(module) or "forward" in vars(module):
            return None
        if type(module) is nn.Linear:
            own = set(module.parameters())
            if own & seen or any(not p.requires_grad or p._backward_hooks for p in own):
                return None
            seen |= own
            layers.append(Layer(module, ()))
            continue
        activation = _activation(module)
        if activation is None or not layers:
            return None
        layers[-1] = dataclasses.replace(layers[-1], activations=(*layers[-1].activations, activation))
    return layers or None


def _leaves(modules: Iterable[nn.Module]) -> Iterable[nn.Module]:
    for module in modules:
        if type(module) is nn.Sequential and not _has_hooks(module):
            yield from _leaves(module)
        else:
            yield module


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


class FlatParameters:
    """Parameters as views into one vector, with one vector of gradients beside it.

    Args:
        parameters: distinct, of one floating dtype, on one device.

    Attributes:
        vector: all parameters, shape (total,).
        gradient: their gradients, shape (total,); each parameter's ``grad`` is a view into it.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.vector = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        self.gradient = torch.zeros_like(self.vector)
        for p, view, grad in zip(self.parameters, self.split(self.vector), self.split(self.gradient), strict=True):
            p.data = view
            p.grad = grad

    def split(self, vector: Tensor) -> list[Tensor]:
        """Cut a vector of the same length into views shaped like the parameters."""
        pieces = vector.split([p.numel() for p in self.parameters])
        return [piece.view(p.shape) for piece, p in zip(pieces, self.parameters, strict=True)]

    def intact(self) -> bool:
        """Whether every parameter and gradient still lives where it was packed."""
        return all(
            p.data_ptr() == view.data_ptr()
            and p.dtype == self.vector.dtype
            and p.grad is not None
            and p.grad.data_ptr() == grad.data_ptr()
            for p, view, grad in zip(self.parameters, self.split(self.vector), self.split(self.gradient), strict=True)
        )

    def release(self) -> None:
        """Give each parameter its own storage again and drop the gradients."""
        for p in self.parameters:
            p.data = p.data.clone()
            p.grad = None


class ClosedFormMLP:
    """Forward and backward of plain layers on packed parameters.

    Args:
        layers: as found by ``plain_layers``; their parameters must be packed already, with ``grad`` in place.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._weights = [layer.linear.weight.detach() for layer in layers]
        self._transposed = [w.t() for w in self._weights]
        self._biases = [None if layer.linear.bias is None else layer.linear.bias.detach() for layer in layers]
        self._weight_grads = [_grad(layer.linear.weight) for layer in layers]
        self._bias_grads = [None if layer.linear.bias is None else _grad(layer.linear.bias) for layer in layers]
        self._activations = [layer.activations for layer in layers]
        # Rows from which on a layer's products go to oneDNN: asked three times a step, so it must cost nothing.
        self._large_from = [onednn.worthwhile_from(weight) for weight in self._weights]
        self._inputs: list[Tensor] = []
        self._kept: list[list[Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, shape (batch, out), of inputs of shape (batch, in); keeps what ``backward`` needs."""
        rows = x.shape[0]
        inputs, kept = [], []
        layers = zip(self._transposed, self._biases, self._activations, self._large_from, strict=True)
        for weight_t, bias, activations, large_from in layers:
            inputs.append(x)
            if rows >= large_from:
                x = onednn.product_t(x, weight_t.t(), bias)
            else:
                x = torch.mm(x, weight_t) if bias is None else torch.addmm(bias, x, weight_t)
            kept_here: list[Tensor] = []
            for activation in activations:
                if kept_here and kept_here[-1] is x:
                    x = x.clone()  # the next activation may overwrite what the one before needs in ``backward``
                if activation.keeps_input:
                    kept_here.append(x)
                    x = activation.forward(x)
                else:
                    x = activation.forward(x)
                    kept_here.append(x)
            kept.append(kept_here)
        self._inputs, self._kept = inputs, kept
        return x

    def backward(self, d: Tensor) -> None:
        """Write the gradients of all parameters, given the gradient of the last forward's outputs."""
        rows = d.shape[0]
        for i in range(len(self._weights) - 1, -1, -1):
            for activation, kept in zip(reversed(self._activations[i]), reversed(self._kept[i]), strict=True):
                d = activation.backward(d, kept)
            large = rows >= self._large_from[i]
            if large:
                self._weight_grads[i].copy_(onednn.product_t(d.t(), self._inputs[i].t()))
            else:
                torch.mm(d.t(), self._inputs[i], out=self._weight_grads[i])
            bias_grad = self._bias_grads[i]
            if bias_grad is not None:
                torch.sum(d, 0, out=bias_grad)
            if i:
                d = onednn.product_t(d, self._transposed[i]) if large else torch.mm(d, self._weights[i])


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None, "pack the parameters first"
    return parameter.grad


def clip_norm(gradient: Tensor, max_norm: float) -> None:
    """Scale the whole gradient in place so that its Euclidean norm is at most ``max_norm``."""
    norm = torch.linalg.vector_norm(gradient)
    gradient.mul_(torch.clamp(max_norm / (norm + 1e-6), max=1.0))


class FlatAdam:
    """One fused Adam call over packed parameters, on behalf of a ``torch.optim.Adam``.

    The optimiser stays the owner: its ``state_dict`` holds, per parameter, what torch's own step would have left
    there. While attached, its moments are views into flat vectors; ``release`` gives them storage of their own.
    """

    def __init__(self, optimizer: torch.optim.Adam, flat: FlatParameters) -> None:
        self._optimizer = optimizer
        self._flat = flat
        self._group = optimizer.param_groups[0]
        state = [optimizer.state.get(p, {}) for p in flat.parameters]
        self._step = torch.zeros((), dtype=torch.float32, device=flat.vector.device)
        self._moments = (torch.zeros_like(flat.vector), torch.zeros_like(flat.vector))
        if state[0]:
            self._step.fill_(float(state[0]["step"]))
        for p, old, *views in zip(flat.parameters, state, *map(flat.split, self._moments), strict=True):
            for name, view in zip(("exp_avg", "exp_avg_sq"), views, strict=True):
                if old:
                    view.copy_(old[name])
            optimizer.state[p] = {"step": self._step, "exp_avg": views[0], "exp_avg_sq": views[1]}

    @staticmethod
    def supports(optimizer: torch.optim.Optimizer, flat_parameters: Sequence[nn.Parameter]) -> bool:
        """Whether one fused call does exactly what this optimiser's own step would do."""
        if type(optimizer) is not torch.optim.Adam or len(optimizer.param_groups) != 1:
            return False
        group = optimizer.param_groups[0]
        plain = not any(
            group.get(name) for name in ("amsgrad", "capturable", "differentiable", "decoupled_weight_decay")
        )
        # Hooks, and torch's learning-rate schedulers (which count calls of `step`), expect the optimiser's own step.
        watched = (
            optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks or "step" in vars(optimizer)
        )
        steps = {float(optimizer.state[p]["step"]) if p in optimizer.state else 0.0 for p in flat_parameters}
        return (
            plain
            and not watched
            and isinstance(group["lr"], float)
            and len(steps) == 1
            and hasattr(torch, "_fused_adam_")
        )

    def intact(self) -> bool:
        """Whether the optimiser's state is still the one packed here (loading a state replaces it)."""
        first = self._flat.parameters[0]
        state = self._optimizer.state.get(first, {})
        return bool(state) and state["exp_avg"].data_ptr() == self._moments[0].data_ptr()

    def step(self) -> None:
        """Update all packed parameters with the gradient vector."""
        group = self._group
        self._step.add_(1)
        # Private in torch; this is the only call to it, and `supports` looks for it first.
        torch._fused_adam_(
            [self._flat.vector],
            [self._flat.gradient],
            [self._moments[0]],
            [self._moments[1]],
            [],
            [self._step],
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
        )

    def release(self) -> None:
        """Let the optimiser's state own its tensors again."""
        for p in self._flat.parameters:
            state: dict[str, Any] = self._optimizer.state[p]
            self._optimizer.state[p] = {name: value.clone() for name, value in state.items()}
