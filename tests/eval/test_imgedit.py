"""ImgEdit to the end: who edits, what the judge is shown, both protocols, kills, and what is skipped or missing."""

import base64
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_files import write_image
from llm_server import Endpoint
from pairuni.cli.main import main
from pairuni.config import EvalConfig, LlmConfig
from pairuni.data.images import load_image
from pairuni.errors import InputError
from pairuni.eval import load_benchmark
from pairuni.eval.runner import evaluate, table
from pairuni.types import Prompt, Rollouts, SamplingSpec, Side
from reference_cases import BENCHMARKS, needs_reference

ITEMS = {
    "7": {"id": "animal/1.png", "prompt": "Add a hat.", "edit_type": "add"},
    "12": {"id": "animal/1.png", "prompt": "Add a $5 note.", "edit_type": "add"},
    "3": {"id": "style/2.png", "prompt": "Make it a woodcut.", "edit_type": "style"},
    "40": {"id": "animal/1.png", "prompt": "Remove the dog.", "edit_type": "remove"},
}
REPLIES = {
    "a hat": "Instruction: 5\nAppearance: 4\nFaithfulness: 4",
    "note": "Instruction: 3\nAppearance: 3\nFaithfulness: 3",
    "woodcut": "I would rather not say.",
    "dog": "Instruction: 5/5\nAppearance: 4\nFaithfulness: 3",  # "5/5" is no number to the authors' script
}


class Editor:
    """Draws the negative of the image that it is given."""

    edits_images = True
    positions = 0

    def __init__(self, stop_after: int = 10**9) -> None:
        self.prompts: list[Prompt] = []
        self.stop_after = stop_after

    def sample(
        self, side: Side, prompts: Sequence[Prompt], rollouts: int, spec: SamplingSpec, seeds_BR: np.ndarray
    ) -> Rollouts:
        if len(self.prompts) >= self.stop_after:
            raise KeyboardInterrupt
        assert side is Side.GENERATION and all(len(prompt.images) == 1 for prompt in prompts)
        self.prompts += prompts
        empty = torch.zeros(len(prompts), 1, 1)
        images = np.stack([255 - prompt.images[0] for prompt in prompts])[:, None]
        return Rollouts(side, spec, tuple(prompts), empty.long(), empty.bool(), empty, empty, None, images)


class NoEditor(Editor):
    """Must not be asked."""

    edits_images = False
    positions = 0


def reply_to(request: dict) -> str:
    text = request["messages"][0]["content"][0]["text"]
    return next(reply for word, reply in REPLIES.items() if word in text)


def items_at(folder: Path) -> Path:
    """basic_edit.json and its images, 12 x 24 of one colour each."""
    for n, name in enumerate(sorted({row["id"] for row in ITEMS.values()})):
        write_image(folder / "images" / name, np.full((12, 24, 3), 40 + 60 * n, np.uint8))
    (folder / "basic_edit.json").write_text(json.dumps(ITEMS), encoding="utf-8")
    return folder


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., EvalConfig]:
    """A config over the made items, with options."""
    folder = items_at(tmp_path / "data")

    def config(url: str = "http://127.0.0.1:1/v1", side: int = 1024, **options) -> EvalConfig:
        judge = LlmConfig(base_url=url, model="judge-1", ledger=str(tmp_path / "ledger"), image_side=side)
        defaults = {"benchmarks": "imgedit", "data": {"imgedit": str(folder)}, "judge": judge}
        return EvalConfig(**{**defaults, **options})

    return config


def prompts_file(path: Path) -> str:
    path.write_text(json.dumps({kind: f"{kind}: <edit_prompt>!" for kind in ("add", "style", "remove")}))
    return str(path)


