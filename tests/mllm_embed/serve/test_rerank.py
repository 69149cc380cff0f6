"""Documents in the order of a re-ranker, by the real client and as others write it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cohere
import httpx
import numpy as np
import pytest

from attacks.target import ASKED
from mllm_embed import Document, MLLMEmbedder, Query, Reranker
from mllm_embed.serve.app import create_app
from mllm_embed.serve.limits import Limits

NAME = "org/judge"
TEXTS = [f"a {colour} shoe" for colour in ("red", "green", "blue", "white")]


@pytest.fixture(scope="module")
def judge(served_embedder: MLLMEmbedder) -> Reranker:
    return Reranker.beside(served_embedder, prompt=ASKED)


@pytest.fixture(scope="module")
def url(make_service: Callable, running: Callable, judge: Reranker) -> Iterator[str]:
    service = make_service(reranker=judge, reranker_name=NAME, limits=Limits(inputs=40))
    with running(create_app(service)) as url:
        yield url


@pytest.fixture(scope="module")
def post(url: str) -> Callable[..., httpx.Response]:
    return lambda path="/v1/rerank", **body: httpx.post(f"{url}{path}", json=body, timeout=60)


def expected(judge: Reranker, query: Query, documents: list) -> list[tuple[int, float]]:
    margins = judge.scores(query, documents)
    order = sorted(range(len(documents)), key=lambda place: -margins[place])
    return [(place, 1 / (1 + np.exp(-margins[place]))) for place in order]


def same(results: list[tuple[int, float]], right: list[tuple[int, float]]) -> None:
    assert [place for place, _ in results] == [place for place, _ in right]
    assert np.allclose([score for _, score in results], [score for _, score in right], atol=1e-5)


def test_the_clients_of_both_versions_read_the_answer(url: str, judge: Reranker) -> None:
    right = expected(judge, Query(text="a shoe"), TEXTS)
    for client in (cohere.ClientV2(api_key="none", base_url=url), cohere.Client(api_key="none", base_url=url)):
        answer = client.rerank(model=NAME, query="a shoe", documents=TEXTS, top_n=3)
        same([(result.index, result.relevance_score) for result in answer.results], right[:3])
        assert answer.id


def test_pictures_and_words_are_judged_together(post: Callable, judge: Reranker, picture, data_uri) -> None:
    red, blue = picture("red"), picture("blue")
    parts = [{"type": "image_url", "image_url": {"url": data_uri("blue")}}, {"type": "text", "text": "a shoe"}]
    documents = ["a red shoe", {"image": data_uri("red")}, {"content": parts}, {"text": "a bag"}]
    right = expected(
        judge, Query(red, "in blue"), ["a red shoe", Document(red), Document(blue, "a shoe"), Document(text="a bag")]
    )
    for query in ({"image": data_uri("red"), "text": "in blue"}, {"image": data_uri("red"), "instruction": "in blue"}):
        answer = post(query=query, documents=documents, return_documents=True, top_n=0).json()
        same([(result["index"], result["relevance_score"]) for result in answer["results"]], right)
        shown = {result["index"]: result["document"] for result in answer["results"]}
        assert shown == {0: {"text": "a red shoe"}, 1: documents[1], 2: documents[2], 3: documents[3]}
    assert answer["model"] == NAME


def test_many_documents_are_judged_in_parts_and_equal_ones_stay_in_order(post: Callable) -> None:
    answer = post(query="a shoe", documents=TEXTS * 10).json()["results"]
    scores = [result["relevance_score"] for result in answer]
    assert len(answer) == 40 and scores == sorted(scores, reverse=True)
    places = [result["index"] for result in answer if result["index"] % 4 == answer[0]["index"] % 4]
    assert sorted(places) == list(range(answer[0]["index"] % 4, 40, 4))
    again = post(query="a shoe", documents=["a shoe"] * 5).json()["results"]
    assert [result["index"] for result in again] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"documents": TEXTS}, 422, "query"),
        ({"query": "a shoe"}, 422, "documents"),
        ({"query": "a shoe", "documents": []}, 422, "documents is no list of inputs; give one at least"),
        ({"query": "a shoe", "documents": {"text": "a"}}, 422, "documents is no list"),
        ({"query": "a shoe", "documents": ["a", ""]}, 422, "documents[1]"),
        ({"query": " ", "documents": TEXTS}, 422, "query"),
        ({"query": ["a", "b"], "documents": TEXTS}, 422, "query"),
        ({"query": "a shoe", "documents": ["a", 3]}, 422, "documents[1]"),
        ({"query": "a shoe", "documents": ["a"] * 41}, 422, "over the limit of 40"),
        ({"query": "a shoe", "documents": [{"text": "a", "instruction": "red"}]}, 422, "put it into the query"),
        ({"query": "a shoe", "documents": [{"text": "a", "task": "find"}]}, 422, "documents[0] has a task"),
        ({"query": {"text": "a", "task": "Find it."}, "documents": TEXTS}, 422, "leave out task"),
        ({"query": "a shoe", "documents": [{"image": "data:image/png;base64,AAAA"}]}, 422, "documents[0]"),
        ({"query": "a shoe", "documents": [{"image": "http://127.0.0.1/a.png"}]}, 422, "documents[0]"),
        ({"query": "a shoe", "documents": TEXTS, "top_n": -1}, 422, "top_n"),
        ({"query": "a shoe", "documents": TEXTS, "top_k": 1}, 422, "top_n"),
        ({"query": "a shoe", "documents": TEXTS, "model": "org/tiny"}, 404, f"it is '{NAME}'"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_its_name(post: Callable, body: dict, status: int, said: str) -> None:
    for path, told in (("/v1/rerank", lambda got: got["error"]["message"]), ("/v2/rerank", lambda got: got["message"])):
        answer = post(path, **body)
        assert answer.status_code == status and said in told(answer.json()), answer.text


def test_a_service_without_a_re_ranker_says_so(served) -> None:
    answer = httpx.post(f"{served.url}/v1/rerank", json={"query": "a", "documents": ["b"]})
    assert answer.status_code == 404 and "--reranker" in answer.json()["error"]["message"]


def test_a_prompt_that_gives_probabilities_is_not_squashed_again(
    served_embedder: MLLMEmbedder, judge: Reranker
) -> None:
    other = Reranker.beside(served_embedder, prompt={**ASKED, "score": "sigmoid"})
    assert other.relevance("a shoe", TEXTS) == other.scores("a shoe", TEXTS) == judge.relevance("a shoe", TEXTS)
