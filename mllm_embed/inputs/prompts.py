"""Prompt sets: what a model is asked about a picture, a text, or both. They are saved with the model.

A prompt is data: words with marks in them, and the frame around them, which is the model's chat template or a text of
its own. `rendering.render` writes it out.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

from ..errors import ConfigError, DataError, did_you_mean
from ..text import half_character
from ..types import Item

INSTRUCTION, TEXT, TASK, IMAGE = "{instruction}", "{text}", "{task}", "{image}"
PROMPT, SYSTEM = "{prompt}", "{system}"
KEPT_TASKS = 1024  # of which what was learned is kept: a query may bring one of its own
Slot = Literal["image", "composed", "text", "captioned", "composed_text", "query_image", "query_text"]
# where the user's words go; the prompt of pictures alone has no such place
WORDS: dict[Slot, tuple[str, ...]] = {
    "image": (),
    "composed": (INSTRUCTION,),
    "text": (TEXT,),
    "captioned": (TEXT,),
    "composed_text": (TEXT, INSTRUCTION),
    "query_image": (),
    "query_text": (TEXT,),
}
SHOWING: tuple[Slot, ...] = ("image", "composed", "captioned", "query_image")
CHAT, CHAT_TEXT, NONE = "chat", "chat_text", "none"


@dataclass(frozen=True)
class Prompt:
    """The prompt of one role; what is None is as its set says.

    Args:
        words: what is asked, with the marks of its role, and perhaps `{image}`, where the pictures stand, and `{task}`.
        words_with_task: what is asked of items that have a task, where more changes with it; holds `{task}` once, and
            `words` then does not.
        task: the task of items that have none of their own.
        template, system, generation_prompt, append, picture: as of `PromptSet`.
    """

    words: str
    words_with_task: str | None = None
    task: str | None = None
    template: str | None = None
    system: str | None = None
    generation_prompt: bool | None = None
    append: str | None = None
    picture: str | None = None


@dataclass(frozen=True)
class PromptSet:
    """One prompt a role, as words with marks or as a `Prompt`, and the frame of all that have no other.

    Args:
        image: pictures alone.
        composed: pictures and what to change in them; holds `{instruction}` once.
        text: words alone; holds `{text}` once.
        captioned: pictures with the text that belongs to them, on the gallery's side; holds `{text}` once.
        composed_text: a text in the place of a picture and what to change in it; holds both marks once.
        query_image, query_text: pictures alone, and words alone, on the query's side; None where both sides are asked
            alike.
        template: "chat" is the model's chat template; "chat_text" the same, given one text in which `picture` stands
            for each picture; "none" is nothing but the words; anything else is the text around them, which holds
            `{prompt}` once and may hold `{system}`.
        system: the system message; one that holds `{task}` is left out where there is no task.
        generation_prompt: whether a chat template begins the model's answer.
        append: what comes after all else, an end token say.
        picture: what stands for one picture where the template is not "chat"; by default the processor's placeholder.
        task_form: how a task is written where there is one; holds `{task}` once. Where there is none, nothing is.
        end_task_with: what is added to a task that ends in no punctuation; a task is stripped before that.
        query_task, document_task: the tasks of items that have none of their own.
        strip: whether white space around the user's words is taken away.
        text_only: whether pictures are refused, by a model that was trained on texts alone.

    Where pictures stand: at `{image}`, and without it before the words, so that all asked of one picture share a
    prefix. White space is kept to the letter. Raises ConfigError for a mark that is missing or occurs twice.
    """

    name: str
    image: str | Prompt
    composed: str | Prompt
    text: str | Prompt
    captioned: str | Prompt = "{text}\nSummary above image and sentence in one word:"
    composed_text: str | Prompt = (
        '{text}\nModify above sentence with "{instruction}", describe modified sentence in one word:'
    )
    query_image: str | Prompt | None = None
    query_text: str | Prompt | None = None
    template: str = CHAT
    system: str = ""
    generation_prompt: bool = True
    append: str = ""
    picture: str | None = None
    task_form: str = TASK
    end_task_with: str = ""
    query_task: str = ""
    document_task: str = ""
    strip: bool = True
    text_only: bool = False

    def __post_init__(self) -> None:
        try:
            _check_keys({field.name: _plain(getattr(self, field.name)) for field in fields(self)})
        except ValueError as error:
            raise ConfigError(f"prompt set '{self.name}': {error}") from error
        for slot in self.slots:
            if isinstance(given := getattr(self, slot), Mapping):
                object.__setattr__(self, slot, Prompt(**given))
        for slot in self.slots:
            self._check(slot)
        if self.task_form.count(TASK) != 1 or any(mark in self.task_form.replace(TASK, "") for mark in _MARKS):
            raise ConfigError(f"prompt set '{self.name}': task_form must hold {TASK} once, and no other mark")

    def _check(self, slot: Slot) -> None:
        """Raise ConfigError for a prompt whose words or frame are not as its role wants them."""
        prompt, where = self.prompt(slot), f"prompt set '{self.name}': the {slot} prompt"
        _check_words(prompt, slot, where)
        if prompt.words_with_task is not None:
            if (prompt.words + prompt.system).count(TASK) or prompt.words_with_task.count(TASK) != 1:
                raise ConfigError(f"{where} must hold {TASK} once in words_with_task, and then nowhere else")
            _check_words(replace(prompt, words=prompt.words_with_task), slot, where)
        _check_frame(prompt, where)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The prompts that this set has, by the fields that hold them."""
        return tuple(slot for slot in WORDS if getattr(self, slot) is not None)

    def prompt(self, slot: Slot) -> ResolvedPrompt:
        """Return a prompt with what the set says of it."""
        return self._resolved[slot]

    @cached_property
    def _resolved(self) -> dict[Slot, ResolvedPrompt]:
        return {slot: self._resolve(getattr(self, slot)) for slot in self.slots}

    def _resolve(self, given: str | Prompt) -> ResolvedPrompt:
        own = given if isinstance(given, Prompt) else Prompt(given)
        values = {key: getattr(self, key) if getattr(own, key) is None else getattr(own, key) for key in FRAME}
        return ResolvedPrompt(own.words, words_with_task=own.words_with_task, task=own.task, **values)

    def slot(self, item: Item) -> Slot:
        """Return which of the prompts asks an item. Raises DataError for pictures where the model takes none."""
        if self.text_only and item.images:
            raise DataError(f"the prompts '{self.name}' are for texts alone, and a {type(item).__name__} has a picture")
        if item.side == "query" and item.role == "image" and self.query_image is not None:
            return "query_image"
        if item.side == "query" and item.role == "text" and self.query_text is not None:
            return "query_text"
        return item.role

    def takes_task(self, item: Item) -> bool:
        """Return whether the prompt of an item has a place for a task. Raises DataError as `slot` does."""
        return self.prompt(self.slot(item)).has_task

    def task(self, item: Item) -> str:
        """Return the task of an item, its own or that of its prompt; empty where there is none.

        Raises DataError for one of its own where the prompt has no place for it.
        """
        prompt = self.prompt(self.slot(item))
        if prompt.has_task:
            of_side = self.query_task if item.side == "query" else self.document_task
            task = next(given for given in (item.task, prompt.task, of_side) if given is not None)
            return self._ended(task) if task and self.end_task_with else task
        if item.task is not None:
            raise DataError(
                f"the prompts '{self.name}' have no place for the task {item.task[:60]!r} where they ask for "
                f"{self.slot(item)}; leave it out, or give prompts with {TASK} in them"
            )
        return ""

    def _ended(self, task: str) -> str:
        task = task.strip()
        return task if not task or unicodedata.category(task[-1]).startswith("P") else task + self.end_task_with

    def asked(self, item: Item) -> tuple[Slot, str]:
        """Return how the set asks an item: prompt and task, in which both sides of a search may be alike.

        Raises DataError as `task` does.
        """
        return self.slot(item), self.task(item)

    def to_dict(self) -> dict[str, Any]:
        """Return the set as plain JSON: name and prompts, and what else is not as by default."""
        values = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        always = ("name", *_FIRST)
        return {key: value for key, value in values.items() if key in always or value != _DEFAULTS[key]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PromptSet:
        """Return the set of what `to_dict` returned, or of a file's keys.

        Raises ValueError, which names the key, for one that no prompt set has, or that is not what it must be.
        """
        _check_keys(values)
        return cls(**values)


@dataclass(frozen=True)
class ResolvedPrompt:
    """A `Prompt` of which nothing is left to its set."""

    words: str
    template: str
    system: str
    generation_prompt: bool
    append: str
    picture: str | None
    words_with_task: str | None = None
    task: str | None = None

    @cached_property
    def has_task(self) -> bool:
        """Whether it has a place for a task."""
        return self.words_with_task is not None or TASK in self.words + self.system

    @property
    def marks(self) -> tuple[str, ...]:
        """The marks of words and task that it holds."""
        return tuple(mark for mark in (TEXT, INSTRUCTION, TASK) if mark in self.words + self.system)

    def with_task(self, form: str | None) -> ResolvedPrompt:
        """Return it with the form of a task in the task's place; with None without the task, and without a system
        message that holds it."""
        system = self.system if form is not None or TASK not in self.system else ""
        words = self.words if form is None or self.words_with_task is None else self.words_with_task
        words, system = words.replace(TASK, form or ""), system.replace(TASK, form or "")
        return replace(self, words=words, words_with_task=None, system=system)


def words_of(item: Item) -> dict[str, str]:
    """Return what stands in the place of each mark of an item's prompt, but for its task."""
    return {TEXT: item.text or item.words or "", INSTRUCTION: item.words or ""}


_MARKS = (TEXT, INSTRUCTION, TASK, IMAGE)
FRAME = ("template", "system", "generation_prompt", "append", "picture")
_FIRST = ("image", "composed", "text", "captioned", "composed_text")  # which have always been written
_DEFAULTS = {field.name: None if field.default is MISSING else field.default for field in fields(PromptSet)}
_NEEDED = [field.name for field in fields(PromptSet) if field.default is MISSING]
_MAY_LACK = ("query_image", "query_text", "picture")
_BOOLEANS = ("generation_prompt", "strip", "text_only")


def _check_words(prompt: ResolvedPrompt, slot: Slot, where: str) -> None:
    """Raise ConfigError for words whose marks are not as their role wants them."""
    _check_marks(prompt.words, slot, where)
    if prompt.words.count(IMAGE) > (slot in SHOWING):
        raise ConfigError(f"{where} may hold {IMAGE} {'once' if slot in SHOWING else 'nowhere: it has no picture'}")
    if (prompt.words + prompt.system).count(TASK) > 1:
        raise ConfigError(f"{where} may hold {TASK} once, its system message included")
    if prompt.template != CHAT and slot in SHOWING and IMAGE not in prompt.words:
        raise ConfigError(
            f"{where} must hold {IMAGE} where pictures stand: only a chat template has a place of its own for them"
        )


def _check_marks(words: str, slot: Slot, where: str) -> None:
    missing = next((mark for mark in WORDS[slot] if words.count(mark) != 1), None)
    if missing:
        raise ConfigError(f"{where} must hold {missing} once")
    # it would be asked as it stands there
    other = next((mark for mark in (TEXT, INSTRUCTION) if mark in words and mark not in WORDS[slot]), None)
    if other:
        raise ConfigError(f"{where} may not hold {other}: what it asks about has none")


def _check_frame(prompt: ResolvedPrompt, where: str) -> None:
    """Raise ConfigError for a text around a prompt that has no place for it, or holds what its words alone may."""
    template = prompt.template
    if template in (CHAT, CHAT_TEXT, NONE):
        template = PROMPT
    if template.count(PROMPT) != 1 or template.count(SYSTEM) > 1:
        known = f"{CHAT}, {CHAT_TEXT}, {NONE}, or a text that holds {PROMPT} once, and perhaps {SYSTEM}"
        raise ConfigError(f"{where} has the template {template[:60]!r}; give {known}")
    if prompt.system and SYSTEM not in template and prompt.template not in (CHAT, CHAT_TEXT):
        raise ConfigError(f"{where} has a system message, and a template without {SYSTEM}, where it would stand")
    around = "".join((prompt.append, template, prompt.system.replace(TASK, ""), prompt.picture or ""))
    lost = next((mark for mark in _MARKS if mark in around), None)
    if lost:
        raise ConfigError(f"{where} may hold {lost} in its words, not in what stands around them")


def _plain(value: Any) -> Any:
    if not isinstance(value, Prompt):
        return value
    return {key: inner for key, inner in asdict(value).items() if inner is not None}


def _check_keys(values: Mapping[str, Any]) -> None:
    """Raise ValueError, which names the key, where values are not those of a prompt set."""
    lacks = next((key for key in _NEEDED if key not in values), None)
    if lacks:
        raise ValueError(f"no prompts.{lacks}")
    for key, value in values.items():
        if key not in _DEFAULTS:
            raise ValueError(f"prompts.{key} is no key of it" + did_you_mean(str(key), _DEFAULTS))
        if key in WORDS and isinstance(value, Mapping):
            _check_prompt(f"prompts.{key}", value)
        elif value is not None or key not in _MAY_LACK:
            _check_value(f"prompts.{key}", key, value)


def _check_prompt(where: str, values: Mapping[str, Any]) -> None:
    known = [field.name for field in fields(Prompt)]
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"{where}.{key} is no key of it" + did_you_mean(str(key), known))
        _check_value(f"{where}.{key}", key, value)
    if "words" not in values:
        raise ValueError(f"no {where}.words")


def _check_value(where: str, key: str, value: Any) -> None:
    kind, words = (bool, "true or false") if key in _BOOLEANS else (str, "a text")
    if not isinstance(value, kind) or (isinstance(value, str) and half_character(value)):
        raise ValueError(f"{where} is {json.dumps(value, default=str)[:60]}, not {words}")


# The prompts of InstructCIR's released code (github.com/zhwl2117/InstructCIR, generate_test_submission.py), which
# are E5-V's (arXiv 2407.12580); the two roles with defaults are not in it, and are worded after them. The released code
# spells "desribe", and has no line break between the picture and "Modify"; models trained with it want that.
PROMPT_SETS = {
    prompts.name: prompts
    for prompts in (
        PromptSet(
            name="instructcir",
            image="Describe this image in one word:",
            composed='Modify this image with "{instruction}", describe modified image in one word:',
            text="{text}\nSummary above sentence in one word:",
        ),
        PromptSet(
            name="instructcir-legacy",
            image="{image}\n Describe this image in one word:",
            composed='{image}Modify this image with "{instruction}", desribe modified image in one word:',
            text="{text}\nSummary above sentence in one word:",
        ),
    )
}
