"""Feature rows on disk by image content: append-only, memory-mapped, and found again after a kill.

A folder holds features.f32 (rows of float32), keys.sha256 (32 bytes per row, written after the row) and store.json (the
width). Rows without a key, and half rows of a killed process, are cut off when the store is opened for writing. A lock
keeps all but one writing process out. By hand, because parquet and arrow files neither grow row by row nor map an
[N, D] array into memory.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pairuni.errors import InputError
from pairuni.files import hold, read_json, write_json

_KEY = 32  # bytes of a SHA-256
_FLOAT = 4


class FeatureStore:
    """Use as a context manager. Without a folder it lives in memory."""

    def __init__(self, folder: Path | None) -> None:
        """Raises InputError: the folder cannot be used, its record is broken, or another process writes to it."""
        self.folder, self._width = folder, 0
        self._row_of: dict[bytes, int] = {}
        self._memory: list[np.ndarray] = []
        self._files: list[Any] = []
        """features.f32, keys.sha256 and the lock, where they are open."""
        if folder is not None and folder.exists():
            self._open(folder)

    def __enter__(self) -> "FeatureStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.close()

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._row_of

    def __len__(self) -> int:
        return len(self._row_of)

    def reserve(self) -> None:
        """Opens the folder for writing and so keeps other processes out. `add` does it too; harmless when repeated."""
        if self.folder is not None and not self._files:
            self._open(self.folder)

    def add(self, keys: Sequence[str], features_ND: np.ndarray) -> None:
        """Appends the rows whose keys are new; the others are in the store.

        Raises InputError where the width is not that of the rows before.
        """
        features_ND = np.ascontiguousarray(features_ND, dtype=np.float32)
        self.reserve()  # only now, so that a run without a single row leaves no folder
        new_n = [n for n, key in enumerate(keys) if key not in self]  # another process may have been here before
        keys, features_ND = [keys[n] for n in new_n], features_ND[new_n]
        width = features_ND.shape[1]
        if self._width and width != self._width:
            raise InputError(f"holds rows of {self._width}, not {width}; delete it", file=self.folder)
        if self.folder is None:
            self._memory.append(features_ND)
        else:
            if not self._width:
                write_json(self.folder / "store.json", {"width": width})
            # Rows count once their keys are there.
            for file, content in zip(self._files, (features_ND.tobytes(), bytes.fromhex("".join(keys))), strict=False):
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        self._width = width
        for key in keys:
            self._row_of[bytes.fromhex(key)] = len(self._row_of)

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """float32 [len(keys), D]. A read-only view of the file where the keys are its rows in their order."""
        places = np.array([self._row_of[bytes.fromhex(key)] for key in keys])
        if self.folder is None:
            stored = np.concatenate(self._memory)
        else:
            stored = np.memmap(self.folder / "features.f32", np.float32, "r", shape=(len(self), self._width))
        return stored if np.array_equal(places, np.arange(len(self))) else np.take(stored, places, axis=0)

    def _open(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / "lock").open("wb")
            hold(lock)
        except BlockingIOError:
            raise InputError("another process writes features here", file=folder) from None
        except OSError as err:
            raise InputError(f"cannot be used ({err.strerror})", file=folder) from None
        features, keys = (folder / "features.f32").open("ab"), (folder / "keys.sha256").open("ab")
        self._files = [features, keys, lock]
        if (folder / "store.json").is_file():
            width = read_json(folder / "store.json").get("width")
            if not isinstance(width, int) or width < 1:
                raise InputError("holds no width, delete the folder", file=folder / "store.json")
            self._width = width
        # Rows without a record of their width are of no use.
        count = min(keys.tell() // _KEY, features.tell() // (self._width * _FLOAT)) if self._width else 0
        features.truncate(count * self._width * _FLOAT)
        keys.truncate(count * _KEY)
        names = (folder / "keys.sha256").read_bytes()
        for n in range(count):
            self._row_of.setdefault(names[n * _KEY : (n + 1) * _KEY], n)
        if len(self._row_of) != count:
            self._keep_first(folder)

    def _keep_first(self, folder: Path) -> None:
        """Keeps the first row of each key: two processes of an earlier version could write a key twice."""
        keys, rows = list(self._row_of), list(self._row_of.values())
        features_ND = np.fromfile(folder / "features.f32", np.float32).reshape(-1, self._width)[rows]
        (folder / "store.json").unlink()  # killed half-way, the store counts as empty
        for file, content in zip(self._files, (features_ND.tobytes(), b"".join(keys)), strict=False):
            file.truncate(0)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        write_json(folder / "store.json", {"width": self._width})
        self._row_of = {key: n for n, key in enumerate(keys)}
