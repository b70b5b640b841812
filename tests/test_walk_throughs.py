"""Every command sequence of README and docs is run as it is written: in order, page by page, in one fresh folder.

Sizes alone are turned down, by the tables below. What cannot run here stands in NOT_RUN with its reason; a command that
is neither run nor there fails. That all commands parse is tested in test_docs.py.
"""

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image
from scripted_endpoint import Handler

from pairuni.cli.main import main
from pairuni.files import write_jsonl
from test_docs import README, ROOT, command_lines, fences, pairuni_arguments

# ---- what differs from the docs ----------------------------------------------------------------------------------

TINY_STEP = ["--steps", "1", "--data.batch", "2", "--rollout.rollouts", "2", "--rollout.max_new_tokens", "2"]
TINY_EVAL = ["--questions", "4", "--prompts", "2", "--batch", "4"]
SHAPES_DATA = ["--data.shapes", "24", *(f"--eval.{word[2:]}" if word[0] == "-" else word for word in TINY_EVAL)]
# Words of a command -> options behind it, which win over what the docs say. All that fit are added, in this order.
SMALL = {
    "demo": [*TINY_STEP, *SHAPES_DATA],
    "shapes --output": ["--understanding", "12", "--generation", "12"],
    "complete --config configs/photos/": ["--llm.base_url", "ENDPOINT"],
    "pair --config configs/photos/": ["--clusters", "3"],
    "pair --config configs/paper/": ["--clusters", "3", "--extractor", "colour_hog", "--weights", ""],
    "train --config": TINY_STEP,
    "train --config configs/shapes/": SHAPES_DATA,
    "train --config configs/paper/": ["--model.device", "cpu", "--rewards.generation", "brightness"],
    "train --config configs/paper/janus": ["--model.path", "shapes-janus"],
    "train --config configs/paper/lumina": ["--model.path", "shapes-dimoo", "--distributed", "ddp"],
    "smoke": ["--number", "1", "--rollout.rollouts", "2", "--rollout.max_new_tokens", "2"],
    "eval --model": TINY_EVAL,
    "sample": ["--number", "1"],
    "analyse gradients": ["--pairs", "2", "--rollouts", "2"],
    "analyse ablations --suite pairing": ["--seeds", "1", "--arms", "vanilla", "--base", "small.yaml"],
}
# Words of the docs -> what stands in: small shipped models for large ones, a folder of the test for one of a cluster.
STAND_INS = {
    "deepseek-community/Janus-Pro-1B": "shapes-janus",
    "FOLDER": "shapes-dimoo",
    "/shared/ledger": "shared_ledger",
}
# (page, words of the command or of its script) -> why it is not run; where it has a dry form, that one is.
NOT_RUN = {
    ("README.md", "make demo"): "installs; `pairuni demo` is run",
    ("README.md", "make test"): "runs this",
    ("README.md", "--benchmarks mmmu"): "downloads benchmarks",
    ("ablations.md", "--workers 2"): "many runs",
    ("ablations.md", "--seeds 10"): "many runs",
    ("ablations.md", "configs/paper/ablations/base.yaml"): "300 GPU hours",
    ("evaluation.md", "--benchmarks mmmu"): "downloads benchmarks and asks a judge",
    ("evaluation.md", "--benchmarks imgedit"): "needs the files of ImgEdit and a judge",
    ("evaluation.md", "-m lmms_eval"): "needs lmms-eval",
    ("evaluation.md", "make lmms"): "downloads lmms-eval",
    ("evaluation.md", "export PYTHONPATH"): "needs lmms-eval",
    ("evidence.md", "analyse ablations"): "hours",
    ("evidence.md", "make evidence"): "is tested in benchmarks/test_evidence.py",
    ("launch.md", "#SBATCH"): "needs Slurm",
    ("launch.md", "pip install"): "downloads",
    ("launch.md", "--log.trackers"): "needs tensorboard",
    ("own-data.md", "microsoft/resnet-50"): "downloads ResNet-50",
    ("own-data.md", "scripted_endpoint.py"): "stands in from the start here",
    ("performance.md", "benchmarks/"): "minutes to hours; parts are tested in benchmarks/test_benchmarks.py",
    ("quickstart.md", "make demo"): "installs; `pairuni demo` is run",
    ("quickstart.md", ".venv/bin/activate"): "installs",
    ("quickstart.md", "pip install"): "installs",
    ("rewards.md", "pairuni.rewards.serve"): "downloads HPSv2.1 and serves until stopped",
    ("scaling.md", "pip install"): "downloads Ray",
    ("scaling.md", "ray start"): "needs Ray",
    ("scaling.md", "--engine ray"): "needs Ray",
    ("testing.md", "make "): "runs tests",
    ("testing.md", "pytest"): "runs tests",
}
# What a dry form is asked for with.
DRY = {
    "train": ["--plan", "--plan.measure", "false"],
    "analyse ablations --suite pairing weighting": ["--dry-run"],
    "analyse ablations": ["--dry-run", "--base", "small.yaml"],  # a folder's runs are all of one base
    "complete": ["--dry-run"],
}
# Pages that are read one after the other share a folder: README's part on photographs leads to own-data.md.
CHAINS = [("README.md", "own-data.md")]
# What a page takes as given -> the folder that it finds: made once by `start` below, or its own earlier commands.
GIVEN = {
    "README.md": ["data/photos", "data/pairug"],
    "ablations.md": ["small.yaml"],
    "configuration.md": ["runs/demo", "data/photos", "small.yaml"],
    "evaluation.md": ["runs/before", "runs/eval"],
    "evidence.md": ["small.yaml"],
    "exporters.md": ["runs/demo", "runs/photos", "data/photos"],
    "gallery.md": ["runs/demo", "runs/photos", "data/photos", "a", "b"],
    "gradients.md": ["runs/demo"],
    "janus-pro.md": ["data/pairug"],
    "launch.md": ["data/pairug"],
    "lumina-dimoo.md": ["data/pairug"],
    "own-reward.md": ["runs/demo"],
}
SMALL_BASE = """\
output: runs/small
steps: 1
data: {pairs: runs/small/data/pairs.jsonl, shapes: 24, batch: 2}
rollout: {rollouts: 2, max_new_tokens: 2}
log: {checkpoint_every: 1}
eval: {benchmarks: "shapes_understanding,shapes_generation", questions: 4, prompts: 2, batch: 4}
"""

