"""Benchmarks of the Shapes world scored on samplers whose ability is known, and the numbers of a result."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pairuni.config import EvalConfig, EvaluateConfig
from pairuni.errors import InputError
from pairuni.eval import load_benchmark
from pairuni.eval.base import Answer, summarise
from pairuni.eval.runner import evaluate, table, write_eval
from pairuni.shapes.captions import TASKS, Requirement, fits, read
from pairuni.shapes.held_out import held_out_prompts, held_out_questions
from pairuni.shapes.questions import LETTERS, TYPES
from pairuni.shapes.renderer import render
from pairuni.shapes.scenes import COLOURS, place
from pairuni.types import Prompt, Rollouts, SamplingSpec, Side


class Oracle:
    """Answers and draws rightly, except for every `wrong`-th item."""

    edits_images = False
    positions = 0

    def __init__(self, wrong: int = 0) -> None:
        self.wrong, self.count, self.specs = wrong, 0, []
        self.golds = {(q.question.text, q.image.tobytes()): q.question for q in held_out_questions(120)}
        self.rng = np.random.default_rng(0)

    def sample(
        self, side: Side, prompts: Sequence[Prompt], rollouts: int, spec: SamplingSpec, seeds_BR: np.ndarray
    ) -> Rollouts:
        assert rollouts == 1 and seeds_BR.shape == (len(prompts), 1)
        self.specs.append(spec)
        texts, images = [], []
        for prompt in prompts:
            self.count += 1
            fail = self.wrong and self.count % self.wrong == 0
            if side is Side.UNDERSTANDING:
                (image,) = prompt.images
                gold = self.golds[prompt.text, image.tobytes()].answer
                letter = next(a for a in LETTERS if a != gold) if fail else gold
                texts.append((f"whatever ({letter})",))
            else:
                requirement = read(prompt.text)
                assert requirement is not None
                drawn = np.full((48, 48, 3), 244, np.uint8) if fail else self.draw(requirement)
                images.append([drawn])
        empty = torch.zeros(len(prompts), 1, 1)
        pixels = np.array(images) if images else None
        return Rollouts(
            side, spec, tuple(prompts), empty.long(), empty.bool(), empty, empty, tuple(texts) or None, pixels
        )

    def draw(self, requirement: Requirement) -> np.ndarray:
        while True:
            groups = requirement.groups
            free = list(COLOURS)
            kinds = [(g.colour or str(self.rng.choice(free)), g.shape) for g in groups for _ in range(g.number)]
            scene = place(kinds, self.rng)
            if fits(requirement, scene):
                return render(scene)


ALL = "shapes_understanding,shapes_understanding_sampled,shapes_generation,shapes_generation_greedy"


def test_a_perfect_sampler_scores_100_and_every_answer_is_kept(tmp_path: Path) -> None:
    oracle = Oracle()
    config = EvalConfig(benchmarks=ALL, questions=60, prompts=48, guidance=2.5, batch=25)
    results = evaluate(oracle, config, tmp_path)
    assert {name: entry["score"] for name, entry in results.items()} == dict.fromkeys(ALL.split(","), 100.0)
    assert results["shapes_understanding"]["parts"] == dict.fromkeys(TYPES, 100.0)
    assert results["shapes_generation"]["parts"] == dict.fromkeys(TASKS, 100.0)
    assert results["shapes_understanding"]["n"] == 60 and results["shapes_generation"]["n"] == 48
    rows = [json.loads(line) for line in (tmp_path / "answers_shapes_generation.jsonl").read_text().splitlines()]
    assert [r["id"] for r in rows] == [p.id for p in held_out_prompts(48)]
    temperatures = {(s.temperature, s.guidance) for s in oracle.specs}
    assert temperatures == {(0.0, 1.0), (1.0, 1.0), (1.0, 2.5), (0.0, 2.5)}
    path = write_eval(tmp_path, "m", config, results)
    assert json.loads(path.read_text())["benchmarks"] == results
    assert "shapes_generation" in table(results) and "->" in table(results, results)


def test_failures_are_counted() -> None:
    config = EvalConfig(benchmarks="shapes_understanding", questions=60, batch=60)
    assert evaluate(Oracle(wrong=4), config)["shapes_understanding"]["score"] == 75.0
    config = EvalConfig(benchmarks="shapes_generation", prompts=40, batch=40)
    assert evaluate(Oracle(wrong=4), config)["shapes_generation"]["score"] == 75.0


def test_a_summary_equals_numpy() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 2, 101).astype(float)
    answers = [Answer(str(i), "ab"[i % 2], s, i % 3 > 0) for i, s in enumerate(scores)]
    result = summarise(answers, load_benchmark("shapes_understanding", EvalConfig()))
    assert result["score"] == pytest.approx(100 * scores.mean(), abs=1e-3)
    assert result["stderr"] == pytest.approx(100 * scores.std(ddof=1) / np.sqrt(101), abs=1e-3)
    assert result["parts"]["a"] == pytest.approx(100 * scores[::2].mean(), abs=1e-3)
    assert result["unparsed"] == 34 and result["n"] == 101
    with pytest.raises(ValueError):
        summarise([], load_benchmark("shapes_understanding", EvalConfig()))


def test_an_unknown_benchmark_is_refused_before_anything_runs() -> None:
    oracle = Oracle()
    with pytest.raises(InputError, match="mmlu"):
        evaluate(oracle, EvalConfig(benchmarks="shapes_understanding,mmlu", questions=6))
    assert oracle.count == 0


def test_a_validation_split_is_for_benchmarks_that_have_one() -> None:
    EvalConfig(benchmarks="pope, shapes_generation", split="validation")
    with pytest.raises(InputError, match=r"eval\.split.*only Shapes benchmarks"):
        EvalConfig(benchmarks="pope", split="validation")


def test_the_config_hash_covers_what_changes_scores_and_nothing_else(tmp_path: Path) -> None:
    def digest(config: EvalConfig) -> str:
        return json.loads(write_eval(tmp_path, "m", config, {}).read_text())["config_hash"]

    first = digest(EvalConfig())
    same = (EvalConfig(batch=7), EvalConfig(benchmarks="shapes_generation"), EvaluateConfig(output="o", model="n"))
    assert {digest(config) for config in same} == {first}
    changes = {"questions": 10, "prompts": 10, "split": "validation", "guidance": 2.0, "seed": 1}
    other = [digest(EvalConfig(**{name: value})) for name, value in changes.items()]
    assert len({first, *other}) == 1 + len(changes)
