"""Returns of several policies as one table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.evaluation.statistics import Interval, iqm, stratified_bootstrap

if TYPE_CHECKING:
    from rich.console import Console

MANY_EPISODES = 10


@dataclasses.dataclass(frozen=True)
class Summary:
    """One row: a policy's returns over its episodes."""

    name: str
    iqm: Interval
    """Interquartile mean with its 95 % bootstrap interval over episodes; NaN ends for a single episode."""
    mean: float
    std: float
    low: float
    high: float
    episodes: int
    mean_length: float
    """In steps."""


def summarise(name: str, returns: Any, lengths: Any) -> Summary:
    """Summarise finite returns of shape (episode,)."""
    returns, lengths = np.asarray(returns, dtype=np.float64), np.asarray(lengths)
    if len(returns) < 2:
        interval = Interval(float(iqm(returns)), math.nan, math.nan)
    else:
        interval = stratified_bootstrap(returns)
    return Summary(
        name=name,
        iqm=interval,
        mean=float(returns.mean()),
        std=float(returns.std()),
        low=float(returns.min()),
        high=float(returns.max()),
        episodes=len(returns),
        mean_length=float(lengths.mean()),
    )


def summarise_all(returns: Mapping[str, Mapping[str, Any]]) -> list[Summary]:
    """One row a policy from ``results.json``'s ``returns``."""
    return [summarise(name, row["returns"], row["lengths"]) for name, row in returns.items()]


def few_episodes(rows: Sequence[Summary]) -> list[str]:
    """A warning, if there is a row whose interval claims too much."""
    few = [f"{row.name}: {row.episodes}" for row in rows if row.episodes < MANY_EPISODES]
    if not few:
        return []
    return [
        f"Fewer than {MANY_EPISODES} episodes ({', '.join(few)}): intervals from so few are too narrow to trust; 100 "
        "give useful ones."
    ]


def counted(n: int, noun: str) -> str:
    """``1 epoch``, ``2 epochs``."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def number(value: float) -> str:
    """Short and without surprises: 500, 497.3, 0.0142, −1 432."""
    if not math.isfinite(value):
        return "–"
    if value == 0 or abs(value) >= 1000:
        text = f"{value:,.0f}".replace(",", "\u202f")
    elif abs(value) >= 10:
        text = f"{value:.1f}".removesuffix(".0")
    else:
        text = f"{value:.3g}"
    return text.replace("-", "−")


def interval_text(interval: Interval) -> str:
    """The ends of an interval, or why there are none."""
    if not math.isfinite(interval.low):
        return "needs 2 episodes"
    return f"{number(interval.low)} … {number(interval.high)}"


def print_table(rows: list[Summary], console: Console, title: str) -> None:
    """Print the table that every verb ends with."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim")
    table.add_column("policy", overflow="fold")
    table.add_column("IQM", justify="right", style="bold", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    table.add_column("mean ± std", justify="right", no_wrap=True)
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("episodes", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.name,
            number(row.iqm.point),
            interval_text(row.iqm),
            f"{number(row.mean)} ± {number(row.std)}",
            number(row.mean_length),
            str(row.episodes),
        )
    console.print(table)
