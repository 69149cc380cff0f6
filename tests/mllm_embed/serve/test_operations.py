"""What those see who run a service: its health, its counts, its log."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from mllm_embed import MLLMEmbedder
from mllm_embed.serve.app import bare_app, create_app
from mllm_embed.serve.batcher import Batcher
from mllm_embed.serve.fetching import AllowedHost, Fetcher
from mllm_embed.serve.operations import logs
from mllm_embed.serve.operations.metrics import Metrics
from mllm_embed.serve.operations.progress import Progress
from mllm_embed.serve.refusals import Refusal
from mllm_embed.serve.service import Service

Running = Callable[[Any], AbstractContextManager[str]]


class Watched:
    """A server of its own, and what it writes down."""

    def __init__(self, client: httpx.Client, app: FastAPI, log: io.StringIO):
        self.client, self.app, self._log = client, app, log

    def line(self, answer: httpx.Response) -> dict[str, Any]:
        """What is written of a request, which happens after its answer has gone."""
        told: list[dict[str, Any]] = []

        def written() -> bool:
            lines = [json.loads(line) for line in self._log.getvalue().splitlines()]
            told[:] = [line for line in lines if line.get("id") == answer.headers["x-request-id"]]
            return bool(told)

        eventually(written)
        return told[0]

    def count(self, name: str, **labels: str) -> float:
        """A count of /metrics, 0 where there is none yet."""
        families = text_string_to_metric_families(self.client.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples]
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds, and fail where it does not come to that."""
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture(scope="module")
def watched(make_service: Callable[..., Service], served_embedder: MLLMEmbedder, running: Running) -> Iterator[Watched]:
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(logs.JSONLines())
    logger = logging.getLogger("mllm_embed.serve")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    metrics = Metrics()
    app = create_app(make_service(batcher=Batcher(served_embedder, observe=metrics), metrics=metrics))

    @app.get("/breaks/{what}")
    def breaks(what: str) -> None:
        raise RuntimeError(f"nobody may read this: {what}")

    with running(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield Watched(client, app, log)
    logger.removeHandler(handler)


def test_a_request_is_one_line_with_what_it_cost_and_without_what_it_said(watched: Watched) -> None:
    body = {"input": ["a secret text", "another one"]}
    answer = watched.client.post("/v1/embeddings?q=hidden", json=body, headers={"Authorization": "Bearer hush"})
    assert answer.status_code == 200
    line = watched.line(answer)
    assert {name: line[name] for name in ("event", "method", "path", "status", "client", "inputs")} == {
        "event": "request",
        "method": "POST",
        "path": "/v1/embeddings",
        "status": 200,
        "client": "127.0.0.1",
        "inputs": 2,
    }
    assert line["tokens"] == answer.json()["usage"]["total_tokens"] > 0
    assert line["ms"] > 0 and line["time"].endswith("+00:00")
    assert not any(word in json.dumps(line) for word in ("secret", "hidden", "hush"))


def test_an_id_that_comes_with_a_request_is_kept_where_it_is_one(watched: Watched) -> None:
    def answered(given: bytes) -> str:
        answer = watched.client.get("/health", headers={b"X-Request-ID": given})
        return str(watched.line(answer)["id"])

    assert answered(b"run-7:a_b.c") == "run-7:a_b.c"
    for bad in (b"", b"two words", b"x" * 65, b'"},{', "\u00e9".encode()):
        assert len(answered(bad)) == 32 and answered(bad) != answered(bad)


def test_an_error_is_told_by_its_place_and_id_alone(watched: Watched) -> None:
    answer = watched.client.get("/breaks/hidden", headers={"X-Request-ID": "broken-one"})
    assert answer.status_code == 500 and answer.headers["connection"] == "close"
    assert "broken-one" in answer.text and "hidden" not in answer.text
    try:
        raise RuntimeError("nobody may\nread this")
    except RuntimeError:
        record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, "it failed\n", (), sys.exc_info())
    for form in (logs.JSONLines(), logs.TextLines()):
        told = form.format(record)
        assert "it failed" in told and "RuntimeError" in told and "test_operations.py" in told
        assert "nobody may" not in told and "read this" not in told and "\n" not in told


