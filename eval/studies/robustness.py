"""How robust composed queries are: to other words, to what they must not find, and to the loss of either half.

Three faults that recall alone does not show. Words: the same wish worded otherwise should find the same. Negatives: the
unchanged picture, or what a query names as wrong, should stand below the target. Halves: a vector that stays where it
is when its picture (or its instruction) is another query's ignores that half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mllm_embed.encode.encoder import PromptedEncoder
from mllm_embed.files import write_json
from mllm_embed.saving.versions import versions
from mllm_embed.types import Item, Query, picture_key

from ..reports.tables import Block, ReportTable, markdown
from ..scoring.asking import ask
from ..scoring.composition import IMAGE_ONLY
from ..scoring.estimate import INTERVAL, resamples
from ..scoring.evaluate import embed
from ..scoring.metrics import recall_at_k
from ..scoring.score import Vectors, answers_of, ranks_of
from ..scoring.suite import Positions, Suite, Task, View
from .compare_methods import composed_part

# Wordings that change no wish, for benchmarks that bring none of their own.
WORDINGS = ("{instruction}.", "please: {instruction}", "as here, but {instruction}", "what to change: {instruction}")
BLIND = 0.98  # a mean cosine above it, to the vector of a query with another half, is a fault
ROBUSTNESS = "robustness.json"
_OVER_WORDINGS: dict[str, tuple[Callable[[np.ndarray], float], str]] = {
    "mean of wordings": (np.mean, "over all wordings of a query"),
    "worst wording": (np.min, "the least of a query's wordings"),
    "best wording": (np.max, "the most of a query's wordings"),
}
_OWN = "the benchmark's own"
_HALVES = ("picture", "instruction")
_Items = Sequence[Item]
# measure -> a value a query, what it is, and which queries those are
_Values = dict[str, tuple[np.ndarray, str, Sequence[int]]]


@dataclass(frozen=True)
class Measure:
    """A mean over queries with its 95 % interval, as `estimate.INTERVAL_RULE` says; in percent, or a cosine."""

    value: float
    low: float
    high: float
    about: str


@dataclass(frozen=True)
class Robustness:
    """All measures, by task and name; `wordings` and `negatives` tell where those came from, `asked` the prompts."""

    title: str
    fingerprint: str
    asked: Mapping[str, Any]
    wordings: Mapping[str, str]
    negatives: Mapping[str, str]
    tasks: Mapping[str, Mapping[str, Measure]]
    faults: Sequence[str]


def robustness(embedder: PromptedEncoder, suite: Suite, *, batch_size: int = 32) -> Robustness:
    """Measure a suite's composed queries.

    Args:
        embedder: an `MLLMEmbedder`, or what `evaluate` takes.
        suite: with labels; a query's own `paraphrases` and `negatives` are used where the benchmark has them.

    Raises DataError for hidden labels and where no task has composed queries, and what `embed` raises.
    """
    suite = composed_part(suite)
    variants = {task.name: _variants(task) for task in suite.tasks}
    whole = replace(suite, tasks=tuple(_widened(task, variants[task.name]) for task in suite.tasks), means=())
    asked = ask(embedder, suite)
    vectors, _ = embed(embedder, whole, batch_size=batch_size, asked=asked)
    tasks, faults, wordings, negatives = {}, [], {}, {}
    for task in suite.tasks:
        tasks[task.name], found = _measured(task, vectors[task.name], variants[task.name])
        faults += [f"{task.name + ': ' if task.name else ''}{fault}" for fault in found]
        wordings[task.name] = _OWN if task.paraphrases else "by rule"
        negatives[task.name] = _OWN if any(task.negatives) else "none"
    return Robustness(suite.title, suite.fingerprint(), asked.protocol(), wordings, negatives, tasks, faults)


@dataclass(frozen=True)
class _Swapped:
    """Queries with one half of another query: which queries [M], and what is then asked [M]."""

    half: str
    owners: list[int]
    queries: list[_Items]


@dataclass(frozen=True)
class _Variants:
    """The queries of a task worded otherwise, and with a half of another query.

    Attributes:
        wordings: by query, none where there is no other wording.
        swapped: by half; of no queries where that half is the same in all.
    """

    wordings: list[list[_Items]]
    swapped: list[_Swapped]

    @property
    def sizes(self) -> list[int]:
        """The number of other wordings of each query."""
        return [len(row) for row in self.wordings]

    @property
    def queries(self) -> list[_Items]:
        """All of them, the wordings first."""
        queries = [items for row in self.wordings for items in row]
        for swapped in self.swapped:
            queries += swapped.queries
        return queries


def _variants(task: Task) -> _Variants:
    if task.paraphrases:
        wordings = [_paraphrased(items, row) for items, row in zip(task.queries, task.paraphrases, strict=True)]
    else:
        wordings = [_worded_by_rule(items) for items in task.queries]
    plain = task.queries
    picture, instruction = _Swapped("picture", [], []), _Swapped("instruction", [], [])
    for own, other in _others([picture_key(items[0].images[0]) for items in plain]).items():
        picture.owners.append(own)
        picture.queries.append(_asked_of(plain[other], plain[own]))
    for own, other in _others(list(map(_instructions, plain))).items():
        instruction.owners.append(own)
        instruction.queries.append(_asked_of(plain[own], plain[other]))
    return _Variants(wordings, [picture, instruction])


def _paraphrased(items: _Items, paraphrases: Sequence[str]) -> list[_Items]:
    others = [words for words in paraphrases if words and words != items[0].words]
    return [(_worded(items[0], items[0], words),) for words in others]


def _worded_by_rule(items: _Items) -> list[_Items]:
    if not all(item.words for item in items):
        return []
    return [_filled(form, items) for form in WORDINGS]


def _filled(form: str, items: _Items) -> _Items:
    return tuple(_worded(item, item, form.replace("{instruction}", item.words or "")) for item in items)


def _worded(picture: Item, instruction: Item, words: str | None) -> Query:
    """Return the picture of one query asked as another is, which keeps what it avoids, in these words."""
    return Query(image=picture.image, instruction=words, avoid=instruction.avoid)


def _instructions(items: _Items) -> tuple[str | None, ...]:
    return tuple(item.words for item in items)


def _asked_of(picture: _Items, instruction: _Items) -> _Items:
    """Return the instruction of some items, asked of the picture of others."""
    return tuple(_worded(picture[0], item, item.words) for item in instruction)


def _others(values: Sequence[Any]) -> dict[int, int]:
    """Return for each place the next one, round the list, with another value; nothing where all are alike."""
    count = len(values)
    found = {}
    for at in range(count):
        # the next and not a random one: every run swaps the same halves
        places = ((at + step) % count for step in range(1, count))
        other = next((place for place in places if values[place] != values[at]), None)
        if other is not None:
            found[at] = other
    return found


def _widened(task: Task, variants: _Variants) -> Task:
    """Return the task with all variants as queries, so that one pass embeds everything with the task's own prompts."""
    queries = [*task.queries, *variants.queries]
    return replace(
        task,
        queries=queries,
        query_ids=[str(at) for at in range(len(queries))],
        views=(),
        groups=(),
        paraphrases=(),
        negatives=(),
    )


