"""Files written and read with care: atomic writes, JSON and JSON Lines with errors that name file and line, hashes.

A reader never sees half a file: files and folders are written beside their place, synced, and renamed. Locks are by
hand, because they remove the folders that were made for them, which filelock does not.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pairuni.errors import InputError
from pairuni.outputs import Outputs, before_replacing

try:
    import fcntl
except ImportError:  # Windows, where nothing is held
    fcntl = None


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; on success it is synced and renamed to `path`, on failure removed.

    The caller writes either a file or a folder to it. Whatever made the files, they have the permissions that the umask
    gives (safetensors leaves them to their owner alone). Raises InputError where nothing can be written, or where the
    command that runs may not replace what is there (`Outputs`).
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        mode = _new_file_mode(place)
    except OSError as err:
        raise InputError(f"cannot be written ({err.strerror})", file=path) from None
    temporary = place / path.name
    try:
        yield temporary
        for file in [temporary, *temporary.rglob("*")] if temporary.is_dir() else [temporary]:
            if file.is_file():
                file.chmod(mode)
            _sync(file)
        if temporary.is_file():
            before_replacing(path, temporary)
        if path.is_dir() and temporary.is_dir():
            shutil.rmtree(path)  # a folder cannot be replaced by rename; only reached when a step is written again
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def added_to(folder: str | Path) -> Iterator[Path]:
    """Yields a temporary folder; on success its files and folders are put into `folder`, beside what is there.

    Each file appears whole, with the permissions that the umask gives. Raises InputError where nothing can be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        hidden = tempfile.TemporaryDirectory(prefix=".new.", dir=folder)
    except OSError as err:
        raise InputError(f"cannot be written ({err.strerror})", file=folder) from None
    with hidden as place:
        yield Path(place)
        for file in sorted(file for file in Path(place).rglob("*") if file.is_file()):
            with atomic_path(folder / file.relative_to(place)) as temporary:
                file.rename(temporary)


def hold(file: IO[Any]) -> None:
    """Locks an open file for this process alone, until it is closed. Raises BlockingIOError: another one has."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(folder: str | Path, beside: bool = False) -> Iterator[None]:
    """Holds `folder`, which is made, for this process alone. A process that ends in any way lets go of it.

    A folder that was made for it and in which nothing was written is removed again.

    Args:
        beside: the lock is a hidden file beside the folder, which itself may be replaced.

    Raises:
        InputError: another process holds it, or it cannot be made. Where the file system knows no locks, nothing is
            held.
    """
    folder = Path(folder)
    check_folder(folder)
    place = folder.parent if beside else folder
    path = place / f".{folder.name}.lock" if beside else place / "lock"
    made = [each for each in (place, *place.parents) if not each.exists()]
    try:
        with _held(path, folder):
            try:
                yield
            finally:
                with suppress(OSError):
                    if not path.stat().st_size:  # else a file of the user's
                        path.unlink()  # while it is held: who opened it meanwhile sees in `_held` that it is gone
    finally:
        for each in made:
            with suppress(OSError):
                each.rmdir()


@contextmanager
def _held(path: Path, folder: Path) -> Iterator[None]:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            opened = path.open("a")
        except FileNotFoundError:
            continue  # its last holder has just removed the folder that it had made
        except OSError as err:
            raise InputError(f"cannot be written ({err.strerror})", file=folder) from None
        with opened as file:
            try:
                hold(file)
            except BlockingIOError:
                raise InputError("another process is at work here; wait for it, or stop it", file=folder) from None
            except OSError:
                pass
            try:
                there = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except FileNotFoundError:
                there = False
            if not there:
                continue  # its last holder has just removed it
            yield
            return


@contextmanager
def locked_bytes(file: IO[bytes], start: int, length: int = 1) -> Iterator[None]:
    """Waits for a part of a file that processes share, and holds it for this process. Its threads are not told apart.

    Where the file system knows no locks, nothing is held.
    """
    held = fcntl is not None
    try:
        if fcntl is not None:
            fcntl.lockf(file, fcntl.LOCK_EX, length, start)
    except OSError:
        held = False
    try:
        yield
    finally:
        if held and fcntl is not None:
            fcntl.lockf(file, fcntl.LOCK_UN, length, start)


@contextmanager
def writing(
    folder: str | Path, command: str, names: Sequence[str], overwrite: bool, many: Sequence[str] = ()
) -> Iterator[None]:
    """Every command that writes a folder opens this first: it locks the folder and checks the files in the way.

    Raises:
        InputError: another process is at work there (`locked`), or a file is there that may not be replaced
            (`Outputs`). Nothing is left behind then.
    """
    with locked(folder), Outputs(folder, command, names, overwrite, many):
        yield


def put(path: Path, content: bytes) -> None:
    """Writes one of many small files whole or not at all, unsynced. Raises InputError as `atomic_path` does."""
    before_replacing(path, content, save=False)
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


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
            file.write(to_json_line(row) + "\n")

        yield write


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes JSON Lines atomically."""
    with jsonl_writer(path) as write:
        for row in rows:
            write(row)


