"""The main job on real photographs, command by command: pair, train, resume, report (needs the development data)."""

import json
import os
import re
from html import escape
from pathlib import Path

import pytest
from PIL import Image

from pairuni.cli.main import main
from pairuni.report.gallery import GALLERY_PAIRS

DATA = Path(os.environ.get("PAIRUNI_REAL_DATA", Path(__file__).parents[2] / "shared" / "data")) / "coco"
CONFIGS = Path(__file__).parents[1] / "configs" / "photos"
needs_photographs = pytest.mark.skipif(not DATA.is_dir(), reason=f"no photographs at {DATA}; set PAIRUNI_REAL_DATA")


@needs_photographs
def test_photographs_from_quadruples_to_report(tmp_path: Path) -> None:
    quadruples, data, run, model = DATA / "quadruples.jsonl", tmp_path / "data", tmp_path / "run", tmp_path / "model"
    assert main(["tiny", "--output", str(model), "--texts", str(quadruples), "--image", "64"]) == 0
    pair = ["pair", "--config", str(CONFIGS / "pair.yaml"), "--quadruples", str(quadruples)]
    assert main([*pair, "--output", str(data), "--image_root", str(DATA)]) == 0
    rows = [json.loads(line) for line in (data / "pairs.jsonl").read_text().splitlines()]
    assert {r["kind"] for r in rows} == {"aligned", "retrieved"}
    assert json.loads((data / "pairing.json").read_text())["extractor"].startswith("colour_hog")
    train = ["train", "--config", str(CONFIGS / "train.yaml"), "--output", str(run), "--model.path", str(model)]
    train += ["--data.pairs", str(data / "pairs.jsonl"), "--data.image_root", str(DATA)]
    assert main([*train, "--steps", "3"]) == 0
    assert main(train) == 0  # two more steps, from the checkpoint of the third
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == [1, 2, 3, 4, 5]
    assert all(m["reward_std/generation"] > 0 and m["grad_norm"] > 0 for m in metrics)
    assert (run / "checkpoints" / "latest").read_text().strip() == "step_000005"
    assert list((run / "samples" / "step_000005").glob("*.png"))
    page = (run / "report.html").read_text(encoding="utf-8")
    sampled = (run / "samples" / "step_000005" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    captions = {row["prompt"] for row in map(json.loads, sampled) if row["side"] == "generation"}
    assert len(captions) == 4 and all(escape(caption) in page for caption in captions)
    cards = re.findall(r'<p class="label">Pair [^:]+: (\w+), (.*?)</article>', page, re.DOTALL)
    assert len(cards) == min(len(rows), GALLERY_PAIRS) and {kind for kind, _ in cards} == {"aligned", "retrieved"}
    assert all(card.count('src="data:image/png') == 2 for _, card in cards)  # each half's photograph
    assert main(["check", str(run)]) == 0
    assert main(["check", str(data / "pairs.jsonl"), "--image_root", str(DATA)]) == 0
    trained, out = str(run / "checkpoints" / "step_000005" / "model"), str(tmp_path / "s.png")
    assert main(["sample", "--model", trained, "--prompt", "a dog", "--output", out]) == 0
    with Image.open(out) as image:
        assert image.size == (4 * 64, 64)  # four rollouts side by side
