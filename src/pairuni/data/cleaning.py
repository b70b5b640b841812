"""What run_pair leaves out before Algorithm 1, and why: copies, and what reference sets hold (paper 2.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pairuni.config import PairConfig
from pairuni.data.dedup import (
    PerceptualHash,
    References,
    Same,
    cosine_of_bits,
    near_copies,
    near_references,
    proposed,
    read_references,
)
from pairuni.data.features import Extractor, Images, extract, hash_images
from pairuni.data.images import load_image
from pairuni.data.same_picture import Thumbnail, same_picture, thumbnail
from pairuni.data.text_overlap import TextOverlap
from pairuni.types import Quadruple

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
    """What to leave out, by index. Exact copies always; near ones with dedup = near; references where there are any.

    Of copies the first in file order stays, whichever its side.

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
    references = read_references(config.references)
    if config.dedup == "near" or references.images:
        floors = config.dedup_cosine, cosine_of_bits(config.dedup_bits)

        def probed(paths: Sequence[Path], hashes: Sequence[str]) -> np.ndarray:
            return extract(paths, PerceptualHash(), config.feature_batch, cache, hashes=hashes)

        def kept() -> np.ndarray:
            return np.array([n for n in range(len(quadruples)) if n not in removals])

        bits_ND = probed(images.paths, images.hashes)
        if config.dedup == "near":
            rows = kept()
            own = images.features_ND[rows], bits_ND[rows]
            found = near_copies(proposed(own, own, *floors), _same([images.paths[n] for n in rows]))
            remove({int(rows[i]): (int(rows[j]), cosine) for i, (j, cosine) in found.items()}, NEAR_COPY, ids)
        if references.images:
            rows, hashes = kept(), hash_images(references.images)
            own = images.features_ND[rows], bits_ND[rows]
            others = extract(references.images, extractor, config.feature_batch, cache, hashes=hashes)
            pairs = proposed(own, (others, probed(references.images, hashes)), *floors)
            found = near_references(pairs, _same([images.paths[n] for n in rows], references.images))
            names = [str(path) for path in references.images]
            remove({int(rows[i]): of for i, of in found.items()}, REFERENCE_IMAGE, names)
    _remove_texts(quadruples, references, config.reference_words, removals)
    return [removals[n] for n in sorted(removals)]


def _same(paths: Sequence[Path], others: Sequence[Path] | None = None) -> Same:
    """Whether row i of `paths` and row j of `others` (default: of `paths`) show one picture, read from disk."""

    @lru_cache(maxsize=4096)
    def seen(path: Path) -> Thumbnail:
        return thumbnail(load_image(path))

    return lambda i, j: same_picture(seen(paths[i]), seen((paths if others is None else others)[j]))


def _remove_texts(
    quadruples: Sequence[Quadruple], references: References, words: int, removals: dict[int, Removal]
) -> None:
    known = TextOverlap(references.texts, words)
    for n, quadruple in enumerate(quadruples):
        shared = None if n in removals else known.shared(quadruple.prompt) or known.shared(quadruple.question)
        if shared is not None:
            removals[n] = Removal(n, REFERENCE_TEXT, shared)
