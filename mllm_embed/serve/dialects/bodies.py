"""Bodies of requests, by models that know their fields and refuse all others."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from ...errors import did_you_mean
from ..refusals import Refusal, field_of

_SHOWN = 60  # characters of a field that is not known


class Body(BaseModel):
    """The body of a request. A field that it does not name is refused: ignored, it would change an answer unnoticed."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _truth(value: Any) -> Any:
    """Refuse 0 and 1, which Python takes for false and true."""
    if not isinstance(value, bool):
        raise PydanticCustomError("bool_type", "should be true or false")
    return value


Always = Annotated[Literal[True], BeforeValidator(_truth)]
Never = Annotated[Literal[False], BeforeValidator(_truth)]
"""What other servers can be told, and is so here anyway."""
B = TypeVar("B", bound=Body)


def read_body(request: Request, kind: type[B]) -> B:
    """Return what a request says, whose JSON the body's guard has read.

    A picture of some megabytes is neither copied nor searched here. Raises Refusal: 400 where there is no body, 415
    where it is a form, 422 for a field that is not known or not as it must be.
    """
    if not hasattr(request.state, "json"):
        if request.headers.get("content-type", "").lower().startswith("multipart/"):
            raise Refusal(415, "this address takes no form; send application/json")
        raise Refusal(400, "the request has no body; send JSON, with Content-Type: application/json")
    try:
        return kind.model_validate(_given(request.state.json, kind))
    except ValidationError as error:
        raise _refused(error) from None  # its text may hold the whole picture


def _given(value: Any, kind: type[Body]) -> dict[str, Any]:
    """Return the fields of a body that are not null: clients send null for those that their users leave out, fields
    of other servers among them.

    Raises Refusal 422 for one that is not known: at the first of them, since a body may have millions.
    """
    if not isinstance(value, dict):
        raise Refusal(422, "the body is no JSON object; send the fields in braces")
    given = {}
    for name, one in value.items():
        if one is None:
            continue
        if name not in kind.model_fields:
            field = name[:_SHOWN]
            hint = did_you_mean(field, kind.model_fields) or f"; the fields are {', '.join(kind.model_fields)}"
            raise Refusal(422, f"'{field}' is no field of this request, and is not ignored{hint}", field=field)
        given[name] = one
    return given


def request_schema(kind: type[Body], examples: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what an OpenAPI operation says of its request's body, with examples by their summaries."""
    shown = {name.replace(" ", "-"): {"summary": name, "value": value} for name, value in examples.items()}
    content = {"schema": kind.model_json_schema(), "examples": shown}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def _refused(error: ValidationError) -> Refusal:
    """Return the refusal of the first mistake in a body."""
    first = error.errors(include_url=False, include_input=False)[0]
    field = field_of(first["loc"])
    if first["type"] == "missing":
        return Refusal(422, f"{field} is missing; it must be given", field=field)
    if first["type"] == "literal_error":
        values = first["ctx"]["expected"].replace("True", "true").replace("False", "false")  # as JSON has them
        return Refusal(422, f"{field} can only be {values}", field=field)
    said = first["msg"].removeprefix("Input ")
    return Refusal(422, f"{field} {said[0].lower()}{said[1:]}", field=field)
