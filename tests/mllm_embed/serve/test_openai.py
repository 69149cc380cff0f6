"""OpenAI's embeddings, with the real client, and what vLLM, Jina, SGLang and Voyage add to them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI, UnprocessableEntityError

from mllm_embed import Document, Query
from mllm_embed.vectors.precision import to_precision

MODEL = "org/tiny"
WORDS = ["a red square", "a blue one, with words that go on for longer", "ein grünes Quadrat 🟩"]


@pytest.fixture(scope="module")
def client(served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def post(served) -> Iterator[Callable[..., httpx.Response]]:
    with httpx.Client(base_url=served.url, timeout=60) as plain:
        yield lambda body, path="/v1/embeddings": plain.post(path, json=body)


def _vectors(answer: Any) -> np.ndarray:
    return np.array([row.embedding for row in answer.data], np.float32)


def _rows(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    return np.array([row["embedding"] for row in response.json()["data"]], np.float32)


def _equal(given: np.ndarray, served, items: list[Any]) -> None:
    expected = served.embedder.encode(items, show_progress=False)
    assert given.shape == expected.shape
    assert np.abs(given - expected).max() < 1e-5


def test_the_client_gets_the_vectors_of_its_texts(client, served) -> None:
    answer = client.embeddings.create(model=MODEL, input=WORDS)
    _equal(_vectors(answer), served, WORDS)
    assert [row.index for row in answer.data] == [0, 1, 2]
    assert answer.model == MODEL
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 20
    _equal(_vectors(client.embeddings.create(model=MODEL, input=WORDS[0])), served, WORDS[:1])


def test_numbers_and_base64_are_the_same_to_the_bit(client) -> None:
    plain = client.embeddings.create(model=MODEL, input=WORDS, encoding_format="float")
    packed = client.embeddings.create(model=MODEL, input=WORDS, encoding_format="base64")
    raw = [np.frombuffer(base64.b64decode(row.embedding), "<f4") for row in packed.data]
    assert np.array_equal(_vectors(plain), np.stack(raw))
    assert np.array_equal(_vectors(plain), _vectors(client.embeddings.create(model=MODEL, input=WORDS)))


def test_the_asynchronous_client_asks_many_at_once(served) -> None:
    async def ask() -> list[Any]:
        async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
            return await asyncio.gather(*[client.embeddings.create(model=MODEL, input=text) for text in WORDS * 4])

    _equal(np.concatenate([_vectors(answer) for answer in asyncio.run(ask())]), served, WORDS * 4)


def test_pictures_come_through_the_client(client, served, picture, data_uri) -> None:
    items: Any = [{"image": data_uri("red"), "instruction": "in blue"}, {"image": data_uri("blue")}, {"text": "green"}]
    expected = [Query(picture("red"), "in blue"), Document(picture("blue")), Document(text="green")]
    _equal(_vectors(client.embeddings.create(model=MODEL, input=items)), served, expected)
    pictures: Any = [{"image": data_uri("red")}]
    answer = client.embeddings.create(model=MODEL, input=pictures, extra_body={"instruction": "in blue"})
    _equal(_vectors(answer), served, [Query(picture("red"), "in blue")])


@pytest.mark.parametrize(
    ("side", "kind"),
    [
        ({}, Document),
        ({"input_type": "query"}, Query),
        ({"input_type": "search_query"}, Query),
        ({"task": "retrieval.query"}, Query),
        ({"input_type": "document"}, Document),
        ({"input_type": "search_document"}, Document),
        ({"input_type": "image"}, Document),
        ({"task": "retrieval.passage", "input_type": "document"}, Document),
    ],
)
def test_the_side_of_a_search_says_what_words_beside_a_picture_are(post, served, picture, data_uri, side, kind) -> None:
    item = {"image": data_uri("red"), "text": "a word"}
    _equal(_rows(post({"input": [item], **side})), served, [kind(picture("red"), "a word")])


def test_one_instruction_is_for_all_inputs_that_have_none(post, served, picture, data_uri) -> None:
    items = [{"image": data_uri("red")}, {"image": data_uri("red"), "instruction": "its own"}]
    expected = [Query(picture("red"), "the common one"), Query(picture("red"), "its own")]
    _equal(_rows(post({"input": items, "instruction": "the common one"})), served, expected)


def _conversation(*parts: Any, system: str | None = None) -> list[dict[str, Any]]:
    before = [] if system is None else [{"role": "system", "content": [{"type": "text", "text": system}]}]
    return [*before, {"role": "user", "content": list(parts)}]


def test_a_conversation_is_one_input(post, served, picture, data_uri) -> None:
    said = {"type": "text", "text": "in one word"}
    parts = (
        {"type": "image_url", "image_url": {"url": data_uri("red")}},
        said,
        {"type": "image_base64", "image_base64": data_uri("blue")},
    )
    expected = [Document((picture("red"), picture("blue")), "in one word")]
    ended = [*_conversation(*parts), {"role": "assistant", "content": [{"type": "text", "text": ""}]}]
    as_clients_of_vllm = {"continue_final_message": True, "add_special_tokens": True, "encoding_format": "float"}
    _equal(_rows(post({"messages": ended, **as_clients_of_vllm})), served, expected)
    _equal(_rows(post({"input": _conversation(*parts)})), served, expected)
    _equal(_rows(post({"input": [{"content": list(parts)}]})), served, expected)
    _equal(_rows(post({"messages": [{"role": "user", "content": "in one word"}]})), served, ["in one word"])


@pytest.mark.parametrize("field", ["messages", "input"])
def test_a_list_of_conversations_is_many_inputs(post, served, picture, data_uri, field) -> None:
    said, red = {"type": "text", "text": "in one word"}, {"type": "image_url", "image_url": data_uri("red")}
    expected = [Query(text="in one word"), Query(picture("red"), "in one word")]
    both = {field: [_conversation(said), _conversation(red, said)], "input_type": "query"}
    _equal(_rows(post(both)), served, expected)


def test_a_system_message_is_the_task(make_service, running, served_embedder) -> None:
    from dataclasses import replace

    from mllm_embed.serve.app import create_app

    prompts = replace(served_embedder.prompts, text="{task} {text}", query_task="Find it.")
    told = served_embedder.with_prompts(prompts)
    with running(create_app(make_service(embedder=told))) as url:
        bodies = [
            {"messages": _conversation({"type": "text", "text": "red"}, system="Sort it.")},
            {"input": ["red"], "task": "Sort it."},
            {"input": [{"text": "red", "task": "Sort it."}], "task": "another"},
            {"input": ["red"], "input_type": "query"},
        ]
        rows = [_rows(httpx.post(f"{url}/v1/embeddings", json=body, timeout=60))[0] for body in bodies]
    sorting, finding = told.encode([Document(text="red", task="Sort it."), Query(text="red")], show_progress=False)
    assert np.abs(np.stack(rows) - np.stack([sorting, sorting, sorting, finding])).max() < 1e-5
    assert np.abs(sorting - finding).max() > 1e-3


def test_bare_base64_is_a_picture_as_jina_has_it(post, served, picture, data_uri) -> None:
    bare = data_uri("red").partition(",")[2]
    _equal(_rows(post({"input": [{"image": bare}], "normalized": True})), served, [Document(picture("red"))])


def test_the_address_of_a_picture_is_a_text_where_it_is_said_to_be(post, served) -> None:
    address = "https://example.org/cat.jpg"
    _equal(_rows(post({"input": [{"text": address}, f"see {address}"]})), served, [
        Document(text=address), f"see {address}"
    ])  # fmt: skip


def test_voyage_sends_lists_of_parts(post, served, picture, data_uri) -> None:
    parts = [{"type": "text", "text": "in blue"}, {"type": "image_base64", "image_base64": data_uri("red")}]
    body = {"inputs": [{"content": parts}], "model": MODEL, "input_type": "query", "output_encoding": "base64"}
    answer = post(body, "/v1/multimodalembeddings").json()
    row = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    _equal(row[None], served, [Query(picture("red"), "in blue")])
    assert answer["usage"]["total_tokens"] == answer["usage"]["text_tokens"] > 0
    # as the client asks, which names all of its fields
    asked = {**body, "output_encoding": None, "output_dtype": "int8", "output_dimension": None, "truncation": True}
    packed = post({**asked, "encoding_format": "base64"}, "/v1/multimodalembeddings").json()["data"][0]["embedding"]
    assert np.array_equal(np.frombuffer(base64.b64decode(packed), np.int8), to_precision(row[None], "int8")[0])


def test_vectors_come_in_fewer_bits(post) -> None:
    def rows(kind: str, name: str = "encoding_format") -> np.ndarray:
        return np.array([row["embedding"] for row in post({"input": WORDS, name: kind}).json()["data"]])

    whole = _rows(post({"input": WORDS}))
    assert np.array_equal(rows("int8"), to_precision(whole, "int8"))
    assert np.array_equal(rows("uint8") - 128, to_precision(whole, "int8"))
    assert np.array_equal(rows("ubinary", "embedding_type"), to_precision(whole, "binary"))
    assert np.array_equal(rows("binary") + 128, to_precision(whole, "binary"))


def test_vectors_are_cut_to_lengths_that_were_trained(client, served) -> None:
    short = _vectors(client.embeddings.create(model=MODEL, input=WORDS, dimensions=32))
    assert np.abs(short - served.embedder.encode(WORDS, dim=32, show_progress=False)).max() < 1e-5
    _equal(_vectors(client.embeddings.create(model=MODEL, input=WORDS, dimensions=64)), served, WORDS)
    with pytest.raises(BadRequestError, match="was not trained to be cut.*use 32 or 64"):
        client.embeddings.create(model=MODEL, input=WORDS, dimensions=16)
    with pytest.raises(BadRequestError, match="from 1 to 64"):
        client.embeddings.create(model=MODEL, input=WORDS, dimensions=65)


def test_vectors_are_cut_to_any_length_where_that_is_forced(make_service, running, served) -> None:
    from mllm_embed.serve.app import create_app

    with running(create_app(make_service(force_dimensions=True))) as url:
        answer = httpx.post(f"{url}/v1/embeddings", json={"input": WORDS, "dimensions": 16}, timeout=60)
    expected = served.embedder.encode(WORDS, dim=16, show_progress=False)
    assert np.abs(_rows(answer) - expected).max() < 1e-5


def test_the_model_is_listed_and_found_by_its_name(client) -> None:
    assert [model.id for model in client.models.list().data] == [MODEL]
    assert client.models.retrieve(MODEL).model_dump()["dimensions"] == [32, 64]
    with pytest.raises(NotFoundError, match="it is 'org/tiny'"):
        client.models.retrieve("org/other")
    with pytest.raises(NotFoundError, match="'text-embedding-3-small' is not served here; it is 'org/tiny'"):
        client.embeddings.create(model="text-embedding-3-small", input="a")


def test_tokens_of_another_model_are_refused_with_the_cure(client) -> None:
    for tokens in ([1, 2, 3], [[1, 2], [3]], [1] * 1000):
        with pytest.raises(UnprocessableEntityError, match="check_embedding_ctx_length=False"):
            client.embeddings.create(model=MODEL, input=tokens)


USER: dict[str, Any] = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({}, "input", "give one of input and messages"),
        ({"input": "a", "messages": [USER]}, "input", "give one of input and messages"),
        ({"input": []}, "input", "empty list"),
        ({"input": ["a", " "]}, "input[1]", "input[1]: the text of a Document is empty"),
        ({"input": ["a", 1.5]}, "input[1]", "input[1] is a number"),
        ({"input": True}, "input", "input is true or false"),
        (
            {"input": ["a", "https://example.org/cat.JPG?x=1"]},
            "input[1]",
            "is the address of a picture, given as a text",
        ),
        ({"input": "data:image/png;base64,aaaa"}, "input", "is the address of a picture, given as a text"),
        ({"input": [None]}, "input[0]", "input[0] is null"),
        ({"input": [{"image": "nonsense"}]}, "input[0].image", ""),
        ({"input": [{"text": 3}]}, "input[0].text", "input[0].text is an int"),
        ({"input": [{"txt": "a"}]}, "input[0].txt", "did you mean 'text'?"),
        ({"input": [{"url": "a"}]}, "input[0].url", "the keys are text, image, instruction, task"),
        ({"input": [{"content": []}]}, "input[0]", "input[0]: a Document needs an image or a text"),
        ({"input": [{"content": [{"type": "audio"}]}]}, "input[0].content[0]", "is no part"),
        ({"input": [{"text": "a", "image": []}]}, "input[0].image", "is an empty list"),
        ({"input": [{"text": "a", "note": ""}]}, "input[0].note", "is not known"),
        ({"input": "a", "note": ""}, "note", "is no field of this request"),
        ({"input": [{"content": [{"type": "text"}]}]}, "input[0].content[0].text", "is missing"),
        ({"input": [{"content": [{"type": "image_url"}]}]}, "input[0].content[0].image_url", "is missing"),
        ({"input": [{"content": "a", "text": "b"}]}, "input[0]", "both content and text"),
        ({"input": "a", "dimension": 32}, "dimension", "did you mean 'dimensions'?"),
        ({"input": "a", "truncate_prompt_tokens": 3}, "truncate_prompt_tokens", "is no field of this request"),
        ({"input": "a", "dimensions": "32"}, "dimensions", "should be a valid integer"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "can only be 'float', 'base64'"),
        ({"input": "a", "encoding_format": "float", "embedding_type": "int8"}, "encoding_format", "differ"),
        ({"input": "a", "normalize": False}, "normalize", "can only be true"),
        ({"input": "a", "late_chunking": 0}, "late_chunking", "late_chunking should be true or false"),
        ({"input": "a", "input_type": "passage"}, "input_type", "can only be"),
        ({"input": "a", "input_type": "document", "instruction": "b"}, "input", "have no instruction"),
        ({"input": "a", "input_type": "document", "task": "retrieval.query"}, "task", "two sides"),
        ({"input": "a", "task": "text-matching"}, "task", "has no counterpart here"),
        ({"input": "a", "task": "Find it."}, "input", "have no place for the task 'Find it.'"),
        ({"messages": []}, "messages", "no list of messages"),
        ({"messages": [{"role": "system", "content": "a"}]}, "messages", "no message of the user"),
        ({"messages": [USER, USER]}, "messages[1]", "one too many"),
        ({"messages": [USER, {"role": "assistant", "content": "b"}]}, "messages[1]", "one too many"),
        ({"messages": [{**USER, "name": "b"}]}, "messages[0].name", "is not known"),
        ({"messages": [[USER], [{"role": "tool", "content": "b"}]]}, "messages[1][0]", "one too many"),
        ({"messages": [[USER], "b"]}, "messages[1]", "no list of messages"),
        ({"input": ["a"] * 257}, "input", "257 inputs, over the limit of 256"),
        ({"input": [{"image": ["x" * 50] * 200}] * 2}, "input", "400 pictures, over the limit of 256"),
        ({"input": [{"image": ["x" * 50] * 257}]}, "input[0].image", "257 parts, over the limit of 256"),
        ({"input": [{"content": ["a"] * 257}]}, "input[0].content", "257 parts, over the limit of 256"),
        ({"messages": [[USER]] * 257}, "messages", "257 inputs, over the limit of 256"),
        ({"messages": [USER] * 257}, "messages", "257 parts, over the limit of 256"),
        ({"input": ["a", "b" * 100_001]}, "input[1]", "100,001 characters, over the limit of 100,000"),
        ({"input": "a", "instruction": "b" * 100_001}, "instruction", "over the limit of 100,000"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_by_its_field(post, body, field, said) -> None:
    response = post(body)
    assert response.status_code == 422, response.text
    error = response.json()["error"]
    assert error["param"] == field
    assert said in error["message"]


def test_an_input_that_cannot_be_read_refuses_the_request_and_is_named(post, picture, data_uri) -> None:
    broken = "data:image/png;base64," + base64.b64encode(picture("red", 64)[:-30]).decode()
    response = post({"input": [{"image": data_uri("red")}, {"image": broken}]})
    assert response.status_code == 422
    assert response.json()["error"]["param"].startswith("input[1]")


def test_a_body_that_is_no_json_is_refused(served) -> None:
    address = f"{served.url}/v1/embeddings"
    assert httpx.post(address, content=b"{", headers={"content-type": "application/json"}).status_code == 400
    empty = httpx.post(address, headers={"content-type": "application/json"})
    assert (empty.status_code, empty.json()["error"]["param"]) == (400, None)
    form = httpx.post(address, files={"input": b"a"})
    assert form.status_code == 415
    assert "takes no form" in form.json()["error"]["message"]


def test_what_is_no_object_is_refused(post) -> None:
    assert post(["a"]).status_code == 422


def test_words_that_are_too_long_are_cut_where_the_request_says_so(post, served) -> None:
    limit = served.embedder.item_processor.lengths.limit.tokens
    long = "red green blue " * limit
    response = post({"input": long, "truncate": True})
    assert _rows(response).shape == (1, 64)
    assert response.json()["usage"]["prompt_tokens"] <= limit
    refused = post({"input": long})
    assert refused.status_code == 422
    assert "over the limit" in refused.json()["error"]["message"]
