"""`pairuni analyse` and `pairuni export` from the command line: what they print, and each mistake as one message."""

import json
from pathlib import Path

import pytest
from PIL import Image

from pairuni.cli.main import main
from pairuni.cli.options import with_first

HALF = {
    "id": "q",
    "side": "generation",
    "image_path": "a.png",
    "prompt": "p",
    "question": "q? A. x B. y",
    "answer": "A",
}
PAIR = {"id": "p", "kind": "aligned", "similarity": 1.0, "generate_ann": HALF, "understand_ann": HALF}
LEFT = {"id": "l", "image_path": "a.png", "reason": "why"}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    lines(tmp_path / "pairs.jsonl", PAIR)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(path: Path, *rows: object) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_the_gallery_command(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("r1", "r2"):
        lines(world / f"{name}.jsonl", LEFT, {**LEFT, "id": "m"}, {**LEFT, "id": "n"})
    arguments = ["pairs.jsonl", "--rejected", "r1.jsonl", "r2.jsonl", "--limit", "4", "--out", "page.html"]
    assert main(["analyse", "pairs", *arguments]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "pairs: 1; rejected: 4 of 6" and printed[-1] == "page.html"
    assert printed[1].startswith("note: 4 of 6 rejected") and "No pairing.json" in printed[2]
    assert (world / "page.html").is_file() and not (world / "gallery.html").exists()
    (world / "gallery.yaml").write_text("pairs: pairs.jsonl\nrejected: [r1.jsonl]\n")
    assert main(["analyse", "pairs", "--config", "gallery.yaml"]) == 0
    assert "rejected: 3\n" in capsys.readouterr().out and (world / "gallery.html").is_file()


def test_the_export_command(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["pairs.jsonl", "--output", "out", "--license", "mit", "--language", "en", "de"]
    assert main(["export", "hf-dataset", *arguments, "--source_licenses", '{"Mine": "MIT"}']) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("1 pairs in 1 parquet file, 0.0 MB") and printed[-1] == "out" and len(printed) == 3
    card = (world / "out" / "README.md").read_text()
    assert "language:\n- en\n- de\n" in card and "| Mine | MIT |" in card


@pytest.mark.parametrize("form", ["verl-omni", "unirl"])
def test_the_exports_for_trainers(form: str, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    retrieved = {**PAIR, "id": "r", "kind": "retrieved", "similarity": 0.64}
    lines(world / "pairs.jsonl", PAIR, retrieved)
    assert main(["export", form, "pairs.jsonl", "--output", "out"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "2 pairs (1 aligned), one row per side, 0.0 MB" and printed[-1] == "out"
    assert printed[1].startswith("weights (sqrt): 0.800 to 1.000, mean 0.900;") and len(printed) == 3
    (world / "o.yaml").write_text("pairs: pairs.jsonl\noutput: out\nweighting: linear\n")
    assert main(["export", form, "--config", "o.yaml"]) == 0
    assert "weights (linear): 0.640 to 1.000" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["analyse", "export"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    part = {"analyse": "pairs", "export": "hf-dataset"}[command]
    assert main([command, "--help"]) == 0
    assert part in capsys.readouterr().out
    assert main([command, part, "--help"]) == 0
    assert "--image_root" in capsys.readouterr().out


def test_words_of_a_command_line() -> None:
    assert with_first(["f", "--x", "1"], "pairs") == ["--pairs", "f", "--x", "1"]
    assert with_first(["--r", "a"], "pairs") == ["--r", "a"]
    assert with_first([], "pairs") == []


GALLERY, EXPORT = ["analyse", "pairs", "pairs.jsonl"], ["export", "hf-dataset", "pairs.jsonl", "--output", "out"]
CASES = {
    "analyse nothing": ({}, ["analyse"], ["usage: pairuni analyse pairs"]),
    "analyse something else": ({}, ["analyse", "pears"], ["'pears'", "usage"]),
    "export something else": ({}, ["export", "coco"], ["'coco'", "hf-dataset|verl-omni|unirl"]),
    "export of no such weights": (
        {},
        ["export", "unirl", "pairs.jsonl", "--output", "out", "--weighting", "cube"],
        ["weighting", "cube"],
    ),
    "export of no data source": (
        {},
        ["export", "verl-omni", "pairs.jsonl", "--output", "out", "--data_source", ""],
        ["data_source: must not be empty"],
    ),
    "export for a trainer over the data": (
        {},
        ["export", "unirl", "pairs.jsonl", "--output", ".", "--overwrite"],
        ["pairs.jsonl lies in it"],
    ),
    "gallery of nothing": ({}, ["analyse", "pairs"], ["pairs"]),
    "gallery of no file": ({}, ["analyse", "pairs", "none.jsonl"], ["none.jsonl", "no such file"]),
    "gallery of two files": ({}, [*GALLERY, "more.jsonl"], ["more.jsonl", "unknown option"]),
    "unknown option": ({}, [*GALLERY, "--limits", "3"], ["--limits"]),
    "negative limit": ({}, [*GALLERY, "--limit", "-1"], ["limit: must not be negative"]),
    "no thumbnails": ({}, [*GALLERY, "--thumbnail", "0"], ["thumbnail: must be positive"]),
    "negative seed": ({}, [*GALLERY, "--seed", "-1"], ["seed: must not be negative"]),
    "broken pair": (
        {"pairs.jsonl": [PAIR, {**PAIR, "id": "q", "similarity": 2}]},
        GALLERY,
        ["pairs.jsonl:2", "similarity"],
    ),
    "removed without a reason": (
        {"removed.jsonl": [LEFT, {"id": "m", "image_path": "a.png"}]},
        GALLERY,
        ["removed.jsonl:2: reason:"],
    ),
    "unmatched with an empty reason": (
        {"unmatched.jsonl": [{**LEFT, "reason": " "}]},
        GALLERY,
        ["unmatched.jsonl:1: reason: is empty"],
    ),
    "unmatched of an unknown side": (
        {"unmatched.jsonl": [{**LEFT, "side": "left"}]},
        GALLERY,
        ["unmatched.jsonl:1: side:"],
    ),
    "removed path upwards": (
        {"removed.jsonl": [{**LEFT, "image_path": "../a.png"}]},
        GALLERY,
        ["removed.jsonl:1: image_path:", "relative path inside"],
    ),
    "similarity that is no number": (
        {"removed.jsonl": [{**LEFT, "similarity": "high"}]},
        GALLERY,
        ["removed.jsonl:1: similarity:"],
    ),
    "no such rejected file": ({}, [*GALLERY, "--rejected", "none.jsonl"], ["none.jsonl", "no such file"]),
    "broken pairing.json": ({"pairing.json": [{"counts": [1]}]}, GALLERY, ["pairing.json: counts:"]),
    "quantiles that are words": (
        {"pairing.json": [{"random_pair_cosine": {"0.5": "x"}}]},
        GALLERY,
        ["pairing.json: random_pair_cosine.0.5:"],
    ),
    "page in a folder's place": ({}, [*GALLERY, "--out", "."], ["is a folder"]),
    "page over the pairs": (
        {},
        [*GALLERY, "--out", "pairs.jsonl"],
        ["pairs.jsonl", "one of the files that the page shows"],
    ),
    "page in a file": ({}, [*GALLERY, "--out", "a.png/page.html"], ["a.png", "not a folder"]),
    "no such image root": ({}, [*GALLERY, "--image_root", "nowhere"], ["image_root: nowhere is not a folder"]),
    "export without a folder": ({}, EXPORT[:3], ["output"]),
    "export into a file": ({}, [*EXPORT[:3], "--output", "a.png"], ["a.png", "is a file"]),
    "export of a missing image": (
        {
            "pairs.jsonl": [
                PAIR,
                {**PAIR, "id": "q", "generate_ann": {**HALF, "image_path": "b.png"}, "kind": "retrieved"},
            ]
        },
        EXPORT,
        ["pairs.jsonl:2: generate_ann.image_path:", "b.png: no such image"],
    ),
    "export over the data": ({}, [*EXPORT[:3], "--output", ".", "--overwrite"], ["pairs.jsonl lies in it"]),
    "licence that is a sentence": ({}, [*EXPORT, "--license", "Free for all"], ["license: must be an identifier"]),
    "name of a known licence": (
        {},
        [*EXPORT, "--license", "mit", "--license_name", "MIT"],
        ["license_name: is only for"],
    ),
    "link of no licence": ({}, [*EXPORT, "--license_link", "https://x.org"], ["license_link: is only for"]),
    "other licence without a name": ({}, [*EXPORT, "--license", "other"], ["license_name: is needed"]),
    "language that is a word": ({}, [*EXPORT, "--language", "English"], ["language: must be codes"]),
    "empty shards": ({}, [*EXPORT, "--shard_mb", "0"], ["shard_mb: must be positive"]),
}


@pytest.mark.parametrize("name", CASES)
def test_one_clear_message(name: str, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, arguments, expected = CASES[name]
    for file, rows in files.items():
        lines(world / file, *rows)
    before = {path: path.read_bytes() for path in world.rglob("*")}
    assert main(arguments) == 2
    message = [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith("export: ")]
    assert len(message) == 1 and message[0].startswith(f"pairuni {arguments[0]}: "), message
    for part in expected:
        assert part in message[0]
    assert {path: path.read_bytes() for path in world.rglob("*")} == before
