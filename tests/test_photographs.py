"""The main job on real photographs, command by command: pair, train, resume, report (needs the development data)."""

import json
import os
import re
from html import escape
from pathlib import Path

import pytest
from markupsafe import escape as markup
from PIL import Image

from llm_server import Endpoint
from pairuni.cli.main import main
from pairuni.pages.report import SHOWN_PAIRS

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
    cards = re.findall(r'<article class="card" data-kind="(\w+)"(.*?)</article>', page, re.DOTALL)
    assert len(cards) == min(len(rows), SHOWN_PAIRS) and {kind for kind, _ in cards} == {"aligned", "retrieved"}
    assert all(card.count('src="data:image/png') == 1 + (kind == "retrieved") for kind, card in cards)  # photographs
    assert main(["check", str(run)]) == 0
    assert main(["check", str(data / "pairs.jsonl"), "--image_root", str(DATA)]) == 0
    trained, out = str(run / "checkpoints" / "step_000005" / "model"), str(tmp_path / "s.png")
    assert main(["sample", "--model", trained, "--prompt", "a dog", "--output", out]) == 0
    with Image.open(out) as image:
        assert image.size == (4 * 64, 64)  # four rollouts side by side


@needs_photographs
def test_photographs_from_two_sources_to_the_gallery(tmp_path: Path) -> None:
    """complete -> pair -> train -> gallery, one command each, the missing halves from an endpoint on this machine."""
    data, pairs, run = tmp_path / "completed", tmp_path / "pairs", tmp_path / "run"
    with Endpoint() as endpoint:
        complete = ["complete", "--config", str(CONFIGS / "complete.yaml"), "--llm.base_url", endpoint.url]
        complete += ["--understanding", str(DATA / "understanding.jsonl"), "--output", str(data)]
        complete += ["--generation", str(DATA / "generation.jsonl"), "--understanding_source.limit", "60"]
        assert main(complete) == 0
        asked = len(endpoint.requests)
        assert asked >= 2 * (60 + 80) and main(complete) == 0 and len(endpoint.requests) == asked  # paid once
        endpoint.shutdown()
    pair = ["pair", "--config", str(CONFIGS / "pair.yaml"), "--quadruples", str(data / "quadruples.jsonl")]
    assert main([*pair, "--output", str(pairs), "--image_root", str(DATA)]) == 0
    train = ["train", "--config", str(CONFIGS / "train.yaml"), "--model.path", "shapes-janus", "--steps", "2"]
    train += ["--data.pairs", str(pairs / "pairs.jsonl"), "--data.image_root", str(DATA), "--output", str(run)]
    assert main(train) == 0
    assert len((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    with Image.open(next((run / "samples" / "step_000002").glob("*.png"))) as image:
        assert image.height % 48 == 0
    gallery = ["analyse", "pairs", str(pairs / "pairs.jsonl"), "--image_root", str(DATA)]
    assert main([*gallery, "--out", str(tmp_path / "gallery.html")]) == 0
    page = (tmp_path / "gallery.html").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in (pairs / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["kind"] for row in rows} == {"aligned", "retrieved"}
    assert all(str(markup(row["understand_ann"]["prompt"])) in page for row in rows[:5])
