"""What a service writes to stderr: one line a request and an event, as JSON or as words.

Never written down: bodies, keys, query strings, and the words of an error, which may quote any of them.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import traceback
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from starlette.datastructures import MutableHeaders

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from .metrics import Metrics

FORMS = ("json", "text")
_LOGGER = logging.getLogger("mllm_embed.serve")
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_NO_ROUTE = "(none)"
_FRAMES = 10  # of an error, the innermost


@dataclass
class Record:
    """What is told of one request: its id, and what it cost."""

    id: str
    began: float = field(default_factory=time.perf_counter)
    inputs: int = 0
    tokens: int = 0


_current: ContextVar[Record | None] = ContextVar("record", default=None)


def note(inputs: int, tokens: int) -> None:
    """Add what was computed for the request that is being answered, in its threads too; outside of any do nothing."""
    record = _current.get()
    if record is not None:
        record.inputs += inputs
        record.tokens += tokens


class RequestLog:
    """Middleware of ASGI that gives each request an id, counts it, and writes a line when it is answered."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Stand before an application."""
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = Record(_id(scope))
        scope.setdefault("state", {})["request_id"] = record.id  # `request.state.request_id` of whoever answers
        # until an answer begins it is the server's fault that there is none
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = record.id
            await send(message)

        token = _current.set(record)
        self.metrics.begun()
        try:
            await self.app(scope, receive, send_with_id)
        finally:
            _current.reset(token)
            self._tell(scope, record, status)

    def _tell(self, scope: Scope, record: Record, status: int) -> None:
        seconds = time.perf_counter() - record.began
        method = scope["method"] if scope["method"] in _METHODS else "other"
        path = getattr(scope.get("route"), "path", _NO_ROUTE)
        self.metrics.answered(method, path, status, seconds)
        told = {
            "id": record.id,
            "client": (scope.get("client") or ("",))[0],
            "method": method,
            "path": path,
            "status": status,
            "inputs": record.inputs,
            "tokens": record.tokens,
            "ms": round(seconds * 1000, 2),
        }
        _LOGGER.info("request", extra={"told": told})


def _id(scope: Scope) -> str:
    """Return the id that a request came with, where it is one that fits on a line, or else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            return given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
    return uuid.uuid4().hex


class _Lines(logging.Formatter):
    """The parts of a line, in order."""

    def parts(self, record: logging.LogRecord) -> dict[str, Any]:
        at = datetime.fromtimestamp(record.created, timezone.utc)
        told: dict[str, Any] = getattr(record, "told", {})
        parts = {"time": at.isoformat(timespec="milliseconds"), "level": record.levelname.lower()}
        if record.name != _LOGGER.name:
            parts["from"] = record.name
        parts["event"] = record.getMessage().strip()
        return {**parts, **told, **({"error": _where(record)} if record.exc_info else {})}


class JSONLines(_Lines):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return json.dumps(self.parts(record), default=str)


class TextLines(_Lines):
    """Words for people: time, event, and the rest as name=value; of a request first what was asked and answered."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        parts = self.parts(record)
        names = ("method", "path", "status") if "method" in parts else ("event",)
        head = " ".join(str(parts.pop(name)) for name in ("time", "level", *names))
        if "method" in names:
            del parts["event"]  # "request"
        rest = " ".join(f"{name}={value}" for name, value in parts.items())
        return " ".join(f"{head} {rest}".split())  # one record, one line


def _where(record: logging.LogRecord) -> str:
    """Return the kind of a record's error and the lines of code that it went through, without what it says."""
    kind, _, trace = record.exc_info or (None, None, None)
    if kind is None:
        return ""
    frames = traceback.extract_tb(trace)[-_FRAMES:]
    lines = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return " < ".join([kind.__name__, *reversed(lines)])


def configure(form: str) -> None:
    """Let everything that is logged in this process, by the server and by libraries, go to stderr in one form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONLines() if form == "json" else TextLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    _LOGGER.setLevel(logging.INFO)  # uvicorn's own lines say no more than ours
    logging.captureWarnings(True)


def say(event: str, **told: Any) -> None:
    """Write down something that happened to the service."""
    _LOGGER.info(event, extra={"told": told})
