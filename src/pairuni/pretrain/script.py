"""`pairuni pretrain`: trains the small Janus of the Shapes world from nothing, to a middling level on both sides.

One seeded script with three stages (image tokenizer, vision tower, language model), each resumable from its last saved
step. The result is an ordinary `save_pretrained` folder in bf16 with a model card.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import JanusForConditionalGeneration, JanusProcessor

from pairuni.config import EvalConfig, PretrainConfig, TinyConfig
from pairuni.eval.runner import evaluate
from pairuni.files import atomic_path, read_jsonl, write_json, write_text
from pairuni.policies import load_policy
from pairuni.pretrain import vq as tokenizer
from pairuni.pretrain.build import JanusSize, build_janus
from pairuni.pretrain.card import above_chance, model_card
from pairuni.pretrain.language import Sight, answer_loss, image_loss
from pairuni.pretrain.rows import Pool, RowWriter, corpus, make_pool
from pairuni.shapes.detector import read_scene
from pairuni.shapes.renderer import render
from pairuni.shapes.scenes import random_scene

SAVE_EVERY = 100
"""Steps between saved states."""
GUIDANCE = 2.0
"""Of the images that the model card measures: what a model of this size draws best with."""


def run_pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Trains and writes `config.output`; continues from `config.output`/.state where one is. Returns a summary.

    The folder holds the model, its processor, pretrain.json (the summary) and README.md (the model card).
    """
    output = Path(config.output)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, processor = build_janus(JanusSize(), corpus(config.seed), config.seed)
    model.to(device)  # pyright: ignore[reportArgumentType]  # transformers' wrapper hides torch's signature
    vq_loss = _train_tokenizer(model, config, output)
    readable = _readable(model, config.seed)
    loss = _train_language(model, processor, config, output)
    save_model(model, processor, output)
    measured = EvalConfig(questions=config.questions, prompts=config.prompts, guidance=GUIDANCE, batch=250)
    results = evaluate(load_policy(str(output)), measured, output / ".state")
    chances = [row["chance"] for _, row in read_jsonl(output / ".state" / "answers_shapes_understanding.jsonl")]
    accuracy = results["shapes_understanding"]["score"] / 100
    summary = {
        "vq_loss": vq_loss,
        "vq_exact": readable,
        "language_loss": loss,
        "above_chance": round(above_chance(accuracy, sum(chances) / len(chances)), 3),
        "exact_images": results["shapes_generation"]["score"],
        "guidance": GUIDANCE,
        "seconds": round(_training_seconds(output), 1),
    }
    write_json(output / "pretrain.json", summary)
    write_text(output / "README.md", model_card(config, summary, results))
    return summary


def _training_seconds(output: Path) -> float:
    """Of all stages, over all calls that they took."""
    return sum(torch.load(file, weights_only=True)["seconds"] for file in (output / ".state").glob("*.pt"))


def save_model(model: JanusForConditionalGeneration, processor: JanusProcessor, output: Path) -> None:
    """Writes weights as bf16 safetensors and the processor into `output`; the model in memory stays as it is."""
    state = {name: tensor.detach().to("cpu", torch.bfloat16) for name, tensor in model.state_dict().items()}
    dtype, model.config.dtype = model.config.dtype, torch.bfloat16
    model.save_pretrained(output, state_dict=state)
    model.config.dtype = dtype
    processor.save_pretrained(output)


def _train_tokenizer(model: JanusForConditionalGeneration, config: PretrainConfig, output: Path) -> float:
    vq, device = model.model.vqmodel, model.device
    vq.train()
    torch.manual_seed(config.seed)
    tokenizer.reset_convolutions(vq)
    loss = math.nan
    phases = {"auto": config.auto_steps, "quantised": config.vq_steps, "decoder": config.decoder_steps}
    for phase, steps in phases.items():
        if phase == "quantised" and not _state(output, phase).exists():
            tokenizer.fit_codebook(vq, make_pool(2000, np.random.default_rng([config.seed, 1])).images, config.seed)

        def draw(step: int, phase: str = phase) -> torch.Tensor:
            rng = np.random.default_rng([config.seed, 2, len(phase), step])
            images = [render(random_scene(rng, "train"), rng) for _ in range(config.vq_batch)]
            torch.manual_seed(int(rng.integers(2**31)))
            return tokenizer.PHASES[phase](vq, tokenizer.to_pixels(np.stack(images)).to(device))

        loss = _fit(vq, draw, (phase, steps, config.vq_lr, phase != "auto"), output)
    vq.eval()
    return loss


