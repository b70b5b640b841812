"""How far long work is: a bar on a terminal, else plain lines without carriage returns and escapes; or nothing.

tqdm counts and draws; nothing else here does. Bars go to stderr, what is said goes to stdout.
"""

import os
import sys
from collections.abc import Iterable
from typing import Any, Literal

from tqdm import tqdm

Console = Literal["bar", "lines", "quiet"]
SECONDS = 10.0
"""Between two lines of what is no training step."""
_LINE = "{desc}: {n_fmt}/{total_fmt} {unit}s, {elapsed}<{remaining}{postfix}"
_console: Console = "bar"


def set_console(console: Console) -> None:
    """From now on: bar (lines where stderr is no terminal), lines, or quiet."""
    global _console
    _console = console
    if shown() != "bar":  # bars of libraries, which read this when they are imported
        for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")


def shown() -> Console:
    """What is shown here and now."""
    return "lines" if _console == "bar" and not sys.stderr.isatty() else _console


def track(
    iterable: Iterable[Any] | None = None, desc: str = "", total: int | None = None, each: bool = False, **options: Any
) -> "tqdm[Any]":
    """A tqdm over `iterable`, or of `total` steps that `update` counts.

    Args:
        each: in lines, one for every step; else at most one every SECONDS, and one at the end.
        options: unit, initial, disable, leave as tqdm has them.
    """
    kind = shown()
    options["disable"] = options.get("disable", False) or kind == "quiet"
    if kind != "lines":
        return tqdm(iterable, desc or None, total, **options)
    timing = {"mininterval": 0.0, "miniters": 1} if each else {"mininterval": SECONDS, "maxinterval": SECONDS}
    return _Lines(iterable, desc or None, total, bar_format=_LINE, **timing, **options)


def say(text: str) -> None:
    """A line, or several, on stdout, between bars and not through them."""
    tqdm.write(text)


Progress = tqdm
"""What `track` gives, as a type."""


class _Lines(tqdm):
    """Each drawing is a line of its own, and no number is drawn twice."""

    def __init__(self, *values: Any, **options: Any) -> None:
        self._drawn = options.get("initial", 0)
        super().__init__(*values, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if self.n != self._drawn:
            self._drawn = self.n
            self.fp.write(f"{msg or self}".strip() + "\n")
            self.fp.flush()

    def clear(self, *values: Any, **options: Any) -> None:
        """There is nothing to clear: what is said between two lines stands between them."""

    def close(self) -> None:
        if not self.disable:
            if self.leave is not False:
                self.display()
            self.disable = True
            self._decr_instances(self)  # pyright: ignore[reportAttributeAccessIssue]
