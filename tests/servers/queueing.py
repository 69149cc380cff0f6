"""What tests of the queue before a model stand on: batches are held back by events, never by sleeping."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from mllm_embed import Document, MLLMEmbedder
from mllm_embed.serve.batcher import Batcher, Embedded
from mllm_embed.serve.refusals import Refusal
from mllm_embed.serve.tickets import Ticket, holding

CLOSE = {"atol": 1e-5, "rtol": 0}


class Gate:
    """The model's `plan`, which writes down what it is asked for, and waits where it is shut."""

    def __init__(self, model: MLLMEmbedder):
        self.plan, self.open = model.plan, threading.Event()
        self.open.set()
        self.asked: list[list[str]] = []
        self.computed: list[int] = []

    def __call__(self, items: Sequence[Any], **options: Any) -> Any:
        self.asked.append([item.words for item in items])
        self.open.wait()
        work = self.plan(items, **options)
        self.computed.append(len(work.inputs))
        return work


def serving(
    model: MLLMEmbedder, story: Callable[[Batcher], Awaitable[None]], batch_size: int = 8, **options: Any
) -> None:
    """Run what happens while a queue is open."""

    async def run() -> None:
        batcher = Batcher(model, batch_size=batch_size, **options)
        batcher.start()
        await story(batcher)
        await batcher.close()

    asyncio.run(run())


def ask(batcher: Batcher, *words: str, client: str = "a", ticket: Ticket | None = None) -> asyncio.Task[Embedded]:
    """Let texts of a client wait."""
    return send(batcher, [Document(text=one) for one in words], ticket or Ticket.of(client, 60))


def send(
    batcher: Batcher, items: Sequence[Any], ticket: Ticket, truncate: bool | None = None
) -> asyncio.Task[Embedded]:
    with holding(ticket):
        return asyncio.create_task(batcher.encode(items, truncate))


async def settle() -> None:
    """Let everything happen that needs no thread."""
    for _ in range(50):
        await asyncio.sleep(0)


async def hold(batcher: Batcher, gate: Gate) -> list[asyncio.Task[Embedded]]:
    """Shut the gate, and fill both places behind it: what comes from now on waits."""
    gate.open.clear()
    held = []
    for words in ("first", "second"):
        held.append(ask(batcher, words, client="held"))
        await settle()
    return held


def one_by_one(model: MLLMEmbedder, items: Sequence[Any]) -> np.ndarray:
    return np.concatenate([model.encode([item]) for item in items])


@contextmanager
def refused(status: int, words: str) -> Iterator[None]:
    with pytest.raises(Refusal, match=words) as caught:
        yield
    assert caught.value.status == status
