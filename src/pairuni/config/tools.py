"""Options of the commands beside the stages: `smoke`, `sample`, `tiny`, `analyse pairs` and `export`."""

import re
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field

from pairuni.config.fields import Amount, Count, Flag, Guidance, ListOf, Positive, Precision, options, require
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


@options()
class GalleryConfig:
    """`pairuni analyse pairs`: pairs.jsonl and the samples that are in no pair -> one HTML page to look through."""

    pairs: str
    """pairs.jsonl; removed.jsonl, unmatched.jsonl and pairing.json beside it are shown too."""
    image_root: str | None = None
    """Folder that image paths are relative to (default: each file's own folder)."""
    rejected: ListOf[str] = field(default_factory=list)
    """Files of rejected samples (default: the one beside the quadruples that pairing.json names)."""
    out: str | None = None
    """The page (default: gallery.html beside the pairs)."""
    limit: Count = 400
    """Show at most this many pairs, unmatched, removed and rejected samples each, drawn evenly over kind, similarity,
    reason and tag (0: all). A pair of two photographs takes about 25 kB."""
    seed: Count = 0
    """Seed of that draw."""
    thumbnail: Positive = 224
    """Longer side of the embedded images in pixels; smaller images stay as they are."""
    overwrite: Flag = False
    """Replace files in the output that this command did not write, or that were edited since."""


@options()
class HfDatasetConfig:
    """`pairuni export hf-dataset`: pairs.jsonl -> a folder that `datasets.load_dataset` and the Hub read."""

    pairs: str
    """pairs.jsonl; pairing.json beside it goes into the data card."""
    output: str
    """Folder for data/, README.md and similarity.png. A folder with anything but an earlier export is refused."""
    image_root: str | None = None
    """Folder that image paths are relative to (default: the one that `pair` used, else that of `pairs`)."""
    overwrite: Flag = False
    """Replace `output` whatever it holds: everything in it is deleted."""
    title: str = ""
    """Name on the data card (default: the name of the output folder)."""
    license: str = ""
    """The Hub's identifier of the data set's licence, such as cc-by-4.0 (default: the card states none)."""
    license_name: str = ""
    """Name of the licence, for license = other."""
    license_link: str = ""
    """Address of the licence text, for license = other."""
    source_licenses: dict[str, str] = field(default_factory=dict)
    """Licences of the source data, by name: {"COCO train2017": "annotations CC BY 4.0"}."""
    language: ListOf[str] = field(default_factory=list)
    """Languages of the texts as the Hub writes them: [en]."""
    shard_mb: Positive = 500
    """Megabytes of images per parquet file."""

    def __post_init__(self) -> None:
        named = re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.license)
        require(not self.license or named, "license", f"must be an identifier such as cc-by-4.0, not {self.license!r}")
        for name, value in (("license_name", self.license_name), ("license_link", self.license_link)):
            stray = value and self.license != "other"
            require(not stray, name, "is only for license = other; others are known by their identifier")
        require(self.license != "other" or self.license_name, "license_name", "is needed for license = other")
        for code in self.language:
            require(re.fullmatch(r"[a-z]{2,3}", code), "language", f"must be codes such as en, not {code!r}")


@options()
class VerlOmniConfig:
    """`pairuni export verl-omni`: pairs.jsonl -> the parquet files that verl-omni's trainers read."""

    pairs: str
    """pairs.jsonl."""
    output: str
    """Folder for understanding.parquet, generation.parquet. A folder with anything but an earlier export is refused."""
    image_root: str | None = None
    """Folder that image paths are relative to (default: the one that `pair` used, else that of `pairs`)."""
    overwrite: Flag = False
    """Replace `output` whatever it holds: everything in it is deleted."""
    weighting: Literal["none", "linear", "sqrt"] = "sqrt"
    """Weight of a retrieved pair: 1, its similarity, or its square root (paper 3). Aligned pairs have 1."""
    data_source: str = "pairuni"
    """Column data_source, followed by /understanding or /generation: a reward function tells rows apart by it."""
    negative_prompt: str | None = None
    """Column negative_prompt of the generation rows, for models sampled with guidance (default: no such column)."""

    def __post_init__(self) -> None:
        require(self.data_source.strip(), "data_source", "must not be empty")


@options()
class UnirlConfig:
    """`pairuni export unirl`: pairs.jsonl -> the JSON Lines and images that UniRL's trainers read."""

    pairs: str
    """pairs.jsonl."""
    output: str
    """Folder for understanding.jsonl, generation.jsonl, images/. A folder with anything but an earlier export is
    refused."""
    image_root: str | None = None
    """Folder that image paths are relative to (default: the one that `pair` used, else that of `pairs`)."""
    overwrite: Flag = False
    """Replace `output` whatever it holds: everything in it is deleted."""
    weighting: Literal["none", "linear", "sqrt"] = "sqrt"
    """Weight of a retrieved pair: 1, its similarity, or its square root (paper 3). Aligned pairs have 1."""
