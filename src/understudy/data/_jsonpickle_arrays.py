"""NumPy's arrays and numbers in the text of ``jsonpickle``: made from the fields that stand there, without a call."""

from __future__ import annotations

import base64
import math
import zlib
from typing import Any

import numpy as np

MAX_BYTES = 16 << 20
"""What the packed and repeated arrays of one info may take in all; an info is of a single step."""

_KINDS = "biufcSU"

FAILURES = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, zlib.error)
"""What fields that do not fit each other may raise."""


class TooLargeError(Exception):
    """More bytes than one info may take; not among ``FAILURES``, so that it ends the reading."""


def plain_dtype(text: Any) -> np.dtype[Any]:
    """By its name; nothing but numbers and text."""
    if not isinstance(text, str) or len(text) > 16:
        raise ValueError("no name of a type")
    dtype = np.dtype(text)
    if dtype.kind not in _KINDS:
        raise ValueError(f"{dtype} is no type of plain numbers or text")
    return dtype


def scalar(dtype: np.dtype[Any], data: bytes) -> Any:
    """One number from its bytes."""
    if dtype.hasobject or len(data) != dtype.itemsize:
        raise ValueError("bytes that do not fit the type")
    return np.frombuffer(data, dtype=dtype)[0]


def array(shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool, data: Any) -> Any:
    """An array from its bytes, which stay in their order; one of objects is the list of them."""
    if dtype.hasobject:
        if isinstance(data, list):
            return data
        raise ValueError("no list of objects")
    if _size(shape, dtype) != len(data):
        raise ValueError("bytes that do not fit the shape")
    return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C").copy(order="K")


def _size(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("no shape")
    return math.prod(shape) * dtype.itemsize


class Handled:
    """What ``jsonpickle.ext.numpy`` writes, where it is registered; one for all of an info, whose bytes it counts."""

    def __init__(self) -> None:
        self._room = MAX_BYTES

    def read(self, fields: dict[str, Any]) -> Any:
        """An array, a number or a type.

        Raises:
            TooLargeError: more bytes than one info may take.
            FAILURES: fields that do not fit each other.
        """
        dtype = plain_dtype(fields["dtype"])
        if "value" in fields:
            return dtype.type(fields["value"])
        values = fields.get("values")
        if isinstance(values, str) and "shape" in fields:
            return self._packed(dtype, fields, values)
        if values is not None:
            return self._listed(dtype, fields, values)
        if "base" in fields:
            return self._view(dtype, fields)
        if "shape" in fields:
            raise ValueError("a shape without values")
        return dtype

    def _take(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise TooLargeError(f"arrays that inflate to more than {MAX_BYTES} bytes")

    def _listed(self, dtype: np.dtype[Any], fields: dict[str, Any], values: Any) -> np.ndarray:
        shape = np.shape(values)
        self._take(math.prod(shape) * dtype.itemsize)  # one long text would widen all
        made = np.array(values, dtype=dtype, order="F" if fields.get("order") == "F" else "C")
        return made.reshape(fields["shape"]) if made.size == 0 and "shape" in fields else made

    def _packed(self, dtype: np.dtype[Any], fields: dict[str, Any], values: str) -> Any:
        if fields.get("byteorder") in ("<", ">"):
            dtype = dtype.newbyteorder(fields["byteorder"])
        shape = tuple(fields["shape"])
        size = _size(shape, dtype)
        data = base64.b64decode(values)
        if len(data) != size:
            data = zlib.decompressobj().decompress(data, max(min(size, self._room), 0) + 1)
            self._take(len(data))
        return array(shape, dtype, fields.get("order") == "F", data)

    def _view(self, dtype: np.dtype[Any], fields: dict[str, Any]) -> np.ndarray:
        """Of another array of the same type; NumPy compares offset and strides with its bytes."""
        base = np.asarray(fields["base"])
        shape = tuple(fields["shape"])
        if not base.flags.forc or base.dtype.newbyteorder("=") != dtype or "byteorder" in fields:
            raise ValueError("a view as another type")
        if _size(shape, dtype) > base.nbytes:
            raise ValueError("a view larger than what it views")
        buffer = base.ravel(order="K")
        return np.ndarray(shape, base.dtype, buffer.data, fields.get("offset", 0), fields.get("strides")).copy()
