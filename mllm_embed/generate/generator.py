"""The language model that an embedder was made of, speaking again: its adapter off, its head back on.

Only the head's weights are held beside the embedder's own. Answers are the likeliest tokens, never samples, so that the
same question has the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..encode.batching import cut_by_budget
from ..encode.distinct import USUAL
from ..encode.embedder import MLLMEmbedder
from ..errors import ConfigError, DataError, ModelError
from ..inputs.images import glance, load_image, name_of
from ..inputs.lengths import Lengths
from ..inputs.prompts import TEXT
from ..inputs.rendering import chat
from ..model.loading import load_speaking
from ..saving.settings import read_settings
from ..types import Document, ImageLike

_Work = TypeVar("_Work")


@dataclass(frozen=True)
class Question:
    """Pictures, perhaps none, and words that ask about them."""

    words: str
    images: tuple[ImageLike, ...] = ()


class Generator:
    """The base model of an embedder, to be asked in words.

    Every method takes a batch of questions at a time; those of one call all have pictures, or none has. Words are words
    to it (inputs/words.py), and raise DataError where they and the pictures are longer than the model's limit.
    """

    def __init__(self, embedder: MLLMEmbedder):
        """Put the head of the embedder's base back on its weights.

        The base is read whole for it, once and on the CPU. Raises ConfigError where there are no weights of the base
        left (a merged adapter, a saved whole embedder), ModelError for a base that has no head in its files.
        """
        self.embedder = embedder
        if embedder.settings.adapter and not embedder.model.adapted:
            raise ConfigError("the adapter is merged into the weights, and the base can no longer speak: load it apart")
        base = embedder.settings.base
        if base and read_settings(base) is not None:
            raise ConfigError(
                f"{base} is a whole saved embedder: its weights embed, and can no longer speak; give the base that it "
                "was made of, and the adapter"
            )
        if embedder.model.bidirectional:
            raise ConfigError("this model's attention looks ahead: it can embed, but no longer speak")
        self.model, self.tokenizer = with_head(embedder), embedder.processor.tokenizer
        items = embedder.item_processor
        # nothing is cut of a question, whose end says what to answer
        self._lengths = Lengths(items, replace(items.lengths.limit, truncate=False), "ask for less at once")
        self._before = cache(self._template_before)

    def generate(self, questions: Sequence[Question], *, max_tokens: int = 64, batch_size: int = 8) -> Iterator[str]:
        """Yield what the model says, in the order of the questions, each at most `max_tokens` long."""
        ends = self.model.generation_config.eos_token_id
        for part in _parts(questions, questions, batch_size):
            batch = self._input(part)
            with self._without_adapter(), torch.inference_mode():
                out = self.model.generate(
                    **batch,
                    max_new_tokens=max_tokens,
                    do_sample=False,
                    eos_token_id=ends if ends is not None else self.tokenizer.eos_token_id,
                    pad_token_id=self.tokenizer.pad_token_id,
                )
            said = out[:, batch["input_ids"].shape[1] :]
            yield from (text.strip() for text in self.tokenizer.batch_decode(said, skip_special_tokens=True))

    def yes_no_margin(self, questions: Sequence[Question], *, batch_size: int = 8) -> Iterator[float]:
        """Yield how much likelier "yes" is than "no" as the next word: the difference of their logits.

        A word's logit is the largest over the ways to write it in one token. Raises ModelError where the tokenizer has
        none.
        """
        yes, no = self._tokens("yes"), self._tokens("no")
        for part in _parts(questions, questions, batch_size):
            with self._without_adapter(), torch.inference_mode():
                logits = self.model(**self._input(part), use_cache=False, logits_to_keep=1).logits[:, -1].float()
            yield from (logits[:, yes].amax(1) - logits[:, no].amax(1)).tolist()

    def log_likelihood(self, pairs: Sequence[tuple[Question, str]], *, batch_size: int = 8) -> Iterator[float]:
        """Yield the mean log-likelihood (nats) of each answer to its question, over the answer's tokens.

        Raises DataError for an empty answer.
        """
        if not all(answer.strip() for _, answer in pairs):
            raise DataError("an empty answer has no likelihood; leave it out")
        for part in _parts(pairs, [question for question, _ in pairs], batch_size):
            asked = [self._text(question) for question, _ in part]
            answered = [text + self._written(answer, text) for text, (_, answer) in zip(asked, part, strict=True)]
            both = zip(self._ids(answered), self._ids(asked), strict=True)
            lengths = torch.tensor([len(whole) - len(prefix) for whole, prefix in both], device=self.embedder.device)
            longest = int(lengths.max())
            batch = self._input([question for question, _ in part], answered)
            with self._without_adapter(), torch.inference_mode():
                logits = self.model(**batch, use_cache=False, logits_to_keep=longest + 1).logits[:, :-1]
                labels = batch["input_ids"][:, -longest:]
                found = logits.float().log_softmax(-1).gather(2, labels[..., None])[..., 0]
            # padding is on the left, so that an answer is the last tokens of its row, whatever the others' lengths
            is_answer = torch.arange(longest, 0, -1, device=lengths.device) <= lengths[:, None]
            yield from ((found * is_answer).sum(1) / lengths).tolist()

    @contextmanager
    def _without_adapter(self) -> Iterator[None]:
        backbone: Any = self.embedder.model.backbone
        with backbone.disable_adapter() if self.embedder.model.adapted else nullcontext():
            yield

    def _text(self, question: Question) -> str:
        words = self._written(question.words, self._before(len(question.images)))
        return chat(self.embedder.processor, words, len(question.images))

    def _template_before(self, images: int) -> str:
        """Return what the chat template says in front of a question about so many pictures."""
        return chat(self.embedder.processor, TEXT, images).partition(TEXT)[0]

    def _written(self, words: str, before: str) -> str:
        """Return words that are as words to the model. Raises DataError for those that are longer than it can take."""
        if words.strip():
            self._lengths.bounded(Document(text=words))
        return self.embedder.item_processor.words.written(words, before)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.embedder.item_processor.tokens(texts)

    def _input(self, questions: Sequence[Question], texts: list[str] | None = None) -> dict[str, Tensor]:
        """Return the model input of questions, or of these `texts`, which answer them too."""
        pictures = [list(map(load_image, question.images)) for question in questions]
        texts = texts or [self._text(question) for question in questions]
        try:
            batch = self.embedder.item_processor.batch(texts, pictures)
        except DataError as error:
            raise ModelError(f"the model cannot be asked about {_subject(questions)}: {error}") from error
        self._lengths.check(
            [Document(question.images or None, question.words) for question in questions], batch["attention_mask"]
        )
        return {name: self._placed(tensor) for name, tensor in batch.items()}

    def _placed(self, tensor: Tensor) -> Tensor:
        dtype = self.embedder.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.to(dtype).to(self.embedder.device)

    def _tokens(self, word: str) -> list[int]:
        """Return the tokens that are a whole word, in lower case or capitalised, with or without a space before it."""
        ways = sorted({word, word.capitalize(), f" {word}", f" {word.capitalize()}"})
        written = self.tokenizer(ways, add_special_tokens=False)["input_ids"]
        found = [ids[0] for ids in written if len(ids) == 1 and ids[0] != self.tokenizer.unk_token_id]
        if not found:
            raise ModelError(f'the tokenizer of {self.embedder.settings.base} has no token for "{word}"')
        return found


def _subject(questions: Sequence[Question]) -> str:
    """Return how a message names what questions are about."""
    names = dict.fromkeys(name_of(image) for question in questions for image in question.images)
    return ", ".join(names) or "these words"


def _parts(work: Sequence[_Work], questions: Sequence[Question], size: int) -> Iterator[Sequence[_Work]]:
    """Yield work, each of a question, in parts of at most `size`, whose pictures are no more than fit in memory."""
    for at in range(0, len(work), size):  # pictures are looked at when it is their turn
        pixels = [_pixels(question) for question in questions[at : at + size]]
        yield from (work[at : at + size][part] for part in cut_by_budget([1] * len(pixels), size, pixels=pixels))


def _pixels(question: Question) -> int:
    return sum(math.prod(glance(image).size or USUAL) for image in question.images)


def with_head(embedder: MLLMEmbedder) -> Any:
    """Return the whole generating model around the embedder's own base; of what is read, only its head stays.

    Raises ConfigError for an embedder that was not loaded from files, ModelError for a base without a head in them.
    """
    settings, base = embedder.settings, embedder.model.base
    name = settings.base
    if name is None:
        raise ConfigError("of a model that was not loaded from files there is no head to read")
    if embedder.family.headless:
        raise ModelError(f"{name} is an encoder, which has no language-model head: it cannot speak")
    whole = load_speaking(name, settings.base_revision, embedder.dtype)
    whole.model = base
    whole.tie_weights()  # a head that is the embeddings' own matrix must be that of this base, not of the one just read
    return whole.to(embedder.device).eval()
