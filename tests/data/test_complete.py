"""complete, verify and sources: generate-then-verify on real Shapes images, and what is rejected and why."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pairuni.config import CompleteConfig
from pairuni.data import complete as module
from pairuni.data.complete import run_complete
from pairuni.data.completion import Attempt, complete_sample
from pairuni.data.images import LoadedImage, load_image
from pairuni.data.shapes_completion import Known, ShapesCompleter, ShapesVerifier, right_letters, told
from pairuni.data.sources import Sources
from pairuni.errors import InputError
from pairuni.records import read_quadruples
from pairuni.shapes.captions import fits, prompt_split, read
from pairuni.shapes.detector import read_scene
from pairuni.shapes.questions import TYPES, ask
from pairuni.shapes.renderer import render
from pairuni.shapes.scenes import Thing, random_scene, scene_of
from pairuni.types import Quadruple, Sample, Side

SCENE = scene_of([Thing(0, 0, "circle", "red"), Thing(1, 2, "square", "blue"), Thing(2, 2, "square", "blue")])
IMAGE = LoadedImage(render(SCENE), "")
WHOLE = Quadruple(
    "q", Side.GENERATION, "a.png", "a red circle and two blue squares", "What colour is the circle? A. blue B. red", "B"
)


def config(folder, output, **more) -> CompleteConfig:
    return CompleteConfig(str(folder / "understanding.jsonl"), str(folder / "generation.jsonl"), str(output), **more)


def test_a_whole_run(shapes_sources, tmp_path):
    summary = run_complete(config(shapes_sources, tmp_path / "out"))
    counts = summary["counts"]
    assert counts["completed"] == {"understanding": 36, "generation": 36}, counts
    assert summary["image_root"] == str(shapes_sources)
    quadruples = read_quadruples(tmp_path / "out" / "quadruples.jsonl", shapes_sources)
    sources = {item.sample.id: item.sample for item in Sources(config(shapes_sources, tmp_path))}
    for q in quadruples:
        original = sources[q.id]
        assert (q.side, q.image_path, q.tag, q.extra) == (
            original.side,
            original.image_path,
            original.tag,
            original.extra,
        )
        kept = ("prompt",) if q.side is Side.GENERATION else ("question", "answer")
        assert all(vars(q)[name] == vars(original)[name] for name in kept)
        scene, caption = read_scene(load_image(shapes_sources / q.image_path)), read(q.prompt)
        assert scene is not None and caption is not None and fits(caption, scene)
    assert (tmp_path / "out" / "rejected.jsonl").read_text() == ""


def test_runs_are_repeatable_and_seeded(shapes_sources, tmp_path):
    files = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run_complete(config(shapes_sources, tmp_path / name, seed=seed))
        files.append((tmp_path / name / "quadruples.jsonl").read_bytes())
    assert files[0] == files[1] != files[2]


def test_captions_carry_places_where_the_question_asks_for_them(shapes_sources, tmp_path):
    run_complete(config(shapes_sources, tmp_path))
    asked = [
        q
        for q in read_quadruples(tmp_path / "quadruples.jsonl", shapes_sources)
        if q.tag == "position" and q.side is Side.UNDERSTANDING
    ]
    assert asked and all(any(k.cell for k in told(q.prompt)) for q in asked)


def test_broken_images_are_rejected_and_counted(shapes_sources, tmp_path):
    (tmp_path / "images").mkdir()
    good = (shapes_sources / "images" / "u0.png").read_bytes()
    for name, content in (("ok", good), ("empty", b""), ("cut", good[: len(good) // 2]), ("text", b"no image")):
        (tmp_path / f"images/{name}.png").write_bytes(content)
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0xFF
    (tmp_path / "images/flipped.png").write_bytes(bytes(flipped))
    noise = np.random.default_rng(0).integers(0, 255, size=(48, 48, 3), dtype=np.uint8)
    from PIL import Image

    Image.fromarray(noise).save(tmp_path / "images/noise.png")
    first = json.loads((shapes_sources / "understanding.jsonl").read_text().splitlines()[0])
    names = ("ok", "empty", "cut", "text", "flipped", "noise", "absent")
    rows = [{**first, "id": name, "image_path": f"images/{name}.png"} for name in names]
    (tmp_path / "understanding.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "generation.jsonl").write_text(
        json.dumps({"id": "g", "image_path": "images/ok.png", "prompt": "a cat"})
    )
    counts = run_complete(config(tmp_path, tmp_path / "out"))["counts"]
    assert counts["completed"] == {"understanding": 1, "generation": 0}
    assert counts["rejected"] == {"understanding": 6, "generation": 1}
    reasons = {
        r["id"]: r["reason"] for r in map(json.loads, (tmp_path / "out/rejected.jsonl").read_text().splitlines())
    }
    assert reasons == {
        **dict.fromkeys(("cut", "text", "flipped"), "the image cannot be read"),
        "empty": "the image file is empty",
        "absent": "the image does not exist",
        "noise": "the completer finds nothing to write",
        "g": "the caption names nothing",
    }
    assert sum(counts["reasons"].values()) == 7


def test_an_interrupt_leaves_nothing(shapes_sources, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "complete_sample", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_complete(config(shapes_sources, tmp_path / "out"))
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []


class Stubborn:
    """Writes a wrong caption until attempt `right`."""

    def __init__(self, right: int) -> None:
        self.right = right

    def caption(self, sample, image, attempt):
        return WHOLE.prompt if attempt.number == self.right else "a red circle and three blue squares"

    def question(self, sample, image, attempt):
        return None


def test_contradicting_halves_are_written_again_then_rejected():
    sample = Sample("q", Side.UNDERSTANDING, "a.png", question=WHOLE.question, answer="B")
    for right, attempts, expected in ((0, 3, 1), (2, 3, 3)):
        done = complete_sample(sample, IMAGE, Stubborn(right), ShapesVerifier(), attempts)
        assert done.quadruple is not None and done.quadruple.prompt == WHOLE.prompt and done.attempts == expected
    failed = complete_sample(sample, IMAGE, Stubborn(2), ShapesVerifier(), 2)
    assert (failed.quadruple, failed.reason, failed.attempts) == (None, "the caption contradicts the image", 2)


def test_what_no_file_could_hold_is_tried_again():
    class Half(Stubborn):
        def caption(self, sample, image, attempt):
            return WHOLE.prompt if attempt.number == self.right else "a red circle \ud800"

    sample = Sample("q", Side.UNDERSTANDING, "a.png", question=WHOLE.question, answer="B")
    done = complete_sample(sample, IMAGE, Half(1), ShapesVerifier(), 2)
    assert done.quadruple is not None and done.quadruple.prompt == WHOLE.prompt
    failed = complete_sample(sample, IMAGE, Half(1), ShapesVerifier(), 1)
    assert (failed.quadruple, failed.reason) == (None, "the completer writes a lone surrogate")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"prompt": "two blue squares and a red circle at the top left"}, None),
        ({"prompt": "a red circle and three blue squares"}, "the caption contradicts the image"),
        ({"prompt": "a red circle at the top right and two blue squares"}, "the caption contradicts the image"),
        ({"prompt": "a red circle"}, "the caption contradicts the image"),
        ({"prompt": "a sunny day"}, "the caption names nothing"),
        ({"answer": "A"}, "the answer contradicts the image"),
        ({"answer": "C"}, "the answer contradicts the image"),
        ({"question": "Why? A. blue B. red"}, "the question cannot be understood"),
        ({"question": "What colour is the circle?"}, "the question cannot be understood"),
        ({"question": "What colour is the square? A. red B. blue"}, "the question cannot be understood"),
        ({"question": "Where is the circle? A. centre B. top left"}, "the caption lacks what the question needs"),
        ({"prompt": "a circle and two squares"}, "the caption lacks what the question needs"),
        ({"question": "How many squares are there? A. 1 B. 2 C. 3"}, None),
        ({"question": "How many things are there? A. 4 B. 3\nAnswer with the option's letter."}, None),
        ({"question": "Are there more circles or squares? A. circles B. squares C. the same"}, None),
        ({"question": "Which of these is there? A. blue circle B. blue square"}, None),
        ({"question": "Is there a cross? A. yes B. no"}, None),
        ({"question": "Which shape is there? A. cross B. square"}, None),
        ({"question": "Which shape is there? A. circle B. square"}, "the answer contradicts the image"),
    ],
)
def test_contradictions(change, reason):
    assert ShapesVerifier().contradiction(replace(WHOLE, **change), IMAGE, Attempt()) == reason


def test_every_question_of_the_world_is_answered_as_it_was_made():
    rng = np.random.default_rng(0)
    for n in range(400):
        scene = random_scene(rng, "train" if n % 2 else "held_out")
        question = ask(scene, TYPES[n % len(TYPES)], rng)
        things = [Known(t.shape, t.colour, t.cell) for t in scene.things]
        assert question is None or right_letters(question.text, things) == [question.answer], question


def test_the_completer_writes_the_same_for_the_same_attempt():
    sample = Sample("g", Side.GENERATION, "a.png", prompt=WHOLE.prompt)
    drawn = [[ShapesCompleter(seed).question(sample, IMAGE, Attempt(0, n)) for n in range(6)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) > 1


def test_sources_in_different_folders_need_a_root(shapes_sources, tmp_path):
    (tmp_path / "generation.jsonl").write_bytes((shapes_sources / "generation.jsonl").read_bytes())
    apart = replace(config(shapes_sources, tmp_path), generation=str(tmp_path / "generation.jsonl"))
    with pytest.raises(InputError, match="image_root"):
        Sources(apart)
    assert Sources(replace(apart, image_root=str(shapes_sources))).image_root == shapes_sources


def test_an_id_on_both_sides_is_refused(shapes_sources, tmp_path):
    row = {"id": "u3", "image_path": "images/u3.png", "prompt": "a red circle"}
    (tmp_path / "generation.jsonl").write_text(json.dumps(row))
    files = str(shapes_sources / "understanding.jsonl"), str(tmp_path / "generation.jsonl")
    with pytest.raises(InputError, match=r"generation.jsonl:1: id: 'u3'"):
        list(Sources(CompleteConfig(*files, str(tmp_path), str(shapes_sources))))


def test_no_caption_is_held_out(shapes_sources, tmp_path):
    """Wording too: otherwise training would see the very texts that evaluation asks for."""
    run_complete(config(shapes_sources, tmp_path / "out"))
    written = read_quadruples(tmp_path / "out" / "quadruples.jsonl", shapes_sources)
    for q in written:
        requirement = read(q.prompt)
        assert requirement is not None and prompt_split(q.prompt, requirement) == "train", q.prompt
    # Many draws of one sample, so that the test does not hang on the fixture's few captions.
    alone = LoadedImage(render(scene_of([Thing(0, 0, "circle", "red")])), "")
    for attempt in range(60):
        sample = Sample("u", Side.UNDERSTANDING, "a.png", question="How many things are there? A. 1 B. 2", answer="A")
        text = ShapesCompleter(0).caption(sample, alone, Attempt(0, attempt))
        requirement = None if text is None else read(text)
        assert text is not None and requirement is not None and prompt_split(text, requirement) == "train"
