"""An actor and a critic, both plain stacks of linear layers, run and differentiated side by side by NumPy.

At the sizes of most policies a step costs what dispatching its operations costs, and NumPy dispatches in a quarter of
torch's time (and has a vectorised tanh). Everything is computed with the batch as last axis, so that the two networks'
units lie above each other in one array: one bias addition, one activation and one product with the inputs serve both.
Parameters are read through views, so the modules stay their owners.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from understudy.util import onednn

_ALONE = 1 << 18
"""Multiplications up to which the BLAS beneath NumPy stays on one thread whatever its own settings are."""

_LARGE = 1 << 21
"""Multiplications from which on torch's threads, or its oneDNN, are worth the cost of calling it."""

_TANH, _RELU = "tanh", "relu"
_ACTIVATIONS: dict[type[nn.Module], str] = {nn.Tanh: _TANH, nn.ReLU: _RELU}


@dataclasses.dataclass(frozen=True)
class Dense:
    """A linear layer and the activation after it."""

    linear: nn.Linear
    activation: str | None


def dense_layers(modules: Sequence[nn.Module], last: nn.Module) -> list[Dense] | None:
    """Hidden modules and an output layer as dense layers with tanh or ReLU between them; None for anything else.

    Args:
        modules: linear layers, each followed by its activation.
        last: a linear layer without activation.
    """
    if len(modules) % 2 or any(type(m) is not nn.Linear for m in (*modules[::2], last)):
        return None
    activations = [_ACTIVATIONS.get(type(m)) for m in modules[1::2]]
    if None in activations or any(linear.bias is None for linear in (*modules[::2], last)):
        return None
    return [Dense(linear, act) for linear, act in zip((*modules[::2], last), (*activations, None), strict=True)]  # type: ignore[arg-type]


def packing_order(actor: Sequence[Dense], critic: Sequence[Dense]) -> list[nn.Parameter]:
    """Parameters in the order in which those that share an operation lie side by side."""
    ordered: list[nn.Parameter] = []
    for level in _levels(actor, critic):
        ordered += [_parameter(dense.linear.weight) for _, dense in level]
        ordered += [_parameter(dense.linear.bias) for _, dense in level]
    return ordered


def _parameter(tensor: Tensor) -> nn.Parameter:
    assert isinstance(tensor, nn.Parameter)
    return tensor


def _levels(actor: Sequence[Dense], critic: Sequence[Dense]) -> list[list[tuple[int, Dense]]]:
    """(0 for the actor or 1 for the critic, its layer) of each depth, and at the end both output layers."""
    hidden = (actor[:-1], critic[:-1])
    depth = max(map(len, hidden))
    levels = [[(i, net[k]) for i, net in enumerate(hidden) if k < len(net)] for k in range(depth)]
    return [*levels, [(0, actor[-1]), (1, critic[-1])]]


class _Source(NamedTuple):
    """What a layer reads."""

    net: int
    level: int = -1
    """-1 for the features of ``net``."""
    rows: slice = slice(None)


@dataclasses.dataclass(frozen=True)
class _Product:
    """Rows of a level's units as weight @ source."""

    weight: np.ndarray
    gradient: np.ndarray | None
    source: _Source
    rows: slice


@dataclasses.dataclass(frozen=True)
class _Bias:
    column: np.ndarray
    gradient: np.ndarray | None
    rows: slice


@dataclasses.dataclass(frozen=True)
class _Level:
    units: int
    products: tuple[_Product, ...]
    biases: tuple[_Bias, ...]
    activations: tuple[tuple[str, slice], ...]


