"""The only place that knows model families: what differs between them, as data keyed by `model_type`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """Fragments of module names: where the vision tower lives, and the projector between it and the language model."""

    vision: tuple[str, ...] = ("vision_tower", "vision_model", "visual", "vision_encoder", "image_tower")
    projector: tuple[str, ...] = ("multi_modal_projector", "connector", "mm_projector", "aligner")


# A family needs an entry only where the default record is wrong for it.
FAMILIES: dict[str, Family] = {}


def family_of(config: Any) -> Family:
    """The record of a model's family, from its transformers config; the default one where it has no entry."""
    return FAMILIES.get(config.model_type, Family())
