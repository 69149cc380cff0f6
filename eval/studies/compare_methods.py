"""Query-time methods side by side: one embedding pass, every method on its vectors, each beside the plain query.

The gain of a method is tested in pairs, query by query. Settings are a method's own defaults, or the best of its grid
on a validation set, whose queries may not be those that are reported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mllm_embed.encode.embedder import MLLMEmbedder
from mllm_embed.errors import DataError, MLLMEmbedError
from mllm_embed.rerank.reranker import Reranker
from mllm_embed.types import Item

from ..scoring.asking import ask
from ..scoring.embedding.entries import items_of
from ..scoring.estimate import Estimate
from ..scoring.evaluate import embed, encode, with_protocol
from ..scoring.paired import Difference, corrected, paired, weights
from ..scoring.result import MeasuredTask, Result
from ..scoring.score import ANSWERS, DEFAULT_TIES, SCORES, TIES, measure, need_labels, result_of
from ..scoring.suite import Suite, Task, column
from .cached_generator import CachedGenerator
from .cached_reranker import CachedReranker
from .llm_texts import LLMTexts
from .method import Method, MethodContext, Ranking
from .tuning import check_apart, tuned_settings

PLAIN = "plain"
_TIMED = 64  # queries that are encoded once more, to tell what one costs


@dataclass(frozen=True)
class MethodRun:
    """One run of a method.

    Attributes:
        seconds: a query, its encoding included.
        once: seconds spent on the gallery, whatever the number of queries.
    """

    result: Result
    seconds: float
    once: float


@dataclass(frozen=True)
class MethodResult:
    """One method beside the plain query.

    Attributes:
        method: None for the plain query itself.
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
class MethodComparison:
    """All methods on one suite.

    Attributes:
        suite: its composed tasks.
        headline: the metric, or mean, that gains are of.
        tuned_on: title and fingerprint of the suite that settings were chosen on, or "".
        spent: seconds that embedding the suite took.
        results: by name, the plain query first.
    """

    suite: Suite
    headline: str
    tuned_on: str
    spent: Mapping[str, float]
    results: Mapping[str, MethodResult]


