"""What the exports for other trainers wrote, read back as those trainers' dataset classes read it: the same pairs.

The readers here are written from what the two classes do (docs/exporters.md names their files), with neither installed.
"""

import io
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from pairuni.config import UnirlConfig, VerlOmniConfig
from pairuni.data.images import load_image
from pairuni.errors import InputError
from pairuni.export import folder, verl_omni
from pairuni.export.unirl import write_unirl
from pairuni.export.verl_omni import write_verl_omni
from pairuni.files import read_jsonl
from pairuni.records import read_pairs
from pairuni.types import Pair, Side

FORMS: dict[str, tuple[type, Callable[[Any], dict[str, Any]]]] = {
    "verl-omni": (VerlOmniConfig, write_verl_omni),
    "unirl": (UnirlConfig, write_unirl),
}
each_form = pytest.mark.parametrize("form", FORMS)


def half(id: str, image: str, side: str, **more: Any) -> dict[str, Any]:
    row = {"id": id, "side": side, "image_path": f"images/{image}", "prompt": f"caption of {id}", "tag": f"tag {id}"}
    return row | {"question": f"Which is {id}?\nA. this B. that", "answer": "B"} | more


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def save_images(folder: Path) -> None:
    """Photographs and drawings, and three files that only a careful reader shows rightly."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("plain.jpg", "plain.png", "plain.webp"):
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(folder / name)
    Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8), "L").save(folder / "grey.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(folder / "turned.jpg", exif=turned)
    Image.fromarray(rng.integers(0, 256, (8, 8, 4), dtype=np.uint8), "RGBA").save(folder / "glass.png")
    Image.fromarray(rng.integers(0, 65536, (8, 8), dtype=np.uint16)).save(folder / "deep.png")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Aligned and retrieved pairs whose halves differ in everything, with an image of every kind of file."""
    save_images(tmp_path / "data" / "images")
    names = ("plain.jpg", "plain.png", "plain.webp", "grey.png", "turned.jpg", "glass.png", "deep.png")
    rows: list[dict[str, Any]] = []
    for n, name in enumerate(names):
        drawn, asked = half(f"g{n}", "plain.png", "generation", answer="A"), half(f"u{n}", name, "understanding")
        rows.append({"id": f"r{n}", "kind": "retrieved", "similarity": 0.6 + 0.05 * n})
        rows[-1] |= {"generate_ann": drawn, "understand_ann": asked}
    one = half("a0", "plain.jpg", "generation", prompt="żółw — 亀 \u2028 '\"", question="Où?\u0085 A. ici\r\n B. là")
    rows.insert(2, {"id": "a/0%2F", "kind": "aligned", "similarity": 1.0, "generate_ann": one, "understand_ann": one})
    published = {key: {k: v for k, v in value.items() if k not in ("id", "side")} for key, value in rows[5].items()
                 if key.endswith("_ann")}  # fmt: skip
    rows.append({"similarity": 0.25, **published})
    return write_lines(tmp_path / "data" / "pairs.jsonl", rows)


def export(form: str, pairs: Path, output: Path, **options: Any) -> dict[str, Any]:
    config, write = FORMS[form]
    return write(config(str(pairs), str(output), **options))


# ---- the trainers' readers --------------------------------------------------------------------------------------


def verl_rows(path: Path, tmp_path: Path) -> list[dict[str, Any]]:
    loaded = datasets.load_dataset("parquet", data_files=str(path), cache_dir=str(tmp_path / "cache"))["train"]
    return [dict(row) for row in loaded]


def verl_prompt(row: dict[str, Any]) -> tuple[str, list[Image.Image]]:
    """The text and the images of a row's one message; every mark has an image, every image a mark."""
    waiting = list(row.get("images") or [])
    (message,) = row["prompt"]
    assert message["role"] == "user"
    text, images = "", []
    parts = re.split("(<image>|<video>|<audio>)", message["content"]) if waiting else [message["content"]]
    for part in parts:
        if part == "<image>":
            with Image.open(io.BytesIO(waiting.pop(0)["bytes"])) as file:
                images.append(file.convert("RGB"))
        else:
            assert not waiting or part not in ("<video>", "<audio>")
            text += part
    assert not waiting
    return text, images


