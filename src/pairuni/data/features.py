"""Image features for clustering and retrieval (paper 2.2): the table of extractors, and `extract` with its cache.

resnet50 is the paper's choice (ResNet-50 without head, 2048-d); it compares DINOv3 (equal) and the Perception Encoder
(worse). colour_hog needs no weights. Rows are L2-normalised. The cache is keyed by image content and extractor
identity, so that a rerun or a killed run computes nothing twice. `feature_rows` is the work itself; where it is done,
here or on Ray (ray_engine.py), is an `Engine`.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from pairuni.config import Extractor as ExtractorName
from pairuni.data.feature_store import FeatureStore
from pairuni.data.images import load_image
from pairuni.data.match import normalise
from pairuni.data.ordered import in_order
from pairuni.errors import InputError
from pairuni.files import file_hash
from pairuni.progress import track

# name -> (module:class or function, hub id of the weights that it takes where none are named)
EXTRACTORS: dict[str, tuple[str, str]] = {
    "resnet50": ("pairuni.data.vision:resnet50", "microsoft/resnet-50"),
    "dinov3": ("pairuni.data.vision:dinov3", "facebook/dinov3-vitb16-pretrain-lvd1689m"),
    "clip": ("pairuni.data.vision:clip", "openai/clip-vit-base-patch32"),
    "pe": ("pairuni.data.vision:perception_encoder", "vit_pe_core_base_patch16_224.fb"),
    "colour_hog": ("pairuni.data.colour_hog:ColourHog", ""),
    "shapes_content": ("pairuni.data.shapes_content:ShapesContent", ""),
}
DECODERS = min(8, os.cpu_count() or 1)
"""Threads that read and decode images ahead of the extractor."""


class Extractor(Protocol):
    """Turns images into feature rows."""

    @property
    def identity(self) -> str:
        """Name and version or weight hash: all that a feature depends on beside the image. Fit for a folder name."""
        ...

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 images [H, W, 3] -> float32 [n, D]; a row depends on its own image alone."""
        ...


Engine = Callable[[Mapping[str, Path], Extractor, int, FeatureStore], dict[str, InputError]]
"""(key -> path, extractor, batch, store): adds the rows that a store lacks, in this order; why an image could not be
read, by key."""


def load_extractor(name: ExtractorName, weights: str = "") -> Extractor:
    """The extractor of that name; `weights` is a hub id or local folder (default: EXTRACTORS).

    Raises:
        InputError: the weights cannot be loaded or are of another kind of model, or the extractor takes none.
    """
    place, default = EXTRACTORS[name]
    if weights and not default:
        raise InputError(f"{name} takes none; with a config that names some, add --weights ''", field="weights")
    return make_extractor(place, weights or default)


def make_extractor(place: str, weights: str) -> Extractor:
    """Makes the extractor `module:class or function`; weights "" where it takes none. Raises InputError as it does."""
    module, member = place.split(":")
    make = vars(import_module(module))[member]
    return make(weights) if weights else make()


@dataclass(frozen=True)
class Images:
    """Images with what is known of them, row by row."""

    paths: Sequence[Path]
    hashes: Sequence[str]
    """SHA-256 of each file."""
    features_ND: np.ndarray
    """float32, L2-normalised."""


def hash_images(paths: Sequence[Path], broken: dict[int, InputError] | None = None) -> list[str]:
    """SHA-256 of each file.

    Args:
        broken: where given, files that cannot be read are put here by their index, and have "".

    Raises:
        InputError: a file cannot be read, and `broken` is None.
    """
    hashes = []
    for n, path in enumerate(track(paths, desc="hashes", unit="image")):
        try:
            hashes.append(file_hash(path))
        except OSError as err:
            absent = isinstance(err, FileNotFoundError)
            error = InputError("no such image" if absent else f"cannot be read ({err.strerror})", file=path)
            if broken is None:
                raise error from None
            broken[n] = error
            hashes.append("")
    return hashes


def feature_rows(
    path_of: Mapping[str, Path],
    extractor: Extractor,
    batch: int,
    decoders: int,
    failed: dict[str, InputError],
) -> Iterator[tuple[list[str], np.ndarray]]:
    """(keys, L2-normalised float32 [n, D]) of at most `batch` images at a time, in the order of `path_of`.

    Args:
        decoders: threads that read and decode ahead.
        failed: images that cannot be read are passed over and put here.
    """

    def load(key: str) -> np.ndarray | None:
        try:
            return load_image(path_of[key])
        except InputError as err:
            failed[key] = err
            return None

    loaded = ((key, image) for key, image in in_order(load, iter(path_of), decoders) if image is not None)
    while some := list(islice(loaded, batch)):
        keys, images = zip(*some, strict=True)
        yield list(keys), normalise(extractor.features(images))


def compute_here(
    path_of: Mapping[str, Path], extractor: Extractor, batch: int, store: FeatureStore
) -> dict[str, InputError]:
    """The `Engine` of one process, which stores each batch as it comes."""
    failed: dict[str, InputError] = {}
    with track(total=len(path_of), desc=extractor.identity, unit="image", disable=not path_of) as bar:
        for keys, rows_ND in feature_rows(path_of, extractor, batch, DECODERS, failed):
            store.add(keys, rows_ND)
            bar.update(len(keys))
    return failed


def read_images(
    paths: Sequence[Path],
    extractor: Extractor,
    batch: int,
    cache: Path | None = None,
    engine: Engine = compute_here,
    hashes: Sequence[str] | None = None,
) -> tuple[Images, dict[int, InputError]]:
    """The images that can be read, in order, and by its index in `paths` why another cannot.

    Args:
        batch: images per call of the extractor. Does not change the result.
        cache: folder of features by image content; made where it is missing, shared by extractors.
        engine: computes the rows that the cache lacks.
        hashes: `hash_images(paths)`, where it is known already.

    Raises:
        InputError: none of the images can be read (the error of the first), or the cache is broken.
        ValueError: no paths, or batch < 1.
    """
    if not paths or batch < 1:
        raise ValueError(f"needs images and a positive batch, not {len(paths)} images and batch {batch}")
    broken: dict[int, InputError] = {}
    hashes = hash_images(paths, broken) if hashes is None else hashes
    with FeatureStore(None if cache is None else cache / extractor.identity) as store:
        wanted = {key: path for key, path in zip(hashes, paths, strict=True) if key and key not in store}
        failed = engine(wanted, extractor, batch, store)
        broken |= {n: InputError(failed[k].message, file=paths[n]) for n, k in enumerate(hashes) if k in failed}
        rows = [n for n in range(len(paths)) if n not in broken]
        if not rows:
            raise broken[0]
        good = [hashes[n] for n in rows]
        return Images([paths[n] for n in rows], good, store.rows(good)), broken


def extract(
    paths: Sequence[Path],
    extractor: Extractor,
    batch: int,
    cache: Path | None = None,
    engine: Engine = compute_here,
    hashes: Sequence[str] | None = None,
) -> np.ndarray:
    """L2-normalised float32 features [N, D] of the images, in order; as `read_images`, all of which must be good.

    Raises:
        InputError: an image is missing or broken, or the cache is.
        ValueError: no paths, or batch < 1.
    """
    images, broken = read_images(paths, extractor, batch, cache, engine, hashes)
    if broken:
        raise broken[min(broken)]
    return images.features_ND
