"""Structures of spaces: a Dict or Tuple space seen as its leaves, and values that have the same structure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from torch import Tensor

from understudy.data.dict_obs import DictObs
from understudy.errors import DataError

Nest = Any
"""A tensor or array, or a dictionary, list or tuple of nests."""


def leaf_spaces(space: gym.Space[Any], path: str = "") -> list[tuple[str, gym.Space[Any]]]:
    """The spaces without parts in a space, in order, each with where it stands, such as ``['arm'][0]``."""
    if isinstance(space, spaces.Dict):
        return [leaf for key, sub in space.spaces.items() for leaf in leaf_spaces(sub, f"{path}[{key!r}]")]
    if isinstance(space, spaces.Tuple):
        return [leaf for i, sub in enumerate(space.spaces) for leaf in leaf_spaces(sub, f"{path}[{i}]")]
    return [(path, space)]


def leaves(value: Nest, space: gym.Space[Any], where: str) -> list[Any]:
    """The parts of a value in the order of `leaf_spaces`; what the space does not have is left out.

    Args:
        value: nested like the space. The only leaf of a space may come bare.
        space: says the structure.
        where: names the value in errors.

    Raises:
        DataError: something that the space has is missing.
    """
    if isinstance(value, DictObs):
        value = value.unwrap()
    bare = not isinstance(value, (Mapping, tuple, list))
    if bare and not isinstance(space, (spaces.Dict, spaces.Tuple)):
        return [value]
    if bare and len(leaf_spaces(space)) == 1:
        return [value]
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping):
            raise _other_structure(space, value, where)
        missing = [key for key in space.spaces if key not in value]
        if missing:
            raise DataError(
                expected=f"{where} with the entries {list(space.spaces)}",
                got=f"{list(value)}",
                do=f"add {', '.join(map(repr, missing))}",
            )
        return [leaf for key, sub in space.spaces.items() for leaf in leaves(value[key], sub, f"{where}[{key!r}]")]
    if isinstance(space, spaces.Tuple):
        if not isinstance(value, (tuple, list)) or len(value) != len(space.spaces):
            raise _other_structure(space, value, where)
        return [
            leaf
            for i, (v, sub) in enumerate(zip(value, space.spaces, strict=True))
            for leaf in leaves(v, sub, f"{where}[{i}]")
        ]
    if isinstance(value, list) and not any(isinstance(v, Tensor) for v in value):
        return [value]  # numbers, to be made an array
    raise _other_structure(space, value, where)


def _other_structure(space: gym.Space[Any], value: Any, where: str) -> DataError:
    shown = type(value).__name__
    if isinstance(value, Mapping):
        shown = f"a mapping with {list(value)}"
    elif isinstance(value, (tuple, list)):
        shown = f"a {shown} of {len(value)}"
    return DataError(
        expected=f"{where} structured like {space}", got=shown, do="nest it in dictionaries and tuples as the space is"
    )


def nest_like(space: gym.Space[Any], parts: Sequence[Any]) -> Nest:
    """The inverse of `leaves`: dictionaries for Dict, tuples for Tuple."""
    remaining = iter(parts)

    def build(space: gym.Space[Any]) -> Nest:
        if isinstance(space, spaces.Dict):
            return {key: build(sub) for key, sub in space.spaces.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(build(sub) for sub in space.spaces)
        return next(remaining)

    return build(space)


def map_nest(function: Callable[[Any], Any], value: Nest) -> Nest:
    """The same structure with the function applied to everything that is no dictionary, list, tuple or None."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {key: map_nest(function, item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[map_nest(function, item) for item in value])
    if isinstance(value, (tuple, list)):
        return type(value)([map_nest(function, item) for item in value])
    return function(value)


def parts_of(value: Nest) -> list[Any]:
    """Everything in a nest that `map_nest` would apply a function to, in order."""
    found: list[Any] = []
    map_nest(found.append, value)
    return found


def refill(value: Nest, parts: Sequence[Any]) -> Nest:
    """A nest of the same structure with other parts, in the order of `parts_of`."""
    remaining = iter(parts)
    return map_nest(lambda _: next(remaining), value)
