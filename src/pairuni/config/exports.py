"""Options of the commands that show pairs or hand them on: `pairuni analyse pairs` and `pairuni export`."""

import re
from dataclasses import field
from typing import Literal

from pairuni.config.fields import Count, Flag, ListOf, Positive, options, require


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
