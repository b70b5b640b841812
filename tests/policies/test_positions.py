"""A prompt that reaches beyond the positions that a model was trained with is refused, or left out and counted."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pairuni.cli.main import main
from pairuni.config import DataConfig, ModelConfig, RolloutConfig, TrainConfig
from pairuni.errors import InputError
from pairuni.files import read_json, read_jsonl, write_json, write_jsonl
from pairuni.policies import load_policy
from pairuni.policies.dimoo.policy import DimooPolicy
from pairuni.policies.janus.policy import JanusPolicy
from pairuni.policies.requests import refuse_long, too_long
from pairuni.shapes.held_out import held_out_questions
from pairuni.train.loop import train
from pairuni.types import Prompt, SamplingSpec, Side

PIXELS = np.zeros((8, 12, 3), np.uint8)
LONG = "a red circle " * 300


@pytest.fixture
def short_janus(tiny_janus_folder: Path, tmp_path: Path) -> Path:
    """The tiny Janus, of 256 positions."""
    folder = tmp_path / "short"
    shutil.copytree(tiny_janus_folder, folder)
    config = read_json(folder / "config.json")
    config["text_config"]["max_position_embeddings"] = 256
    write_json(folder / "config.json", config)
    return folder


def pairs_with_a_long_one(folder: Path) -> Path:
    """Five aligned pairs; the prompt of line 2 and the question of line 4 are long."""
    rows = []
    for n in range(5):
        Image.new("RGB", (8, 8), (40 * n, 0, 0)).save(folder / f"{n}.png")
        half = {"image_path": f"{n}.png", "prompt": "a red circle", "question": "Is it? A. yes B. no", "answer": "A"}
        generate, understand = (half | {"id": f"{n}"} for _ in range(2))
        generate |= {"prompt": LONG} if n == 1 else {}
        understand |= {"question": LONG} if n == 3 else {}
        rows.append({"similarity": 1.0, "kind": "aligned", "generate_ann": generate, "understand_ann": understand})
    write_jsonl(folder / "pairs.jsonl", rows)
    return folder / "pairs.jsonl"


def test_tokens_are_those_of_the_prompt_as_it_is_read(tiny_janus: JanusPolicy, tiny_dimoo: DimooPolicy) -> None:
    for policy in (tiny_janus, tiny_dimoo):
        for text in ("a red circle", "", "二つの青い四角 <image_placeholder>"):
            for images in ((PIXELS,), (PIXELS, PIXELS)):
                prompt = Prompt(Side.UNDERSTANDING, text, images)
                ids = policy.prompts.encode(Side.UNDERSTANDING, [prompt]).ids[0]
                answer = 5 if policy is tiny_janus else 7  # with its brackets
                assert policy.tokens(prompt, 5) == len(ids) + answer
            prompt = Prompt(Side.GENERATION, text)
            ids = policy.prompts.encode(Side.GENERATION, [prompt]).ids[0]
            answer = 16 if policy is tiny_janus else 16 + 4 + 4  # newlines and brackets
            assert policy.tokens(prompt, 5) == len(ids) + answer
    one = Prompt(Side.UNDERSTANDING, "a", (PIXELS,))
    assert tiny_janus.tokens(Prompt(Side.UNDERSTANDING, "a"), 5) == tiny_janus.tokens(one, 5)


def test_the_limit_is_exact(tiny_janus: JanusPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = Prompt(Side.GENERATION, "a red circle")
    language = tiny_janus.module.model.language_model.config
    needed = tiny_janus.tokens(prompt, 1)
    monkeypatch.setattr(language, "max_position_embeddings", needed)
    assert tiny_janus.positions == needed and too_long(tiny_janus, [prompt], 1) == {}
    tiny_janus.sample(Side.GENERATION, [prompt], 1, SamplingSpec(), np.zeros((1, 1), np.uint64))
    monkeypatch.setattr(language, "max_position_embeddings", needed - 1)
    assert too_long(tiny_janus, [prompt], 1) == {0: needed}
    with pytest.raises(InputError, match=f"{needed} tokens .* more than the {needed - 1} positions of the model"):
        tiny_janus.sample(Side.GENERATION, [prompt], 1, SamplingSpec(), np.zeros((1, 1), np.uint64))
    with pytest.raises(InputError, match="max_position_embeddings"):
        refuse_long(tiny_janus, prompt, 1, "prompt")


def test_short_texts_are_not_tokenised(tiny_janus: JanusPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    tokens = tiny_janus.tokens
    monkeypatch.setattr(tiny_janus, "tokens", lambda p, n: (asked.append(p.text), tokens(p, n))[1])
    prompts = [Prompt(Side.GENERATION, text) for text in ("a red circle", "a" * 40_000)]
    assert set(too_long(tiny_janus, prompts, 1)) == {1}
    assert "a red circle" not in asked


def test_sample_refuses(short_janus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--output", str(tmp_path / "s.png"), "--number", "1"]
    assert main(["sample", "--model", str(short_janus), "--prompt", LONG, *out]) == 2
    said = capsys.readouterr().err
    assert "prompt: " in said and "positions of the model (max_position_embeddings)" in said
    Image.fromarray(PIXELS).save(tmp_path / "i.png")
    asked = ["--image", str(tmp_path / "i.png"), "--question", LONG]
    assert main(["sample", "--model", str(short_janus), *asked, *out]) == 2
    assert "question: " in capsys.readouterr().err
    assert not (tmp_path / "s.png").exists()


@pytest.mark.parametrize(("sides", "left_out"), [("both", [2, 4]), ("generation", [2]), ("understanding", [4])])
def test_train_leaves_them_out(
    short_janus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], sides: str, left_out: list[int]
) -> None:
    options = ["--model.path", str(short_janus), "--model.device", "cpu", "--sides", sides, "--steps", "2"]
    options += ["--data.pairs", str(pairs_with_a_long_one(tmp_path)), "--data.batch", "2", "--rollout.rollouts", "2"]
    options += ["--rollout.max_new_tokens", "4", "--log.samples_every", "1", "--output", str(tmp_path / "run")]
    assert main(["train", *options]) == 0
    said = " ".join("".join(capsys.readouterr()).split())
    assert f"{len(left_out)} of 5 pairs are left out" in said and f"line {left_out[0]}, " in said
    rows = [row for _, row in read_jsonl(tmp_path / "run" / "too_long.jsonl")]
    assert [row["line"] for row in rows] == left_out
    fields = {2: "generate_ann.prompt", 4: "understand_ann.question"}
    assert all(row["field"] == fields[row["line"]] and row["tokens"] > 256 for row in rows)


def test_analyse_gradients_leaves_them_out(
    short_janus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"model": {"path": str(short_janus), "device": "cpu"}, "rollout": {"max_new_tokens": 4}, "output": "out"}
    config |= {"data": {"pairs": str(pairs_with_a_long_one(tmp_path)), "batch": 2}, "steps": 1}
    (tmp_path / "train.yaml").write_text(json.dumps(config))
    options = ["--mixes", "pairs", "--pairs", "5", "--rollouts", "2", "--output", str(tmp_path / "found")]
    assert main(["analyse", "gradients", str(tmp_path / "train.yaml"), *options]) == 0
    assert "2 of 5 pairs are left out" in " ".join("".join(capsys.readouterr()).split())
    assert len([*read_jsonl(tmp_path / "found" / "gradients.jsonl")]) == 3


def test_train_without_a_pair_left_is_an_error(short_janus: Path, tmp_path: Path) -> None:
    pairs = pairs_with_a_long_one(tmp_path)
    rows = [row for _, row in read_jsonl(pairs)]
    write_jsonl(pairs, [rows[1], rows[3]])
    config = TrainConfig(
        output=str(tmp_path / "run"),
        steps=1,
        model=ModelConfig(path=str(short_janus), device="cpu"),
        data=DataConfig(pairs=str(pairs), batch=2),
        rollout=RolloutConfig(rollouts=2, max_new_tokens=4),
    )
    with pytest.raises(InputError, match=r"none of the 2 pairs .* line 1"):
        train(config)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_eval_leaves_them_out_and_says_so(
    short_janus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MMMU's longest questions, say: here Shapes questions, of which a model of few positions cannot read each."""
    few = ["--benchmarks", "shapes_understanding", "--questions", "40", "--output", str(tmp_path / "e")]
    assert main(["eval", "--model", str(short_janus), *few]) == 0
    whole = json.loads((tmp_path / "e" / "eval.json").read_text())["benchmarks"]["shapes_understanding"]
    assert whole["n"] == 40 and "too_long" not in whole
    lengths = {}
    policy = load_policy(str(short_janus), device="cpu")
    for item in held_out_questions(40, "test"):
        lengths[item.id] = policy.tokens(Prompt(Side.UNDERSTANDING, item.question.text, (item.image,)), 16)
    limit = sorted(lengths.values())[30]
    config = read_json(short_janus / "config.json")
    config["text_config"]["max_position_embeddings"] = limit
    write_json(short_janus / "config.json", config)
    beyond = [name for name, tokens in lengths.items() if tokens > limit]
    assert 0 < len(beyond) < 40
    capsys.readouterr()
    assert main(["eval", "--model", str(short_janus), *few[:-1], str(tmp_path / "e2")]) == 0
    entry = json.loads((tmp_path / "e2" / "eval.json").read_text())["benchmarks"]["shapes_understanding"]
    assert entry["n"] == 40 - len(beyond) and entry["too_long"] == beyond
    said = "".join(capsys.readouterr())
    assert f"{len(beyond)} of 40 items are left out" in said and beyond[0] in said