# ---- reading the pages -------------------------------------------------------------------------------------------


PAGES = {path.name: path for path in (README, *sorted((ROOT / "docs").glob("*.md"))) if fences(path, "sh")}
ALONE = [(name,) for name in PAGES if not any(name in chain for chain in CHAINS)]
BLOCKS = [(name, block) for name, path in PAGES.items() for block in fences(path, "sh")]
COMMANDS = [(name, block, words) for name, block in BLOCKS for words in command_lines(block)]


def exception(name: str, block: str, words: list[str]) -> tuple[str, str] | None:
    """The row of NOT_RUN that a command falls under."""
    said = block if block.startswith("#!") else " ".join(words)
    return next((key for key in NOT_RUN if key[0] == name and key[1] in said), None)


def adapted(words: list[str], endpoint: str) -> list[str]:
    """The arguments of a command with stand-ins and small sizes."""
    arguments = pairuni_arguments(words)
    assert arguments is not None, words
    said = " ".join(arguments)
    more = [word for start, options in SMALL.items() if said.startswith(start) for word in options]
    return [STAND_INS.get(word, word.replace("ENDPOINT", endpoint)) for word in [*arguments, *more]]


def dry(words: list[str]) -> list[str] | None:
    """The arguments that ask for a command's dry form with the docs' own sizes, None where there is none."""
    arguments = pairuni_arguments(words) or []
    options = next((DRY[start] for start in DRY if " ".join(arguments).startswith(start)), None)
    return None if options is None else [*arguments, *options]


