"""The report's pictures as inline SVG, coloured by the page so that they read well in light and dark."""

from __future__ import annotations

import dataclasses
import functools
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from understudy.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that matplotlib draws with and nobody else uses; `_to_svg` turns each into a variable of the page's style.
_INK = "#010201"
_MUTED = "#010202"
_GRID = "#010203"
_SERIES = {
    "random": "#010211",
    "expert": "#010212",
    "demonstrations": "#010212",
    "clone": "#010213",
    "policy": "#010213",
}
_ACCENT = "#010213"
_OTHER = "#010214"
_SECOND = "#010212"
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _GRID: "var(--line)",
    "#010211": "var(--random)",
    "#010212": "var(--expert)",
    "#010213": "var(--clone)",
    _OTHER: "var(--other)",
}
_STYLE: Any = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _GRID,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "text.color": _INK,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "legend.frameon": False,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
}
WIDE = 9.6  # inches over the whole width of the page
NARROW = 4.3  # inches over the width of a phone: text is as large as in the wide picture then
_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclasses.dataclass(frozen=True)
class Picture:
    """``svg`` is markup to place as it is; the texts are still to be escaped."""

    title: str
    caption: str
    svg: str
    wide: bool = True
    narrow_svg: str = ""
    """The same drawn for a phone, where ``svg`` would be too small to read."""


def _styled(draw: Callable[_P, _R]) -> Callable[_P, _R]:
    """Draw in this page's style, whatever style the process has set.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """

    @functools.wraps(draw)
    def styled(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            import matplotlib as mpl
        except ImportError as error:
            raise MissingExtraError("matplotlib", "plots") from error
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_STYLE)
            return draw(*args, **kwargs)

    return styled


@_styled
def learning_curves(
    metrics: Sequence[Mapping[str, Any]], panels: Sequence[tuple[str, Sequence[str]]], width: float = WIDE
) -> str | None:
    """One panel a quantity over steps; a panel's first key is drawn in the clone's colour, the second beside it.

    Panels without two logged points are left out; None when nothing is left.
    """
    drawn = [(title, [(key, *_series(metrics, key)) for key in keys]) for title, keys in panels]
    drawn = [(title, [line for line in lines if len(line[1]) > 1]) for title, lines in drawn]
    drawn = [(title, lines) for title, lines in drawn if lines]
    if not drawn:
        return None
    side_by_side = width > NARROW
    figure, axes = _figure(width, 2.7 if side_by_side else 2.4 * len(drawn), len(drawn), side_by_side=side_by_side)
    for axis, (title, lines) in zip(axes, drawn, strict=True):
        for (key, steps, values), colour in zip(lines, (_ACCENT, _SECOND), strict=False):
            label = "held-out episodes" if "validation" in key else "training"
            axis.plot(steps, values, color=colour, label=label, marker="o" if len(steps) < 25 else "", markersize=3)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.margins(x=0.02, y=0.12)
        if len(lines) > 1:
            axis.legend(labelcolor=_MUTED)
    return _to_svg(figure, "learning curves")


@_styled
def return_strips(
    returns: Mapping[str, Sequence[float]],
    intervals: Mapping[str, tuple[float, float, float]],
    width: float = WIDE,
) -> str:
    """Every episode as a dot, a row a policy, with the IQM and its interval (point, low, high) on top."""
    rows = list(returns)
    figure, (axis,) = _figure(width, 0.75 + 0.72 * len(rows))
    rng = np.random.default_rng(0)
    for y, name in enumerate(rows):
        colour = _SERIES.get(name, _OTHER)
        values = np.asarray(returns[name], dtype=float)
        axis.scatter(
            values, y + rng.uniform(-0.24, 0.24, len(values)), s=15, color=colour, alpha=0.38, linewidths=0, zorder=2
        )
        point, low, high = intervals[name]
        axis.plot([low, high], [y, y], color=colour, linewidth=5, zorder=3)
        axis.plot([point], [y], "o", color=colour, markersize=9, markeredgecolor=_INK, markeredgewidth=1.2, zorder=4)
    axis.set_yticks(range(len(rows)), rows, fontsize=11 if width > NARROW else 9.5)
    axis.tick_params(axis="y", labelcolor=_INK, pad=10 if width > NARROW else 4)
    axis.set_ylim(len(rows) - 0.45, -0.55)
    axis.grid(visible=False, axis="y")
    axis.grid(visible=True, axis="x")
    axis.margins(x=0.04)
    axis.set_xlabel("return of an episode")
    return _to_svg(figure, "return of every episode, by policy")


@_styled
def returns_by_round(curve: Mapping[str, Sequence[Any]], level: float | None, width: float = WIDE) -> str:
    """Returns over steps labelled; ``curve`` holds steps, point, low, high, and the mixture's returns."""
    figure, (axis,) = _figure(width, 2.9)
    steps, point, low, high, mixture = (
        np.asarray(curve[key], dtype=float) for key in ("steps", "point", "low", "high", "mixture")
    )
    axis.fill_between(steps, low, high, color=_ACCENT, alpha=0.18, linewidth=0)
    axis.plot(steps, point, color=_ACCENT, marker="o", markersize=4, label="clone")
    axis.plot(steps, mixture, color=_MUTED, marker="x", linestyle="", label="mixture that acted")
    if level is not None:
        axis.axhline(level, color=_SECOND, linestyle="--", linewidth=1.2, label="expert")
    axis.set_xlabel("steps labelled by the expert")
    axis.set_title("return of an episode")
    axis.margins(x=0.02, y=0.12)
    axis.legend(labelcolor=_MUTED)
    return _to_svg(figure, "returns by round")


