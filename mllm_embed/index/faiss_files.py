"""What FAISS reads and writes, with its errors told as ours.

Python's files do the writing: FAISS passes over an error at closing, and writes inverted lists through a map, so that a
full disk kills the process; it prints a line for each such file too. The file of inverted lists holds for each list the
codes of its rows, then their numbers, int64.
"""

from __future__ import annotations

import tokenize
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from ..errors import DataError
from .files import REBUILD


def write_index(index: Any, path: Path) -> None:
    """Write a faiss.Index or faiss.IndexBinary. Raises OSError where the disk is full."""
    write = faiss.write_index_binary if isinstance(index, faiss.IndexBinary) else faiss.write_index
    with path.open("wb") as file:
        write(index, faiss.PyCallbackIOWriter(file.write))


def read_index(path: Path, flags: int = 0) -> Any:
    """Return the faiss.Index of a file. Raises DataError for one that FAISS cannot read."""
    return _read(faiss.read_index, path, flags)


def read_binary(path: Path) -> Any:
    """Return the faiss.IndexBinary of a file. Raises DataError for one that FAISS cannot read."""
    return _read(faiss.read_index_binary, path)


def read_projection(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Return the learned projection, float32 of this shape. Raises DataError for anything else."""
    try:
        found = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError, SyntaxError, TypeError, tokenize.TokenError) as error:
        raise DataError(f"{path} is damaged ({error}): {REBUILD}") from error
    if found.shape != shape or found.dtype != np.float32:
        raise DataError(f"{path} is {found.dtype} of shape {found.shape}, not float32 of {shape}: {REBUILD}")
    return np.array(found)


def write_lists(index: Any, parts: Sequence[Path], path: Path) -> None:
    """Write the lists of several indexes, of which each has some of the rows, to one file, and let `index` use them.

    Args:
        index: a trained faiss.IndexIVF without rows; nothing more can be added to it.
        parts: files of indexes with its training, mapped here and never read at once.
        path: of the new file.

    Raises:
        OSError: the disk is full.
    """
    opened = [read_index(part, faiss.IO_FLAG_MMAP) for part in parts]
    sources = [one.invlists for one in opened]
    lists = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(path))
    entries = faiss.OnDiskOneListVector()
    with path.open("wb") as file:
        for number in range(index.nlist):
            entry = faiss.OnDiskOneList()
            entry.offset = file.tell()
            entry.size = entry.capacity = sum(source.list_size(number) for source in sources)
            for source in sources:
                file.write(_bytes(source.get_codes(number), source.list_size(number) * index.code_size))
            for source in sources:
                file.write(_bytes(source.get_ids(number), source.list_size(number)))
            entries.push_back(entry)
        lists.totsize = file.tell()
    lists.lists, lists.read_only = entries, True
    lists.do_mmap()
    index.replace_invlists(lists, True)
    lists.this.disown()
    index.ntotal = sum(one.ntotal for one in opened)


def read_with_lists(path: Path, lists: Path) -> Any:
    """Return the index of a file whose inverted lists lie in another, wherever that was when it was written.

    Raises:
        DataError: FAISS cannot read one of the files.
    """
    index = read_index(path, faiss.IO_FLAG_SKIP_IVF_DATA)
    found = faiss.downcast_InvertedLists(index.invlists)
    if not lists.is_file() or lists.stat().st_size < found.totsize:  # beyond whose end a map would kill the process
        raise DataError(f"{lists} is missing or cut short: {REBUILD}")
    found.filename, found.read_only = str(lists), True
    found.do_mmap()
    return index


def _read(read: Callable[..., Any], path: Path, *flags: int) -> Any:
    try:
        return read(str(path), *flags)
    except RuntimeError as error:
        reason = str(error).rpartition("Error: ")[2].splitlines()[0]
        raise DataError(f"FAISS cannot read {path} ({reason}): {REBUILD}") from error


def _bytes(pointer: Any, count: int) -> bytes:
    """Return a copy of so many numbers at a pointer of FAISS."""
    return faiss.rev_swig_ptr(pointer, count).tobytes() if count else b""
