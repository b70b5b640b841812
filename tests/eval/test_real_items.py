"""The real items of POPE, GenEval and WISE through `pairuni eval`, killed and continued (needs the development data).

The development photographs are none of POPE's, so some stand in under the names of POPE's: what is tested is that real
questions and real photographs run to their end, not the score.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detector_models import write_detector
from llm_server import Endpoint

DATA = Path(os.environ.get("PAIRUNI_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(not (DATA / "benchmarks").is_dir(), reason=f"no {DATA}; set PAIRUNI_REAL_DATA")
PHOTOGRAPHS = 20


def stand_ins(folder: Path) -> Path:
    """PHOTOGRAPHS links under names that POPE asks for."""
    folder.mkdir()
    with (DATA / "benchmarks" / "pope" / "coco_pope_random.json").open(encoding="utf-8") as lines:
        names = sorted({json.loads(line)["image"] for line in lines})[:PHOTOGRAPHS]
    for name, photograph in zip(names, sorted((DATA / "coco" / "images").iterdir()), strict=False):
        (folder / name).symlink_to(photograph)
    return folder


@needs_data
@pytest.mark.slow
def test_both_abilities_run_to_the_end_and_a_killed_run_ends_alike(tmp_path: Path) -> None:
    detector = write_detector(tmp_path / "models")
    wise = "\n".join(["Consistency: 1", "Realism: 2", "Aesthetic Quality: 0"])
    with Endpoint(say=lambda request: wise) as endpoint:

        def command(output: Path) -> list[str]:
            items = {name: str(DATA / "benchmarks" / name) for name in ("pope", "geneval")}
            items["wise"] = str(DATA / "benchmarks" / "wise" / "legacy")
            options = {
                "benchmarks": "pope,geneval,wise",
                "data": json.dumps(items),
                "images": json.dumps({"pope": str(tmp_path / "photographs")}),
                "missing_images": "skip",
                "images_per_prompt": "1",
                "detector": str(detector / "mask2former"),
                "colours": str(detector / "clip"),
                "judge.base_url": endpoint.url,
                "judge.model": "scripted-judge",
                "batch": "50",
                "output": str(output),
            }
            return [sys.executable, "-m", "pairuni", "eval", *(f"--{name}={value}" for name, value in options.items())]

        stand_ins(tmp_path / "photographs")
        done = subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True, text=True)
        for kept, least in (("answers_pope.jsonl", 60), ("answers_geneval.jsonl", 100), ("answers_wise.jsonl", 300)):
            process = subprocess.Popen(command(tmp_path / "killed"), stderr=subprocess.DEVNULL)
            while process.poll() is None and lines_of(tmp_path / "killed" / kept) < least:
                time.sleep(0.02)
            assert process.poll() is None, "the run ended before it could be killed"
            process.kill()
            process.wait()
        paid = len(endpoint.paid)
        subprocess.run(command(tmp_path / "killed"), check=True, capture_output=True)
        endpoint.shutdown()
    results = [json.loads((tmp_path / name / "eval.json").read_text(encoding="utf-8")) for name in ("whole", "killed")]
    assert results[0] == results[1]
    for name in ("pope", "geneval", "wise"):
        rows = [(tmp_path / folder / f"answers_{name}.jsonl").read_bytes() for folder in ("whole", "killed")]
        assert rows[0] == rows[1]
    scores = results[0]["benchmarks"]
    assert scores["pope"]["n"] == 18 * PHOTOGRAPHS and scores["geneval"]["n"] == 553 and scores["wise"]["n"] == 1000
    assert scores["wise"]["score"] == pytest.approx((0.7 * 1 + 0.2 * 2) / 2) and scores["wise"]["unparsed"] == 0
    assert scores["wise"]["judge"] == "scripted-judge" and paid < 2000
    assert all(name in done.stdout for name in scores)


def lines_of(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.is_file() else 0
