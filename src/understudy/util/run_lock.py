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

from understudy.errors import RunLockedError

if sys.platform != "win32":
    import fcntl

_NAME = ".lock"


class RunLock:
    """Held while the context is open. The folder must exist.

    The system releases the lock when the process ends, so that a killed run leaves nothing to clean up; the file stays.
    """

    _held_here: set[Path] = set()  # noqa: RUF012 - one a process: the system's lock does not keep a process from itself

    def __init__(self, folder: Path) -> None:
        self._path = folder.resolve() / _NAME
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether it is held through this object."""
        return self._descriptor is not None

    def __enter__(self) -> RunLock:
        """Take the lock.

        Raises:
            RunLockedError: another process, or this one, holds it; the message names pid and host.
        """
        if self._path in self._held_here:
            raise self._locked(_me())
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if sys.platform != "win32":
                # Not `flock`: a forked worker that outlives a killed run would go on holding that.
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(_me()).encode())
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            raise self._locked(_read(self._path)) from None
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._held_here.add(self._path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release it; nothing happens where it is not held."""
        if self._descriptor is not None:
            self._held_here.discard(self._path)
            os.close(self._descriptor)  # the system's lock goes with it
            self._descriptor = None

    def _locked(self, holder: dict[str, Any]) -> RunLockedError:
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
