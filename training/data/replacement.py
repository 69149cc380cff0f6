"""Which row takes the place of one that cannot be read."""

from __future__ import annotations

from mllm_embed.errors import DataError

from .numbers import number_of
from .rows import MixedRows

ATTEMPTS = 20


def replacement(rows: MixedRows, index: int, attempt: int, seed: int) -> int:
    """Return the row to try instead of `index`, from the same source: a function of its arguments alone.

    In a source that is streamed it is the next row but `attempt`, which most likely lies in memory; elsewhere any.

    Args:
        rows: the rows of the stage.
        index: the row that cannot be read.
        attempt: from 1; replacements may be unreadable too.
        seed: of the run.

    Raises:
        DataError: after `ATTEMPTS` attempts, or when the source has no other row.
    """
    part, inside = rows.at(index)
    count = len(rows.parts[part])
    if attempt >= min(count, ATTEMPTS + 1):
        path = rows.parts[part].source.path
        raise DataError(f"{path}: no row can be read in place of {rows.parts[part].name(inside)}; check the pictures")
    start = 0 if rows.parts[part].source.streaming else number_of(f"{seed} {index}")
    step = 1 + (start + attempt - 1) % (count - 1)  # never the row itself, nor what an earlier attempt gave
    return int(rows.starts[part]) + (inside + step) % count
