"""The values of kept columns, as the sources have them now."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...data.sources import Listing
from ..columns import Columns
from .changes import Values
from .column_values import column_of


class ListedValues:
    """Columns of the rows of a listing, each read once."""

    def __init__(self, listing: Listing):
        """Read the columns of a listing when they are asked for."""
        self._listing = listing
        self._known: dict[tuple[str, ...], Values] = {}

    def of(self, names: Sequence[str]) -> Values | None:
        """Return the values of these columns; None where there are none of them.

        Raises DataError naming the row for a value that no column holds, or is of another kind than those before, and
        where a source was written to since it was listed.
        """
        import pyarrow

        wanted = tuple(names)
        if wanted and wanted not in self._known:
            rows, values = self._listing.kept(wanted)
            arrays = {name: column_of(name, cells, self._where(rows)) for name, cells in values.items()}
            row_of = {self._listing.ids[row]: at for at, row in enumerate(rows)}
            self._known[wanted] = Values(Columns(pyarrow.table(arrays), len(rows)), row_of)
        if wanted:  # read hours ago, perhaps, and others may have written newer ones to the store
            self._listing.check_kept()
        return self._known.get(wanted)

    def _where(self, rows: Sequence[int]) -> Callable[[int], str]:
        return lambda at: self._listing.where(rows[at])
