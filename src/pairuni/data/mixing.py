"""Mixing modes: the pairs of a file as they are, or turned into one of the paper's baselines (paper 5, ablations).

`mix` gives the pairs that training draws from. Mode vanilla leaves them as they are: there the sampler draws unrelated
halves (dataset.py).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pairuni.config import PairingMode, PairSelectionConfig
from pairuni.data.features import extract, load_extractor
from pairuni.data.match import normalise
from pairuni.errors import InputError
from pairuni.streams import Stream, generator
from pairuni.types import Pair, Quadruple, Side

Features = Callable[[Sequence[Quadruple]], np.ndarray]


def mix(pairs: Sequence[Pair], mode: PairingMode, seed: int, features: Features | None = None) -> list[Pair]:
    """The pairs of a mode.

    aligned_only, retrieved_only: those pairs. from_understanding, from_generation: every quadruple of that source among
    the halves, as an aligned pair. random_pairs: understanding halves permuted so that none keeps its partner.
    unpaired: each generation half, in seeded order, with its least similar free understanding half.

    Args:
        features: feature rows [n, D] of the images of n quadruples; mode unpaired needs it (`image_features`).

    Raises:
        InputError: the mode leaves no pairs, needs sides that the file does not say, or needs two pairs at least.
        ValueError: an unknown mode, or unpaired without features.
    """
    if mode in ("random_pairs", "unpaired") and len(pairs) < 2:
        raise InputError(f"mode {mode} needs at least two pairs, not {len(pairs)}", field="pair_selection.mode")
    if mode in ("pairs", "vanilla"):
        mixed = list(pairs)
    elif mode in ("aligned_only", "retrieved_only"):
        mixed = [p for p in pairs if p.kind == mode.removesuffix("_only")]
    elif mode in ("from_understanding", "from_generation"):
        mixed = _from_source(pairs, Side(mode.removeprefix("from_")))
    elif mode == "random_pairs":
        rng = generator(seed, Stream.RANDOM_PARTNERS)
        partner = np.arange(len(pairs))
        while (partner == np.arange(len(pairs))).any():  # until none keeps its own: each such order is as likely
            partner = rng.permutation(len(pairs))
        mixed = _rejoined(pairs, partner, np.zeros(len(pairs)), "x")
    elif mode == "unpaired":
        if features is None:
            raise ValueError("mode unpaired needs features")
        mixed = _unpaired(pairs, seed, features)
    else:
        raise ValueError(f"unknown mixing mode {mode!r}")
    if not mixed:
        raise InputError(f"mode {mode} leaves none of the {len(pairs)} pairs", field="pair_selection.mode")
    return mixed


def image_features(quadruples: Sequence[Quadruple], root: Path, config: PairSelectionConfig) -> np.ndarray:
    """Feature rows [n, D] of the quadruples' images by the config's extractor. Raises InputError as `extract`."""
    extractor = load_extractor(config.extractor, config.weights)
    return extract([root / q.image_path for q in quadruples], extractor, 64)


def _from_source(pairs: Sequence[Pair], side: Side) -> list[Pair]:
    found: dict[str, Quadruple] = {}
    for pair in pairs:
        for half in (pair.generate, pair.understand):
            if half.side is None:
                raise InputError(
                    f"mode from_{side} needs `side` in every half; pair {pair.id!r} lacks it",
                    field="pair_selection.mode",
                )
            if half.side is side:
                found.setdefault(half.id, half)
    return [Pair(f"a{n:06d}", "aligned", 1.0, q, q) for n, q in enumerate(found.values())]


def _unpaired(pairs: Sequence[Pair], seed: int, features: Features) -> list[Pair]:
    gen_ND = normalise(features([p.generate for p in pairs]))
    und_ND = normalise(features([p.understand for p in pairs]))
    free_N = np.ones(len(pairs), bool)
    partner = np.empty(len(pairs), dtype=np.int64)
    for g in generator(seed, Stream.UNPAIRED_ORDER).permutation(len(pairs)).tolist():
        cosine_N = und_ND @ gen_ND[g]
        cosine_N[g] = 2.0  # its partner, the last resort
        partner[g] = int(np.argmin(np.where(free_N, cosine_N, np.inf)))
        free_N[partner[g]] = False
    for g in np.flatnonzero(partner == np.arange(len(pairs))).tolist():
        # At most the last one had no other left: it changes with the row where that costs least.
        cost_N = und_ND @ gen_ND[g]
        swapped_N = cost_N[partner] + gen_ND @ und_ND[g]
        swapped_N[g] = np.inf
        other = int(np.argmin(swapped_N))
        partner[g], partner[other] = partner[other], partner[g]
    similarity = np.clip(np.einsum("nd,nd->n", gen_ND, und_ND[partner]), 0, 1).round(6)
    return _rejoined(pairs, partner, similarity, "n")


def _rejoined(pairs: Sequence[Pair], partner: np.ndarray, similarity: np.ndarray, prefix: str) -> list[Pair]:
    return [
        Pair(f"{prefix}{n:06d}", "retrieved", float(similarity[n]), pair.generate, pairs[int(partner[n])].understand)
        for n, pair in enumerate(pairs)
    ]
