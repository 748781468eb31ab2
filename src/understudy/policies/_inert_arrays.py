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
        ValueError: another object, or bytes that do not fill the shape.
    """
    try:
        return _array(record)
    except (TypeError, IndexError, KeyError, AttributeError, OverflowError) as err:
        raise ValueError(f"an array that is none: {type(err).__name__}") from err


def _array(record: Any) -> np.ndarray:
    if isinstance(record, int | float):
        return np.asarray(record, np.float64)
    if not isinstance(record, Call):
        raise ValueError("an array of another kind")
    module, _, name = record.name.rpartition(".")
    order: Any = "C"
    if not module.startswith("numpy"):
        raise ValueError(f"an array made by {record.name[:100] or 'something else'}")
    if name == "_reconstruct":
        _, shape, dtype, fortran, content = record.state
        order = "F" if fortran is True else "C"
    elif name == "scalar":
        dtype, content = record.arguments
        shape = ()
    elif name == "_frombuffer":
        content, dtype, shape, order = record.arguments
    else:
        raise ValueError(f"an array made by {record.name[:100]}")
    if isinstance(content, str):
        content = content.encode("latin-1")
    elif isinstance(content, Call) and content.name == "_codecs.encode":  # bytes as pickles of protocol 2 hold them
        content = content.arguments[0].encode("latin-1")
    sizes = shape if isinstance(shape, tuple) else (shape,)
    if len(sizes) > 32 or not all(type(size) is int and 0 <= size <= _MAX_ELEMENTS for size in sizes):
        raise ValueError("an array without a shape")
    if math.prod(sizes) > _MAX_ELEMENTS:
        raise ValueError(f"an array of shape {sizes}")
    kind = _dtype(dtype)
    if not isinstance(content, bytes | bytearray) or len(content) != math.prod(sizes) * kind.itemsize:
        raise ValueError("an array whose bytes do not fill its shape")
    return (
        np.frombuffer(content, kind)
        .reshape(sizes, order="F" if isinstance(order, str) and order == "F" else "C")
        .astype(np.float64)
    )


def number_of(value: Any) -> float | None:
    """A number, NumPy's too; None for anything else."""
    if isinstance(value, Call):
        array = array_of(value)
        return float(array.item()) if array.size == 1 else None
    if isinstance(value, int) and abs(value) > 1 << 1000:
        return None
    return float(value) if isinstance(value, int | float) else None


def _dtype(record: Any) -> np.dtype[Any]:
    if not (isinstance(record, Call) and record.function == Name("numpy", "dtype")):
        raise ValueError("a type of another kind")
    code = record.arguments[0]
    if not isinstance(code, str) or code not in _CODES:
        raise ValueError(f"numbers of type {code[:20] if isinstance(code, str) else type(code).__name__}")
    big = isinstance(record.state, tuple) and isinstance(record.state[1], str) and record.state[1] == ">"
    kind: np.dtype[Any] = np.dtype((">" if big else "<") + code)
    return kind
