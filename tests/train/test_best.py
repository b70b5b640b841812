"""The best checkpoint by a score: which scores are compared, on which items, and what is said of a score chosen by."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pairuni.cli.main import main
from pairuni.config import EvalConfig, LlmConfig, LogConfig, TrainConfig
from pairuni.errors import InputError
from pairuni.eval.runner import mark_chosen
from pairuni.pages.run_files import read_input
from pairuni.policies import load_policy
from pairuni.policies.base import Policy
from pairuni.runs import RunDir
from pairuni.train.loop import train

BEST = LogConfig(samples_every=0, checkpoint_every=1, keep_checkpoints=1, eval_every=1, best="shapes_generation")
VALIDATION = EvalConfig(split="validation")


def config_of(base: TrainConfig, steps: int, **changes: Any) -> TrainConfig:
    return dataclasses.replace(base, **{"steps": steps, "log": BEST, "eval": VALIDATION, **changes})


def run_with(config: TrainConfig, scores: Mapping[int, float], **more: Mapping[int, float]) -> RunDir:
    """Trains with these scores of shapes_generation, and of others, by step."""

    def evaluate(policy: Policy, step: int) -> dict[str, float]:
        return {name: by_step[step] for name, by_step in {"shapes_generation": scores, **more}.items()}

    train(config, evaluate=evaluate)
    return RunDir(Path(config.output))


def kept(run: RunDir) -> list[str]:
    return sorted(p.name for p in (run.path / "checkpoints").glob("step_*"))


def test_the_best_checkpoint_by_a_named_score_is_kept_and_named(tiny_config: TrainConfig) -> None:
    scores = {0: 9.0, 1: 3.0, 2: 5.0, 3: 5.0, 4: 1.0, 5: 0.0, 6: 2.0}
    run = run_with(config_of(tiny_config, 6), scores, shapes_understanding={n: -s for n, s in scores.items()})
    # Before training does not count, and an equal score does not replace the first.
    assert run.best.read_text() == "step_000002\n"
    assert kept(run) == ["step_000002", "step_000006"]
    assert load_policy(str(run.checkpoint(2) / "model")) is not None


def test_a_run_killed_before_its_best_was_named_names_it_when_it_goes_on(tiny_config: TrainConfig) -> None:
    run = run_with(config_of(tiny_config, 2), {0: 0.0, 1: 1.0, 2: 2.0})
    run.best.unlink()
    run_with(config_of(tiny_config, 3), {3: 0.0})
    assert run.best.read_text() == "step_000002\n"
    assert kept(run) == ["step_000002", "step_000003"]


def test_a_run_goes_on_by_another_benchmark(tiny_config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """Its history has scores of that one, or none yet."""
    run = run_with(config_of(tiny_config, 2), {0: 0, 1: 9, 2: 1}, shapes_understanding={0: 0, 1: 1, 2: 2})
    assert run.best.read_text() == "step_000001\n"
    other = dataclasses.replace(BEST, best="shapes_understanding")
    run_with(config_of(tiny_config, 3, log=other), {3: 0}, shapes_understanding={3: 1})
    assert run.best.read_text() == "step_000002\n"
    new = dataclasses.replace(BEST, best="pope")
    both = dataclasses.replace(VALIDATION, benchmarks="shapes_generation,pope")
    capsys.readouterr()
    run_with(config_of(tiny_config, 4, log=new, eval=both), {4: 0}, pope={4: 0.1})
    assert "checkpoints/best stays step_000002 until the next evaluation" in capsys.readouterr().out
    assert run.best.read_text() == "step_000004\n"


def test_scores_of_other_settings_are_never_compared(tiny_config: TrainConfig) -> None:
    """A lucky score of few items would stay the best for ever."""
    run = run_with(config_of(tiny_config, 1, eval=dataclasses.replace(VALIDATION, prompts=3)), {0: 0, 1: 100})
    assert run.best.read_text() == "step_000001\n"
    run_with(config_of(tiny_config, 2), {2: 60})
    assert run.best.read_text() == "step_000002\n"
    same = dataclasses.replace(VALIDATION, batch=7, benchmarks="shapes_generation")
    run_with(config_of(tiny_config, 3, eval=same), {3: 55})
    assert run.best.read_text() == "step_000002\n"


@pytest.mark.parametrize("name", ["shapes_generation", "pope"])
def test_what_a_score_may_be_compared_with(name: str) -> None:
    def settings(**changes: Any) -> tuple[str, str]:
        config = dataclasses.replace(EvalConfig(), **changes)
        return config.key(name), config.settings_hash(name)

    others: list[dict[str, Any]] = [{"prompts": 3}, {"guidance": 2.0}, {"seed": 1}, {"protocol": "lmms_eval"}]
    others += [{"judge": LlmConfig(model="another")}, {}, *([{"split": "validation"}] if name != "pope" else [])]
    assert len({settings(**other) for other in others}) == len(others)
    same: list[dict[str, Any]] = [{"batch": 7}, {"benchmarks": "shapes_generation,pope"}, {"images": {"pope": "here"}}]
    same += [] if name != "pope" else [{"split": "validation"}]
    assert {settings(**each) for each in same} == {settings()}


def test_a_score_of_public_items_is_one_throughout_a_run(tiny_config: TrainConfig) -> None:
    """The Shapes benchmark beside it changes its items at the last step."""
    log, asked = dataclasses.replace(BEST, best="pope"), EvalConfig(benchmarks="shapes_generation,pope")
    run = run_with(
        config_of(tiny_config, 3, log=log, eval=asked), {0: 1, 1: 1, 2: 1, 3: 1}, pope={0: 0, 1: 1, 2: 3, 3: 2}
    )
    assert run.best.read_text() == "step_000002\n"
    rows = [json.loads(line) for line in run.eval_history.open()]
    assert len({row["settings"]["pope"] for row in rows}) == 1
    assert [sorted(set(row) - {"step", "settings"}) for row in rows] == [
        ["pope", "shapes_generation"],
        ["pope", "validation/shapes_generation"],
        ["pope", "validation/shapes_generation"],
        ["pope", "shapes_generation"],
    ]
    assert [row.get("eval/validation/shapes_generation") for row in run.read_metrics()] == [1.0, 1.0, None]
    found = read_input(run.path)
    scores = vars(found)["scores"]
    assert set(scores.columns) == {"pope", "shapes_generation", "validation/shapes_generation"}


def test_a_checkpoint_is_not_chosen_by_what_is_reported(tiny_config: TrainConfig) -> None:
    with pytest.raises(
        InputError, match=r"log\.best: shapes_generation on the test split.*set eval\.split to validation"
    ):
        config_of(tiny_config, 2, eval=EvalConfig())
    config_of(tiny_config, 2, eval=EvalConfig(benchmarks="pope"), log=dataclasses.replace(BEST, best="pope"))
    for log in (LogConfig(best="pope", eval_every=1), LogConfig(best="shapes_generation", eval_every=0)):
        with pytest.raises(InputError, match=r"log\.best"):
            config_of(tiny_config, 2, log=log)


def test_validation_between_and_test_at_the_ends(tiny_config: TrainConfig) -> None:
    config = config_of(tiny_config, 3, log=LogConfig(), eval=EvalConfig(questions=5))
    assert [config.eval.at(step, 3).split for step in range(4)] == ["test", "validation", "validation", "test"]
    assert all(dataclasses.replace(config.eval.at(step, 3), split="test") == config.eval for step in range(4))
    assert {config_of(tiny_config, 3).eval.at(step, 3).split for step in range(4)} == {"validation"}
    public = config_of(tiny_config, 3, log=LogConfig(), eval=EvalConfig(benchmarks="pope"))
    assert {public.eval.at(step, 3).split for step in range(4)} == {"test"}


def test_the_command_asks_validation_items_between_and_says_so(tiny_config: TrainConfig, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    config = ["--data.pairs", tiny_config.data.pairs, "--data.batch", "2", "--model.path", tiny_config.model.path]
    config += ["--output", str(run.path), "--model.device", "cpu", "--rollout.rollouts", "2", "--steps", "2"]
    config += [
        "--rewards.generation",
        "brightness",
        "--rewards.understanding",
        "format",
        "--rollout.max_new_tokens",
        "3",
    ]
    config += ["--log.eval_every", "1", "--eval.questions", "4", "--eval.benchmarks", "shapes_understanding"]
    assert main(["train", *config]) == 0
    (_, between, last) = [json.loads(line) for line in run.eval_history.open()]
    assert "validation/shapes_understanding" in between and "shapes_understanding" in last
    for folder in ("eval_before", "eval_after"):
        assert (
            json.loads((run.path / folder / "eval.json").read_text())["benchmarks"]["shapes_understanding"]["split"]
            == "test"
        )
        ids = [json.loads(line)["id"] for line in (run.path / folder / "answers_shapes_understanding.jsonl").open()]
        assert ids == ["q00000", "q00001", "q00002", "q00003"]
    # By validation throughout, and the score by which the checkpoint was chosen says so.
    chosen = [*config, "--output", str(tmp_path / "chosen"), "--eval.split", "validation"]
    assert main(["train", *chosen, "--log.best", "shapes_understanding"]) == 0
    run = RunDir(tmp_path / "chosen")
    entry = json.loads(run.eval.read_text())["benchmarks"]["shapes_understanding"]
    assert (entry["split"], entry["chosen"]) == ("validation", True)
    assert "chosen on these items" in run.report.read_text()
    best = str(run.path / "checkpoints" / run.best.read_text().strip() / "model")
    for split, marked in (("validation", True), ("test", False)):
        evaluated = ["eval", "--model", best, "--output", str(tmp_path / split), "--questions", "4", "--split", split]
        assert main([*evaluated, "--benchmarks", "shapes_understanding", "--device", "cpu"]) == 0
        entry = json.loads((tmp_path / split / "eval.json").read_text())["benchmarks"]["shapes_understanding"]
        assert (entry["split"], entry["chosen"]) == (split, marked)


def test_what_is_no_best_checkpoint_is_not_marked(tiny_config: TrainConfig, tmp_path: Path) -> None:
    run = run_with(config_of(tiny_config, 2), {0: 0, 1: 9, 2: 1})
    for step, chosen in ((1, True), (2, None)):
        results: dict[str, dict[str, Any]] = {"shapes_generation": {"split": "validation"}}
        mark_chosen(results, str(run.checkpoint(step) / "model"))
        assert results["shapes_generation"].get("chosen") is chosen
    for model in ("shapes-janus", "someone/model", str(tmp_path)):
        mark_chosen(results := {"shapes_generation": {"split": "validation"}}, model)
        assert results == {"shapes_generation": {"split": "validation"}}