def unirl_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Whatever a locale's encoding: pure ASCII. Keys that the reader would drop are a mistake."""
    with path.open(encoding="ascii") as lines:
        for line in lines:
            row = json.loads(line.strip())
            assert set(row) <= {"prompt_id", "prompt", "media_refs", "metadata"}
            assert isinstance(row["prompt"], str) and row["prompt"] and "/" not in row["prompt_id"]
            assert "_media_refs" not in row["metadata"]
            yield row


def unirl_prompt(row: dict[str, Any], base: Path) -> tuple[str, list[Image.Image]]:
    images = []
    for reference in row.get("media_refs", []):
        assert set(reference) == {"modality", "role", "uri"}
        assert (reference["modality"], reference["role"]) == ("image", "condition")
        assert not Path(reference["uri"]).is_absolute() and reference["uri"] == reference["uri"].strip()
        with Image.open(base / reference["uri"]) as file:
            images.append(file.convert("RGB"))
    return row["prompt"], images


Read = tuple[str, list[Image.Image], str, dict[str, Any]]
"""Text, images, what a reward compares with, and what is said of the pair."""


def read_side(form: str, output: Path, side: Side, tmp_path: Path) -> list[Read]:
    if form == "verl-omni":
        found = verl_rows(output / f"{side}.parquet", tmp_path)
        assert [row["extra_info"]["index"] for row in found] == list(range(len(found)))
        assert {row["data_source"] for row in found} == {f"pairuni/{side}"} and {r["ability"] for r in found} == {side}
        return [(*verl_prompt(row), row["reward_model"]["ground_truth"], row["extra_info"]) for row in found]
    rows = list(unirl_rows(output / f"{side}.jsonl"))
    assert len({row["prompt_id"] for row in rows}) == len(rows)
    truth = "answer" if side is Side.UNDERSTANDING else "prompt"
    return [(*unirl_prompt(row, output), row["metadata"][truth], row["metadata"]) for row in rows]


# ---- round trip -------------------------------------------------------------------------------------------------

WEIGHTS: dict[str, Callable[[float], float]] = {"sqrt": math.sqrt, "linear": float, "none": lambda similarity: 1.0}


def check(form: str, read: list[Read], side: Side, expected: list[Pair], weighting: str, root: Path) -> None:
    assert len(read) == len(expected)
    for (text, images, truth, facts), pair in zip(read, expected, strict=True):
        assert (facts["pair_id"], facts["kind"], facts["similarity"]) == (pair.id, pair.kind, pair.similarity)
        weight = 1.0 if pair.kind == "aligned" else WEIGHTS[weighting](pair.similarity)
        assert facts["weight"] == pytest.approx(weight, abs=1e-12)
        mine = pair.understand if side is Side.UNDERSTANDING else pair.generate
        for name in ("prompt", "question", "answer", "tag", "image_path"):
            assert facts[name] == vars(mine)[name], name
        assert (facts["sample_id"], facts["side"]) == (mine.id, side)
        if side is Side.GENERATION:
            assert (text, images, truth) == (mine.prompt, [], mine.prompt)
            continue
        assert text == ("\n" if form == "verl-omni" else "") + mine.question and truth == mine.answer
        (image,) = images
        assert np.array_equal(np.asarray(image), load_image(root / mine.image_path)), mine.image_path


@each_form
@pytest.mark.parametrize("weighting", WEIGHTS)
def test_the_trainer_reads_the_same_pairs(form: str, weighting: str, pairs: Path, tmp_path: Path) -> None:
    summary = export(form, pairs, tmp_path / "out", weighting=weighting)
    expected = read_pairs(pairs)
    for side in Side:
        check(form, read_side(form, tmp_path / "out", side, tmp_path), side, expected, weighting, pairs.parent)
    assert (summary["pairs"], summary["kinds"]) == (9, {"aligned": 1, "retrieved": 8})
    used = [1.0 if pair.kind == "aligned" else WEIGHTS[weighting](pair.similarity) for pair in expected]
    assert summary["weights"] == pytest.approx({"min": min(used), "mean": sum(used) / 9, "max": max(used)})


