"""Files written and read with care: atomic writes, JSON and JSON Lines with errors that name file and line, hashes.

A reader never sees half a file: files and folders are written beside their place, synced, and renamed.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pairuni.errors import InputError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; on success it is synced and renamed to `path`, on failure removed.

    The caller writes either a file or a folder to it. Raises InputError where nothing can be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)) / path.name
    except OSError as err:
        raise InputError(f"cannot be written ({err.strerror})", file=path) from None
    try:
        yield temporary
        for file in [temporary, *temporary.rglob("*")] if temporary.is_dir() else [temporary]:
            _sync(file)
        if path.is_dir() and temporary.is_dir():
            shutil.rmtree(path)  # a folder cannot be replaced by rename; only reached when a step is written again
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary.parent, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds `folder`, which is made, for this process alone. A process that ends in any way lets go of it.

    Raises:
        InputError: another process holds it. Where the file system knows no locks, nothing is held.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError("another process is at work here; wait for it, or stop it", file=folder) from None
        except OSError:
            pass
        yield


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes indented JSON atomically. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def jsonl_writer(path: str | Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yields a function that appends a row; the file appears whole at the end, or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:

        def write(row: Mapping[str, Any]) -> None:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")

        yield write


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes JSON Lines atomically."""
    with jsonl_writer(path) as write:
        for row in rows:
            write(row)


def check_folder(path: str | Path) -> None:
    """Raises InputError where `path` can be no folder, because it or what it lies in is a file. Writes nothing.

    For what comes before long work; whatever else can go wrong shows when something is written.
    """
    for place in (Path(path), *Path(path).parents):
        if os.path.lexists(place):
            if not place.is_dir():
                what = "is a file, not a folder" if place == Path(path) else f"cannot be made: {place} is a file"
                raise InputError(what, file=path)
            return


def read_text(path: str | Path) -> str:
    """Reads a text file. Raises InputError when it is missing or not UTF-8."""
    path = Path(path)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except OSError as err:
        raise InputError(f"cannot be read ({err.strerror})", file=path) from None
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text", file=path) from None


def read_json(path: str | Path) -> dict[str, Any]:
    """Reads a JSON object. Raises InputError naming file and line when it is missing or broken."""
    return _parse(read_text(path), Path(path), None)


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) of a JSON Lines file; blank lines are passed over.

    Raises:
        InputError: the file is missing or not UTF-8, or a line is not a JSON object (a cut-off last line included).
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8") as lines:
            for n, line in enumerate(lines, 1):
                if line.strip():
                    yield n, _parse(line, path, n)
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except OSError as err:
        raise InputError(f"cannot be read ({err.strerror})", file=path) from None
    except UnicodeDecodeError as err:
        raise InputError(f"is not UTF-8 text ({err.reason} at byte {err.start})", file=path) from None


def _parse(text: str, path: Path, n: int | None) -> dict[str, Any]:
    """The object that line `n` holds, or the whole file where n is None."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as err:
        message = f"is not valid JSON ({err.msg}, column {err.colno})"
        raise InputError(message, file=path, line=err.lineno if n is None else n) from None
    except RecursionError:
        raise InputError("cannot be read as JSON (nested too deeply)", file=path, line=n) from None
    except ValueError as err:  # a number of thousands of digits
        raise InputError(f"cannot be read as JSON ({err})", file=path, line=n) from None
    if n is not None and "\\ud" in text.lower():  # a record; the report shows other files as they are
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # half of a pair: no file could be named or written with it
            raise InputError("holds a lone surrogate (\\ud800 to \\udfff)", file=path, line=n) from None
    if not isinstance(value, dict):
        raise InputError("must be a JSON object", file=path, line=n)
    return value


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
