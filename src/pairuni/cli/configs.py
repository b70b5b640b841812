"""`pairuni configs`: lists the shipped configs, or copies them."""

import argparse
from importlib.resources.abc import Traversable
from pathlib import Path
from textwrap import shorten

from pairuni.cli.help import nearest
from pairuni.cli.options import parse_arguments
from pairuni.cli.shipped import ENDING, shipped
from pairuni.config import as_list
from pairuni.errors import InputError


def configs(arguments: list[str]) -> int:
    """`pairuni configs`: lists the shipped configs, or copies the named ones. It never replaces a file."""
    parser = argparse.ArgumentParser(prog="pairuni configs", exit_on_error=False, description=configs.__doc__)
    parser.add_argument("names", nargs="*", help="configs to copy, such as shapes/demo, or groups such as shapes")
    parser.add_argument("--output", type=Path, default=Path("."), help="folder for the copies (default: this one)")
    options = parse_arguments(parser, arguments)
    known = shipped()
    if not options.names:
        width = max(map(len, known))
        print("\n".join(f"{name:<{width}}  {_about(file)}" for name, file in known.items()))
        print("\nPass a name to --config, or copy the file: pairuni configs NAME --output FOLDER")
        return 0
    wanted = [each for name in as_list(",".join(options.names)) for each in _named(name, known)]
    copies = {options.output / f"{name.rpartition('/')[2]}{ENDING}": known[name] for name in wanted}
    for path in copies:
        if path.exists():
            raise InputError("already exists; nothing was copied", file=path)
    options.output.mkdir(parents=True, exist_ok=True)
    for path, file in copies.items():
        with path.open("x", encoding="utf-8") as copy:
            copy.write(file.read_text(encoding="utf-8"))
        print(path)
    return 0


def _named(name: str, known: dict[str, Traversable]) -> list[str]:
    bare = name.removeprefix("configs/").removesuffix(ENDING).rstrip("/")
    found = [bare] if bare in known else [each for each in known if each.startswith(f"{bare}/")]
    if not found:
        raise InputError(f"no shipped config has this name{nearest(bare, list(known))}", file=name)
    return found


def _about(file: Traversable) -> str:
    """The first sentence of the comment at the top of a config file."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return shorten(" ".join(lines).partition(". ")[0].rstrip("."), 90, placeholder=" ...")
