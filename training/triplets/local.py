"""Answers of a language model on this machine, or of an image-text model that is only spoken to."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm_embed.errors import ConfigError, DataError
from mllm_embed.generate.answer_cache import CUT, REFUSED, CachedAnswer
from mllm_embed.inputs.chat_template import render_chat, template_of
from mllm_embed.inputs.lengths import token_limit, too_long
from mllm_embed.inputs.words import Words

from .asked import Asked, words_of


class Local:
    """A model of a folder or hub id, which is loaded when the first prompt comes.

    Args:
        name: folder or hub id.
        temperature: above 0 it samples, seeded by the prompts of a batch; else it takes the likeliest token.
        max_tokens: the longest answer.
        concurrency: prompts in a batch.
    """

    def __init__(self, name: str, temperature: float, max_tokens: int, concurrency: int = 8):
        from mllm_embed.model.loading import check_name

        check_name(name)
        self.name, self.cure = name, "take another --local model, or a shorter prompt"
        self._temperature, self._max_tokens, self._batch = temperature, max_tokens, concurrency
        self.identity = {
            "local": name,
            "weights": weights_of(name),
            "temperature": temperature,
            "max_tokens": max_tokens,
        }

    def ask(self, prompts: Iterable[tuple[str, str | Asked]]) -> Iterator[tuple[str, CachedAnswer]]:
        """Yield (key, answer) for each (key, prompt), batch by batch, prompts of like length together.

        Pictures of a prompt are not looked at. Raises ModelError for a model that cannot be loaded or cannot chat,
        ConfigError where memory is too small.
        """
        import torch

        waiting = sorted(
            ((key, words_of(prompt)) for key, prompt in prompts), key=lambda item: len(item[1]), reverse=True
        )
        chat = _load(self.name)
        for start in range(0, len(waiting), self._batch):
            batch = waiting[start : start + self._batch]
            refusals = {key: refusal for key, prompt in batch if (refusal := chat.refusal(prompt))}
            yield from refusals.items()
            batch = [(key, prompt) for key, prompt in batch if key not in refusals]
            if not batch:
                continue
            try:
                answers = self._answers(chat, [chat.render(prompt) for _, prompt in batch])
            except torch.OutOfMemoryError as error:
                raise ConfigError(f"{self._batch} prompts at a time do not fit: lower --concurrency") from error
            yield from zip((key for key, _ in batch), answers, strict=True)

    def _answers(self, chat: _ChatModel, texts: list[str]) -> list[CachedAnswer]:
        import torch

        model, tokenizer = chat.model, chat.words.tokenizer_for(texts)
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if self._temperature:
            torch.manual_seed(zlib.crc32("\n".join(texts).encode()))
            sampling = {"do_sample": True, "temperature": self._temperature}
        with torch.inference_mode():
            out = model.generate(
                **inputs, **sampling, max_new_tokens=self._max_tokens, pad_token_id=tokenizer.pad_token_id
            )
        answers = out[:, inputs["input_ids"].shape[1] :].tolist()
        ends = model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        return [
            CachedAnswer(text, "stop" if ends & set(tokens) else CUT)
            for text, tokens in zip(tokenizer.batch_decode(answers, skip_special_tokens=True), answers, strict=True)
        ]


@dataclass(frozen=True)
class _ChatModel:
    """A loaded model, its tokenizer, and what holds its chat template: the tokenizer, or the processor of one that
    sees. `words` is how the tokenizer reads those of captions, `limit` the most tokens of a prompt."""

    model: Any
    tokenizer: Any
    renderer: Any
    words: Words
    limit: int | None

    def refusal(self, prompt: str) -> CachedAnswer | None:
        """Return why a prompt cannot be answered, None where it can."""
        try:
            text = self.render(prompt)
            count = too_long(text, self.tokenizer, self.limit)[1] if self.limit else 0
            if self.limit and not count:
                count = len(self.words.tokenizer_for([text])(text, add_special_tokens=False)["input_ids"])
        except DataError as error:
            return CachedAnswer(str(error), REFUSED)
        if self.limit and count > self.limit:
            return CachedAnswer(f"{count:,} tokens and more are over the limit of {self.limit:,}", REFUSED)
        return None

    def render(self, prompt: str) -> str:
        """Return the model's input text for a prompt.

        Raises DataError as `Words.written` does, ModelError for a chat template that fails.
        """
        prompt = self.words.written(prompt)
        if not template_of(self.renderer):  # a model that was never taught to chat goes on from the prompt
            return f"{self.tokenizer.bos_token or ''}{prompt}\n"
        sees = self.renderer is not self.tokenizer
        content = [{"type": "text", "text": prompt}] if sees else prompt
        message: list[dict[str, Any]] = [{"role": "user", "content": content}]
        return render_chat(self.renderer, message, add_generation_prompt=True)


def _load(name: str) -> _ChatModel:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as SEEING

    from mllm_embed.model.devices import device_for, dtype_for
    from mllm_embed.model.loading import load_errors
    from mllm_embed.model.processor_loading import load_processor

    place = device_for()
    with load_errors(name):
        sees = AutoConfig.from_pretrained(name).model_type in SEEING
        kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
        model: Any = kind.from_pretrained(name, dtype=dtype_for("auto", place), use_safetensors=True)
        model = model.to(place).eval()  # within: a GPU that is too small for it is no traceback either
        renderer: Any = load_processor(name) if sees else AutoTokenizer.from_pretrained(name)
    tokenizer = renderer.tokenizer if sees else renderer
    tokenizer.padding_side = "left"  # an answer follows its prompt without a gap
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return _ChatModel(model, tokenizer, renderer, Words(tokenizer), token_limit(model.config, tokenizer).tokens)


def weights_of(name: str) -> Any:
    """Return what tells one state of a model from another: a hub id's commit, size and age of a folder's weights."""
    from mllm_embed.model.loading import commit_of, load_errors

    if not Path(name).is_dir():
        with load_errors(name):
            return commit_of(name)
    files = sorted(Path(name).glob("*.safetensors"))
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
