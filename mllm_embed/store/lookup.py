"""Which rows may answer: those of some ids, perhaps half a million at once, and those that fit a filter."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from typing import Any

import numpy as np

from ..data.filters import Filter, check_columns
from ..errors import DataError, did_you_mean
from .columns import Columns, ColumnSummary

_MANY = 3  # ids are looked for in the store, row after row, where more than a third of its rows may answer
_NEAR = 10_000  # ids among which a misspelt one is looked for
_ROOM = 1 << 26  # bytes that what is known of filters may take
_FILTERS = 16


def row_numbers(row_of: Mapping[str, int], ids: Collection[str]) -> np.ndarray:
    """Return the numbers [n] int64 of the rows of ids. Raises KeyError for an unknown one."""
    # one call for all of them takes half as long as one for each
    return np.array(itemgetter(*ids)(row_of), np.int64).reshape(-1) if len(ids) else np.empty(0, np.int64)


def near_id(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an id that is none of the known ones, as `errors.did_you_mean`."""
    return did_you_mean(str(word), islice(known, _NEAR))


def check_queries(dimension: int, queries: np.ndarray, k: int, exclude: Sequence[Collection[str]] | None) -> None:
    """Raise DataError for what no gallery can answer.

    Args:
        dimension: D, of the gallery.
        queries: [Q, D] float32 without NaN.
        k: at least 1.
        exclude: [Q], or None.
    """
    if k < 1:
        raise DataError(f"k must be at least 1, not {k}")
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise DataError(f"queries of shape {queries.shape} do not fit vectors of {dimension} numbers")
    if not np.isfinite(queries).all():
        raise DataError("a query holds NaN or infinite numbers: nothing can be near it")
    if exclude is not None and len(exclude) != len(queries):
        raise DataError(f"exclude has {len(exclude)} entries for {len(queries)} queries")


def check_allow(allow: Collection[str] | None) -> None:
    """Raise DataError where no id at all may answer; None allows all."""
    if allow is not None and not len(allow):
        raise DataError("allow names no id: nothing could be found")


class Allowed:
    """The rows of the ids that may answer; of ids that come again they are known, since many take long."""

    def __init__(self) -> None:
        """Know none."""
        self._known: tuple[Collection[str] | None, np.ndarray | None, np.ndarray | None] = None, None, None

    def rows(
        self,
        numbers: Callable[[Collection[str]], np.ndarray],
        names: Sequence[str],
        alive: np.ndarray,
        allow: Collection[str] | None,
    ) -> np.ndarray | None:
        """Return which rows may answer, [N] bool not to be written to, None for all.

        Args:
            numbers: from ids to the numbers of their rows [n] int64.
            names: [N], the id of each row.
            alive: [N] bool, which rows are not removed: another array as soon as rows come or go.
            allow: the ids, as of `Gallery.nearest`.

        Raises:
            DataError: no id is allowed, or an unknown one.
        """
        check_allow(allow)
        if allow is None:
            return None
        # a list may have changed when it comes again; to compare it is a small part of looking it up
        given = allow if isinstance(allow, frozenset) else tuple(allow)
        before, then, may = self._known
        if then is not alive or (given is not before and given != before):
            may = _which(numbers, names, alive, given)
            may.setflags(write=False)
            self._known = given, alive, may
        return may


def _which(
    numbers: Callable[[Collection[str]], np.ndarray], names: Sequence[str], alive: np.ndarray, given: Collection[str]
) -> np.ndarray:
    """Return which rows have one of these ids, as `Allowed.rows`."""
    if len(given) * _MANY > len(names):
        wanted = frozenset(given)
        may = alive & np.frombuffer(bytearray(map(wanted.__contains__, names)), bool)
        if np.count_nonzero(may) == len(wanted):
            return may
    may = np.zeros(len(names), bool)
    may[numbers(given)] = True
    return may


