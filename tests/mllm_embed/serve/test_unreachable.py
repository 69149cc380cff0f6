"""A gallery on a server that is down: clients are told to come again, and not where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from mllm_embed import MLLMEmbedder
from mllm_embed.errors import UnreachableError
from mllm_embed.search.searcher import Searcher
from mllm_embed.serve.app import create_app
from mllm_embed.serve.gallery.kept_pictures import KeptPictures
from mllm_embed.serve.gallery.locked import LockedGallery
from mllm_embed.serve.service import Service


class Down:
    """A gallery whose server does not answer, from a moment on."""

    down = False

    def __init__(self, gallery: Any) -> None:
        self._gallery = gallery

    def __getattr__(self, name: str) -> Any:
        if self.down:
            raise UnreachableError("qdrant:http://10.9.8.7:6333/photos cannot be reached or used (refused)")
        return getattr(self._gallery, name)

    def __len__(self) -> int:
        return self.__getattr__("__len__")()


@pytest.fixture(scope="module")
def client(
    served_embedder: MLLMEmbedder,
    make_service: Callable[..., Service],
    running: Callable[[Any], AbstractContextManager[str]],
    picture: Callable[..., bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[httpx.Client]:
    folder: Path = tmp_path_factory.mktemp("photos")
    (folder / "red.png").write_bytes(picture("red"))
    gallery = Down(Searcher.from_folder(served_embedder, folder, show_progress=False).gallery)
    searcher = Searcher(served_embedder, LockedGallery(gallery))
    app = create_app(make_service(searcher=searcher, kept=KeptPictures(folder / "kept")))
    with running(app) as url, httpx.Client(base_url=url, trust_env=False, timeout=30) as made:
        assert made.post("/v1/search", json={"instruction": "red"}).status_code == 200
        gallery.down = True
        yield made


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/search", {"instruction": "red"}),
        ("POST", "/v1/search", {"instruction": "red", "filter": {"color": "red"}}),
        ("POST", "/v1/search", {"id": "red", "instruction": "blue"}),
        ("POST", "/v1/search", {"instruction": "blue", "exclude": ["red"]}),
        ("GET", "/v1/gallery", None),
        ("GET", "/v1/gallery/rows", None),
        ("GET", "/v1/gallery/pictures/red", None),
        ("POST", "/v1/gallery/rows", {"rows": [{"id": "x", "text": "x"}]}),
        ("DELETE", "/v1/gallery/rows", {"ids": ["red"]}),
    ],
)
def test_its_address_is_not_told(
    method: str, path: str, body: Any, client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    answer = client.request(method, path, json=body)
    assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
    assert "does not answer" in answer.text and "10.9" not in answer.text and "qdrant" not in answer.text
    assert "10.9.8.7" in caplog.text  # to whoever runs it


def test_what_needs_no_gallery_is_answered(client: httpx.Client) -> None:
    assert client.post("/v1/embeddings", json={"input": "red"}).status_code == 200
