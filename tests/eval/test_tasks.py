"""Published benchmarks end to end on samplers whose answers are known, from files in the layouts that are offered."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from data_files import write_image, write_lines
from llm_server import Endpoint
from pairuni.config import EvalConfig, LlmConfig
from pairuni.errors import InputError
from pairuni.eval import load_benchmark
from pairuni.eval.base import Answer, standard_error
from pairuni.eval.runner import evaluate
from pairuni.types import Prompt, Rollouts, SamplingSpec, Side


class Scripted:
    """Answers by a function of the prompt; draws a plain image whose red value is the prompt's length."""

    edits_images = False
    positions = 0

    def __init__(self, say: Callable[[Prompt], str] = lambda prompt: "", stop_after: int = 10**9) -> None:
        self.say, self.prompts, self.stop_after = say, [], stop_after

    def sample(
        self, side: Side, prompts: Sequence[Prompt], rollouts: int, spec: SamplingSpec, seeds_BR: np.ndarray
    ) -> Rollouts:
        if len(self.prompts) >= self.stop_after:
            raise KeyboardInterrupt
        self.prompts += prompts
        texts = tuple((self.say(p),) for p in prompts) if side is Side.UNDERSTANDING else None
        pixels = np.stack([np.full((1, 8, 8, 3), len(p.text) % 256, np.uint8) for p in prompts])
        empty = torch.zeros(len(prompts), 1, 1)
        images = None if side is Side.UNDERSTANDING else pixels
        return Rollouts(side, spec, tuple(prompts), empty.long(), empty.bool(), empty, empty, texts, images)


def pope_folder(folder: Path, splits: Sequence[str] = ("random", "popular", "adversarial")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split in splits:
        rows = []
        for n in range(6):
            file = f"COCO_val2014_{n // 2:012d}.jpg"
            rows.append(
                {"question_id": n, "image": file, "text": f"Is there a {split} {n}?", "label": ["yes", "no"][n % 2]}
            )
        write_lines(folder / f"coco_pope_{split}.json", rows)
    for n in range(3):
        write_image(folder / "images" / f"{n:012d}.jpg", np.full((8, 8, 3), 50 * n, np.uint8))  # the newer name
    return folder


def yes_to(*words: str) -> Callable[[Prompt], str]:
    return lambda prompt: "Yes" if any(word in prompt.text for word in words) else "No"


def test_pope_is_the_mean_f1_of_its_splits(tmp_path: Path) -> None:
    folder = pope_folder(tmp_path)
    # random: 3 right of 3 yes, 1 wrong yes: precision 3/4, recall 1, F1 6/7. The others: all "no", F1 0.
    sampler = Scripted(yes_to("random 0", "random 2", "random 4", "random 1"))
    for protocol, value in (("official", 100 * 6 / 7 / 3), ("vlmevalkit", 100 * 2 * 0.75 * (3 / 9) / (0.75 + 3 / 9))):
        config = EvalConfig(benchmarks="pope", data={"pope": str(folder)}, protocol=protocol, batch=4)
        result = evaluate(sampler, config)["pope"]
        assert result["score"] == pytest.approx(value, abs=1e-3)
        assert (result["n"], result["unit"], result["protocol"]) == (18, "per cent", protocol)
        assert result["parts"]["random precision"] == 75.0 and result["parts"]["all accuracy"] == pytest.approx(
            100 * 11 / 18, abs=1e-3
        )
        assert 0 < result["stderr"] < 40 and result["unparsed"] == 0
    full_stop = Scripted(lambda prompt: "Yes.")
    config = EvalConfig(benchmarks="pope", data={"pope": str(folder)}, protocol="lmms_eval")
    assert evaluate(full_stop, config)["pope"]["unparsed"] == 18  # that library takes the bare word alone
    first = sampler.prompts[0]
    assert first.text == "Is there a random 0?\nAnswer the question using a single word or phrase."
    assert [image.shape for image in first.images] == [(8, 8, 3)]


def test_missing_images_are_an_error_or_left_out(tmp_path: Path) -> None:
    folder = pope_folder(tmp_path)
    (folder / "images" / "000000000001.jpg").unlink()
    config = {"benchmarks": "pope", "data": {"pope": str(folder)}}
    with pytest.raises(InputError, match="COCO_val2014_000000000001"):
        evaluate(Scripted(), EvalConfig(**config))
    assert evaluate(Scripted(), EvalConfig(**config, missing_images="skip"))["pope"]["n"] == 12
    elsewhere = EvalConfig(**config, missing_images="skip", images={"pope": str(tmp_path / "none")})
    with pytest.raises(InputError, match="holds none of the images of pope"):
        evaluate(Scripted(), elsewhere)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"image": "COCO_val2014_000000000000.jpg", "label": "yes"}, "text"),
        ({"image": "COCO_val2014_000000000000.jpg", "text": "?", "label": "maybe"}, "yes or no"),
    ],
)
def test_a_wrong_line_of_pope_is_named(tmp_path: Path, row: dict, said: str) -> None:
    folder = pope_folder(tmp_path)
    write_lines(folder / "coco_pope_popular.json", [row])
    with pytest.raises(InputError, match=said) as caught:
        evaluate(Scripted(), EvalConfig(benchmarks="pope", data={"pope": str(folder)}))
    assert caught.value.line == 1 and Path(str(caught.value.file)).name == "coco_pope_popular.json"


