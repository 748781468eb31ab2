"""The package costs nothing to import, and its names lead where they say."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest

import understudy


def _fresh(code: str) -> str:
    """What a fresh interpreter prints; without the coverage hook, which imports on its own account."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); import understudy; "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    loaded = set(_fresh(code).split())
    assert "understudy" in loaded
    assert not loaded & {"torch", "numpy", "gymnasium", "stable_baselines3", "pyarrow", "scipy", "matplotlib", "tyro"}


def test_importing_the_package_takes_milliseconds() -> None:
    code = "import time; t = time.perf_counter(); import understudy; print(time.perf_counter() - t)"
    assert min(float(_fresh(code)) for _ in range(3)) < 0.05


@pytest.mark.parametrize("name", sorted(understudy._DOOR))
def test_a_name_of_the_door_is_the_object_behind_it(name: str) -> None:
    assert getattr(understudy, name) is getattr(import_module(understudy._DOOR[name]), name)
    assert name in dir(understudy)


@pytest.mark.parametrize("name", understudy._PACKAGES)
def test_subpackages_open_by_attribute(name: str) -> None:
    assert getattr(understudy, name) is import_module(f"understudy.{name}")


def test_every_subpackage_is_listed() -> None:
    assert set(understudy._PACKAGES) == {module.name for module in pkgutil.iter_modules(understudy.__path__)}


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'GAN'; it offers AIRL, BC,"):
        understudy.GAN  # noqa: B018


def test_the_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert version("understudy") == understudy.__version__
