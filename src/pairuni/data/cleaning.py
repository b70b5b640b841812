"""Quadruples that are left out before Algorithm 1, and why: copies, and images and texts of reference sets (paper 2.2).

A duplicate image, within or across sides, would become a pair of an image with itself at a similarity near 1. Exact
copies are found by content. Near copies are proposed by perceptual hash and by the cosine of features, and pixels
decide (same_picture.py). Of copies the first in file order is kept. Texts are text_overlap.py's.
Shapes: N images, R reference images, D features.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pairuni.config import PairConfig
from pairuni.data.features import DECODERS, Extractor, Images, extract, hash_images
from pairuni.data.images import load_image
from pairuni.data.match import candidates, normalise
from pairuni.data.ordered import in_order
from pairuni.data.same_picture import Thumbnail, same_picture, thumbnail
from pairuni.data.text_overlap import TextOverlap
from pairuni.files import read_jsonl
from pairuni.progress import track
from pairuni.records import resolve_image
from pairuni.types import Quadruple

_BITS = 64
_MOST = 32  # nearest rows that are looked at
UNREADABLE = "image cannot be read"
COPY, NEAR_COPY = "copy of an image", "near copy"
REFERENCE_IMAGE, REFERENCE_TEXT = "image of a reference set", "text of a reference set"
REASONS = (UNREADABLE, COPY, NEAR_COPY, REFERENCE_IMAGE, REFERENCE_TEXT)


@dataclass(frozen=True)
class Removal:
    """One quadruple that is left out."""

    index: int
    reason: str
    """One of REASONS."""
    of: str
    """The id of what it copies, the path of a reference image, the words that are shared, or what is wrong with it."""
    similarity: float | None = 1.0

    def to_json(self, quadruple: Quadruple) -> dict[str, Any]:
        near = {} if self.similarity is None else {"similarity": round(self.similarity, 6)}
        return {**quadruple.to_json(), "reason": self.reason, "of": self.of, **near}


def clean(
    quadruples: Sequence[Quadruple], images: Images, config: PairConfig, extractor: Extractor, cache: Path
) -> list[Removal]:
    """The quadruples to leave out, by index: exact copies, near copies with dedup = near, and contents of references.

    Of copies the first in file order stays, on either side.

    Raises:
        InputError: a reference file or one of its images cannot be read.
    """
    removals: dict[int, Removal] = {}

    def remove(found: dict[int, tuple[int, float]], reason: str, names: Sequence[str]) -> None:
        for index, (other, similarity) in found.items():
            removals[index] = Removal(index, reason, names[other], similarity)

    ids = [q.id for q in quadruples]
    first: dict[str, int] = {}
    remove({n: (first[key], 1.0) for n, key in enumerate(images.hashes) if first.setdefault(key, n) != n}, COPY, ids)
    reference_images, reference_texts = read_references(config.references)
    if config.dedup == "near" or reference_images:
        floors = config.dedup_cosine, cosine_of_bits(config.dedup_bits)

        def probed(paths: Sequence[Path], hashes: Sequence[str]) -> np.ndarray:
            return extract(paths, PerceptualHash(), config.feature_batch, cache, hashes=hashes)

        @lru_cache(maxsize=4096)
        def seen(path: Path) -> Thumbnail:
            return thumbnail(load_image(path))

        def kept() -> np.ndarray:
            return np.array([n for n in range(len(quadruples)) if n not in removals])

        bits_ND = probed(images.paths, images.hashes)
        if config.dedup == "near":
            rows = kept()
            own = images.features_ND[rows], bits_ND[rows]
            paths = [images.paths[n] for n in rows]
            found = near_copies(proposed(own, own, *floors), lambda i, j: same_picture(seen(paths[i]), seen(paths[j])))
            remove({int(rows[i]): (int(rows[j]), cosine) for i, (j, cosine) in found.items()}, NEAR_COPY, ids)
        if reference_images:
            rows, hashes = kept(), hash_images(reference_images)
            own = images.features_ND[rows], bits_ND[rows]
            others = extract(reference_images, extractor, config.feature_batch, cache, hashes=hashes)
            pairs = proposed(own, (others, probed(reference_images, hashes)), *floors)
            paths = [images.paths[n] for n in rows]
            found = near_references(pairs, lambda i, j: same_picture(seen(paths[i]), seen(reference_images[j])))
            names = [str(path) for path in reference_images]
            remove({int(rows[i]): of for i, of in found.items()}, REFERENCE_IMAGE, names)
    known = TextOverlap(reference_texts, config.reference_words)
    for n, quadruple in enumerate(quadruples):
        shared = None if n in removals else known.shared(quadruple.prompt) or known.shared(quadruple.question)
        if shared is not None:
            removals[n] = Removal(n, REFERENCE_TEXT, shared)
    return [removals[n] for n in sorted(removals)]


class PerceptualHash:
    """An extractor whose features are the 64 bits of a perceptual hash as +1 and -1: cosines count equal bits."""

    identity = "phash-1"

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """float32 [n, 64]."""
        import imagehash  # here, since it loads wavelets that no other run needs

        bits = [imagehash.phash(Image.fromarray(image)).hash.ravel() for image in images]
        return np.where(np.stack(bits), np.float32(1), np.float32(-1))


def cosine_of_bits(different: int) -> float:
    """The cosine of two hashes that differ in this number of bits."""
    return 1 - 2 * different / _BITS


def proposed(
    rows: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray], floor: float, bits_floor: float
) -> dict[tuple[int, int], float]:
    """{(row, other row): cosine of their features} of what may be near copies, by row, the most similar first.

    It proposes each row's `_MOST` nearest others by features and by hash, if their features reach `floor`.

    Args:
        rows, others: features [N, D], finite and not zero, and the bits [N, 64] of `PerceptualHash`.
        floor: least cosine of the features, in [0, 1].
        bits_floor: least cosine of the bits, from `cosine_of_bits`.
    """
    (features_ND, bits_ND), (features_RD, bits_RD) = rows, others
    if not len(features_ND) or not len(features_RD):
        return {}
    unit_ND, unit_RD = normalise(features_ND), normalise(features_RD)
    pairs: set[tuple[int, int]] = set()
    for one_ND, other_RD, least in ((unit_ND, unit_RD, floor), (bits_ND, bits_RD, bits_floor)):
        edges = candidates(one_ND, other_RD, _MOST, least)
        pairs |= set(zip(edges.g_E.tolist(), edges.u_E.tolist(), strict=True))
    found = {(row, other): float(unit_ND[row] @ unit_RD[other]) for row, other in pairs}
    return dict(sorted(((k, s) for k, s in found.items() if s >= floor), key=lambda one: (one[0][0], -one[1], one[0])))


def near_copies(
    pairs: Mapping[tuple[int, int], float], same: Callable[[int, int], bool]
) -> dict[int, tuple[int, float]]:
    """{row: (the earlier row that it copies, cosine)}, from `proposed(rows, rows, ...)`; no copy is a copy of a copy.

    Args:
        same: whether the row and the other one are one picture.
    """
    either = {(max(pair), min(pair)): cosine for pair, cosine in pairs.items() if pair[0] != pair[1]}
    copies: dict[int, tuple[int, float]] = {}
    for (later, earlier), agrees in _judged(sorted(either, key=lambda pair: (pair[0], -either[pair], pair[1])), same):
        if agrees and later not in copies and earlier not in copies:
            copies[later] = (earlier, either[later, earlier])
    return copies


def near_references(
    pairs: Mapping[tuple[int, int], float], same: Callable[[int, int], bool]
) -> dict[int, tuple[int, float]]:
    """{row: (the most similar reference that it copies, cosine)}, from `proposed(rows, references, ...)`."""
    copies: dict[int, tuple[int, float]] = {}
    for (row, reference), agrees in _judged(list(pairs), same):
        if agrees:
            copies.setdefault(row, (reference, pairs[row, reference]))
    return copies


def _judged(
    pairs: Sequence[tuple[int, int]], same: Callable[[int, int], bool]
) -> Iterable[tuple[tuple[int, int], bool]]:
    judged = in_order(lambda pair: same(*pair), iter(pairs), DECODERS)
    return track(judged, total=len(pairs), desc="near copies", unit="pair", disable=not pairs)


def read_references(files: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Images (`image_path`, relative to the file's folder) and texts (`prompt`, `question`) of JSON Lines files.

    Raises:
        InputError: a file is missing or broken, or an image path leaves its folder.
    """
    images: list[Path] = []
    texts: list[str] = []
    for name in files:
        for n, row in read_jsonl(name):
            if isinstance(row.get("image_path"), str):
                images.append(resolve_image(row["image_path"], Path(name).parent, file=name, line=n))
            texts += [row[key] for key in ("prompt", "question") if isinstance(row.get(key), str)]
    return images, texts
