"""What is asked of a gallery over HTTP, as the OpenAPI document shows it."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from ...data.filters import Filter, parse_filter
from ...errors import DataError
from ..guards.json_text import read_json
from ..refusals import Refusal

Id = Annotated[str, Field(min_length=1, max_length=4096)]
Words = Annotated[str, Field(min_length=1)]
_Model = TypeVar("_Model", bound=BaseModel)
_FORM = "multipart/form-data"
_FIELDS = ("request", "image")


class _Asked(BaseModel):
    """The fields of a request. Null leaves one out: clients send it for those that their users do not give."""

    @model_validator(mode="before")
    @classmethod
    def _given(cls, value: Any) -> Any:
        return {name: one for name, one in value.items() if one is not None} if isinstance(value, dict) else value


class SearchRequest(_Asked):
    """A picture, what to change in it, or both; and what may answer."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"instruction": "put everything on snow", "k": 5}]},
    )

    image: str | None = Field(None, description="the reference: a data URI, or an address of an allowed host")
    id: Id | None = Field(None, description="the reference: a picture of the gallery, in the place of `image`")
    instruction: Words | None = Field(None, description="what to change in the reference, or words alone to look for")
    avoid: Words | None = Field(None, description="what must not be seen")
    task: Words | None = Field(None, description="what the model is to do, where it was trained on tasks")
    k: int = Field(24, ge=1, description="answers")
    filter: dict[str, Any] | None = Field(
        None,
        description="which rows may answer, by their metadata",
        examples=[{"price": {"<": 40}, "color": ["red", "blue"]}],
    )
    allow: list[Id] | None = Field(None, min_length=1, description="the only ids that may answer")
    exclude: list[Id] = Field([], description="ids that may not")
    exclude_reference: bool = Field(False, description="leave out what is the reference itself, byte for byte")
    edit_strength: float = Field(
        1.0, ge=-10, le=10, description="1: as asked; less keeps more of the picture, more changes more"
    )
    min_score: float | None = Field(None, description="leave out answers whose cosine is less")
    rerank: int = Field(0, ge=0, le=100, description="let the model itself put the first so many in order")
    rerank_weight: float = Field(
        0, allow_inf_nan=False, description="how many times the cosine counts beside the re-ranker's score"
    )
    explain: bool = Field(False, description="say in words what the model reads in the query and in each answer")

    def where(self) -> Filter | None:
        """Return the filter. Raises Refusal for one that says nothing."""
        return None if self.filter is None else _filter(self.filter)


class NewRow(_Asked):
    """A row to add: a picture, a text, or both."""

    model_config = ConfigDict(extra="forbid")

    id: Id
    image: str | None = Field(None, description="a data URI, or an address of an allowed host")
    text: Words | None = None
    metadata: dict[str, Any] = {}


class NewRows(BaseModel):
    """Rows to add, all of them or none."""

    model_config = ConfigDict(extra="forbid")

    rows: list[NewRow] = Field(min_length=1)


class RowIds(BaseModel):
    """Rows to remove, all of them or none."""

    model_config = ConfigDict(extra="forbid")

    ids: list[Id] = Field(min_length=1)


async def search_request(request: Request) -> tuple[SearchRequest, bytes | None]:
    """Return what is asked, and the picture that was uploaded with it, if one was.

    A body is JSON, which its guard has read, or a form with JSON as `request` and a file as `image`. Raises Refusal for
    another body, RequestValidationError for JSON that is no such request.
    """
    if not request.headers.get("content-type", "").lower().startswith(_FORM):
        if not hasattr(request.state, "json"):
            raise Refusal(400, "the request has no body; send JSON, or a form with a file as image and JSON as request")
        return parsed(SearchRequest, request.state.json), None
    try:
        async with request.form(max_files=1, max_fields=1, max_part_size=1 << 20) as form:
            for name in form:
                if name not in _FIELDS:
                    raise Refusal(422, f"'{name[:60]}' is no part of the form: it has {' and '.join(_FIELDS)}")
            given, file = form.get("request", "{}"), form.get("image")
            content = await file.read() if isinstance(file, UploadFile) else None
    except (HTTPException, FormParserError) as error:  # starlette's, and that of what it reads forms with
        raise Refusal(422, "the form cannot be read: send one file as image and JSON as request") from error
    if not isinstance(given, str) or (file is not None and content is None):
        raise Refusal(422, "a form has a file as image and JSON as request, not the other way round")
    asked = parsed(SearchRequest, read_json(given.encode()))
    if content is not None and (asked.image, asked.id) != (None, None):
        raise Refusal(422, "the reference is given twice: send a file, an image or an id", field="image")
    return asked, content


def parsed(model: type[_Model], value: Any) -> _Model:
    """Return a value of JSON as a model. Raises RequestValidationError where it is none."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**fault, "loc": ("body", *fault["loc"])} for fault in faults]) from error


def filter_of(text: str | None) -> Filter | None:
    """Return the filter of a query string. Raises Refusal for one that is none."""
    return None if text is None else _filter(text)


def _filter(value: Any) -> Filter:
    try:
        return parse_filter(value)
    except DataError as error:
        raise Refusal(422, str(error), field="filter") from error
