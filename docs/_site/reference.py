"""The configuration reference: every option of every command, from the dataclasses of pairuni.config, as Markdown.

A command's config is the dataclass whose doc string begins with `pairuni COMMAND`. Of several the most derived one
counts. The text of an option is the string under its field, as in `--help`.
"""

import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pairuni import config
from pairuni.cli.help import texts_of
from pairuni.config.fields import bare

_COMMAND = re.compile(r"`pairuni ([\w -]+)`[:,]\s+")
_NAMES = {bool: "true or false", int: "whole number", float: "number", str: "text", Any: "any value"}
# Plain text in Markdown: what is not between backticks stays as it is, but pages that it names become links.
_PLAIN = re.compile(r"(`[^`]*`)|docs/([\w-]+\.md)|([\\*_<>\[\]{}$|#])")


def commands() -> dict[str, type]:
    """The config of each command."""
    found: dict[str, type] = {}
    for cls in vars(config).values():
        match = _COMMAND.match(cls.__doc__ or "") if isinstance(cls, type) and is_dataclass(cls) else None
        if match and issubclass(cls, found.get(match[1], object)):
            found[match[1]] = cls
    return found


def reference() -> str:
    """The sections of all commands."""
    return "\n".join(line for name, cls in commands().items() for line in _command(name, cls))


def type_name(of: Any) -> str:
    """A field's type in words."""
    of = bare(of)
    if get_origin(of) is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in get_args(of))
    if get_origin(of) in (Union, UnionType):
        return " or ".join(type_name(each) for each in get_args(of) if each is not type(None))
    if get_origin(of) is list:
        return f"list; each is {type_name(get_args(of)[0])}"
    if get_origin(of) is dict:
        return f"mapping; each value is {type_name(get_args(of)[1])}"
    return "a group of options" if is_dataclass(of) else _NAMES[of]


def _command(name: str, cls: type) -> Iterator[str]:
    # A derived class says what it adds, the class before it what the command does.
    first = next(base for base in reversed(cls.__mro__[:-1]) if _COMMAND.match(base.__doc__ or ""))
    does = _plain(_COMMAND.sub("", first.__doc__ or "", count=1))
    yield from (f"## pairuni {name}", "", does[:1].upper() + does[1:], "")
    yield from _group(cls, name.replace(" ", "-"), "", None)


def _group(cls: type, command: str, prefix: str, instance: Any) -> Iterator[str]:
    """A class' own options, then its groups, each as a section."""
    docs = texts_of(cls)
    nested = []
    for option in fields(cls):
        default = vars(instance)[option.name] if instance is not None else _default(option)
        group = next((c for c in (option.type, *get_args(bare(option.type))) if is_dataclass(c)), None)
        if group is not None:
            nested.append((option, group, default if is_dataclass(default) else None))
        if group is None or group is not option.type:
            name = prefix + option.name
            anchor = re.sub(r"[._]", "-", f"{command}-{name}".lower())
            yield f"[`{name}`]{{#{anchor}}} {type_name(option.type)}; {_said(default)}"
            # A term needs a definition, if only a space.
            yield from (f": {_plain(docs.get(option.name, '')) or '&nbsp;'}", "")
    for option, group, default in nested:
        name = prefix + option.name + ("" if group is option.type else ".NAME")
        own = (group.__doc__ or "") if not (group.__doc__ or "").startswith(f"{group.__name__}(") else ""
        text = " ".join(filter(None, (_plain(docs.get(option.name, "")), _plain(_COMMAND.sub("", own)))))
        yield from (f"### {name}", "", text, "")
        yield from _group(group, command, f"{name}.", default)


def _default(option: Field) -> Any:
    return option.default_factory() if option.default_factory is not MISSING else option.default


def _said(default: Any) -> str:
    if default is MISSING:
        return "needed"
    if isinstance(default, bool):
        return f"default `{str(default).lower()}`"
    if default is None or default == "" or default == [] or default == {}:
        return "default: none"
    return f"default `{', '.join(default) if isinstance(default, list) else default}`"


def _plain(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        code, page, special = match.groups()
        return code or (f"[docs/{page}]({page})" if page else f"\\{special}")

    return _PLAIN.sub(one, " ".join(text.split()))
