"""Routes for those who watch a service: whether it lives, whether it is ready, what it counts."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from .metrics import CONTENT_TYPE

router = APIRouter(tags=["operations"])


@router.head("/health", include_in_schema=False)
@router.get("/health", summary="Whether the process lives")
async def health() -> dict[str, str]:
    """Return 200 as long as the process answers at all."""
    return {"status": "alive"}


@router.head("/ready", include_in_schema=False)
@router.get(
    "/ready",
    summary="Whether requests are answered",
    response_model=dict[str, str],
    responses={503: {"description": "Not yet: what is being loaded", "model": dict[str, str]}},
)
async def ready(request: Request) -> Response:
    """Return 200 after model and gallery are loaded, and 503 with what is being done until then."""
    progress = request.app.state.progress
    doing = progress.doing or (None if progress.others() else "loading in other workers")
    if doing is None:
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": doing}, 503, {"retry-after": "2"})


@router.get(
    "/metrics",
    summary="Counts for Prometheus",
    response_class=Response,
    responses={200: {"description": "Prometheus' text format", "content": {"text/plain": {}}}},
)
def metrics(request: Request) -> Response:
    """Return requests, latencies, queue, batch sizes and tokens, of all workers together."""
    return Response(request.app.state.metrics.text(), media_type=CONTENT_TYPE)
