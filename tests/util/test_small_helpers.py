"""Paths, tensors, iterables, whole numbers, and the one door to them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from understudy.errors import ConfigError, DataError, EmptyDataError
from understudy.util import console, util
from understudy.util.files import write_atomically


def test_parse_path(in_tmp):
    assert util.parse_path("a/b") == in_tmp / "a" / "b"
    assert util.parse_path(b"a") == in_tmp / "a"
    assert util.parse_path("a", base_directory=Path("/base")) == Path("/base/a")
    assert util.parse_path("/a", allow_relative=False) == Path("/a")
    assert util.parse_path("~/a") == Path.home() / "a"
    assert util.parse_optional_path(None) is None
    assert util.parse_optional_path("a") == in_tmp / "a"
    with pytest.raises(ConfigError, match="absolute"):
        util.parse_path("a", allow_relative=False)
    with pytest.raises(ValueError, match="base_directory"):
        util.parse_path("a", allow_relative=False, base_directory=Path("/base"))


def test_timestamps_are_unique():
    stamps = {util.make_unique_timestamp() for _ in range(50)}
    assert len(stamps) == 50
    assert all(len(stamp) == len("20250131_235959_0a1b2c") for stamp in stamps)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "new" / "file"
    write_atomically(target, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(target.parent.iterdir()) == [target]
    write_atomically(target, b"new")
    assert target.read_bytes() == b"new"


def test_tensors_share_memory_unless_the_array_is_read_only():
    array = np.zeros(3)
    util.safe_to_tensor(array)[0] = 1
    assert array[0] == 1
    array.flags.writeable = False
    tensor = util.safe_to_tensor(array, dtype=torch.float32)
    tensor[0] = 5
    assert array[0] == 1
    assert not array.flags.writeable
    assert tensor.dtype == torch.float32
    same = torch.ones(2)
    assert util.safe_to_tensor(same) is same


def test_safe_to_numpy():
    array = np.ones(2)
    assert util.safe_to_numpy(None) is None
    assert util.safe_to_numpy(array) is array
    assert util.safe_to_numpy(torch.ones(2, requires_grad=True)).tolist() == [1, 1]
    with pytest.warns(UserWarning, match="converted"):
        util.safe_to_numpy(torch.ones(2), warn=True)


@pytest.mark.parametrize(("order", "expected"), [(1, 10.0), (2, 30**0.5), (float("inf"), 4.0)])
def test_norm_of_many_tensors_is_that_of_all_elements(order, expected):
    tensors = [torch.tensor([[1.0, -2.0]]), torch.tensor([3.0]), torch.tensor(-4.0)]
    assert util.tensor_iter_norm(iter(tensors), order).item() == pytest.approx(expected)


def test_norm_of_order_zero_is_refused():
    with pytest.raises(ConfigError, match="ord=0"):
        util.tensor_iter_norm([torch.ones(3)], 0)


def test_first_element_is_not_lost():
    first, rest = util.get_first_iter_element(iter([1, 2, 3]))
    assert first == 1
    assert list(rest) == [1, 2, 3]
    numbers = [4, 5]
    assert util.get_first_iter_element(numbers) == (4, numbers)
    with pytest.raises(EmptyDataError):
        util.get_first_iter_element([])


def test_endless_iter():
    endless = util.endless_iter([1, 2])
    assert [next(endless) for _ in range(5)] == [1, 2, 1, 2, 1]
    with pytest.raises(EmptyDataError):
        util.endless_iter([])
    with pytest.raises(DataError, match="iterator"):
        util.endless_iter(iter([1]))


def test_oric_by_hand():
    assert util.oric(np.array([0.5, 0.5, 1.0])).tolist() == [1, 0, 1]
    assert util.oric(np.array([1.9, 2.8, 0.3])).tolist() == [2, 3, 0]
    with pytest.raises(ConfigError, match="whole sum"):
        util.oric(np.array([0.5, 0.6]))


@given(hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(0, 100)), st.integers(0, 1000))
def test_oric_keeps_the_sum_and_moves_each_by_less_than_one(weights, total):
    shares = (weights + 1) / (weights + 1).sum() * total
    rounded = util.oric(shares)
    assert rounded.sum() == total
    assert np.abs(rounded - shares).max() < 1 + 1e-6


@pytest.mark.parametrize(("x", "halves"), [(5, (2, 3)), (4, (2, 2)), (0, (0, 0))])
def test_split_in_half(x, halves):
    assert util.split_in_half(x) == halves


def test_docstring_parameter():
    @util.docstring_parameter(3, name="x")
    def documented() -> None:
        """{name} is {0}."""

    assert documented.__doc__ == "x is 3."


def test_clear_screen_says_nothing_to_a_file(capsys, monkeypatch):
    util.clear_screen()
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(console.os, "name", "posix")
    util.clear_screen()
    assert capsys.readouterr().out == "\033[2J\033[H"


def test_the_door_is_complete_and_lazy():
    for name in util.__all__:
        assert getattr(util, name) is not None
    assert dir(util) == util.__all__
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = util.nothing_of_the_kind
    code = "import sys, understudy.util.util; print('torch' in sys.modules, 'gymnasium' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False"]
