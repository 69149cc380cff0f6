"""Vectors on disk, made by any model: DIR/gallery.npy and queries.npy beside gallery_ids.json and query_ids.json.

image_only.npy and text_only.npy, which may be there too, are the halves of composed queries, in the order of the
queries: with them the table has the rows of the halves and their sum, and the composition audit.
A suite of several tasks has one such folder a task: DIR/dress, DIR/shirt, DIR/toptee.
"""

from __future__ import annotations

import tokenize
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mllm_embed.errors import DataError
from mllm_embed.files import atomic_file, read_json, write_json
from mllm_embed.vectors.unit import unit

from .composition import IMAGE_ONLY, SUM, TEXT_ONLY
from .score import Vectors
from .suite import Suite, Task

GALLERY, GALLERY_IDS = "gallery.npy", "gallery_ids.json"
QUERIES, QUERY_IDS = "queries.npy", "query_ids.json"
HALVES = {IMAGE_ONLY: "image_only.npy", TEXT_ONLY: "text_only.npy"}
_BLOCK_VALUES = 1 << 24  # read at once, so that a large file never stands in memory twice


def read_vectors(folder: Path, suite: Suite, whole: Suite | None = None) -> dict[str, Vectors]:
    """Return the vectors of every task of a suite, in the order of its ids, as float32.

    Args:
        folder: holds gallery.npy [N, D], queries.npy [Q, D] (any float type), gallery_ids.json and query_ids.json
            (lists of strings in the order of the rows, which may be any), perhaps the halves of the queries; one folder
            a task where there are several.
        suite: says which ids must be there.
        whole: the benchmark that `suite` has some queries of, whose other queries may be there too.

    Raises:
        DataError: a file is missing or is not as said; ids are missing, double or unknown; a vector holds NaN, or
            nothing but zeros; widths that differ.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is {'not a folder' if folder.exists() else 'missing'}: give a folder with vectors")
    known = {task.name: task.query_ids for task in (whole or suite).tasks}
    return {task.name: _task(folder / task.name, task, known[task.name]) for task in suite.tasks}


def write_vectors(folder: Path, suite: Suite, vectors: Mapping[str, Vectors]) -> None:
    """Write what `read_vectors` reads: the gallery, the queries as asked, and their halves.

    Raises:
        DataError: the disk fails.
    """
    for task in suite.tasks:
        own, place = vectors[task.name], folder / task.name
        halves = [(name, own.rows[row]) for row, name in HALVES.items() if row in own.rows]
        for name, matrix in ((GALLERY, own.gallery), (QUERIES, own.rows[task.query_kind]), *halves):
            with atomic_file(place / name) as path, path.open("wb") as file:
                np.save(file, matrix, allow_pickle=False)
        for row, name in HALVES.items():
            if row not in own.rows:  # of an earlier run, and not of these queries
                (place / name).unlink(missing_ok=True)
        write_json(place / GALLERY_IDS, list(task.gallery_ids))
        write_json(place / QUERY_IDS, list(task.query_ids))


def _task(folder: Path, task: Task, known: Sequence[str]) -> Vectors:
    gallery = _rows(folder, GALLERY, GALLERY_IDS, task.gallery_ids, task.gallery_ids)
    queries = _rows(folder, QUERIES, QUERY_IDS, task.query_ids, known)
    if gallery.shape[1] != queries.shape[1]:
        raise DataError(
            f"{folder}: {GALLERY} has {gallery.shape[1]} dimensions and {QUERIES} {queries.shape[1]}; "
            "both must come from one model"
        )
    return Vectors(gallery, {task.query_kind: queries, **_halves(folder, task, known, gallery.shape[1])})


def _halves(folder: Path, task: Task, known: Sequence[str], width: int) -> dict[str, np.ndarray]:
    """Return the halves that are there, and their sum; nothing of a task without composed queries."""
    rows = {}
    for row, name in HALVES.items():
        if task.composed and (folder / name).is_file():
            rows[row] = _rows(folder, name, QUERY_IDS, task.query_ids, known)
            if rows[row].shape[1] != width:
                raise DataError(
                    f"{folder}: {GALLERY} has {width} dimensions and {name} {rows[row].shape[1]}; both must come from "
                    "one model"
                )
    if len(rows) == len(HALVES):
        rows[SUM] = unit(rows[IMAGE_ONLY] + rows[TEXT_ONLY])
    return rows


def _rows(folder: Path, vectors: str, ids: str, wanted: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """Return the matrix [N, D] float32 with its rows in the order of the wanted ids; others that are known are left."""
    matrix = read_matrix(folder / vectors, f"give {GALLERY}, {QUERIES}, {GALLERY_IDS} and {QUERY_IDS}")
    names = read_ids(folder / ids)
    if len(matrix) != len(names):
        raise DataError(f"{folder / vectors} has {len(matrix)} rows and {ids} {len(names)} ids: one id a row")
    _check_ids(folder / ids, names, wanted, known)
    # the usual case: what `write_vectors` or a careful user wrote
    if names == list(wanted) and matrix.dtype == np.float32 and matrix.flags.c_contiguous:
        ordered: np.ndarray = matrix  # as large as it is, it need not even be read into memory
    else:
        row = {name: at for at, name in enumerate(names)}
        ordered = gathered(matrix, np.array([row[name] for name in wanted]))
    bad = first_bad(ordered)
    if bad is not None:
        what = "holds NaN, or values too large for float32" if ordered[bad].any() else "is all zeros, near to nothing"
        raise DataError(f'{folder / vectors}: the vector of "{wanted[bad]}" {what}; make it anew')
    return ordered


def gathered(matrix: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return rows [M, D] of a matrix on disk as one float32 array, read block by block."""
    out = np.empty((len(rows), matrix.shape[1]), np.float32)
    step = max(1, _BLOCK_VALUES // matrix.shape[1])
    with np.errstate(over="ignore"):
        for at in range(0, len(rows), step):
            out[at : at + step] = matrix[rows[at : at + step]]
    return out


def read_matrix(path: Path, wanted: str) -> np.ndarray:
    """Return the matrix [N, D] of an .npy file, mapped and not read.

    Args:
        path: of the file.
        wanted: what to give where it is missing, for the error.

    Raises DataError for a file that is missing, damaged, or holds no floats.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing: {wanted}")
    try:
        # unlike numpy.load it tries neither pickles nor archives; a spoilt header can raise any of these
        matrix = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, OverflowError, tokenize.TokenError) as error:
        raise DataError(f"{path} is not a whole .npy file of numbers ({error}); write it with numpy.save") from error
    if matrix.ndim != 2 or not np.issubdtype(matrix.dtype, np.floating) or not matrix.shape[1]:
        raise DataError(f"{path} must hold floats, one vector a row, not {matrix.dtype} of shape {matrix.shape}")
    return matrix


def read_ids(path: Path) -> list[str]:
    """Return the ids of a JSON file. Raises DataError for anything but a list of strings."""
    names = read_json(path, "give a JSON list of strings, one a row of the vectors")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path} must be a JSON list of strings, one a row of the vectors")
    return names


def _check_ids(path: Path, names: Sequence[str], wanted: Sequence[str], known: Sequence[str]) -> None:
    seen: set[str] = set()
    all_known = set(known)
    for name in names:
        if name in seen:
            raise DataError(f'{path}: the id "{name}" stands twice')
        if name not in all_known:
            raise DataError(f'{path}: the id "{name}" is unknown to the benchmark, whose ids are like "{wanted[0]}"')
        seen.add(name)
    missing = [name for name in wanted if name not in seen]
    if missing:
        raise DataError(f'{path}: {len(missing):,} of {len(wanted):,} ids are missing, the first is "{missing[0]}"')


def first_bad(matrix: np.ndarray) -> int | None:
    """Return the first row that holds NaN or an infinite value, or nothing but zeros; None for none."""
    step = max(1, _BLOCK_VALUES // matrix.shape[1])
    for at in range(0, len(matrix), step):
        block = matrix[at : at + step]
        bad = np.flatnonzero(~(np.isfinite(block).all(axis=1) & block.any(axis=1)))
        if len(bad):
            return at + int(bad[0])
    return None
