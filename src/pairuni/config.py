"""Every knob of every stage, once, with its documentation under the field. Frozen, validated, torch-free.

A stage's config is one dataclass; YAML files and `--group.field value` overrides fill it (cli/options.py). Where the
paper names no value the default is our choice and the text says so.
"""

import hashlib
import json
import math
import os
import re
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

from pairuni.errors import InputError
from pairuni.types import Objective, Side

PairingMode = Literal[
    "pairs",
    "aligned_only",
    "retrieved_only",
    "from_understanding",
    "from_generation",
    "random_pairs",
    "unpaired",
    "vanilla",
]
UNWEIGHTED: frozenset[PairingMode] = frozenset({"random_pairs", "unpaired", "vanilla"})
"""Modes without a meaningful similarity: they train with weight 1."""
Extractor = Literal["resnet50", "dinov3", "clip", "pe", "colour_hog", "shapes_content"]
Precision = Literal["auto", "fp32", "bf16"]
EvalSplit = Literal["test", "validation"]
Suite = Literal["pairing", "weighting", "threshold", "selection", "extractor", "rewards", "matching", "room"]
Tracker = Literal["tensorboard", "wandb", "trackio"]


def as_list(value: str | list[str]) -> list[str]:
    """The values of a list that may be written a,b."""
    words = value.split(",") if isinstance(value, str) else value
    return [word.strip() for word in words if word.strip()]


def _check(condition: bool, field_name: str, message: str) -> None:
    if not condition:
        raise InputError(message, field=field_name)


def _check_seed(seed: int, field_name: str = "seed") -> None:
    _check(seed >= 0, field_name, f"must not be negative, not {seed}")


@dataclass(frozen=True)
class LlmConfig:
    """An endpoint that speaks the OpenAI chat protocol. The API key comes from the environment and is never written."""

    base_url: str = "https://api.openai.com/v1"
    """Address of the endpoint, with its version path."""
    model: str = ""
    """The endpoint's name of the model; it must accept images."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the API key; local servers need none."""
    temperature: float | None = 0.7
    """null: none is sent, for models that take none but their own. Left out by itself where the endpoint refuses it."""
    max_tokens: int = 1024
    """Longest reply."""
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls that; the second is taken by itself where the endpoint asks for it."""
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    """How the endpoint is asked for JSON; replies are validated here in any case."""
    image_side: int = 1024
    """Longer side of the images that are sent; larger ones are made smaller."""
    concurrency: int = 32
    """Samples that are worked on at once."""
    timeout: float = 60.0
    """Seconds that one try may take."""
    retries: int = 6
    """Tries after the first, on rate limits (as Retry-After says), server errors, time-outs and cut connections."""
    price_prompt: float = 0.0
    """Per million prompt tokens, for the running cost."""
    price_completion: float = 0.0
    """Per million completion tokens."""
    image_tokens: int = 1000
    """Prompt tokens of one image, for the estimate of a dry run."""
    ledger: str | None = None
    """Folder of the recorded replies, which processes and hosts may share (default: ledger/ in `output`)."""
    prompts: str | None = None
    """Folder with prompt templates of your own; those that it lacks are the shipped ones."""
    replay: bool = False
    """Use recorded replies only and ask for nothing."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "image_side", "concurrency", "timeout"):
            _check(vars(self)[name] > 0, f"llm.{name}", f"must be positive, not {vars(self)[name]}")
        for name in ("temperature", "retries", "price_prompt", "price_completion", "image_tokens"):
            _check((vars(self)[name] or 0) >= 0, f"llm.{name}", f"must not be negative, not {vars(self)[name]}")
        # What stands here is printed and written; a key must not be, so neither message repeats the value.
        named = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env) is not None
        _check(named, "llm.api_key_env", "must be the name of an environment variable, not the key itself")
        address = self.base_url.split("://", 1)[-1].split("/", 1)[0]
        _check("@" not in address, "llm.base_url", "must not hold a user name or password")


@dataclass(frozen=True)
class SourceConfig:
    """How the source of one side is read, beside where it is."""

    format: Literal["auto", "jsonl", "datasets", "imagefolder", "webdataset"] = "auto"
    """jsonl: JSON Lines and image files; datasets: a hub id, or parquet or arrow files; imagefolder: images with a
    metadata.jsonl or .csv; webdataset: tar shards. auto goes by the ending: .jsonl, .tar, anything else is datasets."""
    subset: str | None = None
    """Of a data set on the hub that has several."""
    split: str = "train"
    revision: str | None = None
    """Commit, tag or branch on the hub."""
    fields: dict[str, str] = field(default_factory=dict)
    """Our fields (id, image, prompt, question, answer, tag) by the names that they have there; dots step into mappings,
    lists and JSON text: {"question": "conversations.0.value"}. Those left out have our names; id may be absent."""
    strip: dict[str, str] = field(default_factory=dict)
    """Text that is taken out of a field, such as the image's place holder: {"question": "<image>"}."""
    skip: dict[str, str | list[str]] = field(default_factory=dict)
    """Rows left out, and counted, because a field of theirs has one of these values: {"ability": ["detection"]}."""
    limit: int = 0
    """Read this many rows (0: all)."""

    def __post_init__(self) -> None:
        _check(self.limit >= 0, "limit", f"must not be negative, not {self.limit}")
        listed = {name: as_list(value) if isinstance(value, str) else value for name, value in self.skip.items()}
        object.__setattr__(self, "skip", listed)
        for name, keys in (("fields", self.fields), ("strip", self.strip)):
            unknown = sorted(keys.keys() - {"id", "image", "prompt", "question", "answer", "tag"})
            _check(not unknown, name, f"{', '.join(unknown)}: not one of id, image, prompt, question, answer, tag")


@dataclass(frozen=True)
class CompleteConfig:
    """`pairuni complete`: understanding and generation samples -> quadruples.jsonl (paper 2.1)."""

    understanding: str
    """JSON Lines of {"id", "image_path", "question", "answer"}, or another source (`understanding_source`)."""
    generation: str
    """JSON Lines of {"id", "image_path", "prompt"}, or another source (`generation_source`)."""
    output: str
    """Folder for quadruples.jsonl and rejected.jsonl, and for images/ where a source is not JSON Lines."""
    image_root: str | None = None
    """Folder that image paths of JSON Lines are relative to (default: each file's own folder). Where both sources are
    JSON Lines it must be the same for both, and the image paths of quadruples.jsonl are relative to it."""
    understanding_source: SourceConfig = field(default_factory=SourceConfig)
    generation_source: SourceConfig = field(default_factory=SourceConfig)
    completer: Literal["shapes", "llm"] = "shapes"
    """shapes: offline, for the Shapes world, reads images with its detector; llm: asks the endpoint of `llm`."""
    attempts: int = 3
    """Tries per sample before it is rejected: each is generated, then verified."""
    seed: int = 0
    """Of the completer's wording and choice of question, and of where the right option stands."""
    shards: int = 1
    """Parts that the samples are divided into, for several processes or hosts. Each writes into a folder of its own;
    the same command with one part then writes the whole from the shared ledger."""
    shard: int = 0
    """Which of the parts this is, from 0."""
    dry_run: bool = False
    """Say how many calls and tokens it would take, and what they would cost, and stop."""
    llm: LlmConfig = field(default_factory=LlmConfig)
    overwrite: bool = False
    """Replace files in the output that this command did not write, or that were edited since."""

    def __post_init__(self) -> None:
        _check(self.attempts > 0, "attempts", f"must be positive, not {self.attempts}")
        _check(self.shards > 0, "shards", f"must be positive, not {self.shards}")
        _check(0 <= self.shard < self.shards, "shard", f"must be in [0, {self.shards}), not {self.shard}")
        _check(self.completer != "llm" or bool(self.llm.model), "llm.model", "is needed for completer: llm")
        _check(self.completer == "llm" or not self.dry_run, "dry_run", "needs completer: llm, others cost nothing")
        _check_seed(self.seed)


