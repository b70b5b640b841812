"""`pairuni pretrain`: trains a small model of the Shapes world from nothing, to a middling level on both sides.

Each family has a seeded script whose stages continue from their last saved step. The result is an ordinary
`save_pretrained` folder in bf16 with a model card.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pairuni.config import EvalConfig, PretrainConfig
from pairuni.eval.runner import evaluate
from pairuni.files import read_jsonl, write_json, write_text
from pairuni.lab.pretrain.fit import training_seconds
from pairuni.lab.pretrain.model_card import above_chance, model_card
from pairuni.policies import load_policy, of_family

FAMILIES = {
    "janus": "pairuni.lab.pretrain.make_janus:make_janus",
    "dimoo": "pairuni.lab.pretrain.make_dimoo:make_dimoo",
}
GUIDANCE = 2.0
"""Guidance of the images that the model card measures; a model of this size draws best with it."""


def run_pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Trains and writes `config.output`; continues from `config.output`/.state where one is. Returns a summary.

    The folder holds the model, its processor, pretrain.json (the summary) and README.md (the model card).

    Raises:
        InputError: diffusers, which has Lumina-DiMOO's image tokenizer, is not installed.
    """
    make = of_family(FAMILIES[config.family], config.family)
    return measure(config, make(config, Path(config.output)))


def measure(config: PretrainConfig, losses: Mapping[str, float]) -> dict[str, Any]:
    """Evaluates the saved model on held-out items and writes the summary and the model card."""
    output = Path(config.output)
    measured = EvalConfig(questions=config.questions, prompts=config.prompts, guidance=GUIDANCE, batch=250)
    results = evaluate(load_policy(str(output)), measured, output / ".state")
    chances = [row["chance"] for _, row in read_jsonl(output / ".state" / "answers_shapes_understanding.jsonl")]
    accuracy = results["shapes_understanding"]["score"] / 100
    summary = {
        **losses,
        "above_chance": round(above_chance(accuracy, sum(chances) / len(chances)), 3),
        "exact_images": results["shapes_generation"]["score"],
        "guidance": GUIDANCE,
        "seconds": round(training_seconds(output), 1),
    }
    write_json(output / "pretrain.json", summary)
    write_text(output / "README.md", model_card(config, summary, results))
    return summary
