"""What is computed for a list of inputs, and what together with what: nothing twice, and hardly any padding."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import chain, groupby
from typing import TypeAlias

from ..errors import DataError, ImageError
from ..inputs.images import glance
from ..inputs.item_processor import ItemProcessor
from ..types import ImageLike, Item, picture_key
from .batching import cut_by_budget, endings_on
from .suffixes import Suffix, Suffixes, in_common

Group: TypeAlias = tuple[tuple[int, ...], tuple[Suffix, ...]]

_WORTH = 0.1  # share of the tokens that a shared beginning of texts must save
_USUAL = (448, 448)  # the size that a picture is taken to have which is only made when it is needed


@dataclass(frozen=True)
class Cost:
    """How much a way to compute some inputs asks of the model.

    Args:
        inputs: sequences that are pooled to a vector.
        pictures: pictures that the vision tower sees.
        tokens: tokens of the language model that mean something.
        computed: these and the padding.
    """

    inputs: int
    pictures: int
    tokens: int
    computed: int


@dataclass(frozen=True)
class Step:
    """Inputs that are computed together, in groups of numbers of `EncodingPlan.items`.

    With `tails`, one for each, those of a group have all before it in common, and share that. Without, they show the
    same picture, at which the model may look once.
    """

    groups: tuple[tuple[int, ...], ...]
    tails: tuple[tuple[Suffix, ...], ...] = ()


@dataclass(frozen=True)
class EncodingPlan:
    """The steps for a list of inputs.

    Args:
        items: the different ones among them.
        places: where each of these stands in the list.
        steps: in the order of computing, the longest first.
        batch_size: pictures that are computed at once at most.
        budget: tokens that are.
        lost: why inputs cannot be embedded, by their places in the list; with None the first one is an error. What only
            decoding shows comes in while the plan is carried out.
        given: the work of computing the list as it is, in batches in its order, each padded to its longest.
        planned: the work of the steps.
    """

    items: list[Item]
    places: list[list[int]]
    steps: list[Step]
    batch_size: int
    budget: int
    lost: dict[int, str] | None
    given: Cost
    planned: Cost

    def __str__(self) -> str:
        return explained(self.given, self.planned)


def without(step: Step, numbers: Collection[int]) -> Step:
    """The step without some of its inputs."""
    kept = [[at for at, number in enumerate(group) if number not in numbers] for group in step.groups]
    groups = tuple(tuple(group[at] for at in places) for group, places in zip(step.groups, kept, strict=True) if places)
    tails = tuple(tuple(said[at] for at in places) for said, places in zip(step.tails, kept, strict=False) if places)
    return Step(groups, tails)


def explained(given: Cost, planned: Cost) -> str:
    """A table of what a plan saves."""
    names = {"inputs": "inputs", "pictures": "pictures seen", "tokens": "tokens", "computed": "tokens with padding"}
    lines = [f"{'':14}" + "".join(f"{title:>22}" for title in names.values())]
    for row, work in (("as given", given), ("planned", planned)):
        lines.append(f"{row:14}" + "".join(f"{getattr(work, name):>22,}" for name in names))
    ratios = [getattr(given, name) / max(getattr(planned, name), 1) for name in names]
    lines.append(f"{'saved':14}" + "".join(f"{ratio:>20.2f} x" for ratio in ratios))
    useful = planned.tokens / max(planned.computed, 1)
    return "\n".join([*lines, f"{useful:.1%} of the tokens that are computed are no padding"])


def plan(
    inputs: Sequence[Item],
    items: ItemProcessor,
    tails: Suffixes,
    batch_size: int,
    budget: int,
    pool: Executor,
    share: bool = True,
    lost: dict[int, str] | None = None,
) -> EncodingPlan:
    """Plan the work on a list of inputs; pictures are looked at, not decoded.

    Args:
        inputs: what to embed.
        items, tails: of the model.
        batch_size: pictures that are computed at once at most.
        budget: tokens that are, a longer input excepted.
        pool: where pictures are looked at.
        share: whether inputs that begin alike may share that part of the work.
        lost: where to tell which inputs cannot be embedded, and why.

    Without `lost`, raises ImageError for a picture that is missing or none, DataError for words that the model cannot
    read.
    """
    seen = _looked_at(inputs, items, pool, lost)
    places: dict[Hashable, list[int]] = {}
    for at, item in enumerate(inputs):
        if lost and at in lost:
            continue
        pictures = tuple(seen[picture_key(image)][0] for image in item.images)
        places.setdefault((item.role, item.text or item.words, item.words, pictures), []).append(at)
    distinct = [inputs[rows[0]] for rows in places.values()]
    words = items.tokens([items.render(item) for item in distinct])
    lengths = [len(ids) + _shown(item, items, seen) for ids, item in zip(words, distinct, strict=True)]
    groups = _groups(distinct, list(places), tails) if share else []
    grouped = set(chain.from_iterable(group for group, _ in groups))
    single = [number for number in range(len(distinct)) if number not in grouped]
    shown = [number for number in single if distinct[number].images]
    plain = [number for number in single if not distinct[number].images]
    said = dict(zip(plain, tails([distinct[number] for number in plain]), strict=True)) if share else {}
    parts = [
        _on_pictures(groups, lengths, distinct, batch_size, budget),
        *(
            _pictures_alone(groups, distinct, lengths, batch_size, budget)
            for groups in _by_picture(shown, distinct, list(places), items.family.reuses_features)
        ),
        _texts(plain, lengths, said, budget),
    ]
    steps = [step for part, _ in parts for step in part]
    planned = total([work for _, work in parts])
    all_lengths = [0] * len(inputs)
    for rows, length in zip(places.values(), lengths, strict=True):
        for at in rows:
            all_lengths[at] = length
    given = _as_given(inputs, all_lengths, batch_size)
    return EncodingPlan(distinct, list(places.values()), steps, batch_size, budget, lost, given, planned)


def _looked_at(
    inputs: Sequence[Item], items: ItemProcessor, pool: Executor, lost: dict[int, str] | None
) -> dict[Hashable, tuple[Hashable, tuple[int, int] | None]]:
    """What `glance` tells of each picture; inputs that show a bad one, or say what the model cannot read, are lost."""
    sources = {picture_key(image): image for item in inputs for image in item.images}
    if lost is None:
        return dict(zip(sources, pool.map(glance, sources.values()), strict=True))
    told = dict(zip(sources, pool.map(_glance_or_why, sources.values()), strict=True))
    for at, item in enumerate(inputs):
        faults = [fault for image in item.images if isinstance(fault := told[picture_key(image)], str)]
        try:
            items.render(item)
        except DataError as error:
            faults.append(str(error))
        if faults:
            lost[at] = faults[0]
    return {key: found for key, found in told.items() if not isinstance(found, str)}


def _glance_or_why(image: ImageLike) -> tuple[Hashable, tuple[int, int] | None] | str:
    try:
        return glance(image)
    except ImageError as error:
        return str(error)


def _shown(item: Item, items: ItemProcessor, seen: dict[Hashable, tuple[Hashable, tuple[int, int] | None]]) -> int:
    """The tokens of an item's pictures."""
    return sum(items.picture_tokens(*(seen[picture_key(image)][1] or _USUAL)) for image in item.images)


