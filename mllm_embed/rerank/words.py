"""The tokens by which a re-ranker's answers are told: those with which each of them begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..inputs.pairs.prompt import NUMBER, ListPrompt, RerankPrompt


@dataclass(frozen=True)
class Answers:
    """The numbers of tokens.

    Args:
        yes, no: of the ways to say so.
        labels: of the labels of a list, in order; none where the prompt has no form of lists.
    """

    yes: tuple[int, ...]
    no: tuple[int, ...]
    labels: tuple[int, ...] = ()

    @property
    def tokens(self) -> tuple[int, ...]:
        """All of them, in this order."""
        return (*self.yes, *self.no, *self.labels)


def answers_of(tokenizer: Any, prompt: RerankPrompt) -> Answers:
    """Return the tokens with which a prompt's answers begin, as a tokenizer makes them of the words alone.

    Raises ConfigError where two that are to be told apart begin alike.
    """
    yes, no = _firsts(tokenizer, prompt.yes), _firsts(tokenizer, prompt.no)
    if set(yes) & set(no):
        raise ConfigError(
            f"in this model's tokens {prompt.yes[0]!r} and {prompt.no[0]!r} begin alike, so that no logit tells them "
            "apart; give the re-ranker's prompt other words as `yes` and `no`"
        )
    return Answers(yes, no, () if prompt.list is None else _labels(tokenizer, prompt.list))


def _labels(tokenizer: Any, form: ListPrompt) -> tuple[int, ...]:
    """Return the tokens of a list's labels. Raises ConfigError where two of them begin alike."""
    labels = [form.label.replace(NUMBER, str(at)) for at in range(1, form.most + 1)]
    first = _firsts(tokenizer, labels)
    if len(set(first)) < len(first):
        twice = next(at for at, token in enumerate(first) if token in first[:at])
        raise ConfigError(
            f"in this model's tokens the label {labels[twice]!r} of a list begins as another does; set list.most of "
            f"the re-ranker's prompt to {twice} or fewer"
        )
    return first


def _firsts(tokenizer: Any, words: Sequence[str]) -> tuple[int, ...]:
    return tuple(tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words)