@dataclass(frozen=True)
class PairConfig:
    """`pairuni pair`: quadruples.jsonl -> pairs.jsonl and pairing.json (Algorithm 1, paper 2.2).

    Medoids of clusters over all images become aligned pairs, the rest is matched by image retrieval.
    """

    quadruples: str
    """quadruples.jsonl."""
    output: str
    """Folder for pairs.jsonl, pairing.json and features/."""
    image_root: str | None = None
    """Folder that image paths are relative to (default: the folder of `quadruples`)."""
    extractor: Extractor = "resnet50"
    """resnet50: 2048-d, the paper's choice; dinov3, clip; pe: Perception Encoder, needs timm; colour_hog: colour and
    gradient histograms, needs no weights; shapes_content: what the Shapes detector reads."""
    weights: str = ""
    """Hub id or local folder of the extractor's weights (default: the usual ones of data.features.EXTRACTORS)."""
    feature_batch: int = 64
    """Images per batch of the extractor."""
    engine: Literal["local", "ray"] = "local"
    """What computes features: this process, or Ray Data on this machine or a cluster (needs `pairuni[cluster]`)."""
    ray_address: str = ""
    """host:port of a running Ray cluster, or auto for the one that this machine is part of. All its machines must see
    images and `output` under the same paths. Default: a Ray that is started for this run, on this machine."""
    dedup: Literal["exact", "near"] = "exact"
    """exact: one quadruple per image content; near: also per image that was resized, encoded again, cropped by up to a
    fifth of a side, or made brighter or darker. Hashes and features propose copies, pixels decide."""
    dedup_bits: int = 6
    """Most bits of 64 in which the perceptual hashes of proposed copies differ."""
    dedup_cosine: float = 0.7
    """Least cosine of near copies' features. Depends on the extractor; lower finds more and takes longer."""
    references: list[str] = field(default_factory=list)
    """JSON Lines of evaluation or pre-training sets (image_path, prompt, question): what is in them is left out."""
    reference_words: int = 8
    """Words in a row that a prompt or question may not share with a reference's; shorter ones may not be equal. Options
    and instructions ("Answer with the option's letter") are cut first; what many references share does not count."""
    clusters: int = 5000
    """K of k-means; capped at half the images, with a notice. The paper's 4,971 aligned pairs suggest about 5,000."""
    kmeans: Literal["lloyd", "minibatch"] = "lloyd"
    """lloyd: spherical, full passes; minibatch: scikit-learn's, the paper's name for it, leaves singleton clusters."""
    kmeans_passes: int = 50
    """Most passes over the images; it stops where no image moves. Not stated in the paper."""
    seed: int = 0
    """Of the clustering, the order in which generation samples are visited, and random selection."""
    neighbours: int = 0
    """Candidates per generation image, the n most similar (0: all above the floor). Not stated in the paper."""
    similarity_floor: float = 0.6
    """Least cosine similarity of a retrieved pair (paper: 0.6). What it means depends on the extractor."""
    index: Literal["exact", "ivf"] = "exact"
    """How candidates are found. exact: all products, on a GPU where there is one; ivf: an inverted file of faiss, for
    many millions of images, needs `pairuni[faiss]`; its recall is measured on a sample and written down."""
    index_probes: int = 32
    """Lists of the inverted file that one image is compared with; more find more."""
    matching: Literal["paper_order", "greedy", "optimal"] = "paper_order"
    """paper_order: generation images in shuffled file order take their best free partner; greedy: edges by falling
    similarity; optimal: maximum total similarity, one-to-one."""
    select: Literal["medoid", "random"] = "medoid"
    """Which member of a cluster becomes its aligned pair (random is the paper's ablation)."""
    max_pairs: int = 0
    """Keep at most this many pairs, aligned ones first, retrieved ones by falling similarity (0: all)."""
    overwrite: bool = False
    """Replace files in the output that this command did not write, or that were edited since."""

    def __post_init__(self) -> None:
        for name in ("clusters", "kmeans_passes", "index_probes", "reference_words"):
            _check(vars(self)[name] > 0, name, f"must be positive, not {vars(self)[name]}")
        _check(0 <= self.dedup_bits <= 32, "dedup_bits", f"must be in [0, 32], not {self.dedup_bits}")
        _check(0 < self.dedup_cosine <= 1, "dedup_cosine", f"must be in (0, 1], not {self.dedup_cosine}")
        _check(self.neighbours >= 0, "neighbours", f"must not be negative, not {self.neighbours}")
        _check(self.max_pairs >= 0, "max_pairs", f"must not be negative, not {self.max_pairs}")
        floor = self.similarity_floor
        _check(0 <= floor <= 1, "similarity_floor", f"must be in [0, 1], not {floor}")
        _check(self.feature_batch > 0, "feature_batch", f"must be positive, not {self.feature_batch}")
        _check(self.engine == "ray" or not self.ray_address, "ray_address", "needs engine: ray")
        _check_seed(self.seed)


@dataclass(frozen=True)
class LoraOptions:
    """Adapters that are trained instead of the model's own weights."""

    rank: int = 0
    """Of each adapter (0: none, the weights themselves are trained)."""
    alpha: float = 0.0
    """What adapters add is scaled by alpha / rank (0: twice the rank)."""
    layers: list[str] = field(default_factory=list)
    """Linear layers that get one, by the end of their names or a pattern with *; default: all of the language model."""

    def __post_init__(self) -> None:
        _check(self.rank >= 0, "model.lora.rank", f"must not be negative, not {self.rank}")
        _check(self.alpha >= 0, "model.lora.alpha", f"must not be negative, not {self.alpha}")
        _check(self.rank > 0 or not (self.alpha or self.layers), "model.lora.rank", "is 0: there are no adapters")


