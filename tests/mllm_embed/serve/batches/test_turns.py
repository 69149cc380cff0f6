"""The queue before the model: who is served when, and with whom."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest

from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.serve.batcher import Batcher
from mllm_embed.serve.refusals import Refusal
from mllm_embed.serve.tickets import Ticket, holding
from servers.queueing import CLOSE, Gate, ask, hold, one_by_one, refused, send, serving, settle


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
        monkeypatch.setattr("mllm_embed.serve.batches.pace._PART", 1e-9)
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
