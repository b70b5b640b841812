"""`pairuni pretrain`: trains the small Janus of the Shapes world from nothing, to a middling level on both sides.

One seeded script with three stages (image tokenizer, vision tower, language model), each resumable from its last saved
step. The result is an ordinary `save_pretrained` folder in bf16 with a model card.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import JanusForConditionalGeneration, JanusProcessor

from pairuni.config import EvalConfig, PretrainConfig, TinyConfig
from pairuni.eval.runner import evaluate
from pairuni.files import added_to, read_jsonl, write_json, write_text
from pairuni.policies import load_policy, of_family
from pairuni.pretrain.build import JanusSize, build_janus
from pairuni.pretrain.card import above_chance, model_card
from pairuni.pretrain.language import Sight, answer_loss, image_loss
from pairuni.pretrain.rows import Pool, RowWriter, corpus, make_pool
from pairuni.pretrain.stages import fit, readable, train_language, train_tokenizer, training_seconds
from pairuni.pretrain.vq import JanusTokenizer
from pairuni.streams import Stream, generator, number, seed_torch

MODEL_FILES = ("*.safetensors", "*config.json", "tokenizer.json", "*.jinja", "vqvae/*", "model.safetensors.index.json")
"""Patterns of what a saved model is."""
GUIDANCE = 2.0
"""Of the images that the model card measures: what a model of this size draws best with."""


def run_pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Trains and writes `config.output`; continues from `config.output`/.state where one is. Returns a summary.

    The folder holds the model, its processor, pretrain.json (the summary) and README.md (the model card).

    Raises:
        InputError: diffusers, which Lumina-DiMOO's image tokenizer is from, is not installed.
    """
    output = Path(config.output)
    if config.family == "dimoo":
        return measure(config, of_family("pairuni.pretrain.dimoo:make_dimoo", config.family)(config, output))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, processor = build_janus(JanusSize(), corpus(config.seed), config.seed)
    model.to(device)  # pyright: ignore[reportArgumentType]  # transformers' wrapper hides torch's signature
    images = JanusTokenizer(model.model.vqmodel)
    vq_loss = train_tokenizer(images, config, output)
    exact = readable(images, config.seed)
    loss = _train_language(model, processor, config, output)
    save_model(model, processor, output)
    return measure(config, {"vq_loss": vq_loss, "vq_exact": exact, "language_loss": loss})


def measure(config: PretrainConfig, losses: Mapping[str, float]) -> dict[str, Any]:
    """Evaluates what was saved on held-out items and writes the summary and the model card."""
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


def save_model(model: JanusForConditionalGeneration, processor: JanusProcessor, output: Path) -> None:
    """Writes weights as bf16 safetensors and the processor into `output`; the model in memory stays as it is."""
    state = {name: tensor.detach().to("cpu", torch.bfloat16) for name, tensor in model.state_dict().items()}
    dtype, model.config.dtype = model.config.dtype, torch.bfloat16
    with added_to(output) as folder:
        model.save_pretrained(folder, state_dict=state)
        processor.save_pretrained(folder)
    model.config.dtype = dtype


def _train_language(
    model: JanusForConditionalGeneration, processor: JanusProcessor, config: PretrainConfig, output: Path
) -> float:
    pool = make_pool(config.pool, generator(config.seed, Stream.PRETRAIN_POOL))
    codes = JanusTokenizer(model.model.vqmodel).encode(pool.images)
    model.model.vqmodel.requires_grad_(False)
    model.train()
    _train_sight(model, pool, config, output)
    writer = RowWriter(processor)

    def answers(images: int, careless: float, rng: np.random.Generator) -> torch.Tensor:
        return _answers(model, writer, pool, (images, careless), config, rng)

    def images(rng: np.random.Generator) -> torch.Tensor:
        return _images(model, writer, (pool, codes), config, rng)

    loss = train_language(model, (answers, images), config, output)
    model.eval()
    return loss


def _train_sight(model: JanusForConditionalGeneration, pool: Pool, config: PretrainConfig, output: Path) -> None:
    seed_torch(number(config.seed, Stream.PRETRAIN_WEIGHTS))
    sight = Sight(model).to(model.device)

    def draw(step: int) -> torch.Tensor:
        seen = generator(config.seed, Stream.PRETRAIN_SIGHT, step).integers(len(pool.scenes), size=config.sight_batch)
        pixels = JanusTokenizer(model.model.vqmodel).to_pixels(pool.images[seen])
        return sight.loss(pixels, [pool.scenes[i] for i in seen])

    fit(sight, draw, ("sight", config.sight_steps, config.lr, True), output)


def _answers(
    model: JanusForConditionalGeneration,
    writer: RowWriter,
    pool: Pool,
    size: tuple[int, float],
    config: PretrainConfig,
    rng: np.random.Generator,
) -> torch.Tensor:
    images, careless = size
    seen = rng.integers(len(pool.scenes), size=images)
    rows = writer.understanding([pool.scenes[i] for i in seen], config.turns, rng, careless)
    pixels = JanusTokenizer(model.model.vqmodel).to_pixels(pool.images[seen])
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=config.bf16):
        return answer_loss(model, rows, pixels)


def _images(
    model: JanusForConditionalGeneration,
    writer: RowWriter,
    data: tuple[Pool, torch.Tensor],
    config: PretrainConfig,
    rng: np.random.Generator,
) -> torch.Tensor:
    pool, codes = data
    drawn = rng.integers(len(pool.scenes), size=config.image_rows)
    prompts = writer.generation([pool.scenes[i] for i in drawn], config.drop, rng)
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=config.bf16):
        return image_loss(model, prompts, codes[drawn].to(model.device))


def write_tiny(config: TinyConfig) -> None:
    """`pairuni tiny`: writes a small random Janus in fp32.

    Raises:
        InputError: unreadable texts.
    """
    size = JanusSize(
        image=config.image,
        patch=16,
        hidden=config.hidden,
        layers=2,
        intermediate=2 * config.hidden,
        vision_hidden=config.hidden,
        vision_layers=2,
        vq_multipliers=(1, 1, 1, 1, 1),
    )
    texts = corpus(config.seed, 300)
    if config.texts is not None:
        texts = [v for _, row in read_jsonl(config.texts) for v in row.values() if isinstance(v, str)]
    model, processor = build_janus(size, texts, config.seed)
    with added_to(config.output) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
