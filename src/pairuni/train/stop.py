"""Ctrl-C and SIGTERM during training: the first asks the loop to stop at the next safe point, the second kills."""

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """Training was stopped by a signal after `step` finished steps; a checkpoint of them is in `path`.

    The command line exits with code 130.
    """

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path
        super().__init__(f"interrupted after step {step}; run the same command again to continue {path}")


class StopSignal:
    """While entered, `requested` tells whether a signal came. Previous handlers come back on exit.

    Signal handlers exist in the main thread only; in another one nothing is caught.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