def excluded(
    numbers: Callable[[Collection[str]], np.ndarray], exclude: Sequence[Collection[str]] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of a query and a row that may not come, as two int64 arrays.

    Args:
        numbers: from ids to the numbers of their rows [n] int64.
        exclude: the ids of each query, as of `Gallery.nearest`.

    Raises:
        DataError: an id is unknown.
    """
    lists = [numbers(names) for names in exclude or ()]
    owners = np.repeat(np.arange(len(lists)), [len(rows) for rows in lists])
    return owners, np.concatenate(lists) if lists else np.empty(0, np.int64)


@dataclass
class _Known:
    """What is known of rows: which fit the filters that were asked, and what their columns hold."""

    columns: Columns
    alive: np.ndarray
    fit: dict[str, np.ndarray] = field(default_factory=dict)
    summary: dict[str, ColumnSummary] | None = None


class Kept:
    """What is kept beside the vectors of a gallery; of filters that come again it is known what fits them.

    Who holds it hands in the columns, and which rows are alive: other objects as soon as rows come or go, and then what
    is known is forgotten.
    """

    def __init__(self) -> None:
        """Know nothing."""
        self._now: _Known | None = None

    def fit(self, columns: Columns | None, alive: np.ndarray, where: Filter | None) -> np.ndarray | None:
        """Return which rows are alive and fit a filter, [N] bool not to be written to; None where nothing is asked.

        Args:
            columns: of N rows; None where nothing is kept.
            alive: [N] bool.
            where: the filter.

        Raises:
            DataError: as `Columns.mask`.
        """
        if not where:
            return None
        if columns is None:
            check_columns(where, {})
            return None
        known = self._known(columns, alive)
        mask = known.fit.get(where.key)
        if mask is None:
            mask = columns.mask(where) & alive
            mask.setflags(write=False)
            most = max(1, min(_FILTERS, _ROOM // max(1, len(alive))))
            # another dictionary, and not that one with more: searches of other threads read it
            known.fit = dict([*known.fit.items(), (where.key, mask)][-most:])
        return mask

    def summary(self, columns: Columns | None, alive: np.ndarray) -> dict[str, ColumnSummary]:
        """Return what the columns hold of the rows that are alive; nothing where none are kept."""
        if columns is None:
            return {}
        known = self._known(columns, alive)
        if known.summary is None:
            known.summary = columns.summary(alive)
        return dict(known.summary)

    def _known(self, columns: Columns, alive: np.ndarray) -> _Known:
        """Return what is known of these rows."""
        known = self._now
        if known is None or known.columns is not columns or known.alive is not alive:
            self._now = known = _Known(columns, alive)
        return known


def values_of(columns: Columns | None, numbers: np.ndarray) -> list[dict[str, Any]]:
    """Return what is kept of rows by their numbers, as `Columns.rows`."""
    return [{} for _ in numbers] if columns is None else columns.rows(numbers)


def grown(
    columns: Columns | None, rows: int, metadata: Sequence[Mapping[str, Any]] | None, more: int
) -> Columns | None:
    """Return columns of rows after those there are; None where nothing is kept of any.

    Args:
        columns: what is kept of the rows there are; None for nothing.
        rows: how many there are.
        metadata: what is kept of those that come; None for nothing.
        more: how many come.

    Raises:
        DataError: metadata of another number of rows, or that cannot be kept, as `Columns.of` and `Columns.concat`.
    """
    if metadata is not None and len(metadata) != more:
        raise DataError(f"{more} ids do not fit the metadata of {len(metadata)} rows")
    if columns is None and metadata is None:
        return None
    old = Columns.of([{}] * rows) if columns is None else columns
    return Columns.concat([old, Columns.of([{}] * more if metadata is None else metadata)])


def both(one: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    """Return which rows, [N] bool, both let answer; None lets all."""
    if one is None or other is None:
        return other if one is None else one
    return one & other


def check_page(offset: int, limit: int) -> None:
    """Raise DataError for a page that begins before the first row, or has none."""
    if offset < 0 or limit < 1:
        raise DataError(f"a page begins at row 0 or later and has 1 row or more, not {limit} from row {offset}")


def page_of(names: Sequence[str], may: np.ndarray, offset: int, limit: int) -> tuple[list[str], int]:
    """Return the ids of a page of rows, in their order, and how many rows there are on all pages.

    Args:
        names: [N], the id of each row.
        may: [N] bool, which rows are on the pages.
        offset: rows of earlier pages.
        limit: rows of this one.

    Raises:
        DataError: as `check_page`.
    """
    check_page(offset, limit)
    rows = np.flatnonzero(may)
    return [names[row] for row in rows[offset : offset + limit].tolist()], len(rows)
