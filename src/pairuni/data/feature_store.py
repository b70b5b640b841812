"""Feature rows on disk by image content: append-only, memory-mapped, and found again after a kill.

A folder holds features.f32 (rows of float32), keys.sha256 (32 bytes per row, written after the row) and store.json (the
width). Rows without a key, and what a killed process left of a row, are cut off when the store is opened for writing.
One process writes at a time; a lock says so.
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
        self._open_for_writing = False
        if folder is not None and folder.exists():
            self._open(folder)

    def __enter__(self) -> "FeatureStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open_for_writing:
            for file in (self._features, self._keys, self._lock):
                file.close()

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._row_of

    def __len__(self) -> int:
        return len(self._row_of)

    def reserve(self) -> None:
        """Opens the folder for writing and so keeps other processes out. `add` does it too; harmless when repeated."""
        if self.folder is not None and not self._open_for_writing:
            self._open(self.folder)

    def add(self, keys: Sequence[str], features_ND: np.ndarray) -> None:
        """Appends the rows whose keys are new; others are there already.

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
            self._append(self._features, features_ND.tobytes())
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
                self._features.truncate(shape[0] * self._width * _FLOAT)  # the first time it grows
                stored = np.memmap(self.folder / "features.f32", np.float32, "r+", shape=shape)
                new = place_N[places_n] >= 0
                stored[start + place_N[places_n][new]] = features_nD[new]
                stored.flush()
                seen_n[place_N[places_n][new]] = True
            assert seen_n.all()
        except BaseException:
            self._features.truncate(size)
            raise
        os.fsync(self._features.fileno())
        self._name(keys)

    def _set_width(self, width: int) -> None:
        if self._width and width != self._width:
            raise InputError(f"holds rows of {self._width}, not {width}; delete it", file=self.folder)
        if self.folder is not None and not self._width:
            write_json(self.folder / "store.json", {"width": width})
        self._width = width

    def _name(self, keys: Sequence[str]) -> None:
        """Makes the rows that were written count."""
        if self.folder is not None:
            self._append(self._keys, b"".join(bytes.fromhex(key) for key in keys))
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
            self._lock = (folder / "lock").open("wb")
            hold(self._lock)
        except BlockingIOError:
            raise InputError("another process writes features here", file=folder) from None
        except OSError as err:
            raise InputError(f"cannot be used ({err.strerror})", file=folder) from None
        self._open_for_writing = True
        self._features, self._keys = (folder / "features.f32").open("ab"), (folder / "keys.sha256").open("ab")
        if not (folder / "store.json").is_file():
            self._cut(0, 0)  # rows without a record of their width are of no use
            return
        width = read_json(folder / "store.json").get("width")
        if not isinstance(width, int) or width < 1:
            raise InputError("holds no width, delete the folder", file=folder / "store.json")
        count = min(self._keys.tell() // _KEY, self._features.tell() // (width * _FLOAT))
        self._cut(count * width * _FLOAT, count * _KEY)
        self._width = width
        names = (folder / "keys.sha256").read_bytes()
        keys = [names[n * _KEY : (n + 1) * _KEY] for n in range(count)]
        self._row_of = dict(zip(reversed(keys), range(count - 1, -1, -1), strict=True))  # of equal keys the first row
        if len(self._row_of) != count:
            self._heal(folder)
        else:
            self._row_of = dict(zip(keys, range(count), strict=True))

    def _heal(self, folder: Path) -> None:
        """Leaves out the rows whose key stands in an earlier one, as older versions could write them.

        Killed half-way it leaves a store without store.json, which counts as empty.
        """
        first_of = sorted(self._row_of.items(), key=lambda item: item[1])
        stored = np.memmap(folder / "features.f32", np.float32, "r").reshape(-1, self._width)
        for name in ("features.f32", "keys.sha256"):
            with (folder / f"{name}.new").open("wb") as file:
                for key, row in first_of:
                    file.write(stored[row].tobytes() if name == "features.f32" else key)
                file.flush()
                os.fsync(file.fileno())
        self._features.close()
        self._keys.close()
        (folder / "store.json").unlink()
        for name in ("features.f32", "keys.sha256"):
            (folder / f"{name}.new").replace(folder / name)
        write_json(folder / "store.json", {"width": self._width})
        self._features, self._keys = (folder / "features.f32").open("ab"), (folder / "keys.sha256").open("ab")
        self._row_of = {key: n for n, (key, _) in enumerate(first_of)}

    def _cut(self, features: int, keys: int) -> None:
        self._features.truncate(features)
        self._keys.truncate(keys)

    @staticmethod
    def _append(file: Any, content: bytes) -> None:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
