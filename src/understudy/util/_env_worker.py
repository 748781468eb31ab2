"""What runs in an environment's own process.

Light to import: it stands guard before torch, the environment's package or anything else that may fail is loaded.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

if sys.platform == "linux":
    import fcntl


class Failure(NamedTuple):
    """The last message of a worker: what its environment raised, in a line and in full."""

    summary: str
    traceback: str


class MakeEnv:
    """An environment's function, unpickled only when it is called, where a failure can still be reported."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make: Callable[[], Any] | bytes = make

    def __getstate__(self) -> bytes:
        import cloudpickle

        return cloudpickle.dumps(self._make)  # type: ignore[no-any-return]

    def __setstate__(self, pickled: bytes) -> None:
        self._make = pickled

    def var(self) -> Any:
        """The environment (the name is the one that Stable-Baselines3's worker calls)."""
        if isinstance(self._make, bytes):
            import cloudpickle

            self._make = cloudpickle.loads(self._make)
        assert callable(self._make)
        return self._make()


class _Answering:
    """The worker's end of the pipe, without multiprocessing's own pickler where the standard one will do.

    That saves 3 of the 90 µs of a short step, and keeps tensors out of shared memory.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.recv = connection.recv
        self.close = connection.close

    def send(self, message: Any) -> None:
        try:
            pickled = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        except Exception:
            self._connection.send(message)
        else:
            self._connection.send_bytes(pickled)


def work(remote: Connection, parent_remote: Connection, make_env: MakeEnv) -> None:
    """Serve one environment until told to close; if it raises, say so and end.

    Ctrl-C reaches the whole terminal group: here it is left to the parent, which closes its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_the_parent()
    try:
        from stable_baselines3.common.vec_env.subproc_vec_env import _worker

        _worker(_Answering(remote), parent_remote, make_env)  # type: ignore[arg-type]
        if remote.closed:
            return
        failure = Failure("an EOFError or a KeyboardInterrupt, whose traceback was not kept", "")
    except BaseException as err:
        failure = Failure("".join(traceback.format_exception_only(err)).strip(), traceback.format_exc())
    with contextlib.suppress(OSError):  # no parent, nobody to tell
        remote.send(failure)


def _end_with_the_parent() -> None:
    """End this process when its parent does, whatever either is doing then.

    A worker inside ``env.step`` cannot see that its pipe was closed, so a thread waits for the parent's end.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    if sys.platform == "linux":
        # The kernel kills it even if it is stopped, or stuck in C with the interpreter's lock. (A "parent death signal"
        # would come from the fork server, or when the thread that made the environments ends.)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(parent.sentinel, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, fcntl.fcntl(parent.sentinel, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=_wait_for, args=(parent,), daemon=True).start()


def _wait_for(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
