"""Docstrings with values filled in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def docstring_parameter(*args: Any, **kwargs: Any) -> Callable[[T], T]:
    """A decorator that calls ``str.format`` with these arguments on the docstring of what it decorates."""

    def fill(documented: T) -> T:
        documented.__doc__ = (documented.__doc__ or "").format(*args, **kwargs)
        return documented

    return fill
