"""Spaces survive JSON to the last bit, and hostile descriptions are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from understudy.errors import CorruptFileError, UnsupportedSpaceError
from understudy.util.space_json import space_from_json, space_to_json

SPACES = [
    spaces.Box(-np.inf, np.inf, (3,), np.float32),
    spaces.Box(np.array([-1.0, -np.inf, 0.1]), np.array([1.0, 2.5, np.inf]), dtype=np.float64),
    spaces.Box(0, 255, (84, 84, 4), np.uint8),
    spaces.Box(-5, 7, (), np.int64),
    spaces.Discrete(4),
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete([3, 4]),
    spaces.MultiDiscrete([[3, 4], [2, 2]], start=[[1, 0], [5, -1]]),
    spaces.MultiBinary(5),
    spaces.MultiBinary([2, 3]),
    spaces.Dict({"b": spaces.Box(0, 1, (2,)), "a": spaces.Dict({"deep": spaces.Discrete(2)})}),
    spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1, (1,))]),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_round_trip(space):
    text = json.dumps(space_to_json(space), allow_nan=False)
    assert len(text) < 1000  # an image's bounds are one number each
    back = space_from_json(json.loads(text))
    assert back == space
    assert back.dtype == space.dtype
    if isinstance(space, spaces.Dict):
        assert list(back.spaces) == list(space.spaces)
    if isinstance(space, spaces.Box):
        assert back.low.tobytes() == space.low.tobytes()
        assert back.high.tobytes() == space.high.tobytes()


@given(hnp.arrays(np.float32, 4, elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_bounds_keep_every_bit(low):
    space = spaces.Box(low, np.full(4, np.inf, np.float32), dtype=np.float32)
    back = space_from_json(json.loads(json.dumps(space_to_json(space))))
    assert isinstance(back, spaces.Box)
    np.testing.assert_array_equal(back.low, low)


def test_unsupported():
    with pytest.raises(UnsupportedSpaceError, match="Text"):
        space_to_json(spaces.Text(5))


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"type": "Nothing"},
        {"type": "Box", "shape": [10**12], "dtype": "float32", "low": 0, "high": 1},
        {"type": "Box", "shape": [-1], "dtype": "float32", "low": 0, "high": 1},
        {"type": "Box", "shape": [2], "dtype": "O", "low": 0, "high": 1},
        {"type": "Box", "shape": [2], "dtype": "float32", "low": [0], "high": 1},
        {"type": "Discrete", "n": -1, "start": 0, "dtype": "int64"},
        {"type": "Dict", "spaces": 3},
    ],
)
def test_bad_descriptions(spec):
    with pytest.raises(CorruptFileError, match="description of a space"):
        space_from_json(spec)
