"""What stands beside a shard's vectors: the record of its rows, and whether what was read is one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

DIGEST_LENGTH = 64  # of a sha256 in hexadecimal
_NEWER = ("counts", "lexical")


@dataclass(frozen=True)
class ShardRecord:
    """The file beside a shard's vectors.

    Args:
        ids: one a row.
        sources: where each row's picture lies, None where that is not known.
        lost: inputs that could not be read and have no row: id, source, reason.
        sha256, crc32: of the vectors' file; the second is None in stores of format 1.
        digests: sha256 of what each row held when it was embedded, one after the other; None where that is not known.
        origins: the sources that rows came from, as given to `encode`, each with the number of rows that follow one
            another; None where that is not known.
        counts: how many vectors each row has; None where each has one.
        lexical: sha256 of the file of the rows' lexical vectors (kept/lexical.py); None where they have none.
    """

    ids: list[str]
    sources: list[str | None]
    lost: list[dict[str, str]]
    sha256: str
    crc32: int | None = None
    digests: str | None = None
    origins: list[tuple[str, int]] | None = None
    counts: list[int] | None = None
    lexical: str | None = None

    @property
    def content(self) -> dict[str, Any]:
        """What is written of it; nothing of `counts` where a row has one vector and of `lexical` where it has none, as
        versions that know of no others read it."""
        return {key: value for key, value in asdict(self).items() if key not in _NEWER or value is not None}

    @property
    def vectors(self) -> int | None:
        """How many vectors its rows have together; None where each has one."""
        return None if self.counts is None else sum(self.counts)

    def row_digests(self) -> Iterator[str | None]:
        """Yield the digest of each row."""
        for at in range(0, len(self.ids) * DIGEST_LENGTH, DIGEST_LENGTH):
            yield None if self.digests is None else self.digests[at : at + DIGEST_LENGTH]

    def row_origins(self) -> Iterator[str | None]:
        """Yield the source of each row."""
        for origin, rows in [(None, len(self.ids))] if self.origins is None else self.origins:
            yield from [origin] * rows

    def row_names(self) -> set[str]:
        """Return the ids of all rows that the shard was made of, those that could not be read too."""
        return {*self.ids, *(entry["id"] for entry in self.lost)}


def still_lost(records: Iterable[ShardRecord]) -> list[dict[str, str]]:
    """Return the inputs of a store's records, in order, that could not be read when they were last tried."""
    found: dict[str, dict[str, str]] = {}
    for record in records:
        for name in found.keys() & set(record.ids):
            del found[name]
        found |= {entry["id"]: entry for entry in record.lost}
    return list(found.values())


def runs(values: Sequence[str]) -> list[tuple[str, int]]:
    """Return values that follow one another, each with how often it does."""
    return [(value, len(list(group))) for value, group in groupby(values)]


def record_facts(record: ShardRecord) -> Iterator[tuple[str, bool]]:
    """Yield what must hold for a record, in the order in which it can be looked at."""
    yield "ids", _is_list_of(record.ids, str)
    yield "sources", _is_list_of(record.sources, str, type(None)) and len(record.sources) == len(record.ids)
    yield "lost", _is_list_of(record.lost, dict) and all(map(_is_lost, record.lost))
    yield "sha256", isinstance(record.sha256, str)
    yield "crc32", record.crc32 is None or type(record.crc32) is int
    length = len(record.ids) * DIGEST_LENGTH
    yield "digests", record.digests is None or (isinstance(record.digests, str) and len(record.digests) == length)
    yield "lexical", record.lexical is None or isinstance(record.lexical, str)
    yield "counts", record.counts is None or _are_counts(record)
    yield "origins", record.origins is None or sum(rows for _, rows in record.origins) == len(record.ids)


def _is_list_of(values: Any, *kinds: type) -> bool:
    return isinstance(values, list) and set(map(type, values)) <= set(kinds)


def _is_lost(entry: Mapping[str, Any]) -> bool:
    return all(isinstance(entry.get(key), str) for key in ("id", "source", "reason"))


def _are_counts(record: ShardRecord) -> bool:
    counts = record.counts or []
    return _is_list_of(counts, int) and min(counts, default=1) > 0 and len(counts) == len(record.ids)
