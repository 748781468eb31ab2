"""State as JSON and tensors: nested dictionaries and lists of plain values, arrays and tensors, and back.

What JSON cannot say is a dictionary with a single key that begins with ``$``: ``{"$tensor": "policy/weight"}`` stands
for a tensor of that name, ``{"$tuple": […]}`` for a tuple, ``{"$items": [[key, value], …]}`` for a dictionary whose
keys are not all plain text, ``{"$float": "nan"}`` for a float without a JSON form. Nothing names a class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from understudy.errors import ConfigError, CorruptFileError

Tree = Any
"""None, bool, int, float, str, tensor, NumPy array or scalar, or a list, tuple or dictionary of such."""

_MAX_DEPTH = 64


def pack(tree: Tree) -> tuple[Any, dict[str, torch.Tensor]]:
    """JSON-able values, and the tensors they name, on the CPU; copied only where they share memory.

    Raises:
        ConfigError: a value of another kind; the message says where.
    """
    packer = _Packer()
    return packer.pack(tree, ""), packer.tensors


class _Packer:
    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._stored: set[int] = set()

    def pack(self, value: Tree, at: str) -> Any:
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, np.generic) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
            return self._named(torch.from_numpy(np.array(value)), at, "$scalar")
        if isinstance(value, int):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"$float": repr(value)}
        if isinstance(value, torch.Tensor):
            return self._named(value.detach(), at, "$tensor")
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
            native = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
            return self._named(torch.from_numpy(native), at, "$array")
        if isinstance(value, list):
            return [self.pack(item, f"{at}/{i}") for i, item in enumerate(value)]
        if isinstance(value, tuple):
            return {"$tuple": [self.pack(item, f"{at}/{i}") for i, item in enumerate(value)]}
        if isinstance(value, Mapping):
            if all(isinstance(key, str) and not key.startswith("$") for key in value):
                return {key: self.pack(item, f"{at}/{key}") for key, item in value.items()}
            return {"$items": [[_key(key, at), self.pack(item, f"{at}/{key}")] for key, item in value.items()]}
        raise ConfigError(
            expected=f"state of plain values, arrays and tensors at {at or 'the top'}",
            got=type(value).__name__,
            do="keep its content as numbers, texts, lists or tensors",
        )

    def _named(self, tensor: torch.Tensor, at: str, kind: str) -> dict[str, str]:
        name = at.strip("/") or "value"
        while name in self.tensors:  # "a/b" may be one key or two
            name += "'"
        tensor = tensor.cpu().contiguous()
        # A safetensors file takes no two tensors of one memory.
        if tensor.data_ptr() in self._stored or tensor.untyped_storage().nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        self._stored.add(tensor.data_ptr())
        self.tensors[name] = tensor
        return {kind: name}


def _key(key: Any, at: str) -> str | int:
    if isinstance(key, (str, int)) and not isinstance(key, bool):
        return key
    raise ConfigError(
        expected=f"text or whole numbers as keys at {at or 'the top'}", got=repr(key), do="name the entries by text"
    )


def unpack(packed: Any, tensors: Mapping[str, torch.Tensor]) -> Tree:
    """What `pack` was given.

    Raises:
        CorruptFileError: not what `pack` makes.
    """
    try:
        return _unpack(packed, tensors, 0)
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise CorruptFileError(
            expected="state as this library writes it",
            got=f"{type(err).__name__}: {str(err)[:120]}",
            do="restore the file from a copy",
        ) from err


def _unpack(value: Any, tensors: Mapping[str, torch.Tensor], depth: int) -> Tree:
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested more than {_MAX_DEPTH} deep")
    if isinstance(value, list):
        return [_unpack(item, tensors, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (key, content), *_ = value.items()
        if key == "$tensor":
            return tensors[content]
        if key == "$array":
            return tensors[content].numpy()
        if key == "$scalar":
            return tensors[content].numpy()[()]
        if key == "$float":
            return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[content]
        if key == "$tuple":
            return tuple(_unpack(item, tensors, depth + 1) for item in content)
        if key == "$items":
            return {name: _unpack(item, tensors, depth + 1) for name, item in content}
    return {name: _unpack(item, tensors, depth + 1) for name, item in value.items()}
