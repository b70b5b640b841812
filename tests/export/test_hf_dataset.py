"""An exported folder loads with `datasets` as the same pairs and pixels; its card; what is refused."""

import io
import json
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet
import pytest
import yaml
from huggingface_hub import DatasetCard
from PIL import Image, ImageOps

from pairuni.config import HfDatasetConfig
from pairuni.data.overview import overview
from pairuni.errors import InputError
from pairuni.export import folder, hf_dataset
from pairuni.export.card import ExportCard, front_matter
from pairuni.export.hf_dataset import write_hf_dataset
from pairuni.files import file_hash
from pairuni.records import read_pairs
from pairuni.types import Pair, Quadruple, Side

HOSTILE = "a|b `<script>alert(1)</script>`\n# not *a* heading"


def half(id: str, image: str, side: str, **more: Any) -> dict[str, Any]:
    row = {"id": id, "side": side, "image_path": f"images/{image}", "prompt": f"caption of {id}", "tag": "t"}
    return row | {"question": f"Which is {id}?\nA. this B. that", "answer": "B"} | more


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Four pairs: an aligned one, two retrieved ones with keys of their own, one in the published form."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, size, mode, options in (
        ("a.jpg", (40, 30, 3), "RGB", {"exif": turned, "quality": 90}),
        ("b.png", (30, 50, 4), "RGBA", {}),
        ("c.jpg", (64, 64, 3), "RGB", {}),
        ("d.webp", (20, 20, 3), "RGB", {}),
    ):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8), mode).save(folder / "images" / name, **options)
    a, b, c, d = (half(n[0], n, s) for n, s in zip(("a.jpg", "b.png", "c.jpg", "d.webp"), "gugu", strict=True))
    for row in (a, b, c, d):
        row["side"] = {"g": "generation", "u": "understanding"}[row["side"]]
    b |= {"source": "somewhere", "tag": HOSTILE}
    published = {"generate_ann": dict(a), "understand_ann": dict(d)}
    for row in published.values():
        del row["id"], row["side"]
    rows = [
        {"id": "a0", "kind": "aligned", "similarity": 1.0, "generate_ann": a, "understand_ann": a},
        {"id": "r0", "kind": "retrieved", "similarity": 0.7123456, "generate_ann": c, "understand_ann": b, "note": [1]},
        {"id": "r1", "kind": "retrieved", "similarity": 0.9, "generate_ann": a, "understand_ann": d},
        {"similarity": 0.64, **published},
    ]
    return write_lines(folder / "pairs.jsonl", rows)


def load(folder: Path, tmp_path: Path) -> datasets.Dataset:
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded, datasets.Dataset)
    return loaded


def to_pair(row: dict[str, Any]) -> Pair:
    """A row as the record that it came from."""
    extra = json.loads(row["extra"] or "{}")
    halves = {}
    for name in ("generate", "understand"):
        fields = {key: row[f"{name}_{key}"] for key in ("id", "image_path", "prompt", "question", "answer", "tag")}
        side = row[f"{name}_side"]
        halves[name] = Quadruple(side=side and Side(side), extra=extra.get(f"{name}_ann", {}), **fields)
    return Pair(row["id"], row["kind"], row["similarity"], extra=extra.get("pair", {}), **halves)


def test_the_folder_loads_as_the_same_pairs_and_pixels(pairs: Path, tmp_path: Path) -> None:
    summary = write_hf_dataset(HfDatasetConfig(str(pairs), str(tmp_path / "out")))
    assert (summary["pairs"], summary["files"]) == (4, 1) and summary["pairs_hash"] == file_hash(pairs)
    loaded, expected = load(tmp_path / "out", tmp_path), read_pairs(pairs)
    assert loaded.features == hf_dataset.features()
    assert [to_pair(row) for row in loaded] == expected  # type: ignore[arg-type]
    assert expected[1].extra and expected[1].understand.extra and expected[3].generate.side is Side.GENERATION
    raw = loaded.cast_column("generate_image", datasets.Image(decode=False))
    for n, pair in enumerate(expected):
        for name, source in (("generate", pair.generate), ("understand", pair.understand)):
            with Image.open(pairs.parent / source.image_path) as file:
                upright = ImageOps.exif_transpose(file)
                shown = loaded[n][f"{name}_image"]
                assert shown.mode == upright.mode and np.array_equal(np.asarray(shown), np.asarray(upright))
        content = (pairs.parent / pair.generate.image_path).read_bytes()
        assert raw[n]["generate_image"]["bytes"] == content  # not encoded again
    assert loaded[0]["generate_image"].size == (40, 30)  # a.jpg is 30 wide and lies on its side


