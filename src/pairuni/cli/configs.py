"""The shipped configs: found by name wherever a config is expected, listed and copied by `pairuni configs`."""

import argparse
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from textwrap import shorten

from pairuni.cli.help import nearest
from pairuni.config import as_list
from pairuni.errors import InputError

PACKAGE, ENDING = "pairuni.configs", ".yaml"


def shipped() -> dict[str, Traversable]:
    """Files by name, such as shapes/demo."""
    return dict(sorted(_below(resources.files(PACKAGE), "")))


def _below(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _below(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(ENDING):
            found.append((prefix + entry.name.removesuffix(ENDING), entry))
    return found


def config_file(name: str) -> Path:
    """The existing file of this name, else the shipped one (shapes/demo, configs/shapes/demo.yaml).

    Returns any other name as a path, so that its reader reports the missing file.

    Raises:
        InputError: the name is a misspelt shipped config.
    """
    if Path(name).exists():
        return Path(name)
    known, bare = shipped(), name.removeprefix("configs/").removesuffix(ENDING)
    if bare in known:
        return Path(str(known[bare]))
    near = nearest(bare, list(known))
    if near and "/" in bare and not Path(name).parent.is_dir():
        raise InputError(f"no such file, and no shipped config{near}; `pairuni configs` lists them", file=name)
    return Path(name)


def configs(arguments: list[str]) -> int:
    """`pairuni configs`: lists the shipped configs, or copies the named ones. It never replaces a file."""
    from pairuni.cli.options import parse_arguments

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
