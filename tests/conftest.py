"""What every test shares: shapes checked at run time, one thread, no display, fixed randomness."""

from __future__ import annotations

import os

# Before torch or NumPy load: xdist workers share the cores, and one thread is also the quickest at these sizes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TQDM_MININTERVAL", "60")

import gc
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook
from stable_baselines3.common.vec_env import VecEnv

import understudy

SHAPES_CHECKED = ("understudy.functional", "understudy.rewards", "understudy.data")
"""In these packages the shapes written in annotations are enforced on every call."""


def _import_with_shapes_checked() -> None:
    """Import them all here, under the hook and without the garbage collector.

    A finaliser that runs while the hook parses a file makes Python 3.11 stop with a SystemError.
    """
    gc.disable()
    try:
        with install_import_hook(SHAPES_CHECKED, "_typecheck.checked"):
            for module in pkgutil.walk_packages(understudy.__path__, "understudy."):
                if module.name.startswith(SHAPES_CHECKED):
                    import_module(module.name)
    finally:
        gc.enable()


_import_with_shapes_checked()
torch.set_num_threads(1)

settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator of the test's own; the same numbers every run."""
    return np.random.default_rng(0)


@pytest.fixture
def cartpole_venv(rng: np.random.Generator) -> Iterator[VecEnv]:
    """Two ``CartPole-v1`` side by side, closed afterwards."""
    from understudy.util.util import make_vec_env

    venv = make_vec_env("CartPole-v1", rng=rng, n_envs=2)
    yield venv
    venv.close()


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and the working directory for the test's length."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def as_users_run_it() -> Iterator[None]:
    """Without the run-time check of annotations, which would speak before the library's own errors do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
