"""What the language model was asked and what it said, kept on disk: nothing is asked twice."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mllm_embed.encode.embedder import MLLMEmbedder
from mllm_embed.generate.answer_cache import AnswerCache, CachedAnswer, cache_key
from mllm_embed.generate.generator import Generator, Question
from mllm_embed.inputs.images import content_key
from mllm_embed.types import ImageLike

CACHE = "answers.jsonl"
_BATCH = 16


class CachedGenerator:
    """The embedder's language model, its adapter off, with a memory.

    Attributes:
        seconds: what the answers given so far took when they were made, those from the memory included.
        spent: what asking took in this process.
    """

    def __init__(self, embedder: MLLMEmbedder, folder: Path):
        """Keep the answers in FOLDER/answers.jsonl. The head is loaded when the first new question comes."""
        self.seconds, self.spent, self._embedder = 0.0, 0.0, embedder
        self._generator: Generator | None = None
        self._cache = AnswerCache(folder / CACHE)
        self._contents: dict[str, str] = {}
        settings = embedder.settings
        self._identity = {
            "model": settings.base_fingerprint or settings.base,
            "dtype": str(embedder.dtype),
            "quantization": embedder.quantization,
        }

    def say(self, questions: Sequence[Question]) -> list[str]:
        """The answers in words."""
        return self._all(
            "say", [(question, "") for question in questions], lambda g, part: g.generate([q for q, _ in part])
        )

    def agree(self, questions: Sequence[Question]) -> list[float]:
        """How much likelier yes is than no, as `Generator.yes_no_margin`."""
        asked = [(question, "") for question in questions]
        return list(map(float, self._all("yes or no", asked, lambda g, part: g.yes_no_margin([q for q, _ in part]))))

    def weigh(self, pairs: Sequence[tuple[Question, str]]) -> list[float]:
        """How likely an answer is to a question, as `Generator.log_likelihood`."""
        return list(map(float, self._all("weigh", pairs, lambda g, part: g.log_likelihood(part))))

    def _all(
        self,
        kind: str,
        pairs: Sequence[tuple[Question, str]],
        ask: Callable[[Generator, Sequence[tuple[Question, str]]], Iterable[Any]],
    ) -> list[str]:
        before = time.perf_counter()
        keys = [self._key(kind, question, answer) for question, answer in pairs]
        new = list({key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self._cache}.items())
        for at in tqdm(range(0, len(new), _BATCH), desc=kind, unit="batch", disable=None if new else True):
            part = new[at : at + _BATCH]
            self._generator = self._generator or Generator(self._embedder)
            started = time.perf_counter()
            found = list(ask(self._generator, [pair for _, pair in part]))
            took = (time.perf_counter() - started) / len(part)
            for (key, (question, _)), value in zip(part, found, strict=True):
                self._cache.add(key, CachedAnswer(str(value)), asked=question.words, seconds=f"{took:.6f}")
        self.seconds += sum(self._cache.seconds(key) for key in dict.fromkeys(keys))
        self.spent += time.perf_counter() - before
        return [self._cache[key].text for key in keys]

    def _key(self, kind: str, question: Question, answer: str) -> str:
        pictures = [self._content(image) for image in question.images]
        return cache_key({**self._identity, "kind": kind, "pictures": pictures, "answer": answer}, question.words)

    def _content(self, image: ImageLike) -> str:
        """The sha256 of a picture; of a file once."""
        if not isinstance(image, (str, os.PathLike)):
            return content_key(image)
        name = os.fspath(image)
        if name not in self._contents:
            self._contents[name] = content_key(image)
        return self._contents[name]
