"""Shipped configs make their own data, once, and never take other data for it; a run says at its end what it did."""

from pathlib import Path

import pytest

from pairuni.cli.commands import demo_config
from pairuni.cli.main import main
from pairuni.cli.options import parse_config
from pairuni.config import TrainConfig
from pairuni.files import read_json, write_json
from pairuni.shapes_data import make_data
from pairuni.trainer import Trainer

SHAPES = sorted((Path(__file__).parents[2] / "configs" / "shapes").glob("*.yaml"))
SMALL = ["--data.shapes", "12", "--data.batch", "2", "--rollout.rollouts", "2", "--rollout.max_new_tokens", "3"]
SMALL += ["--steps", "1", "--eval.questions", "6", "--eval.prompts", "6"]


def arguments(file: Path, model: Path) -> list[str]:
    return ["--config", str(file), *SMALL, "--model.path", str(model), "--model.device", "cpu"]


@pytest.mark.parametrize("file", SHAPES, ids=lambda f: f.stem)
def test_a_shipped_config_makes_its_data(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = parse_config(TrainConfig, ["--config", str(file)], "train")
    assert config.data.shapes == (3000 if file.stem == "full" else 600)
    own = file.stem in ("full", "dimoo_demo")
    assert config.data.pairs == f"runs/{file.stem if own else 'demo'}/data/pairs.jsonl"
    config = parse_config(TrainConfig, ["--config", str(file), "--data.shapes", "12"], "train")
    make_data(config.data, config.seed)
    data = Path(config.data.pairs).parent
    assert read_json(data / "shapes.json") == {"shapes": 12, "seed": 0}
    assert main(["check", str(data / "pairs.jsonl")]) == 0


def test_train_from_nothing_and_its_closing_lines(
    tmp_path: Path, tiny_janus_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train = ["train", *arguments(SHAPES[0].with_name("full.yaml"), tiny_janus_folder)]
    assert main(train) == 0
    said = capsys.readouterr().out
    assert "writing 12 understanding and 12 generation images to runs/full/data" in said
    for side in ("understanding", "generation"):
        assert f"{side} reward, first -> last tenth of the steps: " in said
    assert said.count("missing rewards: 0") == 2
    end = said[said.index("1 steps are done") :]
    assert "checkpoint: runs/full/checkpoints/step_000001\n" in end and "before -> after" in end
    assert end.count("(+") + end.count("(-") == 3  # the change of each benchmark
    assert end.endswith("runs/full/report.html\n")
    pairs = Path("runs/full/data/pairs.jsonl")
    before = pairs.stat().st_mtime_ns
    assert main(train) == 0 and pairs.stat().st_mtime_ns == before
    assert "writing" not in capsys.readouterr().out
    # Continued without an evaluation, the last one is no longer that of the end.
    assert main([*train, "--steps", "2", "--log.eval_every", "0"]) == 0
    said = capsys.readouterr().out
    assert "2 steps are done" in said and "before -> after" not in said


def test_data_of_another_seed_or_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(*options: str) -> int:
        def fit(trainer: Trainer) -> None:
            make_data(trainer.config.data, trainer.config.seed)

        monkeypatch.setattr("pairuni.trainer.Trainer.fit", fit)
        return main(["demo", "--output", str(tmp_path / "run"), *options])

    record = tmp_path / "run" / "data" / "shapes.json"
    assert make("--samples", "12", "--seed", "3") == 0
    assert read_json(record) == {"shapes": 12, "seed": 3}
    assert make("--samples", "12", "--seed", "3") == 0
    capsys.readouterr()
    assert make("--samples", "13", "--seed", "3") == 2
    assert f"{record}: shapes: is 12 for the data here, but 13 for this run" in capsys.readouterr().err
    assert make("--samples", "12") == 2
    assert f"{record}: seed: is 3 for the data here, but 0 for this run" in capsys.readouterr().err
    assert make("--samples", "0") == 2 and make("--samples", "9") == 2
    # Stopped before the pairs were written: nothing to refuse, it is made again.
    (record.parent / "pairs.jsonl").unlink()
    assert make("--samples", "13") == 0
    assert read_json(record) == {"shapes": 13, "seed": 0}


def test_the_demo_takes_the_seed_of_its_config(tmp_path: Path) -> None:
    text = SHAPES[0].with_name("demo.yaml").read_text(encoding="utf-8")
    (tmp_path / "c.yaml").write_text(f"seed: 7\n{text}", encoding="utf-8")
    assert demo_config(tmp_path, str(tmp_path / "c.yaml"), []).seed == 7
    assert demo_config(tmp_path, str(tmp_path / "c.yaml"), ["--seed", "0"]).seed == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--data.image_root", "elsewhere"], "data.image_root"),
        (["--data.pairs", "data/other.jsonl"], "data.pairs"),
        (["--data.pairs", "data/pairs.jsonl"], "data/understanding.jsonl"),
    ],
)
def test_nothing_of_the_users_is_written_over(
    options: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_json("data/understanding.jsonl", {"mine": 1})
    assert main(["train", "--config", str(SHAPES[0]), *options]) == 2
    assert named in capsys.readouterr().err
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")] == ["data/understanding.jsonl"]


def test_pairs_of_the_users_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_json("mine/pairs.jsonl", {"no": "pair"})
    config = parse_config(TrainConfig, ["--config", str(SHAPES[0]), "--data.pairs", "mine/pairs.jsonl"], "train")
    make_data(config.data, config.seed)
    assert [p.name for p in Path("mine").iterdir()] == ["pairs.jsonl"]
    with pytest.raises(ValueError, match=r"pairs\.jsonl:1"):
        Trainer(config).fit()
