"""The way that all dialects take, from drafts of inputs to their vectors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from fastapi import Request, Response
from pydantic_core import to_json

from ..limits import Limits
from ..refusals import Refusal
from ..service import Service
from ..tickets import ticket_for
from .content import Draft
from .roles import Asked
from .vectors import check_dimensions, shortened


@dataclass(frozen=True)
class Vectors:
    """What was computed for a request: vectors [N, D] float32 in the order of its inputs, and the tokens of each."""

    rows: np.ndarray
    tokens: list[int]


@dataclass(frozen=True)
class Wish:
    """What a request wants of its inputs.

    Args:
        drafts: the inputs.
        asked: what it says of them all.
        dimensions: the length of a vector, None for the whole; `dimensions_field` is what the dialect calls it.
        truncate: cut the words of an input that is too long, or refuse it; None for the server's own way.
        most: tokens that an input may have; None for as many as fit.
    """

    drafts: Sequence[Draft]
    asked: Asked
    dimensions: int | None = None
    dimensions_field: str = "dimensions"
    truncate: bool | None = None
    most: int | None = None


async def embed(request: Request, wish: Wish) -> Vectors:
    """Return the vectors of a request's inputs.

    Raises Refusal: 400 for a length of vectors that the model does not have, 422 for an input that cannot be embedded,
    which names it, and what reading pictures, the ticket and the queue refuse.
    """
    service: Service = request.app.state.service
    check_dimensions(wish.dimensions, service, wish.dimensions_field)
    check_limits(wish.drafts, wish.asked, service.limits)
    async with ticket_for(request, service.limits):
        pictures = await read_pictures(wish.drafts, service)
        items = [wish.asked.item(draft, read) for draft, read in zip(wish.drafts, pictures, strict=True)]
        done = await service.embedded(items, [draft.field for draft in wish.drafts], wish.truncate)
    _check_tokens(done.tokens, wish)
    return Vectors(shortened(done.vectors, wish.dimensions, service.embedder), done.tokens)


def check_model(model: str | None, service: Service) -> None:
    """Raise Refusal 404 for the name of a model that is not served here."""
    if model is not None and model != service.model_name:
        told = f"the model '{model[:100]}' is not served here; it is '{service.model_name}'"
        raise Refusal(404, told, field="model")


def answer(content: object) -> Response:
    """Return a JSON answer; written by pydantic, which takes a tenth of the standard library's time for numbers."""
    return Response(to_json(content), media_type="application/json")


def check_limits(drafts: Sequence[Draft], asked: Asked, limits: Limits) -> None:
    """Raise Refusal 422 for more pictures or longer words than a request of such inputs may have."""
    pictures = sum(len(draft.pictures) for draft in drafts)
    if pictures > limits.inputs:
        field = drafts[0].field.split("[")[0]
        told = f"{field} holds {pictures:,} pictures, over the limit of {limits.inputs:,} a request; send several"
        raise Refusal(422, told, field=field)
    for draft in drafts:
        for name, words in draft.words.items():
            _check_words(words, f"{draft.field}: the {name}", draft.field, limits)
    for name in ("instruction", "task"):
        _check_words(getattr(asked, name) or "", name, name, limits)


def _check_words(words: str, what: str, field: str, limits: Limits) -> None:
    if len(words) > limits.words:
        told = f"{what} has {len(words):,} characters, over the limit of {limits.words:,}; shorten it"
        raise Refusal(422, told, field=field)


async def read_pictures(drafts: Sequence[Draft], service: Service) -> list[list[bytes]]:
    """Return the pictures of each input, fetched at the same time where they are elsewhere."""
    wanted = [picture for draft in drafts for picture in draft.pictures]
    if any(address[:5].lower() != "data:" for address, _ in wanted):
        read = await _together(wanted, service)
    else:
        read = [await service.pictures.read(address, field) for address, field in wanted]
    left = iter(read)
    return [list(islice(left, len(draft.pictures))) for draft in drafts]


async def _together(wanted: Sequence[tuple[str, str]], service: Service) -> list[bytes]:
    """Return pictures that are read at the same time; where one is refused, none of the others goes on."""
    tasks = [asyncio.ensure_future(service.pictures.read(address, field)) for address, field in wanted]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _check_tokens(tokens: Sequence[int], wish: Wish) -> None:
    """Raise Refusal 422 for an input of more tokens than the request allows: it was computed whole."""
    for draft, count in zip(wish.drafts, tokens, strict=True):
        if wish.most is not None and count > wish.most:
            told = (
                f"{draft.field} takes {count:,} tokens, over max_tokens={wish.most:,}; shorten it, or raise max_tokens"
            )
            raise Refusal(422, told, field=draft.field)
