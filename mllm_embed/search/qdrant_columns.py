"""What is kept beside vectors, in a Qdrant collection: the payload's "metadata", filters of it, and what it holds.

The kinds of the columns stand in the collection's own metadata: Qdrant does not say of payloads what they hold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..data.filters import KINDS, RANGES, Condition, Filter, check_columns
from ..errors import InputError
from ..store.columns import FREQUENT, Columns, ColumnSummary
from ..text import printable
from .qdrant_server import number

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

KEPT = "metadata"
"""The payload's key of what is kept beside a vector, a mapping from columns to values."""
DIGEST = "kept"
"""The payload's key of a digest of that, for who is to tell whether it has changed."""
_UNASKED = {'"', "\\"}  # no path can hold them
_KINDS = "columns"  # the key of the kinds in the collection's metadata
_BOUNDS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}  # as Qdrant calls them
_INDEXES = {"text": "keyword", "number": "float", "truth": "bool"}  # what a server filters, counts and sorts by


class QdrantColumns:
    """The columns of a collection."""

    def __init__(self, client: QdrantClient, collection: str):
        """Ask a collection of its columns."""
        self.client, self.collection = client, collection
        self._kinds: dict[str, str | None] = {}

    @property
    def kinds(self) -> dict[str, str | None]:
        """The kind of each column as the collection has it now, None for one without a value."""
        metadata = getattr(self.client.get_collection(self.collection).config, "metadata", None) or {}
        self._kinds = dict(metadata.get(_KINDS, {}))
        return self._kinds

    def take(self, columns: Columns) -> None:
        """Let points of these columns come.

        Raises:
            InputError: a column holds another kind there, or has a name that Qdrant cannot be asked for.
        """
        known = self.kinds
        kinds = known | {name: kind or known.get(name) for name, kind in columns.kinds.items()}
        for name, kind in columns.kinds.items():
            if not name or set(name) & _UNASKED:
                raise InputError(f"Qdrant takes no column '{printable(name)}': give it a name without \" and \\")
            if kind is not None and known.get(name) not in (None, kind):
                raise InputError(
                    f'the column "{printable(name)}" holds {KINDS[str(known[name])]} in the collection '
                    f"{self.collection}, and {KINDS[kind]} here: write all of it as one kind, or use another collection"
                )
        if kinds != known:
            self.client.update_collection(self.collection, metadata={_KINDS: kinds})
            for name, kind in kinds.items():
                if kind is not None and known.get(name) is None:
                    self._index(name, kind)

    def _index(self, name: str, kind: str) -> None:
        """Let a server index a column: without it counts and sorts nothing, and some refuse to filter."""
        local = self.client.init_options.get("path") or self.client.init_options.get("location") == ":memory:"
        if not local:  # which has none, and would warn
            from qdrant_client import models

            schema = models.PayloadSchemaType(_INDEXES[kind])
            self.client.create_payload_index(self.collection, path_of(name), field_schema=schema, wait=True)

    def conditions(self, where: Filter | None) -> tuple[list[Any], list[Any]]:
        """Return what must hold of a point that fits a filter, and what must not, as Qdrant is asked.

        Raises:
            InputError: there is no such column, it holds values of another kind, or a range is one of words.
        """
        asked = where or Filter()
        try:
            check_columns(asked, self._kinds)
        except InputError:
            check_columns(asked, self.kinds)  # others may have added columns since
        sides: dict[bool, list[Any]] = {True: [], False: []}
        for condition in asked.conditions:
            sides[condition.operator != "not in"].append(_pushed(condition))
        return sides[True], sides[False]

    def summary(self) -> dict[str, ColumnSummary]:
        """Return what the columns hold, as `Columns.summary`, but for the values of numbers, which are not counted."""
        found = {name: _SUMMARIES[kind](self, name, kind) for name, kind in self.kinds.items() if kind is not None}
        return {name: summary for name, summary in found.items() if summary is not None}

    def of_names(self, name: str, kind: str) -> ColumnSummary | None:
        """Return what a column of words or truth values holds, None where it holds nothing."""
        hits = self.client.facet(self.collection, path_of(name), limit=FREQUENT, exact=True).hits
        values = sorted(((hit.value, hit.count) for hit in hits), key=lambda pair: (-pair[1], pair[0]))
        return ColumnSummary(kind, dict(values)) if values else None

    def of_numbers(self, name: str, kind: str) -> ColumnSummary | None:
        """Return between which bounds a column of numbers lies, None where it holds nothing."""
        least, most = (self._first(name, direction) for direction in ("asc", "desc"))
        return None if least is None or most is None else ColumnSummary(kind, None, least, most)

    def _first(self, name: str, direction: str) -> float | None:
        from qdrant_client import models

        order = models.OrderBy(key=path_of(name), direction=models.Direction(direction))
        points, _ = self.client.scroll(self.collection, limit=1, order_by=order, with_payload=False)
        return next((point.order_value for point in points), None)


