"""The `complete` stage: understanding and generation samples -> quadruples.jsonl (paper 2.1).

Samples are worked on side by side and written in their order, so that the files do not depend on timing. What a
language model said is in the ledger (llm.py): a killed run continues without paying twice, and a second run
costs nothing.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pairuni.config import CompleteConfig
from pairuni.data.completion import Outcome, complete_sample
from pairuni.data.images import LoadedImage, look
from pairuni.data.llm_completer import NO_REPLY, LlmCompleter, LlmVerifier, Templates, texts_of
from pairuni.data.ordered import in_order
from pairuni.data.shapes_completer import ShapesCompleter
from pairuni.data.sources import Item, Sources, gathers, open_sources
from pairuni.data.verify import ShapesVerifier
from pairuni.files import file_hash, jsonl_writer, put, write_json, writing
from pairuni.llm import Chat, Ledger
from pairuni.outputs import Outputs
from pairuni.progress import Progress, track
from pairuni.types import Sample, Side

FILES = ("quadruples.jsonl", "rejected.jsonl", "completion.json")
_CHARACTERS = 4
"""Per token, roughly, in English."""
_REPLY_TOKENS = 100
"""Of a caption, question or verdict, roughly."""


@dataclass(frozen=True)
class Placed:
    """An item and its place among those of its side."""

    item: Item
    position: int


@dataclass(frozen=True)
class Finished:
    """What became of an item, and what was unusual about its image."""

    outcome: Outcome
    notes: tuple[str, ...] = ()


class Tally:
    """Counts what became of the samples."""

    def __init__(self) -> None:
        self.inputs = self.retried = 0
        self.completed, self.rejected = (dict.fromkeys((str(side) for side in Side), 0) for _ in range(2))
        self.reasons: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()

    def add(self, sample: Sample, finished: Finished) -> None:
        outcome = finished.outcome
        self.notes.update(finished.notes)
        self.inputs += 1
        self.retried += outcome.attempts > 1
        ended = self.rejected if outcome.quadruple is None else self.completed
        ended[str(sample.side)] += 1
        if outcome.quadruple is None:
            self.reasons[outcome.reason.partition(":")[0]] += 1

    def to_json(self) -> dict[str, Any]:
        counts = {"inputs": self.inputs, "completed": self.completed, "rejected": self.rejected}
        found = {"reasons": dict(sorted(self.reasons.items())), "notes": dict(sorted(self.notes.items()))}
        return {**counts, "retried": self.retried, **found}


@dataclass(frozen=True)
class _Run:
    """What a config comes to."""

    sources: Sources
    chat: Chat | None
    outcomes: Callable[[str], Iterator[tuple[Item, Finished, Progress]]]


def run_complete(config: CompleteConfig) -> dict[str, Any]:
    """Writes quadruples.jsonl, rejected.jsonl and completion.json to `config.output`; files appear whole or not at all.

    Images that a source has inside its own files are put into images/ of the output. With several shards each writes to
    a folder of its own below it. Returns what completion.json holds: options, the image root that paths are relative
    to, input hashes, counts {inputs, completed and rejected by side, retried, reasons, notes, left_out} and, of a
    language model, calls, tokens and cost.

    Raises:
        InputError: a source file is wrong (`Sources`), the endpoint is unusable, another process is at work in the
            output, or a file is there that may not be replaced. Broken images are rejections.
    """
    output = Path(config.output)
    if config.shards > 1:
        output /= f"shard_{config.shard:05d}_of_{config.shards:05d}"
    images = Outputs(config.output, "complete", (), config.overwrite, many=["images/*/*"] if gathers(config) else [])
    with images, writing(output, "complete", FILES, config.overwrite):
        return _complete(config, output)


def _complete(config: CompleteConfig, output: Path) -> dict[str, Any]:
    run, tally = _begin(config), Tally()
    with jsonl_writer(output / "quadruples.jsonl") as keep, jsonl_writer(output / "rejected.jsonl") as reject:
        for item, finished, bar in run.outcomes("complete"):
            tally.add(item.sample, finished)
            if finished.outcome.quadruple is None:
                reject(_rejection(item.sample, finished.outcome.reason))
            else:
                keep(finished.outcome.quadruple.to_json())
                if run.sources.gathers:
                    _gather(item, run.sources.image_root)
            if run.chat is not None:
                bar.set_postfix_str(_progress(run.chat, tally), refresh=False)
    files = {str(side): Path(vars(config)[side]) for side in Side}
    summary = {
        "options": {name: value for name, value in asdict(config).items() if name != "overwrite"},
        "quadruples": str(output / "quadruples.jsonl"),
        "image_root": str(run.sources.image_root),
        "input_hashes": {name: file_hash(path) if path.is_file() else None for name, path in files.items()},
        "counts": {**tally.to_json(), "left_out": dict(run.sources.left_out)},
    }
    if run.chat is not None:
        summary["llm"] = {**asdict(run.chat.usage), "cost": round(run.chat.usage.cost(config.llm), 4)}
    write_json(output / "completion.json", summary)
    return summary


def estimate(config: CompleteConfig) -> dict[str, float]:
    """What a run would take if no sample needed a second try: samples, those still to be asked about, tokens, cost.

    What the ledger holds is replayed. Two calls per sample are counted: one writes, one judges. Nothing is asked and
    nothing is written.

    Raises:
        InputError: as `run_complete`.
    """
    run, templates = _begin(replace(config, llm=replace(config.llm, replay=True))), Templates(config.llm.prompts)
    samples = calls = tokens = 0
    for item, finished, _ in run.outcomes("dry run"):
        samples += 1
        if finished.outcome.reason.startswith(NO_REPLY):
            texts, pictures = texts_of(item.sample, templates)
            calls += len(texts)
            tokens += sum(map(len, texts)) // _CHARACTERS + pictures * config.llm.image_tokens
    replies = calls * _REPLY_TOKENS
    cost = (tokens * config.llm.price_prompt + replies * config.llm.price_completion) / 1e6
    counts = {"samples": samples, "calls": calls, "prompt_tokens": tokens, "completion_tokens": replies}
    return {**counts, "cost": round(cost, 2)}


def _begin(config: CompleteConfig) -> _Run:
    sources = open_sources(config)
    chat, completer, verifier = None, ShapesCompleter(config.seed), ShapesVerifier()
    if config.completer == "llm":
        chat = Chat(config.llm, Ledger(Path(config.llm.ledger or Path(config.output) / "ledger")))
        templates = Templates(config.llm.prompts)
        completer, verifier = LlmCompleter(chat, templates, config.seed), LlmVerifier(chat, templates)

    def work(placed: Placed) -> Finished:
        item = placed.item
        image = item.fault or _looked_at(item)
        if isinstance(image, str):
            return Finished(Outcome(None, image, 0))
        outcome = complete_sample(item.sample, image, completer, verifier, config.attempts, placed.position)
        return Finished(outcome, image.notes)

    def outcomes(what: str) -> Iterator[tuple[Item, Finished, Progress]]:
        mine = itertools.islice(_placed(sources), config.shard, None, config.shards)
        workers = 1 if chat is None else config.llm.concurrency
        bar = track(in_order(work, mine, workers), what, unit="sample")
        for placed, finished in bar:
            yield placed.item, finished, bar

    return _Run(sources, chat, outcomes)


def _placed(sources: Sources) -> Iterator[Placed]:
    counts = dict.fromkeys(Side, 0)
    for item in sources:
        side = item.sample.side
        yield Placed(item, counts[side])
        counts[side] += 1


def _looked_at(item: Item) -> LoadedImage | str:
    try:
        return look(item.read())
    except FileNotFoundError:
        return "the image does not exist"
    except OSError:
        return "the image cannot be read"


def _gather(item: Item, root: Path) -> None:
    """Puts the image where its sample says. One that a killed run has put there is left."""
    put(root / item.sample.image_path, item.read())


def _progress(chat: Chat, tally: Tally) -> str:
    usage = chat.usage
    return (
        f"{sum(tally.rejected.values())} rejected, {usage.calls} calls, {usage.replayed} replayed, "
        f"cost {usage.cost(chat.config):.2f}"
    )


def _rejection(sample: Sample, reason: str) -> dict[str, Any]:
    row = {"id": sample.id, "side": str(sample.side), "image_path": sample.image_path, "prompt": sample.prompt}
    row |= {"question": sample.question, "answer": sample.answer, "tag": sample.tag, "reason": reason}
    return {**sample.extra, **{key: value for key, value in row.items() if value is not None}}
