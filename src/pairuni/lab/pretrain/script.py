"""`pairuni pretrain`: trains a small model of the Shapes world from nothing, to a middling level on both sides.

Each family has a seeded script whose stages continue from their last saved step. The result is an ordinary
`save_pretrained` folder in bf16 with a model card.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairuni.config import EvalConfig, PretrainConfig
from pairuni.eval.runner import evaluate
from pairuni.files import read_jsonl, write_json, write_text
from pairuni.lab.pretrain.fit import training_seconds
from pairuni.policies import load_policy, of_family
from pairuni.shapes.captions import TASKS
from pairuni.shapes.questions import TYPES

GUIDANCE = 2.0
"""Guidance of the images that the model card measures; a model of this size draws best with it."""


@dataclass(frozen=True)
class _Family:
    make: str
    """The script, a function of the config and the folder to write."""
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
        "pairuni.lab.pretrain.make_janus:make_janus",
        "shapes-janus",
        "A small Janus (transformers' `JanusForConditionalGeneration`, 3.3 M parameters, bf16)",
        "vision tower",
        "",
        "janus, any-to-any, synthetic",
        "36 image tokens",
    ),
    "dimoo": _Family(
        "pairuni.lab.pretrain.make_dimoo:make_dimoo",
        "shapes-dimoo",
        "A small Lumina-DiMOO (masked diffusion over one vocabulary of text and image codes, 3.1 M parameters, bf16)",
        "seeing",
        ", 6 steps in random order",
        "lumina-dimoo, masked-diffusion, any-to-any, synthetic",
        "9 image tokens",
    ),
}


def run_pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Trains and writes `config.output`; continues from `config.output`/.state where one is. Returns a summary.

    The folder holds the model, its processor, pretrain.json (the summary) and README.md (the model card).

    Raises:
        InputError: diffusers, which has Lumina-DiMOO's image tokenizer, is not installed.
    """
    make = of_family(FAMILIES[config.family].make, config.family)
    return measure(config, make(config, Path(config.output)))


def measure(config: PretrainConfig, losses: Mapping[str, float]) -> dict[str, Any]:
    """Evaluates the saved model on held-out items and writes the summary and the model card."""
    output = Path(config.output)
    measured = EvalConfig(questions=config.questions, prompts=config.prompts, guidance=GUIDANCE, batch=250)
    results = evaluate(load_policy(str(output)), measured, output / ".state")
    chances = [row["chance"] for _, row in read_jsonl(output / ".state" / "answers_shapes_understanding.jsonl")]
    accuracy, chance = results["shapes_understanding"]["score"] / 100, sum(chances) / len(chances)
    summary = {
        **losses,
        "above_chance": round((accuracy - chance) / (1 - chance), 3),
        "exact_images": results["shapes_generation"]["score"],
        "guidance": GUIDANCE,
        "seconds": round(training_seconds(output), 1),
    }
    write_json(output / "pretrain.json", summary)
    write_text(output / "README.md", model_card(config, summary, results))
    return summary


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
