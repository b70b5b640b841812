"""`pairuni smoke`: what it finds of a good model, of a bad one, and of one that is only a shape."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import JanusForConditionalGeneration

from pairuni.cli.main import main
from pairuni.config import LoraOptions, ModelConfig
from pairuni.policies import scoring
from pairuni.policies.janus.policy import JanusPolicy
from pairuni.tiny.build_janus import JanusSize, build_config, build_processor, build_tokenizer
from pairuni.train.smoke_step import static_checks
from pairuni.train.trainable import choose_trained, trained_summary

QUICK = ["--rollout.rollouts", "2", "--rollout.max_new_tokens", "6", "--number", "1"]


def test_the_shipped_model_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["smoke", "--output", str(tmp_path / "out"), *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "FAILED" not in printed and printed.count("ok  ") >= 11 and "behaviour_gap, generation" in printed
    found = json.loads((tmp_path / "out" / "smoke.json").read_text())
    assert all(check["passed"] for check in found["checks"]) and found["metrics"]["grad_norm"] > 0
    assert "bos" in found["facts"]["token ids"] and found["planned_gib"] > 0.01
    page = (tmp_path / "out" / "smoke.html").read_text()
    assert page.count("data:image/png;base64,") == 2 + 1 and "FAILED" not in page
    assert str(tmp_path / "out" / "smoke.html") == printed.splitlines()[-1]


def test_pairs_of_ones_own_are_escaped(tmp_path: Path, tiny_janus_folder: Path) -> None:
    from PIL import Image

    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    half = {
        "image_path": "a.png",
        "prompt": "<script>alert(1)</script>",
        "question": "<b>?</b> A. x B. y",
        "answer": "A",
    }
    pair = {"similarity": 1.0, "kind": "aligned", "generate_ann": half, "understand_ann": half}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    model = ["--model", str(tiny_janus_folder), "--pairs", str(tmp_path / "pairs.jsonl")]
    assert main(["smoke", *model, "--output", str(tmp_path / "out"), *QUICK]) == 0
    page = (tmp_path / "out" / "smoke.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page and "<b>?" not in page


def test_adapters_are_tried_too(tmp_path: Path, tiny_janus_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["smoke", "--model", str(tiny_janus_folder), "--model.lora.rank", "2", *QUICK]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    assert "adapters" in capsys.readouterr().out


def test_a_model_with_a_broken_weight_fails(
    tmp_path: Path, tiny_janus_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_janus_folder, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["model.aligner.fc1.bias"][0] = torch.nan  # an image's features, so that no draw of images is touched
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    assert main(["smoke", "--model", str(tmp_path / "model"), "--output", str(tmp_path / "out"), *QUICK]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].endswith("1 weights hold NaN or infinity, e.g. model.aligner.fc1.bias")


def test_scoring_that_disagrees_with_sampling_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = scoring._Taken.forward
    monkeypatch.setattr(
        scoring._Taken, "forward", staticmethod(lambda ctx, features, *more: taken(ctx, 1.5 * features, *more))
    )
    assert main(["smoke", "--output", str(tmp_path / "out"), *QUICK]) == 1
    printed = capsys.readouterr().out
    assert printed.count("FAILED") == 2 and "FAILED  scored generation log-probs" in printed
    assert "FAILED" in (tmp_path / "out" / "smoke.html").read_text()


@pytest.mark.parametrize("rank", [0, 16])
def test_janus_pro_1b_on_the_meta_device(rank: int) -> None:
    """Its exact shape without its memory: what needs no numbers is checked."""
    size = JanusSize(
        image=384, patch=16, codebook=16_384, hidden=2048, layers=24, heads=16, intermediate=5632, vision_hidden=1024,
        vision_layers=24, vision_heads=16, vq_channels=128, vq_multipliers=(1, 1, 2, 2, 4), vq_blocks=2,
    )  # fmt: skip
    tokenizer = build_tokenizer(["a red circle"], 512)
    config = build_config(size, tokenizer)
    config.text_config.vocab_size = 102_400  # pyright: ignore
    with torch.device("meta"):
        module = JanusForConditionalGeneration(config)
        policy = JanusPolicy(module, build_processor(size, tokenizer))
        choose_trained(policy, ModelConfig(lora=LoraOptions(rank=rank)))
    assert all(check.passed for check in static_checks(policy))
    facts, trained = policy.describe(), sum(p.numel() for _, p in policy.trainable())
    assert facts["image codes"] == "576 of 16,384" and facts["text vocabulary"] == "102,400"
    assert facts["images"] == "384 x 384 pixels, 576 tokens if looked at"
    # q, k, v, o: 4 x (2048 + 2048); gate, up, down: 3 x (2048 + 5632); 24 layers.
    expected = rank * 24 * (4 * 4096 + 3 * 7680) if rank else 1.70e9
    assert trained == pytest.approx(expected, rel=0 if rank else 0.01)
    assert trained_summary(policy).startswith("trained: ")
