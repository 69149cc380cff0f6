"""How robust composed queries are: to other words, to what they must not find, and to the loss of either half.

Three faults that recall alone does not show. Words: the same wish worded otherwise should find the same. Negatives: the
unchanged picture, or what a query names as wrong, should stand below the target. Halves: a vector that stays where it
is when its picture (or its instruction) is another query's ignores that half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mllm_embed.encode.embedder import MLLMEmbedder
from mllm_embed.files import write_json
from mllm_embed.saving.versions import versions
from mllm_embed.types import Item, Query, picture_key

from ..reports.tables import ReportTable, markdown
from ..scoring.estimate import resamples
from ..scoring.evaluate import embed
from ..scoring.score import Vectors, answers_of, ranks_of
from ..scoring.suite import Suite, Task
from .compare_methods import composed_part

# Wordings that change no wish, for benchmarks that bring none of their own.
WORDINGS = ("{instruction}.", "please: {instruction}", "as here, but {instruction}", "what to change: {instruction}")
BLIND = 0.98  # a mean cosine above it, to the vector of a query with another half, is a fault
ROBUSTNESS = "robustness.json"
_TAILS = (2.5, 97.5)
_HALVES = ("picture", "instruction")
_Items = tuple[Query, ...]


@dataclass(frozen=True)
class Measure:
    """A mean over queries with its 95 % bootstrap interval; in percent, or a cosine."""

    value: float
    low: float
    high: float
    about: str


@dataclass(frozen=True)
class Robustness:
    """What was measured, by task and name; `wordings` and `negatives` tell where those came from."""

    title: str
    fingerprint: str
    wordings: Mapping[str, str]
    negatives: Mapping[str, str]
    tasks: Mapping[str, Mapping[str, Measure]]
    faults: Sequence[str]


def robustness(embedder: MLLMEmbedder, suite: Suite, *, batch_size: int = 32) -> Robustness:
    """Measure a suite's composed queries.

    Args:
        embedder: an `MLLMEmbedder`, or what `evaluate` takes.
        suite: with labels; a query's own `paraphrases` and `negatives` are used where the benchmark has them.

    Raises DataError for hidden labels and where no task has composed queries, and what `encode` raises.
    """
    suite = composed_part(suite)
    asked = {task.name: _variants(task) for task in suite.tasks}
    whole = replace(suite, tasks=tuple(_widened(task, asked[task.name]) for task in suite.tasks), means=())
    vectors, _ = embed(embedder, whole, batch_size=batch_size)
    tasks, faults = {}, []
    for task in suite.tasks:
        tasks[task.name], found = _measured(task, vectors[task.name], asked[task.name])
        faults += [f"{task.name + ': ' if task.name else ''}{fault}" for fault in found]
    wordings = {task.name: "the benchmark's own" if task.paraphrases else "by rule" for task in suite.tasks}
    negatives = {task.name: "the benchmark's own" if any(task.negatives) else "none" for task in suite.tasks}
    return Robustness(suite.title, suite.fingerprint(), wordings, negatives, tasks, faults)


@dataclass(frozen=True)
class _Asked:
    """The queries of a task worded otherwise, and with a half of another query.

    Args:
        wordings: by query, none where there is no other wording.
        swapped: half -> which queries [M] have another one's, and what is then asked [M]; none where all are alike.
    """

    wordings: Sequence[Sequence[_Items]]
    swapped: Mapping[str, tuple[list[int], list[_Items]]]

    @property
    def sizes(self) -> list[int]:
        return [len(row) for row in self.wordings]

    @property
    def queries(self) -> list[_Items]:
        """All of them, the wordings first."""
        rows = [*self.wordings, *(items for _, items in self.swapped.values())]
        return [items for row in rows for items in row]


def _variants(task: Task) -> _Asked:
    plain = task.queries
    if task.paraphrases:
        wordings = [
            [(Query(image=items[0].image, instruction=words),) for words in row if words and words != items[0].words]
            for items, row in zip(plain, task.paraphrases, strict=True)
        ]
    else:
        wordings = [
            [tuple(_filled(form, item) for item in items) for form in WORDINGS if all(item.words for item in items)]
            for items in plain
        ]
    pictures = _others([picture_key(items[0].images[0]) for items in plain])
    instructions = _others([tuple(item.words for item in items) for items in plain])
    other_picture = [
        tuple(Query(image=plain[other][0].image, instruction=item.words) for item in plain[at])
        for at, other in pictures.items()
    ]
    other_words = [
        tuple(Query(image=plain[at][0].image, instruction=item.words) for item in plain[other])
        for at, other in instructions.items()
    ]
    swapped = {"picture": (list(pictures), other_picture), "instruction": (list(instructions), other_words)}
    return _Asked(wordings, swapped)


def _filled(form: str, item: Item) -> Query:
    return Query(image=item.image, instruction=form.replace("{instruction}", item.words or ""))


def _others(values: Sequence[Any]) -> dict[int, int]:
    """For each place the next one, round the list, with another value; nothing where all are alike."""
    count = len(values)
    found = {}
    for at in range(count):
        places = ((at + step) % count for step in range(1, count))
        other = next((place for place in places if values[place] != values[at]), None)
        if other is not None:
            found[at] = other
    return found


def _widened(task: Task, asked: _Asked) -> Task:
    """The task with all variants as queries, so that one pass embeds everything with the task's own prompts."""
    queries = [*task.queries, *asked.queries]
    return replace(
        task,
        queries=queries,
        query_ids=[str(at) for at in range(len(queries))],
        views=(),
        groups=(),
        paraphrases=(),
        negatives=(),
    )


