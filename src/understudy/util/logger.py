"""A logger that can average: what a training round records many times is written raw, and once as its mean."""

from __future__ import annotations

import contextlib
import datetime
import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common import logger as sb_logger

from understudy.util._formats import WandbOutputFormat, make_output_format
from understudy.util.paths import AnyPath, parse_path

__all__ = ["HierarchicalLogger", "WandbOutputFormat", "configure", "make_output_format"]

_DEFAULT_FORMATS = ("stdout", "log", "csv")


class HierarchicalLogger(sb_logger.Logger):
    """An SB3 logger with contexts in which every value also counts towards a mean.

    Outside `accumulate_means` it is an ordinary SB3 logger. Inside, a value recorded as ``key`` goes

    - to a logger of the context's own, as ``raw/[accumulate prefixes/]name/[key prefixes/]key``; `dump` writes that
      one, to the folder ``raw/[accumulate prefixes/]name``;
    - to the default logger, as ``mean/...`` likewise, averaged until *its* next dump, after the context.

    Args:
        default_logger: takes everything recorded outside, and the means.
        format_strs: the formats of the raw loggers; ``wandb`` is left out there, since a run has one step counter.
    """

    def __init__(self, default_logger: sb_logger.Logger, format_strs: Sequence[str] = _DEFAULT_FORMATS) -> None:
        self.default_logger = default_logger
        self.current_logger: sb_logger.Logger | None = None
        self.format_strs = format_strs
        self._cached_loggers: dict[str, sb_logger.Logger] = {}
        self._accumulate_prefixes: list[str] = []
        self._key_prefixes: list[str] = []
        self._name: str | None = None
        super().__init__(folder=default_logger.dir, output_formats=[])
        self._share_values()

    @property
    def _active(self) -> sb_logger.Logger:
        return self.current_logger if self.current_logger is not None else self.default_logger

    def _share_values(self) -> None:
        """Show the active logger's values under this logger's own attributes: SB3 reads them."""
        self.name_to_value = self._active.name_to_value
        self.name_to_count = self._active.name_to_count
        self.name_to_excluded = self._active.name_to_excluded

    @contextlib.contextmanager
    def add_accumulate_prefix(self, prefix: str) -> Iterator[None]:
        """Put ``prefix/`` before the name of every `accumulate_means` opened inside; prefixes nest.

        Raises:
            RuntimeError: called inside `accumulate_means`.
        """
        if self.current_logger is not None:
            raise RuntimeError("add_accumulate_prefix was called inside accumulate_means; open it outside")
        self._accumulate_prefixes.append(prefix)
        try:
            yield
        finally:
            self._accumulate_prefixes.pop()

    def get_accumulate_prefixes(self) -> str:
        """The accumulate prefixes in force, each with a slash behind it; empty when there are none."""
        return "".join(f"{prefix}/" for prefix in self._accumulate_prefixes)

    @contextlib.contextmanager
    def add_key_prefix(self, prefix: str) -> Iterator[None]:
        """Put ``prefix/`` before every key recorded inside; prefixes nest.

        Raises:
            RuntimeError: called outside `accumulate_means`.
        """
        if self.current_logger is None:
            raise RuntimeError("add_key_prefix was called outside accumulate_means; open that context first")
        self._key_prefixes.append(prefix)
        try:
            yield
        finally:
            self._key_prefixes.pop()

    @contextlib.contextmanager
    def accumulate_means(self, name: str) -> Iterator[None]:
        """Record raw values under ``name`` and their means in the default logger.

        Raises:
            RuntimeError: already inside such a context.
        """
        if self.current_logger is not None:
            raise RuntimeError("accumulate_means was called inside accumulate_means; close the first one before")
        subdir = "/".join(["raw", *self._accumulate_prefixes, name])
        self.current_logger = self._raw_logger(subdir)
        self._name = name
        self._share_values()
        try:
            yield
        finally:
            self.current_logger = None
            self._name = None
            self._share_values()

    def _raw_logger(self, subdir: str) -> sb_logger.Logger:
        if subdir not in self._cached_loggers:
            folder = str(Path(self.get_dir()) / subdir)
            formats = [make_output_format(fmt, folder) for fmt in self.format_strs if fmt != "wandb"]
            raw_logger = sb_logger.Logger(folder, formats)
            raw_logger.set_level(self.default_logger.level)
            self._cached_loggers[subdir] = raw_logger
        return self._cached_loggers[subdir]

    def _full_key(self, kind: str, key: str) -> str:
        assert self._name is not None
        return "/".join([kind, *self._accumulate_prefixes, self._name, *self._key_prefixes, key])

    def record(self, key: str, val: Any, exclude: str | tuple[str, ...] | None = None) -> None:
        """Record a value; the last one before a dump counts, save inside `accumulate_means`, where the mean does."""
        if self.current_logger is None:
            self.default_logger.record(key, val, exclude)
        else:
            self.current_logger.record(self._full_key("raw", key), val, exclude)
            self.default_logger.record_mean(self._full_key("mean", key), val, exclude)

    def record_mean(self, key: str, val: float | None, exclude: str | tuple[str, ...] | None = None) -> None:
        """Record a value of which the mean until the next dump counts; ``None`` is passed over."""
        if self.current_logger is None:
            self.default_logger.record_mean(key, val, exclude)
        else:
            self.current_logger.record_mean(self._full_key("raw", key), val, exclude)
            self.default_logger.record_mean(self._full_key("mean", key), val, exclude)

    def dump(self, step: int = 0) -> None:
        """Write and forget what was recorded: the raw values inside `accumulate_means`, everything else outside."""
        self._active.dump(step)

    def get_dir(self) -> str:
        """The folder of the logger in force."""
        folder = self._active.get_dir()
        assert folder is not None
        return folder

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Write a line of text with the default logger."""
        self.default_logger.log(*args, **kwargs)

    def set_level(self, level: int) -> None:
        """Set the threshold of the default logger and of every raw one."""
        super().set_level(level)
        for each in (self.default_logger, *self._cached_loggers.values()):
            each.set_level(level)

    def close(self) -> None:
        """Close every file."""
        for each in (self.default_logger, *self._cached_loggers.values()):
            each.close()


def configure(folder: AnyPath | None = None, format_strs: Sequence[str] | None = None) -> HierarchicalLogger:
    """Build a logger.

    Args:
        folder: where files go, created when it is missing; ``None`` makes a new folder under the system's temporary
            one, never used before.
        format_strs: any of ``stdout log csv json tensorboard wandb``; ``None`` means ``stdout``, ``log`` and ``csv``.

    Raises:
        ConfigError: an unknown format.
        MissingExtraError: TensorBoard or W&B is not installed.
    """
    if folder is None:
        stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H-%M-%S")
        path = Path(tempfile.mkdtemp(prefix=f"understudy-{stamp}-"))
    else:
        path = parse_path(folder)
        path.mkdir(parents=True, exist_ok=True)
    names = list(_DEFAULT_FORMATS if format_strs is None else format_strs)
    formats = [make_output_format(name, os.fspath(path)) for name in names]
    default = sb_logger.Logger(os.fspath(path), formats)
    logger = HierarchicalLogger(default, names)
    # An algorithm that is dropped takes its logger along; its files are then closed, not left to the collector.
    weakref.finalize(logger, _close_all, default, logger._cached_loggers)
    return logger


def _close_all(default: sb_logger.Logger, raw: Mapping[str, sb_logger.Logger]) -> None:
    for each in (default, *raw.values()):
        each.close()
