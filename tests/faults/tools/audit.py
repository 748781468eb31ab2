"""What a loader does besides reading: code run, processes started, files written, connections opened, as seen by
Python's audit events.

A hook cannot be taken out again, so there is one a process; it records only inside ``audit_no_exec``. What an import
of this environment's own code does is not recorded, but load a good file first, so that nothing is imported late.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import sys
import sysconfig
import typing
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

_ALWAYS = frozenset(
    [
        *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.startfile", "os.kill"),
        *("subprocess.Popen", "pty.spawn", "signal.pthread_kill", "webbrowser.open", "code.__new__"),
        *("function.__new__", "cpython.run_command", "cpython.run_file", "cpython.run_module", "builtins.input"),
        *("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"),
        *("urllib.Request", "http.client.connect", "ftplib.connect", "smtplib.connect"),
        *("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod"),
        *("os.chown", "os.putenv", "os.unsetenv", "shutil.rmtree", "shutil.move", "shutil.copyfile"),
        *("shutil.unpack_archive", "tempfile.mkstemp", "tempfile.mkdtemp", "shelve.open", "dbm.open"),
        *("ctypes.dlopen", "ctypes.dlsym", "ctypes.call_function"),
    ]
)
"""Events that are never part of reading a file."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_IMPORTER = "<frozen importlib._bootstrap>"
_GENERATING = frozenset([typing.__file__, dataclasses.__file__, collections.__file__])
"""Modules that evaluate annotations and make methods; a file reaches them only through a pickle, which is seen."""


class Recorder:
    """What was seen; ``events`` is a list of event and detail."""

    def __init__(
        self,
        forbidden: Collection[str],
        secrets: Collection[Path],
        writable: Collection[str],
        picklable: Callable[[str, str], bool],
    ) -> None:
        self.events: list[tuple[str, str]] = []
        self._writable = frozenset([os.devnull, *writable])
        self._forbidden = forbidden
        self._secrets = frozenset(os.path.realpath(each) for each in secrets)
        self._picklable = picklable

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        detail = self._seen(event, args)
        if detail is not None:
            self.events.append((event, detail))

    def _seen(self, event: str, args: tuple[Any, ...]) -> str | None:
        """What to record of an event; None for harmless ones."""
        if event == "import":
            return args[0] if args[0].split(".")[0] in self._forbidden else None
        if event == "pickle.find_class":
            return None if self._picklable(*args) else ".".join(args)
        if event == "open":
            return self._opened(*args)
        if event == "exec":
            return None if _installed(args[0]) or _generating() or _importing() else repr(args[0])
        if event == "marshal.loads":
            return None if _importing() else "code"
        if event == "os.truncate" and isinstance(args[0], int):
            return None  # a file that it opened, which was judged then
        if event in _ALWAYS and not _importing():
            return repr(args)[:200]
        return None

    def _opened(self, path: object, mode: object, flags: int) -> str | None:
        if not isinstance(path, str | bytes | os.PathLike):
            return None  # a descriptor that is open already
        name = os.fsdecode(path)
        if os.path.realpath(name) in self._secrets:
            return f"read {name}"
        if isinstance(flags, int) and flags & _WRITING and not self._may_write(name) and not _importing():
            return f"write {name}"
        return None

    def _may_write(self, name: str) -> bool:
        return name in self._writable or Path(name).name in self._writable


def _installed(code: object) -> bool:
    """A module's own code, from the environment."""
    return isinstance(code, CodeType) and code.co_name == "<module>" and code.co_filename.startswith(_INSTALLED)


def _generating() -> bool:
    """Whether an annotation is evaluated, or a dataclass or named tuple made."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename in _GENERATING


def _importing() -> bool:
    """Whether an import statement of installed code is running: it compiles, reads caches and may write them."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTER:
            return True
        frame = frame.f_back
    return False


_active: Recorder | None = None
_installed_hook = False


def _hook(event: str, args: tuple[Any, ...]) -> None:
    global _active
    recorder = _active
    if recorder is None:
        return
    _active = None  # what the recorder itself does is not recorded
    try:
        recorder(event, args)
    finally:
        _active = recorder


@contextlib.contextmanager
def audit_no_exec(
    *,
    forbidden_modules: Collection[str] = (),
    secrets: Collection[Path] = (),
    writable: Collection[str] = (),
    picklable: Callable[[str, str], bool] = lambda module, name: False,
) -> Iterator[Recorder]:
    """Record what should not happen while a file is read; compare ``events`` with ``[]`` afterwards.

    Args:
        forbidden_modules: top-level modules whose import is recorded: those that payloads name.
        secrets: files whose opening is recorded: those that payloads point at from outside.
        writable: paths or names of files that may be opened for writing.
        picklable: by module and name, what an unpickler may look up; by default nothing.
    """
    global _active, _installed_hook
    if not _installed_hook:
        sys.addaudithook(_hook)
        _installed_hook = True
    if _active is not None:
        raise RuntimeError("one recording at a time")
    recorder = _active = Recorder(forbidden_modules, secrets, writable, picklable)
    try:
        yield recorder
    finally:
        _active = None
