"""The answers of a search as a table in plain text, for a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence

from .searcher import Hit

_KEPT = 100  # characters of a row's metadata


def hits_table(hits: Sequence[Hit]) -> str:
    """Return rank, score, id and file of each hit, and what is kept of it where anything is."""
    width = max(len("id"), *(len(hit.id) for hit in hits))
    files = ["in a file of rows" if isinstance(hit.image, bytes) else str(hit.image) for hit in hits]
    room = max(map(len, files)) if any(hit.metadata for hit in hits) else 0
    judged = any(hit.judged is not None for hit in hits)
    head, tail = f"rank   score{'  judged' * judged}", f"  {'metadata' if room else ''}"
    lines = [f"{head}  {'id'.ljust(width)}  {'file'.ljust(room)}{tail}".rstrip()]
    for rank, (hit, file) in enumerate(zip(hits, files, strict=True), 1):
        score = f"{hit.score:6.3f}" + ("" if not judged else f"{_judged(hit):>8}")
        lines.append(f"{rank:4d}  {score}  {hit.id.ljust(width)}  {file.ljust(room)}  {_kept(hit)}".rstrip())
    return "\n".join(lines)


def _judged(hit: Hit) -> str:
    return "-" if hit.judged is None else f"{hit.judged:.3f}"


def _kept(hit: Hit) -> str:
    """Return what is kept of a hit, as a filter would name it; a long one is cut."""
    text = json.dumps(dict(hit.metadata), ensure_ascii=False) if hit.metadata else ""
    return text if len(text) <= _KEPT else f"{text[: _KEPT - 3]}..."
