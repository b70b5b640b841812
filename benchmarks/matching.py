"""The three matchings beside each other: `python benchmarks/matching.py --quadruples data/photos/quadruples.jsonl`.

For photographs (colour_hog or another extractor) and for synthetic clustered features: pairs found, their mean
similarity, the sum of sqrt(similarity) (the weight that Pair-GRPO gives them), how many pairs two visiting orders of
the generation images share, and seconds. With each, the cosines of random pairs, since a floor means something else for
each kind of features. Prints Markdown and writes matching.json.
"""

import argparse
import json
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from pairing import write_features

from pairuni.config import PairConfig
from pairuni.data.features import extract, load_extractor
from pairuni.data.match import Edges, candidates, choose, normalise
from pairuni.records import read_quadruples
from pairuni.types import Side

STRATEGIES = ("paper_order", "greedy", "optimal")
QUANTILES = (0.05, 0.5, 0.95, 0.999)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quadruples", type=Path, help="real data; left out where there is none")
    parser.add_argument("--image_root", type=Path, help="(default: the folder of the quadruples)")
    parser.add_argument("--extractor", default="colour_hog")
    parser.add_argument("--weights", default="")
    parser.add_argument("--floors", type=float, nargs="+", default=[0.5, 0.6, 0.7])
    parser.add_argument("--scale", type=float, default=0.25, help="of 60,000 generation and 47,000 understanding rows")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    results = []
    if options.quadruples:
        gen, und = photographs(options)
        results += [compare(f"photographs, {options.extractor}", gen, und, floor) for floor in options.floors]
    gen_n, und_n = round(60_000 * options.scale), round(47_000 * options.scale)
    write_features(options.output, gen_n, und_n, 256)
    rows = np.fromfile(options.output / "features.f32", np.float32).reshape(-1, 256)
    (options.output / "features.f32").unlink()
    results += [compare("clustered", rows[:gen_n], rows[gen_n:], 0.6)]
    # Few understanding images: what is left over then depends most on the order.
    results += [compare("clustered, a quarter of U", rows[:gen_n], rows[gen_n : gen_n + und_n // 4], 0.6)]
    (options.output / "matching.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(options.output / "matching.json")


def photographs(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    root = options.image_root or options.quadruples.parent
    quadruples = read_quadruples(options.quadruples, root)
    config = PairConfig(str(options.quadruples), "", extractor=options.extractor, weights=options.weights)
    extractor = load_extractor(config.extractor, config.weights)
    rows = extract([root / q.image_path for q in quadruples], extractor, config.feature_batch)
    generation = np.array([q.side is Side.GENERATION for q in quadruples])
    return rows[generation], rows[~generation]


def compare(name: str, gen: np.ndarray, und: np.ndarray, floor: float) -> dict[str, Any]:
    """All strategies over two orders of the generation rows."""
    gen, und = normalise(gen), normalise(und)
    rng = np.random.default_rng(0)
    i, j = rng.integers(len(gen), size=20_000), rng.integers(len(und), size=20_000)
    random = np.einsum("nd,nd->n", gen[i], und[j])
    cosines = {f"{q:g}": round(float(np.quantile(random, q)), 3) for q in QUANTILES}
    orders = [rng.permutation(len(gen)) for _ in range(2)]
    graphs = [candidates(gen[order], und, 0, floor) for order in orders]
    print(f"\n{name}: {len(gen)} generation, {len(und)} understanding, floor {floor}, {len(graphs[0].g_E)} edges")
    print(f"cosines of random pairs (quantiles): {cosines}; above the floor: {(random >= floor).mean():.2%}\n")
    print("| matching | pairs | mean similarity | sum of sqrt(similarity) | shared by two orders | CPU seconds |")
    print("|---|---|---|---|---|---|")
    rows = {}
    for strategy in STRATEGIES:
        runs = [
            matched(edges, order, (len(gen), len(und)), strategy) for edges, order in zip(graphs, orders, strict=True)
        ]
        (pairs, similarity, seconds), (others, _, _) = runs
        shared = len(pairs & others) / max(1, len(pairs))
        row = {"pairs": len(pairs), "mean_similarity": float(similarity.mean()) if len(pairs) else None}
        row |= {"sum_sqrt": float(np.sqrt(similarity).sum()), "shared": shared, "cpu_s": seconds}
        mean = "" if row["mean_similarity"] is None else f"{row['mean_similarity']:.4f}"
        print(f"| {strategy} | {len(pairs)} | {mean} | {row['sum_sqrt']:.1f} | {shared:.1%} | {seconds:.2f} |")
        rows[strategy] = row
    size = {"generation": len(gen), "understanding": len(und), "edges": len(graphs[0].g_E)}
    return {"data": name, "floor": floor, **size, "random_cosines": cosines, "matchings": rows}


def matched(
    edges: Edges, order: np.ndarray, size: tuple[int, int], strategy: str
) -> tuple[set[tuple[int, int]], np.ndarray, float]:
    """(pairs by row numbers before the reordering, similarities, CPU seconds)."""
    start = process_time()
    chosen = choose(edges, size, strategy)  # pyright: ignore[reportArgumentType]
    seconds = process_time() - start
    pairs = set(zip(order[edges.g_E[chosen]].tolist(), edges.u_E[chosen].tolist(), strict=True))
    return pairs, edges.similarity_E[chosen], seconds


if __name__ == "__main__":
    main()
