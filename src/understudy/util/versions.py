"""Which libraries made something."""

from __future__ import annotations

import functools
import sys
from importlib.metadata import PackageNotFoundError, version


@functools.cache
def installed_version(package: str) -> str:
    """Version of a package; ``"unknown"`` for one not installed. Looked up once: it reads a file each time."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def library_versions() -> dict[str, str]:
    """Versions of Python and of what decides how a policy acts, by package."""
    packages = ("understudy", "torch", "stable_baselines3", "gymnasium", "numpy")
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python, **{package: installed_version(package) for package in packages}}
