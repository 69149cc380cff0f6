"""Fields of requests that hold many inputs, or one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..limits import Limits
from ..refusals import Refusal
from .content import Draft, address_of, check_no_tokens, conversation, draft_of, is_message, kind_in_json


def drafts_of(value: Any, where: str, limits: Limits) -> list[Draft]:
    """Return the inputs of a field that takes one or many, in order.

    A text or an object is one input; a list is many of them; a list of messages is one conversation, and a list of
    such lists many. Raises Refusal 422, with the place, for anything else.
    """
    if not isinstance(value, list):
        return [draft_of(value, where)]
    if not value:
        raise Refusal(422, f"{where} is an empty list; give one input at least", field=where)
    if is_message(value[0]):
        return [conversation(value, where)]
    check_no_tokens(value, where)
    check_count(value, where, limits)
    return [draft_of(one, f"{where}[{place}]") for place, one in enumerate(value)]


def drafts_with_content(inputs: Any, where: str, limits: Limits) -> list[Draft]:
    """Return the inputs of a list of objects with `content`, as Cohere and Voyage have them. Raises Refusal 422."""
    check_list(inputs, where, limits)
    for place, one in enumerate(inputs):
        if not isinstance(one, Mapping) or one.get("content") is None:
            at = f"{where}[{place}]"
            raise Refusal(422, f"{at} has no content; give {{'content': [parts]}}", field=at)
    return [draft_of(one, f"{where}[{place}]") for place, one in enumerate(inputs)]


def check_count(values: Sequence[Any], where: str, limits: Limits) -> None:
    """Raise Refusal 422 for more inputs than a request may have, before anything is made of them."""
    if len(values) > limits.inputs:
        told = f"{where} holds {len(values):,} inputs, over the limit of {limits.inputs:,} a request; send several"
        raise Refusal(422, told, field=where)


def drafts_of_texts(texts: Any, where: str, limits: Limits) -> list[Draft]:
    """Return the inputs of a list of texts. Raises Refusal 422, with the place."""
    return [Draft(at, text=text) for at, text in _texts(texts, where, limits)]


def drafts_of_pictures(addresses: Any, where: str, limits: Limits) -> list[Draft]:
    """Return the inputs of a list of pictures, each alone. Raises Refusal 422, with the place."""
    return [Draft(at, ((address_of(address, at), at),)) for at, address in _texts(addresses, where, limits)]


def _texts(values: Any, where: str, limits: Limits) -> list[tuple[str, str]]:
    """Return the place and the value of each text of a list."""
    check_list(values, where, limits)
    placed = [(f"{where}[{place}]", value) for place, value in enumerate(values)]
    for at, value in placed:
        if not isinstance(value, str):
            raise Refusal(422, f"{at} is {kind_in_json(value)}; give a text", field=at)
    return placed


def check_list(values: Any, where: str, limits: Limits) -> None:
    """Raise Refusal 422 for what is no list, an empty one, or one of more inputs than a request may have."""
    if not isinstance(values, list) or not values:
        raise Refusal(422, f"{where} is no list of inputs; give a list of one at least", field=where)
    check_count(values, where, limits)
