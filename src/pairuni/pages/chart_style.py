"""The style of all charts: matplotlib's settings, colours, and how a figure becomes a file.

matplotlib is used through its objects: no pyplot and no global figure. The settings hold inside `styled()` alone.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from pairuni.files import atomic_path

INK, GRID, PALE = "#4a4f57", "#dfe2e6", "#c9cdd2"
LINES = ("#2f6db3", "#c05a1a", "#3b8556", "#8a55a8", "#a33f52", "#6b6b6b")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: smaller files, the reader's own font
    "svg.hashsalt": "pairuni",  # equal inputs give equal bytes
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.parse_math": False,  # names are the user's: a dollar sign in one is no formula
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
}


def styled() -> AbstractContextManager[None]:
    """Figures that are made and written inside the block have the style."""
    return matplotlib.rc_context(STYLE)


@contextmanager
def figure_file(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yields an empty figure (sizes in inches) and writes it to `path` as SVG or PNG when the block ends.

    Equal figures give equal bytes.
    """
    kind = path.suffix[1:]
    options: dict[str, Any] = {"metadata": {"Date": None}} if kind == "svg" else {"metadata": {"Software": None}}
    with styled():
        figure = Figure(figsize=(width, height), dpi=100 if kind == "svg" else 150, layout="constrained")
        yield figure
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, **options)


def error_ends(value: float | None, low: float | None, high: float | None) -> list[list[float]] | None:
    """An interval as `Axes.errorbar` takes it; None without finite ends."""
    if value is None or low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return None
    return [[max(0.0, value - low)], [max(0.0, high - value)]]
