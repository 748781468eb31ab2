"""Ctrl-C and SIGTERM as a wish to stop: the first is answered at the next safe point, the second at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """While this is open, SIGINT and SIGTERM set ``received`` instead of ending the process.

    The next signal of either kind has the system's own effect, which ends the process at once, in whatever call it is.
    Outside the main thread, where Python allows no handlers, nothing is changed and nothing is ever received.
    """

    def __init__(self, *, announce: str = "stopping at the next safe point; once more ends it at once") -> None:
        """``announce`` is written to the standard error at the first signal."""
        self._announce = announce
        self._before: dict[int, Any] = {}
        self.received: int | None = None
        """Number of the signal that came; None so far."""

    def __enter__(self) -> StopSignals:
        """Take over the handlers."""
        if threading.current_thread() is threading.main_thread():
            # What was ignored from the start, as Ctrl-C is in a shell's background jobs, stays ignored.
            watched = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._on_signal) for number in watched}
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        # Not through sys.stderr: it may be gone, or in the middle of a line of the progress bar.
        with contextlib.suppress(OSError):
            os.write(2, f"\n{signal.Signals(number).name}: {self._announce}\n".encode())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}
