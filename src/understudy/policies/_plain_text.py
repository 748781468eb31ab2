"""The small part of Python's own notation that Stable-Baselines3 leaves beside a pickle, parsed without evaluating it.

``str`` of dicts, lists, NumPy arrays, spaces, schedules and classes: names stay names, nothing is looked up here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

MAX_TEXT = 1 << 20
_MAX_DEPTH = 20
_MAX_TOKENS = 200_000  # about a second
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_TOKEN = re.compile(
    rf"""\s*(?:
    (?P<number>{_NUMBER}|[-+]?(?:inf|nan)\b)
    |(?P<text>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
    |(?P<class_><(?:class|enum)\ '(?P<path>[\w.<>]{{1,200}})'>)
    |(?P<opaque><[^<>\n]{{0,300}}(?:<[^<>\n]{{0,200}}>[^<>\n]{{0,200}})*>)
    |(?P<name>[A-Za-z_][\w.]*)
    |(?P<dots>\.\.\.)
    |(?P<mark>[\[\](){{}},:=]))""",
    re.VERBOSE,
)
_WORDS = {"None": None, "True": True, "False": False}
_CLOSING = {"[": "]", "(": ")", "{": "}"}


class UnreadableTextError(ValueError):
    """Text outside the notation that is read here."""


@dataclass(frozen=True)
class ClassName:
    """A class by its dotted path, as ``str`` shows it."""

    path: str


@dataclass(frozen=True)
class Opaque:
    """A function or object that only shows where it lay in memory."""

    text: str


@dataclass(frozen=True)
class Construction:
    """``Name(arguments)``; a bare word has no arguments."""

    name: str
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)


class Elided:
    """The dots that NumPy writes for the middle of a long array."""


class TokenBudget:
    """How much text may be parsed: one budget for a whole file, so that many entries cost no more than one."""

    def __init__(self, tokens: int = _MAX_TOKENS) -> None:
        self._left = tokens

    def spend(self) -> None:
        """Take one token.

        Raises:
            UnreadableTextError: none are left.
        """
        self._left -= 1
        if self._left < 0:
            raise UnreadableTextError("more text than is read of one file")


def parse(text: str, budget: TokenBudget | None = None) -> Any:
    """The value that a piece of text shows.

    Args:
        text: as ``str`` wrote it.
        budget: shared by all texts of a file; a fresh one where it is None.

    Raises:
        UnreadableTextError: too long, too deep, or nothing that is understood here.
    """
    if len(text) > MAX_TEXT:
        raise UnreadableTextError(f"text of {len(text)} characters")
    parser = _Parser(text, budget or TokenBudget())
    value = parser.value(0)
    if parser.kind != "end":
        raise UnreadableTextError(f"more text than one value: {text[:80]!r}")
    return value


class _Parser:
    def __init__(self, text: str, budget: TokenBudget) -> None:
        self._text = text.strip()
        self._position = 0
        self._budget = budget
        self.kind = ""
        self.token = ""
        self._next()

    def _next(self) -> str:
        token = self.token
        self._budget.spend()
        if self._position >= len(self._text):
            self.kind, self.token = "end", ""
            return token
        match = _TOKEN.match(self._text, self._position)
        if match is None:
            raise UnreadableTextError(f"{self._text[self._position : self._position + 60]!r}")
        self._position = match.end()
        kind = next(name for name in ("number", "text", "class_", "opaque", "name", "dots", "mark") if match[name])
        self.kind, self.token = kind, match["path"] if kind == "class_" else match[kind]
        return token

    def _take(self, mark: str) -> bool:
        if self.kind == "mark" and self.token == mark:
            self._next()
            return True
        return False

    def value(self, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise UnreadableTextError("nested too deeply")
        kind, token = self.kind, self.token
        self._next()
        if kind == "number":
            return _number(token)
        if kind == "text":
            return _string(token)
        if kind == "class_":
            return ClassName(token)
        if kind == "opaque":
            return Opaque(token)
        if kind == "dots":
            return Elided()
        if kind == "name":
            return self._named(token, depth)
        if kind == "mark" and token in _CLOSING:
            return self._group(token, depth)
        raise UnreadableTextError(f"{token!r} in {self._text[:60]!r}")

    def _named(self, name: str, depth: int) -> Any:
        if name in _WORDS:
            return _WORDS[name]
        if not self._take("("):
            return Construction(name)
        arguments: list[Any] = []
        keywords: dict[str, Any] = {}
        while not self._take(")"):
            value = self.value(depth + 1)
            if isinstance(value, str) and self._take(":"):  # gymnasium shows a Dict so
                keywords[value] = self.value(depth + 1)
            elif isinstance(value, Construction) and not value.arguments and self._take("="):
                keywords[value.name] = self.value(depth + 1)
            else:
                arguments.append(value)
            self._take(",")
        return Construction(name, tuple(arguments), keywords)

    def _group(self, opening: str, depth: int) -> Any:
        closing = _CLOSING[opening]
        values: list[Any] = []
        keys: list[Any] = []
        commas, separated = 0, True
        while not self._take(closing):
            if not (separated or (opening == "[" and isinstance(values[-1], int | float | list | Elided))):
                raise UnreadableTextError(f"no comma in {self._text[:60]!r}")
            values.append(self.value(depth + 1))
            if opening == "{" and self._take(":"):
                keys.append(values.pop())
                values.append(self.value(depth + 1))
            separated = self._take(",")  # arrays have white space alone
            commas += separated
        if opening == "{":
            if len(keys) != len(values) or not all(isinstance(key, str | int | float | None) for key in keys):
                raise UnreadableTextError("a set, or a key that is no plain value")
            return dict(zip(keys, values, strict=True))
        if opening == "(":
            return values[0] if len(values) == 1 and not commas else tuple(values)
        return values


def _number(token: str) -> int | float:
    if re.fullmatch(r"[-+]?\d{1,30}", token):
        return int(token)
    return float(token)


def _string(token: str) -> str:
    body = token[1:-1]
    if "\\" in body:
        raise UnreadableTextError("escapes in text")
    return body
