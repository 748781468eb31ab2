"""One folder a run: what was asked, what happened, what came out.

``config.json`` (options, command, seed, versions, git state, data hash, hardware, wall-clock), ``metrics.jsonl`` (one
line a logging step), ``results.json`` (returns and action errors that the report is drawn from), ``checkpoints/``,
``policy/`` and ``report.html``; ``journal.jsonl`` tells each process that worked in it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from understudy.errors import ConfigError, CorruptFileError
from understudy.util.files import write_atomically
from understudy.util.journal import Journal
from understudy.util.run_lock import RunLock
from understudy.util.versions import library_versions

CONFIG = "config.json"


class RunFolder:
    """The folder of one run, and the lock on it. On entering the context it is made, with a ``status`` "running"."""

    def __init__(
        self,
        path: Path,
        *,
        verb: str,
        options: Any,
        seed: int,
        command: str | None = None,
        resumed: Mapping[str, Any] | None = None,
    ) -> None:
        """Start the clock; nothing is written yet.

        Args:
            path: made with its parents; must not hold a run already, unless that is to be resumed.
            verb: "train bc" and so on.
            options: a dataclass instance, written in full.
            seed: the seed everything else follows from.
            command: None stands for the command line of this process.
            resumed: the ``config.json`` of the run to go on with.

        Raises:
            ConfigError: the folder holds a run already.
            RunLockedError: and a process is working on it.
        """
        self.path = path
        self._start = time.perf_counter()
        self._before = 0.0
        self.lock = RunLock(path)
        """Held from entering the context on, unless whoever made the folder took it before."""
        self._journal = Journal(path / "journal.jsonl")
        self.resumed = resumed is not None
        if resumed is None and (path / CONFIG).exists():
            with self.lock:
                pass  # a run that is under way is refused by its lock, which tells who works on it
            raise ConfigError(
                "an empty or new run folder",
                f"{path} with a run in it",
                f"go on with that run: understudy {verb} --resume {path}; or choose another --out",
            )
        self.config: dict[str, Any] = {
            "verb": verb,
            "command": command_line() if command is None else command,
            "status": "running",
            "started": _now(),
            "wall_clock_seconds": 0.0,
            "seed": seed,
            "options": plain(options),
            "versions": library_versions(),
        }
        if resumed is not None:
            self._before = float(resumed["wall_clock_seconds"])
            self.config.update({name: resumed[name] for name in ("command", "started")})

    def save_config(self, **facts: Any) -> None:
        """Add facts to ``config.json`` and write it."""
        self.config.update(plain(facts))
        self.config["wall_clock_seconds"] = round(self._before + time.perf_counter() - self._start, 2)
        write_json(self.path / CONFIG, self.config)

    def save_results(self, results: Any) -> None:
        """Write ``results.json``."""
        write_json(self.path / "results.json", plain(results))

    @property
    def checkpoints(self) -> Path:
        """Where the trainer's checkpoints lie."""
        return self.path / "checkpoints"

    def __enter__(self) -> RunFolder:
        """Make the folder and lock it.

        Raises:
            ConfigError: it cannot be made.
            RunLockedError: another process works in it.
        """
        taken_before = self.lock.held
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not taken_before:
                self.lock.__enter__()
            event = "resumed" if self.resumed else "started"
            self._journal.append({"event": event, "time": _now(), "pid": os.getpid(), "host": platform.node()})
            self.save_config(git=git_state(Path.cwd()), hardware=hardware())
        except OSError as error:
            if not taken_before:
                self.lock.__exit__(None, None, None)
            raise ConfigError(
                f"a folder that can be written to: {self.path}", str(error), "choose another --out"
            ) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        """Write the wall-clock and how the run ended: finished, interrupted or failed."""
        try:
            if self.config["status"] == "running":
                if kind is None:
                    self.save_config(status="finished")
                elif issubclass(kind, KeyboardInterrupt):
                    self.save_config(status="interrupted")
                else:
                    self.save_config(status="failed", error=str(error))
            self._journal.append({"event": self.config["status"], "time": _now(), "pid": os.getpid()})
        finally:
            self.lock.__exit__(None, None, None)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def default_path(kind: str, env_id: str, root: Path = Path("output")) -> Path:
    """``output/<kind>/<env>/<timestamp>``, free at this moment."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    base = root / kind / env_id.replace("/", "_").replace(":", "_")
    path, n = base / stamp, 1
    while path.exists():
        n += 1
        path = base / f"{stamp}-{n}"
    return path


def write_json(path: Path, value: Any) -> None:
    """Write all or nothing."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def read_json(path: Path) -> Any:
    """The content, with a typed error instead of a traceback.

    Raises:
        CorruptFileError: not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CorruptFileError("a JSON file of a run", f"{path}: {error}", "run the command again") from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a ``metrics.jsonl``; a line cut short by a kill is left out; no file means no lines."""
    lines: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                lines.append(value)
    return lines


def plain(value: Any) -> Any:
    """Dataclasses, arrays, paths and numbers as JSON has them; NaN and infinity become None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, tensors
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def command_line() -> str:
    """What to type to run this again."""
    program = Path(sys.argv[0]).name
    name = "understudy" if program in ("understudy", "cli.py", "__main__.py") else program
    return shlex.join([name, *sys.argv[1:]])


def hardware() -> dict[str, Any]:
    """Processor, cores, torch's threads (they decide the last bits of a result) and accelerators."""
    import torch

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the working directory and whether it has changes; None outside a repository."""

    def git(*args: str) -> str:
        answer = subprocess.run(
            ["git", "-C", str(folder), *args], capture_output=True, text=True, timeout=10, check=True
        )
        return answer.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
