"""Which inputs of a list are computed, and which of them together: nothing twice, and hardly any padding.

Each different input is rendered and tokenised once (distinct.py); batches are made from its tokens (prefetch.py).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import chain, groupby

from ..inputs.item_processor import ItemProcessor
from ..model.heads.lexical_head import Lexical
from ..thoughts.thinking import Thinking
from ..types import Item
from .avoiding import Avoided, apart
from .batching import cut_by_budget, suffixes_at_once, tokens_of
from .cost import Cost, explained, total
from .distinct import distinct
from .suffixes import Input, Suffixes, shared_length, suffixes_of

_WORTH = 0.1  # share of the tokens that a shared prefix of texts must save


@dataclass(frozen=True)
class Step:
    """Inputs that are computed together, in groups of numbers of `EncodingPlan.inputs`.

    Those of a `shared` step's groups have all before their suffixes in common, and share that. In other steps those of
    a group show the same picture, at which the model may look once. Those of a step that `thinks` think first.
    """

    groups: tuple[tuple[int, ...], ...]
    shared: bool = False
    thinks: bool = False

    @property
    def numbers(self) -> list[int]:
        """The inputs in the order in which their vectors come."""
        return list(chain.from_iterable(self.groups))

    def without(self, numbers: Collection[int]) -> Step:
        """Return the step without some of its inputs."""

        def rest(group: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(number for number in group if number not in numbers)

        return replace(self, groups=tuple(filter(None, map(rest, self.groups))))


@dataclass(frozen=True)
class EncodingPlan:
    """The steps for a list of inputs, behind which stands what they avoid (avoiding.py).

    Args:
        inputs: the different ones among them that can be embedded, as far as planning shows.
        places: where each of these stands in the list.
        avoided: which inputs of the list avoid what stands behind it.
        steps: in the order of computing, the longest first.
        batch_size: pictures that are computed at once at most.
        failures: why inputs of the list cannot be embedded, by their places in it.
        skip_unreadable: whether inputs that cannot be embedded are left out, or the first of them is an error.
        given: the cost of computing the list as it is, in batches in its order, each padded to its longest.
        planned: the cost of the steps.
        thinking: of inputs that think first; None where none does.
        lexical: how lexical vectors are made beside the dense ones; None where they are not asked for.
    """

    inputs: list[Input]
    places: list[list[int]]
    avoided: Avoided
    steps: list[Step]
    batch_size: int
    failures: Mapping[int, str]
    skip_unreadable: bool
    given: Cost
    planned: Cost
    thinking: Thinking | None = None
    lexical: Lexical | None = None

    @property
    def budget(self) -> int:
        """Tokens that are computed at once at most, a longer input excepted."""
        return tokens_of(self.batch_size)

    def __str__(self) -> str:
        """Return a table of what the plan saves."""
        return explained(self.given, self.planned)


def plan(
    listed: Sequence[Item],
    items: ItemProcessor,
    suffixes: Suffixes,
    pool: Executor,
    *,
    batch_size: int = 32,
    share: bool = True,
    skip_unreadable: bool = False,
    thinking: Thinking | None = None,
) -> EncodingPlan:
    """Plan the work on a list of inputs; pictures are looked at, not decoded.

    Args:
        listed: what to embed.
        items, suffixes: of the model.
        pool: where pictures are looked at.
        batch_size: pictures that are computed at once at most; with them goes a budget of tokens.
        share: whether inputs that begin alike may share that part of the work.
        skip_unreadable: leave out inputs that cannot be embedded, and say why in `EncodingPlan.failures`.
        thinking: how composed queries think first; None where they do not.

    Without `skip_unreadable`, raises ImageError for a picture that is missing or none, DataError for words that the
    model cannot read, and for an input that is too long.
    """
    plain, avoided = apart(listed)
    inputs, places, failures = distinct(plain, items, suffixes if share else None, pool, skip_unreadable, thinking)
    steps = _steps(inputs, batch_size, items.family.reuses_features, thinking)
    planned = total(_cost(step, inputs, tokens_of(batch_size)) for step in steps)
    given = _cost_as_given(plain, inputs, places, batch_size)
    return EncodingPlan(inputs, places, avoided, steps, batch_size, failures, skip_unreadable, given, planned, thinking)


def inputs_of(inputs: Sequence[Input], numbers: Sequence[int]) -> list[Input]:
    """Return the inputs of some numbers."""
    return [inputs[number] for number in numbers]


def _lengths(inputs: Sequence[Input], numbers: Sequence[int]) -> list[int]:
    return [inputs[number].length for number in numbers]


def _steps(
    inputs: Sequence[Input], batch_size: int, reuses_features: bool, thinking: Thinking | None = None
) -> list[Step]:
    """Return the steps: queries that think, pictures with several inputs, other pictures, texts."""
    groups = _groups(inputs)
    grouped = set(chain.from_iterable(groups))
    thinkers = [number for number, one in enumerate(inputs) if thinking and thinking.thinks(one.item)]
    single = [number for number in range(len(inputs)) if number not in grouped.union(thinkers)]
    texts = [number for number in single if not inputs[number].pictures]
    # apart, since a model that looks at a picture once for several rows finds the rows by counting pictures
    on_one = [number for number in single if len(inputs[number].pictures) == 1]
    on_several = [(number,) for number in single if len(inputs[number].pictures) > 1]
    return [
        *_thinking(thinkers, inputs, batch_size, reuses_features),
        *_sharing_pictures(groups, inputs, batch_size),
        *_with_pictures(_by_picture(on_one, inputs, reuses_features), inputs, batch_size),
        *_with_pictures(on_several, inputs, batch_size),
        *_texts(texts, inputs, batch_size),
    ]


def _thinking(
    numbers: Sequence[int], inputs: Sequence[Input], batch_size: int, reuses_features: bool
) -> Iterator[Step]:
    """Yield the steps of queries that think, those whose thoughts are known apart from others."""
    kinds: dict[tuple[bool, bool], list[int]] = {}
    for number in numbers:
        one = inputs[number]
        kinds.setdefault((one.thought is None, len(one.pictures) == 1), []).append(number)
    for (_, on_one), alike in kinds.items():
        groups = _by_picture(alike, inputs, reuses_features and on_one)
        for step in _with_pictures(groups, inputs, batch_size):
            yield replace(step, thinks=True)


def _groups(inputs: Sequence[Input]) -> list[tuple[int, ...]]:
    """Return the groups of inputs with the same pictures, and the same tokens in front of and between them."""
    groups: dict[Hashable, list[int]] = {}
    for number, one in enumerate(inputs):
        if one.pictures and one.suffix:
            groups.setdefault((one.pictures, one.suffix.prefix), []).append(number)
    return [tuple(numbers) for numbers in groups.values() if len(numbers) > 1]


def _sharing_pictures(groups: Sequence[tuple[int, ...]], inputs: Sequence[Input], batch_size: int) -> Iterator[Step]:
    """Yield the steps of inputs that share a prefix with pictures."""
    prefix = {group: _prefix_length(inputs_of(inputs, group)) for group in groups}
    order = sorted(groups, key=lambda group: (-prefix[group], -len(group)))
    pixels = [inputs[group[0]].pixels for group in order]
    for part in cut_by_budget([prefix[group] for group in order], tokens_of(batch_size), batch_size, pixels):
        yield Step(tuple(order[part]), shared=True)


def _by_picture(numbers: Sequence[int], inputs: Sequence[Input], reuses_features: bool) -> list[tuple[int, ...]]:
    """Return inputs on one picture each, those on the same one together if the model can look at it once for all."""
    if not reuses_features:
        return [(number,) for number in numbers]
    groups: dict[Hashable, list[int]] = {}
    for number in numbers:
        groups.setdefault(inputs[number].pictures, []).append(number)
    return list(map(tuple, groups.values()))


def _with_pictures(groups: Sequence[tuple[int, ...]], inputs: Sequence[Input], batch_size: int) -> Iterator[Step]:
    """Yield the steps of inputs that share nothing but perhaps a picture; a group is cut where a batch ends."""
    longest = {group: max(_lengths(inputs, group)) for group in groups}
    groups = sorted(groups, key=lambda group: -longest[group])
    group_of = {number: group for group in groups for number in group}
    order = list(group_of)
    pixels = [inputs[number].pixels for number in order]
    # by the longest of the group, so that the lengths fall and a group stays together
    lengths = [longest[group_of[number]] for number in order]
    for part in cut_by_budget(lengths, tokens_of(batch_size), batch_size, pixels):
        yield Step(tuple(tuple(together) for _, together in groupby(order[part], key=group_of.__getitem__)))


def _texts(numbers: Sequence[int], inputs: Sequence[Input], batch_size: int) -> Iterator[Step]:
    """Yield the steps of words alone, which share what the template says in front, a system prompt, where that is worth
    a pass of its own."""
    order = sorted(numbers, key=lambda number: -inputs[number].length)
    for part in cut_by_budget(_lengths(inputs, order), tokens_of(batch_size)):
        together = order[part]
        if _worth_sharing(inputs_of(inputs, together)):
            yield Step((tuple(together),), shared=True)
        else:
            yield Step(tuple((number,) for number in together))


def _worth_sharing(texts: Sequence[Input]) -> bool:
    suffixes = suffixes_of(texts)
    if len(suffixes) < len(texts):
        return False
    return shared_length(suffixes) * (len(texts) - 1) > _WORTH * sum(text.length for text in texts)


def _prefix_length(group: Sequence[Input]) -> int:
    """Return how many tokens the inputs of a group have in common, pictures included."""
    suffixes = suffixes_of(group)
    pictures = group[0].length - len(suffixes[0].tokens) if group[0].pictures else 0
    return pictures + shared_length(suffixes)


def _cost(step: Step, inputs: Sequence[Input], budget: int) -> Cost:
    """Return the cost of a step."""
    groups = [inputs_of(inputs, group) for group in step.groups]
    pictures = sum(len(group[0].pictures) for group in groups)
    if step.shared:
        return _shared_cost(groups, pictures, budget)
    lengths = _lengths(inputs, step.numbers)
    return Cost(len(lengths), pictures, sum(lengths), max(lengths) * len(lengths))


def _shared_cost(groups: Sequence[Sequence[Input]], pictures: int, budget: int) -> Cost:
    prefixes = [_prefix_length(group) for group in groups]
    own: list[int] = []
    for group in groups:
        suffixes = suffixes_of(group)
        shared = shared_length(suffixes)
        own += [len(suffix.tokens) - shared for suffix in suffixes]
    own.sort(reverse=True)
    parts = cut_by_budget(own, budget, suffixes_at_once(max(prefixes), budget))
    computed = max(prefixes) * len(prefixes) + sum(own[part][0] * len(own[part]) for part in parts)
    return Cost(len(own), pictures, sum(prefixes) + sum(own), computed)


def _cost_as_given(listed: Sequence[Item], inputs: Sequence[Input], places: Sequence[Sequence[int]], size: int) -> Cost:
    """Return the cost of a list in batches of so many in its order; inputs that cannot be embedded have no tokens."""
    lengths = [0] * len(listed)
    for one, same in zip(inputs, places, strict=True):
        for place in same:
            lengths[place] = one.length
    batches = [lengths[at : at + size] for at in range(0, len(lengths), size)]
    computed = sum(max(batch) * len(batch) for batch in batches)
    return Cost(len(listed), sum(len(item.images) for item in listed), sum(lengths), computed)
