"""The application: routes of all dialects, behind the guards."""

from __future__ import annotations

from fastapi import FastAPI

from .service import Service


def create_app(service: Service) -> FastAPI:
    """Return the application that answers for a service."""
    app = FastAPI(title="mllm_embed", docs_url=None, redoc_url=None)
    app.state.service = service
    return app
