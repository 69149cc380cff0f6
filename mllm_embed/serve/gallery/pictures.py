"""`/v1/gallery/pictures/ID`: the picture of a row, whole or no wider than is asked."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from ...errors import ImageError
from ...search.searcher import Searcher
from ..refusals import Refusal
from ..service import Service
from .search import gallery_of, row_picture
from .thumbnails import Shown, Thumbnails

router = APIRouter()


@router.get(
    "/v1/gallery/pictures/{id:path}",
    responses={200: {"content": {"image/jpeg": {}}}, 304: {"description": "as it was"}},
    response_class=Response,
)
async def picture(
    request: Request, id: str, width: Annotated[int | None, Query(ge=16, le=4096, description="in pixels")] = None
) -> Response:
    """Return the picture of a row, upright."""
    service: Service = request.app.state.service
    searcher = gallery_of(service)
    shown = await asyncio.to_thread(_shown, searcher, service.thumbnails, id, width)
    # the row may be another picture's the next time
    headers = {"ETag": shown.tag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == shown.tag:
        return Response(status_code=304, headers=headers)
    return Response(shown.content, media_type="image/jpeg", headers=headers)


def _shown(searcher: Searcher, thumbnails: Thumbnails, name: str, width: int | None) -> Shown:
    """Return the picture of a row as it is sent. Raises Refusal where there is none."""
    image = row_picture(searcher, name)
    if image is None:
        raise Refusal(404, f'"{name[:80]}" has no picture here', field="id")
    try:
        return thumbnails.shown(image, width)
    except ImageError as error:
        raise Refusal(404, f'the picture of "{name[:80]}" cannot be read any more', field="id") from error
