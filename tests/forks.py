"""Processes that have torch and pairuni loaded from the start: forks of one server, which imports them once.

A process of `python -m pairuni` spends five seconds of a core on these imports. Tests that start many processes fork
instead, where they do not test the start itself.
"""

import multiprocessing
import os
import sys
from collections.abc import Mapping

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pairuni.trainer", "pairuni.policies.janus.policy", "pairuni.train.wrap"])


class Command:
    """`pairuni` with these arguments in a process of its own, whose output is discarded. Methods as those of Popen."""

    def __init__(self, *arguments: object, environment: Mapping[str, str] | None = None) -> None:
        words = [str(each) for each in arguments]
        self._process = CONTEXT.Process(target=_run, args=(words, dict(environment or {})))
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int:
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


def _run(arguments: list[str], environment: dict[str, str]) -> None:
    os.environ |= environment
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    from pairuni.cli.main import main

    sys.exit(main(arguments))
