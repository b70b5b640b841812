"""Curves of a run as SVG data URIs, each in a light and a dark version.

Each chart is drawn once; its dark version is the same drawing with other colours.
"""

import io
import math
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from pairuni.pages.chart_style import GRID, INK, LINES, styled
from pairuni.pages.run_files import Metrics
from pairuni.types import Side

_DARK = {
    INK: "#c3c8cf",
    GRID: "#343a42",
    **dict(zip(LINES, ("#7fb2ea", "#ee9a5f", "#7fc799", "#c79be0", "#e58796", "#adadad"), strict=True)),
}
_WIDTH = 5.4  # inches
_FEW = 40  # up to this many points are drawn with markers


@dataclass(frozen=True)
class Chart:
    """A drawing; `light` and `dark` are data URIs."""

    title: str
    note: str
    light: str
    dark: str
    alt: str


@dataclass(frozen=True)
class Panel:
    """A chart: `keys` maps labels to columns of the metrics. `log` applies if all values are positive."""

    title: str
    note: str
    keys: Mapping[str, str]
    log: bool = False
    stacked: bool = False


def _both(name: str) -> dict[str, str]:
    return {str(side): f"{name}/{side}" for side in Side}


PANELS = (
    Panel("Reward, understanding", "Mean over all rollouts.", {"understanding": "reward_mean/understanding"}),
    Panel("Reward, generation", "Mean over all rollouts.", {"generation": "reward_mean/generation"}),
    Panel(
        "Groups without variance",
        "Share of groups whose rollouts all have the same reward: they have no gradient.",
        _both("zero_std_fraction"),
    ),
    Panel("Gradient norm", "Before clipping.", {"gradient norm": "grad_norm"}),
    Panel(
        "Log-prob gap",
        "Largest |scored - recorded while sampling| before the first update; should be rounding only.",
        _both("logp_gap_max"),
        log=True,
    ),
    Panel(
        "Clip fraction",
        "Share of actions whose ratio was clipped.",
        _both("clip_fraction"),
    ),
    Panel(
        "Behaviour gap",
        "Mean |log p guided - log p conditional|: how far guidance makes sampling off-policy.",
        _both("behaviour_gap"),
    ),
    Panel("Tokens per second", "Sampled, while sampling.", _both("tokens_per_second")),
    Panel(
        "Seconds per step",
        "Stacked.",
        {name: f"seconds/{name}" for name in ("rollout", "reward", "update")},
        stacked=True,
    ),
)


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred mean over `window` (odd) neighbours, fewer at the ends [S] -> [S]."""
    kernel, pad = np.ones(window), window // 2
    total = np.convolve(np.pad(values, pad), kernel, "valid")
    return total / np.convolve(np.pad(np.ones(len(values)), pad), kernel, "valid")


def window_for(steps: int) -> int:
    """Odd smoothing window: about a twentieth of the steps, 1 (no smoothing) for short runs."""
    return 1 if steps < _FEW else 2 * (steps // 40) + 1


def run_charts(metrics: Metrics, scores: Metrics | None) -> tuple[list[Chart], list[str]]:
    """Returns the charts of a run and the keys of PANELS that its metrics lack."""
    charts = []
    if scores is not None and scores.columns:
        keys = {name: name for name in scores.columns}
        charts.append(_chart(Panel("Evaluation while training", "Scores in each benchmark's unit.", keys), scores, 1))
    window = window_for(len(metrics.steps))
    missing = []
    for panel in PANELS:
        there = {label: key for label, key in panel.keys.items() if metrics.column(key) is not None}
        missing += [key for label, key in panel.keys.items() if label not in there]
        if there:
            charts.append(_chart(replace(panel, keys=there), metrics, window))
    return charts, missing


def _chart(panel: Panel, metrics: Metrics, window: int) -> Chart:
    with styled():
        # The labels that fit in a row of the legend, at most three; letters are about 0.075 inches wide.
        longest = max(map(len, panel.keys))
        columns = max(1, min(3, len(panel.keys), int(_WIDTH / (0.075 * longest + 0.4))))
        extra = 0.2 * (math.ceil(len(panel.keys) / columns) - 1)
        height = 2.7 + extra
        figure = Figure(figsize=(_WIDTH, height))
        # Fixed margins, because a layout by measured text doubles the time of a page.
        edges = {"left": 0.12, "right": 0.98, "bottom": 0.46 / height, "top": 1 - (0.32 + extra) / height}
        axes = figure.subplots(gridspec_kw=edges)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # the default one writes a factor over the legend
        axes.grid(axis="y", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        alt = _stack(axes, panel, metrics) if panel.stacked else _lines(axes, panel, metrics, window)
        if len(panel.keys) > 1 and axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, frameon=False, handlelength=1.2)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    light = dark = buffer.getvalue()
    for colour, other in _DARK.items():
        dark = dark.replace(colour, other)
    note = panel.note if window == 1 or panel.stacked else f"{panel.note} Strong line: mean over {window} steps."
    return Chart(panel.title, note, _uri(light), _uri(dark), alt)


def _lines(axes: Axes, panel: Panel, metrics: Metrics, window: int) -> str:
    """Draws each column, faint if a smoothed line covers it. Returns a description."""
    said = []
    for n, (label, key) in enumerate(panel.keys.items()):
        known = np.isfinite(metrics.columns[key])
        steps, values = metrics.steps[known], metrics.columns[key][known]
        # A side has the same colour in all charts.
        colour = LINES[1] if label == Side.GENERATION else LINES[n % len(LINES)]
        line = smooth(values, window)
        if window > 1:
            axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.3)
        marker = "o" if len(values) <= _FEW else None
        axes.plot(steps, line, color=colour, linewidth=1.6, marker=marker, markersize=3, label=label)
        said.append(f"{label} from {line[0]:.4g} at step {steps[0]} to {line[-1]:.4g} at step {steps[-1]}")
    drawn = np.concatenate([metrics.columns[key] for key in panel.keys.values()])
    if panel.log and np.nanmin(drawn) > 0 and np.nanmin(drawn) < np.nanmax(drawn):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.0e}"))  # the default one writes formulas
        axes.yaxis.set_minor_formatter(NullFormatter())
    return "; ".join(said) + "."


def _stack(axes: Axes, panel: Panel, metrics: Metrics) -> str:
    """Stacks the columns, at the steps that have all of them. Returns a description."""
    columns = np.stack([metrics.columns[key] for key in panel.keys.values()])
    whole = np.isfinite(columns).all(axis=0)
    columns = columns[:, whole]
    if not whole.any():
        return "No step has all of them."
    axes.stackplot(metrics.steps[whole], columns, colors=LINES, labels=list(panel.keys), linewidth=0)
    means = ", ".join(f"{label} {mean:.3g} s" for label, mean in zip(panel.keys, columns.mean(axis=1), strict=True))
    return f"Means: {means}."


def _uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + b64encode(svg.encode("utf-8", "replace")).decode("ascii")
