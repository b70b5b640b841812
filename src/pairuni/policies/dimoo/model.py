"""Lumina-DiMOO's transformer: bidirectional, LLaMA-like, its weights named as in the released checkpoint.

Logits at a position predict that position's own token, no shift. Heads run on the slots and vocabulary slice that are
asked for: all logits of one 512-pixel sample over 134,548 ids would be 0.6 GB. Padding is invisible to every other
token (the released code hands no mask to attention, so that it leaks). Pixels go through diffusers' VQModel.
Shapes: n rows, L padded tokens, H hidden width, S slots, V ids of the asked slice, h x w codes of an image.
"""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from diffusers.models.autoencoders.vq_model import VQModel
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from pairuni.policies.requests import PIXEL_BATCH

Order = Literal["random", "confidence"]
Estimator = Literal["trace", "mean_field", "random_mask", "coupled"]


class DimooConfig(PreTrainedConfig):
    """The fields of the released config.json (LLaDA's names), and ids and schedules, by default those of the release.

    scored_image_steps: of a rollout, those that have log-probs and a gradient, and weigh for the others; 0: all.
    text_block: slots that are filled before the next ones are; 0: all at once.
    order: `random` (of each prompt; log-probs are exact) or `confidence` (the released sampler's; they are not).
    estimator: which forwards score a rollout (estimators.py).
    masked_prompt: share of a prompt's tokens that `mean_field` masks.
    cached_share: above 0 images are drawn with a cache, for evaluation alone (cache.py).
    """

    model_type = "llada"

    d_model: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    mlp_hidden_size: int = 12288
    embedding_size: int = 134_548
    rope_theta: float = 500_000.0
    rms_norm_eps: float = 1e-5
    mask_token_id: int = 126_336
    eos_id: int = 126_081
    newline_id: int = 126_084
    padding_id: int = 126_339
    image_id: int = 126_349
    image_end_id: int = 126_350
    uncondition_id: int = 126_351
    answer_id: int = 126_354
    answer_end_id: int = 126_355
    image_offset: int = 126_356
    image_steps: int = 35
    scored_image_steps: int = 0
    text_steps: int = 2
    text_block: int = 0
    order: str = "random"
    estimator: str = "trace"
    masked_prompt: float = 0.15
    cached_share: float = 0.0
    image_size: int = 512

    def problems(self) -> dict[str, str]:
        """What is wrong with the fields that say how rollouts are drawn and scored."""
        least = {"image_steps": 1, "text_steps": 1, "scored_image_steps": 0, "text_block": 0}
        found = {
            name: f"must be a whole number of at least {low}, not {value!r}"
            for name, low in least.items()
            if type(value := getattr(self, name)) is not int or value < low
        }
        for name, known in (("order", get_args(Order)), ("estimator", get_args(Estimator))):
            if getattr(self, name) not in known:
                found[name] = f"must be one of {', '.join(known)}, not {getattr(self, name)!r}"
        share = self.masked_prompt
        if not isinstance(share, int | float) or not 0 <= share < 1:
            found["masked_prompt"] = f"must be at least 0 and below 1, not {share!r}"
        share = self.cached_share
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            found["cached_share"] = f"must be between 0 and 1, not {share!r}"
        return found

    def tokens(self) -> dict[str, int]:
        """Special tokens that are no words, by the names that a tokenizer may give them."""
        return {
            "<|mdm_mask|>": self.mask_token_id,
            "<|endoftext|>": self.eos_id,
            "<newline>": self.newline_id,
            "<padding>": self.padding_id,
            "<IMAGE>": self.image_id,
            "</IMAGE>": self.image_end_id,
            "<uncondition>": self.uncondition_id,
            "<answer>": self.answer_id,
            "</answer>": self.answer_end_id,
        }


