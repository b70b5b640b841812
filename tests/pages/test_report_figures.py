"""Curves: smoothing, what is drawn of incomplete metrics, colours of both themes, hostile labels."""

import base64
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from report_files import metric_row, write_lines

from pairuni.pages import run_charts as figures
from pairuni.pages.run_charts import Chart, run_charts, smooth, window_for
from pairuni.pages.run_files import Metrics, read_input


def svg(uri: str) -> str:
    head, data = uri.split(",")
    assert head == "data:image/svg+xml;base64"
    return base64.b64decode(data).decode("utf-8")


def texts(chart: Chart) -> set[str]:
    return {(e.text or "").strip() for e in ElementTree.fromstring(svg(chart.light)).iter() if e.tag.endswith("}text")}


def test_smoothing_is_a_centred_mean_with_shorter_ends() -> None:
    values = np.random.default_rng(0).normal(size=30)
    for window in (1, 3, 9):
        half = window // 2
        brute = [np.mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
        assert np.allclose(smooth(values, window), brute)
    assert np.allclose(smooth(np.array([1.0, 3.0]), 9), [2.0, 2.0])
    assert window_for(39) == 1 and window_for(1000) == 51 and all(window_for(n) % 2 for n in range(2000))


def metrics_of(tmp_path: Path, rows: list[dict]) -> Metrics:
    write_lines(tmp_path / "run/metrics.jsonl", rows)
    run = read_input(tmp_path / "run")
    assert not hasattr(run, "entries") and run.metrics is not None  # type: ignore[union-attr]
    return run.metrics  # type: ignore[union-attr]


def test_all_panels_of_a_full_run_and_their_descriptions(tmp_path: Path) -> None:
    charts, missing = run_charts(metrics_of(tmp_path, [metric_row(s) for s in range(1, 31)]), None)
    assert missing == [] and len(charts) == 9
    by_title = {chart.title: chart for chart in charts}
    assert by_title["Reward, understanding"].alt == "understanding from 0.21 at step 1 to 0.5 at step 30."
    assert by_title["Seconds per step"].alt == "Means: rollout 1.5 s, reward 0.25 s, update 1 s."
    assert {"rollout", "reward", "update", "step"} <= texts(by_title["Seconds per step"])
    for chart in charts:
        light, dark = svg(chart.light), svg(chart.dark)
        ElementTree.fromstring(dark)
        assert light != dark and "#4a4f57" in light and "#4a4f57" not in dark and "#c3c8cf" in dark


def test_a_logarithmic_axis_has_plain_numbers_and_needs_positive_values(tmp_path: Path) -> None:
    for first, ticks in ((1e-4, {"1e−06", "1e−04"}), (0.0, {"0"})):
        gaps = [{"logp_gap_max/understanding": 1e-6, "logp_gap_max/generation": value} for value in (first, 2e-6)]
        rows = [{"step": n, **row} for n, row in enumerate(gaps)]
        charts, _ = run_charts(metrics_of(tmp_path, rows), None)
        assert [chart.title for chart in charts] == ["Log-prob gap"]
        shown = texts(charts[0])
        assert ticks <= shown and not any("$" in text for text in shown)


def test_nulls_and_missing_keys_leave_gaps_not_crashes(tmp_path: Path) -> None:
    rows = [metric_row(s) for s in range(1, 11)]
    for row in rows:
        del row["tokens_per_second/generation"]
        row["clip_fraction/understanding"] = row["clip_fraction/generation"] = None
    rows[4]["grad_norm"] = None
    rows[0]["seconds/update"] = None
    metrics = metrics_of(tmp_path, rows)
    charts, missing = run_charts(metrics, None)
    assert missing == ["clip_fraction/understanding", "clip_fraction/generation", "tokens_per_second/generation"]
    assert "Clip fraction" not in {chart.title for chart in charts} and len(charts) == 8
    assert metrics.ends("grad_norm") == (2.0, 2.0) and metrics.ends("clip_fraction/generation") is None
    assert np.isnan(metrics.columns["grad_norm"][4]) and np.isnan(metrics.columns["seconds/update"][0])


@pytest.mark.parametrize("number", [2, 3, 4, 6])
def test_legends_are_whole_and_no_factor_stands_on_them(number: int) -> None:
    """Every entry lies inside the figure; small values are written out, not as a factor above the axis."""
    names = [f"shapes_understanding_{n}" for n in range(number)]
    drawn: list[Figure] = []

    class Kept(Figure):
        def savefig(self, *args: Any, **kwargs: Any) -> None:
            drawn.append(self)
            super().savefig(*args, **kwargs)

    values = {name: np.array([1e-5, 2e-5]) for name in names}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "Figure", Kept)
        charts, _ = run_charts(Metrics(np.array([1]), {}), Metrics(np.array([1, 2]), values))
    assert set(names) <= texts(charts[0])
    axes = drawn[0].axes[0]
    box, whole = axes.get_legend().get_window_extent(), drawn[0].bbox
    assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and box.y1 <= whole.y1
    assert axes.yaxis.get_offset_text().get_text() == ""


def test_stacked_seconds_without_a_whole_step(tmp_path: Path) -> None:
    rows = [{"step": 1, "seconds/rollout": 1.0}, {"step": 2, "seconds/reward": 1.0}]
    charts, _ = run_charts(metrics_of(tmp_path, rows), None)
    assert [chart.alt for chart in charts] == ["No step has all of them."]


def test_scores_while_training_come_from_the_history_or_the_metrics(tmp_path: Path) -> None:
    rows = [{"step": 1}, {"step": 2, "eval/shapes": 41.5}]
    write_lines(tmp_path / "run/metrics.jsonl", rows)
    for history, alt in ((False, "shapes from 41.5 at step 2"), (True, "shapes from 30 at step 0 to 41.5 at step 2")):
        if history:
            history_rows = [{"step": 0, "shapes": 30.0}, {"step": 2, "shapes": 41.5}]
            write_lines(tmp_path / "run/eval_history.jsonl", history_rows)
        run = read_input(tmp_path / "run")
        charts, _ = run_charts(run.metrics, run.scores)  # type: ignore[union-attr, arg-type]
        assert charts[0].title == "Evaluation while training" and charts[0].alt.startswith(alt)


def test_names_with_markup_and_dollars_are_only_text() -> None:
    names = ["<script>$\\frac{$", "a & b"]
    metrics = Metrics(np.array([1, 2]), {name: np.array([1.0, 2.0]) for name in names})
    charts, _ = run_charts(Metrics(np.array([1]), {}), metrics)
    assert len(charts) == 1 and set(names) <= texts(charts[0])


def test_global_settings_of_matplotlib_stay_as_they_were() -> None:
    before = dict(matplotlib.rcParams)
    charts, _ = run_charts(Metrics(np.array([1, 2]), {"grad_norm": np.array([1.0, 2.0])}), None)
    assert [chart.alt for chart in charts] == ["gradient norm from 1 at step 1 to 2 at step 2."]
    assert dict(matplotlib.rcParams) == before