class TwinNetworks:
    """Forward and backward passes of an actor and a critic.

    Args:
        actor: its layers, the output layer last.
        critic: likewise, with one output.
        packed: whether the parameters are packed in ``packing_order``, with ``grad`` in place; else there is only
            ``forward``.
        shared_inputs: whether both read the same features.
    """

    def __init__(
        self, actor: Sequence[Dense], critic: Sequence[Dense], *, packed: bool, shared_inputs: bool = True
    ) -> None:
        self._levels: list[_Level] = []
        at = [_Source(0), _Source(1)]  # where each network has got to
        for k, layers in enumerate(_levels(actor, critic)):
            stops = np.cumsum([dense.linear.out_features for _, dense in layers]).tolist()
            rows = [slice(stop - d.linear.out_features, stop) for (_, d), stop in zip(layers, stops, strict=True)]
            everything = slice(0, stops[-1])
            weights = [dense.linear.weight for _, dense in layers]
            biases = [dense.linear.bias for _, dense in layers]
            sources = [at[net] for net, _ in layers]
            if packed and shared_inputs and all(source.level < 0 for source in sources):
                products = [_Product(*_joined(weights, packed), sources[0], everything)]
            else:
                products = [
                    _Product(*_joined([w], packed), source, r)
                    for w, source, r in zip(weights, sources, rows, strict=True)
                ]
            together = [(biases, everything)] if packed else [([b], r) for b, r in zip(biases, rows, strict=True)]
            columns = [(*_joined(tensors, packed), r) for tensors, r in together]
            acts = [(d.activation, r) for (_, d), r in zip(layers, rows, strict=True) if d.activation is not None]
            if len({name for name, _ in acts}) == 1:
                acts = [(acts[0][0], everything)]
            self._levels.append(
                _Level(stops[-1], tuple(products), tuple(_Bias(b[:, None], d, r) for b, d, r in columns), tuple(acts))
            )
            for (net, _), r in zip(layers, rows, strict=True):
                at[net] = _Source(net, k, r)
        self.dtype = self._levels[0].products[0].weight.dtype
        self.n_outputs: int = self._levels[-1].units - 1
        """Outputs of the actor."""
        self._scratch: dict[int, _Scratch] = {}

    def forward(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Outputs, shape (actor's outputs + 1, batch), the value last; keeps what ``backward`` needs.

        The array is written over by the next call with as many rows.

        Args:
            features: of the actor and of the critic, each of shape (batch, features), of the parameters' dtype.
        """
        rows = features[0].shape[0]
        scratch = self._scratch.get(rows)
        if scratch is None:
            scratch = self._scratch[rows] = _Scratch([level.units for level in self._levels], rows, self.dtype)
        units = scratch.units
        for level, out in zip(self._levels, units, strict=True):
            for p in level.products:
                source = p.source
                inputs = features[source.net].T if source.level < 0 else units[source.level][source.rows]
                _product(p.weight, inputs, out[p.rows])
            for bias in level.biases:
                part = out[bias.rows]
                part += bias.column
            for name, at in level.activations:
                part = out[at]
                if name is _TANH:
                    np.tanh(part, out=part)
                else:
                    np.maximum(part, 0, out=part)
        return units[-1]

    def backward(self, features: Sequence[np.ndarray], d_outputs: np.ndarray) -> None:
        """Write the gradients of all parameters.

        Args:
            features: those of the last ``forward`` with as many rows.
            d_outputs: the loss's gradient by its outputs, of the same shape.
        """
        scratch = self._scratch[d_outputs.shape[1]]
        units, d_units = scratch.units, scratch.d_units
        last = len(self._levels) - 1
        for k in range(last, -1, -1):
            level = self._levels[k]
            d = d_outputs if k == last else d_units[k]
            for name, at in level.activations:
                _through_activation(name, d[at], units[k][at], scratch.spare[k][at])
            for bias in level.biases:
                assert bias.gradient is not None
                np.dot(d[bias.rows], scratch.ones, out=bias.gradient)
            for p in level.products:
                assert p.gradient is not None
                source, d_rows = p.source, d[p.rows]
                if source.level < 0:
                    _product(d_rows, features[source.net], p.gradient)
                else:
                    _product(d_rows, units[source.level][source.rows].T, p.gradient)
                    _product(p.weight.T, d_rows, d_units[source.level][source.rows])


class _Scratch:
    """Arrays for so many rows: units, gradients by them, one to spare of each level, and ones to sum with."""

    def __init__(self, units: Sequence[int], rows: int, dtype: np.dtype[Any]) -> None:
        self.units, self.d_units, self.spare = ([np.empty((n, rows), dtype) for n in units] for _ in range(3))
        self.ones = np.ones(rows, dtype)


def _through_activation(name: str, d: np.ndarray, out: np.ndarray, spare: np.ndarray) -> None:
    """Turn the gradient by an activation's outputs into the one by its inputs, in place."""
    if name is _TANH:
        np.multiply(out, out, out=spare)
        np.subtract(1, spare, out=spare)
        np.multiply(d, spare, out=d)
    else:
        np.multiply(d, out > 0, out=d)


def _product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """``out = a @ b`` by whichever library is quickest at this size, on as many threads as torch is set to."""
    row = b.size
    work = a.shape[0] * row
    if work <= _ALONE:
        np.dot(a, b, out=out)
    elif work < _LARGE:
        step = max(1, _ALONE // row)
        for start in range(0, a.shape[0], step):
            np.dot(a[start : start + step], b, out=out[start : start + step])
    else:
        left, right = torch.from_numpy(a), torch.from_numpy(b)
        if onednn.worthwhile(a.shape[0], right):
            torch.from_numpy(out).copy_(onednn.product_t(left, right.t()))
        else:
            torch.mm(left, right, out=torch.from_numpy(out))


def _joined(tensors: Sequence[Tensor], packed: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Values and gradients of parameters as one array each; several must follow each other in one storage."""
    if not packed:
        (only,) = tensors
        return only.detach().numpy(), None
    return _rows([p.detach() for p in tensors]), _rows([p.grad for p in tensors if p.grad is not None])


def _rows(tensors: Sequence[Tensor]) -> np.ndarray:
    first = tensors[0]
    assert all(a.storage_offset() + a.numel() == b.storage_offset() for a, b in itertools.pairwise(tensors))
    total = sum(t.shape[0] for t in tensors)
    return first.as_strided((total, *first.shape[1:]), first.stride()).numpy()
