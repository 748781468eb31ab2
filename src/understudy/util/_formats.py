"""Where logged values go: SB3's writers, made safe for long runs, and one for Weights & Biases."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

from stable_baselines3.common import logger as sb_logger
from stable_baselines3.common.logger import KVWriter, filter_excluded_keys

from understudy.errors import ConfigError, MissingExtraError

FORMATS = ("stdout", "log", "csv", "json", "tensorboard", "wandb")


class TableOutputFormat(sb_logger.HumanOutputFormat):
    """SB3's table; two long keys that look alike when cut widen it instead of ending the run."""

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Print the values; nothing at all when there are none."""
        if not key_values:
            return
        try:
            super().write(key_values, key_excluded, step)
        except ValueError:
            longest = max(map(len, key_values))
            if self.max_length > longest:
                raise
            self.max_length = longest + 4  # SB3 indents a key by three
            super().write(key_values, key_excluded, step)


class CSVOutputFormat(sb_logger.CSVOutputFormat):
    """SB3's CSV file; keys that turn up later get their column, in an order that does not depend on hashing."""

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Append one row; a new key rewrites the file with one more column, empty in the earlier rows."""
        new_keys = sorted(filter_excluded_keys(key_values, key_excluded, "csv").keys() - set(self.keys))
        if new_keys:
            self.file.seek(0)
            rows = list(csv.reader(self.file))[1:]
            self.keys.extend(new_keys)
            self.file.seek(0)
            writer = csv.writer(self.file, lineterminator="\n")
            writer.writerow(self.keys)
            writer.writerows([*row, *[""] * (len(self.keys) - len(row))] for row in rows)
            self.file.truncate()
        super().write(key_values, key_excluded, step)


class JSONOutputFormat(sb_logger.JSONOutputFormat):
    """One JSON object per line; NaN and infinities become ``null``, because JSON has no word for them."""

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Append one line."""
        super().write({key: _json_number(value) for key, value in key_values.items()}, key_excluded, step)


def _json_number(value: Any) -> Any:
    scalar = value.item() if getattr(value, "size", None) == 1 or getattr(value, "shape", None) == () else value
    return None if isinstance(scalar, float) and not math.isfinite(scalar) else value


class WandbOutputFormat(KVWriter):
    """Sends values to the current Weights & Biases run; call ``wandb.init`` before the first write.

    Raises:
        MissingExtraError: ``wandb`` is not installed.
    """

    def __init__(self) -> None:
        try:
            self.wandb_module: Any = importlib.import_module("wandb")
        except ModuleNotFoundError as err:
            raise MissingExtraError("wandb", "wandb") from err

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Log one row at ``step``."""
        self.wandb_module.log(filter_excluded_keys(key_values, key_excluded, "wandb"), step=step, commit=True)

    def close(self) -> None:
        """Finish the run."""
        self.wandb_module.finish()


def make_output_format(_format: str, log_dir: str, log_suffix: str = "", max_length: int = 50) -> KVWriter:
    """Build a writer; ``log_dir`` is created when it is missing.

    Args:
        _format: ``stdout``; ``log`` (``log.txt``), ``csv`` (``progress.csv``), ``json`` (``progress.json``, one object
            a line), ``tensorboard`` or ``wandb``.
        log_dir: where files go.
        log_suffix: put before the file's extension.
        max_length: of a key or a value in the tables of ``stdout`` and ``log``.

    Raises:
        ConfigError: an unknown format.
        MissingExtraError: TensorBoard or W&B is not installed.
    """
    if _format not in FORMATS:
        raise ConfigError(f"a log format among {', '.join(FORMATS)}", repr(_format), "correct format_strs")
    folder = Path(log_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if _format == "stdout":
        return TableOutputFormat(sys.stdout, max_length=max_length)
    if _format == "log":
        return TableOutputFormat(str(folder / f"log{log_suffix}.txt"), max_length=max_length)
    if _format == "csv":
        return CSVOutputFormat(str(folder / f"progress{log_suffix}.csv"))
    if _format == "json":
        return JSONOutputFormat(str(folder / f"progress{log_suffix}.json"))
    if _format == "tensorboard":
        if importlib.util.find_spec("tensorboard") is None:
            raise MissingExtraError("tensorboard", "tensorboard")
        return sb_logger.TensorBoardOutputFormat(str(folder))
    return WandbOutputFormat()
