"""What a step costs against rollouts, pairs, image tokens and model size: `python benchmarks/scaling.py`.

One of the four is varied at a time around a small model (width 128, 4 layers, 144 image tokens, 4 pairs, 4 rollouts),
and a whole step is timed: both sides sampled, scored, updated. The exponent is the slope of a straight line through
logarithms of seconds and of what varies: 1 is proportional, less has a share that does not grow. Prints a table, writes
scaling.json and .png.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from pairing import rounded
from speed import World, machine, our_step, synchronise

from pairuni.policies.janus.policy import JanusPolicy
from pairuni.tiny.build_janus import JanusSize, build_janus

_CORPUS = ("a photo of two red circles left of a blue square.", "What colour is it? A. red B. blue C. green D. black")
PARTS = ("rollout", "update")


@dataclass(frozen=True)
class Point:
    """A step's size."""

    width: int = 128
    grid: int = 12
    """Image tokens are its square."""
    pairs: int = 4
    rollouts: int = 4


SWEEPS: dict[str, list[Point]] = {
    "rollouts": [Point(rollouts=n) for n in (2, 4, 8, 16, 32)],
    "pairs": [Point(pairs=n) for n in (1, 2, 4, 8, 16)],
    "image tokens": [Point(grid=n) for n in (4, 8, 12, 16, 24)],
    "parameters": [Point(width=n) for n in (64, 128, 256, 384, 512)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--points", type=int, default=5, help="of each sweep")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"machine": machine(options), "base": vars(Point()), "sweeps": {}}
    for name, points in SWEEPS.items():
        rows = [measured(name, point, options) for point in points[: options.points]]
        exponents = {part: slope(rows, part) for part in ("seconds", *PARTS)}
        report["sweeps"][name] = {"rows": rows, "exponents": exponents}
        print(f"\n{name}: seconds ~ {name}^{exponents['seconds']:.2f}")
        for row in rows:
            parts = "  ".join(f"{part} {row[part]:.3f}" for part in PARTS)
            print(f"  {row['value']:>10}  {row['seconds']:8.3f} s  ({parts})", flush=True)
    (options.output / "scaling.json").write_text(json.dumps(rounded(report), indent=1) + "\n", encoding="utf-8")
    plot(report, options.output / "scaling.png")
    print(options.output / "scaling.json", options.output / "scaling.png", sep="\n")


def measured(name: str, point: Point, options: argparse.Namespace) -> dict[str, Any]:
    """Medians over repeats, after a step that warms up."""
    wide = {"hidden": point.width, "intermediate": 11 * point.width // 4, "layers": 4, "heads": point.width // 32}
    size = replace(JanusSize(), image=8 * point.grid, **wide)
    module, processor = build_janus(size, _CORPUS, 0)
    policy = JanusPolicy(module.to(options.device), processor, "bf16" if "cuda" in options.device else "fp32")  # pyright: ignore
    step = argparse.Namespace(pairs=point.pairs, rollouts=point.rollouts, tokens=16, micro_tokens=8192, size="")
    run, told = our_step(World(step, policy))
    taken: list[dict[str, float]] = []
    for _ in range(options.repeats + 1):
        synchronise(options)
        run()
        synchronise(options)
        taken.append(dict(told))
    parts = {part: median(row[part] for row in taken[1:]) for part in PARTS}
    values = {"rollouts": point.rollouts, "pairs": point.pairs, "image tokens": point.grid**2}
    values["parameters"] = sum(p.numel() for p in module.model.language_model.parameters())
    return {"value": values[name], "seconds": median(sum(row.values()) for row in taken[1:])} | parts


def slope(rows: list[dict[str, Any]], part: str) -> float:
    """Of the least-squares line through the logarithms."""
    return float(np.polyfit(np.log([row["value"] for row in rows]), np.log([row[part] for row in rows]), 1)[0])


def plot(report: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(1, len(SWEEPS), figsize=(3.2 * len(SWEEPS), 3.2), layout="constrained")
    for axes, (name, sweep) in zip(grid, report["sweeps"].items(), strict=True):
        values, smallest = [row["value"] for row in sweep["rows"]], sweep["rows"][0]["seconds"]
        for part in ("seconds", *PARTS):
            label = f"{'step' if part == 'seconds' else part} ^{sweep['exponents'][part]:.2f}"
            axes.loglog(values, [row[part] / smallest for row in sweep["rows"]], "o-", label=label)
        axes.minorticks_off()
        axes.set_xticks(values, [f"{v / 1e6:.1f} M" if v >= 1e5 else str(v) for v in values])
        axes.set(xlabel=name)
        axes.legend(fontsize=8)
    grid[0].set(ylabel="time over that of the smallest step")
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
