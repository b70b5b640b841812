"""`pairuni check PATH`: validates a config, a JSON Lines file or a run directory and says what to mend."""

import argparse
from collections.abc import Callable
from pathlib import Path

import yaml

from pairuni.cli.options import parse_config
from pairuni.config import CompleteConfig, EvaluateConfig, PairConfig, PretrainConfig, TrainConfig
from pairuni.errors import InputError
from pairuni.files import read_json, read_jsonl
from pairuni.records import Quadruple, Side, read_pairs, read_quadruples, read_samples, resolve_image
from pairuni.runs import RunDir

# Stage -> config class and a key that only its files have.
STAGES: dict[str, tuple[type, str]] = {
    "train": (TrainConfig, "data"),
    "pair": (PairConfig, "quadruples"),
    "complete": (CompleteConfig, "understanding"),
    "eval": (EvaluateConfig, "benchmarks"),
    "pretrain": (PretrainConfig, "language_steps"),
}


def check(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="pairuni check", exit_on_error=False)
    parser.add_argument("path", type=Path, help="a .yaml config, a .jsonl or .json file, or a run directory")
    parser.add_argument("--stage", choices=STAGES, default=None, help="whose config it is (default: told by its keys)")
    parser.add_argument("--image_root", default=None, help="folder that image paths are relative to")
    try:
        options = parser.parse_args(arguments)
    except argparse.ArgumentError as err:
        raise InputError(str(err)) from None
    path: Path = options.path
    if not path.exists():
        raise InputError("no such file or folder", file=path)
    if path.is_dir():
        print(_run(path))
    elif path.suffix in (".yaml", ".yml"):
        print(_config(path, options.stage))
    elif path.suffix == ".jsonl":
        print(_jsonl(path, options.image_root))
    elif path.suffix == ".json":
        print(f"{path}: a JSON object with {len(read_json(path))} keys")
    else:
        raise InputError("is none of .yaml, .jsonl, .json or a run directory", file=path)
    return 0


def _config(path: Path, stage: str | None) -> str:
    if stage is None:
        try:
            keys = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            keys = {}  # parse_config words this error
        found = [name for name, (_, key) in STAGES.items() if isinstance(keys, dict) and key in keys]
        stage = found[0] if found else "train"
    config = parse_config(STAGES[stage][0], ["--config", str(path)], stage)
    if isinstance(config, TrainConfig):
        pairs = Path(config.data.pairs)
        missing = "" if pairs.exists() else f" ({pairs} does not exist yet)"
        return f"{path}: a valid config for `pairuni {stage}`{missing}"
    return f"{path}: a valid config for `pairuni {stage}`"


def _jsonl(path: Path, image_root: str | None) -> str:
    _, first = next(read_jsonl(path), (0, None))
    if first is None:
        raise InputError("is empty", file=path)
    root = Path(image_root) if image_root is not None else path.parent
    if "generate_ann" in first or "understand_ann" in first:
        pairs = read_pairs(path, image_root)
        _images(path, root, [h for p in pairs for h in (p.generate, p.understand)])
        aligned = sum(p.kind == "aligned" for p in pairs)
        return f"{path}: {len(pairs)} pairs ({aligned} aligned, {len(pairs) - aligned} retrieved), every image opens"
    if "prompt" in first and "question" in first:
        quadruples = read_quadruples(path, image_root)
        _images(path, root, quadruples)
        return f"{path}: {len(quadruples)} quadruples, every image opens"
    if "prompt" in first or "question" in first:
        side = Side.GENERATION if "prompt" in first else Side.UNDERSTANDING
        return f"{path}: {len(read_samples(path, side, image_root))} {side} samples"
    return f"{path}: {sum(1 for _ in read_jsonl(path))} JSON objects"


def _images(path: Path, root: Path, quadruples: list[Quadruple]) -> None:
    from pairuni.data.dataset import load_image

    for image_path in dict.fromkeys(q.image_path for q in quadruples):
        load_image(resolve_image(image_path, root, file=path))


def _run(path: Path) -> str:
    run = RunDir(path)
    if not run.config.is_file():
        raise InputError("is not a run directory: it has no config.yaml", file=path)
    checks: list[Callable[[], object]] = [
        lambda: parse_config(TrainConfig, ["--config", str(run.config)], "train"),
        run.read_metrics,
        run.latest_checkpoint,
    ]
    for each in checks:
        each()
    for name in (run.environment, run.eval):
        if name.is_file():
            read_json(name)
    latest = run.latest_checkpoint()
    return f"{path}: a run of {len(run.read_metrics())} steps, latest checkpoint {latest.name if latest else 'none'}"
