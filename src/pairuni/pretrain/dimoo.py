"""Pre-trains the small Lumina-DiMOO of the Shapes world: image tokenizer, seeing, answers, images.

The language model is its own vision tower: an image is 9 ids of its vocabulary, one for each cell. Rows are single
turns, since all tokens of a row see one another.
"""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from pairuni.config import PretrainConfig
from pairuni.files import added_to
from pairuni.policies.dimoo.model import Dimoo, DimooModel, first_layers, states_at
from pairuni.policies.dimoo.policy import DimooPolicy
from pairuni.policies.dimoo.prompts import GENERATE, UNDERSTAND, DimooPrompts, Layout
from pairuni.policies.dimoo.supervised import draw_blocks, draw_masks, supervised_loss
from pairuni.pretrain.build_dimoo import DimooSize, build_dimoo, widen
from pairuni.pretrain.language import KINDS, cell_labels
from pairuni.pretrain.rows import DESCRIBE, Pool, corpus, make_pool, training_caption
from pairuni.pretrain.stages import fit, readable, train_language
from pairuni.pretrain.vq import DimooTokenizer, decoder_loss, reconstruction_loss, reset_convolutions
from pairuni.shapes.captions import caption
from pairuni.shapes.questions import LETTERS, ask_any
from pairuni.shapes.renderer import render
from pairuni.shapes.scenes import GRID, Scene, random_scene
from pairuni.streams import Stream, generator, number, seed_torch

ANSWERS, CAPTION = (4, 16), 40
"""Slots of an answer, one of these in each step, and of a description."""
PADDING = 0.1
"""Weight of what stands behind an answer's end: most slots, and soon known."""
SIGHT_LAYERS = 2
"""Layers that learn to see first: an answer finds what they know from the third layer on."""
SIZE = DimooSize(layers=6, rope_theta=30.0, image_steps=6, text_block=2, vq_channels=(32, 32, 32, 64, 64))
"""Of the model that `pairuni pretrain --family dimoo` makes. A code is a cell wide: where four codes have to agree on a
thing, training pulls most on how much is drawn at all, and little else is learnt (docs/results.md)."""