@each_form
def test_the_round_trip_sees_mistakes(form: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sides swapped, a weight of the wrong scheme, a reader that does not turn an image: each is found."""
    expected = read_pairs(pairs)

    def holds(weighting: str = "sqrt") -> bool:
        output = tmp_path / "out"
        export(form, pairs, output, overwrite=True)
        try:
            for side in Side:
                check(form, read_side(form, output, side, tmp_path), side, expected, weighting, pairs.parent)
        except AssertionError:
            return False
        return True

    assert holds() and not holds("linear")
    with monkeypatch.context() as patch:
        patch.setattr(Pair, "half", lambda pair, side: pair.generate if side is Side.UNDERSTANDING else pair.understand)
        assert not holds()
    with monkeypatch.context() as patch:
        patch.setattr(folder, "_shows", lambda content, pixels: True)
        assert not holds()


@each_form
def test_files_stay_as_they_are_unless_the_trainer_would_see_something_else(
    form: str, pairs: Path, tmp_path: Path
) -> None:
    summary = export(form, pairs, tmp_path / "out")
    if form == "unirl":
        kept = {path.read_bytes() for path in (tmp_path / "out" / "images").iterdir()}
        assert {path.suffix for path in (tmp_path / "out" / "images").iterdir()} == {".png", ".jpeg", ".webp"}
    else:
        column = pyarrow.parquet.read_table(tmp_path / "out" / "understanding.parquet")["images"].to_pylist()
        kept = {image["bytes"] for (image,) in column}
    assert len(kept) == 7 == summary["images"]
    for name in ("plain.jpg", "plain.png", "plain.webp", "grey.png"):
        assert (pairs.parent / "images" / name).read_bytes() in kept, name
    for name in ("turned.jpg", "glass.png", "deep.png"):
        assert (pairs.parent / "images" / name).read_bytes() not in kept, name
    assert summary["images_encoded_anew"] == 3 and "plain PNG: 3" in summary["notes"][0]


def test_both_files_of_verl_omni_are_one_data_set(pairs: Path, tmp_path: Path) -> None:
    """The trainer concatenates the files of data.train_files."""
    export("verl-omni", pairs, tmp_path / "out", negative_prompt=" ")
    parts = [
        datasets.load_dataset("parquet", data_files=str(tmp_path / "out" / f"{side}.parquet"), cache_dir=str(tmp_path))
        for side in Side
    ]
    rows = list(datasets.concatenate_datasets([part["train"] for part in parts]))
    assert [row["extra_info"]["pair_id"] for row in rows[:9]] == [row["extra_info"]["pair_id"] for row in rows[9:]]
    assert [len(verl_prompt(row)[1]) for row in rows] == [1] * 9 + [0] * 9  # type: ignore[arg-type]
    assert rows[0]["negative_prompt"] is None and rows[9]["negative_prompt"] == [{"role": "user", "content": " "}]  # type: ignore[index]


def test_the_schema_needs_no_extension_of_the_datasets_library(pairs: Path, tmp_path: Path) -> None:
    export("verl-omni", pairs, tmp_path / "out")
    for side in Side:
        schema = pyarrow.parquet.read_schema(tmp_path / "out" / f"{side}.parquet")
        assert b"huggingface" not in (schema.metadata or {}) and schema.equals(verl_omni.schema(side))


@each_form
def test_a_question_may_name_the_place_of_its_image(form: str, pairs: Path, tmp_path: Path) -> None:
    """As in the LLaVA form. Elsewhere the mark would be taken for a second image, or for text."""
    rows = [row for _, row in read_jsonl(pairs)]
    rows[0]["understand_ann"]["question"] = "<image>\nWhich? A. a B. b"
    write_lines(pairs, rows)
    export(form, pairs, tmp_path / "out")
    text, images, _, facts = read_side(form, tmp_path / "out", Side.UNDERSTANDING, tmp_path)[0]
    assert (text.strip(), len(images)) == ("Which? A. a B. b", 1)
    assert facts["question"] == "<image>\nWhich? A. a B. b"


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "question", "message"),
    [
        ("verl-omni", "Is <image> like <image>? A. yes B. no", "has <image>, <image> in it"),
        ("verl-omni", "What does <video> show? A. a B. b", "has <video> in it"),
        ("unirl", " <image>\n", "asks nothing"),
    ],
)
def test_a_question_that_the_trainer_would_misread(
    form: str, question: str, message: str, pairs: Path, tmp_path: Path
) -> None:
    rows = [row for _, row in read_jsonl(pairs)]
    rows[3]["understand_ann"]["question"] = question
    write_lines(pairs, rows)
    with pytest.raises(InputError) as error:
        export(form, pairs, tmp_path / "out")
    assert str(error.value).startswith(f"{pairs}:4: understand_ann.question: ") and message in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]  # nothing half-written


@each_form
def test_a_broken_image_is_an_error_that_names_its_line(form: str, pairs: Path, tmp_path: Path) -> None:
    (pairs.parent / "images" / "grey.png").write_bytes(b"\x89PNG")
    pairs.write_text("\n" + pairs.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(InputError) as error:
        export(form, pairs, tmp_path / "out")
    assert str(error.value).startswith(f"{pairs}:6: understand_ann.image_path: ") and "grey.png" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def contents(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@each_form
def test_only_an_earlier_export_of_the_same_form_is_replaced(form: str, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(form, pairs, out)
    before = contents(out)
    export(form, pairs, out)
    assert contents(out) == before  # and the same bytes again
    other = next(name for name in FORMS if name != form)
    with pytest.raises(InputError, match="which this export does not write"):
        export(other, pairs, out)
    own = out / "images" / "own" / "mine.txt"
    own.parent.mkdir(parents=True)
    own.write_text("precious")
    with pytest.raises(InputError, match=r"holds images/own/mine\.txt"):
        export(form, pairs, out)
    shutil.rmtree(own.parent)
    (out / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match=r"holds mine\.txt"):
        export(form, pairs, out)
    for place in (pairs.parent, pairs.parent / "images", tmp_path):
        with pytest.raises(InputError, match="lies in it"):
            export(form, pairs, place, overwrite=True)
    assert contents(out) == {**before, "mine.txt": b"precious"}
    (tmp_path / "link").symlink_to(out)
    with pytest.raises(InputError, match="is a link"):
        export(form, pairs, tmp_path / "link", overwrite=True)
    export(other, pairs, out, overwrite=True)
    assert "mine.txt" not in contents(out)


@each_form
def test_an_interrupted_export_leaves_the_earlier_one(
    form: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(form, pairs, tmp_path / "out")
    before = contents(tmp_path / "out")

    def stop(path: Path) -> np.ndarray:
        if path.name == "glass.png":
            raise KeyboardInterrupt
        return load_image(path)

    monkeypatch.setattr(folder, "load_image", stop)
    with pytest.raises(KeyboardInterrupt):
        export(form, pairs, tmp_path / "out", weighting="none")
    assert contents(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]


@each_form
def test_images_are_those_of_the_image_root(form: str, pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (pairs.parent / "images").rename(tmp_path / "root" / "images")
    export(form, pairs, tmp_path / "out", image_root=str(tmp_path / "root"))
    read = read_side(form, tmp_path / "out", Side.UNDERSTANDING, tmp_path)
    check(form, read, Side.UNDERSTANDING, read_pairs(pairs), "sqrt", tmp_path / "root")


@each_form
def test_a_pair_of_weight_0_is_noted(form: str, pairs: Path, tmp_path: Path) -> None:
    rows = [row for _, row in read_jsonl(pairs)]
    rows[0]["similarity"] = 0.0
    write_lines(pairs, rows)
    assert any(note.endswith("nothing is learned: 1") for note in export(form, pairs, tmp_path / "out")["notes"])
    assert len(export(form, pairs, tmp_path / "out", weighting="none")["notes"]) == 1


def test_a_data_source_is_needed() -> None:
    with pytest.raises(InputError, match="data_source: must not be empty"):
        VerlOmniConfig("p", "o", data_source=" ")
    shared = {"pairs", "output", "image_root", "overwrite", "weighting"}
    assert shared <= {f.name for f in fields(VerlOmniConfig)} and shared == {f.name for f in fields(UnirlConfig)}
