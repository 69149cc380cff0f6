"""A language model whose answers are kept on disk: nothing is asked twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mllm_embed.encode.embedder import MLLMEmbedder
from mllm_embed.generate.answer_cache import AnswerCache, CachedAnswer, cache_key
from mllm_embed.generate.generator import Generator, Question
from mllm_embed.inputs.images import ContentKeys

CACHE = "answers.jsonl"
_BATCH = 16


QuestionAnswers = Sequence[tuple[Question, str]]
"""Questions, each with an answer that is to be weighed, or ""."""


class CachedGenerator:
    """The embedder's language model, its adapter off, with a memory on disk.

    Attributes:
        seconds: what the answers given so far took when they were made, those from the memory included.
        spent: what asking took in this process.
    """

    def __init__(self, embedder: MLLMEmbedder, folder: Path):
        """Keep the answers in FOLDER/answers.jsonl. The model's head is loaded when the first new question comes."""
        self.seconds, self.spent, self._embedder = 0.0, 0.0, embedder
        self._generator: Generator | None = None
        self._cache = AnswerCache(folder / CACHE)
        self._contents = ContentKeys()
        settings = embedder.settings
        # what changes the model, or what it is shown, changes its answers, and must not find those of another
        self._identity = {
            "model": settings.base_fingerprint or settings.base,
            "processor": embedder.provenance["processor"],
            "dtype": str(embedder.dtype),
            "quantization": embedder.quantization,
        }

    # The first argument of `_all` is part of an answer's key on disk: another word would forget all answers.

    def generate(self, questions: Sequence[Question]) -> list[str]:
        """Return the answers in words."""
        return self._all("say", _without_answers(questions), lambda model, pairs: model.generate(_questions(pairs)))

    def yes_no_margin(self, questions: Sequence[Question]) -> list[float]:
        """Return how much likelier yes is than no, as `Generator.yes_no_margin`."""
        pairs = _without_answers(questions)
        found = self._all("yes or no", pairs, lambda model, pairs: model.yes_no_margin(_questions(pairs)))
        return list(map(float, found))

    def log_likelihood(self, pairs: QuestionAnswers) -> list[float]:
        """Return how likely each answer is to its question, as `Generator.log_likelihood`."""
        return list(map(float, self._all("weigh", pairs, lambda model, pairs: model.log_likelihood(pairs))))

    def _all(
        self, kind: str, pairs: QuestionAnswers, ask: Callable[[Generator, QuestionAnswers], Iterable[Any]]
    ) -> list[str]:
        """Return the answer of each pair as text, out of the memory or asked now."""
        before = time.perf_counter()
        keys = [self._key(kind, question, answer) for question, answer in pairs]
        new = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self._cache}
        self._ask(kind, list(new.items()), ask)
        self.seconds += sum(self._cache.seconds(key) for key in dict.fromkeys(keys))
        self.spent += time.perf_counter() - before
        return [self._cache[key].text for key in keys]

    def _ask(
        self,
        kind: str,
        new: Sequence[tuple[str, tuple[Question, str]]],
        ask: Callable[[Generator, QuestionAnswers], Iterable[Any]],
    ) -> None:
        """Ask what is new, by key, and keep the answers batch by batch, so that a stop loses one batch at most."""
        for at in tqdm(range(0, len(new), _BATCH), desc=kind, unit="batch", disable=None if new else True):
            batch = new[at : at + _BATCH]
            self._generator = self._generator or Generator(self._embedder)
            started = time.perf_counter()
            answers = list(ask(self._generator, [pair for _, pair in batch]))
            seconds = (time.perf_counter() - started) / len(batch)
            for (key, (question, _)), answer in zip(batch, answers, strict=True):
                self._cache.add(key, CachedAnswer(str(answer)), asked=question.words, seconds=f"{seconds:.6f}")

    def _key(self, kind: str, question: Question, answer: str) -> str:
        pictures = [self._contents.of(image) for image in question.images]
        return cache_key({**self._identity, "kind": kind, "pictures": pictures, "answer": answer}, question.words)


def _without_answers(questions: Sequence[Question]) -> list[tuple[Question, str]]:
    return [(question, "") for question in questions]


def _questions(pairs: QuestionAnswers) -> list[Question]:
    return [question for question, _ in pairs]
