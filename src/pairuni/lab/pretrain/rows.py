"""Training rows of the Shapes world for a small Janus, and its losses: seeing, answers, image codes.

A row of understanding holds one image and several turns, one of them a caption, because a small model does not learn
to see from single questions. Everything is a function of (seed, stage, step), so a run can stop and continue anywhere.
Rows are right-padded and attention is causal, so no mask is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import JanusForConditionalGeneration, JanusProcessor

from pairuni.shapes.captions import TASKS, caption, example, random_task
from pairuni.shapes.questions import ask_any
from pairuni.shapes.renderer import render
from pairuni.shapes.scenes import COLOURS, GRID, SHAPES, Scene, random_scene
from pairuni.tiny.corpus import DESCRIBE, training_caption

KINDS = [(colour, shape) for colour in COLOURS for shape in SHAPES]
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
        ids, labels = ([torch.tensor(part) for part in parts] for parts in zip(*rows, strict=True))
        pad = int(self.tokenizer.pad_token_id)
        return TextRows(pad_sequence(ids, True, pad), pad_sequence(labels, True, IGNORE))

    def generation(self, scenes: Sequence[Scene], drop: float, rng: np.random.Generator) -> list[list[int]]:
        """Prompt ids ending in the begin-of-image token; a share `drop` is unconditional (text replaced by padding)."""
        rows = []
        for scene in scenes:
            body = self.encode(self.before + training_caption(scene, rng) + self.after)
            if rng.random() < drop:
                body = [self.tokenizer.pad_token_id] * len(body)
            rows.append([self.tokenizer.bos_token_id, *body, self.boi])
        return rows


def cell_labels(scene: Scene, side: int) -> Tensor:
    """int64 [side, side] image tokens: 0 where a token's cell is empty, else 1 + the thing's place in KINDS."""
    cells = torch.zeros(GRID, GRID, dtype=torch.int64)
    for thing in scene.things:
        cells[thing.row, thing.column] = 1 + KINDS.index(thing.kind)
    return cells.repeat_interleave(side // GRID, 0).repeat_interleave(side // GRID, 1)


class Sight(nn.Module):
    """The vision tower with a temporary head that predicts, at each image token, the content of the token's cell.

    From the loss of answers alone a small tower does not learn to see within thousands of steps; with this loss it does
    in hundreds. Each token then describes its whole cell, so the language model needs to attend to one token only.
    """

    def __init__(self, model: JanusForConditionalGeneration) -> None:
        super().__init__()
        inner = model.model
        self.vision, self.aligner = inner.vision_model, inner.aligner
        self.side = int(inner.vision_model.config.num_image_tokens**0.5) // GRID
        self.head = nn.Linear(inner.language_model.config.hidden_size, 1 + len(KINDS))

    def loss(self, pixels_B3HW: Tensor, scenes: Sequence[Scene]) -> Tensor:
        """Mean cross-entropy over the image tokens; 0 is an empty cell."""
        features = self.aligner(self.vision(pixels_B3HW, return_dict=True).last_hidden_state)
        labels = torch.stack([cell_labels(scene, self.side * GRID) for scene in scenes])
        return F.cross_entropy(self.head(features).float().flatten(0, 1), labels.flatten().to(features.device))


def answer_loss(model: JanusForConditionalGeneration, rows: TextRows, pixels_B3HW: Tensor) -> Tensor:
    """Mean cross-entropy of the answer tokens. The head is computed at these positions only."""
    inner = model.model
    # transformers' type stub lacks return_dict and the output type.
    features = inner.get_image_features(pixels_B3HW, return_dict=True).pooler_output  # pyright: ignore[reportCallIssue]
    embedded = inner.language_model.embed_tokens(rows.ids_BL)
    place = (rows.ids_BL == model.config.image_token_id).unsqueeze(-1).expand_as(embedded)
    embedded = embedded.masked_scatter(place, features.reshape(-1, embedded.shape[-1]).to(embedded.dtype))
    hidden = inner.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state[:, :-1]
    labels = rows.labels_BL[:, 1:]
    learnt = labels != IGNORE
    return F.cross_entropy(model.lm_head(hidden[learnt]).float(), labels[learnt])


def image_loss(model: JanusForConditionalGeneration, prompts: list[list[int]], codes_BT: Tensor) -> Tensor:
    """Mean cross-entropy of image codes after prompts of any lengths."""
    inner, pad = model.model, model.model.language_model.config.pad_token_id
    lengths = torch.tensor([len(p) for p in prompts])
    tokens = codes_BT.shape[1]
    ids = pad_sequence([torch.tensor(prompt) for prompt in prompts], True, pad)
    text = inner.language_model.embed_tokens(ids)
    codes = model.prepare_embeddings_for_image_generation(codes_BT[:, :-1])
    # Codes follow each prompt's own end: a row is [prompt | codes | padding].
    position = lengths[:, None] + torch.arange(tokens - 1)
    embedded = F.pad(text, (0, 0, 0, tokens - 1))
    embedded = embedded.scatter(1, position.unsqueeze(-1).expand(-1, -1, text.shape[-1]), codes.to(text.dtype))
    hidden = inner.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    scored = (lengths[:, None] - 1 + torch.arange(tokens)).unsqueeze(-1).expand(-1, -1, text.shape[-1])
    logits = inner.generation_head(hidden.gather(1, scored)).float()
    return F.cross_entropy(logits.flatten(0, 1), codes_BT.flatten())
