"""Differences of evaluations: paired where items match, else from standard errors, and what is said about it."""

import json
from pathlib import Path

import numpy as np
import pytest
from report_files import random_scores, write_evaluation

from pairuni.config import EvalConfig
from pairuni.eval import load_benchmark
from pairuni.eval.base import Answer, summarise
from pairuni.eval.runner import write_eval
from pairuni.files import write_jsonl
from pairuni.report.compare import Entry, compare, paired_difference, unpaired_difference
from pairuni.report.data import read_evaluation


def test_paired_difference_is_the_normal_interval_of_the_mean() -> None:
    before = {"a": 0.0, "b": 1.0, "c": 0.0, "d": 1.0, "x": 1.0}
    after = {"d": 1.0, "c": 1.0, "b": 1.0, "a": 1.0, "y": 0.0}
    got = paired_difference(before, after, 100.0)
    assert got is not None and got.low is not None and got.high is not None
    d = np.array([100.0, 0.0, 100.0, 0.0])  # a, b, c, d; x and y have no partner
    half = 1.95996 * d.std(ddof=1) / 2
    assert got.paired
    assert np.allclose((got.mean, got.low, got.high), (50, 50 - half, 50 + half), atol=1e-3)
    assert not got.clear


def test_pairing_drops_what_both_have_in_common() -> None:
    scores = random_scores(5, 0.5, 200)
    better = scores | dict.fromkeys(list(scores)[:20], 1.0)
    got = paired_difference(scores, better, 1.0)
    entries = [Entry(float(np.mean(list(s.values()))), "0-1", 200, stderr=0.0354) for s in (scores, better)]
    loose = unpaired_difference(entries[0], entries[1])
    assert got is not None and got.clear and not loose.clear
    assert np.isclose(got.mean, loose.mean)


def test_few_items() -> None:
    assert paired_difference({"a": 1.0}, {"b": 1.0}, 1.0) is None
    one = paired_difference({"a": 0.0}, {"a": 1.0}, 100.0)
    assert one is not None and (one.mean, one.low, one.high, one.clear) == (100.0, None, None, False)


def test_unpaired_interval_adds_variances() -> None:
    got = unpaired_difference(Entry(50.0, "per cent", 9, stderr=3.0), Entry(60.0, "per cent", 9, stderr=4.0))
    assert got.low is not None and np.isclose(got.low, 10 - 1.95996 * 5, atol=1e-3) and not got.paired
    assert unpaired_difference(Entry(1.0, "points", 9), Entry(2.0, "points", 9, stderr=1.0)).low is None


def test_files_of_the_evaluation_stage_pair(tmp_path: Path) -> None:
    config = EvalConfig()
    for name, rights in (("before", (1, 0, 0, 1)), ("after", (1, 1, 0, 1))):
        folder = tmp_path / name
        answers = [Answer(f"q{n}", "count", float(right), True, {"answer": "A"}) for n, right in enumerate(rights)]
        write_jsonl(folder / "answers_b.jsonl", [answer.to_json() for answer in answers])
        write_eval(folder, "model", config, {"b": summarise(answers, load_benchmark("shapes_understanding", config))})
    paths = [tmp_path / name / "eval.json" for name in ("before", "after")]
    row = compare(read_evaluation(paths[0]), read_evaluation(paths[1])).rows[0]
    assert row.difference is not None and row.difference.paired and row.difference.mean == 25.0
    assert row.notes == [] and row.parts[0].n == 4


def test_missing_answers_fall_back_to_the_standard_errors(tmp_path: Path) -> None:
    paths = [write_evaluation(tmp_path / n, {"b": random_scores(1, p)}) for n, p in (("x", 0.3), ("y", 0.8))]
    (tmp_path / "y/answers_b.jsonl").unlink()
    row = compare(read_evaluation(paths[0]), read_evaluation(paths[1])).rows[0]
    assert row.difference is not None and not row.difference.paired
    assert row.difference.mean == pytest.approx(row.after.score - row.before.score)
    assert "answers_b.jsonl is missing or empty" in row.notes[0]
    assert [p.difference.low for p in row.parts if p.difference] == [None, None]


def test_a_score_that_is_no_mean_of_items_is_not_paired(tmp_path: Path) -> None:
    paths = [write_evaluation(tmp_path / n, {"b": random_scores(1, p)}) for n, p in (("x", 0.3), ("y", 0.8))]
    raw = json.loads(paths[1].read_text())
    raw["benchmarks"]["b"]["score"] += 1.0
    paths[1].write_text(json.dumps(raw))
    row = compare(read_evaluation(paths[0]), read_evaluation(paths[1])).rows[0]
    assert row.difference is not None and not row.difference.paired and "is not the mean" in row.notes[0]


def test_items_of_one_side_only_are_counted(tmp_path: Path) -> None:
    scores = random_scores(1, 0.3)
    fewer = dict.fromkeys(list(scores)[3:], 1.0) | {"count/new": 1.0}
    paths = [write_evaluation(tmp_path / n, {"b": s}) for n, s in (("x", scores), ("y", fewer))]
    row = compare(read_evaluation(paths[0]), read_evaluation(paths[1])).rows[0]
    assert row.difference is not None and row.difference.paired
    assert row.difference.mean == pytest.approx(100 * np.mean([1 - v for v in list(scores.values())[3:]]))
    assert "over the 37 items" in row.notes[0] and "3 were answered only before, 1 only after" in row.notes[0]
    assert sum(part.n or 0 for part in row.parts) == 37


def test_no_common_items(tmp_path: Path) -> None:
    other = {f"{id}x": score for id, score in random_scores(1, 0.3).items()}
    paths = [write_evaluation(tmp_path / n, {"b": s}) for n, s in (("x", random_scores(1, 0.3)), ("y", other))]
    row = compare(read_evaluation(paths[0]), read_evaluation(paths[1])).rows[0]
    assert row.difference is not None and not row.difference.paired and "no item in common" in row.notes[0]


def test_other_units_and_protocols_are_named(tmp_path: Path) -> None:
    paths = [write_evaluation(tmp_path / u, {"b": random_scores(1, 0.5)}, unit=u) for u in ("per cent", "points")]
    raw = json.loads(paths[1].read_text())
    raw["benchmarks"]["b"]["protocol"] = "sampled"
    paths[1].write_text(json.dumps(raw))
    row = compare(read_evaluation(paths[0]), read_evaluation(paths[1])).rows[0]
    assert row.difference is None and all(part.difference is None for part in row.parts)
    assert row.notes[0] == "The protocols differ: greedy before, sampled after."
    assert "per cent before and points after" in row.notes[1]


def test_nothing_in_common(tmp_path: Path) -> None:
    paths = [write_evaluation(tmp_path / n, {n: random_scores(1, 0.5)}) for n in ("x", "y")]
    result = compare(read_evaluation(paths[0]), read_evaluation(paths[1]))
    assert result.rows == [] and len(result.notes) == 3 and "no benchmark in common" in result.notes[2]
