"""The application: routes of all dialects, behind the guards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware

from .. import __version__
from . import page
from .access import Access, AccessGuard
from .body_guard import BodyGuard
from .dialects import cohere, openai, rerank, voyage
from .dialects.documented import OPENAI_ERROR
from .gallery import pictures, rows, search
from .limits import Limits
from .operations import health
from .operations.logs import RequestLog
from .operations.metrics import Metrics
from .operations.progress import Gate, Progress
from .refusals import install
from .service import Service

_ROUTERS = (openai, cohere, voyage, rerank, search, rows, pictures, health, page)
# what the guards and routes may refuse with; the dialects say it in their own words
_REFUSED: dict[int | str, dict[str, Any]] = {
    status: {
        "description": HTTPStatus(status).phrase,
        "content": {"application/json": {"schema": OPENAI_ERROR}},
    }
    for status in (400, 401, 403, 404, 408, 409, 413, 415, 422, 500, 503)
}
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
"""What is started before the first request is taken, and ended after the last answer."""


def create_app(service: Service) -> FastAPI:
    """Return the application that answers for a service, which it starts and closes."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await service.close()

    app = bare_app(service.access, service.limits, service.metrics, Progress(None), lifespan)
    app.state.service = service
    return app


def bare_app(access: Access, limits: Limits, metrics: Metrics, progress: Progress, lifespan: Lifespan) -> FastAPI:
    """Return the application of a service that may still be loaded: `app.state.service` is given to it later.

    Until `progress` is done it answers 503 where a model is needed.
    """
    app = FastAPI(
        title="mllm_embed",
        version=__version__,
        description="Embeddings of pictures, words, and pictures with words about what to change; search by them.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        # newer versions of FastAPI can send traces elsewhere, bodies included, if the environment says so
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        responses=_REFUSED,
        # outermost first: what is refused is written down too
        middleware=[
            Middleware(RequestLog, metrics=metrics),
            Middleware(AccessGuard, access=access),
            Middleware(Gate, progress=progress),
            Middleware(BodyGuard, limits=limits),
        ],
    )
    install(app)
    app.state.metrics, app.state.progress = metrics, progress
    for module in _ROUTERS:
        app.include_router(module.router)
    return app
