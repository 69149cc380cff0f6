"""A browser, and the page on a real server with a real model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browsing.chromium import chromium
from browsing.tab import IDS, TEXT, Tab, facts, picture

ASSETS = Path(__file__).parents[4] / "scripts" / "assets"


@pytest.fixture(scope="module")
def serve(
    make_service: Callable[..., Any], running: Callable[[Any], AbstractContextManager[str]]
) -> Callable[[Any], AbstractContextManager[str]]:
    """`with serve(access) as address`: a gallery of seventy pictures, for those whom an `Access` lets in."""
    from mllm_embed import MLLMEmbedder
    from mllm_embed.search.searcher import Searcher
    from mllm_embed.serve.app import create_app
    from mllm_embed.serve.gallery.locked import LockedGallery
    from mllm_embed.store.gallery import MemoryGallery
    from mllm_embed.types import Document

    adapter = ASSETS / "adapters" / "instructions"
    embedder = MLLMEmbedder.from_pretrained(ASSETS / "base", adapter=adapter, dtype="float32", device="cpu")
    pictures = [None if one == TEXT else picture(at) for at, one in enumerate(IDS)]
    vectors = embedder.encode([Document(image=one) for one in pictures if one is not None], show_progress=False)
    vectors = np.concatenate([vectors, -vectors[:1]])  # of the row of words, which is nowhere among the first answers
    kept = [facts(at) for at in range(len(IDS))]
    searcher = Searcher(embedder, LockedGallery(MemoryGallery(IDS, vectors, pictures, embedder.provenance, kept)))

    def begin(access: Any) -> AbstractContextManager[str]:
        return running(
            create_app(make_service(embedder=embedder, searcher=searcher, access=access, model_name="scenes"))
        )

    return begin


@pytest.fixture(scope="module")
def site(serve: Callable[[Any], AbstractContextManager[str]]) -> Iterator[str]:
    """The address of a server that asks for no key."""
    from mllm_embed.serve.access import Access

    with serve(Access()) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


@pytest.fixture
def tab(browser: Any, site: str) -> Iterator[Tab]:
    """A tab in which nothing goes wrong, and which asks nobody but the server."""
    with Tab(browser, site) as made:
        yield made
    assert made.faults == []
    assert made.hosts() <= {site.removeprefix("http://")}
