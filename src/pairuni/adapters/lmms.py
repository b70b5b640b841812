"""A policy as a model of lmms-eval (0.7.3 or newer): its tasks ask, the policy answers.

    python -m lmms_eval --model pairuni --model_args pretrained=shapes-janus --tasks pope --batch_size 16

Questions on images only: tasks that score given answers, go several rounds or draw are refused, and literal image
placeholders in a question stay as they are, after the images. Sampling is that of eval/runner.py. Interface: lmms-eval
`api/model.py`, `api/instance.py`, `evaluator.py`. Registered by adapters/__init__.py.
"""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Self

import numpy as np
import torch
from lmms_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]
from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]
from lmms_eval.utils import simple_parse_args_string  # pyright: ignore[reportMissingImports]
from PIL import Image

from pairuni.errors import InputError
from pairuni.policies import load_policy
from pairuni.policies.base import Policy
from pairuni.policies.sampling import counter_seed
from pairuni.progress import track
from pairuni.types import Prompt, SamplingSpec, Side

_READ = ("do_sample", "temperature", "top_p", "top_k", "max_new_tokens", "until")
_NEUTRAL = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "no_repeat_ngram_size": 0,
    "min_p": 0,
}
"""Options that change answers and are not there, with the value at which they do nothing."""
_WORDS_ONLY = "pairuni answers questions in words, once: choose tasks of output_type generate_until"


class PairuniModel(lmms):
    """Answers the requests of lmms-eval's tasks with a policy."""

    is_simple = True

    def __init__(
        self,
        pretrained: str | Policy,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int | str = 1,
        seed: int = 0,
        max_new_tokens: int = 1024,
    ) -> None:
        """Takes what `load_policy` takes, or a policy (`device` and `precision` are then its own).

        Args:
            batch_size: questions that are answered together; changes no answer (exactly so in fp32).
            seed: of tasks that sample.
            max_new_tokens: the longest answer where a task does not say.

        Raises:
            InputError: the checkpoint, or a batch size that is no positive number ("auto" is none).
        """
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise InputError(f"must be a positive number, not {batch_size!r}", field="batch_size")
        self.batch_size, self.seed, self.max_new_tokens = int(batch_size), seed, max_new_tokens
        if isinstance(pretrained, str):
            pretrained = load_policy(pretrained, device=own_device(device), precision=precision)
        self.policy: Policy | None = pretrained
        self.device = pretrained.device

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Self:
        """From `--model_args`, which win over `additional_config`: the command line always sends its batch size too."""
        options = {name: value for name, value in (additional_config or {}).items() if value is not None}
        return cls(**{**options, **simple_parse_args_string(arg_string)})

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The answers in the order of the requests; each depends on its question, the seed and its document alone.

        Raises:
            InputError: options that are not supported, or a document with what the model does not take: nothing to see,
                sound or film.
        """
        asked = self._read(requests)
        answers = [""] * len(asked)
        with track(total=len(asked), desc="questions", disable=self.rank != 0) as bar:
            for spec in dict.fromkeys(question.spec for question in asked):
                alike = [question for question in asked if question.spec == spec]
                for start in range(0, len(alike), self.batch_size):
                    batch = alike[start : start + self.batch_size]
                    for question, text in zip(batch, self._texts(batch), strict=True):
                        answers[question.place] = cut(text, question.until)
                    bar.update(len(batch))
        return answers

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Raises NotImplementedError."""
        raise NotImplementedError(f"loglikelihood and multiple_choice tasks score given answers; {_WORDS_ONLY}")

    def generate_until_multi_round(self, requests: list[Instance]) -> NoReturn:
        """Raises NotImplementedError."""
        raise NotImplementedError(f"generate_until_multi_round tasks ask several times; {_WORDS_ONLY}")

    def clean(self) -> None:
        """Lets go of the policy, so that a judge can have its memory: one evaluation per model."""
        self.policy = None
        super().clean()

    def _read(self, requests: Sequence[Instance]) -> list["_Asked"]:
        seen: Counter[tuple[str, str, int]] = Counter()
        unused: set[str] = set()
        questions = []
        for place, request in enumerate(requests):
            text, options, visuals, doc_id, task, split = request.arguments
            where = f"task {task}, split {split}, document {doc_id}"
            try:
                spec, until = sampling_spec(options, self.max_new_tokens), stops(options)
            except (TypeError, ValueError) as err:
                raise InputError(str(err), file=where, field="generation_kwargs") from None
            unused |= set(options) - {*_READ, *_NEUTRAL}
            # A task may repeat a document's request to see how much the answers vary.
            seed = counter_seed(self.seed, 0, f"{task}/{split}/{doc_id}", Side.UNDERSTANDING, seen[task, split, doc_id])
            seen[task, split, doc_id] += 1
            documents = self.task_dict[task][split]
            questions.append(_Asked(place, text, documents, doc_id, visuals, where, spec, until, seed))
        if unused:
            warnings.warn(f"generation_kwargs that are not used: {', '.join(sorted(unused))}", stacklevel=3)
        return questions

    def _texts(self, batch: Sequence["_Asked"]) -> list[str]:
        if self.policy is None:
            raise RuntimeError("lmms-eval has evaluated and cleaned this model: make another")
        prompts = [Prompt(Side.UNDERSTANDING, question.text, question.images()) for question in batch]
        seeds = np.array([[question.seed] for question in batch], dtype=np.uint64)
        try:
            rollouts = self.policy.sample(Side.UNDERSTANDING, prompts, 1, batch[0].spec, seeds)
        except ValueError as err:
            blind = [q.where for q, prompt in zip(batch, prompts, strict=True) if not prompt.images]
            if not blind:
                raise
            raise InputError(f"has no image, and the model does not answer without ({err})", file=blind[0]) from err
        assert rollouts.texts is not None
        return [text for (text,) in rollouts.texts]


