"""A small world for the gallery: six plain images, four pairs, and a file of each kind of left-overs, hostile texts."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from pairuni.files import file_hash

HOSTILE = "<script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\"> '\" </article>"
TAG = 'a & b\'s "<b>" 50%#=?'
COLOURS = {"magenta": (255, 0, 255), "green": (0, 255, 0), "blue": (0, 0, 255), "cyan": (0, 255, 255)}
COLOURS |= {"red": (255, 0, 0), "yellow": (255, 255, 0)}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def quadruple(id: str, image: str, side: str, tag: str, prompt: str = "a thing") -> dict[str, Any]:
    row = {"id": id, "side": side, "image_path": f"images/{image}.png", "prompt": prompt, "tag": tag}
    return row | {"question": f"Which is {id}? A. this B. that", "answer": "A"}


def pair(id: str, similarity: float, generate: dict[str, Any], understand: dict[str, Any]) -> dict[str, Any]:
    kind = "aligned" if generate is understand else "retrieved"
    row = {"id": id, "kind": kind, "similarity": similarity}
    return row | {"generate_ann": generate, "understand_ann": understand}


def write_world(folder: Path) -> Path:
    """pairs.jsonl with pairing.json, removed.jsonl and unmatched.jsonl; complete/ has quadruples' rejected.jsonl."""
    for name, colour in COLOURS.items():
        (folder / "images").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 48), colour).save(folder / f"images/{name}.png")
    g0 = quadruple("g0", "magenta", "generation", "cats", "two umbrellas on a beach")
    g1 = quadruple("g1", "green", "generation", "dogs", f"a dog under an umbrella {HOSTILE}")
    g2 = quadruple("g2", "green", "generation", "cats")
    g3 = quadruple("g3", "gone", "generation", "dogs")
    u1, u2, u3 = (
        quadruple(f"u{n}", image, "understanding", tag)
        for n, image, tag in ((1, "blue", "count"), (2, "cyan", TAG), (3, "blue", "count"))
    )
    pairs = [pair("a0", 1.0, g0, g0), pair("r0", 0.7, g1, u1), pair("r1", 0.9, g2, u2), pair("r2", 0.651234, g3, u3)]
    path = write_lines(folder / "pairs.jsonl", pairs)
    copy = quadruple("c0", "red", "generation", "cats") | {"reason": "near copy", "of": "g0"}
    words = quadruple("c1", "red", "generation", "birds") | {"reason": "text of a reference set", "of": "a big red bus"}
    write_lines(folder / "removed.jsonl", [copy | {"similarity": 0.97}, words | {"similarity": 1.0}])
    alone = quadruple("u9", "yellow", "understanding", "count", "a lonely lamp") | {"reason": "nothing is near enough"}
    write_lines(folder / "unmatched.jsonl", [alone, {**alone, "id": "u8", "prompt": "a chair"}])
    rejected = {"id": "x0", "side": "generation", "image_path": "x.png", "prompt": HOSTILE, "reason": "no reply: late"}
    write_lines(
        folder / "complete" / "rejected.jsonl", [rejected, {**rejected, "id": "x1", "reason": "no reply: down"}]
    )
    record = {
        "options": {"quadruples": str(folder / "complete" / "quadruples.jsonl")},
        "extractor": "colour_hog-1",
        "pairs_hash": file_hash(path),
        "counts": {"inputs": 11, "removed": {"near copy": 1}},
        "random_pair_cosine": {"0": 0.0, "0.05": 0.1, "0.25": 0.2, "0.5": 0.3, "0.75": 0.4, "0.95": 0.55, "1": 0.9},
        "notices": [f"notice {HOSTILE}"],
    }
    (folder / "pairing.json").write_text(json.dumps(record), encoding="utf-8")
    return path
