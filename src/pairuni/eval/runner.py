"""Runs benchmarks on a model, keeps every answer as it comes, and writes eval.json.

With a folder and the model's identity, a killed run continues after the last answer that it kept; answers of another
model, of other options or of an older item list are dropped. Sampling does not depend on the batch, so an interrupted
run gives the scores of an uninterrupted one (exactly in fp32).
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from pairuni.config import EvalConfig, EvaluateConfig, has_validation
from pairuni.config.renamed import with_new_names
from pairuni.data.images import StoredImage, load_image
from pairuni.errors import InputError
from pairuni.eval import EDITING, check_benchmarks, load_benchmark
from pairuni.eval.base import Answer, Benchmark, Item, summarise
from pairuni.files import file_hash, read_json, read_text, write_json, write_jsonl
from pairuni.outputs import wrote
from pairuni.policies.base import Sampler
from pairuni.policies.requests import too_long
from pairuni.policies.sampling import seeds_for
from pairuni.policies.source import hub_revision
from pairuni.progress import say, track
from pairuni.runs import RunDir
from pairuni.types import Prompt, Side

Config = TypeVar("Config", bound=EvalConfig)
DIGITS = {"0 to 1": 3, "1 to 5": 2}
"""Decimals of scores in the table, by unit; 1 for other units."""
FILES = ("eval.json", "eval_state.json")
_STATE = "eval_state.json"
"""In the folder of the answers: by benchmark, what they are answers of."""


def evaluate(
    sampler: Sampler, config: EvalConfig, output: Path | None = None, model: str = ""
) -> dict[str, dict[str, Any]]:
    """The entries of eval.json's `benchmarks`, without those that are `skipped`.

    Args:
        output: folder where every answer is kept, and every image that a benchmark wants kept.
        model: names the sampler, to continue with answers that were kept; empty: they are dropped.

    Raises:
        InputError: an unknown benchmark, one whose data is missing, or none that is left, before anything is run.
    """
    check_benchmarks(config)
    left_out = skipped(config, sampler)
    names = [name for name in config.names if name not in left_out]
    if not names:
        raise InputError(f"nothing is left to run; {skip_lines(left_out)}", field=f"{config.group}benchmarks")
    benchmarks = {name: load_benchmark(name, config) for name in names}
    items, beyond = {}, {}
    for name, benchmark in benchmarks.items():
        items[name], beyond[name] = _readable(name, benchmark, sampler)
    results = {}
    for name, benchmark in benchmarks.items():
        identity = _identity(model, config, benchmark, items[name])
        keep = None if output is None else _AnswerFile(output, name, identity, benchmark.side)
        answers = _run(benchmark, items[name], sampler, config, keep)
        dropped = {"too_long": beyond[name]} if beyond[name] else {}
        results[name] = summarise(answers, benchmark) | {"split": config.split_of(name), "chosen": False} | dropped
    return results


def _readable(name: str, benchmark: Benchmark, sampler: Sampler) -> tuple[Sequence[Item], list[str]]:
    """The items that fit the model's positions with their answer, and the ids of the others, which are printed.

    Raises:
        InputError: none fits.
    """
    items, side, spec = benchmark.items(), benchmark.side, benchmark.spec()
    if benchmark.recorded:
        return items, []
    square = np.zeros((1, 1, 3), np.uint8)  # that there is an image counts, not what it shows
    prompts = (Prompt(side, item.text, (square,) * len(item.images)) for item in items)
    beyond = too_long(sampler, prompts, spec.max_new_tokens)
    if not beyond:
        return items, []
    ids = [items[n].id for n in beyond]
    shown = ", ".join(f"{items[n].id} ({tokens} tokens)" for n, tokens in list(beyond.items())[:3])
    what = f"beyond the model's {sampler.positions} positions with an answer: {shown}{', ...' * (len(ids) > 3)}"
    if len(ids) == len(items):
        raise InputError(f"{name}: no item fits, {what}")
    say(f"{name}: {len(ids)} of {len(items)} items are left out, {what}")
    return [item for n, item in enumerate(items) if n not in beyond], ids


def check_items(config: EvalConfig) -> None:
    """Raises InputError: the data of a benchmark that will not be skipped is missing or broken.

    Shapes items are drawn, which takes seconds, and cannot be missing.
    """
    for name in config.names:
        if not has_validation(name) and (name not in EDITING or config.edits):
            load_benchmark(name, config).items()


def skipped(config: EvalConfig, sampler: Sampler) -> dict[str, str]:
    """Benchmarks of the config that the sampler cannot do, each with the reason."""
    if sampler.edits_images or config.edits:
        return {}
    reason = f"the model cannot edit images; {config.group}edits judges a folder of edits"
    return {name: reason for name in config.names if name in EDITING}


def skip_lines(reasons: Mapping[str, str]) -> str:
    """The note on skipped benchmarks, a line for each."""
    return "\n".join(f"{name}: skipped, {reason}" for name, reason in reasons.items())


def _run(
    benchmark: Benchmark, items: Sequence[Item], sampler: Sampler, config: EvalConfig, keep: "_AnswerFile | None"
) -> list[Answer]:
    kept = [] if keep is None else keep.answers([item.id for item in items])
    if keep is not None and keep.stale:
        outputs = [""] * len(kept) if benchmark.recorded else keep.outputs(kept)
        kept = _answered(benchmark, items[: len(outputs)], outputs, config)
        keep.replace(kept)
    answers = list(kept)
    name = "questions" if benchmark.side is Side.UNDERSTANDING else "images"
    with track(total=len(items), initial=len(kept), desc=name, leave=False) as bar:
        for start in range(len(kept), len(items), config.batch):
            batch = items[start : start + config.batch]
            outputs = [""] * len(batch) if benchmark.recorded else _outputs(sampler, benchmark, batch, config.seed)
            new = _answered(benchmark, batch, outputs, config)
            if keep is not None:
                keep.add(new, outputs if benchmark.keeps_images else ())
            answers += new
            bar.update(len(batch))
    return answers


def _answered(benchmark: Benchmark, items: Sequence[Item], outputs: Sequence[Any], config: EvalConfig) -> list[Answer]:
    with ThreadPoolExecutor(config.judge.concurrency if benchmark.judge else 1) as pool:
        return list(pool.map(benchmark.answer, items, outputs))


def _outputs(sampler: Sampler, benchmark: Benchmark, batch: Sequence[Item], seed: int) -> Sequence[Any]:
    """Texts, or images uint8 [H, W, 3]."""
    side = benchmark.side
    images = [tuple(i if isinstance(i, np.ndarray) else load_image(i) for i in item.images) for item in batch]
    prompts = [Prompt(side, item.text, seen) for item, seen in zip(batch, images, strict=True)]
    seeds = seeds_for(seed, 0, [item.id for item in batch], side, 1)
    rollouts = sampler.sample(side, prompts, 1, benchmark.spec(), seeds)
    if side is Side.UNDERSTANDING:
        assert rollouts.texts is not None
        return [text for (text,) in rollouts.texts]
    assert rollouts.images_BRHWC is not None
    return list(rollouts.images_BRHWC[:, 0])


def _identity(model: str, config: EvalConfig, benchmark: Benchmark, items: Sequence[Item]) -> dict[str, str]:
    """Hashes of all that outputs depend on (asked), and scores besides (scored); empty without a model."""
    if not model:
        return {}
    judges = benchmark.recorded or benchmark.judge
    read = [config.detections, config.edits, config.imgedit_prompts] if judges else []
    files = [model_identity(path) for path in read if path]
    known: dict[Any, str] = {}  # benchmarks ask several questions about an image

    def content(image: Path | StoredImage | np.ndarray) -> str:
        """Equal for equal images."""
        if isinstance(image, np.ndarray):
            return hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()).hexdigest()
        stored = isinstance(image, StoredImage)
        key = id(image.content) if stored else image
        if key not in known:
            known[key] = hashlib.sha256(image.content).hexdigest() if stored else file_hash(image)
        return known[key]

    asked = [f"{item.id}\0{item.text}\0{' '.join(map(content, item.images))}" for item in items]
    parts = [model, config_hash(config), *files, benchmark.protocol, *asked]
    scored = [repr((item.part, item.gold, item.group)) for item in items]
    return {
        name: hashlib.sha256("\n".join(lines).encode("utf-8", "replace")).hexdigest()
        for name, lines in (("asked", parts), ("scored", scored))
    }


class _AnswerFile:
    """answers_<benchmark>.jsonl, appended to batch by batch, and images/<benchmark>/."""

    def __init__(self, folder: Path, name: str, identity: Mapping[str, str], side: Side) -> None:
        self._answers, self._images, self._side = folder / f"answers_{name}.jsonl", folder / "images" / name, side
        self._state, self._name, self._identity = folder / _STATE, name, dict(identity)
        known = self._known().get(name)
        old = known if isinstance(known, dict) else {}  # earlier versions kept less
        goes_on = bool(identity) and old.get("asked") == identity["asked"] and self._answers.is_file()
        self.stale = goes_on and old.get("scored") != identity["scored"]
        """Whether the answers are outputs of now under another key, and are to be scored again."""
        if not goes_on:
            self.replace([])

    def _known(self) -> dict[str, Any]:
        return read_json(self._state) if self._state.is_file() else {}

    def replace(self, answers: Sequence[Answer]) -> None:
        """Keeps these alone."""
        write_jsonl(self._answers, [answer.to_json() for answer in answers])
        write_json(self._state, self._known() | {self._name: self._identity})

    def outputs(self, answers: Sequence[Answer]) -> list[Any]:
        """The model's output for each, up to the first whose output is not kept."""
        found: list[Any] = []
        for answer in answers:
            image = self._images / f"{answer.id}.png"
            if self._side is Side.UNDERSTANDING and isinstance(answer.record.get("answer"), str):
                found.append(answer.record["answer"])
            elif self._side is Side.GENERATION and image.is_file():
                found.append(load_image(image))
            else:
                break
        return found

    def answers(self, ids: Sequence[str]) -> list[Answer]:
        """Those that are kept and are the first of the items; what a kill left of a line is cut off."""
        content = self._answers.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        answers = [Answer.from_json(json.loads(line)) for line in whole.splitlines()]
        if [answer.id for answer in answers] != list(ids[: len(answers)]):
            answers, whole = [], b""
        if whole != content:
            with self._answers.open("r+b") as file:
                file.truncate(len(whole))
        return answers

    def add(self, answers: Sequence[Answer], images: Sequence[np.ndarray]) -> None:
        for answer, image in zip(answers, images, strict=False):
            path = self._images / f"{answer.id}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        with self._answers.open("ab") as file:
            file.write("".join(json.dumps(a.to_json(), ensure_ascii=False) + "\n" for a in answers).encode())
            file.flush()
            os.fsync(file.fileno())
        wrote(self._answers)