@dataclass(frozen=True)
class _Asked:
    place: int
    """Of its answer."""
    text: str
    documents: Any
    doc_id: int
    visuals: Callable[[Any], Any]
    where: str
    spec: SamplingSpec
    until: tuple[str, ...]
    seed: int

    def images(self) -> tuple[np.ndarray, ...]:
        """The document's images, uint8 [H, W, 3] each, decoded now. Raises InputError: something that is no image."""
        found = self.visuals(self.documents[self.doc_id])
        found = [found] if isinstance(found, Image.Image) else found or []
        for other in (one for one in found if not isinstance(one, Image.Image)):
            raise InputError(f"shows a {type(other).__name__}; only images can be seen", file=self.where)
        return tuple(np.asarray(image.convert("RGB")) for image in found)


def sampling_spec(options: Mapping[str, Any], max_new_tokens: int) -> SamplingSpec:
    """The spec of a task's `generation_kwargs`; transformers' own defaults (top_k 50) are not added.

    Greedy unless `do_sample` is true or, where it is missing, the temperature is above 0. A `do_sample: false` is
    obeyed whatever the temperature. A task that samples without a temperature has 1; top_p 0 leaves one token.

    Raises:
        ValueError: an option that is not supported, or a value out of range.
    """
    for name, neutral in _NEUTRAL.items():
        value = options.get(name)
        if value is not None and value != neutral:
            raise ValueError(f"{name} = {value} is not supported; --gen_kwargs {name}={neutral} asks without it")
    values = {name: options.get(name) for name in _READ}
    longest = max_new_tokens if values["max_new_tokens"] is None else int(values["max_new_tokens"])
    temperature = 1.0 if values["temperature"] is None else float(values["temperature"])
    top_p = 1.0 if values["top_p"] is None else float(values["top_p"])
    sampled = values["do_sample"] if values["do_sample"] is not None else values["temperature"] is not None
    if not sampled or temperature == 0 or top_p == 0:
        return SamplingSpec(temperature=0.0, max_new_tokens=longest)
    top_k = max(int(values["top_k"] or 0), 0)  # some libraries write -1 for all tokens
    return SamplingSpec(temperature=temperature, max_new_tokens=longest, top_k=top_k, top_p=top_p)


def stops(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts before which an answer ends. lmms-eval adds a blank line where a task names none."""
    until = options.get("until") or ()
    return tuple(text for text in ([until] if isinstance(until, str) else until) if text)


def cut(text: str, until: Sequence[str]) -> str:
    """`text` before the first of the stops."""
    return text[: min((place for stop in until if (place := text.find(stop)) >= 0), default=len(text))]


def own_device(device: str) -> str:
    """One GPU per process under torchrun or `accelerate launch`, otherwise `device` as it is."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several and (device == "cuda" or (device == "auto" and torch.cuda.is_available())):
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return device
