"""From a command line and a YAML file to a stage's frozen config; every mistake names file, line and field.

jsonargparse does the parsing (types, unknown keys, help from the field docstrings); this file words its errors.
"""

import json
import re
from argparse import ArgumentError as ArgparseError
from argparse import ArgumentParser as ArgumentParserOfPython
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, get_origin

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from pairuni.cli.configs import config_file
from pairuni.cli.help import Option, nearest, options_of
from pairuni.errors import InputError
from pairuni.files import read_text
from pairuni.renamed import refuse_old_name

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
    options = list(options_of(cls))
    lists = {option.name for option in options if get_origin(option.field.type) is list}
    arguments = _found_configs(_one_value(_spelled(arguments, _flags(cls)), lists))
    _check_names(arguments, options, command)
    parser = ArgumentParser(prog=f"pairuni {command}", exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below.")
    parser.add_class_arguments(cls, None)
    files = [Path(b) for a, b in pairwise(arguments) if a == "--config"]
    files += [Path(a.removeprefix("--config=")) for a in arguments if a.startswith("--config=")]
    texts = {str(file): _check_yaml(file, cls, lists) for file in files}
    try:
        values = vars(parser.instantiate(parser.parse_args(_with_texts(arguments, texts))))
        config = cls(**{k: v for k, v in values.items() if k != "config"})
        if verify is not None:
            verify(config)
        return config
    except ArgumentError as err:
        error = _worded(str(err.message), command)
        if error.field is not None and error.message == "unknown option":
            near = nearest(error.field, [option.name for option in options])
            error = InputError(f"unknown option{near}; see `pairuni {command} --help`", field=error.field)
    except InputError as err:
        error = err
    given = {a.removeprefix("--").partition("=")[0] for a in arguments if a.startswith("--")}
    raise _located(error, [] if error.field in given else files) from None


def parse_arguments(parser: ArgumentParserOfPython, arguments: list[str]) -> Namespace:
    """What a command without a config takes. Raises InputError: an unknown option, or a value that is wrong."""
    try:
        options, others = parser.parse_known_args(arguments)
    except ArgparseError as err:
        raise InputError(str(err)) from None
    for other in others:
        known = [name.removeprefix("--") for action in parser._actions for name in action.option_strings]
        near = nearest(other.removeprefix("--").partition("=")[0], known) if other.startswith("--") else ""
        raise InputError(f"unknown option{near}; see `{parser.prog} --help`", field=other)
    return options


def with_first(arguments: list[str], first: str) -> list[str]:
    """Options from a command line that may begin with a bare word, the value of `first`."""
    return [f"--{first}", *arguments] if arguments and not arguments[0].startswith("-") else arguments


def _one_value(arguments: list[str], lists: set[str]) -> list[str]:
    """Lists as one value each, JSON: `--x A B`, `--x A,B` and `--x [A, B]` are one."""
    spread: list[str] = []
    gathered: list[str] | None = None
    for argument in [*arguments, "--"]:
        if gathered is not None and argument.startswith("--"):
            spread += [_listed(gathered)] * bool(gathered)  # without one, the parser says that a value is missing
            gathered = None
        name, equals, value = argument.partition("=")
        if gathered is not None:
            gathered.append(argument)
        elif argument == "--":
            continue
        elif name.removeprefix("--") in lists and name.startswith("--"):
            spread.append(name)
            gathered = [value] if equals else []
        else:
            spread.append(argument)
    return spread


def _listed(words: list[str]) -> str:
    """JSON of a list that is written in words, [A, B], or A,B."""
    whole = " ".join(words)
    if whole.lstrip().startswith("["):
        return whole
    return json.dumps([part.strip() for word in words for part in word.split(",") if part.strip()], ensure_ascii=False)


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


def _check_names(arguments: list[str], options: list[Option], command: str) -> None:
    """Raises InputError: an option that there is not, before one that is missing is said to be."""
    known = [option.name for option in options]
    mappings = tuple(f"{option.name}." for option in options if get_origin(option.field.type) is dict)
    for argument in arguments:
        name = argument.removeprefix("--").partition("=")[0]
        taken = name in known or name == "config" or name.startswith(mappings) or not argument.startswith("--")
        if not taken and not any(each.startswith(f"{name}.") for each in known):
            refuse_old_name(name, known)
            what = f"unknown option{nearest(name, known)}; see `pairuni {command} --help`"
            raise InputError(what, field=argument.partition("=")[0])


def _found_configs(arguments: list[str]) -> list[str]:
    """The arguments with the files of shipped configs in the place of their names."""
    found = []
    for before, argument in pairwise(["", *arguments]):
        name = argument if before == "--config" else argument.removeprefix("--config=")
        named = before == "--config" or argument.startswith("--config=")
        found.append(argument.removesuffix(name) + str(config_file(name)) if named else argument)
    return found


def _with_texts(arguments: list[str], texts: dict[str, str]) -> list[str]:
    """The arguments with the texts of files in the place of their names, where a list in them was written in words."""
    given = []
    for before, argument in pairwise(["", *arguments]):
        if before == "--config":
            given.append(texts[str(Path(argument))] or argument)
        elif argument.startswith("--config="):
            name = argument.removeprefix("--config=")
            given.append(f"--config={texts[str(Path(name))] or name}")
        else:
            given.append(argument)
    return given


def _check_yaml(file: Path, cls: type, lists: set[str]) -> str:
    """What can be said against a file before its values are looked at, with its line.

    Returns its text with lists where words stand, "" where none do.
    """
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
    known = [option.name for option in options_of(cls)]
    _check_keys(root, "", file, known)
    groups = {f.name: [g.name for g in fields(f.type)] for f in fields(cls) if is_dataclass(f.type)}
    for key, node in root.value:
        if key.value not in groups:
            continue
        if not isinstance(node, yaml.MappingNode):
            message = f"must be a group of options ({', '.join(groups[key.value])}), each on a line of its own below it"
            raise InputError(message, file=file, line=key.start_mark.line + 1, field=key.value)
        _check_keys(node, f"{key.value}.", file, known)
    words = sorted(_written_lists(root, "", lists), key=lambda node: -node.start_mark.index)
    changed = text
    for node in words:
        changed = changed[: node.start_mark.index] + _listed([node.value]) + changed[node.end_mark.index :]
    return changed if words else ""


def _written_lists(node: yaml.MappingNode, prefix: str, lists: set[str]) -> Iterator[yaml.ScalarNode]:
    """Values of lists that are one text."""
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode):
            yield from _written_lists(value, f"{name}.", lists)
        elif name in lists and isinstance(value, yaml.ScalarNode) and value.tag != "tag:yaml.org,2002:null":
            yield value


def _check_keys(node: yaml.MappingNode, prefix: str, file: Path, known: list[str]) -> None:
    """Keys are words, none is an old name, and none is given twice: YAML would let the last one win in silence."""
    first: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.tag != "tag:yaml.org,2002:str":
            raise InputError(f"{key.value!r} is no name of an option", file=file, line=line)
        if key.value in first:
            message = f"is given twice, first in line {first[key.value]}"
            raise InputError(message, file=file, line=line, field=prefix + key.value)
        first[key.value] = line
        refuse_old_name(prefix + key.value, known, file=file, line=line)


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
    if match := re.search(r"[Uu]nrecognized arguments: (\S+)", message):
        return InputError("unknown option", field=match[1].partition("=")[0])
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
