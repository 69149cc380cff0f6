"""Voyage's multimodal embeddings: `/v1/multimodalembeddings`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field, WithJsonSchema

from ..service import Service
from .bodies import Body, read_body, request_schema
from .documented import EMBEDDINGS, OPENAI_ERROR, responses
from .embed import Wish, check_model, embed
from .lists import drafts_with_content
from .openai import listed
from .roles import Asked
from .schemas import INSTRUCTION_WORDS, ITEM_WITH_CONTENT, many
from .vectors import NumberType, packed, written

router = APIRouter(tags=["Voyage"])
_EXAMPLES = {"words": {"inputs": [{"content": [{"type": "text", "text": "a red dress"}]}], "input_type": "query"}}


class MultimodalBody(Body):
    """What `/v1/multimodalembeddings` takes."""

    inputs: Annotated[Any, WithJsonSchema(many(ITEM_WITH_CONTENT))]
    model: str | None = Field(None, description="Its name, as /v1/models has it; may be left out.")
    input_type: Literal["query", "document"] | None = None
    instruction: str | None = Field(None, description=INSTRUCTION_WORDS)
    truncation: bool | None = Field(
        None,
        description="Cut the words of an input that is too long, instead of refusing it: true where left out.",
    )
    output_dimension: int | None = None
    output_dtype: NumberType | None = Field(None, description="float where it is left out.")
    encoding_format: Literal["base64"] | None = Field(None, description="Numbers packed as base64, not as a list.")
    output_encoding: Literal["base64"] | None = Field(None, description="An older name of encoding_format.")


@router.post(
    "/v1/multimodalembeddings",
    summary="Embed lists of parts, as Voyage has them",
    responses=responses(EMBEDDINGS, "A vector for each input, in order.", OPENAI_ERROR),
    openapi_extra=request_schema(MultimodalBody, _EXAMPLES),
)
async def multimodal_embeddings(request: Request) -> Response:
    """Return the vectors of `inputs`. Raises Refusal."""
    service: Service = request.app.state.service
    body = read_body(request, MultimodalBody)
    check_model(body.model, service)
    wish = Wish(
        drafts_with_content(body.inputs, "inputs", service.limits),
        Asked(body.input_type, body.instruction),
        body.output_dimension,
        "output_dimension",
        truncate=body.truncation is not False,
    )
    vectors = await embed(request, wish)
    tokens = sum(vectors.tokens)
    # a picture's tokens are counted as the text's: Voyage's client reads all four
    usage = {"text_tokens": tokens, "image_pixels": 0, "video_pixels": 0, "total_tokens": tokens}
    write = packed if body.encoding_format or body.output_encoding else written
    return listed(write(vectors.rows, body.output_dtype or "float"), service, usage)
