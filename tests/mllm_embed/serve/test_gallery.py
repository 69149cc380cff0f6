"""A gallery over HTTP: what it answers is what `Searcher` answers, and who may write to it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import numpy as np
import pytest
from PIL import Image

import tiny
from attacks.pictures import data_uri
from mllm_embed import MLLMEmbedder, Query, Searcher, VectorStore
from mllm_embed.data.filters import parse_filter
from mllm_embed.generate.generator import Generator
from mllm_embed.generate.rerank import ZeroShotJudge
from mllm_embed.search.reranking import reranked
from mllm_embed.serve.app import create_app
from mllm_embed.serve.gallery.kept_pictures import KeptPictures
from mllm_embed.serve.gallery.locked import LockedGallery
from mllm_embed.store.gallery import MemoryGallery, StoreGallery
from mllm_embed.types import Document

ODD = 'a/b "c" %2F <i>ü.png'  # an id may be any words
FILTER = parse_filter({"price": {"<": 30}, "tone": "light"})
NAMES = ["red", "green", "blue", "white", ODD]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    files = {}
    for at, name in enumerate(NAMES):
        files[name] = folder / f"{at}.png"
        Image.fromarray(rng.integers(0, 256, (40, 24 + 60 * (at == 4), 3), dtype=np.uint8)).save(files[name])
    return files


@pytest.fixture(scope="module")
def searcher(served_embedder: MLLMEmbedder, photos: dict[str, Path]) -> Searcher:
    vectors = served_embedder.encode([Document(image=path) for path in photos.values()], show_progress=False)
    metadata = [{"price": 10 * at, "tone": "dark" if at < 2 else "light"} for at in range(len(photos))]
    return Searcher(served_embedder, MemoryGallery(list(photos), vectors, list(photos.values()), metadata=metadata))


@pytest.fixture(scope="module")
def client(make_service: Callable[..., Any], running: Callable[..., Any], searcher: Searcher) -> Iterator[httpx.Client]:
    service = make_service(searcher=Searcher(searcher.embedder, LockedGallery(searcher.gallery)))
    with running(create_app(service)) as url, httpx.Client(base_url=url, timeout=60) as found:
        yield found


def _uri(path: Path) -> str:
    return data_uri(path.read_bytes())


def _ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]]


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({"image": "red", "instruction": "in blue"}, {}),
        ({"image": "red", "instruction": "in blue", "edit_strength": 0.5}, {"edit_strength": 0.5}),
        ({"image": "red"}, {}),
        ({"instruction": "a blue shoe", "avoid": "a hat"}, {}),
        ({"id": "green", "instruction": "in blue", "exclude_reference": True}, {"exclude_reference": True}),
        ({"image": "red", "allow": ["blue", ODD], "exclude": ["blue"]}, {"allow": ["blue", ODD], "exclude": ["blue"]}),
        ({"image": "red", "filter": {"price": {"<": 30}, "tone": "light"}}, {"where": FILTER}),
    ],
)  # fmt: skip
def test_answers_are_those_of_a_search_in_process(
    client: httpx.Client, searcher: Searcher, photos: dict[str, Path], asked: dict[str, Any], options: dict[str, Any]
) -> None:
    reference = asked.get("image") or asked.get("id")
    query = Query(photos[reference] if reference else None, asked.get("instruction"), avoid=asked.get("avoid"))
    expected = searcher.search(query, 4, **options)
    body = {**asked, "image": _uri(photos[asked["image"]])} if "image" in asked else asked
    answer = client.post("/v1/search", json={**body, "k": 4})
    assert _ids(answer) == [hit.id for hit in expected]
    assert [hit["score"] for hit in answer.json()["hits"]] == pytest.approx([hit.score for hit in expected], abs=1e-5)
    assert answer.json()["role"] == query.role
    for hit in answer.json()["hits"]:
        assert hit["metadata"]["price"] == 10 * NAMES.index(hit["id"])
        assert unquote(hit["picture"]).endswith(hit["id"])


def test_a_form_uploads_the_reference(client: httpx.Client, photos: dict[str, Path]) -> None:
    request = {"instruction": "in blue", "k": 3}
    form = client.post("/v1/search", data={"request": json.dumps(request)}, files={"image": photos["red"].open("rb")})
    assert form.json() == client.post("/v1/search", json={**request, "image": _uri(photos["red"])}).json()


_PART = b'--a\r\nContent-Disposition: form-data; name="request"\r\n\r\n{}\r\n'


@pytest.mark.parametrize("body", [b"x", b"--a\r\n[]--a--\r\n", b"--a\r\n\r\nx", 2 * _PART + b"--a--"])
def test_a_form_that_cannot_be_read_says_what_one_is(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/v1/search", content=body, headers={"Content-Type": "multipart/form-data; boundary=a"})
    assert answer.status_code == 422, answer.text
    assert "form cannot be read: send one file" in answer.text


@pytest.mark.parametrize(
    ("words", "said"), [('"k": 1, "k": 2', "twice"), ('"min_score": NaN', "NaN"), ('"task": "\\u0000"', "NUL")]
)
def test_the_json_of_a_form_is_read_as_that_of_a_body(client: httpx.Client, words: str, said: str) -> None:
    asked = '{"instruction": "a shoe", ' + words + "}"
    answers = [
        client.post("/v1/search", files={"request": (None, asked)}),
        client.post("/v1/search", content=asked.encode(), headers={"Content-Type": "application/json"}),
    ]
    for answer in answers:
        assert answer.status_code == 400 and said in answer.text, answer.text
    assert client.post("/v1/search").status_code == 400


def test_answers_under_a_score_are_counted(client: httpx.Client) -> None:
    scores = [hit["score"] for hit in client.post("/v1/search", json={"instruction": "a shoe"}).json()["hits"]]
    answer = client.post("/v1/search", json={"instruction": "a shoe", "min_score": scores[1]}).json()
    assert len(answer["hits"]) == 2 and answer["below"] == len(NAMES) - 2


def test_pictures_are_shown_whole_and_small(client: httpx.Client, photos: dict[str, Path]) -> None:
    place = next(row for row in client.get("/v1/gallery/rows").json()["rows"] if row["id"] == ODD)["picture"]
    whole = client.get(place)
    assert whole.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(whole.content)).size == (84, 40)
    assert Image.open(io.BytesIO(client.get(place, params={"width": 42}).content)).size == (42, 20)
    again = client.get(place, headers={"If-None-Match": whole.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_rows_are_listed_in_order_and_filtered(client: httpx.Client) -> None:
    about = client.get("/v1/gallery").json()
    assert about["rows"] == len(NAMES) and about["writable"] is False
    assert about["columns"]["tone"] == {"kind": "text", "values": {"light": 3, "dark": 2}, "least": None, "most": None}
    assert (about["columns"]["price"]["least"], about["columns"]["price"]["most"]) == (0, 40)
    page = client.get("/v1/gallery/rows", params={"offset": 1, "limit": 2}).json()
    assert (page["total"], [row["id"] for row in page["rows"]]) == (len(NAMES), NAMES[1:3])
    light = client.get("/v1/gallery/rows", params={"filter": '{"tone": "light"}', "limit": 2}).json()
    assert (light["total"], [row["id"] for row in light["rows"]]) == (3, NAMES[2:4])


def test_why_an_answer_matched_is_said_in_words(client: httpx.Client) -> None:
    asked = {"instruction": "a blue shoe", "k": 2}
    answer = client.post("/v1/search", json={**asked, "explain": True}).json()
    assert [hit["id"] for hit in answer["hits"]] == _ids(client.post("/v1/search", json=asked))
    for words in (answer["words"], *(hit["words"] for hit in answer["hits"])):
        assert all(isinstance(word, str) and weight > 0 for word, weight in words)


def test_the_model_itself_puts_answers_in_order(
    make_service: Callable[..., Any],
    running: Callable[..., Any],
    photos: dict[str, Path],
    client: httpx.Client,
    tmp_path: Path,
) -> None:
    model = tiny.give_words(tiny.make_tiny_llava(tmp_path / "saying"), ["yes", "no"])
    embedder = MLLMEmbedder.from_pretrained(model, dtype="float32", device="cpu")
    vectors = embedder.encode([Document(image=path) for path in photos.values()], show_progress=False)
    gallery = MemoryGallery(list(photos), vectors, list(photos.values()))
    query = Query(instruction="a blue shoe")
    hits = Searcher(embedder, gallery).search(query, 5)
    expected = reranked(ZeroShotJudge(Generator(embedder)), query, hits, 4)
    asked = {"instruction": "a blue shoe", "k": 5}
    service = make_service(embedder=embedder, searcher=Searcher(embedder, LockedGallery(gallery)))
    with running(create_app(service)) as url:
        answer = httpx.post(f"{url}/v1/search", json={**asked, "rerank": 4}, timeout=60)
        assert _ids(answer) == [hit.id for hit in expected] != [hit.id for hit in hits]

    class Backwards:
        def scores(self, query: Query, candidates: Sequence[Document]) -> list[float]:
            return list(map(float, range(len(candidates))))

    service = make_service(embedder=embedder, searcher=Searcher(embedder, LockedGallery(gallery)), reranker=Backwards())
    with running(create_app(service)) as url:
        answer = httpx.post(f"{url}/v1/search", json={**asked, "rerank": 3}, timeout=60)
        assert _ids(answer) == [hits[at].id for at in (2, 1, 0, 3, 4)]
        assert [hit.get("rerank_score") for hit in answer.json()["hits"]] == [2.0, 1.0, 0.0, None, None]
        weighed = {**asked, "rerank": 3, "rerank_weight": 1e6}  # so that the cosine alone counts
        answer = httpx.post(f"{url}/v1/search", json=weighed, timeout=60)
        assert [hit.get("rerank_score") for hit in answer.json()["hits"]] == [0.0, 1.0, 2.0, None, None]
    # a model that has no word for yes says so
    assert client.post("/v1/search", json={**asked, "rerank": 3}).status_code == 422


@pytest.mark.parametrize(
    ("asked", "status", "field"),
    [
        ({}, 422, "instruction"),
        ({"instruction": " "}, 422, "instruction"),
        ({"instruction": "x", "k": 0}, 422, "k"),
        ({"instruction": "x", "k": 10**6}, 422, "k"),
        ({"instruction": "x", "colour": "red"}, 422, "colour"),
        ({"id": "../../etc/passwd"}, 404, "id"),
        ({"id": "red", "image": "data:,"}, 422, "id"),
        ({"image": "/etc/passwd", "instruction": "x"}, 422, "image"),
        ({"instruction": "x", "exclude": ["unknown"]}, 404, "exclude"),
        ({"instruction": "x", "allow": ["unknown"]}, 404, "allow"),
        ({"instruction": "x", "allow": []}, 422, "allow"),
        ({"instruction": "x", "filter": {"prize": 1}}, 422, "filter"),
        ({"instruction": "x", "filter": {"price": "cheap"}}, 422, "filter"),
        ({"instruction": "x", "filter": {"price": {"~": 1}}}, 422, "filter"),
        ({"instruction": "x", "edit_strength": 2}, 422, "edit_strength"),
        ({"instruction": "x" * 200_000}, 422, "instruction"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(
    client: httpx.Client, photos: dict[str, Path], asked: dict[str, Any], status: int, field: str
) -> None:
    answer = client.post("/v1/search", json=asked)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == field
    assert str(photos["red"].parent) not in answer.text


def test_a_row_whose_picture_is_gone_is_named(client: httpx.Client, photos: dict[str, Path]) -> None:
    whole = photos["white"].read_bytes()
    photos["white"].write_bytes(b"no picture any more")
    try:
        answer = client.post("/v1/search", json={"id": "white", "instruction": "in blue"})
    finally:
        photos["white"].write_bytes(whole)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "id"
    assert answer.json()["error"]["message"] == 'the picture of "white" cannot be read any more'


def test_a_gallery_is_written_to_only_where_it_may_be(client: httpx.Client) -> None:
    assert client.post("/v1/gallery/rows", json={"rows": [{"id": "x", "text": "y"}]}).status_code == 403
    assert client.request("DELETE", "/v1/gallery/rows", json={"ids": ["red"]}).status_code == 403


def test_rows_come_and_go(
    make_service: Callable[..., Any],
    running: Callable[..., Any],
    searcher: Searcher,
    photos: dict[str, Path],
    tmp_path: Path,
) -> None:
    embedder, folder = searcher.embedder, tmp_path / "store"
    store = VectorStore.create(folder, embedder.dimension, provenance=embedder.provenance)
    vectors = embedder.encode([photos["red"]], show_progress=False)
    store.add(["red"], vectors, [str(photos["red"])], metadata=[{"price": 5}])
    service = make_service(
        searcher=Searcher(embedder, LockedGallery(StoreGallery(store))), kept=KeptPictures(folder / "pictures")
    )
    with running(create_app(service)) as url, httpx.Client(base_url=url, timeout=60) as client:
        rows = [
            {"id": "new", "image": _uri(photos["blue"]), "metadata": {"price": 7}},
            {"id": "words", "text": "a blue shoe"},
        ]
        assert client.post("/v1/gallery/rows", json={"rows": rows}).json() == {"added": 2, "rows": 3}
        found = client.post("/v1/search", json={"image": _uri(photos["blue"]), "filter": {"price": {">": 6}}}).json()
        assert [hit["id"] for hit in found["hits"]] == ["new"]
        assert found["hits"][0]["score"] == pytest.approx(1, abs=1e-5)
        assert client.get(found["hits"][0]["picture"]).status_code == 200
        assert client.get("/v1/gallery/pictures/words").status_code == 404

        # all or nothing
        broken = {"id": "broken", "image": data_uri(b"\x89PNG\r\n\x1a\n")}
        fine = {"id": "fine", "image": _uri(photos["green"])}
        for bad, status, field in (
            (broken, 422, "rows[1].image"),
            ({"id": "new", "text": "again"}, 409, "rows"),
            ({"id": "fine", "text": "twice"}, 422, "rows"),
            ({"id": "empty"}, 422, "rows[1]"),
            ({"id": "price", "text": "a shoe", "metadata": {"price": "much"}}, 422, "rows"),
        ):
            answer = client.post("/v1/gallery/rows", json={"rows": [fine, bad]})
            assert (answer.status_code, answer.json()["error"]["param"]) == (status, field), answer.text
        assert client.get("/v1/gallery").json()["rows"] == 3
        assert len(list((folder / "pictures").iterdir())) == 1

        assert client.request("DELETE", "/v1/gallery/rows", json={"ids": ["red", "gone"]}).status_code == 404
        assert client.request("DELETE", "/v1/gallery/rows", json={"ids": ["red"]}).json() == {"removed": 1, "rows": 2}
    assert sorted(VectorStore.open(folder).living) == ["new", "words"]


def test_a_service_without_a_gallery_says_so(make_service: Callable[..., Any], running: Callable[..., Any]) -> None:
    with running(create_app(make_service())) as url:
        answer = httpx.post(f"{url}/v1/search", json={"instruction": "x"}, timeout=60)
        assert (answer.status_code, "GALLERY" in answer.text) == (404, True)