def test_a_run_that_stopped_goes_on_after_its_last_answer(tmp_path: Path) -> None:
    config = EvalConfig(benchmarks="pope", data={"pope": str(pope_folder(tmp_path / "data"))}, batch=4)
    say = yes_to("0", "3")
    whole = evaluate(Scripted(say), config, tmp_path / "whole", "model")
    with pytest.raises(KeyboardInterrupt):
        evaluate(Scripted(say, stop_after=8), config, tmp_path / "out", "model")
    answers = tmp_path / "out" / "answers_pope.jsonl"
    with answers.open("ab") as file:
        file.write(b'{"id": "torn')
    rest = Scripted(say)
    assert evaluate(rest, config, tmp_path / "out", "model") == whole and len(rest.prompts) == 18 - 8
    assert answers.read_bytes() == (tmp_path / "whole" / "answers_pope.jsonl").read_bytes()
    # Nothing is kept of another model or of other options, nor where the caller does not say what the model is.
    for model, other in (("another", config), ("model", EvalConfig(**{**vars(config), "seed": 1})), ("", config)):
        again = Scripted(say)
        evaluate(again, other, tmp_path / "out", model)
        assert len(again.prompts) == 18


def png(value: int) -> dict:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def parquet(path: Path, rows: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    table.to_parquet(str(path))
    return str(path.parent)


def mme_rows() -> list[dict]:
    return [
        {
            "question_id": f"{part}/{n // 2}",
            "question": f"Is it {n}? Please answer yes or no.",
            "answer": label,
            "category": part,
            "image": png(n),
        }
        for part in ("existence", "code_reasoning")
        for n, label in enumerate(["Yes", "No", "Yes", "No"])
    ]


def test_mme_from_the_authors_files_and_from_parquet(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    for part in ("existence", "code_reasoning"):
        lines = [
            f"{n // 2}.png\tIs it {n}? Please answer yes or no.\t{label}" for n, label in enumerate(["Yes", "No"] * 2)
        ]
        folder.mkdir(exist_ok=True)
        (folder / f"{part}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for n in range(2):
            write_image(folder / "images" / part / f"{n}.png", np.full((8, 8, 3), n, np.uint8))
    rows = parquet(tmp_path / "rows" / "a.parquet", mme_rows())
    for where in (str(folder), rows):
        sampler = Scripted(yes_to("Is it 0?", "Is it 2?", "Is it 3?"))
        config = EvalConfig(benchmarks="mme", data={"mme": where})
        result = evaluate(sampler, config)["mme"]
        # Per category: 3 of 4 questions, 1 of 2 images with both right.
        assert result["score"] == 125.0 and result["parts"]["cognition"] == 125.0 and result["unit"] == "points"
        asked = {p.text for p in sampler.prompts}
        assert "Is it 0? Please answer yes or no. Answer the question using a single word or phrase." in asked
    lmms = Scripted()
    evaluate(lmms, EvalConfig(benchmarks="mme", data={"mme": rows}, protocol="lmms_eval"))
    assert lmms.prompts[0].text == "Is it 0?\nAnswer the question using a single word or phrase."


def test_mme_needs_both_questions_of_an_image(tmp_path: Path) -> None:
    rows = parquet(tmp_path / "a.parquet", mme_rows()[:-1])
    with pytest.raises(InputError, match="has 1 questions on code_reasoning"):
        evaluate(Scripted(), EvalConfig(benchmarks="mme", data={"mme": rows}))


def test_mmstar_is_accuracy_and_for_lmms_eval_the_mean_over_axes(tmp_path: Path) -> None:
    rows = [
        {
            "index": n,
            "question": f"Which {n}?\nOptions: A: x, B: y, C: z, D: w",
            "answer": "ABCD"[n % 4],
            "category": "math",
            "l2_category": axis,
            "image": png(n),
        }
        for n, axis in enumerate(["algebra"] * 6 + ["geometry"] * 2)
    ]
    where = parquet(tmp_path / "val.parquet", rows)
    right = Scripted(lambda prompt: "ABCD"[int(prompt.text[6]) % 4] if int(prompt.text[6]) < 6 else "nothing")
    for protocol, value in (("official", 75.0), ("lmms_eval", 50.0)):
        result = evaluate(right, EvalConfig(benchmarks="mmstar", data={"mmstar": where}, protocol=protocol))["mmstar"]
        assert result["score"] == value and result["parts"]["math: algebra"] == 100.0 and result["n"] == 8


def geneval_file(folder: Path) -> Path:
    rows = [
        {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"},
        {
            "tag": "counting",
            "include": [{"class": "cup", "count": 2}],
            "exclude": [{"class": "cup", "count": 3}],
            "prompt": "a photo of two cups",
        },
    ]
    folder.mkdir(parents=True, exist_ok=True)
    return write_lines(folder / "evaluation_metadata.jsonl", rows)


def test_geneval_keeps_images_where_the_authors_evaluator_looks_and_takes_its_results(
    tmp_path: Path, monkeypatch
) -> None:
    class Detector:
        def __init__(self, *names: str) -> None:
            assert names[0].startswith("facebook/")

        def __call__(self, image: np.ndarray, coloured: Sequence[str]) -> list[dict]:
            assert image.shape == (8, 8, 3) and coloured == []
            return [{"class": "dog", "box": [0, 0, 5, 5], "score": 0.95, "color": None}]

    monkeypatch.setattr("pairuni.eval.tasks.geneval.Mask2FormerDetector", Detector)
    config = {"benchmarks": "geneval", "data": {"geneval": str(geneval_file(tmp_path / "data").parent)}}
    out = tmp_path / "out"
    result = evaluate(Scripted(), EvalConfig(**config, batch=3), out, "m")["geneval"]
    assert result["score"] == 0.5 and result["parts"] == {
        "single_object": 1.0,
        "counting": 0.0,
        "images": 0.5,
        "prompts": 0.5,
    }
    assert result["n"] == 8 and "approximate" in result["protocol"] and result["unit"] == "0 to 1"
    images = sorted(p.relative_to(out / "images" / "geneval").as_posix() for p in out.rglob("*.png"))
    assert images == [f"{n:05d}/samples/{k:04d}.png" for n in range(2) for k in range(4)]
    rows = [{"filename": f"/x/{name}", "correct": n in (0, 1, 4)} for n, name in enumerate(images)]
    results = write_lines(tmp_path / "results.jsonl", rows)
    unused = Scripted()
    result = evaluate(unused, EvalConfig(**config, detections=str(results)))["geneval"]
    assert result["parts"] == {"single_object": 0.5, "counting": 0.25, "images": 0.375, "prompts": 1.0}
    assert result["score"] == 0.375 and not unused.prompts
    write_lines(results, rows[:-1])
    with pytest.raises(InputError, match="00001/samples/0003"):
        evaluate(unused, EvalConfig(**config, detections=str(results)))


def wise_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    names = {"cultural_common_sense": 1, "spatio-temporal_reasoning": 401, "natural_science": 701}
    for name, first in names.items():
        rows = [
            {"Prompt": f"thing {first + n}", "Explanation": "it is so", "Subcategory": "s", "prompt_id": first + n}
            for n in range(2)
        ]
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def test_wise_asks_a_judge_once_and_counts_what_it_does_not_understand(tmp_path: Path) -> None:
    def judged(request: dict) -> str:
        content = request["messages"][0]["content"]
        assert content[0]["image_url"]["url"].startswith("data:image/png;base64,") and "it is so" in content[1]["text"]
        assert "response_format" not in request
        if "thing 702" in content[1]["text"]:
            return "I cannot judge this."
        return "Consistency: 2\nRealism: 1\nAesthetic Quality: 0" if "thing 1\n" in content[1]["text"] else "2\n2\n2"

    with Endpoint(say=judged) as endpoint:
        judge = LlmConfig(base_url=endpoint.url, model="judge-1", ledger=str(tmp_path / "ledger"), concurrency=3)
        config = EvalConfig(benchmarks="wise", data={"wise": str(wise_folder(tmp_path / "data"))}, judge=judge)
        result = evaluate(Scripted(), config, tmp_path / "out", "m")["wise"]
        asked = len(endpoint.requests)
        again = evaluate(Scripted(), config, tmp_path / "again", "m")["wise"]
        assert again == result and len(endpoint.requests) == asked == 5 + 3  # one is tried three times
        endpoint.shutdown()
    parts = {"culture": (0.8 + 1) / 2, "time": 1.0, "biology": 0.5}
    weights = {"culture": 0.4, "time": 0.167, "biology": 0.1}
    assert result["parts"] == pytest.approx(parts)
    assert result["score"] == pytest.approx(sum(weights[k] * parts[k] for k in parts) / sum(weights.values()), abs=1e-4)
    assert (result["judge"], result["unparsed"], result["n"], result["protocol"]) == ("judge-1", 1, 6, "legacy")
    assert len(list((tmp_path / "out" / "images" / "wise").glob("*.png"))) == 6


def test_wise_without_a_judge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"judge\.model"):
        evaluate(Scripted(), EvalConfig(benchmarks="wise", data={"wise": str(tmp_path)}))


def test_benchmarks_without_a_default_say_what_they_need() -> None:
    with pytest.raises(InputError, match=r"data\.geneval"):
        evaluate(Scripted(), EvalConfig(benchmarks="geneval"))


def test_standard_errors_draw_whole_groups() -> None:
    benchmark = load_benchmark("geneval", EvalConfig())
    rng = np.random.default_rng(0)
    rights = rng.integers(0, 2, 300).astype(float)
    alone = [Answer(str(n), "single_object", right, True, {}, str(n)) for n, right in enumerate(rights)]
    fours = [
        Answer(f"{n}/{k}", "single_object", right, True, {}, str(n)) for n, right in enumerate(rights) for k in range(4)
    ]
    plain = rights.std(ddof=1) / np.sqrt(300)
    assert standard_error(alone, benchmark) == pytest.approx(plain, rel=0.15)
    assert standard_error(fours, benchmark) == pytest.approx(plain, rel=0.15)  # not half of it
    assert standard_error(alone[:1], benchmark) == 0.0


def test_a_judge_that_does_not_answer_ends_the_run_and_scores_nothing(tmp_path: Path) -> None:
    def judged(request: dict) -> str:
        return "2\n2\n2"

    data = {"wise": str(wise_folder(tmp_path / "data"))}

    def config(url: str) -> EvalConfig:
        judge = LlmConfig(base_url=url, model="judge-1", ledger=str(tmp_path / "ledger"), retries=1, timeout=1.0)
        return EvalConfig(benchmarks="wise", data=data, judge=judge, batch=2)

    out = tmp_path / "out"
    with Endpoint(say=judged) as endpoint:
        sampler = Scripted(stop_after=2)
        with pytest.raises(KeyboardInterrupt):
            evaluate(sampler, config(endpoint.url), out, "m")
        endpoint.shutdown()
    kept = (out / "answers_wise.jsonl").read_text(encoding="utf-8")
    with pytest.raises(InputError, match=r"judge\.base_url: the endpoint does not answer"):
        evaluate(Scripted(), config("http://127.0.0.1:9/v1"), out, "m")
    assert (out / "answers_wise.jsonl").read_text(encoding="utf-8") == kept and len(kept.splitlines()) == 2


BUSY = (200, b'{"error": {"message": "Provider returned error", "code": 429}}')


def test_a_judge_whose_failures_come_as_replies_scores_nothing_until_it_works(tmp_path: Path) -> None:
    def judged(request: dict) -> str:
        return "<think>Consistency: 0 if it fails.</think>\n2\n2\n2"

    with Endpoint(say=judged) as endpoint:
        judge = LlmConfig(base_url=endpoint.url, model="judge-1", ledger=str(tmp_path / "ledger"), retries=0)
        config = EvalConfig(benchmarks="wise", data={"wise": str(wise_folder(tmp_path / "data"))}, judge=judge)
        endpoint.scripted = [BUSY] * 6
        with pytest.raises(InputError, match=r"judge\.base_url: .*Provider returned error \(429\); the same command"):
            evaluate(Scripted(), config, tmp_path / "out", "m")
        endpoint.scripted = []
        result = evaluate(Scripted(), config, tmp_path / "out", "m")["wise"]
        endpoint.shutdown()
    assert (result["score"], result["unparsed"], result["n"]) == (1.0, 0, 6)
