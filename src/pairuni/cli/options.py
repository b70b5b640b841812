"""From a command line and YAML files to a stage's frozen config; every mistake names file, line and field.

Files and `--group.field value` become one dictionary, later ones over earlier ones, which pydantic validates once
(pairuni/config). This file reads them and remembers where each value stands.
"""

import re
from argparse import ArgumentError, ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin

import yaml
from pydantic import TypeAdapter, ValidationError

from pairuni.cli.help import nearest, options_of
from pairuni.cli.shipped import config_file
from pairuni.config.fields import bare
from pairuni.config.renamed import new_name, refuse_old_name
from pairuni.errors import InputError
from pairuni.files import read_text
from pairuni.validation import input_error

Config = TypeVar("Config")
_FLOAT = re.compile(
    r"""[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?$
    |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$
    |[-+]?\.[0-9_]+(?:[eE][-+]?[0-9]+)?$
    |[-+]?\.(?:inf|Inf|INF)$
    |\.(?:nan|NaN|NAN)$""",
    re.VERBOSE,
)
_REPLACED = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the numbers of YAML 1.2, so that 1e-6 is one; a date is text."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in patterns if tag not in _REPLACED]
    for first, patterns in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


class Place(NamedTuple):
    """Where a value stands in a file."""

    file: Path
    line: int


class _Values:
    """The values so far, as one nested dictionary, and the place of each value that stands in a file."""

    def __init__(self, cls: type, command: str, old_names: bool) -> None:
        self.kinds = {option.name: option.kind for option in options_of(cls)}
        self.command, self.old_names = command, old_names
        self.values: dict[str, Any] = {}
        self.places: dict[str, Place] = {}

    def group(self, name: str) -> list[str]:
        """The options of a group, by their names in it; none where `name` is no group."""
        return [each.removeprefix(f"{name}.") for each in self.kinds if each.startswith(f"{name}.")]

    def kind(self, name: str) -> Any:
        """The type of an option, or of a key of one that is a mapping; None where there is no such option."""
        return self._path(name)[1]

    def set(self, name: str, value: Any) -> None:
        """Replaces an option's value."""
        parts, _ = self._path(name)
        owner = self.values
        for part in parts[:-1]:
            if not isinstance(owner.get(part), dict):
                owner[part] = {}
            owner = owner[part]
        owner[parts[-1]] = value
        self.places = {n: place for n, place in self.places.items() if n != name and not n.startswith(f"{name}.")}

    def refuse(self, name: str, place: Place | None = None) -> None:
        """Raises InputError for a name that is no option: the new name of a renamed one, or the nearest."""
        where = {} if place is None else {"file": place.file, "line": place.line}
        bare_name = name.removeprefix("--")
        refuse_old_name(bare_name, self.kinds, **where)
        message = f"unknown option{nearest(bare_name, list(self.kinds))}; see `pairuni {self.command} --help`"
        raise InputError(message, field=name, **where)

    def _path(self, name: str) -> tuple[list[str], Any]:
        """The keys that lead to an option, and its type. A key of a mapping may have dots: a reward's `module:name`."""
        owners = (n for n, kind in self.kinds.items() if get_origin(kind) is dict and name.startswith(f"{n}."))
        mapping = next(owners, None)
        if mapping is None:
            return name.split("."), self.kinds.get(name)
        keys, key = mapping.split("."), name.removeprefix(f"{mapping}.")
        kind = bare(get_args(self.kinds[mapping])[1])
        first, _, last = key.rpartition(".")
        inner = {each.name: bare(each.type) for each in fields(kind)} if is_dataclass(kind) else {}
        return ([*keys, first, last], inner[last]) if first and last in inner else ([*keys, key], kind)


