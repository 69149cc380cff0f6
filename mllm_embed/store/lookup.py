"""From ids to the rows that have them: what filters of a search name, perhaps half a million at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from operator import itemgetter

import numpy as np

from ..errors import DataError, did_you_mean

_MANY = 3  # ids are looked for in the store, row after row, where more than a third of its rows may answer
_NEAR = 10_000  # ids among which a misspelt one is looked for


def row_numbers(row_of: Mapping[str, int], ids: Collection[str]) -> np.ndarray:
    """Return the numbers [n] int64 of the rows of ids. Raises KeyError for an unknown one."""
    # one call for all of them takes half as long as one for each
    return np.array(itemgetter(*ids)(row_of), np.int64).reshape(-1) if len(ids) else np.empty(0, np.int64)


def near_id(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an id that is none of the known ones, as `errors.did_you_mean`."""
    return did_you_mean(str(word), islice(known, _NEAR))


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
