"""Differences of evaluations: paired where items match, else from standard errors, and what is said about it."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from report_files import random_scores, write_evaluation

from pairuni.config import EvalConfig
from pairuni.eval import load_benchmark
from pairuni.eval.base import Answer, summarise
from pairuni.eval.runner import write_eval
from pairuni.files import write_jsonl
from pairuni.pages.before_after import Entry, compare, paired_difference, unpaired_difference
from pairuni.pages.run_files import read_evaluation


def test_paired_difference_is_the_t_interval_of_the_mean() -> None:
    before = {f"i{n}": float(n % 2) for n in range(12)} | {"x": 1.0}
    after = {f"i{n}": float(n % 3 > 0) for n in range(12)} | {"y": 0.0}
    got = paired_difference(before, after, 100.0)
    assert got is not None and got.low is not None and got.high is not None and got.paired
    d = np.array([100 * ((n % 3 > 0) - n % 2) for n in range(12)])  # x and y have no partner
    half = 2.200985 * d.std(ddof=1) / 12**0.5  # Student's t, 11 degrees of freedom
    assert np.allclose((got.mean, got.low, got.high), (d.mean(), d.mean() - half, d.mean() + half), atol=1e-3)
    assert np.allclose((got.before, got.after), (50, 100 * 8 / 12))


def test_clusters_count_once() -> None:
    """Four images of each prompt that are all right or all wrong are as one image of each."""
    single = {f"p{n}": float(n % 3 > 0) for n in range(30)}
    four = {f"{id}/{k}": score for id, score in single.items() for k in range(4)}
    groups = {id: id.split("/")[0] for id in four}
    one = paired_difference(dict.fromkeys(single, 0.0), single, 1.0)
    many = paired_difference(dict.fromkeys(four, 0.0), four, 1.0, groups)
    assert one is not None and many is not None
    assert (many.mean, many.low, many.high) == pytest.approx((one.mean, one.low, one.high))
    apart = paired_difference(dict.fromkeys(four, 0.0), four, 1.0)
    assert apart is not None and apart.high is not None and one.high is not None and apart.high < one.high


@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize(("clusters", "runs"), [(10, 3000), (50, 1500), (500, 600)])
def test_intervals_cover_the_truth_in_95_of_100(clusters: int, images: int, runs: int) -> None:
    """Rates 0.5 and 0.6, correlation 0.5 within a prompt and between the two models."""
    rng = np.random.default_rng(clusters + images)
    truth = scipy.stats.norm.ppf([0.5, 0.6])
    groups = {f"{g}/{k}": str(g) for g in range(clusters) for k in range(images)}
    covered = given = 0
    for _ in range(runs):
        common = rng.normal(size=(1, clusters, 1))
        drawn = (0.5**0.5 * (common + rng.normal(size=(2, clusters, images)))).reshape(2, -1)
        before, after = (dict(zip(groups, (drawn[n] < truth[n]).astype(float).tolist(), strict=True)) for n in range(2))
        got = paired_difference(before, after, 1.0, groups)
        assert got is not None
        if got.low is not None and got.high is not None:
            given += 1
            covered += got.low <= 0.1 + 1e-12 and got.high >= 0.1 - 1e-12
    assert given > 0.97 * runs
    assert 0.93 <= covered / given <= 0.97


def test_pairing_drops_what_both_have_in_common() -> None:
    scores = random_scores(5, 0.5, 200)
    better = scores | dict.fromkeys(list(scores)[:20], 1.0)
    got = paired_difference(scores, better, 1.0)
    entries = [Entry(float(np.mean(list(s.values()))), "0-1", 200, stderr=0.0354) for s in (scores, better)]
    loose = unpaired_difference(entries[0], entries[1])
    assert got is not None and got.clear and not loose.clear
    assert np.isclose(got.mean, loose.mean)


def test_few_items_and_no_variance_give_no_interval() -> None:
    assert paired_difference({"a": 1.0}, {"b": 1.0}, 1.0) is None
    nine = {str(n): 0.0 for n in range(9)}
    few = paired_difference(nine, {str(n): float(n > 0) for n in range(9)}, 100.0)
    assert few is not None and (few.low, few.high, few.clear, few.why) == (None, None, False, "too few items")
    many = {str(n): 0.0 for n in range(50)}
    same = paired_difference(many, dict.fromkeys(many, 1.0), 100.0)
    assert same is not None and (same.mean, same.low, same.clear) == (100.0, None, False) and same.why
    clusters = paired_difference(many, {str(n): float(n % 2) for n in range(50)}, 1.0, {id: id[-1] for id in many})
    assert clusters is not None and clusters.low is not None
    alone = paired_difference(many, {str(n): float(n % 2) for n in range(50)}, 1.0, dict.fromkeys(many, "one image"))
    assert alone is not None and alone.low is None and alone.why == "too few items"


def test_unpaired_interval_adds_variances() -> None:
    got = unpaired_difference(Entry(50.0, "per cent", 90, stderr=3.0), Entry(60.0, "per cent", 90, stderr=4.0))
    assert got.low is not None and np.isclose(got.low, 10 - 1.98698 * 5, atol=1e-3) and not got.paired
    assert unpaired_difference(Entry(1.0, "points", 90), Entry(2.0, "points", 90, stderr=1.0)).low is None
    few = unpaired_difference(Entry(1.0, "points", 9, stderr=1.0), Entry(2.0, "points", 90, stderr=1.0))
    assert few.low is None and few.why == "too few items"
    shared = unpaired_difference(*(Entry(s, "0 to 1", 12, groups=3, stderr=0.1) for s in (0.5, 0.6)))
    assert shared.low is None and shared.why == "too few items"  # twelve images of three prompts
    flat = unpaired_difference(Entry(0.0, "points", 90, stderr=0.0), Entry(2.0, "points", 90, stderr=1.0))
    assert flat.low is None and not flat.clear


def test_items_of_one_prompt_are_one_cluster(tmp_path: Path) -> None:
    """Answers that name no group but their prompt: forty images of five prompts are too few for an interval."""
    paths = [write_evaluation(tmp_path / n, {"b": random_scores(1, p)}) for n, p in (("x", 0.3), ("y", 0.8))]
    for path in paths:
        file = path.parent / "answers_b.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        write_jsonl(file, [{**row, "prompt": f"prompt {n % 5}"} for n, row in enumerate(rows)])
    row = compare(read_evaluation(paths[0]), read_evaluation(paths[1])).rows[0]
    assert row.difference is not None and row.difference.paired and row.difference.why == "too few items"


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
    assert "over the 37 items" in row.notes[0] and "3 were answered only by before, 1 only by after" in row.notes[0]
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
    assert row.notes[0] == "The protocols differ: before has greedy, after has sampled."
    assert "before is in per cent, after in points" in row.notes[1]


def test_validation_and_test_items_have_no_difference(tmp_path: Path) -> None:
    paths = [write_evaluation(tmp_path / split, {"b": random_scores(1, 0.5)}) for split in ("test", "validation")]
    for path in paths:
        raw = json.loads(path.read_text())
        raw["benchmarks"]["b"]["split"] = path.parent.name
        path.write_text(json.dumps(raw))
    test, validation = (read_evaluation(path) for path in paths)
    row = compare(test, validation).rows[0]
    assert row.difference is None and all(part.difference is None for part in row.parts)
    assert row.notes == ["No difference: before is of test items, after of validation items."]
    assert compare(test, test).rows[0].difference is not None


def test_nothing_in_common(tmp_path: Path) -> None:
    paths = [write_evaluation(tmp_path / n, {n: random_scores(1, 0.5)}) for n in ("x", "y")]
    result = compare(read_evaluation(paths[0]), read_evaluation(paths[1]))
    assert result.rows == [] and len(result.notes) == 3 and "no benchmark in common" in result.notes[2]
