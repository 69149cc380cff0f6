"""How a benchmark is asked: through a model's own prompts, in its preset's words for the benchmark, or the benchmark's.

A published embedder was trained with an instruction, and often with words of its own for each benchmark; both stand in
its preset. Which words were used, and which tasks, is part of a result's protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mllm_embed.encode.encoder import PromptedEncoder
from mllm_embed.errors import ConfigError
from mllm_embed.inputs.prompts import IMAGE, PROMPT_SETS, TASK, Prompt, PromptSet
from mllm_embed.presets import catalog
from mllm_embed.presets.preset import Preset, Wording, worded
from mllm_embed.types import Item, with_task

from .suite import Suite, Task

_SIDES = ("query", "document")
_OWN, _GIVEN, _BENCHMARKS = "the model's own", "those given, not the preset's", "the benchmark's own"
_LEFT_OUT = "; the benchmark's own, which take the place of InstructCIR's, do not fit in, and are left out"


@dataclass(frozen=True)
class AskedTask:
    """How one task of a benchmark is asked.

    Args:
        own: the model's prompts.
        prompts: those that the task is asked through.
        words: whose words those are, in words.
        tasks: side -> the task of its items, where it is not that of the prompts.
        told: side -> what its items are told as their task in the end; sides without a place for one are left out.
    """

    own: PromptSet
    prompts: PromptSet
    words: str
    tasks: Mapping[str, str] = field(default_factory=dict)
    told: Mapping[str, str] = field(default_factory=dict)

    def asked(self, item: Item) -> tuple[PromptSet, Item]:
        """Return an item with the task of its side, where there is a place for one, and the prompts that ask it: the
        model's own where they ask it alike, so that tasks share its vector."""
        if self.prompts.takes_task(item):
            item = with_task(item, self.tasks.get(item.side))
        return self.own if _ask_alike(self.own, self.prompts, item) else self.prompts, item

    @property
    def changes(self) -> dict[str, Any]:
        """What in the prompts is not the model's own, as plain JSON."""
        own = self.own.to_dict()
        return {key: value for key, value in self.prompts.to_dict().items() if key != "name" and value != own.get(key)}


@dataclass(frozen=True)
class AskedSuite:
    """How a benchmark is asked.

    Args:
        own: the model's prompts.
        preset: of the published model that it is, or that it was trained from and has the prompts of; None for another.
        tasks: by name.
    """

    own: PromptSet
    preset: Preset | None
    tasks: Mapping[str, AskedTask]

    def protocol(self) -> dict[str, Any]:
        """Return what a result's protocol says of it; a value that all tasks share stands there once."""
        entries: dict[str, Any] = {"prompts": self.own.to_dict()}
        if self.preset:
            its_own = {"prompts from": self.preset.prompts_from} if self.own == self.preset.settings.prompts else {}
            entries["preset"] = {
                "name": self.preset.name,
                **its_own,
                "uncertain": list(self.preset.uncertain),
                "differs": list(self.preset.differs),
            }
        entries["words"] = _once({name: task.words for name, task in self.tasks.items()})
        for side in _SIDES:
            told = {name: task.told[side] for name, task in self.tasks.items() if side in task.told}
            entries |= {f"{side} task": _once(told)} if told else {}
        by_task = {name: task.changes for name, task in self.tasks.items() if task.changes}
        return entries | ({"prompts by task": by_task} if by_task else {})

    def __str__(self) -> str:
        """Return a few lines for people, to be read before hours of encoding."""
        said = self.protocol()
        about = said.get("preset", {})
        lines = [f"prompts: {self.own.name}"]
        if about:
            whose = f"its prompts {_FROM[about['prompts from']]}" if "prompts from" in about else "but not its prompts"
            lines[0] += f" (preset {about['name']}, {whose})"
        for key in ("words", "query task", "document task"):
            lines += _lines(key, said.get(key))
        return "\n".join([*lines, *(f"  uncertain: {line}" for line in about.get("uncertain", ()))])


