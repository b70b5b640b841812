"""Resumable stages of pre-training, which the families' scripts share.

A stage draws its data from its step alone, so a stopped script continues from its last saved state with equal results.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pairuni.config import PretrainConfig
from pairuni.files import atomic_path
from pairuni.lab.pretrain.vq import ImageTokenizer
from pairuni.progress import track
from pairuni.shapes.detector import read_scene
from pairuni.shapes.renderer import render
from pairuni.shapes.scenes import random_scene
from pairuni.streams import Stream, generator

SAVE_EVERY = 100
"""Steps between saved states."""


def fit(
    module: nn.Module,
    draw: Callable[[int], torch.Tensor],
    output: Path,
    name: str,
    steps: int,
    peak: float,
    decay: bool = True,
) -> float:
    """Trains a stage with AdamW on the loss `draw(step)`. Returns the mean loss of the last 50 steps.

    Args:
        output: keeps the stage's state in .state/; a stopped stage continues from it.
        peak: learning rate after the warm-up. With `decay` it falls along a cosine to a twentieth.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.95), weight_decay=0.01)
    state, first, losses, spent, begun = state_file(output, name), 0, [], 0.0, time.monotonic()
    if state.exists():
        saved = torch.load(state, weights_only=True)
        module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
        first, losses, spent = saved["step"], saved["losses"], saved["seconds"]
    for step in (bar := track(range(first, steps), desc=f"pretrain {name}", initial=first, total=steps)):
        warm = min(1.0, (step + 1) / min(100, max(1, steps // 10)))
        for group in optimizer.param_groups:
            cosine = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)) if decay else 1.0
            group["lr"] = peak * warm * cosine
        loss = draw(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        bar.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}", refresh=False)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            saved = {"module": module.state_dict(), "optimizer": optimizer.state_dict()}
            with atomic_path(state) as temporary:
                seconds = spent + time.monotonic() - begun
                torch.save(saved | {"step": step + 1, "losses": losses, "seconds": seconds}, temporary)
    return float(np.mean(losses[-50:]))


def train_language(
    module: nn.Module,
    answers: Callable[[int, float, np.random.Generator], torch.Tensor],
    images: Callable[[np.random.Generator], torch.Tensor],
    config: PretrainConfig,
    output: Path,
) -> float:
    """All stages of the language model. Returns the mean loss of the last 50 steps.

    Args:
        answers: the loss of answers, given how many images are asked about and the share of careless answers.
        images: the loss of images.
    """

    def look(step: int) -> torch.Tensor:
        return answers(config.answer_rows, 0.0, generator(config.seed, Stream.PRETRAIN_ANSWERS, step))

    def draw(step: int, careless: float = 0.0) -> torch.Tensor:
        rng = generator(config.seed, Stream.PRETRAIN_LANGUAGE, step)
        return answers(config.shared_rows or config.answer_rows, careless, rng) + images(rng)

    fit(module, look, output, "answers", config.answer_steps, config.lr, decay=False)
    fit(module, draw, output, "language", config.language_steps, config.lr)
    # A second cycle with new rows: models learn to name colours and kinds late, and not equally late in every run.
    later, last = config.language_steps, config.language_steps + config.refine_steps
    fit(module, lambda step: draw(later + step), output, "refine", config.refine_steps, config.lr)
    # A short cycle at a low rate with some careless answers, so that the model sees more than it says.
    gentle, steps = config.lr / 3, config.careless_steps
    return fit(module, lambda step: draw(last + step, config.careless), output, "careless", steps, gentle)


def state_file(output: Path, stage: str) -> Path:
    return output / ".state" / f"{stage}.pt"


def training_seconds(output: Path) -> float:
    """Seconds of all stages, summed over all calls."""
    return sum(torch.load(file, weights_only=True)["seconds"] for file in (output / ".state").glob("*.pt"))


@torch.no_grad()
def readable(tokenizer: ImageTokenizer, seed: int, size: int = 500) -> float:
    """Share of held-out scenes that the detector reads exactly from the tokenizer's reconstructions."""
    rng = generator(seed, Stream.PRETRAIN_READABLE)
    scenes = [random_scene(rng, "held_out") for _ in range(size)]
    images = np.stack([render(s, rng) for s in scenes])
    made = tokenizer.decode(tokenizer.encode(images))
    return sum(read_scene(image) == scene for image, scene in zip(made, scenes, strict=True)) / size
