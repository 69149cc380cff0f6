"""An index of recurrent binary codes, all compared by counting bits. Its files are codes.npy and head.safetensors."""

from __future__ import annotations

import tokenize
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..store.exact import ordered
from ..vectors.bebr.codes import cosines, lengths
from ..vectors.bebr.form import Form
from ..vectors.bebr.head import Head
from ..vectors.bebr.training import learn
from .files import REBUILD

CODES_FILE, HEAD_FILE = "codes.npy", "head.safetensors"
_VALUES = 1 << 22  # cosines at a time: 16 MB
_ROWS = 1 << 16  # codes whose lengths are counted at a time


class Recurrent:
    """Codes of several levels of bits (`vectors.bebr`), an `Engine`; it has no knob."""

    def __init__(self, folder: Path, dimension: int, form: Form):
        """Make an empty index of vectors of `dimension` numbers, which will be written to `folder`."""
        self.folder, self.dimension, self.form = folder, dimension, form
        self.head: Head | None = None
        self.blocks: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []

    @classmethod
    def read(cls, folder: Path, dimension: int, form: Form, writable: bool) -> Recurrent:
        """Read what `save` wrote; the codes are mapped, unless they are to be written. Raises DataError for damage."""
        engine = cls(folder, dimension, form)
        try:
            engine.head = Head.read(folder / HEAD_FILE, dimension)
        except ValueError as error:
            raise DataError(f"{folder / HEAD_FILE} is damaged ({error}): {REBUILD}") from error
        try:
            codes = np.lib.format.open_memmap(folder / CODES_FILE, mode="r")
        except (ValueError, OSError, EOFError, SyntaxError, TypeError, tokenize.TokenError) as error:
            raise DataError(f"{folder / CODES_FILE} is damaged ({error}): {REBUILD}") from error
        wanted = (form.levels, form.bits // 8)
        if codes.ndim != 3 or codes.shape[1:] != wanted or codes.dtype != np.uint8:
            raise DataError(
                f"{folder / CODES_FILE} is {codes.dtype} of {codes.shape}, not uint8 of {wanted}: {REBUILD}"
            )
        if (engine.head.levels, engine.head.bits) != (form.levels, form.bits):
            raise DataError(f"{folder / HEAD_FILE} makes other codes than {CODES_FILE} holds: {REBUILD}")
        engine.blocks = [np.array(codes) if writable else codes]  # what is mapped must not be written anew
        return engine

    def __len__(self) -> int:
        """As `Engine.__len__`."""
        return sum(map(len, self.blocks))

    def train(self, sample: np.ndarray) -> None:
        """As `Engine.train`."""
        self.head = learn(sample, self.form)

    def add(self, rows: np.ndarray) -> None:
        """As `Engine.add`."""
        self.blocks.append(self.codes(rows))

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """Return the codes [n, levels, bytes] uint8 of rows [n, D] float32."""
        if self.head is None:
            raise RuntimeError("train the index first")
        return self.head.codes(rows)

    @property
    def most(self) -> int:
        """As `Engine.most`: there is no knob."""
        return 0

    @property
    def code_bytes(self) -> int:
        """As `Engine.code_bytes`."""
        return self.form.bytes

    def search(self, queries: np.ndarray, count: int, setting: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Engine.search`; equal scores come in order of the rows."""
        return self.nearest(self.codes(queries), count)

    def nearest(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what `search` does for queries that are coded: [Q, levels, bytes] uint8."""
        scores = np.empty((len(queries), 0), np.float32)
        rows = np.empty((len(queries), 0), np.int64)
        step, first = max(1, _VALUES // max(1, len(queries))), 0
        for codes, known in zip(self.blocks, self._measured(), strict=True):
            for at in range(0, len(codes), step):
                found = cosines(queries, np.asarray(codes[at : at + step]), known[at : at + step])
                places = _best(found, count)
                scores = np.concatenate([scores, np.take_along_axis(found, places, 1)], axis=1)
                rows = np.concatenate([rows, first + at + places], axis=1)
                scores, rows = ordered(scores, rows, count)
            first += len(codes)
        missing = ((0, 0), (0, max(0, count - rows.shape[1])))
        return np.pad(scores, missing, constant_values=-np.inf), np.pad(rows, missing, constant_values=-1)

    def save(self) -> None:
        """As `Engine.save`."""
        wanted = (len(self), self.form.levels, self.form.bits // 8)
        with (self.folder / CODES_FILE).open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": wanted})
            for codes in self.blocks:
                file.write(codes.tobytes())
        if self.head is not None:
            self.head.save(self.folder / HEAD_FILE)

    def _measured(self) -> list[np.ndarray]:
        """Return the lengths of all codes; those that have none yet are counted and kept: 4 bytes a row. Searches at
        the same time count them twice at worst."""
        known = self._lengths
        for codes in self.blocks[len(known) :]:
            parts = [lengths(np.asarray(codes[at : at + _ROWS])) for at in range(0, len(codes), _ROWS)]
            known = [*known, np.concatenate([np.empty(0, np.float32), *parts])]
        self._lengths = known
        return known


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the places [Q, count] of the best scores [Q, n], and with equal ones of the first."""
    if count >= scores.shape[1]:
        return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    last = -np.partition(-scores, count - 1, axis=1)[:, count - 1 : count]
    # all above the last score that comes, and of those that equal it as many as there is room for
    above, equal = scores > last, scores == last
    equal &= np.cumsum(equal, axis=1) <= count - above.sum(axis=1, keepdims=True)
    return np.nonzero(above | equal)[1].reshape(len(scores), count)