def _measured(task: Task, vectors: Vectors, asked: _Asked) -> tuple[dict[str, Measure], list[str]]:
    """All measures of a task, and the faults."""
    count = len(task.queries)
    rows = vectors.rows[task.asked]
    plain, image = rows[:count], vectors.rows["image only"][:count]
    said, rest = np.split(rows[count:], [sum(asked.sizes)])
    found = {
        **_over_words(task, vectors.gallery, plain, said, asked.sizes),
        **_against_negatives(task, vectors.gallery, plain, image),
    }
    faults = []
    for half, (at, _) in asked.swapped.items():
        swapped, rest = rest[: len(at)], rest[len(at) :]
        if at:
            more, fault = _over_half(task, vectors.gallery, half, plain[at], swapped, np.array(at))
            found |= more
            faults += fault
    return {name: _measure(values, about, task.name) for name, (values, about) in found.items()}, faults


_Values = dict[str, tuple[np.ndarray, str]]


def _over_words(task: Task, gallery: np.ndarray, plain: np.ndarray, said: np.ndarray, sizes: Sequence[int]) -> _Values:
    view, name = task.views[0], task.views[0].metrics[0].name
    starts = np.cumsum([0, *sizes])
    places = [np.arange(first, last) for first, last in zip(starts[:-1], starts[1:], strict=True)]
    owners = np.repeat(np.arange(len(plain)), sizes)
    own = _values(task, plain, gallery)
    again = _values(task, said, gallery, owners)
    all_of = [np.append(again[at], own[row]) for row, at in enumerate(places)]
    first, others = answers_of(view, plain, gallery, 1)[:, 0], _first(task, said, gallery, owners)
    told = [(row, at) for row, at in enumerate(places) if len(at)]
    found: _Values = {
        f"{name}, as asked": (100 * own, "the words of the benchmark"),
        f"{name}, mean of wordings": (100 * np.array([row.mean() for row in all_of]), "over all wordings of a query"),
        f"{name}, worst wording": (100 * np.array([row.min() for row in all_of]), "the least of a query's wordings"),
        f"{name}, best wording": (100 * np.array([row.max() for row in all_of]), "the most of a query's wordings"),
    }
    if told:
        same = [np.mean(others[at] == first[row]) for row, at in told]
        found["same first answer"] = 100 * np.array(same), "wordings that find what the words as asked find first"
        cosines = [float(np.mean(said[at] @ plain[row])) for row, at in told]
        found["cosine of wordings"] = np.array(cosines), "to the vector of the words as asked"
    return found


