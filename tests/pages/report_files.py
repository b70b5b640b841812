"""A small run directory, written by hand: real PNGs, real JSON, hostile text wherever a user's text can stand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

HOSTILE = "<script>alert(1)</script>"
STEPS = 60


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_object(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_png(path: Path, seed: int, width: int = 48, height: int = 48) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_evaluation(folder: Path, scores: dict[str, dict[str, float]], unit: str = "per cent") -> Path:
    """eval.json and answers from {benchmark: {"part/id": 0 or 1}}; factor 100 for per cent, else 1."""
    factor = 100 if unit == "per cent" else 1
    entries = {}
    for name, items in scores.items():
        values = np.array(list(items.values()))
        parts: dict[str, list[float]] = {}
        for id, value in items.items():
            parts.setdefault(id.split("/")[0], []).append(value)
        entries[name] = {
            "score": round(factor * float(values.mean()), 3),
            "unit": unit,
            "stderr": round(factor * float(values.std(ddof=1)) / len(values) ** 0.5, 3),
            "n": len(values),
            "protocol": "greedy",
            "judge": None,
            "unparsed": 1,
            "parts": {part: round(factor * float(np.mean(v)), 3) for part, v in parts.items()},
        }
        rows = [{"id": i, "part": i.split("/")[0], "score": v, "parsed": True} for i, v in items.items()]
        write_lines(folder / f"answers_{name}.jsonl", rows)
    write_object(folder / "eval.json", {"model": "tiny", "config_hash": "0", "benchmarks": entries})
    return folder / "eval.json"


def random_scores(seed: int, right: float, items: int = 40) -> dict[str, float]:
    draws = np.random.default_rng(seed).random(items)
    return {f"{'colour' if i % 2 else 'count'}/{i}": float(d < right) for i, d in enumerate(draws)}


def metric_row(step: int) -> dict[str, Any]:
    row: dict[str, Any] = {"step": step, "grad_norm": 1.0 + step % 3, "lr": 1e-6}
    for n, side in enumerate(("understanding", "generation")):
        row |= {f"reward_mean/{side}": 0.2 + 0.01 * step + n * 0.1, f"zero_std_fraction/{side}": 0.25}
        row |= {f"logp_gap_max/{side}": 1e-6, f"clip_fraction/{side}": 0.0, f"behaviour_gap/{side}": 0.5 * n}
        row |= {f"tokens_per_second/{side}": 1000.0}
    seconds = {"rollout": 1.5, "reward": 0.25, "update": 1.0, "total": 2.75}
    return row | {f"seconds/{name}": value for name, value in seconds.items()}


def sample_rows(step: int, rewards: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for r in range(2):
        shared = {"step": step, "pair_id": "a0", "rollout": r, "rewards": {"r": rewards + r}, "advantage": 0.0}
        rows.append({**shared, "side": "generation", "prompt": f"a red circle {HOSTILE}", "image": f"00_{r:02d}.png"})
        rows.append({**shared, "side": "understanding", "question": "Which? A. x B. y", "text": f"B {HOSTILE} {step}"})
    return rows


def write_pairs(folder: Path) -> Path:
    for n, name in enumerate(("a.png", "b.png", "<script>.png")):
        write_png(folder / name, n, 300 if n == 1 else 48, 400 if n == 1 else 48)
    question = "Which?\nA. red\nB. blue"
    half = {"prompt": f"caption {HOSTILE}", "question": question, "answer": f"A {HOSTILE}", "tag": f"tag {HOSTILE}"}
    rows: list[dict[str, Any]] = []
    for id, similarity, generate, understand in (
        ("p0", 1.0, "a.png", "a.png"),
        ("p1", 0.75, "b.png", "<script>.png"),
        ("p2", 0.6543, "gone.png", "a.png"),
    ):
        kind = "aligned" if generate == understand else "retrieved"
        halves = {
            "generate_ann": {"image_path": generate, **half},
            "understand_ann": {"image_path": understand, **half},
        }
        rows.append({"id": id, "kind": kind, "similarity": similarity, **halves})
    write_lines(folder / "pairs.jsonl", rows)
    counts = {"aligned_generation": 1, "retrieved": 2, "unmatched_understanding": 4711}
    quantiles = {"0": 0.6543, "0.5": 0.7022, "1": 0.75}
    write_object(folder / "pairing.json", {"counts": counts, "similarity": quantiles, "notices": [f"note {HOSTILE}"]})
    return folder / "pairs.jsonl"


def write_run(tmp_path: Path) -> Path:
    """A finished run of 60 steps with both evaluations, samples at steps 0 and 60, and its pairs outside of it."""
    run = tmp_path / "run"
    pairs = write_pairs(tmp_path / "data")
    write_lines(run / "metrics.jsonl", [metric_row(step) for step in range(1, STEPS + 1)])
    config = {
        "output": "run",
        "steps": STEPS,
        "weighting": "sqrt",
        "model": {"path": "shapes-janus"},
        "data": {"pairs": str(pairs), "image_root": None, "batch": 8},
        "rewards": {"understanding": "choice", "generation": HOSTILE},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    write_object(run / "environment.json", {"python": "3.11", "cpus": 2})
    for name, right in (("before", 0.4), ("after", 0.7)):
        scores = {"shapes_understanding": random_scores(1, right), "shapes_generation": random_scores(2, right / 2)}
        write_evaluation(run / f"eval_{name}", scores)
    for step in (0, 10, STEPS):
        folder = run / "samples" / f"step_{step:06d}"
        write_lines(folder / "samples.jsonl", sample_rows(step, 0.125 + step / 100))
        for r in range(2):
            write_png(folder / f"00_{r:02d}.png", step + r, 24, 24)
    return run
