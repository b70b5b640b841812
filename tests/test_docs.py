"""README and docs say what is so: commands parse, code runs, paths exist, documented keys are the keys of real files.

Nothing here reads a doc's prose. Commands are parsed, never run; Python examples run on the tiny Janus.
"""

import ast
import json
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pairuni.cli.commands import demo_config
from pairuni.cli.main import COMMANDS, main
from pairuni.cli.options import parse_config, with_first
from pairuni.config import (
    AblationsConfig,
    CompleteConfig,
    DataConfig,
    EvalConfig,
    EvaluateConfig,
    GalleryConfig,
    GradientsConfig,
    HfDatasetConfig,
    LogConfig,
    ModelConfig,
    PairConfig,
    PlanConfig,
    PretrainConfig,
    RewardConfig,
    RewardOptions,
    RolloutConfig,
    SampleConfig,
    ShapesConfig,
    SmokeConfig,
    TinyConfig,
    TrainConfig,
    UnirlConfig,
    VerlOmniConfig,
)
from pairuni.errors import InputError
from pairuni.eval import runner
from pairuni.files import read_json, read_jsonl, write_jsonl
from pairuni.policies.janus.policy import JanusPolicy
from pairuni.rewards import REWARDS, load_reward
from pairuni.rewards.base import RewardInput, score_all
from pairuni.shapes.world import write_world
from pairuni.tiny.build_janus import JanusSize
from pairuni.train.loop import train
from pairuni.types import Quadruple, Side

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
DOCS = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONFIGS: dict[str, type] = {
    "shapes": ShapesConfig,
    "complete": CompleteConfig,
    "pair": PairConfig,
    "train": TrainConfig,
    "sample": SampleConfig,
    "smoke": SmokeConfig,
    "eval": EvaluateConfig,
    "tiny": TinyConfig,
    "pretrain": PretrainConfig,
}

PARTS: dict[str, tuple[type, str]] = {
    "analyse pairs": (GalleryConfig, "pairs"),
    "analyse gradients": (GradientsConfig, "run"),
    "analyse ablations": (AblationsConfig, "suite"),
    "export hf-dataset": (HfDatasetConfig, "pairs"),
    "export verl-omni": (VerlOmniConfig, "pairs"),
    "export unirl": (UnirlConfig, "pairs"),
}


def fences(path: Path, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(path.read_text(encoding="utf-8")) if kind == language]


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def command_lines(block: str) -> Iterator[list[str]]:
    """The words of every command line of a shell block, comments left out."""
    lines = (shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines())
    yield from (words for words in lines if words)


def shell_lines(path: Path) -> Iterator[list[str]]:
    """The words of every command line in a doc's shell blocks."""
    for block in fences(path, "sh"):
        yield from command_lines(block)


def pairuni_arguments(words: list[str]) -> list[str] | None:
    """What follows `pairuni` or `-m pairuni`, None for another program."""
    if words[0] == "pairuni":
        return words[1:]
    return words[words.index("pairuni") + 1 :] if ("-m", "pairuni") in pairwise(words) else None


COMMAND_LINES = [(p.name, a) for p in DOCS for w in shell_lines(p) if (a := pairuni_arguments(w)) is not None]