def make_dimoo(config: PretrainConfig, output: Path, size: DimooSize = SIZE) -> dict[str, float]:
    """Trains and saves the model. Returns losses, and the share of scenes that survive the image tokenizer."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module, tokenizer = build_dimoo(size, corpus(config.seed), config.seed)
    widen(module.language, config.seed)
    module.to(device)
    images = DimooTokenizer(module.vqvae)
    losses = {"vq_loss": _train_codes(images, config, output), "vq_exact": readable(images, config.seed)}
    module.vqvae.requires_grad_(False)
    pool = make_pool(config.pool, generator(config.seed, Stream.PRETRAIN_POOL))
    rows = DimooRows(module, tokenizer, pool, images.encode(pool.images))
    module.language.train()
    _train_sight(module, rows, config, output)

    def answers(images: int, careless: float, rng: np.random.Generator) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.bf16):
            return rows.answer_loss(images, config.turns, careless, rng)

    def drawings(rng: np.random.Generator) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.bf16):
            return rows.image_loss(config.image_rows, config.drop, rng)

    losses["language_loss"] = train_language(module.language, (answers, drawings), config, output)
    saved = output / ".state" / "model"
    DimooPolicy(module.to("cpu", torch.bfloat16).eval(), tokenizer).save(saved)
    with added_to(output) as folder:  # beside the states, which `save` would replace
        shutil.copytree(saved, folder, dirs_exist_ok=True)
    return losses


def code_names(scene: Scene, side: int) -> Tensor:
    """int64 [side, side] codes: 0 is background, then each kind of thing has one code for each part of its cell, or one
    in all where a code is as wide as a cell."""
    parts = side // GRID
    part = torch.arange(side) % parts
    kinds = cell_labels(scene, side)
    return torch.where(kinds > 0, 1 + (kinds - 1) * parts**2 + part[:, None] * parts + part, 0)


def _train_codes(images: DimooTokenizer, config: PretrainConfig, output: Path) -> float:
    """The image tokenizer, told what each code stands for: encoder and decoder learn side by side, then the decoder
    alone on what the encoder makes of images. Returns the mean loss of the last 50 steps.

    Codes that a tokenizer finds by itself (vq.py) say as much about neighbours and size as about things: 30 for plain
    background, and half of them others when a thing moves by half a pixel. Those that are filled side by side cannot
    agree on such codes: with them 7 % of images were exact after as long a training.
    """
    module, codebook = images.module, images.codebook
    module.train()
    seed_torch(number(config.seed, Stream.PRETRAIN_WEIGHTS))
    reset_convolutions(module)
    torch.nn.init.normal_(codebook.weight)
    codebook.requires_grad_(False)

    def draw(phase: int, step: int) -> Tensor:
        rng = generator(config.seed, Stream.PRETRAIN_TOKENIZER, phase, step)
        scenes = [random_scene(rng, "train") for _ in range(config.vq_batch)]
        pixels = images.to_pixels(np.stack([render(scene, rng) for scene in scenes]))
        if phase:
            return decoder_loss(images, pixels)
        latents = images.latents(pixels)
        named = codebook(torch.stack([code_names(scene, latents.shape[1]) for scene in scenes]).to(latents.device))
        return F.mse_loss(latents, named) + reconstruction_loss(images.reconstruct(named), pixels)

    fit(module, partial(draw, 0), ("codes", config.vq_steps, config.vq_lr, True), output)
    loss = fit(module, partial(draw, 1), ("decoder", config.decoder_steps, config.vq_lr, True), output)
    module.eval()
    return loss


class DimooRows:
    """Losses of rows that are drawn from a pool of scenes."""

    def __init__(self, module: Dimoo, tokenizer: PreTrainedTokenizerFast, pool: Pool, codes_NT: Tensor) -> None:
        self.module, self.tokenizer, self.pool, self.codes_NT = module, tokenizer, pool, codes_NT
        self.prompts = DimooPrompts(module, tokenizer)

    def answer_loss(self, images: int, turns: int, careless: float, rng: np.random.Generator) -> Tensor:
        """Of `turns - 1` questions about each image, answered with an option's words, and of one description of it.

        A share `careless` of the questions is answered with the first option, as by someone who does not look.
        """
        seen = rng.integers(len(self.pool.scenes), size=images)
        asked: list[tuple[int, str, str]] = []
        for i in seen:
            for question in (ask_any(self.pool.scenes[i], rng) for _ in range(turns - 1)):
                first = careless and rng.random() < careless
                right = LETTERS.index(question.answer)
                asked.append((int(i), question.text, question.options[0 if first else right]))
        described = [(int(i), str(rng.choice(DESCRIBE)), caption(self.pool.scenes[i], rng)) for i in seen]
        language, padding = self.module.language, self.module.language.config.padding_id
        length = int(rng.choice(ANSWERS))
        prompts, layout, targets = self._texts(asked, length)
        tokens = (targets != padding).sum(1).tolist()
        masks, learnt = draw_blocks(tokens, length, language.config.text_block or length, rng)
        loss = supervised_loss(language, prompts, layout, targets, masks, learnt.float())
        prompts, layout, targets = self._texts(described, CAPTION)
        masks = draw_masks([CAPTION] * images, CAPTION, rng, short=0)
        weights = torch.where(targets == padding, PADDING, 1.0)
        return loss + supervised_loss(language, prompts, layout, targets, masks, weights)

    def image_loss(self, images: int, drop: float, rng: np.random.Generator) -> Tensor:
        """Of images given a caption; a share `drop` of the captions is left out, for guidance."""
        drawn = rng.integers(len(self.pool.scenes), size=images)
        captions = [training_caption(self.pool.scenes[i], rng) for i in drawn]
        texts = [None if rng.random() < drop else text for text in captions]
        prompts = [self.prompts.chat(GENERATE, text, []) for text in texts]
        layout = self.prompts.image()
        slots = len(layout.slots_N)
        masks = draw_masks([slots] * images, slots, rng, short=0)
        targets = self.codes_NT[torch.from_numpy(drawn)] + self.module.language.config.image_offset
        return supervised_loss(self.module.language, prompts, layout, targets, masks)

    def seeing_states(self, language: DimooModel, images: int, rng: np.random.Generator) -> tuple[Tensor, list[Scene]]:
        """[images, codes, H]: states at an image's codes in a prompt that asks about it, and what is on it."""
        seen = rng.integers(len(self.pool.scenes), size=images)
        scenes = [self.pool.scenes[i] for i in seen]
        prompts = [self._asking(int(i), ask_any(scene, rng).text) for i, scene in zip(seen, scenes, strict=True)]
        c = self.module.language.config
        layout = self.prompts.answer(1)
        # Places count from the end of the prompt, which the image is before.
        places = torch.stack([(ids >= c.image_offset).nonzero()[:, 0] - len(ids) for ids in prompts])
        device = language.head.weight.device
        answers = layout.ids_A.repeat(images, 1).to(device)
        return states_at(language, prompts, answers, places.to(device)), scenes

    def _texts(self, rows: Sequence[tuple[int, str, str]], length: int) -> tuple[list[Tensor], Layout, Tensor]:
        """Prompts of (image, question, answer), the answer part, and int64 [n, length] what stands in its slots."""
        c = self.module.language.config
        texts = [self.tokenizer(" " + answer, add_special_tokens=False)["input_ids"][:length] for *_, answer in rows]
        # Behind its end an answer is padded; the padding is learnt too, so that the model writes ends and not rests.
        padded = [([*ids, c.answer_end_id] + [c.padding_id] * length)[:length] for ids in texts]
        return [self._asking(i, question) for i, question, _ in rows], self.prompts.answer(length), torch.tensor(padded)

    def _asking(self, i: int, question: str) -> Tensor:
        side = self.module.codes_per_side
        return self.prompts.chat(UNDERSTAND, question, [self.prompts.image_ids(self.codes_NT[i].view(side, side))])


class _Seeing(nn.Module):
    """The language model's first layers with a throw-away head that names, at each code, what is in the code's cell."""

    def __init__(self, module: Dimoo) -> None:
        super().__init__()
        self.language = first_layers(module.language, min(SIGHT_LAYERS, len(module.language.blocks)))
        self.head = nn.Linear(module.language.config.d_model, 1 + len(KINDS))


def _train_sight(module: Dimoo, rows: DimooRows, config: PretrainConfig, output: Path) -> None:
    seed_torch(number(config.seed, Stream.PRETRAIN_WEIGHTS))
    seeing = _Seeing(module).to(module.language.head.weight.device)

    def draw(step: int) -> Tensor:
        rng = generator(config.seed, Stream.PRETRAIN_SIGHT, step)
        states, scenes = rows.seeing_states(seeing.language, config.sight_batch, rng)
        labels = torch.stack([cell_labels(scene, module.codes_per_side) for scene in scenes]).to(states.device)
        return F.cross_entropy(seeing.head(states).float().flatten(0, 1), labels.flatten())

    fit(seeing, draw, ("sight", config.sight_steps, config.lr, True), output)
