"""Progress: a bar on a terminal alone, plain lines elsewhere, nothing where that is asked for."""

import io
import re
import sys
from pathlib import Path

import pytest

from pairuni import progress
from pairuni.cli.main import main
from pairuni.config import ShapesConfig
from pairuni.shapes.world import recipe, write_world
from pairuni.stages import run_complete, run_pair

SOURCE = Path(progress.__file__).parent


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_console", "bar")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_world(world := ShapesConfig(str(folder), 12, 12))
    complete, pair = recipe(world)
    run_complete(complete)
    run_pair(pair)
    return folder / "pairs.jsonl"


def trained(pairs: Path, model: Path, output: Path, *more: str) -> int:
    options = ["--data.pairs", str(pairs), "--data.batch", "2", "--rollout.rollouts", "2"]
    options += ["--rollout.max_new_tokens", "2", "--log.samples_every", "0", "--output", str(output)]
    options += ["--model.path", str(model), "--model.device", "cpu", "--steps", "3"]
    return main(["train", *options, *more])


def test_a_log_has_one_plain_line_per_step(
    pairs: Path, tiny_janus_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    evaluated = ["--log.eval_every", "3", "--eval.questions", "4", "--eval.prompts", "4"]
    assert trained(pairs, tiny_janus_folder, tmp_path / "r", *evaluated) == 0
    out, err = capfd.readouterr()
    for stream in (out, err):
        assert not re.search("[\r\x1b]", stream) and "%|" not in stream
    steps = [line for line in err.splitlines() if line.startswith("train: ")]
    assert [line.split()[1] for line in steps] == ["1/3", "2/3", "3/3"]
    assert all(re.fullmatch(r"train: \d/3 steps, \S+<\S+, reward u \S+ g \S+, \S+ s", line) for line in steps), steps
    assert "shapes_generation" in out


def test_quiet_has_none(
    pairs: Path, tiny_janus_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert trained(pairs, tiny_janus_folder, tmp_path / "q", "--log.console", "quiet") == 0
    out, err = capfd.readouterr()
    assert "train:" not in err and "3 steps are done" in out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_a_bar_unless_lines_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    assert list(progress.track(range(3), "train", unit="step", each=True)) == [0, 1, 2]
    assert "\r" in stream.getvalue() and "100%|" in stream.getvalue()
    progress.set_console("lines")
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    assert list(progress.track(range(3), "train", unit="step", each=True)) == [0, 1, 2]
    assert stream.getvalue().count("\n") == 3 and "\r" not in stream.getvalue()


def lines(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_other_work_says_how_far_it_is_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = lines(monkeypatch)
    assert list(progress.track(range(1000), "hashes", unit="image")) == list(range(1000))
    assert re.fullmatch(r"hashes: 1000/1000 images, \S+<\S+\n", stream.getvalue())
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    for n in progress.track(range(3), "pairs", unit="pair"):
        progress.say(f"seen {n}")
    assert [line.split()[:2] for line in stream.getvalue().splitlines()[1:]][-1] == ["pairs:", "3/3"]


def test_what_leaves_nothing_and_what_is_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = lines(monkeypatch)
    for options in ({"leave": False}, {"disable": True}):
        with progress.track(desc="questions", total=5, unit="item", **options) as bar:
            bar.update(5)
    progress.set_console("quiet")
    assert list(progress.track([1], "x")) == [1] and stream.getvalue() == ""


def test_continued_work_begins_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = lines(monkeypatch)
    with progress.track(desc="train", total=5, initial=3, unit="step", each=True) as bar:
        for _ in range(2):
            bar.set_postfix_str("reward u 0.1")
            bar.update()
    assert [line.split(",")[0] for line in stream.getvalue().splitlines()] == ["train: 4/5 steps", "train: 5/5 steps"]
    assert "reward u 0.1" in stream.getvalue()


def test_there_is_no_other_bar() -> None:
    others = [path for path in SOURCE.rglob("*.py") if re.search(r"\btqdm\b", path.read_text("utf-8"))]
    assert others == [SOURCE / "progress.py"]
