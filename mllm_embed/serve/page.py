"""The page to search with: static files, and the headers that keep it to itself.

What a client sends names no file: the few that there are were read when this module was imported.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

from .refusals import Refusal

FOLDER = Path(__file__).with_name("page")
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    # the page asks nobody but this server, runs no script but its own files, and is framed by none
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # a browser keeps the files, and asks each time whether they are still the same: names do not change with versions
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class _File:
    """A file of the page: its bytes, what they are, and the tag that changes with them."""

    content: bytes
    kind: str
    tag: str


def _read(path: Path) -> _File:
    content = path.read_bytes()
    return _File(content, TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


_FILES = {path.name: _read(path) for path in sorted(FOLDER.iterdir()) if path.suffix in TYPES}


@router.api_route("/", methods=["GET", "HEAD"])
def index(request: Request) -> Response:
    """Return the page."""
    return _answer(request, "index.html")


@router.api_route("/page/{name}", methods=["GET", "HEAD"])
def file(request: Request, name: str) -> Response:
    """Return a file of the page. Raises Refusal 404 where there is none of the name."""
    return _answer(request, name)


def _answer(request: Request, name: str) -> Response:
    """Return a file, or only word that the browser's copy is still the same (304)."""
    found = _FILES.get(name)
    if found is None:
        raise Refusal(404, "the page has no such file")
    headers = {**HEADERS, "ETag": found.tag}
    if found.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(found.content, media_type=found.kind, headers=headers)
