"""Pairing at the paper's size, stage by stage, beside a plain reference: `python benchmarks/pairing.py`.

Features are synthetic and clustered: 60,000 generation and 47,000 understanding rows of 2,048. Ours: k-means, candidate
graph and greedy matching of pairuni.data. The reference: scikit-learn's k-means from random rows with as many passes,
NumPy products in blocks, a Python loop. Each stage is a process of its own, ours and the reference's in turn, so that
its CPU time and peak memory are its own. Prints a table, writes pairing.json and pairing.png (cost against n).
Both must find the same edges and clusters of like quality, else the run fails.

    python benchmarks/pairing.py --scale 0.02            # seconds, to see that it works
    python benchmarks/pairing.py --passes 20 --output DIR
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

GEN, UND, CLUSTERS, FLOOR = 60_000, 47_000, 5_000, 0.6
STAGES = ("k-means", "graph", "matching")
Numbers = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of images and clusters")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--passes", type=int, default=5, help="of k-means, the same for both")
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.125, 0.25, 0.5, 1.0], help="shares of n, plotted")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--stage", nargs=3, metavar=("WHOSE", "STAGE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        whose, stage, folder = options.stage
        print(json.dumps(measured(whose, stage, Path(folder), options.passes)))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for size in sorted(options.sizes):
        rows.append(compare(options.scale * size, options, reference=size == max(options.sizes)))
    rows = rounded(rows)
    report = {"machine": machine(), "width": options.width, "passes": options.passes, "floor": FLOOR, "sizes": rows}
    (options.output / "pairing.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    plot(rows, options.output / "pairing.png")
    print(options.output / "pairing.json", options.output / "pairing.png", sep="\n")


def compare(scale: float, options: argparse.Namespace, reference: bool) -> Numbers:
    """All stages at one size; with the reference at the largest."""
    gen, und, clusters = (max(4, round(full * scale)) for full in (GEN, UND, CLUSTERS))
    result: Numbers = {"generation": gen, "understanding": und, "clusters": clusters, "ours": {}, "reference": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_features(folder, gen, und, options.width)
        (folder / "size.json").write_text(json.dumps([gen, und, options.width, clusters]), encoding="utf-8")
        print(f"\n{gen} + {und} rows of {options.width}, {clusters} clusters, {options.passes} passes")
        for stage in STAGES:
            for whose in ("ours", "reference") if reference else ("ours",):
                command = [sys.executable, __file__, "--passes", str(options.passes), "--stage", whose, stage, name]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                numbers = json.loads(done.stdout.splitlines()[-1])
                result[whose][stage] = numbers
                print(f"  {whose:<10} {stage:<9}" + "".join(f"  {key} {short(v)}" for key, v in numbers.items()))
        if reference:
            result |= verdict(result, folder)
    return result


def verdict(result: Numbers, folder: Path) -> Numbers:
    """Whether both did the same work, and the ratio of CPU time."""
    ours, theirs = (np.load(folder / f"{whose}_edges.npz") for whose in ("ours", "reference"))
    sets = [set(zip(e["g"].tolist(), e["u"].tolist(), strict=True)) for e in (ours, theirs)]
    similarity = dict(
        zip(zip(theirs["g"].tolist(), theirs["u"].tolist(), strict=True), theirs["s"].tolist(), strict=True)
    )
    similarity |= dict(zip(zip(ours["g"].tolist(), ours["u"].tolist(), strict=True), ours["s"].tolist(), strict=True))
    odd = [edge for edge in sets[0] ^ sets[1] if abs(similarity[edge] - FLOOR) > 1e-6]
    assert not odd, f"{len(odd)} edges differ away from the floor"
    cosine = [result[whose]["k-means"]["mean_cosine"] for whose in ("ours", "reference")]
    assert cosine[0] > cosine[1] - 0.005, f"clusters of unlike quality: {cosine}"
    seconds = {w: sum(result[w][s]["cpu_s"] for s in STAGES) for w in ("ours", "reference")}
    ratio = seconds["reference"] / max(seconds["ours"], 1e-9)
    print(f"  CPU seconds: ours {seconds['ours']:.1f}, reference {seconds['reference']:.1f}, ratio {ratio:.2f}")
    same = len(sets[0] & sets[1])
    print(f"  edges: {same} in both, {len(sets[0] ^ sets[1])} within 1e-6 of the floor in one")
    return {"cpu_s": seconds, "ratio": ratio, "edges_in_both": same, "edges_at_the_floor": len(sets[0] ^ sets[1])}


def measured(whose: str, stage: str, folder: Path, passes: int) -> Numbers:
    """Runs one stage in this process; its CPU and wall seconds and the process's peak memory beside its own numbers."""
    run = {"k-means": kmeans, "graph": graph, "matching": matching}[stage]
    gen, und, width, clusters = json.loads((folder / "size.json").read_text(encoding="utf-8"))
    rows_ND = np.memmap(folder / "features.f32", np.float32, "r", shape=(gen + und, width))
    return run(whose, rows_ND, (gen, clusters, passes), folder)