def _measured(task: Task, vectors: Vectors, variants: _Variants) -> tuple[dict[str, Measure], list[str]]:
    """Return all measures of a task, and the faults."""
    count, gallery, rows = len(task.queries), vectors.gallery, vectors.rows[task.query_kind]
    # the queries lie in the order of `_widened`: as asked, worded otherwise, and by half
    plain, image = rows[:count], vectors.rows[IMAGE_ONLY][:count]
    worded, rest = np.split(rows[count:], [sum(variants.sizes)])
    values = {
        **_over_words(task.views[0], gallery, plain, worded, variants.sizes),
        **_against_negatives(task, gallery, plain, image),
    }
    faults = []
    for swapped in variants.swapped:
        moved, rest = np.split(rest, [len(swapped.owners)])
        if swapped.owners:
            more, fault = _over_half(task, gallery, swapped, plain[swapped.owners], moved)
            values |= more
            faults += fault
    found = {}
    for name, (column, about, owners) in values.items():
        found[name] = _measure(column, about, task.name, task.references[owners])
    return found, faults


def _over_words(
    view: View, gallery: np.ndarray, plain: np.ndarray, worded: np.ndarray, sizes: Sequence[int]
) -> _Values:
    """Return measures of queries [Q, D] as asked, and of their `sizes` other wordings [sum, D], query by query."""
    name = view.metrics[0].name
    owners = np.repeat(np.arange(len(plain)), sizes).tolist()
    ends = np.cumsum(sizes)[:-1]
    own = _values(view, plain, gallery)
    again = np.split(_values(view.of(owners), worded, gallery), ends)
    all_of = [np.append(others, value) for others, value in zip(again, own, strict=True)]
    every = range(len(plain))
    found: _Values = {f"{name}, as asked": (100 * own, "the words of the benchmark", every)}
    for form, (over, about) in _OVER_WORDINGS.items():
        found[f"{name}, {form}"] = 100 * np.array([over(row) for row in all_of]), about, every
    if len(worded):
        first = answers_of(view, plain, gallery, 1)[:, 0]
        same = answers_of(view.of(owners), worded, gallery, 1)[:, 0] == first[owners]
        about = "wordings that find what the words as asked find first"
        # a query without another wording has nothing to be steady in, and does not count
        having = [at for at, size in enumerate(sizes) if size]
        shares = [part.mean() for part in np.split(same, ends) if len(part)]
        found["same first answer"] = 100 * np.array(shares), about, having
        pairs = zip(np.split(worded, ends), plain, strict=True)
        cosines = [np.mean(part @ query) for part, query in pairs if len(part)]
        found["cosine of wordings"] = np.array(cosines, float), "to the vector of the words as asked", having
    return found


