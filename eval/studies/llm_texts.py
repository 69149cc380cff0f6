"""What a language model says of a task's pictures, and its vectors: descriptions, rewrites, gallery captions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mllm_embed.data.json_rows import half_character
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.files import read_json
from mllm_embed.generate.generator import Question
from mllm_embed.types import Document, Item
from mllm_embed.vectors.fusion import unit

from ..scoring.suite import Suite, Task
from .cached_generator import CachedGenerator

# After the words that the embedder's own prompts use (E5-V, InstructCIR), but not "in one word".
DESCRIBE = "Describe this image."
REWRITE = 'Modify this image with "{instruction}", describe modified image.'
NOTHING = "nothing"  # stands for an answer without a word


def read_captions(path: Path, suite: Suite) -> dict[str, list[str]]:
    """Captions of every gallery picture of a suite's composed tasks: a JSON object, id -> caption or list of captions.

    Raises DataError for a file that cannot be read, another content, and a picture without a caption.
    """
    content = read_json(path, 'give an object: {"gallery id": "caption", ...}')
    if not isinstance(content, dict):
        raise DataError(f'{path} must be an object: {{"gallery id": "caption" or ["caption", ...], ...}}')
    captions = {str(name): [told] if isinstance(told, str) else told for name, told in content.items()}
    for task in suite.tasks:
        for name in task.gallery_ids if task.composed else ():
            told = captions.get(name)
            if not isinstance(told, list) or not told or not all(isinstance(one, str) and one.strip() for one in told):
                raise DataError(f'{path}: the gallery picture "{name}" has no caption, or one that is empty')
            if any(map(half_character, told)):
                raise DataError(f'{path}: a caption of "{name}" holds half a character (a lone surrogate)')
    return captions


@dataclass
class LLMTexts:
    """Texts beside the pictures of a task, each made and encoded once.

    Attributes:
        encode: texts to unit vectors [N, D] float32.
        told: the language model.
        captions: gallery id -> its captions, where they are given; else the model describes the pictures.
        seconds: what encoding the texts used so far takes, each time anew.
        spent: what encoding took in this process.
        once: of all seconds, the language model's included, those that went into the gallery.
    """

    task: Task
    encode: Callable[[Sequence[Document]], np.ndarray]
    told: CachedGenerator
    captions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seconds: float = 0.0
    spent: float = 0.0
    once: float = 0.0
    _known: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    _took: dict[str, float] = field(default_factory=dict, repr=False)

    def descriptions(self) -> np.ndarray:
        """e(description of the reference) [Q, D] float32 of unit length; one reference a query."""
        return self._vectors([[Question(DESCRIBE, items[0].images)] for items in self.task.queries])

    def rewrites(self) -> np.ndarray:
        """e(description of what is looked for) [Q, D] float32 of unit length; the mean over a query's items."""
        return self._vectors([[rewrite(item) for item in items] for items in self.task.queries])

    def rewritten(self) -> list[str]:
        """The description of what each query looks for, by its first item."""
        return [text or NOTHING for text in self.told.say([rewrite(items[0]) for items in self.task.queries])]

    def captioned_gallery(self, gallery: np.ndarray, beta: float) -> np.ndarray:
        """(1 - b) g + b mean(c): an inner product with it is WeiMoCIR's fused score, for one matrix product.

        Args: gallery [N, D] float32; beta in [0, 1]. Returns [N, D] float32, not of unit length; with beta 0 `gallery`
        itself. Raises ConfigError for another beta.
        """
        if not 0 <= beta <= 1:
            raise ConfigError(f"beta is a share from 0 to 1, not {beta}")
        return ((1 - beta) * gallery + beta * self.mean_captions()).astype(np.float32) if beta else gallery

    def mean_captions(self) -> np.ndarray:
        """The mean of each gallery picture's caption vectors [N, D] float32, not of unit length."""
        before = self.seconds + self.told.seconds
        if self.captions:
            told = [list(self.captions[name]) for name in self.task.gallery_ids]
        else:
            told = [[text] for text in self.told.say([Question(DESCRIBE, item.images) for item in self.task.gallery])]
        means = self._means(told)
        self.once += self.seconds + self.told.seconds - before
        return means

    def _vectors(self, asked: Sequence[Sequence[Question]]) -> np.ndarray:
        said = iter(self.told.say([question for questions in asked for question in questions]))
        return unit(self._means([[next(said) for _ in questions] for questions in asked]))

    def _means(self, texts: Sequence[Sequence[str]]) -> np.ndarray:
        """The mean vector of each list of texts [N, D] float32; one that says nothing counts as NOTHING."""
        texts = [[text.strip() or NOTHING for text in row] for row in texts]
        new = list(dict.fromkeys(text for row in texts for text in row if text not in self._known))
        if new:
            started = time.perf_counter()
            self._known |= dict(zip(new, self.encode([Document(text=text) for text in new]), strict=True))
            took = time.perf_counter() - started
            self._took |= dict.fromkeys(new, took / len(new))
            self.spent += took
        self.seconds += sum(self._took[text] for text in {text for row in texts for text in row})
        return np.stack([np.mean([self._known[text] for text in row], axis=0) for row in texts])


def rewrite(item: Item) -> Question:
    """What the model is asked of a query; its picture's description where there is no instruction."""
    words = REWRITE.replace("{instruction}", item.words) if item.words else DESCRIBE
    return Question(words, item.images)
