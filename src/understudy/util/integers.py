"""Sharing out whole numbers."""

from __future__ import annotations

import numpy as np

from understudy.errors import ConfigError


def split_in_half(x: int) -> tuple[int, int]:
    """Two whole numbers that add up to ``x``, the first the smaller by at most one."""
    half = x // 2
    return half, x - half


def oric(x: np.ndarray) -> np.ndarray:
    """Round every element up or down so that the sum stays, with the least total change.

    The elements with the largest fractional parts are rounded up, which is optimal in every p-norm with p >= 1.

    Args:
        x: shape ``(n,)``; the sum is a whole number.

    Raises:
        ConfigError: the sum is not a whole number.
    """
    x = np.asarray(x, dtype=np.float64)
    total = x.sum()
    if not np.isclose(total, np.rint(total)):
        raise ConfigError("numbers with a whole sum", f"a sum of {total}", "scale them first")
    floor = np.floor(x)
    n_up = round(total - floor.sum())
    rounded: np.ndarray = floor.astype(np.int64)
    rounded[np.argsort(floor - x, kind="stable")[:n_up]] += 1
    return rounded
