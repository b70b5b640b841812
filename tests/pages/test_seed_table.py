"""The table of several seeds: its numbers against NumPy on scores made here."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from report_files import write_evaluation

from pairuni.errors import InputError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "seed_table.py"
spec = importlib.util.spec_from_file_location("seed_table", SCRIPT)
assert spec is not None and spec.loader is not None
seed_table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(seed_table)


def cells(table: str) -> list[list[str]]:
    return [[c.strip() for c in line[1:-1].split("|")] for line in table.splitlines()]


def test_means_and_intervals(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = [f"{kind}/{n}" for n in range(60) for kind in ("colour", "count")]
    old, new = (rng.random(120) < 0.4).astype(float), (rng.random((2, 120)) < 0.6).astype(float)
    for seed in range(2):
        for folder, values in (("eval_before", old), ("eval_after", new[seed])):
            scores = {"a": dict(zip(ids, values.tolist(), strict=True)), "b": dict(zip(ids, old.tolist(), strict=True))}
            write_evaluation(tmp_path / f"seed_{seed}" / folder, scores | {"c": {"single/0": 1.0, "single/1": 0.0}})
    together, alone = seed_table.seed_table([tmp_path / "seed_0", tmp_path / "seed_1"], parts=True).split("\n\n")
    head, _, *rows = cells(together)
    assert head == ["", "a, n = 120", "difference, 95 %", "b, n = 120", "difference, 95 %"]
    assert [row[0] for row in rows] == ["seed_0", "seed_1", "mean", "colour", "count"]
    assert [row[0] for row in cells(alone)[2:]] == ["seed_0", "seed_1", "mean", "single"]
    wanted = [new[0] - old, new[1] - old, new.mean(0) - old]
    wanted += [wanted[2][0::2], wanted[2][1::2]]
    for row, difference in zip(rows, wanted, strict=True):
        half = scipy.stats.t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / len(difference) ** 0.5
        numbers = [100 * x for x in (difference.mean(), difference.mean() - half, difference.mean() + half)]
        assert row[2] == "{:+.1f} ({:+.1f} to {:+.1f})".format(*numbers)
        assert row[4].startswith("+0.0")
    assert rows[2][1] == f"{100 * old.mean():.1f}→{100 * new.mean():.1f}"


def test_a_run_without_answers_is_named(tmp_path: Path) -> None:
    for folder in ("eval_before", "eval_after"):
        write_evaluation(tmp_path / "run" / folder, {"a": {"colour/0": 1.0, "count/1": 0.0}})
    (tmp_path / "run" / "eval_after" / "answers_a.jsonl").unlink()
    with pytest.raises(InputError, match=r"answers_a\.jsonl"):
        seed_table.seed_table([tmp_path / "run"])
