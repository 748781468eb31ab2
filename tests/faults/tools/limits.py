"""Less of something: the length of files, the address space, the rights of the administrator; and memory measured."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

_DAC_OVERRIDE, _DAC_READ_SEARCH, _FOWNER = 1, 2, 3
_CAPABILITY_VERSION = 0x20080522


@contextlib.contextmanager
def _soft_limit(kind: int, n_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


@contextlib.contextmanager
def limit_fsize(n_bytes: int) -> Iterator[None]:
    """No file can grow beyond this: the write that would raises OSError (EFBIG), as ENOSPC does on a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with _soft_limit(resource.RLIMIT_FSIZE, n_bytes):
            yield
    finally:
        signal.signal(signal.SIGXFSZ, handler)


@contextlib.contextmanager
def limit_as(n_bytes: int) -> Iterator[None]:
    """No more address space than this, code and what is mapped already included: use it in a child."""
    with _soft_limit(resource.RLIMIT_AS, n_bytes):
        yield


def obey_permissions() -> None:
    """From now on this process obeys file modes even as root; cannot be undone, so only in a child.

    Raises:
        OSError: the system has no capabilities to give up.
    """
    if os.geteuid() != 0:
        return
    if not sys.platform.startswith("linux"):
        raise OSError("root, on a system without capabilities")
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    data = (ctypes.c_uint32 * 6)()
    if libc.capget(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    for capability in (_DAC_OVERRIDE, _DAC_READ_SEARCH, _FOWNER):
        data[0] &= ~(1 << capability)  # of the effective set
    if libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


def mapped_bytes() -> int:
    """Address space of this process."""
    return _status("VmSize")


class PeakMemory:
    """Bytes by which this process's resident memory rose above where it stood, at its peak, within ``with``."""

    bytes = 0

    def __enter__(self) -> PeakMemory:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        self._before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = _status("VmHWM") - self._before