class _Block(GradientCheckpointingLayer):
    def __init__(self, config: DimooConfig) -> None:
        super().__init__()
        width, inner = config.d_model, config.mlp_hidden_size
        self.heads = config.n_heads
        self.attn_norm = nn.RMSNorm(width, config.rms_norm_eps)
        self.ff_norm = nn.RMSNorm(width, config.rms_norm_eps)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.ff_proj = nn.Linear(width, inner, bias=False)  # the gate
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.ff_out = nn.Linear(inner, width, bias=False)

    def forward(
        self, hidden_nLH: Tensor, cos_LD: Tensor, sin_LD: Tensor, seen: Tensor | None, kept: "Kept | None" = None
    ) -> Tensor:
        normed = self.attn_norm(hidden_nLH)
        query, key, value = (
            project(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = (_rotate(x, cos_LD, sin_LD) for x in (query, key))
        if kept is not None:
            key, value = kept.put(key, value)
        mixed = _attend(query, key, value, seen)
        hidden_nLH = hidden_nLH + self.attn_out(mixed.transpose(1, 2).flatten(2))
        normed = self.ff_norm(hidden_nLH)
        return hidden_nLH + self.ff_out(functional.silu(self.ff_proj(normed)) * self.up_proj(normed))


class Kept:
    """Keys and values of one block for all tokens, of which later forwards compute some anew."""

    def __init__(self) -> None:
        self.both: tuple[Tensor, Tensor] | None = None
        self.places_nP: Tensor | None = None
        """Tokens that the next forward is of; None: all."""

    def put(self, key_nhPD: Tensor, value_nhPD: Tensor) -> tuple[Tensor, Tensor]:
        """[n, h, L, D] twice: what is kept, with the new ones in their places."""
        new = (key_nhPD, value_nhPD)
        if self.places_nP is not None:
            assert self.both is not None, "the first forward is of all tokens"
            places = self.places_nP[:, None, :, None].expand_as(key_nhPD)
            new = (self.both[0].scatter(2, places, new[0]), self.both[1].scatter(2, places, new[1]))
        self.both = new
        return new


def _attend(query_nhLD: Tensor, key_nhLD: Tensor, value_nhLD: Tensor, seen: Tensor | None) -> Tensor:
    kind = query_nhLD.device.type
    if kind != "cpu":
        return functional.scaled_dot_product_attention(query_nhLD, key_nhLD, value_nhLD, attn_mask=seen)
    # torch's bf16 attention takes four times as long backwards on a CPU as that in fp32.
    with torch.autocast(kind, enabled=False):
        parts = (part.float() for part in (query_nhLD, key_nhLD, value_nhLD))
        return functional.scaled_dot_product_attention(*parts, attn_mask=seen)


def _rotate(x_nhLD: Tensor, cos_LD: Tensor, sin_LD: Tensor) -> Tensor:
    """Rotary embedding in fp32, the halves of a head rotated against each other."""
    left, right = x_nhLD.float().chunk(2, -1)
    turned = torch.cat([-right, left], -1)
    return (x_nhLD.float() * cos_LD + turned * sin_LD).to(x_nhLD.dtype)


class _Named(nn.Module):
    """Submodules under the checkpoint's names."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


class DimooModel(PreTrainedModel):
    """`model.transformer.{wte, blocks.i, ln_f, ff_out}`: embeddings, blocks, last norm, head."""

    config_class = DimooConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = ["_Block"]  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: DimooConfig) -> None:
        super().__init__(config)
        width, ids = config.d_model, config.embedding_size
        self.model = _Named(
            transformer=_Named(
                wte=nn.Embedding(ids, width),
                blocks=nn.ModuleList(_Block(config) for _ in range(config.n_layers)),
                ln_f=nn.RMSNorm(width, config.rms_norm_eps),
                ff_out=nn.Linear(width, ids, bias=False),
            )
        )
        self.post_init()

    @property
    def head(self) -> nn.Linear:
        return self._transformer.ff_out

    @property
    def blocks(self) -> nn.ModuleList:
        return self._transformer.blocks

    @property
    def _transformer(self) -> Any:
        return self.model.transformer

    def logits(self, states: Tensor, ids: slice) -> Tensor:
        """[..., V] of the ids of a slice, from states [..., H]."""
        return functional.linear(states, self.head.weight[ids])

    def get_input_embeddings(self) -> nn.Module:
        return self._transformer.wte

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)

    def forward(
        self,
        ids_nL: Tensor,
        attended_nL: Tensor | None = None,
        kept: Sequence[Kept] | None = None,
        places_nP: Tensor | None = None,
    ) -> Tensor:
        """[n, L, H]: the normalised states, of which `head` makes logits; [n, P, H] where `places_nP` are given.

        Args:
            ids_nL: int64, padded on the right.
            attended_nL: bool, False at padding; None where there is none.
            kept: of each block; filled by a forward of all tokens, and read by those of some.
            places_nP: int64: tokens that are computed. The others stay as they are in `kept`.
        """
        transformer = self._transformer
        hidden = transformer.wte(ids_nL if places_nP is None else ids_nL.gather(1, places_nP))
        cos, sin = self._rotary(ids_nL.shape[1], hidden.device)
        if places_nP is not None:
            cos, sin = cos[places_nP][:, None], sin[places_nP][:, None]
        seen = None if attended_nL is None else attended_nL[:, None, None, :]
        for block, own in zip(transformer.blocks, kept or [None] * len(transformer.blocks), strict=True):
            if own is not None:
                own.places_nP = places_nP
            hidden = block(hidden, cos, sin, seen, own)
        return transformer.ln_f(hidden)

    def _rotary(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        half = self.config.d_model // self.config.n_heads // 2
        exponents = torch.arange(half, device=device, dtype=torch.float32) / half
        angles = torch.arange(length, device=device)[:, None] * self.config.rope_theta**-exponents
        return torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)


class Dimoo(nn.Module):
    """The transformer, and the image tokenizer beside it: what is saved as two folders."""

    def __init__(self, language: DimooModel, vqvae: VQModel) -> None:
        super().__init__()
        self.language, self.vqvae = language, vqvae
        self.downsample: int = 2 ** (len(vqvae.config["block_out_channels"]) - 1)

    @property
    def image_size(self) -> int:
        return self.language.config.image_size

    @property
    def codes_per_side(self) -> int:
        return self.image_size // self.downsample

    @property
    def codebook(self) -> int:
        return int(self.vqvae.config["num_vq_embeddings"])

    @property
    def step(self) -> int:
        """Sides of input images are multiples of it, pixels: of two codes, or of one where the model's own images are.

        An image of the model's own size is so left as it is.
        """
        return self.downsample * (1 if self.codes_per_side % 2 else 2)

    def gradient_checkpointing_enable(self) -> None:
        self.language.gradient_checkpointing_enable()

    @torch.no_grad()
    def encode_pixels(self, pixels_HWC: np.ndarray) -> Tensor:
        """int64 [h, w] codes on the CPU of a uint8 image, in fp32. The tokenizer reads numbers in [0, 1]."""
        pixels = torch.from_numpy(pixels_HWC.copy()).permute(2, 0, 1)[None].float() / 255
        return self.encode(pixels.to(self.vqvae.device))[0].cpu()

    def encode(self, pixels_nCHW: Tensor) -> Tensor:
        """int64 [n, h, w] codes."""
        latents = self.vqvae.encode(pixels_nCHW).latents
        return self.vqvae.quantize(latents)[2][2].view(len(latents), *latents.shape[2:])

    @torch.no_grad()
    def decode_pixels(self, codes_nN: Tensor) -> np.ndarray:
        """uint8 [n, height, width, 3] of square images, in fp32."""
        return torch.cat([self.decode(part).cpu() for part in codes_nN.split(PIXEL_BATCH)]).numpy()

    def decode(self, codes_nN: Tensor) -> Tensor:
        """uint8 [n, height, width, 3] on the model's device, of all images at once."""
        side = self.codes_per_side
        shape = (len(codes_nN), side, side, self.vqvae.quantize.vq_embed_dim)  # the config's may be null
        codes = codes_nN.view(shape[:3]).to(self.vqvae.device)
        decoded: Any = self.vqvae.decode(codes, force_not_quantize=True, shape=shape)
        return (decoded.sample.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def first_layers(language: DimooModel, layers: int) -> DimooModel:
    """A model of the first `layers` blocks: embeddings and blocks are those of `language`, norm and head its own."""
    config: Any = copy.deepcopy(language.config)
    config.n_layers = layers
    shallow = DimooModel(config)
    parts, whole = shallow._transformer, language._transformer
    parts.wte, parts.blocks = whole.wte, whole.blocks[:layers]
    return shallow


def states_at(language: DimooModel, rows: Sequence[Tensor], answers_nA: Tensor, places_nS: Tensor) -> Tensor:
    """[n, S, H]: the states at `places_nS` of the answer parts, each behind its prompt of its own length.

    Args:
        rows: n prompts, int64.
        answers_nA: what stands behind them, on the model's device.
    """
    ids_nL, starts_n1, attended_nL = laid_out(rows, answers_nA)
    return at(language(ids_nL, attended_nL), starts_n1 + places_nS)


def laid_out(rows: Sequence[Tensor], answers_nA: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """int64 [n, L] prompts and answer parts, padded; int64 [n, 1] where the parts begin; bool [n, L] or None."""
    lengths = [len(row) + answers_nA.shape[1] for row in rows]
    ids_nL = torch.zeros(len(rows), max(lengths), dtype=torch.int64)
    for i, row in enumerate(rows):
        ids_nL[i, : len(row)] = row
    ids_nL = ids_nL.to(answers_nA.device)
    starts_n1 = torch.tensor([[len(row)] for row in rows], device=answers_nA.device)
    answer_nA = starts_n1 + torch.arange(answers_nA.shape[1], device=answers_nA.device)
    ids_nL = ids_nL.scatter(1, answer_nA, answers_nA)
    # True padding mask: what stands behind a shorter row is seen by nobody.
    attended_nL = None
    if min(lengths) < max(lengths):
        ends_n1 = starts_n1 + answers_nA.shape[1]
        attended_nL = torch.arange(ids_nL.shape[1], device=ids_nL.device) < ends_n1
    return ids_nL, starts_n1, attended_nL


def at(states_nLH: Tensor, places_nS: Tensor) -> Tensor:
    """[n, S, H]: of each row, the states at its own places."""
    return states_nLH.gather(1, places_nS[..., None].expand(-1, -1, states_nLH.shape[-1]))