def kmeans(whose: str, rows_ND: np.ndarray, size: tuple[int, int, int], folder: Path) -> Numbers:
    _, clusters, passes = size
    if whose == "ours":
        from pairuni.data.cluster import cluster

        watch = Watch()
        found = cluster(rows_ND, clusters, 0, "lloyd", "medoid", passes)
        numbers, assignment_N = watch.numbers(), found.assignment_N
    else:
        from sklearn.cluster import KMeans

        watch = Watch()
        model = KMeans(clusters, init="random", n_init=1, max_iter=passes, tol=0, random_state=0, copy_x=False)
        assignment_N = model.fit(np.array(rows_ND)).labels_  # a copy that it may centre in place
        numbers = watch.numbers()
    sizes = np.bincount(assignment_N, minlength=clusters)
    shares = {"empty": int((sizes == 0).sum()), "singletons": int((sizes == 1).sum())}
    return {**numbers, **shares, "mean_cosine": mean_cosine(rows_ND, assignment_N, clusters)}


def graph(whose: str, rows_ND: np.ndarray, size: tuple[int, int, int], folder: Path) -> Numbers:
    gen = size[0]
    work = 2.0 * gen * (len(rows_ND) - gen) * rows_ND.shape[1]
    if whose == "ours":
        from pairuni.data.match import candidates
        from pairuni.data.products import fastest

        used = str(fastest()).removeprefix("torch.")
        before = product_rates(rows_ND.shape[1])
        watch = Watch()
        edges = candidates(rows_ND[:gen], rows_ND[gen:], 0, FLOOR)
        numbers = watch.numbers()
        # The best of before and after: a busy machine must not make the comparison easy.
        rates = {name: max(rate, before[name]) for name, rate in product_rates(rows_ND.shape[1]).items()}
        g, u, s = edges.g_E, edges.u_E, edges.similarity_E
        own = work / numbers["wall_s"] / 1e9
        numbers |= {
            "precision": used,
            "gflops": own,
            "of_float32": own / rates["float32"],
            "of_used": own / rates[used],
        }
    else:
        watch = Watch()
        parts = []
        for start in range(0, gen, 1024):
            similarity = rows_ND[start : min(start + 1024, gen)] @ rows_ND[gen:].T
            row, column = np.nonzero(similarity >= FLOOR)
            parts.append((row + start, column, similarity[row, column]))
        g, u, s = (np.concatenate(part) for part in zip(*parts, strict=True))
        numbers = watch.numbers()
    np.savez(folder / f"{whose}_edges.npz", g=g, u=u, s=s)
    return {**numbers, "edges": len(g)}


def matching(whose: str, rows_ND: np.ndarray, size: tuple[int, int, int], folder: Path) -> Numbers:
    gen = size[0]
    edges = np.load(folder / f"{whose}_edges.npz")
    g, u, s = edges["g"], edges["u"], edges["s"].astype(float)
    if whose == "ours":
        from pairuni.data.match import Edges, choose

        watch = Watch()
        pairs = len(choose(Edges(g, u, s), (gen, len(rows_ND) - gen), "greedy"))
        return {**watch.numbers(), "pairs": pairs}
    watch = Watch()
    used_g: set[int] = set()
    used_u: set[int] = set()
    for _, i, j in sorted(zip((-s).tolist(), g.tolist(), u.tolist(), strict=True)):
        if i not in used_g and j not in used_u:
            used_g.add(i)
            used_u.add(j)
    return {**watch.numbers(), "pairs": len(used_g)}


