"""Training rows of the Shapes world for a small Janus: images, several questions about each, captions and codes.

A row of understanding holds one image and several turns, one of them a caption, because a small model does not learn
to see from single questions. Everything is a function of (seed, stage, step), so a run can stop and continue anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import JanusProcessor

from pairuni.shapes.captions import TASKS, caption, example, random_task
from pairuni.shapes.questions import ask_any
from pairuni.shapes.renderer import render
from pairuni.shapes.scenes import Scene, random_scene
from pairuni.tiny.corpus import DESCRIBE, training_caption

IGNORE = -100
"""Label of positions that have no loss."""


@dataclass(frozen=True)
class Pool:
    """Scenes with their images, uint8 [N, H, W, 3]."""

    scenes: tuple[Scene, ...]
    images: np.ndarray


def make_pool(size: int, rng: np.random.Generator) -> Pool:
    """Draws training scenes: half of them freely, half as examples of the six generation tasks."""
    scenes = []
    for n in range(size):
        if n % 2:
            scenes.append(random_scene(rng, "train"))
        else:
            _, requirement = random_task(TASKS[(n // 2) % len(TASKS)], rng, "train")
            scenes.append(example(requirement, rng, "train"))
    return Pool(tuple(scenes), np.stack([render(s, rng) for s in scenes]))


@dataclass(frozen=True)
class TextRows:
    """Right-padded rows: ids [B, L] and labels [B, L], IGNORE at positions without a loss."""

    ids_BL: Tensor
    labels_BL: Tensor


class RowWriter:
    """Writes rows in the model's own chat template, piece by piece, so that labels need no search."""

    def __init__(self, processor: JanusProcessor) -> None:
        self.tokenizer = processor.tokenizer
        user = {"role": "user", "content": [{"type": "text", "text": "\0"}]}
        before, after = processor.apply_chat_template([user], add_generation_prompt=True).split("\0")
        self.before, self.after = before, after
        image = processor.image_token * processor.num_image_tokens
        self.image = f"{processor.image_start_token}{image}{processor.image_end_token}\n"
        self.boi = int(self.tokenizer.convert_tokens_to_ids(processor.image_start_token))

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def understanding(
        self, scenes: Sequence[Scene], turns: int, rng: np.random.Generator, careless: float = 0.0
    ) -> TextRows:
        """Rows of one image and `turns` turns each: questions, and a caption at a random place among them.

        A share `careless` of the questions is answered with the first option, as a careless annotator would.
        """
        rows = []
        for scene in scenes:
            asked = [ask_any(scene, rng) for _ in range(turns - 1)]
            pieces = [
                (q.text, q.first_option if careless and rng.random() < careless else q.answer_text) for q in asked
            ]
            # The description names everything, and so teaches the model to see.
            pieces.insert(int(rng.integers(turns)), (str(rng.choice(DESCRIBE)), caption(scene, rng)))
            ids, labels = [self.tokenizer.bos_token_id], [IGNORE]
            for turn, (question, answer) in enumerate(pieces):
                # One text up to the answer, as the policy has it, because tokens may cross the borders of pieces.
                asked_ids = self.encode(self.before + (self.image if turn == 0 else "") + question + self.after)
                answer_ids = [*self.encode(" " + answer), self.tokenizer.eos_token_id]
                ids += asked_ids + answer_ids
                labels += [IGNORE] * len(asked_ids) + answer_ids
            rows.append((ids, labels))
        return self._pad(rows)

    def generation(self, scenes: Sequence[Scene], drop: float, rng: np.random.Generator) -> list[list[int]]:
        """Prompt ids ending in the begin-of-image token; a share `drop` is unconditional (text replaced by padding)."""
        rows = []
        for scene in scenes:
            body = self.encode(self.before + training_caption(scene, rng) + self.after)
            if rng.random() < drop:
                body = [self.tokenizer.pad_token_id] * len(body)
            rows.append([self.tokenizer.bos_token_id, *body, self.boi])
        return rows

    def _pad(self, rows: list[tuple[list[int], list[int]]]) -> TextRows:
        longest = max(len(ids) for ids, _ in rows)
        ids = torch.full((len(rows), longest), self.tokenizer.pad_token_id)
        labels = torch.full((len(rows), longest), IGNORE)
        for n, (row_ids, row_labels) in enumerate(rows):
            ids[n, : len(row_ids)] = torch.tensor(row_ids)
            labels[n, : len(row_labels)] = torch.tensor(row_labels)
        return TextRows(ids, labels)
