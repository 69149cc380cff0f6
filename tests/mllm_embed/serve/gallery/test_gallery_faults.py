"""A gallery over HTTP that others change meanwhile, or that fails: who is told what, and that no path is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from mllm_embed import MLLMEmbedder, Searcher, VectorStore
from mllm_embed.errors import DataError
from mllm_embed.locks import folder_lock
from mllm_embed.serve.app import create_app
from mllm_embed.serve.gallery.kept_pictures import KeptPictures
from mllm_embed.serve.gallery.locked import LockedGallery
from mllm_embed.store.gallery import StoreGallery

ASKED = {"instruction": "a shoe", "k": 3}
COLORS = ["red", "green", "blue", "white"]


@dataclass
class _Watched(StoreGallery):
    """A gallery to which something happens before the pictures of its rows are looked up."""

    store: VectorStore
    meanwhile: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.store)

    def sources(self, ids: Any) -> Any:
        while self.meanwhile:
            self.meanwhile.pop()()
        return super().sources(ids)


@dataclass
class _Running:
    client: httpx.Client
    gallery: _Watched
    folder: Path

    def ids(self) -> list[str]:
        answer = self.client.post("/v1/search", json=ASKED)
        assert answer.status_code == 200, answer.text
        return [hit["id"] for hit in answer.json()["hits"]]

    def refused(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Return a refusal, which holds nothing of where the gallery lies."""
        answer = self.client.request(method, path, json=body)
        assert answer.status_code >= 400 and str(self.folder.parent) not in answer.text
        return answer


@pytest.fixture
def run(
    make_service: Callable[..., Any],
    running: Callable[..., Any],
    served_embedder: MLLMEmbedder,
    picture: Callable[..., bytes],
    tmp_path: Path,
) -> Iterator[_Running]:
    store = VectorStore.create(tmp_path / "store", served_embedder.dimension, provenance=served_embedder.provenance)
    vectors = served_embedder.encode(COLORS, show_progress=False)
    store.add(COLORS, vectors, metadata=[{"price": at} for at in range(len(COLORS))])
    gallery = _Watched(store)
    service = make_service(
        searcher=Searcher(served_embedder, LockedGallery(gallery)), kept=KeptPictures(tmp_path / "store" / "pictures")
    )
    with running(create_app(service)) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield _Running(client, gallery, tmp_path / "store")


def test_a_search_whose_answer_is_removed_meanwhile_finds_the_others(run: _Running) -> None:
    first, *others = run.ids()
    run.gallery.meanwhile.append(lambda: run.gallery.store.remove([first]))
    assert run.ids()[:2] == others
    listed = run.client.get("/v1/gallery/rows").json()
    run.gallery.meanwhile.append(lambda: run.gallery.store.remove([others[0]]))
    again = run.client.get("/v1/gallery/rows").json()
    assert [row["id"] for row in again["rows"]] == [row["id"] for row in listed["rows"] if row["id"] != others[0]]


def test_rows_that_never_stay_are_a_reason_to_ask_later(run: _Running) -> None:
    def gone() -> None:
        run.gallery.meanwhile.append(gone)
        run.gallery.store.position("nowhere")

    run.gallery.meanwhile.append(gone)
    for answer in (run.refused("POST", "/v1/search", ASKED), run.refused("GET", "/v1/gallery/rows")):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        run.gallery.meanwhile[:] = [gone]


def test_a_gallery_that_fails_is_no_fault_of_the_filter(run: _Running) -> None:
    def damaged() -> None:
        raise DataError(f"{run.folder}/shards/000000.npy is damaged")

    run.gallery.meanwhile.append(damaged)
    assert run.refused("POST", "/v1/search", {**ASKED, "filter": {"price": {"<": 9}}}).status_code == 500
    run.gallery.meanwhile.append(damaged)
    assert run.refused("GET", "/v1/gallery/rows").status_code == 500


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": " ", "text": "a shoe"}, "id 1 is empty"),
        ({"id": "new", "text": "a shoe", "metadata": {"price": "much"}}, 'the column "price" holds numbers and words'),
        ({"id": "new", "text": "a shoe", "metadata": {"price": {"a": 1}}}, 'the column "price" of row 1 holds'),
        ({"id": "new", "text": "a shoe", "metadata": {"id": 1}}, "the id of a row is kept anyway"),
    ],
)
def test_what_cannot_be_added_is_told_by_its_own_fault(run: _Running, row: dict[str, Any], said: str) -> None:
    answer = run.refused("POST", "/v1/gallery/rows", {"rows": [row]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "rows")
    assert said in answer.json()["error"]["message"]


def test_a_gallery_that_another_process_writes_to_is_to_be_asked_again(run: _Running) -> None:
    with folder_lock(run.folder):
        for method, body in (("POST", {"rows": [{"id": "new", "text": "a shoe"}]}), ("DELETE", {"ids": ["red"]})):
            answer = run.refused(method, "/v1/gallery/rows", body)
            assert answer.status_code == 503 and "another process" in answer.json()["error"]["message"]
            assert answer.headers["retry-after"]
    assert run.client.request("DELETE", "/v1/gallery/rows", json={"ids": ["red"]}).status_code == 200


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"instruction": "shoe " * 4000}, "instruction"),
        ({"instruction": "a shoe", "avoid": "shoe " * 4000}, "instruction and avoid"),
        ({"image": "red", "instruction": "shoe " * 4000}, "image and instruction"),
        ({"image": "red", "edit_strength": 2, "instruction": "shoe " * 4000}, "image and instruction"),
        ({"avoid": "a hat"}, "instruction"),
        ({"instruction": "a shoe", "rerank": 2}, "rerank"),
        ({"instruction": "a shoe", "rerank_weight": 2}, "rerank_weight"),
    ],
)
def test_the_field_at_fault_is_named(
    run: _Running, data_uri: Callable[..., str], asked: dict[str, Any], field: str
) -> None:
    body = {**asked, "image": data_uri(asked["image"])} if "image" in asked else asked
    answer = run.refused("POST", "/v1/search", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, field), answer.text


def test_null_leaves_a_field_out(run: _Running) -> None:
    nothing = dict.fromkeys(("image", "id", "avoid", "filter", "allow", "exclude", "rerank", "edit_strength"))
    answer = run.client.post("/v1/search", json={**ASKED, **nothing, "explain": None})
    assert [hit["id"] for hit in answer.json()["hits"]] == run.ids()
    row = {"id": "new", "text": "a shoe", "image": None, "metadata": None}
    assert run.client.post("/v1/gallery/rows", json={"rows": [row]}).status_code == 201


def test_a_picture_that_two_rows_share_outlives_one_that_is_not_added(
    run: _Running, data_uri: Callable[..., str]
) -> None:
    rows = [{"id": name, "image": data_uri("red")} for name in ("one", "two")]
    assert run.client.post("/v1/gallery/rows", json={"rows": rows[:1]}).status_code == 201
    assert (
        run.refused("POST", "/v1/gallery/rows", {"rows": [rows[1] | {"metadata": {"price": "x"}}]}).status_code == 422
    )
    assert run.client.get("/v1/gallery/pictures/one").status_code == 200
