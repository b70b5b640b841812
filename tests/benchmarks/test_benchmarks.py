"""The benchmarks run at a size of seconds and check what they compare."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pairuni.policies.janus.policy import JanusPolicy
from pairuni.types import Prompt, SamplingSpec, Side

# One thread, which waits asleep: two processes whose threads wait busily come to a standstill on two cores.
THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
FOLDER = Path(__file__).parents[2] / "benchmarks"


def run(script: str, output: Path, *arguments: str) -> str:
    command = [sys.executable, str(FOLDER / script), "--output", str(output), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | THREADS).stdout


def test_pairing_beside_its_reference(tmp_path: Path) -> None:
    printed = run("pairing.py", tmp_path, "--scale", "0.02", "--width", "128", "--passes", "4", "--sizes", "1")
    (row,) = json.loads((tmp_path / "pairing.json").read_text(encoding="utf-8"))["sizes"]
    assert (row["generation"], row["understanding"], row["clusters"]) == (1200, 940, 100)
    edges = [row[whose]["graph"]["edges"] for whose in ("ours", "reference")]
    assert edges[0] > 100 and abs(edges[0] - edges[1]) <= row["edges_at_the_floor"] < 5
    assert row["ours"]["matching"]["pairs"] == row["reference"]["matching"]["pairs"] > 50
    assert "ratio" in printed and (tmp_path / "pairing.png").stat().st_size > 1000


@pytest.mark.slow
def test_only_the_largest_size_has_a_reference(tmp_path: Path) -> None:
    run("pairing.py", tmp_path, "--scale", "0.02", "--width", "128", "--passes", "4", "--sizes", "1", "0.5")
    small, large = json.loads((tmp_path / "pairing.json").read_text(encoding="utf-8"))["sizes"]
    assert (small["generation"], large["generation"]) == (600, 1200)
    assert not small["reference"] and "ratio" not in small and large["ratio"] > 0


def test_matchings_beside_each_other(tmp_path: Path) -> None:
    printed = run("matching.py", tmp_path, "--scale", "0.02")
    whole, few = json.loads((tmp_path / "matching.json").read_text(encoding="utf-8"))
    for result in (whole, few):
        rows = result["matchings"]
        assert rows["optimal"]["pairs"] >= max(rows["greedy"]["pairs"], rows["paper_order"]["pairs"]) > 20
        assert rows["greedy"]["shared"] == 1.0 > rows["paper_order"]["shared"]
    assert few["understanding"] * 4 == whole["understanding"] and "| optimal |" in printed
    assert not (tmp_path / "features.f32").exists()


@pytest.mark.slow
def test_the_gpu_script_runs_all_cases_of_speed_on_a_cpu(tmp_path: Path) -> None:
    small = ["--pairs", "2", "--rollouts", "2", "--tokens", "4"]
    environment = os.environ | THREADS | {"SIZES": "shapes", "DEVICE": "cpu", "PYTHON": sys.executable}
    command = ["bash", str(FOLDER / "gpu.sh"), str(tmp_path), *small]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    report = json.loads((tmp_path / "speed_shapes_cpu.json").read_text(encoding="utf-8"))
    assert set(report["cases"]) == {"image", "text", "update", "step"}
    assert report["cases"]["image"]["ratio"].keys() == {"generate", "trainers"}
    assert report["cases"]["update"]["relative_gradient_difference"] < 1e-5
    step = report["cases"]["step"]
    assert step["parts_s"].keys() == {"rollout", "reward", "update"} and step["memory"] > 0
    assert 0 < report["cases"]["image"]["roofline"]["share_of_bandwidth"] < 1
    assert (tmp_path / "speed_shapes_cpu.png").stat().st_size > 5000


@pytest.mark.slow
def test_scaling_gives_an_exponent_per_sweep(tmp_path: Path) -> None:
    printed = run("scaling.py", tmp_path, "--points", "2", "--repeats", "1", "--device", "cpu")
    sweeps = json.loads((tmp_path / "scaling.json").read_text(encoding="utf-8"))["sweeps"]
    assert sweeps.keys() == {"rollouts", "pairs", "image tokens", "parameters"}
    for name, sweep in sweeps.items():
        low, high = sweep["rows"]
        assert high["value"] > low["value"] and high["seconds"] > 0
        slope = np.log(high["seconds"] / low["seconds"]) / np.log(high["value"] / low["value"])
        assert abs(sweep["exponents"]["seconds"] - slope) < 0.01 and f"{name}^" in printed
    assert (tmp_path / "scaling.png").stat().st_size > 5000


def test_the_peers_score_what_the_policy_scores(tiny_janus: JanusPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import peers

    rng = np.random.default_rng(0)
    question = Prompt(Side.UNDERSTANDING, "what?", (rng.integers(0, 256, (16, 16, 3), dtype=np.uint8),))
    spec = SamplingSpec(max_new_tokens=5)
    rollouts = tiny_janus.sample(Side.UNDERSTANDING, [question], 3, spec, np.arange(3, dtype=np.uint64)[None])
    encoded, answers = rollouts.context, rollouts.actions_BRT[0]
    ids, pixels = encoded.ids[0].expand(3, -1), encoded.pixels_DCHW.expand(3, -1, -1, -1)
    with torch.no_grad():
        logp = peers.row_logp(tiny_janus.module, ids, pixels, answers, tiny_janus._banned())
        torch.testing.assert_close(logp[rollouts.mask_BRT[0]], rollouts.logp_BRT[rollouts.mask_BRT], rtol=0, atol=1e-4)
        caption = Prompt(Side.GENERATION, "a red circle")
        drawn = tiny_janus.sample(Side.GENERATION, [caption], 2, spec, np.arange(2, dtype=np.uint64)[None])
        prompt = drawn.context.ids[0].expand(2, -1)
        scored = peers.code_logp(tiny_janus.module, prompt, drawn.actions_BRT[0])
        torch.testing.assert_close(scored, drawn.logp_BRT[0], rtol=0, atol=1e-4)
        monkeypatch.setattr(torch, "multinomial", lambda p, n: p.argmax(-1, keepdim=True))  # greedy: the same codes
        codes = peers.loop_codes(tiny_janus.module, drawn.context.ids[0][None], 2, 3.0, tiny_janus.prompts.pad)
        greedy = SamplingSpec(temperature=0, guidance=3.0)
        ours = tiny_janus.sample(Side.GENERATION, [caption], 2, greedy, np.arange(2, dtype=np.uint64)[None])
        assert torch.equal(codes, ours.actions_BRT[0])
