"""A real server on a free port, around a tiny real model: shared by all tests of a process."""

from __future__ import annotations

import base64
import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from PIL import Image

from mllm_embed import MLLMEmbedder
from mllm_embed.serve.service import Service

MODEL = "org/tiny"  # what it is called: a hub id, which has a slash
TRAINED = (32,)  # the lengths that its vectors may be cut to


@dataclass(frozen=True)
class Served:
    """A server that runs: its address, and what answers in it."""

    url: str
    service: Service

    @property
    def embedder(self) -> MLLMEmbedder:
        """The model that it computes with, to compare with; nobody else computes while a request is answered."""
        return self.service.embedder


@contextmanager
def _running(app: Any) -> Iterator[str]:
    """Answer for an application on a free port of this machine, and give its address; end it as SIGTERM would."""
    # of TCP by name, or else asyncio leaves Nagle's delay of 40 ms in it
    listening = socket.socket(proto=socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    # a busy machine takes its time between two requests on a connection
    patience = {"timeout_keep_alive": 75, "timeout_graceful_shutdown": 10}
    server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_level="warning", **patience))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
        assert thread.is_alive(), "the server did not start"
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
    assert not thread.is_alive(), "the server did not end"


@pytest.fixture(scope="session")
def running() -> Callable[[Any], AbstractContextManager[str]]:
    """`with running(app) as url`: answers for an application of a test's own."""
    return _running


@pytest.fixture(scope="session")
def served_embedder(tiny_llava: Path) -> MLLMEmbedder:
    """The tiny model in float32, as if trained to be cut to `TRAINED`."""
    plain = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", device="cpu")
    return MLLMEmbedder(plain.model, plain.processor, replace(plain.settings, matryoshka=TRAINED))


@pytest.fixture(scope="session")
def make_service(served_embedder: MLLMEmbedder) -> Callable[..., Service]:
    """`make_service(**fields)`: a service around the tiny model, open to all, with other fields as given."""

    def make(**fields: Any) -> Service:
        from mllm_embed.serve.access import Access
        from mllm_embed.serve.batcher import Batcher
        from mllm_embed.serve.limits import Limits
        from mllm_embed.serve.pictures import PictureReader

        embedder = fields.pop("embedder", served_embedder)
        limits = fields.setdefault("limits", Limits())
        fields.setdefault("batcher", Batcher(embedder))
        fields.setdefault("pictures", PictureReader(limits))
        fields.setdefault("access", Access.of(None, None))
        fields.setdefault("model_name", MODEL)
        return Service(embedder, **fields)

    return make


@pytest.fixture(scope="session")
def served(
    make_service: Callable[..., Service], running: Callable[[Any], AbstractContextManager[str]]
) -> Iterator[Served]:
    """A server of the tiny model, without a gallery, that lives as long as the tests."""
    from mllm_embed.serve.app import create_app

    service = make_service()
    with running(create_app(service)) as url:
        yield Served(url, service)


def _picture(color: str, size: int = 32) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), color).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """`picture("red", 32)`: the bytes of a PNG of one colour."""
    return _picture


@pytest.fixture(scope="session")
def data_uri() -> Callable[..., str]:
    """`data_uri("red", 32)`: the same as a data URI."""
    return lambda *asked: "data:image/png;base64," + base64.b64encode(_picture(*asked)).decode()
