"""A command in a pseudo-terminal, and someone who answers it."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import TracebackType

Answer = Callable[[dict[str, float]], str]
"""From the entries that are shown to the key to type."""

_ENTRY = re.compile(r"^  (\S[^\n]*?)  +(-?\d+\.\d+)\r?$", re.MULTILINE)
PROMPT = "action: "


class Terminal:
    """``understudy ARGS`` at a terminal; use as a context, at whose end it is killed if it still runs."""

    def __init__(self, *args: str) -> None:
        self._args = args
        self.shown = ""
        """Everything that was on the screen."""
        self.n_answers = 0
        self._seen = 0

    def __enter__(self) -> Terminal:
        """Start it."""
        ours, its = pty.openpty()
        self._screen = ours
        command = [sys.executable, "-m", "understudy.scripts.cli", *self._args]
        environment = {**os.environ, "TERM": "dumb", "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
        self.process = subprocess.Popen(
            command, stdin=its, stdout=its, stderr=its, start_new_session=True, close_fds=True, env=environment
        )
        os.close(its)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._screen)

    def _read(self, deadline: float) -> bool:
        """More of the screen; False where it is closed."""
        ready, _, _ = select.select([self._screen], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"nothing more was shown:\n{self.shown[-2000:]}"
        try:
            text = os.read(self._screen, 65536)
        except OSError:  # the other end is closed
            return False
        self.shown += text.decode()
        return bool(text)

    def question(self, seconds: float = 60) -> str | None:
        """What is shown since the last answer, once a question is asked; None if the program ends instead."""
        deadline = time.monotonic() + seconds
        while PROMPT not in self.shown[self._seen :]:
            if not self._read(deadline):
                return None
        asked = self.shown[self._seen :]
        return asked

    def answer(self, key: str) -> None:
        """Type it, and Enter."""
        self._seen = len(self.shown)
        os.write(self._screen, key.encode() + b"\n")
        self.n_answers += 1

    def play(self, how: Answer, n: int | None = None) -> bool:
        """Answer ``n`` questions, or all; whether another one is being asked then."""
        while n is None or n > 0:
            asked = self.question()
            if asked is None:
                return False
            self.answer(how({name.strip(): float(value) for name, value in _ENTRY.findall(asked)}))
            n = None if n is None else n - 1
        return self.question() is not None

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal to a program that is asking; returns its exit code."""
        self.process.send_signal(number)
        return self.end()

    def end(self, seconds: float = 60) -> int:
        """Read on until it ends; returns its exit code."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self.process.wait(seconds)