def _groups(distinct: Sequence[Item], keys: Sequence[Hashable], tails: Suffixes) -> list[Group]:
    """The inputs that are not alone on their pictures."""
    by_pictures: dict[Hashable, list[int]] = {}
    for number, item in enumerate(distinct):
        if item.images:
            by_pictures.setdefault(keys[number][-1], []).append(number)  # type: ignore[index]
    several = [number for numbers in by_pictures.values() if len(numbers) > 1 for number in numbers]
    found: dict[Hashable, list[tuple[int, Suffix]]] = {}
    for number, tail in zip(several, tails([distinct[number] for number in several]), strict=True):
        if tail is not None:
            found.setdefault((keys[number][-1], tail.head), []).append((number, tail))  # type: ignore[index]
    return [(tuple(n for n, _ in group), tuple(t for _, t in group)) for group in found.values() if len(group) > 1]


def _on_pictures(
    groups: list[Group], lengths: list[int], distinct: Sequence[Item], batch_size: int, budget: int
) -> tuple[list[Step], Cost]:
    """Inputs that share a picture."""
    begun = [lengths[numbers[0]] - len(tails[0].tokens) + in_common(tails) for numbers, tails in groups]
    order = sorted(range(len(groups)), key=lambda at: (-begun[at], -len(groups[at][0])))
    steps, works = [], []
    for part in cut_by_budget([begun[at] for at in order], budget, batch_size):
        chosen = [groups[at] for at in order[part]]
        steps.append(Step(tuple(numbers for numbers, _ in chosen), tuple(tails for _, tails in chosen)))
        pictures = sum(len(distinct[numbers[0]].images) for numbers, _ in chosen)
        works.append(_shared_work([begun[at] for at in order[part]], [tails for _, tails in chosen], pictures, budget))
    return steps, total(works)


