"""Pipes to environments' processes on which nobody waits for ever: every wait has a limit and names who is late."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import select
import signal
import socket
import struct
import time
from collections.abc import Iterable
from copy import copy
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from understudy.errors import ConfigError, EnvCrashedError, EnvTimeoutError
from understudy.util._env_worker import Failure

_NOTHING = object()
Error = TypeVar("Error", bound=EnvCrashedError)
_A_MOMENT = 0.5
"""Seconds that the end of something already under way may take."""


class EnvPipe:
    """One environment's end of the pipe, with ``send`` and ``recv`` as Stable-Baselines3 calls them.

    Attributes:
        seed: what the environment was last seeded with, or None.
        steps: answered steps since its last reset.
        asked: the command without an answer yet, or None.
    """

    def __init__(self, index: int, connection: Connection, process: BaseProcess, seed: int | None) -> None:
        self.index = index
        self.connection = connection
        self.process = process
        self.seed = seed
        self.steps = 0
        self.asked: str | None = None
        self.answer: Any = _NOTHING
        self._outdated = 0
        self.watch: Watch  # set by the watch

    def send(self, message: tuple[str, Any]) -> None:
        """Ask; an answer that nobody came for (the asker was interrupted) will be thrown away."""
        watch = self.watch
        if watch.failure is not None:
            raise copy(watch.failure)
        if self.asked is not None:
            self._outdated += self.answer is _NOTHING
            self.answer = _NOTHING
        command = self.asked = message[0]
        if command == "reset" and message[1][0] is not None:
            self.seed = message[1][0]
        try:
            if command == "step":  # actions are plain arrays: two thirds of the time of multiprocessing's pickler
                self.connection.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))
            else:
                self.connection.send(message)
        except BlockingIOError:
            raise watch.late(self) from None
        except ConnectionError:
            raise watch.dead(self) from None
        except Exception:  # not picklable, or closed: nothing went out
            self.asked = None
            raise
        watch.asked_at = time.monotonic()

    def recv(self) -> Any:
        """The answer; while waiting for it, all environments are watched.

        Raises:
            ConfigError: nothing was asked.
            EnvCrashedError: one of them raised or died.
            EnvTimeoutError: one of them gave no answer in time.
        """
        if self.asked is None:
            raise ConfigError("a step under way", "none", "call step_async before step_wait")
        while self.answer is _NOTHING:
            self.watch.collect()
        answer, self.answer = self.answer, _NOTHING
        asked, self.asked = self.asked, None
        if asked == "step":
            self.steps = 0 if answer[2] else self.steps + 1
        elif asked == "reset":
            self.steps = 0
        return answer

    def take(self) -> None:
        """Read the message that has arrived."""
        watch = self.watch
        try:
            message = self.connection.recv()
        except BlockingIOError:  # half an answer
            raise watch.late(self) from None
        except (EOFError, OSError):
            raise watch.dead(self) from None
        except BaseException as err:
            unreadable = watch.unreadable(self, err)
            if isinstance(err, Exception):
                raise unreadable from err
            raise
        if type(message) is Failure:
            raise watch.crashed(self, message)
        if self._outdated:
            self._outdated -= 1
        else:
            self.answer = message

    def last_words(self) -> Failure | None:
        """What the worker said before it died."""
        with contextlib.suppress(Exception):
            while self.connection.poll():
                message = self.connection.recv()
                if type(message) is Failure:
                    return message
        return None

    def limit_blocking(self, seconds: float | None) -> None:
        """A read or write on which nothing moves for so long raises BlockingIOError."""
        if os.name != "posix" or self.connection.closed:
            return
        micros = 0 if seconds is None else max(1, math.ceil(seconds * 1e6))
        value = struct.pack("ll", *divmod(micros, 1_000_000))
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=os.dup(self.connection.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


class Watch:
    """Waits on all pipes and processes at once, so the environment that failed first is the one that is named.

    Args:
        limit: seconds from the question to the answer, while environments are made; None waits for ever.
    """

    def __init__(self, pipes: list[EnvPipe], limit: float | None) -> None:
        self.pipes = pipes
        self.failure: EnvCrashedError | None = None
        self._all_made = False
        self.asked_at = time.monotonic()
        self._by_handle = {pipe.connection.fileno(): pipe for pipe in pipes}
        self._by_sentinel = {pipe.process.sentinel: pipe for pipe in pipes}
        # Registered once: `multiprocessing.connection.wait` builds a selector at each call, a fifth of a short step.
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        if self._epoll is not None:
            for handle in (*self._by_handle, *self._by_sentinel):
                self._epoll.register(handle, select.EPOLLIN)
        for pipe in pipes:
            pipe.watch = self
        self._set_limit(limit)

    def all_made(self, limit: float | None) -> None:
        """All environments have answered once; from now on they have so many seconds for an answer."""
        self._all_made = True
        self._set_limit(limit)

    def _set_limit(self, seconds: float | None) -> None:
        self.limit = seconds
        for pipe in self.pipes:
            pipe.limit_blocking(seconds)

    def collect(self) -> None:
        """Wait until at least one environment answers, and take the answers of all that did.

        Raises:
            EnvCrashedError: one raised or died.
            EnvTimeoutError: none answered in time.
        """
        if self.failure is not None:
            raise copy(self.failure)
        ready = self._ready(_A_MOMENT if self.limit is None else min(_A_MOMENT, self.limit))
        if ready:
            self._take(ready)
        else:
            self._collect_late_ones()

    def _collect_late_ones(self) -> None:
        if self.limit is None:
            self._take(self._ready(None))
            return
        left = self.asked_at + self.limit - time.monotonic()
        ready = self._ready(left) if left > 0 else []
        if not ready:
            raise self.late(next(pipe for pipe in self.pipes if pipe.asked is not None and pipe.answer is _NOTHING))
        arrived = [self._by_handle[handle] for handle, _ in ready if handle in self._by_handle]
        left = self.asked_at + self.limit - time.monotonic()
        for pipe in arrived:  # half an answer gets no second time limit
            pipe.limit_blocking(max(_A_MOMENT, left))
        self._take(ready)
        for pipe in arrived:
            pipe.limit_blocking(self.limit)

    def _take(self, ready: Iterable[tuple[int, int]]) -> None:
        for handle, _ in ready:
            pipe = self._by_handle.get(handle)
            if pipe is None:
                raise self.dead(self._by_sentinel[handle])
            pipe.take()

    def _ready(self, seconds: float | None) -> list[tuple[int, int]]:
        if self._epoll is not None:
            return self._epoll.poll(seconds)
        connections = {pipe.connection: handle for handle, pipe in self._by_handle.items()}
        ready = wait([*connections, *self._by_sentinel], seconds)
        return [(connections.get(one, one), 0) for one in ready]  # type: ignore[call-overload]

    def late(self, pipe: EnvPipe) -> EnvTimeoutError:
        """The error for an environment without an answer in time."""
        others = [p.index for p in self.pipes if p is not pipe and p.asked is not None and p.answer is _NOTHING]
        got = f"none in {self.limit:g} s" + (f" (nor from {others})" if others else "")
        do = "find what it waits for, or allow more with step_timeout (None: for ever); then close these environments"
        return self._failed(EnvTimeoutError, pipe, got, do)

    def dead(self, pipe: EnvPipe) -> EnvCrashedError:
        """The error for a worker that is gone, with its last words if it left any."""
        words = pipe.last_words()
        if words is not None:
            return self.crashed(pipe, words)
        pipe.process.join(_A_MOMENT)
        code = pipe.process.exitcode
        do = "look for what ends the process (its own output may tell); then close these environments"
        if code is None:
            got = "a closed pipe"
        elif code < 0:
            names = {int(number): number.name for number in signal.Signals}
            got = f"the end of its process by {names.get(-code, f'signal {-code}')}"
            if code == -getattr(signal, "SIGKILL", 0):
                got += ", as when memory runs out"
        else:
            got = f"the end of its process with exit code {code}"
            if not self._all_made:
                do = "read what its process printed; a script that starts processes needs `if __name__ == '__main__':`"
        return self._failed(EnvCrashedError, pipe, got, do)

    def crashed(self, pipe: EnvPipe, failure: Failure) -> EnvCrashedError:
        """The error for an environment that raised."""
        do = "mend the environment with the traceback below" if failure.traceback else "mend the environment"
        do += "; these ones can only be closed"
        return self._failed(EnvCrashedError, pipe, failure.summary, do, failure.traceback)

    def unreadable(self, pipe: EnvPipe, err: BaseException) -> EnvCrashedError:
        """The error for an answer lost while it was read."""
        got = f"one whose reading failed ({type(err).__name__}: {err})"
        return self._failed(EnvCrashedError, pipe, got, "close these environments and make them anew")

    def _failed(self, kind: type[Error], pipe: EnvPipe, got: str, do: str, remote_traceback: str = "") -> Error:
        asked = (pipe.asked or "its last call") if self._all_made else "being made"
        self.failure = failure = kind(
            f"an answer of environment {pipe.index} to {asked}",
            got,
            do,
            index=pipe.index,
            seed=pipe.seed,
            step=pipe.steps + (pipe.asked == "step"),
            remote_traceback=remote_traceback,
        )
        return copy(failure)

    def end(self, seconds: float) -> None:
        """Ask all to close, wait so long for those that can, then kill the rest; no process is left."""
        if self._epoll is not None:
            self._epoll.close()
        try:
            self._close_kindly(time.monotonic() + seconds)
        finally:
            end_processes([pipe.process for pipe in self.pipes])
            for pipe in self.pipes:
                pipe.connection.close()

    def _close_kindly(self, deadline: float) -> None:
        hung = self.failure.index if isinstance(self.failure, EnvTimeoutError) else None
        closing: dict[Any, EnvPipe] = {}
        for pipe in self.pipes:
            pipe.limit_blocking(_A_MOMENT / len(self.pipes))
            with contextlib.suppress(OSError):
                if pipe.index != hung:
                    pipe.connection.send(("close", None))
                    closing[pipe.process.sentinel] = pipe
        talking: dict[Any, EnvPipe] = {pipe.connection: pipe for pipe in closing.values()}
        while closing and (left := deadline - time.monotonic()) > 0:
            ready = wait([*closing, *talking], left)
            for handle in ready:
                if closing.pop(handle, None) is None:
                    # A worker may wait until its last answer is read before it looks at the next question.
                    try:
                        talking[handle].connection.recv_bytes()
                    except (EOFError, OSError):
                        del talking[handle]


def end_processes(processes: Iterable[BaseProcess]) -> None:
    """Kill what still runs, stopped processes too, and collect what is left of them."""
    processes = list(processes)
    for process in processes:
        if process.is_alive():
            process.kill()
    for process in processes:
        process.join(1.0)
