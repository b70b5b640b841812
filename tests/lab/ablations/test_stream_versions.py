"""Results of older random streams: which count as finished, and what they are compared with."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from ablation_world import Processes, make_base

from pairuni.config import AblationsConfig
from pairuni.errors import InputError
from pairuni.lab.ablations import study
from pairuni.lab.ablations.compare import compared
from pairuni.lab.ablations.results import by_streams, read_results, write_results
from pairuni.lab.ablations.schedule import BEFORE, plan
from pairuni.lab.ablations.study import run_ablations
from pairuni.lab.ablations.suites import ARMS, METHOD
from pairuni.lab.ablations.write import write_suite
from pairuni.streams import VERSION

UNSOUND = {"random_pairs", "unpaired", "vanilla"}


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Processes:
    fake = Processes(tmp_path)
    monkeypatch.setattr(study, "_run_job", fake)
    return fake


def ablate(folder: Path, suites: list[Any], seeds: int = 2, **options: Any) -> Any:
    return run_ablations(
        AblationsConfig(suites, str(folder), seeds=seeds, **options), make_base(folder), lambda _: None
    )


@pytest.fixture
def old(tmp_path: Path, processes: Processes) -> Path:
    """A folder with two seeds of three suites as version 1 left them: rows that say no version."""
    suites: list[Any] = ["pairing", "weighting", "matching"]
    processes.folder = tmp_path / "first"
    ablate(tmp_path / "first", suites)
    rows = [json.loads(line) for line in (tmp_path / "first" / "results.jsonl").read_text().splitlines()]
    identities = {(run.arm.name, run.seed): run.identities[1] for run in plan(suites, make_base(tmp_path), 2)}
    folder = tmp_path / "old"
    folder.mkdir()
    with (folder / "results.jsonl").open("w") as file:
        for row in rows:
            about = {"identity": identities[row["arm"], row["seed"]]}
            training = {name: value for name, value in row["training"].items() if not name.startswith("co_batching")}
            del row["streams"]
            file.write(json.dumps(row | about | {"training": training}) + "\n")
    processes.folder, processes.done = folder, []
    return folder


def missing(outcome: Any) -> set[tuple[str, int]]:
    return {(run.arm.name, run.seed) for run in outcome.missing}


def both_seeds(*arms: str) -> set[tuple[str, int]]:
    return {(arm, seed) for arm in arms for seed in (0, 1)}


def test_old_rows_of_unsound_arms_are_not_finished(old: Path) -> None:
    outcome = ablate(old, ["pairing"], collect=True)
    assert missing(outcome) == both_seeds(METHOD, *UNSOUND)
    assert "not counted: " in outcome.closing and all(arm in outcome.closing for arm in UNSOUND)
    assert "by arm, with seeds: method: 0 1; random_pairs: 0 1; " in outcome.closing
    worlds = {"tints", "common_0.5", "common_1"}
    names = {f"{world}_{kind}" for world in worlds for kind in ("pairs", "random")} | {METHOD, "random_pairs"}
    assert missing(ablate(old, ["matching"], collect=True)) == both_seeds(*names)


def test_old_rows_of_sound_arms_are_finished_beside_the_old_pairs(old: Path) -> None:
    assert not missing(ablate(old, ["weighting"], collect=True))
    assert not missing(ablate(old, ["pairing"], collect=True, arms=["aligned_only", "generation_alone"]))
    assert missing(ablate(old, ["weighting"], seeds=3, collect=True)) == {
        (arm, 2) for arm in (METHOD, "weight_linear", "weight_none")
    }
    rows = [line for line in (old / "results.jsonl").read_text().splitlines(True) if '"arm": "method"' not in line]
    (old / "results.jsonl").write_text("".join(rows))
    # Without what they are compared with, they are wanted with the streams of now.
    assert missing(ablate(old, ["weighting"], collect=True)) == both_seeds(METHOD, "weight_linear", "weight_none")


def test_what_is_run_now_stands_beside_what_is_kept(old: Path, processes: Processes) -> None:
    outcome = ablate(old, ["pairing"])
    trained = {stage.removeprefix("train runs/") for stage in processes.done if stage.startswith("train")}
    assert trained == {f"{arm}/seed_{seed}" for arm, seed in both_seeds(METHOD, *UNSOUND)} and not outcome.missing
    kept = read_results(old / "results.jsonl")
    assert kept == outcome.every and {version for arm, _, version in kept if arm == METHOD} == {1, VERSION}
    views = by_streams(kept)
    assert {arm for arm, _ in views[VERSION]} == {BEFORE, METHOD, *UNSOUND}
    assert not {arm for arm, _ in views[1]} & UNSOUND and (BEFORE, 0) in views[1]
    assert not any(arm.endswith("_random") for arm, _ in views[1])
    for version, rows in views.items():
        arms = {row.name: row for row in compared("pairing", rows)}
        for name in arms.keys() - {BEFORE, METHOD}:
            for benchmark, cell in arms[name].cells.items():
                own = [rows[name, seed].benchmarks[benchmark].score for seed in (0, 1)]
                pairs = [rows[METHOD, seed].benchmarks[benchmark].score for seed in (0, 1)]
                assert cell.difference is not None
                by_hand = [a - b for a, b in zip(own, pairs, strict=True)]
                assert cell.difference.seeds == pytest.approx(by_hand, abs=1e-3), (version, name)
    processes.done = []
    assert not ablate(old, ["pairing"]).missing and processes.done == []


def test_tables_say_their_version_and_the_co_batching_of_their_runs(old: Path, processes: Processes) -> None:
    every = ablate(old, ["pairing"]).every
    text = write_suite("pairing", by_streams(every), old / "out")
    new, _, before = text.partition("Random streams: version 1.")
    assert new.startswith("**Does it matter which halves are trained together?** Random streams: version 2.")
    # Two steps with 0.25 and 0.75; four pairs in batches of two, eight halves in batches of four.
    for label, chance in (("pairs", "33.3"), ("random pairs", "33.3"), ("vanilla (mixed batches)", "42.9")):
        assert f"| {label} | 2 | 50.0 % (chance {chance} %) |" in new
    assert "| co-batching |" in new and "| co-batching |" not in before
    assert "Co-batching was not measured." in before and "not measured" not in new
    assert not any(f"| {ARMS[arm].label} |" in before for arm in UNSOUND) and "| aligned only |" not in new
    written = json.loads((old / "out" / "pairing.json").read_text())
    assert [arm["name"] for arm in written["streams"]["2"]["arms"]] == [
        BEFORE,
        METHOD,
        "random_pairs",
        "unpaired",
        "vanilla",
    ]
    assert (old / "out" / "pairing.svg").exists() and (old / "out" / "pairing_streams_1.svg").exists()


def test_a_version_that_compares_nothing_is_not_shown_beside_one_that_does(old: Path) -> None:
    assert "version 1" not in write_suite("matching", by_streams(ablate(old, ["matching"]).every), old / "out")
    only = write_suite("matching", by_streams(read_results(old.parent / "old" / "results.jsonl")), old / "out")
    assert "version 2" in only


def test_stages_of_older_streams_are_not_taken_for_done(old: Path, processes: Processes) -> None:
    ablate(old, ["weighting"], seeds=3)
    config = old / "configs" / "weight_none_seed_2_train.yaml"
    text = config.read_text()
    assert f"# random streams: version {VERSION}\n" in text
    config.write_text(text.replace(f"# random streams: version {VERSION}\n", ""))  # as version 1 wrote it
    results = {key: row for key, row in read_results(old / "results.jsonl").items() if key[:2] != ("weight_none", 2)}
    write_results(old / "results.jsonl", results)
    with pytest.raises(InputError, match="was made with other settings"):
        ablate(old, ["weighting"], seeds=3)


def test_the_identity_carries_the_version(tmp_path: Path) -> None:
    for run in plan(["pairing"], make_base(tmp_path), 1):
        assert set(run.identities) == set(range(1, VERSION + 1)) and run.identity == run.identities[VERSION]
        assert len(set(run.identities.values())) == (1 if run.arm.name == BEFORE else VERSION)


def test_old_rows_with_other_settings_are_refused(old: Path) -> None:
    base = make_base(old)
    other = dataclasses.replace(base, train=dataclasses.replace(base.train, clip_eps=0.1))
    with pytest.raises(InputError, match="has a result with settings that differ"):
        run_ablations(AblationsConfig(["weighting"], str(old), collect=True), other, lambda _: None)