def _against_negatives(task: Task, gallery: np.ndarray, plain: np.ndarray, image: np.ndarray) -> _Values:
    """Return how often the picture alone [Q, D], or a negative, is nearer to a query [Q, D] than its best target."""
    best = _highest(gallery, plain, task.views[0].targets)
    # by cosine and not by rank: the reference may be excluded, and has no rank then
    itself = (image * plain).sum(axis=1)
    above, every = 100.0 * (itself > best), range(len(plain))
    found: _Values = {"reference above target": (above, "the unchanged picture would stand above every target", every)}
    having = [at for at, row in enumerate(task.negatives) if len(row)]
    if having:
        negatives = [task.negatives[at] for at in having]
        highest = _highest(gallery, plain[having], negatives)
        above = 100.0 * (highest > best[having])
        found["negative above target"] = above, "one of its explicit negatives is nearer", having
        ranks = ranks_of(View((), negatives), plain[having], gallery).gallery
        for k in (1, 10):
            hits = recall_at_k(ranks, k)
            found[f"negative in first {k}"] = (
                100.0 * hits,
                f"recall@{k} of explicit negatives, nothing excluded",
                having,
            )
    return found


def _highest(gallery: np.ndarray, queries: np.ndarray, positions: Positions) -> np.ndarray:
    """Return the highest cosine [Q] of each query with its gallery positions; -1 for none."""
    pairs = zip(positions, queries, strict=True)
    return np.array([max(gallery[list(row)] @ query, default=-1.0) for row, query in pairs])


def _over_half(
    task: Task, gallery: np.ndarray, swapped: _Swapped, plain: np.ndarray, moved: np.ndarray
) -> tuple[_Values, list[str]]:
    """Return measures of queries [M, D] as asked, and with another one's half; and the faults."""
    half, view = swapped.half, task.views[0].of(swapped.owners)
    cosines = (moved * plain).sum(axis=1)
    own, still = 100 * _values(view, plain, gallery), 100 * _values(view, moved, gallery)
    owners = swapped.owners
    found: _Values = {
        f"cosine, {half} swapped": (cosines, f"to the vector of the query with another one's {half}", owners),
        f"{view.metrics[0].name}, {half} swapped": (still, f"what another query's {half} still finds", owners),
    }
    lost = _measure(own - still, "", task.name, task.references[owners])
    if cosines.mean() > BLIND:
        return found, [
            f"the {half} hardly moves the vector: with another query's it keeps a cosine of {cosines.mean():.3f}"
        ]
    # An interval that reaches 0 cannot tell the loss from chance: the half may do nothing.
    if lost.low <= 0:
        return found, [
            f"another query's {half} finds as much: {still.mean():.2f}, as asked {own.mean():.2f} "
            f"(lost {lost.value:.2f}, {lost.low:.2f} to {lost.high:.2f})"
        ]
    return found, []


def _values(view: View, queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Return the first metric of a view [N], for a query each."""
    return view.metrics[0].values(ranks_of(view, queries, gallery).gallery)


def _measure(values: np.ndarray, about: str, stream: str, references: np.ndarray) -> Measure:
    drawn = resamples(np.asarray(values, float)[:, None], stream, references)[:, 0]
    low, high = np.percentile(drawn, INTERVAL).tolist()
    return Measure(float(np.mean(values)), low, high, about)


def robustness_table(found: Robustness) -> str:
    """Return tables as Markdown, a line a measure, and the faults."""
    blocks: list[Block] = []
    for task, measures in found.tasks.items():
        where = f"{found.title}{' ' + task if task else ''}"
        blocks.append(f"{where}: wordings {found.wordings[task]}, explicit negatives {found.negatives[task]}.")
        rows = [_row(name, measure) for name, measure in measures.items()]
        blocks.append(ReportTable(["measure", "value", "95 %", "what it is"], rows))
        alike = [half for half in _HALVES if f"cosine, {half} swapped" not in measures]
        blocks += [f"Every query has the same {half}: whether it is ignored cannot be told." for half in alike]
    blocks += [f"FAULT: {fault}." for fault in found.faults]
    return markdown(blocks)


def _row(name: str, measure: Measure) -> list[str]:
    digits = 3 if name.startswith("cosine") else 2
    interval = f"{measure.low:.{digits}f} to {measure.high:.{digits}f}"
    return [name, f"{measure.value:.{digits}f}", interval, measure.about]


def write_robustness(found: Robustness, folder: Path, settings: Mapping[str, Any]) -> Path:
    """Write FOLDER/robustness.json. Raise DataError where it cannot be written."""
    write_json(folder / ROBUSTNESS, {**settings, **asdict(found), "versions": versions()})
    return folder / ROBUSTNESS
