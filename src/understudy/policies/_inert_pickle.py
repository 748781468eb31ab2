"""Pickles read as data: an interpreter of their opcodes that has nothing it could call.

A global becomes a `Name`, a call a `Call` of what it would have called and with what, a state is kept beside the
object it would have been given to. What a record stands for is decided by the reader of the file, from a table of
its own. Nothing is imported, and Python's own unpickler has no part in it.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_BYTES = 1 << 26
MAX_OPCODES = 120_000
MAX_NODES = 1_000_000
"""Values, those that are held in several places counted in each: what a reader that walks through them would see."""
MAX_DEPTH = 100
"""Tuples and records within each other: deeper ones would overflow the stack of what compares, hashes or shows them."""


class MalformedPickleError(ValueError):
    """Not a pickle of plain records, or one that is too large."""


@dataclass(frozen=True)
class Name:
    """A global that the pickle mentions."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Call:
    """A call that the pickle asks for and that never happened."""

    function: Any
    arguments: tuple[Any, ...]
    state: Any = None
    items: list[tuple[Any, Any]] = field(default_factory=list)
    """What would have been set by key."""
    elements: list[Any] = field(default_factory=list)
    """What would have been appended."""

    @property
    def name(self) -> str:
        """The dotted name of what would have been called; empty if that was no global."""
        return str(self.function) if isinstance(self.function, Name) else ""


@dataclass(frozen=True)
class Persistent:
    """A reference to something outside the pickle."""

    identity: Any


_MARK = object()
_CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: Mapping[str, type] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list, "EMPTY_TUPLE": tuple}
_PLAIN = frozenset(
    [
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    ]
)
_READS = frozenset(["GET", "BINGET", "LONG_BINGET"])
_WRITES = frozenset(["PUT", "BINPUT", "LONG_BINPUT"])
_TUPLES: Mapping[str, int] = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_inert(content: bytes) -> Any:
    """What the pickle holds: plain values, lists, dicts and tuples, and records for everything else.

    Raises:
        MalformedPickleError: damaged, of a kind this reader does not know, or above `MAX_OPCODES`, `MAX_NODES` or
            `MAX_DEPTH`.
    """
    if len(content) > MAX_BYTES:
        raise MalformedPickleError(f"a pickle of {len(content)} bytes")
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # escapes in text of protocol 0
            for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
                if count >= MAX_OPCODES:
                    raise MalformedPickleError(f"more than {MAX_OPCODES} opcodes")
                machine.step(opcode.name, argument)
    except MalformedPickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeError, RecursionError) as err:
        raise MalformedPickleError(f"{type(err).__name__}: {err}") from err
    if len(machine.stack) != 1:
        raise MalformedPickleError(f"{len(machine.stack)} values at the end")
    _check_size(machine.stack[0])
    return machine.stack[0]


def _check_size(root: Any) -> None:
    """Count every value as often as it is reached; one that holds itself counts once more and goes no further."""
    nodes: dict[int, int] = {}
    depths: dict[int, int] = {}
    pending = [(root, False)]
    while pending:
        value, left = pending.pop()
        parts = _parts(value)
        if not parts:
            continue
        if left:
            nodes[id(value)] = 1 + sum(nodes.get(id(part), 1) for part in parts)
            depths[id(value)] = max(depths.get(id(part), 0) for part in parts) + isinstance(value, _FROZEN)
            if nodes[id(value)] > MAX_NODES or depths[id(value)] > MAX_DEPTH:
                raise MalformedPickleError(f"more than {MAX_NODES} values, or {MAX_DEPTH} in each other")
        elif id(value) not in nodes:
            nodes[id(value)] = 1
            pending.append((value, True))
            pending.extend((part, False) for part in parts)


_FROZEN = (tuple, Call, Persistent)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, dict):
        return list(value.values())  # keys are plain
    if isinstance(value, Persistent):
        return [value.identity]
    if isinstance(value, Call):
        return [
            value.function,
            value.arguments,
            value.state,
            *value.elements,
            *(p for pair in value.items for p in pair),
        ]
    return []


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """One opcode."""
        if name in _PLAIN:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _READS:
            self.stack.append(self.memo[int(argument)])
        elif name in _WRITES:
            self.memo[int(argument)] = self._top()
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self._top()
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name in _TUPLES:
            self.stack.append(tuple(self._pop(_TUPLES[name])))
        elif name not in {"PROTO", "FRAME", "STOP"}:
            self._build(name, argument)

    def _build(self, name: str, argument: Any) -> None:
        if name in {"TUPLE", "LIST", "FROZENSET"}:
            values = self._to_mark()
            self.stack.append(tuple(values) if name == "TUPLE" else values)
        elif name == "DICT":
            values = self._to_mark()
            self.stack.append({})
            self._set(values)
        elif name in {"APPEND", "APPENDS", "ADDITEMS"}:
            self._extend(self._pop(1) if name == "APPEND" else self._to_mark())
        elif name in {"SETITEM", "SETITEMS"}:
            self._set(self._pop(2) if name == "SETITEM" else self._to_mark())
        elif name == "GLOBAL":
            module, _, attribute = argument.partition(" ")
            self.stack.append(Name(module, attribute))
        elif name == "STACK_GLOBAL":
            module, attribute = self._pop(2)
            if not (isinstance(module, str) and isinstance(attribute, str)):
                raise MalformedPickleError("a global without a name")
            self.stack.append(Name(module, attribute))
        elif name in {"REDUCE", "NEWOBJ"}:
            function, arguments = self._pop(2)
            self._call(function, arguments)
        elif name == "NEWOBJ_EX":
            function, arguments, keywords = self._pop(3)
            self._call(function, arguments)
            self.stack[-1].state = keywords
        elif name == "BUILD":
            [state] = self._pop(1)
            if isinstance(self._top(), Call):
                self._top().state = state
        elif name == "BINPERSID":
            self.stack.append(Persistent(self._pop(1)[0]))
        elif name == "POP":
            self._pop(1)
        elif name == "POP_MARK":
            self._to_mark()
        elif name == "DUP":
            self.stack.append(self._top())
        else:
            raise MalformedPickleError(f"the opcode {name}")

    def _call(self, function: Any, arguments: Any) -> None:
        if not isinstance(arguments, tuple):
            raise MalformedPickleError("a call without a tuple of arguments")
        self.stack.append(Call(function, arguments))

    def _top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise MalformedPickleError("an empty stack")
        return self.stack[-1]

    def _pop(self, count: int) -> list[Any]:
        values = self.stack[-count:]
        if len(values) != count or any(value is _MARK for value in values):
            raise MalformedPickleError("an empty stack")
        del self.stack[-count:]
        return values

    def _to_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                values = self.stack[index + 1 :]
                del self.stack[index:]
                return values
        raise MalformedPickleError("no mark")

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, Call):
            target.elements.extend(values)
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise MalformedPickleError("a list that is none")

    def _set(self, values: list[Any]) -> None:
        target = self._top()
        if len(values) % 2:
            raise MalformedPickleError("a key without a value")
        pairs = list(zip(values[::2], values[1::2], strict=True))
        if isinstance(target, Call):
            target.items.extend(pairs)
        elif isinstance(target, dict):
            for key, value in pairs:
                if not isinstance(key, str | int | float | None):  # hashing deep tuples would overflow C's stack
                    raise MalformedPickleError("a key that is neither text nor number")
                target[key] = value
        else:
            raise MalformedPickleError("a dict that is none")
