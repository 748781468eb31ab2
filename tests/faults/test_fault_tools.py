"""The tools of the fault tests do what the tests believe they do."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tools.child import ChildError, in_child
from tools.corpora import flips, truncations
from tools.kill import boundaries, kill_at, kill_program
from tools.limits import PeakMemory, limit_as, limit_fsize, mapped_bytes
from tools.states import sha_of


def test_flips_turn_one_bit_each_and_truncations_are_beginnings(rng: np.random.Generator) -> None:
    content = bytes(range(50))
    turned = dict(flips(content, 1000, rng))
    assert sorted(turned) == list(range(400))
    for bit, damaged in turned.items():
        assert int.from_bytes(content, "little") ^ int.from_bytes(damaged, "little") == 1 << bit
    cut = dict(truncations(content, 20, rng))
    assert len(cut) == 20
    assert {0, 1, 25, 49} <= cut.keys()
    assert all(damaged == content[:length] for length, damaged in cut.items())


def test_the_sum_of_a_state_tells_values_types_shapes_and_order() -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": [1, 2.0, "x", None], "c": {"d": np.int64(1)}}
    same = {"c": {"d": np.int64(1)}, "b": [1, 2.0, "x", None], "a": torch.arange(6.0).reshape(3, 2).T.reshape(2, 3)}
    assert sha_of(state) != sha_of(same)  # other values in the same shape
    same["a"] = torch.stack([torch.arange(3.0), torch.arange(3.0, 6.0)]).requires_grad_()
    assert sha_of(state) == sha_of(same)
    others = [
        {**state, "a": state["a"].reshape(3, 2)},
        {**state, "a": state["a"].double()},
        {**state, "b": [2.0, 1, "x", None]},
        {**state, "b": [1, 2, "x", None]},
        {**state, "c": {"d": np.int32(1)}},
        {**state, "c": {"e": np.int64(1)}},
    ]
    assert len({sha_of(each) for each in (state, *others)}) == 7
    assert sha_of(0.0) != sha_of(-0.0)
    assert sha_of(np.random.default_rng(1)) != sha_of(np.random.default_rng(2))
    with pytest.raises(TypeError, match=r"object at state\['a'\]\[1\]"):
        sha_of({"a": [1, object()]})


def test_a_child_is_killed_where_it_was_said(tmp_path: Path) -> None:
    def work(mark) -> None:
        for number in range(4):
            (tmp_path / str(number)).mkdir()
            mark(number)

    assert [each.partition(" ")[0] for each in boundaries(work)] == ["os.mkdir"] * 4
    for each in tmp_path.iterdir():
        each.rmdir()
    death = kill_at(work, boundary=2)
    assert (death.code, death.marked, death.killed) == (-signal.SIGKILL, 1, True)
    assert {each.name for each in tmp_path.iterdir()} == {"0", "1"}
    death = kill_at(lambda mark: signal.pause(), seconds=0.05, sig=signal.SIGTERM)
    assert (death.code, death.marked) == (-signal.SIGTERM, -1)
    death = kill_at(lambda mark: (tmp_path / "file").write_bytes(bytes(100)), byte=60)
    assert death.code == -signal.SIGXFSZ
    with pytest.raises(ChildError, match="too early"):
        kill_program([sys.executable, "-c", "pass"], when=30.0)
    marker = tmp_path / "started"
    program = f"import time; open({str(marker)!r}, 'w'); time.sleep(60)"
    assert kill_program([sys.executable, "-c", program], when=marker.exists).returncode == -signal.SIGKILL


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured in /proc")
def test_limits_limit_and_memory_is_measured(tmp_path: Path) -> None:
    with limit_fsize(10), pytest.raises(OSError, match=os.strerror(27)):
        (tmp_path / "x").write_bytes(bytes(11))
    (tmp_path / "x").write_bytes(bytes(11))

    def small() -> bool:
        with limit_as(mapped_bytes() + (64 << 20)), pytest.raises(MemoryError):
            bytearray(128 << 20)
        return True

    def peak() -> int:
        with PeakMemory() as memory:
            bytearray(b"x" * (32 << 20))
        return memory.bytes

    assert in_child(small)
    assert 30 << 20 < in_child(peak) < 100 << 20
    with pytest.raises(ChildError, match="ZeroDivisionError"):
        in_child(lambda: 1 // 0)
    with pytest.raises(ChildError, match="no answer"):
        in_child(lambda: os._exit(3))
