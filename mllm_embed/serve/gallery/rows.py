"""`/v1/gallery`: what is there, row by row, and where it may be written to, more or less of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from ...data.values import ids_of
from ...errors import ConfigError, DataError, InputError, UnknownIdError
from ...search.searcher import Searcher
from ...store.columns import Columns
from ...types import Document
from ..refusals import Refusal
from ..service import Service
from ..tickets import ticket_for
from .kept_pictures import KeptPictures
from .requests import NewRow, NewRows, RowIds, filter_of
from .search import check_ids, gallery_of, picture_address, row_gone, unknown_id

router = APIRouter()
_TRIES = 5  # of a page whose rows are removed meanwhile


@router.get("/v1/gallery")
async def gallery(request: Request) -> dict[str, Any]:
    """Return how many rows there are, what their columns hold, and what may be done with them."""
    service: Service = request.app.state.service
    searcher = gallery_of(service)
    summary = await asyncio.to_thread(searcher.gallery.summary)
    columns = {name: asdict(column) for name, column in summary.items()}
    return {
        "object": "gallery",
        "rows": await asyncio.to_thread(searcher.gallery.__len__),
        "model": service.model_name,
        "columns": columns,
        "writable": service.kept is not None,
        "speaks": service.speaker.explains,
        "reranks": service.speaker.reranks,
    }


@router.get("/v1/gallery/rows")
async def rows(
    request: Request,
    offset: Annotated[int, Query(ge=0, le=2**40)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 60,
    filter: Annotated[str | None, Query(description='JSON, {"color": "red"} say')] = None,
) -> dict[str, Any]:
    """Return rows in the gallery's order, all or those that a filter lets through."""
    searcher = gallery_of(request.app.state.service)
    where = filter_of(filter)

    def listed(tries: int = _TRIES) -> dict[str, Any]:
        try:
            ids, total = searcher.gallery.page(offset, limit, where)
            entries = zip(ids, searcher.gallery.metadata(ids), searcher.gallery.sources(ids), strict=True)
        except UnknownIdError as error:
            if tries > 1:
                return listed(tries - 1)
            raise row_gone() from error
        except InputError as error:
            raise Refusal(422, str(error), field="filter") from error
        return {
            "total": total,
            "rows": [
                {"id": name, "metadata": values, "picture": picture_address(name, place)}
                for name, values, place in entries
            ],
        }

    return await asyncio.to_thread(listed)


@router.post("/v1/gallery/rows", status_code=201)
async def add(request: Request, body: NewRows) -> dict[str, Any]:
    """Embed rows and add them: all, or none where one of them is at fault."""
    service: Service = request.app.state.service
    searcher, kept = _writable(service)
    ids, fields = [row.id for row in body.rows], [f"rows[{at}]" for at in range(len(body.rows))]
    _check_new(body.rows, ids, service)
    async with ticket_for(request, service.limits):
        contents = [await _content(service, row, field) for row, field in zip(body.rows, fields, strict=True)]
        documents = list(map(_document, body.rows, contents, fields))
        vectors = await service.vectors(documents, fields)

    def put() -> None:
        _check_absent(ids, searcher)
        with kept.keeping(contents) as places, _written():
            try:
                searcher.gallery.add(ids, vectors, places, [row.metadata for row in body.rows])
            except DataError:
                _check_absent(ids, searcher)  # somebody else was faster
                raise

    await asyncio.to_thread(put)
    return {"added": len(ids), "rows": await asyncio.to_thread(searcher.gallery.__len__)}


@router.delete("/v1/gallery/rows")
async def remove(request: Request, body: RowIds) -> dict[str, Any]:
    """Remove rows: all of them, or none where one is not there."""
    searcher, _ = _writable(request.app.state.service)
    check_ids(body.ids, "ids", request.app.state.service)

    def take_out() -> None:
        _check_there(body.ids, searcher)
        with _written():
            try:
                searcher.gallery.remove(dict.fromkeys(body.ids))
            except DataError:
                _check_there(body.ids, searcher)  # somebody else was faster
                raise

    await asyncio.to_thread(take_out)
    return {"removed": len(set(body.ids)), "rows": await asyncio.to_thread(searcher.gallery.__len__)}


def _writable(service: Service) -> tuple[Searcher, KeptPictures]:
    searcher = gallery_of(service)
    if service.kept is None:
        raise Refusal(403, "this gallery is not written to: start the service with --writable")
    return searcher, service.kept


def _check_new(rows: Sequence[NewRow], ids: Sequence[str], service: Service) -> None:
    """Raise Refusal for more rows than a request may have, for ids that are none or twice, and what no column holds."""
    if len(ids) > service.limits.inputs:
        raise Refusal(413, f"{len(ids)} rows are over the limit of {service.limits.inputs} inputs", field="rows")
    twice = next((name for name, count in Counter(ids).items() if count > 1), None)
    if twice is not None:
        raise Refusal(422, f'the id "{twice[:80]}" is given twice', field="rows")
    try:
        ids_of(ids)
        Columns.of([row.metadata for row in rows])
    except DataError as error:
        raise Refusal(422, str(error), field="rows") from error


def _check_absent(ids: Sequence[str], searcher: Searcher) -> None:
    """Raise Refusal 409 for an id that is there."""
    there = set(ids).difference(searcher.gallery.unknown(ids))
    if there:
        raise Refusal(409, f'the id "{min(there)[:80]}" is in the gallery already: remove it first', field="rows")


def _check_there(ids: Sequence[str], searcher: Searcher) -> None:
    """Raise Refusal 404 for an id that is not there."""
    for name in searcher.gallery.unknown(ids):
        raise unknown_id(name, "ids")


@contextmanager
def _written() -> Iterator[None]:
    """Refuse what a gallery does not take of a request, or not now; any other failure is this server's."""
    try:
        yield
    except DataError as error:
        fault = error if isinstance(error, InputError) else error.__cause__
        if isinstance(fault, InputError):
            raise Refusal(422, f"the metadata cannot be kept: {fault}", field="rows") from error
        raise
    except ConfigError as error:
        message = "another process is writing to this gallery; try again when it has finished"
        raise Refusal(503, message, headers={"Retry-After": "5"}) from error


async def _content(service: Service, row: NewRow, field: str) -> bytes | None:
    """Return the bytes of a new row's picture, None where it has none."""
    return None if row.image is None else await service.pictures.read(row.image, f"{field}.image")


def _document(row: NewRow, content: bytes | None, field: str) -> Document:
    """Return a row to embed. Raises Refusal for one that holds nothing."""
    try:
        return Document(content, row.text)
    except DataError as error:
        raise Refusal(422, str(error), field=field) from error
