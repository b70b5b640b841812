"""Options that had another name before: one table, and the message that names the new one.

A command line or a YAML file with an old name is refused. A run's config.yaml with old names is read by `report`,
`eval` and `sample`; the run itself cannot be continued.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pairuni.errors import InputError

NEW_NAMES = {
    "rollout.score": "rollout.logprob_mode",
    "model.settings": "model.sampler_options",
    "settings": "sampler_options",
    "pairing": "pair_selection",
    "patience": "collective_timeout",
}
"""Old name -> new name, of options and of groups of options, dotted."""


def new_name(name: str) -> str | None:
    """The new name of an option by its old, dotted one; None for a name that is not an old one."""
    return _translated(name, NEW_NAMES)


def first_name(name: str) -> str:
    """The name that an option had first. Hashes of results are made of these, so that a new name changes none."""
    return _translated(name, {new: old for old, new in NEW_NAMES.items()}) or name


def refuse_old_name(name: str, known: Iterable[str], **where: Any) -> None:
    """Raises InputError, with the file and line in `where`, where `name` is the old one of an option in `known`."""
    new = new_name(name)
    if new is not None and any(f"{new}.".startswith(f"{each}.") or each.startswith(f"{new}.") for each in known):
        raise InputError(f"is now called {new}", field=name, **where)


def with_new_names(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A run's config with the new names in the place of old ones."""
    renamed: dict[str, Any] = {}
    for name, value in config.items():
        own = NEW_NAMES.get(f"{prefix}{name}", f"{prefix}{name}").removeprefix(prefix)
        renamed[own] = with_new_names(value, f"{prefix}{name}.") if isinstance(value, Mapping) else value
    return renamed


def _translated(name: str, table: Mapping[str, str]) -> str | None:
    for old, new in table.items():
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return None
