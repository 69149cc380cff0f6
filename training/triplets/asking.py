"""Asking for what has no answer yet, so that work that was stopped goes on, and what fails for all is told at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from mllm_embed.errors import ModelError
from mllm_embed.generate.answer_cache import REFUSED, AnswerCache, CachedAnswer

_PATIENCE = 5  # refusals before the first answer, after which it is not the captions' fault
_Prompt = TypeVar("_Prompt")
_Asks = TypeVar("_Asks", contravariant=True)


class Answerer(Protocol[_Asks]):
    """Who answers prompts; `identity`, which is JSON, holds all that decides an answer beside the prompt.

    `cure` says what to see to where it refuses every prompt.
    """

    name: str
    identity: dict[str, Any]
    cure: str

    def ask(self, prompts: Iterable[tuple[str, _Asks]]) -> Iterator[tuple[str, CachedAnswer]]:
        """Yield (key, answer) for each (key, prompt), in any order."""
        ...


def collect(
    prompts: Mapping[str, _Prompt],
    answerer: Answerer[_Prompt],
    cache: AnswerCache,
    unit: str,
    notes: Callable[[str], dict[str, str]],
    together: int = 1,
) -> None:
    """Ask for every prompt that has no answer in the cache.

    Refusals wait for the first answer: what is refused for every prompt is a setting, and does not go into the cache.

    Args:
        prompts: key -> prompt.
        answerer: who is asked.
        cache: where answers go.
        unit: what a prompt is about, for the bar.
        notes: from a key to what stands beside its answer in the cache, for a reader.
        together: prompts that are asked as one, always the same ones, where an answer may depend on the others.

    Raises ModelError where nothing but refusals comes, and what the answerer raises.
    """
    missing = _missing(prompts, cache, together)
    if not missing:
        return
    answered = any(cache[key].finish != REFUSED for key in prompts if key in cache)
    waiting: list[tuple[str, CachedAnswer]] = []
    with tqdm(total=len(prompts), initial=len(prompts) - len(missing), unit=unit, desc=answerer.name) as bar:
        for key, answer in answerer.ask((key, prompts[key]) for key in missing):
            waiting.append((key, answer))
            answered |= answer.finish != REFUSED
            if not answered and len(waiting) >= _PATIENCE:
                break
            if answered:
                for some, held in waiting:
                    cache.add(some, held, **notes(some))
                waiting.clear()
            bar.update()
    if waiting:
        raise ModelError(f"{waiting[0][1].text}; nothing was answered yet, so {answerer.cure}")


def _missing(prompts: Mapping[str, _Prompt], cache: AnswerCache, together: int) -> list[str]:
    """Return the keys that are asked for, in order."""
    keys, missing = list(prompts), []
    for start in range(0, len(keys), together):
        block = keys[start : start + together]
        missing += block if any(key not in cache for key in block) else []
    return missing
