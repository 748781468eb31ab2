"""One process a folder: a lock that tells who holds it and that ends with its process, however that ends."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from understudy.errors import FileWriteError, RunLockedError

if sys.platform != "win32":
    import fcntl

_NAME = ".lock"
_held: dict[Path, int] = {}
"""Descriptors of the locks that this process holds."""


def _forget() -> None:
    """A forked child holds nothing: a worker that outlives a killed run must not go on holding its lock."""
    for descriptor in _held.values():
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class RunLock:
    """Held while the context is open. The folder must exist.

    The system releases the lock when the process ends, so that a killed run leaves nothing to clean up; the file stays.
    On Windows the lock is for the threads of one process only.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder.resolve() / _NAME
        self._mine = False

    @property
    def held(self) -> bool:
        """Whether it is held through this object."""
        return self._mine and self._path in _held

    def __enter__(self) -> RunLock:
        """Take the lock.

        Raises:
            RunLockedError: another process, or this one, holds it; the message names pid and host.
            FileWriteError: the folder cannot be written to.
        """
        if self._path in _held:
            raise self._locked()
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as err:
            raise FileWriteError(
                expected=f"to lock the folder {self._path.parent}",
                got=f"{type(err).__name__}: {err}",
                do="choose a folder that can be written to",
            ) from err
        try:
            if sys.platform != "win32":
                # Not `lockf`, which is lost as soon as any descriptor of the file is closed, by a backup for instance.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(_me()).encode())
        except BlockingIOError:
            os.close(descriptor)
            raise self._locked() from None
        except BaseException:
            os.close(descriptor)
            raise
        _held[self._path] = descriptor
        self._mine = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release it; nothing happens where it is not held."""
        if self.held:
            os.close(_held.pop(self._path))  # the system's lock goes with it
        self._mine = False

    def _locked(self) -> RunLockedError:
        holder = _read(self._path)
        return RunLockedError(
            expected=f"the folder {self._path.parent} for this process alone",
            got=f"process {holder.get('pid', '?')} on {holder.get('host', '?')} working in it "
            f"since {holder.get('since', '?')}",
            do="wait until it ends, stop it, or choose another folder",
        )


def _me() -> dict[str, Any]:
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": platform.node(), "since": now}


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        holder = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(holder, dict):
            return holder
    return {}
