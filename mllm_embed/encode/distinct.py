"""The different inputs of a list, rendered and tokenised once each, as far as they can be embedded.

Pictures are looked at, not decoded; words that are too long are cut or refused, as `inputs.lengths` says.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from ..errors import DataError, ImageError
from ..inputs.images import Glance
from ..inputs.item_processor import ItemProcessor
from ..inputs.rendering import FilledPrompt
from ..thoughts.thinking import Thinking
from ..types import ImageLike, Item, item_key, picture_key
from .suffixes import Input, Suffixes

USUAL = (448, 448)
"""The size that a picture is taken to have which is only made when it is needed."""


def distinct(
    listed: Sequence[Item],
    items: ItemProcessor,
    suffixes: Suffixes | None,
    pool: Executor,
    skip: bool,
    thinking: Thinking | None = None,
) -> tuple[list[Input], list[list[int]], dict[int, str]]:
    """Return the different inputs of a list, where each stands in it, and with `skip` why others cannot be embedded.

    `suffixes` are for inputs that may share work, pictures are looked at in `pool`, `thinking` is of those that think
    first. Without `skip`, raises ImageError
    or DataError for the first that cannot be embedded.
    """
    alike, failures = _alike(listed, _glances(listed, items, pool, skip), items, skip)
    fitted, too_long = _fitted(alike, items, skip, thinking)
    return _inputs(fitted, items, suffixes, thinking), [one.places for one in fitted], failures | too_long


@dataclass(frozen=True)
class _Alike:
    """Inputs that are one to the model.

    Args:
        item: the first of them.
        looks: what is known of its pictures.
        text: its rendered prompt.
        places: where they stand in the list.
    """

    item: Item
    looks: list[Glance]
    text: str
    places: list[int]


def _glances(
    listed: Sequence[Item], items: ItemProcessor, pool: Executor, skip: bool
) -> dict[Hashable, Glance | ImageError]:
    """Return what is known of each picture, by its name; with `skip` also why one cannot be read."""
    # by name: a picture that many inputs show is read once
    sources = {picture_key(image): image for item in listed for image in item.images}
    look = partial(_glance_or_error, items) if skip else items.glance
    looks = map if len(sources) < 2 else pool.map  # to start a thread takes longer than to look at one picture
    return dict(zip(sources, looks(look, sources.values()), strict=True))


def _glance_or_error(items: ItemProcessor, image: ImageLike) -> Glance | ImageError:
    try:
        return items.glance(image)
    except ImageError as error:
        return error


def _alike(
    listed: Sequence[Item], glances: Mapping[Hashable, Glance | ImageError], items: ItemProcessor, skip: bool
) -> tuple[list[_Alike], dict[int, str]]:
    """Return the different inputs, and with `skip` why others cannot be embedded, by their places."""
    alike: dict[Hashable, _Alike] = {}
    failures: dict[int, str] = {}
    for place, item in enumerate(listed):
        try:
            looks = [_seen(glances[picture_key(image)]) for image in item.images]
            key = item_key(item, _contents(looks), items.prompts.asked(item))
            # rendered once for all that are alike: words that cannot be read show here
            if key not in alike:
                bounded = items.lengths.bounded(item)
                alike[key] = _Alike(bounded, looks, items.render(bounded), [])
            alike[key].places.append(place)
        except (ImageError, DataError) as error:
            if not skip:
                raise
            failures[place] = str(error)
    return list(alike.values()), failures


def _seen(look: Glance | ImageError) -> Glance:
    if isinstance(look, ImageError):
        raise look
    return look


def _contents(looks: Sequence[Glance]) -> tuple[Hashable, ...]:
    return tuple(look.content for look in looks)


@dataclass(frozen=True)
class _Fitted:
    """An input within the limit of tokens: what `_Alike` tells of it, its prompt, and its pictures' tokens."""

    item: Item
    prompt: FilledPrompt
    looks: list[Glance]
    more: int
    places: list[int]


def _fitted(
    alike: Sequence[_Alike], items: ItemProcessor, skip: bool, thinking: Thinking | None
) -> tuple[list[_Fitted], dict[int, str]]:
    """Return different inputs with their tokens, and with `skip` why others are too long, by their places."""
    fitted: list[_Fitted] = []
    failures: dict[int, str] = {}
    for same, prompt in zip(alike, items.tokenise([same.text for same in alike]), strict=True):
        try:
            room = thinking.writer.room(same.item) if thinking else 0
            more = _more(same.looks, prompt, items) + room
            fitted.append(_Fitted(*items.lengths.fitted(same.item, prompt, more), same.looks, more, same.places))
        except DataError as error:
            if not skip:
                raise
            failures |= dict.fromkeys(same.places, str(error))
    return fitted, failures


def _inputs(
    fitted: Sequence[_Fitted], items: ItemProcessor, suffixes: Suffixes | None, thinking: Thinking | None
) -> list[Input]:
    """Return different inputs as they are computed; with `suffixes` also theirs, where another input may have the same
    in front of its own: one on the same pictures, or any text."""
    shown = Counter(_contents(one.looks) for one in fitted)
    inputs = []
    for one in fitted:
        pictures = _contents(one.looks)
        thinks = thinking is not None and thinking.thinks(one.item)
        may_share = not thinks and (not pictures or shown[pictures] > 1)
        suffix = suffixes(one.item, one.prompt) if suffixes and may_share else None
        length = len(one.prompt.tokens) + one.more
        thought = thinking.known(one.prompt.text, pictures) if thinking and thinks else None
        inputs.append(Input(one.item, pictures, one.prompt, suffix, length, _pixels(one.looks, items), thought))
    return inputs


def _more(looks: Sequence[Glance], prompt: FilledPrompt, items: ItemProcessor) -> int:
    """Return about how many tokens the processor adds to a prompt, and how many exactly where that decides whether an
    input fits."""
    more = sum(items.picture_tokens(*(look.size or USUAL)) for look in looks)
    sizes = tuple(look.size for look in looks if look.size)
    if len(sizes) == len(looks) and items.lengths.near(len(prompt.tokens) + more):
        try:
            return items.more_tokens(prompt, sizes)
        except DataError:  # pictures that the model cannot take: reading them raises the error
            return more
    return more


def _pixels(looks: Sequence[Glance], items: ItemProcessor) -> int:
    """Return how many pixels pictures have in memory, as they are decoded or as they are resized, whichever is more."""
    return sum(_pixels_of(look.size or USUAL, items) for look in looks)


def _pixels_of(size: tuple[int, int], items: ItemProcessor) -> int:
    decoded = math.prod(size)
    try:
        return max(decoded, math.prod(items.resized(*size)))
    except DataError:  # a picture that the model cannot take: reading it raises the error
        return decoded