_FROM = {"source": "as in the authors' code", "inferred": "inferred, not read in the authors' code"}


def ask(
    embedder: PromptedEncoder, suite: Suite, *, task: str | None = None, document_task: str | None = None
) -> AskedSuite:
    """Return how a suite is asked.

    A preset's words for a benchmark, and over them those for one of its tasks, go over the model's prompts where these
    are the preset's. Else a benchmark's own words do, if the model asks in the words that they were written to replace.

    Args:
        embedder: an `MLLMEmbedder`, or anything with its `prompts`.
        suite: the benchmark.
        task, document_task: an instruction of a user's own for all queries, or all of the gallery.

    Raises ConfigError for a task that the prompts have no place for, and for words that an option of the benchmark asks
    for and that do not fit the model's.
    """
    own = embedder.prompts
    preset = _preset_of(embedder)
    its = preset if preset and preset.settings.prompts == own else None
    words = _GIVEN if preset and not its else _OWN
    mine = {side: given for side, given in zip(_SIDES, (task, document_task), strict=True) if given is not None}
    tasks = {}
    for one in suite.tasks:
        how = (_in_words_of_preset(its, suite, one) if its else None) or _in_words_of_benchmark(own, words, suite, one)
        how = _with_tasks(how, mine, one)
        tasks[one.name] = replace(how, told=_told(how, one))
    _check_places(own, suite, list(tasks.values()))
    return AskedSuite(own, preset, tasks)


def _with_tasks(how: AskedTask, mine: Mapping[str, str], task: Task) -> AskedTask:
    """Return how a task is asked with instructions: a user's before the preset's, and the benchmark's last."""
    theirs = {side: text for side, text in _own_tasks(how, task).items() if side not in {**how.tasks, **mine}}
    given = f"; the {' and the '.join(theirs)} task is the benchmark's" if theirs else ""
    return replace(how, words=how.words + given, tasks={**theirs, **how.tasks, **mine})


def _preset_of(embedder: PromptedEncoder) -> Preset | None:
    """Return an embedder's preset, or the one whose prompts it has, as a fine-tuned model keeps them; else None.

    What can have none, as two models behind one `encode`, is asked as it asks: the small one was taught nothing else.
    """
    if not hasattr(embedder, "preset"):
        return None
    alike = (one for one in map(catalog.preset, catalog.names()) if one.settings.prompts == embedder.prompts)
    return embedder.preset or next(alike, None)


def _check_places(own: PromptSet, suite: Suite, tasks: list[AskedTask]) -> None:
    """Raise ConfigError for a task, of queries or gallery, that has a place nowhere in a suite."""
    for side in _SIDES:
        texts = [how.tasks[side] for how in tasks if side in how.tasks]
        if texts and not any(side in how.told for how in tasks):
            raise ConfigError(
                f"the prompts '{own.name}' have no place for the {side} task {texts[0][:60]!r} in {suite.title}; leave "
                f"it out, or give prompts with {TASK} in them"
            )


def _in_words_of_preset(preset: Preset, suite: Suite, task: Task) -> AskedTask | None:
    """Return how a task is asked through its preset's prompts where that has words for it; else None.

    Raises ConfigError where an option asks for others.
    """
    own = preset.settings.prompts
    names = [name for name in (suite.name, f"{suite.name}/{task.name}") if name in preset.benchmarks]
    if not names:
        return None
    if task.insists:
        raise ConfigError(
            f"{suite.title}: the preset {preset.name} has words of its own for {names[-1]}; leave the option out"
        )
    wording = _merged([preset.benchmarks[name] for name in names])
    tasks = {side: text for side in _SIDES if (text := getattr(wording, f"{side}_task"))}
    credit = f"preset {preset.name}, for {' and '.join(names)}" + _source(wording, suite)
    return AskedTask(own, worded(own, names[-1], wording), credit, tasks)


