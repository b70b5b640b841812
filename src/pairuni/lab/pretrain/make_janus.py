"""Pre-trains the small Janus of the Shapes world: image tokenizer, vision tower, answers, images."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pairuni.config import PretrainConfig
from pairuni.files import added_to
from pairuni.lab.pretrain import vq
from pairuni.lab.pretrain.fit import fit, readable, state_file, train_language
from pairuni.lab.pretrain.rows import RowWriter, Sight, answer_loss, image_loss, make_pool
from pairuni.shapes.renderer import render
from pairuni.shapes.scenes import random_scene
from pairuni.streams import Stream, generator, number, seed_torch
from pairuni.tiny.build_janus import JanusSize, build_janus
from pairuni.tiny.corpus import corpus


def make_janus(config: PretrainConfig, output: Path) -> dict[str, float]:
    """Trains and saves the model. Returns the losses and the share of scenes that the image tokenizer keeps exactly."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, processor = build_janus(JanusSize(), corpus(config.seed), config.seed)
    model.to(device)  # pyright: ignore[reportArgumentType]  # transformers' wrapper hides torch's signature
    images = vq.JanusTokenizer(model.model.vqmodel)
    losses = {"vq_loss": _train_tokenizer(images, config, output), "vq_exact": readable(images, config.seed)}
    pool = make_pool(config.pool, generator(config.seed, Stream.PRETRAIN_POOL))
    codes = images.encode(pool.images)
    model.model.vqmodel.requires_grad_(False)
    model.train()

    seed_torch(number(config.seed, Stream.PRETRAIN_WEIGHTS))
    sight, writer = Sight(model).to(model.device), RowWriter(processor)

    def seeing(step: int) -> Tensor:
        seen = generator(config.seed, Stream.PRETRAIN_SIGHT, step).integers(len(pool.scenes), size=config.sight_batch)
        return sight.loss(images.to_pixels(pool.images[seen]), [pool.scenes[i] for i in seen])

    def answers(number: int, careless: float, rng: np.random.Generator) -> Tensor:
        seen = rng.integers(len(pool.scenes), size=number)
        rows = writer.understanding([pool.scenes[i] for i in seen], config.turns, rng, careless)
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=config.bf16):
            return answer_loss(model, rows, images.to_pixels(pool.images[seen]))

    def drawings(rng: np.random.Generator) -> Tensor:
        drawn = rng.integers(len(pool.scenes), size=config.image_rows)
        prompts = writer.generation([pool.scenes[i] for i in drawn], config.drop, rng)
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=config.bf16):
            return image_loss(model, prompts, codes[drawn].to(model.device))

    fit(sight, seeing, output, "sight", config.sight_steps, config.lr)
    losses["language_loss"] = train_language(model, answers, drawings, config, output)
    model.eval().to("cpu", torch.bfloat16)  # pyright: ignore[reportArgumentType]
    with added_to(output) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return losses


def _train_tokenizer(tokenizer: vq.JanusTokenizer, config: PretrainConfig, output: Path) -> float:
    """Runs the phases of vq.py. Returns the mean loss of the last 50 steps."""
    module = tokenizer.module
    module.train()
    seed_torch(number(config.seed, Stream.PRETRAIN_WEIGHTS))
    vq.reset_convolutions(module)
    loss = float("nan")
    phases = {"auto": config.auto_steps, "quantised": config.vq_steps, "decoder": config.decoder_steps}
    for phase, steps in phases.items():
        if phase == "quantised" and not state_file(output, phase).exists():
            pool = make_pool(2000, generator(config.seed, Stream.PRETRAIN_CODEBOOK))
            vq.fit_codebook(tokenizer, pool.images, config.seed)

        def draw(step: int, phase: str = phase) -> Tensor:
            rng = generator(config.seed, Stream.PRETRAIN_TOKENIZER, len(phase), step)
            images = [render(random_scene(rng, "train"), rng) for _ in range(config.vq_batch)]
            seed_torch(int(rng.integers(2**31)))
            return vq.PHASES[phase](tokenizer, tokenizer.to_pixels(np.stack(images)))

        loss = fit(module, draw, output, phase, steps, config.vq_lr, decay=phase != "auto")
    module.eval()
    return loss
