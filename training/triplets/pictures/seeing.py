"""Answers of an image-text model on this machine that looks at pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from mllm_embed.errors import ConfigError, DataError, ImageError
from mllm_embed.generate.answer_cache import REFUSED, CachedAnswer
from mllm_embed.inputs.images import load_image

from ..asked import Asked
from ..local import weights_of

if TYPE_CHECKING:
    from mllm_embed import MLLMEmbedder
    from mllm_embed.generate.generator import Generator, Question


class Seeing:
    """A model that is spoken to about pictures, as `mllm_embed.generate` does: its answers are its likeliest words.

    Args:
        name: folder or hub id of a base model; it is loaded when the first prompt comes.
        max_tokens: the longest answer.
        concurrency: prompts in a batch.

    Attributes:
        embedder: an embedder whose base it is, which then speaks with its adapter off; None loads it anew.
    """

    def __init__(self, name: str, max_tokens: int, concurrency: int = 8):
        self.name, self._max_tokens, self._batch = name, max_tokens, concurrency
        self.cure = "see to the pictures, or take another --local model"
        self.embedder: MLLMEmbedder | None = None
        self.identity = {"local": name, "weights": weights_of(name), "sees": True, "max_tokens": max_tokens}

    def ask(self, prompts: Iterable[tuple[str, Asked]]) -> Iterator[tuple[str, CachedAnswer]]:
        """Yield (key, answer) for each (key, prompt), batch by batch.

        A prompt with a picture that cannot be read, or longer than the model can take, is refused. Raises as
        `Generator`, and ConfigError where memory is too small.
        """
        for refused, questions in self._batches(prompts):
            yield from refused.items()
            yield from zip(questions, self._said(list(questions.values())), strict=True)

    def yes_no(self, prompts: Iterable[tuple[str, Asked]]) -> Iterator[tuple[str, CachedAnswer]]:
        """Yield (key, how much likelier yes is than no, in logits and as a text) for each (key, prompt)."""
        for refused, questions in self._batches(prompts):
            yield from refused.items()
            margins = self._generator.yes_no_margin(list(questions.values()), batch_size=self._batch)
            yield from ((key, CachedAnswer(f"{margin:.3f}")) for key, margin in zip(questions, margins, strict=True))

    def _batches(
        self, prompts: Iterable[tuple[str, Asked]]
    ) -> Iterator[tuple[dict[str, CachedAnswer], dict[str, Question]]]:
        """Yield batches: by key, why a prompt cannot be asked, or what is asked."""
        waiting = iter(prompts)
        while batch := list(islice(waiting, self._batch)):
            refused: dict[str, CachedAnswer] = {}
            questions: dict[str, Question] = {}
            for key, asked in batch:
                try:
                    questions[key] = _question(asked)
                except ImageError as error:
                    refused[key] = CachedAnswer(str(error), REFUSED)
            yield refused, questions

    def _said(self, questions: Sequence[Question]) -> list[CachedAnswer]:
        import torch

        try:
            answers = self._generator.generate(questions, max_tokens=self._max_tokens, batch_size=self._batch)
            return [CachedAnswer(text) for text in answers]
        except DataError as error:  # one of them is longer than the model's limit, and it is not told which
            if len(questions) == 1:
                return [CachedAnswer(str(error), REFUSED)]
            return [self._said([question])[0] for question in questions]
        except torch.OutOfMemoryError as error:
            raise ConfigError(f"{self._batch} pairs at a time do not fit: lower --concurrency") from error

    @cached_property
    def _generator(self) -> Generator:
        from mllm_embed import MLLMEmbedder
        from mllm_embed.generate.generator import Generator

        return Generator(self.embedder or MLLMEmbedder.from_pretrained(self.name))


def _question(asked: Asked) -> Question:
    from mllm_embed.generate.generator import Question

    pictures = tuple(load_image(image).copy() for image in asked.images)
    for picture in pictures:
        picture.thumbnail((asked.side, asked.side))
    return Question(asked.words, pictures)
