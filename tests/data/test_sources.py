"""Sources: the same samples from every format; what is wrong with single rows and images is counted, never fatal."""

import io
import json
import tarfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from data_files import write_lines
from pairuni.config import CompleteConfig, SourceConfig
from pairuni.data.complete import run_complete
from pairuni.data.images import StoredImage, load_image, look
from pairuni.data.sources import Sources, image_place, kind
from pairuni.errors import InputError
from pairuni.files import read_jsonl
from pairuni.records import read_quadruples
from pairuni.types import Side

Rows = list[dict[str, Any]]


def rows_of(folder: Path, side: Side) -> Rows:
    return [row for _, row in read_jsonl(folder / f"{side}.jsonl")]


def embedded(folder: Path, rows: Rows) -> datasets.Dataset:
    """The rows with the images' bytes inside, as hub data sets have them."""
    table: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in rows[0] if name != "image_path"}
    table["image"] = [
        {"bytes": (folder / r["image_path"]).read_bytes(), "path": Path(r["image_path"]).name} for r in rows
    ]
    return datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())


def as_parquet(folder: Path, rows: Rows, out: Path) -> str:
    for n in range(2):
        embedded(folder, rows[n::2]).to_parquet(out / f"{n}.parquet")
    return str(out)


def as_arrow(folder: Path, rows: Rows, out: Path) -> str:
    embedded(folder, rows).save_to_disk(str(out))
    return str(out)


def as_imagefolder(folder: Path, rows: Rows, out: Path) -> str:
    for row in rows:
        (out / Path(row["image_path"]).name).write_bytes((folder / row["image_path"]).read_bytes())
    named = [
        {**{k: v for k, v in r.items() if k != "image_path"}, "file_name": Path(r["image_path"]).name} for r in rows
    ]
    write_lines(out / "metadata.jsonl", named)
    return str(out)


