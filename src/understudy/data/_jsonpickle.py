"""Infos that ``jsonpickle`` wrote, read as data: no class is looked up, nothing is imported and nothing is called.

NumPy's arrays and scalars, tuples, sets, bytes and references come back as what they were. Every other tag names code;
it stays the plain dictionary that stands in the text. References count as ``jsonpickle`` counts them: each list,
dictionary, object and reduction in the order of the text, from 0; what an object hides in its tags is counted too, and
what its own writer put there as it is, such as a shape, is not. Where the text may hide a number that cannot be counted
here, references to anything after that place stay what the text says: a wrong one would be wrong data.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from understudy.data._jsonpickle_arrays import FAILURES, Handled, TooLargeError, array, plain_dtype, scalar

MAX_DEPTH = 64
MAX_NODES = 1_000_000
"""Values in one info, references written out: a few references to references could else stand for more than fits."""

_RECONSTRUCT = frozenset(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core"))
_SCALAR = frozenset(f"numpy.{core}.multiarray.scalar" for core in ("core", "_core"))
_DTYPES = frozenset({"numpy.dtype"})
_UNNUMBERED = frozenset({"py/type", "py/function"})
_NUMBERED = frozenset({"py/mod", "py/repr"})
_OBJECT = "py/object"
_PARTS = frozenset({"py/state", "py/newargs", "py/initargs"})
"""Of an object: flattened like any value."""
_LISTS = frozenset({"py/seq", "py/iterator", "py/newargsex"})
"""Of an object: lists that have no number, of values that have."""
_HANDLED_FIELDS = frozenset({"dtype", "shape", "strides", "offset", "byteorder", "order", "writeable"})
"""Of an array that the handlers for NumPy wrote: as they are, without numbers."""
_UNFINISHED = object()


class _Names(dict[str, Any]):
    """A tag that names code, such as ``py/type``: the dictionary of the text, told apart from plain data."""


def decode_info(text: bytes | str) -> Any:
    """One info from its JSON.

    Raises:
        ValueError: not JSON, nested deeper than ``MAX_DEPTH``, more than ``MAX_NODES`` values, or arrays that inflate
            to more than ``MAX_BYTES``.
        RecursionError: nested deeper than the JSON reader goes.
    """
    value = json.loads(text)
    tagged = b'"py/' in text if isinstance(text, bytes) else '"py/' in text
    try:
        decoded = _Decoder().value(value, 0) if tagged else value
    except TooLargeError as err:
        raise ValueError(str(err)) from err
    return decoded if isinstance(decoded, dict) else value  # an info is a dictionary, whatever else it claims to be


class _Decoder:
    def __init__(self) -> None:
        self._objects: list[Any] = []
        self._sizes: list[int] = []
        self._nodes = 0
        self._certain: int | None = None
        self._handled = Handled()

    def value(self, value: Any, depth: int) -> Any:
        self._count(1)
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        if isinstance(value, list):
            return self._numbered(lambda: self._list(value, depth))
        if not isinstance(value, dict):
            return value
        if not any(key.startswith("py/") for key in value):
            return self._numbered(lambda: self._items(value, depth))
        return self._tagged(value, depth)

    def _count(self, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise ValueError(f"more than {MAX_NODES} values")

    def _doubt(self) -> None:
        """From here on the numbers may be others than those in the text."""
        if self._certain is None:
            self._certain = len(self._objects)

    def _left(self, value: dict[str, Any]) -> _Names:
        """A tag that is not known, or not with such a content."""
        self._doubt()
        return _Names(value)

    def _numbered(self, make: Callable[[], Any]) -> Any:
        number, before = len(self._objects), self._nodes
        self._objects.append(_UNFINISHED)
        self._sizes.append(0)
        made = self._objects[number] = make()
        self._sizes[number] = self._nodes - before
        return made

    def _list(self, items: list[Any], depth: int) -> list[Any]:
        return [self.value(item, depth + 1) for item in items]

    def _items(self, value: dict[str, Any], depth: int) -> dict[str, Any]:
        items: dict[str, Any] = {}
        for key, item in value.items():
            if key.startswith("json://") and '"py/' in key:  # a key that was an object, with numbers of its own
                self._doubt()
            items[key] = self.value(item, depth + 1)
        return items

    def _tagged(self, value: dict[str, Any], depth: int) -> Any:
        if _OBJECT in value:
            return self._numbered(lambda: self._object(value, depth))
        if len(value) > 1:
            return self._left(value)
        ((tag, content),) = value.items()
        if tag == "py/id":
            return self._reference(value)
        if tag == "py/tuple" and isinstance(content, list):
            return tuple(self._list(content, depth))
        if tag == "py/set" and isinstance(content, list):
            members = self._list(content, depth)
            try:
                return set(members)
            except TypeError:
                return members
        if tag in ("py/b64", "py/b85") and isinstance(content, str):
            try:
                return base64.b64decode(content) if tag == "py/b64" else base64.b85decode(content)
            except (ValueError, binascii.Error):
                return _Names(value)
        if tag == "py/reduce" and isinstance(content, list):
            return self._numbered(lambda: self._reduction(value, content, depth))
        if tag in _NUMBERED:
            return self._numbered(lambda: _Names(value))
        return _Names(value) if tag in _UNNUMBERED else self._left(value)

    def _reference(self, value: dict[str, Any]) -> Any:
        number = value["py/id"]
        if type(number) is not int or not 0 <= number < len(self._objects):
            return self._left(value)  # what is yet to come has no number: something was not counted
        if self._certain is not None and number >= self._certain:
            return _Names(value)
        if (found := self._objects[number]) is _UNFINISHED:  # a ring: left open
            return _Names(value)
        self._count(self._sizes[number])
        return found

    def _reduction(self, value: dict[str, Any], parts: list[Any], depth: int) -> Any:
        decoded = self._list(parts, depth)
        function, args, state, _, pairs = (decoded + [None] * 5)[:5]
        name = None
        if isinstance(function, _Names):
            name = function.get("py/function", function.get("py/type"))
        try:
            if name in _DTYPES:
                return _dtype(args[0], state)
            if name in _SCALAR:
                return scalar(*args)
            if name in _RECONSTRUCT:
                return array(*state[1:5])
            if name == "collections.OrderedDict" and not args:
                return dict(pairs or ())
        except FAILURES:
            pass
        return _Names({**value, "py/reduce": decoded})

    def _object(self, value: dict[str, Any], depth: int) -> Any:
        name = str(value[_OBJECT])
        of_numpy = isinstance(value.get("dtype"), str)
        if not name.startswith("numpy.") and (name.startswith("pandas.") or (of_numpy and "shape" in value)):
            self._doubt()  # written by handlers that are not followed here
        fields: dict[str, Any] = {}
        for key, item in value.items():
            if key == _OBJECT or (of_numpy and key in _HANDLED_FIELDS):
                fields[key] = item
            elif key in _LISTS and isinstance(item, list):
                fields[key] = self._list(item, depth)
            elif key == "__reduce__" and isinstance(item, list):  # of a date or time
                fields[key] = [self._list(part, depth) if isinstance(part, list) else part for part in item]
            else:
                if key.startswith("py/") and key not in _PARTS:
                    self._doubt()
                fields[key] = self.value(item, depth + 1)
        if name.startswith("numpy.") and of_numpy:
            try:
                return self._handled.read(fields)
            except FAILURES:
                pass
        return _Names(fields)


def _dtype(text: Any, state: Any) -> np.dtype[Any]:
    if isinstance(text, str) and text.startswith(("O", "|O")):
        return np.dtype(object)  # its array holds a list, which is read as such
    dtype = plain_dtype(text)
    order = state[1] if isinstance(state, tuple) else "="
    return dtype.newbyteorder(">") if order == ">" else dtype
