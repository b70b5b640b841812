"""Exports that differ are never read as one another, whatever their folders are called and whatever was read before."""

import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image

from pairuni.config import HfDatasetConfig
from pairuni.export.hf_dataset import write_hf_dataset
from pairuni.files import write_jsonl


def pairs(folder: Path, caption: str, shade: int) -> Path:
    """One aligned pair of a flat image."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(folder / "a.png")
    half = {"image_path": "a.png", "prompt": caption, "question": "Is it? A. yes B. no", "answer": "A"}
    write_jsonl(folder / "pairs.jsonl", [{"similarity": 1.0, "generate_ann": half, "understand_ann": half}])
    return folder / "pairs.jsonl"


def read(folder: Path, cache: Path, **options) -> tuple[str, int]:
    row = datasets.load_dataset(str(folder), split="train", cache_dir=str(cache), **options)[0]
    return row["generate_prompt"], int(np.asarray(row["generate_image"])[0, 0, 0])


def name(folder: Path) -> str:
    front = (folder / "README.md").read_text(encoding="utf-8").split("---")[1]
    return yaml.safe_load(front)["configs"][0]["config_name"]


@pytest.fixture
def write(tmp_path: Path):
    def write(place: str, caption: str, shade: int) -> Path:
        file = pairs(tmp_path / f"source_{caption}_{shade}", caption, shade)
        write_hf_dataset(HfDatasetConfig(str(file), str(tmp_path / place / "hf")))
        return tmp_path / place / "hf"

    return write


def test_two_folders_of_one_name(write, tmp_path: Path) -> None:
    first, second = write("a", "red", 10), write("b", "blue", 20)
    assert read(first, tmp_path / "cache") == ("red", 10)
    assert read(second, tmp_path / "cache") == ("blue", 20)
    assert read(first, tmp_path / "cache") == ("red", 10)


@pytest.mark.parametrize(("caption", "shade"), [("blue", 10), ("red", 20)], ids=["other text", "other pixels"])
def test_one_that_was_exported_again(write, tmp_path: Path, caption: str, shade: int) -> None:
    folder = write("a", "red", 10)
    assert read(folder, tmp_path / "cache") == ("red", 10)
    assert write("a", caption, shade) == folder
    assert read(folder, tmp_path / "cache") == (caption, shade)


def test_equal_content_has_one_name_wherever_it_lies(write, tmp_path: Path) -> None:
    folder = write("a", "red", 10)
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert name(write("b", "red", 10)) == name(folder) == name(tmp_path / "elsewhere") != name(write("c", "blue", 10))
    assert read(folder, tmp_path / "cache", name=name(folder)) == ("red", 10)
