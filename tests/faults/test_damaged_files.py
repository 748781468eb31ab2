"""A truncated or altered file is refused by name; no changed bit reaches training (F4, F5)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tools.corpora import flips, truncations
from tools.formats import FORMATS, Format

from understudy.errors import CorruptFileError, UnderstudyError
from understudy.util import checkpoint

every_format = pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)


def shares(form: Format, path: Path, total: int) -> list[tuple[Path, int]]:
    """How many damages each file gets: equal parts, so that small files are not passed over."""
    files = form.files(path)
    return [(file, -(-total // len(files))) for file in files]


def refusal(form: Format, target: Path, damaged: Path) -> UnderstudyError | None:
    """The error, checked to be one typed line naming the file; None if the file was read, as what it was."""
    try:
        version = form.read(target)
    except UnderstudyError as err:
        refused = err
    else:
        assert version == 3
        return None
    assert str(damaged) in str(refused)
    assert "\n" not in str(refused)
    return refused


@pytest.mark.fault("F4")
@every_format
def test_two_hundred_truncations_of_each_form_are_refused_by_name(
    form: Format, tmp_path: Path, rng: np.random.Generator
) -> None:
    target = tmp_path / form.name
    form.save(target, 3)
    n = 0
    for file, share in shares(form, target, 200):
        content = file.read_bytes()
        for length, damaged in truncations(content, share, rng):
            file.write_bytes(damaged)
            refused = refusal(form, target, file)
            assert isinstance(refused, CorruptFileError), f"{file.name} of {length} bytes: {refused!r}"
            n += 1
        file.write_bytes(content)
    assert n >= 200
    assert form.read(target) == 3
    print(f"{form.name}: {n} truncations, 0 silent")


@pytest.mark.fault("F5")
@every_format
def test_no_turned_bit_of_a_thousand_is_silent(form: Format, tmp_path: Path, rng: np.random.Generator) -> None:
    target = tmp_path / form.name
    form.save(target, 3)
    refused = read = 0
    for file, share in shares(form, target, 1000):
        content = file.read_bytes()
        for bit, damaged in flips(content, share, rng):
            file.write_bytes(damaged)
            if refusal(form, target, file) is not None:
                refused += 1
            else:  # every value was compared: only a byte that carries none may turn unnoticed
                assert form.has_slack, f"bit {bit} of {file.name} turned unnoticed"
                read += 1
        file.write_bytes(content)
    assert refused + read >= 1000
    assert read < 250
    assert form.read(target) == 3
    print(f"{form.name}: {refused} of {refused + read} turned bits refused, {read} in bytes that carry nothing")


@pytest.mark.fault("F4")
@pytest.mark.fault("F5")
def test_a_damaged_checkpoint_is_passed_over_for_the_last_one_that_verifies(
    tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    form = FORMATS["checkpoint"]
    older, newer = (checkpoint.step_folder(tmp_path, step) for step in (100, 200))
    for version, path in enumerate((older, newer)):
        form.save(path, version)
    assert checkpoint.latest(tmp_path) == newer
    for file in form.files(newer):
        content = file.read_bytes()
        for _, damaged in [*truncations(content, 3, rng), *flips(content, 3, rng)]:
            file.write_bytes(damaged)
            caplog.clear()
            assert checkpoint.latest(tmp_path) == older
            assert str(file) in caplog.text
        file.write_bytes(content)
    assert checkpoint.latest(tmp_path) == newer
