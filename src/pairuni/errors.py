"""The exception for a user's mistake (bad config, bad record, missing file, unreadable image), and that of numbers.

The command line prints their messages, without a traceback, and exits with code 2, or 1 where numbers are not finite.
Mistakes of ours are assertions.
"""

from pathlib import Path


class InputError(ValueError):
    """Something the user gave is wrong.

    The message reads `file:line: field: what is wrong`, each part only where it is known.
    """

    def __init__(
        self, message: str, *, file: str | Path | None = None, line: int | None = None, field: str | None = None
    ) -> None:
        self.message, self.file, self.line, self.field = message, file, line, field
        where = "" if file is None else f"{file}:{line}: " if line is not None else f"{file}: "
        super().__init__(where + (f"{field}: " if field else "") + message)


class DivergedError(RuntimeError):
    """What a model computes is not finite: logits while sampling, or a loss or gradient, whose update was not applied.

    The message says where: the step, the side, the update.
    """