@dataclass(frozen=True)
class ModelConfig:
    path: str = "shapes-janus"
    """Local folder or hub id of the model to train; `shapes-janus` and `shapes-dimoo` ship with the package."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, cuda:1, ..."""
    precision: Precision = "auto"
    """Of the forward passes: auto is bf16 on GPU and fp32 on CPU. Master weights and optimiser stay fp32."""
    gradient_checkpointing: bool = False
    """Recomputes activations in the backward pass instead of keeping them: less memory, more time, the same result."""
    cuda_graphs: bool = True
    """On CUDA, sampling records a step once and replays it: the same samples in less time. Needs Triton."""
    trainable: list[str] = field(default_factory=list)
    """Parameters that are trained, by the beginning of their names or a pattern with *, e.g. lm_head (default: all but
    the frozen towers; with adapters, only those)."""
    lora: LoraOptions = field(default_factory=LoraOptions)
    sampler_options: dict[str, Any] = field(default_factory=dict)
    """Options of the model family's sampler, by name; they replace those of the checkpoint (docs/lumina-dimoo.md)."""


@dataclass(frozen=True)
class DataConfig:
    pairs: str = ""
    """pairs.jsonl."""
    image_root: str | None = None
    """Folder that image paths are relative to (default: the one that `pair` used, else that of `pairs`)."""
    batch: int = 8
    """Pairs per step over all devices (paper: 16)."""
    shapes: int = 0
    """Shapes images per source that are written, completed and paired into the folder of `pairs` when that file is
    absent (0: none, the pairs must be there)."""

    def __post_init__(self) -> None:
        _check(self.batch > 0, "data.batch", f"must be positive, not {self.batch}")
        _check(self.shapes == 0 or self.shapes >= 10, "data.shapes", f"must be 0 or at least 10, not {self.shapes}")


@dataclass(frozen=True)
class RolloutConfig:
    """How answers and images are sampled for training. Never truncated: there is no top_k or top_p here."""

    rollouts: int = 8
    """Samples per half of a pair (the paper's K: 8 for 1B, 4 for 7B)."""
    temperature: float = 1.0
    """Divides the logits, in sampling and scoring alike (paper: 1.0)."""
    guidance: float = 5.0
    """Classifier-free guidance of image rollouts (paper: 5)."""
    logprob_mode: Literal["cond", "cfg"] = "cond"
    """Which image log-probs are trained: conditional (what the published Janus trainers do) or guided, as sampled."""
    max_new_tokens: int = 32
    """Longest text answer."""
    prompts_per_call: int = 0
    """Prompts that are sampled together (0: all of the batch). Does not change the result."""

    def __post_init__(self) -> None:
        _check(self.rollouts >= 2, "rollout.rollouts", f"a group needs at least 2, not {self.rollouts}")
        _check(self.temperature > 0, "rollout.temperature", f"must be positive, not {self.temperature}")
        _check(self.guidance >= 1, "rollout.guidance", f"must be at least 1 (off), not {self.guidance}")
        _check(self.max_new_tokens > 0, "rollout.max_new_tokens", f"must be positive, not {self.max_new_tokens}")
        _check(self.prompts_per_call >= 0, "rollout.prompts_per_call", "must not be negative")


@dataclass(frozen=True)
class PairSelectionConfig:
    """How the pairs of the file are used: as they are, or as one of the paper's baselines (paper 5)."""

    mode: PairingMode = "pairs"
    """pairs; aligned_only, retrieved_only; from_understanding, from_generation: quadruples of one source as aligned
    pairs; random_pairs: halves shuffled; unpaired: least similar halves; vanilla: plain GRPO on mixed batches without
    pairs, with one denominator for both sides. Modes without a meaningful similarity (random_pairs, unpaired, vanilla)
    train with weight 1."""
    extractor: Extractor = "colour_hog"
    """Features for mode = unpaired."""
    weights: str = ""
    """Hub id or local folder of the extractor's weights (mode = unpaired)."""


@dataclass(frozen=True)
class AdvantageConfig:
    std_eps: float = 1e-6
    """Added to a group's population standard deviation. Not stated in the paper."""

    def __post_init__(self) -> None:
        _check(self.std_eps > 0, "advantage.std_eps", f"must be positive, not {self.std_eps}")


@dataclass(frozen=True)
class SideWeights:
    understanding: float = 1.0
    """Weight of the understanding loss."""
    generation: float = 1.0
    """Weight of the generation loss."""

    def __post_init__(self) -> None:
        for name in ("understanding", "generation"):
            _check(vars(self)[name] >= 0, f"side_weights.{name}", f"must not be negative, not {vars(self)[name]}")


