"""The roles that rows offer: their names, which of them show a picture, and how they are made of what a row holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mllm_embed.types import Document, Images, Item, Query

RoleName = Literal[
    "image", "caption", "composed", "query_image", "target_image", "target_text", "source_text", "composed_text",
    "negative_text", "target_captioned", "query", "target", "hard_negative",
]  # fmt: skip
ROLES: dict[str, tuple[RoleName, ...]] = {
    "pairs": ("image", "caption", "hard_negative"),
    "triplets": (
        "composed", "query_image", "target_image", "target_text", "target_captioned", "source_text", "composed_text",
        "query", "target", "hard_negative",
    ),
    "texts": ("source_text", "target_text", "negative_text", "composed_text", "hard_negative"),
}  # fmt: skip
PICTURE_ROLES: tuple[RoleName, ...] = (
    "image", "composed", "query_image", "target_image", "target_captioned", "query", "target",
)  # fmt: skip
ASKING: tuple[RoleName, ...] = ("composed", "composed_text", "query")
"""The roles that are queries wherever they stand; others are documents until a term asks with them."""
ANSWERS: tuple[RoleName, ...] = ("caption", "target_image", "target_text", "target_captioned", "target")
"""The roles that answer what a row asks, in one form or another."""


@dataclass(frozen=True)
class RowContent:
    """What a row holds under our names of columns, as `formats.format.Format` explains them; None where it is empty."""

    image: Images | None = None
    caption: str | None = None
    instruction: str | None = None
    source_text: str | None = None
    target_image: Images | None = None
    target_text: str | None = None
    target_caption: str | None = None
    negative_text: str | None = None
    avoid: str | None = None


# The columns that rows of each kind are made of, in the order in which faults are named. Others are not looked at:
# their pictures may not even be there.
CONTENT: dict[str, tuple[str, ...]] = {
    "pairs": ("image", "caption"),
    "triplets": ("image", "instruction", "avoid", "source_text", "target_image", "target_text", "target_caption"),
    "texts": ("negative_text", "source_text", "instruction", "target_text"),
}


def roles_of(kind: str, content: RowContent) -> dict[str, Item]:
    """Return what plays which role in a row of `kind`, "pairs", "triplets" or "texts"; empty columns offer nothing."""
    return _ROLES_OF[kind](content)


def other_items(roles: Mapping[str, Item], choices: Sequence[Mapping[str, Item]]) -> dict[str, tuple[Item, ...]]:
    """Return by role the items of other `choices` of a row's roles, those that differ from `roles`, each once."""
    found: dict[str, dict[Item, None]] = {}
    for choice in choices:
        for role, item in choice.items():
            if item != roles.get(role):
                found.setdefault(role, {})[item] = None
    return {role: tuple(items) for role, items in found.items()}


def answers_of(roles: Mapping[str, Item]) -> dict[str, Item]:
    """Return those of a row's roles that answer: the forms of one answer."""
    return {role: item for role, item in roles.items() if role in ANSWERS}


def _pair(content: RowContent) -> dict[str, Item]:
    roles: dict[str, Item] = {}
    if content.image is not None:
        roles["image"] = Document(image=content.image)
    if content.caption:
        roles["caption"] = Document(text=content.caption)
    return roles


def _triplet(content: RowContent) -> dict[str, Item]:
    return _asked(content) | _answered(content)


def _asked(content: RowContent) -> dict[str, Item]:
    """Return what a triplet asks; `query` is whatever asks, for sources that mix pictures and words."""
    roles: dict[str, Item] = {}
    words = {"instruction": content.instruction, "avoid": content.avoid}
    if content.image is not None:  # a picture may ask alone, in rows of M-BEIR without words
        roles["query"] = roles["composed"] = Query(image=content.image, **words)
        roles["query_image"] = Document(image=content.image)
    if content.source_text:
        roles["source_text"] = Document(text=content.source_text)
    if content.instruction and (content.source_text or content.image is None):
        roles["composed_text"] = Query(text=content.source_text, **words)
        roles.setdefault("query", roles["composed_text"])
    return roles


def _answered(content: RowContent) -> dict[str, Item]:
    """Return what a triplet must find; `target` is whatever answers, a caption of a picture only together with it."""
    roles: dict[str, Item] = {}
    words = content.target_text or content.target_caption
    if content.target_image is not None:
        roles["target"] = Document(image=content.target_image, text=content.target_caption)
        roles["target_image"] = Document(image=content.target_image)
        if words:
            roles["target_captioned"] = Document(image=content.target_image, text=words)
    elif words:
        roles["target"] = Document(text=words)
    if content.target_text:
        roles["target_text"] = Document(text=content.target_text)
    return roles


def _texts(content: RowContent) -> dict[str, Item]:
    roles: dict[str, Item] = {}
    if content.source_text:
        roles["source_text"] = Document(text=content.source_text)
    if content.target_text:
        roles["target_text"] = Document(text=content.target_text)
    if content.negative_text:
        roles["negative_text"] = Document(text=content.negative_text)
    if content.source_text and content.instruction:
        roles["composed_text"] = Query(text=content.source_text, instruction=content.instruction)
    return roles


_ROLES_OF: dict[str, Callable[[RowContent], dict[str, Item]]] = {"pairs": _pair, "triplets": _triplet, "texts": _texts}
