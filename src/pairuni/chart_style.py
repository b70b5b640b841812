"""How charts look: one set of matplotlib settings and colours, for use inside `matplotlib.rc_context(STYLE)`."""

from typing import Any

INK, GRID = "#4a4f57", "#dfe2e6"
LINES = ("#2f6db3", "#c05a1a", "#3b8556", "#8a55a8", "#a33f52", "#6b6b6b")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: smaller, and in the reader's own font
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