def parse_only(arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a command as far as its options: config files are read, no work is done."""
    command, *rest = arguments
    monkeypatch.chdir(ROOT)
    if command in CONFIGS:
        config = PlanConfig if "--plan" in rest else CONFIGS[command]
        rest = [argument.replace("--model", "--model.path") if command == "smoke" else argument for argument in rest]
        parse_config(config, [argument for argument in rest if argument != "--plan"], command)
        return
    if (part := " ".join(arguments[:2])) in PARTS:
        config, first = PARTS[part]
        parse_config(config, with_first(rest[1:], first), part)
        return
    monkeypatch.setattr("pairuni.trainer.Trainer.fit", lambda trainer: None)
    monkeypatch.setattr("pairuni.pages.report.write_report", lambda inputs, out, title, overwrite: out)
    if command == "check":
        for name in ("_run", "_config", "_jsonl"):
            monkeypatch.setattr(f"pairuni.cli.check.{name}", lambda path, *options: "")
        monkeypatch.chdir(folder)
        path = Path(rest[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch() if path.suffix else path.mkdir()
    assert main(arguments) == 0


@pytest.mark.parametrize(("name", "arguments"), COMMAND_LINES, ids=[f"{n}-{' '.join(a)}" for n, a in COMMAND_LINES])
def test_commands_parse(name: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse_only(arguments, tmp_path, monkeypatch)


def test_every_command_is_shown_and_a_wrong_option_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {*CONFIGS, *(part.split()[0] for part in PARTS), "demo", "report", "check", "configs"} == set(COMMANDS)
    shown = {arguments[0] for _, arguments in COMMAND_LINES}
    assert set(COMMANDS) - shown <= {"pretrain"}
    with pytest.raises(InputError):
        parse_only(["train", "--config", "configs/shapes/demo.yaml", "--optim.lrr", "1"], tmp_path, monkeypatch)
    assert main(["demo", "--stepz", "3"]) == 2


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_commands_and_targets_that_are_mentioned_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"`pairuni ([a-z]+)", text)) <= set(COMMANDS)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    mentioned = set(re.findall(r"`make ([a-z-]+)", text)) | {w[1] for w in shell_lines(path) if w[0] == "make"}
    assert mentioned <= targets


def slugs(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def expand(path: str) -> list[str]:
    """The paths that one {a,b} stands for."""
    before, _, rest = path.partition("{")
    inside, _, after = rest.partition("}")
    return [before + each + after for each in inside.split(",")] if rest else [path]


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_links_and_paths_exist(path: Path) -> None:
    for link in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose(path)):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in slugs(target), link
    # A placeholder such as test_<family>.py is no path.
    paths = re.findall(
        r"(?<![\w/.-])(?:src|tests|configs|docs|examples|benchmarks)/[\w./*{},-]+(?![\w./*{},<-])", path.read_text()
    )
    for mentioned in (each for braced in paths for each in expand(braced)):
        assert any(ROOT.glob(mentioned.rstrip("./,"))), mentioned


def tree() -> set[str]:
    """The paths of the annotated tree."""
    block = next(text for text in fences(ARCHITECTURE, "text") if text.startswith("src/pairuni/"))
    stack: list[str] = []
    found = set()
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        stack[depth:] = [line.split()[0]]
        found.add("".join(stack))
    return found


def test_the_annotated_tree_is_the_tree() -> None:
    found = tree()
    for path in found:
        assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file(), path
    packages = {f"src/pairuni/{p.parent.name}/" for p in (ROOT / "src" / "pairuni").glob("*/__init__.py")}
    modules = {f"src/pairuni/{p.name}" for p in (ROOT / "src" / "pairuni").glob("[!_]*.py")}
    configs = {f"configs/{p.parent.name}/" for p in (ROOT / "configs").glob("*/*.yaml")}
    assert packages | modules | configs <= found


def test_the_reading_order_names_files() -> None:
    listed = re.findall(r"^\d+\. `([^`]+)`:", ARCHITECTURE.read_text(encoding="utf-8"), re.MULTILINE)
    assert 7 <= len(listed) <= 9
    assert all((ROOT / path).is_file() for path in listed)


def test_find_it_quickly_has_ten_questions_with_one_place_each() -> None:
    section = ARCHITECTURE.read_text(encoding="utf-8").split("\n## Find it quickly\n")[1]
    answers = [line.strip("| ").split(" | ")[1] for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(answers) == 10
    for answer in answers:
        if answer.startswith("["):  # test_links_and_paths_exist follows links
            continue
        file, _, name = answer.strip("`").partition("::")
        tree = ast.parse((ROOT / "src" / "pairuni" / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}, answer


# ---- examples of files ------------------------------------------------------------------------------------------

EXAMPLES = [(p.name, text) for p in DOCS for text in fences(p, "jsonl")]


@pytest.mark.parametrize("name,text", EXAMPLES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(EXAMPLES)])
def test_examples_of_records_are_valid(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "example.jsonl").write_text(text, encoding="utf-8")
    for image_path in re.findall(r'"image_path": "([^"]+)"', text):
        (tmp_path / image_path).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / image_path)
    assert main(["check", str(tmp_path / "example.jsonl")]) == 0


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_examples_of_configs_parse(path: Path, tmp_path: Path) -> None:
    for text in fences(path, "yaml"):
        if text.startswith("understanding:"):
            (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
            parse_config(CompleteConfig, ["--config", str(tmp_path / "c.yaml")], "complete")
            continue
        (tmp_path / "c.yaml").write_text(f"{text}\noutput: run\ndata:\n  pairs: pairs.jsonl\n", encoding="utf-8")
        parse_config(TrainConfig, ["--config", str(tmp_path / "c.yaml")], "train")


# ---- code -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small runs/demo/data, made as `pairuni demo` makes it."""
    folder = tmp_path_factory.mktemp("docs")
    data = folder / "runs" / "demo" / "data"
    write_world(ShapesConfig(str(data), 12, 12))
    sources = [f"--{name}={data / name}.jsonl" for name in ("understanding", "generation")]
    assert main(["complete", *sources, "--output", str(data)]) == 0
    pair = ["--quadruples", str(data / "quadruples.jsonl"), "--output", str(data), "--clusters", "6"]
    assert main(["pair", *pair, "--extractor", "colour_hog"]) == 0
    return folder


def python_blocks() -> tuple[list[str], dict[str, str]]:
    """Scripts, and modules by name: those whose first line is a comment with a file name."""
    scripts, modules = [], {}
    for text in (text for path in DOCS for text in fences(path, "python")):
        name = re.match(r"# (\w+)\.py\n", text)
        if name:
            modules[name[1]] = text
        else:
            scripts.append(text)
    return scripts, modules


def test_the_python_examples_run(demo_data: Path, tiny_janus_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo_data)
    scripts, _ = python_blocks()
    names: dict = {}
    for text in scripts:
        exec(compile(text.replace('"shapes-janus"', repr(str(tiny_janus_folder))), "README", "exec"), names)
    assert names["drawn"].images_BRHWC.shape == (1, 4, 16, 16, 3)
    assert len(names["answers"].texts[0]) == 4
    assert names["logp_kN"].requires_grad
    assert names["summary"]["steps"] == 2
    assert (demo_data / "runs" / "api" / "checkpoints" / "step_000002" / "model" / "config.json").is_file()


def reward_input(side: Side, **more) -> RewardInput:
    question = "Which colour? A. red B. blue"
    return RewardInput(side, Quadruple("q", side, "a.png", "a red circle", question, "B"), **more)


def test_the_reward_examples_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, modules = python_blocks()
    assert set(modules) == {"my_rewards", "my_answers"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in modules.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
    half_red = np.full((8, 8, 3), 255, np.uint8)
    half_red[:4] = (220, 40, 40)
    blue = np.full((8, 8, 3), (50, 80, 220), np.uint8)
    images = [reward_input(Side.GENERATION, image=image) for image in (half_red, blue)]
    answers = [reward_input(Side.UNDERSTANDING, text=text) for text in ("B", "The answer is B", "A", "")]
    drawn = load_reward("my_rewards:named_colours", Side.GENERATION)
    said = load_reward("my_answers:right_and_short", Side.UNDERSTANDING)
    np.testing.assert_allclose(score_all(drawn, images), [0.5, 0.0])
    np.testing.assert_allclose(score_all(said, answers), [1.05, 1.02, 0, 0])


def test_the_built_in_rewards_are_listed() -> None:
    assert set(keys("rewards.md", "Built-in rewards")) == set(REWARDS)
    assert set(keys("rewards.md", "Options")) == {option.name for option in fields(RewardOptions)}


# ---- keys of files ----------------------------------------------------------------------------------------------


def keys(doc: str, heading: str) -> list[str]:
    """The names that the lists and tables under a heading explain."""
    text = (ROOT / "docs" / doc).read_text(encoding="utf-8")
    section = re.split(r"^## ", text.split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]
    cells = re.findall(r"^(?:\| |- )((?:`[^`]+`(?:, )?)+)(?: \||:)", section, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def rows(path: Path) -> list[dict]:
    return [row for _, row in read_jsonl(path)]


def test_keys_of_the_data_files(demo_data: Path, tmp_path: Path) -> None:
    data = demo_data / "runs" / "demo" / "data"
    assert set(rows(data / "quadruples.jsonl")[0]) == set(keys("data.md", "quadruples.jsonl"))
    assert set(rows(data / "pairs.jsonl")[0]) == set(keys("data.md", "pairs.jsonl"))
    assert set(read_json(data / "pairing.json")) == set(keys("data.md", "pairing.json"))
    assert set(read_json(data / "completion.json")) == set(keys("data.md", "completion.json"))
    source = {"id": "u9", "image_path": "gone.png", "question": "Is it? A. yes B. no", "answer": "A", "tag": "t"}
    write_jsonl(tmp_path / "u.jsonl", [source])
    write_jsonl(tmp_path / "g.jsonl", [{"id": "g9", "image_path": "gone.png", "prompt": "a red circle"}])
    config = CompleteConfig(str(tmp_path / "u.jsonl"), str(tmp_path / "g.jsonl"), output=str(tmp_path))
    assert main(["complete", *(f"--{k}={vars(config)[k]}" for k in ("understanding", "generation", "output"))]) == 2
    shown = next(json.loads(text) for _, text in EXAMPLES if '"reason"' in text)
    assert set(rows(tmp_path / "rejected.jsonl")[0]) == set(shown)


@pytest.fixture(scope="module")
def run(demo_data: Path, tiny_janus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One step with everything that adds a key: a KL term, an evaluation, the gradients of both sides."""
    output = tmp_path_factory.mktemp("run") / "run"
    config = TrainConfig(
        output=str(output),
        steps=1,
        kl_beta=0.1,
        model=ModelConfig(path=str(tiny_janus_folder), device="cpu"),
        data=DataConfig(pairs=str(demo_data / "runs" / "demo" / "data" / "pairs.jsonl"), batch=2),
        rollout=RolloutConfig(rollouts=2, guidance=2.0, max_new_tokens=4),
        rewards=RewardConfig(generation="shapes, brightness", normalise="group", held_out="sharpness"),
        log=LogConfig(samples_every=1, sample_prompts=1, eval_every=1, gradient_cosine_every=1),
    )
    train(config, evaluate=lambda policy, step: {"shapes_generation": 50.0})
    return output


def test_keys_of_a_run(run: Path) -> None:
    def general(key: str) -> str:
        key = re.sub(r"/(understanding|generation)$", "/<side>", key)
        key = re.sub(r"^(reward|held_out|normalised)/\w+/", r"\1/<name>/", key)
        return re.sub(r"^eval/\w+$", "eval/<benchmark>", key)

    written = {general(key) for row in rows(run / "metrics.jsonl") for key in row}
    assert written == set(keys("data.md", "metrics.jsonl"))
    samples = rows(run / "samples" / "step_000001" / "samples.jsonl")
    assert {key for row in samples for key in row} == set(keys("data.md", "samples.jsonl"))
    documented = next(text for text in fences(ROOT / "docs" / "data.md", "text") if text.startswith("runs/demo/"))
    names = {line.split()[0].rstrip("/").split("/")[0] for line in documented.splitlines()}
    assert {path.name for path in run.iterdir()} <= names
    checkpoint = run / "checkpoints" / "step_000001"
    assert {path.name for path in [*checkpoint.iterdir(), run / "checkpoints" / "latest"]} <= names


def test_keys_of_an_evaluation(tiny_janus: JanusPolicy, tmp_path: Path) -> None:
    config = EvalConfig(questions=2, prompts=2, guidance=2.0)
    results = runner.evaluate(tiny_janus, config, tmp_path)
    entry = read_json(runner.write_eval(tmp_path, "tiny", config, results))["benchmarks"]["shapes_generation"]
    assert set(entry) == set(keys("data.md", "eval.json"))
    answers = [row for name in results for row in rows(tmp_path / f"answers_{name}.jsonl")]
    assert {key for row in answers for key in row} == set(keys("data.md", "Answers files"))


def test_numbers_that_are_taken_from_elsewhere() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    size, demo = JanusSize(), demo_config(Path("runs/demo"), None, [])
    assert f"{size.image} pixels, {size.tokens} image tokens" in text
    assert f"runs/demo/checkpoints/step_{demo.steps:06d}/model" in text


# evidence.md begins with a correction.
PAGES = [path for path in sorted((ROOT / "docs").glob("*.md")) if path.stem != "evidence"]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_the_first_line_of_a_page_says_for_whom_it_is(path: Path) -> None:
    assert path.read_text(encoding="utf-8").splitlines()[2].startswith("For ")


def words(path: Path) -> int:
    """As `wc -w` counts them."""
    return len(path.read_text(encoding="utf-8").split())


def test_readme_and_pages_are_short() -> None:
    assert words(README) <= 1500
    assert sum(words(path) for path in (ROOT / "docs").glob("*.md")) <= 24_000
