"""OpenAI's embeddings, with what vLLM, Jina and SGLang add for pictures: `/v1/embeddings` and `/v1/models`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field, WithJsonSchema

from ..limits import Limits
from ..refusals import Refusal
from ..service import Service
from .bodies import Always, Body, Never, read_body, request_schema
from .content import Draft, conversation
from .documented import EMBEDDINGS, MODEL, MODELS, OPENAI_ERROR, responses
from .embed import Wish, answer, check_model, embed
from .lists import check_count, drafts_of
from .roles import Asked, InputType
from .schemas import CONVERSATION, INPUT, INSTRUCTION_WORDS, NULL, TASK_WORDS, any_of, many, one_of, or_null
from .vectors import VectorType, written

router = APIRouter(tags=["OpenAI"])
_STARTED = int(time.time())
_RED = (
    "data:image/gif;base64,R0lGODdhEAAQAIEAAP8AAAAAAAAAAAAAACwAAAAAEAAQAEAIHQABCBxIsKDBgwgTKlzIsKHDhxAjSpxIsaLFgQEBADs="
)
_EXAMPLES: dict[str, dict[str, Any]] = {
    "texts": {"input": ["a red dress", "a blue dress"]},
    "a picture and what to change in it": {"input": [{"image": _RED, "instruction": "the same in blue"}]},
    "a picture of the gallery": {"input": [{"image": _RED}], "input_type": "document"},
    "a conversation, as vLLM has it": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": _RED}},
                    {"type": "text", "text": "the same in blue"},
                ],
            }
        ],
        "input_type": "query",
    },
}


class EmbeddingsBody(Body):
    """What `/v1/embeddings` takes: `input`, or `messages`."""

    model_config = ConfigDict(json_schema_extra=one_of("input", "messages"))

    model: str | None = Field(None, description="Its name, as /v1/models has it; may be left out.")
    input: Annotated[Any, WithJsonSchema(or_null(INPUT))] = None
    messages: Annotated[Any, WithJsonSchema(any_of(CONVERSATION, many(CONVERSATION), NULL))] = None
    input_type: InputType | None = Field(
        None,
        description="The side of a search: query (search_query), or document (search_document, image, classification, "
        "clustering). A query's text beside a picture says what to change in it; a document's belongs to it. Without "
        "this, an input with an instruction is a query and any other a document.",
    )
    instruction: str | None = Field(None, description=INSTRUCTION_WORDS)
    task: str | None = Field(None, description=TASK_WORDS)
    dimensions: int | None = Field(
        None, description="Keep so many of the first numbers, where the model was trained to."
    )
    encoding_format: VectorType | None = Field(None, description="float where it is left out.")
    embedding_type: VectorType | None = Field(None, description="Jina's name of encoding_format.")
    truncate: bool | None = Field(
        None, description="Cut the words of an input that is too long, instead of refusing it."
    )
    user: str | None = Field(None, description="Taken, and not used; priority and request_id as well.")
    priority: int | None = None
    request_id: str | None = None
    # what other servers can be told, where it says what is done here anyway
    normalize: Always | None = None
    normalized: Always | None = None
    add_special_tokens: Always | None = None
    continue_final_message: Always | None = None
    add_generation_prompt: Never | None = None
    late_chunking: Never | None = None
    return_multivector: Never | None = None


@router.post(
    "/v1/embeddings",
    summary="Embed texts, pictures, and pictures with what to change in them",
    responses=responses(EMBEDDINGS, "A vector for each input, in order.", OPENAI_ERROR),
    openapi_extra=request_schema(EmbeddingsBody, _EXAMPLES),
)
async def embeddings(request: Request) -> Response:
    """Return the vectors of `input` or `messages`. Raises Refusal."""
    service: Service = request.app.state.service
    body = read_body(request, EmbeddingsBody)
    check_model(body.model, service)
    kind = _vector_type(body)
    asked = Asked.of(body.input_type, body.instruction, body.task)
    vectors = await embed(request, Wish(_drafts(body, service.limits), asked, body.dimensions, truncate=body.truncate))
    tokens = sum(vectors.tokens)
    return listed(written(vectors.rows, kind), service, {"prompt_tokens": tokens, "total_tokens": tokens})


@router.get(
    "/v1/models",
    summary="The model that is served",
    responses=responses(MODELS, "A list of one.", OPENAI_ERROR, 401, 403, 500, 503),
)
async def models(request: Request) -> Response:
    """Return the list of models, which has one."""
    return answer({"object": "list", "data": [_described(request.app.state.service)]})


@router.get(
    "/v1/models/{model:path}",
    summary="What is known of the model",
    responses=responses(MODEL, "The model.", OPENAI_ERROR, 401, 403, 404, 500, 503),
)
async def model(request: Request, model: str) -> Response:
    """Return the model of that name. Raises Refusal 404 for another."""
    service: Service = request.app.state.service
    check_model(model, service)
    return answer(_described(service))


def listed(rows: Sequence[Any], service: Service, usage: dict[str, int]) -> Response:
    """Return vectors, as they are written, in OpenAI's form of an answer."""
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
    return answer({"object": "list", "data": data, "model": service.model_name, "usage": usage})


def _drafts(body: EmbeddingsBody, limits: Limits) -> list[Draft]:
    """Return the inputs of `input` or `messages`. Raises Refusal 422 unless there is one of them."""
    if (body.input is None) == (body.messages is None):
        raise Refusal(422, "give one of input and messages", field="input")
    if body.messages is None:
        return drafts_of(body.input, "input", limits)
    if isinstance(body.messages, list) and body.messages and isinstance(body.messages[0], list):
        check_count(body.messages, "messages", limits)
        return [conversation(one, f"messages[{place}]") for place, one in enumerate(body.messages)]
    return [conversation(body.messages, "messages")]


def _vector_type(body: EmbeddingsBody) -> VectorType:
    """Return the form of vectors. Raises Refusal 422 where its two names say two things."""
    named = [kind for kind in (body.encoding_format, body.embedding_type) if kind is not None]
    if len(set(named)) > 1:
        raise Refusal(
            422,
            f"encoding_format '{named[0]}' and embedding_type '{named[1]}' differ; give one",
            field="encoding_format",
        )
    return named[0] if named else "float"


def _described(service: Service) -> dict[str, Any]:
    """Return what is told of the model: `dimensions` are the lengths that may be asked for."""
    embedder = service.embedder
    whole, trained = embedder.dimension, embedder.settings.matryoshka
    return {
        "id": service.model_name,
        "object": "model",
        "created": _STARTED,
        "owned_by": "mllm_embed",
        "dimension": whole,
        "dimensions": sorted({whole, *(length for length in trained if length < whole)}),
        "max_tokens": embedder.item_processor.lengths.limit.tokens,
    }
