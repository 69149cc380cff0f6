"""Documents in the order in which they fit a query, as Jina, Cohere and vLLM have it: `/v1/rerank`, `/v2/rerank`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field, WithJsonSchema

from ..operations.logs import note
from ..refusals import Refusal, request_id
from ..service import Service
from ..tickets import ticket_for
from .bodies import Body, read_body, request_schema
from .content import Draft, draft_of
from .documented import COHERE_ERROR, OPENAI_ERROR, RANKED, responses
from .embed import answer, check_limits, read_pictures
from .lists import drafts_of_list
from .roles import Asked
from .schemas import CONVERSATION, ITEM, WORDS, any_of, many

router = APIRouter(tags=["Re-ranking"])
_ONE = any_of(WORDS, ITEM, CONVERSATION)
_QUERY, _DOCUMENT = Asked("query"), Asked("document")
_EXAMPLES = {
    "words": {"query": "a red shoe", "documents": ["a red boot", {"text": "a blue shoe"}], "top_n": 1},
}


class RerankBody(Body):
    """What `/v1/rerank` and `/v2/rerank` take."""

    query: Annotated[Any, WithJsonSchema(_ONE)] = Field(
        description="Words, or an object with any of text, image, instruction, task; of a picture with words, what is "
        "to change in it."
    )
    documents: Annotated[Any, WithJsonSchema(many(_ONE))] = Field(
        description="Texts, or objects with any of text and image, or with content, a list of parts."
    )
    model: str | None = Field(None, description="The re-ranker's name; may be left out.")
    top_n: int | None = Field(None, ge=0, description="How many are answered; all where it is left out or 0.")
    return_documents: bool | None = Field(None, description="Answer with the documents too; false where left out.")
    priority: int | None = Field(None, description="Taken, and not used.")


def _documented(error: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": "Put documents in the order in which they fit a query",
        "responses": responses(RANKED, "The best first; `index` is the place in `documents`.", error),
        "openapi_extra": request_schema(RerankBody, _EXAMPLES),
    }


@router.post("/v2/rerank", **_documented(COHERE_ERROR))
@router.post("/v1/rerank", **_documented(OPENAI_ERROR))
async def rerank(request: Request) -> Response:
    """Return how well each document fits a query, the best first. Raises Refusal."""
    service: Service = request.app.state.service
    body = read_body(request, RerankBody)
    service.speaker.reranker()  # or there is nothing to ask
    _check_model(body.model, service)
    query, documents = draft_of(body.query, "query"), drafts_of_list(body.documents, "documents", service.limits)
    _check_documents(documents)
    drafts = [*documents, query]
    check_limits(drafts, _QUERY, service.limits)
    async with ticket_for(request, service.limits):
        *shown, asked = await read_pictures(drafts, service)
        items = [_DOCUMENT.item(draft, own) for draft, own in zip(documents, shown, strict=True)]
        scores = await service.speaker.relevance(_QUERY.item(query, asked), items)
    note(len(items), 0)
    order = sorted(range(len(scores)), key=lambda place: -scores[place])  # equal ones stay in the order given
    results = [_result(place, scores[place], body) for place in order[: body.top_n or None]]
    return answer({"id": request_id(request.scope), "model": service.reranker_name, "results": results})


def _check_model(model: str | None, service: Service) -> None:
    """Raise Refusal 404 for the name of another re-ranker."""
    if model is not None and model != service.reranker_name:
        told = f"the re-ranker '{model[:100]}' is not served here; it is '{service.reranker_name}'"
        raise Refusal(404, told, field="model")


def _check_documents(documents: Sequence[Draft]) -> None:
    """Raise Refusal 422 for a document that says what a query alone can say."""
    for draft in documents:
        for name in ("instruction", "task"):
            if getattr(draft, name) is not None:
                told = f"{draft.field} has {'an' if name == 'instruction' else 'a'} {name}; put it into the query"
                raise Refusal(422, told, field=draft.field)


def _result(place: int, score: float, body: RerankBody) -> dict[str, Any]:
    entry: dict[str, Any] = {"index": place, "relevance_score": score}
    if body.return_documents:
        given = body.documents[place]
        entry["document"] = given if isinstance(given, Mapping) else {"text": given}
    return entry
