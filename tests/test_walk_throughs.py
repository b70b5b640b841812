"""The walk-throughs on one's own data are run as they are written: in order, in one fresh folder, on small sizes."""

import shutil
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image
from scripted_endpoint import Handler

from pairuni.cli.main import main
from pairuni.files import write_jsonl
from test_docs import README, ROOT, pairuni_arguments, shell_lines

# Small sizes for commands that would take long; what follows wins over what the docs say.
SMALL = {
    "train": ["--steps", "1", "--data.batch", "2", "--rollout.rollouts", "2", "--rollout.max_new_tokens", "2"],
    "pair": ["--clusters", "3"],
    "sample": ["--number", "1"],
}
# Words of commands that are not run -> why not.
NOT_RUN = {
    "microsoft/resnet-50": "downloads ResNet-50",
    "scripted_endpoint.py": "stands in from the start here, for the model that the config names",
}
PHOTOS = "Your own data: photographs"


def photo_commands() -> dict[str, list[list[str]]]:
    """By doc, the words of its commands in order."""
    text = README.read_text(encoding="utf-8")
    assert f"## {PHOTOS}" in text
    own = [words for words in shell_lines(README) if any("photos" in word for word in words)]
    return {"README.md": own, "own-data.md": list(shell_lines(ROOT / "docs" / "own-data.md"))}


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


def adapted(arguments: list[str], endpoint: str, folder: Path) -> list[str]:
    command = arguments[0]
    words = [word.replace("/shared/ledger", str(folder / "ledger")) for word in arguments]
    if command == "complete":
        words += ["--llm.base_url", endpoint]
    return [*words, *SMALL.get(command, [])]


@pytest.mark.slow
def test_both_walk_throughs_in_one_folder(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "data" / "photos")
    by_hand = (tmp_path / "data" / "photos" / "quadruples.jsonl").read_bytes()
    left = set(NOT_RUN)
    for doc, commands in photo_commands().items():
        assert len(commands) > 3
        for words in commands:
            if reason := next((part for part in NOT_RUN if any(part in word for word in words)), None):
                left.discard(reason)
                continue
            arguments = pairuni_arguments(words)
            assert arguments is not None, words
            rc = main(adapted(arguments, endpoint, tmp_path))
            said = capsys.readouterr()
            assert rc == 0, f"{doc}: {' '.join(words)}\n{said.err}"
    assert not left
    assert (tmp_path / "data" / "photos" / "quadruples.jsonl").read_bytes() == by_hand
    shutil.rmtree(tmp_path / "runs")
