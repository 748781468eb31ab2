"""Building a network from a description that may be hostile: no larger than the tensors that are there to fill it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_SPACE_ELEMENTS = 1 << 20
_SPACES = 1000
_OPERATIONS = 3000
_OPERATIONS_PER_TENSOR = 60  # an orthogonal initialisation has about 15
_CREATORS = ("empty", "zeros", "ones", "full", "rand", "arange", "linspace", "eye", "new_")


class TooLargeError(ValueError):
    """The description asks for more than the file's tensors could fill."""


class AllocationBudget(TorchDispatchMode):
    """Refuses tensors, before they are made, that are out of proportion to those in a file.

    Args:
        tensors: the file's tensors.
    """

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        sizes = [tensor.numel() for tensor in tensors]
        self._largest = 4 * max(sizes, default=0) + (1 << 16)
        self._elements = 8 * sum(sizes) + (1 << 20)
        self._operations = _OPERATIONS_PER_TENSOR * len(sizes) + _OPERATIONS

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count one operation."""
        self._operations -= 1
        name = func.overloadpacket.__name__
        if name.startswith(_CREATORS):
            size = _asked_for(args)
            self._elements -= size
            if size > self._largest:
                raise TooLargeError(f"a tensor of {size} elements, where the file's largest has {self._largest // 4}")
        if self._operations < 0 or self._elements < 0:
            raise TooLargeError("more layers than the file has tensors for")
        return func(*args, **(kwargs or {}))


def _asked_for(args: tuple[Any, ...]) -> int:
    """The number of elements that a creating operation is called for."""
    for argument in args:
        if isinstance(argument, list | tuple) and all(isinstance(size, int) for size in argument):
            return math.prod(argument)
    return max((abs(int(each)) for each in args if isinstance(each, int | float) and math.isfinite(each)), default=0)


def check_space_size(spec: Any, tensors: Iterable[torch.Tensor]) -> None:
    """Refuse a description of spaces with far more elements than the tensors could take in.

    Raises:
        TooLargeError: before anything is allocated.
    """
    allowed = max(_SPACE_ELEMENTS, sum(tensor.numel() for tensor in tensors))
    elements = objects = 0
    pending = [(spec, 0)]
    while pending:
        value, depth = pending.pop()
        if isinstance(value, Mapping):
            shape = value.get("shape", [])
            if not isinstance(shape, list) or len(shape) > 32:
                raise TooLargeError("a space of more than 32 axes")
            elements += math.prod(int(size) for size in shape)
            objects += 1
            pending.extend((each, depth + 1) for key, each in value.items() if key != "shape")
        elif isinstance(value, list):
            pending.extend((each, depth + 1) for each in value if isinstance(each, list | dict))
        if depth > 40 or elements > allowed or objects > _SPACES:
            raise TooLargeError(f"spaces of more than {allowed} elements or {_SPACES} parts, or nested too deeply")
