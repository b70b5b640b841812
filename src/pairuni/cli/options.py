"""From a command line and a YAML file to a stage's frozen config; every mistake names file, line and field.

jsonargparse does the parsing (types, unknown keys, help from the field docstrings); this file words its errors.
"""

import json
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from pairuni.errors import InputError
from pairuni.files import read_text

Config = TypeVar("Config")
_KEY = re.compile(r"[Kk]ey ['\"]([\w.]+)['\"]")
_UNKNOWN = re.compile(r"Group ['\"]([\w.]+)['\"] does not accept option ['\"]([\w.]+)['\"]")
_IN_MAPPING = re.compile(r"Parser key ['\"]([\w.]+)['\"]:\s+Problem with given class_path '[\w.]+':\s+(.+)", re.DOTALL)
_UNKNOWN_TOP = re.compile(r"Option ['\"]([\w.]+)['\"] is not accepted")

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def parse_config(
    cls: type[Config], arguments: list[str], command: str, verify: Callable[[Config], None] | None = None
) -> Config:
    """Fills `cls` from `--config FILE` and `--field value` overrides (later ones win).

    Args:
        verify: what else is looked at before the command begins. It raises InputError with the field.

    Raises:
        InputError: an unknown key, a value of the wrong type or out of range, a missing key, a broken or missing file.
    """
    arguments = _spelled(arguments, _flags(cls))
    parser = ArgumentParser(prog=f"pairuni {command}", exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below.")
    parser.add_class_arguments(cls, None)
    files = [Path(b) for a, b in pairwise(arguments) if a == "--config"]
    files += [Path(a.removeprefix("--config=")) for a in arguments if a.startswith("--config=")]
    for file in files:
        _check_yaml(file, cls)
    try:
        values = vars(parser.instantiate(parser.parse_args(arguments)))
        config = cls(**{k: v for k, v in values.items() if k != "config"})
        if verify is not None:
            verify(config)
        return config
    except ArgumentError as err:
        error = _worded(str(err.message), command)
    except InputError as err:
        error = err
    given = {a.removeprefix("--").partition("=")[0] for a in arguments if a.startswith("--")}
    raise _located(error, [] if error.field in given else files) from None


def with_words(arguments: list[str], first: str, lists: tuple[str, ...] = ()) -> list[str]:
    """Options from a command line that begins with a bare word, the value of `first`, and names several values of an
    option of `lists` one after the other: `FILE --rejected A B` for ("pairs", ("rejected",)).
    """
    spread: list[str] = []
    gathered: list[str] | None = None
    if arguments and not arguments[0].startswith("-"):
        arguments = [f"--{first}", *arguments]
    for argument in [*arguments, "--"]:
        if gathered is not None and argument.startswith("--"):
            spread += [json.dumps(gathered)] * bool(gathered)  # without one, the parser says that a value is missing
            gathered = None
        if gathered is not None:
            gathered.append(argument)
        elif argument != "--":
            spread.append(argument)
            gathered = [] if argument.removeprefix("--") in lists else None
    return spread


def _flags(cls: Any, prefix: str = "") -> set[str]:
    """Options that are true or false, with their groups."""
    found = {prefix + f.name for f in fields(cls) if f.type is bool}
    groups = (_flags(f.type, f"{prefix}{f.name}.") for f in fields(cls) if is_dataclass(f.type))
    return found.union(*groups)


def _spelled(arguments: list[str], flags: set[str]) -> list[str]:
    """Hyphens in option names as underscores, and a flag without a value as true."""
    spelled = []
    for argument, following in pairwise([*arguments, "--"]):
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            name = name.replace("-", "_").replace("__", "--", 1)
            bare = name.removeprefix("--") in flags and not equals and following.startswith("--")
            argument = f"{name}=true" if bare else name + equals + value
        spelled.append(argument)
    return spelled


def _check_yaml(file: Path, cls: type) -> None:
    """What can be said against a file before its values are looked at, with its line."""
    text = read_text(file)
    try:
        value, root = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as err:
        line = None if err.problem_mark is None else err.problem_mark.line + 1
        raise InputError(f"is not valid YAML ({err.problem})", file=file, line=line) from None
    except yaml.YAMLError as err:
        raise InputError(f"is not valid YAML ({err})", file=file) from None
    except RecursionError:
        raise InputError("is not valid YAML (nested too deeply)", file=file) from None
    except ValueError as err:  # a day that no month has, a number of thousands of digits
        raise InputError(f"holds a value that cannot be read ({err})", file=file) from None
    if not isinstance(value, dict) or not isinstance(root, yaml.MappingNode):
        raise InputError("must be a YAML mapping of options", file=file)
    _check_keys(root, "", file)
    groups = {f.name: [g.name for g in fields(f.type)] for f in fields(cls) if is_dataclass(f.type)}
    for key, node in root.value:
        if key.value not in groups:
            continue
        if not isinstance(node, yaml.MappingNode):
            message = f"must be a group of options ({', '.join(groups[key.value])}), each on a line of its own below it"
            raise InputError(message, file=file, line=key.start_mark.line + 1, field=key.value)
        _check_keys(node, f"{key.value}.", file)


def _check_keys(node: yaml.MappingNode, prefix: str, file: Path) -> None:
    """Keys are words, and YAML itself would let the last of equal ones win in silence."""
    first: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.tag != "tag:yaml.org,2002:str":
            raise InputError(f"{key.value!r} is no name of an option", file=file, line=line)
        if key.value in first:
            message = f"is given twice, first in line {first[key.value]}"
            raise InputError(message, file=file, line=line, field=prefix + key.value)
        first[key.value] = line


def _worded(message: str, command: str) -> InputError:
    if match := _IN_MAPPING.search(message):  # options that are the value of a mapping, such as those of a reward
        inner = _worded(match[2], command)
        return InputError(f"{inner.field}: {inner.message}" if inner.field else inner.message, field=match[1])
    if match := _UNKNOWN.search(message):
        return InputError("unknown option", field=f"{match[1]}.{match[2]}")
    if match := _UNKNOWN_TOP.search(message):
        return InputError("unknown option", field=match[1])
    if match := re.search(r"required: (.+)", message):
        return InputError(f"is needed; see `pairuni {command} --help`", field=match[1])
    if match := re.search(r"[Uu]nrecognized arguments: (.+)", message):
        return InputError(f"unknown option; see `pairuni {command} --help`", field=match[1])
    if match := _KEY.search(message):
        what = " ".join(message[match.end() :].replace("typing.", "").split()).lstrip(': "')
        what = re.sub(r"<class '(\w+)'>", r"\1", what)
        if what.startswith("Unable to load config"):
            what = f"is a group of options: give them as --{match[1]}.NAME"
        return InputError("unknown option" if "not expected" in what else what[0].lower() + what[1:], field=match[1])
    return InputError(" ".join(message.split()))


def _located(error: InputError, files: list[Path]) -> InputError:
    """The error with the file and line in which its field stands, where one does."""
    if error.field is None or error.file is not None:
        return error
    for file in reversed(files):
        line = _line_of(error.field, file)
        if line is not None:
            return InputError(error.message, file=file, line=line, field=error.field)
    return error


def _line_of(field: str, file: Path) -> int | None:
    node, line = yaml.compose(read_text(file), Loader=yaml.SafeLoader), None
    assert isinstance(node, yaml.MappingNode)  # `_check_yaml` has seen it
    whole = any(key.value == field for key, _ in node.value)  # `group.field: value` in one line
    for part in [field] if whole else field.split("."):
        if not isinstance(node, yaml.MappingNode):
            return None
        found = next(((k, v) for k, v in node.value if k.value == part), None)
        if found is None:
            return None
        line, node = found[0].start_mark.line + 1, found[1]
    return line
