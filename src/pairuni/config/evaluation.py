"""Options of evaluation: `pairuni eval`, and the evaluations that training runs between its steps."""

import hashlib
import json
from dataclasses import asdict, field, fields, replace
from typing import Any, ClassVar, Literal

from pairuni.config.endpoint import LlmConfig
from pairuni.config.fields import Count, Flag, Guidance, ListOf, Positive, Precision, options, require

EvalSplit = Literal["test", "validation"]
UNSCORED = ("benchmarks", "batch", "images")
"""Fields of EvalConfig that change no benchmark's score."""
SHAPES_QUESTIONS = 2000
"""Questions of the Shapes benchmarks where no other number is given. These never change (shapes/held_out.py)."""


@options("eval")
class EvalConfig:
    """Evaluation on held-out items of both sides; `train` runs it between steps too."""

    benchmarks: ListOf[str] = field(default_factory=lambda: ["shapes_understanding", "shapes_generation"])
    """Names of pairuni.eval.BENCHMARKS."""
    questions: Count = 2000
    """Items of an understanding benchmark (0: its usual number; 2,000 in the Shapes world)."""
    prompts: Count = 1000
    """Items of a generation benchmark (0: its usual number; 1,000 in the Shapes world)."""
    split: EvalSplit = "test"
    """Held-out items of the Shapes benchmarks: "test" for reported results, "validation" for choosing options. With
    "test", training takes validation items between its first and its last step. Other benchmarks have one set."""
    guidance: Guidance = 5.0
    """Classifier-free guidance of sampled images."""
    batch: Positive = 128
    """Items per call of the sampler."""
    seed: Count = 0
    """Seed of the sampled benchmarks."""
    protocol: Literal["official", "lmms_eval", "vlmevalkit"] = "official"
    """Rules for prompts and answers of pope, mme, mmstar and mmmu: the benchmark's authors', or those of one of the two
    libraries that published numbers come from. imgedit has official and lmms_eval."""
    wise: Literal["legacy", "verified"] = "legacy"
    """Prompts, judge's scale and weights of WISE: those of the paper, or those of 2026."""
    images_per_prompt: Count = 0
    """Images per prompt of geneval and wise (0: their own numbers, 4 and 1)."""
    data: dict[str, str] = field(default_factory=dict)
    """Items of a benchmark, by its name: a folder or file in its authors' layout, or a hub id (default: its usual hub
    id, if it has one)."""
    images: dict[str, str] = field(default_factory=dict)
    """Folder of a benchmark's images, by its name, if its items name files."""
    missing_images: Literal["error", "skip"] = "error"
    """Items without their image: stop, or leave them out of the score, which then states its number of items."""
    detections: str = ""
    """geneval: results.jsonl of the authors' evaluator on the kept images (default: the detector decides)."""
    detector: str = "facebook/mask2former-swin-small-coco-instance"
    """geneval: hub id or local folder of a Mask2Former with COCO's classes. Not the authors' weights: approximate."""
    colours: str = "openai/clip-vit-large-patch14"
    """geneval: hub id or local folder of the CLIP model that names colours."""
    edits: str = ""
    """imgedit: folder of edited images <key>.png of any model; they are judged and nothing is sampled."""
    imgedit_prompts: str = ""
    """imgedit: the authors' prompts.json, the judge's instructions per edit type (default: a rubric of our own)."""
    judge: LlmConfig = field(default_factory=LlmConfig)
    """wise, imgedit: the endpoint whose model scores images."""
    group: ClassVar[str] = "eval."
    """Stands before the fields in a file and on the command line."""

    def __post_init__(self) -> None:
        require(self.benchmarks, "benchmarks", "names no benchmark")
        shapes = any(has_validation(name) for name in self.benchmarks)
        require(self.split == "test" or shapes, "split", "validation: only Shapes benchmarks have that")

    def at(self, step: int, steps: int) -> "EvalConfig":
        """The evaluation after `step` of `steps` steps of training.

        Between the first and the last step it takes validation items where a benchmark has them, so that no one stops
        or changes a run by the items that are reported.
        """
        between = 0 < step < steps and any(has_validation(name) for name in self.names)
        return replace(self, split="validation") if between else self

    @property
    def names(self) -> list[str]:
        """The benchmarks, one by one."""
        return list(self.benchmarks)

    def split_of(self, name: str) -> EvalSplit | None:
        """The split that a benchmark takes; None for one that has a single set of items."""
        return self.split if has_validation(name) else None

    def key(self, name: str) -> str:
        """The name of a benchmark's score: a validation score is no test score."""
        return f"validation/{name}" if self.split_of(name) == "validation" else name

    def settings_hash(self, name: str) -> str:
        """Equal for two scores of this benchmark that may be compared."""
        other = ("split",) if has_validation(name) else ("split", "shapes_items")
        settings = {key: value for key, value in self.scored_by().items() if key not in other}
        said = json.dumps([self.key(name), settings], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def scored_by(self) -> dict[str, Any]:
        """The fields that change a score, JSON."""
        every = asdict(self)
        settings = {each.name: every[each.name] for each in fields(EvalConfig) if each.name not in UNSCORED}
        settings["judge"] = {name: settings["judge"][name] for name in ("model", "temperature", "max_tokens")}
        if self.split == "validation" or self.questions > SHAPES_QUESTIONS:
            settings["shapes_items"] = 2  # these items have changed once
        return settings


@options()
class EvaluateConfig(EvalConfig):
    """`pairuni eval`: model -> eval.json."""

    group: ClassVar[str] = ""
    model: str = "shapes-janus"
    """Local folder or hub id; `shapes-janus` and `shapes-dimoo` ship with the package."""
    output: str = "."
    """Folder for eval.json and answers_<benchmark>.jsonl."""
    device: str = "auto"
    """auto (CUDA if there is one), cpu, cuda, cuda:1, ..."""
    precision: Precision = "auto"
    """Precision of the forward passes: auto is bf16 on GPU and fp32 on CPU."""
    sampler_options: dict[str, Any] = field(default_factory=dict)
    """Options of the model family's sampler, by name; they replace those of the checkpoint (docs/lumina-dimoo.md)."""
    overwrite: Flag = False
    """Replace files in the output that this command did not write, or that were edited since."""


def has_validation(benchmark: str) -> bool:
    """Whether a benchmark has validation items beside those that are reported."""
    return benchmark.startswith("shapes_")
