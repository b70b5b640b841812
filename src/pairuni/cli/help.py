"""Prints `--help`: options in groups with titles, with their kinds, defaults and texts, without any parser.

Texts are the docstrings under the fields in pairuni/config, read from its source. Nothing heavy is imported, so that
help is there at once.
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin

from pairuni import config
from pairuni.config.fields import bare

HELP = frozenset({"-h", "--help"})
ALL = "--help-all"
TITLES = {
    "": "General",
    "model": "Model and precision",
    "model.lora": "LoRA adapters",
    "data": "Training pairs",
    "pair_selection": "Pair selection and baselines",
    "rollout": "Rollouts: sampling for training",
    "advantage": "Advantage normalisation",
    "side_weights": "Loss weight of each side",
    "norm_length": "Lengths for loss_norm: constant",
    "optim": "AdamW optimiser",
    "rewards": "Rewards, trained and held out",
    "log": "Metrics, samples, checkpoints, and when to evaluate",
    "eval": "Evaluation benchmarks",
    "eval.judge": "Endpoint of the judge model",
    "judge": "Endpoint of the judge model",
    "llm": "Endpoint of the language model",
    "understanding_source": "Format of the understanding source",
    "generation_source": "Format of the generation source",
    "plan": "Memory plan: with --plan only, trains nothing",
}
# Commands with more options than one reads at once -> those that most runs set.
COMMON: dict[str, tuple[str, ...]] = {
    "train": (
        "output", "steps", "seed", "sides", "weighting", "kl_beta", "micro_batch", "distributed",
        "model.path", "model.device", "model.gradient_checkpointing", "model.lora.rank",
        "data.pairs", "data.batch", "data.shapes", "pair_selection.mode",
        "rollout.rollouts", "rollout.guidance", "rollout.max_new_tokens", "rollout.prompts_per_call",
        "optim.lr", "optim.warmup", "rewards.understanding", "rewards.generation", "rewards.options",
        "log.samples_every", "log.checkpoint_every", "log.eval_every", "log.best", "log.trackers", "log.console",
        "eval.benchmarks", "eval.split", "plan.memory", "plan.processes",
    ),
}  # fmt: skip
# Command -> its config, and the option whose value may stand as a bare word behind it.
CONFIGS: dict[str, tuple[str, str | None]] = {
    "shapes": ("ShapesConfig", None),
    "complete": ("CompleteConfig", None),
    "pair": ("PairConfig", None),
    "smoke": ("SmokeConfig", None),
    "train": ("PlanConfig", None),
    "sample": ("SampleConfig", None),
    "eval": ("EvaluateConfig", None),
    "tiny": ("TinyConfig", None),
    "pretrain": ("PretrainConfig", None),
    "analyse pairs": ("GalleryConfig", "pairs"),
    "analyse gradients": ("GradientsConfig", "run"),
    "analyse ablations": ("AblationsConfig", "suite"),
    "export hf-dataset": ("HfDatasetConfig", "pairs"),
    "export verl-omni": ("VerlOmniConfig", "pairs"),
    "export unirl": ("UnirlConfig", "pairs"),
}
_WIDTH = 100
_INDENT = 6


@dataclass(frozen=True)
class Option:
    """One option of a command, by its dotted name."""

    name: str
    group: str
    field: Field
    kind: Any
    """Its type without constraints."""
    text: str


def options_of(cls: Any, group: str = "") -> Iterator[Option]:
    """All options of a config in the order of its fields, those of a group after the group's owner."""
    texts = texts_of(cls)
    groups = []
    for each in fields(cls):
        if is_dataclass(each.type):
            groups.append(each)
        else:
            prefix = f"{group}." if group else ""
            yield Option(prefix + each.name, group, each, bare(each.type), texts.get(each.name, ""))
    for each in groups:
        yield from options_of(each.type, f"{group}.{each.name}" if group else each.name)


