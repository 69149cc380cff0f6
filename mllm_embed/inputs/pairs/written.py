"""The prompts of a re-ranker written out: a query and candidates in their words, one text for the processor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from ...errors import ConfigError
from ...types import Item, Role
from ..item_processor import ItemProcessor
from ..prompts import IMAGE, INSTRUCTION, TASK, TEXT, ResolvedPrompt
from ..rendering import render_each
from .prompt import CANDIDATE, CANDIDATES, NUMBER, QUERY, ListPrompt, RerankPrompt

_QUERY_TEXT = "{query_text}"
_MARK = re.compile(r"\{(?:query_text|instruction|task|candidate_text_\d+)\}")
_KINDS = (("image", 1), ("text", 0), ("captioned", 1))


class Shape(NamedTuple):
    """What of a query and its candidates decides how their prompt is written, their words and pictures apart.

    Args:
        query: the query's role.
        pictures: how many the query has.
        tasked: whether it has a task.
        candidates: role and number of pictures of each.
        listed: whether they are put into the prompt of lists.
    """

    query: Role
    pictures: int
    tasked: bool
    candidates: tuple[tuple[str, int], ...]
    listed: bool = False


class WrittenPairs:
    """A re-ranker's prompt, to be filled with queries and candidates."""

    def __init__(self, items: ItemProcessor, prompt: RerankPrompt):
        """Fill `prompt` for the model whose processor `items` has."""
        self._items, self.prompt = items, prompt
        self._template, self._cut = cache(self._rendered), cache(self._start_of_candidate)

    def shape(self, query: Item, candidates: Sequence[Item], listed: bool = False) -> Shape:
        """Return the shape of a prompt. Raises DataError for items that cannot stand there, and for a task that has no
        place."""
        query = self.prompt.said(query)
        for one in candidates:
            self.prompt.check_candidate(one)
        kinds = tuple((one.role, len(one.images)) for one in candidates)
        return Shape(query.role, len(query.images), bool(self.prompt.task_of(query)), kinds, listed)

    def text(self, query: Item, candidates: Sequence[Item], listed: bool = False) -> str:
        """Return the whole prompt of a query and a candidate, or of a list of them, with the placeholders of pictures:
        the query's, then each candidate's in turn.

        Raises DataError as `shape` does and `Words.written`, ModelError as `render_each`, ConfigError for a list where
        the prompt has no form of one.
        """
        query = self.prompt.said(query)
        template = self._template(self.shape(query, candidates, listed))
        return self._filled(template, 0, len(template), self._words(query, candidates))

    def parts(self, query: Item, candidate: Item) -> tuple[str, str]:
        """Return the prompt of a query and a candidate as what is before the candidate and what is from there on.

        Raises as `text` does.
        """
        query = self.prompt.said(query)
        shape, words = self.shape(query, [candidate]), self._words(query, [candidate])
        template, cut = self._template(shape), self.cut(shape)
        return self._filled(template, 0, cut, words), self._filled(template, cut, len(template), words)

    def cut(self, shape: Shape) -> int:
        """Return up to where the template of a pair is alike for all candidates of the query."""
        return self._cut(shape._replace(candidates=()))

    def _words(self, query: Item, candidates: Sequence[Item]) -> dict[str, str]:
        """Return what stands in the place of each mark."""
        task = self.prompt.task_form.replace(TASK, self.prompt.task_of(query)) if self.prompt.task_of(query) else ""
        own = {_QUERY_TEXT: query.text or query.words or "", INSTRUCTION: query.words or "", TASK: task}
        return own | {_text_of(number): one.words or "" for number, one in enumerate(candidates, 1)}

    def _filled(self, template: str, start: int, end: int, words: dict[str, str]) -> str:
        """Return a part of a template with words in the place of its marks, in one pass: words may spell a mark."""
        text, last = "", start
        for mark in _MARK.finditer(template, start, end):
            given = words[mark[0]]
            given = given.strip() if self.prompt.strip and mark[0] != TASK else given
            text += template[last : mark.start()] + self._items.words.written(given, template[: mark.start()])
            last = mark.end()
        return text + template[last:end]

    def _start_of_candidate(self, shape: Shape) -> int:
        """Return the length of what the templates of all kinds of candidates begin with alike."""
        templates = [self._template(shape._replace(candidates=(kind,))) for kind in _KINDS]
        alike = 0
        for letters in zip(*templates, strict=False):
            if len(set(letters)) > 1:
                break
            alike += 1
        return alike

    def _rendered(self, shape: Shape) -> str:
        """Return a prompt with marks for all that is given, and a placeholder for each picture."""
        prompt, form = self.prompt, _list_form(self.prompt) if shape.listed else None
        query = _with_pictures(prompt.query_form(shape.query).replace(TEXT, _QUERY_TEXT), shape.pictures)
        written = [
            _with_pictures(getattr(prompt, role).replace(TEXT, _text_of(number)), pictures)
            for number, (role, pictures) in enumerate(shape.candidates, 1)
        ]
        if form:
            listed = [
                form.candidate.replace(NUMBER, str(number)).replace(CANDIDATE, one)
                for number, one in enumerate(written, 1)
            ]
            words = form.words.replace(QUERY, query).replace(CANDIDATES, "".join(listed))
        else:
            words = prompt.words.replace(QUERY, query).replace(CANDIDATE, written[0])
        system = prompt.system
        if not shape.tasked:
            words, system = words.replace(TASK, ""), system.replace(TASK, "")
        append = prompt.append + (form.append if form else "")
        frame = (prompt.template, system, prompt.generation_prompt, append, prompt.picture)
        return render_each(self._items.processor, ResolvedPrompt(words, *frame))


def _list_form(prompt: RerankPrompt) -> ListPrompt:
    if prompt.list is None:
        raise ConfigError("this re-ranker's prompt has no form of lists (`list`); ask it about one candidate at a time")
    return prompt.list


def _text_of(number: int) -> str:
    return f"{{candidate_text_{number}}}"


def _with_pictures(form: str, count: int) -> str:
    return form.replace(IMAGE, IMAGE * count)