@dataclass(frozen=True)
class NormLength:
    """Lengths for loss_norm = constant, e.g. the longest that a rollout can be. Not stated in the paper."""

    understanding: int = 32
    """Tokens of an answer."""
    generation: int = 576
    """Codes of an image."""

    def __post_init__(self) -> None:
        for name in ("understanding", "generation"):
            _check(vars(self)[name] > 0, f"norm_length.{name}", f"must be positive, not {vars(self)[name]}")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW on fp32 master weights."""

    lr: float = 1e-6
    """Learning rate (paper: 1e-6)."""
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    """Not stated in the paper."""
    warmup: int = 0
    """Steps of linear warm-up; constant afterwards. Not stated in the paper."""
    max_grad_norm: float = 1.0
    """Clips the global gradient norm (0: off)."""
    max_skipped: int = 5
    """Updates in a row that may be left out, since a loss or the gradient is not finite; one more ends the run."""

    def __post_init__(self) -> None:
        _check(self.lr > 0, "optim.lr", f"must be positive, not {self.lr}")
        for name in ("beta1", "beta2"):
            _check(0 <= vars(self)[name] < 1, f"optim.{name}", f"must be in [0, 1), not {vars(self)[name]}")
        for name in ("weight_decay", "warmup", "max_grad_norm", "max_skipped", "eps"):
            _check(vars(self)[name] >= 0, f"optim.{name}", f"must not be negative, not {vars(self)[name]}")


@dataclass(frozen=True)
class RewardOptions:
    """Options of one reward. Which reward takes which is in docs/rewards.md; one that it does not take is an error."""

    weights: str | None = None
    """Rewards with a model: hub id, local folder or file (default: the published weights)."""
    tokenizer: str | None = None
    """Rewards with a CLIP: hub id or local folder of its tokenizer (default: the published one)."""
    colours: str | None = None
    """geneval: hub id or local folder of the CLIP model that names colours (default: openai/clip-vit-large-patch14)."""
    device: str | None = None
    """Rewards with a model: auto (the default: the process' GPU where there is one), cpu, cuda, cuda:1, ..."""
    batch: int | None = None
    """Items per forward pass, or per request (default: 32)."""
    url: str | None = None
    """http: address of the server."""
    timeout: float | None = None
    """http: seconds that one try may take (default: 60)."""
    retries: int | None = None
    """http: tries after the first, on server errors, time-outs and cut connections (default: 3)."""

    def check(self, field_name: str) -> None:
        """Raises InputError, which names the options as fields of `field_name`."""
        for name in ("batch", "timeout"):
            value = vars(self)[name]
            _check(value is None or value > 0, f"{field_name}.{name}", f"must be positive, not {value}")
        negative = self.retries is not None and self.retries < 0
        _check(not negative, f"{field_name}.retries", f"must not be negative, not {self.retries}")


@dataclass(frozen=True)
class RewardConfig:
    """Rewards per side: names of pairuni.rewards.REWARDS or dotted paths `module:function` of the user's own.

    A side may name several: they are added with their weights.
    """

    understanding: list[str] = field(default_factory=lambda: ["choice"])
    """choice: 1 for the right option letter or word, else 0; open, vqa: short answers; format; ..."""
    generation: list[str] = field(default_factory=lambda: ["shapes"])
    """shapes: how much of the caption the Shapes detector finds in the image; hps: HPSv2.1; colourfulness; ..."""
    options: dict[str, RewardOptions] = field(default_factory=dict)
    """Options of the rewards, by their names: {"hps": {"weights": "models/HPS_v2.1_compressed.pt"}}."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weights of rewards, where a side has several: {"format": 0.2}; 1 where none is given."""
    normalise: Literal["none", "group"] = "none"
    """group: each reward is brought to mean 0 and deviation 1 within its group before they are added, so that their
    scales do not count; none: added as they are."""
    held_out: list[str] = field(default_factory=list)
    """Rewards that are computed and logged and never trained: where these fall while the trained ones rise, the model
    learns to please the reward."""

    def __post_init__(self) -> None:
        for name in ("understanding", "generation", "held_out"):
            object.__setattr__(self, name, as_list(vars(self)[name]))
        trained = [name for side in ("understanding", "generation") for name in self.names(side)]
        known = {*trained, *self.names("held_out")}
        for field_name, what in (("options", self.options), ("weights", self.weights)):
            unused = sorted(what.keys() - known)
            _check(not unused, f"rewards.{field_name}", f"has {field_name} of {', '.join(unused)}, which no side uses")
        for side in ("understanding", "generation"):
            names = self.names(side)
            _check(bool(names), f"rewards.{side}", "names no reward")
            _check(len(set(names)) == len(names), f"rewards.{side}", "names a reward twice")
        for name, weight in self.weights.items():
            _check(weight > 0, f"rewards.weights.{name}", f"must be positive, not {weight}; held_out is only logged")
        both = sorted({*trained} & {*self.names("held_out")})
        _check(not both, "rewards.held_out", f"{', '.join(both)} is trained, so it is not held out")
        for name, options in self.options.items():
            options.check(f"rewards.options.{name}")

    def names(self, side: str) -> list[str]:
        """The rewards of `understanding`, `generation` or `held_out`, one by one."""
        return list(vars(self)[side])


UNSCORED = ("benchmarks", "batch", "images")
"""Fields of EvalConfig that change no benchmark's score."""
SHAPES_QUESTIONS = 2000
"""Questions of the Shapes benchmarks where no other number is given. These never change (shapes/held_out.py)."""


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation on held-out items of both sides; also what `train` runs between steps."""

    benchmarks: list[str] = field(default_factory=lambda: ["shapes_understanding", "shapes_generation"])
    """Names of pairuni.eval.BENCHMARKS."""
    questions: int = 2000
    """Items of an understanding benchmark (0: its usual number, which is 2,000 in the Shapes world)."""
    prompts: int = 1000
    """Items of a generation benchmark (0: its usual number, which is 1,000 in the Shapes world)."""
    split: EvalSplit = "test"
    """Held-out items of the Shapes benchmarks: "test" for what is reported, "validation" for choosing options. With
    "test", training takes validation items between its first and its last step. Others have one set of items."""
    guidance: float = 5.0
    """Of sampled images."""
    batch: int = 128
    """Items per call of the sampler."""
    seed: int = 0
    """Of the sampled benchmarks."""
    protocol: Literal["official", "lmms_eval", "vlmevalkit"] = "official"
    """Whose rules pope, mme, mmstar and mmmu build prompts and read answers by: the benchmark's authors', or those of
    one of the two libraries that published numbers come from. imgedit has official and lmms_eval."""
    wise: Literal["legacy", "verified"] = "legacy"
    """Prompts, judge's scale and weights of WISE: of the paper, or of 2026."""
    images_per_prompt: int = 0
    """Images per prompt of geneval and wise (0: their own numbers, 4 and 1)."""
    data: dict[str, str] = field(default_factory=dict)
    """Where a benchmark's items are, by its name: a folder or file in its authors' layout, or a hub id (default: its
    usual hub id, where there is one)."""
    images: dict[str, str] = field(default_factory=dict)
    """Folder of the images of a benchmark whose items name files."""
    missing_images: Literal["error", "skip"] = "error"
    """Items whose image is not there: an error, or left out of the score, which then says of how many items it is."""
    detections: str = ""
    """geneval: results.jsonl of the authors' evaluator on the kept images (default: the detector decides)."""
    detector: str = "facebook/mask2former-swin-small-coco-instance"
    """geneval: hub id or local folder of a Mask2Former with COCO's classes. Not the authors' weights: approximate."""
    colours: str = "openai/clip-vit-large-patch14"
    """geneval: hub id or local folder of the CLIP model that names colours."""
    edits: str = ""
    """imgedit: folder of edited images <key>.png, by whatever model; they are judged and nothing is sampled."""
    imgedit_prompts: str = ""
    """imgedit: the authors' prompts.json, what the judge is told for each edit type (default: a rubric of our own)."""
    judge: LlmConfig = field(default_factory=LlmConfig)
    """wise, imgedit: the endpoint whose model scores images."""
    group: ClassVar[str] = "eval."
    """What stands before the fields in a file and on the command line."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "benchmarks", as_list(self.benchmarks))
        for name in ("questions", "prompts"):
            _check(vars(self)[name] >= 0, f"{self.group}{name}", f"must not be negative, not {vars(self)[name]}")
        _check(self.guidance >= 1, f"{self.group}guidance", f"must be at least 1 (off), not {self.guidance}")
        _check(self.batch > 0, f"{self.group}batch", f"must be positive, not {self.batch}")
        _check(bool(self.names), f"{self.group}benchmarks", "names no benchmark")
        shapes = any(has_validation(name) for name in self.names)
        _check(self.split == "test" or shapes, f"{self.group}split", "validation: only Shapes benchmarks have that")
        per_prompt = self.images_per_prompt
        _check(per_prompt >= 0, f"{self.group}images_per_prompt", f"must not be negative, not {per_prompt}")
        _check_seed(self.seed, f"{self.group}seed")

    @property
    def names(self) -> list[str]:
        """The benchmarks, one by one."""
        return list(self.benchmarks)

    def split_of(self, name: str) -> EvalSplit | None:
        """Which items a benchmark takes; None where it has one set of them."""
        return self.split if has_validation(name) else None

    def key(self, name: str) -> str:
        """What a score of this benchmark is called among others: a validation score is no test score."""
        return f"validation/{name}" if self.split_of(name) == "validation" else name

    def settings_hash(self, name: str) -> str:
        """Equal where two scores of this benchmark may be compared."""
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
            settings["shapes_items"] = 2  # which ones these are has changed once
        return settings


def has_validation(benchmark: str) -> bool:
    """Whether a benchmark has validation items beside those that are reported."""
    return benchmark.startswith("shapes_")


@dataclass(frozen=True)
class LogConfig:
    samples_every: int = 10
    """Steps between sample grids at fixed prompts; the last step always has one (0: never)."""
    sample_prompts: int = 4
    """Pairs in a sample grid."""
    checkpoint_every: int = 50
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 2
    """Older checkpoints are deleted (0: keep all)."""
    eval_every: int = 0
    """Steps between evaluations inside training; the last step is always evaluated (0: none)."""
    best: str = ""
    """Benchmark of `eval.benchmarks` by which the best checkpoint is kept beside the latest ones and named in
    checkpoints/best; every evaluated step that is the best so far is then saved. One of the Shapes world needs
    `eval.split: validation`; scores of another one are marked as chosen on their own items."""
    hacking_window: int = 20
    """Steps over which rewards are compared: a warning is given where a trained one has risen and a held-out one has
    fallen since the first so many steps, both by more than twice their standard errors (0: never looked at)."""
    gradient_cosine_every: int = 0
    """Steps between measurements of the cosine between the understanding and the generation loss' gradients (0: never).
    Needs memory for two more gradients."""
    console: Literal["bar", "lines", "quiet"] = "bar"
    """bar: a bar where stderr is a terminal, else lines; lines: one plain line per step; quiet: neither. Warnings and
    scores are printed in any case."""
    trackers: list[Tracker] = field(default_factory=list)
    """Where metrics and samples go besides the run directory: tensorboard, wandb, trackio (each to be installed)."""
    project: str = "pairuni"
    """The project's name in a tracker; the run has that of its directory."""

    def __post_init__(self) -> None:
        for name in vars(self).keys() - {"best", "console", "trackers", "project"}:
            _check(vars(self)[name] >= 0, f"log.{name}", f"must not be negative, not {vars(self)[name]}")
        _check(self.hacking_window != 1, "log.hacking_window", "must be 0 or at least 2, not 1")


@dataclass(frozen=True)
class TrainConfig:
    """`pairuni train`: pairs.jsonl -> run directory (paper 3)."""

    output: str
    """The run directory. An existing run with the same config is continued."""
    steps: int = 1200
    """Rollout steps (paper: at most 1,200)."""
    seed: int = 0
    """Of everything random: data order, rollouts."""
    sides: Literal["both", "understanding", "generation"] = "both"
    """Which losses are trained."""
    weighting: Literal["none", "linear", "sqrt"] = "sqrt"
    """Weight of a retrieved pair: 1, its similarity, or its square root (paper: sqrt). Aligned pairs have 1."""
    clip_eps: float = 0.2
    """Clips the probability ratio to [1 - eps, 1 + eps]. Not stated in the paper."""
    kl_beta: float = 0.0
    """Weight of the KL to the initial model (paper: 0); the reference model is loaded only when positive."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """How the KL is estimated from the actions drawn, and whose gradient that has. k3: never negative, of low variance;
    its gradient is that of KL(initial || policy). k2: biased, its gradient that of KL(policy || initial). k1: unbiased
    but of either sign, with k2's gradient, since its own would be zero on average. Not stated in the paper."""
    loss_norm: Literal["sequence_mean", "token_sum", "token_mean", "constant"] = "sequence_mean"
    """Denominator of a side's sum: per sequence then mean; mean over sequences of the token sum (the paper's formula as
    printed); all the side's tokens; sequences times the side's `norm_length`. In mode vanilla both sides have one
    denominator: half the batch's sequences, or half its tokens, so that with token_mean images of many codes drown
    short answers."""
    norm_length: NormLength = field(default_factory=NormLength)
    updates_per_rollout: int = 1
    """Optimiser steps on one set of rollouts. Not stated in the paper."""
    micro_batch: int = 64
    """Most rollout rows per forward and backward. Does not change the result, and may change within a run."""
    micro_tokens: int = 0
    """Most tokens per forward and backward, prompts included (0: any number). Does not change the result."""
    distributed: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: ddp gives each all weights, gradients and moments; fsdp spreads them. One result."""
    collective_timeout: float = 120.0
    """Collective timeout in minutes; the rank that is missing is named. It must cover an evaluation on rank 0."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    pair_selection: PairSelectionConfig = field(default_factory=PairSelectionConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    side_weights: SideWeights = field(default_factory=SideWeights)
    optim: OptimConfig = field(default_factory=OptimConfig)
    rewards: RewardConfig = field(default_factory=RewardConfig)
    log: LogConfig = field(default_factory=LogConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    overwrite: bool = False
    """Replace files in the output that this command did not write, or that were edited since."""

    def __post_init__(self) -> None:
        for name in ("steps", "clip_eps", "updates_per_rollout", "micro_batch"):
            _check(vars(self)[name] > 0, name, f"must be positive, not {vars(self)[name]}")
        # What a group is given from Python is not parsed.
        sides = "is one per side: norm_length.understanding and norm_length.generation"
        _check(isinstance(self.norm_length, NormLength), "norm_length", f"{sides}, not {self.norm_length}")
        _check(self.micro_tokens >= 0, "micro_tokens", f"must not be negative, not {self.micro_tokens}")
        _check(self.kl_beta >= 0, "kl_beta", f"must not be negative, not {self.kl_beta}")
        _check(self.collective_timeout > 0, "collective_timeout", f"must be positive, not {self.collective_timeout}")
        _check(bool(self.data.pairs), "data.pairs", "is needed: the path of a pairs.jsonl")
        both = self.distributed == "fsdp" and self.log.gradient_cosine_every > 0
        _check(not both, "log.gradient_cosine_every", "compares whole gradients, which distributed: fsdp never has")
        alone = self.sides != "both" and self.log.gradient_cosine_every > 0
        _check(not alone, "log.gradient_cosine_every", f"compares both sides, but sides is {self.sides}")
        best = self.log.best
        _check(not best or best in self.eval.names, "log.best", f"{best!r} is not one of eval.benchmarks")
        _check(not best or self.log.eval_every > 0, "log.best", "needs log.eval_every: nothing is evaluated")
        reported = has_validation(best) and self.eval.split == "test"
        what = f"{best} on the test split would choose a checkpoint by the items that are reported"
        _check(not reported, "log.best", f"{what}; set eval.split to validation")
        _check_seed(self.seed)

    def eval_at(self, step: int) -> EvalConfig:
        """How the model is evaluated after `step` steps: `eval`, but between the first and the last step on validation
        items where a benchmark has them, so that no one stops or changes a run by what it is reported on."""
        between = 0 < step < self.steps and any(has_validation(name) for name in self.eval.names)
        return replace(self.eval, split="validation") if between else self.eval

    @property
    def trained_sides(self) -> tuple[Side, ...]:
        """The sides that `sides` names."""
        return tuple(side for side in Side if self.sides in ("both", side))

    @property
    def objective(self) -> Objective:
        """The loss of a step, resolved for the pairing mode."""
        mode = self.pair_selection.mode
        return Objective(
            weighting="none" if mode in UNWEIGHTED else self.weighting,
            std_eps=self.advantage.std_eps,
            clip_eps=self.clip_eps,
            kl_beta=self.kl_beta,
            kl_estimator=self.kl_estimator,
            loss_norm=self.loss_norm,
            norm_length={side: vars(self.norm_length)[side] for side in Side},
            side_weights={side: vars(self.side_weights)[side] for side in Side},
            shared_denominator=mode == "vanilla",
            updates_per_rollout=self.updates_per_rollout,
            micro_batch=self.micro_batch,
            micro_tokens=self.micro_tokens,
        )


@dataclass(frozen=True)
class PlanOptions:
    """Only with --plan, which says how much memory training takes, trains nothing and writes nothing."""

    memory: float = 0.0
    """GiB to plan for (0: what the device has, on a CPU what is free). Given with model.device = auto it is a GPU's,
    be there one here or not."""
    processes: int = 1
    """Processes that share the batch (torchrun --nproc-per-node N)."""
    text_tokens: int = 128
    """Tokens of the longest caption or question, its chat template included and its image not."""
    measure: bool = True
    """Run each stage on the model too, where its weights and the device are here and the estimate fits."""

    def __post_init__(self) -> None:
        _check(0 <= self.memory < math.inf, "plan.memory", f"must be a number of GiB, not {self.memory}")
        for name in ("processes", "text_tokens"):
            _check(vars(self)[name] > 0, f"plan.{name}", f"must be positive, not {vars(self)[name]}")


@dataclass(frozen=True)
class PlanConfig(TrainConfig):
    """`pairuni train`: pairs.jsonl -> run directory (paper 3). With --plan: says what memory that takes, and ends."""

    plan: PlanOptions = field(default_factory=PlanOptions)


@dataclass(frozen=True)
class EvaluateConfig(EvalConfig):
    """`pairuni eval`: model -> eval.json."""

    group: ClassVar[str] = ""
    model: str = "shapes-janus"
    """Local folder or hub id; `shapes-janus` and `shapes-dimoo` ship with the package."""
    output: str = "."
    """Folder for eval.json and answers_<benchmark>.jsonl."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, cuda:1, ..."""
    precision: Precision = "auto"
    """Of the forward passes: auto is bf16 on GPU and fp32 on CPU."""
    sampler_options: dict[str, Any] = field(default_factory=dict)
    """Options of the model family's sampler, by name; they replace those of the checkpoint (docs/lumina-dimoo.md)."""
    overwrite: bool = False
    """Replace files in the output that this command did not write, or that were edited since."""


@dataclass(frozen=True)
class SmokeConfig:
    """`pairuni smoke`: a few prompts through everything that training does, on a model that stays as it is."""

    pairs: str = ""
    """pairs.jsonl whose first pairs are used (default: drawings of the Shapes world)."""
    image_root: str | None = None
    """Folder that image paths are relative to (default: the one that `pair` used, else that of `pairs`)."""
    output: str = "smoke"
    """Folder for smoke.html, smoke.json and the images."""
    number: int = 2
    """Pairs."""
    micro_batch: int = 4
    """Most rollout rows per forward and backward."""
    seed: int = 0
    """Of the drawings and the rollouts."""
    model: ModelConfig = field(default_factory=ModelConfig)
    rollout: RolloutConfig = field(default_factory=lambda: RolloutConfig(rollouts=4, max_new_tokens=64))
    overwrite: bool = False
    """Replace files in the output that this command did not write, or that were edited since."""

    def __post_init__(self) -> None:
        for name in ("number", "micro_batch"):
            _check(vars(self)[name] > 0, name, f"must be positive, not {vars(self)[name]}")
        _check(bool(self.pairs) or self.image_root is None, "image_root", "needs pairs")
        _check_seed(self.seed)


@dataclass(frozen=True)
class SampleConfig:
    """`pairuni sample`: try a model. Either a prompt (draws images) or an image and a question (answers)."""

    model: str = "shapes-janus"
    """Local folder or hub id; `shapes-janus` and `shapes-dimoo` ship with the package."""
    prompt: str | None = None
    """Draw images of this."""
    image: str | None = None
    """Image file to ask about."""
    question: str | None = None
    """What to ask about it."""
    number: int = 4
    """Images or answers."""
    output: str = "sample.png"
    """Where the images go, side by side in one PNG."""
    temperature: float = 1.0
    """0 is greedy."""
    guidance: float = 5.0
    """Of images; 1 is off."""
    top_k: int = 0
    """Keep only the k most likely tokens (0: all)."""
    top_p: float = 1.0
    """Keep the smallest set of tokens with this probability (1: all)."""
    max_new_tokens: int = 128
    """Longest answer."""
    seed: int = 0
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, cuda:1, ..."""
    precision: Precision = "auto"
    """Of the forward passes: auto is bf16 on GPU and fp32 on CPU."""
    sampler_options: dict[str, Any] = field(default_factory=dict)
    """Options of the model family's sampler, by name; they replace those of the checkpoint (docs/lumina-dimoo.md)."""
    overwrite: bool = False
    """Replace files in the output that this command did not write, or that were edited since."""

    def __post_init__(self) -> None:
        for name in ("number", "max_new_tokens"):
            _check(vars(self)[name] > 0, name, f"must be positive, not {vars(self)[name]}")
        for name in ("temperature", "top_k", "seed"):
            _check(vars(self)[name] >= 0, name, f"must not be negative, not {vars(self)[name]}")
        _check(self.guidance >= 1, "guidance", f"must be at least 1 (off), not {self.guidance}")
        _check(0 < self.top_p <= 1, "top_p", f"must be in (0, 1], not {self.top_p}")
        asked = self.image is not None or self.question is not None
        _check((self.prompt is not None) != asked, "prompt", "give either --prompt or --image with --question")
        _check(not asked or (self.image is not None and self.question is not None), "question", "needs an image too")


@dataclass(frozen=True)
class PretrainConfig:
    """`pairuni pretrain`: makes the small models of the Shapes world from nothing."""

    output: str
    """Folder for the model; .state in it lets a stopped run continue."""
    family: Literal["janus", "dimoo"] = "janus"
    """The defaults below are Janus'; those of Lumina-DiMOO are in configs/pretrain/shapes_dimoo.yaml."""
    seed: int = 0
    auto_steps: int = 500
    """Steps of the plain autoencoder; 0 for dimoo, whose codes are given."""
    vq_steps: int = 1400
    """Steps of the quantised autoencoder."""
    decoder_steps: int = 600
    """Steps of the decoder alone, on codes that no longer move."""
    vq_batch: int = 16
    """Images per step of these three."""
    vq_lr: float = 2e-3
    """Peak learning rate of these three."""
    sight_steps: int = 200
    """Steps of the vision tower with a throw-away head that names what is in each cell."""
    sight_batch: int = 64
    """Images per step of it."""
    answer_steps: int = 500
    """Steps of the language model on answers alone: it learns to look before it learns to draw."""
    language_steps: int = 1300
    """Steps of the language model on both sides; fewer leave more for RL to improve."""
    refine_steps: int = 500
    """Steps of a second cycle on both sides."""
    careless_steps: int = 120
    """Steps of a third, at a third of the learning rate, in which some questions are answered without looking."""
    lr: float = 1.5e-3
    """Peak learning rate of the language model."""
    answer_rows: int = 24
    """Images with questions per step."""
    shared_rows: int = 0
    """The same in steps of both sides (0: as many)."""
    turns: int = 5
    """Turns per image: one caption, the rest questions."""
    careless: float = 0.45
    """Share of the third cycle's questions that are answered with the first option, whatever the image shows."""
    image_rows: int = 48
    """Captions with images per step."""
    drop: float = 0.1
    """Share of image rows whose caption is replaced by padding, for guidance."""
    pool: int = 16000
    """Scenes that are drawn once and used for both sides."""
    questions: int = 2000
    """Held-out questions that the model card reports on."""
    prompts: int = 1000
    """Held-out prompts that the model card reports on."""
    bf16: bool = True
    """bf16 autocast of the language model's forward passes; weights stay fp32."""
    overwrite: bool = False
    """Replace files in the output that this command did not write, or that were edited since."""

    def __post_init__(self) -> None:
        for name in ("vq_batch", "sight_batch", "answer_rows", "image_rows", "pool", "vq_lr", "lr"):
            _check(vars(self)[name] > 0, name, f"must be positive, not {vars(self)[name]}")
        steps = (name for name in vars(self) if name.endswith("_steps"))
        for name in (*steps, "questions", "prompts", "seed", "shared_rows"):
            _check(vars(self)[name] >= 0, name, f"must not be negative, not {vars(self)[name]}")
        _check(self.family == "janus" or not self.auto_steps, "auto_steps", "must be 0: dimoo's codes are given")
        for name in ("decoder_steps", "careless_steps"):
            _check(vars(self)[name] > 0, name, f"must be positive, not {vars(self)[name]}: its loss is reported")
        for name in ("careless", "drop"):
            _check(0 <= vars(self)[name] <= 1, name, f"must be in [0, 1], not {vars(self)[name]}")
        _check(self.turns >= 2, "turns", f"must be at least 2, a caption and a question, not {self.turns}")


@dataclass(frozen=True)
class ShapesConfig:
    """`pairuni shapes`: writes source files of the Shapes world, as `complete` reads them."""

    output: str
    """Folder for images/, understanding.jsonl and generation.jsonl."""
    understanding: int = 600
    """Understanding samples."""
    generation: int = 600
    """Generation samples."""
    common: float = 0.0
    """Share of the generation images that show a scene of an understanding image once more, drawn and captioned anew:
    how well the two sources can be matched."""
    backgrounds: Literal["plain", "mixed", "apart"] = "plain"
    """What images look like beside their content. plain: one background; mixed: each image has one of four tints, which
    an extractor sees and no question asks about; apart: the two sources have different tints."""
    question_types: list[str] = field(default_factory=list)
    """Types that understanding samples ask about (default: all six): what is left to learn differs between them."""
    tasks: list[str] = field(default_factory=list)
    """What generation samples are: any of the six tasks, and scene, a caption of a whole scene (default: half scenes,
    half tasks). With `common`, those that show a scene once more are of scene."""
    seed: int = 0
    overwrite: bool = False
    """Replace files in the output that this command did not write, or that were edited since."""

    def __post_init__(self) -> None:
        for name in ("understanding", "generation"):
            _check(vars(self)[name] > 0, name, f"must be positive, not {vars(self)[name]}")
        _check(0 <= self.common <= 1, "common", f"must be in [0, 1], not {self.common}")
        _check_seed(self.seed)


@dataclass(frozen=True)
class TinyConfig:
    """`pairuni tiny`: a small Janus with random weights, to try a pipeline on one's own data in minutes."""

    output: str
    """Folder for the model."""
    texts: str | None = None
    """JSON Lines whose strings the tokenizer is trained on (default: texts of the Shapes world)."""
    image: int = 64
    """Side of its images, a multiple of 16."""
    hidden: int = 64
    """Width of the language model, a multiple of 8: four heads, whose rotary embedding needs an even width each."""
    seed: int = 0
    overwrite: bool = False
    """Replace files in the output that this command did not write, or that were edited since."""

    def __post_init__(self) -> None:
        for name, unit in (("image", 16), ("hidden", 8)):
            value = vars(self)[name]
            _check(value > 0 and value % unit == 0, name, f"must be a positive multiple of {unit}, not {value}")
        _check_seed(self.seed)


@dataclass(frozen=True)
class GalleryConfig:
    """`pairuni analyse pairs`: pairs.jsonl and what was left over -> one HTML page to look through."""

    pairs: str
    """pairs.jsonl; removed.jsonl, unmatched.jsonl and pairing.json beside it are shown too."""
    image_root: str | None = None
    """Folder that image paths are relative to (default: each file's own folder)."""
    rejected: list[str] = field(default_factory=list)
    """Files of rejected samples (default: the one beside the quadruples that pairing.json names)."""
    out: str | None = None
    """The page (default: gallery.html beside the pairs)."""
    limit: int = 400
    """At most this many pairs, unmatched, removed and rejected samples each, drawn evenly over kind, similarity, reason
    and tag (0: all). A pair of two photographs takes about 25 kB."""
    seed: int = 0
    """Of that draw."""
    thumbnail: int = 224
    """Longer side of the embedded images in pixels; smaller images stay as they are."""
    overwrite: bool = False
    """Replace files in the output that this command did not write, or that were edited since."""

    def __post_init__(self) -> None:
        _check(self.limit >= 0, "limit", f"must not be negative, not {self.limit}")
        _check(self.thumbnail > 0, "thumbnail", f"must be positive, not {self.thumbnail}")
        _check_seed(self.seed)


@dataclass(frozen=True)
class GradientsConfig:
    """`pairuni analyse gradients`: whether the two sides' gradients agree, over mixes of the same pairs (paper 5)."""

    run: str
    """A run directory or a training config (YAML): its model, pairs, rollouts and rewards are used."""
    output: str = ""
    """Folder for the results (default: gradients in the run directory). What is measured there already is kept."""
    model: str = ""
    """Another model to look at, folder or hub id (default: the one that the run begins with)."""
    mixes: list[PairingMode] = field(
        default_factory=lambda: [
            "pairs", "aligned_only", "retrieved_only", "random_pairs", "unpaired", "from_understanding",
            "from_generation",
        ]
    )  # fmt: skip
    """Mixing modes to compare; vanilla has no pairs."""
    pairs: int = 64
    """Of each mix, drawn by the seed."""
    rollouts: int = 0
    """Of each gradient (0: as in training). Each side is sampled twice as often: for a pair of gradients."""
    sketch: int = 262144
    """Numbers that a layer's gradient is kept as, at random (0: all). A cosine is off by about 1 / sqrt(sketch)."""
    seed: int = 0
    """Of that draw, and of the rollouts."""
    overwrite: bool = False
    """Replace files in the output that this command did not write, or that were edited since."""

    def __post_init__(self) -> None:
        _check(bool(self.mixes), "mixes", "needs one mix at least")
        _check("vanilla" not in self.mixes, "mixes", "vanilla has no pairs to compare the gradients of")
        _check(len(set(self.mixes)) == len(self.mixes), "mixes", "names a mix twice")
        _check(self.pairs > 0, "pairs", f"must be positive, not {self.pairs}")
        _check(self.rollouts == 0 or self.rollouts > 1, "rollouts", f"must be 0 or at least 2, not {self.rollouts}")
        _check(self.sketch >= 0, "sketch", f"must not be negative, not {self.sketch}")
        _check_seed(self.seed)


@dataclass(frozen=True)
class AblationsConfig:
    """`pairuni analyse ablations`: training runs that differ in one thing -> tables and figures (paper 5)."""

    suite: list[Suite]
    """What is compared, one or several: pairing (which halves train together), weighting, threshold (similarity floor),
    selection (of aligned pairs), extractor, rewards; in the Shapes world matching (how well sources can be matched) and
    room (what is left to learn on each side)."""
    output: str = "runs/ablations"
    """Folder of configs/, logs/, data/, pairs/, runs/, results.jsonl, tables and figures. Finished runs are never
    repeated, whichever suites they belong to."""
    base: str = ""
    """Training config (YAML) that all arms share (default: that of the demo)."""
    pair: str = ""
    """Pairing config (YAML) of `base`, where it has data of its own: threshold, selection and extractor pair anew."""
    seeds: int = 3
    """Runs of each arm, with seeds from 0: of data, pairing and training in the Shapes world, of training alone with
    data of your own. Arms of one seed share their data, but in matching and room, which compare data."""
    arms: list[str] = field(default_factory=list)
    """Run only these of the suites' arms, and those that they are compared with (default: all), such as more seeds of
    two arms than of the others. Tables have every arm with results."""
    engine: Literal["local", "ray"] = "local"
    """What runs the processes: this machine, or Ray, on this machine or a cluster (needs `pairuni[cluster]`)."""
    ray_address: str = ""
    """host:port of a running Ray cluster, or auto. All its machines must see `output` under the same path."""
    workers: int = 1
    """Runs at once (engine: local)."""
    threads: int = 0
    """CPU threads of each run (0: this machine's, divided among the workers; 1 with Ray)."""
    launch: str = ""
    """What begins a training run, such as `torchrun --nproc-per-node 8 -m pairuni` (default: this Python)."""
    dry_run: bool = False
    """Write the configs, say what is missing and what it costs, and stop."""
    collect: bool = False
    """Run nothing: tables and figures of what results.jsonl and finished runs hold."""
    overwrite: bool = False
    """Replace files in the output that this command did not write, or that were edited since."""

    def __post_init__(self) -> None:
        _check(bool(self.suite), "suite", "names none")
        for name in ("suite", "arms"):
            _check(len(set(vars(self)[name])) == len(vars(self)[name]), name, "names one twice")
        for name in ("seeds", "workers"):
            _check(vars(self)[name] > 0, name, f"must be positive, not {vars(self)[name]}")
        _check(self.threads >= 0, "threads", f"must not be negative, not {self.threads}")
        _check(self.engine == "ray" or not self.ray_address, "ray_address", "needs engine: ray")
        _check(
            self.engine == "local" or not self.launch, "launch", "needs engine: local; with Ray a run is one process"
        )
        _check(not (self.dry_run and self.collect), "dry_run", "and collect: choose one")

    @property
    def threads_each(self) -> int:
        """CPU threads of each run."""
        own = 1 if self.engine == "ray" else max(1, (os.cpu_count() or 1) // self.workers)
        return self.threads or own


@dataclass(frozen=True)
class HfDatasetConfig:
    """`pairuni export hf-dataset`: pairs.jsonl -> a folder that `datasets.load_dataset` and the Hub read."""

    pairs: str
    """pairs.jsonl; pairing.json beside it goes into the data card."""
    output: str
    """Folder for data/, README.md and similarity.png. One that holds anything but an earlier export is refused."""
    image_root: str | None = None
    """Folder that image paths are relative to (default: the one that `pair` used, else that of `pairs`)."""
    overwrite: bool = False
    """Replace `output` whatever it holds: everything in it is deleted."""
    title: str = ""
    """Name on the data card (default: the name of the output folder)."""
    license: str = ""
    """The Hub's identifier of the data set's licence, such as cc-by-4.0 (default: the card states none)."""
    license_name: str = ""
    """What the licence is called, for license = other."""
    license_link: str = ""
    """Where it can be read, for license = other."""
    source_licenses: dict[str, str] = field(default_factory=dict)
    """Licences of what the data was made from, by name: {"COCO train2017": "annotations CC BY 4.0"}."""
    language: list[str] = field(default_factory=list)
    """Languages of the texts as the Hub writes them: [en]."""
    shard_mb: int = 500
    """A parquet file ends when it holds this many megabytes of images."""

    def __post_init__(self) -> None:
        named = bool(re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.license))
        _check(not self.license or named, "license", f"must be an identifier such as cc-by-4.0, not {self.license!r}")
        for name in ("license_name", "license_link"):
            stray = vars(self)[name] and self.license != "other"
            _check(not stray, name, "is only for license = other; others are known by their identifier")
        _check(self.license != "other" or bool(self.license_name), "license_name", "is needed for license = other")
        for code in self.language:
            _check(bool(re.fullmatch(r"[a-z]{2,3}", code)), "language", f"must be codes such as en, not {code!r}")
        _check(self.shard_mb > 0, "shard_mb", f"must be positive, not {self.shard_mb}")


@dataclass(frozen=True)
class VerlOmniConfig:
    """`pairuni export verl-omni`: pairs.jsonl -> the parquet files that verl-omni's trainers read."""

    pairs: str
    """pairs.jsonl."""
    output: str
    """Folder for understanding.parquet, generation.parquet. One with anything but an earlier export is refused."""
    image_root: str | None = None
    """Folder that image paths are relative to (default: the one that `pair` used, else that of `pairs`)."""
    overwrite: bool = False
    """Replace `output` whatever it holds: everything in it is deleted."""
    weighting: Literal["none", "linear", "sqrt"] = "sqrt"
    """Weight of a retrieved pair: 1, its similarity, or its square root (paper 3). Aligned pairs have 1."""
    data_source: str = "pairuni"
    """Column data_source, with /understanding or /generation after it: what a reward function tells rows apart by."""
    negative_prompt: str | None = None
    """Column negative_prompt of the generation rows, for models sampled with guidance (default: no such column)."""

    def __post_init__(self) -> None:
        _check(bool(self.data_source.strip()), "data_source", "must not be empty")


@dataclass(frozen=True)
class UnirlConfig:
    """`pairuni export unirl`: pairs.jsonl -> the JSON Lines and images that UniRL's trainers read."""

    pairs: str
    """pairs.jsonl."""
    output: str
    """Folder for understanding.jsonl, generation.jsonl, images/. One with anything but an earlier export is refused."""
    image_root: str | None = None
    """Folder that image paths are relative to (default: the one that `pair` used, else that of `pairs`)."""
    overwrite: bool = False
    """Replace `output` whatever it holds: everything in it is deleted."""
    weighting: Literal["none", "linear", "sqrt"] = "sqrt"
    """Weight of a retrieved pair: 1, its similarity, or its square root (paper 3). Aligned pairs have 1."""
