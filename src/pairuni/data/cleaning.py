"""What run_pair leaves out before Algorithm 1, and why: copies, and what reference sets hold (paper 2.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pairuni.config import PairConfig
from pairuni.data.dedup import (
    PerceptualHash,
    References,
    cosine_of_bits,
    near_copies,
    near_references,
    read_references,
)
from pairuni.data.features import Extractor, Images, extract, hash_images
from pairuni.data.text_overlap import TextOverlap
from pairuni.records import Quadruple

UNREADABLE = "image cannot be read"
COPY, NEAR_HASH, NEAR_FEATURES = "copy of an image", "near copy by hash", "near copy by features"
REFERENCE_IMAGE, REFERENCE_TEXT = "image of a reference set", "text of a reference set"
REASONS = (UNREADABLE, COPY, NEAR_HASH, NEAR_FEATURES, REFERENCE_IMAGE, REFERENCE_TEXT)


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
    """What to leave out, by index. Exact copies always; near ones with dedup = near; references where there are any.

    Of copies the first in file order stays, whichever its side.

    Raises:
        InputError: a reference file or one of its images cannot be read.
    """
    removals: dict[int, Removal] = {}

    def remove(found: dict[int, tuple[int, float]], reason: str, names: Sequence[str]) -> None:
        for index, (other, similarity) in found.items():
            removals[index] = Removal(index, reason, names[other], similarity)

    def kept() -> np.ndarray:
        return np.array([n not in removals for n in range(len(quadruples))])

    ids = [q.id for q in quadruples]
    first: dict[str, int] = {}
    remove({n: (first[key], 1.0) for n, key in enumerate(images.hashes) if first.setdefault(key, n) != n}, COPY, ids)
    references = read_references(config.references)
    batch, bits_ND = config.feature_batch, np.empty((0, 1))
    if config.dedup == "near" or references.images:
        bits_ND = extract(images.paths, PerceptualHash(), batch, cache, hashes=images.hashes)
    floor = cosine_of_bits(config.dedup_bits)
    if config.dedup == "near":
        remove(near_copies(bits_ND, floor, kept()), NEAR_HASH, ids)
        remove(near_copies(images.features_ND, config.dedup_cosine, kept()), NEAR_FEATURES, ids)
    if references.images:
        names, hashes = [str(path) for path in references.images], hash_images(references.images)
        for probe, rows_ND, least in (
            (PerceptualHash(), bits_ND, floor),
            (extractor, images.features_ND, config.dedup_cosine),
        ):
            others_RD = extract(references.images, probe, batch, cache, hashes=hashes)
            remove(near_references(rows_ND, others_RD, least, kept()), REFERENCE_IMAGE, names)
    _remove_texts(quadruples, references, config.reference_words, removals)
    return [removals[n] for n in sorted(removals)]


def _remove_texts(
    quadruples: Sequence[Quadruple], references: References, words: int, removals: dict[int, Removal]
) -> None:
    known = TextOverlap(references.texts, words)
    for n, quadruple in enumerate(quadruples):
        shared = None if n in removals else known.shared(quadruple.prompt) or known.shared(quadruple.question)
        if shared is not None:
            removals[n] = Removal(n, REFERENCE_TEXT, shared)
