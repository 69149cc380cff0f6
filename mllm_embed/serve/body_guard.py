"""Bodies are taken in here, whole, before any route sees a byte: so long, in so much time, of these kinds.

A route then reads from memory, and a body that lies about its length, dribbles, or is packed costs no more than one
that is refused at once. What is JSON is read strictly here, and lies in `request.state.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.message import Message as Header
from typing import Any

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .guards.json_text import read_json
from .limits import Limits
from .refusals import Refusal, answer, refuse

_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS", "TRACE")
_JSON, _FORM = "application/json", "multipart/form-data"
_LONGEST = 256  # characters of a Content-Type
_CLOSE = {"Connection": "close"}  # what is still on its way is not read


class BodyGuard:
    """ASGI middleware that gives the application whole bodies, within limits."""

    def __init__(self, app: ASGIApp, limits: Limits):
        """Guard an application."""
        self._app, self._limits = app, limits
        self._held = 0  # bytes of all bodies that are in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it: 413, 415, 408, 400, and 503 while too much is held for others."""
        if scope["type"] != "http" or (scope["method"] in _WITHOUT_BODY and not _has_body(Headers(scope=scope))):
            await self._app(scope, receive, send)
            return
        parts: list[bytes] = []
        whole = False
        try:
            try:
                with anyio.fail_after(self._limits.seconds):
                    await self._take(scope, receive, parts)
            except TimeoutError:
                said = f"the body did not come within the limit of {self._limits.seconds:g} seconds; send less at once"
                raise Refusal(408, said, headers=_CLOSE) from None
            whole = True
            body = b"".join(parts)
            scope.setdefault("state", {}).update(_read(scope, body))
            await self._app(scope, _replayed(body, receive), send)
        except _Gone:
            return
        except Refusal as refusal:
            if whole:
                await answer(scope, refusal)(scope, receive, send)
            else:
                await refuse(scope, receive, send, refusal)
        finally:
            self._held -= sum(map(len, parts))

    async def _take(self, scope: Scope, receive: Receive, parts: list[bytes]) -> None:
        """Read a body into `parts`; what it has taken when it is stopped stays counted in `_held`."""
        headers = Headers(scope=scope)
        if _has_body(headers):
            _check_kind(headers)
        length = headers.get("content-length") or "0"
        if not (length.isascii() and length.isdigit()):
            raise Refusal(400, "the Content-Length is not a number of bytes; send it as it is", headers=_CLOSE)
        self._check_length(int(length[:20]))
        taken = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            part = message.get("body", b"")
            taken += len(part)
            self._check_length(taken)
            parts.append(part)
            self._held += len(part)
            if self._held > self._limits.bodies:
                said = "this server holds as many bytes of requests as it may; send it again a little later"
                raise Refusal(503, said, headers={"Retry-After": "1", **_CLOSE})
            if not message.get("more_body", False):
                return

    def _check_length(self, length: int) -> None:
        if length > self._limits.body:
            most = self._limits.body
            said = f"the body has more bytes than the limit of {most:,}; send fewer or smaller pictures at once"
            raise Refusal(413, said, headers=_CLOSE)


class _Gone(Exception):
    """The client hung up: nobody reads an answer."""


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _check_kind(headers: Headers) -> None:
    """Raise Refusal 415 for a body that is packed, or neither JSON nor a form."""
    packed = headers.get("content-encoding", "identity").strip().lower()
    if packed not in ("", "identity"):
        raise Refusal(415, "the body is compressed; send it as it is, without Content-Encoding", headers=_CLOSE)
    said = headers.get("content-type", "")
    kind, parameters = content_type(said) if len(said) <= _LONGEST else ("", {})
    if kind not in (_JSON, _FORM):
        raise Refusal(415, f"the Content-Type must be {_JSON} or {_FORM}; set it, and send that", headers=_CLOSE)
    if kind == _JSON and parameters.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise Refusal(415, f"{_JSON} is written in UTF-8; send that", headers=_CLOSE)


def content_type(value: str) -> tuple[str, Mapping[str, str]]:
    """Return the kind that a Content-Type names, in small letters, and its parameters."""
    if value in ("", _JSON):  # nearly every request's
        return value, {}
    header = Header()
    header["content-type"] = value
    (kind, _), *parameters = header.get_params([("", "")])
    return kind.strip().lower(), {name.lower(): str(said) for name, said in parameters}


def _read(scope: Scope, body: bytes) -> dict[str, Any]:
    kind, _ = content_type(Headers(scope=scope).get("content-type", ""))
    return {"json": read_json(body)} if body and kind == _JSON else {}


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a whole body first, and then whatever comes, a hanging up say."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return waiting.pop() if waiting else await receive()

    return next_message
