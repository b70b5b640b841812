"""What README and docs name is there: commands of every program, options, metric keys, functions, tests, defaults.

test_docs.py has what `pairuni` itself is asked to do; this file has everything else that is written as code.
"""

import argparse
import ast
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from pairuni import config
from pairuni.cli.main import COMMANDS
from pairuni.config.fields import bare
from pairuni.policies.base import Policy, Sampler, Scorer, Trainable
from pairuni.rewards import REWARDS
from test_docs import DOCS, FENCE, ROOT, fences, keys, pairuni_arguments, prose, shell_lines

PITFALLS, PAPER_MAP = ROOT / "docs" / "pitfalls.md", ROOT / "docs" / "paper-map.md"
# Options of programs that are not ours, and of lmms-eval, which the tests of tests/adapters run where it is installed.
FOREIGN = {
    "--nnodes",
    "--nproc-per-node",
    "--model_args",
    "--gen_kwargs",
    "--batch_size",
    "--log_samples",
    "--help",
    "--help-all",
}
FOREIGN |= {"--logdir", "--no-install-recommends", "data.train_files"}
SPAN = re.compile(r"`([^`]+)`")


def spans(path: Path) -> list[str]:
    """What stands between backticks in a doc's prose, line breaks as spaces."""
    return [" ".join(span.split()) for span in SPAN.findall(prose(path))]


# ---- commands of other programs -----------------------------------------------------------------------------------

PROGRAMS = ("make", "python", "bash", "pip", "pytest", ".venv/bin/pytest", "torchrun", "accelerate")


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Every command line in shell blocks, and those of these programs between backticks."""
    for path in DOCS:
        for words in shell_lines(path):
            yield path.name, words
        for span in spans(path):
            if span.split()[0] in PROGRAMS and " " in span:
                yield path.name, shlex.split(span)


LINES = [(name, words) for name, words in command_lines() if words[0] != "pairuni"]


class Parsed(BaseException):
    """A program took its options."""


def takes_options(module: str | Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts a program of ours as far as its options."""

    def stop_after(parse: Any) -> Any:
        def parse_and_stop(*values: Any, **named: Any) -> None:
            parse(*values, **named)
            raise Parsed

        return parse_and_stop

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop_after(argparse.ArgumentParser.parse_args))
    monkeypatch.setattr(sys, "argv", [str(module), *arguments])
    if isinstance(module, Path):
        monkeypatch.syspath_prepend(module.parent)
    with pytest.raises(Parsed):
        run = runpy.run_path if isinstance(module, Path) else runpy.run_module
        run(str(module), run_name="__main__")


