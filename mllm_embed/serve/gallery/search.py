"""`POST /v1/search`: a picture, words or both in, rows of the gallery out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Request

from ...errors import DataError, ImageError, InputError, UnknownIdError
from ...inputs.images import load_image
from ...search.composition import Composition
from ...search.searcher import Hit, Searcher
from ...types import Document, ImageLike, Query
from ..refusals import Refusal
from ..service import Service
from ..tickets import ticket_for
from .requests import SearchRequest, search_request

if TYPE_CHECKING:
    from ...generate.explain import Reading

router = APIRouter()
_FORM = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "properties": {
                "request": {"type": "string", "contentMediaType": "application/json"},
                "image": {"type": "string", "format": "binary"},
            },
        }
    },
    "application/json": {"schema": {"$ref": "#/components/schemas/SearchRequest"}},
}


@router.post("/v1/search", openapi_extra={"requestBody": {"required": True, "content": _FORM}})
async def search(request: Request) -> dict[str, Any]:
    """Find the rows that fit a picture, words, or both."""
    service: Service = request.app.state.service
    searcher = gallery_of(service)
    asked, upload = await search_request(request)
    _check(asked, service)
    async with ticket_for(request, service.limits):
        query = await _query(service, searcher, asked, upload)
        hits = await _found(service, searcher, query, asked)
        if asked.rerank:
            hits = await service.speaker.rerank(query, hits, asked.rerank, asked.rerank_weight)
        kept = [hit for hit in hits[: asked.k] if asked.min_score is None or hit.score >= asked.min_score]
        words: list[Reading] = []
        if asked.explain:
            words = await _words(service, query, kept)
    entries = [_hit(rank, hit) for rank, hit in enumerate(kept, 1)]
    for entry, reading in zip(entries, words[1:], strict=False):
        entry["words"] = reading
    return {
        "object": "search",
        "model": service.model_name,
        "role": query.role,
        "hits": entries,
        "below": len(hits[: asked.k]) - len(kept),
        **({"words": words[0]} if words else {}),
    }


def gallery_of(service: Service) -> Searcher:
    """Return the gallery. Raises Refusal where the service has none."""
    if service.searcher is None:
        raise Refusal(404, "this service has no gallery: start it as `mllm-embed serve GALLERY --model ...`")
    return service.searcher


def picture_address(hit: str, image: ImageLike | None) -> str | None:
    """Return where the picture of an id is shown, None where there is none."""
    return None if image is None else f"/v1/gallery/pictures/{quote(hit, safe='')}"


def _check(asked: SearchRequest, service: Service) -> None:
    """Raise Refusal for what cannot be asked of this gallery."""
    if asked.k > service.limits.answers:
        raise Refusal(422, f"k is {asked.k}, over the limit of {service.limits.answers} answers", field="k")
    if asked.rerank_weight and not asked.rerank:
        told = "rerank_weight needs rerank: how many answers are to be put in order"
        raise Refusal(422, told, field="rerank_weight")
    check_ids(asked.exclude, "exclude", service)
    check_ids(asked.allow or (), "allow", service)


async def _query(service: Service, searcher: Searcher, asked: SearchRequest, upload: bytes | None) -> Query:
    """Return what is looked for. Raises Refusal where that is nothing, or a picture that cannot be had."""
    image = await _reference(service, searcher, asked, upload)
    for name in ("instruction", "avoid", "task"):
        words = getattr(asked, name)
        if words is not None and len(words) > service.limits.words:
            raise Refusal(422, f"{name} is over the limit of {service.limits.words:,} characters", field=name)
    if image is None and asked.instruction is None:
        raise Refusal(422, "there is nothing to look for: give image, id or instruction", field="instruction")
    if asked.edit_strength != 1 and None in (image, asked.instruction):
        message = "an edit strength needs a picture and an instruction: without both there is no edit"
        raise Refusal(422, message, field="edit_strength")
    try:
        return Query(image=image, instruction=asked.instruction, task=asked.task, avoid=asked.avoid)
    except DataError as error:
        raise Refusal(422, f"{error}", field="instruction") from error


async def _reference(
    service: Service, searcher: Searcher, asked: SearchRequest, upload: bytes | None
) -> ImageLike | None:
    """Return the picture that is started from, None for none. Raises Refusal for one that cannot be had."""
    if asked.image is not None and asked.id is not None:
        raise Refusal(422, "the reference is given twice: give image or id", field="id")
    if upload is not None:
        return await service.pictures.check(upload, "image")
    if asked.image is not None:
        return await service.pictures.read(asked.image, "image")
    if asked.id is not None:
        return await asyncio.to_thread(_reference_row, searcher, asked.id)
    return None


def _reference_row(searcher: Searcher, name: str) -> ImageLike:
    """Return the picture of a row. Raises Refusal for an id that is not there or has none."""
    picture = row_picture(searcher, name)
    if picture is None:
        raise Refusal(422, f'"{name[:80]}" has no picture here that could be a reference', field="id")
    return picture


def _check_reference(query: Query, name: str) -> None:
    """Raise Refusal where the picture of a row cannot be read: the client sent none, and can send no better one."""
    try:
        for image in query.images:
            load_image(image)
    except ImageError as error:
        raise Refusal(422, f'the picture of "{name[:80]}" cannot be read any more', field="id") from error


def row_picture(searcher: Searcher, name: str) -> ImageLike | None:
    """Return the picture of a row, None where it has none. Raises Refusal for an id that is not there."""
    try:
        return searcher.picture(name)
    except UnknownIdError as error:
        raise unknown_id(name, "id") from error


def unknown_id(name: str, field: str) -> Refusal:
    """Return the refusal of an id that the gallery has not got."""
    return Refusal(404, f'the id "{name[:80]}" is not in the gallery', field=field)


def row_gone() -> Refusal:
    """Return the refusal of a request during which others have removed rows that it is about."""
    message = "rows were removed while the request was answered; send it again"
    return Refusal(503, message, headers={"Retry-After": "1"})


def check_ids(ids: Sequence[str], field: str, service: Service) -> None:
    """Raise Refusal for more ids than a request may name."""
    if len(ids) > service.limits.ids:
        raise Refusal(
            422, f"{field} names more ids than the limit of {service.limits.ids:,}; ask for less", field=field
        )


async def _found(service: Service, searcher: Searcher, query: Query, asked: SearchRequest) -> list[Hit]:
    """Return the best rows, more than are wanted where the model is to put them in order."""
    vector = await _vector(service, query, asked)
    where = asked.where()
    own = query.images if asked.exclude_reference else ()
    exclude = {*asked.exclude, *([asked.id] if asked.exclude_reference and asked.id is not None else [])}

    def find() -> list[Hit]:
        names = [*exclude, *(asked.allow or ())]
        for name in searcher.gallery.unknown(names):
            raise unknown_id(name, "allow" if name in (asked.allow or ()) else "exclude")
        try:
            return searcher.find(
                vector, max(asked.k, asked.rerank), sorted(exclude), allow=asked.allow, other_than=own, where=where
            )
        except UnknownIdError as error:
            raise row_gone() from error
        except InputError as error:  # an unknown column, or words compared with numbers
            raise Refusal(422, str(error), field="filter") from error

    return await asyncio.to_thread(find)


async def _vector(service: Service, query: Query, asked: SearchRequest) -> np.ndarray:
    """Return what is searched with, [1, D] float32. Raises Refusal for what cannot be embedded, naming its field."""
    composition = Composition(query, asked.edit_strength)
    try:
        parts = await service.vectors(composition.items, _fields(asked, composition))
    except Refusal:
        if asked.id is not None:
            await asyncio.to_thread(_check_reference, query, asked.id)
        raise
    return composition.vector(parts)


def _fields(asked: SearchRequest, composition: Composition) -> list[str]:
    """Return of which fields of a request each item of its composition is made."""
    reference = ["id" if asked.id is not None else "image"] if composition.query.images else []
    words = [name for name in ("instruction", "task", "avoid") if getattr(asked, name) is not None]
    return [" and ".join(reference + words)] * len(composition.items)


async def _words(service: Service, query: Query, hits: Sequence[Hit]) -> list[Reading]:
    """Return what the model reads in the query, and in each answer: words of both first; none where none is shown."""
    shown = [at for at, hit in enumerate(hits) if hit.image is not None]
    documents = [Document(image=image) for at in shown if (image := hits[at].image) is not None]
    try:
        asked, *answers = await service.speaker.read([query, *documents])
    except ImageError as error:
        raise Refusal(422, "a picture of an answer cannot be read any more: ask for fewer, or leave it out") from error
    found: list[Reading] = [[] for _ in hits]
    said = dict(asked)
    for at, answer in zip(shown, answers, strict=True):
        found[at] = sorted(answer, key=lambda word: word[0] not in said)
    return [asked, *found]


def _hit(rank: int, hit: Hit) -> dict[str, Any]:
    return {
        "rank": rank,
        "id": hit.id,
        "score": hit.score,
        **({} if hit.judged is None else {"rerank_score": hit.judged}),
        "metadata": dict(hit.metadata),
        "picture": picture_address(hit.id, hit.image),
    }
