"""The `complete` stage: understanding and generation samples -> quadruples.jsonl (paper 2.1).

Several samples are completed at a time and written in their order, so that the files do not depend on timing. The
ledger keeps the replies of a language model (llm.py): a killed run continues without paying twice, and a second run
costs nothing.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pairuni.config import CompleteConfig
from pairuni.data.completion import Completion, complete_sample
from pairuni.data.images import look
from pairuni.data.llm_completer import NO_REPLY, LlmCompleter, LlmVerifier, Templates, texts_of
from pairuni.data.ordered import in_order
from pairuni.data.shapes_completion import ShapesCompleter, ShapesVerifier
from pairuni.data.sources import SourceItem, Sources, gathers
from pairuni.files import file_hash, jsonl_writer, put, write_json, writing
from pairuni.llm import Chat, Ledger
from pairuni.outputs import Outputs
from pairuni.progress import Progress, track
from pairuni.types import Side

FILES = ("quadruples.jsonl", "rejected.jsonl", "completion.json")
_CHARACTERS = 4
"""Characters per token in English, roughly."""
_REPLY_TOKENS = 100
"""Tokens of a caption, question or verdict, roughly."""


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
        work, retried, reasons, notes = _Work(config), 0, Counter[str](), Counter[str]()
        ended = {name: dict.fromkeys((str(side) for side in Side), 0) for name in ("completed", "rejected")}
        with jsonl_writer(output / "quadruples.jsonl") as keep, jsonl_writer(output / "rejected.jsonl") as reject:
            for item, outcome, bar in work.outcomes("complete"):
                sample, quadruple = item.sample, outcome.quadruple
                ended["rejected" if quadruple is None else "completed"][str(sample.side)] += 1
                retried += outcome.attempts > 1
                notes.update(outcome.notes)
                if quadruple is None:
                    reasons[outcome.reason.partition(":")[0]] += 1
                    row = {"id": sample.id, "side": str(sample.side), "image_path": sample.image_path}
                    row |= {"prompt": sample.prompt, "question": sample.question, "answer": sample.answer}
                    row |= {"tag": sample.tag, "reason": outcome.reason}
                    reject({**sample.extra, **{key: value for key, value in row.items() if value is not None}})
                else:
                    keep(quadruple.to_json())
                    if work.sources.gathers:
                        put(work.sources.image_root / sample.image_path, item.read())
                if work.chat is not None:
                    used = work.chat.usage
                    counts = f"{sum(ended['rejected'].values())} rejected, {used.calls} calls, {used.replayed} replayed"
                    bar.set_postfix_str(f"{counts}, cost {used.cost(config.llm):.2f}", refresh=False)
        files = {str(side): Path(vars(config)[side]) for side in Side}
        summary = {
            "options": {name: value for name, value in asdict(config).items() if name != "overwrite"},
            "quadruples": str(output / "quadruples.jsonl"),
            "image_root": str(work.sources.image_root),
            "input_hashes": {name: file_hash(path) if path.is_file() else None for name, path in files.items()},
            "counts": {
                "inputs": sum(sum(each.values()) for each in ended.values()),
                **ended,
                "retried": retried,
                "reasons": dict(sorted(reasons.items())),
                "notes": dict(sorted(notes.items())),
                "left_out": dict(work.sources.left_out),
            },
        }
        if work.chat is not None:
            summary["llm"] = {**asdict(work.chat.usage), "cost": round(work.chat.usage.cost(config.llm), 4)}
        write_json(output / "completion.json", summary)
    return summary


def estimate(config: CompleteConfig) -> dict[str, float]:
    """An estimate of a run in which no sample needs a second try: samples, those still to be asked about, tokens, cost.

    Replies in the ledger are replayed. Two calls per sample are counted: one writes, one judges. No model is asked and
    no file is written.

    Raises:
        InputError: as `run_complete`.
    """
    work = _Work(replace(config, llm=replace(config.llm, replay=True)))
    templates = Templates(config.llm.prompts)
    samples = calls = tokens = 0
    for item, outcome, _ in work.outcomes("dry run"):
        samples += 1
        if outcome.reason.startswith(NO_REPLY):
            texts, pictures = texts_of(item.sample, templates)
            calls += len(texts)
            tokens += sum(map(len, texts)) // _CHARACTERS + pictures * config.llm.image_tokens
    replies = calls * _REPLY_TOKENS
    cost = (tokens * config.llm.price_prompt + replies * config.llm.price_completion) / 1e6
    counts = {"samples": samples, "calls": calls, "prompt_tokens": tokens, "completion_tokens": replies}
    return {**counts, "cost": round(cost, 2)}


class _Work:
    """The samples of a config, its completer and its verifier."""

    def __init__(self, config: CompleteConfig) -> None:
        self.config, self.sources, self.chat = config, Sources(config), None
        self._completer, self._verifier = ShapesCompleter(config.seed), ShapesVerifier()
        if config.completer == "llm":
            self.chat = Chat(config.llm, Ledger(Path(config.llm.ledger or Path(config.output) / "ledger")))
            templates = Templates(config.llm.prompts)
            self._completer = LlmCompleter(self.chat, templates, config.seed)
            self._verifier = LlmVerifier(self.chat, templates)

    def outcomes(self, title: str) -> Iterator[tuple[SourceItem, Completion, Progress]]:
        """Each sample of this shard with what became of it, in order, and the progress bar.

        A sample's place is that among the samples of its side.
        """
        places = {side: itertools.count() for side in Side}
        placed = ((item, next(places[item.sample.side])) for item in self.sources)
        shard = itertools.islice(placed, self.config.shard, None, self.config.shards)
        workers = 1 if self.chat is None else self.config.llm.concurrency
        bar = track(in_order(lambda one: self._outcome(*one), shard, workers), title, unit="sample")
        for (item, _), outcome in bar:
            yield item, outcome, bar

    def _outcome(self, item: SourceItem, position: int) -> Completion:
        try:
            image = item.fault or look(item.read())
        except FileNotFoundError:
            image = "the image does not exist"
        except OSError:
            image = "the image cannot be read"
        if isinstance(image, str):
            return Completion(None, image, 0)
        tries = self.config.attempts
        outcome = complete_sample(item.sample, image, self._completer, self._verifier, tries, position)
        return replace(outcome, notes=image.notes)
