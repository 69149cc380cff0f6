"""The roles that rows offer, and which of them show a picture."""

from __future__ import annotations

from typing import Literal

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
