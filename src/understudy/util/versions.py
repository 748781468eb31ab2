"""Which libraries made something."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version


def library_versions() -> dict[str, str]:
    """Versions of Python and of what decides how a policy acts, by package; ``"unknown"`` for one not installed."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in ("understudy", "torch", "stable_baselines3", "gymnasium", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found
