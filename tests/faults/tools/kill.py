"""End a process at a chosen instant: after a time, before the n-th change to the file system, or at a byte of a file.

``kill_at`` forks the calling process; ``kill_program`` starts a fresh one and waits for a condition.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tools.child import ChildError, fork, in_child, wait_for

Mark = Callable[[int], None]
Work = Callable[[Mark], object]
"""Called in the child with ``mark``: a number given to it is known to the parent whatever happens afterwards."""

_CHANGES = frozenset(
    ["os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod"]
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_SWAPS = frozenset(["renameat2", "renamex_np"])


@dataclasses.dataclass(frozen=True)
class Death:
    """How far a child came."""

    code: int
    """Exit code; negative for the signal that ended it."""

    marked: int
    """The last number it marked; -1 if none."""

    @property
    def killed(self) -> bool:
        """A signal ended it."""
        return self.code < 0


def kill_at(
    work: Work,
    *,
    seconds: float | None = None,
    boundary: int | None = None,
    byte: int | None = None,
    sig: int = signal.SIGKILL,
    limit: float = 60.0,
) -> Death:
    """Run ``work`` in a forked process and end it; give exactly one instant.

    Args:
        work: if it returns before the instant, that is no error: ``code`` is 0.
        seconds: after this time.
        boundary: just before change ``boundary`` to the file system, counted from 0; `boundaries` lists them.
        byte: inside the write that would make a file longer than this (always SIGXFSZ, which no handler sees).
        sig: what is sent; a handler of the child may go on after SIGINT and SIGTERM.
        limit: seconds after which the child has hung.

    Raises:
        ChildError: it hung, or raised by itself.
    """
    if sum(instant is not None for instant in (seconds, boundary, byte)) != 1:
        raise TypeError("one of seconds, boundary and byte")
    with mmap.mmap(-1, 8) as shared:
        shared[:] = struct.pack("q", -1)

        def mark(number: int) -> None:
            shared[:] = struct.pack("q", number)

        def run() -> None:
            if boundary is not None:
                _at_each_boundary(lambda nth, _: os.kill(os.getpid(), sig) if nth == boundary else None)
            if byte is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (byte, byte))
            work(mark)

        pid = fork(run)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(pid, sig)
        code = wait_for(pid, limit)
        (marked,) = struct.unpack("q", shared[:])
    if code > 0 and sig == signal.SIGKILL:
        raise ChildError(f"it ended by itself with {code}; see standard error")
    return Death(code, marked)


def boundaries(work: Work, *, limit: float = 60.0) -> list[str]:
    """The changes that ``work`` makes to the file system, in order; ``kill_at(work, boundary=i)`` ends it before i."""

    def run() -> list[str]:
        names: list[str] = []
        _at_each_boundary(lambda _, name: names.append(name))
        work(lambda _: None)
        return names

    return in_child(run, limit=limit)


def _at_each_boundary(act: Callable[[int, str], None]) -> None:
    """Call ``act`` with number and name just before each change; cannot be undone, so only in a child."""
    count = 0

    def reach(name: str) -> None:
        nonlocal count
        nth, count = count, count + 1
        act(nth, name)

    def hook(event: str, args: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & _WRITING
        swaps = event == "ctypes.dlsym" and args[1] in _SWAPS
        if writes or swaps or event in _CHANGES:
            reach(f"{event} {args[1] if swaps else args[0]}")

    sync = os.fsync

    def fsync(fd: Any) -> None:  # raises no audit event
        reach("os.fsync")
        sync(fd)

    os.fsync = fsync
    sys.addaudithook(hook)


def kill_program(
    args: Sequence[str],
    *,
    when: Callable[[], bool] | float,
    sig: int = signal.SIGKILL,
    limit: float = 60.0,
    env: Mapping[str, str] | None = None,
    twice_after: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Start a fresh program, send it a signal once, and wait until it has ended.

    Args:
        args: the command line; ``[sys.executable, ...]``.
        when: a condition that is asked every millisecond, or seconds from the start.
        sig: what is sent.
        limit: seconds until the condition holds, and again until the program has ended.
        env: its environment; None is this process's.
        twice_after: send it again so many seconds later, if it still runs.

    Raises:
        ChildError: it hung, or ended before the condition held.
    """
    holds = when if callable(when) else _after(when)
    with subprocess.Popen(
        args,
        env=None if env is None else dict(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            deadline = time.monotonic() + limit
            while not holds():
                if program.poll() is not None:
                    raise ChildError(f"ended with {program.returncode} too early:\n{program.communicate()[1]}")
                if time.monotonic() > deadline:
                    raise ChildError(f"the condition did not come true within {limit} s")
                time.sleep(0.001)
            program.send_signal(sig)
            if twice_after is not None:
                try:
                    program.wait(twice_after)
                except subprocess.TimeoutExpired:
                    program.send_signal(sig)
            out, err = program.communicate(timeout=limit)
        except BaseException as error:
            program.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise ChildError(f"still running {limit} s after the signal") from error
            raise
    return subprocess.CompletedProcess(args, program.returncode, out, err)


def _after(seconds: float) -> Callable[[], bool]:
    start = time.monotonic()
    return lambda: time.monotonic() - start >= seconds
