"""The queue before the model: who is served when, with whom, and what a failure costs the others.

Batches are held back by events, never by sleeping, so that what waits together is known.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.serve.batcher import Batcher, Embedded
from mllm_embed.serve.batches import computing
from mllm_embed.serve.refusals import Refusal
from mllm_embed.serve.tickets import Ticket, holding

CLOSE = {"atol": 1e-5, "rtol": 0}
LONG = 50  # tokens, more than the others have


@pytest.fixture(scope="module")
def model(tiny_llava: Path) -> MLLMEmbedder:
    return MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", device="cpu")


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


@pytest.fixture
def gate(model: MLLMEmbedder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(model)
    monkeypatch.setattr(model, "plan", gate)
    yield gate
    gate.open.set()


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


def test_vectors_of_many_clients_are_those_of_one_by_one(model: MLLMEmbedder, data: Path) -> None:
    pictures = [(data / "images" / f"{number}.png").read_bytes() for number in range(4)]
    items = [
        *(Query(picture, words) for picture in pictures for words in ("make it red", "a much longer instruction")),
        *(Document(picture) for picture in pictures), Query(text="a hat"), Document(text="a hat"), Document(text="b"),
        Document(data / "images" / "0.png", text="a hat"),
    ]  # fmt: skip
    expected, tokens = one_by_one(model, items), [model.item_processor([i])["input_ids"].shape[1] for i in items]

    async def story(batcher: Batcher) -> None:
        alone = [send(batcher, [item], Ticket.of(str(at % 3), 60)) for at, item in enumerate(items)]
        whole = send(batcher, items, Ticket.of("all", 60))
        for at, answer in enumerate(await asyncio.gather(*alone)):
            np.testing.assert_allclose(answer.vectors[0], expected[at], **CLOSE)
            assert answer.tokens == [tokens[at]] and not answer.failures
        np.testing.assert_allclose((await whole).vectors, expected, **CLOSE)
        assert (await whole).tokens == tokens
        assert (await whole).vectors.dtype == np.float32

    serving(model, story)


def test_what_waits_is_computed_together_and_equal_inputs_once(model: MLLMEmbedder, gate: Gate) -> None:
    async def story(batcher: Batcher) -> None:
        held = await hold(batcher, gate)
        answers = [ask(batcher, words, client=words) for words in ("red", "blue", "green")]
        answers.append(ask(batcher, "red", client="another"))
        await settle()
        gate.open.set()
        await asyncio.gather(*held, *answers)
        assert gate.asked == [["first"], ["second"], ["red", "blue", "green", "red"]]
        assert gate.computed == [1, 1, 3]
        assert (await answers[0]).vectors.tolist() == (await answers[3]).vectors.tolist()

    serving(model, story)


def test_clients_take_turns_and_so_do_the_requests_of_one(model: MLLMEmbedder, gate: Gate) -> None:
    async def story(batcher: Batcher) -> None:
        await hold(batcher, gate)
        large = ask(batcher, *(f"a{at}" for at in range(8)), client="a")
        other = ask(batcher, *(f"b{at}" for at in range(3)), client="b")
        small = ask(batcher, "small", client="c")
        same = ask(batcher, "same client", client="a")
        await settle()
        gate.open.set()
        await asyncio.gather(large, other, small, same)
        # a turn is a quarter of a batch
        assert gate.asked[2] == ["a0", "a1", "b0", "b1", "small", "same client", "b2", "a2"]
        assert gate.asked[3] == ["a3", "a4", "a5", "a6", "a7"]

    serving(model, story)


def test_a_small_request_is_answered_before_a_large_one_that_came_first(model: MLLMEmbedder, gate: Gate) -> None:
    async def story(batcher: Batcher) -> None:
        await hold(batcher, gate)
        order: list[str] = []
        large = ask(batcher, *(f"a{at}" for at in range(100)))
        small = ask(batcher, "small", client="b")
        large.add_done_callback(lambda _: order.append("large"))
        small.add_done_callback(lambda _: order.append("small"))
        await settle()
        gate.open.set()
        await asyncio.gather(large, small)
        assert order == ["small", "large"]
        assert "small" in gate.asked[2]
        assert sum(map(len, gate.asked)) == 103

    serving(model, story)


def test_a_slow_model_takes_fewer_at_once_since_others_wait_for_them(
    model: MLLMEmbedder, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(batcher: Batcher) -> None:
        await ask(batcher, *map(str, range(8)))
        monkeypatch.setattr("mllm_embed.serve.batcher._BATCH", 1e-9)
        await ask(batcher, "a", "b", "c")
        assert gate.asked == [list(map(str, range(8))), ["a"], ["b"], ["c"]]

    serving(model, story)


def test_what_nobody_waits_for_is_not_computed(model: MLLMEmbedder, gate: Gate) -> None:
    async def story(batcher: Batcher) -> None:
        await hold(batcher, gate)
        gone, late = Ticket.of("gone", 60), Ticket.of("late", 60)
        tasks = [ask(batcher, name, ticket=ticket) for name, ticket in (("gone", gone), ("late", late))]
        cancelled, kept = ask(batcher, "cancelled"), ask(batcher, "kept")
        await settle()
        cancelled.cancel()
        gone.gone, late.deadline = True, 0.0
        gate.open.set()
        await kept
        for task, status in zip(tasks, (499, 408), strict=True):
            with refused(status, "hung up|longer than the limit of 60 seconds"):
                await task
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert gate.asked == [["first"], ["second"], ["kept"]]

    serving(model, story)


def test_a_request_ends_at_its_deadline_whatever_the_model_does(model: MLLMEmbedder, gate: Gate) -> None:
    async def story(batcher: Batcher) -> None:
        gate.open.clear()
        with refused(408, "longer than the limit of 0.01 seconds"):
            await ask(batcher, "slow", ticket=Ticket.of("a", 0.01))
        gate.open.set()
        await ask(batcher, "next")

    serving(model, story)


def test_a_full_queue_says_when_to_come_again(model: MLLMEmbedder, gate: Gate) -> None:
    async def story(batcher: Batcher) -> None:
        held = await hold(batcher, gate)
        # a request of more inputs than may wait is taken where nobody waits
        large = ask(batcher, *map(str, range(5)))
        await settle()
        with pytest.raises(Refusal, match="5 inputs wait already, of 4 that may") as caught:
            await ask(batcher, "one too many", client="b")
        assert caught.value.status == 503 and int(caught.value.headers["Retry-After"]) >= 1
        gate.open.set()
        await asyncio.gather(*held, large)
        await ask(batcher, "again", client="b")

    serving(model, story, waiting=4)


def test_what_was_taken_is_finished_and_nothing_more_taken(model: MLLMEmbedder, gate: Gate) -> None:
    async def story(batcher: Batcher) -> None:
        tasks = [*await hold(batcher, gate), ask(batcher, *map(str, range(20)))]
        await settle()
        closing = asyncio.create_task(batcher.close())
        await settle()
        with refused(503, "shuts down"):
            await ask(batcher, "late")
        gate.open.set()
        await closing
        assert all(task.done() and not task.result().failures for task in tasks)
        assert tasks[-1].result().vectors.any(axis=1).all()

    serving(model, story)
    with refused(503, "not ready"), holding(Ticket.of("a", 60)):
        asyncio.run(Batcher(model).encode([Document(text="early")]))


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


def _tokens(model_input: Any) -> np.ndarray:
    """Return the tokens of each input of a batch."""
    return (model_input["attention_mask"].sum(1) if isinstance(model_input, dict) else model_input.lengths()).numpy()


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


def test_nobody_waits_for_others_who_are_not_about(model: MLLMEmbedder, gate: Gate) -> None:
    async def story(batcher: Batcher) -> None:
        for words in ("one", "two", "three"):  # an hour each, if it waited
            await ask(batcher, words)
        assert gate.asked == [["one"], ["two"], ["three"]]

    serving(model, story, max_wait=3600)


def test_those_who_were_answered_together_are_waited_for(
    model: MLLMEmbedder, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllm_embed.serve.batcher._AGAIN", 3600.0)

    async def story(batcher: Batcher) -> None:
        held = await hold(batcher, gate)
        pair = [ask(batcher, words, client=words) for words in ("red", "blue")]
        await settle()
        gate.open.set()
        await asyncio.gather(*held, *pair)
        again = ask(batcher, "red", client="red")
        await settle()
        assert gate.asked[3:] == []
        await asyncio.gather(again, ask(batcher, "blue", client="blue"))
        assert gate.asked[3:] == [["red", "blue"]]

    serving(model, story, max_wait=3600)


def test_a_function_has_the_model_for_itself(model: MLLMEmbedder, gate: Gate) -> None:
    async def story(batcher: Batcher) -> None:
        inside, leave = threading.Event(), threading.Event()

        def work() -> list[list[str]]:
            inside.set()
            leave.wait()
            return list(gate.asked)

        with holding(Ticket.of("a", 60)):
            alone = asyncio.create_task(batcher.alone(work))
        await asyncio.to_thread(inside.wait)
        other = ask(batcher, "meanwhile")
        await settle()
        leave.set()
        assert await alone == []
        await other
        with holding(Ticket.of("a", 0)), refused(408, "longer than"):
            await batcher.alone(work)

    serving(model, story)


def test_a_function_that_comes_between_two_batches_holds_up_neither(model: MLLMEmbedder, gate: Gate) -> None:
    async def story(batcher: Batcher) -> None:
        gate.open.clear()
        first = ask(batcher, "first", "of two")  # its plan is being made
        await settle()
        with holding(Ticket.of("a", 60)):
            alone = asyncio.create_task(batcher.alone(lambda: list(gate.computed)))
        await settle()
        second = ask(batcher, "second", "of two")
        await settle()
        gate.open.set()
        _, waiting = await asyncio.wait([first, alone, second], timeout=30)
        assert not waiting
        assert 2 in await alone

    serving(model, story)


def test_what_happens_is_told(model: MLLMEmbedder, gate: Gate) -> None:
    class Told:
        def __init__(self) -> None:
            self.most, self.last, self.batches = 0, 0, []

        def queued(self, inputs: int) -> None:
            self.most, self.last = max(self.most, inputs), inputs

        def batch(self, inputs: int, tokens: int, seconds: float) -> None:
            self.batches.append((inputs, tokens, seconds))

    told = Told()

    async def story(batcher: Batcher) -> None:
        held = await hold(batcher, gate)
        answer = ask(batcher, "red", "blue")
        await settle()
        assert told.most == told.last == 2
        gate.open.set()
        await asyncio.gather(*held, answer)
        assert told.last == 0
        assert [inputs for inputs, _, _ in told.batches] == [1, 1, 2]
        assert told.batches[2][1] == sum((await answer).tokens)
        assert all(seconds > 0 for _, _, seconds in told.batches)

    serving(model, story, observe=told)
