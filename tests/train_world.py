"""A tiny data set, config and rewards for the tests of training. Run as a script it is a training process to kill."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pairuni.config import (
    DataConfig,
    LogConfig,
    ModelConfig,
    OptimConfig,
    RewardConfig,
    RolloutConfig,
    TrainConfig,
)
from pairuni.data.images import load_image
from pairuni.policies.base import Sampler, Scorer
from pairuni.records import read_pairs
from pairuni.rewards import side_reward
from pairuni.rewards.base import RewardInput
from pairuni.train.optim import Optimizer
from pairuni.train.rollout import Share, SideBatch, collect
from pairuni.train.step import update
from pairuni.types import Half, Side

SIMILARITY = 0.64


def letter_share(items: Sequence[RewardInput]) -> list[float]:
    """The share of small letters in the first half of the alphabet, of an answer's characters."""
    texts = [item.text or "" for item in items]
    return [sum("a" <= c <= "m" for c in text) / max(len(text), 1) for text in texts]


def length(items: Sequence[RewardInput]) -> list[float]:
    return [10.0 * len(item.text or "") for item in items]


def equal(items: Sequence[RewardInput]) -> list[float]:
    return [1.0] * len(items)


def write_pairs(folder: Path, count: int = 6) -> Path:
    """`count` pairs, every other one retrieved at SIMILARITY, with their images."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    captions = ["a red circle", "two blue squares", "a green cross and a red circle"]
    rows = []
    for n in range(count):
        names = [f"{n}_{half}.png" for half in "gu"]
        for name in names:
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / name)
        halves = [
            {"image_path": name, "prompt": f"{captions[n % 3]} {n}", "question": f"What is {n}?", "answer": "A"}
            for name in names
        ]
        retrieved = n % 2 == 1
        rows.append(
            {
                "id": f"p{n}",
                "kind": "retrieved" if retrieved else "aligned",
                "similarity": SIMILARITY if retrieved else 1.0,
                "generate_ann": halves[0],
                "understand_ann": halves[1] if retrieved else halves[0],
            }
        )
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_config(output: Path, model: Path, pairs: Path, /, **changes: Any) -> TrainConfig:
    """Two pairs a step, four rollouts, rewards that vary within nearly every group."""
    base = TrainConfig(
        output=str(output),
        steps=2,
        micro_batch=16,
        model=ModelConfig(path=str(model), device="cpu"),
        data=DataConfig(pairs=str(pairs), batch=2),
        rollout=RolloutConfig(rollouts=4, guidance=2.0, max_new_tokens=6),
        optim=OptimConfig(lr=1e-3),
        rewards=RewardConfig(understanding="train_world:letter_share", generation="brightness"),
        log=LogConfig(samples_every=2, sample_prompts=1, checkpoint_every=2, keep_checkpoints=2),
    )
    return dataclasses.replace(base, **changes)


def read_halves(pairs: Path) -> dict[Side, list[Half]]:
    """Both halves of every pair of the file."""
    read = read_pairs(pairs)
    return {side: [Half(p.id, p.half(side), p.similarity, p.kind == "aligned") for p in read] for side in Side}


def roll_out(
    policy: Sampler,
    halves: dict[Side, list[Half]],
    config: TrainConfig,
    step: int = 1,
    columns: dict[Side, range | None] | None = None,
) -> dict[Side, SideBatch]:
    """`collect` with the config's rewards and images."""
    rewards = {side: side_reward(config.rewards, side) for side in config.trained_sides}
    root = Path(config.data.pairs).parent
    shares = {side: Share(items, (columns or {}).get(side)) for side, items in halves.items()}
    weighting = config.objective.weighting
    return collect(
        policy, shares, rewards, config.rollout, weighting, config.seed, step, lambda path: load_image(root / path)
    )


def take_step(
    policy: Scorer,
    batch: Mapping[Side, SideBatch],
    optimizer: Optimizer,
    config: TrainConfig,
    step: int,
    reference: Scorer | None = None,
) -> dict[str, float]:
    """`update` with the config's objective, as the loop calls it."""
    every = config.log.gradient_cosine_every
    return update(policy, batch, optimizer, config.objective, step, reference, bool(every and step % every == 0))


if __name__ == "__main__":
    from pairuni.train.loop import train

    output, model, pairs = (Path(part) for part in sys.argv[1:4])
    train(make_config(output, model, pairs, steps=int(sys.argv[4])))
