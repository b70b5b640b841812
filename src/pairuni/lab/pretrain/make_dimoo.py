"""Pre-trains the small Lumina-DiMOO of the Shapes world: image tokenizer, seeing, then answers and images.

There is no vision tower: an image is 9 ids of the language model's vocabulary, one per cell. A row is a single turn,
because all tokens of a row attend to one another.
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
from pairuni.lab.pretrain.fit import fit, readable, train_language
from pairuni.lab.pretrain.rows import KINDS, Pool, cell_labels, make_pool
from pairuni.lab.pretrain.vq import DimooTokenizer, decoder_loss, reconstruction_loss, reset_convolutions
from pairuni.policies.dimoo.model import Dimoo, DimooModel, first_layers, states_at
from pairuni.policies.dimoo.policy import DimooPolicy
from pairuni.policies.dimoo.prompts import GENERATE, UNDERSTAND, DimooPrompts, Layout
from pairuni.policies.dimoo.supervised import draw_blocks, draw_masks, supervised_loss
from pairuni.shapes.captions import caption
from pairuni.shapes.questions import LETTERS, ask_any
from pairuni.shapes.renderer import render
from pairuni.shapes.scenes import GRID, Scene, random_scene
from pairuni.streams import Stream, generator, number, seed_torch
from pairuni.tiny.build_dimoo import DimooSize, build_dimoo
from pairuni.tiny.build_janus import widen
from pairuni.tiny.corpus import DESCRIBE, corpus, training_caption

ANSWERS, CAPTION = (4, 16), 40
"""Slots of an answer (each step draws one of the two) and of a description."""
PADDING = 0.1
"""Weight of the slots after an answer's end: they are the most, and are learnt early."""
SIGHT_LAYERS = 2
"""Layers that learn to see first; later layers can use their states when they answer."""
SIZE = DimooSize(layers=6, rope_theta=30.0, image_steps=6, text_block=2, vq_channels=(32, 32, 32, 64, 64))
"""The model of `pairuni pretrain --family dimoo`. A code covers a whole cell: where four codes must agree on a thing,
training mostly changes how much is drawn, and the model learns little else (docs/results.md)."""


def make_dimoo(config: PretrainConfig, output: Path, size: DimooSize = SIZE) -> dict[str, float]:
    """Trains and saves the model. Returns the losses and the share of scenes that the image tokenizer keeps exactly."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module, tokenizer = build_dimoo(size, corpus(config.seed), config.seed)
    with torch.random.fork_rng(devices=[]):
        seed_torch(number(config.seed, Stream.PRETRAIN_WEIGHTS))
        widen(module.language)
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

    losses["language_loss"] = train_language(module.language, answers, drawings, config, output)
    saved = output / ".state" / "model"
    DimooPolicy(module.to("cpu", torch.bfloat16).eval(), tokenizer).save(saved)
    with added_to(output) as folder:  # copied, because `save` would replace the folder and .state/ in it
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
    """Trains the image tokenizer with given codes. Returns the mean loss of the last 50 steps.

    Encoder and decoder are trained together on the code of each scene's cells; then the decoder alone is trained on the
    encoder's output.

    Codes that a tokenizer finds by itself (vq.py) also depend on neighbours and size: 30 of them mean plain background,
    and half of them change if a thing moves by half a pixel. Codes that are filled in parallel cannot agree on such
    details: with them 7 % of images were exact after equally long training.
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

    fit(module, partial(draw, 0), output, "codes", config.vq_steps, config.vq_lr)
    loss = fit(module, partial(draw, 1), output, "decoder", config.decoder_steps, config.vq_lr)
    module.eval()
    return loss


class DimooRows:
    """Draws rows from a pool of scenes and computes their losses."""

    def __init__(self, module: Dimoo, tokenizer: PreTrainedTokenizerFast, pool: Pool, codes_NT: Tensor) -> None:
        self.module, self.tokenizer, self.pool, self.codes_NT = module, tokenizer, pool, codes_NT
        self.prompts = DimooPrompts(module, tokenizer)

    def answer_loss(self, images: int, turns: int, careless: float, rng: np.random.Generator) -> Tensor:
        """The loss of `turns - 1` questions about each image, answered with an option's text, and of one description.

        A share `careless` of the questions is answered with the first option, as a careless annotator would.
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
        """The loss of images given their captions; a share `drop` of the captions is left out, for guidance."""
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
        """Hidden states [images, codes, H] at the codes of images in prompts that ask about them, and the scenes."""
        seen = rng.integers(len(self.pool.scenes), size=images)
        scenes = [self.pool.scenes[i] for i in seen]
        prompts = [self._asking(int(i), ask_any(scene, rng).text) for i, scene in zip(seen, scenes, strict=True)]
        c = self.module.language.config
        layout = self.prompts.answer(1)
        # Places are negative: they count from the end of the prompt.
        places = torch.stack([(ids >= c.image_offset).nonzero()[:, 0] - len(ids) for ids in prompts])
        device = language.head.weight.device
        answers = layout.ids_A.repeat(images, 1).to(device)
        return states_at(language, prompts, answers, places.to(device)), scenes

    def _texts(self, rows: Sequence[tuple[int, str, str]], length: int) -> tuple[list[Tensor], Layout, Tensor]:
        """From (image, question, answer): prompts, the answers' layout, and the ids of their slots [n, length]."""
        c = self.module.language.config
        texts = [self.tokenizer(" " + answer, add_special_tokens=False)["input_ids"][:length] for *_, answer in rows]
        # Answers are padded after their end. The padding is learnt too, so that the model ends its answers.
        padded = [([*ids, c.answer_end_id] + [c.padding_id] * length)[:length] for ids in texts]
        return [self._asking(i, question) for i, question, _ in rows], self.prompts.answer(length), torch.tensor(padded)

    def _asking(self, i: int, question: str) -> Tensor:
        side = self.module.codes_per_side
        return self.prompts.chat(UNDERSTAND, question, [self.prompts.image_ids(self.codes_NT[i].view(side, side))])


class _Seeing(nn.Module):
    """The first layers with a temporary head that predicts, at each code, the content of the code's cell."""

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

    fit(seeing, draw, output, "sight", config.sight_steps, config.lr)