def test_for_people_a_line_begins_with_what_was_asked_and_answered() -> None:
    record = logging.LogRecord("mllm_embed.serve", logging.INFO, "", 0, "request", (), None)
    record.told = {"id": "x", "method": "GET", "path": "/v1/models", "status": 200, "ms": 1.5}
    assert logs.TextLines().format(record).split(" ", 1)[1] == "info GET /v1/models 200 id=x ms=1.5"


def test_requests_are_counted_by_the_templates_of_their_routes(watched: Watched) -> None:
    names = {"method": "GET", "path": "/v1/models/{model:path}"}
    before = watched.count("mllm_embed_requests_total", **names)
    strange = watched.count("mllm_embed_requests_total", path="(none)")
    for number in range(5):
        watched.client.get(f"/v1/models/{number}")
        watched.client.get(f"/no/such/path/{number}")
    watched.client.request("BREW", "/health")
    eventually(lambda: watched.count("mllm_embed_requests_total", **names, status="404") == before + 5)
    eventually(lambda: watched.count("mllm_embed_requests_total", path="(none)") == strange + 5)
    text = watched.client.get("/metrics").text
    assert "no/such" not in text and "BREW" not in text
    assert watched.count("mllm_embed_request_seconds_count", path=names["path"]) == before + 5


def test_what_is_computed_is_counted(watched: Watched) -> None:
    names = ("mllm_embed_inputs_total", "mllm_embed_tokens_total", "mllm_embed_batch_seconds_count")
    before = [watched.count(name) for name in names]
    usage = watched.client.post("/v1/embeddings", json={"input": ["one", "two", "three"]}).json()["usage"]
    after = [watched.count(name) for name in names]
    assert [now - then for then, now in zip(before[:2], after[:2], strict=True)] == [3, usage["total_tokens"]]
    assert after[2] > before[2]
    assert watched.count("mllm_embed_queue_inputs") == 0
    eventually(lambda: watched.count("mllm_embed_requests_running") == 1)  # the one that asks
    assert watched.count("process_resident_memory_bytes") > 0


def test_pictures_that_come_from_elsewhere_are_counted() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.215.14"]

    async def fetch() -> None:
        def answer(request: httpx.Request) -> httpx.Response:
            return httpx.Response(200 if request.url.path == "/a" else 404, stream=httpx.ByteStream(b"picture"))

        place = httpx.MockTransport(answer)
        allowed = [AllowedHost.of("images.example.org")]
        fetcher = Fetcher(allowed, most_bytes=9, seconds=30, resolve=resolve, transport=place, fetched=metrics.fetched)
        await fetcher.fetch("http://images.example.org/a", "image")
        with pytest.raises(Refusal):
            await fetcher.fetch("http://images.example.org/b", "image")
        await fetcher.close()

    metrics = Metrics()
    asyncio.run(fetch())
    assert b"mllm_embed_pictures_fetched_total 1.0" in metrics.text()


def test_health_and_readiness_need_no_model(make_service: Callable[..., Service], running: Running) -> None:
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        yield

    service, progress = make_service(), Progress("embedding the gallery")
    app = bare_app(service.access, service.limits, Metrics(), progress, lifespan)
    with running(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/health").json() == {"status": "alive"}
        assert client.head("/health").status_code == client.get("/").status_code == 200
        waiting = client.get("/ready")
        assert (waiting.status_code, waiting.json()) == (503, {"status": "embedding the gallery"})
        assert client.head("/ready").status_code == 503
        for path in ("/v1/embeddings", "/v2/embed", "/v1/search"):
            refused = client.post(path, json={"input": "a"})
            assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
            assert "embedding the gallery" in refused.text
        progress.doing, progress.others = None, lambda: False
        assert client.get("/ready").status_code == 503, "another worker is still loading"
        progress.others = lambda: True
        assert client.get("/ready").status_code == 200
