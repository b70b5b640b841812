"""What has to go before pairing: the same image twice, and what evaluation sets hold (paper 2.2, "de-duplicated and
checked for overlap").

An image that is there twice, within or across sides, would become a pair of an image with itself at a similarity near
1. Exact copies are found by content. Near copies are proposed by perceptual hash and by the cosine of features, and
pixels decide (same_picture.py). The earlier one, in file order, is kept. Texts are text_overlap.py's.
Shapes: N images, R reference images, D features.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pairuni.data.features import DECODERS
from pairuni.data.match import candidates, normalise
from pairuni.data.ordered import in_order
from pairuni.files import read_jsonl
from pairuni.progress import track
from pairuni.records import resolve_image

_BITS = 64
_MOST = 32  # nearest rows that are looked at
_TEXTS = ("prompt", "question")

Same = Callable[[int, int], bool]
"""Whether a row and another are one picture."""


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


def proposed(
    rows: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray], floor: float, bits_floor: float
) -> dict[tuple[int, int], float]:
    """{(row, other row): cosine of their features} of what may be near copies, by row, the most similar first.

    Proposed are each row's `_MOST` nearest others by features and by hash, as far as their features are alike enough.

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


def near_copies(pairs: Mapping[tuple[int, int], float], same: Same) -> dict[int, tuple[int, float]]:
    """{row: (the earlier row that it copies, cosine)}, pairs being `proposed(rows, rows, ...)`.

    What a copy copies is itself no copy.
    """
    either = {(max(pair), min(pair)): cosine for pair, cosine in pairs.items() if pair[0] != pair[1]}
    copies: dict[int, tuple[int, float]] = {}
    for (later, earlier), agrees in _judged(sorted(either, key=lambda pair: (pair[0], -either[pair], pair[1])), same):
        if agrees and later not in copies and earlier not in copies:
            copies[later] = (earlier, either[later, earlier])
    return copies


def near_references(pairs: Mapping[tuple[int, int], float], same: Same) -> dict[int, tuple[int, float]]:
    """{row: (the most similar reference that it copies, cosine)}, pairs being `proposed(rows, references, ...)`."""
    copies: dict[int, tuple[int, float]] = {}
    for (row, reference), agrees in _judged(list(pairs), same):
        if agrees:
            copies.setdefault(row, (reference, pairs[row, reference]))
    return copies


def _judged(pairs: Sequence[tuple[int, int]], same: Same) -> Iterable[tuple[tuple[int, int], bool]]:
    judged = in_order(lambda pair: same(*pair), iter(pairs), DECODERS)
    return track(judged, total=len(pairs), desc="near copies", unit="pair", disable=not pairs)


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
