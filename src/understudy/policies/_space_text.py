"""Spaces as the plain text of a Stable-Baselines3 zip shows them.

NumPy shortens and rounds arrays when it shows them, so bounds are compared within that rounding, and a space is made
from text alone only where nothing was lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from understudy.errors import ConfigError
from understudy.policies._plain_text import ClassName, Construction, Elided, TokenBudget, UnreadableTextError, parse
from understudy.util.image_spaces import without_false_bounds

_KINDS = {"Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict", "Tuple"}
_READ = ("dtype", "_shape", "shape", "low", "high", "n", "nvec", "start", "spaces")
_DTYPES = frozenset(["float16", "float32", "float64", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16"])
_MAX_PARTS = 1000
_MAX_AXES = 16
_MAX_BYTES = 1 << 25
"""Of all bounds together: a thousand times what images of the usual size have."""


@dataclass
class SpaceText:
    """What is known of a space; ``None`` where the text does not say."""

    kind: str
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    low: Any = None
    high: Any = None
    counts: Any = None
    """Number of choices: of a Discrete, or of each entry of a MultiDiscrete."""
    start: Any = None
    parts: dict[str, SpaceText] = field(default_factory=dict)


def read_space_text(entry: Any, budget: TokenBudget | None = None) -> SpaceText | None:
    """What the entry ``observation_space`` or ``action_space`` of a zip tells, or None if it is not understood."""
    if not isinstance(entry, Mapping):
        return None
    try:
        kind = _plain(entry.get(":type:"), budget)
        if not isinstance(kind, ClassName):
            return None
        name = kind.path.rpartition(".")[2]
        values = {key: _plain(entry[key], budget) for key in _READ if key in entry}
        return _described(name, values) if name in _KINDS else None
    except (UnreadableTextError, TypeError, ValueError, KeyError, IndexError, OverflowError, AttributeError):
        return None


def disagreement(text: SpaceText, space: gym.Space[Any]) -> str:
    """Why this is not the space that the text shows; empty if it may be."""
    if text.kind != type(space).__name__:
        return f"a {text.kind}"
    if isinstance(space, spaces.Dict):
        if text.parts and set(text.parts) != set(space.spaces):
            return f"a Dict of {', '.join(sorted(text.parts))}"
        found = (disagreement(part, space.spaces[key]) for key, part in text.parts.items())
        return next((each for each in found if each), "")
    if text.shape is not None and text.shape != space.shape:
        return f"a {text.kind} of shape {text.shape}"
    if isinstance(space, spaces.Box):
        if text.dtype is not None and text.dtype != str(space.dtype):
            return f"a Box of {text.dtype}"
        for name, shown, real in (("low", text.low, space.low), ("high", text.high, space.high)):
            if not _agrees(shown, real):
                return f"a Box with {name} {_short(shown)}"
    if isinstance(space, spaces.Discrete) and not (_agrees(text.counts, space.n) and _agrees(text.start, space.start)):
        return f"a Discrete of {_short(text.counts)} from {_short(text.start or 0)}"
    if isinstance(space, spaces.MultiDiscrete) and not _agrees(text.counts, space.nvec):
        return f"a MultiDiscrete of {_short(text.counts)}"
    return ""


def in_order_of(text: SpaceText, space: gym.Space[Any]) -> gym.Space[Any]:
    """A Dict with its keys as the file has them: the policy was trained on its entries joined in that order."""
    if not isinstance(space, spaces.Dict) or set(text.parts) != set(space.spaces):
        return space
    return spaces.Dict([(key, in_order_of(part, space.spaces[key])) for key, part in text.parts.items()])


def space_from_text(text: SpaceText | None, what: str, *, exact_bounds: bool) -> gym.Space[Any]:
    """The space itself.

    Args:
        text: what the file tells.
        what: for messages, such as ``"action_space"``.
        exact_bounds: refuse bounds that may have been rounded when they were written.

    Raises:
        ConfigError: the text leaves something open.
    """
    try:
        if text is not None:
            _check_size(text)
            return _space(text, exact_bounds)
        reason = "nothing that can be read"
    except (ValueError, TypeError, AssertionError, OverflowError) as err:
        reason = str(err)
    raise ConfigError(
        f"the whole {what} in the file's plain text",
        reason,
        f"use load_policy with environments of that space, or pass custom_objects={{{what!r}: ...}}",
    )


def _described(name: str, values: Mapping[str, Any]) -> SpaceText:
    shape = values.get("_shape", values.get("shape"))
    text = SpaceText(name, None if shape is None else _sizes(shape))
    dtype = values.get("dtype")
    if isinstance(dtype, Construction | ClassName):
        dtype = (dtype.name if isinstance(dtype, Construction) else dtype.path).rpartition(".")[2]
    text.dtype = dtype if dtype in _DTYPES else None
    text.low, text.high, text.start = values.get("low"), values.get("high"), values.get("start")
    text.counts = values.get("nvec", values.get("n"))
    if name == "Dict":
        parts = values.get("spaces", {})
        parts = dict(parts.arguments[0]) if isinstance(parts, Construction) else parts
        text.shape = None
        text.parts = {str(key): _shown(part) for key, part in parts.items()}
    return text


def _shown(part: Any) -> SpaceText:
    """A space inside a Dict, as its ``repr`` shows it."""
    if not isinstance(part, Construction) or part.name not in _KINDS:
        raise ValueError("a space of an unknown kind")
    arguments = part.arguments
    if part.name == "Box":
        if len(arguments) == 3:  # older Gym: Box(shape, dtype) in one way or another
            arguments = (None, *arguments)
        low, high, shape, dtype = arguments[:4]
        shape = (shape,) if isinstance(shape, int) else shape
        return _described("Box", {"low": low, "high": high, "_shape": shape, "dtype": dtype})
    if part.name == "Dict":
        return _described("Dict", {"spaces": arguments[0] if arguments else part.keywords})
    if part.name == "MultiBinary":
        size = arguments[0]
        return SpaceText("MultiBinary", _sizes(size if isinstance(size, tuple | list) else [size]))
    return SpaceText(part.name, counts=arguments[0], start=part.keywords.get("start"))


def _sizes(shape: Any) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in shape)
    if len(sizes) > _MAX_AXES or not all(0 <= size <= _MAX_BYTES for size in sizes):
        raise ValueError("a shape that no space has")
    return sizes


def _plain(value: Any, budget: TokenBudget | None) -> Any:
    return parse(value, budget) if isinstance(value, str) else value


def _short(value: Any) -> str:
    return f"{value}"[:80]


def _flat(shown: Any) -> list[float] | None:
    """All numbers of a nested list; None if some were left out."""
    if isinstance(shown, bool | int | float):
        return [shown]
    if not isinstance(shown, list) or any(isinstance(each, Elided) for each in shown):
        return None
    parts = [_flat(each) for each in shown]
    return None if any(part is None for part in parts) else [number for part in parts if part for number in part]


def _agrees(shown: Any, real: Any) -> bool:
    numbers = _flat(shown)
    array = without_false_bounds(np.asarray(real, np.float64).reshape(-1))
    if numbers is None or (len(numbers) != array.size and len(numbers) != 1):
        return True  # it does not say
    return bool(np.allclose(without_false_bounds(np.asarray(numbers, np.float64)), array, rtol=1e-6, atol=1e-7))


def _check_size(text: SpaceText) -> None:
    """One limit for the whole tree, before any part of it is built."""
    parts, size, pending = 0, 0, [text]
    while pending:
        each = pending.pop()
        pending.extend(each.parts.values())
        parts += 1
        itemsize = np.dtype(each.dtype or "int64").itemsize
        size += math.prod(each.shape or ()) * (2 * itemsize + 2)  # both bounds, and whether there are any
        if parts > _MAX_PARTS or size > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_PARTS} spaces, or more than {_MAX_BYTES} bytes of bounds")


def _space(text: SpaceText, exact: bool) -> gym.Space[Any]:
    if text.kind == "Discrete":
        return spaces.Discrete(int(text.counts), start=int(text.start or 0))
    if text.kind == "MultiDiscrete":
        return spaces.MultiDiscrete(np.asarray(text.counts), start=None if text.start is None else np.array(text.start))
    if text.kind == "MultiBinary" and text.shape is not None:
        return spaces.MultiBinary(text.shape[0] if len(text.shape) == 1 else text.shape)
    if text.kind == "Dict" and text.parts:
        return spaces.Dict([(key, _space(part, exact)) for key, part in text.parts.items()])
    if text.kind == "Box" and text.shape is not None and text.dtype is not None:
        dtype = np.dtype(text.dtype)
        low, high = (_bound(side, text.shape, dtype, exact) for side in (text.low, text.high))
        return spaces.Box(low, high, text.shape, dtype.type)
    raise ValueError(f"a {text.kind} of which not everything is written")


def _bound(shown: Any, shape: tuple[int, ...], dtype: np.dtype[Any], exact: bool) -> np.ndarray:
    numbers = _flat(shown)
    size = math.prod(shape)
    if numbers is None:
        ends = _ends(shown)  # the middle was left out: images, whose bounds are the same everywhere
        if len(ends) != 1 or exact:
            raise ValueError(f"bounds of which only a part is written: {_short(shown)}")
        numbers = list(ends)
    if len(numbers) not in {1, size}:
        raise ValueError(f"{len(numbers)} bounds for a shape of {shape}")
    array = np.array(numbers, np.float64)
    finite = array[np.isfinite(array)]
    # Eight digits after the point are what NumPy shows at most: with eight, a ninth may have been cut.
    if exact and dtype.kind == "f" and not np.array_equal(np.round(finite, 7), finite):
        raise ValueError(f"bounds that may have been rounded: {_short(shown)}")
    with np.errstate(over="ignore"):
        return (
            np.broadcast_to(array.astype(dtype), (size,)).reshape(shape)
            if len(numbers) == size
            else np.full(shape, array[0], dtype)
        )


def _ends(shown: Any) -> set[float]:
    if isinstance(shown, list):
        return {number for each in shown for number in _ends(each)}
    return {float(shown)} if isinstance(shown, int | float) else set()
