"""Small runs of `understudy train bc`, and data of one's own for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from understudy.scripts import cli

SMALL = ["--no-progress-bar", "--n-eval-episodes", "4", "--n-envs", "2", "--max-episode-steps", "60"]


def train(*args: str) -> int:
    """The exit code of a run of a few seconds on CartPole."""
    return cli.main(["train", "bc", "CartPole-v1", *SMALL, *args])


def npz(path: Path, n: int = 40, **changes: Any) -> Path:
    """Two episodes of a made-up expert, written to ``path``."""
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(n, 4)).astype(np.float32)
    arrays = {"obs": obs, "acts": (obs[:, 2] > 0).astype(np.int64), "episode_ends": np.array([n // 2, n])}
    np.savez(path, **{**arrays, **changes})
    return path
