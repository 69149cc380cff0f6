"""Cohere's embeddings, version 2: `/v2/embed`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field, WithJsonSchema

from ..limits import Limits
from ..refusals import Refusal, request_id
from ..service import Service
from .bodies import Body, read_body, request_schema
from .content import Draft
from .documented import BY_TYPE, COHERE_ERROR, responses
from .embed import Vectors, Wish, answer, check_model, embed
from .lists import drafts_of_pictures, drafts_of_texts, drafts_with_content
from .roles import Asked, InputType
from .schemas import INSTRUCTION_WORDS, ITEM_WITH_CONTENT, PICTURE, TASK_WORDS, WORDS, many, one_of, or_null
from .vectors import VectorType, written

router = APIRouter(tags=["Cohere"])
_EXAMPLES = {
    "texts": {"texts": ["a red dress", "a blue dress"], "input_type": "search_document"},
    "vectors of two types": {
        "texts": ["a red dress"],
        "input_type": "search_query",
        "embedding_types": ["float", "int8"],
    },
}
# END is what Cohere does where nothing is said
_TRUNCATE = {"END": True, "NONE": False}
_READERS: dict[str, Callable[[Any, str, Limits], list[Draft]]] = {
    "texts": drafts_of_texts,
    "images": drafts_of_pictures,
    "inputs": drafts_with_content,
}


class EmbedBody(Body):
    """What `/v2/embed` takes: one of `texts`, `images` and `inputs`."""

    model_config = ConfigDict(json_schema_extra=one_of(*_READERS))

    input_type: InputType = Field(
        description="The side of a search: search_query (query), or search_document (document, image, classification, "
        "clustering). A query's text beside a picture says what to change in it; a document's belongs to it.",
    )
    model: str | None = Field(None, description="Its name, as /v1/models has it; may be left out.")
    texts: Annotated[Any, WithJsonSchema(or_null(many(WORDS)))] = None
    images: Annotated[Any, WithJsonSchema(or_null(many(PICTURE)))] = None
    inputs: Annotated[Any, WithJsonSchema(or_null(many(ITEM_WITH_CONTENT)))] = None
    instruction: str | None = Field(None, description=INSTRUCTION_WORDS)
    task: str | None = Field(None, description=TASK_WORDS)
    embedding_types: list[VectorType] | None = Field(
        None,
        min_length=1,
        max_length=6,
        fail_fast=True,  # or else each item that is wrong is listed, of millions
        description="float where it is left out. uint8 is int8 + 128; ubinary has the sign of eight dimensions in a "
        "byte, binary the same less 128; base64 is of little-endian float32.",
    )
    output_dimension: int | None = Field(None, description="As OpenAI's dimensions.")
    truncate: Literal["END", "NONE"] | None = Field(
        None, description="END cuts the words of an input that is too long, NONE refuses it; END where it is left out."
    )
    max_tokens: int | None = Field(None, ge=1, description="An input of more tokens is refused.")
    priority: int | None = Field(None, description="Taken, and not used.")


@router.post(
    "/v2/embed",
    summary="Embed texts, pictures, or lists of parts, as Cohere has it",
    responses=responses(BY_TYPE, "Vectors of each type, in the order of the inputs.", COHERE_ERROR),
    openapi_extra=request_schema(EmbedBody, _EXAMPLES),
)
async def embed_v2(request: Request) -> Response:
    """Return the vectors of `texts`, `images` or `inputs`. Raises Refusal."""
    service: Service = request.app.state.service
    body = read_body(request, EmbedBody)
    check_model(body.model, service)
    wish = Wish(
        _drafts(body, service.limits),
        Asked.of(body.input_type, body.instruction, body.task),
        body.output_dimension,
        "output_dimension",
        _TRUNCATE[body.truncate or "END"],
        body.max_tokens,
    )
    return _by_type(await embed(request, wish), wish, body, request)


@router.post("/v1/embed", include_in_schema=False)
async def embed_v1() -> Response:
    """Raise Refusal 404: the first version of the API is not spoken."""
    raise Refusal(404, "this server speaks version 2 of Cohere's API, POST /v2/embed: use cohere.ClientV2")


def _drafts(body: EmbedBody, limits: Limits) -> list[Draft]:
    """Return the inputs. Raises Refusal 422 unless one of the three fields that hold them is given, and not empty."""
    given = [name for name in _READERS if getattr(body, name) is not None]
    if len(given) != 1:
        said = f"not {' and '.join(given)}" if given else "and none is here"
        raise Refusal(422, f"give exactly one of {', '.join(_READERS)}, {said}", field=given[0] if given else "texts")
    [name] = given
    return _READERS[name](getattr(body, name), name, limits)


def _by_type(vectors: Vectors, wish: Wish, body: EmbedBody, request: Request) -> Response:
    """Return vectors in Cohere's form of an answer."""
    kinds: list[VectorType] = body.embedding_types or ["float"]
    billed = {"input_tokens": sum(vectors.tokens), "images": sum(len(draft.pictures) for draft in wish.drafts)}
    return answer(
        {
            "id": request_id(request.scope),
            "embeddings": {kind: written(vectors.rows, kind) for kind in kinds},
            "texts": body.texts or [],
            "meta": {"api_version": {"version": "2"}, "billed_units": billed},
            "response_type": "embeddings_by_type",
        }
    )
