"""Texts that a language model writes of a task's pictures, and their vectors: descriptions, rewrites, captions."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mllm_embed.errors import ConfigError, DataError
from mllm_embed.files import read_json
from mllm_embed.generate.generator import Question
from mllm_embed.text import half_character
from mllm_embed.types import Document, Item, Query
from mllm_embed.vectors.unit import unit

from ..scoring.suite import Suite, Task
from .cached_generator import CachedGenerator

# After the words that the embedder's own prompts use (E5-V, InstructCIR), but not "in one word".
DESCRIBE = "Describe this image."
REWRITE = 'Modify this image with "{instruction}", describe modified image.'
NOTHING = "nothing"  # stands for an answer without a word


def read_captions(path: Path, suite: Suite) -> dict[str, list[str]]:
    """Return the captions of every gallery picture of a suite's composed tasks.

    The file holds a JSON object: gallery id -> caption or list of captions.

    Raises DataError for a file that cannot be read, another content, and a picture without a caption.
    """
    content = read_json(path, 'give an object: {"gallery id": "caption", ...}')
    if not isinstance(content, dict):
        raise DataError(f'{path} must be an object: {{"gallery id": "caption" or ["caption", ...], ...}}')
    captions = {str(name): [given] if isinstance(given, str) else given for name, given in content.items()}
    for task in suite.tasks:
        for name in task.gallery_ids if task.composed else ():
            _check_captions(captions.get(name), f"{path}:", name)
    return captions


def _check_captions(captions: Any, where: str, name: str) -> None:
    """Raise DataError unless they are a list of words."""
    words = isinstance(captions, list) and all(isinstance(caption, str) and caption.strip() for caption in captions)
    if not captions or not words:
        raise DataError(f'{where} the gallery picture "{name}" has no caption, or one that is empty')
    if any(map(half_character, captions)):
        raise DataError(f'{where} a caption of "{name}" holds half a character (a lone surrogate)')


@dataclass
class LLMTexts:
    """Texts beside the pictures of a task, each made and encoded once.

    Attributes:
        encode: items to unit vectors [N, D] float32; a text that asks is a `Query`, a caption of the gallery is not.
        generator: the language model.
        captions: gallery id -> its captions, where they are given; else the model describes the pictures.
        seconds: what encoding the texts used so far takes, each time anew.
        spent: what encoding took in this process.
        once: of all seconds, the language model's included, those that went into the gallery.
    """

    task: Task
    encode: Callable[[Sequence[Item]], np.ndarray]
    generator: CachedGenerator
    captions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seconds: float = 0.0
    spent: float = 0.0
    once: float = 0.0
    _vector_of: dict[Item, np.ndarray] = field(default_factory=dict, repr=False)
    _seconds_of: dict[Item, float] = field(default_factory=dict, repr=False)

    def descriptions(self) -> np.ndarray:
        """Return e(description of the reference) [Q, D] float32 of unit length; one reference a query."""
        return self._answer_vectors([[Question(DESCRIBE, items[0].images)] for items in self.task.queries])

    def rewrites(self) -> np.ndarray:
        """Return e(description of what is looked for) [Q, D] float32 of unit length; the mean over a query's items."""
        return self._answer_vectors([list(map(rewrite, items)) for items in self.task.queries])

    def rewritten(self) -> list[str]:
        """Return the description of what each query looks for, by its first item."""
        answers = self.generator.generate([rewrite(items[0]) for items in self.task.queries])
        return [answer or NOTHING for answer in answers]

    def captioned_gallery(self, gallery: np.ndarray, beta: float) -> np.ndarray:
        """Return (1 - b) g + b mean(c): an inner product with it is WeiMoCIR's fused score, for one matrix product.

        Args: gallery [N, D] float32; beta in [0, 1]. Returns [N, D] float32, not of unit length; with beta 0 `gallery`
        itself. Raises ConfigError for another beta.
        """
        if not 0 <= beta <= 1:
            raise ConfigError(f"beta is a share from 0 to 1, not {beta}")
        return ((1 - beta) * gallery + beta * self.mean_captions()).astype(np.float32) if beta else gallery

    def caption_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return e(k-th caption) of each gallery picture [K, N, D] and of each query's reference [K, Q, D].

        Both are float32 of unit length. K is the most captions that a gallery picture has; those of a picture that has
        fewer come again from the first on. The reference's are those of the gallery picture that it is; of one that is
        not there, what the language model says of it.
        """
        before = self.seconds + self.generator.seconds
        own = self._gallery_captions()
        count = max(map(len, own))
        gallery = self._by_number(own, count)
        self.once += self.seconds + self.generator.seconds - before
        captions_of = dict(zip((item.images for item in self.task.gallery), own, strict=True))
        pictures = [items[0].images for items in self.task.queries]
        new = [images for images in dict.fromkeys(pictures) if images not in captions_of]
        answers = self.generator.generate([Question(DESCRIBE, images) for images in new])
        captions_of |= {images: [answer] for images, answer in zip(new, answers, strict=True)}
        return gallery, self._by_number([captions_of[images] for images in pictures], count)

    def _by_number(self, captions: Sequence[Sequence[str]], count: int) -> np.ndarray:
        """Return the vectors of the k-th caption of each row, k below `count`: [count, rows, D]."""
        return np.stack([self._numbered(captions, number) for number in range(count)])

    def _numbered(self, captions: Sequence[Sequence[str]], number: int) -> np.ndarray:
        return self._means([_documents([row[number % len(row)]]) for row in captions])

    def mean_captions(self) -> np.ndarray:
        """Return the mean of each gallery picture's caption vectors [N, D] float32, not of unit length."""
        before = self.seconds + self.generator.seconds
        means = self._means(list(map(_documents, self._gallery_captions())))
        self.once += self.seconds + self.generator.seconds - before
        return means

    def _gallery_captions(self) -> list[list[str]]:
        if self.captions:
            return [list(self.captions[name]) for name in self.task.gallery_ids]
        answers = self.generator.generate([Question(DESCRIBE, item.images) for item in self.task.gallery])
        return [[answer] for answer in answers]

    def _answer_vectors(self, questions: Sequence[Sequence[Question]]) -> np.ndarray:
        """Return the mean vector of the answers to each list of questions [N, D] float32, of unit length."""
        answers = iter(self.generator.generate(list(itertools.chain.from_iterable(questions))))
        asked = (Query(text=_words(answer)) for answer in answers)
        return unit(self._means([list(itertools.islice(asked, len(row))) for row in questions]))

    def _means(self, rows: Sequence[Sequence[Item]]) -> np.ndarray:
        """Return the mean vector of each list of texts [N, D] float32."""
        distinct = dict.fromkeys(itertools.chain.from_iterable(rows))
        self._encode_new([text for text in distinct if text not in self._vector_of])
        self.seconds += sum(self._seconds_of[text] for text in distinct)
        return np.stack([self._mean(row) for row in rows])

    def _mean(self, texts: Sequence[Item]) -> np.ndarray:
        return np.mean([self._vector_of[text] for text in texts], axis=0)

    def _encode_new(self, texts: Sequence[Item]) -> None:
        if not texts:
            return
        started = time.perf_counter()
        vectors = self.encode(texts)
        seconds = time.perf_counter() - started
        self._vector_of |= dict(zip(texts, vectors, strict=True))
        self._seconds_of |= dict.fromkeys(texts, seconds / len(texts))
        self.spent += seconds


def _documents(texts: Sequence[str]) -> list[Item]:
    return [Document(text=_words(text)) for text in texts]


def _words(text: str) -> str:
    """Return a text; NOTHING for one that says nothing."""
    return text.strip() or NOTHING


def rewrite(item: Item) -> Question:
    """Return what the model is asked of a query; for its picture's description where there is no instruction."""
    words = REWRITE.replace("{instruction}", item.words) if item.words else DESCRIBE
    return Question(words, item.images)
