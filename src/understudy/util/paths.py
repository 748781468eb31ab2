"""Paths from users, and names for folders."""

from __future__ import annotations

import datetime
import os
import uuid
from pathlib import Path

from understudy.errors import ConfigError

AnyPath = str | bytes | os.PathLike[str]


def parse_path(path: AnyPath, allow_relative: bool = True, base_directory: Path | None = None) -> Path:
    """Make a path absolute.

    Args:
        path: text, bytes or path; ``~`` at the start is the home directory.
        allow_relative: accept a relative path.
        base_directory: what a relative path starts from; ``None`` means the working directory.

    Raises:
        ConfigError: a relative path where none is allowed, or a base directory given although none is.
    """
    if base_directory is not None and not allow_relative:
        raise ConfigError(
            "a base_directory only where relative paths are allowed",
            f"base_directory={base_directory} with allow_relative=False",
            "pass allow_relative=True or drop base_directory",
        )
    parsed = Path(os.fsdecode(path)).expanduser()
    if parsed.is_absolute():
        return parsed
    if not allow_relative:
        raise ConfigError("an absolute path", f"{parsed}, which is not absolute", "write the path from the root")
    return (base_directory or Path.cwd()) / parsed


def parse_optional_path(
    path: AnyPath | None, allow_relative: bool = True, base_directory: Path | None = None
) -> Path | None:
    """As `parse_path`; ``None`` stays ``None``."""
    return None if path is None else parse_path(path, allow_relative, base_directory)


def make_unique_timestamp() -> str:
    """The time in seconds and six random digits, for the name of a folder: ``20250131_235959_0a1b2c``."""
    return f"{datetime.datetime.now():%Y%m%d_%H%M%S}_{uuid.uuid4().hex[:6]}"
