"""A user's mistakes, one by one: exit code 2, one message that names file, line and field, no traceback."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from pairuni.cli.main import main
from pairuni.cli.options import parse_config
from pairuni.config import TrainConfig
from pairuni.runs import RunDir

HALF = {"image_path": "a.png", "prompt": "a red circle", "question": "Which? A. red B. blue", "answer": "A", "tag": "t"}
PAIR = {"similarity": 0.7, "kind": "retrieved", "generate_ann": HALF, "understand_ann": HALF}
QUADRUPLE = {"id": "x", "side": "generation", **HALF}
PROMPTED = {"id": "g", "image_path": "a.png", "prompt": "p"}
ASKED = {"id": "u", "image_path": "a.png", "question": "q", "answer": "A"}
NUMBER = '{"similarity": ' + "9" * 5000 + "}\n"
LONG = "b" * 300 + ".png"
TRAIN = "output: {out}\ndata:\n  pairs: {pairs}\n"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text) if isinstance(text, bytes) else path.write_text(text, encoding="utf-8")
    return path


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    write(tmp_path / "empty.png", b"")
    write(tmp_path / "cut.png", (tmp_path / "a.png").read_bytes()[:40])
    write(tmp_path / "file", b"")
    write(tmp_path / "pairs.jsonl", lines(PAIR))
    write(tmp_path / "ok.yaml", TRAIN.format(out=tmp_path / "run", pairs=tmp_path / "pairs.jsonl"))
    return tmp_path


def config(world: Path, extra: str) -> list[str]:
    write(world / "c.yaml", (world / "ok.yaml").read_text() + extra)
    return ["check", str(world / "c.yaml")]


def pairs(world: Path, *rows: object) -> list[str]:
    return ["check", str(write(world / "p.jsonl", lines(*rows)))]


def quadruples(world: Path, *rows: object) -> str:
    return str(write(world / "q.jsonl", lines(*rows)))


def evaluation(world: Path, text: str) -> list[str]:
    return ["eval", "--config", str(write(world / "e.yaml", text))]


def complete(world: Path, understanding: str, *more: str) -> list[str]:
    files = [str(write(world / "u.jsonl", understanding)), str(write(world / "g.jsonl", lines(PROMPTED)))]
    return ["complete", "--understanding", files[0], "--generation", files[1], "--output", str(world / "out"), *more]


def pair_up(world: Path, row: object, *more: str) -> list[str]:
    options = ["--output", str(world / "out"), "--extractor", "colour_hog", *more]
    return ["pair", "--quadruples", quadruples(world, QUADRUPLE, row), *options]


def resume(world: Path, metrics: str | bytes = "", latest: str | bytes = "step_000001\n") -> list[str]:
    """A run that `train` would continue, with metrics and `latest` of a user's making."""
    run = RunDir(world / "run")
    (run.path / "checkpoints").mkdir(parents=True)
    run.write_config(asdict(parse_config(TrainConfig, ["--config", str(world / "ok.yaml")], "train")))
    write(run.metrics, metrics)
    write(run.latest, latest)
    return ["train", "--config", str(world / "ok.yaml")]


def check_run(world: Path, metrics: str | bytes = "", latest: str | bytes = "step_000001\n") -> list[str]:
    """The same for `check`, with a checkpoint whose weights are cut short."""
    resume(world, metrics, latest)
    checkpoint = RunDir(world / "run").checkpoint(1)
    for folder in ("model", "state"):
        (checkpoint / folder).mkdir(parents=True)
    write(checkpoint / "model" / "model.safetensors", b"cut")
    write(checkpoint / "state" / "files.json", json.dumps({"model/model.safetensors": "0" * 64}))
    return ["check", str(world / "run")]


def weights(world: Path, config: str, model: bytes = b"") -> list[str]:
    (world / "weights").mkdir()
    write(world / "weights" / "config.json", config)
    write(world / "weights" / "model.safetensors", model)
    return pair_up(world, {**QUADRUPLE, "id": "y"}, "--extractor", "resnet50", "--weights", str(world / "weights"))


