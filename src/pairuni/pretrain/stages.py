"""What the families' pre-training scripts share: resumable stages, those of the language model among them.

A stage is a function of its step, so that a stopped script goes on from its last saved state as if never stopped.
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
from pairuni.pretrain import vq
from pairuni.pretrain.rows import make_pool
from pairuni.progress import track
from pairuni.shapes.detector import read_scene
from pairuni.shapes.renderer import render
from pairuni.shapes.scenes import random_scene
from pairuni.streams import Stream, generator, number, seed_torch

SAVE_EVERY = 100
"""Steps between saved states."""


def fit(
    module: nn.Module, draw: Callable[[int], torch.Tensor], stage: tuple[str, int, float, bool], output: Path
) -> float:
    """AdamW with warm-up (and cosine decay) on `draw(step)`, resumable; the mean loss of the last 50 steps."""
    name, steps, peak, decay = stage
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
    losses: tuple[
        Callable[[int, float, np.random.Generator], torch.Tensor], Callable[[np.random.Generator], torch.Tensor]
    ],
    config: PretrainConfig,
    output: Path,
) -> float:
    """All stages of the language model. Returns the mean loss of the last 50 steps.

    Args:
        losses: of answers, given how many images are asked about and the share that is careless; of images.
    """
    answers, images = losses

    def look(step: int) -> torch.Tensor:
        return answers(config.answer_rows, 0.0, generator(config.seed, Stream.PRETRAIN_ANSWERS, step))

    def draw(step: int, careless: float = 0.0) -> torch.Tensor:
        rng = generator(config.seed, Stream.PRETRAIN_LANGUAGE, step)
        return answers(config.shared_rows or config.answer_rows, careless, rng) + images(rng)

    fit(module, look, ("answers", config.answer_steps, config.lr, False), output)
    fit(module, draw, ("language", config.language_steps, config.lr, True), output)
    # A second cycle on rows of its own: naming a colour or a kind comes late, and not equally late in every run.
    later, last = config.language_steps, config.language_steps + config.refine_steps
    fit(module, lambda s: draw(later + s), ("refine", config.refine_steps, config.lr, True), output)
    # Then a short, gentle one in which some answers are careless: the model sees more than it says.
    stage = ("careless", config.careless_steps, config.lr / 3, True)
    return fit(module, lambda s: draw(last + s, config.careless), stage, output)


def state_file(output: Path, stage: str) -> Path:
    return output / ".state" / f"{stage}.pt"


def training_seconds(output: Path) -> float:
    """Of all stages, over all calls that they took."""
    return sum(torch.load(file, weights_only=True)["seconds"] for file in (output / ".state").glob("*.pt"))


def train_tokenizer(tokenizer: vq.ImageTokenizer, config: PretrainConfig, output: Path) -> float:
    """Of Janus, which finds its own codes. Returns the mean loss of the last 50 steps."""
    module = tokenizer.module
    module.train()
    seed_torch(number(config.seed, Stream.PRETRAIN_WEIGHTS))
    vq.reset_convolutions(module)
    loss = math.nan
    phases = {"auto": config.auto_steps, "quantised": config.vq_steps, "decoder": config.decoder_steps}
    for phase, steps in phases.items():
        if phase == "quantised" and not state_file(output, phase).exists():
            vq.fit_codebook(
                tokenizer, make_pool(2000, generator(config.seed, Stream.PRETRAIN_CODEBOOK)).images, config.seed
            )

        def draw(step: int, phase: str = phase) -> torch.Tensor:
            rng = generator(config.seed, Stream.PRETRAIN_TOKENIZER, len(phase), step)
            images = [render(random_scene(rng, "train"), rng) for _ in range(config.vq_batch)]
            seed_torch(int(rng.integers(2**31)))
            return vq.PHASES[phase](tokenizer, tokenizer.to_pixels(np.stack(images)))

        loss = fit(module, draw, (phase, steps, config.vq_lr, phase != "auto"), output)
    module.eval()
    return loss


@torch.no_grad()
def readable(tokenizer: vq.ImageTokenizer, seed: int, size: int = 500) -> float:
    """Share of held-out scenes that the detector reads exactly from the tokenizer's reconstruction."""
    rng = generator(seed, Stream.PRETRAIN_READABLE)
    scenes = [random_scene(rng, "held_out") for _ in range(size)]
    images = np.stack([render(s, rng) for s in scenes])
    made = tokenizer.decode(tokenizer.encode(images))
    return sum(read_scene(image) == scene for image, scene in zip(made, scenes, strict=True)) / size
