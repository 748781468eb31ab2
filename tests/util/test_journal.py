"""A journal that a kill leaves readable."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from understudy.errors import CorruptFileError
from understudy.util.journal import Journal


def test_what_is_appended_is_read_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    assert list(journal) == []
    for value in ({"a": 1}, [1, "ü"], None):
        journal.append(value)
    assert list(Journal(tmp_path / "j")) == [{"a": 1}, [1, "ü"], None]


@pytest.mark.fault("F1", "F4")
def test_cut_at_any_byte_the_complete_lines_are_there_and_it_goes_on(tmp_path: Path) -> None:
    whole = Journal(tmp_path / "whole")
    for i in range(3):
        whole.append({"i": i})
    content = whole.path.read_bytes()
    for cut in range(len(content) + 1):
        path = tmp_path / "cut"
        path.write_bytes(content[:cut])
        complete = content[:cut].count(b"\n")
        assert list(Journal(path)) == [{"i": i} for i in range(complete)]
        Journal(path).append("next")
        assert list(Journal(path)) == [*({"i": i} for i in range(complete)), "next"]


@pytest.mark.fault("F5")
def test_a_changed_bit_in_a_complete_line_is_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append({"answer": "left"})
    journal.append({"answer": "right"})
    content = journal.path.read_bytes()
    silent = []
    for bit in range(len(content) * 8):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        journal.path.write_bytes(changed)
        with contextlib.suppress(CorruptFileError):
            list(journal)
            silent.append(bit)
    assert silent == []
