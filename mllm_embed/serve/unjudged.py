"""Why documents cannot be judged, for whoever sent them: in words of our own, and by the field that is at fault.

What a decoder or a processor says may hold an address in memory or a path of this machine: none of it goes out.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import DataError, ImageError, ModelError, TooLongError
from ..types import Document, Item
from .batches.reasons import decoded
from .refusals import Refusal

if TYPE_CHECKING:
    from ..rerank.reranker import Reranker

_log = logging.getLogger(__name__)
_SHORT = Document(text="a")  # which any query can be judged beside
_MEMORY = "takes more memory than this server has; send a smaller picture or fewer words"
_BROKEN = "the re-ranker failed on these documents; tell whoever runs this server"
_TASK = "query.task has no place in this re-ranker's prompt; leave it out"
_CANNOT = "this re-ranker cannot read it; send other words or another picture"


def fault(judge: Reranker, query: Item, documents: Sequence[Item], fields: Sequence[str], error: Exception) -> Refusal:
    """Return the refusal of documents that could not be judged, with the first field that is at fault.

    Args:
        judge: the re-ranker, which nothing else may use meanwhile.
        query: the query, of the field "query".
        documents: those that were judged together.
        fields: of the request that each came from.
        error: what went wrong.
    """
    if isinstance(error, DataError | ImageError):
        return _of_input(judge, query, documents, fields)
    _log.error("the re-ranker failed on documents", exc_info=error)
    if isinstance(error, ModelError):
        return Refusal(500, _BROKEN)
    return Refusal(500, f"{fields[0]} {_MEMORY}", field=fields[0])


def _of_input(judge: Reranker, query: Item, documents: Sequence[Item], fields: Sequence[str]) -> Refusal:
    placed = [("query", query), *zip(fields, documents, strict=True)]
    for field, item in placed:
        try:
            decoded(item, judge.pairs.items)
        except ImageError as error:
            return Refusal(422, f"{field}: {error}", field=field)
    try:
        judge.prompt.task_of(query)
    except DataError:
        return Refusal(422, _TASK, field="query.task")
    for field, beside in [("query", _SHORT), *placed[1:]]:
        try:
            judge.pairs.batch([(query, beside)])
        except TooLongError as error:
            return Refusal(422, f"{field}: {error}", field=field)
        except DataError:
            return Refusal(422, f"{field}: {_CANNOT}", field=field)
    return Refusal(422, f"{fields[0]}: {_CANNOT}", field=fields[0])
