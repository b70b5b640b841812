"""From a command line and a YAML file to a stage's frozen config; every mistake names file, line and field.

jsonargparse does the parsing (types, unknown keys, help from the field docstrings); this file words its errors.
"""

import re
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from pairuni.errors import InputError

Config = TypeVar("Config")
_KEY = re.compile(r"[Kk]ey ['\"]([\w.]+)['\"]")
_UNKNOWN = re.compile(r"Group ['\"]([\w.]+)['\"] does not accept option ['\"]([\w.]+)['\"]")
_UNKNOWN_TOP = re.compile(r"Option ['\"]([\w.]+)['\"] is not accepted")

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def parse_config(cls: type[Config], arguments: list[str], command: str) -> Config:
    """Fills `cls` from `--config FILE` and `--field value` overrides (later ones win).

    Raises:
        InputError: an unknown key, a value of the wrong type or out of range, a missing key, a broken or missing file.
    """
    parser = ArgumentParser(prog=f"pairuni {command}", exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below.")
    parser.add_class_arguments(cls, None)
    files = [Path(b) for a, b in pairwise(arguments) if a == "--config"]
    files += [Path(a.removeprefix("--config=")) for a in arguments if a.startswith("--config=")]
    for file in files:
        _check_yaml(file)
    try:
        values = vars(parser.instantiate(parser.parse_args(arguments)))
        return cls(**{k: v for k, v in values.items() if k != "config"})
    except ArgumentError as err:
        raise _worded(str(err.message), files, command) from None
    except InputError:
        raise
    except ValueError as err:
        # A field's own validation: "group.field: what is wrong".
        field, _, message = str(err).partition(": ")
        raise _located(field, message or field, files) from None


def _check_yaml(file: Path) -> None:
    """What YAML itself can say against a file, with its line."""
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", file=file) from None
    except (IsADirectoryError, PermissionError) as err:
        raise InputError(f"cannot be read ({err.strerror})", file=file) from None
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text", file=file) from None
    except yaml.MarkedYAMLError as err:
        line = None if err.problem_mark is None else err.problem_mark.line + 1
        raise InputError(f"is not valid YAML ({err.problem})", file=file, line=line) from None
    except yaml.YAMLError as err:
        raise InputError(f"is not valid YAML ({err})", file=file) from None
    if not isinstance(value, dict):
        raise InputError("must be a YAML mapping of options", file=file)


def _worded(message: str, files: list[Path], command: str) -> InputError:
    if match := _UNKNOWN.search(message):
        return _located(f"{match[1]}.{match[2]}", "unknown option", files)
    if match := _UNKNOWN_TOP.search(message):
        return _located(match[1], "unknown option", files)
    if match := re.search(r"^Option ['\"]([\w.]+)['\"] is not accepted", message):
        return _located(match[1], "unknown option", files)
    if match := re.search(r"required: (.+)", message):
        return InputError(f"is needed; see `pairuni {command} --help`", field=match[1])
    if match := re.search(r"[Uu]nrecognized arguments: (.+)", message):
        return InputError(f"unknown option; see `pairuni {command} --help`", field=match[1])
    if match := _KEY.search(message):
        what = " ".join(message[match.end() :].replace("typing.", "").split()).lstrip(': "')
        what = re.sub(r"<class '(\w+)'>", r"\1", what)
        return _located(match[1], "unknown option" if "not expected" in what else what[0].lower() + what[1:], files)
    return InputError(" ".join(message.split()))


def _located(field: str, message: str, files: list[Path]) -> InputError:
    """The error with the file and line in which `field` stands, where one does."""
    for file in reversed(files):
        line = _line_of(field, file)
        if line is not None:
            return InputError(message, file=file, line=line, field=field)
    return InputError(message, field=field)


def _line_of(field: str, file: Path) -> int | None:
    node, line = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader), None
    for part in field.split("."):
        if not isinstance(node, yaml.MappingNode):
            return None
        found = next(((k, v) for k, v in node.value if k.value == part), None)
        if found is None:
            return None
        line, node = found[0].start_mark.line + 1, found[1]
    return line
