"""The queue before the model: what a failure costs the others, and whose words are cut."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.serve.batcher import Batcher
from mllm_embed.serve.batches import computing
from mllm_embed.serve.tickets import Ticket
from servers.queueing import CLOSE, Gate, ask, hold, one_by_one, refused, send, serving, settle

LONG = 50  # tokens, more than the others have


def _tokens(model_input: Any) -> np.ndarray:
    """Return the tokens of each input of a batch."""
    return (model_input["attention_mask"].sum(1) if isinstance(model_input, dict) else model_input.lengths()).numpy()


def test_a_bad_input_costs_no_other_and_is_told_in_our_words(model: MLLMEmbedder, data: Path) -> None:
    whole = (data / "images" / "0.png").read_bytes()
    broken = data / "secret-place.png"
    broken.write_bytes(whole[:-20])
    too_long = "word " * 5000
    items = [Query(whole, "red"), Query(whole[:60], "red"), Document(broken), Document(text=too_long), Document(whole)]

    async def story(batcher: Batcher) -> None:
        other = send(batcher, [Document(text="a hat")], Ticket.of("b", 60))
        found = await send(batcher, items, Ticket.of("a", 60))
        assert sorted(found.failures) == [1, 2, 3]
        assert found.failures[1] == found.failures[2]
        assert "cannot be decoded" in found.failures[1] and "secret" not in found.failures[2]
        assert "over the limit of" in found.failures[3] and "shorten it" in found.failures[3]
        np.testing.assert_allclose(found.vectors[[0, 4]], one_by_one(model, [items[0], items[4]]), **CLOSE)
        assert not found.vectors[1:4].any() and found.tokens[1:4] == [0, 0, 0]
        np.testing.assert_allclose((await other).vectors, model.encode(["a hat"]), **CLOSE)

    serving(model, story)


def test_each_request_says_whether_its_words_are_cut(model: MLLMEmbedder, tiny_llava: Path, gate: Gate) -> None:
    long = Document(text="word " * 5000)
    cutting = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", device="cpu", truncate=True)
    expected = cutting.encode([long])

    async def story(batcher: Batcher) -> None:
        held = await hold(batcher, gate)
        cut, whole, usual = (send(batcher, [long], Ticket.of("a", 60), how) for how in (True, False, None))
        await settle()
        gate.open.set()
        np.testing.assert_allclose((await cut).vectors, expected, **CLOSE)
        assert (await whole).failures.keys() == (await usual).failures.keys() == {0}
        await asyncio.gather(*held)

    serving(model, story)


def test_a_batch_that_is_too_large_for_memory_is_computed_in_parts(
    model: MLLMEmbedder, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, sizes = computing.forward, []

    def small(of: Any, model_input: Any) -> np.ndarray:
        sizes.append(len(_tokens(model_input)))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("out of memory")
        return forward(of, model_input)

    monkeypatch.setattr(computing, "forward", small)

    async def story(batcher: Batcher) -> None:
        held = await hold(batcher, gate)
        words = [f"number {at}" for at in range(6)]
        answers = [ask(batcher, one, client=one) for one in words]
        await settle()
        gate.open.set()
        found = np.concatenate([answer.vectors for answer in await asyncio.gather(*answers)])
        np.testing.assert_allclose(found, one_by_one(model, words), **CLOSE)
        assert max(sizes) == 6
        await asyncio.gather(*held)

    serving(model, story)


@pytest.mark.parametrize("harm", ["nan", "error"])
def test_an_input_that_breaks_the_model_is_refused_alone(
    model: MLLMEmbedder, gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    forward = computing.forward

    def harmful(of: Any, model_input: Any) -> np.ndarray:
        vectors, bad = forward(of, model_input), _tokens(model_input) > LONG
        if bad.any() and harm == "error":
            raise RuntimeError("a kernel failed at /some/place")
        vectors[bad] = np.nan
        return vectors

    monkeypatch.setattr(computing, "forward", harmful)

    async def story(batcher: Batcher) -> None:
        held = await hold(batcher, gate)
        bad_one = ask(batcher, "bad " * LONG, client="b")
        good = [ask(batcher, words, client=words) for words in ("red", "blue")]
        await settle()
        gate.open.set()
        with refused(500, "input 0: the model (failed|makes no numbers)"):
            await bad_one
        assert [bool(answer.vectors.any()) for answer in await asyncio.gather(*good)] == [True, True]
        await asyncio.gather(*held)
        await ask(batcher, "next")

    serving(model, story)
