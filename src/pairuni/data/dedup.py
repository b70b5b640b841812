"""What has to go before pairing: the same image twice, and what evaluation sets hold (paper 2.2, "de-duplicated and
checked for overlap").

Pure functions but for `read_references`. An image that is there twice, within or across sides, would become a pair of
an image with itself at a similarity near 1. Exact copies are found by content; near copies by perceptual hash
(resized or encoded again) and by the cosine of features (crops, which hashes miss). The earlier one, in file order,
is kept. Shapes: N images, R reference images, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pairuni.data.match import candidates
from pairuni.files import read_jsonl
from pairuni.records import resolve_image

_BITS = 64
_ROWS = 2048  # rows of a block of the self-join; its columns begin where its rows do
_TEXTS = ("prompt", "question")


class PerceptualHash:
    """An extractor whose features are the 64 bits of a perceptual hash as +1 and -1: cosines count equal bits."""

    identity = "phash-1"

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """float32 [n, 64]."""
        import imagehash  # here, since it loads wavelets that no other run needs

        bits = [imagehash.phash(Image.fromarray(image)).hash.ravel() for image in images]
        return np.where(np.stack(bits), np.float32(1), np.float32(-1))


def cosine_of_bits(different: int) -> float:
    """The cosine of two hashes that differ in so many bits."""
    return 1 - 2 * different / _BITS


def near_copies(features_ND: np.ndarray, floor: float, kept_N: np.ndarray) -> dict[int, tuple[int, float]]:
    """{row: (earlier row that it copies, cosine)}, rows in `kept_N` alone. What a copy copies is itself no copy.

    Args:
        features_ND: any finite rows that are not zero.
        floor: least cosine of a copy, in [0, 1].
        kept_N: bool; rows that still count.
    """
    rows = np.flatnonzero(kept_N)
    copies: dict[int, tuple[int, float]] = {}
    for start in range(0, len(rows), _ROWS):
        # Columns from the block's first row on: each pair of rows is compared once.
        edges = candidates(features_ND[rows[start : start + _ROWS]], features_ND[rows[start:]], 0, floor)
        later = edges.u_E > edges.g_E
        found = zip(edges.g_E[later] + start, edges.u_E[later] + start, edges.similarity_E[later], strict=True)
        for i, j, cosine in sorted((int(i), int(j), float(s)) for i, j, s in found):
            if i not in copies:
                copies.setdefault(j, (i, cosine))
    return {int(rows[j]): (int(rows[i]), cosine) for j, (i, cosine) in sorted(copies.items())}


def near_references(
    features_ND: np.ndarray, references_RD: np.ndarray, floor: float, kept_N: np.ndarray
) -> dict[int, tuple[int, float]]:
    """{row: (most similar reference, cosine)} of the rows that reach the floor."""
    rows = np.flatnonzero(kept_N)
    if not len(rows) or not len(references_RD):
        return {}
    edges = candidates(features_ND[rows], references_RD, 1, floor)
    return {int(rows[g]): (int(u), float(s)) for g, u, s in zip(edges.g_E, edges.u_E, edges.similarity_E, strict=True)}


@dataclass(frozen=True)
class References:
    """What data is checked against."""

    images: tuple[Path, ...]
    texts: tuple[str, ...]


def read_references(files: Sequence[str]) -> References:
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
            texts += [row[key] for key in _TEXTS if isinstance(row.get(key), str)]
    return References(tuple(images), tuple(texts))