def check_folder(path: str | Path) -> None:
    """Raises InputError where `path` can be no folder, because it or what it lies in is a file. Writes nothing.

    Call it before long work; other faults show when something is written.
    """
    for place in (Path(path), *Path(path).parents):
        if os.path.lexists(place):
            if not place.is_dir():
                what = "is a file, not a folder" if place == Path(path) else f"cannot be made: {place} is a file"
                raise InputError(what, file=path)
            return


def read_text(path: str | Path) -> str:
    """Reads a text file; a byte order mark is passed over. Raises InputError when it is missing or not UTF-8."""
    path = Path(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except OSError as err:
        raise InputError(f"cannot be read ({err.strerror})", file=path) from None
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text", file=path) from None


def read_json(path: str | Path, *, shown: bool = False) -> dict[str, Any]:
    """Reads a JSON object that `write_json` can write again.

    Args:
        shown: it is only shown to people: half characters (`parse_json`) are let through.

    Raises:
        InputError: naming file and line: it is missing or broken, or holds what JSON cannot (`parse_json`).
    """
    return _object(parse_json(read_text(path), path, None, shown=shown), Path(path), None)


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_jsonl(path: str | Path, faults: list[InputError] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) of a JSON Lines file that `write_jsonl` can write again.

    Blank lines and a byte order mark are passed over.

    Args:
        faults: where given, lines that are wrong are put here and passed over.

    Raises:
        InputError: the file is missing or not UTF-8, or a line is not a JSON object (a cut-off last line included) or
            holds what JSON cannot (`parse_json`).
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for n, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = None
                with gathering(faults):
                    row = _object(parse_json(line, path, n), path, n)
                if row is not None:
                    yield n, row
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except OSError as err:
        raise InputError(f"cannot be read ({err.strerror})", file=path) from None
    except UnicodeDecodeError as err:
        raise InputError(f"is not UTF-8 text ({err.reason} at byte {err.start})", file=path) from None


@contextmanager
def gathering(faults: list[InputError] | None) -> Iterator[None]:
    """Puts an InputError that is raised within into `faults`, where that is a list; else it passes."""
    try:
        yield
    except InputError as err:
        if faults is None:
            raise
        faults.append(err)


def parse_json(text: str, path: str | Path, n: int | None, *, shown: bool = False) -> Any:
    """The JSON value of line `n` of a file, or of the whole file where n is None. It can be written as JSON again.

    Of equal keys the last one counts, as in most readers. Python's own reader takes NaN and Infinity, numbers that no
    double holds (1e999) and half characters (a lone \\ud800), which no file could be written with: they are refused.

    Raises:
        InputError: naming file, line and, for a value that JSON cannot hold, its field.
    """
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except _NotFinite:
        field, what = next(_not_finite_in(json.loads(text)))
        message = f"is {what}, which JSON cannot hold; write null, or leave it out"
        raise InputError(message, file=path, line=n, field=field or None) from None
    except json.JSONDecodeError as err:
        message = f"is not valid JSON ({err.msg}, column {err.colno})"
        raise InputError(message, file=path, line=err.lineno if n is None else n) from None
    except RecursionError:
        raise InputError("cannot be read as JSON (nested too deeply)", file=path, line=n) from None
    except ValueError as err:  # a number of thousands of digits
        raise InputError(f"cannot be read as JSON ({err})", file=path, line=n) from None
    if not shown and "\\ud" in text.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # half of a pair: no file could be named or written with it
            raise InputError("holds a lone surrogate (\\ud800 to \\udfff)", file=path, line=n) from None
    return value


def to_json_line(row: Mapping[str, Any]) -> str:
    """A row of JSON Lines, without its newline. Raises ValueError for NaN and infinities: they are not JSON."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def _object(value: Any, path: Path, n: int | None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError("must be a JSON object", file=path, line=n)
    return value


class _NotFinite(ValueError):
    pass


def _finite(text: str) -> float:
    """A number of JSON text. Raises _NotFinite for NaN, Infinity, and digits that no double holds."""
    value = float(text)
    if not math.isfinite(value):
        raise _NotFinite
    return value


def _not_finite_in(value: Any) -> Iterator[tuple[str, float]]:
    """(dotted field, number) of each number in a JSON value that is not finite."""
    left = [("", value)]  # no recursion: a row may be nested as deeply as the reader allows
    while left:
        place, value = left.pop()
        if isinstance(value, float) and not math.isfinite(value):
            yield place, value
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        left += [(f"{place}.{key}" if place else str(key), each) for key, each in inner]


def _new_file_mode(folder: Path) -> int:
    """The permissions of a new file. Asked of the file system, since the umask can only be read by changing it."""
    probe = folder / "mode"
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    return mode


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
