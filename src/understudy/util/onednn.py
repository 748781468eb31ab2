"""Matrix products by oneDNN where torch's BLAS is slow.

torch multiplies float32 matrices with MKL, which on processors that are not Intel's takes a path about half as fast as
oneDNN's (measured on an AMD EPYC, one thread: 110 against 220 GFLOP/s). Convolutions use oneDNN already; this brings
large linear layers to the same speed. On all other machines nothing changes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_WORTHWHILE = 1 << 21
"""Multiplications (rows · in · out) from which on the product itself, not the call, is what costs."""

_LARGE_LAYER = 1 << 16
"""Weights of a layer from which on its products are worthwhile at usual batch sizes."""


@functools.cache
def beats_blas() -> bool:
    """Whether this machine is one where oneDNN's products are faster than torch's own."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkl.is_available() or _operation() is None:
        return False
    try:
        return "GenuineIntel" not in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="ignore")
    except OSError:
        return False


@functools.cache
def _operation() -> Any:
    """The operation that torch's own compiler emits for linear layers; private, so it may be missing."""
    try:
        return torch.ops.mkldnn._linear_pointwise
    except AttributeError:
        return None


def product_t(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` by oneDNN: shapes (rows, in), (out, in) and (out,)."""
    return _operation()(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]


def worthwhile(rows: int, weight: Tensor) -> bool:
    """Whether a product of so many rows with this weight should go to oneDNN here."""
    return rows * weight.numel() >= _WORTHWHILE and rows >= worthwhile_from(weight)


def worthwhile_from(weight: Tensor) -> float:
    """Rows from which on a product with this weight should go to oneDNN here; infinity for never."""
    if weight.numel() == 0 or weight.dtype != torch.float32 or weight.device.type != "cpu" or not beats_blas():
        return math.inf
    return _WORTHWHILE / weight.numel()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product_t(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (d,) = grads
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        return (
            product_t(d, weight.t()) if need_x else None,
            product_t(d.t(), x.t()) if need_weight else None,
            d.sum(0) if need_bias else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``torch.nn.functional.linear`` for inputs of shape (rows, in), by oneDNN where that pays."""
    if x.ndim != 2 or not worthwhile(len(x), weight):
        return nn.functional.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)  # type: ignore[no-any-return, no-untyped-call]


def _forward(layer: nn.Linear, x: Tensor) -> Tensor:
    return linear(x, layer.weight, layer.bias)


@contextmanager
def fast_linears(module: nn.Module) -> Iterator[None]:
    """While this is open, large plain linear layers inside ``module`` use ``linear``; afterwards all is as before."""
    layers = [
        m
        for m in module.modules()
        if type(m) is nn.Linear and m.weight.numel() >= _LARGE_LAYER and "forward" not in vars(m)
    ]
    layers = layers if beats_blas() else []
    for layer in layers:
        layer.forward = functools.partial(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)