class EmbeddedSuite:
    """A suite's composed tasks, embedded once, for methods to be run on."""

    def __init__(
        self,
        embedder: MLLMEmbedder,
        suite: Suite,
        generator: CachedGenerator,
        batch_size: int = 32,
        captions: Mapping[str, Sequence[str]] | None = None,
        reranker: CachedReranker | None = None,
    ):
        """Embed; `captions` are those of the gallery, where they are given, `reranker` what judges answers.

        Raises DataError where labels are hidden or no task has composed queries, and what `embed` raises.
        """
        self.suite, self.embedder, self.generator = composed_part(suite), embedder, generator
        self.batch_size, self._captions, self.reranker = batch_size, captions or {}, reranker
        self.headline = headline(self.suite)
        self.asked = ask(embedder, self.suite)
        self.vectors, self.spent = embed(embedder, self.suite, batch_size=batch_size, asked=self.asked)
        self.contexts = {task.name: self._context(task) for task in self.suite.tasks}
        self._costs = self._encoding_costs()

    def run(self, method: Method, settings: Mapping[str, float]) -> MethodRun:
        """Rank every task by a method, and measure and time it."""
        parts: dict[str, MeasuredTask] = {}
        seconds, once = 0.0, 0.0
        for task in self.suite.tasks:
            context = self.contexts[task.name]
            # a context serves every method in turn, and counts for each anew
            context.used.clear()
            context.llm_texts.once = 0.0
            remembered = self._remembered(context)
            started = time.perf_counter()
            ranking = method.run(context, **settings)
            answers = {task.query_kind: ranking.answers(task.views[0], ANSWERS)}
            seconds += time.perf_counter() - started
            # what was known already costs as much as when it was made
            seconds += self._remembered(context) - remembered - context.llm_texts.once
            seconds += sum(self._costs[row] for row in context.used) * len(task.queries)
            once += context.llm_texts.once
            # after the clock has stopped: ranks of targets are for measuring, and no part of a search
            ranks = {task.query_kind: [(view, ranking.ranks(view)) for view in task.views]}
            parts[task.name] = measure(task, ranks, DEFAULT_TIES, answers, context.gallery.shape[1])
        rules = {"ties": TIES[DEFAULT_TIES], "scores": SCORES}
        queries = sum(len(task.queries) for task in self.suite.tasks)
        return MethodRun(result_of(self.suite, parts, rules, {}), seconds / queries, once)

    def plain(self) -> MethodRun:
        """Run the composed query as it is."""
        return self.run(Method(lambda context: Ranking(context.composed, context.gallery), "", ""), {})

    def gain(self, result: Result, plain: Result) -> Difference:
        """Return the paired difference of the headline metric."""
        differences, references = [], []
        for task in self.suite.tasks:
            own, other = result.tasks[task.name].values, plain.tasks[task.name].values
            parts = [weight * (own[metric] - other[metric])[:, None] for metric, weight in self._weights(task)]
            if parts:
                differences.append(np.sum(parts, axis=0))
                references.append(task.references)
        (found,) = paired(differences, references)
        return found

    def value(self, result: Result) -> float:
        """Return the headline metric in percent."""
        return estimate_of(result, self.headline).percent

    def _weights(self, task: Task) -> list[tuple[str, float]]:
        """Return the metrics of a task and their weight in the headline."""
        means = {mean.name: mean.parts for mean in self.suite.means}
        known = {name for other in self.suite.tasks for name in _columns(other)}
        parts = weights(self.headline, means, known)
        own = _columns(task)
        return [(own[name], weight) for name, weight in parts.items() if name in own]

    def _context(self, task: Task) -> MethodContext:
        def encoded(items: Sequence[Item]) -> np.ndarray:
            return self._encode(task, items)

        texts = LLMTexts(task, encoded, self.generator, self._captions)
        return MethodContext(task, self.vectors[task.name], texts, self.reranker)

    def _encode(self, task: Task, items: Sequence[Item]) -> np.ndarray:
        """Return the vectors [N, D] float32 of items, asked as the task's own are."""
        return encode(self.embedder, [(self.asked.tasks[task.name], item) for item in items], self.batch_size, False)

    def _remembered(self, context: MethodContext) -> float:
        """Return the seconds that what came out of memory so far took when it was made."""
        texts, judge = context.llm_texts, self.reranker
        known = self.generator.seconds - self.generator.spent + texts.seconds - texts.spent
        return known if judge is None else known + judge.seconds - judge.spent

    def _encoding_costs(self) -> dict[str, float]:
        """Return seconds a query by row, of a few queries encoded by that row's items alone."""
        costs: dict[str, float] = {}
        # the tasks of a suite ask alike: one tells what a query costs
        task = self.suite.tasks[0]
        for row, entries in items_of(task).items():
            some = [item for entry in entries[:_TIMED] for item in entry]
            started = time.perf_counter()
            self._encode(task, some)
            costs[row] = (time.perf_counter() - started) / len(entries[:_TIMED])
        return costs


