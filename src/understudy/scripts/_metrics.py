"""Training metrics into the run folder's ``metrics.jsonl``."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from tqdm.auto import tqdm

from understudy.errors import FileWriteError
from understudy.scripts._run_folder import read_metrics
from understudy.util.files import write_atomically
from understudy.util.logger import HierarchicalLogger


class MetricsWriter(KVWriter):
    """One JSON object a line: ``step``, ``seconds`` since the start, then every number that was logged.

    Lines are flushed at once, so what a killed run had logged is there.
    """

    def __init__(self, path: Path, seconds_before: float = 0.0) -> None:
        """``seconds_before``: how long the run had been going when an earlier process ended."""
        self._file = path.open("a", encoding="utf-8")
        self._start = time.perf_counter() - seconds_before

    def write(self, key_values: Mapping[str, Any], key_excluded: Mapping[str, Any], step: int = 0) -> None:
        """Append one line; texts, videos and the like are left out, NaN and infinity become null."""
        line: dict[str, Any] = {"step": int(step), "seconds": round(time.perf_counter() - self._start, 4)}
        for key, value in key_values.items():
            try:
                number = float(value)
            except (TypeError, ValueError):
                continue
            line[key] = (int(number) if number.is_integer() else number) if math.isfinite(number) else None
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as err:
            raise FileWriteError(
                f"to write {self._file.name}", f"{type(err).__name__}: {err}", "make room; then go on with --resume"
            ) from err

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with contextlib.suppress(OSError):  # what could not be written was told when it was written
            self._file.close()


def metrics_logger(folder: Path) -> HierarchicalLogger:
    """A logger that writes ``folder/metrics.jsonl`` and prints nothing: the progress bar has the terminal."""
    path = folder / "metrics.jsonl"
    writer = MetricsWriter(path, max((_number(line, "seconds") for line in read_metrics(path)), default=0.0))
    inner = Logger(folder=str(folder), output_formats=[writer])
    return HierarchicalLogger(inner, format_strs=())


def forget_metrics(folder: Path, key: str, limit: float) -> None:
    """Remove the lines whose ``key`` has reached ``limit``: a resumed run will write them again."""
    path = folder / "metrics.jsonl"
    if path.exists():
        kept = [line for line in read_metrics(path) if _number(line, key) < limit]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())


def _number(line: Mapping[str, Any], key: str) -> float:
    value = line.get(key)
    return float(value) if isinstance(value, (int, float)) else 0.0


def silent_logger() -> HierarchicalLogger:
    """A logger that writes nowhere, until there is a folder."""
    return HierarchicalLogger(Logger(folder=None, output_formats=[]), format_strs=())


class MetricsCallback(BaseCallback):
    """Adds a ``metrics.jsonl`` to whatever the Stable-Baselines3 model logs to, and keeps hold of the model.

    ``model`` is there as soon as training has begun, also when it never ends.
    """

    def __init__(self, path: Path) -> None:
        self.model: Any = None
        super().__init__()
        self._writer = MetricsWriter(path)

    def _on_training_start(self) -> None:
        self.logger.output_formats.append(self._writer)

    def _on_step(self) -> bool:
        return True

    def close(self) -> None:
        """Close the file; the model's logger no longer writes to it."""
        if self.model is not None and self._writer in self.logger.output_formats:
            self.logger.output_formats.remove(self._writer)
        self._writer.close()


class ProgressCallback(BaseCallback):
    """A bar over the steps of ``learn``, like those of this library's own trainings.

    Args:
        n_steps: to go.
        disable: show none.
    """

    def __init__(self, n_steps: int, *, disable: bool = False) -> None:
        super().__init__()
        self._bar = tqdm(total=n_steps, desc="learning", unit="step", disable=disable)

    def _on_step(self) -> bool:
        self._bar.update(self.training_env.num_envs)
        return True

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