@pytest.mark.parametrize(
    ("protocol", "parts", "dog"),
    [
        # The mean of 4.33 and 3 is 3.665, a bit above as a float; an edit's and a type's mean have two decimals.
        ("official", {"add": 3.67, "style": 0.0, "remove": 3.5}, [4, 3]),
        ("lmms_eval", {"add": 22 / 6, "style": 0.0, "remove": 4.0}, [5, 4, 3]),
    ],
)
def test_scores_under_both_protocols(
    made: Callable[..., EvalConfig], tmp_path: Path, protocol: str, parts: dict[str, float], dog: list[int]
) -> None:
    with Endpoint(say=reply_to) as endpoint:
        config = made(endpoint.url, protocol=protocol)
        result = evaluate(Editor(), config, tmp_path / "out", "m")["imgedit"]
        asked = len(endpoint.requests)
        theirs = made(endpoint.url, protocol=protocol, imgedit_prompts=prompts_file(tmp_path / "prompts.json"))
        given = evaluate(Editor(), theirs)["imgedit"]
        texts = {r["messages"][0]["content"][0]["text"] for r in endpoint.requests[asked:]}
        endpoint.shutdown()
    overall = {"official": (4.33 + 3 + 0 + 3.5) / 4, "lmms_eval": (13 / 3 + 3 + 0 + 4) / 4}[protocol]
    assert result["score"] == pytest.approx(overall, abs=1e-4)
    assert result["parts"] == pytest.approx(parts | {"mean of types": sum(parts.values()) / 3}, abs=1e-4)
    assert (result["n"], result["unparsed"], result["unit"], result["judge"]) == (4, 1, "1 to 5", "judge-1")
    assert f"{overall:.2f} ± " in table({"imgedit": result})
    assert result["stderr"] > 0 and result["protocol"] == f"{protocol} rules, own rubric"
    assert asked == 3 + 3  # what cannot be parsed is asked three times
    rows = [json.loads(line) for line in (tmp_path / "out" / "answers_imgedit.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == list(ITEMS) and rows[3]["scores"] == dog
    assert (rows[2]["score"], rows[2]["parsed"], rows[2]["reply"]) == (0.0, False, REPLIES["woodcut"])
    # The user's prompts are the authors': the same replies, under the protocol's own name.
    assert given == result | {"protocol": protocol}
    assert texts == {f"{row['edit_type']}: {row['prompt']}!" for row in ITEMS.values()}


def test_a_judge_whose_failures_come_as_replies_scores_nothing(made: Callable[..., EvalConfig], tmp_path: Path) -> None:
    with Endpoint(say=lambda request: "<think>Is it 1: 1?</think>\nA: 5\nB: 5\nC: 5") as endpoint:
        config = made(endpoint.url)
        config = replace(config, judge=replace(config.judge, retries=0))
        endpoint.scripted = [(200, b'{"error": {"message": "Provider returned error", "code": 429}}')] * 4
        with pytest.raises(InputError, match=r"Provider returned error \(429\)"):
            evaluate(Editor(), config, tmp_path / "out", "m")
        endpoint.scripted = []
        result = evaluate(Editor(), config, tmp_path / "out", "m")["imgedit"]
        endpoint.shutdown()
    assert (result["score"], result["unparsed"], result["n"]) == (5.0, 0, 4)


def sent(request: dict) -> list[np.ndarray]:
    """The pictures of a request that has a text first."""
    first, *rest = request["messages"][0]["content"]
    assert first["type"] == "text" and [part["type"] for part in rest] == ["image_url", "image_url"]
    contents = [base64.b64decode(part["image_url"]["url"].removeprefix("data:image/png;base64,")) for part in rest]
    return [np.asarray(Image.open(io.BytesIO(content))) for content in contents]


def test_the_model_edits_and_the_judge_sees_both_images(made: Callable[..., EvalConfig], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Endpoint(say=reply_to) as endpoint:
        editor = Editor()
        result = evaluate(editor, made(endpoint.url, batch=3), out, "m")
        requests = list(endpoint.requests)
        # What it drew is a folder of edits, which anyone may have judged, for no further calls to the same judge.
        edits = str(out / "images" / "imgedit")
        again = evaluate(NoEditor(stop_after=0), made(endpoint.url, edits=edits), tmp_path / "again", "m")
        assert again == result and len(endpoint.requests) == len(requests)
        assert not (tmp_path / "again" / "images").exists()
        evaluate(NoEditor(stop_after=0), made(endpoint.url, side=16, edits=edits))
        assert {image.shape for r in endpoint.requests[len(requests) :] for image in sent(r)} == {(8, 16, 3)}
        endpoint.shutdown()
    assert [prompt.text for prompt in editor.prompts] == [row["prompt"] for row in ITEMS.values()]
    for key, row in ITEMS.items():
        source = load_image(tmp_path / "data" / "images" / row["id"])
        assert np.array_equal(load_image(out / "images" / "imgedit" / f"{key}.png"), 255 - source)
        for request in requests:
            if f"Instruction: {row['prompt']}\n" in request["messages"][0]["content"][0]["text"]:
                original, edited = sent(request)
                assert np.array_equal(original, source) and np.array_equal(edited, 255 - source)
                break
        else:
            pytest.fail(f"the judge never saw {key}")


def test_killed_it_goes_on_and_edits_that_changed_are_judged_anew(
    made: Callable[..., EvalConfig], tmp_path: Path
) -> None:
    with Endpoint(say=reply_to) as endpoint:
        config = made(endpoint.url, batch=1)
        whole = evaluate(Editor(), config, tmp_path / "whole", "m")
        with pytest.raises(KeyboardInterrupt):
            evaluate(Editor(stop_after=2), config, tmp_path / "out", "m")
        rest = Editor()
        assert evaluate(rest, config, tmp_path / "out", "m") == whole and len(rest.prompts) == 2
        files = ["answers_imgedit.jsonl", *(f"images/imgedit/{key}.png" for key in ITEMS)]
        for name in files:
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        edits = tmp_path / "out" / "images" / "imgedit"
        config = made(endpoint.url, edits=str(edits))
        evaluate(NoEditor(), config, tmp_path / "judged", "m")
        asked = len(endpoint.requests)
        evaluate(NoEditor(), config, tmp_path / "judged", "m")
        assert len(endpoint.requests) == asked
        write_image(edits / "7.png", np.zeros((12, 24, 3), np.uint8))
        evaluate(NoEditor(), config, tmp_path / "judged", "m")
        assert len(endpoint.requests) == asked + 1 and not sent(endpoint.requests[-1])[1].any()
        endpoint.shutdown()


def test_a_model_that_cannot_edit_skips_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--questions", "6", "--output", str(tmp_path), "--model", "shapes-janus", "--device", "cpu"]
    assert main(["eval", "--benchmarks", "imgedit,shapes_understanding", *options]) == 0
    said = capsys.readouterr().out
    assert "imgedit: skipped, the model cannot edit images; edits judges a folder of edits\n" in said
    written = json.loads((tmp_path / "eval.json").read_text())
    assert list(written["benchmarks"]) == ["shapes_understanding"] and list(written["skipped"]) == ["imgedit"]
    assert "cannot edit images" in written["skipped"]["imgedit"]
    for inputs in ([str(tmp_path)], [str(tmp_path), str(tmp_path)]):
        assert main(["report", *inputs, "--out", str(tmp_path / "page.html")]) == 0
        assert "skipped, the model cannot edit images" in (tmp_path / "page.html").read_text()
    with pytest.raises(InputError, match=r"nothing is left to run; imgedit: skipped.*eval\.edits") as caught:
        evaluate(NoEditor(), EvalConfig(benchmarks="imgedit"))
    assert caught.value.field == "eval.benchmarks"


def test_training_goes_on_without_it_and_does_not_choose_by_it(
    tmp_path: Path, tiny_janus_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train = ["train", "--config", str(Path(__file__).parents[2] / "configs" / "shapes" / "full.yaml")]
    train += ["--output", str(run), "--data.pairs", str(tmp_path / "data" / "pairs.jsonl"), "--data.shapes", "12"]
    train += ["--data.batch", "2", "--rollout.rollouts", "2", "--rollout.max_new_tokens", "3", "--steps", "1"]
    train += ["--model.path", str(tiny_janus_folder), "--model.device", "cpu", "--log.eval_every", "1"]
    train += ["--eval.benchmarks", "shapes_understanding,imgedit", "--eval.questions", "6", "--log.best"]
    assert main([*train, "imgedit"]) == 2
    assert "log.best: imgedit: skipped, the model cannot edit images" in capsys.readouterr().err
    assert not (run / "eval_history.jsonl").exists() and not (run / "metrics.jsonl").exists()
    assert main([*train, "shapes_understanding", "--eval.split", "validation"]) == 0
    said = capsys.readouterr()
    assert "imgedit: skipped" in said.out + said.err
    for place in (run, run / "eval_before", run / "eval_after"):
        assert list(json.loads((place / "eval.json").read_text())["skipped"]) == ["imgedit"]
    assert "skipped, the model cannot edit images" in (run / "report.html").read_text()


def test_what_is_missing_is_named_or_left_out(made: Callable[..., EvalConfig], tmp_path: Path) -> None:
    edits = tmp_path / "edits"
    for key in ("7", "3", "40"):
        write_image(edits / f"{key}.png", np.zeros((12, 24, 3), np.uint8))
    with pytest.raises(InputError, match="no such edited image") as caught:
        load_benchmark("imgedit", made(edits=str(edits))).items()
    assert caught.value.file == edits / "12.png"
    there = load_benchmark("imgedit", made(edits=str(edits), missing_images="skip")).items()
    assert [item.id for item in there] == ["7", "3", "40"]
    with pytest.raises(InputError, match="none of the edits"):
        load_benchmark("imgedit", made(edits=str(tmp_path / "nowhere"), missing_images="skip")).items()
    (tmp_path / "data" / "images" / "style" / "2.png").unlink()
    with pytest.raises(InputError, match="no such image for 3") as caught:
        load_benchmark("imgedit", made()).items()
    assert caught.value.file == tmp_path / "data" / "images" / "style" / "2.png"
    moved = tmp_path / "data" / "images"
    config = made(
        data={"imgedit": str(tmp_path / "data" / "basic_edit.json")},
        images={"imgedit": str(moved.rename(tmp_path / "moved"))},
        missing_images="skip",
    )
    assert [item.id for item in load_benchmark("imgedit", config).items()] == ["7", "12", "40"]


@pytest.mark.parametrize(
    ("key", "row", "field", "message"),
    [
        ("1", {"prompt": "Add.", "edit_type": "add"}, "1.id", "missing or no text"),
        ("1", {"id": "a.png", "prompt": " ", "edit_type": "add"}, "1.prompt", "missing or no text"),
        ("1", ["a.png"], "1.id", "missing or no text"),
        ("1", {"id": "a.png", "prompt": "Turn.", "edit_type": "turn"}, "1.edit_type", "no rubric for 'turn', only for"),
        ("../1", {"id": "a.png", "prompt": "Add.", "edit_type": "add"}, "", "no file's name"),
    ],
)
def test_a_wrong_item_is_named(
    made: Callable[..., EvalConfig], tmp_path: Path, key: str, row: object, field: str, message: str
) -> None:
    path = tmp_path / "data" / "basic_edit.json"
    path.write_text(json.dumps({key: row}))
    with pytest.raises(InputError, match=message) as caught:
        load_benchmark("imgedit", made()).items()
    assert (caught.value.file, caught.value.field or "") == (path, field)


def test_wrong_options_are_named(made: Callable[..., EvalConfig], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"judge\.model: is needed for imgedit"):
        load_benchmark("imgedit", made(judge=LlmConfig()))
    with pytest.raises(InputError, match=r"eval\.protocol: imgedit has official and lmms_eval, not vlmevalkit"):
        load_benchmark("imgedit", made(protocol="vlmevalkit"))
    prompts = tmp_path / "prompts.json"
    for content, message in (
        ({"add": "judge this"}, "add: must be a text with <edit_prompt>"),
        ({"add": "<edit_prompt>", "style": "<edit_prompt>"}, r"40\.edit_type: there is no rubric for 'remove'"),
    ):
        prompts.write_text(json.dumps(content))
        with pytest.raises(InputError, match=message):
            load_benchmark("imgedit", made(imgedit_prompts=str(prompts))).items()


@needs_reference
def test_the_real_items(made: Callable[..., EvalConfig], tmp_path: Path) -> None:
    folder = BENCHMARKS / "imgedit"
    rows = json.loads((folder / "basic_edit.json").read_text(encoding="utf-8"))
    for name in {row["id"] for row in rows.values()}:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    options = {"data": {"imgedit": str(folder)}, "images": {"imgedit": str(tmp_path / "images")}}
    for prompts in ("", str(folder / "judge_prompts.json")):
        items = load_benchmark("imgedit", made(**options, imgedit_prompts=prompts)).items()
        counts = {"extract": 117, "style": 100, "add": 95, "adjust": 94, "background": 94, "replace": 92, "remove": 86}
        assert Counter(item.part for item in items) == counts | {"action": 36, "compose": 23} and len(items) == 737
        assert len({item.group for item in items}) == 171  # images, of which several items are edits
        assert {item.id: item.text for item in items} == {key: row["prompt"] for key, row in rows.items()}