def python(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[0] != "-m":
        takes_options(ROOT / words[0], words[1:], monkeypatch)
    elif words[1] == "lmms_eval":
        given = dict(zip(words[2::2], words[3::2], strict=False))
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert given["--model"] in project["entry-points"]["lmms_eval.models"]
        taken = function_arguments(ROOT / "src/pairuni/adapters/lmms.py", "PairuniModel")
        assert {part.split("=")[0] for part in given.get("--model_args", "pretrained=M").split(",")} <= taken
    elif words[2:]:
        takes_options(words[1], words[2:], monkeypatch)
    else:  # named in a sentence
        assert find_spec(words[1]) is not None


def function_arguments(path: Path, class_name: str) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == class_name)
    made = next(n for n in found.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    return {argument.arg for argument in made.args.args}


def make(words: list[str]) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, equals, _ = word.partition("=")
        assert f"$({name})" in text or f"$(if $({name})" in text if equals else re.search(f"^{name}:", text, re.M), word


def pip(words: list[str]) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    extras = project["optional-dependencies"]
    everything = " ".join([*project["dependencies"], *(each for extra in extras.values() for each in extra)])
    assert words[0] == "install"
    for word in (word for word in words[1:] if not word.startswith("-") and word != "."):
        if match := re.fullmatch(r"pairuni\[([\w,]+)\]", word):
            assert set(match[1].split(",")) <= set(extras), word
        else:
            assert word in everything or (ROOT / word).is_file(), word


def pytest_line(words: list[str]) -> None:
    assert not [w for w in words if w.startswith("tests") and not (ROOT / w).exists()]
    assert "-m" not in words or words[words.index("-m") + 1] == "slow"


# What is shell, or another program's whose options are not ours to check.
LEFT = ("export", "trap", "wait", "ray", "tensorboard", "#!/bin/bash", "srun")


@pytest.mark.parametrize(("name", "words"), LINES, ids=[f"{name}-{' '.join(words)}" for name, words in LINES])
def test_commands_of_other_programs(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    program, rest = words[0].rsplit("/", 1)[-1], [word for word in words[1:] if word not in ("&", "...")]
    if program == "make":
        make(rest)
    elif program == "python":
        python(rest, monkeypatch)
    elif program == ".":
        made = re.search(r"^VENV \?= (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
        assert made is not None and rest == [f"{made[1]}/bin/activate"]
    elif program == "bash":
        assert (ROOT / rest[0]).is_file()
    elif program == "pip":
        pip(rest)
    elif program == "pytest":
        pytest_line(rest)
    elif program == "torchrun":
        get_args_parser().parse_args(rest)
    elif program == "accelerate":
        assert rest[0] == "launch"
        if rest[1:]:
            launch_command_parser().parse_args(rest[1:])
    elif words[0].startswith("run=-m pairuni"):  # a variable that holds a command
        assert pairuni_arguments(["python", *shlex.split(words[0].removeprefix("run="))]) is not None
    else:
        assert words[0] in LEFT or words[0].startswith(("head=", "step=")), words


def test_every_way_to_write_a_command_is_looked_at() -> None:
    """No block of commands in another form, and one of each program at least is seen."""
    kinds = {kind for path in DOCS for kind, _ in FENCE.findall(path.read_text(encoding="utf-8"))}
    assert kinds <= {"sh", "text", "python", "py", "yaml", "json", "jsonl"}
    for path in DOCS:
        assert not re.search(r"^    (?:make|pairuni|python|\.venv)\b", prose(path), re.MULTILINE), path.name
    assert {"make", "python", "bash", "pip", "torchrun", "accelerate"} <= {words[0] for _, words in LINES}


def test_python_for_other_projects_is_python() -> None:
    """Blocks that need what is not installed here are marked py: they are compiled, those marked python run."""
    for path in DOCS:
        for text in fences(path, "py"):
            compile(text, path.name, "exec")


def test_a_wrong_option_of_a_script_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        python(["benchmarks/speed.py", "--sizes", "shapes", "--case", "none"], monkeypatch)


def test_the_commands_of_the_gpu_script(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = re.findall(r"\brun (--size .+?) ;;", (ROOT / "benchmarks" / "gpu.sh").read_text(encoding="utf-8"))
    assert len(lines) == 3
    for line in lines:
        with monkeypatch.context() as patch:
            takes_options(ROOT / "benchmarks" / "speed.py", shlex.split(line.replace("$size", "shapes")), patch)


# ---- options ------------------------------------------------------------------------------------------------------


def classes() -> list[type]:
    return [each for each in vars(config).values() if isinstance(each, type) and is_dataclass(each)]


def options_of(cls: type, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name, type and default of every option and group of a config."""
    for option in fields(cls):
        made = option.default_factory
        yield prefix + option.name, bare(option.type), option.default if made is MISSING else made()
        if isinstance(option.type, type) and is_dataclass(option.type):
            yield from options_of(option.type, f"{prefix}{option.name}.")


@cache
def all_options() -> Mapping[str, Any]:
    """Type of every option by its name, from where a command's options begin."""
    found = {name: kind for cls in classes() for name, kind, _ in options_of(cls)}
    held = {f"{name}.": get_args(kind)[1] for name, kind in found.items() if get_origin(kind) is dict}
    for prefix, cls in held.items():  # options of a mapping's entries, whatever their names are
        entry = isinstance(cls, type) and is_dataclass(cls)
        found |= {f"{prefix}*.{o}": k for o, k, _ in options_of(cls)} if entry else {}
    return found


def is_option(name: str) -> bool:
    known = all_options()
    parts = name.removesuffix(".*").split(".")
    if ".".join(parts) in known:
        return True
    of_entry = ".".join([*parts[:2], "*", *parts[3:]])
    return ".".join(parts[:2]) in known and (of_entry in known or len(parts) == 3)


@cache
def script_options() -> set[str]:
    """Options that our programs add by themselves."""
    files = [*(ROOT / "src").rglob("*.py"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("examples/*.py")]
    return {f"--{name}" for file in files for name in re.findall(r'add_argument\("--([\w-]+)"', file.read_text())}


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_options_that_are_named_exist(path: Path) -> None:
    groups = {name for name in all_options() if any(o.startswith(f"{name}.") for o in all_options())}
    named = [flag for span in spans(path) for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*", span)]
    for flag in named:
        name = flag.removeprefix("--").replace("-", "_")
        assert flag in FOREIGN | script_options() or name in ("config", "plan") or is_option(name), flag
    for span in spans(path):
        match = re.match(r"([a-z_]+(?:\.[a-z_*]+)+)(?::|=|$| )", span)
        file = match and re.search(r"\.(?:py|md|jsonl?|yaml|html|png|txt)$", match[1])
        if match and not file and match[1].split(".")[0] in groups and match[1] not in FOREIGN:
            assert is_option(match[1]), span


def test_an_option_that_is_not_there_is_seen() -> None:
    assert is_option("rewards.options.http.url") and is_option("model.lora") and is_option("optim.lr")
    assert not is_option("optim.rate") and not is_option("rewards.options.http.address") and not is_option("lr.optim")


# ---- pitfalls -----------------------------------------------------------------------------------------------------


def pitfall_words() -> set[str]:
    """Keys of files, names of rewards and extractors, and files that pitfalls.md may name beside options."""
    tables = ("metrics.jsonl", "samples.jsonl", "eval.json", "pairing.json")
    found = {key for table in tables for key in keys("data.md", table)}
    found |= {f"{key.rsplit('/', 1)[0]}/{side}" for key in found for side in ("understanding", "generation")}
    return found | set(REWARDS) | set(get_args(config.Extractor)) | {"estimator", "trace", "test"}


def test_pitfalls_name_what_is_there() -> None:
    data = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    words, known = pitfall_words(), all_options()
    leaves = {option.name for cls in classes() for option in fields(cls)}
    for span in spans(PITFALLS):
        name, colon, value = span.partition(": ")
        if colon and is_option(name):
            kind = known[name]
            assert get_origin(kind) is not Literal or value in get_args(kind), span
        elif span.startswith("pairuni "):
            assert span.split()[1] in COMMANDS, span
        elif span.startswith("tests/"):
            assert (ROOT / span).is_file(), span
        elif not span.startswith("--"):
            in_files = span.endswith(("/", ".jsonl")) or span == "lock"
            assert span in words or is_option(span) or span in leaves or (in_files and span in data), span


def test_messages_in_pitfalls_are_those_of_the_code() -> None:
    source = " ".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py")))
    quoted = re.findall(r'"([^"`]+)"', " ".join(re.sub(r"`[^`]+`", "", prose(PITFALLS)).split()))
    assert len(quoted) > 5
    for message in quoted:
        assert message in source, message


# ---- the paper map ------------------------------------------------------------------------------------------------


@cache
def defined(path: Path) -> set[str]:
    """Functions, classes and methods (Class.method) of a file."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return found


def paper_rows() -> list[list[str]]:
    """What the paper has, where it is, and its tests, of every line of the map."""
    text = PAPER_MAP.read_text(encoding="utf-8").split("\n## Where the paper is silent\n")[0]
    return [re.split(": (?=`)| → ", line) for line in text.splitlines() if line.startswith("- ")]


def test_functions_and_tests_of_the_paper_map_exist() -> None:
    rows = paper_rows()
    assert len(rows) > 35
    for row in rows:
        assert len(row) == 3, row
        for cell, root in ((row[1], ROOT / "src" / "pairuni"), (row[2], ROOT / "tests")):
            places = SPAN.findall(cell)
            assert places, row
            for place in places:
                file, colons, name = place.partition("::")
                if not colons:
                    assert (ROOT / file).is_file() and file.startswith("configs/"), place
                    continue
                assert name in defined(root / file), place
                assert root.name != "tests" or name.startswith("test_"), place


def test_defaults_where_the_paper_is_silent() -> None:
    section = PAPER_MAP.read_text(encoding="utf-8").split("\n## Where the paper is silent\n")[1]
    command, checked = "", 0
    of_command = {"pairuni pair": config.PairConfig, "pairuni train": config.TrainConfig}
    for line in section.splitlines():
        if (names := SPAN.findall(line))[:1] in (["pairuni pair"], ["pairuni train"]):
            command = names.pop(0)
        if names:
            option, said = names
            default = next(value for name, _, value in options_of(of_command[command]) if name == option)
            assert str(default) == said, option
            checked += 1
    assert checked > 15


def test_the_members_of_a_policy_are_listed() -> None:
    """add-a-policy.md: every member of the contract, by protocol."""
    text = (ROOT / "docs" / "add-a-policy.md").read_text(encoding="utf-8")
    table = text.split("\n| protocol | member |")[1].split("\n\n")[0]
    listed = [name for row in table.splitlines() for cell in row.split(" | ")[1:2] for name in SPAN.findall(cell)]
    members = [n for each in (Sampler, Scorer, Trainable, Policy) for n in vars(each) if not n.startswith("_")]
    assert sorted(listed) == sorted(members)