def half(**changes: object) -> dict[str, object]:
    return {**PAIR, "understand_ann": {**HALF, **changes}}


CASES = {
    "unknown command": (lambda w: ["trian"], ["trian"]),
    "unknown option": (lambda w: ["train", "--config", str(w / "ok.yaml"), "--optim.lrx", "1"], ["optim.lrx"]),
    "no such config": (lambda w: ["train", "--config", str(w / "none.yaml")], ["none.yaml", "no such file"]),
    "needed option": (lambda w: ["pair"], ["quadruples"]),
    "one length for both sides": (
        lambda w: config(w, "loss_norm: constant\nnorm_length: 576\n"),
        ["c.yaml:5", "norm_length", "understanding, generation"],
    ),
    "one length for both sides on the command line": (
        lambda w: ["train", "--config", str(w / "ok.yaml"), "--norm_length", "576"],
        ["norm_length.NAME"],
    ),
    "a length of nothing": (
        lambda w: config(w, "norm_length:\n  understanding: 0\n"),
        ["c.yaml:5", "norm_length.understanding", "must be positive"],
    ),
    "unknown key": (lambda w: config(w, "optim:\n  lrr: 1\n"), ["c.yaml:5", "optim.lrr"]),
    "unknown top key": (lambda w: config(w, "stepz: 3\n"), ["c.yaml:4", "stepz", "unknown option"]),
    "wrong type": (
        lambda w: config(w, "optim:\n  lr: fast\n"),
        ["c.yaml:5", "optim.lr", "must be a number, not 'fast'"],
    ),
    "not a choice": (lambda w: config(w, "weighting: cubic\n"), ["c.yaml:4", "weighting", "cubic"]),
    "out of range": (lambda w: config(w, "optim:\n  lr: -1\n"), ["c.yaml:5", "optim.lr", "positive"]),
    "adapters of negative rank": (
        lambda w: config(w, "model:\n  lora:\n    rank: -1\n"),
        ["c.yaml", "model.lora.rank"],
    ),
    "layers without adapters": (
        lambda w: config(w, "model:\n  lora:\n    layers: [q_proj]\n"),
        ["model.lora.rank", "no adapters"],
    ),
    "unknown distribution": (lambda w: config(w, "distributed: deepspeed\n"), ["c.yaml:4", "distributed", "deepspeed"]),
    "no collective timeout": (
        lambda w: config(w, "collective_timeout: 0\n"),
        ["c.yaml:4", "collective_timeout", "positive"],
    ),
    "unknown tracker": (lambda w: config(w, "log:\n  trackers: [paper]\n"), ["c.yaml:5", "log.trackers", "paper"]),
    "cosine of sharded gradients": (
        lambda w: config(w, "distributed: fsdp\nlog:\n  gradient_cosine_every: 1\n"),
        ["c.yaml", "log.gradient_cosine_every", "fsdp"],
    ),
    "a key in place of its name": (
        lambda w: complete(w, lines(ASKED), "--llm.api_key_env", "sk-123"),
        ["llm.api_key_env", "name of an environment variable"],
    ),
    "smoke of no pairs": (lambda w: ["smoke", "--pairs", str(w / "none.jsonl")], ["none.jsonl", "no such file"]),
    "smoke in a file": (lambda w: ["smoke", "--output", str(w / "file" / "x")], ["is a file"]),
    "smoke of nothing": (lambda w: ["smoke", "--number", "0"], ["number", "positive"]),
    "smoke of one rollout": (lambda w: ["smoke", "--rollout.rollouts", "1"], ["rollout.rollouts", "at least 2"]),
    "smoke of no model": (lambda w: ["smoke", "--model", str(w / "nomodel")], ["nomodel", "no such folder"]),
    "group of one": (lambda w: config(w, "rollout:\n  rollouts: 1\n"), ["c.yaml:5", "rollout.rollouts"]),
    "broken yaml": (lambda w: config(w, " steps: 3\n"), ["c.yaml:4", "YAML"]),
    "yaml list": (lambda w: ["check", str(write(w / "l.yaml", "- a\n"))], ["l.yaml", "mapping"]),
    "binary yaml": (lambda w: ["check", str(write(w / "b.yaml", b"\xff\xfe\x00"))], ["b.yaml", "UTF-8"]),
    "bad json line": (lambda w: ["check", str(write(w / "p.jsonl", lines(PAIR) + "{oops\n"))], ["p.jsonl:2", "JSON"]),
    "cut last line": (lambda w: ["check", str(write(w / "p.jsonl", (lines(PAIR) * 2)[:-30]))], ["p.jsonl:2", "JSON"]),
    "not an object": (lambda w: pairs(w, PAIR, [1]), ["p.jsonl:2", "object"]),
    "missing field": (
        lambda w: pairs(w, {**PAIR, "understand_ann": {k: v for k, v in HALF.items() if k != "answer"}}),
        ["p.jsonl:1", "understand_ann.answer"],
    ),
    "wrong field type": (lambda w: pairs(w, half(prompt=7)), ["p.jsonl:1", "understand_ann.prompt"]),
    "empty caption": (lambda w: pairs(w, half(prompt=" ")), ["p.jsonl:1", "understand_ann.prompt", "empty"]),
    "similarity": (lambda w: pairs(w, {**PAIR, "similarity": 1.4}), ["p.jsonl:1", "similarity", "1.4"]),
    "similarity text": (lambda w: pairs(w, {**PAIR, "similarity": "high"}), ["p.jsonl:1", "similarity"]),
    "unknown kind": (lambda w: pairs(w, {**PAIR, "kind": "similar"}), ["p.jsonl:1", "kind"]),
    "path upwards": (lambda w: pairs(w, half(image_path="../a.png")), ["p.jsonl:1", "image_path"]),
    "absolute path": (lambda w: pairs(w, half(image_path="/etc/passwd")), ["p.jsonl:1", "image_path"]),
    "missing image": (
        lambda w: pairs(w, PAIR, {**half(image_path="b.png"), "id": "2"}),
        ["p.jsonl:2", "understand_ann.image_path", "b.png"],
    ),
    "empty image": (
        lambda w: pairs(w, half(image_path="empty.png")),
        ["p.jsonl:1", "understand_ann.image_path", "empty.png"],
    ),
    "cut image": (
        lambda w: pairs(w, {**PAIR, "generate_ann": {**HALF, "image_path": "cut.png"}}),
        ["p.jsonl:1", "generate_ann.image_path", "cut.png"],
    ),
    "missing image of a quadruple": (
        lambda w: ["check", quadruples(w, QUADRUPLE, {**QUADRUPLE, "id": "y", "image_path": "b.png"})],
        ["q.jsonl:2", "image_path", "b.png"],
    ),
    "missing image of a sample": (
        lambda w: ["check", str(write(w / "g.jsonl", lines(PROMPTED, {**PROMPTED, "id": "h", "image_path": "b.png"})))],
        ["g.jsonl:2", "image_path", "b.png"],
    ),
    "image with a long name": (
        lambda w: ["train", "--output", str(w / "run"), "--data.pairs", pairs(w, half(image_path=LONG))[1]],
        ["p.jsonl:1", "understand_ann.image_path", LONG],
    ),
    "aligned pair of two images": (
        lambda w: pairs(w, {**half(image_path="cut.png"), "kind": "aligned", "similarity": 1.0}),
        ["p.jsonl:1", "kind", "aligned"],
    ),
    "similarity alone": (lambda w: pairs(w, {"similarity": 0.5}), ["p.jsonl:1", "generate_ann", "is missing"]),
    "empty prompt": (
        lambda w: ["check", str(write(w / "g.jsonl", lines({**PROMPTED, "prompt": " \t"})))],
        ["g.jsonl:1", "prompt", "empty"],
    ),
    "deep json": (lambda w: ["check", str(write(w / "p.jsonl", "[" * 100_000))], ["p.jsonl:1", "deep"]),
    "long number": (lambda w: ["check", str(write(w / "p.jsonl", lines(PAIR) + NUMBER))], ["p.jsonl:2", "digits"]),
    "NaN in an extra key": (
        lambda w: pairs(w, {**PAIR, "aesthetic": float("nan")}),
        ["p.jsonl:1", "aesthetic", "JSON cannot hold"],
    ),
    "NaN in an extra key of a half": (
        lambda w: pairs(w, PAIR, half(scores=[1, float("inf")])),
        ["p.jsonl:2", "understand_ann.scores.1"],
    ),
    "pairing with NaN": (lambda w: pair_up(w, {**QUADRUPLE, "id": "y", "a": float("nan")}), ["q.jsonl:2: a: is nan"]),
    "completing with NaN": (lambda w: complete(w, lines({**ASKED, "a": float("nan")})), ["u.jsonl:1: a: is nan"]),
    "lone surrogate": (lambda w: pairs(w, half(prompt="\ud800")), ["p.jsonl:1", "surrogate"]),
    "deep yaml": (lambda w: config(w, "steps: " + "[" * 3000 + "\n"), ["c.yaml", "deep"]),
    "long number in yaml": (lambda w: config(w, "steps: " + "9" * 5000 + "\n"), ["c.yaml", "digits"]),
    "a day for a number": (lambda w: config(w, "steps: 2001-99-99\n"), ["c.yaml:4: steps: must be a whole number"]),
    "key given twice": (lambda w: config(w, "steps: 1\nsteps: 2\n"), ["c.yaml:5", "steps", "twice", "line 4"]),
    "key of a group given twice": (
        lambda w: config(w, "optim:\n  lr: 1.0\n  lr: 2.0\n"),
        ["c.yaml:6", "optim.lr", "twice", "line 5"],
    ),
    "group given twice": (lambda w: config(w, "data:\n  batch: 2\n"), ["c.yaml:4", "data", "twice", "line 2"]),
    "key that is no word": (lambda w: config(w, "1: 2\n"), ["c.yaml:4", "'1'"]),
    "scalar for a group": (
        lambda w: ["check", str(write(w / "c.yaml", "output: x\ndata: some.jsonl\n"))],
        ["c.yaml:2", "data", "group", "pairs"],
    ),
    "nothing for a group": (lambda w: config(w, "optim:\n"), ["c.yaml:4", "optim", "group", "max_grad_norm"]),
    "scalar for a group as option": (
        lambda w: ["train", "--config", str(w / "ok.yaml"), "--data", "some.jsonl"],
        ["pairuni train: data:", "--data.NAME"],
    ),
    "option over a right line of the file": (
        lambda w: ["train", "--config", config(w, "optim:\n  lr: 1.0\n")[1], "--optim.lr", "-1"],
        ["pairuni train: optim.lr:", "positive"],
    ),
    "dotted key": (lambda w: config(w, "optim.lr: -1\n"), ["c.yaml:4", "optim.lr", "positive"]),
    "empty file": (lambda w: ["check", str(write(w / "e.jsonl", ""))], ["e.jsonl"]),
    "same id twice": (
        lambda w: ["check", str(write(w / "q.jsonl", lines(QUADRUPLE, QUADRUPLE)))],
        ["q.jsonl:2", "id", "line 1"],
    ),
    "not a run": (lambda w: ["check", str(w)], ["config.yaml"]),
    "no such path": (lambda w: ["check", str(w / "nowhere")], ["nowhere"]),
    "pairs file missing": (
        lambda w: ["train", "--output", str(w / "run"), "--data.pairs", str(w / "none.jsonl")],
        ["none.jsonl", "no such file"],
    ),
    "no such model": (lambda w: ["eval", "--model", str(w / "nomodel")], ["nomodel"]),
    "unknown benchmark": (lambda w: ["eval", "--benchmarks", "mmlu", "--output", str(w)], ["benchmarks", "mmlu"]),
    "unknown benchmark of eval": (lambda w: evaluation(w, "benchmarks: mmlu\n"), ["e.yaml:1", "benchmarks", "mmlu"]),
    "no benchmark": (lambda w: ["eval", "--benchmarks", "", "--output", str(w)], ["benchmarks", "no benchmark"]),
    "field of eval": (lambda w: evaluation(w, "batch: 3\nquestions: -1\n"), ["e.yaml:2: questions: must not"]),
    "field of eval in training": (lambda w: config(w, "eval:\n  questions: -1\n"), ["c.yaml:5: eval.questions: must"]),
    "unknown benchmark in training": (
        lambda w: ["train", "--config", config(w, "eval:\n  benchmarks: mmlu\n")[1]],
        ["c.yaml:5", "eval.benchmarks", "mmlu"],
    ),
    "unknown benchmark in the demo": (
        lambda w: ["demo", "--output", str(w / "run"), "--eval.benchmarks", "mmlu"],
        ["eval.benchmarks", "mmlu"],
    ),
    "check: unknown benchmark": (
        lambda w: config(w, "eval:\n  benchmarks: mmlu\n"),
        ["c.yaml:5", "eval.benchmarks", "mmlu"],
    ),
    "check: unknown reward": (
        lambda w: config(w, "rewards:\n  generation: beauty\n"),
        ["c.yaml:5", "rewards.generation", "beauty"],
    ),
    "check: no such model": (
        lambda w: config(w, f"model:\n  path: {w / 'nomodel'}\n"),
        ["c.yaml:5", "model.path", "nomodel"],
    ),
    "check: not a model": (lambda w: config(w, f"model:\n  path: {w}\n"), ["c.yaml:5", "model.path", "config.json"]),
    "check: no such model of eval": (
        lambda w: ["check", str(write(w / "e.yaml", f"benchmarks: shapes_generation\nmodel: {w / 'nomodel'}\n"))],
        ["e.yaml:2", "model", "nomodel"],
    ),
    "check: metrics without a step": (
        lambda w: check_run(w, lines({"step": 1}, {"lr": 1.0})),
        ["metrics.jsonl:2", "step"],
    ),
    "check: latest is not text": (lambda w: check_run(w, latest=b"\xff\xfe"), ["latest", "UTF-8"]),
    "check: latest is a long name": (lambda w: check_run(w, latest="s" * 300), ["latest", "does not exist"]),
    "check: cut weights": (check_run, ["step_000001", "model/model.safetensors", "cut short"]),
    "metrics line that is a list": (lambda w: resume(w, lines({"step": 1}, [1])), ["metrics.jsonl:2", "object"]),
    "metrics line without a step": (lambda w: resume(w, lines({"lr": 1.0})), ["metrics.jsonl:1", "step"]),
    "metrics with a text as step": (lambda w: resume(w, lines({"step": "1"})), ["metrics.jsonl:1", "step"]),
    "metrics broken in the middle": (lambda w: resume(w, '{"ste\n' + lines({"step": 2})), ["metrics.jsonl:1", "JSON"]),
    "metrics that are not text": (lambda w: resume(w, b"\xff\n"), ["metrics.jsonl", "UTF-8"]),
    "latest is not text": (lambda w: resume(w, latest=b"\xff\xfe"), ["latest", "UTF-8"]),
    "run in a file": (
        lambda w: ["train", "--config", str(w / "ok.yaml"), "--output", str(w / "file" / "run")],
        [str(Path("file", "run")), "is a file"],
    ),
    "unknown reward": (
        lambda w: ["train", "--config", str(w / "ok.yaml"), "--rewards.generation", "beauty"],
        ["rewards.generation", "beauty"],
    ),
    "no such reward function": (
        lambda w: ["train", "--config", str(w / "ok.yaml"), "--rewards.generation", "json:nothing"],
        ["rewards.generation", "nothing"],
    ),
    "sample without a question": (lambda w: ["sample", "--image", str(w / "a.png")], ["question"]),
    "sample of nothing": (lambda w: ["sample"], ["prompt"]),
    "sample into a file": (
        lambda w: ["sample", "--prompt", "x", "--output", str(w / "file" / "x.png")],
        ["file", "not a folder"],
    ),
    "report of nothing": (lambda w: ["report", str(w / "nowhere")], ["nowhere"]),
    "report of no evaluation": (lambda w: ["report", str(write(w / "e.json", "{}"))], ["e.json", "benchmarks"]),
    "report of a broken score": (
        lambda w: ["report", str(write(w / "e.json", '{"benchmarks": {"a": {"score": "x"}}}'))],
        ["e.json", "benchmarks.a.score"],
    ),
    "report of broken metrics": (
        lambda w: ["report", check_run(w, lines({"lr": 1.0}))[1]],
        ["metrics.jsonl:1", "step"],
    ),
    "shapes in a file": (
        lambda w: ["shapes", "--output", str(w / "file" / "x")],
        [str(Path("file", "x")), "is a file"],
    ),
    "shapes without samples": (lambda w: ["shapes", "--output", str(w / "s"), "--generation", "0"], ["generation"]),
    "tiny in a file": (lambda w: ["tiny", "--output", str(w / "file" / "m")], [str(Path("file", "m")), "is a file"]),
    "tiny of no file": (
        lambda w: ["tiny", "--output", str(w / "m"), "--texts", str(w / "none.jsonl")],
        ["none.jsonl", "no such file"],
    ),
    "demo in a file": (lambda w: ["demo", "--output", str(w / "file" / "x")], [str(Path("file", "x")), "is a file"]),
    "demo of few samples": (lambda w: ["demo", "--output", str(w / "x"), "--samples", "3"], ["data.shapes", "not 3"]),
    "demo of no config": (
        lambda w: ["demo", "--output", str(w / "x"), "--config", str(w / "none.yaml")],
        ["none.yaml", "no such file"],
    ),
    "demo with a negative seed": (lambda w: ["demo", "--output", str(w / "x"), "--seed", "-1"], ["seed", "negative"]),
    "pretrain in a file": (lambda w: ["pretrain", "--output", str(w / "file" / "x")], ["is a file"]),
    "pair: images elsewhere": (
        lambda w: pair_up(w, {**QUADRUPLE, "id": "y"}, "--image_root", str(w / "elsewhere")),
        ["q.jsonl:1", "image_path", "no such image"],
    ),
    "pair: broken images alone": (
        lambda w: [
            *("pair", "--quadruples", quadruples(w, {**QUADRUPLE, "image_path": "cut.png"})),
            *("--output", str(w / "out"), "--extractor", "colour_hog"),
        ],
        ["q.jsonl:1", "image_path", "cut.png"],
    ),
    "pair in a file": (lambda w: pair_up(w, QUADRUPLE, "--output", str(w / "file" / "x")), ["is a file"]),
    "weights without a config": (
        lambda w: pair_up(w, QUADRUPLE | {"id": "y"}, "--extractor", "resnet50", "--weights", str(w)),
        ["weights", "cannot be loaded"],
    ),
    "weights of an empty config": (lambda w: weights(w, "{}"), ["weights", "cannot be loaded"]),
    "weights of another model": (lambda w: weights(w, '{"model_type": "bert"}'), ["weights", "bert"]),
    "weights of a broken config": (
        lambda w: weights(w, '{"model_type": "resnet", "depths": 3}'),
        ["weights", "cannot be loaded", "depths"],
    ),
    "weights cut short": (lambda w: weights(w, '{"model_type": "resnet"}', b"cut"), ["weights", "cannot be loaded"]),
    "complete: empty answer": (
        lambda w: complete(w, lines(ASKED, {**ASKED, "id": "v", "answer": " "})),
        ["u.jsonl:2", "answer", "empty"],
    ),
    "complete: same id on both sides": (lambda w: complete(w, lines({**ASKED, "id": "g"})), ["g.jsonl", "id", "'g'"]),
    "complete: no attempts": (lambda w: complete(w, lines(ASKED), "--attempts", "0"), ["attempts", "positive"]),
    "complete in a file": (
        lambda w: complete(w, lines(ASKED), "--output", str(w / "file" / "x")),
        [str(Path("file", "x")), "is a file"],
    ),
    "source field": (
        lambda w: complete(w, lines({"id": "u", "image_path": "a.png", "question": "q"})),
        ["u.jsonl:1", "answer"],
    ),
    "empty mode": (
        lambda w: ["train", "--config", str(w / "ok.yaml"), "--pair_selection.mode", "aligned_only"],
        ["aligned"],
    ),
}


