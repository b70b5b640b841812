"""A base config of two steps, and a stand-in for the processes: each stage writes what its command would."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from pairuni.config import DataConfig, EvalConfig, LogConfig, ModelConfig, RolloutConfig, TrainConfig
from pairuni.lab.ablations.schedule import Base
from pairuni.lab.ablations.study import Job
from pairuni.types import Pair, Quadruple, Side

QUESTIONS, PROMPTS = 12, 6
BENCHMARKS = {"shapes_understanding": QUESTIONS, "shapes_generation": PROMPTS}


def make_base(folder: Path, **changes: Any) -> Base:
    """Two steps on twelve images per source."""
    config = TrainConfig(
        output="unused",
        steps=2,
        model=ModelConfig("someone/a-model"),
        data=DataConfig("unused", batch=2, shapes=12),
        rollout=RolloutConfig(rollouts=2, guidance=2.0, max_new_tokens=16),
        log=LogConfig(samples_every=0, checkpoint_every=0),
        eval=EvalConfig(benchmarks=",".join(BENCHMARKS), questions=QUESTIONS, prompts=PROMPTS, guidance=2.0),
    )
    return Base(changes.pop("train", config), changes.pop("pair", None), folder)


class Processes:
    """Takes the place of study._run_job. `done` has the stages in order, as "<command> <output>"."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.done, self.jobs = folder, list[str](), list[Job]()
        self.fails: Callable[[str], bool] = lambda stage: False

    def __call__(self, job: Job) -> int:
        command, file = job.command[-3], Path(job.command[-1])
        config = yaml.safe_load(file.read_text())
        output = Path(config["output"])
        stage = f"{command} {output.relative_to(self.folder)}"
        if self.fails(stage):
            Path(job.log).parent.mkdir(exist_ok=True)
            Path(job.log).write_text(f"some output\npairuni {command}: it is broken\n\n")
            return 2
        self.done.append(stage)
        self.jobs.append(job)
        getattr(self, command)(output, config)
        return 0

    def shapes(self, output: Path, config: dict[str, Any]) -> None:
        (output / "images").mkdir(parents=True)
        for n in range(3):
            Image.new("RGB", (48, 48), (244, 244, 240)).save(output / "images" / f"{n}.png")
        (output / "generation.jsonl").write_text("")

    def complete(self, output: Path, config: dict[str, Any]) -> None:
        assert (output / "generation.jsonl").is_file()
        (output / "quadruples.jsonl").write_text("")
        (output / "completion.json").write_text("{}")

    def pair(self, output: Path, config: dict[str, Any]) -> None:
        assert Path(config["quadruples"]).is_file()
        a, b, c = (
            Quadruple(f"q{n}", side, f"images/{n}.png", "a red circle", "?", "A")
            for n, side in enumerate((Side.GENERATION, Side.UNDERSTANDING, Side.UNDERSTANDING))
        )
        output.mkdir(parents=True)
        pairs = Pair("r0", "retrieved", 0.7, a, b), *(Pair(f"a{n}", "aligned", 1.0, c, c) for n in range(3))
        (output / "pairs.jsonl").write_text("".join(json.dumps(pair.to_json()) + "\n" for pair in pairs))
        counts = {"aligned_understanding": 1, "aligned_generation": 2, "retrieved": 1}
        summary = {"counts": counts, "similarity": {"0.5": 0.7}, "options": {"image_root": config.get("image_root")}}
        (output / "pairing.json").write_text(json.dumps(summary))

    def train(self, output: Path, config: dict[str, Any]) -> None:
        assert Path(config["data"]["pairs"]).is_file()
        steps, rng = config["steps"], np.random.default_rng(sum(output.as_posix().encode()))
        (output / "checkpoints" / f"step_{steps:06d}" / "model").mkdir(parents=True)
        rows = [{"step": n, "seconds/total": 2.0, "reward_mean/generation": 0.5 + n} for n in range(steps)]
        for row in rows if config.get("sides", "both") == "both" else ():
            row["gradient_cosine"] = float(rng.normal())
            row["co_batching"] = 0.25 + 0.5 * row["step"]
        (output / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def eval(self, output: Path, config: dict[str, Any]) -> None:
        assert config["model"] == "someone/a-model" or Path(config["model"]).is_dir()
        output.mkdir(parents=True, exist_ok=True)
        rng, benchmarks = np.random.default_rng(sum(output.as_posix().encode())), {}
        for name, n in BENCHMARKS.items():
            scores = rng.integers(2, size=n).astype(float)
            rows = [{"id": f"i{k}", "part": "one", "score": float(s), "parsed": True} for k, s in enumerate(scores)]
            (output / f"answers_{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            score = round(100 * float(scores.mean()), 4)
            benchmarks[name] = {"score": score, "unit": "per cent", "n": n, "parts": {"one": score}}
        (output / "eval.json").write_text(json.dumps({"benchmarks": benchmarks}))
