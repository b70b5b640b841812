"""`pairuni check PATH`: validates a config, a JSON Lines file or a run directory and says what to mend."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pairuni.cli.options import parse_arguments, parse_config
from pairuni.cli.shipped import config_file
from pairuni.config import CompleteConfig, EvaluateConfig, PairConfig, PretrainConfig, TrainConfig
from pairuni.errors import InputError
from pairuni.files import read_json, read_jsonl
from pairuni.records import ALIASES, numbered_pairs, numbered_quadruples, numbered_samples, pairs_root, resolve_image
from pairuni.runs import RunDir
from pairuni.trainer import check_model, check_names
from pairuni.types import Quadruple, Sample, Side

# Stage -> config class and a key that only its files have.
STAGES: dict[str, tuple[type, str]] = {
    "train": (TrainConfig, "data"),
    "pair": (PairConfig, "quadruples"),
    "complete": (CompleteConfig, "understanding"),
    "eval": (EvaluateConfig, "benchmarks"),
    "pretrain": (PretrainConfig, "language_steps"),
}
_PAIR = ("similarity", "generate_ann", "understand_ann")
_QUESTION = ("image_path", "question", "answer")
# Kind of JSON Lines -> sets of keys of which one is enough to tell it, the first that fits; all keys that it needs.
KINDS: dict[str, tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]] = {
    "sampled rollouts": ((("step", "pair_id"),), ("step", "pair_id", "side", "rollout")),
    "metrics": ((("step",),), ("step",)),
    "answers": ((("score", "parsed"),), ("id", "part", "score", "parsed")),
    "gradients": ((("mix", "pair"),), ("mix", "pair")),
    "results of runs": ((("arm", "identity"),), ("arm", "seed", "identity")),
    "pairs": (tuple((key,) for key in _PAIR), _PAIR),
    "quadruples": ((("prompt", "question"),), ("side", "prompt", *_QUESTION)),
    "generation samples": ((("image_path", "prompt"),), ("image_path", "prompt")),
    "understanding samples": ((("image_path", "question"), ("question", "answer")), _QUESTION),
}
_SAMPLES = {f"{side} samples": side for side in Side}
_HALVES = ("generate", "understand")
_SHOWN = 20
"""Faults of a file that are shown one by one."""


def check(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="pairuni check", exit_on_error=False)
    parser.add_argument("path", type=Path, help="a .yaml config, a .jsonl or .json file, or a run directory")
    parser.add_argument("--stage", choices=STAGES, default=None, help="whose config it is (default: told by its keys)")
    parser.add_argument("--image_root", default=None, help="folder that image paths are relative to")
    options = parse_arguments(parser, arguments)
    path = config_file(str(options.path))
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
        except (yaml.YAMLError, OSError, ValueError, RecursionError):
            keys = {}  # parse_config words this error
        found = [name for name, (_, key) in STAGES.items() if isinstance(keys, dict) and key in keys]
        stage = found[0] if found else "train"

    def verify(config: object) -> None:
        if isinstance(config, TrainConfig | EvaluateConfig):
            check_names(config)
            check_model(config)

    config = parse_config(STAGES[stage][0], ["--config", str(path)], stage, verify)
    pairs = config.data.pairs if isinstance(config, TrainConfig) else ""
    missing = f" ({pairs} does not exist yet)" if pairs and not Path(pairs).exists() else ""
    return f"{path}: a valid config for `pairuni {stage}`{missing}"


def _jsonl(path: Path, image_root: str | None) -> str:
    from pairuni.data.images import load_image
    from pairuni.rewards.choice import gold_fault

    faults: list[InputError] = []
    _, first = next(read_jsonl(path, faults), (0, None))
    if first is None:
        raise faults[0] if faults else InputError("is empty", file=path)
    faults.clear()  # they are found again
    kind = _kind(path, first)
    root = path.parent if image_root is None else Path(image_root)
    samples: list[tuple[int, str, Quadruple | Sample]] = []
    """With the line, and the part of the row that the sample is."""
    if kind == "pairs":
        root = pairs_root(path, image_root)
        pairs = numbered_pairs(path, image_root, faults)
        samples = [(n, f"{half}_ann.", vars(p)[half]) for n, p in pairs.items() for half in _HALVES]
        aligned = sum(p.kind == "aligned" for p in pairs.values())
        found = f"{len(pairs)} pairs ({aligned} aligned, {len(pairs) - aligned} retrieved), every image opens"
    elif kind == "quadruples":
        samples = [(n, "", q) for n, q in numbered_quadruples(path, image_root, faults).items()]
        found = f"{len(samples)} quadruples, every image opens"
    elif kind in _SAMPLES:
        samples = [(n, "", s) for n, s in numbered_samples(path, _SAMPLES[kind], image_root, faults).items()]
        found = f"{len(samples)} {kind}, every image opens"
    else:
        found = f"{len(list(read_jsonl(path, faults)))} rows of {kind}"
    opened: set[str] = set()
    for line, part, sample in samples:
        if sample.image_path not in opened:
            opened.add(sample.image_path)
            image = resolve_image(sample.image_path, root)
            try:
                load_image(image)
            except InputError as err:
                faults.append(InputError(f"{image}: {err.message}", file=path, line=line, field=f"{part}image_path"))
        fault = gold_fault(sample.question, sample.answer) if sample.question and sample.answer else None
        if fault is not None:
            faults.append(InputError(fault, file=path, line=line, field=f"{part}answer"))
    if not faults:
        return f"{path}: {found}"
    faults.sort(key=lambda fault: fault.line or 0)
    if len(faults) == 1:
        raise faults[0]
    shown = [f"  {fault}" for fault in faults[:_SHOWN]]
    more = [f"  and {len(faults) - _SHOWN:,} more"] if len(faults) > _SHOWN else []
    raise InputError("\n".join([f"{len(faults):,} faults", *shown, *more]), file=path)


def _kind(path: Path, first: Mapping[str, Any]) -> str:
    """Which of KINDS a file is, by the keys of its first row.

    Raises:
        InputError: it is none; the message names the nearest kind and the missing keys.
    """
    has = {ours for ours, other in ALIASES.items() if other in first} | first.keys()
    for kind, (tells, _) in KINDS.items():
        if any(has.issuperset(keys) for keys in tells):
            return kind
    near = max(KINDS, key=lambda kind: (len(has.intersection(KINDS[kind][1])), -len(KINDS[kind][1])))
    needed = KINDS[near][1]
    lacks = [f"{key} (or {ALIASES[key]})" if key in ALIASES else key for key in needed if key not in has]
    if len(lacks) == len(needed):
        raise InputError(f"has no key of any kind of file that is known here: {', '.join(KINDS)}", file=path, line=1)
    raise InputError(
        f"is of no known kind; nearest are {near}, which need {', '.join(lacks)} as well", file=path, line=1
    )


def _run(path: Path) -> str:
    from pairuni.train.checkpoint import checkpoint_damage

    run = RunDir(path)
    if not run.config.is_file():
        raise InputError("is not a run directory: it has no config.yaml", file=path)
    parse_config(TrainConfig, ["--config", str(run.config)], "train", old_names=True)
    rows, latest = run.read_metrics(), run.latest_checkpoint()
    damage = None if latest is None else checkpoint_damage(latest)
    if damage is not None:
        raise InputError(damage, file=latest)
    for name in (run.environment, run.eval):
        if name.is_file():
            read_json(name)
    return f"{path}: a run of {len(rows)} steps, latest checkpoint {latest.name if latest else 'none'}"
