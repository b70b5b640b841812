"""The shipped configs, found by name wherever a config is expected."""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from pairuni.cli.help import nearest
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
