"""MMMU as a run: prompts and images as each protocol has them, and the published model's answers through the runner."""

import ast
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from test_tasks import Scripted, png

from data_files import write_image, write_lines
from pairuni.config import EvalConfig
from pairuni.errors import InputError
from pairuni.eval.runner import evaluate
from reference_cases import needs_reference, reference


def row(id: str, question: str, options: list[str], answer: object, images: int = 1) -> dict:
    kind = "multiple-choice" if options else "open"
    made = {f"image_{k}": png(10 * k) if k <= images else None for k in range(1, 8)}
    return {
        "id": id,
        "question": question,
        "options": repr(options),
        "answer": str(answer),
        "question_type": kind,
        **made,
    }


ROWS = [
    row("validation_Art_1", "Who painted <image 1>?", ["Klee", "Marc"], "B"),
    row("validation_Art_2", "Compare <image 1> with <image 2>.", ["older", "newer", "as old"], "C", images=3),
    row("validation_Math_1", "What is the angle in <image 1>?", [], 60),
    row("validation_Math_2", "What is x in <image 1>?", [], ["2", "two"]),
]
SAID = {"Who": "(B)", "Compare": "C\n\nA", "What is the": "The angle is 60.", "What is x": "it is two"}
LETTER = "Answer with the option's letter from the given choices directly."


def parquet(path: Path) -> str:
    table = datasets.Dataset.from_list(ROWS)
    for k in range(1, 8):
        table = table.cast_column(f"image_{k}", datasets.Image())
    table.to_parquet(str(path))
    return str(path.parent)


def answers() -> Scripted:
    return Scripted(lambda prompt: next(text for start, text in SAID.items() if prompt.text.startswith(start)))


@pytest.mark.parametrize(
    ("protocol", "prompts", "right"),
    [
        (
            "official",
            [
                f"Who painted <image 1>?\n(A) Klee\n(B) Marc\n\n{LETTER}",
                "What is the angle in <image 1>?\n\nAnswer the question using a single word or phrase.",
            ],
            # "C\n\nA": no letter stands between spaces, and there are too few words for an option's text.
            [1, 0, 1, 1],
        ),
        (
            "lmms_eval",
            [
                f"Who painted <image 1>?\nA. Klee\nB. Marc\n\n{LETTER}",
                "What is the angle in <image 1>?\n\nAnswer the question using a single word or phrase.",
            ],
            [1, 1, 1, 1],  # what comes after a blank line is cut off
        ),
        (
            "vlmevalkit",
            [
                f"Who painted <image 1>?\nA. Klee\nB. Marc\n\n{LETTER}",
                "What is the angle in <image 1>?\nAnswer the question directly. ",
            ],
            [1, 0, 1, 0],  # two letters; open answers must name one of two texts, the list of golds or "Other Answers"
        ),
    ],
)
def test_each_protocol_asks_and_reads_in_its_way(
    tmp_path: Path, protocol: str, prompts: list[str], right: list[int]
) -> None:
    sampler = answers()
    config = EvalConfig(benchmarks="mmmu", data={"mmmu": parquet(tmp_path / "val.parquet")}, protocol=protocol)
    result = evaluate(sampler, config, tmp_path / "out")["mmmu"]
    assert [p.text for p in sampler.prompts][::2] == prompts
    assert [[int(image[0, 0, 0]) for image in p.images] for p in sampler.prompts] == [[10], [10, 20, 30], [10], [10]]
    kept = [json.loads(line) for line in (tmp_path / "out" / "answers_mmmu.jsonl").read_text().splitlines()]
    assert [answer["score"] for answer in kept] == right
    assert (result["score"], result["n"], result["unit"]) == (25 * sum(right), 4, "per cent")
    art, maths = 50 * sum(right[:2]), 50 * sum(right[2:])
    assert result["parts"] == {"Art and Design": art, "Science": maths, "Art": art, "Math": maths}
    assert result["unparsed"] == (0 if protocol == "lmms_eval" else 1 + (protocol == "vlmevalkit"))


def test_json_lines_with_image_files_do_as_well(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.png", np.full((8, 8, 3), 77, np.uint8))
    rows = [{key: value for key, value in r.items() if not key.startswith("image_")} for r in ROWS]
    write_lines(
        tmp_path / "own.jsonl",
        [{**r, "options": ast.literal_eval(r["options"]), "image_1": "images/a.png"} for r in rows],
    )
    sampler = answers()
    config = EvalConfig(benchmarks="mmmu", data={"mmmu": str(tmp_path / "own.jsonl")})
    assert evaluate(sampler, config)["mmmu"]["score"] == 75.0
    assert all(int(image[0, 0, 0]) == 77 for prompt in sampler.prompts for image in prompt.images)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"answer": None}, "answer"),
        ({"options": "no list"}, "options"),
        ({"options": "[]"}, "options"),
        ({"image_1": None}, "image_1"),
        ({"image_1": "missing.png"}, "image_1"),
        ({"image_1": "own.jsonl"}, "image_1"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, change: dict, field: str) -> None:
    write_image(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    good = {**ROWS[0], **dict.fromkeys([f"image_{k}" for k in range(1, 8)]), "image_1": "a.png"}
    write_lines(tmp_path / "own.jsonl", [good, {**good, **change}])
    with pytest.raises(InputError) as caught:
        evaluate(Scripted(), EvalConfig(benchmarks="mmmu", data={"mmmu": str(tmp_path / "own.jsonl")}))
    assert (caught.value.line, caught.value.field) == (2, field)


@needs_reference
def test_the_published_models_answers_score_329_of_900_in_a_run(tmp_path: Path) -> None:
    outputs, gold = (reference(f"mmmu/{name}.json") for name in ("llava1.5_13b_outputs", "answer_dict_val"))
    write_image(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    rows = [
        {
            "id": each["id"],
            "question": each["id"],
            "options": list(each.get("index2ans", {}).values()),
            "answer": str(gold[each["id"]]["ground_truth"]),
            "question_type": gold[each["id"]]["question_type"],
            "image_1": "a.png",
        }
        for each in outputs
    ]
    said = {each["id"]: each["response"] for each in outputs}
    write_lines(tmp_path / "val.jsonl", rows)
    sampler = Scripted(lambda prompt: said[prompt.text.split("\n")[0]])
    result = evaluate(sampler, EvalConfig(benchmarks="mmmu", data={"mmmu": str(tmp_path / "val.jsonl")}))["mmmu"]
    assert (round(result["score"] * 9), result["n"], result["unparsed"]) == (329, 900, 2)
    assert len(result["parts"]) == 36 and result["stderr"] == pytest.approx(1.605, abs=0.01)