@torch.no_grad()
def _readable(model: JanusForConditionalGeneration, seed: int, size: int = 500) -> float:
    """Share of held-out scenes that the detector reads exactly from the tokenizer's reconstruction."""
    rng = np.random.default_rng([seed, 3])
    scenes = [random_scene(rng, "held_out") for _ in range(size)]
    vq = model.model.vqmodel
    images = np.stack([render(s, rng) for s in scenes])
    made = tokenizer.decode_codes(vq, tokenizer.encode_images(vq, images))
    return sum(read_scene(image) == scene for image, scene in zip(made, scenes, strict=True)) / size


def _train_language(
    model: JanusForConditionalGeneration, processor: JanusProcessor, config: PretrainConfig, output: Path
) -> float:
    pool = make_pool(config.pool, np.random.default_rng([config.seed, 4]))
    codes = tokenizer.encode_images(model.model.vqmodel, pool.images)
    model.model.vqmodel.requires_grad_(False)
    model.train()
    _train_sight(model, pool, config, output)
    writer = RowWriter(processor)

    def look(step: int) -> torch.Tensor:
        rng = np.random.default_rng([config.seed, 7, step])
        return _answers(model, writer, pool, 0.0, config, rng)

    def draw(step: int, careless: float = 0.0) -> torch.Tensor:
        rng = np.random.default_rng([config.seed, 5, step])
        answers = _answers(model, writer, pool, careless, config, rng)
        return answers + _images(model, writer, (pool, codes), config, rng)

    _fit(model, look, ("answers", config.answer_steps, config.lr, False), output)
    _fit(model, draw, ("language", config.language_steps, config.lr, True), output)

    # A second cycle on rows of its own: naming a colour or a kind comes late, and not equally late in every run.
    later, last = config.language_steps, config.language_steps + config.refine_steps
    _fit(model, lambda s: draw(later + s), ("refine", config.refine_steps, config.lr, True), output)
    # Then a short, gentle one in which some answers are careless: the model sees more than it says.
    stage = ("careless", config.careless_steps, config.lr / 3, True)
    loss = _fit(model, lambda s: draw(last + s, config.careless), stage, output)
    model.eval()
    return loss


def _train_sight(model: JanusForConditionalGeneration, pool: Pool, config: PretrainConfig, output: Path) -> None:
    torch.manual_seed(config.seed)
    sight = Sight(model).to(model.device)

    def draw(step: int) -> torch.Tensor:
        seen = np.random.default_rng([config.seed, 6, step]).integers(len(pool.scenes), size=config.sight_batch)
        pixels = tokenizer.to_pixels(pool.images[seen]).to(model.device)
        return sight.loss(pixels, [pool.scenes[i] for i in seen])

    _fit(sight, draw, ("sight", config.sight_steps, config.lr, True), output)


def _answers(
    model: JanusForConditionalGeneration,
    writer: RowWriter,
    pool: Pool,
    careless: float,
    config: PretrainConfig,
    rng: np.random.Generator,
) -> torch.Tensor:
    seen = rng.integers(len(pool.scenes), size=config.answer_rows)
    rows = writer.understanding([pool.scenes[i] for i in seen], config.turns, rng, careless)
    pixels = tokenizer.to_pixels(pool.images[seen]).to(model.device)
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


def _fit(
    module: nn.Module, draw: Callable[[int], torch.Tensor], stage: tuple[str, int, float, bool], output: Path
) -> float:
    """AdamW with warm-up (and cosine decay) on `draw(step)`, resumable; the mean loss of the last 50 steps."""
    name, steps, peak, decay = stage
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.95), weight_decay=0.01)
    state, first, losses, spent, begun = _state(output, name), 0, [], 0.0, time.monotonic()
    if state.exists():
        saved = torch.load(state, weights_only=True)
        module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
        first, losses, spent = saved["step"], saved["losses"], saved["seconds"]
    for step in (bar := tqdm(range(first, steps), desc=f"pretrain {name}", initial=first, total=steps)):
        warm = min(1.0, (step + 1) / min(100, max(1, steps // 10)))
        for group in optimizer.param_groups:
            cosine = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)) if decay else 1.0
            group["lr"] = peak * warm * cosine
        loss = draw(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        bar.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}", refresh=False)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            saved = {"module": module.state_dict(), "optimizer": optimizer.state_dict()}
            with atomic_path(state) as temporary:
                seconds = spent + time.monotonic() - begun
                torch.save(saved | {"step": step + 1, "losses": losses, "seconds": seconds}, temporary)
    return float(np.mean(losses[-50:]))


def _state(output: Path, stage: str) -> Path:
    return output / ".state" / f"{stage}.pt"


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
    model.save_pretrained(config.output)
    processor.save_pretrained(config.output)
