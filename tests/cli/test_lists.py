"""Lists are written a,b or [a, b] or as words, on the command line, in YAML and in Python, and are stored one way."""

from dataclasses import MISSING, asdict
from pathlib import Path
from typing import Any, get_origin

import pytest
import yaml

from pairuni import config
from pairuni.cli.help import CONFIGS, Option, options_of
from pairuni.cli.options import parse_config
from pairuni.config import EvalConfig, PairConfig, RewardConfig, TrainConfig
from pairuni.errors import InputError
from pairuni.runs import RunDir

NEEDED = {"output": "o", "suite": "pairing", "pairs": "p", "quadruples": "q", "run": "r"}
NEEDED |= {"understanding": "u", "generation": "g"}
VALUES = {
    "log.trackers": ["wandb", "trackio"],
    "mixes": ["pairs", "unpaired"],
    "suite": ["pairing", "weighting"],
    "language": ["en", "de"],
    "benchmarks": ["pope", "mme"],
    "eval.benchmarks": ["pope", "mme"],
    "question_types": ["count", "colour"],
    "tasks": ["single", "two"],
}
LISTS = [
    (name, option.name)
    for name, (cls, _) in CONFIGS.items()
    for option in options_of(vars(config)[cls])
    if get_origin(option.kind) is list
]


def _has_default(option: Option) -> bool:
    return option.field.default is not MISSING or option.field.default_factory is not MISSING


def parsed(command: str, option: str, words: list[str], text: str | None, folder: Path) -> Any:
    cls = vars(config)[CONFIGS[command][0]]
    owners = [o.name for o in options_of(cls) if o.name in NEEDED and not _has_default(o)]
    needed = [name for name in owners if name != option] + ["data.pairs"] * (cls is config.PlanConfig)
    arguments = [a for name in needed for a in (f"--{name}", NEEDED.get(name, "p"))]
    if option == "model.lora.layers":
        arguments += ["--model.lora.rank", "2"]
    if text is not None:
        (folder / "c.yaml").write_text(text, encoding="utf-8")
        arguments += ["--config", str(folder / "c.yaml")]
    found = parse_config(cls, [*arguments, *words], command)
    for part in option.split("."):
        found = getattr(found, part)
    return found


def test_there_are_lists() -> None:
    assert len(LISTS) > 12 and ("train", "rewards.generation") in LISTS and ("eval", "benchmarks") in LISTS


@pytest.mark.parametrize(("command", "option"), LISTS)
def test_every_list_is_written_in_every_way(command: str, option: str, tmp_path: Path) -> None:
    a, b = values = VALUES.get(option, ["sharpness", "brightness"])
    ways = ([a, b], [f"{a},{b}"], [f"{a}, {b}"], [f"[{a}, {b}]"], [f'["{a}","{b}"]'], [f"[{a},", f"{b}]"])
    for way in ways:
        assert parsed(command, option, [f"--{option}", *way], None, tmp_path) == values, way
    assert parsed(command, option, [f"--{option}={a},{b}"], None, tmp_path) == values
    *groups, name = option.split(".")
    indents = ["  " * n for n in range(len(groups) + 2)]
    head = "".join(f"{indents[n]}{group}:\n" for n, group in enumerate(groups)) + f"{indents[len(groups)]}{name}:"
    lines = f"\n{indents[-1]}- {a}\n{indents[-1]}- {b}"
    for written in (f" {a},{b}", f" {a}, {b}  # two", f' "{a}, {b}"', f" [{a}, {b}]", lines):
        assert parsed(command, option, [], f"{head}{written}\n", tmp_path) == values, written
    assert parsed(command, option, [f"--{option}", a], None, tmp_path) == [a]


def test_python_too() -> None:
    assert RewardConfig(generation="shapes, brightness", held_out="sharpness").generation == ["shapes", "brightness"]
    assert EvalConfig(benchmarks="pope,mme") == EvalConfig(benchmarks=["pope", "mme"])


@pytest.mark.parametrize("written", ["count,colour", "[count, colour]", '"count, colour"'])
def test_the_lists_of_a_mapping_too(written: str, tmp_path: Path) -> None:
    text = f"understanding: u\ngeneration: g\noutput: o\nunderstanding_source:\n  skip:\n    ability: {written}\n"
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    found = parse_config(config.CompleteConfig, ["--config", str(tmp_path / "c.yaml")], "complete")
    assert found.understanding_source.skip == {"ability": ["count", "colour"]}


def test_the_resolved_config_has_them_one_way(tmp_path: Path) -> None:
    def written(*words: str) -> str:
        run = RunDir(tmp_path)
        arguments = ["--output", "o", "--data.pairs", "p", "--eval.benchmarks", *words]
        run.write_config(asdict(parse_config(TrainConfig, arguments, "train")))
        return run.config.read_text(encoding="utf-8")

    assert written("pope", "mme") == written("pope,mme") == written("[pope, mme]")
    assert yaml.safe_load(written("pope,mme"))["eval"]["benchmarks"] == ["pope", "mme"]
    assert parse_config(TrainConfig, ["--config", str(tmp_path / "config.yaml")], "train").eval.names == ["pope", "mme"]


def test_a_file_keeps_its_lines_and_other_values(tmp_path: Path) -> None:
    text = (
        "quadruples: q\noutput: o\nreferences: a.jsonl, b.jsonl\nsimilarity_floor: 1e-1\ndedup: exact\nclusters: many\n"
    )
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        parse_config(PairConfig, ["--config", str(tmp_path / "c.yaml")], "pair")
    assert (error.value.line, error.value.field) == (6, "clusters")
    (tmp_path / "c.yaml").write_text(text.replace("clusters: many\n", ""), encoding="utf-8")
    found = parse_config(PairConfig, ["--config", str(tmp_path / "c.yaml")], "pair")
    assert found.references == ["a.jsonl", "b.jsonl"] and found.similarity_floor == 0.1
