"""A process killed at any instant while it saves leaves the old version or the new one (F1)."""

from __future__ import annotations

import itertools
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from tools.formats import FORMATS, Format
from tools.kill import Mark, boundaries, kill_at

pytestmark = pytest.mark.fault("F1")
every_format = pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)


def saves_once(form: Format, target: Path, version: int):
    def work(mark: Mark) -> None:
        form.save(target, version)
        mark(version)

    return work


def saves_without_end(form: Format, target: Path, first: int):
    def work(mark: Mark) -> None:
        for version in itertools.count(first):
            form.save(target, version)
            mark(version)

    return work


def no_rubbish(form: Format, target: Path) -> bool:
    """The next save removes what a killed one left."""
    form.save(target, 0)
    return [each.name for each in target.parent.iterdir()] == [form.name]


@every_format
def test_a_kill_before_any_change_to_the_file_system_leaves_one_whole_version(form: Format, tmp_path: Path) -> None:
    target = tmp_path / form.name
    form.save(target, 0)
    changes = boundaries(saves_once(form, target, 1))
    assert any("fsync" in each for each in changes)
    found = []
    for nth in range(len(changes)):
        form.save(target, 0)
        death = kill_at(saves_once(form, target, 1), boundary=nth)
        assert death.code == -signal.SIGKILL
        found.append(form.read(target))
    assert found == sorted(found)  # old until one instant, new from then on
    assert set(found) == {0, 1}
    assert no_rubbish(form, target)
    print(f"{form.name}: {len(changes)} kills at boundaries, 0 unreadable, new from {found.index(1)} on")


@every_format
def test_a_kill_inside_a_write_leaves_the_old_version(form: Format, tmp_path: Path) -> None:
    target = tmp_path / form.name
    form.save(target, 0)
    largest = max(each.stat().st_size for each in form.files(target))
    for byte in {0, 1, 7, 100, largest // 2, largest - 1}:
        death = kill_at(saves_once(form, target, 1), byte=byte)
        assert death.code == -signal.SIGXFSZ
        assert form.read(target) == 0
    assert no_rubbish(form, target)


@every_format
@pytest.mark.parametrize("kills", [pytest.param(13, id="ci"), pytest.param(250, id="full", marks=pytest.mark.slow)])
def test_a_kill_at_a_random_time_leaves_a_version_no_older_than_the_last_one_saved(
    form: Format, kills: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    target = tmp_path / form.name
    start = time.perf_counter()
    for version in range(3):
        form.save(target, version)
    one_save = (time.perf_counter() - start) / 3
    version, saves = 2, 0
    for _ in range(kills):
        death = kill_at(
            saves_without_end(form, target, version + 1), seconds=0.01 + float(rng.uniform(0, 4 * one_save))
        )
        assert death.code == -signal.SIGKILL
        found = form.read(target)
        assert found in {max(death.marked, version), max(death.marked, version) + 1}
        saves += found - version
        version = found
    assert saves > kills / 4  # they were killed while saving, not before
    assert no_rubbish(form, target)
    print(f"{form.name}: {kills} kills in {saves} saves, 0 unreadable")
