"""Shared by the exports for other trainers: a row per half of a pair, with the facts and the weight of its pair.

A trainer draws rows, not pairs. So each row carries its pair's id, kind, similarity and weight, and row i of either
side is pair i. docs/exporters.md says where the weight enters in each trainer.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from pairuni.algo.weights import pair_weights
from pairuni.config import UnirlConfig, VerlOmniConfig
from pairuni.export.folder import RECORD, PairImages, export_folder
from pairuni.files import file_hash, write_json
from pairuni.progress import track
from pairuni.types import Pair, Side

IMAGE_FIELD = "understand_ann.image_path"
"""The field of the one image that a trainer gets: the question's."""


@dataclass(frozen=True)
class WeightedPair:
    """A pair, the line of the file that it stands in, and its weight."""

    line: int
    pair: Pair
    weight: float

    def facts(self, side: Side) -> dict[str, str | float]:
        """The facts about the pair and its half in the row of one side."""
        half = self.pair.half(side)
        return {
            "pair_id": self.pair.id,
            "side": str(side),
            "kind": self.pair.kind,
            "similarity": self.pair.similarity,
            "weight": self.weight,
            "sample_id": half.id,
            "tag": half.tag,
            "prompt": half.prompt,
            "question": half.question,
            "answer": half.answer,
            "image_path": half.image_path,
        }


Write = Callable[[Path, Iterable[WeightedPair], PairImages], None]
"""Writes the rows of all pairs into a new folder."""


def write_folder(config: VerlOmniConfig | UnirlConfig, form: str, written: str, write: Write) -> dict[str, Any]:
    """Writes the folder whole or not at all, and returns what its pairuni_export.json holds, and `notes`.

    Raises:
        InputError: a line of the pairs is wrong, an image is missing or broken (naming file, line and field), or
            `output` holds something else than an earlier export and `overwrite` is not set.
    """
    with export_folder(config, written, plain=True) as (folder, numbered, images):
        similarity_B = np.array([pair.similarity for _, pair in numbered], dtype=np.float64)
        aligned_B = [pair.kind == "aligned" for _, pair in numbered]
        weights: list[float] = pair_weights(similarity_B, aligned_B, config.weighting).tolist()
        pairs = [WeightedPair(n, pair, weight) for (n, pair), weight in zip(numbered, weights, strict=True)]
        write(folder, track(pairs, "export", unit="pair"), images)
        kinds = Counter(pair.kind for _, pair in numbered)
        record = {
            "pairuni": metadata.version("pairuni"),
            "form": form,
            "pairs": len(pairs),
            "kinds": {kind: kinds[kind] for kind in ("aligned", "retrieved")},
            "weighting": config.weighting,
            "weights": {"min": min(weights), "mean": sum(weights) / len(weights), "max": max(weights)},
            "images": len(images.hashes),
            "images_encoded_anew": len(images.encoded_anew),
            "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
            "pairs_hash": file_hash(config.pairs),
            "images_hash": images.hash(),
        }
        write_json(folder / RECORD, record)
    notes = []
    if anew := len(images.encoded_anew):
        notes.append(f"images turned by EXIF, transparent or of 16 bits, written as plain PNG: {anew}")
    if idle := weights.count(0.0):
        notes.append(f"pairs of weight 0, from which nothing is learned: {idle}")
    return {**record, "notes": notes}
