"""Writing so that a name leads to the old complete version or to the new complete version, never to half of either."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from understudy.errors import FileWriteError, UnderstudyError
from understudy.util.paths import AnyPath, parse_path

_HIDDEN = re.compile(r"\.(?P<name>.+)\.(?P<kind>tmp|old)-(?P<node>[0-9a-f]{6})-(?P<pid>\d{1,12})-[0-9a-f]{8}")
_CANNOT_WRITE = {
    errno.EACCES,
    errno.EBUSY,
    errno.EISDIR,
    errno.ENOTEMPTY,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EPERM,
    errno.EROFS,
}


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Say which file could not be written, and why."""
    try:
        yield
    except OSError as err:
        if isinstance(err, UnderstudyError) or err.errno not in _CANNOT_WRITE:
            raise
        raise FileWriteError(
            expected=f"to write {target}",
            got=f"{type(err).__name__}: {err}",
            do="make room, or choose a place that can be written to; what stood there is untouched",
        ) from err


def write_atomically(path: AnyPath, content: bytes) -> None:
    """Replace a file by one rename, after its content has reached the disk.

    A reader, or a run after a crash, finds the old content or the new. Missing parent directories are made.

    Raises:
        FileWriteError: it cannot be written.
    """
    target = parse_path(path)
    with _writing(target):
        _write_atomically(target, content)


def _write_atomically(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target.parent, target.name)
    temporary = staged_name(target)  # a sibling, because a rename is atomic only within one file system
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(target.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two names in one atomic call; False where the system has none."""
    if sys.platform == "win32":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    here = -100  # AT_FDCWD
    if sys.platform.startswith("linux") and hasattr(libc, "renameat2"):
        return bool(libc.renameat2(here, os.fsencode(a), here, os.fsencode(b), 2) == 0)  # RENAME_EXCHANGE
    if sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        return bool(libc.renamex_np(os.fsencode(a), os.fsencode(b), 2) == 0)  # RENAME_SWAP
    return False


def _publish(staged: Path, target: Path) -> None:
    """Give ``staged`` the name ``target``; what had that name is gone afterwards."""
    if not os.path.lexists(target):
        staged.rename(target)
    elif not staged.is_dir() and not target.is_dir():
        staged.replace(target)
    elif _exchange(staged, target):
        _remove(staged)
    else:  # no atomic swap here: for an instant the name is missing, and `put_back` finds the old version
        old = target.with_name(f".{target.name}.old-{_node()}-{os.getpid()}-{secrets.token_hex(4)}")
        target.rename(old)
        staged.rename(target)
        _remove(old)
    waiting = _WAITING.get()
    if waiting is None:
        sync(target.parent)
    else:
        waiting.add(target.parent)


_WAITING: contextvars.ContextVar[set[Path] | None] = contextvars.ContextVar("folders to be synced", default=None)


@contextlib.contextmanager
def names_synced_once() -> Iterator[None]:
    """For several files in a row: while this is open the folders of their names are not synced, but once at its end.

    Each file is complete under its name as ever, should the process be killed; that the name outlives a power cut holds
    from the end on.

    Raises:
        FileWriteError: the names do not reach the disk; after an exception inside, that one is raised instead.
    """
    folders: set[Path] = set()
    token = _WAITING.set(folders)
    failed = True
    try:
        yield
        failed = False
    finally:
        _WAITING.reset(token)
        for folder in folders:
            with contextlib.suppress(OSError) if failed else _writing(folder):
                sync(folder)


def _node() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def staged_name(target: Path) -> Path:
    """A new name beside ``target`` to write under, hidden; it tells which process of which machine writes there."""
    return target.with_name(f".{target.name}.tmp-{_node()}-{os.getpid()}-{secrets.token_hex(4)}")


def remove_abandoned(folder: Path, name: str | None = None) -> None:
    """Remove what processes of this machine that are gone were writing in ``folder``, of one name or of any."""
    for kind, path in _abandoned(folder, name):
        if kind == "tmp" or os.path.lexists(folder / _of(path)):
            _remove(path)


def put_back(target: Path) -> None:
    """Where a process was killed between two renames, give the old version its name again.

    Only file systems without an atomic swap need it.
    """
    if not os.path.lexists(target) and target.parent.is_dir():
        for kind, path in _abandoned(target.parent, target.name):
            if kind == "old":
                path.rename(target)
                return


def _abandoned(folder: Path, name: str | None) -> list[tuple[str, Path]]:
    found = []
    for entry in os.scandir(folder):
        match = _HIDDEN.fullmatch(entry.name)
        wanted = match is not None and match["name"] == (name or match["name"]) and match["node"] == _node()
        if match is not None and wanted and not process_runs(int(match["pid"])):
            found.append((match["kind"], Path(entry.path)))
    return found


def _of(path: Path) -> str:
    match = _HIDDEN.fullmatch(path.name)
    assert match is not None
    return match["name"]


def process_runs(pid: int) -> bool:
    """Whether this machine has a process of that number, our own rights aside."""
    if os.name == "nt":  # there a signal of 0 is Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A new name beside ``target`` to write a file or folder under; on success it is synced and takes its place.

    After an exception the target is as it was. The parent folder is made where it is missing. What an earlier process
    left behind when it was killed is removed.

    Raises:
        FileWriteError: it cannot be written.
    """
    target = Path(os.path.realpath(target))
    with _writing(target), _replacing(target) as staged:
        yield staged


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    put_back(target)
    remove_abandoned(target.parent, target.name)
    staged = staged_name(target)
    try:
        yield staged
        if staged.is_dir():
            for path in staged.rglob("*"):
                sync(path)
        sync(staged)
        _publish(staged, target)
    except BaseException:
        _remove(staged)
        raise