def help_of(command: str, cls: Any, first: str | None, everything: bool) -> str:
    """The page of `pairuni COMMAND --help`.

    Args:
        first: the option whose value may stand as a bare word behind the command, if there is one.
    """
    options = list(options_of(cls))
    common = COMMON.get(command, ())
    shown = [option for option in options if everything or not common or option.name in common]
    words = f" {first.upper()}" if first else ""
    about = textwrap.fill(" ".join((cls.__doc__ or "").split()), _WIDTH)
    lines = [f"usage: pairuni {command}{words} [--config FILE] [--option VALUE ...]", "", about, ""]
    lines += ["  --config FILE", *_wrapped("YAML file with any of the options below; later options win.")]
    for group in dict.fromkeys(option.group for option in shown):
        lines += ["", f"{TITLES[group]}:"]
        for option in shown:
            if option.group == group:
                lines.append(f"  --{option.name} {kind_of(option.kind)}{_default(option.field)}")
                lines += _wrapped(option.text)
    if len(shown) < len(options):
        lines += ["", f"These are {len(shown)} of {len(options)} options: `pairuni {command} {ALL}` has all."]
    lists = "Lists are written a,b or [a, b] or as words one after the other."
    return "\n".join([*lines, *(["", lists] if any(get_origin(o.kind) is list for o in shown) else [])])


def kind_of(kind: Any) -> str:
    """How a value is written: {a,b}, NUMBER, TEXT, true|false, A,B, JSON."""
    kind = bare(kind)
    kinds = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) is Literal:
        return "{" + ",".join(str(value) for value in get_args(kind)) + "}"
    if get_origin(kind) is list:
        inner = kind_of(kinds[0])
        return f"{inner},..." if inner.startswith("{") else "A,B,..."
    if get_origin(kind) is dict:
        return "JSON"
    if kinds:  # or None
        return kind_of(kinds[0])
    return {int: "N", float: "NUMBER", bool: "{true,false}"}.get(kind, "TEXT")


def nearest(name: str, known: list[str]) -> str:
    """ " (did you mean ...?)" where one of the names is near, also without its group; else nothing."""
    last = name.rpartition(".")[2]
    found = [each for each in known if each.rpartition(".")[2] == last] or get_close_matches(name, known, 1, 0.75)
    if not found:
        ends = {each.rpartition(".")[2]: each for each in reversed(known)}
        found = [ends[end] for end in get_close_matches(last, list(ends), 1, 0.75)]
    return f" (did you mean {' or '.join(found[:2])}?)" if found else ""


def asked_for(arguments: list[str]) -> str | None:
    """The help that a command line asks for; None where it asks for none, or for that of a command without a config."""
    name = next((each for each in (" ".join(arguments[:2]), arguments[0]) if each in CONFIGS), None)
    if name is None or not (HELP | {ALL}) & set(arguments):
        return None
    cls, first = CONFIGS[name]
    return help_of(name, vars(config)[cls], first, ALL in arguments)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), _WIDTH, initial_indent=" " * _INDENT, subsequent_indent=" " * _INDENT)


def _default(field: Field) -> str:
    value = field.default
    if value is MISSING:
        value = field.default_factory() if field.default_factory is not MISSING else MISSING
    if value is MISSING:
        return "   (needed)"
    if value is None or value == "" or value == [] or value == {}:
        return ""
    if isinstance(value, list):
        return f"   (default: {','.join(map(str, value))})"
    return f"   (default: {str(value).lower() if isinstance(value, bool) else value})"


@cache
def texts_of(cls: type) -> dict[str, str]:
    """Docstrings under the fields of a config and of what it derives from."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__[:-1]):
        body = _classes(each.__module__)[each.__name__].body
        for before, after in pairwise(body):
            documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and documented:
                found[before.target.id] = str(after.value.value)  # pyright: ignore[reportAttributeAccessIssue]
    return found


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
