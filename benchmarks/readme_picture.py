"""The picture of README from a run of the demo: pairs side by side, and images before and after training.

    python benchmarks/readme_picture.py runs/demo --out docs/images/demo.png

Nothing is picked by hand: retrieved pairs at equal distances in the file, then the first captions and rollouts of the
sample grids. Needs no torch.
"""

import argparse
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pairuni.files import read_jsonl

COLUMNS = 4
CELL = 96
"""Pixels of an image's side; images of the Shapes world have 48."""
BLOCK = 2 * CELL + 4
GAP = 22
LINE = 15
TEXT = {"fill": "#1c1c1c", "font": ImageFont.load_default(12)}
QUIET = {"fill": "#6b6b6b", "font": ImageFont.load_default(12)}
HEADING = {"fill": "#1c1c1c", "font": ImageFont.load_default(15)}


def enlarged(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB").resize((CELL, CELL), Image.Resampling.NEAREST)


def chosen_pairs(data: Path) -> list[dict[str, Any]]:
    """Retrieved pairs from the whole range of similarities."""
    rows = [row for _, row in read_jsonl(data / "pairs.jsonl") if row["kind"] == "retrieved"]
    rows.sort(key=lambda row: -row["similarity"])
    return [rows[i] for i in np.linspace(0, len(rows) - 1, COLUMNS + 2).round().astype(int)[1:-1].tolist()]


def drawn(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The first two rollouts of the first captions, by caption."""
    by_caption: dict[str, list[dict[str, Any]]] = {}
    for _, row in read_jsonl(folder / "samples.jsonl"):
        if row["side"] == "generation" and row["rollout"] < 2:
            by_caption.setdefault(row["prompt"], []).append(row)
    return dict(list(by_caption.items())[:COLUMNS])


def reward(row: dict[str, Any]) -> str:
    return f"{sum(row['rewards'].values()):.2f}"


def picture(run: Path) -> Image.Image:
    folders = sorted((run / "samples").iterdir())
    before, after = drawn(folders[0]), drawn(folders[-1])
    steps = int(folders[-1].name.removeprefix("step_"))
    width = COLUMNS * BLOCK + (COLUMNS + 1) * GAP
    sheet = Image.new("RGB", (width, 700), "white")
    pen = ImageDraw.Draw(sheet)

    def lines(left: int, top: int, text: str, style: dict[str, Any]) -> int:
        """Wrapped text; returns where it ends."""
        for line in textwrap.wrap(text, 31):
            pen.text((left, top), line, **style)
            top += LINE
        return top

    top = 14
    pen.text((GAP, top), "Pairs: draw the left half's caption, answer the right half's question", **HEADING)
    top += 26
    ends = []
    for column, pair in enumerate(chosen_pairs(run / "data")):
        left = GAP + column * (BLOCK + GAP)
        generate, understand = pair["generate_ann"], pair["understand_ann"]
        sheet.paste(enlarged(run / "data" / generate["image_path"]), (left, top))
        sheet.paste(enlarged(run / "data" / understand["image_path"]), (left + CELL + 4, top))
        similarity = pair["similarity"]
        weight = f"similarity {similarity:.2f}, weight {similarity**0.5:.2f}"
        below = lines(left, top + CELL + 4, weight, QUIET)
        below = lines(left, below + 2, f"draw: {generate['prompt']}", TEXT)
        ends.append(lines(left, below + 2, f"ask: {understand['question']}", TEXT))
    top = max(ends) + 18
    title = f"Images of the same captions before and after {steps} steps, from the same seeds, with their rewards"
    pen.text((GAP, top), title, **HEADING)
    top += 26
    ends = []
    for column, caption in enumerate(before):
        left = GAP + column * (BLOCK + GAP)
        for place, name, folder, rows in (
            (left, "before", folders[0], before[caption]),
            (left + CELL + 4, "after", folders[-1], after[caption]),
        ):
            pen.text((place, top), name, **QUIET)
            for n, row in enumerate(rows):
                below = top + LINE + 2 + n * (CELL + LINE + 6)
                sheet.paste(enlarged(folder / row["image"]), (place, below))
                pen.text((place, below + CELL + 1), reward(row), **QUIET)
        ends.append(lines(left, top + 2 * (CELL + LINE + 6) + LINE + 4, caption, TEXT))
    return sheet.crop((0, 0, width, max(ends) + 14))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory of `pairuni demo`")
    parser.add_argument("--out", type=Path, default=Path("docs/images/demo.png"), help="the picture")
    options = parser.parse_args()
    picture(options.run).quantize(128).save(options.out, optimize=True)
    print(options.out)
