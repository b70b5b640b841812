"""Progress of long work: a bar on a terminal, plain lines without escape codes elsewhere, or nothing.

tqdm counts and draws. Bars go to stderr, messages to stdout.
"""

import os
import sys
from collections.abc import Iterable
from typing import Any, Literal

from tqdm import tqdm

Console = Literal["bar", "lines", "quiet"]
SECONDS = 10.0
"""Least time between two lines, except for training steps."""
_LINE = "{desc}: {n_fmt}/{total_fmt} {unit}s, {elapsed}<{remaining}{postfix}"
_console: Console = "bar"


def set_console(console: Console) -> None:
    """Selects bar (lines if stderr is not a terminal), lines, or quiet from now on."""
    global _console
    _console = console
    if shown() != "bar":  # for the bars of libraries, which read this at import
        for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")


def shown() -> Console:
    """The kind of output in effect."""
    return "lines" if _console == "bar" and not sys.stderr.isatty() else _console


def track(
    iterable: Iterable[Any] | None = None, desc: str = "", total: int | None = None, each: bool = False, **options: Any
) -> "tqdm[Any]":
    """A tqdm over `iterable`, or with `total` steps that `update` counts.

    Args:
        each: in lines, print one per step; otherwise at most one every SECONDS, and one at the end.
        options: unit, initial, disable, leave of tqdm.
    """
    kind = shown()
    options["disable"] = options.get("disable", False) or kind == "quiet"
    if kind != "lines":
        return tqdm(iterable, desc or None, total, **options)
    timing = {"mininterval": 0.0, "miniters": 1} if each else {"mininterval": SECONDS, "maxinterval": SECONDS}
    return _Lines(iterable, desc or None, total, bar_format=_LINE, **timing, **options)


def say(text: str) -> None:
    """Prints to stdout without breaking a bar."""
    tqdm.write(text)


Progress = tqdm
"""The type that `track` returns."""


class _Lines(tqdm):
    """Prints each update as a line, and no count twice."""

    def __init__(self, *values: Any, **options: Any) -> None:
        self._drawn = options.get("initial", 0)
        super().__init__(*values, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if self.n != self._drawn:
            self._drawn = self.n
            self.fp.write(f"{msg or self}".strip() + "\n")
            self.fp.flush()

    def clear(self, *values: Any, **options: Any) -> None:
        """Does nothing: printed lines stay."""

    def close(self) -> None:
        if not self.disable:
            if self.leave is not False:
                self.display()
            self.disable = True
            self._decr_instances(self)  # pyright: ignore[reportAttributeAccessIssue]
