"""The language model that an embedder was made of, speaking again: its adapter off, its head back on.

No weight is kept twice but the head's: the others are the embedder's own. Answers are the likeliest tokens, never
samples, so that the same question has the same answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..encode.embedder import MLLMEmbedder
from ..errors import ConfigError, DataError, ModelError
from ..inputs.images import load_image, name_of
from ..inputs.prompts import chat
from ..model.loading import load_errors
from ..saving.settings import read_settings
from ..types import ImageLike


@dataclass(frozen=True)
class Question:
    """Pictures, perhaps none, and what is asked about them."""

    words: str
    images: tuple[ImageLike, ...] = ()


class Generator:
    """Asks the base model of an embedder."""

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

    def generate(self, questions: Sequence[Question], *, max_tokens: int = 64, batch_size: int = 8) -> Iterator[str]:
        """What the model says, in the order of the questions; a batch at a time."""
        ends = self.model.generation_config.eos_token_id
        for part in _parts(questions, batch_size):
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
        """How much likelier "yes" is than "no" as the next word: the difference of their logits.

        The largest over the ways to write each word in one token. Raises ModelError where the tokenizer has none.
        """
        yes, no = self._tokens("yes"), self._tokens("no")
        for part in _parts(questions, batch_size):
            with self._without_adapter(), torch.inference_mode():
                logits = self.model(**self._input(part), use_cache=False, logits_to_keep=1).logits[:, -1].float()
            yield from (logits[:, yes].amax(1) - logits[:, no].amax(1)).tolist()

    def log_likelihood(self, pairs: Sequence[tuple[Question, str]], *, batch_size: int = 8) -> Iterator[float]:
        """The mean log-likelihood, over its tokens, of an answer to a question. Raises DataError for an empty one."""
        if not all(answer.strip() for _, answer in pairs):
            raise DataError("an empty answer has no likelihood; leave it out")
        for part in _parts(pairs, batch_size):
            asked = [self._text(question) for question, _ in part]
            told = [text + answer for text, (_, answer) in zip(asked, part, strict=True)]
            counts = [len(whole) - len(start) for whole, start in zip(self._ids(told), self._ids(asked), strict=True)]
            batch = self._input([question for question, _ in part], told)
            ends, longest = torch.tensor(counts, device=self.embedder.device), max(counts)
            with self._without_adapter(), torch.inference_mode():
                logits = self.model(**batch, use_cache=False, logits_to_keep=longest + 1).logits[:, :-1]
                labels = batch["input_ids"][:, -longest:]
                found = logits.float().log_softmax(-1).gather(2, labels[..., None])[..., 0]
            real = torch.arange(longest, 0, -1, device=ends.device) <= ends[:, None]  # padding is on the left
            yield from ((found * real).sum(1) / ends).tolist()

    @contextmanager
    def _without_adapter(self) -> Iterator[None]:
        backbone = self.embedder.model.backbone
        with backbone.disable_adapter() if self.embedder.model.adapted else nullcontext():
            yield

    def _text(self, question: Question) -> str:
        return chat(self.embedder.processor, question.words, len(question.images))

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.embedder.item_processor.tokens(texts)

    def _input(self, questions: Sequence[Question], texts: list[str] | None = None) -> dict[str, Tensor]:
        """Model input of questions, which all have pictures or none; `texts` where more than the question is told."""
        pictures = [[load_image(image) for image in question.images] for question in questions]
        texts = texts or [self._text(question) for question in questions]
        try:
            batch = self.embedder.item_processor.batch(texts, pictures)
        except (ValueError, TypeError) as error:
            shown = ", ".join(dict.fromkeys(name_of(image) for question in questions for image in question.images))
            reason = str(error).strip().splitlines()[0]
            raise ModelError(f"the model cannot be asked about {shown or 'these words'} ({reason})") from error
        dtype, device = self.embedder.dtype, self.embedder.device
        return {name: (t.to(dtype) if t.is_floating_point() else t).to(device) for name, t in batch.items()}

    def _tokens(self, word: str) -> list[int]:
        ways = {form for case in (word, word.capitalize()) for form in (case, f" {case}")}
        found = [ids[0] for ids in self.tokenizer(sorted(ways), add_special_tokens=False)["input_ids"] if len(ids) == 1]
        found = [token for token in found if token != self.tokenizer.unk_token_id]
        if not found:
            raise ModelError(f'the tokenizer of {self.embedder.settings.base} has no token for "{word}"')
        return found


def _parts(work: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (work[at : at + size] for at in range(0, len(work), size))


def with_head(embedder: MLLMEmbedder) -> Any:
    """The whole generating model around the embedder's own base; only its head is kept.

    Raises ConfigError for an embedder that was not loaded from files, ModelError for a base without a head in them.
    """
    from transformers import AutoModelForImageTextToText

    settings, base = embedder.settings, embedder.model.base
    name = settings.base
    if name is None:
        raise ConfigError("of a model that was not loaded from files there is no head to read")
    with load_errors(name):
        whole, found = AutoModelForImageTextToText.from_pretrained(
            name, revision=settings.base_revision, dtype=embedder.dtype, use_safetensors=True, output_loading_info=True
        )
    if found["missing_keys"]:
        raise ModelError(f"{name} holds no language-model head ({sorted(found['missing_keys'])[0]}): it cannot speak")
    whole.model = base
    whole.tie_weights()
    return whole.to(embedder.device).eval()
