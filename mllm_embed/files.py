"""Files and folders that no reader ever sees half."""

from __future__ import annotations

import glob
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from .errors import DataError, MLLMEmbedError, reason

# in the messages of RuntimeErrors in which torch and FAISS say that a file cannot be written
_CANNOT_WRITE = ("inline_container", "iostream", "PytorchStreamWriter", "faiss/impl/io")
# what safetensors and tokenizers, and FAISS, say of a failing disk, with the system's reason
_TOLD = re.compile(r"([^:]+) \(os error \d+\)|write error in .* \(([^()]+)\)$")


class writing:
    """Within a `with`, turn what Python or a library raises when a disk fails into one DataError.

    Libraries raise errors of their own there: safetensors a SafetensorError, tokenizers a bare Exception, torch and
    FAISS a RuntimeError.

    Args:
        path: what is written, for the message.
        own: where it is written to meanwhile; a failing file elsewhere is named.
        cure: the end of the sentence.
    """

    def __init__(self, path: str | os.PathLike[str], own: Path | None = None, cure: str = ""):
        self._path, self._own, self._cure = path, own or Path(path), cure

    def __enter__(self) -> None:
        """Begin; there is nothing to do."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise the DataError; any other error goes on as it is."""
        if error is not None and disk_fails(error):
            raise DataError(f"cannot write {self._path}: {why_not_written(error, self._own)}{self._cure}") from error


def disk_fails(error: BaseException) -> bool:
    """Return whether an error, of whatever library, says that a file cannot be written or read."""
    if isinstance(error, MLLMEmbedError):
        return False
    torn = isinstance(error, RuntimeError) and any(sign in str(error) for sign in _CANNOT_WRITE)
    return isinstance(error, OSError) or torn or bool(_TOLD.search(str(error)))


def why_not_written(error: BaseException, own: Path) -> str:
    """Return why a write failed, in words; `shutil` gives a reason for every file of a folder: the first is enough."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        return re.sub(r"^\[Errno \d+\] ", "", str(error.args[0][0][-1]))
    told = _TOLD.search(str(error))
    if told:
        return (told[1] or told[2]).strip()
    if isinstance(error, RuntimeError):
        return f"its disk is full, or limited ({reason(error)})"
    named = getattr(error, "filename", None)
    elsewhere = isinstance(named, str) and not Path(os.path.abspath(named)).is_relative_to(os.path.abspath(own))
    return f"{reason(error)} ({named})" if elsewhere else reason(error)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to, which takes its place at the end; on an error `path` stays as it was.

    Missing folders are made.

    Raises:
        DataError: the disk fails, or `path` is a device or a pipe, whose place no file may take.
    """
    _check_no_device(path)
    temporary = _beside(path)
    try:
        with writing(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # when the parent is a file, even looking for the temporary file fails
            temporary.unlink()


def flush_to_disk(path: Path) -> None:
    """Wait until the disk has all of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def check_writable(path: Path) -> None:
    """Try to write beside `path`, before the work whose result goes there.

    Missing folders are made; an older file stays as it was.

    Raises:
        DataError: nothing can be written there.
    """
    _check_no_device(path)
    temporary = _beside(path)
    with writing(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        temporary.unlink()


def _check_no_device(path: Path) -> None:
    """Raise DataError for a device or a pipe: root, as in most containers, would put a file in place of /dev/null."""
    with suppress(OSError):  # told when it is written
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise DataError(f"cannot write {path}: it is a device or a pipe; give the name of a file")


def _beside(path: Path) -> Path:
    """Return the hidden path at which this process writes a file before it is renamed to `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def check_space(path: Path, size: int, what: str) -> None:
    """Raise DataError where the disk of `path` has no room for `size` bytes.

    Args:
        path: where they will go; it need not be there yet.
        size: in bytes.
        what: takes them, in words, for the error.
    """
    path = Path(os.path.abspath(path))
    there = next(place for place in (path, *path.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < size:
        raise DataError(
            f"{what} needs {_size(size)} on the disk of {there}, which has {_size(free)} free; make room or choose "
            "another output, and start the same command again"
        )


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"


def write_file(path: Path, content: bytes) -> None:
    """Write a file in one step: beside its place, then renamed.

    Raises:
        DataError: it cannot be written; an older file then stays whole.
    """
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Return the text of a file that a user names.

    Raises:
        DataError: it is a device, such as /dev/zero, which has no end.
        OSError: it cannot be read.
        UnicodeDecodeError: it is no text.
    """
    if path.is_char_device() or path.is_block_device():
        raise DataError(f"{path} is a device; give a file")
    return path.read_text(encoding=encoding)


def read_json(path: Path, cure: str) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.
        cure: what the user can do where it is missing or damaged, for the error.

    Raises:
        DataError: the file cannot be read, or is not JSON.
    """
    try:
        return parse_json(read_text(path))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: {cure}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}): {cure}") from error


def parse_json(text: str | bytes) -> Any:
    """Return the value that JSON writes. Raises ValueError for what is none, or names a key of an object twice."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # the parser would keep the last of two values, and say nothing of the first
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {json.dumps(next(name for name in names if names.count(name) > 1))} stands twice")
    return found


def json_bytes(value: Any, indent: int | None = None) -> bytes:
    """Return a value as JSON with a line break at its end, in UTF-8.

    Half characters, as in the name of a file that is no UTF-8, become the escapes that JSON reads as the same.
    """
    return (json.dumps(value, indent=indent, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, as `write_file` does."""
    write_file(path, json_bytes(value, indent=2))


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a new folder to fill, which takes the place of `path` at the end; on an error `path` stays as it was.

    The caller makes sure that what `path` holds may go. What killed processes of this machine left half-written there
    goes too.

    Raises:
        DataError: the disk fails.
    """
    path = Path(os.path.abspath(path))
    mark = f".{path.name}-{re.sub('[^A-Za-z0-9]', '', platform.node())}-"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{glob.escape(mark)}*"):
            owner = left.name.removeprefix(mark).partition("-")[0]
            if owner.isdigit() and not _lives(int(owner)):
                shutil.rmtree(left, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{mark}{os.getpid()}-", dir=path.parent))
        fresh, old = scratch / "new", scratch / "old"
        fresh.mkdir()
    try:
        with writing(path, scratch):
            yield fresh
            # no system call swaps two folders: for a moment there is none at `path`, and on an error the old comes back
            if path.exists():
                os.replace(path, old)
            try:
                os.replace(fresh, path)
            except OSError:
                if old.exists():
                    os.replace(old, path)
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # the old folder with it


def _lives(process: int) -> bool:
    """Tell whether a process of this number runs on this machine; True where that is not known."""
    if os.name == "nt":  # where signal 0 would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
