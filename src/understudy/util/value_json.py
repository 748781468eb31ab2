"""A constructor's arguments as JSON: plain values as they are, classes by a short name from a table.

A file never names a place to import from. Names stand in the reader's table, or the caller supplies them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.errors import ConfigError, CorruptFileError, MissingExtraError
from understudy.util.registry import load_attr
from understudy.util.space_json import space_from_json, space_to_json

_ACTIVATIONS = (
    *("CELU", "ELU", "GELU", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU", "LogSigmoid", "Mish"),
    *("PReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softsign", "Tanh"),
)

LAYER_CLASSES: Mapping[str, str] = {
    "RunningNorm": "understudy.util.networks:RunningNorm",
    "EMANorm": "understudy.util.networks:EMANorm",
    **{name: f"torch.nn:{name}" for name in _ACTIVATIONS},
}
"""What any network may be built with: normalisers and activations."""


def shown(value: Any) -> str:
    """Part of a file in a message: on one line, and not all of it."""
    return " ".join(str(value).split())[:200]


def value_to_json(
    key: str, value: Any, table: Mapping[str, str], describe: Callable[[Any], dict[str, Any] | None] | None = None
) -> Any:
    """Plain values as they are; everything else as an object with one key that says what it is.

    Args:
        key: the argument's name, under which the caller will supply what has no description.
        value: anything.
        table: classes that may be named.
        describe: asked first about what is no plain value; None where it knows nothing of it.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, list):
        return [value_to_json(key, each, table, describe) for each in value]
    if isinstance(value, tuple):
        return {"tuple": [value_to_json(key, each, table, describe) for each in value]}
    if isinstance(value, dict) and all(isinstance(each, str) for each in value):
        return {"dict": {name: value_to_json(name, each, table, describe) for name, each in value.items()}}
    described = None if describe is None else describe(value)
    if described is not None:
        return described
    if isinstance(value, gym.Space):
        return {"space": space_to_json(value)}
    if isinstance(value, type):
        return class_to_json(value, table)
    return {"custom": key}


def class_to_json(cls: type, table: Mapping[str, str]) -> dict[str, str]:
    """The class by its short name, or as one that the caller will have to supply."""
    for name, place in table.items():
        module, _, attribute = place.partition(":")
        # A class that exists has its module loaded already: nothing is imported to look.
        if attribute == cls.__name__ and getattr(sys.modules.get(module), attribute, None) is cls:
            return {"class": name}
    return {"custom": cls.__name__}


def value_from_json(
    value: Any,
    table: Mapping[str, str],
    custom: Mapping[str, Any],
    rebuild: Mapping[str, Callable[[Any], Any]] | None = None,
) -> Any:
    """What `value_to_json` described.

    Args:
        value: out of a file, so anything.
        table: classes that may be named.
        custom: what the caller supplies, by name; it goes before the table.
        rebuild: for further kinds of descriptions, by their one key, what makes a value of it.

    Raises:
        CorruptFileError: nothing that `value_to_json` writes.
        ConfigError: a name that is neither in the table nor supplied.
        MissingExtraError: of a package that is not installed.
    """
    if isinstance(value, list):
        return [value_from_json(each, table, custom, rebuild) for each in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise CorruptFileError("an object with one key", shown(value), "write the file again")
    [(kind, content)] = value.items()
    if rebuild is not None and kind in rebuild:
        return rebuild[kind](content)
    if kind in {"class", "custom"}:
        return look_up(kind, content, table, custom)
    if kind == "dict" and isinstance(content, dict):
        return {name: value_from_json(each, table, custom, rebuild) for name, each in content.items()}
    if kind == "tuple" and isinstance(content, list):
        return tuple(value_from_json(each, table, custom, rebuild) for each in content)
    if kind == "float" and content in {"inf", "-inf", "nan"}:
        return float(content)
    if kind == "space" and isinstance(content, dict):
        return space_from_json(content)
    raise CorruptFileError("a value of a kind this library writes", shown(value), "write the file again")


def look_up(kind: str, name: str, table: Mapping[str, str], custom: Mapping[str, Any]) -> Any:
    """What a name stands for: the caller's, or imported from the table's place.

    Raises:
        ConfigError: neither.
        MissingExtraError: of a package that is not installed.
    """
    if name in custom:
        return custom[name]
    if kind == "class" and name in table:
        try:
            return load_attr(table[name])
        except ModuleNotFoundError as err:
            raise MissingExtraError("sb3-contrib", "contrib") from err
    raise ConfigError(
        "a file made of classes this library knows",
        f"the name {name!r}, which it does not know",
        f"pass custom_objects={{{name!r}: ...}} with what that name stood for when the file was written",
    )
