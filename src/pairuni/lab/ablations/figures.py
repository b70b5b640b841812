"""Figures of ablations: differences with intervals, and scatter plots of gains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pairuni.lab.ablations.compare import ArmRow
from pairuni.lab.ablations.intervals import Estimate
from pairuni.pages.chart_style import LINES, PALE, error_ends, figure_file

_MARKS = "osD^v<>P"


@dataclass(frozen=True)
class Point:
    """A point of a scatter plot; x may have an interval too."""

    x: float
    label: str
    y: Estimate
    x_low: float | None = None
    x_high: float | None = None


def forest(rows: Sequence[ArmRow], path: Path) -> None:
    """Draws each arm's difference from its reference with its 95 % interval and its seeds, a panel per benchmark."""
    rows = [row for row in rows if any(cell.difference for cell in row.cells.values())]
    names = list(dict.fromkeys(name for row in rows for name, cell in row.cells.items() if cell.difference))
    if not rows:
        return
    with figure_file(path, 2.2 + 2.9 * len(names), 1.1 + 0.36 * len(rows)) as figure:
        panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
        for axes, name in zip(panels, names, strict=True):
            found = {n: row.cells[name].difference for n, row in enumerate(rows) if name in row.cells}
            for n, estimate in found.items():
                if estimate is not None:
                    axes.plot(estimate.seeds, [n] * len(estimate.seeds), "|", color=PALE, ms=9, zorder=1)
                    _errorbar(axes, (estimate.mean, n), estimate, vertical=False)
            axes.axvline(0, color=PALE, linewidth=0.8, zorder=0)
            axes.set_title(name, fontsize=9)
            axes.set_xlabel("difference, 95 % interval")
        panels[0].set_yticks(range(len(rows)), [row.label for row in rows])
        panels[0].invert_yaxis()


def scatter(panels: Mapping[str, Sequence[Point]], x_label: str, y_label: str, path: Path) -> None:
    """Draws points with intervals, a panel per benchmark; each label has its colour and mark."""
    with figure_file(path, 3.6 * len(panels), 3.8) as figure:
        for axes, (name, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            for n, point in enumerate(points):
                ends = error_ends(point.x, point.x_low, point.x_high)
                axes.errorbar([point.x], [point.y.mean], xerr=ends, fmt="none", ecolor=f"C{n % 10}", alpha=0.5)
                look = {"color": f"C{n % 10}", "marker": _MARKS[n % len(_MARKS)], "label": point.label}
                _errorbar(axes, (point.x, point.y.mean), point.y, vertical=True, **look)
            axes.axhline(0, color=PALE, linewidth=0.8, zorder=0)
            axes.set_title(name, fontsize=9)
            axes.set_xlabel(x_label)
            axes.margins(x=0.15)
            axes.xaxis.set_major_locator(MaxNLocator(4))
        figure.axes[0].set_ylabel(y_label)
        shown = figure.axes[0].get_legend_handles_labels()
        figure.legend(*shown, loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def _errorbar(
    axes: Axes, place: tuple[float, float], estimate: Estimate, vertical: bool, color: str = LINES[0], **more: Any
) -> None:
    ends = error_ends(estimate.mean, estimate.low, estimate.high)
    look: dict[str, Any] = {"yerr" if vertical else "xerr": ends, "capsize": 2, "linewidth": 1.2, "marker": "o", **more}
    axes.errorbar([place[0]], [place[1]], linestyle="none", ms=5, color=color, zorder=2, **look)