def config_hash(config: EvalConfig) -> str:
    """Equal where scores may be compared."""
    return hashlib.sha256(json.dumps(config.scored_by(), sort_keys=True).encode()).hexdigest()[:16]


def model_identity(model: str) -> str:
    """The identity of a model for its answers: its name and, of a file or folder, the sizes and times of all files.

    A model of the Hub has its revision in the place of the files.
    """
    path = Path(model)
    if not path.exists():
        revision = hub_revision(model) if model.count("/") == 1 else None
        return model if revision is None else f"{model}\n{revision}"
    files = [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]
    stats = [(file.relative_to(path).as_posix(), file.stat()) for file in files]
    return "\n".join([model, *(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)])


def with_ledger(config: Config, folder: Path) -> Config:
    """The config whose judge keeps its replies in `folder`/ledger, where it names no folder of its own."""
    if not config.judge.model or config.judge.ledger:
        return config
    return replace(config, judge=replace(config.judge, ledger=str(folder / "ledger")))


def check_images(output: Path, config: EvaluateConfig) -> None:
    """Raises InputError where an image that would be drawn could replace one that is no evaluation's."""
    known = read_json(output / _STATE) if (output / _STATE).is_file() else {}
    for name in config.names:
        folder = output / "images" / name
        if not config.overwrite and name not in known and folder.is_dir() and any(folder.iterdir()):
            message = "holds files that are not from this command; choose another output, or --overwrite"
            raise InputError(message, file=folder)


