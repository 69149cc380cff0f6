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
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


PICTURE: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "description": "A data URI, or an http address of a host that the server may fetch from.",
}
_URL = any_of(PICTURE, _object("url", url=PICTURE, detail=any_of({"const": "auto"}, NULL)))
_PARTS = (
    _object("type", "text", type={"const": "text"}, text=WORDS),
    _object("type", "image_url", type={"const": "image_url"}, image_url=_URL),
    _object("type", "image_base64", type={"const": "image_base64"}, image_base64=PICTURE),
)
PARTS = many(any_of(*_PARTS))
CONTENT = _object("content", content=PARTS)
CONVERSATION: dict[str, Any] = {
    "type": "array",
    "description": "A message of the user, after a system message that is the task or none.",
    "items": _object("role", "content", role={"const": "user"}, content=any_of(WORDS, PARTS)),
    "minItems": 1,
    "maxItems": 1,
}
ITEM: dict[str, Any] = {
    **_object(
        text=WORDS,
        image=any_of(PICTURE, many(PICTURE)),
        instruction=WORDS,
        task=WORDS,
    ),
    "minProperties": 1,
}
INPUT = any_of(WORDS, ITEM, many(any_of(WORDS, ITEM, CONTENT)), CONVERSATION, many(CONVERSATION))
