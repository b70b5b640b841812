"""Commands with subcommands: `pairuni analyse pairs`, `pairuni export hf-dataset`."""

from collections.abc import Callable, Mapping
from importlib import import_module

from pairuni.cli.help import nearest
from pairuni.errors import InputError


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
