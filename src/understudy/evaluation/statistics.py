"""Statistics of returns with intervals, as recommended for few runs.

Agarwal et al. (2021), "Deep reinforcement learning at the edge of the statistical precipice",
https://arxiv.org/abs/2108.13264: report the interquartile mean with a stratified bootstrap interval, and the
probability that one method beats another, instead of a best run or a bare mean. The resampling and the tests are
SciPy's; this module fixes their choices.

Scores are either one-dimensional (``run``: episodes or seeds of one task) or two-dimensional (``run task``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from understudy.errors import ConfigError, DataError, NonFiniteDataError

Method = Literal["percentile", "basic", "BCa"]
Alternative = Literal["greater", "less", "two-sided"]
# Resamples are drawn in blocks of about this many numbers (32 MiB), so that long score lists do not fill the memory.
_BLOCK = 2**22


@dataclasses.dataclass(frozen=True)
class Interval:
    """A point estimate with the ends of its confidence interval, in the unit of the scores."""

    point: float
    low: float
    high: float
    confidence: float = 0.95

    def __str__(self) -> str:
        return f"{self.point:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclasses.dataclass(frozen=True)
class PermutationTest:
    """``statistic`` = mean of x − mean of y; ``p_value`` in (0, 1]."""

    statistic: float
    p_value: float


def iqm(scores: npt.ArrayLike, axis: int | None = None) -> Any:
    """Interquartile mean: the mean of the middle half of the scores.

    A quarter of the scores (rounded down) is dropped at either end; fewer than four scores give the plain mean.
    ``axis=None`` pools all scores.
    """
    from scipy import stats

    return stats.trim_mean(np.asarray(scores, dtype=np.float64), 0.25, axis=axis)


def stratified_bootstrap(
    scores: npt.ArrayLike,
    statistic: Callable[..., Any] = iqm,
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    rng: np.random.Generator | None = None,
    method: Method = "percentile",
) -> Interval:
    """Bootstrap interval of a statistic of the pooled scores; runs are resampled within each task (eq. 1 there).

    Args:
        scores: shape ``(run,)`` or ``(run, task)``, at least two runs.
        statistic: called as ``statistic(array, axis=-1)`` on pooled scores, like ``iqm``, ``np.mean``, ``np.median``.
        confidence: share of intervals that should cover the truth, in (0, 1).
        n_resamples: bootstrap samples; 2,000 puts the ends within about 1 % of the interval's width.
        rng: None uses a generator seeded with 0, so that the same scores always give the same interval.
        method: "percentile" as in the paper; "basic" and "BCa" as in SciPy.

    Raises:
        DataError: fewer than two runs, or more than two axes.
        NonFiniteDataError: a score is NaN or infinite.
    """
    tasks = _tasks(scores, "scores")
    _check(confidence, n_resamples)
    point = float(statistic(tasks.reshape(-1), axis=-1))
    if (tasks == tasks[:, :1]).all():  # every resample is the sample itself; BCa would answer NaN
        return Interval(point, point, point, confidence)

    def pooled(*columns: np.ndarray, axis: int = -1) -> Any:
        return statistic(np.concatenate(columns, axis=axis), axis=axis)

    low, high = _bootstrap(tuple(tasks), pooled, confidence, n_resamples, rng, method)
    return Interval(point, low, high, confidence)


def probability_of_improvement(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    rng: np.random.Generator | None = None,
) -> Interval:
    """Probability that a run of ``x`` scores higher than a run of ``y``, ties counted half, averaged over tasks.

    Mann-Whitney's U / (n·m) with a stratified percentile bootstrap interval. ½ means no difference.

    Args:
        x: shape ``(run,)`` or ``(run, task)``.
        y: the same number of tasks; the number of runs may differ.
        confidence: as in `stratified_bootstrap`.
        n_resamples: as in `stratified_bootstrap`.
        rng: as in `stratified_bootstrap`.

    Raises:
        DataError: fewer than two runs on a side, or different numbers of tasks.
        NonFiniteDataError: a score is NaN or infinite.
    """
    x_tasks, y_tasks = _tasks(x, "x"), _tasks(y, "y")
    if len(x_tasks) != len(y_tasks):
        raise DataError(
            "the same tasks on both sides",
            f"{len(x_tasks)} and {len(y_tasks)} tasks",
            "give scores of shape (run,) or (run, task) with equal numbers of tasks",
        )
    _check(confidence, n_resamples)
    n_tasks = len(x_tasks)

    def probability(*columns: np.ndarray, axis: int = -1) -> Any:
        pairs = zip(columns[:n_tasks], columns[n_tasks:], strict=True)
        return np.mean([_mann_whitney(a, b) for a, b in pairs], axis=0)

    point = float(probability(*x_tasks, *y_tasks))
    if (x_tasks == x_tasks[:, :1]).all() and (y_tasks == y_tasks[:, :1]).all():
        return Interval(point, point, point, confidence)
    low, high = _bootstrap((*x_tasks, *y_tasks), probability, confidence, n_resamples, rng, "percentile")
    return Interval(point, low, high, confidence)


def permutation_test(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    alternative: Alternative = "greater",
    n_resamples: int = 9999,
    rng: np.random.Generator | None = None,
) -> PermutationTest:
    """Test of the difference in means: how often does shuffling the labels give a difference as large?

    Exact when there are no more than ``n_resamples`` distinct regroupings, else sampled.

    Args:
        x: shape ``(run,)``.
        y: shape ``(run,)``; the number of runs may differ.
        alternative: "greater" asks whether ``x`` has the larger mean.
        n_resamples: shuffles; the smallest sampled p-value is ``1 / (n_resamples + 1)``.
        rng: None uses a generator seeded with 0.

    Raises:
        DataError: fewer than two scores on a side.
        NonFiniteDataError: a score is NaN or infinite.
    """
    from scipy import stats

    (xs,), (ys,) = _one_task(x, "x"), _one_task(y, "y")

    def difference(a: np.ndarray, b: np.ndarray, axis: int = -1) -> Any:
        return np.mean(a, axis=axis) - np.mean(b, axis=axis)

    result = stats.permutation_test(
        (xs, ys),
        difference,
        vectorized=True,
        n_resamples=n_resamples,
        batch=max(1, _BLOCK // (len(xs) + len(ys))),
        alternative=alternative,
        rng=_generator(rng),
    )
    return PermutationTest(float(result.statistic), float(result.pvalue))


def _mann_whitney(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """U / (n·m) along the last axis, from midranks."""
    from scipy import stats

    n, m = a.shape[-1], b.shape[-1]
    ranks = stats.rankdata(np.concatenate([a, b], axis=-1), axis=-1)
    return np.asarray((ranks[..., :n].sum(axis=-1) - n * (n + 1) / 2) / (n * m))


def _bootstrap(
    samples: tuple[np.ndarray, ...],
    statistic: Callable[..., Any],
    confidence: float,
    n_resamples: int,
    rng: np.random.Generator | None,
    method: Method,
) -> tuple[float, float]:
    from scipy import stats

    result = stats.bootstrap(
        samples,  # SciPy resamples each sample on its own: one sample a task is the stratified bootstrap
        statistic,
        vectorized=True,
        n_resamples=n_resamples,
        batch=max(1, _BLOCK // sum(len(sample) for sample in samples)),
        confidence_level=confidence,
        method=method,
        rng=_generator(rng),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _generator(rng: np.random.Generator | None) -> np.random.Generator:
    return np.random.default_rng(0) if rng is None else rng


def _tasks(scores: npt.ArrayLike, name: str) -> np.ndarray:
    """Float64 scores of shape (task, run), checked."""
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim not in (1, 2):
        raise DataError(
            f"{name} of shape (run,) or (run, task)", f"shape {array.shape}", "pool or split the other axes"
        )
    tasks = np.atleast_2d(array.T)
    if tasks.shape[0] == 0 or tasks.shape[1] < 2:
        raise DataError(
            f"at least two runs in {name}", f"shape {array.shape}", "run more seeds or more episodes: one has no spread"
        )
    if not np.isfinite(tasks).all():
        raise NonFiniteDataError(
            f"finite {name}",
            f"{int((~np.isfinite(tasks)).sum())} NaN or infinite values",
            "find the run they came from; leaving them out would bias the statistic",
        )
    return tasks


def _one_task(scores: npt.ArrayLike, name: str) -> np.ndarray:
    tasks = _tasks(scores, name)
    if len(tasks) != 1:
        raise DataError(f"{name} of shape (run,)", f"{len(tasks)} tasks", "test one task at a time")
    return tasks


def _check(confidence: float, n_resamples: int) -> None:
    if not (math.isfinite(confidence) and 0 < confidence < 1):
        raise ConfigError("confidence between 0 and 1", repr(confidence), "write 0.95 for 95 %")
    if n_resamples < 1:
        raise ConfigError("n_resamples of at least 1", repr(n_resamples), "use 2000, the default")
