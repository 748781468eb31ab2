"""Infos as JSON lines."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from understudy.data._json_infos import encode_infos
from understudy.errors import DataError


def test_equal_infos_of_different_types_stay_different() -> None:
    infos: list[dict[str, Any]] = [{"a": 1}, {"a": True}, {"a": 1.0}, {"a": 0.0}, {"a": -0.0}, {"a": 1}, {"b": 1}, {}]
    lines = encode_infos(infos, "trajectory 0")
    assert lines == [
        b'{"a":1}',
        b'{"a":true}',
        b'{"a":1.0}',
        b'{"a":0.0}',
        b'{"a":-0.0}',
        b'{"a":1}',
        b'{"b":1}',
        b"{}",
    ]


def test_the_order_of_keys_is_kept() -> None:
    assert encode_infos([{"a": 1, "b": 2}, {"b": 2, "a": 1}], "x") == [b'{"a":1,"b":2}', b'{"b":2,"a":1}']


def test_nested_values_and_arrays_become_lists() -> None:
    infos = [{"x": np.arange(2), "deep": {"y": (1, np.float32(0.5))}}]
    assert [json.loads(line) for line in encode_infos(infos, "x")] == [{"x": [0, 1], "deep": {"y": [1, 0.5]}}]


def test_what_json_cannot_hold_is_named_by_trajectory_step_and_key() -> None:
    with pytest.raises(DataError, match=r"trajectory 3, infos\[1\]\['bad'\]"):
        encode_infos([{"ok": 1}, {"bad": object()}], "trajectory 3")
