"""A save that the system refuses says so at once, typed and by name, and the version before it stays whole (F3)."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tools.child import in_child
from tools.formats import FORMATS, Format
from tools.limits import limit_fsize, obey_permissions

from understudy.errors import UnderstudyError

pytestmark = pytest.mark.fault("F3")
every_format = pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)


def failure(save: Callable[[], None], reason: str) -> OSError:
    """What the save raises: within a second, an OSError that says why."""
    start = time.perf_counter()
    with pytest.raises(OSError, match=re.escape(reason)) as caught:
        save()
    assert time.perf_counter() - start < 1
    return caught.value


def unharmed(form: Format, target: Path) -> bool:
    """Version 1 is there, and nothing else."""
    return form.read(target) == 1 and [each.name for each in target.parent.iterdir()] == [target.name]


@every_format
def test_a_disk_that_fills_at_any_byte(form: Format, tmp_path: Path) -> None:
    target = tmp_path / form.name
    form.save(target, 1)
    sizes = [each.stat().st_size for each in form.files(target)]
    for n_bytes in sorted({0, 1, 64, *(max(sizes) * part // 8 for part in range(1, 8)), max(sizes) - 1}):
        with limit_fsize(n_bytes):
            failure(lambda: form.save(target, 2), os.strerror(errno.EFBIG))
        assert unharmed(form, target)
    with limit_fsize(max(sizes)):
        form.save(target, 2)
    assert form.read(target) == 2


@every_format
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_disk_that_says_so_only_when_synced(
    form: Format, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / form.name
    form.save(target, 1)

    def fsync(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    failure(lambda: form.save(target, 2), os.strerror(code))
    assert unharmed(form, target)


@every_format
def test_a_folder_without_the_right_to_write(form: Format, tmp_path: Path) -> None:
    folder = tmp_path / "readonly"
    target = folder / form.name
    form.save(target, 1)
    folder.chmod(0o555)

    def attempt() -> None:
        obey_permissions()
        failure(lambda: form.save(target, 2), os.strerror(errno.EACCES))
        failure(lambda: form.save(folder / "new" / form.name, 2), os.strerror(errno.EACCES))

    try:
        in_child(attempt)
    finally:
        folder.chmod(0o755)
    assert unharmed(form, target)


@every_format
def test_a_file_where_a_folder_is_needed(form: Format, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path / "file" / form.name, tmp_path / "file" / "deeper" / form.name):
        failure(lambda target=target: form.save(target, 2), str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


@every_format
def test_a_name_that_is_too_long(form: Format, tmp_path: Path) -> None:
    target = tmp_path / ("x" * 250 + form.name[-4:])
    failure(lambda: form.save(target, 2), os.strerror(errno.ENAMETOOLONG))
    assert not list(tmp_path.iterdir())


@every_format
def test_the_error_is_typed_and_is_one_line_with_path_and_reason(
    form: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / form.name
    (tmp_path / "file").touch()
    with limit_fsize(0):
        errors = {target: failure(lambda: form.save(target, 2), os.strerror(errno.EFBIG))}
    under = tmp_path / "file" / form.name
    errors[under] = failure(lambda: form.save(under, 2), "file")
    other = tmp_path / f"other-{form.name}"
    monkeypatch.setattr(os, "fsync", fsync)
    errors[other] = failure(lambda: form.save(other, 2), os.strerror(errno.ENOSPC))
    for path, error in errors.items():
        assert isinstance(error, UnderstudyError)
        assert str(path) in str(error)
        assert "\n" not in str(error)