def compare_methods(
    embedder: MLLMEmbedder,
    suite: Suite,
    chosen: Mapping[str, Method],
    answers: Path,
    *,
    tune_on: Suite | None = None,
    captions: Mapping[str, Sequence[str]] | None = None,
    batch_size: int = 32,
    progress: Callable[[str], None] = lambda text: None,
    reranker: Reranker | None = None,
) -> MethodComparison:
    """Run methods on a suite, each beside the plain query.

    Args:
        embedder: its adapter not merged, where methods are to ask the language model below it.
        suite: an opened benchmark with labels and composed queries; other tasks of it are left out.
        chosen: name -> method.
        answers: folder that keeps what the language model says.
        tune_on: where settings are chosen; other queries than the suite's.
        captions: gallery id -> captions of the suite, where they are given; else the model writes them.
        progress: is called with what is done next.
        reranker: for the method `rerank`, which cannot run without one; its scores are kept in `answers` too.

    Raises:
        ConfigError: `tune_on` shares queries with the suite. DataError: as `EmbeddedSuite`.
    """
    if tune_on is not None:
        check_apart(suite, tune_on)
    generator = CachedGenerator(embedder, answers)
    judge = None if reranker is None else CachedReranker(reranker, answers, batch_size)
    settings = {name: dict(method.defaults) for name, method in chosen.items()}
    refused: dict[str, str] = {}
    if tune_on is not None:
        validation = EmbeddedSuite(embedder, tune_on, generator, batch_size, reranker=judge)
        tuned, refused = tuned_settings(validation, chosen, progress)
        settings |= tuned
    embedded = EmbeddedSuite(embedder, suite, generator, batch_size, captions, judge)
    plain = embedded.plain()
    described = with_protocol(plain.result, embedded.suite, embedded.asked)
    results = {PLAIN: MethodResult(None, {}, described, None, plain.seconds)}
    for name, method in chosen.items():
        progress(name)
        if name in refused:
            results[name] = MethodResult(method, settings[name], refused=refused[name])
        else:
            results[name] = _result(embedded, method, settings[name], plain.result)
    tuned_on = _title(tune_on, captions)
    return MethodComparison(embedded.suite, embedded.headline, tuned_on, embedded.spent, _corrected(results))


def _corrected(results: Mapping[str, MethodResult]) -> dict[str, MethodResult]:
    """Return the results with the p of their gains corrected for how many there are."""
    gains = {name: result.gain for name, result in results.items() if result.gain is not None}
    found = dict(zip(gains, corrected(list(gains.values())), strict=True))
    return {name: replace(result, gain=found.get(name)) for name, result in results.items()}


def _result(embedded: EmbeddedSuite, method: Method, settings: Mapping[str, float], plain: Result) -> MethodResult:
    """Run a method; what it lacks is not an error, but stands in the result."""
    try:
        run = embedded.run(method, settings)
    except MLLMEmbedError as error:
        return MethodResult(method, settings, refused=str(error))
    result = with_protocol(run.result, embedded.suite, embedded.asked)
    return MethodResult(method, settings, result, embedded.gain(run.result, plain), run.seconds, run.once)


def _title(tune_on: Suite | None, captions: Mapping[str, Sequence[str]] | None) -> str:
    """Return on what settings were chosen, in words."""
    if tune_on is None:
        return ""
    own = ", with the model's own captions there" if captions else ""
    return f"{tune_on.title} ({tune_on.fingerprint()[:12]}){own}"


def composed_part(suite: Suite) -> Suite:
    """Return the suite's tasks with composed queries, and the means over those alone. Raise DataError for none."""
    need_labels(suite)
    tasks = tuple(task for task in suite.tasks if task.composed)
    if not tasks:
        raise DataError(f"{suite.title} has no composed queries: query-time methods have nothing to work on")
    # turns without the one before are no sessions
    return suite if len(tasks) == len(suite.tasks) else replace(suite, tasks=tasks, means=(), turns=())


def headline(suite: Suite) -> str:
    """Return what a suite is judged by: its last mean, or the first metric of its first task."""
    return suite.means[-1].name if suite.means else next(iter(_columns(suite.tasks[0])))


def _columns(task: Task) -> dict[str, str]:
    """Return the task's metrics by their names among those of all tasks."""
    return {column(task.name, metric.name): metric.name for view in task.views for metric in view.metrics}


def estimate_of(result: Result, name: str) -> Estimate:
    """Return the estimate of a column or a mean, of the first row."""
    row = next(iter(next(iter(result.tasks.values())).rows))
    if name in result.means.get(row, {}):
        return result.means[row][name]
    task, _, metric = name.rpartition("/")
    if task in result.tasks:
        return result.tasks[task].rows[row][metric]
    return result.tasks[""].rows[row][name]