@_styled
def error_by_step(curve: Mapping[str, Sequence[float | None]], unit: str, width: float = WIDE) -> str:
    """The mean error with its band; ``curve`` holds steps, mean, low and high."""
    figure, (axis,) = _figure(width, 2.7)
    steps, mean, low, high = (np.asarray(curve[key], dtype=float) for key in ("steps", "mean", "low", "high"))
    axis.fill_between(steps, low, high, color=_ACCENT, alpha=0.18, linewidth=0)
    axis.plot(steps, mean, color=_ACCENT)
    axis.set_xlabel("time step of the episode")
    axis.set_title(unit)
    finite = high[np.isfinite(high)]
    axis.set_ylim(0, max(float(finite.max()) * 1.15 if finite.size else 0.0, 0.02 if "share" in unit else 1e-6))
    axis.margins(x=0.01)
    return _to_svg(figure, "action error by time step")


@_styled
def confusion(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Rows: what was recorded; columns: what the clone would do; shade: share of the row."""
    table = np.asarray(counts, dtype=float)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    n = len(labels)
    size = min(4.6, 2.0 + 0.62 * n)
    figure, (axis,) = _figure(size + 0.5, size)
    for row in range(n):
        for column in range(n):
            share = shares[row, column]
            colour = _SERIES["expert"] if row == column else _ACCENT
            axis.add_patch(_rectangle((column - 0.47, row - 0.47), 0.94, 0.94, colour, 0.06 + 0.4 * share))
            if n <= 12:
                text = f"{100 * share:.1f} %" if n <= 6 else f"{100 * share:.0f}"
                axis.text(column, row, text, ha="center", va="center", fontsize=10 if n <= 6 else 8)
                if n <= 4:
                    count = f"{int(table[row, column]):,}".replace(",", "\u202f")
                    axis.text(column, row + 0.24, count, ha="center", va="center", fontsize=8)
    axis.set_xlim(-0.5, n - 0.5)
    axis.set_ylim(n - 0.5, -0.5)
    axis.set_aspect("equal")
    ticks = range(0, n, max(1, n // 12))
    axis.set_xticks(ticks, [labels[i] for i in ticks])
    axis.set_yticks(ticks, [labels[i] for i in ticks])
    axis.tick_params(length=0)
    axis.grid(visible=False)
    axis.spines["bottom"].set_visible(False)
    axis.set_xlabel("clone")
    axis.set_ylabel("recorded")
    return _to_svg(figure, "recorded actions and the clone's")


@_styled
def scatter(recorded: Sequence[Sequence[float]], predicted: Sequence[Sequence[float]], n_panels: int = 4) -> str:
    """Recorded against predicted action, a panel a component (the first few)."""
    x, y = np.asarray(recorded, dtype=float), np.asarray(predicted, dtype=float)
    n_panels = min(n_panels, x.shape[1])
    figure, axes = _figure(min(WIDE, 4.2 * n_panels), 3.9 if n_panels == 1 else WIDE / n_panels, n_panels)
    for i, axis in enumerate(axes):
        low, high = float(min(x[:, i].min(), y[:, i].min())), float(max(x[:, i].max(), y[:, i].max()))
        axis.plot([low, high], [low, high], color=_MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axis.scatter(x[:, i], y[:, i], s=8, color=_ACCENT, alpha=0.3, linewidths=0)
        axis.grid(visible=True, axis="x")
        axis.set_aspect("equal", adjustable="datalim")
        axis.set_xlabel("recorded")
        axis.set_ylabel("clone" if i == 0 else "")
        if n_panels > 1:
            axis.set_title(f"component {i}")
    return _to_svg(figure, "recorded actions and the clone's")


def _series(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    points = [(line.get("bc/batch", line["step"]), line[key]) for line in metrics if line.get(key) is not None]
    return [step for step, _ in points], [value for _, value in points]


def _rectangle(corner: tuple[float, float], width: float, height: float, colour: str, alpha: float) -> Any:
    from matplotlib.patches import FancyBboxPatch

    return FancyBboxPatch(
        corner, width, height, boxstyle="round,pad=0,rounding_size=0.06", facecolor=colour, alpha=alpha, linewidth=0
    )


def _figure(width: float, height: float, n_panels: int = 1, *, side_by_side: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure of its own: pyplot would keep state between reports."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    rows, columns = (1, n_panels) if side_by_side else (n_panels, 1)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _to_svg(figure: Figure, label: str) -> str:
    import matplotlib as mpl

    buffer = io.StringIO()
    mpl.rcParams["svg.hashsalt"] = label  # ids that repeat: the same run gives the same page
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns:xlink="[^"]*"| xmlns="[^"]*"| version="1.1"', "", svg).replace("xlink:href", "href")
    prefix = re.sub(r"\W+", "-", label) + (
        "-narrow" if figure.get_figwidth() == NARROW else ""
    )  # several pictures share one page: their ids must not meet
    svg = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1{prefix}-", svg)
    width = float(figure.get_figwidth()) / WIDE * 100
    svg = re.sub(
        r'<svg width="[^"]*" height="[^"]*"',
        f'<svg role="img" aria-label="{html.escape(label)}" style="width:{width:.0f}%"',
        svg,
        count=1,
    )
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg.strip()
