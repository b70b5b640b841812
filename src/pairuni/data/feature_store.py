"""Feature rows on disk by image content: append-only, memory-mapped, and found again after a kill.

A folder holds features.f32 (rows of float32), keys.sha256 (32 bytes per row, written after the row) and store.json (the
width). Rows without a key, and half rows of a killed process, are cut off when the store is opened for writing. A lock
keeps all but one writing process out. By hand, because parquet and arrow files neither grow row by row nor map an
[N, D] array into memory.
"""

import os
from collections.abc import Iterable, Sequence
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
        self._set_width(features_ND.shape[1])
        if self.folder is None:
            self._memory.append(features_ND)
        else:
            _append(self._files[0], features_ND.tobytes())
        self._name(keys)

    def add_unordered(self, keys: Sequence[str], parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """Appends rows whose keys are new and whose features come in any order; memory is that of one part.

        Args:
            parts: (places_n, features_nD): rows and where their keys stand in `keys`. All places must occur.

        Raises:
            InputError: the width is not that of the rows before. Nothing is added then, nor when it is killed.
        """
        assert self.folder is not None
        if not keys:
            return
        self.reserve()
        place_N = np.full(len(keys), -1)  # of a key among those that are new
        new_n = [n for n, key in enumerate(keys) if key not in self]
        place_N[new_n], keys = np.arange(len(new_n)), [keys[n] for n in new_n]
        start, size, seen_n = len(self), len(self) * self._width * _FLOAT, np.zeros(len(keys), dtype=bool)
        try:
            for places_n, features_nD in parts:
                self._set_width(features_nD.shape[1])
                if not keys:
                    continue
                shape = (start + len(keys), self._width)
                self._files[0].truncate(shape[0] * self._width * _FLOAT)  # the first time it grows
                stored = np.memmap(self.folder / "features.f32", np.float32, "r+", shape=shape)
                new = place_N[places_n] >= 0
                stored[start + place_N[places_n][new]] = features_nD[new]
                stored.flush()
                seen_n[place_N[places_n][new]] = True
            assert seen_n.all()
        except BaseException:
            self._files[0].truncate(size)
            raise
        os.fsync(self._files[0].fileno())
        self._name(keys)

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """float32 [len(keys), D]. A read-only view of the file where the keys are its rows in their order."""
        places = np.array([self._row_of[bytes.fromhex(key)] for key in keys])
        if self.folder is None:
            stored = np.concatenate(self._memory)
        else:
            stored = np.memmap(self.folder / "features.f32", np.float32, "r", shape=(len(self), self._width))
        return stored if np.array_equal(places, np.arange(len(self))) else np.take(stored, places, axis=0)

    def _set_width(self, width: int) -> None:
        if self._width and width != self._width:
            raise InputError(f"holds rows of {self._width}, not {width}; delete it", file=self.folder)
        if self.folder is not None and not self._width:
            write_json(self.folder / "store.json", {"width": width})
        self._width = width

    def _name(self, keys: Sequence[str]) -> None:
        """Makes the rows that were written count."""
        if self.folder is not None:
            _append(self._files[1], b"".join(bytes.fromhex(key) for key in keys))
        for key in keys:
            self._row_of[bytes.fromhex(key)] = len(self._row_of)

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
            self._heal(folder)

    def _heal(self, folder: Path) -> None:
        """Keeps the first row of each key: two processes of an earlier version could write a key twice.

        Killed half-way it leaves a store without store.json, which counts as empty.
        """
        first_of = list(self._row_of.items())
        stored = np.memmap(folder / "features.f32", np.float32, "r").reshape(-1, self._width)
        (folder / "features.f32.new").write_bytes(b"".join(stored[row].tobytes() for _, row in first_of))
        (folder / "keys.sha256.new").write_bytes(b"".join(key for key, _ in first_of))
        for file in self._files[:2]:
            file.close()
        (folder / "store.json").unlink()
        for name in ("features.f32", "keys.sha256"):
            (folder / f"{name}.new").replace(folder / name)
        write_json(folder / "store.json", {"width": self._width})
        self._files[:2] = [(folder / "features.f32").open("ab"), (folder / "keys.sha256").open("ab")]
        self._row_of = {key: n for n, (key, _) in enumerate(first_of)}


def _append(file: Any, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
