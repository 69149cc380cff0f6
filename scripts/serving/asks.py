"""Requests for a hammered server: good ones, whose answers are known, and bad ones, each with what it deserves."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from raw_http import Answer, request

from mllm_embed import MLLMEmbedder, Query
from mllm_embed.types import Document, Item

KEY = "not-a-secret-but-a-key-of-some-length"
_NEAR = 1e-5
_EDITS = ("put everything on snow", "remove the largest one", "the same on a meadow", "a small crown at the top")
_WORDS = ("a large carrot at the left", "two crowns on snow", "a tractor on a meadow", "nothing but a tomato")
_BIG = 257  # inputs, over the server's limit


@dataclass(frozen=True)
class Ask:
    """A request, and what must come of it.

    Args:
        kind: what it is called in the table.
        data: its bytes.
        statuses: one of which it must be answered with; none where the client hangs up instead of reading.
        wrong: says what is wrong with an answer; empty for a right one.
    """

    kind: str
    data: bytes
    statuses: tuple[int, ...] = (200,)
    wrong: Callable[[Answer], str] = lambda answer: ""


def data_uri(content: bytes, kind: str = "jpeg") -> str:
    """Return bytes as a picture that stands in a request."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def asked(path: str, body: Any, key: str = KEY) -> bytes:
    """Return the bytes of a request whose body is a value, as JSON, or bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return request(path, content, authorization=f"Bearer {key}")


def good_asks(
    embedder: MLLMEmbedder, pictures: dict[str, Path], gallery: np.ndarray, count: int, seed: int
) -> list[Ask]:
    """Return good requests: embeddings in OpenAI's and Cohere's words, one or several inputs, and searches.

    Args:
        embedder: computes what is right, one input at a time.
        pictures: files by their ids in the gallery.
        gallery: their vectors [N, D] float32.
        count: how many.
        seed: of the choice.
    """
    rng = random.Random(seed)
    ids = list(pictures)
    made = (_openai, _openai_several, _cohere, _search)
    return [made[at % len(made)](embedder, pictures, ids, gallery, rng) for at in range(count)]


def _openai(
    embedder: MLLMEmbedder, pictures: dict[str, Path], ids: list[str], gallery: np.ndarray, rng: random.Random
) -> Ask:
    item, value = _input(pictures, ids, rng)
    expected = _alone(embedder, [item])
    kind = rng.choice(("float", "base64"))
    body = {"input": [value], "encoding_format": kind}
    return Ask(f"embeddings, one, {kind}", asked("/v1/embeddings", body), wrong=_vectors(expected))


def _openai_several(
    embedder: MLLMEmbedder, pictures: dict[str, Path], ids: list[str], gallery: np.ndarray, rng: random.Random
) -> Ask:
    pairs = [_input(pictures, ids, rng) for _ in range(rng.randint(2, 12))]
    expected = _alone(embedder, [item for item, _ in pairs])
    body = {"input": [value for _, value in pairs], "encoding_format": "base64"}
    return Ask("embeddings, 2 to 12", asked("/v1/embeddings", body), wrong=_vectors(expected))


def _cohere(
    embedder: MLLMEmbedder, pictures: dict[str, Path], ids: list[str], gallery: np.ndarray, rng: random.Random
) -> Ask:
    texts = rng.sample(_WORDS, 2)
    expected = _alone(embedder, [Document(text=text) for text in texts])

    def wrong(answer: Answer) -> str:
        return _far(np.array(answer.json()["embeddings"]["float"], dtype=np.float32), expected)

    return Ask("Cohere's, texts", asked("/v2/embed", {"texts": texts, "input_type": "search_document"}), wrong=wrong)


def _search(
    embedder: MLLMEmbedder, pictures: dict[str, Path], ids: list[str], gallery: np.ndarray, rng: random.Random
) -> Ask:
    name, words = rng.choice(ids), rng.choice(_EDITS)
    vector = _alone(embedder, [Query(image=pictures[name], instruction=words)])[0]
    scores = dict(zip(ids, (gallery @ vector).tolist(), strict=True))
    best = sorted(scores.values(), reverse=True)[:10]

    def wrong(answer: Answer) -> str:
        hits = answer.json()["hits"]
        given = np.array([hit["score"] for hit in hits])
        own = np.array([scores[hit["id"]] for hit in hits])
        return _far(given, np.array(best)) or _far(given, own)

    reference = {"id": name} if rng.random() < 0.5 else {"image": data_uri(pictures[name].read_bytes())}
    return Ask("search", asked("/v1/search", {**reference, "instruction": words, "k": 10}), wrong=wrong)


def _input(pictures: dict[str, Path], ids: list[str], rng: random.Random) -> tuple[Item, Any]:
    """Return an item, and what asks for it in a request."""
    file, words = pictures[rng.choice(ids)], rng.choice(_EDITS)
    picture = data_uri(file.read_bytes())
    composed = Query(image=file, instruction=words), {"image": picture, "instruction": words}
    alone = Document(image=file), {"image": picture}
    text = rng.choice(_WORDS)
    return rng.choice((composed, composed, alone, (Document(text=text), text)))


def _alone(embedder: MLLMEmbedder, items: Sequence[Item]) -> np.ndarray:
    """Return vectors [N, D] float32, each computed by itself."""
    return np.concatenate([_vector(embedder, item) for item in items])


@cache
def _vector(embedder: MLLMEmbedder, item: Item) -> np.ndarray:
    return embedder.encode([item], show_progress=False)


def _vectors(expected: np.ndarray) -> Callable[[Answer], str]:
    def wrong(answer: Answer) -> str:
        given = [entry["embedding"] for entry in answer.json()["data"]]
        read = [np.frombuffer(base64.b64decode(row), "<f4") if isinstance(row, str) else row for row in given]
        return _far(np.array(read, dtype=np.float32), expected)

    return wrong


def _far(given: np.ndarray, expected: np.ndarray) -> str:
    if given.shape != expected.shape:
        return f"shape {given.shape}, not {expected.shape}"
    most = float(np.abs(given - expected).max())
    return "" if most <= _NEAR else f"{most:.2e} from what the model computes"


def bad_asks(rng: random.Random, good: Sequence[Ask], pictures: Sequence[Path]) -> Iterator[Ask]:
    """Yield malformed requests without end, of one kind after the other."""
    fixed = _fixed_asks(pictures[0].read_bytes())
    while True:
        yield from fixed
        whole = rng.choice(good).data
        yield Ask("wrong key", whole.replace(KEY.encode(), KEY[::-1].encode()), (401,))
        yield Ask("hung up before its end", whole[: rng.randint(1, len(whole) - 1)], ())
        yield Ask("hung up before the answer", whole, ())
        junk = bytes(rng.randrange(256) for _ in range(200))
        yield Ask("no HTTP", b"\x00" + junk + b"\r\n\r\n", (400,))
        yield Ask(
            "JSON cut", asked("/v1/embeddings", whole.partition(b"\r\n\r\n")[2][: rng.randint(1, 40)]), (400, 422)
        )


def _fixed_asks(picture: bytes) -> list[Ask]:
    whole = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(whole, "PNG")
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    pictures = {
        "picture cut": data_uri(picture[: len(picture) // 2]),
        "picture of noise": data_uri(b"\xff\xd8\xff" + bytes(range(256))),
        "picture of no bytes": data_uri(b""),
        "drawing": data_uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg+xml"),
        "picture with a broken end": data_uri(whole.getvalue()[:-20], "png"),
        "bomb": data_uri(bomb.getvalue(), "png"),
        "no base64": "data:image/png;base64,%%%",
        "file of the server": "file:///etc/passwd",
        "address": "http://169.254.169.254/latest/meta-data/",
    }
    bodies: dict[str, tuple[str, Any, tuple[int, ...]]] = {
        "broken JSON": ("/v1/embeddings", b'{"input": [', (400,)),
        "wrong type": ("/v1/embeddings", {"input": 5}, (422,)),
        "unknown field": ("/v1/embeddings", {"input": "a", "prompt": "b"}, (422,)),
        "too many inputs": ("/v1/embeddings", {"input": ["a"] * _BIG}, (413, 422)),
        "another model": ("/v1/embeddings", {"input": "a", "model": "gpt-9"}, (404,)),
        "length that it has not": ("/v1/embeddings", {"input": "a", "dimensions": 7}, (400,)),
        "empty text": ("/v1/embeddings", {"input": ""}, (422,)),
        "half a letter": ("/v1/embeddings", b'{"input": "\\ud800"}', (400, 422)),
        "nested": ("/v1/embeddings", b'{"input": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", (400,)),
        "two kinds": ("/v2/embed", {"texts": ["a"], "images": ["b"], "input_type": "image"}, (400, 422)),
        "unknown id": ("/v1/search", {"id": "../../etc/passwd", "instruction": "red"}, (404, 422)),
        "unknown column": ("/v1/search", {"instruction": "red", "filter": {"price": 3}}, (422,)),
        "k of words": ("/v1/search", {"instruction": "red", "k": "many"}, (422,)),
        "rows without leave": ("/v1/gallery/rows", {"rows": [{"id": "a", "text": "b"}]}, (403,)),
        "no such path": ("/v1/completions", {"input": "a"}, (404,)),
    }
    asks = [Ask(kind, asked(path, body), statuses) for kind, (path, body, statuses) in bodies.items()]
    asks += [
        Ask(kind, asked("/v1/embeddings", {"input": [{"image": value}]}), (422,)) for kind, value in pictures.items()
    ]
    key = {"authorization": f"Bearer {KEY}"}
    return [
        *asks,
        Ask("wrong method", request("/v1/embeddings", method="GET", **key), (405,)),
        Ask("wrong kind of body", request("/v1/embeddings", b"input=a", content_type="text/plain", **key), (415,)),
        Ask("huge body", request("/v1/embeddings", b"", **key).replace(b"length: 0", b"length: 999999999"), (413,)),
    ]
