"""Query-time methods side by side: one embedding pass, every method on its vectors, each beside the plain query.

The gain of a method is tested in pairs, query by query. Settings are a method's own defaults, or the best of its grid
on a validation set, whose queries may not be those that are reported.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mllm_embed.encode.embedder import MLLMEmbedder
from mllm_embed.errors import ConfigError, DataError, MLLMEmbedError
from mllm_embed.inputs.images import content_key
from mllm_embed.types import Document, Item

from ..scoring.evaluate import described, embed, items_of
from ..scoring.paired import Difference, paired, weights
from ..scoring.score import ANSWERS, SCORES, TIES, Result, measure, need_labels, result_of
from ..scoring.suite import Suite, Task
from .cached_generator import CachedGenerator
from .llm_texts import LLMTexts
from .method import Method, MethodContext, Ranking

PLAIN = "plain"
_TIMED = 64  # queries that are encoded once more, to tell what one costs


@dataclass(frozen=True)
class MethodResult:
    """What one method did.

    Attributes:
        settings: those it ran with.
        result: None where it could not run.
        gain: over the plain query, on the headline metric.
        seconds: a query, its encoding included.
        once: seconds spent on the gallery, whatever the number of queries.
        refused: why it could not run.
    """

    method: Method | None
    settings: Mapping[str, float]
    result: Result | None = field(default=None, repr=False)
    gain: Difference | None = None
    seconds: float = 0.0
    once: float = 0.0
    refused: str = ""


@dataclass(frozen=True)
class Trial:
    """All methods on one suite; `tried` begins with the plain query. `tuned_on`: title and fingerprint, or ""."""

    suite: Suite
    headline: str
    tuned_on: str
    spent: Mapping[str, float]
    tried: Mapping[str, MethodResult]


class Bench:
    """A suite's composed tasks, embedded once, for methods to be tried on."""

    def __init__(
        self,
        embedder: MLLMEmbedder,
        suite: Suite,
        told: CachedGenerator,
        batch_size: int = 32,
        captions: Mapping[str, Sequence[str]] | None = None,
    ):
        """Embed; `captions` are those of the gallery, where they are given.

        Raises DataError where labels are hidden or no task has composed queries, and what `embed` raises.
        """
        self.suite, self.embedder, self.told, self.batch_size = composed_part(suite), embedder, told, batch_size
        self.headline, self._captions = headline(self.suite), captions or {}
        self.vectors, self.spent = embed(embedder, self.suite, batch_size=batch_size)
        self.seen = {task.name: self._seen(task) for task in self.suite.tasks}
        self._costs = self._encoding_costs()

    def run(self, method: Method, settings: Mapping[str, float]) -> tuple[Result, float, float]:
        """What the method finds, its seconds a query, and its seconds once for the gallery."""
        parts, seconds, once = {}, 0.0, 0.0
        for task in self.suite.tasks:
            seen = self.seen[task.name]
            seen.used.clear()
            seen.views.once = 0.0
            told = self.told.seconds - self.told.spent, seen.views.seconds - seen.views.spent
            started = time.perf_counter()
            ranking = method.run(seen, **settings)
            answers = ranking.answers(task.views[0], ANSWERS)
            seconds += time.perf_counter() - started
            # what was known already costs as much as when it was made
            seconds += self.told.seconds - self.told.spent - told[0] + seen.views.seconds - seen.views.spent - told[1]
            seconds += sum(self._costs[row] for row in seen.used) * len(task.queries) - seen.views.once
            once += seen.views.once
            ranks = {task.asked: [(view, ranking.ranks(view)) for view in task.views]}
            parts[task.name] = measure(task, ranks, "gallery", answers, seen.gallery.shape[1])
        rules = {"ties": TIES["gallery"], "scores": SCORES}
        queries = sum(len(task.queries) for task in self.suite.tasks)
        return result_of(self.suite, parts, rules, {}), seconds / queries, once

    def plain(self) -> tuple[Result, float, float]:
        """The composed query as it is."""
        return self.run(Method(lambda seen: Ranking(seen.composed, seen.gallery), "", ""), {})

    def gain(self, result: Result, plain: Result) -> Difference:
        """The paired difference of the headline metric."""
        (found,) = paired([
            np.sum([w * (result.tasks[task.name].values[m] - plain.tasks[task.name].values[m])[:, None]
                    for m, w in self._weights(task)], axis=0)
            for task in self.suite.tasks if self._weights(task)
        ])  # fmt: skip
        return found

    def value(self, result: Result) -> float:
        """The headline metric in percent."""
        return figure_of(result, self.headline).percent

    def _weights(self, task: Task) -> list[tuple[str, float]]:
        """Metrics of a task and their part in the headline."""
        known = {column(t, m.name) for t in self.suite.tasks for view in t.views for m in view.metrics}
        parts = weights(self.headline, {mean.name: mean.parts for mean in self.suite.means}, known)
        own = {column(task, metric.name): metric.name for view in task.views for metric in view.metrics}
        return [(own[name], weight) for name, weight in parts.items() if name in own]

    def _seen(self, task: Task) -> MethodContext:
        def encode(texts: Sequence[Document]) -> np.ndarray:
            return np.asarray(self.embedder.encode(texts, batch_size=self.batch_size, show_progress=False))

        return MethodContext(task, self.vectors[task.name], LLMTexts(task, encode, self.told, self._captions))

    def _encoding_costs(self) -> dict[str, float]:
        """Seconds a query by row, of a few queries encoded by that row's items alone."""
        costs: dict[str, float] = {}
        for task in self.suite.tasks[:1]:
            for row, groups in items_of(task).items():
                some = [item for group in groups[:_TIMED] for item in group]
                started = time.perf_counter()
                self.embedder.encode(some, batch_size=self.batch_size, show_progress=False)
                costs[row] = (time.perf_counter() - started) / len(groups[:_TIMED])
        return costs


