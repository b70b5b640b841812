"""The way from `pairuni train` to the loss is short; each function on it gets the part of the config that it uses."""

import ast
import traceback
from pathlib import Path

import pytest
import yaml

import pairuni
from pairuni.algo.surrogate import clipped_surrogate
from pairuni.cli.main import main
from pairuni.config import TrainConfig

PACKAGE = Path(pairuni.__file__).parent
ABOVE = ("cli", "lab", "config", "trainer.py", "memory_plan.py")
"""The trainer, its callers, applications beside it, the plan of a whole run, and the config itself."""
HANDS_OUT = {"train/loop.py:train"}
"""Takes the whole config and gives each function its part."""


def test_five_calls_from_the_command_to_the_surrogate(
    tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths: set[tuple[str, ...]] = set()

    def spy(*arguments: object) -> object:
        frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(f"{PACKAGE}/")]
        paths.add(tuple(f"{Path(frame.filename).name}:{frame.name}" for frame in frames))
        return clipped_surrogate(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("pairuni.train.step.clipped_surrogate", spy)
    config = tmp_path / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "output": tiny_config.output,
                "steps": 1,
                "model": {"path": tiny_config.model.path, "device": "cpu"},
                "data": {"pairs": tiny_config.data.pairs, "batch": 1},
                "rollout": {"rollouts": 4, "max_new_tokens": 4},
                "rewards": {"understanding": "train_world:letter_share", "generation": "brightness"},
            }
        )
    )
    assert main(["train", "--config", str(config)]) == 0
    # The surrogate itself is the fifth; `main` is not counted.
    assert paths == {("main.py:main", "commands.py:train", "trainer.py:fit", "loop.py:train", "step.py:update")}


def test_no_function_below_the_trainer_takes_the_whole_config() -> None:
    found = set()
    for file in PACKAGE.rglob("*.py"):
        name = file.relative_to(PACKAGE).as_posix()
        if name.split("/")[0] in ABOVE:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                taken = [ast.unparse(a.annotation) for a in every if a.annotation is not None]
                if any("TrainConfig" in words or "PlanConfig" in words for words in taken):
                    found.add(f"{name}:{node.name}")
    assert found <= HANDS_OUT, found - HANDS_OUT
