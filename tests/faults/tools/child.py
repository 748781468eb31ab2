"""Work in a forked process: it may be killed, limited or crash, and this process goes on."""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn, TypeVar

import tqdm.auto
import tqdm.std

T = TypeVar("T")


class ChildError(RuntimeError):
    """The child raised, died or took too long; the text says which."""


def fork(work: Callable[[], object]) -> int:
    """Start ``work`` in a copy of this process and return its id; what it raises is printed, and its exit code 1."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python ≥ 3.12 where a library has started threads
        pid = os.fork()
    if pid == 0:
        _run_and_leave(work)
    return pid


def _run_and_leave(work: Callable[[], object]) -> NoReturn:
    status = 1
    # tqdm's lock is a semaphore that processes share: a child killed while it holds it would block its parent for ever.
    for bar in (tqdm.std.tqdm, tqdm.auto.tqdm):
        bar.set_lock(threading.RLock())
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)  # never back into the tests, no exit handlers of theirs


def wait_for(pid: int, limit: float) -> int:
    """Exit code of a child, negative for the signal that ended it; after ``limit`` seconds it is killed.

    Raises:
        ChildError: it was still running.
    """
    deadline = time.monotonic() + limit
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise ChildError(f"still running after {limit} s")
        time.sleep(0.0005)


def in_child(work: Callable[[], T], *, limit: float = 60.0) -> T:
    """What ``work`` returns in a forked process.

    Raises:
        ChildError: it raised, died or ran longer than ``limit`` seconds.
    """
    reading, writing = os.pipe()

    def answer() -> None:
        os.close(reading)
        try:
            content = pickle.dumps((True, work()))
        except BaseException:
            content = pickle.dumps((False, traceback.format_exc()))
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(content)

    pid = fork(answer)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = _read(pipe.fileno(), pid, limit)
    code = wait_for(pid, limit)
    if not content:
        raise ChildError(f"ended with {code} and no answer")
    worked, value = pickle.loads(content)  # from our own fork
    if not worked:
        raise ChildError(value)
    return value  # type: ignore[no-any-return]


def _read(descriptor: int, pid: int, limit: float) -> bytes:
    parts: list[bytes] = []
    deadline = time.monotonic() + limit
    while select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(descriptor, 1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise ChildError(f"no answer within {limit} s")
