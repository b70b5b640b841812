"""2,000 samples against an endpoint that fails 30 % of calls in six ways, with five kill -9 in between."""

import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from test_llm_complete import make_sources, rejections

from forks import Command
from llm_server import FAILURES, Endpoint
from pairuni.files import read_json

SAMPLES, KILLS, WORKERS = 2000, 5, 16


def lines(ledger: Path) -> list[str]:
    """Keys of the whole lines of a ledger that may be being written."""
    texts = [path.read_text() for path in sorted(ledger.glob("*.jsonl"))]
    return [json.loads(row)["key"] for text in texts for row in text.splitlines(keepends=True) if row.endswith("\n")]


@pytest.mark.slow
def test_every_sample_ends_and_no_call_is_paid_twice(tmp_path: Path) -> None:
    sources, output = make_sources(tmp_path / "sources", SAMPLES // 2), tmp_path / "out"
    server = Endpoint(fail=0.3, time_out=1.0)
    options = {
        "understanding": str(sources / "understanding.jsonl"),
        "generation": str(sources / "generation.jsonl"),
        "output": str(output),
        "completer": "llm",
        "llm": {"base_url": server.url, "model": "m", "timeout": 0.5, "retries": 12, "concurrency": WORKERS},
    }
    (tmp_path / "complete.yaml").write_text(json.dumps(options))  # JSON is YAML

    def start() -> Command:
        return Command("complete", "--config", tmp_path / "complete.yaml")

    rng, reached = random.Random(0), [0]
    for _ in range(KILLS):
        process, target = start(), reached[-1] + rng.randint(50, 500)
        while process.poll() is None and len(server.paid) < target:
            time.sleep(0.02)
        assert process.poll() is None, "it ended before it could be killed"
        process.kill()
        process.wait()
        reached.append(len(server.paid))
        assert not (output / "quadruples.jsonl").exists()
    assert start().wait() == 0
    server.shutdown()
    assert set(server.failed) == set(FAILURES) and sum(server.failed.values()) > 0.2 * server.came.total()
    recorded = lines(output / "ledger")
    assert len(recorded) == len(set(recorded)) and set(recorded) == set(server.paid)
    # What was in flight at a kill is asked again, under its old key, and nothing else is.
    assert server.again <= KILLS * WORKERS
    counts = read_json(output / "completion.json")["counts"]
    ended = [sum(counts[name].values()) for name in ("completed", "rejected")]
    assert sum(ended) == counts["inputs"] == SAMPLES and ended[1] == sum(counts["reasons"].values())
    for name, number in zip(("quadruples", "rejected"), ended, strict=True):
        assert (output / f"{name}.jsonl").read_text().count("\n") == number
    reasons = Counter({reason.partition(":")[0]: 0 for reason in rejections(output)})
    assert set(reasons) <= {"contradiction", "unusable reply", "the image does not exist"}
    assert ended[0] > 0.8 * SAMPLES
    print(f"{reached[1:]} paid at the kills; {server.again} asked again; {dict(server.failed)}; {counts}")