# Values that are out of range, whatever the command then would do: (command, option, value).
OUT_OF_RANGE = [
    *(("sample", *each) for each in (("temperature", -1), ("guidance", 0.5), ("top_p", 0), ("top_p", 1.5))),
    *(("sample", *each) for each in (("top_k", -1), ("max_new_tokens", 0), ("number", 0))),
    *((command, "seed", -1) for command in ("sample", "shapes", "complete", "pair", "train", "pretrain", "tiny")),
    *(("eval", "seed", -1), ("train", "eval.seed", -1), ("eval", "questions", -1), ("eval", "guidance", 0)),
    *(("pretrain", name, -1) for name in ("auto_steps", "language_steps", "questions", "prompts", "careless")),
    *(("pretrain", name, 0) for name in ("vq_batch", "answer_rows", "pool", "lr", "decoder_steps", "careless_steps")),
    *(("pretrain", "drop", 1.5), ("pretrain", "turns", 1)),
    *(("tiny", "hidden", value) for value in (0, 7, 12, -8)),
    *(("tiny", "image", value) for value in (0, 24)),
]
REST = {
    "sample": ["--prompt", "x", "--output", "x.png"],
    "shapes": ["--output", "x"],
    "complete": ["--understanding", "u.jsonl", "--generation", "g.jsonl", "--output", "x"],
    "pair": ["--quadruples", "q.jsonl", "--output", "x"],
    "train": ["--data.pairs", "p.jsonl", "--output", "x"],
    "pretrain": ["--output", "x"],
    "tiny": ["--output", "x"],
    "eval": ["--output", "x"],
}
CASES |= {
    f"{command} --{option} {value}": (
        lambda w, case=(command, option, value): [case[0], *REST[case[0]], f"--{case[1]}", str(case[2])],
        [f"pairuni {command}: {option}: must"],
    )
    for command, option, value in OUT_OF_RANGE
}


@pytest.mark.parametrize("name", CASES)
def test_one_clear_message(
    name: str, world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: object, **options: object) -> None:
        raise AssertionError("a model was loaded before the mistake was seen")

    monkeypatch.setattr("pairuni.policies.janus.load.load_janus", load)
    monkeypatch.chdir(world)
    make, expected = CASES[name]
    arguments = make(world)
    before = {p: p.stat().st_mtime_ns for p in world.rglob("*") if p.is_file()}
    folders = set(world.rglob("*"))
    assert main(arguments) == 2
    captured = capsys.readouterr()
    message = [
        line for line in captured.err.splitlines() if line.strip() and not re.search(r"\d%\||^[\w -]+: \d+/\d+ ", line)
    ]
    assert message and message[0].startswith("pairuni"), captured.err
    assert "Traceback" not in captured.err
    if name != "unknown command":
        assert len(message) == 1, captured.err
    for part in expected:
        assert part in message[0], captured.err
    # Nothing half-written is left behind, nothing is changed.
    assert set(world.rglob("*")) == folders
    assert {p: p.stat().st_mtime_ns for p in before} == before
