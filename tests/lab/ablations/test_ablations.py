"""`pairuni analyse ablations`: what arms have in common, what is run and what is not run again, what is compared."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from ablation_world import BENCHMARKS, Processes, make_base
from scipy import stats

import pairuni
from pairuni.cli.main import main
from pairuni.cli.options import parse_config
from pairuni.config import (
    AblationsConfig,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    PairConfig,
    PairingMode,
    Suite,
    TrainConfig,
)
from pairuni.errors import InputError
from pairuni.files import locked
from pairuni.lab.ablations import study
from pairuni.lab.ablations.compare import compared
from pairuni.lab.ablations.results import read_results, write_results
from pairuni.lab.ablations.schedule import BEFORE, Base, plan
from pairuni.lab.ablations.study import run_ablations
from pairuni.lab.ablations.suites import METHOD, SUITES
from pairuni.lab.ablations.write import write_suite
from pairuni.streams import VERSION
from pairuni.train.resume import flat

ALL: list[Any] = list(get_args(Suite))
NOTHING: Any = lambda config: None  # noqa: E731


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Processes:
    fake = Processes(tmp_path)
    monkeypatch.setattr(study, "_run_job", fake)
    return fake


def ablate(folder: Path, suites: list[Any], seeds: int = 2, **options: Any) -> Any:
    config = AblationsConfig(suites, str(folder), seeds=seeds, **options)
    return run_ablations(config, make_base(folder), NOTHING)


# ---- what arms have in common -----------------------------------------------------------------------------------


def test_arms_differ_in_what_they_say_and_have_equal_budgets(tmp_path: Path) -> None:
    runs = [run for run in plan(ALL, make_base(tmp_path), 2) if run.arm.name != BEFORE]
    assert {run.name for run in runs if run.arm.name == METHOD} == {"method/seed_0", "method/seed_1"}
    free = {"output", "data.pairs", "data.image_root", "log.gradient_cosine_every"}
    configs = {run.name: {stage.command: stage.config for stage in run.stages} for run in runs}
    for run in runs:
        own, method = configs[run.name], configs[f"{METHOD}/seed_{run.seed}"]
        train, base = (flat(dataclasses.asdict(each["train"])) for each in (own, method))
        assert {k for k in train if train[k] != base[k]} - free == run.arm.train.keys(), run.name
        for command, changed in (("pair", run.arm.pair), ("shapes", run.arm.shapes)):
            a, b = dataclasses.asdict(own[command]), dataclasses.asdict(method[command])
            assert {k for k in a if a[k] != b[k]} - {"output", "quadruples", "image_root"} == changed.keys(), run.name
        assert dataclasses.replace(own["eval"], model="", output="") == dataclasses.replace(
            method["eval"], model="", output=""
        )
        assert own["train"].seed == own["pair"].seed == own["shapes"].seed == own["complete"].seed == run.seed
        assert own["eval"].model == str(Path(own["train"].output) / "checkpoints" / "step_000002" / "model")
    assert len({run.identity for run in runs}) == len({run.arm.name for run in runs})


def test_the_pairing_suite_has_every_mode_and_each_side_alone() -> None:
    modes = {
        arm.train.get("pair_selection.mode", "pairs") for arm in SUITES["pairing"].arms if "sides" not in arm.train
    }
    sides = {arm.train["sides"] for arm in SUITES["pairing"].arms if "sides" in arm.train}
    assert modes == set(get_args(PairingMode)) and sides == {"understanding", "generation"}
    for suite in SUITES.values():
        names = [arm.name for arm in suite.arms]
        assert len(set(names)) == len(names) and {suite.reference_of(arm) for arm in suite.arms} - {None} <= {*names}


def test_every_config_on_disk_is_the_one_that_was_planned(tmp_path: Path) -> None:
    outcome = ablate(tmp_path, ALL, seeds=1, dry_run=True)
    classes: dict[str, type] = {"train": TrainConfig, "eval": EvaluateConfig, "pair": PairConfig}
    seen = 0
    for run in outcome.missing:
        for stage in run.stages:
            if stage.command in classes:
                folder = Path(stage.config.output)
                place = folder.parent if folder.name == "evaluated" else folder
                name = BEFORE if run.arm.name == BEFORE else f"{place.parent.name}_seed_0"
                file = tmp_path / "configs" / f"{name}_{stage.command}.yaml"
                assert parse_config(classes[stage.command], ["--config", str(file)], stage.command) == stage.config
                seen += 1
    assert seen > 50 and not (tmp_path / "runs").exists()


def test_a_new_option_at_its_default_makes_no_old_result_another(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    run = plan(["pairing"], base, 1)[1]
    spelled = dataclasses.replace(base.train, clip_eps=0.2, kl_beta=0.0, output="elsewhere", micro_batch=3)
    assert plan(["pairing"], dataclasses.replace(base, train=spelled), 1)[1].identity == run.identity
    for change in ({"clip_eps": 0.1}, {"steps": 3}, {"eval": dataclasses.replace(base.train.eval, questions=6)}):
        other = dataclasses.replace(base.train, **change)
        assert plan(["pairing"], dataclasses.replace(base, train=other), 1)[1].identity != run.identity


# ---- what is run ------------------------------------------------------------------------------------------------


def test_each_stage_is_run_once_in_order_and_never_again(tmp_path: Path, processes: Processes) -> None:
    outcome = ablate(tmp_path, ["selection", "weighting"], workers=3)
    assert not outcome.failures and not outcome.missing
    assert len(processes.done) == len(set(processes.done))
    # Two seeds of: one world, two pairings (medoids, random members), four trainings with their evaluations.
    counts = {c: sum(s.startswith(c) for s in processes.done) for c in ("shapes", "complete", "pair", "train", "eval")}
    assert counts == {"shapes": 2, "complete": 2, "pair": 4, "train": 8, "eval": 9}
    assert {job.threads for job in processes.jobs} == {AblationsConfig(["room"], workers=3).threads_each}
    processes.done.clear()
    ablate(tmp_path, ["weighting"])
    assert processes.done == []
    ablate(tmp_path, ["weighting"], seeds=3)
    assert {stage.partition("seed_")[2].partition("/")[0] for stage in processes.done} == {"2"}


def test_some_arms_run_with_what_they_are_compared_with(tmp_path: Path, processes: Processes) -> None:
    outcome = ablate(tmp_path, ["weighting", "matching"], seeds=1, arms=["weight_none", "tints_pairs"])
    names = {("before", 0), ("method", 0), ("weight_none", 0), ("tints_pairs", 0), ("tints_random", 0)}
    assert set(outcome.results) == names and not outcome.missing
    later = ablate(tmp_path, ["weighting"], seeds=2, arms=["weight_none"])
    assert set(later.results) == names | {("method", 1), ("weight_none", 1)}
    assert ablate(tmp_path, ["weighting"], seeds=2, collect=True).missing  # without names all arms are meant
    with pytest.raises(InputError, match=r"arms.*has no random_pairs; there are method, weight_linear, weight_none"):
        ablate(tmp_path, ["weighting"], arms=["random_pairs"])
    with pytest.raises(InputError, match="names one twice"):
        AblationsConfig(["weighting"], arms=["method", "method"])


def test_results_are_kept_when_the_runs_have_gone(tmp_path: Path, processes: Processes) -> None:
    processes.folder = tmp_path / "a"
    first = ablate(tmp_path / "a", ["weighting"], seeds=1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "results.jsonl").write_bytes((tmp_path / "a" / "results.jsonl").read_bytes())
    processes.done.clear()
    again = ablate(tmp_path / "b", ["weighting"], seeds=1)
    assert processes.done == [] and again.every == first.every


def test_a_failure_ends_its_own_run_and_the_next_call_goes_on(
    tmp_path: Path, processes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    processes.fails = lambda stage: (
        stage == "train runs/weight_none/seed_0" or stage == "pair pairs/select=random/seed_1"
    )
    outcome = ablate(tmp_path, ["weighting", "selection"])
    told = {failure.stage: (failure.runs, failure.said) for failure in outcome.failures}
    said = "it is broken"
    assert told == {
        "train": (("weight_none/seed_0",), f"pairuni train: {said}"),
        "pair": (("select_random/seed_1",), f"pairuni pair: {said}"),
    }
    assert {run.name for run in outcome.missing} == {"weight_none/seed_0", "select_random/seed_1"}
    processes.fails, processes.done = (lambda stage: False), []
    assert not ablate(tmp_path, ["weighting", "selection"]).missing
    assert sorted(processes.done) == [
        "eval runs/select_random/seed_1/evaluated",
        "eval runs/weight_none/seed_0/evaluated",
        "pair pairs/select=random/seed_1",
        "train runs/select_random/seed_1",
        "train runs/weight_none/seed_0",
    ]


def test_what_shares_a_failed_stage_fails_with_it(tmp_path: Path, processes: Processes) -> None:
    processes.fails = lambda stage: stage == "shapes data/method/seed_0"
    outcome = ablate(tmp_path, ["weighting"], seeds=1)
    (failure,) = outcome.failures
    assert set(failure.runs) == {"method/seed_0", "weight_linear/seed_0", "weight_none/seed_0"}
    assert processes.done == ["eval runs/before"]


def test_a_stage_that_ends_well_without_its_product_has_failed(tmp_path: Path, processes: Processes) -> None:
    processes.train = lambda output, config: None  # type: ignore[method-assign]
    assert {failure.stage for failure in ablate(tmp_path, ["selection"], seeds=1).failures} == {"train"}


def test_an_interrupt_keeps_what_was_finished(tmp_path: Path, processes: Processes) -> None:
    def interrupted(stage: str) -> bool:
        if stage == "train runs/weight_none/seed_0":
            raise KeyboardInterrupt
        return False

    processes.fails = interrupted
    with pytest.raises(KeyboardInterrupt):
        ablate(tmp_path, ["weighting"], seeds=1)
    kept = {name for name, *_ in read_results(tmp_path / "results.jsonl")}
    assert BEFORE in kept and "weight_none" not in kept
    processes.fails = lambda stage: False
    assert not ablate(tmp_path, ["weighting"], seeds=1).missing


def test_what_was_made_with_other_settings_is_not_taken_for_done(tmp_path: Path, processes: Processes) -> None:
    processes.fails = lambda stage: stage.startswith("eval runs/method")
    base = make_base(tmp_path)
    run_ablations(config := AblationsConfig(["selection"], str(tmp_path), seeds=1), base, NOTHING)
    processes.fails, before = (lambda stage: False), sorted(processes.done)
    other = dataclasses.replace(base, train=dataclasses.replace(base.train, clip_eps=0.1))
    (tmp_path / "results.jsonl").unlink()
    with pytest.raises(InputError, match="was made with other settings") as caught:
        run_ablations(config, other, NOTHING)
    assert caught.value.file == tmp_path / "runs" / METHOD / "seed_0" / "checkpoints" / "step_000002"
    assert not run_ablations(config, base, NOTHING).missing
    assert sorted(processes.done) == sorted([*before, "eval runs/method/seed_0/evaluated"])


def test_a_process_that_cannot_be_started_and_a_result_that_cannot_be_read_are_failures(
    tmp_path: Path, processes: Processes
) -> None:
    real = processes.eval

    def broken(output: Path, config: dict[str, Any]) -> None:
        real(output, config)
        if "select_random" in str(output):
            with (output / "answers_shapes_generation.jsonl").open("a") as file:
                file.write('{"id": "i0", "part": "one", "score": 1.0}\n')  # by a second process, say

    def lost(stage: str) -> bool:
        if stage == "train runs/method/seed_0":
            raise RuntimeError("the worker died\nof hunger")
        return False

    processes.fails, processes.eval = lost, broken  # type: ignore[method-assign]
    outcome = ablate(tmp_path, ["selection"], seeds=1)
    told = {failure.runs: (failure.stage, failure.said) for failure in outcome.failures}
    assert told == {
        ("method/seed_0",): ("train", "RuntimeError: the worker died"),
        ("select_random/seed_0",): (
            "result",
            "has 7 answers, but eval.json is of 6; remove eval.json to evaluate again",
        ),
    }
    assert set(outcome.results) == {(BEFORE, 0)}


def test_looking_needs_no_lock_and_writes_no_results(tmp_path: Path, processes: Processes) -> None:
    ablate(tmp_path, ["selection"], seeds=1)
    (tmp_path / "results.jsonl").unlink()
    with locked(tmp_path):
        seen = ablate(tmp_path, ["selection"], seeds=1, collect=True)
        for more in ({}, {"dry_run": True}):  # whose configs a process at work might take for its own
            with pytest.raises(InputError, match="another process is at work here"):
                ablate(tmp_path, ["selection"], seeds=1, **more)
    assert not seen.missing and not (tmp_path / "results.jsonl").exists()


def test_looking_tells_what_cannot_be_read_and_refuses_other_settings(tmp_path: Path, processes: Processes) -> None:
    ablate(tmp_path, ["selection"], seeds=1)
    (tmp_path / "results.jsonl").unlink()
    base = make_base(tmp_path)
    other = dataclasses.replace(base, train=dataclasses.replace(base.train, clip_eps=0.1))
    with pytest.raises(InputError, match="was made with other settings"):
        run_ablations(AblationsConfig(["selection"], str(tmp_path), seeds=1, collect=True), other, NOTHING)
    answers = tmp_path / "runs" / "select_random" / "seed_0" / "evaluated" / "answers_shapes_generation.jsonl"
    answers.write_text("".join(answers.read_text().splitlines(True)[1:]))
    for options in ({"collect": True}, {"dry_run": True}):
        seen = ablate(tmp_path, ["selection"], seeds=1, **options)
        assert [failure.runs for failure in seen.failures] == [("select_random/seed_0",)]
        assert "remove eval.json to evaluate again" in seen.failures[0].said
        assert set(seen.results) == {(BEFORE, 0), (METHOD, 0)}


# ---- results ----------------------------------------------------------------------------------------------------


def test_a_result_has_every_answer(tmp_path: Path, processes: Processes) -> None:
    outcome = ablate(tmp_path, ["selection"], seeds=1)
    assert read_results(tmp_path / "results.jsonl") == outcome.every
    for (arm, _), result in outcome.results.items():
        folder = tmp_path / "runs" / arm / ("" if arm == BEFORE else "seed_0/evaluated")
        for name in BENCHMARKS:
            rows = [json.loads(line) for line in (folder / f"answers_{name}.jsonl").read_text().splitlines()]
            assert result.benchmarks[name].scores_N().tolist() == [row["score"] for row in rows]
    method = outcome.results[METHOD, 0]
    rows = [
        json.loads(line) for line in (tmp_path / "runs" / METHOD / "seed_0" / "metrics.jsonl").read_text().splitlines()
    ]
    assert method.training["reward_first/generation"] == 0.5 and method.training["reward_last/generation"] == 1.5
    assert method.training["gradient_cosine"] == pytest.approx(
        np.mean([row["gradient_cosine"] for row in rows]), abs=1e-6
    )
    # Two empty images: the same content.
    assert method.pairs == {
        "aligned_understanding": 1,
        "aligned_generation": 2,
        "retrieved": 1,
        "similarity": 0.7,
        "content": 1,
    }
    assert method.seconds["training"] == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "one"}, "seed: must be a whole number, not 'one'"),
        ({"more": 1}, "more"),
        ({"right": "zz"}, "right: is not a string of hex digits"),
        ({"n": 20}, "shapes_generation.n: differs from the number of items"),
        (None, "is not valid JSON"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, processes: Processes, change: Any, message: str) -> None:
    ablate(tmp_path, ["selection"], seeds=1)
    file = tmp_path / "results.jsonl"
    first, *rest = file.read_text().splitlines()
    row = json.loads(first)
    where = row["benchmarks"]["shapes_generation"] if change and change.keys() & {"right", "n"} else row
    where.update(change or {})
    file.write_text("\n".join([*rest, json.dumps(row) if change else first[:50]]) + "\n")
    with pytest.raises(InputError, match=message) as caught:
        ablate(tmp_path, ["selection"], seeds=1)
    assert caught.value.line == len(rest) + 1 and caught.value.file == file


def test_results_of_other_settings_are_refused(tmp_path: Path, processes: Processes) -> None:
    ablate(tmp_path, ["selection"], seeds=1)
    base = make_base(tmp_path)
    other = dataclasses.replace(base, train=dataclasses.replace(base.train, steps=1))
    with pytest.raises(InputError, match="method/seed_0 has a result with settings that differ"):
        run_ablations(AblationsConfig(["selection"], str(tmp_path), seeds=1), other, NOTHING)
    file = tmp_path / "results.jsonl"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if '"select_random"' in line))
    with pytest.raises(InputError, match="select_random/seed_0 has a result with settings"):  # it is in the table
        run_ablations(AblationsConfig(["selection"], str(tmp_path), seeds=1, arms=["method"]), other, NOTHING)


# ---- what is compared -------------------------------------------------------------------------------------------


def test_differences_are_paired_by_seed_and_item(tmp_path: Path, processes: Processes) -> None:
    results = dict(ablate(tmp_path, ["weighting"], seeds=3).results)
    del results["weight_none", 1]
    rows = {row.name: row for row in compared("weighting", results)}
    assert list(rows) == [BEFORE, METHOD, "weight_linear", "weight_none"]
    assert rows[METHOD].cells["shapes_generation"].difference is None
    for arm, seeds in (("weight_linear", [0, 1, 2]), ("weight_none", [0, 2])):
        for name in BENCHMARKS:
            bits = {a: [results[a, s].benchmarks[name].scores_N() for s in seeds] for a in (arm, METHOD)}
            by_hand = [100 * float((x - y).mean()) for x, y in zip(bits[arm], bits[METHOD], strict=True)]
            cell = rows[arm].cells[name]
            assert cell.difference is not None and cell.q is not None and cell.q >= cell.difference.p
            np.testing.assert_allclose(cell.difference.seeds, by_hand, atol=1e-9)
            np.testing.assert_allclose(cell.difference.mean, np.mean(by_hand), atol=1e-9)
            assert cell.n == BENCHMARKS[name]


def test_worlds_compare_pairs_with_random_pairs_of_the_same_world(tmp_path: Path, processes: Processes) -> None:
    rows = {row.name: row for row in compared("matching", ablate(tmp_path, ["matching"], seeds=1).results)}
    assert rows["common_1_pairs"].reference == "common_1_random" and rows[METHOD].reference == "random_pairs"
    assert rows["common_1_random"].reference is None


def test_other_items_are_not_compared(tmp_path: Path, processes: Processes) -> None:
    results = dict(ablate(tmp_path, ["selection"], seeds=1).results)
    broken = results[METHOD, 0].benchmarks | {
        "shapes_generation": dataclasses.replace(results[METHOD, 0].benchmarks["shapes_generation"], items="others")
    }
    results[METHOD, 0] = dataclasses.replace(results[METHOD, 0], benchmarks=broken)
    with pytest.raises(InputError, match="different items"):
        compared("selection", results)


def test_scores_that_are_no_means_are_compared_over_seeds(tmp_path: Path, processes: Processes) -> None:
    results = ablate(tmp_path, ["selection"], seeds=3).results
    for (arm, seed), result in results.items():
        entry = dataclasses.replace(
            result.benchmarks["shapes_generation"], factor=None, score=1000.0 + 10 * seed + len(arm)
        )
        results[arm, seed] = dataclasses.replace(result, benchmarks={"mme": entry})
    row = compared("selection", results)[-1]
    difference = row.cells["mme"].difference
    assert difference is not None and difference.mean == len(row.name) - len(METHOD) == difference.low


def test_groups_of_items_count_once(tmp_path: Path, processes: Processes) -> None:
    """Two images of a prompt are no two draws: the mean stays, the interval is that of the prompts."""

    def grouped(output: Path, config: dict[str, Any]) -> None:
        output.mkdir(parents=True)
        scores, groups = [1, 1, 1, 0, 0, 0], ["a", "a", "a", "b", "b", "c"]
        rows = [{"id": f"i{n}", "group": g, "score": s} for n, (g, s) in enumerate(zip(groups, scores, strict=True))]
        (output / "answers_shapes_generation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        entry = {"score": 50.0, "unit": "per cent", "n": 6, "parts": {}}
        (output / "eval.json").write_text(json.dumps({"benchmarks": {"shapes_generation": entry}}))

    processes.eval = grouped  # type: ignore[method-assign]
    outcome = ablate(tmp_path, ["selection"], seeds=1)
    results = outcome.results
    measured = results[BEFORE, 0].benchmarks["shapes_generation"]
    assert (measured.n, measured.right, measured.points) == (6, None, [1.5, 0.0, 0.0])
    score = compared("selection", results)[0].cells["shapes_generation"].score
    known = stats.ttest_1samp([150, 0, 0], 0).confidence_interval()
    np.testing.assert_allclose((score.mean, score.low, score.high), (50, *known))
    assert read_results(tmp_path / "results.jsonl") == outcome.every


def test_one_seed_of_no_mean_has_no_interval_and_is_no_test(tmp_path: Path, processes: Processes) -> None:
    results = ablate(tmp_path, ["weighting"], seeds=1).results
    for key, result in results.items():
        entries = dict(result.benchmarks)
        entries["geneval"] = dataclasses.replace(entries["shapes_generation"], factor=None, unit="0 to 1", score=0.7321)
        results[key] = dataclasses.replace(result, benchmarks=entries)
    linear = next(row for row in compared("weighting", results) if row.name == "weight_linear")
    assert linear.cells["geneval"].q is None and linear.cells["shapes_generation"].q is not None
    text = write_suite("weighting", {VERSION: results}, tmp_path / "out")
    assert "geneval, 0 to 1" in text and "| 0.732 |" in text and "Of 4 intervals" in text
    assert "Infinity" not in (tmp_path / "out" / "weighting.json").read_text()


def test_curves_are_over_content_and_over_what_both_gain(tmp_path: Path, processes: Processes) -> None:
    results = ablate(tmp_path, ["matching", "room"], seeds=2).results
    for (arm, seed), result in results.items():
        content = {"content": 0.3 + 0.1 * seed + 0.05 * len(arm)} if arm != BEFORE else {}
        results[arm, seed] = dataclasses.replace(result, pairs=content)
    for suite in ("matching", "room"):
        text = write_suite(suite, {VERSION: results}, tmp_path / "out")
        written = json.loads((tmp_path / "out" / f"{suite}.json").read_text())
        rows = [row for row in compared(suite, results) if row.reference]
        for name, points in written["streams"][str(VERSION)]["curve"].items():
            for point, row in zip(points, rows, strict=True):
                means = [
                    [results[arm, seed].benchmarks[name].score for seed in range(2)]
                    for arm in (row.name, row.reference)
                ]
                np.testing.assert_allclose(point["y"]["mean"], np.mean(means[0]) - np.mean(means[1]), atol=1e-3)
                gained = np.mean(means) - results[BEFORE, 0].benchmarks[name].score
                place = 0.35 + 0.05 * len(row.name) if suite == "matching" else gained
                np.testing.assert_allclose(point["x"], place, atol=1e-3)
                assert f" {point['x']:.2f} |" in text


def test_a_world_without_retrieved_pairs_has_no_place_on_the_curve(tmp_path: Path, processes: Processes) -> None:
    results = dict(ablate(tmp_path, ["matching"], seeds=1).results)
    for key in list(results):
        if key[0].startswith("tints"):
            results[key] = dataclasses.replace(results[key], pairs={"retrieved": 0.0})
    text = write_suite("matching", {VERSION: results}, tmp_path)
    assert "tints distract: pairs" in text and "tints distract |" not in text.partition("content in common")[2]
    assert "all scenes common |" in text.partition("content in common")[2]


def test_files_of_every_suite_and_equal_results_give_equal_files(tmp_path: Path, processes: Processes) -> None:
    results = ablate(tmp_path, ALL, seeds=2).results
    for folder in ("one", "two"):
        for suite in ALL:
            write_suite(suite, {VERSION: results}, tmp_path / folder)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    curves = {"pairing_cosine.svg", "matching_curve.svg", "room_curve.svg"}
    assert set(files) == {f"{s}{end}" for s in ALL for end in (".md", ".json", ".svg")} | curves
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    text = (tmp_path / "one" / "pairing.md").read_text()
    labels = [arm.label for arm in SUITES["pairing"].arms]
    assert all(f"| {label} | 2 |" in text for label in labels) and "Benjamini" in text
    written = json.loads((tmp_path / "one" / "pairing.json").read_text())
    assert written["runs"] == 20 and written["training_seconds"] == 80
    both = [arm.name for arm in SUITES["pairing"].arms if "sides" not in arm.train]
    cosines = [np.mean([results[arm, s].training["gradient_cosine"] for s in range(2)]) for arm in both]
    for name in BENCHMARKS:
        gains = [np.mean([results[arm, s].benchmarks[name].score for s in range(2)]) for arm in both]
        found = written["streams"][str(VERSION)]["gradient_cosine"][name]
        assert found["mean"] == pytest.approx(np.corrcoef(cosines, gains)[0, 1], abs=1e-5)
        assert found["low"] <= found["mean"] <= found["high"] and f"- {name}: {found['mean']:+.2f}" in text


def test_no_results_give_no_table(tmp_path: Path) -> None:
    assert "No results yet" in write_suite("room", {VERSION: {}}, tmp_path)


# ---- the command ------------------------------------------------------------------------------------------------


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = {"output": "x", "steps": 1, "data": {"pairs": str(tmp_path / "pairs.jsonl")}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    own = ["--base", str(tmp_path / "base.yaml")]
    for arguments, message in [
        (["--suite", "pairings"], "suite"),
        (["--suite", "pairing", "--seeds", "0"], "seeds: must be positive"),
        (["--suite", "pairing", "--base", str(tmp_path / "none.yaml")], "no such file"),
        (
            ["--suite", "threshold", *own, "--dry_run"],
            "pair: is needed, because the arm floor_0.5 pairs the data again",
        ),
        (["--suite", "matching", *own, "--dry_run"], "suite: matching has fewer than two arms"),
        (["--suite", "pairing", "--ray_address", "auto"], "ray_address: needs engine: ray"),
        (["--suite", "pairing", "--dry_run", "--collect"], "dry_run"),
        (["--suite", "pairing", "--arms", "--dry_run"], "arms"),
        (["--suite", "pairing", "--launch", 'torchrun "x'], "launch: cannot be split into words"),
        (["--suite", "pairing", "--launch", "torchrunn -m pairuni"], "launch: there is no program 'torchrunn'"),
        (["--suite", "pairing", "--launch", "torchrun", "--engine", "ray"], "launch: needs engine: local"),
    ]:
        assert main(["analyse", "ablations", *arguments, "--output", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err, arguments
    assert not (tmp_path / "out").exists()


def test_own_data_is_paired_anew_only_where_an_arm_says_so(tmp_path: Path) -> None:
    base = make_base(tmp_path / "out")
    data = dataclasses.replace(base.train.data, pairs="data/pairs.jsonl", shapes=0)
    pair = PairConfig("data/quadruples.jsonl", "data", clusters=7, extractor="resnet50")
    own = dataclasses.replace(base, train=dataclasses.replace(base.train, data=data), pair=pair)
    runs = {run.arm.name: run for run in plan(["pairing", "threshold", "extractor"], own, 1)}
    assert [stage.command for stage in runs["vanilla"].stages] == ["train", "eval"]
    first, train, _ = runs["floor_0.7"].stages
    assert first.config == dataclasses.replace(
        pair, output=str(tmp_path / "out" / "pairs" / "similarity_floor=0.7"), image_root="data", similarity_floor=0.7
    )
    assert train.config.data.pairs == f"{first.config.output}/pairs.jsonl" and train.config.data.image_root == "data"
    assert runs["vanilla"].stages[0].config.data.pairs == "data/pairs.jsonl"
    assert {"dinov3", "pe"} <= runs.keys() and "shapes_content" not in runs


def own_data(folder: Path, **changes: Any) -> Base:
    """A base with data of its own, whose files are there."""
    (folder / "data").mkdir(exist_ok=True)
    for name in ("pairs", "quadruples"):
        (folder / "data" / f"{name}.jsonl").write_text(name)
    base = make_base(folder / "out")
    train = dataclasses.replace(base.train, data=DataConfig(str(folder / "data" / "pairs.jsonl"), batch=2))
    pair = PairConfig(str(folder / "data" / "quadruples.jsonl"), str(folder / "data"), clusters=7)
    return dataclasses.replace(base, train=train, pair=dataclasses.replace(pair, **changes))


def identities(base: Base, *suites: Any) -> dict[str, str]:
    return {run.arm.name: run.identity for run in plan(suites, base, 1)}


def test_results_of_own_data_belong_to_the_data_and_to_its_pairing(tmp_path: Path) -> None:
    first = identities(own_data(tmp_path), "threshold")
    assert identities(own_data(tmp_path), "threshold") == first
    other = identities(own_data(tmp_path, clusters=9), "threshold")
    assert {name for name in first if first[name] != other[name]} == {"floor_0.5", "floor_0.7"}
    file = tmp_path / "reference.jsonl"
    for change in ({"references": [str(file)]}, {"weights": str(file)}):  # both change which pairs there are
        found = []
        for text in ("one", "other"):
            file.write_text(text)
            found.append(identities(own_data(tmp_path, **change), "threshold"))
        assert found[0][METHOD] == found[1][METHOD] == first[METHOD]
        assert len({each["floor_0.5"] for each in (first, *found)}) == 3, change
    base = own_data(tmp_path)
    (tmp_path / "data" / "pairs.jsonl").write_text("others")
    other = identities(base, "threshold")
    assert {name for name in first if first[name] != other[name]} == {METHOD}


def test_what_the_model_is_told_counts_before_training_too(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    model = dataclasses.replace(base.train.model, sampler_options={"image_steps": 8})
    told = dataclasses.replace(base, train=dataclasses.replace(base.train, model=model))
    first, other = identities(base, "selection"), identities(told, "selection")
    assert not {*first.values()} & {*other.values()} and BEFORE in first


def test_a_model_is_known_by_its_weights_and_one_of_the_hub_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(tmp_path)
    moved = tmp_path / "moved"
    shutil.copytree(Path(pairuni.__file__).parent / "checkpoints" / "shapes-janus", moved)

    def with_model(path: str) -> Base:
        return dataclasses.replace(base, train=dataclasses.replace(base.train, model=ModelConfig(path)))

    shipped = identities(with_model("shapes-janus"), "selection")
    assert identities(with_model(str(moved)), "selection") == shipped
    hub = identities(base, "selection")
    snapshot = str(tmp_path / "models--a" / "snapshots" / "abc" / "config.json")
    monkeypatch.setattr("pairuni.policies.source.try_to_load_from_cache", lambda *_: snapshot)
    assert identities(base, "selection") == hub
    assert not {*hub.values()} & {*shipped.values()}


def test_a_base_must_be_the_method_that_arms_change(tmp_path: Path) -> None:
    base = make_base(tmp_path / "shapes")
    linear = dataclasses.replace(base, train=dataclasses.replace(base.train, weighting="linear"))
    own = own_data(tmp_path)
    made = {"options": {"clusters": 8, "output": "elsewhere"}}
    for broken, message in [
        (linear, "base: has weighting linear: the arms are compared with sqrt"),
        (dataclasses.replace(base, pair=own.pair), "pair: is for a base with data of its own"),
        (own_data(tmp_path, similarity_floor=0.5), "pair: has similarity_floor 0.5"),
    ]:
        with pytest.raises(InputError, match=message):
            plan(["threshold"], broken, 1)
    (tmp_path / "data" / "pairing.json").write_text(json.dumps(made))
    with pytest.raises(InputError, match="has clusters 7, but the pairs of the base were made with 8"):
        plan(["threshold"], own, 1)


def test_options_of_the_base_that_arms_cannot_have_are_left_out(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    log = dataclasses.replace(base.train.log, eval_every=1, best="shapes_generation", gradient_cosine_every=5)
    asked = dataclasses.replace(base.train.eval, split="validation")
    train = dataclasses.replace(base.train, log=log, eval=asked)
    runs = plan(["pairing"], dataclasses.replace(base, train=train), 1)
    logs = {run.arm.name: run.stages[-2].config.log for run in runs[1:]}
    assert logs[METHOD].gradient_cosine_every == 5 and logs["generation_alone"].gradient_cosine_every == 0
    assert {(each.eval_every, each.best) for each in logs.values()} == {(0, "")}


def test_the_command_prints_tables_and_fails_where_a_run_fails(
    tmp_path: Path, processes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    base = dataclasses.asdict(make_base(tmp_path).train)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    processes.fails = lambda stage: stage.startswith("train runs/select_random")
    arguments = ["analyse", "ablations", "--suite", "selection", "--seeds", "1", "--base", str(tmp_path / "base.yaml")]
    assert main([*arguments, "--output", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert "failed: train of select_random/seed_0: pairuni train: it is broken" in told.err
    assert "| medoid | 1 |" in told.out and "missing: 1 run" in told.out
    processes.fails = lambda stage: False
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    assert "nothing is missing" in capsys.readouterr().out


def test_writing_and_reading_results(tmp_path: Path, processes: Processes) -> None:
    results = ablate(tmp_path, ["selection"], seeds=1).every
    write_results(tmp_path / "again.jsonl", results)
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "results.jsonl").read_bytes()