_SUMMARIES: dict[str, Callable[[QdrantColumns, str, str], ColumnSummary | None]] = {
    "text": QdrantColumns.of_names,
    "truth": QdrantColumns.of_names,
    "number": QdrantColumns.of_numbers,
}


def path_of(column: str) -> str:
    """Return the path of a column in a payload."""
    return f'{KEPT}."{column}"'


def kept_payload(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a payload holds of the values of a row, as `Columns.rows` gives them; nothing of none."""
    return {KEPT: dict(values), DIGEST: digest_of(values)} if values else {}


def digest_of(values: Mapping[str, Any] | None) -> str | None:
    """Return what tells the values of a row from others, as a payload holds it; None of none. 2 and 2.0 are one."""
    if not values:
        return None
    told = {
        name: list(map(_whole, value)) if isinstance(value, list) else _whole(value) for name, value in values.items()
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def limits(
    allow: Collection[str] | None, exclude: Collection[str], conditions: tuple[list[Any], list[Any]]
) -> models.Filter | None:
    """Return Qdrant's filter of the ids that may answer, of those that may not, and of conditions; None for none."""
    from qdrant_client import models

    def ids(names: Collection[str]) -> models.HasIdCondition:
        return models.HasIdCondition(has_id=[number(name) for name in names])

    must = [*([] if allow is None else [ids(allow)]), *conditions[0]]
    never = [*([ids(exclude)] if exclude else []), *conditions[1]]
    return models.Filter(must=must or None, must_not=never or None) if must or never else None


def _pushed(condition: Condition) -> Any:
    """Return what Qdrant is asked for a condition, "not in" as "in". Raises InputError for a range of words."""
    from qdrant_client import models

    parts = list(_of_range(condition) if condition.operator in RANGES else _PARTS[condition.kind](condition))
    if None in condition.values:
        parts.append(models.IsEmptyCondition(is_empty=models.PayloadField(key=path_of(condition.column))))
    return parts[0] if len(parts) == 1 else models.Filter(should=parts)


def _of_range(condition: Condition) -> Iterator[Any]:
    if condition.kind == "text":
        raise InputError(
            f'the filter of "{printable(condition.column)}" is a range of words, which Qdrant cannot be asked: keep '
            "dates as numbers (20260131), or name the values"
        )
    yield _between(condition.column, **{_BOUNDS[condition.operator]: condition.values[0]})


def _of_numbers(condition: Condition) -> Iterator[Any]:
    # a match of Qdrant's tells 2 from 2.0
    yield from (_between(condition.column, gte=value, lte=value) for value in condition.compared)


def _of_words(condition: Condition) -> Iterator[Any]:
    from qdrant_client import models

    words = [str(value) for value in condition.compared]
    yield models.FieldCondition(key=path_of(condition.column), match=models.MatchAny(any=words))


def _of_truth(condition: Condition) -> Iterator[Any]:
    from qdrant_client import models

    for value in condition.compared:
        yield models.FieldCondition(key=path_of(condition.column), match=models.MatchValue(value=bool(value)))


def _between(column: str, **bounds: Any) -> Any:
    from qdrant_client import models

    return models.FieldCondition(key=path_of(column), range=models.Range(**bounds))


_PARTS: dict[str | None, Callable[[Condition], Iterator[Any]]] = {
    "text": _of_words,
    "number": _of_numbers,
    "truth": _of_truth,
    None: lambda condition: iter(()),
}
