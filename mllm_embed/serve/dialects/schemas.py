"""What the OpenAPI document says of inputs, which `content` reads."""

from __future__ import annotations

from typing import Any

WORDS: dict[str, Any] = {"type": "string", "pattern": r"\S"}
NULL: dict[str, Any] = {"type": "null"}
INSTRUCTION_WORDS = "What to change in the picture, of inputs that have no instruction of their own."
TASK_WORDS = (
    "What the model is to do, of inputs that have no task of their own, where its prompts have a place for it; or "
    "retrieval.query or retrieval.passage, Jina's names of query and document."
)


def any_of(*schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of what is one of several."""
    return {"anyOf": list(schemas)}


def or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of what may be left out by saying null."""
    return any_of(schema, NULL)


def many(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a list that is not empty."""
    return {"type": "array", "items": schema, "minItems": 1}


def one_of(*fields: str) -> dict[str, Any]:
    """Return what a schema says further of an object that has exactly one of some fields."""
    return {"oneOf": [{"required": [field], "properties": {field: {"not": NULL}}} for field in fields]}


def _object(*required: str, **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


_STRING: dict[str, Any] = {"type": "string"}
PICTURE: dict[str, Any] = {
    **_STRING,
    "minLength": 1,
    "description": "A data URI, base64, or a http address of a host that the server may fetch from.",
}
_SHOWN = any_of(PICTURE, _object("url", url=PICTURE, detail=or_null({"const": "auto"})))
_TEXT_PART = _object("type", "text", type={"const": "text"}, text=_STRING)
_PICTURE_PARTS = (
    _object("type", "image_url", type={"const": "image_url"}, image_url=_SHOWN, uuid={}),
    _object("type", "image_base64", type={"const": "image_base64"}, image_base64=_SHOWN),
)
_CONTENT = any_of(WORDS, many(any_of(_TEXT_PART, *_PICTURE_PARTS, _STRING)))
ITEM: dict[str, Any] = {
    **_object(
        text=or_null(WORDS),
        image=any_of(_SHOWN, many(_SHOWN), NULL),
        content=or_null(_CONTENT),
        instruction=or_null(WORDS),
        task=or_null(WORDS),
    ),
    "minProperties": 1,
    "description": "Text and image, or content; an instruction says what to change in the picture.",
}
DOCUMENT: dict[str, Any] = {
    **_object(text=or_null(WORDS), image=any_of(_SHOWN, many(_SHOWN), NULL), content=or_null(_CONTENT)),
    "minProperties": 1,
    "description": "Text and image, or content.",
}
ITEM_WITH_CONTENT: dict[str, Any] = {**ITEM, **one_of("content")}
_ONLY_WORDS = any_of(_STRING, {"type": "array", "items": any_of(_TEXT_PART, _STRING)}, NULL)
_TASK = _object("role", role={"enum": ["system", "developer"]}, content=_ONLY_WORDS)
_USER = _object("role", "content", role={"const": "user"}, content=_CONTENT)
_START = _object("role", role={"const": "assistant"}, content=_ONLY_WORDS)


def _exactly(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "prefixItems": list(messages), "minItems": len(messages), "maxItems": len(messages)}


CONVERSATION: dict[str, Any] = {
    **any_of(_exactly(_USER), _exactly(_TASK, _USER), _exactly(_USER, _START), _exactly(_TASK, _USER, _START)),
    "description": "A message of the user, after a system message that is the task or none; an empty message of the "
    "assistant may end it.",
}
INPUT = any_of(WORDS, ITEM, CONVERSATION, many(any_of(WORDS, ITEM, CONVERSATION)))
