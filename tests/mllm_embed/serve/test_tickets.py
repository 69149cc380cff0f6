"""A request that nobody waits for any more ends: its client hung up, or its time is over."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

import pytest

from mllm_embed import MLLMEmbedder
from mllm_embed.serve.app import create_app
from mllm_embed.serve.batcher import Batcher
from mllm_embed.serve.limits import Limits
from mllm_embed.serve.service import Service
from servers.queueing import Gate

PATH = "/v1/embeddings"
SECONDS = 60  # that a test waits for what must come


class Told:
    """Waits for what a queue tells."""

    def __init__(self) -> None:
        self.waiting, self.changed = 0, threading.Condition()

    def queued(self, inputs: int) -> None:
        with self.changed:
            self.waiting = inputs
            self.changed.notify_all()

    def batch(self, inputs: int, tokens: int, seconds: float) -> None:
        pass

    def wait_for(self, inputs: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.waiting == inputs, SECONDS)


@pytest.fixture
def gate(served_embedder: MLLMEmbedder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(served_embedder)
    gate.open.clear()
    monkeypatch.setattr(served_embedder, "plan", gate)
    yield gate
    gate.open.set()


def _connection(url: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(url).netloc, timeout=SECONDS)


def _posted(url: str, words: list[str]) -> http.client.HTTPConnection:
    """Send a request, whose answer is not read yet."""
    connection = _connection(url)
    connection.request("POST", PATH, json.dumps({"input": words}), {"Content-Type": "application/json"})
    return connection


def test_a_request_whose_client_hangs_up_is_not_computed(
    make_service: Callable[..., Service],
    running: Callable[[Any], AbstractContextManager[str]],
    served_embedder: MLLMEmbedder,
    gate: Gate,
) -> None:
    told = Told()
    service = make_service(batcher=Batcher(served_embedder, observe=told))
    with running(create_app(service)) as url:
        large = _posted(url, [f"number {at}" for at in range(96)])
        told.wait_for(32)  # a batch is being planned and another one is next
        leaving = _posted(url, ["gone"])
        told.wait_for(33)
        leaving.sock.shutdown(socket.SHUT_RDWR)
        leaving.close()
        told.wait_for(32)
        gate.open.set()
        assert large.getresponse().status == 200
        asked = list(chain.from_iterable(gate.asked))
        assert len(asked) == 96 and "gone" not in asked


def test_a_request_that_takes_too_long_is_told_so(
    make_service: Callable[..., Service], running: Callable[[Any], AbstractContextManager[str]], gate: Gate
) -> None:
    with running(create_app(make_service(limits=Limits(seconds=0.2)))) as url:
        response = _posted(url, ["slow"]).getresponse()
        assert response.status == 408
        assert "longer than the limit of 0.2 seconds" in json.loads(response.read())["error"]["message"]
        gate.open.set()
