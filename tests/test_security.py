"""What SECURITY.md promises of the source and of keys, paths and full disks."""

import ast
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from llm_server import Endpoint
from pairuni.cli.main import main
from pairuni.config import LlmConfig
from pairuni.errors import InputError

SOURCE = Path(__file__).parents[1] / "src" / "pairuni"
KEY = "sk-Zx9-very-secret"
# May be missing from a call, or be called at all, in these files alone; each says why beside it.
NOT_ESCAPED = {"export/card.py"}  # Markdown, whose cells are escaped by a filter


@cache
def calls() -> list[tuple[str, ast.Call, str]]:
    """(file, call, dotted name of what is called) of all source files."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found.append((path.relative_to(SOURCE).as_posix(), node, ast.unparse(node.func)))
    return found


def keyword(call: ast.Call, name: str) -> str | None:
    found = [ast.unparse(each.value) for each in call.keywords if each.arg == name]
    return found[0] if found else None


def test_nothing_from_outside_is_unpickled_or_executed() -> None:
    names = {name for _, _, name in calls()}
    wrong = {"eval", "exec", "compile", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen"}
    wrong |= {
        f"{module}.{name}" for module in ("pickle", "marshal", "shelve", "dill") for name in ("load", "loads", "open")
    }
    assert not names & wrong
    assert all(keyword(call, "weights_only") == "True" for _, call, name in calls() if name == "torch.load")
    assert all(keyword(call, "trust_remote_code") is None for _, call, _ in calls())
    assert all(keyword(call, "shell") is None for _, call, _ in calls())
    assert all(keyword(call, "allow_pickle") in (None, "False") for _, call, _ in calls())
    assert sum(name == "torch.load" for _, _, name in calls()) >= 3  # the check sees them


def test_pages_are_escaped() -> None:
    escaping = {file: keyword(call, "autoescape") for file, call, name in calls() if name == "Environment"}
    assert len(escaping) >= 2
    assert {file for file, value in escaping.items() if value != "True"} == NOT_ESCAPED


@pytest.mark.parametrize("value", [KEY, "Bearer abc", "", "a b"])
def test_a_key_in_place_of_its_name_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(InputError) as caught:
        LlmConfig(api_key_env=value)
    assert caught.value.field == "llm.api_key_env" and (not value or value not in str(caught.value))


def test_passwords_in_addresses_are_refused_and_not_repeated() -> None:
    with pytest.raises(InputError) as caught:
        LlmConfig(base_url=f"https://me:{KEY}@host/v1")
    assert KEY not in str(caught.value)


def test_a_key_reaches_no_file_and_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The endpoint refuses it, and repeats it in its words."""
    monkeypatch.setenv("SOME_KEY", KEY)
    server = Endpoint()
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}).encode()
    server.scripted += [(401, body)] * 40
    row = {"id": "g", "image_path": "a.png", "prompt": "a red circle"}
    (tmp_path / "g.jsonl").write_text(json.dumps(row) + "\n")
    asked = {"id": "u", "image_path": "a.png", "question": "Which colour?", "answer": "red"}
    (tmp_path / "u.jsonl").write_text(json.dumps(asked) + "\n")
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    llm = ["--completer", "llm", "--llm.base_url", server.url, "--llm.model", "m", "--llm.api_key_env", "SOME_KEY"]
    files = ["--understanding", str(tmp_path / "u.jsonl"), "--generation", str(tmp_path / "g.jsonl")]
    main(["complete", *files, "--output", str(tmp_path / "out"), *llm])
    server.shutdown()
    said = capfd.readouterr()
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert server.authorizations == {f"Bearer {KEY}"}
    assert KEY not in said.out + said.err and not any(KEY.encode() in content for content in written)


FULL = """
import resource, sys
from pairuni.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path, tiny_janus_folder: Path) -> None:
    """A limit on the size of files stands for the disk: weights no longer fit, and later they do."""
    from pairuni.runs import RunDir
    from pairuni.train.checkpoint import checkpoint_damage

    half = {"image_path": "a.png", "prompt": "a red circle", "question": "Which? A. red B. blue", "answer": "A"}
    from PIL import Image

    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    pair = {"similarity": 1.0, "kind": "aligned", "generate_ann": half, "understand_ann": half}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    options = ["--data.pairs", str(tmp_path / "pairs.jsonl"), "--data.batch", "1", "--output", str(tmp_path / "run")]
    options += ["--model.path", str(tiny_janus_folder), "--model.device", "cpu", "--rewards.generation", "brightness"]
    options += ["--rollout.rollouts", "2", "--rollout.max_new_tokens", "3", "--log.checkpoint_every", "1"]
    run = RunDir(tmp_path / "run")

    assert main(["train", *options, "--steps", "1"]) == 0
    command = [sys.executable, "-c", FULL, "100000", "train", *options, "--steps", "3"]
    cut = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert cut.returncode == 2 and "Traceback" not in cut.stderr, cut.stderr
    assert "cannot write any more: File too large" in cut.stderr
    assert run.latest_checkpoint() == run.checkpoint(1) and checkpoint_damage(run.checkpoint(1)) is None
    assert not list((run.path / "checkpoints").glob(".*"))
    assert main(["train", *options, "--steps", "3"]) == 0
    assert [row["step"] for row in run.read_metrics()] == [1, 2, 3]
