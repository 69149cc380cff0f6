"""How a request is refused: a status, and one sentence for whoever sent it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from ..errors import UnreachableError
from ..text import printable

_log = logging.getLogger(__name__)
# a kind of error by OpenAI's names, which its clients make exceptions of by the status alone
_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 408: "timeout_error"}
_SENTENCES = {
    404: "nothing is served at this address; /openapi.json lists what is",
    405: "this address is not served with this method; /openapi.json lists what is",
}
_PLACES = ("body", "query", "path", "header", "cookie")  # how FastAPI begins the location of a fault
_LONGEST = 300  # characters of pydantic's words
# what is read of a refused body: bytes, seconds, and seconds without any
_MOST_LEFT, _LONGEST_LEFT, _IDLE = 64 << 20, 10.0, 1.0


class Refusal(Exception):
    """A request that is not carried out.

    Its message goes to the client: it names the field and the cure, and never a path of the server, a key, or what a
    decoder said.
    """

    def __init__(
        self, status: int, message: str, *, field: str | None = None, headers: Mapping[str, str] | None = None
    ):
        """Refuse.

        Args:
            status: of HTTP, 400 to 599.
            message: one sentence.
            field: of the request that is at fault, "input[3].image" say.
            headers: to answer with, Retry-After say.
        """
        super().__init__(message)
        self.status, self.message, self.field, self.headers = status, message, field, dict(headers or {})


def install(app: FastAPI) -> None:
    """Have an application answer what goes wrong in the words of the dialect that was spoken to it.

    That is OpenAI's `{"error": {"message", "type", "param", "code"}}`, and Cohere's `{"id", "message"}` under /v2/.
    What nobody expected is logged under the id that its client is told, which is all that it is told.
    """
    app.add_exception_handler(Refusal, _answer_refusal)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(UnreachableError, _answer_unreachable)
    app.add_exception_handler(RecursionError, _answer_too_deep)
    app.add_exception_handler(Exception, _answer_unexpected)


def answer(scope: Scope, refusal: Refusal) -> JSONResponse:
    """Return what the client of a request gets to read: a refusal in the envelope of the path's dialect."""
    envelope = _cohere if scope["path"].startswith("/v2/") else _openai
    return JSONResponse(envelope(refusal, request_id(scope)), refusal.status, refusal.headers)


async def refuse(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    """Answer a request whose body is not read yet, and read what is left of it for a while.

    A connection that is closed on what a client still sends takes the answer away from it.
    """
    response = answer(scope, refusal)
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    left = _MOST_LEFT
    with anyio.move_on_after(_LONGEST_LEFT):
        while left > 0:
            message: Message = {}
            with anyio.move_on_after(_IDLE):
                message = await receive()
            left -= len(message.get("body", b""))
            if not message.get("more_body", False):
                break
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def request_id(scope: Scope) -> str:
    """Return the id of a request, which its line in the log has too; a new one where it was given none."""
    state = scope.setdefault("state", {})
    return str(state.setdefault("request_id", uuid.uuid4().hex))


def _openai(refusal: Refusal, told: str) -> dict[str, Any]:
    kind = _KINDS.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "server_error")
    code = "invalid_api_key" if refusal.status == 401 else None
    return {"error": {"message": printable(refusal.message), "type": kind, "param": refusal.field, "code": code}}


def _cohere(refusal: Refusal, told: str) -> dict[str, Any]:
    return {"id": told, "message": printable(refusal.message)}


async def _answer_refusal(request: Request, error: Exception) -> JSONResponse:
    return answer(request.scope, error if isinstance(error, Refusal) else Refusal(500, "the request failed"))


async def _answer_invalid(request: Request, error: Exception) -> JSONResponse:
    faults: Sequence[Mapping[str, Any]] = error.errors() if isinstance(error, RequestValidationError) else ()
    fault: Mapping[str, Any] = faults[0] if faults else {"loc": (), "msg": "is not as documented"}
    if fault.get("type") == "json_invalid":
        said = str(fault.get("ctx", {}).get("error", ""))[:_LONGEST]
        return answer(request.scope, Refusal(400, f"the body is not JSON: {said}"))
    location = fault["loc"]
    field = field_of(location[1:] if location and location[0] in _PLACES else location)
    # pydantic's own words say what is wanted; the value that was sent stays out, it may be a whole picture
    said = f"{field or 'the body'}: {str(fault['msg'])[:_LONGEST]}"
    return answer(request.scope, Refusal(422, said, field=field))


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error.__cause__, Refusal):  # FastAPI makes a 400 of its own of whatever reading a body raises
        return answer(request.scope, error.__cause__)
    status = error.status_code if isinstance(error, HTTPException) else 400
    headers = error.headers if isinstance(error, HTTPException) else None
    said = _SENTENCES.get(status, "the request cannot be read" if status < 500 else "the request failed")
    return answer(request.scope, Refusal(status, said, headers=headers))


async def _answer_too_deep(request: Request, error: Exception) -> JSONResponse:
    return answer(request.scope, Refusal(400, "the request is nested too deeply; send a flatter one"))


async def _answer_unreachable(request: Request, error: Exception) -> JSONResponse:
    told = request_id(request.scope)
    _log.error("request %s failed: %s", told, error)  # a sentence of ours, which names the server to its owner alone
    said = f"the server that keeps the gallery does not answer (see the log, under {told}); try again a little later"
    return answer(request.scope, Refusal(503, said, headers={"Retry-After": "5"}))


async def _answer_unexpected(request: Request, error: Exception) -> JSONResponse:
    told = request_id(request.scope)
    _log.error("request %s failed: %s", told, type(error).__name__)
    said = f"something went wrong here; whoever runs this server finds what in its log, under {told}"
    # uvicorn hangs up after an error: a client that is not told would send its next request there
    return answer(request.scope, Refusal(500, said, headers={"Connection": "close"}))


def field_of(location: Sequence[str | int]) -> str | None:
    """Return the name of a field from where pydantic says it is: "input[3].image"; None for the body as a whole."""
    said = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location).lstrip(".")
    return said[:_LONGEST] or None
