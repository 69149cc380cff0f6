"""A small model that was distilled for composed queries, served over a gallery of its teacher's vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from mllm_embed import MLLMEmbedder, Query, Searcher, VectorStore
from mllm_embed.serve.access import Access
from mllm_embed.serve.app import create_app
from mllm_embed.serve.limits import Limits
from mllm_embed.serve.operations.making import GallerySettings, Making
from mllm_embed.serve.operations.server import Start


def test_it_answers_composed_queries_and_refuses_others(
    served_embedder: MLLMEmbedder,
    running: Callable[..., Any],
    picture: Callable[..., bytes],
    data_uri: Callable[..., str],
    tmp_path: Path,
) -> None:
    teacher = served_embedder
    student = MLLMEmbedder(
        teacher.model, teacher.processor, replace(teacher.settings, target_space=teacher.provenance), teacher.dim
    )
    names = ["red", "green", "blue"]
    store = VectorStore.create(tmp_path / "store", teacher.dimension, provenance=teacher.provenance)
    store.add(names, teacher.encode(names, show_progress=False))
    expected = Searcher.open(student, tmp_path / "store").search(Query(image=picture("red"), instruction="in blue"), 3)
    making = Making(
        lambda start: student, "small", Access.of(None, None), Limits(), GallerySettings(str(tmp_path / "store"))
    )
    making.open(1)
    with running(create_app(making(Start()))) as url, httpx.Client(base_url=url, timeout=30) as client:
        answer = client.post("/v1/search", json={"image": data_uri("red"), "instruction": "in blue", "k": 3}).json()
        assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in expected]
        assert [hit["score"] for hit in answer["hits"]] == pytest.approx([hit.score for hit in expected], abs=1e-5)
        for path, body in (("search", {"instruction": "a shoe"}), ("embeddings", {"input": "a shoe"})):
            refused = client.post(f"/v1/{path}", json=body)
            assert refused.status_code == 422 and "distilled" in refused.json()["error"]["message"]
