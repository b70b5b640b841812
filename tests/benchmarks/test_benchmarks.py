"""The benchmarks run at a size of seconds and check what they compare."""

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"


def run(script: str, output: Path, *arguments: str) -> str:
    command = [sys.executable, str(FOLDER / script), "--output", str(output), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_pairing_beside_its_reference(tmp_path: Path) -> None:
    printed = run("pairing.py", tmp_path, "--scale", "0.02", "--width", "128", "--passes", "4", "--sizes", "0.5", "1")
    small, large = json.loads((tmp_path / "pairing.json").read_text(encoding="utf-8"))["sizes"]
    assert (small["generation"], large["generation"], large["clusters"]) == (600, 1200, 100)
    assert not small["reference"] and "ratio" not in small
    edges = [large[whose]["graph"]["edges"] for whose in ("ours", "reference")]
    assert edges[0] > 100 and abs(edges[0] - edges[1]) <= large["edges_at_the_floor"] < 5
    assert large["ours"]["matching"]["pairs"] == large["reference"]["matching"]["pairs"] > 50
    assert "ratio" in printed and (tmp_path / "pairing.png").stat().st_size > 1000


def test_matchings_beside_each_other(tmp_path: Path) -> None:
    printed = run("matching.py", tmp_path, "--scale", "0.02")
    whole, few = json.loads((tmp_path / "matching.json").read_text(encoding="utf-8"))
    for result in (whole, few):
        rows = result["matchings"]
        assert rows["optimal"]["pairs"] >= max(rows["greedy"]["pairs"], rows["paper_order"]["pairs"]) > 20
        assert rows["greedy"]["shared"] == 1.0 > rows["paper_order"]["shared"]
    assert few["understanding"] * 4 == whole["understanding"] and "| optimal |" in printed
    assert not (tmp_path / "features.f32").exists()