def parse_config(
    cls: type[Config],
    arguments: list[str],
    command: str,
    verify: Callable[[Config], None] | None = None,
    old_names: bool = False,
) -> Config:
    """Fills `cls` from `--config FILE` and `--field value` overrides (later ones win).

    Args:
        verify: further checks before the command begins. It raises InputError with the field.
        old_names: reads a file that names options as they were called before, such as the config.yaml of an old run.

    Raises:
        InputError: an unknown key, a value of the wrong type or out of range, a missing key, a broken or missing file.
    """
    given = _Values(cls, command, old_names)
    for name, words in list(_options(arguments, given)):
        if name == "config":
            _read(config_file(words[0]), given)
        else:
            _set_words(name, words, given)
    try:
        config = TypeAdapter(cls).validate_python(given.values)
        if verify is not None:
            verify(config)
        return config
    except ValidationError as err:
        error = input_error(err, indices=False)
        missing = [".".join(map(str, each["loc"])) for each in err.errors() if each["type"] == "missing"]
        if error.message == "is missing":
            error = InputError(f"is needed; see `pairuni {command} --help`", field=", ".join(missing))
    except InputError as err:
        error = err
    if error.message == "unknown option":  # in a mapping, such as the options of a reward
        error = InputError(f"unknown option; see `pairuni {command} --help`", field=error.field)
    place = given.places.get(error.field or "")
    if place is None or error.file is not None:
        raise error from None
    raise InputError(error.message, file=place.file, line=place.line, field=error.field) from None


def parse_arguments(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """Parses the options of a command without a config. Raises InputError: an unknown option, or a wrong value."""
    try:
        options, others = parser.parse_known_args(arguments)
    except ArgumentError as err:
        raise InputError(str(err)) from None
    for other in others:
        known = [name.removeprefix("--") for action in parser._actions for name in action.option_strings]
        near = nearest(other.removeprefix("--").partition("=")[0], known) if other.startswith("--") else ""
        raise InputError(f"unknown option{near}; see `{parser.prog} --help`", field=other)
    return options


def with_first(arguments: list[str], first: str) -> list[str]:
    """Options from a command line that may begin with a bare word, the value of `first`."""
    return [f"--{first}", *arguments] if arguments and not arguments[0].startswith("-") else arguments


def run_part(command: str, parts: Mapping[str, tuple[str, str]], arguments: list[str]) -> int:
    """Runs the subcommand that the first argument names; `parts` is a table like main.COMMANDS.

    Raises:
        InputError: the first argument is missing or unknown.
    """
    usage = f"usage: pairuni {command} {'|'.join(parts)} ..."
    if arguments and arguments[0] in ("-h", "--help", "help"):
        print("\n".join([usage, "", *(f"  {name:<12} {text}" for name, (_, text) in parts.items())]))
        return 0
    if not arguments or arguments[0] not in parts:
        first = arguments[0] if arguments else None
        wrong = f"unknown subcommand {first!r}{nearest(first, list(parts))}" if first else "a subcommand is missing"
        raise InputError(f"{wrong}; {usage}")
    module, function = parts[arguments[0]][0].split(":")
    part: Callable[[list[str]], int] = vars(import_module(module))[function]
    return part(arguments[1:])


def _options(arguments: list[str], given: _Values) -> Iterator[tuple[str, list[str]]]:
    """Each option with its words: one, none for a flag that is set, any number for a list.

    Raises:
        InputError: there is no such option, it has no value, or a word belongs to none.
    """
    rest = list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--"):
            raise InputError(f"unknown option; see `pairuni {given.command} --help`", field=name + equals + value)
        name = name.removeprefix("--").replace("-", "_")
        kind = str if name == "config" else given.kind(name)
        if kind is None and not given.group(name):
            given.refuse(f"--{name}")
        words = [value] if equals else []
        several = get_origin(kind) is list
        while rest and not rest[0].startswith("--") and (several or not words):
            words.append(rest.pop(0))
        if not words and kind is not bool:
            raise InputError("needs a value", field=name)
        yield name, words


def _set_words(name: str, words: list[str], given: _Values) -> None:
    kind = given.kind(name)
    if kind is None:
        values = _value(words[0])
        if not isinstance(values, dict):
            raise InputError(f"is a group of options: give them as --{name}.NAME", field=name)
        for key, value in values.items():
            if given.kind(f"{name}.{key}") is None:
                given.refuse(f"{name}.{key}")
            given.set(f"{name}.{key}", value)
    elif get_origin(kind) is list:
        whole = " ".join(words)
        given.set(name, _value(whole) if whole.lstrip().startswith("[") else ",".join(words))
    elif kind is bool and not words:
        given.set(name, True)
    else:
        given.set(name, _words_value(words[0], kind))


def _words_value(word: str, kind: Any) -> Any:
    """A word as a value of a kind: text stays as it is, everything else is read as YAML."""
    kinds = [bare(each) for each in get_args(kind)] if type(None) in get_args(kind) else [kind]
    if type(None) in kinds and word == "null":
        return None
    text = any(each is str or get_origin(each) is Literal for each in kinds)
    return word if text or get_origin(kind) is list else _value(word)


def _value(word: str) -> Any:
    try:
        return Loader(word).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError):
        return word  # of no kind but text, which the validation says


