"""Commands that have commands of their own: `pairuni analyse pairs`, `pairuni export hf-dataset`."""

from collections.abc import Callable, Mapping
from importlib import import_module

from pairuni.cli.help import nearest
from pairuni.errors import InputError


def run_part(command: str, parts: Mapping[str, tuple[str, str]], arguments: list[str]) -> int:
    """Runs the part that the first argument names: name -> (module:function, what it does), as in main.COMMANDS.

    Raises:
        InputError: the first argument names no part.
    """
    usage = f"usage: pairuni {command} {'|'.join(parts)} ..."
    if arguments and arguments[0] in ("-h", "--help", "help"):
        print("\n".join([usage, "", *(f"  {name:<12} {text}" for name, (_, text) in parts.items())]))
        return 0
    if not arguments or arguments[0] not in parts:
        what = f"no such part: {arguments[0]!r}{nearest(arguments[0], list(parts))}" if arguments else "say what"
        raise InputError(f"{what}; {usage}")
    module, function = parts[arguments[0]][0].split(":")
    part: Callable[[list[str]], int] = vars(import_module(module))[function]
    return part(arguments[1:])