def as_webdataset(folder: Path, rows: Rows, out: Path) -> str:
    for n in range(2):
        with tarfile.open(out / f"{n}.tar", "w") as tar:
            for row in rows[n::2]:
                content = (folder / row["image_path"]).read_bytes()
                for ending, data in (("png", content), ("json", json.dumps(row).encode())):
                    member = tarfile.TarInfo(f"{row['id']}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return str(out / "*.tar")


IN_JSON = {name: f"json.{name}" for name in ("id", "prompt", "question", "answer", "tag")}
FORMATS: list[tuple[Callable[[Path, Rows, Path], str], SourceConfig]] = [
    (as_parquet, SourceConfig()),
    (as_arrow, SourceConfig()),
    (as_imagefolder, SourceConfig(format="imagefolder")),
    (as_webdataset, SourceConfig(fields={"image": "png", **IN_JSON})),
]


@pytest.mark.parametrize(("write", "how"), FORMATS, ids=[f.__name__ for f, _ in FORMATS])
def test_every_format_gives_the_same_quadruples(shapes_sources, tmp_path, write, how):
    places = []
    for side in Side:
        (tmp_path / side).mkdir()
        places.append(write(shapes_sources, rows_of(shapes_sources, side), tmp_path / side))
    plain = CompleteConfig(*(str(shapes_sources / f"{side}.jsonl") for side in Side), str(tmp_path / "plain"))
    other = CompleteConfig(*places, str(tmp_path / "out"), understanding_source=how, generation_source=how)
    assert run_complete(plain)["counts"] == run_complete(other)["counts"]
    expected = {q.id: q for q in read_quadruples(tmp_path / "plain" / "quadruples.jsonl", shapes_sources)}
    found = read_quadruples(tmp_path / "out" / "quadruples.jsonl")
    assert {q.id for q in found} == set(expected)
    for q in found:
        one = expected[q.id]
        assert replace(q, image_path="", extra={}) == replace(one, image_path="", extra={})
        assert (tmp_path / "out" / q.image_path).read_bytes() == (shapes_sources / one.image_path).read_bytes()
    assert [path.name for path in (tmp_path / "out").rglob(".*")] == [".pairuni.json"], "nothing half-written is left"


def test_json_lines_beside_another_format_bring_their_images(shapes_sources, tmp_path):
    place = as_arrow(shapes_sources, rows_of(shapes_sources, Side.UNDERSTANDING), tmp_path / "u")
    config = CompleteConfig(place, str(shapes_sources / "generation.jsonl"), str(tmp_path / "out"))
    run_complete(config)
    for q in read_quadruples(tmp_path / "out" / "quadruples.jsonl"):
        assert (tmp_path / "out" / q.image_path).is_file() and q.image_path.startswith(f"images/{q.side}/")


def nested(folder: Path, rows: Rows, out: Path) -> str:
    """As RL data sets in verl's form have it."""
    table = {
        "images": [[{"bytes": (folder / r["image_path"]).read_bytes(), "path": None}] for r in rows],
        "prompt": [[{"role": "user", "content": f"<image>\n{r['question']}"}] for r in rows],
        "reward_model": [json.dumps({"answer": r["answer"]}) for r in rows],
        "ability": [r["tag"] for r in rows],
    }
    whole = datasets.Dataset.from_dict(table).cast_column("images", datasets.List(datasets.Image()))
    whole.to_parquet(out / "x.parquet")
    return str(out)


def test_fields_step_into_rows_and_skipped_rows_are_counted(shapes_sources, tmp_path):
    rows = rows_of(shapes_sources, Side.UNDERSTANDING)
    (tmp_path / "u").mkdir()
    fields = {"image": "images.0", "question": "prompt.0.content", "answer": "reward_model.answer", "tag": "ability"}
    how = SourceConfig(fields=fields, strip={"question": "<image>"}, skip={"ability": ["count", "position"]})
    config = CompleteConfig(
        nested(shapes_sources, rows, tmp_path / "u"),
        str(shapes_sources / "generation.jsonl"),
        str(tmp_path / "out"),
        understanding_source=how,
    )
    summary = run_complete(config)
    assert summary["counts"]["left_out"] == {"ability: count": 6, "ability: position": 6}
    kept = [q for q in read_quadruples(tmp_path / "out" / "quadruples.jsonl") if q.side is Side.UNDERSTANDING]
    wanted = [(r["question"], r["answer"]) for r in rows if r["tag"] not in ("count", "position")]
    assert [(q.question, q.answer) for q in kept] == wanted and kept[0].id == "u00000000"
    assert [i.sample.id for i in Sources(replace(config, understanding_source=replace(how, limit=3)))][:3] == [
        "u00000000",
        "u00000001",
        "g0",
    ], "the third row is a count question"


def test_a_lone_surrogate_in_json_within_a_row_is_rejected(shapes_sources, tmp_path):
    rows = rows_of(shapes_sources, Side.UNDERSTANDING)[:2]
    rows[1]["answer"] = "A\ud800"
    (tmp_path / "u").mkdir()
    config = CompleteConfig(
        nested(shapes_sources, rows, tmp_path / "u"),
        str(shapes_sources / "generation.jsonl"),
        str(tmp_path / "out"),
        understanding_source=SourceConfig(
            fields={"image": "images.0", "question": "prompt.0.content", "answer": "reward_model.answer"},
            strip={"question": "<image>"},
        ),
    )
    counts = run_complete(config)["counts"]
    assert counts["rejected"]["understanding"] == 1
    assert counts["reasons"] == {"a text holds a lone surrogate (\\ud800 to \\udfff)": 1}
    assert [row["answer"] for _, row in read_jsonl(tmp_path / "out" / "rejected.jsonl")] == ["A?"]


def test_bad_rows_are_rejected_with_their_reason(shapes_sources, tmp_path):
    good = (shapes_sources / "images" / "u0.png").read_bytes()
    table = {
        "id": ["a", "b", "c", "d", "a", "e"],
        "question": ["Q? A. x B. y", "", "Q?", "Q?", "Q?", None],
        "answer": ["A", "A", "A", "A", "A", None],
        "image": [{"bytes": good}, {"bytes": good}, {"path": "/etc/hosts"}, None, {"bytes": good}, {"bytes": b""}],
    }
    (tmp_path / "u").mkdir()
    features = datasets.Features(
        {name: datasets.Value("string") for name in ("id", "question", "answer")}
        | {"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}
    )
    images = [None if i is None else {"bytes": i.get("bytes"), "path": i.get("path")} for i in table["image"]]
    datasets.Dataset.from_dict({**table, "image": images}, features=features).to_parquet(tmp_path / "u" / "x.parquet")
    config = CompleteConfig(str(tmp_path / "u"), str(shapes_sources / "generation.jsonl"), str(tmp_path / "out"))
    faults = [(i.sample.id, i.fault) for i in Sources(config)][:6]
    assert faults == [
        ("a", None),
        ("b", "question missing or empty"),
        ("c", "the image's path leaves the data set"),
        ("d", "the row has no image"),
        ("a", "the id occurs twice"),
        ("e", "question and answer missing or empty"),
    ]
    counts = run_complete(config)["counts"]
    assert counts["rejected"]["understanding"] == 6 and sum(counts["reasons"].values()) == 6


@pytest.mark.parametrize("place", ["absent", "absent/*.tar"])
def test_an_unreadable_source_is_one_message(shapes_sources, tmp_path, place, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    config = CompleteConfig(str(tmp_path / place), str(shapes_sources / "generation.jsonl"), str(tmp_path / "out"))
    with pytest.raises(InputError, match=r"absent.*cannot be read"):
        run_complete(config)
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_a_cut_off_shard_is_one_message(shapes_sources, tmp_path):
    (tmp_path / "u").mkdir()
    as_webdataset(shapes_sources, rows_of(shapes_sources, Side.UNDERSTANDING), tmp_path / "u")
    tar = tmp_path / "u" / "1.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    how = SourceConfig(fields={"image": "png", **IN_JSON})
    config = CompleteConfig(
        str(tmp_path / "u" / "*.tar"), str(shapes_sources / "generation.jsonl"), str(tmp_path), understanding_source=how
    )
    with pytest.raises(InputError, match="cannot be read"):
        list(Sources(config))


def test_kinds_and_places():
    named = {"a.jsonl": "jsonl", "d/*.tar": "webdataset", "folder": "datasets", "owner/name": "datasets"}
    assert {place: kind(place, SourceConfig()) for place in named} == named
    assert image_place("a1", Side.GENERATION, ".JPG") == "images/generation/a1.jpg"
    odd = [image_place(id, Side.UNDERSTANDING, "") for id in ("../../x", "a/b", "a b", "", "x" * 300)]
    assert len(set(odd)) == 5 and all(p.count("/") == 2 and ".." not in p.split("/") and len(p) < 150 for p in odd)
    with pytest.raises(InputError, match="fields: caption"):
        SourceConfig(fields={"caption": "text"})


# ---- images --------------------------------------------------------------------------------------------------------


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def test_odd_images_are_put_right_and_noted():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    turned, cmyk = encoded(image, "JPEG", exif=exif), encoded(image.convert("CMYK"), "JPEG")
    plain, found = look(encoded(image, "PNG")), [look(turned), look(cmyk)]
    assert not isinstance(plain, str) and plain.notes == () and (plain.pixels == np.asarray(image)).all()
    shapes = [(f.pixels.shape, f.notes) for f in found if not isinstance(f, str)]
    assert shapes == [((30, 20, 3), ("turned as its EXIF says",)), ((20, 30, 3), ("CMYK turned into RGB",))]


def several(format: str, **options: Any) -> bytes:
    first, *others = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    return encoded(first, format, save_all=True, append_images=others, **options)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_what_plays_is_animated_for_every_reader(format):
    content = several(format)
    assert look(content) == "the image is animated"
    with pytest.raises(InputError, match=r"items.jsonl:3: .*it is animated"):
        load_image(StoredImage(content, "items.jsonl", 3))


@pytest.mark.parametrize("format", ["MPO", "TIFF"])
def test_the_first_of_several_pictures_is_the_photograph(format):
    """Phones put depth and gain maps into their .jpg files; scanners put pages into one .tiff."""
    content = several(format)
    found = look(content)
    assert not isinstance(found, str) and (found.pixels[..., 0] > 200).all() and (found.pixels[..., 2] < 60).all()
    assert np.array_equal(load_image(StoredImage(content, "items.jsonl", 1)), found.pixels)


@pytest.mark.parametrize(("mode", "values"), [("I", [[0, 70_000], [35_000, 1]]), ("F", [[0.0, 1.0], [0.5, 0.0]])])
def test_wide_grey_values_are_scaled_to_their_range(mode, values):
    kind = np.int32 if mode == "I" else np.float32
    content = encoded(Image.fromarray(np.array(values, kind)), "TIFF")
    found = look(content)
    assert not isinstance(found, str) and found.notes[0].endswith("scaled to its range")
    assert found.pixels[..., 1].tolist() == [[0, 255], [128, 0]]
    assert np.array_equal(load_image(StoredImage(content, "items.jsonl", 1)), found.pixels)


@pytest.mark.parametrize("values", [[[np.nan, 1.0]], [[np.inf, 1.0]], [[0.25, 0.25]]])
def test_wide_grey_values_without_a_range_are_refused(values):
    content = encoded(Image.fromarray(np.array(values, np.float32)), "TIFF")
    assert look(content) == "the image cannot be read"
    with pytest.raises(InputError, match="floating-point grey, mode F"):
        load_image(StoredImage(content, "items.jsonl", 1))


def test_unusable_images_are_said_to_be():
    image = Image.new("RGB", (40, 40), "red")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    png = encoded(image, "PNG")
    header = png[:16] + (60_000).to_bytes(4, "big") * 2  # a bomb: 3.6 billion pixels, as the header says
    import zlib

    bomb = header + png[24:29] + zlib.crc32(header[12:24] + png[24:29]).to_bytes(4, "big") + png[33:]
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    jpeg = encoded(noise, "JPEG")
    assert {
        "empty": look(b""),
        "text": look(b"no image"),
        "cut": look(jpeg[: len(jpeg) // 2]),
        "gif": look(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])),
        "bomb": look(bomb),
    } == {
        "empty": "the image file is empty",
        "text": "the image cannot be read",
        "cut": "the image cannot be read",
        "gif": "the image is animated",
        "bomb": "the image is too large",
    }


def test_images_that_are_too_large_are_seen_in_threads_and_no_filter_changes(monkeypatch):
    """Between the limit and twice the limit PIL only warns. Filters are shared by threads, so none may be changed."""

    def changed(*_: object, **__: object) -> None:
        raise AssertionError("warning filters are changed")

    monkeypatch.setattr("pairuni.data.images.warnings", SimpleNamespace(catch_warnings=changed))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    large, small = (encoded(Image.new("RGB", (side, 40), "red"), "PNG") for side in (30, 20))
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(look, [large, small] * 200))
    assert found[::2] == ["the image is too large"] * 200 and not any(isinstance(f, str) for f in found[1::2])
    assert list(warnings.filters) == before


def test_a_photograph(coco):
    found = look((coco / "images" / "000000000009.jpg").read_bytes())
    assert not isinstance(found, str) and found.pixels.shape == (480, 640, 3) and len(found.content_hash) == 64
