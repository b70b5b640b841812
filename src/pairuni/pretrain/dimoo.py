"""Pre-trains the small Lumina-DiMOO of the Shapes world: image tokenizer, seeing, answers, images.

The language model is its own vision tower: an image is 36 ids of its vocabulary. Rows are single turns, since all
tokens of a row see one another.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from pairuni.config import PretrainConfig
from pairuni.policies.dimoo.model import Dimoo, states_at
from pairuni.policies.dimoo.policy import DimooPolicy
from pairuni.policies.dimoo.prompts import EDIT, GENERATE, UNDERSTAND, DimooPrompts, Layout
from pairuni.policies.dimoo.supervised import draw_masks, supervised_loss
from pairuni.pretrain.build_dimoo import DimooSize, build_dimoo, widen
from pairuni.pretrain.language import KINDS, cell_labels
from pairuni.pretrain.rows import DESCRIBE, Pool, corpus, make_pool, training_caption
from pairuni.pretrain.stages import fit, readable, train_language, train_tokenizer
from pairuni.pretrain.vq import DimooTokenizer
from pairuni.shapes.captions import caption
from pairuni.shapes.questions import LETTERS, Question, ask_any
from pairuni.shapes.scenes import Scene

ANSWER, CAPTION = 16, 40
"""Slots of an answer, as evaluation gives it, and of a description."""
PADDING = 0.1
"""Weight of what stands behind an answer's end: most slots, and soon known."""
SIZE = DimooSize(layers=6, vocabulary=640, rope_theta=30.0, image_steps=12)
"""Of the model that `pairuni pretrain --family dimoo` makes."""


def make_dimoo(config: PretrainConfig, output: Path, size: DimooSize = SIZE) -> dict[str, float]:
    """Trains and saves the model. Returns losses, and the share of scenes that survive the image tokenizer."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    systems = [f"<system>{system}</system><user></user>" for system in (UNDERSTAND, GENERATE, EDIT)]
    texts = corpus(config.seed)
    # As often as the words of captions, so that each of their words becomes a token.
    module, tokenizer = build_dimoo(size, texts + systems * (len(texts) // 15), config.seed)
    widen(module.language, config.seed)
    module.to(device)
    images = DimooTokenizer(module.vqvae)
    losses = {"vq_loss": train_tokenizer(images, config, output), "vq_exact": readable(images, config.seed)}
    module.vqvae.requires_grad_(False)
    pool = make_pool(config.pool, np.random.default_rng([config.seed, 4]))
    rows = DimooRows(module, tokenizer, pool, images.encode(pool.images))
    module.language.train()
    _train_sight(module, rows, config, output)

    def answers(careless: float, rng: np.random.Generator) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.bf16):
            return rows.answer_loss(config.answer_rows, config.turns, careless, rng)

    def drawings(rng: np.random.Generator) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.bf16):
            return rows.image_loss(config.image_rows, config.drop, rng)

    losses["language_loss"] = train_language(module.language, (answers, drawings), config, output)
    saved = output / ".state" / "model"
    DimooPolicy(module.to("cpu", torch.bfloat16).eval(), tokenizer).save(saved)
    shutil.copytree(saved, output, dirs_exist_ok=True)  # beside the states, which `save` would replace
    return losses


def letter_first(question: Question, letter: str) -> str:
    """The answer with its letter in front: slots that are filled side by side do not agree on where words end."""
    return f"{letter}. {question.options[LETTERS.index(letter)]}"


class DimooRows:
    """Losses of rows that are drawn from a pool of scenes."""

    def __init__(self, module: Dimoo, tokenizer: PreTrainedTokenizerFast, pool: Pool, codes_NT: Tensor) -> None:
        self.module, self.tokenizer, self.pool, self.codes_NT = module, tokenizer, pool, codes_NT
        self.prompts = DimooPrompts(module, tokenizer)

    def answer_loss(self, images: int, turns: int, careless: float, rng: np.random.Generator) -> Tensor:
        """Of `turns - 1` questions about each image, and of one description of it.

        A share `careless` of the questions is answered with the first option, as by someone who does not look.
        """
        seen = rng.integers(len(self.pool.scenes), size=images)
        asked: list[tuple[int, str, str]] = []
        for i in seen:
            for question in (ask_any(self.pool.scenes[i], rng) for _ in range(turns - 1)):
                first = careless and rng.random() < careless
                asked.append((int(i), question.text, letter_first(question, "A" if first else question.answer)))
        described = [(int(i), str(rng.choice(DESCRIBE)), caption(self.pool.scenes[i], rng)) for i in seen]
        return self._text_loss(asked, ANSWER, rng) + self._text_loss(described, CAPTION, rng)

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

    def seeing_states(self, images: int, rng: np.random.Generator) -> tuple[Tensor, list[Scene]]:
        """[images, codes, H]: states at an image's codes in a prompt that asks about it, and what is on it."""
        seen = rng.integers(len(self.pool.scenes), size=images)
        scenes = [self.pool.scenes[i] for i in seen]
        prompts = [self._asking(int(i), ask_any(scene, rng).text) for i, scene in zip(seen, scenes, strict=True)]
        c = self.module.language.config
        layout = self.prompts.answer(1)
        # Places count from the end of the prompt, which the image is before.
        places = torch.stack([(ids >= c.image_offset).nonzero()[:, 0] - len(ids) for ids in prompts])
        device = self.module.language.head.weight.device
        answers = layout.ids_A.repeat(images, 1).to(device)
        return states_at(self.module.language, prompts, answers, places.to(device)), scenes

    def _text_loss(self, rows: Sequence[tuple[int, str, str]], length: int, rng: np.random.Generator) -> Tensor:
        prompts = [self._asking(i, question) for i, question, _ in rows]
        texts = [self.tokenizer(" " + answer, add_special_tokens=False)["input_ids"][:length] for *_, answer in rows]
        layout: Layout = self.prompts.answer(length)
        c = self.module.language.config
        # Behind its end an answer is padded; the padding is learnt too, so that the model writes ends and not rests.
        padded = [([*ids, c.answer_end_id] + [c.padding_id] * length)[:length] for ids in texts]
        # Short answers too are masked in part: that the letter stands before the word is learnt where one is seen.
        masks, targets = draw_masks([length] * len(rows), length, rng, short=0), torch.tensor(padded)
        weights = torch.where(targets == c.padding_id, PADDING, 1.0)
        return supervised_loss(self.module.language, prompts, layout, targets, masks, weights)

    def _asking(self, i: int, question: str) -> Tensor:
        side = self.module.codes_per_side
        return self.prompts.chat(UNDERSTAND, question, [self.prompts.image_ids(self.codes_NT[i].view(side, side))])


class _Seeing(nn.Module):
    """The language model with a throw-away head that names, at each code of an image, what is in the code's cell."""

    def __init__(self, module: Dimoo) -> None:
        super().__init__()
        self.language = module.language
        self.head = nn.Linear(module.language.config.d_model, 1 + len(KINDS))


def _train_sight(module: Dimoo, rows: DimooRows, config: PretrainConfig, output: Path) -> None:
    torch.manual_seed(config.seed)
    seeing = _Seeing(module).to(module.language.head.weight.device)

    def draw(step: int) -> Tensor:
        rng = np.random.default_rng([config.seed, 6, step])
        states, scenes = rows.seeing_states(config.sight_batch, rng)
        labels = torch.stack([cell_labels(scene, module.codes_per_side) for scene in scenes]).to(states.device)
        return F.cross_entropy(seeing.head(states).float().flatten(0, 1), labels.flatten())

    fit(seeing, draw, ("sight", config.sight_steps, config.lr, True), output)
