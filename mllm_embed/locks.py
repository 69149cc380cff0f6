"""Locks between processes that write: one at a time holds them, and one that dies lets go."""

from __future__ import annotations

import errno
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import lock_descriptor, unlock_descriptor

from .errors import ConfigError

LOCK_FILE = ".lock"
_SILENT = 5.0  # seconds that a lock is waited for without a word


@contextmanager
def folder_lock(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keep all other processes that ask for the same from writing to a folder, which is made where it is missing.

    What holds between processes and machines stands at `file_lock`.

    Args:
        folder: what is written to.
        wait: for another process that is writing; without it that is an error at once.

    Raises:
        ConfigError: another process is writing to the folder.
    """
    with file_lock(folder / LOCK_FILE, wait) as held:
        if not held:
            raise ConfigError(f"another process is writing to {folder}; wait for it, or choose another output")
        yield


@contextmanager
def file_lock(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of the file at `path`, which is made for that and removed after; gives whether it is held.

    Of all that ask for it one at a time holds it, two of one process included, and a process that dies loses it. It is
    what `filelock` takes: `flock` on Linux and macOS, `LockFileEx` on Windows. Between machines it holds where their
    network file system passes such locks on, as NFS does under Linux.

    Args:
        path: of the lock's own file; missing folders are made.
        wait: until the lock is free; without it a lock that another holds is not held.

    Raises:
        OSError: the file cannot be made, or its file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _locked(path, wait)
    if file is None:
        yield False
        return
    with file:
        try:
            yield True
        finally:
            _unlock(path, file)


def _locked(path: Path, wait: bool) -> BinaryIO | None:
    """Return the file at `path`, open and locked; None where another holds the lock and is not waited for."""
    while True:
        file = path.open("ab")
        try:
            held = _take(path, file, wait)
        except OSError as error:
            file.close()
            if error.errno != errno.ESTALE:
                raise
            continue  # on a network file system: another machine has removed this file since
        # a lock on a file that its holder has removed since is worth nothing: the next process locks the next file
        if held and _is_at(path, file):
            with suppress(OSError):  # a full disk takes no name
                os.truncate(file.fileno(), 0)
                os.write(file.fileno(), f"process {os.getpid()} on {platform.node()}".encode())
            return file
        file.close()
        if not held:
            return None


def _take(path: Path, file: BinaryIO, wait: bool) -> bool:
    """Lock an open file; a wait of more than a moment says for whom."""
    if lock_descriptor(file.fileno(), blocking=False):
        return True
    if not wait:
        return False
    telling = threading.Timer(_SILENT, _tell_whom, [path])
    telling.daemon = True
    telling.start()
    try:
        return lock_descriptor(file.fileno(), blocking=True)
    finally:
        telling.cancel()


def _tell_whom(path: Path) -> None:
    try:
        holder = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        holder = ""
    print(f"waiting for {holder or 'another process'}, which writes to {path.parent}", file=sys.stderr, flush=True)


def _is_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _unlock(path: Path, file: BinaryIO) -> None:
    """Remove a locked file and let its lock go."""
    windows = os.name == "nt"
    if not windows:
        path.unlink(missing_ok=True)  # while it is locked: later it may be another's
    unlock_descriptor(file.fileno())  # a forked child may have the file open still, so that closing is not enough
    file.close()
    if windows:  # which removes no open file: neither ours before, nor one that another has opened since
        with suppress(OSError):
            path.unlink()
