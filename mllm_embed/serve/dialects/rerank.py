"""Documents in the order in which they fit a query, as Jina, Cohere and vLLM have it: `/v1/rerank`, `/v2/rerank`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field, WithJsonSchema

from ...types import Item
from ..limits import Limits
from ..refusals import Refusal, request_id
from ..service import Service
from ..tickets import ticket_for
from .bodies import Body, read_body, request_schema
from .content import Draft, draft_of, kind_in_json
from .documented import COHERE_ERROR, OPENAI_ERROR, RANKED, responses
from .embed import answer, check_limits, read_pictures
from .lists import check_list
from .roles import Asked
from .schemas import DOCUMENT, ITEM, WORDS, any_of, many

if TYPE_CHECKING:
    from ...rerank.reranker import Reranker
    from ..judging import Refuse

router = APIRouter(tags=["Re-ranking"])
_QUERY, _DOCUMENT = Asked("query"), Asked("document")
_OF_QUERY, _OF_DOCUMENT = tuple(ITEM["properties"]), tuple(DOCUMENT["properties"])
_FORMS = "give a text, or an object with any of text and image, or with content, a list of parts"
_EXAMPLES = {
    "words": {"query": "a red shoe", "documents": ["a red boot", {"text": "a blue shoe"}], "top_n": 1},
}


class RerankBody(Body):
    """What `/v1/rerank` and `/v2/rerank` take."""

    query: Annotated[Any, WithJsonSchema(any_of(WORDS, ITEM))] = Field(
        description="Words, or an object as an input of /v1/embeddings; the words beside a picture say what to change."
    )
    documents: Annotated[Any, WithJsonSchema(many(any_of(WORDS, DOCUMENT)))] = Field(
        description="Texts, or objects with any of text and image, or with content, a list of parts."
    )
    model: str | None = Field(None, description="The re-ranker's name, as answers have it; may be left out.")
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
    judge = service.reranker
    if judge is None:
        raise Refusal(404, "this service has no re-ranker: start it as `mllm-embed serve --reranker R ...`")
    body = read_body(request, RerankBody)
    _check_model(body.model, service)
    asked, drafts = _draft(body.query, "query", _OF_QUERY), _documents(body.documents, service.limits)
    for some in ([asked], drafts):
        check_limits(some, _QUERY, service.limits)
    async with ticket_for(request, service.limits):
        shown, *pictures = await read_pictures([asked, *drafts], service)
        query = _QUERY.item(asked, shown)
        documents = [_DOCUMENT.item(draft, own) for draft, own in zip(drafts, pictures, strict=True)]
        scores = await service.judging.scores(judge, query, documents, _refuse(judge, query, documents, drafts))
    relevance = judge.relevance(scores)
    order = sorted(range(len(scores)), key=lambda place: -scores[place])  # equal ones stay in the order given
    results = [_result(place, relevance[place], body) for place in order[: body.top_n or None]]
    return answer({"id": request_id(request.scope), "model": service.reranker_name, "results": results})


def _refuse(judge: Reranker, query: Item, documents: Sequence[Item], drafts: Sequence[Draft]) -> Refuse:
    """Return what names the fields of documents that cannot be judged."""

    def refuse(places: range, error: Exception) -> Refusal:
        from ..unjudged import fault  # torch, without which a port answers already

        fields = [drafts[place].field for place in places]
        return fault(judge, query, [documents[place] for place in places], fields, error)

    return refuse


def _check_model(model: str | None, service: Service) -> None:
    """Raise Refusal 404 for the name of another re-ranker."""
    if model is not None and model != service.reranker_name:
        told = f"the re-ranker '{model[:100]}' is not served here; it is '{service.reranker_name}'"
        raise Refusal(404, told, field="model")


def _documents(values: Any, limits: Limits) -> list[Draft]:
    """Return the documents. Raises Refusal 422, with the place, for one that says what a query alone can say."""
    check_list(values, "documents", limits)
    for place, one in enumerate(values):
        for key in ("instruction", "task") if isinstance(one, Mapping) else ():
            if one.get(key) is not None:
                field = f"documents[{place}].{key}"
                raise Refusal(422, f"{field} is the query's to say; put it there", field=field)
    return [_draft(one, f"documents[{place}]", _OF_DOCUMENT) for place, one in enumerate(values)]


def _draft(value: Any, where: str, keys: Sequence[str]) -> Draft:
    if not isinstance(value, str | Mapping):
        said = f"{where} is {kind_in_json(value)}; {_FORMS}"
        raise Refusal(422, said, field=where)
    return draft_of(value, where, keys)


def _result(place: int, relevance: float, body: RerankBody) -> dict[str, Any]:
    entry: dict[str, Any] = {"index": place, "relevance_score": relevance}
    if body.return_documents:
        given = body.documents[place]
        entry["document"] = {"text": given} if isinstance(given, str) else given
    return entry
