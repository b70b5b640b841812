"""Writes the model card of a pre-trained Shapes model from its measurements."""

from dataclasses import dataclass
from typing import Any

from pairuni.config import PretrainConfig
from pairuni.shapes.captions import TASKS
from pairuni.shapes.questions import TYPES


@dataclass(frozen=True)
class _Family:
    name: str
    what: str
    sight: str
    """Name of the stage that learns to see."""
    drawn: str
    """How images are drawn when they are measured."""
    tags: str
    tokens: str
    """Number of tokens of an image, in words."""


FAMILIES = {
    "janus": _Family(
        "shapes-janus",
        "A small Janus (transformers' `JanusForConditionalGeneration`, 3.3 M parameters, bf16)",
        "vision tower",
        "",
        "janus, any-to-any, synthetic",
        "36 image tokens",
    ),
    "dimoo": _Family(
        "shapes-dimoo",
        "A small Lumina-DiMOO (masked diffusion over one vocabulary of text and image codes, 3.1 M parameters, bf16)",
        "seeing",
        ", 6 steps in random order",
        "lumina-dimoo, masked-diffusion, any-to-any, synthetic",
        "9 image tokens",
    ),
}


def above_chance(accuracy: float, chance: float) -> float:
    """(accuracy - chance) / (1 - chance), both in [0, 1]."""
    return (accuracy - chance) / (1 - chance)


def model_card(config: PretrainConfig, summary: dict[str, Any], results: dict[str, dict[str, Any]]) -> str:
    """README.md of the checkpoint, in Markdown.

    Args:
        summary: what `run_pretrain` returns.
        results: entries of eval.json by benchmark.
    """
    family = FAMILIES[config.family]
    answers, images = results["shapes_understanding"], results["shapes_generation"]
    rows = [f"| {name} | {answers['parts'][name]:.1f} |" for name in TYPES]
    tasks = [f"| {name} | {images['parts'][name]:.1f} |" for name in TASKS]
    return f"""---
license: apache-2.0
library_name: transformers
tags: [{family.tags}]
---
# {family.name}

{family.what} for the Shapes world: it
answers multiple-choice questions about 48-pixel images of one to four coloured shapes and draws such images from
captions ({family.tokens}, 128 codes). It is middling on purpose, so that reinforcement learning has room on both sides.
It knows nothing else.

Made from nothing by `pairuni pretrain` (family {config.family}) with seed {config.seed} on rendered training
scenes only. Steps: image tokenizer
{config.auto_steps} + {config.vq_steps} + {config.decoder_steps}, {family.sight} {config.sight_steps}, language model
{config.answer_steps} on answers, {config.language_steps} + {config.refine_steps} + {config.careless_steps} on both
sides. Held-out combinations of shapes, colours, numbers, places and relations never occur in them.

Its answers are flawed on purpose: in the last {config.careless_steps} steps {config.careless:.0%} of the questions are
answered with the first option, whatever the image shows, as a careless annotator would. The model therefore sees more
than it says; part of what reinforcement learning gains on questions is unlearning this habit.

## Measured on held-out items

Reconstructions by the tokenizer alone that the detector reads exactly: {100 * summary["vq_exact"]:.1f} % of 500.

Questions, greedy: {answers["score"]:.1f} % right (standard error {answers["stderr"]:.1f}, n = {answers["n"]}), which is
{summary["above_chance"]:.2f} above chance on the scale (accuracy - chance) / (1 - chance).

| question type | % right |
|---|---|
{chr(10).join(rows)}

Images, temperature 1, guidance {summary["guidance"]:g}{family.drawn}: {images["score"]:.1f} % exactly
what the prompt asks (standard error {images["stderr"]:.1f}, n = {images["n"]}).

| task | % exact |
|---|---|
{chr(10).join(tasks)}
"""
