"""Documents in the order of a re-ranker, by the real client and as others write it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import cohere
import httpx
import numpy as np
import pytest
import torch

from attacks.pictures import data_uri as as_data_uri
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


@pytest.fixture
def cut_short(picture: Callable[..., bytes]) -> str:
    """A data URI of a picture whose head is whole."""
    return as_data_uri(picture("red", 200)[:-200])


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
        # LangChain's compressors send what their users leave out as null
        left_out = {"max_tokens_per_doc": None} if isinstance(client, cohere.ClientV2) else {"rank_fields": None}
        for further in ({}, left_out):
            answer = client.rerank(model=NAME, query="a shoe", documents=TEXTS, top_n=3, **further)
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


def test_many_documents_are_judged_in_parts_and_equal_ones_stay_in_order(post: Callable, judge: Reranker) -> None:
    documents = [f"shoe number {number}" for number in range(40)]
    answer = post(query="a shoe", documents=documents).json()["results"]
    right = expected(judge, Query(text="a shoe"), documents)
    same([(result["index"], result["relevance_score"]) for result in answer], right)
    again = post(query="a shoe", documents=["a shoe"] * 40).json()["results"]
    assert [result["index"] for result in again] == list(range(40))


def test_documents_wait_in_turns_and_not_without_end(
    make_service: Callable, running: Callable, judge: Reranker
) -> None:
    service = make_service(reranker=Slow(judge), limits=Limits(waiting=20))
    with running(create_app(service)) as url, ThreadPoolExecutor(8) as pool:

        def ask(count: int) -> tuple[int, float]:
            answer = httpx.post(f"{url}/v1/rerank", json={"query": "a", "documents": ["b"] * count}, timeout=60)
            return answer.status_code, time.monotonic()

        assert ask(30)[0] == 200  # more than may wait, where none does
        long = pool.submit(ask, 12)
        time.sleep(0.2)
        short = pool.submit(ask, 2)
        embedded = httpx.post(f"{url}/v1/embeddings", json={"input": "a shoe"}, timeout=60)
        assert embedded.status_code == 200 and not long.done()
        assert short.result()[1] < long.result()[1]
        gauge = httpx.get(f"{url}/metrics").text
        assert "mllm_embed_queue_documents 0.0" in gauge
        asked = [pool.submit(ask, 10) for _ in range(6)]
        statuses = [one.result()[0] for one in asked]
        assert sorted(set(statuses)) == [200, 503]


class Slow:
    """A re-ranker that takes a tenth of a second a document, so that parts are short."""

    def __init__(self, judge: Reranker):
        self._judge, self.relevance = judge, judge.relevance

    def scores(self, query: Query, documents: list) -> list[float]:
        time.sleep(0.1 * len(documents))
        return self._judge.scores(query, documents)


class Full:
    """A re-ranker beside which there is memory for some documents, none of them long."""

    def __init__(self, judge: Reranker):
        self._judge, self.relevance, self.parts = judge, judge.relevance, []

    def scores(self, query: Query, documents: list) -> list[float]:
        self.parts.append(len(documents))
        if len(documents) > 3 or any("long" in document.text for document in documents):
            raise torch.OutOfMemoryError
        return self._judge.scores(query, documents)


def test_what_does_not_fit_into_memory_is_judged_in_smaller_parts(
    make_service: Callable, running: Callable, judge: Reranker
) -> None:
    full = Full(judge)
    with running(create_app(make_service(reranker=full))) as url:
        answer = httpx.post(f"{url}/v1/rerank", json={"query": "a shoe", "documents": TEXTS * 2}, timeout=60)
        right = expected(judge, Query(text="a shoe"), TEXTS * 2)
        same([(result["index"], result["relevance_score"]) for result in answer.json()["results"]], right)
        answer = httpx.post(f"{url}/v1/rerank", json={"query": "a", "documents": [*TEXTS, "a long one"]}, timeout=60)
        assert answer.status_code == 500
        assert answer.json()["error"]["message"].startswith("documents[4] takes more memory than this server has")
        full.parts.clear()
        httpx.post(f"{url}/v1/rerank", json={"query": "a shoe", "documents": TEXTS[:3]}, timeout=60)
        assert full.parts == [3]  # what was too much for one request makes no other's parts smaller


def test_a_picture_that_is_cut_short_is_told_by_its_place(post: Callable, cut_short: str) -> None:
    for body, field in (
        ({"query": {"image": cut_short}, "documents": TEXTS}, "query"),
        ({"query": "a shoe", "documents": [*TEXTS, {"image": cut_short}]}, "documents[4]"),
    ):
        answer = post(**body)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (422, field)
        assert error["message"].startswith(f"{field}: its picture cannot be decoded: it is damaged, cut short")


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"documents": TEXTS}, 422, "query"),
        ({"query": "a shoe"}, 422, "documents"),
        ({"query": "a shoe", "documents": []}, 422, "documents is no list of inputs; give a list of one at least"),
        ({"query": "a shoe", "documents": {"text": "a"}}, 422, "documents is no list"),
        ({"query": "a shoe", "documents": ["a", ""]}, 422, "documents[1]"),
        ({"query": " ", "documents": TEXTS}, 422, "query"),
        ({"query": ["a", "b"], "documents": TEXTS}, 422, "query is a list; give a text, or an object with"),
        ({"query": "a shoe", "documents": ["a", 3]}, 422, "documents[1] is an int; give a text, or an object"),
        ({"query": "a", "documents": [[{"role": "user", "content": "b"}]]}, 422, "documents[0] is a list; give a text"),
        ({"query": "a shoe", "documents": ["a"] * 41}, 422, "over the limit of 40"),
        (
            {"query": "a shoe", "documents": [{"text": "a", "instruction": "red"}]},
            422,
            "documents[0].instruction is the query's to say; put it there",
        ),
        ({"query": "a shoe", "documents": [{"text": "a", "task": "find"}]}, 422, "documents[0].task is the query's"),
        ({"query": "a shoe", "documents": [{"text": "a", "title": "find"}]}, 422, "the keys are text, image, content"),
        (
            {"query": {"text": "a", "task": "Find it."}, "documents": TEXTS},
            422,
            "query.task has no place in this re-ranker's prompt; leave it out",
        ),
        ({"query": "word " * 5000, "documents": TEXTS}, 422, "query: "),
        ({"query": "word " * 5000, "documents": ["a"]}, 422, "query: 'word word"),
        ({"query": "a", "documents": ["b", "word " * 5000, "c"]}, 422, "documents[1]: 'word word"),
        ({"query": "a", "documents": ["word " * 5000] * 2}, 422, "documents[0]: 'word word"),
        (
            {"query": {"text": "a", "task": None}, "documents": [{"text": "b" * 9, "title": None}, 3]},
            422,
            "documents[1]",
        ),
        ({"query": "a shoe", "documents": [{"image": "data:image/png;base64,AAAA"}]}, 422, "documents[0]"),
        ({"query": "a shoe", "documents": [{"image": "http://127.0.0.1/a.png"}]}, 422, "documents[0]"),
        ({"query": "a shoe", "documents": TEXTS, "top_n": -1}, 422, "top_n"),
        ({"query": "a shoe", "documents": TEXTS, "top_k": 1}, 422, "top_n"),
        ({"query": "a shoe", "documents": TEXTS, "max_tokens_per_doc": 9}, 422, "is no field of this request"),
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
    margins, scores = judge.scores("a shoe", TEXTS), other.scores("a shoe", TEXTS)
    assert other.relevance(scores) == scores == judge.relevance(margins) != margins