class Watch:
    """CPU and wall seconds since it was made, and the process's peak memory."""

    def __init__(self) -> None:
        self.wall, self.cpu = perf_counter(), self._cpu()

    @staticmethod
    def _cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    def numbers(self) -> Numbers:
        unit = 2**30 if sys.platform == "darwin" else 2**20
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        return {"cpu_s": self._cpu() - self.cpu, "wall_s": perf_counter() - self.wall, "peak_rss_gib": peak}


def product_rates(width: int) -> dict[str, float]:
    """10^9 operations per second of plain products, by precision (float32: torch's or NumPy's); the best of five."""
    import torch

    rates: dict[str, float] = {}
    for precision in (torch.float32, torch.bfloat16):
        left, right = torch.ones(1024, width, dtype=precision), torch.ones(8192, width, dtype=precision)
        sides = [(left, right)] if precision == torch.bfloat16 else [(left, right), (left.numpy(), right.numpy())]
        best = float("inf")
        for _ in range(5):
            for one, other in sides:
                start = perf_counter()
                _ = one @ other.T
                best = min(best, perf_counter() - start)
        rates[str(precision).removeprefix("torch.")] = 2.0 * 1024 * 8192 * width / best / 1e9
    return rates


def write_features(folder: Path, gen: int, und: int, width: int) -> None:
    """Unit rows around centres that both sides share: cosines in a cluster lie between 0.45 and 0.95."""
    rng = np.random.default_rng(0)
    n = gen + und
    centres = rng.standard_normal((max(2, n // 12), width), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    with (folder / "features.f32").open("wb") as file:
        for start in range(0, n, 4096):
            rows = min(4096, n - start)
            noise = rng.standard_normal((rows, width), dtype=np.float32)
            noise /= np.linalg.norm(noise, axis=1, keepdims=True)
            near = rng.uniform(0.45, 0.95, size=(rows, 1)).astype(np.float32)
            mixed = np.sqrt(near) * centres[rng.integers(len(centres), size=rows)] + np.sqrt(1 - near) * noise
            file.write((mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32).tobytes())


def mean_cosine(rows_ND: np.ndarray, assignment_N: np.ndarray, clusters: int) -> float:
    """Of rows with the unit mean of their cluster: the length of the sums, over the number of rows."""
    total = 0.0
    order = np.argsort(assignment_N, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(assignment_N, minlength=clusters))[:-1]):
        total += float(np.linalg.norm(rows_ND[rows].sum(axis=0))) if len(rows) else 0.0
    return total / len(rows_ND)


def machine() -> dict[str, str | int]:
    import torch

    # NumPy's kernels, and so the reference's speed, depend on it.
    kernels = os.environ.get("OPENBLAS_CORETYPE", "chosen by OpenBLAS")
    processor = platform.processor() or platform.machine()
    return {"processor": processor, "threads": torch.get_num_threads(), "openblas_kernels": kernels}


def rounded(value: Any) -> Any:
    """Floats to four digits, wherever they are."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def plot(rows: list[Numbers], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    n = np.array([row["generation"] + row["understanding"] for row in rows])
    cost = {stage: np.array([max(row["ours"][stage]["cpu_s"], 1e-3) for row in rows]) for stage in STAGES}
    unit = sum(values[0] for values in cost.values())
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for stage, values in cost.items():
        axes.loglog(n, values / unit, "o-", label=stage)
    for power, style in ((1, ":"), (2, "--")):
        axes.loglog(n, (n / n[0]) ** power, style, color="grey", label=f"n^{power}")
    axes.set(xlabel="images of both sides", ylabel="CPU time, all stages at the smallest n = 1", title="Pairing")
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
