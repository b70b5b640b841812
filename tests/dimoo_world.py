"""Small Lumina-DiMOO models whose distributions are sharp, rollouts of them, and the forward written in NumPy."""

import math

import numpy as np
import torch

from pairuni.policies.dimoo.model import DimooModel
from pairuni.policies.dimoo.policy import DimooPolicy
from pairuni.policies.sampling import counter_seed
from pairuni.tiny.build_dimoo import DimooSize, build_dimoo
from pairuni.types import Prompt, Rollouts, SamplingSpec, Side

R = 3


def sampled(
    policy: DimooPolicy, side: Side, spec: SamplingSpec, texts: tuple[str, ...] = ("a", "two circles")
) -> Rollouts:
    rng = np.random.default_rng(0)
    images = [(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8),) for _ in texts]
    asked = [Prompt(side, t, i if side is Side.UNDERSTANDING else ()) for t, i in zip(texts, images, strict=True)]
    seeds = [[counter_seed(0, 1, b, side, r) for r in range(R)] for b in range(len(texts))]
    return policy.sample(side, asked, R, spec, np.array(seeds, dtype=np.uint64))


def sharp_dimoo(size: DimooSize, corpus: list[str], gain: float, seed: int) -> DimooPolicy:
    """Larger random weights: at the class' initial 0.02 every distribution is nearly flat and hides mistakes."""
    module, tokenizer = build_dimoo(size, corpus, seed=0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.language.parameters():
            if weight.ndim == 2:
                weight.normal_(0, gain * weight.shape[1] ** -0.5, generator=generator)
        module.language.get_input_embeddings().weight.normal_(0, 1, generator=generator)
    return DimooPolicy(module.eval(), tokenizer)


def by_hand(model: DimooModel, ids_L: np.ndarray) -> np.ndarray:
    """Logits [L, V] of one row in NumPy, written from the architecture."""
    w = {name.removeprefix("model.transformer."): p.detach().double().numpy() for name, p in model.named_parameters()}
    heads, eps, theta = model.config.n_heads, model.config.rms_norm_eps, model.config.rope_theta

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * w[name]

    x = w["wte.weight"][ids_L]
    length, width = x.shape
    size = width // heads
    angles = np.arange(length)[:, None] / theta ** (np.arange(0, size, 2) / size)

    def turn(v: np.ndarray) -> np.ndarray:
        a, b = v[:, : size // 2], v[:, size // 2 :]
        return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], 1)

    for i in range(model.config.n_layers):
        at = f"blocks.{i}."
        h = norm(x, at + "attn_norm.weight")
        q, k, v = (h @ w[f"{at}{name}_proj.weight"].T for name in "qkv")
        parts = []
        for n in range(heads):
            own = slice(n * size, (n + 1) * size)
            scores = turn(q[:, own]) @ turn(k[:, own]).T / math.sqrt(size)
            powers = np.exp(scores - scores.max(1, keepdims=True))
            parts.append(powers / powers.sum(1, keepdims=True) @ v[:, own])
        x = x + np.concatenate(parts, 1) @ w[at + "attn_out.weight"].T
        h = norm(x, at + "ff_norm.weight")
        gate = h @ w[at + "ff_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w[at + "up_proj.weight"].T)) @ w[at + "ff_out.weight"].T
    return norm(x, "ln_f.weight") @ w["ff_out.weight"].T
