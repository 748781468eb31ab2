"""What a caller may catch.

Every error says three things: what was expected, what was got, and what to do. Each class is also the built-in
error that a user would expect to catch, so ``except ValueError`` keeps working.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class UnderstudyError(Exception):
    """Base of all errors raised on purpose by this library.

    The three parts stay readable as attributes, so a program can show them in its own way.
    """

    def __init__(self, expected: str, got: str, do: str) -> None:
        # One line: what was found may be a text from a file, or another library's message of several.
        parts = (" ".join(line.strip() for line in part.splitlines()) for part in (expected, got, do))
        self.expected, self.got, self.do = parts
        super().__init__(self.expected, self.got, self.do)

    def __str__(self) -> str:
        return f"expected {self.expected}; got {self.got}. Do this: {self.do}"


class DataError(UnderstudyError, ValueError):
    """Demonstrations, trajectories or arrays that cannot be used as they are."""


class EmptyDataError(DataError):
    """Nothing to learn from: no trajectory, no transition, no batch."""


class NonFiniteDataError(DataError):
    """NaN or infinity in data, found before anything was trained on it."""


class SpaceMismatchError(UnderstudyError, ValueError):
    """Two things that must share observation and action spaces do not."""


class UnsupportedSpaceError(UnderstudyError, ValueError):
    """A space that this algorithm's mathematics does not cover."""


class ConfigError(UnderstudyError, ValueError):
    """Options that contradict each other or lie outside their range."""


class WrongTypeError(ConfigError, TypeError):
    """A thing of another class than what it is used for."""


class RegistryError(UnderstudyError, KeyError):
    """A name that nothing is registered under, or one that is taken already."""


class TrainingDivergedError(UnderstudyError, ArithmeticError):
    """A loss or gradient became NaN or infinite; the last good parameters have been put back."""


class MissingFileError(UnderstudyError, FileNotFoundError):
    """Nothing is at the path that was given."""


class CallOrderError(UnderstudyError, RuntimeError):
    """A call that came too early or too late, such as a step before the first reset."""


class CorruptFileError(UnderstudyError, ValueError):
    """A file that is truncated, altered or not what its name says."""


class UntrustedFileError(UnderstudyError, ValueError):
    """Reading this file would run code stored inside it, and the caller did not write ``trust="pickle"``."""


class MissingExtraError(UnderstudyError, ImportError):
    """An optional dependency is not installed; the message names the extra."""

    def __init__(self, package: str, extra: str) -> None:
        ImportError.__init__(self)
        UnderstudyError.__init__(
            self,
            expected=f"the package {package!r}",
            got="it is not installed",
            do=f"pip install 'understudy[{extra}]'",
        )


class FileWriteError(UnderstudyError, OSError):
    """A file could not be written (disk full, no rights, no such folder); what stood there is untouched."""


class CheckpointError(UnderstudyError, OSError):
    """A checkpoint could not be written, or none here can be resumed from; what stood before is untouched."""


class RunLockedError(UnderstudyError, RuntimeError):
    """Another process is working in this run folder."""


class EnvCrashedError(UnderstudyError, RuntimeError):
    """An environment raised or its process died.

    Attributes:
        index: which environment, counted from 0.
        seed: what it was last seeded with, or None.
        step: steps since its last reset.
        remote_traceback: the environment's own traceback; empty if its process died without one.
        finished: out of a rollout, the trajectories that had ended until then, in the order they ended; a sample that
            favours short episodes.
    """

    finished: Sequence[Any] = ()

    def __init__(
        self,
        expected: str,
        got: str,
        do: str,
        *,
        index: int = -1,
        seed: int | None = None,
        step: int = 0,
        remote_traceback: str = "",
    ) -> None:
        super().__init__(expected, got, do)
        self.index = index
        self.seed = seed
        self.step = step
        self.remote_traceback = remote_traceback

    def __str__(self) -> str:
        """The three parts, and the environment's own traceback below them."""
        message = super().__str__()
        return f"{message}\n\n{self.remote_traceback}" if self.remote_traceback else message


class EnvTimeoutError(EnvCrashedError, TimeoutError):
    """An environment gave no answer in time."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a training that checkpoints; what was learned so far has been saved.

    Attributes:
        signal: number of the signal.
        snapshot: folder with the state at the last batch, for use; ``resume`` goes on from the last checkpoint.
    """

    def __init__(self, signal: int, snapshot: str) -> None:
        super().__init__(f"stopped by signal {signal}; what was learned so far is in {snapshot}")
        self.signal = signal
        self.snapshot = snapshot
