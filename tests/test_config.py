"""Configs from Python and from words: every constraint is refused by an InputError that names the field."""

import dataclasses
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import TypeAdapter, ValidationError

from pairuni import config
from pairuni.cli.help import CONFIGS, Option, options_of
from pairuni.cli.options import parse_config
from pairuni.config import (
    DataConfig,
    EvalConfig,
    EvaluateConfig,
    LlmConfig,
    NormLength,
    RewardConfig,
    RewardOptions,
    RolloutConfig,
    TrainConfig,
)
from pairuni.errors import InputError
from pairuni.validation import input_error

TRAIN = TrainConfig("o", data=DataConfig("p"))
NEEDED = {"output": "o", "suite": "pairing", "pairs": "p", "quadruples": "q", "run": "r"}
NEEDED |= {"understanding": "u", "generation": "g", "data.pairs": "p"}
OPTIONS = [(name, option) for name, (cls, _) in CONFIGS.items() for option in options_of(vars(config)[cls])]


def words_for(command: str) -> list[str]:
    """What a command needs, whatever else it is given."""
    options = options_of(vars(config)[CONFIGS[command][0]])
    required = [o.name for o in options if o.field.default is o.field.default_factory is dataclasses.MISSING]
    required += ["data.pairs"] * (command == "train")
    words = [word for name in required for word in (f"--{name}", NEEDED[name])]
    return [*words, "--prompt", "p"] if command == "sample" else words


def refused(words: list[str], command: str) -> InputError:
    with pytest.raises(InputError) as caught:
        parse_config(vars(config)[CONFIGS[command][0]], [*words_for(command), *words], command)
    return caught.value


@pytest.mark.parametrize(
    ("command", "option"), [(c, o) for c, o in OPTIONS if o.kind in (int, float, bool)], ids=lambda v: str(v)[:40]
)
def test_a_word_for_a_number_or_a_flag_is_refused(command: str, option: Option) -> None:
    error = refused([f"--{option.name}", "word"], command)
    kind = {int: "a whole number", float: "a number", bool: "true or false"}[option.kind]
    assert (error.field, error.message) == (option.name, f"must be {kind}, not 'word'")
    if option.kind is int:
        assert "must be a whole number, not 2.0" in str(refused([f"--{option.name}", "2.0"], command))
    if option.kind is not bool:  # no number of any command may be below 0
        assert refused([f"--{option.name}", "-1"], command).field == option.name


@pytest.mark.parametrize(("command", "option"), [(c, o) for c, o in OPTIONS if get_origin(o.kind) is Literal])
def test_a_choice_names_the_others(command: str, option: Option) -> None:
    error = refused([f"--{option.name}", "none of these"], command)
    choices = ", ".join(get_args(option.kind))
    assert (error.field, error.message) == (option.name, f"must be one of {choices}, not 'none of these'")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RolloutConfig(1), "rollout.rollouts: must be at least 2, not 1"),
        (lambda: RolloutConfig(guidance=0.5), "rollout.guidance: must be at least 1, not 0.5"),
        (lambda: TrainConfig("o", 5.0, data=DataConfig("p")), "steps: must be a whole number, not 5.0"),  # pyright: ignore
        (lambda: TrainConfig("o", True, data=DataConfig("p")), "steps: must be a whole number, not true"),
        (lambda: TrainConfig("o", stepz=5), "stepz: unknown option"),  # pyright: ignore
        (lambda: TrainConfig(), "output: is missing"),  # pyright: ignore
        (lambda: TrainConfig("o"), "data.pairs: is needed: the path of a pairs.jsonl"),
        (lambda: TrainConfig("o", norm_length=5), "norm_length: must be a mapping, not 5"),  # pyright: ignore
        (lambda: dataclasses.replace(TRAIN, steps=0), "steps: must be positive, not 0"),
        (lambda: NormLength(generation=0), "norm_length.generation: must be positive, not 0"),
        (lambda: EvalConfig(guidance=float("nan")), "eval.guidance: must be at least 1, not nan"),
        (lambda: EvaluateConfig(batch=0), "batch: must be positive, not 0"),
        (lambda: EvalConfig(benchmarks=[]), "eval.benchmarks: names no benchmark"),
        (lambda: LlmConfig(api_key_env="sk-123"), "llm.api_key_env: must be the name of an environment variable"),
        (
            lambda: RewardConfig(options={"hps": RewardOptions()}),
            "rewards.options: has options of hps, which no side uses",
        ),
        (lambda: RewardConfig(weights={"choice": 0}), "rewards.weights.choice: must be positive, not 0"),
    ],
)
def test_python_callers_get_the_field(make: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value).startswith(said)


def test_a_config_is_frozen_and_equal_to_its_copy() -> None:
    again = TrainConfig(**{**vars(TRAIN)})
    assert again == TRAIN and again is not TRAIN and dataclasses.asdict(again) == dataclasses.asdict(TRAIN)
    with pytest.raises(dataclasses.FrozenInstanceError):
        TRAIN.steps = 3  # pyright: ignore[reportAttributeAccessIssue]
    assert TrainConfig("o", data=DataConfig("p"), rollout=RolloutConfig(4)).rollout.rollouts == 4


@pytest.mark.parametrize(
    ("kind", "value", "field", "message"),
    [
        (list[int], [1, "x"], "1", "must be a whole number, not 'x'"),
        (dict[str, float], {"a": []}, "a", "must be a number, not []"),
        (list[int], "x" * 99, None, f"must be a list, not '{'x' * 56}..."),
    ],
)
def test_other_values_are_worded_alike(kind: Any, value: Any, field: str | None, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(value, strict=True)
    error = input_error(caught.value, file="f.jsonl", line=3)
    assert (error.field, error.message, error.file, error.line) == (field, message, "f.jsonl", 3)
    assert input_error(caught.value, prefix="of").field == ".".join(filter(None, ("of", field)))
