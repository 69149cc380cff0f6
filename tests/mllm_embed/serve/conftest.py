"""A real server on a free port, around a tiny real model: shared by all tests of a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from attacks.picture_host import png
from attacks.pictures import data_uri as as_data_uri
from mllm_embed import MLLMEmbedder
from mllm_embed.serve.service import Service
from servers.http import running as running_server

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
    with running_server(app, lifespan="on", log_level="warning") as server:
        yield server.url


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


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """`picture("red", 32)`: the bytes of a PNG of one colour."""
    return lambda color, size=32: png(size, size, color)


@pytest.fixture(scope="session")
def data_uri(picture: Callable[..., bytes]) -> Callable[..., str]:
    """`data_uri("red", 32)`: the same as a data URI."""
    return lambda *asked: as_data_uri(picture(*asked))
