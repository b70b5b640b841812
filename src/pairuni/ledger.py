"""Replies of language models by key, on disk: none is paid twice, even after kills and with several processes.

JSON Lines, because several hosts may share the folder: SQLite's locks are not safe on network file systems.
"""

import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pairuni.errors import InputError
from pairuni.files import check_folder, locked_bytes

_KEY_BYTES = 16
_OLD_FAILURES = ("the reply is empty", "the reply is not JSON", "the reply is not one of the chat protocol")
"""Faults of failed calls, without a token, in ledgers up to version 0.1: those rows are passed over."""


class Ledger:
    """Replies by key, kept in `folder`/*.jsonl. Safe for threads; a torn last line of a killed writer is passed over.

    Rows of failed calls, which early versions wrote, are passed over too and counted in `failures`.

    The replies themselves stay on disk: memory holds 16 bytes of key and a position per reply.
    """

    def __init__(self, folder: Path) -> None:
        """Raises InputError where the folder cannot be used."""
        check_folder(folder)
        self._folder, self._lock = folder, threading.Lock()
        self._places: dict[bytes, tuple[Path, int]] = {}
        self._own: Any = None
        self._size = 0
        self.failures = 0
        self._read: dict[Path, int] = {}
        self._calls: IO[bytes] | None = None
        self._free, self._asking = threading.Condition(), set[int]()
        self._read_new()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key)[:_KEY_BYTES] in self._places

    def find(self, key: str) -> dict[str, Any] | None:
        """The recorded reply, None where there is none."""
        place = self._places.get(bytes.fromhex(key)[:_KEY_BYTES])
        if place is None:
            with self._lock:
                self._read_new()  # what other processes were told since
            place = self._places.get(bytes.fromhex(key)[:_KEY_BYTES])
        if place is None:
            return None
        with place[0].open("rb") as file:
            file.seek(place[1])
            return json.loads(file.readline())

    @contextmanager
    def asking(self, key: str) -> Iterator[None]:
        """Holds a key while its reply is looked for and asked for: threads and processes that want it too wait.

        Of the processes on one host, and of those on others where the file system of the folder has locks.
        """
        place = int(key[:15], 16)
        with self._free:
            self._free.wait_for(lambda: place not in self._asking)
            self._asking.add(place)
            if self._calls is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                # Open as long as this lives: closing any handle of a file lets go of all that the process holds of it.
                self._calls = (self._folder / "calls.lock").open("ab")
        try:
            with locked_bytes(self._calls, place):
                yield
        finally:
            with self._free:
                self._asking.remove(place)
                self._free.notify_all()

    def _read_new(self) -> None:
        """Takes in the rows that stand behind what was read before."""
        for path in sorted(self._folder.glob("*.jsonl")):
            start = self._read.get(path, 0)
            if (self._own is not None and path == Path(self._own.name)) or path.stat().st_size == start:
                continue
            for place, row, end in _rows(path, start):
                self._read[path] = end
                if row.get("fault") in _OLD_FAILURES and not row.get("prompt_tokens"):
                    self.failures += 1
                    continue
                self._places.setdefault(bytes.fromhex(row["key"])[:_KEY_BYTES], (path, place))

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """Appends a reply and hands it to the operating system, before anything is made of it."""
        line = (json.dumps({"key": key, **row}, ensure_ascii=True) + "\n").encode()
        with self._lock:
            if self._own is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
                self._own = (self._folder / name).open("ab")
            self._own.write(line)
            self._own.flush()  # a killed process loses nothing more; syncing each reply would wait for the disk
            self._places.setdefault(bytes.fromhex(key)[:_KEY_BYTES], (Path(self._own.name), self._size))
            self._size += len(line)

    def close(self) -> None:
        for file in (self._own, self._calls):
            if file is not None:
                file.close()


def _rows(path: Path, start: int = 0) -> Iterator[tuple[int, dict[str, Any], int]]:
    """(where it begins, row, where it ends) of each line from byte `start` on."""
    with path.open("rb") as lines:
        lines.seek(start)
        for line in lines:
            if not line.endswith(b"\n"):
                return  # torn: its writer was killed, so the reply was never used
            try:
                row = json.loads(line)
                bytes.fromhex(row["key"])
            except (ValueError, KeyError, TypeError):
                n = path.read_bytes()[:start].count(b"\n") + 1
                raise InputError("is not a ledger line, delete it", file=path, line=n) from None
            yield start, row, start + len(line)
            start += len(line)
