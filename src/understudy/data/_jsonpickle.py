"""Infos that ``jsonpickle`` wrote, read as data: no class is looked up, nothing is imported and nothing is called.

NumPy's arrays and scalars, tuples, sets, bytes and references come back as what they were. Every other tag names code;
it stays the plain dictionary that stands in the text. References count as ``jsonpickle`` counts them: each list,
dictionary, object and reduction in the order of the text, from 0.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import zlib
from typing import Any

import numpy as np

MAX_DEPTH = 64
MAX_NODES = 1_000_000
"""Values in one info, references written out: a few references to references could else stand for more than fits."""

_RECONSTRUCT = frozenset(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core"))
_SCALAR = frozenset(f"numpy.{core}.multiarray.scalar" for core in ("core", "_core"))
_DTYPES = frozenset({"numpy.dtype"})
_KINDS = "biufcSU"
_UNFINISHED = object()


class _Names(dict[str, Any]):
    """A tag that names code, such as ``py/type``: the dictionary of the text, told apart from plain data."""


def decode_info(text: bytes | str) -> Any:
    """One info from its JSON.

    Raises:
        ValueError: not JSON, nested deeper than ``MAX_DEPTH``, or more than ``MAX_NODES`` values.
        RecursionError: nested deeper than the JSON reader goes.
    """
    value = json.loads(text)
    tagged = b'"py/' in text if isinstance(text, bytes) else '"py/' in text
    decoded = _Decoder().value(value, 0) if tagged else value
    return decoded if isinstance(decoded, dict) else value  # an info is a dictionary, whatever else it claims to be


class _Decoder:
    def __init__(self) -> None:
        self._objects: list[Any] = []
        self._sizes: list[int] = []
        self._nodes = 0

    def value(self, value: Any, depth: int) -> Any:
        self._count(1)
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        if isinstance(value, list):
            return self._numbered(lambda: [self.value(item, depth + 1) for item in value])
        if not isinstance(value, dict):
            return value
        if not any(key.startswith("py/") for key in value):
            return self._numbered(lambda: self._items(value, depth))
        return self._tagged(value, depth)

    def _count(self, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise ValueError(f"more than {MAX_NODES} values")

    def _numbered(self, make: Any) -> Any:
        number, before = len(self._objects), self._nodes
        self._objects.append(_UNFINISHED)
        self._sizes.append(0)
        made = self._objects[number] = make()
        self._sizes[number] = self._nodes - before
        return made

    def _items(self, value: dict[str, Any], depth: int) -> dict[str, Any]:
        return {key: self.value(item, depth + 1) for key, item in value.items()}

    def _tagged(self, value: dict[str, Any], depth: int) -> Any:
        if "py/id" in value:
            return self._reference(value)
        if isinstance(parts := value.get("py/tuple"), list):
            return tuple(self.value(item, depth + 1) for item in parts)
        if isinstance(parts := value.get("py/set"), list):
            members = [self.value(item, depth + 1) for item in parts]
            try:
                return set(members)
            except TypeError:
                return members
        for tag, decode in (("py/b64", base64.b64decode), ("py/b85", base64.b85decode)):
            if isinstance(text := value.get(tag), str):
                try:
                    return decode(text)
                except (ValueError, binascii.Error):
                    return _Names(value)
        if isinstance(parts := value.get("py/reduce"), list):
            return self._numbered(lambda: self._reduction(value, parts, depth))
        if "py/object" in value:
            return self._numbered(lambda: self._object(value, depth))
        return _Names(value)

    def _reference(self, value: dict[str, Any]) -> Any:
        number = value["py/id"]
        if type(number) is not int or not 0 <= number < len(self._objects):
            return _Names(value)
        if (found := self._objects[number]) is _UNFINISHED:  # a ring: left open
            return _Names(value)
        self._count(self._sizes[number])
        return found

    def _reduction(self, value: dict[str, Any], parts: list[Any], depth: int) -> Any:
        decoded = [self.value(part, depth + 1) for part in parts]
        function, args, state, _, pairs = (decoded + [None] * 5)[:5]
        name = None
        if isinstance(function, _Names):
            name = function.get("py/function", function.get("py/type"))
        try:
            if name in _DTYPES:
                return _dtype(args[0], state)
            if name in _SCALAR:
                return _scalar(*args)
            if name in _RECONSTRUCT:
                return _array(*state[1:5])
            if name == "collections.OrderedDict" and not args:
                return dict(pairs or ())
        except (ValueError, TypeError, IndexError, AttributeError, OverflowError):
            pass
        return _Names({**value, "py/reduce": decoded})

    def _object(self, value: dict[str, Any], depth: int) -> Any:
        fields = {key: self.value(item, depth + 1) for key, item in value.items() if not key.startswith("py/")}
        if str(value["py/object"]).startswith("numpy."):
            try:
                return _handled(fields)
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError, zlib.error):
                pass
        return _Names({"py/object": value["py/object"], **fields})


def _plain_dtype(text: Any) -> np.dtype[Any]:
    if not isinstance(text, str) or len(text) > 16:
        raise ValueError("no name of a type")
    dtype = np.dtype(text)
    if dtype.kind not in _KINDS:
        raise ValueError(f"{dtype} is no type of plain numbers or text")
    return dtype


def _dtype(text: Any, state: Any) -> np.dtype[Any]:
    if isinstance(text, str) and text.startswith(("O", "|O")):
        return np.dtype(object)  # its array holds a list, which is read as such
    dtype = _plain_dtype(text)
    order = state[1] if isinstance(state, tuple) else "="
    return dtype.newbyteorder(">") if order == ">" else dtype


def _scalar(dtype: np.dtype[Any], data: bytes) -> Any:
    if dtype.hasobject or len(data) != dtype.itemsize:
        raise ValueError("bytes that do not fit the type")
    return np.frombuffer(data, dtype=dtype)[0]


def _array(shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool, data: Any) -> Any:
    if dtype.hasobject:
        if isinstance(data, list):
            return data
        raise ValueError("no list of objects")
    if not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError("bytes that do not fit the shape")
    return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C").copy()


def _handled(fields: dict[str, Any]) -> Any:
    """What ``jsonpickle.ext.numpy`` writes, where it is registered."""
    dtype = _plain_dtype(fields["dtype"])
    if "value" in fields:
        return dtype.type(fields["value"])
    if isinstance(values := fields.get("values"), list):
        return np.array(values, dtype=dtype).reshape(fields.get("shape", -1) if not values else np.shape(values))
    if not isinstance(values, str):
        if "values" in fields:
            return dtype.type(values)
        return dtype
    if fields.get("byteorder") in ("<", ">"):
        dtype = dtype.newbyteorder(fields["byteorder"])
    shape = tuple(fields["shape"])
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("no shape")
    size = math.prod(shape) * dtype.itemsize
    data = base64.b64decode(values)
    if len(data) != size:
        data = zlib.decompressobj().decompress(data, min(size, MAX_NODES * 8) + 1)
    return _array(shape, dtype, fields.get("order") == "F", data)
