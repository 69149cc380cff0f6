"""Cohere's second API, with the real client."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator

import cohere
import httpx
import numpy as np
import pytest

from mllm_embed import Document, Query
from mllm_embed.vectors.precision import to_precision

MODEL = "org/tiny"
WORDS = ["a red square", "a blue one"]


@pytest.fixture(scope="module")
def client(served) -> Iterator[cohere.ClientV2]:
    with cohere.ClientV2(api_key="none", base_url=served.url, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def post(served) -> Callable[..., httpx.Response]:
    return lambda body: httpx.post(f"{served.url}/v2/embed", json=body, timeout=30)


def _equal(given: object, served, items: list) -> None:
    expected = served.embedder.encode(items, show_progress=False)
    assert np.shape(given) == expected.shape
    assert np.abs(np.array(given) - expected).max() < 1e-5


def test_texts_become_vectors(client, served) -> None:
    answer = client.embed(model=MODEL, texts=WORDS, input_type="search_document", embedding_types=["float"])
    _equal(answer.embeddings.float_, served, WORDS)
    assert answer.texts == WORDS
    assert answer.response_type == "embeddings_by_type"
    assert answer.meta.api_version.version == "2"
    assert answer.meta.billed_units.input_tokens > 2
    assert answer.embeddings.int8 is None
    unsaid = client.embed(model=MODEL, texts=WORDS, input_type="search_document")
    assert unsaid.embeddings.float_ == answer.embeddings.float_


def test_pictures_become_vectors(client, served, picture, data_uri) -> None:
    answer = client.embed(model=MODEL, images=[data_uri("red"), data_uri("blue")], input_type="image")
    _equal(answer.embeddings.float_, served, [Document(picture("red")), Document(picture("blue"))])
    assert answer.meta.billed_units.images == 2


@pytest.mark.parametrize(("input_type", "kind"), [("search_query", Query), ("search_document", Document)])
def test_lists_of_parts_become_queries_or_documents(client, served, picture, data_uri, input_type, kind) -> None:
    parts = [
        {"type": "text", "text": "in blue"},
        {"type": "image_url", "image_url": {"url": data_uri("red")}},
    ]
    answer = client.embed(model=MODEL, inputs=[{"content": parts}, {"content": parts[:1]}], input_type=input_type)
    _equal(answer.embeddings.float_, served, [kind(picture("red"), "in blue"), kind(text="in blue")])


def test_all_types_of_vectors_are_of_the_same_vectors(client) -> None:
    kinds = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    found = client.embed(model=MODEL, texts=WORDS, input_type="search_query", embedding_types=kinds).embeddings
    whole = np.array(found.float_, np.float32)
    assert np.array_equal([np.frombuffer(base64.b64decode(row), "<f4") for row in found.base64], whole)
    assert np.array_equal(found.int8, to_precision(whole, "int8"))
    assert np.array_equal(np.array(found.uint8) - 128, to_precision(whole, "int8"))
    assert np.array_equal(found.ubinary, to_precision(whole, "binary"))
    assert np.array_equal(np.array(found.binary) + 128, to_precision(whole, "binary"))


def test_vectors_are_cut(client, served) -> None:
    answer = client.embed(model=MODEL, texts=WORDS, input_type="search_document", output_dimension=32)
    expected = served.embedder.encode(WORDS, dim=32, show_progress=False)
    assert np.abs(np.array(answer.embeddings.float_) - expected).max() < 1e-5
    with pytest.raises(cohere.BadRequestError, match="output_dimension=16: this model was not trained"):
        client.embed(model=MODEL, texts=WORDS, input_type="search_document", output_dimension=16)


def test_words_that_are_too_long_are_cut_unless_that_is_refused(client, served) -> None:
    long = ["red green blue " * served.embedder.item_processor.lengths.limit.tokens]
    assert client.embed(model=MODEL, texts=long, input_type="search_query").embeddings.float_
    with pytest.raises(cohere.UnprocessableEntityError, match="over the limit"):
        client.embed(model=MODEL, texts=long, input_type="search_query", truncate="NONE")
    with pytest.raises(cohere.UnprocessableEntityError, match="truncate can only be 'END' or 'NONE'"):
        client.embed(model=MODEL, texts=WORDS, input_type="search_query", truncate="START")
    with pytest.raises(cohere.UnprocessableEntityError, match=r"texts\[0\] takes .* tokens, over max_tokens=2"):
        client.embed(model=MODEL, texts=WORDS, input_type="search_query", max_tokens=2)
    assert client.embed(model=MODEL, texts=WORDS, input_type="search_query", max_tokens=200).embeddings.float_


def test_another_model_is_refused(client) -> None:
    with pytest.raises(cohere.NotFoundError, match="'embed-v4.0' is not served here; it is 'org/tiny'"):
        client.embed(model="embed-v4.0", texts=WORDS, input_type="search_query")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"texts": ["a"]}, "input_type is missing"),
        ({"input_type": "search_query"}, "give exactly one of texts, images, inputs, and none is here"),
        ({"input_type": "search_query", "texts": ["a"], "images": ["b"]}, "not texts and images"),
        ({"input_type": "search_query", "texts": []}, "texts is no list of inputs; give a list of one at least"),
        ({"input_type": "search_query", "texts": ["a", ""]}, "texts[1]: the text of a Query is empty"),
        ({"input_type": "search_query", "texts": "a"}, "texts is no list of inputs"),
        ({"input_type": "search_query", "texts": [3]}, "texts[0] is an int; give a text"),
        ({"input_type": "search_query", "inputs": ["a"]}, "inputs[0] has no content"),
        (
            {"input_type": "search_query", "inputs": [{"content": [{"type": "video"}]}]},
            "inputs[0].content[0] is no part",
        ),
        ({"input_type": "search_query", "images": [None]}, "images[0] is null; give a text"),
        ({"input_type": "search_query", "images": ["nonsense"]}, "images[0]"),
        ({"input_type": "other", "texts": ["a"]}, "input_type can only be"),
        ({"input_type": "search_query", "texts": ["a"], "embedding_types": ["float", "hex"]}, "embedding_types[1]"),
        ({"input_type": "search_query", "texts": ["a"], "embedding_types": []}, "embedding_types list should have"),
        ({"input_type": "search_query", "texts": ["a"], "max_tokens": 0}, "max_tokens"),
        ({"input_type": "search_query", "texts": ["a"] * 257}, "texts holds 257 inputs, over the limit of 256"),
        ({"input_type": "search_query", "text": ["a"]}, "did you mean 'texts'?"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(post, body, said) -> None:
    response = post(body)
    assert response.status_code == 422, response.text
    assert said in response.json()["message"]


def test_the_first_version_is_not_spoken(served) -> None:
    response = httpx.post(f"{served.url}/v1/embed", json={"texts": ["a"]})
    assert response.status_code == 404
    assert "POST /v2/embed" in response.text