def _against_negatives(task: Task, gallery: np.ndarray, plain: np.ndarray, image: np.ndarray) -> _Values:
    targets = task.views[0].targets
    best = np.array(
        [max((gallery[list(row)] @ query), default=-1.0) for row, query in zip(targets, plain, strict=True)]
    )
    itself = (image * plain).sum(axis=1)
    found: _Values = {
        "reference above target": (100.0 * (itself > best), "the unchanged picture would stand above every target")
    }
    if any(task.negatives):
        told = [at for at, row in enumerate(task.negatives) if len(row)]
        highest = np.array([(gallery[list(task.negatives[at])] @ plain[at]).max() for at in told])
        ranks = ranks_of(
            replace(task.views[0], targets=[task.negatives[at] for at in told], exclude=None, candidates=None),
            plain[told],
            gallery,
        ).gallery
        found["negative above target"] = 100.0 * (highest > best[told]), "one of its explicit negatives is nearer"
        for k in (1, 10):
            hit = np.array([row.min() <= k for row in ranks])
            found[f"negative in first {k}"] = 100.0 * hit, f"recall@{k} of explicit negatives, nothing excluded"
    return found


def _over_half(
    task: Task, gallery: np.ndarray, half: str, plain: np.ndarray, swapped: np.ndarray, owners: np.ndarray
) -> tuple[_Values, list[str]]:
    """Measures of queries [M, D] as asked and with another one's half, those of `owners` [M]; and what is wrong."""
    cosines = (swapped * plain).sum(axis=1)
    own, still = (100 * _values(task, rows, gallery, owners) for rows in (plain, swapped))
    found = {
        f"cosine, {half} swapped": (cosines, f"to the vector of the query with another one's {half}"),
        f"{task.views[0].metrics[0].name}, {half} swapped": (still, f"what another query's {half} still finds"),
    }
    lost = _measure(own - still, "", task.name)
    if cosines.mean() > BLIND:
        return found, [
            f"the {half} hardly moves the vector: with another query's it keeps a cosine of {cosines.mean():.3f}"
        ]
    if lost.low <= 0:
        return found, [
            f"another query's {half} finds as much: {still.mean():.2f}, as asked {own.mean():.2f} "
            f"(lost {lost.value:.2f}, {lost.low:.2f} to {lost.high:.2f})"
        ]
    return found, []


def _values(task: Task, queries: np.ndarray, gallery: np.ndarray, owners: np.ndarray | None = None) -> np.ndarray:
    """The first metric of the first view [N]; `owners` [N]: whose targets each vector is to find."""
    view = _view_of(task, owners)
    return view.metrics[0].values(ranks_of(view, queries, gallery).gallery)


def _first(task: Task, queries: np.ndarray, gallery: np.ndarray, owners: np.ndarray) -> np.ndarray:
    return answers_of(_view_of(task, owners), queries, gallery, 1)[:, 0]


def _view_of(task: Task, owners: np.ndarray | None) -> Any:
    view = task.views[0]
    if owners is None:
        return view
    lists = {
        key: None if getattr(view, key) is None else [getattr(view, key)[at] for at in owners]
        for key in ("targets", "exclude", "candidates")
    }
    return replace(view, **lists)


def _measure(values: np.ndarray, about: str, stream: str) -> Measure:
    low, high = np.percentile(resamples(np.asarray(values, float)[:, None], stream)[:, 0], _TAILS).tolist()
    return Measure(float(np.mean(values)), low, high, about)


def robustness_table(found: Robustness) -> str:
    """Tables as Markdown, a line a measure, and the faults."""
    blocks: list[Any] = []
    for task, measures in found.tasks.items():
        where = f"{found.title}{' ' + task if task else ''}"
        blocks.append(f"{where}: wordings {found.wordings[task]}, explicit negatives {found.negatives[task]}.")
        rows = [
            [name, _number(name, m.value), f"{_number(name, m.low)} to {_number(name, m.high)}", m.about]
            for name, m in measures.items()
        ]
        blocks.append(ReportTable(["measure", "value", "95 %", "what it is"], rows))
        alike = [half for half in _HALVES if f"cosine, {half} swapped" not in measures]
        blocks += [f"Every query has the same {half}: whether it is ignored cannot be told." for half in alike]
    blocks += [f"FAULT: {fault}." for fault in found.faults]
    return markdown(blocks)


def _number(name: str, value: float) -> str:
    return f"{value:.3f}" if name.startswith("cosine") else f"{value:.2f}"


def write_robustness(found: Robustness, folder: Path, settings: Mapping[str, Any]) -> Path:
    """Write FOLDER/robustness.json. Raises DataError where it cannot be written."""
    write_json(folder / ROBUSTNESS, {**settings, **asdict(found), "versions": versions()})
    return folder / ROBUSTNESS
