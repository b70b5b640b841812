"""Algorithm 1: quadruples -> understanding-generation pairs (paper 2.2), and the `pair` stage around it.

Images of both sides are clustered together; each cluster's medoid becomes an aligned pair; the remaining generation
images are matched to the remaining understanding images by similarity and become retrieved pairs. Every image is used
at most once. The paper is silent on the visiting order (here: shuffled by the seed, recorded) and on duplicates.

Duplicates: files with equal content are one image. The first quadruple of it in file order, of either side, is kept and
the others are counted as duplicates; so no image is matched with a copy of itself. The stage removes near copies too
where asked (cleaning.py).
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from pairuni.config import PairConfig
from pairuni.data.approximate import approximate_candidates, recall
from pairuni.data.cleaning import COPY, REASONS, UNREADABLE, Removal, clean
from pairuni.data.cluster import cluster
from pairuni.data.features import load_extractor, read_images
from pairuni.data.match import Edges, candidates, choose, normalise
from pairuni.data.ray_engine import choose_engine
from pairuni.errors import InputError
from pairuni.files import file_hash, read_jsonl, write_json, write_jsonl, writing
from pairuni.records import read_quadruples
from pairuni.streams import Stream, generator
from pairuni.types import Pair, Quadruple, Side

try:
    import resource
except ImportError:  # Windows
    resource = None

FILES = ("pairs.jsonl", "removed.jsonl", "unmatched.jsonl", "pairing.json")
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_RANDOM_PAIRS = 10_000
ALONE, TAKEN, CUT = "no candidate reaches the floor", "every candidate is in another pair", "cut by max_pairs"


@dataclass(frozen=True)
class Counts:
    """How many quadruples went where."""

    inputs: int
    duplicates: int
    """Dropped because an earlier quadruple has the same image."""
    duplicates_across_sides: int
    """Those of them whose earlier quadruple is of the other side."""
    clusters: int
    """After capping at half the images."""
    empty_clusters: int
    singleton_clusters: int
    aligned_understanding: int
    aligned_generation: int
    retrieved: int
    unmatched_understanding: int
    unmatched_generation: int
    cut: int
    """Pairs dropped because of max_pairs."""


@dataclass(frozen=True)
class Pairing:
    """The result of Algorithm 1."""

    pairs: list[Pair]
    counts: Counts
    generation_order: list[str]
    """Ids of the remaining generation quadruples in the order in which they were visited."""
    unmatched: list[tuple[Quadruple, str]]
    """Quadruples in no pair, in file order, each with the reason."""
    kmeans: dict[str, Any]
    """How the clustering ended: passes, settled, mean_cosine."""
    graph: dict[str, Any]
    """The candidates: index, edges, and what an approximate index missed."""


def build_pairs(quadruples: Sequence[Quadruple], features_ND: np.ndarray, options: PairConfig) -> Pairing:
    """Algorithm 1. Aligned pairs come first, in file order, then retrieved ones, in the file order of generation.

    Args:
        quadruples: those of equal image paths count as one.
        features_ND: one row per quadruple, of its image.

    Raises:
        ValueError: the lengths disagree, a quadruple has no side, or a feature row is zero or not finite.
    """
    if len(quadruples) != len(features_ND) or not quadruples:
        raise ValueError(f"{len(quadruples)} quadruples, {len(features_ND)} feature rows")
    if any(q.side is None for q in quadruples):
        raise ValueError("every quadruple needs a side")
    kept, across = _first_of_each(quadruples, [q.image_path for q in quadruples])
    images = [quadruples[i] for i in kept]
    features_ND = normalise(features_ND if len(kept) == len(quadruples) else features_ND[kept])
    clusters = max(1, min(options.clusters, len(images) // 2))
    clustering = cluster(
        features_ND, clusters, options.seed, options.kmeans, options.select, passes=options.kmeans_passes
    )
    rest = np.setdiff1d(np.arange(len(images)), clustering.selected)
    is_generation = np.array([q.side is Side.GENERATION for q in images])
    und, gen = rest[~is_generation[rest]], rest[is_generation[rest]]
    gen = generator(options.seed, Stream.VISITING_ORDER).permutation(gen)
    edges, graph = _graph(features_ND[gen], features_ND[und], options)
    chosen = choose(edges, (len(gen), len(und)), options.matching)
    g, u, similarity = gen[edges.g_E[chosen]], und[edges.u_E[chosen]], edges.similarity_E[chosen]
    found = sorted(zip(g.tolist(), u.tolist(), similarity.tolist(), strict=True))
    selected, matched = _cut(clustering.selected.tolist(), found, options)
    pairs = [Pair(f"a{n:06d}", "aligned", 1.0, images[i], images[i]) for n, i in enumerate(selected)]
    pairs += [Pair(f"r{n:06d}", "retrieved", s, images[i], images[j]) for n, (i, j, s) in enumerate(matched)]
    aligned_generation = int(is_generation[selected].sum()) if selected else 0
    counts = Counts(
        inputs=len(quadruples),
        duplicates=len(quadruples) - len(kept),
        duplicates_across_sides=across,
        clusters=clusters,
        empty_clusters=clustering.empty,
        singleton_clusters=clustering.singletons,
        aligned_understanding=len(selected) - aligned_generation,
        aligned_generation=aligned_generation,
        retrieved=len(matched),
        unmatched_understanding=len(und) - len(found),
        unmatched_generation=len(gen) - len(found),
        cut=len(clustering.selected) + len(found) - len(pairs),
    )
    reasons = dict.fromkeys(rest.tolist(), ALONE)
    reasons |= dict.fromkeys(np.concatenate([gen[edges.g_E], und[edges.u_E]]).tolist(), TAKEN)
    reasons |= dict.fromkeys([*clustering.selected.tolist(), *g.tolist(), *u.tolist()], CUT)
    for i in [*selected, *(end for edge in matched for end in edge[:2])]:
        del reasons[i]
    unmatched = [(images[i], reason) for i, reason in sorted(reasons.items())]
    kmeans = {name: vars(clustering)[name] for name in ("passes", "settled", "mean_cosine")}
    return Pairing(pairs, counts, [images[i].id for i in gen], unmatched, kmeans, graph)


def _graph(gen_GD: np.ndarray, und_UD: np.ndarray, options: PairConfig) -> tuple[Edges, dict[str, Any]]:
    """The candidates and what is written about them."""
    neighbours, floor = options.neighbours, options.similarity_floor
    if options.index == "exact" or not len(gen_GD) or not len(und_UD):
        edges = candidates(gen_GD, und_UD, neighbours, floor)
        return edges, {"index": "exact", "edges": len(edges.g_E)}
    probes, seed = options.index_probes, options.seed
    edges = approximate_candidates(gen_GD, und_UD, neighbours, floor, probes=probes, seed=seed)
    share, truth = recall(edges, gen_GD, und_UD, neighbours, floor, seed=seed)
    return edges, {"index": "ivf", "edges": len(edges.g_E), "recall": share, "recall_of_edges": truth}


def _first_of_each(quadruples: Sequence[Quadruple], contents: Sequence[str]) -> tuple[list[int], int]:
    """Indices of the first quadruple of each image, and how many later ones are of the other side."""
    first: dict[str, int] = {}
    across = 0
    for i, key in enumerate(contents):
        across += quadruples[first.setdefault(key, i)].side is not quadruples[i].side
    return list(first.values()), across


def _cut(
    selected: list[int], edges: list[tuple[int, int, float]], options: PairConfig
) -> tuple[list[int], list[tuple[int, int, float]]]:
    """At most max_pairs: aligned pairs first (a seeded draw where there are too many), then the most similar."""
    most = options.max_pairs
    if not most or most >= len(selected) + len(edges):
        return selected, edges
    if most < len(selected):
        selected = sorted(generator(options.seed, Stream.CUT).choice(selected, most, replace=False).tolist())
    best = sorted(edges, key=lambda e: (-e[2], e[0], e[1]))[: most - len(selected)]
    return selected, sorted(best)


def run_pair(config: PairConfig) -> dict[str, Any]:
    """The `pair` stage: writes pairs.jsonl and pairing.json to `config.output` and returns what pairing.json holds.

    Quadruples whose image cannot be read are left out and counted. The same inputs and seed give a byte-identical
    pairs.jsonl. A killed run leaves no half-written file and finds the features it had computed. Image paths in
    pairs.jsonl stay relative to the image root.

    Raises:
        InputError: a line of the quadruples is wrong, no image can be read (naming the first and its line), the
            weights of the extractor cannot be loaded, another process is at work in the output, or a file is there that
            may not be replaced.
    """
    with writing(config.output, "pair", FILES, config.overwrite):
        return _pair(config)


def _pair(config: PairConfig) -> dict[str, Any]:
    source, output = Path(config.quadruples), Path(config.output)
    root = source.parent if config.image_root is None else Path(config.image_root)
    seconds, start = dict[str, float](), perf_counter()

    def lap(name: str) -> None:
        seconds[name] = round(perf_counter() - start - sum(seconds.values()), 3)

    quadruples = read_quadruples(source, root)
    paths = [root / q.image_path for q in quadruples]
    lap("read")
    engine, extractor = choose_engine(config), load_extractor(config.extractor, config.weights)
    lap("load_extractor")
    cache = output / "features"
    try:
        images, broken = read_images(paths, extractor, config.feature_batch, cache, engine)
        lap("features")
        rows = np.setdiff1d(np.arange(len(paths)), list(broken))
        readable = [quadruples[n] for n in rows]
        removals = clean(readable, images, config, extractor, cache)
        lap("clean")
    except InputError as err:
        if err.file is None or Path(err.file) not in paths:
            raise
        # An image that is wrong: the line that names it is what the user has to mend.
        line = [n for n, _ in read_jsonl(source)][paths.index(Path(err.file))]
        raise InputError(f"{err.file}: {err.message}", file=source, line=line, field="image_path") from None
    left = np.setdiff1d(np.arange(len(rows)), [r.index for r in removals])
    if not len(left):
        raise InputError("nothing is left: every quadruple is in a reference set", file=source)
    # A copy of the features only where it is needed: they may be many.
    features_ND = images.features_ND[left] if removals else images.features_ND
    pairing = build_pairs([readable[n] for n in left], features_ND, config)
    removals = [replace(r, index=int(rows[r.index])) for r in removals]
    removals += [Removal(n, UNREADABLE, err.message, None) for n, err in broken.items()]
    removals.sort(key=lambda r: r.index)
    lap("pairing")
    write_jsonl(output / "pairs.jsonl", (p.to_json() for p in pairing.pairs))
    write_jsonl(output / "removed.jsonl", (r.to_json(quadruples[r.index]) for r in removals))
    write_jsonl(output / "unmatched.jsonl", ({**q.to_json(), "reason": why} for q, why in pairing.unmatched))
    lap("write")
    try:  # as seen from the output, so that both may be moved together
        image_root = Path(os.path.relpath(root.resolve(), output.resolve())).as_posix()
    except ValueError:  # another drive
        image_root = root.resolve().as_posix()
    reasons = Counter(r.reason for r in removals)
    _, across = _first_of_each(readable, images.hashes)
    # Cosines of random pairs of different images, to set the floor against.
    i, j = generator(config.seed, Stream.RANDOM_COSINES).integers(len(rows), size=(2, _RANDOM_PAIRS))
    different = np.array([images.hashes[a] != images.hashes[b] for a, b in zip(i.tolist(), j.tolist(), strict=True)])
    cosines = np.einsum("nd,nd->n", images.features_ND[i[different]], images.features_ND[j[different]])
    summary = {
        "options": {name: value for name, value in asdict(config).items() if name != "overwrite"},
        "image_root": image_root,
        "extractor": extractor.identity,
        "input_hashes": {
            "quadruples": file_hash(source),
            "images": sha256(" ".join(images.hashes).encode()).hexdigest(),
        },
        "pairs_hash": file_hash(output / "pairs.jsonl"),
        "counts": asdict(pairing.counts)
        | {"inputs": len(quadruples), "duplicates": reasons[COPY], "duplicates_across_sides": across}
        | {"removed": {reason: reasons[reason] for reason in REASONS}},
        "kmeans": pairing.kmeans,
        "graph": pairing.graph,
        "similarity": _quantiles([p.similarity for p in pairing.pairs if p.kind == "retrieved"]),
        "random_pair_cosine": _quantiles(cosines),
        "notices": _notices(config, pairing.counts, len(broken), output, root),
        "seconds": seconds,
        "peak_rss_mb": None,
        "generation_order": pairing.generation_order,
    }
    if resource is not None:  # bytes on macOS, KiB elsewhere
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        summary["peak_rss_mb"] = round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
    write_json(output / "pairing.json", summary)
    return summary


def _quantiles(values: Sequence[float] | np.ndarray) -> dict[str, float] | None:
    if not len(values):
        return None
    return {f"{q:g}": round(float(v), 6) for q, v in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)}


def _notices(config: PairConfig, counts: Counts, broken: int, output: Path, root: Path) -> list[str]:
    notices = []
    if broken:
        notices.append(f"{broken} quadruples are left out because their image cannot be read: removed.jsonl names them")
    if counts.clusters < config.clusters:
        notices.append(f"clusters capped at half the images: {counts.clusters} instead of {config.clusters}")
    if not counts.retrieved and not counts.cut:
        notices.append("no retrieved pairs: no images of different sides reach the similarity floor")
    if output.resolve() != root.resolve():
        notices.append(f"image paths in pairs.jsonl are relative to {root}, where pairing.json says that they are")
    return notices
