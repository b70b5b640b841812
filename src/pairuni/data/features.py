"""Image features for clustering and retrieval (paper 2.2): the table of extractors, and `extract` with its cache.

resnet50 is the paper's choice (ResNet-50 without head, 2048-d); it compares DINOv3 (equal) and the Perception Encoder
(worse). colour_hog needs no weights. Rows are L2-normalised. The cache is keyed by image content and extractor
identity, so that a rerun or a killed run computes nothing twice. `feature_rows` is the work itself; where it is done,
here or on Ray (ray_engine.py), is an `Engine`.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
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


class Engine(Protocol):
    """Computes the features that a store lacks."""

    def __call__(self, path_of: Mapping[str, Path], extractor: Extractor, batch: int, store: FeatureStore) -> None:
        """Adds the rows of all images of `path_of` (key -> path) to the store, in its order.

        Raises:
            InputError: an image is missing or broken. Rows of other images may be in the store by then.
        """
        ...


def load_extractor(name: ExtractorName, weights: str = "") -> Extractor:
    """The extractor of that name; `weights` is a hub id or local folder (default: EXTRACTORS).

    Raises:
        InputError: the weights cannot be loaded or are of another kind of model.
    """
    place, default = EXTRACTORS[name]
    return make_extractor(place, weights or default)


def make_extractor(place: str, weights: str) -> Extractor:
    """What stands at `module:class or function`; weights "" where it takes none. Raises InputError as it does."""
    module, member = place.split(":")
    make = vars(import_module(module))[member]
    return make(weights) if weights else make()


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


def feature_rows(
    path_of: Mapping[str, Path],
    extractor: Extractor,
    batch: int,
    decoders: int,
    failed: dict[str, InputError] | None = None,
) -> Iterator[tuple[list[str], np.ndarray]]:
    """(keys, L2-normalised float32 [n, D]) of at most `batch` images at a time, in the order of `path_of`.

    Args:
        decoders: threads that read and decode ahead.
        failed: where given, images that cannot be read are passed over and put here.

    Raises:
        InputError: an image is missing or broken, and `failed` is None. Batches before its own have come by then.
    """

    def load(key: str) -> np.ndarray | None:
        try:
            return load_image(path_of[key])
        except InputError as err:
            if failed is None:
                raise
            failed[key] = err
            return None

    loaded = ((key, image) for key, image in in_order(load, iter(path_of), decoders) if image is not None)
    while some := list(islice(loaded, batch)):
        keys, images = zip(*some, strict=True)
        yield list(keys), normalise(extractor.features(images))


def compute_here(path_of: Mapping[str, Path], extractor: Extractor, batch: int, store: FeatureStore) -> None:
    """The engine of one process, which stores each batch as it comes. See Engine."""
    with tqdm(total=len(path_of), desc=extractor.identity, unit="image") as bar:
        for keys, rows_ND in feature_rows(path_of, extractor, batch, DECODERS):
            store.add(keys, rows_ND)
            bar.update(len(keys))


def extract(
    paths: Sequence[Path],
    extractor: Extractor,
    batch: int,
    cache: Path | None = None,
    hashes: Sequence[str] | None = None,
    engine: Engine = compute_here,
) -> np.ndarray:
    """L2-normalised float32 features [N, D] of the images, in order.

    Args:
        batch: images per call of the extractor. Does not change the result.
        cache: folder of features by image content; made where it is missing, shared by extractors.
        hashes: `hash_images(paths)`, where it is known already.
        engine: what computes the rows that the cache lacks.

    Raises:
        InputError: an image is missing or broken, or the cache is.
        ValueError: no paths, or batch < 1.
    """
    if not paths or batch < 1:
        raise ValueError(f"needs images and a positive batch, not {len(paths)} images and batch {batch}")
    hashes = hash_images(paths) if hashes is None else hashes
    with FeatureStore(None if cache is None else cache / extractor.identity) as store:
        engine(
            {key: path for key, path in zip(hashes, paths, strict=True) if key not in store}, extractor, batch, store
        )
        return store.rows(hashes)