def _read(file: Path, given: _Values) -> None:
    """Adds a YAML file. Raises InputError, with the line, for one that is no mapping of options."""
    text = read_text(file)
    loader = Loader(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise InputError("must be a YAML mapping of options", file=file)
        _read_group(root, "", file, loader, given)
    except yaml.MarkedYAMLError as err:
        line = None if err.problem_mark is None else err.problem_mark.line + 1
        raise InputError(f"is not valid YAML ({err.problem})", file=file, line=line) from None
    except yaml.YAMLError as err:
        raise InputError(f"is not valid YAML ({err})", file=file) from None
    except RecursionError:
        raise InputError("is not valid YAML (nested too deeply)", file=file) from None
    finally:
        loader.dispose()


def _read_group(node: yaml.MappingNode, prefix: str, file: Path, loader: Loader, given: _Values) -> None:
    first: dict[str, int] = {}
    for key, value in node.value:
        place = Place(file, key.start_mark.line + 1)
        if key.tag != "tag:yaml.org,2002:str":
            raise InputError(f"{key.value!r} is no name of an option", file=file, line=place.line)
        name = prefix + key.value
        name = (new_name(name) if given.old_names else None) or name
        if key.value in first:  # YAML would let the last one win in silence
            message = f"is given twice, first in line {first[key.value]}"
            raise InputError(message, file=file, line=place.line, field=name)
        first[key.value] = place.line
        group = given.group(name)
        if not group and given.kind(name) is None:
            given.refuse(name, place)
        if group and not isinstance(value, yaml.MappingNode):
            message = f"must be a group of options ({', '.join(group)}), each on a line of its own below it"
            raise InputError(message, file=file, line=place.line, field=name)
        if group:
            given.places[name] = place
            _read_group(value, f"{name}.", file, loader, given)
            continue
        try:
            kind, found = given.kind(name), loader.construct_document(value)
            if isinstance(value, yaml.ScalarNode) and found is not None and get_origin(kind) is list:
                found = value.value  # one word of a list, whatever it looks like
            elif isinstance(found, str):
                found = _words_value(found, kind)
            given.set(name, found)
        except ValueError as err:  # a number of thousands of digits
            message = f"holds a value that cannot be read ({err})"
            raise InputError(message, file=file, line=place.line, field=name) from None
        given.places |= {name: place, **dict(_places(value, name, file))}


def _places(node: yaml.Node, name: str, file: Path) -> Iterator[tuple[str, Place]]:
    """Where the keys of a mapping stand, of the mappings in it too."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        inner = f"{name}.{key.value}"
        yield inner, Place(file, key.start_mark.line + 1)
        yield from _places(value, inner, file)