def _by_picture(
    numbers: list[int], distinct: Sequence[Item], keys: Sequence[Hashable], once: bool
) -> tuple[list[list[int]], list[list[int]]]:
    """Inputs that cannot share more, those on the same one picture together, and those on several, each by itself.

    Apart, since a model that can look at a picture `once` for several rows tells rows by pictures.
    """
    ones: dict[Hashable, list[int]] = {}
    several = []
    for number in numbers:
        if len(distinct[number].images) == 1:
            ones.setdefault(keys[number][-1] if once else number, []).append(number)  # type: ignore[index]
        else:
            several.append([number])
    return list(ones.values()), several


def _pictures_alone(
    groups: list[list[int]], distinct: Sequence[Item], lengths: list[int], batch_size: int, budget: int
) -> tuple[list[Step], Cost]:
    """Inputs that share nothing but perhaps a picture; a group is cut where a batch ends."""
    steps, works = [], []
    longest = {number: max(lengths[other] for other in group) for group in groups for number in group}
    order = [number for group in sorted(groups, key=lambda group: -longest[group[0]]) for number in group]
    home = {number: group[0] for group in groups for number in group}
    for part in cut_by_budget([longest[number] for number in order], budget, batch_size):
        chosen = [tuple(group) for _, group in groupby(order[part], key=home.__getitem__)]
        steps.append(Step(tuple(chosen)))
        pictures = sum(len(distinct[group[0]].images) for group in chosen)
        works.append(_plain_work([lengths[number] for number in order[part]], pictures))
    return steps, total(works)


def _texts(
    numbers: list[int], lengths: list[int], tails: dict[int, Suffix | None], budget: int
) -> tuple[list[Step], Cost]:
    """Words alone, which share what the template says in front, a system prompt, where that is worth a pass."""
    steps, works = [], []
    for chosen in _by_length(numbers, lengths, budget):
        said = tuple(tail for number in chosen if (tail := tails.get(number)))
        alike = in_common(said) if len(said) == len(chosen) else 0
        if alike * (len(chosen) - 1) > _WORTH * sum(lengths[number] for number in chosen):
            steps.append(Step((tuple(chosen),), (said,)))
            works.append(_shared_work([alike], [said], 0, budget))
        else:
            steps.append(Step(tuple((number,) for number in chosen)))
            works.append(_plain_work([lengths[number] for number in chosen], 0))
    return steps, total(works)


def _by_length(numbers: list[int], lengths: list[int], budget: int, most: int | None = None) -> Iterator[list[int]]:
    order = sorted(numbers, key=lambda number: -lengths[number])
    yield from (order[part] for part in cut_by_budget([lengths[number] for number in order], budget, most))


def _shared_work(begun: list[int], tails: Sequence[tuple[Suffix, ...]], pictures: int, budget: int) -> Cost:
    own = sorted((len(tail.tokens) - in_common(said) for said in tails for tail in said), reverse=True)
    parts = cut_by_budget(own, budget, endings_on(max(begun), budget))
    padded = max(begun) * len(begun) + sum(own[part][0] * len(own[part]) for part in parts)
    return Cost(len(own), pictures, sum(begun) + sum(own), padded)


def _plain_work(lengths: list[int], pictures: int) -> Cost:
    return Cost(len(lengths), pictures, sum(lengths), max(lengths) * len(lengths))


def _as_given(inputs: Sequence[Item], lengths: list[int], size: int) -> Cost:
    batches = [lengths[at : at + size] for at in range(0, len(lengths), size)]
    padded = sum(max(batch) * len(batch) for batch in batches)
    return Cost(len(inputs), sum(len(item.images) for item in inputs), sum(lengths), padded)


def total(works: Sequence[Cost]) -> Cost:
    """All of these together."""
    return Cost(*(sum(getattr(work, name) for work in works) for name in Cost.__dataclass_fields__))
