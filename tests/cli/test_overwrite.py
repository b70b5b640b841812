"""No command replaces a file that it did not write, or that was edited since, unless it is told to."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pairuni.cli.main import main
from pairuni.errors import InputError
from pairuni.files import locked, put, write_text, writing
from pairuni.outputs import RECORD, Outputs

COMMANDS: dict[str, tuple[list[str], list[str]]] = {
    "shapes": (
        ["--output", "out", "--understanding", "4", "--generation", "4"],
        ["generation.jsonl", "understanding.jsonl"],
    ),
    "complete": (
        ["--understanding", "data/understanding.jsonl", "--generation", "data/generation.jsonl", "--output", "out"],
        ["quadruples.jsonl", "rejected.jsonl", "completion.json"],
    ),
    "pair": (
        ["--quadruples", "data/quadruples.jsonl", "--output", "out", "--extractor", "colour_hog", "--clusters", "2"],
        ["pairs.jsonl", "removed.jsonl", "unmatched.jsonl", "pairing.json"],
    ),
    "analyse pairs": (["data/pairs.jsonl", "--out", "out/page.html"], ["page.html"]),
    "analyse gradients": (["data/run.yaml", "--output", "out"], ["gradients.json", "gradients.png", "settings.json"]),
    "analyse ablations": (["pairing", "--output", "out"], ["pairing.md", "pairing.json", "pairing.svg"]),
    "export hf-dataset": (["data/pairs.jsonl", "--output", "out"], ["README.md", "notes.txt"]),
    "export verl-omni": (["data/pairs.jsonl", "--output", "out"], ["understanding.parquet", "notes.txt"]),
    "export unirl": (["data/pairs.jsonl", "--output", "out"], ["understanding.jsonl", "notes.txt"]),
    "report": (["data/eval.json", "--out", "out/page.html"], ["page.html"]),
    "sample": (["--prompt", "a red circle", "--output", "out/drawn.png"], ["drawn.png"]),
    "smoke": (["--output", "out"], ["smoke.json", "smoke.html"]),
    "eval": (["--output", "out", "--benchmarks", "shapes_understanding"], ["eval.json", "eval_state.json"]),
    "train": (
        ["--config", "data/run.yaml"],
        ["config.yaml", "environment.json", "inputs.json", "eval.json", "report.html"],
    ),
    "demo": (["--output", "out"], ["config.yaml", "report.html"]),
    "pretrain": (["--output", "out"], ["model.safetensors", "config.json", "pretrain.json", "README.md"]),
    "tiny": (["--output", "out"], ["model.safetensors", "tokenizer.json"]),
}  # fmt: skip
EXPORTS = ("export hf-dataset", "export verl-omni", "export unirl")
RERUN = ("shapes", "complete", "pair", "analyse pairs", "report", *EXPORTS)
"""Those that take no model, and are run to their end."""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes_data: Path) -> Path:
    """The current folder, with data/ to read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(shapes_data)
    return tmp_path


@pytest.fixture(scope="module")
def shapes_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    size = ["--understanding", "12", "--generation", "12"]
    assert main(["shapes", "--output", str(folder), *size]) == 0
    sources = [f"--{side}={folder / side}.jsonl" for side in ("understanding", "generation")]
    assert main(["complete", *sources, "--output", str(folder)]) == 0
    made = ["--quadruples", str(folder / "quadruples.jsonl"), "--output", str(folder)]
    assert main(["pair", *made, "--extractor", "colour_hog", "--clusters", "4"]) == 0
    (folder / "run.yaml").write_text("output: out\ndata:\n  pairs: data/pairs.jsonl\n")
    entry = {"score": 1.0, "unit": "per cent", "stderr": 0.0, "n": 1, "protocol": "p", "judge": None, "unparsed": 0}
    (folder / "eval.json").write_text(
        json.dumps({"model": "m", "config_hash": "", "benchmarks": {"a": {**entry, "parts": {}}}})
    )
    return folder


def run(name: str, *more: str) -> int:
    return main([*name.split(), *COMMANDS[name][0], *more])


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("name", "file"), [(name, file) for name, (_, files) in COMMANDS.items() for file in files])
def test_a_file_of_someone_elses_is_left(
    name: str, file: str, world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: object, **options: object) -> None:
        raise AssertionError("a model was loaded before the file was seen")

    monkeypatch.setattr("pairuni.policies.janus.load.load_janus", load)
    place = world / "out" / file
    place.parent.mkdir(parents=True)
    place.write_text("by hand")
    assert run(name) == 2
    said = capsys.readouterr().err
    assert f"out/{file}" in said or name.startswith("export"), said
    assert "overwrite" in said and "Traceback" not in said
    assert tree(world / "out") == {file: b"by hand"}


@pytest.mark.parametrize("name", RERUN)
def test_own_files_are_replaced_edited_ones_are_not(name: str, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name) == 0 and run(name) == 0
    place = world / "out" / COMMANDS[name][1][0]
    written = place.read_bytes()
    with place.open("ab") as file:
        file.write(b"\n")
    edited = tree(world / "out")
    assert run(name) == 2
    said = capsys.readouterr().err
    assert str(Path("out") / COMMANDS[name][1][0]) in said and "edited" in said and "overwrite" in said
    assert tree(world / "out") == edited
    assert run(name, "--overwrite") == 0 and place.read_bytes() == written
    assert run(name) == 0


