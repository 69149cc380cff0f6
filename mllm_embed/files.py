"""Writing so that no reader ever sees half a file or half a folder."""

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
from typing import Any

from .errors import ConfigError, DataError


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place at the end; on an error `path` stays as it was.

    Raises DataError when the disk fails.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
    finally:
        with suppress(OSError):  # when the parent is a file, even looking for the temporary file fails
            temporary.unlink()


@contextmanager
def alone_in(folder: Path, wait: bool = False) -> Iterator[None]:
    """Within, no other process that asks for the same may write to the folder; the lock falls with its process.

    `wait` for the other, or raise ConfigError at once.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    file = path.open("a")
    try:
        while True:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                break
            file.close()  # whoever had the lock before has removed this file
            file = path.open("a")
    except BlockingIOError as error:
        file.close()
        why = f"another process is writing to {folder}; wait for it, or choose another output"
        raise ConfigError(why) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def synced(path: Path) -> None:
    """Wait until the disk has the file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def check_writable(path: Path) -> None:
    """Try to write beside `path`, before the work whose result goes there. Raises DataError when that cannot be done.

    Missing folders are made; an older file stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def check_space(path: Path, size: int, what: str) -> None:
    """Raises DataError where the disk of `path`, which need not be there yet, has no room for the `size` bytes that
    `what` takes."""
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
    """Write beside the place and rename. Raises DataError when that cannot be done; an older file then stays whole."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def read_json(path: Path, cure: str) -> Any:
    """The content of a JSON file. Raises DataError, with the cure, for one that cannot be read or is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: {cure}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}): {cure}") from error


def write_json(path: Path, value: Any) -> None:
    """`write_file` of indented JSON."""
    write_file(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `path` at the end; on an error `path` stays as it was.

    Whoever calls this makes sure that what `path` holds may go. What killed processes of this machine left half-written
    there goes too. Raises DataError when the disk fails.
    """
    path = Path(os.path.abspath(path))
    mark = f".{path.name}-{re.sub('[^A-Za-z0-9]', '', platform.node())}-"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{glob.escape(mark)}*"):
            owner = left.name.removeprefix(mark).partition("-")[0]
            if owner.isdigit() and not _lives(int(owner)):
                shutil.rmtree(left, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{mark}{os.getpid()}-", dir=path.parent))
        fresh, old = scratch / "new", scratch / "old"
        fresh.mkdir()
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
    try:
        yield fresh
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(fresh, path)
        except OSError:
            os.replace(old, path)
            raise
    except OSError as error:
        raise DataError(f"cannot write {path}: {_reason(error)}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _lives(process: int) -> bool:
    """Whether there is such a process on this machine; yes where that cannot be told."""
    if os.name == "nt":  # where this call would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _reason(error: OSError) -> str:
    """Why a write failed, in words; copying a folder tells it once for every file, of which the first is enough."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        return re.sub(r"^\[Errno \d+\] ", "", str(error.args[0][0][-1]))
    return error.strerror or str(error)