# ---- what the pages find -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def photographs(folder: Path) -> None:
    """Images, questions and captions as README describes them, and quadruples.jsonl as own-data.md does."""
    question = "How many dogs are in the image? A. 1 B. 2 C. 3 D. 4"
    rows: dict[str, list[dict[str, str]]] = {"understanding": [], "generation": [], "quadruples": []}
    (folder / "images").mkdir(parents=True)
    for n in range(12):
        side, name = ("understanding", "generation")[n % 2], f"images/{n:04d}.jpg"
        Image.effect_noise((48, 40), 30 + 8 * n).convert("RGB").save(folder / name)
        asked = {"question": f"{question} ({n})", "answer": "B"}
        rows[side].append({"image": name, **(asked if side == "understanding" else {"caption": f"{n} dogs."})})
        rows["quadruples"].append({"side": side, "image_path": name, "prompt": f"{n} dogs.", **asked})
    for name, lines in rows.items():
        write_jsonl(folder / f"{name}.jsonl", lines)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that pages take as given: a demo's run, photographs with their pairs, and copies of parts."""
    folder = tmp_path_factory.mktemp("start")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["demo", *SMALL["demo"]]) == 0
        photographs(Path("data/photos"))
        pair = ["pair", "--config", "configs/photos/pair.yaml", *SMALL["pair --config configs/photos/"]]
        assert main(pair) == 0
    demo = folder / "runs" / "demo"
    shutil.copytree(demo / "data", folder / "data" / "pairug")
    for name, moment in (("before", "before"), ("eval", "after")):
        shutil.copytree(demo / f"eval_{moment}", folder / "runs" / name)
    for name in ("a", "b"):
        (folder / name).mkdir()
        row = {"id": f"{name}1", "side": "generation", "image_path": "data/images/u00000.png", "prompt": "a circle"}
        write_jsonl(folder / name / "rejected.jsonl", [{**row, "reason": "no question", "filter": "length"}])
    (folder / "small.yaml").write_text(SMALL_BASE, encoding="utf-8")
    return folder


def given(pages: tuple[str, ...], start: Path, folder: Path) -> None:
    for name in dict.fromkeys(each for page in pages for each in GIVEN.get(page, [])):
        source = start / name
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder / name)
    for page in pages:
        for text in fences(PAGES[page], "python"):
            if name := re.match(r"# (\w+)\.py\n", text):
                (folder / f"{name[1]}.py").write_text(text, encoding="utf-8")


# ---- running them ------------------------------------------------------------------------------------------------


def test_every_command_is_run_or_stands_with_its_reason() -> None:
    found = set()
    for name, block, words in COMMANDS:
        key = exception(name, block, words)
        found.add(key)
        assert key or pairuni_arguments(words), f"{name}: neither run nor in NOT_RUN: {' '.join(words)}"
    assert found - {None} == set(NOT_RUN)
    starts = [" ".join(pairuni_arguments(words) or []) for _, _, words in COMMANDS]
    assert all(any(said.startswith(small) for said in starts) for small in SMALL)
    assert set(GIVEN) <= set(PAGES)


@pytest.mark.parametrize("block", sorted({block for _, block in BLOCKS}), ids=lambda block: block.split("\n")[0][:60])
def test_every_block_is_shell(block: str) -> None:
    subprocess.run(["bash", "-n"], input=block, text=True, check=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("pages", [*CHAINS, *ALONE], ids="+".join)
def test_the_pages_run_in_order(
    pages: tuple[str, ...],
    endpoint: str,
    start: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    given(pages, start, tmp_path)
    by_hand = {path: path.read_bytes() for path in (tmp_path / "data" / "photos").rglob("*.jsonl")}
    for name, block, words in (command for page in pages for command in COMMANDS if command[0] == page):
        arguments = dry(words) if exception(name, block, words) else adapted(words, endpoint)
        if arguments is None:
            continue
        rc = main(arguments)
        said = capsys.readouterr()
        assert rc == 0, f"{name}: {' '.join(words)}\n-> {' '.join(arguments)}\n{said.err}"
    assert all(path.read_bytes() == content for path, content in by_hand.items())