@pytest.mark.parametrize("name", ["smoke", "eval", "pretrain", "train", "sample", "tiny"])
def test_overwrite_goes_on_to_the_model(name: str, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reached(Exception):
        pass

    def load(*arguments: object, **options: object) -> None:
        raise Reached

    for place in (
        "pairuni.policies.janus.load.load_janus",
        "pairuni.lab.pretrain.make_janus.build_janus",
        "pairuni.tiny.write_tiny.build_janus",
    ):
        monkeypatch.setattr(place, load)
    place = world / "out" / COMMANDS[name][1][0]
    place.parent.mkdir(parents=True)
    place.write_text("by hand")
    with pytest.raises(Reached):
        run(name, "--overwrite")
    assert place.read_text() == "by hand", "nothing is lost before there is something in its place"


def test_complete_keeps_a_hand_made_image(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world / "tar").mkdir()
    rows = [{"id": "a", "question": "Q? A. x B. y", "answer": "A"}]
    import datasets

    table = {name: [row[name] for row in rows] for name in rows[0]}
    image = {"bytes": (world / "data" / "images" / "u00000.png").read_bytes(), "path": "a.png"}
    whole = datasets.Dataset.from_dict({**table, "image": [image]}).cast_column("image", datasets.Image())
    whole.to_parquet(world / "tar" / "x.parquet")
    run = [
        "complete",
        "--understanding",
        str(world / "tar"),
        "--generation",
        "data/generation.jsonl",
        "--output",
        "out",
    ]
    generation = world / "out" / "images" / "generation" / "g00000.png"
    generation.parent.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(generation)
    mine = generation.read_bytes()
    assert main(run) == 2
    assert "g00000.png" in capsys.readouterr().err and generation.read_bytes() == mine
    assert main([*run, "--overwrite"]) == 0 and generation.read_bytes() != mine
    assert main(run) == 0


def test_a_killed_command_finds_its_own_files_again(tmp_path: Path) -> None:
    """Whatever the moment: the record comes before the file."""
    script = (
        "import os, sys\nfrom pathlib import Path\nimport pairuni.files as files\n"
        "replace, done = os.replace, []\n"
        "def killed(a, b):\n    done.append(b)\n    replace(a, b)\n    len(done) == int(sys.argv[2]) and os._exit(9)\n"
        "os.replace = killed\n"
        "with files.writing(Path(sys.argv[1]), 'x', ['a', 'b'], False):\n"
        "    files.write_text(Path(sys.argv[1]) / 'a', sys.argv[2])\n"
        "    files.write_text(Path(sys.argv[1]) / 'b', sys.argv[2])\n"
    )
    for moment in ("1", "2", "3", "4", "99"):
        ended = subprocess.run([sys.executable, "-c", script, str(tmp_path), moment], check=False).returncode
        assert ended == (0 if moment == "99" else 9)
    assert tree(tmp_path)["a"] == b"99" and "lock" not in tree(tmp_path)


def test_names_reach_as_far_as_they_say(tmp_path: Path) -> None:
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    for name in ("a.txt", "sub/a.txt", "sub/deep/a.txt"):
        (tmp_path / name).write_text("mine")
    Outputs(tmp_path, "x", ["b*"])
    for name, found in (("*.txt", "a.txt"), ("sub/*", "sub/a.txt"), ("sub/deep/**", "deep/a.txt")):
        with pytest.raises(InputError, match=f"{found}: exists, and this command did not write it"):
            Outputs(tmp_path, "x", [name])
    with writing(tmp_path, "x", [], False, many=["sub/*"]):
        write_text(tmp_path / "other.txt", "not its own")
        with pytest.raises(InputError, match=r"sub/a.txt"):
            put(tmp_path / "sub" / "a.txt", b"new")
        put(tmp_path / "sub" / "b.txt", b"new")
    assert json.loads((tmp_path / RECORD).read_text())["x"].keys() == {"sub/b.txt"}


def test_another_commands_file_is_not_its_own(tmp_path: Path) -> None:
    for command in ("x", "x"):
        with writing(tmp_path, command, ["a"], False):
            write_text(tmp_path / "a", command)
    with pytest.raises(InputError, match="this command did not write it"), writing(tmp_path, "y", ["a"], False):
        pass


HELD = ("shapes", "complete", "pair", "smoke", "eval", "pretrain", "tiny", "analyse gradients", "analyse ablations")


@pytest.mark.parametrize("name", [*HELD, *EXPORTS])
def test_a_folder_that_another_process_holds_is_left(
    name: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(world / "out", beside=name.startswith("export")):
        assert run(name) == 2
    said = capsys.readouterr().err
    assert "another process is at work here" in said and "out" in said
    assert not (world / "out").exists() or not tree(world / "out")


def test_a_lock_leaves_nothing_behind_and_takes_no_file(tmp_path: Path) -> None:
    with locked(tmp_path / "deep" / "out"), pytest.raises(InputError), locked(tmp_path / "deep" / "out"):
        pass
    assert not (tmp_path / "deep").exists()
    (tmp_path / "lock").write_text("my notes")
    with locked(tmp_path):
        pass
    assert (tmp_path / "lock").read_text() == "my notes"


def test_one_process_at_a_time_though_locks_are_removed(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom pairuni.files import locked\n"
        "from pairuni.errors import InputError\n"
        "here = Path(sys.argv[1])\n"
        "for _ in range(200):\n"
        "    try:\n        with locked(here / 'out'):\n"
        "            (here / 'inside').mkdir()\n            (here / 'inside').rmdir()\n"
        "    except InputError:\n        pass\n"
    )
    going = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in going] == [0, 0, 0]
