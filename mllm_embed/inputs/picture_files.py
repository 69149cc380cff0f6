"""The bytes of picture files: regular files of a bounded size, of a known format, and nothing else.

What a name may lead to besides, a pipe, a device, a folder, a loop of links, is neither waited for nor read on and on.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import ImageError, reason
from .picture_formats import HEAD, IMAGE_FORMATS, format_of

MAX_BYTES = 256 * 2**20
_SHOWN = 400  # characters of a name in a message
# a scheme has two letters at least: one is a drive; pathlib makes one slash of two
_ADDRESS = re.compile(r"data:|[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def shown_name(path: str | os.PathLike[str]) -> str:
    """Return a path for a message: on one line, in characters that can be written anywhere, not endless."""
    name = os.fsdecode(path)
    if not name.isprintable():
        name = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in name)
    return name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Whether a path leads to a file that begins as a picture of IMAGE_FORMATS does; never waits, never raises."""
    try:
        with _opened(path, shown_name(path)) as file:
            return format_of(file.peek(HEAD)[:HEAD]) is not None
    except (ImageError, OSError):
        return False


def check_picture_file(path: str | os.PathLike[str]) -> None:
    """Raise ImageError as `picture_bytes` does, for what the first bytes of a file show."""
    name = shown_name(path)
    with _opened(path, name) as file:
        try:
            check_format(file.peek(HEAD), name)
        except OSError as error:
            raise ImageError(f"{name} cannot be read: {reason(error)}; look at the disk it lies on") from error


def picture_bytes(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> bytes:
    """Return the bytes of a picture file, whose format is known by then.

    Raises ImageError, naming the file, for a URL, a path that leads to no regular file or none that can be read, an
    unknown format, and more than `max_bytes`.
    """
    name = shown_name(path)
    with _opened(path, name) as file:
        try:
            check_format(file.peek(HEAD), name)
            size = os.fstat(file.fileno()).st_size
            check_size(size, name, max_bytes)
            return file.read(size)  # not what is added meanwhile
        except OSError as error:
            raise ImageError(f"{name} cannot be read: {reason(error)}; look at the disk it lies on") from error


def check_size(size: int, name: str, max_bytes: int = MAX_BYTES) -> None:
    """Raise ImageError for more bytes than a picture may have."""
    if size > max_bytes:
        raise ImageError(
            f"{name} has {size:,} bytes, over the limit of {max_bytes:,} for a picture; save it smaller, or compressed"
        )


def check_format(head: bytes, name: str) -> str:
    """Return which of IMAGE_FORMATS bytes begin as; raises ImageError for none of them."""
    found = format_of(head[:HEAD])
    if found is None:
        known = f"{', '.join(IMAGE_FORMATS[:-1])} or {IMAGE_FORMATS[-1]}"
        why = "it begins in another way; convert or replace the file" if head else "it is empty; replace the file"
        raise ImageError(f"{name} is not a {known} picture: {why}")
    return found


@contextmanager
def _opened(path: str | os.PathLike[str], name: str) -> Iterator[io.BufferedReader]:
    """Open a regular file; raises ImageError for anything else."""
    place = os.fsdecode(path)
    if not place:
        raise ImageError("the path of a picture is empty; give the path of a file")
    if _ADDRESS.match(place):
        raise ImageError(f"{name[:80]} is a URL, and none is fetched; download the picture and give its path")
    try:
        # looked at before it is opened, which may do something to a device
        _check_regular(os.stat(place), name)
        # a pipe that has taken its place since is not waited for
        descriptor = os.open(place, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist; check the path") from error
    except OSError as error:
        raise ImageError(f"{name} cannot be opened: {reason(error)}; check the path and its permissions") from error
    except ValueError as error:  # a zero byte, or characters that no file's name can have
        raise ImageError(f"{name} cannot be the name of a file ({error}); check the path") from error
    with open(descriptor, "rb") as file:
        _check_regular(os.fstat(descriptor), name)
        yield file


def _check_regular(found: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(found.st_mode)), "something else")
        raise ImageError(f"{name} is {kind}, not a picture; give the path of a file")
