"""Options of the stages that make pairs: `pairuni shapes`, `complete` and `pair` (paper 2)."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from pairuni.config.endpoint import LlmConfig
from pairuni.config.fields import Count, Extractor, Flag, ListOf, Positive, Share, options, require

_SAMPLE_FIELDS = ("id", "image", "prompt", "question", "answer", "tag")


@options()
class ShapesConfig:
    """`pairuni shapes`: writes source files of the Shapes world for `complete`."""

    output: str
    """Folder for images/, understanding.jsonl and generation.jsonl."""
    understanding: Positive = 600
    """Understanding samples."""
    generation: Positive = 600
    """Generation samples."""
    common: Share = 0.0
    """Share of the generation images that show the scene of an understanding image again, newly drawn and captioned:
    how well the two sources can be matched."""
    backgrounds: Literal["plain", "mixed", "apart"] = "plain"
    """Background of the images. plain: one for all; mixed: each image has one of four tints, which an extractor sees
    and no question asks about; apart: the two sources have different tints."""
    question_types: ListOf[str] = field(default_factory=list)
    """Question types of understanding samples (default: all six). They differ in how much is left to learn."""
    tasks: ListOf[str] = field(default_factory=list)
    """Kinds of generation samples: any of the six tasks, and scene, a caption of a whole scene (default: half scenes,
    half tasks). With `common`, the samples that show a scene again are of kind scene."""
    seed: Count = 0
    overwrite: Flag = False
    """Replace files in the output that this command did not write, or that were edited since."""


@options()
class SourceConfig:
    """How the source of one side is read."""

    format: Literal["auto", "jsonl", "datasets", "imagefolder", "webdataset"] = "auto"
    """jsonl: JSON Lines and image files; datasets: a hub id, or parquet or arrow files; imagefolder: images with a
    metadata.jsonl or .csv; webdataset: tar shards. auto goes by the ending: .jsonl, .tar; anything else is datasets."""
    subset: str | None = None
    """Subset of a hub data set that has several."""
    split: str = "train"
    revision: str | None = None
    """Commit, tag or branch on the hub."""
    fields: dict[str, str] = field(default_factory=dict)
    """The source's name for each of our fields (id, image, prompt, question, answer, tag). Dots step into mappings,
    lists and JSON text: {"question": "conversations.0.value"}. A field that is left out has our name; id may be
    missing."""
    strip: dict[str, str] = field(default_factory=dict)
    """Text to remove from a field, such as an image placeholder: {"question": "<image>"}."""
    skip: dict[str, ListOf[str]] = field(default_factory=dict)
    """Skip rows whose field has one of these values; they are counted: {"ability": ["detection"]}."""
    limit: Count = 0
    """Read this many rows (0: all)."""

    def __post_init__(self) -> None:
        for name, keys in (("fields", self.fields), ("strip", self.strip)):
            unknown = sorted(keys.keys() - {*_SAMPLE_FIELDS})
            require(not unknown, name, f"{', '.join(unknown)}: not one of {', '.join(_SAMPLE_FIELDS)}")


@options()
class CompleteConfig:
    """`pairuni complete`: understanding and generation samples -> quadruples.jsonl (paper 2.1)."""

    understanding: str
    """JSON Lines of {"id", "image_path", "question", "answer"}, or another source (`understanding_source`)."""
    generation: str
    """JSON Lines of {"id", "image_path", "prompt"}, or another source (`generation_source`)."""
    output: str
    """Folder for quadruples.jsonl and rejected.jsonl, and for images/ where a source is not JSON Lines."""
    image_root: str | None = None
    """Folder that image paths of JSON Lines are relative to (default: each file's own folder). If both sources are
    JSON Lines, they must share it, and the image paths of quadruples.jsonl are relative to it."""
    understanding_source: SourceConfig = field(default_factory=SourceConfig)
    generation_source: SourceConfig = field(default_factory=SourceConfig)
    completer: Literal["shapes", "llm"] = "shapes"
    """shapes: reads images of the Shapes world with its detector, offline; llm: asks the endpoint of `llm`."""
    attempts: Positive = 3
    """Tries per sample; each is generated, then verified. A sample that fails them all is rejected."""
    seed: Count = 0
    """Seed of the wording, the choice of question, and the place of the right option."""
    shards: Positive = 1
    """Parts of the samples, for several processes or hosts. Each part writes into its own folder; the same command with
    one part then writes the whole from the shared ledger."""
    shard: Count = 0
    """Number of this part, from 0."""
    dry_run: Flag = False
    """Print the number of calls, their tokens and their cost, and stop."""
    llm: LlmConfig = field(default_factory=LlmConfig)
    overwrite: Flag = False
    """Replace files in the output that this command did not write, or that were edited since."""

    def __post_init__(self) -> None:
        require(self.shard < self.shards, "shard", f"must be in [0, {self.shards}), not {self.shard}")
        require(self.completer != "llm" or self.llm.model, "llm.model", "is needed for completer: llm")
        require(self.completer == "llm" or not self.dry_run, "dry_run", "needs completer: llm, others cost nothing")


@options()
class PairConfig:
    """`pairuni pair`: quadruples.jsonl -> pairs.jsonl and pairing.json (Algorithm 1, paper 2.2).

    Medoids of clusters over all images become aligned pairs; image retrieval matches the rest.
    """

    quadruples: str
    """quadruples.jsonl."""
    output: str
    """Folder for pairs.jsonl, pairing.json and features/."""
    image_root: str | None = None
    """Folder that image paths are relative to (default: the folder of `quadruples`)."""
    extractor: Extractor = "resnet50"
    """resnet50: 2048-d, the paper's choice; dinov3, clip; pe: Perception Encoder, needs timm; colour_hog: colour and
    gradient histograms, needs no weights; shapes_content: the contents that the Shapes detector reads."""
    weights: str = ""
    """Hub id or local folder of the extractor's weights (default: the usual ones of data.features.EXTRACTORS)."""
    feature_batch: Positive = 64
    """Images per batch of the extractor."""
    engine: Literal["local", "ray"] = "local"
    """Computes features in this process, or with Ray Data on this machine or a cluster (needs `pairuni[cluster]`)."""
    ray_address: str = ""
    """host:port of a running Ray cluster, or auto for the one that this machine is part of. All its machines must see
    images and `output` under the same paths. Default: start Ray on this machine for this run."""
    dedup: Literal["exact", "near"] = "exact"
    """exact: keep one quadruple per image content; near: also one per image that was resized, encoded again, cropped by
    up to a fifth of a side, or made brighter or darker. Hashes and features propose copies, pixels decide."""
    dedup_bits: Annotated[int, Field(strict=True, ge=0, le=32)] = 6
    """Propose a copy where at most this many of 64 bits of the perceptual hashes differ."""
    dedup_cosine: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.7
    """Propose a near copy from this cosine of features on. Depends on the extractor; lower finds more, more slowly."""
    references: ListOf[str] = field(default_factory=list)
    """JSON Lines of evaluation or pre-training sets (image_path, prompt, question): their contents are left out."""
    reference_words: Positive = 8
    """A prompt or question may not share this many words in a row with a reference; a shorter one may not be equal to
    it. Options and instructions ("Answer with the option's letter") are cut first; words that many references share do
    not count."""
    clusters: Positive = 5000
    """K of k-means; capped at half the images, with a notice. The paper's 4,971 aligned pairs suggest about 5,000."""
    kmeans: Literal["lloyd", "minibatch"] = "lloyd"
    """lloyd: spherical, full passes; minibatch: scikit-learn's, the paper's name for it, leaves singleton clusters."""
    kmeans_passes: Positive = 50
    """Most passes over the images; k-means stops once no image moves. Not stated in the paper."""
    seed: Count = 0
    """Seed of the clustering, the order of generation samples, and random selection."""
    neighbours: Count = 0
    """Candidates per generation image, the n most similar (0: all above the floor). Not stated in the paper."""
    similarity_floor: Share = 0.6
    """Least cosine similarity of a retrieved pair (paper: 0.6). Its meaning depends on the extractor."""
    index: Literal["exact", "ivf"] = "exact"
    """Candidate search. exact: all products, on a GPU if there is one; ivf: an inverted file of faiss, for many
    millions of images, needs `pairuni[faiss]`; its recall is measured on a sample and reported."""
    index_probes: Positive = 32
    """Lists of the inverted file that one image is compared with; more find more."""
    matching: Literal["paper_order", "greedy", "optimal"] = "paper_order"
    """paper_order: generation images in shuffled file order take their best free partner; greedy: edges by falling
    similarity; optimal: maximum total similarity, one-to-one."""
    select: Literal["medoid", "random"] = "medoid"
    """Member of a cluster that becomes its aligned pair (random is the paper's ablation)."""
    max_pairs: Count = 0
    """Keep at most this many pairs, aligned ones first, retrieved ones by falling similarity (0: all)."""
    overwrite: Flag = False
    """Replace files in the output that this command did not write, or that were edited since."""

    def __post_init__(self) -> None:
        require(self.engine == "ray" or not self.ray_address, "ray_address", "needs engine: ray")
