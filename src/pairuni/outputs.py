"""A command replaces only files that it wrote itself and that nobody edited since, and others when it is told to.

A command opens `Outputs` on its folder, which looks at what is there before any work. While it is open, every file that
files.py puts in place below that folder is looked at again, and its hash is recorded in .pairuni.json of the folder
before it is in place: a command that is killed at any moment finds its own files again.
"""

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import TracebackType
from typing import Any

from pairuni.errors import InputError

RECORD = ".pairuni.json"
"""By command and file, the hashes of what the command wrote: the last one, and the one before it."""
_KEPT = 2
_active: "list[Outputs]" = []
_lock = threading.RLock()


class Outputs:
    """Use as a context manager. Nested ones are asked from the inside out: the first that knows a file decides."""

    def __init__(
        self,
        folder: str | Path,
        command: str,
        names: Sequence[str],
        overwrite: bool = False,
        many: Sequence[str] = (),
    ) -> None:
        """Looks at what is there and writes nothing.

        Args:
            names: patterns of the files that the command writes, relative to `folder`, as for Path.glob; `**` at the
                end is all that is below.
            overwrite: replace any file.
            many: patterns of files that are looked at only when they are written, since they are many, or grow.

        Raises:
            InputError: one of them is there that this command may not replace, or the record is broken.
        """
        self.folder, self.command, self.overwrite = Path(folder), command, overwrite
        self.names, self.many = tuple(names), tuple(many)
        self._written = self._read().get(command, {})
        self._changed = False
        for name in self.names if self.folder.is_dir() and not overwrite else ():
            for path in sorted(self.folder.glob(f"{name}/*" if name.endswith("**") else name)):
                if path.is_file() and path.name != RECORD:
                    self.check_one(path.relative_to(self.folder).as_posix())

    def __enter__(self) -> "Outputs":
        with _lock:
            _active.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _lock:
            _active.remove(self)
            self.save()

    def place_of(self, path: Path) -> str | None:
        """The path as `names` know it, relative to the folder; None where it is none of them."""
        path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(self.folder))
        if not path.is_relative_to(folder):
            return None
        place = path.relative_to(folder).as_posix()
        return place if any(_fits(place, name) for name in (*self.names, *self.many)) else None

    def check_one(self, place: str, digest: str = "") -> None:
        """Raises InputError where a file is at `place` that this command may not replace.

        Args:
            digest: of the content that is to replace it; equal content is no loss.
        """
        path = self.folder / place
        if self.overwrite or not path.is_file():
            return
        known, found = self._written.get(place, []), _hash(path)
        if found in known or found == digest:
            return
        what = "was edited since this command wrote it" if known else "exists, and this command did not write it"
        message = f"{what}; move it away or choose another output, or --overwrite to replace it"
        raise InputError(message, file=path)

    def record(self, place: str, digest: str) -> None:
        """Says what this command has written, or is about to."""
        kept = self._written.get(place, [])
        if not kept or kept[-1] != digest:
            self._written[place] = [*kept, digest][-_KEPT:]
            self._changed = True

    def _read(self) -> dict[str, Any]:
        path = self.folder / RECORD
        if not path.is_file():
            return {}
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if not all(isinstance(kept, list) for files in record.values() for kept in files.values()):
                raise ValueError("no lists of hashes")
        except (OSError, ValueError, AttributeError) as err:
            message = f"is not the record of what pairuni wrote here ({err}); delete it, and name --overwrite"
            raise InputError(message, file=path) from None
        return record

    def save(self) -> None:
        """Writes the record, where something is new."""
        if not self._changed or not self.folder.is_dir():
            return
        record = self._read()
        record[self.command] = record.get(self.command, {}) | self._written  # of another process too
        path = self.folder / RECORD
        temporary = path.with_name(f"{RECORD}.{os.getpid()}")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(record, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        self._changed = False


def before_replacing(path: Path, content: Path | bytes, save: bool = True) -> None:
    """Asks the innermost open `Outputs` that knows `path` whether `content` may be put there.

    Raises InputError where not.
    """
    with _lock:
        outputs, place = _owner(path)
        if outputs is not None:
            digest = _hash(content)
            outputs.check_one(place, digest)
            outputs.record(place, digest)
            if save:
                outputs.save()


def wrote(path: Path) -> None:
    """Records a file that was appended to as it is now."""
    with _lock:
        outputs, place = _owner(path)
        if outputs is not None:
            outputs.record(place, _hash(path))
            outputs.save()


def _owner(path: Path) -> tuple[Outputs | None, str]:
    """The innermost open `Outputs` that knows the path, and the path as it knows it."""
    for outputs in reversed(_active):
        place = outputs.place_of(path)
        if place is not None:
            return outputs, place
    return None, ""


def record_folder(folder: Path, command: str) -> None:
    """Records all files of a folder that a command made, before it is put in place."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    with Outputs(folder, command, ["**"], overwrite=True) as outputs:
        for file in files:
            outputs.record(file.relative_to(folder).as_posix(), _hash(file))


def _fits(place: str, name: str) -> bool:
    """Like Path.glob: `*` stays within one folder, `**` at the end does not."""
    if name.endswith("**"):
        return place.startswith(name.removesuffix("**"))
    parts, patterns = place.split("/"), name.split("/")
    return len(parts) == len(patterns) and all(map(fnmatch, parts, patterns))


def _hash(content: Path | bytes) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
