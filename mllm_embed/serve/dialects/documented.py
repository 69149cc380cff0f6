"""What the OpenAPI document says of answers and refusals, in the forms of each dialect."""

from __future__ import annotations

from typing import Any

_REFUSALS = {
    400: "The body is no JSON, or vectors do not have that length.",
    401: "The key is missing or wrong.",
    403: "The request comes from where none may come from.",
    404: "There is no such model here.",
    408: "The request took longer than it may.",
    413: "The body is larger than it may be.",
    415: "The body is not of the type application/json.",
    422: "A field is not known or not as it must be, or an input cannot be embedded; the message names it.",
    500: "Something failed here; the server's log says what.",
    503: "Too much is waiting, or the server is starting or stopping; try again after Retry-After seconds.",
}
_TEXT, _NONE = {"type": "string"}, {"type": "null"}
OPENAI_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"anyOf": [_TEXT, _NONE]},
                "code": {"anyOf": [_TEXT, {"type": "integer"}, _NONE]},
            },
        }
    },
}
COHERE_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["message"],
    "properties": {"id": _TEXT, "message": _TEXT},
}


def responses(answer: dict[str, Any], said: str, error: dict[str, Any], *statuses: int) -> dict[int | str, Any]:
    """Return what a route may answer: 200 with an answer of a schema, and its refusals, by default all there are."""
    documented: dict[int | str, Any] = {200: _json(said, answer)}
    documented.update({status: _json(_REFUSALS[status], error) for status in statuses or _REFUSALS})
    return documented


def _json(said: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": said, "content": {"application/json": {"schema": schema}}}


def list_of(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a list."""
    return {"type": "array", "items": schema}


NUMBERS = list_of({"type": "number"})
EMBEDDINGS: dict[str, Any] = {
    "type": "object",
    "required": ["object", "data", "model", "usage"],
    "properties": {
        "object": {"const": "list"},
        "data": list_of(
            {
                "type": "object",
                "required": ["object", "index", "embedding"],
                "properties": {
                    "object": {"const": "embedding"},
                    "index": {"type": "integer"},
                    "embedding": {"anyOf": [NUMBERS, _TEXT]},
                },
            }
        ),
        "model": _TEXT,
        "usage": {
            "type": "object",
            "required": ["total_tokens"],
            "properties": {
                name: {"type": "integer"}
                for name in ("prompt_tokens", "total_tokens", "text_tokens", "image_pixels", "video_pixels")
            },
        },
    },
}
MODEL: dict[str, Any] = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by", "dimension", "dimensions", "max_tokens"],
    "properties": {
        "id": _TEXT,
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": _TEXT,
        "dimension": {"type": "integer"},
        "dimensions": list_of({"type": "integer"}),
        "max_tokens": {"anyOf": [{"type": "integer"}, _NONE]},
    },
}
MODELS: dict[str, Any] = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": list_of(MODEL)},
}
RANKED: dict[str, Any] = {
    "type": "object",
    "required": ["id", "model", "results"],
    "properties": {
        "id": _TEXT,
        "model": _TEXT,
        "results": list_of(
            {
                "type": "object",
                "required": ["index", "relevance_score"],
                "properties": {
                    "index": {"type": "integer"},
                    "relevance_score": {"type": "number", "minimum": 0, "maximum": 1},
                    "document": {"type": "object"},
                },
            }
        ),
    },
}
BY_TYPE: dict[str, Any] = {
    "type": "object",
    "required": ["id", "embeddings", "texts", "meta", "response_type"],
    "properties": {
        "id": _TEXT,
        "embeddings": {
            "type": "object",
            "properties": {
                **{name: list_of(NUMBERS) for name in ("float", "int8", "uint8", "binary", "ubinary")},
                "base64": list_of(_TEXT),
            },
        },
        "texts": list_of(_TEXT),
        "meta": {"type": "object"},
        "response_type": {"const": "embeddings_by_type"},
    },
}
