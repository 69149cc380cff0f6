"""The prompt of a re-ranker as data: how a query and its candidates are put into one text, and what is read there.

The query comes first, so that all candidates of a query share a prefix.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Literal

from ...errors import ConfigError, DataError, did_you_mean
from ...types import Item, Query, Role
from ..prompts import CHAT, CHAT_TEXT, IMAGE, INSTRUCTION, NONE, PROMPT, SYSTEM, TASK, TEXT

QUERY, CANDIDATE, CANDIDATES, NUMBER = "{query}", "{candidate}", "{candidates}", "{number}"
AVOID = "{avoid}"
Score = Literal["difference", "sigmoid"]
SCORES: tuple[Score, ...] = ("difference", "sigmoid")


@dataclass(frozen=True)
class ListPrompt:
    """How several candidates are put into one prompt, of which the model names one.

    Args:
        words: what is asked; holds `{query}` and then `{candidates}` once each.
        candidate: how one of them is written; holds `{number}`, counted from 1, and then `{candidate}` once each.
        label: what names one in the answer; holds `{number}`. The first of its tokens is what is looked for.
        append: what comes after the generation prompt, up to where the label is said.
        most: how many candidates a prompt holds.
    """

    words: str
    candidate: str = "({number}) {candidate}\n"
    label: str = NUMBER
    append: str = ""
    most: int = 10

    def __post_init__(self) -> None:
        _check_marks("list.words", self.words, (QUERY, CANDIDATES), (TASK,))
        _check_marks("list.candidate", self.candidate, (NUMBER, CANDIDATE))
        if NUMBER not in self.label:
            raise ConfigError(f"re-ranker's prompt: list.label must hold {NUMBER}, not {self.label[:60]!r}")
        if type(self.most) is not int or self.most < 2:
            raise ConfigError(f"re-ranker's prompt: list.most must be 2 or more, not {self.most!r:.60}")


@dataclass(frozen=True)
class RerankPrompt:
    """How a re-ranker is asked whether a candidate is what a query looks for, and how its answer is read.

    Args:
        words: what is asked; holds `{query}` and then `{candidate}` once each, and perhaps `{task}`.
        composed: a query of pictures and what to change in them; holds `{instruction}` once.
        query_image: a query of pictures alone.
        query_text: a query of words alone; holds `{text}` once.
        composed_text: a query of a text in the place of a picture and what to change in it; holds both marks once.
        image: a candidate of pictures alone.
        text: a candidate of words alone; holds `{text}` once.
        captioned: a candidate of pictures with their text; holds `{text}` once.
        avoid: how a query says what it avoids, behind its other words and a comma; holds `{avoid}` once.
        task: the task of queries that bring none.
        task_form: how a task is written where there is one; holds `{task}` once. Where there is none, nothing is.
        template, system, generation_prompt, append, picture, strip: as of `PromptSet`; the system message may hold
            `{task}`.
        yes, no: the answers whose logits are compared: a word, or several of which the largest counts. A word of
            several tokens counts by its first.
        score: "difference" of the two logits, or "sigmoid" of that, the probability of yes among the two.
        list: how several candidates are put into one prompt; None where the model was not asked so.

    Forms of what has pictures hold `{image}` where these stand. White space is kept to the letter. Raises ConfigError
    for a mark that is missing, occurs twice or stands where it has no meaning.
    """

    # the question first: what comes behind the query is computed for every candidate
    words: str = (
        "Does the candidate show what the query asks for? Answer with yes or no.\nQuery: {query}\n"
        "Candidate: {candidate}"
    )
    composed: str = '{image}Modify this image with "{instruction}"'
    query_image: str = "{image}"
    query_text: str = "{text}"
    composed_text: str = '{text}\nModify above sentence with "{instruction}"'
    image: str = "{image}"
    text: str = "{text}"
    captioned: str = "{image}{text}"
    avoid: str = f"without {AVOID}"
    task: str = ""
    task_form: str = TASK
    template: str = CHAT
    system: str = ""
    generation_prompt: bool = True
    append: str = ""
    picture: str | None = None
    strip: bool = True
    yes: tuple[str, ...] = ("yes",)
    no: tuple[str, ...] = ("no",)
    score: Score = "difference"
    list: ListPrompt | None = None

    def __post_init__(self) -> None:
        _check_marks("words", self.words, (QUERY, CANDIDATE), (TASK,))
        for name, (needed, may) in _FORMS.items():
            _check_marks(name, getattr(self, name), needed, may)
        _check_marks("task_form", self.task_form, (TASK,))
        _check_frame(self)
        if self.score not in SCORES:
            raise ConfigError(f"re-ranker's prompt: score is {' or '.join(SCORES)}, not {self.score!r:.60}")
        for name in ("yes", "no"):
            object.__setattr__(self, name, _words(name, getattr(self, name)))
        if isinstance(self.list, Mapping):
            object.__setattr__(self, "list", _of_keys(ListPrompt, self.list, "list."))

    def query_form(self, role: Role) -> str:
        """Return how a query of a role is written. Raises DataError for one that is none: pictures with their text."""
        if role == "captioned":
            raise DataError("a query has pictures, words or both as `instruction`; a Document with both is a candidate")
        return getattr(self, {"image": "query_image", "text": "query_text"}.get(role, role))

    def said(self, query: Item) -> Item:
        """Return a query that says in its words what it avoids, as an embedder is not asked: itself, without any."""
        if not isinstance(query, Query) or query.avoid is None:
            return query
        words = self.avoid.replace(AVOID, query.avoid)
        if query.text is not None and query.instruction is None:
            return replace(query, avoid=None, text=f"{query.text}, {words}")
        instruction = words if query.instruction is None else f"{query.instruction}, {words}"
        return replace(query, avoid=None, instruction=instruction)

    def check_candidate(self, candidate: Item) -> None:
        """Raise DataError for an item that cannot be a candidate: with an instruction."""
        if candidate.role not in ("image", "text", "captioned"):
            raise DataError("a candidate is pictures, a text or both: what to change is the query's")

    def task_of(self, query: Item) -> str:
        """Return the task of a query, its own or that of the prompt; empty where there is none.

        Raises DataError for one of its own that has no place.
        """
        if query.task is None:
            return self.task
        if TASK not in "".join((self.words, self.system, self.query_form(query.role))):
            raise DataError(
                f"this re-ranker's prompt has no place for the task {query.task[:60]!r}; leave it out, or give a "
                f"prompt with {TASK} in it"
            )
        return query.task

    def to_dict(self) -> dict[str, Any]:
        """Return the prompt as plain JSON: all that is asked and answered, and of the frame what is not as by default.

        So what is saved is asked as it was trained, whatever a later version has as its defaults.
        """
        values = json.loads(json.dumps(asdict(self)))
        return {key: value for key, value in values.items() if key in _ALWAYS or value != _DEFAULTS[key]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RerankPrompt:
        """Return the prompt of what `to_dict` returned, or of a file's keys.

        Raises ConfigError, which names the key, for one that no prompt has, or that is not what it must be.
        """
        return _of_keys(cls, values)


# of each form, the marks that it must hold and those that it may
_FORMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "composed": ((IMAGE, INSTRUCTION), (TASK,)),
    "query_image": ((IMAGE,), (TASK,)),
    "query_text": ((TEXT,), (TASK,)),
    "composed_text": ((TEXT, INSTRUCTION), (TASK,)),
    "image": ((IMAGE,), ()),
    "text": ((TEXT,), ()),
    "captioned": ((IMAGE, TEXT), ()),
    "avoid": ((AVOID,), ()),
}
_MARKS = (QUERY, CANDIDATE, CANDIDATES, NUMBER, TEXT, INSTRUCTION, TASK, IMAGE, AVOID)
_DEFAULTS = {
    field.name: json.loads(json.dumps(field.default)) for field in fields(RerankPrompt) if field.default is not MISSING
}
_ALWAYS = ("words", *_FORMS, "yes", "no", "score")
_BOOLEANS, _MAY_LACK = ("generation_prompt", "strip"), ("picture", "list")


def _check_marks(name: str, words: str, needed: tuple[str, ...], may: tuple[str, ...] = ()) -> None:
    """Raise ConfigError for words that lack a mark, hold one twice, or hold another than those that they may; `{query}`
    comes before what it is compared with."""
    where = f"re-ranker's prompt: {name}"
    missing = next((mark for mark in needed if words.count(mark) != 1), None)
    if missing:
        raise ConfigError(f"{where} must hold {missing} once, not {words[:60]!r}")
    other = next((mark for mark in _MARKS if mark in words and mark not in (*needed, *may)), None)
    if other:
        raise ConfigError(f"{where} may not hold {other}: it has no meaning there")
    if needed[0] in (QUERY, NUMBER) and words.index(needed[0]) > words.index(needed[1]):
        raise ConfigError(f"{where} must hold {needed[0]} before {needed[1]}")
    if any(words.count(mark) > 1 for mark in may):
        raise ConfigError(f"{where} may hold {may[0]} once")


def _check_frame(prompt: RerankPrompt) -> None:
    """Raise ConfigError for a text around the words that has no place for them, or holds what they alone may."""
    template = PROMPT if prompt.template in (CHAT, CHAT_TEXT, NONE) else prompt.template
    if template.count(PROMPT) != 1 or template.count(SYSTEM) > 1:
        raise ConfigError(
            f"re-ranker's prompt: template is {template[:60]!r}; give {CHAT}, {CHAT_TEXT}, {NONE}, or a text that "
            f"holds {PROMPT} once, and perhaps {SYSTEM}"
        )
    if prompt.system and SYSTEM not in template and prompt.template not in (CHAT, CHAT_TEXT):
        raise ConfigError(f"re-ranker's prompt: system has no place: the template lacks {SYSTEM}")
    _check_marks_around(prompt, template)


def _check_marks_around(prompt: RerankPrompt, template: str) -> None:
    """Raise ConfigError for marks in what stands around the words, and for a second one of the task."""
    around = "".join((template, prompt.system.replace(TASK, ""), prompt.append, prompt.picture or ""))
    lost = next((mark for mark in _MARKS if mark in around), None)
    if lost:
        raise ConfigError(f"re-ranker's prompt: {lost} may stand in the words and forms, not in what is around them")
    for form in ("composed", "query_image", "query_text", "composed_text"):
        if "".join((prompt.words, prompt.system, getattr(prompt, form))).count(TASK) > 1:
            raise ConfigError(f"re-ranker's prompt: {TASK} may stand once in words, system message and {form} together")


def _words(name: str, given: Any) -> tuple[str, ...]:
    """Return the words of an answer. Raises ConfigError for anything but words."""
    words = (given,) if isinstance(given, str) else given
    said = isinstance(words, list | tuple) and all(isinstance(word, str) and word.strip() for word in words)
    if not said or not words:
        raise ConfigError(f"re-ranker's prompt: {name} is a word or a list of words, not {given!r:.60}")
    return tuple(words)


def _of_keys(kind: Any, values: Mapping[str, Any], where: str = "") -> Any:
    """Return a prompt of keys with values. Raises ConfigError, by the key, for what it has not or cannot have."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"re-ranker's prompt: give keys with values, not {values!r:.60}")
    known = [field.name for field in fields(kind)]
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"re-ranker's prompt: {where}{key} is no key of it" + did_you_mean(str(key), known))
        _check_value(where + key, key, value)
    if "words" not in values:
        raise ConfigError(f"re-ranker's prompt: it has no {where}words")
    return kind(**values)


def _check_value(where: str, key: str, value: Any) -> None:
    if key in ("yes", "no", "score", "most") or (value is None and key in _MAY_LACK):
        return  # whose own checks say what they must be
    words = "true or false" if key in _BOOLEANS else "keys with values" if key == "list" else "a text"
    kind: Any = {"true or false": bool, "keys with values": Mapping | ListPrompt}.get(words, str)
    if not isinstance(value, kind):
        raise ConfigError(f"re-ranker's prompt: {where} is {json.dumps(value, default=str)[:60]}, not {words}")
