"""Image features for clustering and retrieval (paper 2.2): the table of extractors, and `extract` with its cache.

resnet50 is the paper's choice (ResNet-50 without head, 2048-d); it compares DINOv3 (equal) and the Perception Encoder
(worse). colour_hog needs no weights. Rows are L2-normalised. The cache is keyed by image content and extractor
identity, so that a rerun or a killed run computes nothing twice.
"""

import os
from collections.abc import Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from pairuni.config import Extractor as ExtractorName
from pairuni.data.feature_store import FeatureStore
from pairuni.data.images import load_image
from pairuni.data.match import normalise
from pairuni.data.ordered import in_order
from pairuni.errors import InputError
from pairuni.files import file_hash

# name -> (module:class or function, hub id of the weights that it takes where none are named)
EXTRACTORS: dict[str, tuple[str, str]] = {
    "resnet50": ("pairuni.data.vision:resnet50", "microsoft/resnet-50"),
    "dinov3": ("pairuni.data.vision:dinov3", "facebook/dinov3-vitb16-pretrain-lvd1689m"),
    "clip": ("pairuni.data.vision:clip", "openai/clip-vit-base-patch32"),
    "pe": ("pairuni.data.vision:perception_encoder", "vit_pe_core_base_patch16_224.fb"),
    "colour_hog": ("pairuni.data.colour_hog:ColourHog", ""),
}
DECODERS = min(8, os.cpu_count() or 1)
"""Threads that read and decode images ahead of the extractor."""


class Extractor(Protocol):
    """Turns images into feature rows."""

    @property
    def identity(self) -> str:
        """Name and version or weight hash: what a feature depends on beside the image. Fit for a folder name."""
        ...

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 images [H, W, 3] -> float32 [n, D]; a row depends on its own image alone."""
        ...


def load_extractor(name: ExtractorName, weights: str = "") -> Extractor:
    """The extractor of that name; `weights` is a hub id or local folder (default: EXTRACTORS).

    Raises:
        InputError: the weights cannot be loaded or are of another kind of model.
    """
    place, default = EXTRACTORS[name]
    module, member = place.split(":")
    make = vars(import_module(module))[member]
    return make(weights or default) if default else make()


def hash_images(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of each file. Raises InputError naming a file that cannot be read."""
    hashes = []
    for path in tqdm(paths, desc="hashes", unit="image"):
        try:
            hashes.append(file_hash(path))
        except FileNotFoundError:
            raise InputError("no such image", file=path) from None
        except OSError as err:
            raise InputError(f"cannot be read ({err.strerror})", file=path) from None
    return hashes


def extract(
    paths: Sequence[Path],
    extractor: Extractor,
    batch: int,
    cache: Path | None = None,
    hashes: Sequence[str] | None = None,
) -> np.ndarray:
    """L2-normalised float32 features [N, D] of the images, in order.

    Args:
        batch: images per call of the extractor. Does not change the result.
        cache: folder of features by image content; made where it is missing, shared by extractors.
        hashes: `hash_images(paths)`, where it is known already.

    Raises:
        InputError: an image is missing or broken, or the cache is.
        ValueError: no paths, or batch < 1.
    """
    if not paths or batch < 1:
        raise ValueError(f"needs images and a positive batch, not {len(paths)} images and batch {batch}")
    hashes = hash_images(paths) if hashes is None else hashes
    with FeatureStore(None if cache is None else cache / extractor.identity) as store:
        path_of = {key: path for key, path in zip(hashes, paths, strict=True) if key not in store}
        loaded = in_order(lambda key: load_image(path_of[key]), iter(path_of), DECODERS)
        with tqdm(total=len(path_of), desc=extractor.identity, unit="image") as bar:
            while some := list(islice(loaded, batch)):
                keys, images = zip(*some, strict=True)
                store.add(keys, normalise(extractor.features(images)))
                bar.update(len(keys))
        return store.rows(hashes)
