"""Sample grids: answers and images at fixed prompts and seeds, written every few steps to samples/step_NNNNNN.

samples.jsonl has one line per rollout; each image is a PNG beside it, and grid.png shows all images of the generation
side with caption and rewards, where reward hacking shows early. The report draws curves over steps.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pairuni.algo.pair_grpo import weighted_advantages
from pairuni.files import atomic_path, write_jsonl
from pairuni.train.rollout import Share, SideBatch
from pairuni.types import Half, Pair, Side

_CELL = 96  # least pixels of an image in the grid: smaller ones are magnified by a whole factor
_FONT_SIZE = 11
_LINE = 14


def fixed_shares(pairs: Sequence[Pair], count: int) -> dict[Side, Share]:
    """Both halves of the first `count` pairs."""
    chosen = list(pairs)[:count]
    return {side: Share([Half(p.id, p.half(side), p.similarity, p.kind == "aligned") for p in chosen]) for side in Side}


def write_samples(folder: Path, step: int, batch: Mapping[Side, SideBatch], std_eps: float) -> None:
    """Writes samples of fixed prompts and seeds into the folder, all at once.

    Args:
        batch: from `collect` with step 0, which is never trained, so that grids of different steps differ by the
            weights only.
    """
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        rows = [row for sampled in batch.values() for row in _rows(sampled, step, std_eps, temporary)]
        write_jsonl(temporary / "samples.jsonl", rows)
        if Side.GENERATION in batch:
            draw_grid(batch[Side.GENERATION]).save(temporary / "grid.png")


def draw_grid(sampled: SideBatch) -> Image.Image:
    """One row per caption, one column per rollout, the reward under each image."""
    images, rollouts = sampled.images(), sampled.rewards_BR.shape[1]
    factor = max(1, -(-_CELL // images[0].shape[1])) if images else 1
    cell = max((image.shape[1] for image in images), default=_CELL) * factor
    font = ImageFont.load_default(_FONT_SIZE)
    width = rollouts * (cell + 4) + 4
    captions = [textwrap.wrap(half.quadruple.prompt, max(width // 6, 20))[:3] for half in sampled.halves]
    heights = [_LINE * (len(lines) + 1) + cell + 8 for lines in captions]
    grid = Image.new("RGB", (width, max(sum(heights), 1)), "white")
    draw = ImageDraw.Draw(grid)
    top = 0
    for b, (lines, height) in enumerate(zip(captions, heights, strict=True)):
        for n, line in enumerate(lines):
            draw.text((4, top + n * _LINE), line, fill="black", font=font)
        below = top + len(lines) * _LINE + 2
        for r in range(rollouts):
            picture = Image.fromarray(images[b * rollouts + r])
            size = (picture.width * factor, picture.height * factor)
            left = 4 + r * (cell + 4)
            grid.paste(picture.resize(size, Image.Resampling.NEAREST), (left, below))
            reward = f"{float(sampled.rewards_BR[b, r]):.3f}"
            draw.text((left, below + cell + 1), reward, fill="black", font=font)
        top += height
    return grid


def _rows(sampled: SideBatch, step: int, std_eps: float, folder: Path) -> list[dict[str, Any]]:
    credit_BR = weighted_advantages(sampled.rewards_BR, sampled.weights_B, std_eps)
    texts, images = sampled.texts(), sampled.images()
    rows = []
    for b, half in enumerate(sampled.halves):
        for r in range(sampled.rewards_BR.shape[1]):
            n = b * sampled.rewards_BR.shape[1] + r
            if sampled.side is Side.UNDERSTANDING:
                output = {"question": half.quadruple.question, "text": texts[n]}
            else:
                name = f"{b:02d}_{r:02d}.png"
                Image.fromarray(images[n]).save(folder / name)
                output = {"prompt": half.quadruple.prompt, "image": name}
            scores = {
                name: {
                    each: float(scores_BR[b, r]) if np.isfinite(scores_BR[b, r]) else None
                    for each, scores_BR in table.items()
                }
                for name, table in (("rewards", sampled.raw_BR), ("normalised", sampled.normalised_BR))
                if table
            }
            about = {"step": step, "pair_id": half.pair_id, "side": str(sampled.side), "rollout": r}
            rows.append(about | output | scores | {"advantage": float(credit_BR[b, r])})
    return rows
