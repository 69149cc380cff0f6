"""What a tar file holds, listed once: its samples, and where the files of each lie.

A sample is what shares a key, the name up to the first dot, as in webdataset. The list is kept in the Hugging Face
cache; a damaged one there is made again.
"""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import DataError
from ...files import atomic_file
from ...text import printable

_VERSION = 2  # of the lists in the cache
_BLOCK = 1 << 20
_ANY = ("utf-8", "surrogateescape")  # names in tar files are bytes
PASSED = ("links", "devices and sparse files", "hidden files", "files without an ending")
"""Members that are part of no sample."""


class FileShard(NamedTuple):
    """The list of one tar file of S samples and M members.

    Attributes:
        firsts: [S + 1] int32, the first member of each sample, and M.
        keys: [S] bytes, the names of samples in UTF-8.
        endings: [E] str, the endings that occur.
        kinds: [M] int16, the ending of each member, a number into `endings`.
        offsets, sizes: [M] int64, first byte and number of bytes of each member.
        passed: [P] bytes, the names of members that are part of no sample.
        reasons: [P] int16, why not, a number into `PASSED`.
    """

    firsts: np.ndarray
    keys: np.ndarray
    endings: np.ndarray
    kinds: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    passed: np.ndarray
    reasons: np.ndarray

    def fits(self, size: int) -> bool:
        """Return whether this can be the list of a file of so many bytes."""
        count, kinds = len(self.offsets), self.kinds
        whole = len(self.sizes) == len(kinds) == count and len(self.firsts) == len(self.keys) + 1
        whole = whole and len(self.passed) == len(self.reasons) and bool((self.reasons < len(PASSED)).all())
        if not (whole and count and self.firsts[0] == 0 and self.firsts[-1] == count):
            return False
        known = kinds.min() >= 0 and kinds.max() < len(self.endings) and (np.diff(self.firsts) > 0).all()
        return bool(known and self.offsets.min() >= 0 and (self.offsets + self.sizes).max() <= size)

    def members(self, row: int) -> list[tuple[str, int, int]]:
        """Return ending, first byte and size of each file of a sample."""
        run = slice(int(self.firsts[row]), int(self.firsts[row + 1]))
        names = [str(self.endings[kind]) for kind in self.kinds[run]]
        return list(zip(names, self.offsets[run].tolist(), self.sizes[run].tolist(), strict=True))

    def key(self, row: int) -> str:
        """Return the name of a sample."""
        return self.keys[row].decode(*_ANY)


def file_shard(path: Path) -> FileShard:
    """Return the list of a tar file, from the cache where the file has not changed since.

    Raises DataError for a file that is no whole, uncompressed tar file, and for two files of one name in it.
    """
    from huggingface_hub.constants import HF_HOME

    facts = path.stat()
    known = f"{_VERSION} {path.resolve()} {facts.st_size} {facts.st_mtime_ns}"
    name = hashlib.sha256(_bytes(known)).hexdigest()[:32]
    cached = Path(HF_HOME) / "mllm_embed" / "tar" / f"{name}.npz"
    shard = _cached(cached, facts.st_size)
    if shard is None:
        shard = _listed(path)
        with suppress(DataError), atomic_file(cached) as temporary, temporary.open("wb") as file:
            np.savez(file, **shard._asdict())
    return shard


def _cached(path: Path, size: int) -> FileShard | None:
    """Return the list in a file of the cache, of a tar file of so many bytes; None where it is missing or damaged."""
    # whatever a flipped bit makes numpy and zipfile raise, the tar file itself is still there to be listed
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError):
        with np.load(path, allow_pickle=False) as arrays:
            shard = FileShard(*(arrays[field] for field in FileShard._fields))
        return shard if shard.fits(size) else None
    return None


class _Member(NamedTuple):
    name: str
    offset: int
    size: int


_Samples = dict[str, dict[str, _Member]]


def _listed(path: Path) -> FileShard:
    """List a tar file; the files of a sample come together, wherever they lie."""
    samples: _Samples = {}
    passed: list[tuple[bytes, int]] = []
    for member in _members(path):
        why = _passed(member)
        if why is None:
            _take(member, samples, path)
        else:
            passed.append((_bytes(member.name), PASSED.index(why)))
    if not samples:
        only = f" of a sample, but {PASSED[passed[0][1]]} as {printable(passed[0][0].decode(*_ANY))}" if passed else ""
        raise DataError(f"{path} holds no files{only}; fetch it again")
    return _packed(samples, passed)


def _packed(samples: _Samples, passed: list[tuple[bytes, int]]) -> FileShard:
    members = [member for files in samples.values() for member in files.values()]
    names, kinds = np.unique([kind for files in samples.values() for kind in files], return_inverse=True)
    return FileShard(
        firsts=np.array([0, *accumulate(map(len, samples.values()))], dtype=np.int32),
        keys=np.array(list(map(_bytes, samples))),
        endings=names,
        kinds=kinds.astype(np.int16),
        offsets=np.array([member.offset for member in members], dtype=np.int64),
        sizes=np.array([member.size for member in members], dtype=np.int64),
        passed=np.array([name for name, _ in passed], dtype=np.bytes_),
        reasons=np.array([kind for _, kind in passed], dtype=np.int16),
    )


def _take(member: tarfile.TarInfo, samples: _Samples, path: Path) -> None:
    """Add a member to its sample. Raises DataError where that has one of its ending already."""
    key, kind = _key(member.name)
    files = samples.setdefault(key, {})
    if kind in files:
        raise DataError(
            f'{path} holds "{printable(files[kind].name)}" and "{printable(member.name)}", of which a sample keeps '
            "one: write it anew with one of them, or under two names"
        )
    files[kind] = _Member(member.name, member.offset_data, member.size)


def _bytes(name: str) -> bytes:
    return name.encode(*_ANY)


def _key(name: str) -> tuple[str, str]:
    """Return the key and the ending of a member; the ending is empty where the name has none."""
    folder, _, file = name.rpartition("/")
    stem, _, kind = file.partition(".")
    return f"{folder}/{stem}" if folder else stem, kind.lower()


def _passed(member: tarfile.TarInfo) -> str | None:
    """Return why a member is part of no sample, in a word of PASSED; None where it is of one."""
    if member.issym() or member.islnk():
        return "links"
    if not member.isreg() or member.issparse():
        return "devices and sparse files"
    key, kind = _key(member.name)
    if not key or key.endswith("/"):
        return "hidden files"
    return None if kind else "files without an ending"


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar file that are no folders. Raises DataError for a file that is not whole."""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                # tarfile would keep them all, in an attribute that its stubs leave out
                tar.members = []  # type: ignore[attr-defined]
                if not member.isdir():
                    yield member
            end = tar.offset
        _check_end(path, end)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} is not a whole, uncompressed tar file ({error}); fetch or unpack it again") from error


def _check_end(path: Path, end: int) -> None:
    """Raise TarError where a tar file has no mark of its end at byte `end`, or more behind it: it would be lost."""
    with path.open("rb") as file:
        file.seek(end)
        if len(block := file.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it is cut off, since the mark of its end is missing")
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"at byte {end:,} stands no whole header of a file")
        while block:
            if block.strip(b"\0"):
                raise tarfile.ReadError(f"it goes on behind the mark of its end, at byte {end:,}")
            block = file.read(_BLOCK)
