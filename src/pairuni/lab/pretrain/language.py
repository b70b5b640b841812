"""The losses of a small Janus in pre-training: naming what an image shows, answers, and image codes.

Rows are right-padded and attention is causal, so no mask is needed.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import JanusForConditionalGeneration

from pairuni.lab.pretrain.rows import IGNORE, TextRows
from pairuni.shapes.scenes import COLOURS, GRID, SHAPES, Scene

KINDS = [(colour, shape) for colour in COLOURS for shape in SHAPES]


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
    ids = torch.full((len(prompts), int(lengths.max())), pad)
    for n, prompt in enumerate(prompts):
        ids[n, : len(prompt)] = torch.tensor(prompt)
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
