"""One SHA-256 over everything a trainer has, to compare runs to the last bit."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Mapping, Sequence, Set
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch


def sha_of(state: Any) -> str:
    """SHA-256 of nested values: tensors and arrays with type and shape, numbers by their bits, text, mappings by key.

    Order counts in sequences, not in mappings and sets. Where a tensor lies, its strides and whether it requires a
    gradient do not count.

    Raises:
        TypeError: a value whose content it does not know.
    """
    digest = hashlib.sha256()
    _add(digest, state, "state")
    return digest.hexdigest()


def sha_state(trainer: Any) -> str:
    """`sha_of` what the trainer would save: parameters, buffers, optimiser, counters, generators."""
    return sha_of(trainer.state())


def _add(digest: Any, value: Any, where: str) -> None:
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"tensor {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    elif isinstance(value, np.ndarray | np.generic):
        if value.dtype.hasobject:
            raise TypeError(f"objects in the array at {where}")
        array = np.ascontiguousarray(value)
        digest.update(f"array {array.dtype.str} {array.shape};".encode())
        digest.update(array.tobytes())
    elif value is None or isinstance(value, bool | int):
        digest.update(f"{type(value).__name__} {value};".encode())
    elif isinstance(value, float):
        digest.update(b"float" + struct.pack("<d", value))
    elif isinstance(value, str | bytes):
        content = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        digest.update(f"{type(value).__name__} {len(content)};".encode() + content)
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)};".encode())
        for key in sorted(value, key=lambda each: (type(each).__name__, str(each))):
            _add(digest, key, f"a key of {where}")
            _add(digest, value[key], f"{where}[{key!r}]")
    elif isinstance(value, Set):
        _add(digest, sorted(sha_of(each) for each in value), where)
    elif isinstance(value, Sequence):
        digest.update(f"sequence {len(value)};".encode())
        for position, each in enumerate(value):
            _add(digest, each, f"{where}[{position}]")
    elif isinstance(value, torch.Generator):
        _add(digest, value.get_state(), where)
    elif isinstance(value, np.random.Generator | np.random.RandomState):
        _add(digest, _bits(value), where)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _add(digest, {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}, where)
    elif isinstance(value, Enum | PurePath | torch.dtype | torch.device | np.dtype):
        digest.update(f"{type(value).__name__} {value};".encode())
    elif callable(getattr(value, "state_dict", None)):
        _add(digest, value.state_dict(), where)
    else:
        raise TypeError(f"{type(value).__name__} at {where}")


def _bits(generator: np.random.Generator | np.random.RandomState) -> Any:
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.bit_generator.state