def try_methods(
    embedder: MLLMEmbedder,
    suite: Suite,
    chosen: Mapping[str, Method],
    answers: Path,
    *,
    tune_on: Suite | None = None,
    captions: Mapping[str, Sequence[str]] | None = None,
    batch_size: int = 32,
    say: Callable[[str], None] = lambda text: None,
) -> Trial:
    """Try methods on a suite.

    Args:
        embedder: its adapter not merged, where methods are to ask the language model below it.
        suite: an opened benchmark with labels and composed queries; other tasks of it are left out.
        chosen: name -> method.
        answers: folder that keeps what the language model says.
        tune_on: where settings are chosen; other queries than the suite's.
        captions: gallery id -> captions of the suite, where they are given; else the model writes them.
        say: is told what is being done.

    Raises:
        ConfigError: `tune_on` shares queries with the suite. DataError: as `Bench`.
    """
    if tune_on is not None:
        check_apart(suite, tune_on)
    told = CachedGenerator(embedder, answers)
    settings = {name: dict(method.defaults) for name, method in chosen.items()}
    refused: dict[str, str] = {}
    if tune_on is not None:
        validation = Bench(embedder, tune_on, told, batch_size)
        for name, method in chosen.items():
            if method.grid:
                say(f"choosing {name} on {tune_on.title}")
                try:
                    settings[name] = best_settings(validation, method)
                except MLLMEmbedError as error:
                    refused[name] = str(error)
    bench = Bench(embedder, suite, told, batch_size, captions)
    plain, seconds, _ = bench.plain()
    tried = {PLAIN: MethodResult(None, {}, described(plain, bench.suite, embedder.prompts), None, seconds)}
    for name, method in chosen.items():
        say(name)
        try:
            if name in refused:
                raise ConfigError(refused[name])
            result, seconds, once = bench.run(method, settings[name])
        except MLLMEmbedError as error:
            tried[name] = MethodResult(method, settings[name], refused=str(error))
            continue
        gain = bench.gain(result, plain)
        tried[name] = MethodResult(
            method, settings[name], described(result, bench.suite, embedder.prompts), gain, seconds, once
        )
    tuned = f"{tune_on.title} ({tune_on.fingerprint()[:12]})" if tune_on is not None else ""
    if tuned and captions:
        tuned += ", with the model's own captions there"
    return Trial(bench.suite, bench.headline, tuned, bench.spent, tried)


def best_settings(bench: Bench, method: Method) -> dict[str, float]:
    """The settings of the method's grid with the best headline, the first of equal ones."""
    tried = [dict(zip(method.grid, values, strict=True)) for values in itertools.product(*method.grid.values())]
    found = [{**method.defaults, **settings} for settings in tried]
    return max(found, key=lambda settings: bench.value(bench.run(method, settings)[0]))


def composed_part(suite: Suite) -> Suite:
    """The suite's tasks with composed queries, and the means over those alone. Raises DataError for none."""
    need_labels(suite)
    tasks = tuple(task for task in suite.tasks if task.composed)
    if not tasks:
        raise DataError(f"{suite.title} has no composed queries: query-time methods have nothing to work on")
    return suite if len(tasks) == len(suite.tasks) else replace(suite, tasks=tasks, means=())


def headline(suite: Suite) -> str:
    """What a suite is judged by: its last mean, or the first metric of its first task."""
    if suite.means:
        return suite.means[-1].name
    return column(suite.tasks[0], suite.tasks[0].views[0].metrics[0].name)


def column(task: Task, metric: str) -> str:
    """A metric's name among those of all tasks."""
    return f"{task.name}/{metric}" if task.name else metric


def figure_of(result: Result, name: str) -> Any:
    """The figure of a column or a mean, of the first row."""
    row = next(iter(next(iter(result.tasks.values())).rows))
    if name in result.means.get(row, {}):
        return result.means[row][name]
    task, _, metric = name.rpartition("/") if name.rpartition("/")[0] in result.tasks else ("", "", name)
    return result.tasks[task].rows[row][metric]


def check_apart(suite: Suite, other: Suite) -> None:
    """Raises ConfigError where two suites share a query: the same picture with the same words, or with the same target.

    The second is a query in other words, as the options of a benchmark make it.
    """
    known = set().union(*_asked(suite))
    shared = sum(not known.isdisjoint(query) for query in _asked(other))
    if shared:
        raise ConfigError(
            f"{other.title} shares {shared:,} queries with {suite.title}: settings chosen on what is reported "
            "would flatter it; give another set to --tune-on"
        )


def _asked(suite: Suite) -> list[set[tuple[Any, ...]]]:
    """What tells each composed query: its picture with its words, and with each of its targets, by content."""
    contents: dict[str, str] = {}

    def content(item: Item) -> tuple[str, ...]:
        for image in item.images:
            if str(image) not in contents:
                contents[str(image)] = content_key(image)
        return tuple(contents[str(image)] for image in item.images)

    return [
        {
            (content(item), other)
            for item in items
            for other in (item.words, *((content(task.gallery[at]), task.gallery[at].words) for at in targets))
        }
        for task in suite.tasks
        if task.composed
        for items, targets in zip(task.queries, task.views[0].targets, strict=True)
    ]
