"""NumPy arrays and numbers out of a pickle read as data: from the shape, type and bytes that it states."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from understudy.policies._inert_pickle import Call, Name

_MAX_ELEMENTS = 1 << 22
_CODES = frozenset(["f2", "f4", "f8", "i4", "i8", "u4", "u8", "b1"])


def array_of(record: Any) -> np.ndarray:
    """The array or number, in float64.

    Raises:
        ValueError: another object, or bytes that do not fill the shape. TypeError for records of another form.
    """
    if isinstance(record, int | float):
        return np.asarray(record, np.float64)
    if not isinstance(record, Call):
        raise ValueError("an array of another kind")
    module, _, name = record.name.rpartition(".")
    order: Any = "C"
    if not module.startswith("numpy"):
        raise ValueError(f"an array made by {record.name}")
    if name == "_reconstruct":
        _, shape, dtype, fortran, content = record.state
        order = "F" if fortran is True else "C"
    elif name == "scalar":
        dtype, content = record.arguments
        shape = ()
    elif name == "_frombuffer":
        content, dtype, shape, order = record.arguments
    else:
        raise ValueError(f"an array made by {record.name}")
    if isinstance(content, str):
        content = content.encode("latin-1")
    elif isinstance(content, Call) and content.name == "_codecs.encode":  # bytes as pickles of protocol 2 hold them
        content = content.arguments[0].encode("latin-1")
    sizes = (shape,) if isinstance(shape, int) else shape
    if not all(type(size) is int and size >= 0 for size in sizes) or math.prod(sizes) > _MAX_ELEMENTS:
        raise ValueError(f"an array of shape {sizes}")
    kind = _dtype(dtype)
    if not isinstance(content, bytes | bytearray) or len(content) != math.prod(sizes) * kind.itemsize:
        raise ValueError("an array whose bytes do not fill its shape")
    return np.frombuffer(content, kind).reshape(sizes, order="F" if order == "F" else "C").astype(np.float64)


def number_of(value: Any) -> float | None:
    """A number, NumPy's too; None for anything else."""
    if isinstance(value, Call):
        array = array_of(value)
        return float(array.item()) if array.size == 1 else None
    return float(value) if isinstance(value, int | float) else None


def _dtype(record: Any) -> np.dtype[Any]:
    if not (isinstance(record, Call) and record.function == Name("numpy", "dtype")):
        raise ValueError("a type of another kind")
    code = record.arguments[0]
    if code not in _CODES:
        raise ValueError(f"numbers of type {code!r}")
    big = isinstance(record.state, tuple) and record.state[1] == ">"
    kind: np.dtype[Any] = np.dtype((">" if big else "<") + code)
    return kind