def _source(wording: Wording, suite: Suite) -> str:
    """Return where a wording is from, and what its authors did with the benchmark that is not done here."""
    source = f" ({wording.source})" if wording.source else ""
    other = [f"{key}={value}" for key, value in wording.options.items() if suite.options.get(key) != value]
    return source + (f"; the authors' figures are for the option {' '.join(other)}" if other else "")


def _in_words_of_benchmark(own: PromptSet, words: str, suite: Suite, task: Task) -> AskedTask:
    """Return how a task is asked in the benchmark's own words, or in the model's where it has none, or none that fit.

    Raises ConfigError for words that an option asks for and that do not fit.
    """
    if not task.prompts:
        return AskedTask(own, own, words)
    replaced = _replaced(own, task)
    if replaced is not None:
        return AskedTask(own, replaced, _BENCHMARKS)
    if task.insists:
        raise ConfigError(
            f"{suite.title}: those words take the place of InstructCIR's, and the prompts '{own.name}' ask in others; "
            "leave the option out"
        )
    return AskedTask(own, own, words + _LEFT_OUT)


def _merged(wordings: list[Wording]) -> Wording:
    """Return a benchmark's wording with that of one of its tasks over it."""
    values: dict[str, Any] = {}
    for wording in wordings:
        joined = {key: {**values.get(key, {}), **getattr(wording, key)} for key in ("prompts", "options")}
        said = {key: value for key in wording.model_fields_set if (value := getattr(wording, key)) is not None}
        values |= said | joined
    return Wording(**values)


def _replaced(own: PromptSet, task: Task) -> PromptSet | None:
    """Return a model's prompts with the roles that a task words itself; None where the model asks for one of them in
    other words than a set that comes with the library, whose frame and form those would destroy."""
    roles: dict[str, Any] = {}
    for role, words in task.prompts.items():
        given, mine = getattr(own, role), own.prompt(role)
        if mine.words not in {known.prompt(role).words for known in PROMPT_SETS.values()}:
            return None
        words = IMAGE + words if mine.words.startswith(IMAGE) and IMAGE not in words else words
        roles[role] = replace(given, words=words) if isinstance(given, Prompt) else words
    return replace(own, name=f"{own.name}, in words of the benchmark", **roles)


def _own_tasks(how: AskedTask, task: Task) -> dict[str, str]:
    """Return the instructions that a benchmark gives, of the sides whose prompts have a place for one."""
    return {side: task.tasks[side] for side in _told(how, task) if side in task.tasks}


def _told(how: AskedTask, task: Task) -> dict[str, str]:
    """Return what either side of a task is told as its task; a side without a place for one is left out."""
    queries = (item for entry in task.queries for item in entry if item.role == task.query_kind)
    told = {}
    for side, items in (("query", queries), ("document", task.gallery)):
        item = next((item for item in items if how.prompts.takes_task(item)), None)
        if item is not None:
            told[side] = how.prompts.task(how.asked(item)[1])
    return told


def _ask_alike(one: PromptSet, other: PromptSet, item: Item) -> bool:
    """Return whether two prompt sets ask an item in the same words."""
    if (one.task_form, one.strip) != (other.task_form, other.strip):
        return False
    return one.prompt(one.slot(item)) == other.prompt(other.slot(item)) and one.task(item) == other.task(item)


def _once(values: Mapping[str, str]) -> str | dict[str, str]:
    """Return the value that all tasks share, or else those of each."""
    return next(iter(values.values())) if len(set(values.values())) == 1 else dict(values)


def _lines(key: str, said: str | Mapping[str, str] | None) -> list[str]:
    """Return lines of what the protocol says of something: one, or one a task."""
    if said is None:
        return []
    if isinstance(said, str):
        return [f"  {key}: {said or 'none'}"]
    return [f"  {key}, {name}: {text or 'none'}" for name, text in said.items()]
