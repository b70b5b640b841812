"""Options of the commands that try a model or a pipeline: `pairuni smoke`, `sample` and `tiny`."""

from dataclasses import field
from typing import Annotated, Any

from pydantic import Field

from pairuni.config.fields import Amount, Count, Flag, Guidance, Positive, Precision, options, require
from pairuni.config.training import ModelConfig, RolloutConfig


@options()
class SmokeConfig:
    """`pairuni smoke`: runs a few prompts through every part of a training step; the model stays as it is."""

    pairs: str = ""
    """pairs.jsonl; its first pairs are used (default: drawings of the Shapes world)."""
    image_root: str | None = None
    """Folder that image paths are relative to (default: the one that `pair` used, else that of `pairs`)."""
    output: str = "smoke"
    """Folder for smoke.html, smoke.json and the images."""
    number: Positive = 2
    """Pairs."""
    micro_batch: Positive = 4
    """Most rollout rows per forward and backward."""
    seed: Count = 0
    """Seed of the drawings and the rollouts."""
    model: ModelConfig = field(default_factory=ModelConfig)
    rollout: RolloutConfig = field(default_factory=lambda: RolloutConfig(rollouts=4, max_new_tokens=64))
    overwrite: Flag = False
    """Replace files in the output that this command did not write, or that were edited since."""

    def __post_init__(self) -> None:
        require(self.pairs or self.image_root is None, "image_root", "needs pairs")


@options()
class SampleConfig:
    """`pairuni sample`: tries a model. Give a prompt to draw images, or an image and a question to get answers."""

    model: str = "shapes-janus"
    """Local folder or hub id; `shapes-janus` and `shapes-dimoo` ship with the package."""
    prompt: str | None = None
    """Draw images of this."""
    image: str | None = None
    """Image file to ask about."""
    question: str | None = None
    """Question about the image."""
    number: Positive = 4
    """Images or answers."""
    output: str = "sample.png"
    """The images, side by side in one PNG."""
    temperature: Amount = 1.0
    """Divides the logits; 0 is greedy."""
    guidance: Guidance = 5.0
    """Classifier-free guidance of images; 1 is off."""
    top_k: Count = 0
    """Keep only the k most likely tokens (0: all)."""
    top_p: Annotated[float, Field(strict=True, gt=0, le=1)] = 1.0
    """Keep the smallest set of tokens with this probability (1: all)."""
    max_new_tokens: Positive = 128
    """Longest answer in tokens."""
    seed: Count = 0
    device: str = "auto"
    """auto (CUDA if there is one), cpu, cuda, cuda:1, ..."""
    precision: Precision = "auto"
    """Precision of the forward passes: auto is bf16 on GPU and fp32 on CPU."""
    sampler_options: dict[str, Any] = field(default_factory=dict)
    """Options of the model family's sampler, by name; they replace those of the checkpoint (docs/lumina-dimoo.md)."""
    overwrite: Flag = False
    """Replace files in the output that this command did not write, or that were edited since."""

    def __post_init__(self) -> None:
        asked = self.image is not None or self.question is not None
        require((self.prompt is not None) != asked, "prompt", "give either --prompt or --image with --question")
        require(not asked or (self.image is not None and self.question is not None), "question", "needs an image too")


@options()
class TinyConfig:
    """`pairuni tiny`: a small Janus with random weights, to try a pipeline on your own data in minutes."""

    output: str
    """Folder for the model."""
    texts: str | None = None
    """JSON Lines whose strings train the tokenizer (default: texts of the Shapes world)."""
    image: Annotated[int, Field(strict=True, gt=0, multiple_of=16)] = 64
    """Side of its images, a multiple of 16."""
    hidden: Annotated[int, Field(strict=True, gt=0, multiple_of=8)] = 64
    """Width of the language model, a multiple of 8: four heads, whose rotary embeddings need an even width each."""
    seed: Count = 0
    overwrite: Flag = False
    """Replace files in the output that this command did not write, or that were edited since."""
