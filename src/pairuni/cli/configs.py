"""`pairuni configs`: lists the shipped configs, or copies them."""

import argparse
from itertools import takewhile
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
        for name, file in known.items():
            # The first sentence of the comment at the top.
            comment = takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
            about = " ".join(line.lstrip("# ") for line in comment).partition(". ")[0].rstrip(".")
            print(f"{name:<{width}}  {shorten(about, 90, placeholder=' ...')}")
        print("\nPass a name to --config, or copy the file: pairuni configs NAME --output FOLDER")
        return 0
    wanted = []
    for name in as_list(",".join(options.names)):
        bare = name.removeprefix("configs/").removesuffix(ENDING).rstrip("/")
        found = [bare] if bare in known else [each for each in known if each.startswith(f"{bare}/")]
        if not found:
            raise InputError(f"no shipped config has this name{nearest(bare, list(known))}", file=name)
        wanted += found
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
