"""State as JSON and tensors, and back."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import ConfigError, CorruptFileError
from understudy.util.state_tree import pack, unpack

keys = st.text(max_size=4) | st.integers(-5, 5)
leaves = st.none() | st.booleans() | st.integers(-(2**130), 2**130) | st.floats() | st.text(max_size=5)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=12,
)


def through(tree: Any) -> Any:
    packed, tensors = pack(tree)
    return unpack(json.loads(json.dumps(packed, allow_nan=False)), tensors)


@given(trees)
def test_plain_values_come_back_with_their_types(tree: Any) -> None:
    assert repr(through(tree)) == repr(tree)


def test_tensors_and_arrays_come_back_with_type_shape_and_bytes() -> None:
    tree = {
        "a": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).t(),
        "b": [np.arange(3, dtype=np.uint16), np.float32(2.5), np.zeros((0, 2))],
        "c": np.array([1, 2], dtype=">i4"),
        "d": np.array(7),
    }
    back = through(tree)
    assert back["a"].dtype == torch.bfloat16
    assert torch.equal(back["a"], tree["a"])
    assert [type(x).__name__ for x in back["b"]] == ["ndarray", "float32", "ndarray"]
    assert back["b"][0].dtype == np.uint16
    assert back["b"][2].shape == (0, 2)
    assert back["c"].tolist() == [1, 2]
    assert back["d"].shape == ()


def test_names_that_meet_stay_apart() -> None:
    one, two = torch.ones(1), torch.zeros(1)
    back = through({"a/b": one, "a": {"b": two}})
    assert back["a/b"].item() == 1
    assert back["a"]["b"].item() == 0


def test_one_memory_under_two_names_is_stored_twice() -> None:
    shared = torch.arange(4.0)
    _, tensors = pack({"whole": shared, "again": shared, "part": shared[:2]})
    pointers = {tensor.data_ptr() for tensor in tensors.values()}
    assert len(pointers) == 3
    assert tensors["part"].untyped_storage().nbytes() == 8


def test_nan_and_infinity() -> None:
    back = through([math.nan, math.inf, -math.inf])
    assert math.isnan(back[0])
    assert back[1:] == [math.inf, -math.inf]


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", np.array(["x"]), {None: 1}, {True: 1}, {"a": [len]}])
def test_what_has_no_plain_form_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError):
        pack(value)


def deep(n: int) -> Any:
    value: Any = 1
    for _ in range(n):
        value = [value]
    return value


@pytest.mark.parametrize(
    "packed",
    [{"$tensor": "missing"}, {"$float": "1e3"}, {"$tuple": 3}, {"$items": [[1]]}, {"$array": ["x"]}, deep(200)],
)
def test_what_was_never_packed_is_refused(packed: Any) -> None:
    with pytest.raises(CorruptFileError):
        unpack(packed, {})
