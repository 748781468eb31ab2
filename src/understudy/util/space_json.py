"""Observation and action spaces as JSON, to the last bit of their bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from understudy.errors import CorruptFileError, UnsupportedSpaceError

_MAX_ELEMENTS = 1 << 25  # a 4K RGB image has 25 million; more is a file that asks for memory
_DTYPES = frozenset(
    ["float16", "float32", "float64", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
)


def space_to_json(space: gym.Space[Any]) -> dict[str, Any]:
    """Plain values that `space_from_json` turns back into an equal space.

    Raises:
        UnsupportedSpaceError: a space other than Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple.
    """
    if isinstance(space, spaces.Box):
        return {
            "type": "Box",
            "shape": list(space.shape),
            "dtype": _dtype_name(space),
            "low": _numbers(space.low),
            "high": _numbers(space.high),
        }
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": _dtype_name(space)}
    if isinstance(space, spaces.MultiDiscrete):
        return {
            "type": "MultiDiscrete",
            "shape": list(space.shape),
            "dtype": _dtype_name(space),
            "nvec": _numbers(space.nvec),
            "start": _numbers(space.start),
        }
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "shape": list(space.shape)}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": [[key, space_to_json(sub)] for key, sub in space.spaces.items()]}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [space_to_json(sub) for sub in space.spaces]}
    raise UnsupportedSpaceError(
        "a space of type Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple",
        str(space),
        "wrap the environment so that it uses one of these",
    )


def space_from_json(spec: Mapping[str, Any]) -> gym.Space[Any]:
    """The space that `space_to_json` described.

    Raises:
        CorruptFileError: not such a description.
    """
    try:
        return _READERS[spec["type"]](spec)
    except (KeyError, TypeError, ValueError, AssertionError, OverflowError, AttributeError) as err:
        raise CorruptFileError(
            "the description of a space",
            f"{' '.join(str(spec)[:200].split())} ({type(err).__name__}: {' '.join(str(err)[:200].split())})",
            "write the file again",
        ) from err


def _box(spec: Mapping[str, Any]) -> spaces.Box:
    shape, dtype = _shape(spec), _dtype(spec)
    low, high = _array(spec["low"], shape, dtype), _array(spec["high"], shape, dtype)
    return spaces.Box(low=low, high=high, shape=shape, dtype=dtype.type)


def _discrete(spec: Mapping[str, Any]) -> spaces.Discrete:
    return spaces.Discrete(int(spec["n"]), start=int(spec["start"]), dtype=_dtype(spec).type)


def _multi_discrete(spec: Mapping[str, Any]) -> spaces.MultiDiscrete:
    shape, dtype = _shape(spec), _dtype(spec)
    nvec, start = _array(spec["nvec"], shape, dtype), _array(spec["start"], shape, dtype)
    return spaces.MultiDiscrete(nvec, dtype=dtype.type, start=start)


def _multi_binary(spec: Mapping[str, Any]) -> spaces.MultiBinary:
    shape = _shape(spec)
    return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)


def _dict(spec: Mapping[str, Any]) -> spaces.Dict:
    return spaces.Dict([(str(key), space_from_json(sub)) for key, sub in spec["spaces"]])  # a plain dict is sorted


def _tuple(spec: Mapping[str, Any]) -> gym.Space[Any]:
    return spaces.Tuple([space_from_json(sub) for sub in spec["spaces"]])


_READERS: Mapping[str, Callable[[Mapping[str, Any]], gym.Space[Any]]] = {
    "Box": _box,
    "Discrete": _discrete,
    "MultiDiscrete": _multi_discrete,
    "MultiBinary": _multi_binary,
    "Dict": _dict,
    "Tuple": _tuple,
}


def _numbers(array: np.ndarray) -> Any:
    """One number if all are equal (images), else a flat list; infinities as text, since JSON has none."""
    flat = [_number(value) for value in np.asarray(array).reshape(-1).tolist()]
    return flat[0] if flat and flat.count(flat[0]) == len(flat) else flat


def _number(value: float) -> float | str:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _array(values: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    if not isinstance(values, list):
        return np.full(shape, _parse(values), dtype=dtype)
    return np.array([_parse(value) for value in values], dtype=dtype).reshape(shape)


def _parse(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


def _shape(spec: Mapping[str, Any]) -> tuple[int, ...]:
    shape = tuple(int(size) for size in spec["shape"])
    if any(size < 0 for size in shape) or math.prod(shape) > _MAX_ELEMENTS:
        raise ValueError(f"a shape of {shape}")
    return shape


def _dtype_name(space: gym.Space[Any]) -> str:
    return str(np.dtype(space.dtype))


def _dtype(spec: Mapping[str, Any]) -> np.dtype[Any]:
    if spec["dtype"] not in _DTYPES:
        raise ValueError(f"a dtype of {spec['dtype']!r}")
    dtype: np.dtype[Any] = np.dtype(spec["dtype"])
    return dtype