def test_large_data_sets_are_several_files_in_order(tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(1), []
    (tmp_path / "images").mkdir()
    for n in range(9):
        Image.fromarray(rng.integers(0, 256, (300, 250, 3), dtype=np.uint8)).save(tmp_path / f"images/{n}.png")
        one = half(f"q{n}", f"{n}.png", "generation")
        rows.append({"id": f"p{n}", "kind": "aligned", "similarity": 1.0, "generate_ann": one, "understand_ann": one})
    size = (tmp_path / "images" / "0.png").stat().st_size
    assert 200_000 < size < 250_000  # a row has two: three rows are more than a megabyte, two are not
    path = write_lines(tmp_path / "pairs.jsonl", rows)
    summary = write_hf_dataset(HfDatasetConfig(str(path), str(tmp_path / "out"), shard_mb=1))
    files = sorted((tmp_path / "out" / "data").iterdir())
    assert summary["files"] == 3 and summary["bytes"] == sum(file.stat().st_size for file in files)
    assert [file.name for file in files] == [f"train-{n:05d}-of-00003.parquet" for n in range(3)]
    assert [pyarrow.parquet.ParquetFile(file).metadata.num_rows for file in files] == [3, 3, 3]
    assert load(tmp_path / "out", tmp_path)["id"][:] == [f"p{n}" for n in range(9)]


def test_no_more_than_a_row_group_waits_in_memory(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "_GROUP_ROWS", 3)
    write_hf_dataset(HfDatasetConfig(str(pairs), str(tmp_path / "out")))
    written = pyarrow.parquet.ParquetFile(next((tmp_path / "out" / "data").iterdir())).metadata
    assert [written.row_group(n).num_rows for n in range(written.num_row_groups)] == [3, 1]


def write_pairing(pairs: Path, hash: str) -> None:
    options = {"quadruples": "/home/someone/q.jsonl", "output": "/home/someone/o", "image_root": "/home/someone"}
    options |= {"weights": "/home/someone/models/resnet-50", "references": ["/home/someone/eval.jsonl"], "clusters": 7}
    record = {"options": options, "pairs_hash": hash, "input_hashes": {"quadruples": "ab12"}, "extractor": "resnet50-x"}
    record |= {"random_pair_cosine": {"0.5": 0.25}, "counts": {}, "notices": ["paths are relative to /home/someone"]}
    (pairs.parent / "pairing.json").write_text(json.dumps(record), encoding="utf-8")


def test_the_card_says_what_the_data_is(pairs: Path, tmp_path: Path) -> None:
    write_pairing(pairs, file_hash(pairs))
    licences = {"Some | source": "CC BY 4.0"}
    config = HfDatasetConfig(
        str(pairs),
        str(tmp_path / "out"),
        title="My pairs",
        license="cc-by-4.0",
        source_licenses=licences,
        language=["en"],
    )
    assert write_hf_dataset(config)["notes"] == []
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    data, text = card.data.to_dict(), card.text
    assert (data["pretty_name"], data["license"], data["language"]) == ("My pairs", "cc-by-4.0", ["en"])
    assert data["size_categories"] == ["n<1K"] and "text-to-image" in data["task_categories"]
    assert [one["data_files"] for one in data["configs"]] == [[{"split": "train", "path": "data/train-*"}]]
    for line in (
        "| aligned | 1 |",
        "| retrieved | 3 |",
        "| generation | 4 | 1 |",
        "| t | 4 | 3 |",
        r"| a\|b \`&lt;script&gt;alert(1)&lt;/script&gt;\` \# not \*a\* heading | 0 | 1 |",
        r"| Some \| source | CC BY 4.0 |",
        "| 0.70 to 0.75 | 1 | " + "█" * 40 + " |",
        "0.5: 0.250.",
        f"| pairs.jsonl | {file_hash(pairs)} |",
        "| quadruples (of `pairuni pair`) | ab12 |",
    ):
        assert line in text.splitlines(), line
    assert "/home/someone" not in text and str(tmp_path) not in text
    assert '"weights": "resnet-50"' in text and '"clusters": 7' in text and "eval.jsonl" in text
    shown = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]
    assert set(shown[-1]) == {"weights", "references", "clusters"}  # where the files lay is no property of the data
    assert [example["id"] for example in shown[:-1]] == ["a0", "r0", "r1"]
    columns = {
        name for row in re.findall(r"^\| (`\w+`(?:, `\w+`)?) \|", text, re.MULTILINE) for name in row.split(", ")
    }
    assert {name.strip("`") for name in columns} == set(hf_dataset.features())
    with Image.open(tmp_path / "out" / "similarity.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10


def test_the_card_says_what_is_not_known(pairs: Path, tmp_path: Path) -> None:
    config = HfDatasetConfig(str(pairs), str(tmp_path / "out"), license="other", license_name="Ours")
    assert [note.partition(":")[0] for note in write_hf_dataset(config)["notes"]] == [
        "no pairing.json beside the pairs"
    ]
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "This data set: Ours." in text and "How the pairs were made is not recorded." in text
    assert yaml.safe_load(text.split("---\n")[1])["license_name"] == "Ours"
    write_pairing(pairs, "of another file")
    notes = write_hf_dataset(HfDatasetConfig(str(pairs), str(tmp_path / "out")))["notes"]
    assert len(notes) == 2 and "no license" in notes[0] and "another pairs file" in notes[1]
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "ab12" not in text and "licence of this data set is not stated" in text and "\nlicense" not in text


def test_the_documented_columns_are_the_columns() -> None:
    document = (Path(__file__).parents[2] / "docs" / "gallery.md").read_text(encoding="utf-8")
    columns = document.partition("\nColumns:\n\n")[2].partition("\n\n")[0]
    first = " ".join(re.findall(r"^- (`.*?`): ", columns, re.MULTILINE))
    assert sorted(re.findall(r"`(\w+)`", first)) == sorted(hf_dataset.features())


@pytest.mark.parametrize(
    ("number", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (16_320, "10K<n<100K"), (3_000_000, "n>1M")]
)
def test_size_categories(number: int, size: str) -> None:
    card = ExportCard(HfDatasetConfig("p", "o"), overview([]), None, {"pairs": number}, [])
    assert front_matter(card, "t")["size_categories"] == [size]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_an_earlier_export_is_replaced(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()  # an empty folder will do
    write_hf_dataset(HfDatasetConfig(str(pairs), str(out)))
    shard = out / "data" / "train-00000-of-00009.parquet"
    shard.write_bytes(b"of another shape")
    with pytest.raises(InputError, match="exists, and this command did not write it"):
        write_hf_dataset(HfDatasetConfig(str(pairs), str(out)))
    shard.unlink()
    write_hf_dataset(HfDatasetConfig(str(pairs), str(out)))
    assert [file.name for file in (out / "data").iterdir()] == ["train-00000-of-00001.parquet"]
    (out / "mine.txt").write_text("precious")
    before = contents(out)
    with pytest.raises(InputError, match=r"holds mine\.txt"):
        write_hf_dataset(HfDatasetConfig(str(pairs), str(out)))
    assert contents(out) == before
    other = tmp_path / "other"
    (other / "data").mkdir(parents=True)
    with pytest.raises(InputError, match="not empty and no earlier export"):
        write_hf_dataset(HfDatasetConfig(str(pairs), str(other)))
    write_hf_dataset(HfDatasetConfig(str(pairs), str(out), overwrite=True))
    assert "mine.txt" not in contents(out)


def test_what_is_read_is_never_replaced(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for out in (pairs.parent, tmp_path, "."):
        with pytest.raises(InputError, match="lies in it"):
            write_hf_dataset(HfDatasetConfig(str(pairs), str(out), overwrite=True))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match="lies in it"):
        write_hf_dataset(HfDatasetConfig(str(pairs), ".", overwrite=True))


def test_a_broken_image_is_an_error_that_names_its_line(pairs: Path, tmp_path: Path) -> None:
    (pairs.parent / "images" / "d.webp").write_bytes(b"RIFF")
    pairs.write_text("\n" + pairs.read_text())  # lines are those of the file, blank ones counted
    with pytest.raises(InputError) as error:
        write_hf_dataset(HfDatasetConfig(str(pairs), str(tmp_path / "out")))
    assert str(error.value).startswith(f"{pairs}:4: understand_ann.image_path: ") and "d.webp" in str(error.value)
    (pairs.parent / "images" / "a.jpg").unlink()
    with pytest.raises(InputError, match=r":2: generate_ann\.image_path: .*a\.jpg: no such image"):
        write_hf_dataset(HfDatasetConfig(str(pairs), str(tmp_path / "out")))
    assert [path.name for path in tmp_path.iterdir()] == ["data"]  # nothing half-written


def test_an_interrupted_export_leaves_the_earlier_one(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_hf_dataset(HfDatasetConfig(str(pairs), str(out)))
    before, read = contents(out), folder.load_image

    def stop(path: Path) -> np.ndarray:
        if path.name == "d.webp":
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(folder, "load_image", stop)
    with pytest.raises(KeyboardInterrupt):
        write_hf_dataset(HfDatasetConfig(str(pairs), str(out), title="second"))
    assert contents(out) == before and sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]


def test_images_are_those_of_the_image_root(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (pairs.parent / "images").rename(tmp_path / "root" / "images")
    write_hf_dataset(HfDatasetConfig(str(pairs), str(tmp_path / "out"), image_root=str(tmp_path / "root")))
    shown = pyarrow.parquet.read_table(tmp_path / "out" / "data").to_pylist()[1]["understand_image"]
    assert shown["path"] == "b.png" and Image.open(io.BytesIO(shown["bytes"])).size == (50, 30)