def mark_chosen(results: dict[str, dict[str, Any]], model: str) -> None:
    """Marks the score by which `model` was chosen among a run's checkpoints (`log.best`), where it is of these items.

    Raises:
        InputError: the run's config.yaml is broken.
    """
    checkpoint = Path(model).parent if Path(model).name == "model" else Path(model)
    run = RunDir(checkpoint.parent.parent)
    if checkpoint.parent != run.best.parent or not (run.best.is_file() and run.config.is_file()):
        return
    if read_text(run.best).strip() != checkpoint.name:
        return
    settings = with_new_names(run.read_config())
    log, scored = settings.get("log") or {}, settings.get("eval") or {}
    name = log.get("best")
    if name in results and results[name]["split"] in (None, scored.get("split")):
        results[name]["chosen"] = True


def write_eval(
    output: Path,
    model: str,
    config: EvalConfig,
    results: dict[str, dict[str, Any]],
    left_out: Mapping[str, str] | None = None,
) -> Path:
    """Writes eval.json into `output`; `left_out`: the `skipped` benchmarks, if any."""
    content = {"model": model, "config_hash": config_hash(config), "benchmarks": results}
    write_json(output / "eval.json", {**content, **({"skipped": left_out} if left_out else {})})
    return output / "eval.json"


def table(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]] | None = None) -> str:
    """A plain-text table of scores with standard errors, of one model or before -> after."""
    lines = []
    for name, entry in before.items():
        digits = DIGITS.get(entry["unit"], 1)

        def number(of: dict[str, Any], digits: int = digits) -> str:
            return f"{of['score']:6.{digits}f} ± {of['stderr']:.{digits}f}"

        items = " (validation)" if entry.get("split") == "validation" else ""
        line = f"{name + items:<32} {number(entry)}"
        if after is not None:
            new = after[name]
            line += f"  ->  {number(new)}   ({new['score'] - entry['score']:+.{digits}f})"
        chosen = ", chosen on these items" if (entry if after is None else after[name]).get("chosen") else ""
        lines.append(f"{line}   n = {entry['n']}{chosen}")
    return "\n".join(lines)
