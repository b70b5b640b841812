"""Files as people write them: image and caption for image_path and prompt, no ids; and files that are none of ours."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from pairuni.cli.main import main
from pairuni.errors import InputError
from pairuni.files import read_json, read_jsonl, write_jsonl
from pairuni.records import pairs_root, read_pairs, read_quadruples, read_samples
from pairuni.types import Side

QUESTION = {"question": "Which colour? A. red B. blue", "answer": "A"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder as README describes it: questions with image, question, answer; captions with image, caption."""
    folder = tmp_path / "photos"
    for side, half in (("understanding", QUESTION), ("generation", {"caption": "a red circle"})):
        rows = []
        for n in range(6):
            name = f"images/{side}{n}.png"
            (folder / "images").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (200, 30 * n, 200 * (side == "understanding"))).save(folder / name)
            rows.append({"image": name, **half, "from": "a walk"})
        write_jsonl(folder / f"{side}.jsonl", rows)
    return folder


def test_the_files_that_readme_describes(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for side in Side:
        file = photos / f"{side}.jsonl"
        assert main(["check", str(file)]) == 0
        assert f"6 {side} samples, every image opens" in capsys.readouterr().out
        first, second = read_samples(file, side)[:2]
        assert first.image_path == f"images/{side}0.png" and first.extra == {"from": "a walk"}
        assert first.prompt == (None if side is Side.UNDERSTANDING else "a red circle")
        assert first.id.startswith(side[0]) and first.id != second.id
        assert [s.id for s in read_samples(file, side)][:2] == [first.id, second.id]


def test_an_id_is_made_of_what_the_sample_says(tmp_path: Path) -> None:
    row = {"image": "a.png", "caption": "a red circle"}
    given = {"id": "mine", "image_path": "a.png", "prompt": "a red circle"}
    rows = [row, {**row, "caption": "a blue square"}, given, row, {**row, "id": None}]
    write_jsonl(tmp_path / "g.jsonl", rows)
    ids = [s.id for s in read_samples(tmp_path / "g.jsonl", Side.GENERATION)]
    assert len(set(ids)) == 5 and ids[2] == "mine" and ids[3] == f"{ids[0]}.2" and ids[4] == f"{ids[0]}.3"
    write_jsonl(tmp_path / "other.jsonl", rows[1::-1])  # another order and place: the same ids
    assert [s.id for s in read_samples(tmp_path / "other.jsonl", Side.GENERATION)] == ids[1::-1]


def test_whole_samples_too(tmp_path: Path) -> None:
    row = {"side": "generation", "image": "a.png", "caption": "a red circle", **QUESTION}
    write_jsonl(tmp_path / "q.jsonl", [row, {**row, "caption": "two"}])
    first, second = read_quadruples(tmp_path / "q.jsonl")
    assert (first.image_path, first.prompt, first.extra) == ("a.png", "a red circle", {}) and first.id != second.id


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"image": "a.png", "caption": " "}, "caption"),
        ({"image_path": "a.png", "prompt": ""}, "prompt"),
        ({"image": "../a.png", "caption": "a"}, "image"),
        ({"image": 3, "caption": "a"}, "image"),
    ],
)
def test_mistakes_are_named_as_the_file_names_them(tmp_path: Path, row: dict, field: str) -> None:
    write_jsonl(tmp_path / "g.jsonl", [row])
    with pytest.raises(InputError) as error:
        read_samples(tmp_path / "g.jsonl", Side.GENERATION)
    assert error.value.field == field and error.value.line == 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"image": "a.png", "text": "hi"}, "nearest are generation samples, which need prompt (or caption) as well"),
        (
            {"file": "a.png", "question": "?", "reply": "A"},
            "understanding samples, which need image_path (or image), answer",
        ),
        (
            {"answer": "A", "text": "?"},
            "nearest are understanding samples, which need image_path (or image), question as well",
        ),
        ({"conversations": []}, "no key of any kind"),
    ],
)
def test_a_file_of_no_known_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str], row: dict, said: str) -> None:
    write_jsonl(tmp_path / "x.jsonl", [row])
    assert main(["check", str(tmp_path / "x.jsonl")]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "row", [{"step": 1, "loss": 0.1}, {"id": "a", "part": "p", "score": 1, "parsed": True}], ids=["metrics", "answers"]
)
def test_files_that_other_commands_write(tmp_path: Path, capsys: pytest.CaptureFixture[str], row: dict) -> None:
    write_jsonl(tmp_path / "x.jsonl", [row])
    assert main(["check", str(tmp_path / "x.jsonl")]) == 0
    assert "1 rows of " in capsys.readouterr().out


# ---- where the images of pairs are ----------------------------------------------------------------------------------


@pytest.fixture
def paired(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pairs.jsonl in another folder than its images, made by commands that name neither twice."""
    monkeypatch.chdir(tmp_path)
    rows = []
    for side in Side:
        rows += [
            {"side": str(side), "caption": "a red circle", **QUESTION, **r}
            for _, r in read_jsonl(photos / f"{side}.jsonl")
        ]
    write_jsonl(photos / "quadruples.jsonl", rows)
    options = ["--extractor", "colour_hog", "--clusters", "4", "--similarity_floor", "0"]
    assert main(["pair", "--quadruples", "photos/quadruples.jsonl", "--output", "runs/data", *options]) == 0
    return Path("runs/data/pairs.jsonl")


def test_no_command_asks_for_the_image_root_again(paired: Path, tiny_janus_folder: Path) -> None:
    assert read_json(paired.parent / "pairing.json")["image_root"] == "../../photos"
    assert pairs_root(paired).resolve() == Path("photos").resolve()
    assert len(read_pairs(paired)) > 3
    assert main(["check", str(paired)]) == 0
    assert main(["analyse", "pairs", str(paired)]) == 0
    assert main(["export", "unirl", str(paired), "--output", "runs/unirl"]) == 0
    assert main(["export", "hf-dataset", str(paired), "--output", "runs/hf"]) == 0
    train = ["--data.pairs", str(paired), "--data.batch", "2", "--rollout.rollouts", "2", "--steps", "1"]
    train += ["--rollout.max_new_tokens", "2", "--rewards.generation", "colourfulness", "--model.device", "cpu"]
    assert main(["train", "--output", "runs/run", "--model.path", str(tiny_janus_folder), *train]) == 0
    assert "data:image" in Path("runs/run/report.html").read_text(encoding="utf-8")
    smoke = ["--pairs", str(paired), "--number", "1", "--rollout.rollouts", "2", "--rollout.max_new_tokens", "2"]
    assert main(["smoke", "--model", str(tiny_janus_folder), *smoke, "--output", "runs/smoke"]) in (0, 1)


def test_the_folders_may_be_moved_together_and_an_option_wins(
    paired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new").mkdir()
    for name in ("photos", "runs"):
        shutil.move(tmp_path / name, tmp_path / "new" / name)
    assert main(["check", str(tmp_path / "new" / paired)]) == 0
    monkeypatch.chdir(tmp_path / "new")
    assert main(["check", str(paired), "--image_root", "photos/images"]) == 2
    shutil.move("photos", "elsewhere")
    assert main(["check", str(paired)]) == 2
    assert main(["check", str(paired), "--image_root", "elsewhere"]) == 0


def test_pairs_of_others_lie_beside_their_images(photos: Path) -> None:
    assert pairs_root(photos / "pairs.jsonl") == photos
    (photos / "pairing.json").write_text(json.dumps({"options": {}}), encoding="utf-8")
    assert pairs_root(photos / "pairs.jsonl") == photos
