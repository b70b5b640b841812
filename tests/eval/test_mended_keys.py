"""What an answer is kept under: a mended key scores outputs again, another image or question is asked about again."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_tasks import Scripted, geneval_file, pope_folder, wise_folder, yes_to

from data_files import write_image, write_lines
from llm_server import Endpoint
from pairuni.config import EvalConfig, LlmConfig
from pairuni.eval.runner import evaluate
from pairuni.types import Prompt


class Dogs:
    """A detector that finds a dog in every image."""

    def __init__(self, *names: str) -> None:
        pass

    def __call__(self, image: np.ndarray, coloured: Sequence[str]) -> list[dict]:
        return [{"class": "dog", "box": [0, 0, 5, 5], "score": 0.95, "color": None}]


def mended(folder: Path, change: dict[str, str]) -> None:
    found = 0
    for path in folder.rglob("*.json*"):
        text = path.read_text(encoding="utf-8")
        for old, new in change.items():
            found += text.count(old)
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
    assert found


def mmmu(folder: Path) -> str:
    write_image(folder / "0.png", np.zeros((8, 8, 3), np.uint8))
    rows = [
        {"id": f"validation_Art_{n}", "question": f"Which {n}?", "question_type": "multiple-choice", "answer": "A",
         "options": ["red", "blue"], "image_1": "0.png"}
        for n in range(3)
    ]  # fmt: skip
    return str(write_lines(folder / "own.jsonl", rows))


def mmstar(folder: Path) -> str:
    write_image(folder / "0.png", np.zeros((8, 8, 3), np.uint8))
    rows = [
        {"index": n, "question": f"Which {n}?", "answer": "A", "category": "math", "l2_category": "x", "image": "0.png"}
        for n in range(3)
    ]
    return str(write_lines(folder / "own.jsonl", rows))


def mme(folder: Path) -> str:
    write_image(folder / "0.png", np.zeros((8, 8, 3), np.uint8))
    rows = [
        {
            "question_id": "0",
            "question": f"Is it {n}?",
            "answer": ["Yes", "No"][n],
            "category": "count",
            "image": "0.png",
        }
        for n in range(2)
    ]
    return str(write_lines(folder / "own.jsonl", rows))


def judged(request: dict) -> str:
    return "2\n2\n2" if "it is so" in request["messages"][0]["content"][1]["text"] else "1\n1\n1"


CASES: dict[str, tuple[Callable[[Path], object], dict[str, str]]] = {
    "mmmu": (mmmu, {'"answer": "A"': '"answer": "B"'}),
    "mmstar": (mmstar, {'"answer": "A"': '"answer": "B"'}),
    "mme": (mme, {'"Yes"': '"?"', '"No"': '"Yes"', '"?"': '"No"'}),
    "pope": (pope_folder, {'"yes"': '"?"', '"no"': '"yes"', '"?"': '"no"'}),
    "geneval": (lambda folder: geneval_file(folder).parent, {'"class": "dog"': '"class": "cat"'}),
    "wise": (wise_folder, {"it is so": "it is not"}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mended_key_scores_kept_outputs_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pairuni.eval.tasks.geneval.Mask2FormerDetector", Dogs)
    make, change = CASES[name]

    def say(prompt: Prompt) -> str:
        return "A" if name in ("mmmu", "mmstar") else yes_to("0", "2", "4")(prompt)

    with Endpoint(say=judged) as endpoint:
        judge = LlmConfig(base_url=endpoint.url, model="judge", ledger=str(tmp_path / "ledger"))
        config = EvalConfig(
            benchmarks=name,
            data={name: str(make(tmp_path / "data"))},
            batch=4,
            judge=judge if name == "wise" else LlmConfig(),
        )
        before = evaluate(Scripted(say), config, tmp_path / "out", "model")
        mended(tmp_path / "data", change)
        again = Scripted(say)
        after = evaluate(again, config, tmp_path / "out", "model")
        assert again.prompts == [], "what the model said or drew is kept"
        assert after == evaluate(Scripted(say), config, tmp_path / "fresh", "model") and after != before
        answers = [(tmp_path / out / f"answers_{name}.jsonl").read_bytes() for out in ("out", "fresh")]
        assert answers[0] == answers[1]
        assert evaluate(again, config, tmp_path / "out", "model") == after and again.prompts == []
        endpoint.shutdown()


def test_a_drawing_that_is_gone_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pairuni.eval.tasks.geneval.Mask2FormerDetector", Dogs)
    config = EvalConfig(benchmarks="geneval", data={"geneval": str(geneval_file(tmp_path / "data").parent)}, batch=2)
    evaluate(Scripted(), config, tmp_path / "out", "model")
    mended(tmp_path / "data", CASES["geneval"][1])
    (tmp_path / "out" / "images" / "geneval" / "00000" / "samples" / "0003.png").unlink()
    again = Scripted()
    assert evaluate(again, config, tmp_path / "out", "model") == evaluate(Scripted(), config, tmp_path / "new", "model")
    assert len(again.prompts) == 8 - 3


def test_an_answer_about_another_image_question_or_option_is_not_kept(tmp_path: Path) -> None:
    config = EvalConfig(benchmarks="mmmu", data={"mmmu": mmmu(tmp_path / "data")})
    evaluate(Scripted(), config, tmp_path / "out", "model")

    def asked() -> int:
        again = Scripted()
        evaluate(again, config, tmp_path / "out", "model")
        return len(again.prompts)

    assert asked() == 0
    Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(tmp_path / "data" / "0.png")
    assert (asked(), asked()) == (3, 0)
    mended(tmp_path / "data", {"Which": "What"})
    assert (asked(), asked()) == (3, 0)
    mended(tmp_path / "data", {"blue": "green"})
    assert (asked(), asked()) == (3, 0)
    state = json.loads((tmp_path / "out" / "eval_state.json").read_text())
    state["mmmu"] = "0" * 64  # as earlier versions kept it
    (tmp_path / "out" / "eval_state.json").write_text(json.dumps(state))
    assert (asked(), asked()) == (3, 0)
